//! Destroy killed at every point, twice at once, and the other verbs killed while they work.

use crate::create_sweep::REFERENCE;
use crate::site::{LONG, Site, points, run, start, sweep};
use lab::Lab;
use lab::model::FaultAction;
use std::sync::LazyLock;

static POINTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let site = Site::new();
    site.created("web-1");
    points(&site, site.destroy("web-1"))
});

#[test]
fn h08_h09_a_destroy_killed_anywhere_is_completed_by_the_next() {
    assert!(POINTS.iter().any(|p| p == "destroy.terraform") && POINTS.iter().any(|p| p == "destroy.marked"));
    sweep(&POINTS, |point| {
        let site = Site::new();
        site.created("web-1");
        run(site.destroy("web-1").env("BLOCKHOST_FAULT", format!("kill@{point}"))).was_killed();
        if site.database()["vms"]["web-1"]["status"] == "destroyed" {
            assert!(site.guests().is_empty(), "marked destroyed while the machine is there");
        }
        site.destroyed("web-1");
        site.world().must_be(&REFERENCE.web_1_destroyed, "after another destroy");
        site.destroyed("web-1");
    });
}

#[test]
fn h09_what_a_killed_destroy_holds_is_nobody_elses() {
    // Gone on the node, not yet in the database: VMID and addresses stay held until destroy was run again.
    for point in ["destroy.begun", "destroy.gone", "write.database.before"] {
        let site = Site::new();
        site.created("web-1");
        run(site.destroy("web-1").env("BLOCKHOST_FAULT", format!("kill@{point}"))).was_killed();
        let result = site.created("web-2").result();
        assert_eq!((result["vmid"].as_u64(), result["ip"].as_str()), (Some(101), Some("192.168.122.201")));
        site.destroyed("web-1");
        assert_eq!(site.guests(), [101], "{point}");
        assert_eq!(
            site.lab().control().snapshot().unwrap().routes.len(),
            1,
            "{point}: web-2 keeps its route"
        );
    }
}

#[test]
fn h09_two_destroys_at_once_both_succeed() {
    for fault in ["", "sleep@destroy.stopped=300", "sleep@destroy.gone=300"] {
        let site = Site::new();
        site.created("web-1");
        let first = start(site.destroy("web-1").env("BLOCKHOST_FAULT", fault));
        let second = start(&mut site.destroy("web-1"));
        first.wait().ok();
        second.wait().ok();
        site.world().must_be(&REFERENCE.web_1_destroyed, "after two destroys at once");
    }
}

#[test]
fn h08_no_record_is_marked_destroyed_while_the_machine_cannot_be_deleted() {
    let site = Site::of(Lab::builder());
    site.created("web-1");
    let control = site.lab().control();
    control.fault("qm.destroy", FaultAction::error("can't remove the disk"), 1).unwrap();
    let error = run(&mut site.destroy("web-1")).failed();
    assert!(error.contains("VM web-1 (VMID 100)") && error.contains("can't remove the disk"), "{error}");
    let record = &site.database()["vms"]["web-1"];
    assert_eq!((record["status"].as_str(), record.get("destroyed_at")), (Some("active"), None));
    assert_eq!(site.guests(), [100]);
    site.destroyed("web-1");
    site.world().must_be(&REFERENCE.web_1_destroyed, "after another destroy");
}

#[test]
fn h08_a_missing_terraform_folder_is_no_proof_that_the_machine_is_gone() {
    let site = Site::new();
    site.created("web-1");
    std::fs::remove_dir_all(site.path("var/terraform/vms/web-1")).unwrap();
    site.lab().control().mount_etc_pve(false).unwrap();
    let error = run(&mut site.destroy("web-1")).failed();
    assert!(error.contains("not mounted"), "{error}");
    assert_eq!(site.database()["vms"]["web-1"]["status"], "active");
    site.lab().control().mount_etc_pve(true).unwrap();
    site.destroyed("web-1");
    site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
}

#[test]
fn h09_h19_a_killed_start_stop_or_kill_leaves_nothing_locked() {
    for (verb, action) in [("stop", "qm-shutdown"), ("start", "qm-start"), ("kill", "qm-stop")] {
        let site = Site::new();
        site.created("web-1");
        if verb == "start" {
            run(&mut site.verb("kill", "web-1")).ok();
        }
        let control = site.lab().control();
        let point = format!("agent.{action}.before");
        control.fault(&point, FaultAction::Slow { ms: 1500 }, 1).unwrap();
        let child = start(&mut site.verb(verb, "web-1"));
        control.wait_fault(&point, LONG).unwrap();
        child.signal(rustix::process::Signal::KILL);
        child.wait().was_killed();
        run(&mut site.verb(verb, "web-1")).ok();
        run(&mut site.verb("start", "web-1")).ok();
        site.world().without(&["node guests 100", "node ports"]).must_be(
            &REFERENCE.web_1.without(&["node guests 100", "node ports"]),
            &format!("after a killed {verb}"),
        );
        site.destroyed("web-1");
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    }
}
