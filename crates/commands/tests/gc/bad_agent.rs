//! The root agent slow, gone, late, or talking rubbish while gc works: nothing is guessed (H20, H23, H48, H49).

use crate::support::{SOON, Site, due, expired, paid, run, start, until};
use lab::Lab;
use lab::model::FaultAction;
use std::time::{Duration, Instant};

fn site() -> Site {
    Site::with(&[
        expired("over-1", 100),
        expired("over-2", 101),
        due("due-1", 102),
        due("due-2", 103),
        paid("paid", 104),
    ])
}

/// Nobody was marked or destroyed, and a run without the fault does its work.
#[track_caller]
fn unharmed(site: &Site, when: &str) {
    for (name, status) in
        [("over-1", "active"), ("over-2", "active"), ("due-1", "suspended"), ("due-2", "suspended")]
    {
        assert_eq!(site.status(name), status, "{when}: {name}");
    }
    assert_eq!(site.guests().len(), 5, "{when}");
    assert!(site.runs(104), "{when}");
}

fn recovers(site: &Site) {
    site.lab.control().clear_faults().unwrap();
    site.gc(&["--execute"]).ok();
    site.is_suspended("over-1", 100);
    site.is_suspended("over-2", 101);
    site.is_destroyed("due-1", 102);
    site.is_destroyed("due-2", 103);
    site.is_active("paid", 104);
    site.is_tidy();
}

#[test]
fn h49_no_answer_about_the_machines_suspends_and_destroys_nobody() {
    let no_vm = "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist";
    for fault in [
        FaultAction::error("pmxcfs hangs"),
        FaultAction::error(no_vm),
        FaultAction::error("unable to find configuration file for VM 102 on node 'pve'"),
        FaultAction::Garbage,
        FaultAction::Huge,
        FaultAction::Kill,
    ] {
        let site = site();
        site.lab.control().fault("agent.vm-state", fault.clone(), 9_999).unwrap();
        let said = site.gc(&["--execute"]).fails_in_part(&["VM over-1", "cannot query the node"]);
        assert!(said.out.ends_with("Done: 0 suspended, 0 destroyed, 4 failed\n"), "{fault:?}: {said:#?}");
        unharmed(&site, &format!("{fault:?}"));
        recovers(&site);
    }
}

#[test]
fn h49_an_unmounted_etc_pve_is_no_absence() {
    let site = site();
    site.lab.control().mount_etc_pve(false).unwrap();
    site.gc(&["--execute"]).fails_in_part(&["VM due-1", "not mounted"]);
    site.lab.control().mount_etc_pve(true).unwrap();
    unharmed(&site, "not mounted");
    // It goes away while the guests go down, and when the machine is about to be destroyed.
    for point in ["gc.asked", "destroy.stopped"] {
        let site = self::site();
        let running = site.gc_held_at(point, 400, &[]);
        site.lab.control().mount_etc_pve(false).unwrap();
        if point == "gc.asked" {
            // It waits until it can be known.
            std::thread::sleep(Duration::from_millis(900));
            assert_eq!(site.status("over-1"), "active");
            site.lab.control().mount_etc_pve(true).unwrap();
            running.wait().ok();
        } else {
            running.wait().fails_in_part(&["not mounted"]);
            site.lab.control().mount_etc_pve(true).unwrap();
            assert!(site.exists(102) && site.exists(103));
            assert_eq!(site.status("due-1"), "suspended");
        }
        recovers_after(&site);
    }
}

fn recovers_after(site: &Site) {
    let _ = site.gc(&["--execute"]).ok();
    site.is_suspended("over-1", 100);
    site.is_destroyed("due-1", 102);
    site.is_tidy();
}

#[test]
fn h49_what_the_api_says_decides_nothing() {
    for (code, message) in [
        (500, "Configuration file 'nodes/pve/qemu-server/102.conf' does not exist"),
        (403, "Permission check failed (/vms/102, VM.Audit)"),
        (404, "not here"),
        (595, "Connection refused"),
    ] {
        let site = site();
        let fault = FaultAction::Error { message: message.into(), code: Some(code) };
        site.lab.control().fault("api.* *", fault, 9_999).unwrap();
        let stuck = FaultAction::error("not now");
        site.lab.control().fault("agent.qm-destroy", stuck, 9_999).unwrap();
        site.gc(&["--execute"])
            .fails_in_part(&["VM due-1", "not now"])
            .says_in_one_line(&["VM due-2", "not now"]);
        assert_eq!((site.status("due-1").as_str(), site.exists(102)), ("suspended", true), "{code}");
        // Switching off needs no API.
        site.is_suspended("over-1", 100);
        recovers(&site);
    }
}

#[test]
fn h23_without_a_root_agent_every_vm_fails_and_that_quickly() {
    let site = site();
    site.lab.control().stop_root_agent().unwrap();
    let begun = Instant::now();
    site.gc(&["--execute"]).fails_in_part(&["VM over-1", "root-agent.sock", "does not exist"]);
    assert!(begun.elapsed() < SOON);
    unharmed(&site, "no agent");
    site.lab.control().restart_root_agent(0).unwrap();
    recovers(&site);
}

#[test]
fn h23_a_root_agent_that_hangs_is_not_waited_for_once_for_each_vm() {
    // Ten VMs, fifteen seconds each, would be minutes.
    let mut fleet: Vec<_> = (0..10).map(|n| expired(&format!("over-{n}"), 100 + n)).collect();
    fleet.push(paid("paid", 120));
    let site = Site::with(&fleet);
    site.lab.control().fault("agent.vm-state", FaultAction::Hang, 1).unwrap();
    let begun = Instant::now();
    let mut command = site.verb("gc", &["--execute", "--accept-share"]);
    command.env("BLOCKHOST_FAULT", "limit@gc-look=700");
    run(command).fails_in_part(&["VM over-0", "did not answer vm-state within"]).says_in_one_line(&[
        "VM over-9",
        "does not answer",
        "skipped, because",
    ]);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    site.lab.control().clear_faults().unwrap();
    site.lab.control().restart_root_agent(0).unwrap();
    assert!((0..10).all(|n| site.status(&format!("over-{n}")) == "active"));
    site.gc(&["--execute", "--accept-share"]).ok();
    assert!((0..10).all(|n| site.status(&format!("over-{n}")) == "suspended"));
}

#[test]
fn h23_a_root_agent_that_dies_while_the_guests_go_down() {
    let site = Site::of(
        Lab::builder().db_yaml("guest_shutdown_timeout: 2"),
        &[expired("over-1", 100), expired("over-2", 101), due("due-1", 102), paid("paid", 104)],
    );
    site.lab.control().timing(|timing| timing.guest_shutdown = 300).unwrap();
    let mut command = site.verb("gc", &["--execute"]);
    let trace = site.path("trace");
    let rules = format!("trace@{} sleep@gc.asked=200 limit@gc-power-off=1000", trace.display());
    command.env("BLOCKHOST_FAULT", rules);
    let running = start(command);
    until("gc.asked", || std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("gc.asked")));
    site.lab.control().stop_root_agent().unwrap();
    running.wait().fails_in_part(&["VM over-1", "it is not suspended"]).says_in_one_line(&["VM due-1"]);
    // They are off by now; that nobody saw it is not "suspended".
    assert_eq!(
        ["over-1", "over-2", "due-1"].map(|name| site.status(name)),
        ["active", "active", "suspended"]
    );
    site.lab.control().restart_root_agent(0).unwrap();
    site.gc(&["--execute"]).ok();
    site.is_suspended("over-1", 100);
    site.is_destroyed("due-1", 102);
    site.is_tidy();
}

#[test]
fn h48_a_request_that_was_not_answered_is_looked_after() {
    // Carried out and not answered, answered with rubbish, or lost: the state tells.
    for (point, fault) in [
        ("agent.qm-shutdown.after", FaultAction::Kill),
        ("agent.qm-shutdown.after", FaultAction::Garbage),
        ("agent.qm-destroy.after", FaultAction::Kill),
        ("agent.qm-destroy.after", FaultAction::Huge),
        ("agent.qm-destroy.before", FaultAction::Kill),
        ("agent.snippet-delete.after", FaultAction::Kill),
    ] {
        let site = site();
        site.lab.control().fault(point, fault.clone(), 1).unwrap();
        let said = site.gc(&["--execute"]);
        if point.contains("snippet") {
            // Left to the next run, and said.
            said.fails_in_part(&["due-", "snippet"]);
        } else {
            said.ok();
            site.is_suspended("over-1", 100);
            site.is_suspended("over-2", 101);
        }
        recovers(&site);
    }
}

#[test]
fn h48_a_shutdown_request_that_was_lost_is_made_again() {
    let site = Site::with(&[expired("over-1", 100), paid("paid", 104)]);
    // The root agent still tells of an earlier shutdown that failed: that is not the one that was lost.
    site.lab.control().fault("task.qmshutdown", FaultAction::error("VM quit/powerdown failed"), 99).unwrap();
    let mut stop = site.verb("stop", &["over-1"]);
    stop.env("BLOCKHOST_FAULT", "limit@stop=4000");
    crate::support::run(stop).fails_in_part(&["over-1"]);
    site.lab.control().clear_faults().unwrap();
    assert!(site.runs(100));
    site.lab.control().fault("agent.qm-shutdown.before", FaultAction::Kill, 1).unwrap();
    let said = site.gc(&["--execute"]).ok();
    assert!(!said.err.contains("switched off"), "it was forced off for nothing: {said:#?}");
    site.is_suspended("over-1", 100);
}

#[test]
fn h20_a_slow_root_agent_makes_gc_slow_and_nothing_else() {
    let site = Site::of(
        Lab::builder().agent_latency_ms(120),
        &[expired("over-1", 100), due("due-1", 102), paid("paid", 104)],
    );
    site.gc(&["--execute"]).ok();
    site.is_suspended("over-1", 100);
    site.is_destroyed("due-1", 102);
}
