//! update-gecos where it cannot: engines kill it at 30 s, so it has decided by 25 s; then they try again later.

use crate::support::{
    SOON, WALLET, asked, begin, commands_in_guests, edit_database, exec, passwd_line, read, set_field, site,
    snapshot, stand_in, until, uuid, vm, vm_with,
};
use lab::model::{AgentMode, FaultAction, Power};
use std::time::{Duration, Instant};

const ARGUMENTS: [&str; 4] = ["web-1", WALLET, "--nft-id", "7"];

#[test]
fn h23_a_root_agent_that_hangs_is_given_up_by_25_s() {
    let lab = site();
    lab.control().fault("agent.qm-update-gecos", FaultAction::Hang, 1).unwrap();
    let begun = Instant::now();
    let said =
        vm(&lab, "update-gecos", &ARGUMENTS).fails(&["VM web-1 (VMID 100)", "the GECOS of user admin"]);
    let took = begun.elapsed();
    println!("given up after {took:?}: {}", said.err);
    assert!(took < Duration::from_secs(29), "{took:?}");
    said.says(&["did not answer qm-update-gecos within", "the guest did not answer"]);
}

#[test]
fn h24_a_silent_guest_agent_is_said() {
    let lab = site();
    for mode in [AgentMode::Off, AgentMode::Never] {
        lab.control().agent(100, mode).unwrap();
        vm(&lab, "update-gecos", &ARGUMENTS)
            .fails(&["failed to change the GECOS of user admin", "QEMU guest agent is not running"]);
    }
    // It falls silent between writing and reading back.
    lab.control().agent(100, AgentMode::On).unwrap();
    let running = begin(&lab, "sleep@gecos.written=1500", "blockhost-vm-update-gecos", &ARGUMENTS);
    until("the change", || passwd_line(&lab, 100, "admin").contains("nft=7"));
    lab.control().agent(100, AgentMode::Off).unwrap();
    running.wait().fails(&["cannot read back the GECOS of user admin", "guest agent is not running"]);
    lab.control().agent(100, AgentMode::On).unwrap();
    vm(&lab, "update-gecos", &ARGUMENTS).ok();
}

#[test]
fn h48_an_answer_that_is_lost_is_made_up_for_by_reading() {
    let lab = site();
    for (number, fault) in
        [FaultAction::Kill, FaultAction::Garbage, FaultAction::Huge].into_iter().enumerate()
    {
        lab.control().fault("agent.qm-update-gecos.after", fault, 1).unwrap();
        let id = number.to_string();
        vm(&lab, "update-gecos", &["web-1", "w", "--nft-id", &id])
            .ok()
            .says(&["reading the current value from the guest"]);
        assert!(passwd_line(&lab, 100, "admin").contains(&format!("nft={id}:")));
    }
    // It was lost before anything was done.
    lab.control().fault("agent.qm-update-gecos.before", FaultAction::Kill, 1).unwrap();
    vm_with(&lab, "limit@update-gecos=1000", "update-gecos", &ARGUMENTS).fails(&["the guest has", "nft=2"]);
    lab.control().fault("agent.qm-update-gecos.before", FaultAction::error("it is Monday"), 1).unwrap();
    vm(&lab, "update-gecos", &ARGUMENTS).fails(&["failed to change the GECOS", "it is Monday"]);
    lab.control().stop_root_agent().unwrap();
    vm(&lab, "update-gecos", &ARGUMENTS)
        .fails(&["failed to change the GECOS", "root-agent.sock does not exist"]);
}

#[test]
fn a_slow_root_agent_is_waited_for() {
    let lab = site();
    lab.control().fault("agent.qm-update-gecos", FaultAction::Slow { ms: 3000 }, 1).unwrap();
    vm(&lab, "update-gecos", &ARGUMENTS).ok();
    assert!(passwd_line(&lab, 100, "admin").contains("nft=7:"));
}

#[test]
fn h19_an_operation_that_holds_the_vm_is_waited_for_within_the_limit() {
    let lab = site();
    let mut start = begin(&lab, "sleep@start.running=60000", "blockhost-vm-start", &["web-1"]);
    let lock = lab.path("var/journal/web-1.lock");
    until("the lock", || std::fs::read_to_string(&lock).is_ok_and(|note| note.starts_with("start")));
    vm_with(&lab, "limit@vm-lock=300", "update-gecos", &ARGUMENTS)
        .fails(&["VM web-1: another operation is in progress", "try again later"]);
    start.child().kill().unwrap();
    drop(start);
    vm(&lab, "update-gecos", &ARGUMENTS).ok();
}

#[test]
fn a_vm_that_is_off_or_unknown() {
    let lab = site();
    lab.control().power(100, Power::Stopped).unwrap();
    vm(&lab, "update-gecos", &ARGUMENTS).fails(&["failed to change the GECOS", "VM 100 is not running"]);
    assert_eq!(snapshot(&lab).guests[&100].power, Power::Stopped);
    vm(&lab, "update-gecos", &["nobody", "w", "--nft-id", "1"]).fails(&["VM nobody is unknown"]);
    lab.control().mount_etc_pve(false).unwrap();
    vm(&lab, "update-gecos", &ARGUMENTS).fails(&["not mounted"]);
    assert!(read(&lab.path("var/vms.json")).contains("\"active\""), "H49");
}

#[test]
fn h41_a_destroyed_vm_is_refused() {
    let lab = site();
    set_field(&lab, "web-1", "status", "destroyed".into());
    vm(&lab, "update-gecos", &ARGUMENTS).fails(&["VM web-1 was destroyed"]);
    assert!(asked(&lab, 0).is_empty() && commands_in_guests(&lab) == 0);
}

#[test]
fn h02_a_strangers_user_is_left_alone() {
    let lab = site();
    lab.control().remove_guest(100).unwrap();
    stand_in(&lab, 100, "web-1", &uuid(5));
    vm(&lab, "update-gecos", &ARGUMENTS).fails(&["failed to change the GECOS", "another guest"]);
    edit_database(&lab, |all| {
        all["vms"]["web-1"].as_object_mut().unwrap().remove("smbios_uuid");
    });
    lab.control().rename(100, "else").unwrap();
    vm(&lab, "update-gecos", &ARGUMENTS).fails(&["another guest"]);
    assert_eq!(commands_in_guests(&lab), 0);
}

#[test]
fn a_suspended_vm_that_runs_all_the_same_is_updated() {
    let lab = site();
    set_field(&lab, "web-1", "status", "suspended".into());
    vm(&lab, "update-gecos", &ARGUMENTS).ok();
    exec(&lab, &["getent passwd admin | grep -c nft=7"]).ok();
    let begun = Instant::now();
    vm(&lab, "update-gecos", &[&ARGUMENTS[..], &["--mock"]].concat()).ends(1);
    assert!(begun.elapsed() < SOON);
}
