//! Undo that fails keeps what it must, and whoever comes next completes it (H07).

use crate::create_sweep::REFERENCE;
use crate::site::{Ended, Site, run};
use lab::Lab;
use lab::model::FaultAction;

/// The half-made machine is there and cannot be removed `times` times.
fn stuck(times: u32) -> (Site, Ended) {
    // The root agent remembers a failed task: this lab is not used again.
    let site = Site::of(Lab::builder());
    let control = site.lab().control();
    control.fault("provider.create.disk.after", FaultAction::error("the storage went away"), 1).unwrap();
    control.fault("qm.destroy", FaultAction::error("can't remove the disk"), times).unwrap();
    let ended = run(&mut site.create("web-1"));
    (site, ended)
}

fn holds_everything(site: &Site) {
    assert_eq!(site.guests(), [100]);
    assert_eq!(site.journal_step("web-1").as_deref(), Some("applying"));
    let database = site.database();
    assert_eq!(database["allocated_ips"][0], "192.168.122.200");
    assert_eq!(database["allocated_ipv6"][0], "2a11:6c7:f04:276::2");
    assert_eq!(database["vms"].get("web-1"), None);
    assert!(site.path("var/terraform/vms/web-1/web-1.tf.json").exists());
    assert!(site.path("node/var/lib/vz/snippets/blockhost-web-1-user.yaml").exists());
}

#[test]
fn h07_an_undo_that_fails_holds_everything_and_says_so() {
    let (site, ended) = stuck(1);
    let error = ended.failed();
    for words in [
        "VM web-1 (VMID 100)",
        "the storage went away",
        "rolling back failed as well",
        "can't remove the disk",
        "VMID 100 and its addresses stay reserved",
    ] {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
    holds_everything(&site);
    site.created("web-1");
    site.world().must_be(&REFERENCE.web_1, "after the same create again");
}

#[test]
fn h07_h13_another_create_completes_the_undo() {
    let (site, ended) = stuck(1);
    ended.failed();
    site.created("web-2");
    site.world().must_be(&REFERENCE.web_2, "after another create");
}

#[test]
fn h07_destroy_completes_the_undo() {
    let (site, ended) = stuck(1);
    ended.failed();
    site.destroyed("web-1");
    let left = ["run/"];
    site.world().without(&left).must_be(&REFERENCE.empty.without(&left), "after destroy");
}

#[test]
fn h07_nothing_is_given_away_while_the_machine_cannot_be_removed() {
    let (site, ended) = stuck(100);
    ended.failed();
    let other = site.created("web-2");
    let result = other.result();
    assert_eq!((result["vmid"].as_u64(), result["ip"].as_str()), (Some(101), Some("192.168.122.201")));
    assert_eq!(result["ipv6"], "2a11:6c7:f04:276::3");
    let warning = other.err.lines().find(|l| l.starts_with("warning: VM web-1")).unwrap();
    assert!(warning.contains("can't remove the disk") && warning.contains("stay reserved"), "{warning}");
    assert_eq!(site.guests(), [100, 101]);
    let again = run(&mut site.create("web-1")).failed();
    assert!(
        again.contains("cannot be rolled back yet") && again.contains("can't remove the disk"),
        "{again}"
    );
    let destroyed = run(&mut site.destroy("web-1")).failed();
    assert!(destroyed.contains("can't remove the disk"), "{destroyed}");
    assert_eq!(site.guests(), [100, 101]);
    site.lab().control().clear_faults().unwrap();
    site.destroyed("web-1");
    assert_eq!(site.guests(), [101]);
    assert_eq!(site.database()["allocated_ips"].as_array().unwrap().len(), 1);
}

#[test]
fn h07_h48_a_node_that_cannot_be_asked_is_no_proof_of_absence() {
    let site = Site::new();
    let control = site.lab().control();
    control.fault("provider.create.start.before", FaultAction::error("no"), 1).unwrap();
    let ended = site.created_while_the_agent_fails("web-1", FaultAction::error("/etc/pve is not mounted"));
    let error = ended.failed();
    assert!(error.contains("/etc/pve is not mounted") && error.contains("stay reserved"), "{error}");
    holds_everything(&site);
    control.clear_faults().unwrap();
    site.created("web-1");
    site.world().must_be(&REFERENCE.web_1, "after the same create again");
}

#[test]
fn h05_an_undo_killed_anywhere_is_completed_by_the_next_create() {
    for point in ["undo.machine", "undo.folder", "undo.snippets", "undo.released"] {
        let site = Site::new();
        let control = site.lab().control();
        control.fault("provider.create.disk.after", FaultAction::error("no"), 1).unwrap();
        run(site.create("web-1").env("BLOCKHOST_FAULT", format!("kill@{point}"))).was_killed();
        site.created("web-2");
        site.world().must_be(&REFERENCE.web_2, &format!("after an undo killed at {point}"));
    }
}
