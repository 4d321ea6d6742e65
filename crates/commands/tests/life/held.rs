//! The database is not the only holder: what a record that was dropped, a guest, the host or the network holds is given
//! to nobody else (H55), and a VMID that cannot be used is passed over (H63).

use crate::support::{
    Commands, add_settings, database, edit_record, guest, read, record, vmid, write, write_database,
};
use lab::Lab;
use lab::model::NewGuest;
use serde_json::{Value, json};

fn lab() -> Lab {
    Lab::builder().start().unwrap()
}

fn ip(lab: &Lab, name: &str) -> String {
    record(lab, name)["ip_address"].as_str().unwrap().to_string()
}

/// The last lines of the audit trail with this verb.
fn audited(lab: &Lab, verb: &str) -> Vec<Value> {
    let files = std::fs::read_dir(lab.path("var/audit")).unwrap().flatten();
    let lines: String = files.map(|file| read(&file.path())).collect();
    let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["verb"] == verb).collect()
}

#[test]
fn h55_a_record_that_was_dropped_after_a_create_is_restored_by_the_next() {
    let lab = lab();
    lab.made("web-0");
    let old = database(&lab);
    lab.made("web-1");
    lab.made("web-2");
    let whole = database(&lab);
    // An engine that had read the file before writes its copy back: both are gone, next_vmid and lists as well.
    write_database(&lab, &old);
    let said = lab.made("web-3").says(&["VM web-1 (VMID 101)", "VM web-2 (VMID 102)", "restored it"]);
    assert!(!said.err.contains("expires on"), "{}", said.err);
    for name in ["web-1", "web-2"] {
        assert_eq!(record(&lab, name), whole["vms"][name], "every field as it was");
    }
    assert_eq!((vmid(&lab, "web-3"), ip(&lab, "web-3")), (103, "192.168.122.203".into()));
    let lists = database(&lab);
    assert_eq!(lists["allocated_ips"].as_array().unwrap().len(), 4);
    assert_eq!(lists["allocated_ipv6"].as_array().unwrap().len(), 4);
    assert_eq!(audited(&lab, "restore-record").len(), 2);
    lab.vm("status", &["web-1"]).ok();
    lab.vm("destroy", &["web-1"]).ok();
    // Nothing that is destroyed comes back.
    write_database(&lab, &old);
    lab.made("web-4");
    assert!(record(&lab, "web-1").is_null());
    assert_eq!(record(&lab, "web-2")["status"], "active");
}

#[test]
fn h55_destroy_gc_and_reapply_restore_it_as_well() {
    let lab = lab();
    let old = {
        lab.made("web-0");
        database(&lab)
    };
    lab.made_with("web-1", &["--expiry-days", "30"]);
    let before = record(&lab, "web-1");
    write_database(&lab, &old);
    let done = lab.vm("gc", &["--execute"]).ok();
    assert_eq!(record(&lab, "web-1"), before, "{done:?}");
    write_database(&lab, &old);
    let done = lab.command("blockhost-provisioner-reapply").output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(record(&lab, "web-1"), before);
    write_database(&lab, &old);
    lab.vm("destroy", &["web-1"]).ok().says(&["restored it"]);
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&101));
    // The same create again meets the record first.
    let old = database(&lab);
    lab.made("web-2");
    write_database(&lab, &old);
    lab.create("web-2", &[]).fails(&["web-2", "already exists"]);
}

#[test]
fn h55_a_restored_record_is_never_older_than_what_gc_may_act_on() {
    let lab = lab();
    lab.made("web-0");
    let old = database(&lab);
    lab.made("web-1");
    // The copy is of a time before a renewal that only the database had.
    edit_record(&lab, "web-1", |record| {
        record.insert("expires_at".into(), "2020-01-01T00:00:00+00:00".into());
    });
    let copy = lab.path("var/terraform/vms/web-1/record.json");
    write(&copy, &record(&lab, "web-1").to_string());
    write_database(&lab, &old);
    lab.vm("gc", &["--execute", "--accept-gap", "--accept-share"]).ok().says(&[
        "web-1",
        "restored it",
        "unless a later date was paid for",
    ]);
    assert_eq!(record(&lab, "web-1")["status"], "active");
    assert!(record(&lab, "web-1")["expires_at"].as_str().unwrap() > "2026");
    // Without any copy (it was made by an earlier version), the VM is there again, and what is not known is said.
    write_database(&lab, &old);
    std::fs::remove_file(&copy).unwrap();
    lab.made("web-2").says(&["web-1", "owner, wallet and expiry are unknown"]);
    assert_eq!((vmid(&lab, "web-1"), ip(&lab, "web-1")), (101, "192.168.122.201".into()));
    assert_eq!(vmid(&lab, "web-2"), 102);
}

#[test]
fn h55_changes_of_ours_reach_the_copy() {
    let lab = lab();
    lab.made("web-1");
    edit_record(&lab, "web-1", |record| {
        record.insert("status".into(), "suspended".into());
        record.insert("suspended_at".into(), "2026-11-01T00:00:00+00:00".into());
    });
    lab.vm("resume", &["web-1"]).ok();
    let copy: Value = serde_json::from_str(&read(&lab.path("var/terraform/vms/web-1/record.json"))).unwrap();
    assert_eq!(copy, record(&lab, "web-1"));
    assert_eq!(copy["status"], "active");
    // What others wrote is copied by gc.
    edit_record(&lab, "web-1", |record| drop(record.insert("nft_token_id".into(), 7.into())));
    lab.vm("gc", &["--execute"]).ok();
    let copy: Value = serde_json::from_str(&read(&lab.path("var/terraform/vms/web-1/record.json"))).unwrap();
    assert_eq!(copy["nft_token_id"], 7);
}

#[test]
fn h55_what_only_files_and_guests_hold_is_not_given_away() {
    let lab = lab();
    // The machine is gone, the directory is not: nobody knows why, and its numbers stay held.
    lab.made("web-1");
    let mut all = database(&lab);
    all["vms"] = json!({});
    all["allocated_ips"] = json!([]);
    all["allocated_ipv6"] = json!([]);
    all["next_vmid"] = 100.into();
    lab.control().remove_guest(100).unwrap();
    // A guest made by hand, on the address that is next.
    let by_hand = NewGuest { vmid: 500, name: "somebody".into(), ..NewGuest::default() };
    lab.control().add_guest(by_hand).unwrap();
    let conf = lab.path("node/etc/pve/qemu-server/500.conf");
    let text = read(&conf);
    write(&conf, &format!("ipconfig0: ip=192.168.122.201/24,gw=192.168.122.1\n{text}"));
    // The older package's file.
    let legacy = json!({ "resource": { "proxmox_virtual_environment_vm": { "old": { "vm_id": 101, "name": "old",
        "initialization": { "ip_config": [{ "ipv4": { "address": "192.168.122.202/24" } }] } } } } });
    write(&lab.path("var/terraform/old.tf.json"), &legacy.to_string());
    write_database(&lab, &all);
    lab.made("web-2");
    assert_eq!((vmid(&lab, "web-2"), ip(&lab, "web-2")), (102, "192.168.122.203".into()));
    lab.create("web-3", &["--ip", "192.168.122.201"]).fails(&[
        "web-3",
        "192.168.122.201",
        "a guest or a node of the cluster",
    ]);
}

#[test]
fn h55_an_older_root_agent_does_not_stop_a_create() {
    let lab = lab();
    lab.control()
        .fault("agent.guest-list", lab::model::FaultAction::error("Unknown action: guest-list"), 1)
        .unwrap();
    lab.made("web-1");
}

#[test]
fn h55_next_vmid_as_a_text_and_moved_back() {
    let lab = lab();
    lab.made("web-1");
    lab.made("web-2");
    let mut all = database(&lab);
    all["next_vmid"] = "100".into();
    write_database(&lab, &all);
    lab.made("web-3");
    assert_eq!(vmid(&lab, "web-3"), 102);
    assert_eq!(database(&lab)["next_vmid"], 103);
}

#[test]
fn h55_addresses_of_the_host_and_of_whoever_answers_are_left_out() {
    // The pool ends with the router of the lab's host.
    let lab = Lab::builder().ip_pool(251, 254).start().unwrap();
    lab.control().neighbour("192.168.122.251", "52:54:00:aa:bb:cc", "REACHABLE").unwrap();
    lab.control().neighbour("192.168.122.252", "52:54:00:aa:bb:cd", "FAILED").unwrap();
    lab.control().neighbour("192.168.122.253", "52:54:00:aa:bb:ce", "STALE").unwrap();
    let said = lab.made("web-1").says(&["skipping 192.168.122.251", "52:54:00:aa:bb:cc"]);
    assert_eq!(ip(&lab, "web-1"), "192.168.122.252", "{said:?}");
    lab.create("web-2", &["--ip", "192.168.122.1"]).fails(&["192.168.122.1", "address of this host"]);
    lab.create("web-2", &["--ip", "192.168.122.254"]).fails(&["192.168.122.254", "address of this host"]);
    lab.create("web-2", &["--ip", "192.168.122.251"]).fails(&[
        "192.168.122.251",
        "52:54:00:aa:bb:cc",
        "probe_addresses",
    ]);
    // An old entry is asked about; one that stays old is not silence.
    let flags = ["web-2", "--no-web3", "--apply"];
    lab.vm_with("limit@probe-address=300", "create", &flags)
        .fails(&["IP pool exhausted"])
        .says(&["skipping 192.168.122.253"]);
    add_settings(&lab, "probe_addresses: false");
    lab.made_with("web-2", &["--ip", "192.168.122.251"]);
    lab.made("web-3");
    assert_eq!(ip(&lab, "web-3"), "192.168.122.253");
    lab.create("web-4", &[]).fails(&["IP pool exhausted"]);
}

#[test]
fn h63_a_vmid_that_cannot_be_used_is_passed_over_and_remembered() {
    let lab = lab();
    let volume = "local-lvm:vm-100-cloudinit";
    lab.control().stick_volumes(&[volume]).unwrap();
    lab.create("web-0", &[]).fails(&["web-0"]);
    // It stays; each create would meet it.
    for (name, vmid_then) in [("web-1", 101), ("web-2", 102)] {
        lab.made(name);
        assert_eq!(vmid(&lab, name), vmid_then);
    }
    let note: Value = serde_json::from_str(&read(&lab.path("var/withheld/100.json"))).unwrap();
    assert!(note["reason"].as_str().unwrap().contains(&format!("pvesm free {volume}")), "{note}");
    // The note is lost: found out anew, within one create.
    std::fs::remove_file(lab.path("var/withheld/100.json")).unwrap();
    let mut all = database(&lab);
    all["next_vmid"] = 100.into();
    write_database(&lab, &all);
    lab.made("web-3").says(&["VMID 100 cannot be used", &format!("pvesm free {volume}")]);
    assert_eq!(vmid(&lab, "web-3"), 103);
    // After its time it is tried again.
    lab.control().stick_volumes(&[]).unwrap();
    lab.control().remove_guest(100).unwrap_err();
    let mut all = database(&lab);
    all["next_vmid"] = 100.into();
    write_database(&lab, &all);
    lab.vm_with("limit@withheld-vmid=1", "create", &["web-4", "--no-web3"]).ok();
    assert!(!lab.path("var/withheld/100.json").exists());
}

#[test]
fn h63_h13_the_range_does_not_run_dry_for_notes() {
    let lab = lab();
    std::fs::create_dir_all(lab.path("var/withheld")).unwrap();
    for vmid in 100..=999 {
        let note =
            json!({ "vmid": vmid, "reason": "x", "since": chrono::Utc::now().to_rfc3339(), "late": null });
        write(&lab.path(format!("var/withheld/{vmid}.json")), &note.to_string());
    }
    lab.made("web-1");
    assert_eq!(vmid(&lab, "web-1"), 100);
    assert_eq!(guest(&lab, 100).name, "web-1");
}

#[test]
fn names_that_differ_in_capitals_alone_are_refused() {
    let lab = lab();
    lab.made("web-2");
    lab.create("WEB-2", &[]).fails(&["WEB-2", "web-2", "upper and lower case"]);
    lab.vm("create", &["Web-2", "--no-web3"]).fails(&["Web-2", "upper and lower case"]);
    lab.vm("destroy", &["web-2"]).ok();
    lab.made("WEB-2");
}

#[test]
fn another_node_is_refused_before_anything_is_taken() {
    let lab = lab();
    lab.create("web-1", &["--node", "pve2"]).fails(&["--node pve2", "only be created on node pve,"]);
    lab.made_with("web-1", &["--node", "pve"]);
}
