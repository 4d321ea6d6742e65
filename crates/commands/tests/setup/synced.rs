//! What setup writes is on the disk (hazard H14), by a trace of the system calls.

use super::bare::Bare;
use super::namespace::answer;
use super::system_calls::{assert_synced, renames, traced};
use std::collections::BTreeSet;

#[test]
fn h14_configuration_was_synced_before_it_got_its_name() {
    let bare = Bare::new();
    let root = bare.0.path("");
    let mut all = BTreeSet::new();
    for step in ["token", "terraform", "db_config"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = bare.0.command("blockhost-provisioner-setup");
        let session = serde_json::json!({"provisioner": bare.answers()}).to_string();
        let done = bare.run_with(traced(command.arg(step), folder.path()), &session);
        assert_eq!(answer(&done)["ok"], true, "{step}: {done:?}");
        all.append(&mut renames(folder.path(), &root));
    }
    let expected = [
        "etc/blockhost/db.yaml",
        "etc/blockhost/pve-token",
        "etc/blockhost/terraform_ssh_key",
        "home/.ssh/authorized_keys",
        "var/terraform/provider.tf.json",
        "var/terraform/terraform.tfvars",
        "var/terraform/variables.tf.json",
        "var/vms.json",
    ];
    assert_synced(&all, &root, &expected);
}
