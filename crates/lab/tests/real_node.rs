//! What a real node of version 8.4 did, and the lab did otherwise before (`facts/proxmox.md`).

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use common::{api, node, ok, run, with_guest};

#[test]
fn a_lock_does_not_keep_a_stopped_guest_from_being_stopped() {
    let lab = with_guest(node());
    lab.control().set_lock(100, Some("backup")).unwrap();
    let said = run(&lab, "qm stop 100");
    assert_eq!((said.code, said.err.as_str()), (255, "VM is locked (backup)\n"));
    lab.control().set_lock(100, None).unwrap();
    ok(&lab, "qm stop 100");
    lab.control().set_lock(100, Some("backup")).unwrap();
    ok(&lab, "qm stop 100");
    for call in ["start 100", "destroy 100", "set 100 --onboot 1", "template 100", "clone 100 101"] {
        let said = run(&lab, &format!("qm {call}"));
        assert_eq!((said.code, said.err.contains("VM is locked (backup)")), (255, true), "{call}: {said:?}");
    }
}

#[test]
fn what_a_set_did_before_one_option_failed_stays() {
    let lab = node().start().unwrap();
    ok(&lab, "qm create 100 --name t");
    let said = run(
        &lab,
        "qm set 100 --boot order=scsi0 --ide2 local-lvm:cloudinit --scsi0 local-lvm:vm-100-disk-7 --onboot 1",
    );
    assert_eq!((said.code, said.err.as_str()), (255, "volume 'local-lvm:vm-100-disk-7' does not exist\n"));
    let node = lab.control().snapshot().unwrap();
    let config = &node.guests[&100].config;
    assert_eq!(config["boot"], "order=scsi0");
    assert!(
        config["ide2"].contains("vm-100-cloudinit")
            && node.volumes.contains_key("local-lvm:vm-100-cloudinit")
    );
    assert!(!config.contains_key("scsi0") && !config.contains_key("onboot"));
}

#[test]
fn an_odd_size_of_a_volume_that_becomes_a_drive_is_in_bytes() {
    let lab = node().start().unwrap();
    ok(&lab, "qm create 100 --name t");
    std::fs::write(lab.path("var/disk.raw"), vec![0u8; 3 << 10]).unwrap();
    ok(&lab, "qm importdisk 100 disk.raw local-lvm");
    ok(&lab, "qm set 100 --scsi0 local-lvm:vm-100-disk-0,discard=on");
    let scsi0 = || lab.control().snapshot().unwrap().guests[&100].config["scsi0"].clone();
    assert_eq!(scsi0(), "local-lvm:vm-100-disk-0,discard=on,size=3072");
    ok(&lab, "qm resize 100 scsi0 1G");
    assert_eq!(scsi0(), "local-lvm:vm-100-disk-0,discard=on,size=1G");
}

#[test]
fn rules_need_a_vmid_that_can_be() {
    let lab = node().start().unwrap();
    for path in ["/vms/5", "/vms/99", "/vms/x"] {
        let said = run(&lab, &format!("pveum acl modify {path} --roles PVEAuditor --users blockhost@pve"));
        assert_eq!(said.code, 255, "{path}");
        assert!(said.err.contains(&format!("invalid ACL path '{path}'")), "{said:?}");
    }
    ok(&lab, "pveum acl modify /vms/100 --roles PVEAuditor --users blockhost@pve");
}

#[test]
fn a_pool_is_made_once() {
    let lab = node().start().unwrap();
    let said = run(&lab, "pvesh create /pools --poolid blockhost");
    assert_eq!(
        (said.code, said.err.as_str()),
        (255, "create pool failed: pool 'blockhost' already exists\n")
    );
}

#[test]
fn a_clone_by_the_token_needs_the_pool() {
    let lab = node().start().unwrap();
    let reply = api(&lab, "POST", "/nodes/pve/qemu/9001/clone", "newid=100&full=1");
    assert_eq!((reply.code, reply.message()), (403, "Permission check failed"));
    assert_eq!(api(&lab, "POST", "/nodes/pve/qemu/9001/clone", "newid=100&full=1&pool=blockhost").code, 200);
}

#[test]
fn snippets_of_everybody_are_listed_whatever_vmid_is_asked_for() {
    let lab = node().start().unwrap();
    std::fs::write(lab.path("node/var/lib/vz/snippets/web-1-user.yaml"), "x").unwrap();
    assert!(ok(&lab, "pvesm list local --vmid 4711").contains("local:snippets/web-1-user.yaml"));
    assert!(!ok(&lab, "pvesm list local --vmid 4711 --content images").contains("snippets/"));
    assert!(!ok(&lab, "pvesm list local-lvm --vmid 4711").contains("disk"));
    assert!(ok(&lab, "pvesm list local-lvm --vmid 9001").contains("base-9001-disk-0"));
}

#[test]
fn a_token_tells_its_separation_as_a_text_in_version_8() {
    for (pve, wanted) in [(8, "\"privsep\":\"0\""), (9, "\"privsep\":0")] {
        let lab = node().pve(pve).start().unwrap();
        ok(&lab, "pveum user add web@pve");
        let said = ok(&lab, "pveum user token add web@pve one --privsep 0 --output-format json");
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn a_guest_without_name_servers_gets_the_nodes_at_each_start() {
    let lab = with_guest(node());
    let resolver = || std::fs::read_to_string(lab.path("guests/100/etc/resolv.conf")).unwrap();
    let restart = || {
        ok(&lab, "qm stop 100");
        ok(&lab, "qm start 100");
    };
    assert_eq!(resolver(), "nameserver 192.0.2.53\nsearch node.example\n");
    lab.control().host_resolver("192.0.2.99").unwrap();
    restart();
    assert_eq!(resolver(), "nameserver 192.0.2.99\nsearch node.example\n");
    ok(&lab, "qm set 100 --searchdomain guests.example");
    restart();
    assert_eq!(resolver(), "nameserver 192.0.2.99\nsearch guests.example\n");
    ok(&lab, "qm set 100 --nameserver 198.51.100.1");
    restart();
    assert_eq!(resolver(), "nameserver 198.51.100.1\nsearch guests.example\n");
    assert!(ok(&lab, "qm guest exec 100 -- cat /etc/resolv.conf").contains("198.51.100.1"));
}
