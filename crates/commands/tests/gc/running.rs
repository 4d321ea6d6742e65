//! Suspended but running (H50), paused, protected on the node; and that suspended stays off (H51).

use crate::support::{Site, Vm, due, expired, in_grace, paid, run};
use lab::model::Power;

#[test]
fn h50_a_suspended_machine_that_runs_is_switched_off_and_destroyed_in_the_next_run_at_the_earliest() {
    let site = Site::with(&[
        Vm { running: true, ..due("due", 100) },
        Vm { running: true, ..in_grace("in-grace", 101) },
        paid("paid", 102),
    ]);
    let said = site
        .gc(&["--execute"])
        .ok()
        .says_in_one_line(&[
            "VM due (VMID 100)",
            "was running although suspended",
            "switching it off",
            "next run",
        ])
        .says_in_one_line(&["VM in-grace (VMID 101)", "was running although suspended"]);
    assert!(said.out.contains("Destroy: 1 candidate\n  due  not done\n"), "{said:#?}");
    site.is_suspended("due", 100);
    site.is_suspended("in-grace", 101);
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 100);
    site.is_suspended("in-grace", 101);
}

#[test]
fn h50_also_when_only_destroying_and_when_the_look_failed() {
    let site = Site::with(&[Vm { running: true, ..due("due", 100) }, paid("paid", 102)]);
    site.gc(&["--execute", "--destroy-only"]).ok().says_in_one_line(&["was running although suspended"]);
    site.is_suspended("due", 100);

    // The root agent stumbles at the first look: that it is off has not been seen.
    let site = Site::with(&[Vm { running: true, ..due("due", 100) }, paid("paid", 102)]);
    let fault = lab::model::FaultAction::error("stumbled");
    site.lab.control().fault("agent.vm-state", fault, 1).unwrap();
    site.gc(&["--execute"]).fails_in_part(&["VM due", "stumbled"]);
    assert!(site.runs(100), "nothing was done to it");
    assert_eq!(site.status("due"), "suspended");
    site.gc(&["--execute"]).ok();
    site.is_suspended("due", 100);
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 100);
}

#[test]
fn h50_started_by_hand_while_gc_is_about_to_destroy_it() {
    for point in ["gc.suspended", "destroy.begun", "destroy.stopped"] {
        let site = Site::with(&[due("due", 100), paid("paid", 102)]);
        let running = site.gc_held_at(point, 400, &[]);
        site.lab.control().power(100, Power::Running).unwrap();
        running.wait().ok().says_in_one_line(&[
            "VM due",
            "started in the meantime",
            "not destroying it in this run",
        ]);
        assert!(site.runs(100), "{point}");
        site.is_tidy();
        site.gc(&["--execute"]).ok().says_in_one_line(&["was running although suspended"]);
        site.is_suspended("due", 100);
        site.gc(&["--execute"]).ok();
        site.is_destroyed("due", 100);
    }
}

#[test]
fn h50_one_that_is_paid_is_not_switched_off() {
    // A resume that died between the start and the database.
    let site = Site::with(&[Vm { running: true, ..in_grace("paid", 100) }, paid("other", 102)]);
    site.renew("paid", 30);
    site.gc(&["--execute"]).ok().says_in_one_line(&[
        "VM paid (VMID 100)",
        "paid for",
        "blockhost-vm-resume paid",
    ]);
    assert!(site.runs(100));
    assert_eq!(site.guest(100).starts, 1);
    site.resume(&["paid"]).ok();
    site.is_active("paid", 100);
}

#[test]
fn h50_resume_of_a_suspended_machine_that_runs_succeeds() {
    let site = Site::with(&[Vm { running: true, ..in_grace("web-1", 100) }]);
    site.resume(&["web-1"]).ok().says_in_one_line(&["VM web-1 is active again"]);
    site.is_active("web-1", 100);
    assert_eq!(site.guest(100).starts, 1);
    let node = site.lab.control().snapshot().unwrap();
    assert!(node.ports["tap100i0"].isolated && node.routes.len() == 1, "{node:#?}");
}

#[test]
fn a_paused_guest_cannot_shut_down_and_is_switched_off() {
    let site = Site::with(&[expired("over", 100), paid("paid", 101)]);
    site.lab.control().power(100, Power::Paused).unwrap();
    site.gc(&["--execute"]).ok();
    site.is_suspended("over", 100);
}

#[test]
fn h51_suspended_stays_off_when_the_node_reboots() {
    let site = Site::with(&[expired("over", 100), in_grace("in-grace", 101), paid("paid", 102)]);
    // One that the older package suspended: the node would start it.
    site.place(&[in_grace("older", 103)]);
    site.lab.control().set(103, "onboot", "1").unwrap();
    site.gc(&["--execute"]).ok();
    site.lab.control().reboot_node().unwrap();
    for (name, vmid) in [("over", 100), ("in-grace", 101), ("older", 103)] {
        site.is_suspended(name, vmid);
    }
    assert!(site.runs(102));
    run(site.lab.command("blockhost-provisioner-reapply")).ok();
    let node = site.lab.control().snapshot().unwrap();
    assert_eq!(node.ports.keys().collect::<Vec<_>>(), ["tap102i0"]);
    // Resumed, it starts with the node again.
    site.resume(&["over"]).ok();
    site.is_active("over", 100);
    site.lab.control().reboot_node().unwrap();
    // Its hook script runs before and after.
    crate::support::until("the node's own start", || site.runs(100));
    site.is_active("over", 100);
    assert!(!site.runs(101));
}

#[test]
fn h51_without_the_api_the_root_agent_takes_it_out_of_the_nodes_start() {
    for code in [403, 500, 596] {
        let site = Site::with(&[expired("over-1", 100), expired("over-2", 101), paid("paid", 102)]);
        let fault = lab::model::FaultAction::Error { message: "no".into(), code: Some(code) };
        site.lab.control().fault("api.* *", fault, 9_999).unwrap();
        site.gc(&["--execute"]).ok();
        site.lab.control().clear_faults().unwrap();
        site.lab.control().reboot_node().unwrap();
        site.is_suspended("over-1", 100);
        site.is_suspended("over-2", 101);
    }
}

#[test]
fn h51_what_could_not_be_set_is_said_and_done_by_the_next_run() {
    let site = Site::with(&[expired("over", 100), paid("paid", 102)]);
    let control = site.lab.control();
    control.fault("api.PUT *", lab::model::FaultAction::error("read-only"), 99).unwrap();
    control.fault("agent.qm-set", lab::model::FaultAction::error("read-only"), 99).unwrap();
    site.gc(&["--execute"]).ok().says_in_one_line(&[
        "VM over (VMID 100)",
        "the node would start it when it boots",
        "read-only",
    ]);
    assert!(site.guest(100).onboot && !site.runs(100));
    control.clear_faults().unwrap();
    site.gc(&["--execute"]).ok();
    site.is_suspended("over", 100);
}
