//! Each holder of VMIDs and addresses by itself (H55, H63): in these cases nobody else would keep a number from being given
//! away, so a holder that is no longer asked is missed.

use crate::support::{Commands, SOON, database, read, record, until, vmid, write, write_database};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::json;

fn lab() -> Lab {
    Lab::builder().start().unwrap()
}

fn ip(lab: &Lab, name: &str) -> String {
    record(lab, name)["ip_address"].as_str().unwrap().to_string()
}

/// The next create begins with this VMID.
fn begin_at(lab: &Lab, vmid: u32) {
    let mut all = database(lab);
    all["next_vmid"] = vmid.into();
    write_database(lab, &all);
}

#[test]
fn h55_what_a_create_under_way_has_taken_is_held_by_the_journal_alone() {
    let lab = lab();
    let old = database(&lab);
    let first = lab.vm_start("sleep@create.taken=4000", "create", &["web-1", "--no-web3", "--apply"]);
    until("web-1 has taken its numbers", || {
        lab.path("var/journal/web-1.json").exists() && database(&lab) != old
    });
    // An engine that had read the file before writes its copy back; there is no directory yet.
    write_database(&lab, &old);
    assert!(!lab.path("var/terraform/vms/web-1/web-1.tf.json").exists());
    lab.made("web-2");
    assert_eq!((vmid(&lab, "web-2"), ip(&lab, "web-2")), (101, "192.168.122.201".into()));
    first.wait().ok();
    assert_eq!((vmid(&lab, "web-1"), ip(&lab, "web-1")), (100, "192.168.122.200".into()));
}

#[test]
fn h55_a_directory_that_appears_while_the_database_is_waited_for_is_seen() {
    let lab = lab();
    lab.made("web-0");
    // Somebody works with the database when the create has gathered what others hold.
    let lock = std::fs::OpenOptions::new().write(true).open(lab.path("var/vms.json.lock")).unwrap();
    let since = lab.control().last_call().unwrap();
    lab.control().fault("api.GET /cluster/nextid", FaultAction::Slow { ms: 1_500 }, 1).unwrap();
    let create = lab.vm_start("", "create", &["web-1", "--no-web3", "--apply"]);
    lab.control().wait_fault("api.GET /cluster/nextid", SOON).unwrap();
    assert!(lab.control().calls(since).unwrap().iter().any(|call| call.what == "guest-list"));
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let other = json!({ "resource": { "proxmox_virtual_environment_vm": { "old": { "vm_id": 101, "name": "old",
        "initialization": { "ip_config": [{ "ipv4": { "address": "192.168.122.201/24" } }] } } } } });
    write(&lab.path("var/terraform/old.tf.json"), &other.to_string());
    drop(lock);
    create.wait().ok();
    assert_eq!((vmid(&lab, "web-1"), ip(&lab, "web-1")), (102, "192.168.122.202".into()));
}

#[test]
fn h55_h13_files_that_a_destroy_left_hold_nothing() {
    let lab = lab();
    lab.made("web-1");
    let (folder, aside) = (lab.path("var/terraform/vms/web-1"), lab.path("home/aside"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(lab.tool("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    copy(&folder, &aside);
    lab.vm("destroy", &["web-1"]).ok();
    copy(&aside, &folder);
    begin_at(&lab, 100);
    lab.made("web-2");
    assert_eq!((vmid(&lab, "web-2"), ip(&lab, "web-2")), (100, "192.168.122.200".into()));
}

#[test]
fn h63_what_destroy_could_not_free_is_not_met_by_the_next_create() {
    let lab = lab();
    lab.made("web-1");
    lab.control().stick_volumes(&["local-lvm:vm-100-disk-0"]).unwrap();
    lab.vm("destroy", &["web-1"]).ok().says(&["vm-100-disk-0"]);
    assert!(read(&lab.path("var/withheld/100.json")).contains("vm-100-disk-0"));
    begin_at(&lab, 100);
    let said = lab.made("web-2");
    assert!(!said.err.contains("VMID 100"), "it is not even tried: {said:?}");
    assert_eq!(vmid(&lab, "web-2"), 101);
}

#[test]
fn h63_a_vmid_that_only_terraform_has_met_is_noted_too() {
    let lab = lab();
    // Nothing is left over that an undo could meet.
    let locked = FaultAction::error("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout");
    lab.control().fault("api.POST /nodes/*/qemu/*/clone", locked, 1).unwrap();
    lab.made("web-1").says(&["VMID 100 cannot be used"]);
    assert_eq!(vmid(&lab, "web-1"), 101);
    assert!(read(&lab.path("var/withheld/100.json")).contains("lock-100.conf"));
    begin_at(&lab, 100);
    let said = lab.made("web-2");
    assert!(!said.err.contains("VMID 100"), "it is not even tried: {said:?}");
    assert_eq!(vmid(&lab, "web-2"), 102);
}

#[test]
fn h55_a_vmid_of_a_guest_is_not_even_asked_for() {
    let lab = lab();
    for vmid in 100..110 {
        lab.control().add_guest(NewGuest { vmid, node: "pve2".into(), ..NewGuest::default() }).unwrap();
    }
    let since = lab.control().last_call().unwrap();
    lab.made("web-1");
    assert_eq!(vmid(&lab, "web-1"), 110);
    let calls = lab.control().calls(since).unwrap();
    // The first is a guess, made before anybody was asked.
    let asked = calls.iter().filter(|call| call.what == "GET /cluster/nextid").count();
    assert_eq!(asked, 2, "{calls:?}");
}
