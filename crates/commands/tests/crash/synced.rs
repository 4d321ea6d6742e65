//! Files that are whole or old also when the machine loses its power (hazard H14): each rename of each verb, as the
//! kernel saw it, with the file on the disk before and the folder after.

use crate::site::{Site, run};
use crate::system_calls::{assert_synced, renames, traced};
use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn h14_what_is_renamed_into_place_was_synced_before_and_its_folder_after() {
    let site = Site::new();
    let root = site.path("");
    let mut all = BTreeSet::new();
    let mut watch = |command: &mut Command| {
        let folder = tempfile::tempdir().unwrap();
        let ended = run(&mut traced(command, folder.path()));
        all.append(&mut renames(folder.path(), &root));
        ended
    };
    watch(&mut site.create("web-1")).ok();
    watch(&mut site.verb("stop", "web-1")).ok();
    watch(&mut site.verb("start", "web-1")).ok();
    let mut database = site.database();
    database["vms"]["web-1"]["expires_at"] = "2024-01-01T00:00:00Z".into();
    std::fs::write(site.path("var/vms.json"), database.to_string()).unwrap();
    watch(site.lab().command("blockhost-vm-gc").arg("--execute")).ok();
    watch(&mut site.verb("resume", "web-1")).ok();
    watch(&mut site.destroy("web-1")).ok();
    // What is noted of a create that died.
    run(site.create("web-2").env("BLOCKHOST_FAULT", "kill@create.applied")).was_killed();
    watch(&mut site.destroy("web-2")).ok();
    let expected = [
        "run/provisioning.lock",
        "var/gc-last-run.json",
        "var/gc-under-way.json",
        "var/journal/web-1.json",
        "var/terraform/vms/web-1/record.json",
        "var/terraform/vms/web-1/web-1.tf.json",
        "var/vms.json",
        "var/withheld/101.json",
    ];
    assert_synced(&all, &root, &expected);
}
