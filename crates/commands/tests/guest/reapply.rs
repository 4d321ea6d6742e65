//! After a reboot of the node the taps are new and the routes gone: reapply puts back what running VMs of ours lack.

use crate::support::{
    Ended, begin, command, edit_database, ipv6, place, set_field, site, snapshot, stand_in, until, uuid,
};
use lab::Lab;
use lab::model::{FaultAction, NewGuest, Power};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

const REAPPLY: &str = "blockhost-provisioner-reapply";

fn reapply(lab: &Lab, rules: &str) -> Ended {
    crate::support::run(command(lab, REAPPLY, &[]).env("BLOCKHOST_FAULT", rules))
}

fn is_isolated(lab: &Lab, vmid: u32) -> bool {
    snapshot(lab).ports.get(&format!("tap{vmid}i0")).unwrap_or_else(|| panic!("no tap of {vmid}")).isolated
}

fn has_route(lab: &Lab, vmid: u32) -> bool {
    snapshot(lab)
        .routes
        .iter()
        .any(|route| route.dst.split('/').next() == Some(ipv6(vmid).as_str()) && route.dev == "vmbr0")
}

#[test]
fn h36_after_a_reboot_of_the_node_routes_and_isolation_are_back() {
    let lab = site();
    place(&lab, 101, "web-2");
    assert_eq!(reapply(&lab, "").ok().err, "reconnected 2 VMs; 0 stopped\n");
    assert!([100, 101].iter().all(|vmid| is_isolated(&lab, *vmid) && has_route(&lab, *vmid)));
    // Without the hook script, as VMs of before are.
    [100, 101].iter().for_each(|vmid| lab.control().unset(*vmid, "hookscript").unwrap());
    lab.control().reboot_node().unwrap();
    assert!([100, 101].iter().all(|vmid| !is_isolated(&lab, *vmid) && !has_route(&lab, *vmid)), "all lost");
    let said = reapply(&lab, "").ok();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", "reconnected 2 VMs; 0 stopped\n"));
    assert!([100, 101].iter().all(|vmid| is_isolated(&lab, *vmid) && has_route(&lab, *vmid)));
    // Safe at any time: again changes nothing.
    let before = (snapshot(&lab), crate::support::read(&lab.path("var/vms.json")));
    reapply(&lab, "").ok();
    assert_eq!((snapshot(&lab), crate::support::read(&lab.path("var/vms.json"))), before);
}

#[test]
fn h54_ports_that_are_still_coming_are_waited_for_side_by_side() {
    let lab = site();
    for (vmid, name) in [(101, "web-2"), (102, "web-3"), (103, "web-4")] {
        place(&lab, vmid, name);
    }
    lab.control().timing(|timing| timing.plug = 4_000).unwrap();
    lab.control().reboot_node().unwrap();
    let began = Instant::now();
    assert_eq!(reapply(&lab, "").ok().err, "reconnected 4 VMs; 0 stopped\n");
    assert!((100..104).all(|vmid| is_isolated(&lab, vmid) && has_route(&lab, vmid)));
    assert!(began.elapsed() < Duration::from_secs(12), "one after the other: {:?}", began.elapsed());
    // One never comes: the others are not held up by it, and it is named.
    lab.control().timing(|timing| timing.plug = 60_000).unwrap();
    lab.control().power(101, Power::Stopped).unwrap();
    let mut start = lab.tool("qm").args(["start", "101"]).spawn().unwrap();
    until("it runs", || snapshot(&lab).guests[&101].power == Power::Running);
    let said = reapply(&lab, "limit@reapply=6000").ends(1);
    assert!(said.err.contains("web-2") && said.err.contains("failed to isolate port"), "{said:?}");
    assert!([100, 102, 103].iter().all(|vmid| is_isolated(&lab, *vmid)));
    start.kill().unwrap();
    start.wait().unwrap();
}

#[test]
fn h51_suspended_destroyed_stopped_and_foreign_machines_are_left_alone() {
    let lab = site();
    for (vmid, name) in [(101, "suspended-1"), (102, "destroyed-1"), (103, "off-1"), (104, "foreign-1")] {
        place(&lab, vmid, name);
    }
    lab.control().reboot_node().unwrap();
    // Suspended, and started by hand; destroyed, and its number is somebody else's by now.
    set_field(&lab, "suspended-1", "status", "suspended".into());
    set_field(&lab, "destroyed-1", "status", "destroyed".into());
    lab.control().power(103, Power::Stopped).unwrap();
    lab.control().remove_guest(104).unwrap();
    stand_in(&lab, 104, "foreign-1", &uuid(555));
    // And one that is in no record of ours.
    stand_in(&lab, 105, "stranger", &uuid(556));
    let said = reapply(&lab, "").ends(1);
    let lines: Vec<&str> = said.err.lines().collect();
    assert!(
        lines[0].starts_with("warning: VM foreign-1 (VMID 104): VMID 104 now belongs to another guest"),
        "{said:?}"
    );
    assert_eq!(
        lines[1..],
        ["reconnected 1 VM; 1 stopped", "error: 1 VM, route or port could not be restored; see above"]
    );
    assert!(is_isolated(&lab, 100) && has_route(&lab, 100), "ours");
    for vmid in [101, 102, 104, 105] {
        assert!(!is_isolated(&lab, vmid) && !has_route(&lab, vmid), "{vmid}");
    }
    assert_eq!(snapshot(&lab).guests[&103].power, Power::Stopped);
    assert!(!has_route(&lab, 103));
}

#[test]
fn h51_what_is_suspended_while_it_waits_its_turn_is_left_alone() {
    let lab = site();
    place(&lab, 101, "web-2");
    lab.control().reboot_node().unwrap();
    std::fs::create_dir_all(lab.path("var/journal")).unwrap();
    let lock = std::fs::File::create(lab.path("var/journal/web-2.lock")).unwrap();
    lock.lock().unwrap();
    let running = begin(&lab, "", REAPPLY, &[]);
    // All records are read by then, and the second VM's turn is waited for.
    until("the first VM is connected", || is_isolated(&lab, 100));
    set_field(&lab, "web-2", "status", "suspended".into());
    drop(lock);
    assert_eq!(running.wait().ok().err, "reconnected 1 VM; 1 stopped\n");
    assert!(!is_isolated(&lab, 101) && !has_route(&lab, 101));
}

#[test]
fn one_failure_does_not_stop_the_others() {
    let lab = site();
    for (vmid, name) in [(101, "web-2"), (102, "web-3"), (103, "web-4"), (104, "web-5"), (105, "web-6")] {
        place(&lab, vmid, name);
    }
    lab.control().reboot_node().unwrap();
    lab.control().fault("ip.route", FaultAction::error("no route"), 1).unwrap();
    lab.control().remove_guest(101).unwrap();
    lab.control().migrate(102, "pve2").unwrap();
    edit_database(&lab, |all| {
        all["vms"]["web-4"]["vmid"] = "rubbish".into();
        all["vms"]["web-5"]["ipv6_address"] = serde_json::Value::Null;
    });
    let said = reapply(&lab, "").ends(1);
    for words in [
        "warning: VM web-1: failed to set the host route to 2a11:6c7:f04:276::2",
        "no route",
        "VM web-3 (VMID 102): it is on node pve2",
        "web-4",
        "1 missing on the node (web-2)",
        "error: 2 VMs, routes or ports could not be restored; see above",
    ] {
        assert!(said.err.contains(words), "{words:?}: {said:?}");
    }
    assert!(is_isolated(&lab, 100), "the route failed, the isolation did not");
    assert!(is_isolated(&lab, 104) && !has_route(&lab, 104), "one without IPv6");
    assert!(is_isolated(&lab, 105) && has_route(&lab, 105));
}

#[test]
fn a_root_agent_that_is_not_up_yet_is_waited_for() {
    let lab = site();
    lab.control().reboot_node().unwrap();
    lab.control().stop_root_agent().unwrap();
    let mut running = begin(&lab, "", REAPPLY, &[]);
    let stderr = running.child().stderr.take().unwrap();
    let mut lines = BufReader::new(stderr).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("root-agent.sock does not exist") && first.contains("waiting for it"), "{first}");
    lab.control().restart_root_agent(0).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(rest, ["reconnected 1 VM; 0 stopped"]);
    assert_eq!(running.wait().code, Some(0));
    assert!(is_isolated(&lab, 100) && has_route(&lab, 100));
}

#[test]
fn h23_a_root_agent_that_never_comes_or_hangs_is_given_up_once_for_all() {
    let lab = site();
    for vmid in 101..120 {
        place(&lab, vmid, &format!("more-{vmid}"));
    }
    let begun = Instant::now();
    lab.control().fault("agent.vm-state", FaultAction::Hang, 100).unwrap();
    reapply(&lab, "limit@reapply-agent=700")
        .fails(&["reconnected nothing", "did not answer vm-state within 1 s"]);
    lab.control().stop_root_agent().unwrap();
    reapply(&lab, "limit@reapply-agent=700")
        .fails(&["reconnected nothing", "root-agent.sock does not exist"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn h19_a_vm_under_another_operation_is_told_and_the_rest_done() {
    let lab = site();
    place(&lab, 101, "web-2");
    lab.control().reboot_node().unwrap();
    let _start = begin(&lab, "sleep@start.running=60000", "blockhost-vm-start", &["web-1"]);
    let lock = lab.path("var/journal/web-1.lock");
    until("the lock", || std::fs::read_to_string(&lock).is_ok_and(|note| note.starts_with("start")));
    let said = reapply(&lab, "limit@vm-lock=300").ends(1);
    assert!(said.err.contains("VM web-1: another operation is in progress"), "{said:?}");
    assert!(is_isolated(&lab, 101) && has_route(&lab, 101));
}

#[test]
fn h49_a_node_that_cannot_be_asked_changes_no_record() {
    let lab = site();
    let before = crate::support::read(&lab.path("var/vms.json"));
    lab.control().mount_etc_pve(false).unwrap();
    let said = reapply(&lab, "").ends(1);
    assert!(
        said.err.contains("VM web-1 (VMID 100): cannot query the node") && said.err.contains("not mounted"),
        "{said:?}"
    );
    assert_eq!(crate::support::read(&lab.path("var/vms.json")), before);
}

#[test]
fn a_host_without_vms_has_nothing_to_do_and_a_broken_database_is_an_error() {
    let lab = Lab::builder().no_terraform().no_root_agent().start().unwrap();
    assert_eq!(reapply(&lab, "").ok().err, "reconnected 0 VMs; 0 stopped\n");
    lab.control()
        .add_guest(NewGuest { vmid: 100, name: "x".into(), running: true, ..NewGuest::default() })
        .unwrap();
    reapply(&lab, "").ok();
    crate::support::write(&lab.path("var/vms.json"), "{");
    reapply(&lab, "").fails(&["vms.json"]);
    let fresh = Lab::builder().no_terraform().no_root_agent().no_database().start().unwrap();
    assert_eq!(reapply(&fresh, "").ok().err, "reconnected 0 VMs; 0 stopped\n");
}
