//! A start that the node carries out after the command that asked for it is dead, and after another command has found the
//! VM switched off (H57).

use crate::site::{LONG, Site, run, start, until};
use lab::model::{FaultAction, Power};
use std::process::Command;

/// A VM that is off, and a start of it that is on its way for some seconds; its command is dead.
fn with_a_start_on_its_way() -> Site {
    let site = Site::new();
    site.created("web-1");
    run(&mut site.verb("stop", "web-1")).ok();
    site.lab().control().fault("qm.start", FaultAction::Slow { ms: 5_000 }, 1).unwrap();
    let dead = start(&mut site.verb("start", "web-1"));
    site.lab().control().wait_fault("qm.start", LONG).unwrap();
    dead.kill();
    assert_eq!(site.lab().control().snapshot().unwrap().guests[&100].power, Power::Stopped);
    site
}

/// Until the node has done with it.
fn it_has_arrived(site: &Site, since: u64) {
    until("the late start has ended", || {
        let calls = site.lab().control().calls(since).unwrap();
        calls.iter().any(|call| call.what == "qm start 100")
    });
    site.settle();
}

fn gc(site: &Site) -> Command {
    let mut gc = site.lab().command("blockhost-vm-gc");
    gc.arg("--execute");
    gc
}

#[test]
fn h57_a_start_that_arrives_late_does_not_undo_a_stop_or_a_kill() {
    for verb in ["stop", "kill"] {
        let site = with_a_start_on_its_way();
        let since = site.lab().control().last_call().unwrap();
        run(&mut site.verb(verb, "web-1")).ok();
        it_has_arrived(&site, since);
        assert_eq!(site.lab().control().snapshot().unwrap().guests[&100].power, Power::Stopped, "{verb}");
    }
}

#[test]
fn h57_a_start_that_arrives_late_starts_nothing_that_was_destroyed() {
    let site = with_a_start_on_its_way();
    let since = site.lab().control().last_call().unwrap();
    site.destroyed("web-1");
    it_has_arrived(&site, since);
    assert!(site.guests().is_empty());
    assert_eq!(site.database()["vms"]["web-1"]["status"], "destroyed");
}

#[test]
fn h57_a_suspended_vm_whose_start_arrives_late_is_switched_off_by_the_next_gc() {
    let site = with_a_start_on_its_way();
    let mut database = site.database();
    database["vms"]["web-1"]["expires_at"] = "2024-01-01T00:00:00Z".into();
    std::fs::write(site.path("var/vms.json"), database.to_string()).unwrap();
    let since = site.lab().control().last_call().unwrap();
    run(&mut gc(&site)).ok();
    assert_eq!(site.database()["vms"]["web-1"]["status"], "suspended");
    it_has_arrived(&site, since);
    run(&mut gc(&site)).ok();
    assert_eq!(site.lab().control().snapshot().unwrap().guests[&100].power, Power::Stopped);
    assert_eq!(site.database()["vms"]["web-1"]["status"], "suspended");
}
