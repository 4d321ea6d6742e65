//! Guests that boot slowly, never answer, do not obey, are paused or protected.

use crate::support::{Commands, WALLET, database, edit_record, guest, record, until, world};
use lab::Lab;
use lab::model::{AgentMode, GuestChange, Power};
use std::time::{Duration, Instant};

fn started(lab: &Lab, vmid: u32) -> bool {
    lab.control().snapshot().unwrap().guests.get(&vmid).is_some_and(|guest| guest.starts > 0)
}

#[test]
fn h24_the_result_comes_when_the_guest_agent_has_answered() {
    let lab = Lab::builder().boot_ms(1_200).start().unwrap();
    let begun = Instant::now();
    let create = lab.vm_start("", "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    until("the start", || started(&lab, 100));
    assert!(database(&lab)["vms"].get("web-1").is_none(), "not registered before it answers");
    create.wait().ok();
    assert!(begun.elapsed() >= Duration::from_millis(1_200));
    assert_eq!(record(&lab, "web-1")["status"], "active");
}

#[test]
fn h24_an_agent_that_comes_later_is_waited_for() {
    let lab = Lab::builder().agent(AgentMode::Off).start().unwrap();
    let create = lab.vm_start("", "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    until("the start", || started(&lab, 100));
    std::thread::sleep(Duration::from_millis(500));
    lab.control().agent(100, AgentMode::On).unwrap();
    create.wait().ok();
}

#[test]
fn h24_the_guest_agent_is_asked_through_the_root_agent_where_the_token_may_not() {
    let lab = Lab::builder().start().unwrap();
    let refused = lab::model::FaultAction::Error {
        message: "Permission check failed (/vms/100, VM.GuestAgent.Audit)".into(),
        code: Some(403),
    };
    lab.control().fault("api.POST /nodes/{node}/qemu/{vmid}/agent/ping", refused, 99).unwrap();
    lab.made("web-1");
    let calls = lab.control().calls(0).unwrap();
    assert!(calls.iter().any(|call| call.what == "qm-guest-ping"), "{calls:?}");
}

#[test]
fn h24_a_guest_that_never_answers_is_undone() {
    let lab = Lab::builder().agent(AgentMode::Never).db_yaml("guest_ready_timeout: 2").start().unwrap();
    let before = world(&lab);
    lab.create("web-1", &["--guest-timeout", "1"]).fails(&[
        "VM web-1 (VMID 100)",
        "the guest agent did not answer within 1 s",
        "template lacks qemu-guest-agent",
        "cloud-init",
        "--guest-timeout",
        "guest_ready_timeout",
    ]);
    world(&lab).same(&before, "undone");
    // The limit of db.yaml counts as well, and the name is free again (H06).
    lab.create("web-1", &[]).fails(&["did not answer within 2 s"]);
    world(&lab).same(&before, "undone");
}

#[test]
fn h24_a_guest_that_switches_itself_off_is_not_waited_for() {
    let lab = Lab::builder().agent(AgentMode::Off).start().unwrap();
    let before = world(&lab);
    let trace = lab.path("trace");
    let rules = format!("trace@{}", trace.display());
    let create = lab.vm_start(&rules, "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    until("terraform's end", || {
        std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("create.applied"))
    });
    lab.control().power(100, Power::Stopped).unwrap();
    let begun = Instant::now();
    create.wait().fails(&["VM web-1 (VMID 100)", "shut itself down", "first boot"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    world(&lab).same(&before, "undone");
}

#[test]
fn h24_a_guest_that_does_not_shut_down_is_left_running() {
    let lab = Lab::builder().ignore_shutdown().start().unwrap();
    lab.made("web-1");
    let before = world(&lab);
    // 45 s in earnest; the words are the same.
    lab.vm_with("limit@stop=4000", "stop", &["web-1"]).fails(&[
        "VM web-1 (VMID 100)",
        "did not shut down within 4 s",
        "is still running",
        "may still be booting",
        "blockhost-vm-kill web-1",
    ]);
    until("the shutdown's end", || lab.control().snapshot().unwrap().tasks_running.is_empty());
    world(&lab).same(&before, "still runs");
    lab.vm("kill", &["web-1"]).ok();
    assert_eq!(guest(&lab, 100).power, Power::Stopped);
}

#[test]
fn h24_a_kill_overrules_a_stop_that_waits() {
    let lab = Lab::builder().ignore_shutdown().start().unwrap();
    lab.made("web-1");
    let stop = lab.vm_start("", "stop", &["web-1"]);
    until("the shutdown", || !lab.control().snapshot().unwrap().tasks_running.is_empty());
    // An operator at the console: our own kill waits for our own stop.
    let said = lab.tool("qm").args(["stop", "100", "--overrule-shutdown", "1"]).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    stop.wait().ok();
}

#[test]
fn h24_destroy_does_not_wait_for_the_guest() {
    let lab = Lab::builder().ignore_shutdown().start().unwrap();
    lab.made("web-1");
    lab.control()
        .guest(100, GuestChange { agent: Some(AgentMode::Never), ..GuestChange::default() })
        .unwrap();
    let begun = Instant::now();
    lab.vm("destroy", &["web-1"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn paused_guests() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().power(100, Power::Paused).unwrap();
    let before = world(&lab);
    lab.vm("stop", &["web-1"]).fails(&[
        "VM web-1 (VMID 100)",
        "it is paused",
        "blockhost-vm-start web-1",
        "blockhost-vm-kill web-1",
    ]);
    world(&lab).same(&before, "paused");
    assert_eq!(lab.vm("start", &["web-1"]).ok().err, "VM web-1 is running\n");
    let vm = guest(&lab, 100);
    assert_eq!((vm.power, vm.starts), (Power::Running, 1), "continued, not started anew");
    lab.control().power(100, Power::Paused).unwrap();
    lab.vm("kill", &["web-1"]).ok();
    assert_eq!(guest(&lab, 100).power, Power::Stopped);
    lab.vm("start", &["web-1"]).ok();
    lab.control().power(100, Power::Paused).unwrap();
    lab.vm("destroy", &["web-1"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
}

#[test]
fn a_paused_guest_where_the_api_is_down() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().power(100, Power::Paused).unwrap();
    let down = lab::model::FaultAction::error("no");
    lab.control().fault("api.GET /nodes/{node}/qemu/{vmid}/status/current", down, 99).unwrap();
    // qm says it when it is too late to know before.
    lab.vm("stop", &["web-1"]).fails(&["it is paused", "blockhost-vm-kill web-1"]);
    assert_eq!(guest(&lab, 100).power, Power::Paused);
    lab.vm("kill", &["web-1"]).ok();
}

#[test]
fn h11_a_protected_record_needs_force() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    edit_record(&lab, "web-1", |record| {
        record.insert("protected".into(), true.into());
    });
    let before = world(&lab);
    lab.vm("destroy", &["web-1"]).fails(&["VM web-1 is protected", "--force"]);
    world(&lab).same(&before, "protected");
    for verb in ["stop", "start", "kill"] {
        lab.vm(verb, &["web-1"]).ok();
    }
    lab.vm("destroy", &["web-1", "--force"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
}

#[test]
fn proxmox_own_protection_is_respected_before_anything_is_done() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().set(100, "protection", "1").unwrap();
    let before = world(&lab);
    for flags in [["web-1"].as_slice(), &["web-1", "--force"]] {
        lab.vm("destroy", flags).fails(&["VM web-1 (VMID 100)", "protect", "qm set 100 --protection 0"]);
        world(&lab).same(&before, "protected on the node");
    }
    assert_eq!(guest(&lab, 100).power, Power::Running, "not even switched off");
    lab.control().unset(100, "protection").unwrap();
    lab.vm("destroy", &["web-1"]).ok();
}
