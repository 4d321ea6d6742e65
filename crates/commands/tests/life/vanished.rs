//! A VM that was deleted by hand and whose VMID another guest has taken (hazard H64): its record is closed where it is
//! known that the VM is nowhere, and a person can close it elsewhere. The other guest is never touched.

use crate::legacy_site::{add, legacy_record, legacy_site};
use crate::support::{Commands, database, guest, read, record, world, write};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use std::process::Stdio;

fn stranger(vmid: u32, name: &str) -> NewGuest {
    let pool = Some("blockhost".into());
    NewGuest { vmid, name: name.into(), running: true, pool, ..NewGuest::default() }
}

/// web-1 was deleted by hand, and somebody's guest has its VMID.
fn taken_over() -> Lab {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().remove_guest(100).unwrap();
    lab.control().add_guest(stranger(100, "customer")).unwrap();
    lab
}

fn audit(lab: &Lab) -> String {
    let files = std::fs::read_dir(lab.path("var/audit")).unwrap().flatten();
    files.map(|file| read(&file.path())).collect()
}

/// Our record is closed and nothing of it is left; the stranger is as it was.
#[track_caller]
fn closed(lab: &Lab, before: &lab::model::GuestSnapshot) {
    assert_eq!(&guest(lab, 100), before, "the stranger");
    assert_eq!(record(lab, "web-1")["status"], "destroyed");
    let all = database(lab);
    assert!(!all["allocated_ips"].to_string().contains("122.200"), "{all}");
    assert!(!all["allocated_ipv6"].to_string().contains("::"), "{all}");
    assert!(!lab.path("var/terraform/vms/web-1").exists());
    assert!(!lab.path("var/journal/web-1.json").exists());
    let node = lab.control().snapshot().unwrap();
    assert!(node.snippets.is_empty() && node.routes.is_empty(), "{node:?}");
    assert!(audit(lab).contains("close-record"), "{}", audit(lab));
}

#[test]
fn h64_a_vm_that_is_on_no_guest_of_the_cluster_is_closed() {
    let lab = taken_over();
    lab.control().add_guest(NewGuest { node: "pve2".into(), ..stranger(300, "far") }).unwrap();
    lab.control().add_guest(NewGuest { vmid: 301, container: true, ..NewGuest::default() }).unwrap();
    let before = guest(&lab, 100);
    let said = lab.vm("destroy", &["web-1"]).ok();
    assert_eq!(said.err.matches("warning: ").count(), 1, "{said:?}");
    said.says(&[
        "warning: VM web-1 (VMID 100)",
        "another guest (customer)",
        "closing its record",
        "leaving the other guest alone",
    ]);
    closed(&lab, &before);
    lab.vm("destroy", &["web-1"]).ok();
    // Its addresses are free again.
    lab.made("web-2");
    assert_eq!(record(&lab, "web-2")["ip_address"], "192.168.122.200");
    assert_eq!(guest(&lab, 100), before);
}

#[test]
fn h64_one_that_may_live_elsewhere_is_not_closed() {
    for (node, key, value) in [
        ("pve", "smbios1", "uuid=UUID"),
        ("pve2", "smbios1", "uuid=UUID"),
        ("pve2", "description", "BlockHost VM web-1 UUID"),
    ] {
        let lab = taken_over();
        let uuid = record(&lab, "web-1")["smbios_uuid"].as_str().unwrap().to_owned();
        // Restored from a backup under another number.
        lab.control().add_guest(NewGuest { node: node.into(), ..stranger(300, "restored") }).unwrap();
        lab.control().set(300, key, &value.replace("UUID", &uuid)).unwrap();
        let before = world(&lab);
        lab.vm("destroy", &["web-1", "--force"]).fails(&[
            "VMID 300 (restored)",
            node,
            "nothing was done",
            "--forget",
        ]);
        world(&lab).same(&before, "refused");
    }
}

#[test]
fn h64_where_it_cannot_be_known_only_a_person_closes_the_record() {
    let lab = taken_over();
    // An older plugin does not have the action.
    let fault =
        || lab.control().fault("agent.vm-find", FaultAction::error("unknown action: vm-find"), 99).unwrap();
    fault();
    let before = world(&lab);
    let words = ["VM web-1 (VMID 100)", "unknown action", "blockhost-vm-destroy web-1 --forget"];
    lab.vm("destroy", &["web-1"]).fails(&words);
    let mut asked = lab.vm_command("destroy", &["web-1", "--forget"]);
    let said = crate::support::run(asked.stdin(Stdio::null()));
    said.fails(&["there is no terminal", "--yes"]);
    world(&lab).same(&before, "refused");
    // An answer alone is no wish to close the record.
    lab.vm("destroy", &["web-1", "--yes"]).fails(&words);
    world(&lab).same(&before, "refused");
    let stranger = guest(&lab, 100);
    lab.vm("destroy", &["web-1", "--forget", "--yes"]).ok().says(&["warning: ", "--forget", "left alone"]);
    closed(&lab, &stranger);
    assert_eq!(
        lab.vm("destroy", &["web-1", "--forget", "--yes"]).ok().err,
        "VM web-1 was destroyed before; nothing to do\n"
    );
}

#[test]
fn h64_a_vm_that_is_there_is_not_forgotten() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let before = world(&lab);
    lab.vm("destroy", &["web-1", "--forget", "--yes"])
        .fails(&["VM web-1 (VMID 100) exists on node pve", "without --forget"]);
    lab.control().migrate(100, "pve2").unwrap();
    lab.vm("destroy", &["web-1", "--forget", "--yes"]).fails(&["exists on node pve2"]);
    lab.control().migrate(100, "pve").unwrap();
    world(&lab).same(&before, "refused");
    lab.control().stop_root_agent().unwrap();
    lab.vm("destroy", &["web-1", "--forget", "--yes"]).fails(&["cannot query the node"]);
    assert_eq!(record(&lab, "web-1")["status"], "active");
    lab.control().restart_root_agent(0).unwrap();
}

#[test]
fn h64_killed_while_it_closes_a_record_it_is_completed() {
    for point in ["destroy.gone", "destroy.route", "destroy.snippets", "destroy.folder", "destroy.marked"] {
        let lab = taken_over();
        let before = guest(&lab, 100);
        let said = lab.vm_with(&format!("kill@{point}"), "destroy", &["web-1"]);
        assert_eq!(said.code, None, "{point}: {said:?}");
        lab.vm("destroy", &["web-1"]).ok();
        closed(&lab, &before);
    }
}

#[test]
fn h64_a_record_without_uuid_is_closed_by_its_name_and_address_alone() {
    // Renamed by an operator: the number is the same, and so is the address.
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    lab.control().rename(id, "renamed").unwrap();
    lab.vm("destroy", &["web-001"]).fails(&["renamed", "nothing was done", "--forget"]);
    assert_eq!(legacy_record(&lab, "web-001")["status"], "active");
    // Really gone: nobody has its name or its address.
    lab.control().remove_guest(id).unwrap();
    lab.control().add_guest(stranger(id, "customer")).unwrap();
    let before = guest(&lab, id);
    lab.vm("destroy", &["web-001"]).ok().says(&["another guest (customer)", "closing its record"]);
    assert_eq!((guest(&lab, id), &legacy_record(&lab, "web-001")["status"]), (before, &"destroyed".into()));
}

#[test]
fn h64_nothing_is_concluded_from_a_cluster_that_cannot_be_read() {
    let lab = taken_over();
    let before = world(&lab);
    let members = lab.path("node/etc/pve/.members");
    let good = read(&members);
    for (text, words) in [
        (
            r#"{"nodename": "pve", "version": 4, "cluster": {"name": "c", "nodes": 3, "quorate": 0}}"#,
            "no quorum",
        ),
        ("", ".members"),
    ] {
        write(&members, text);
        lab.vm("destroy", &["web-1"]).fails(&[words, "--forget"]);
    }
    write(&members, &good);
    let other = lab.path("node/etc/pve/qemu-server/107.conf");
    std::fs::create_dir(&other).unwrap();
    lab.vm("destroy", &["web-1"]).fails(&["cannot all be read", "--forget"]);
    std::fs::remove_dir(&other).unwrap();
    world(&lab).same(&before, "refused");
}
