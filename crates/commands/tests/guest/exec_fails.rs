//! guest-exec where it cannot do what it should: it is never a success, says why, and enters no stranger's machine.

use crate::support::{
    Running, SOON, begin, commands_in_guests, edit_database, exec, set_field, site, snapshot, stand_in,
    until, uuid, vm,
};
use lab::Lab;
use lab::model::{AgentMode, FaultAction, Power};
use serde_json::json;
use std::time::{Duration, Instant};

/// A command that has begun in the guest and goes on.
fn going_on(lab: &Lab, limit: &str, text: &str) -> Running {
    let before = commands_in_guests(lab);
    let running = begin(lab, "", "blockhost-vm-guest-exec", &["web-1", "--timeout", limit, text]);
    until("the command in the guest", || commands_in_guests(lab) > before);
    running
}

#[test]
fn h25_a_command_that_outlives_its_limit_is_an_error() {
    let lab = site();
    let begun = Instant::now();
    let said = exec(&lab, &["--timeout", "1", "echo early; sleep 60"]).ends(124);
    assert_eq!(said.out, "", "it is not known what it printed");
    assert_eq!(
        said.err,
        "error: VM web-1: the command did not finish within 1 s and may still be running in the guest; to wait longer, use --timeout\n"
    );
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // Somewhat longer than the root agent itself waits, and within the limit.
    assert_eq!(exec(&lab, &["sleep 1.5; echo late; exit 3"]).ends(3).out, "late\n");
}

#[test]
fn h23_the_limit_holds_whatever_hangs() {
    let lab = site();
    for point in
        ["agent.qm-guest-exec", "agent.qm-guest-exec-status", "qm.guest-exec", "qm.guest-exec-status"]
    {
        lab.control().fault(point, FaultAction::Hang, 1).unwrap();
        let begun = Instant::now();
        let said = exec(&lab, &["--timeout", "2", "sleep 1.5"]);
        assert!(matches!(said.code, Some(1 | 124)), "{point}: {said:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{point}: {:?}", begun.elapsed());
        lab.control().clear_faults().unwrap();
        lab.control().restart_root_agent(0).unwrap();
    }
}

#[test]
fn h25_a_silent_agent_is_said() {
    let lab = site();
    for (agent, words) in
        [(AgentMode::Off, "QEMU guest agent is not running"), (AgentMode::Never, "not running")]
    {
        lab.control().agent(100, agent).unwrap();
        exec(&lab, &["echo hi"]).fails(&["VM web-1 (VMID 100)", "could not run the command", words]);
    }
    lab.control().agent(100, AgentMode::On).unwrap();
    lab.control().unset(100, "agent").unwrap();
    exec(&lab, &["echo hi"]).fails(&["No QEMU guest agent configured"]);
    assert_eq!(commands_in_guests(&lab), 0);
}

#[test]
fn h25_an_agent_that_is_lost_half_way() {
    let lab = site();
    // It comes back: the command went on, and its end is told.
    let running = going_on(&lab, "30", "sleep 1.5; echo done; exit 4");
    lab.control().agent(100, AgentMode::Off).unwrap();
    let asked = lab.control().last_call().unwrap();
    // The root agent's own first looks do not count: they are its affair.
    until("our look that finds it silent, and another one", || {
        let calls = lab.control().calls(asked).unwrap();
        calls.iter().filter(|call| call.kind == "agent" && call.what == "qm-guest-exec-status").count() > 1
    });
    lab.control().agent(100, AgentMode::On).unwrap();
    assert_eq!(running.wait().ends(4).out, "done\n");
    // It does not: no success.
    let running = going_on(&lab, "3", "sleep 1.5; echo done");
    lab.control().agent(100, AgentMode::Off).unwrap();
    let said = running.wait();
    assert!(
        matches!(said.code, Some(1 | 124)) && said.out.is_empty() && said.err.contains("error: "),
        "{said:?}"
    );
}

#[test]
fn h25_a_guest_that_goes_off_half_way_is_not_waited_for() {
    let lab = site();
    let begun = Instant::now();
    let running = going_on(&lab, "120", "sleep 100");
    lab.control().power(100, Power::Stopped).unwrap();
    running.wait().fails(&[
        "VM web-1 (VMID 100)",
        "was started",
        "its exit status is unknown",
        "not running",
    ]);
    lab.control().power(100, Power::Running).unwrap();
    // Restarted: its agent knows nothing of the command.
    let running = going_on(&lab, "120", "sleep 100");
    lab.control().power(100, Power::Stopped).unwrap();
    lab.control().power(100, Power::Running).unwrap();
    running.wait().fails(&["its exit status is unknown"]);
    // Removed by hand.
    let running = going_on(&lab, "120", "sleep 100");
    lab.control().remove_guest(100).unwrap();
    running.wait().fails(&["its exit status is unknown", "does not exist"]);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn h02_a_stranger_that_comes_half_way_is_not_asked_about_the_command() {
    let lab = site();
    let running = going_on(&lab, "120", "sleep 100");
    lab.control().set(100, "smbios1", &format!("uuid={}", uuid(999))).unwrap();
    running.wait().fails(&["its exit status is unknown", "another guest"]);
}

#[test]
fn an_agent_that_answers_an_error() {
    let lab = site();
    let refused =
        FaultAction::error("Agent error: The command guest-exec has been disabled for this instance");
    lab.control().fault("qm.guest-exec", refused, 1).unwrap();
    exec(&lab, &["echo hi"]).fails(&["could not run the command", "guest-exec has been disabled"]);
    assert_eq!(commands_in_guests(&lab), 0);
}

#[test]
fn h48_where_nobody_knows_whether_it_was_run_that_is_said() {
    let lab = site();
    for fault in [FaultAction::Kill, FaultAction::Garbage, FaultAction::Huge] {
        lab.control().fault("agent.qm-guest-exec.after", fault.clone(), 1).unwrap();
        let said = exec(&lab, &["true"]);
        said.fails(&["VM web-1 (VMID 100)", "it is unknown whether the command was run"]);
    }
    // The tool hangs; the root agent gives up on it first.
    lab.control().fault("qm.guest-exec.after", FaultAction::Hang, 1).unwrap();
    let begun = Instant::now();
    exec(&lab, &["--timeout", "3", "true"]).fails(&[
        "it is unknown whether the command was run",
        "the node is busy",
        "qm did not answer",
    ]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    lab.control().clear_faults().unwrap();
    lab.control().stop_root_agent().unwrap();
    exec(&lab, &["true"]).fails(&["could not run the command", "root-agent.sock does not exist"]);
}

#[test]
fn a_vm_that_is_off_or_unknown() {
    let lab = site();
    lab.control().power(100, Power::Stopped).unwrap();
    exec(&lab, &["true"]).fails(&[
        "VM web-1 (VMID 100)",
        "could not run the command",
        "VM 100 is not running",
    ]);
    set_field(&lab, "web-1", "status", "suspended".into());
    exec(&lab, &["true"]).fails(&["VM 100 is not running"]);
    vm(&lab, "guest-exec", &["nobody", "true"]).fails(&["VM nobody is unknown", "no such record"]);
    lab.control().remove_guest(100).unwrap();
    exec(&lab, &["true"]).fails(&["VMID 100 does not exist"]);
    vm(&lab, "guest-exec", &["nobody", "--mock", "true"]).ends(1);
}

#[test]
fn h41_a_destroyed_vm_is_refused_whoever_has_its_vmid() {
    let lab = site();
    set_field(&lab, "web-1", "status", "destroyed".into());
    let before = lab.control().last_call().unwrap();
    exec(&lab, &["true"]).fails(&["VM web-1 was destroyed", "VMID 100 may belong to another VM"]);
    assert_eq!(lab.control().last_call().unwrap(), before, "nobody is even asked");
}

#[test]
fn h02_a_strangers_machine_is_not_entered() {
    let lab = site();
    lab.control().remove_guest(100).unwrap();
    // The same name and number do not make it ours.
    stand_in(&lab, 100, "web-1", &uuid(777));
    exec(&lab, &["touch /tmp/x"]).fails(&[
        "VM web-1 (VMID 100)",
        "could not run the command",
        "another guest",
    ]);
    // A record of the older package has only the name.
    edit_database(&lab, |all| {
        all["vms"]["web-1"].as_object_mut().unwrap().remove("smbios_uuid");
    });
    lab.control().rename(100, "other").unwrap();
    exec(&lab, &["true"]).fails(&["another guest", "other"]);
    lab.control().rename(100, "web-1").unwrap();
    assert_eq!(commands_in_guests(&lab), 0);
    exec(&lab, &["true"]).ok();
    lab.control().set(100, "template", "1").unwrap();
    exec(&lab, &["true"]).fails(&["template"]);
}

#[test]
fn h49_a_node_that_cannot_be_asked_is_an_error_and_nothing_more() {
    let lab = site();
    let record = crate::support::read(&lab.path("var/vms.json"));
    lab.control().mount_etc_pve(false).unwrap();
    exec(&lab, &["true"]).fails(&["not mounted"]);
    lab.control().mount_etc_pve(true).unwrap();
    lab.control().migrate(100, "pve2").unwrap();
    exec(&lab, &["true"]).fails(&["on node pve2"]);
    assert_eq!(crate::support::read(&lab.path("var/vms.json")), record);
    assert_eq!(snapshot(&lab).guests[&100].node, "pve2");
    edit_database(&lab, |all| all["vms"] = json!("rubbish"));
    exec(&lab, &["true"]).fails(&["vms.json"]);
}

#[test]
fn a_signal_to_us_ends_the_wait() {
    let lab = site();
    let running = going_on(&lab, "120", "sleep 100");
    let begun = Instant::now();
    running.terminate();
    let said = running.wait().ends(1);
    assert!(said.out.is_empty() && said.err.starts_with("error: "), "{said:?}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

const FROZEN: &str = "Agent error: Command guest-exec-status has been disabled: the agent is in frozen state";

#[test]
fn a_guest_that_is_frozen_for_a_backup_is_waited_for() {
    let lab = site();
    // While the command runs: its end is its own.
    lab.control().fault("qm.guest-exec-status", FaultAction::error(FROZEN), 4).unwrap();
    assert_eq!(exec(&lab, &["--timeout", "25", "sleep 2; echo done; exit 7"]).ends(7).out, "done\n");
    // Before it was begun: it is begun once, after the thaw.
    let frozen = FROZEN.replace("-status", "");
    lab.control().clear_faults().unwrap();
    lab.control().fault("qm.guest-exec", FaultAction::error(&frozen), 2).unwrap();
    assert_eq!(exec(&lab, &["echo once >> count; cat count"]).ok().out, "once\n");
    // A ping that was missed in between.
    lab.control().fault("qm.guest-exec", FaultAction::error("QEMU guest agent is not running"), 1).unwrap();
    assert_eq!(exec(&lab, &["echo twice >> count; cat count"]).ok().out, "once\ntwice\n");
    // Frozen for longer than the limit.
    lab.control().fault("qm.guest-exec", FaultAction::error(&frozen), 100).unwrap();
    exec(&lab, &["--timeout", "3", "true"]).fails(&["could not run the command", "frozen"]);
    lab.control().clear_faults().unwrap();
    lab.control().fault("qm.guest-exec-status", FaultAction::error(FROZEN), 100).unwrap();
    exec(&lab, &["--timeout", "3", "true"]).ends(124);
}

#[test]
fn h20_on_a_busy_node_a_healthy_agent_is_not_blamed() {
    // Each start of `qm` takes longer than the root agent gives it in its lane.
    let lab = Lab::builder().no_terraform().qm_ms(4_600).start().unwrap();
    crate::support::place(&lab, 100, "web-1");
    assert_eq!(exec(&lab, &["echo hi; exit 3"]).ends(3).out, "hi\n");
    vm(&lab, "update-gecos", &["web-1", "w", "--nft-id", "7"]).ok();
}

#[test]
fn an_agent_that_is_off_is_said_however_short_the_limit() {
    // `qm` needs longer to find that out than the caller's limit.
    let lab = Lab::builder().no_terraform().qm_ms(600).start().unwrap();
    crate::support::place(&lab, 100, "web-1");
    lab.control().timing(|timing| timing.agent_ping = 3_000).unwrap();
    lab.control().agent(100, AgentMode::Off).unwrap();
    exec(&lab, &["--timeout", "3", "uptime"])
        .fails(&["could not run the command: QEMU guest agent is not running"]);
}
