//! VMs on the node, their network, and what lies about there.

use crate::support::*;
use lab::model::{NewGuest, Power};
use serde_json::{Value, json};

#[test]
fn h01_h08_h49_h64_each_state_of_a_vm_is_found() {
    let lab = healthy();
    let control = lab.control();
    case(
        &lab,
        &["vm-off"],
        || control.power(100, Power::Stopped).unwrap(),
        || {
            vm(&lab, "start", &["web-1"]).ok();
        },
    );
    case(
        &lab,
        &["vm-paused"],
        || control.power(100, Power::Paused).unwrap(),
        || {
            vm(&lab, "start", &["web-1"]).ok();
        },
    );
    case(
        &lab,
        &["vm-locked"],
        || control.set_lock(100, Some("backup")).unwrap(),
        || {
            control.set_lock(100, None).unwrap();
        },
    );
    case(
        &lab,
        &["vm-stays-off-at-boot"],
        || control.set(100, "onboot", "0").unwrap(),
        || {
            control.set(100, "onboot", "1").unwrap();
        },
    );
    case(
        &lab,
        &["vm-elsewhere"],
        || control.migrate(100, "pve2").unwrap(),
        || {
            control.migrate(100, "pve").unwrap();
            vm(&lab, "start", &["web-1"]).ok();
        },
    );
    case(
        &lab,
        &["vm-outside-pool"],
        || control.pool(100, None).unwrap(),
        || {
            control.pool(100, Some("blockhost")).unwrap();
        },
    );
    database_case(&lab, &["vm-of-older-package"], |all| {
        all["vms"]["web-1"].as_object_mut().unwrap().remove("smbios_uuid");
    });
    database_case(&lab, &["vm-boots-suspended", "vm-suspended-running"], |all| {
        all["vms"]["web-1"]["status"] = json!("suspended");
    });
    let stranger = NewGuest { vmid: 101, name: "stranger".into(), running: true, ..NewGuest::default() };
    control.add_guest(stranger).unwrap();
    assert_eq!(codes(&lab), [""; 0], "somebody else's VM is none of ours, in our range too");
    let taken_over =
        database_case(&lab, &["route-missing", "terraform-directory-missing", "vmid-taken-over"], |all| {
            let mut other = all["vms"]["web-1"].clone();
            other["vmid"] = json!(101);
            other["smbios_uuid"] = json!("11111111-2222-4333-8444-555555555555");
            other["ip_address"] = json!("192.168.122.230");
            other["ipv6_address"] = json!("2a11:6c7:f04:276::e0");
            all["vms"]["gone-1"] = other;
            // Their machines are told apart: only what is proven is judged further.
            all["vms"]["web-1"]["ipv6_address"] = json!("2a11:6c7:f04:276::e1");
        });
    drop(taken_over);
}

#[test]
fn h02_h05_machines_without_a_record_are_found() {
    let lab = healthy();
    let control = lab.control();
    // The record was dropped: the directory and the node agree, so it can be restored.
    let found = database_case(&lab, &["record-lost"], |all| {
        all["vms"].as_object_mut().unwrap().remove("web-1");
    });
    drop(found);
    database_case(
        &lab,
        &["address-leftover", "route-leftover", "terraform-directory-leftover", "vm-destroyed-but-there"],
        |all| {
            all["vms"]["web-1"]["status"] = json!("destroyed");
        },
    );
    let uuid = "22222222-2222-4333-8444-555555555555";
    let mark = [("description", format!("BlockHost VM old-1 {uuid}")), ("smbios1", format!("uuid={uuid}"))];
    let config = mark.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    case(
        &lab,
        &["vm-without-record"],
        || {
            control
                .add_guest(NewGuest { vmid: 150, name: "old-1".into(), config, ..NewGuest::default() })
                .unwrap()
        },
        || control.remove_guest(150).unwrap(),
    );
}

#[test]
fn h36_h54_each_fault_of_the_network_is_found() {
    let lab = healthy();
    let tool = |name: &str, words: &[&str]| assert!(lab.tool(name).args(words).status().unwrap().success());
    let start = || drop(vm(&lab, "start", &["web-1"]).ok());
    let route = |act: &str, address: &str| tool("ip", &["-6", "route", act, address, "dev", "vmbr0"]);
    case(&lab, &["route-missing"], || route("del", "2a11:6c7:f04:276::2"), start);
    let isolated = |word: &str| tool("bridge", &["link", "set", "dev", "tap100i0", "isolated", word]);
    case(&lab, &["port-not-isolated"], || isolated("off"), start);
    case(
        &lab,
        &["route-leftover"],
        || route("add", "2a11:6c7:f04:276::77"),
        || route("del", "2a11:6c7:f04:276::77"),
    );
    // One that is none of our prefix is somebody else's.
    route("add", "2001:db8::1");
    assert_eq!(codes(&lab), [""; 0]);
    let tfvars = lab.path("var/terraform/terraform.tfvars");
    file_case(
        &lab,
        &["bridge-missing", "route-missing", "token-lacks-privilege"],
        &tfvars,
        replace("vmbr0", "vmbr7"),
    );
    // A post-stop that comes when the VM is on again leaves everything on.
    let post_stop = || until("post-stop has run", || !lab.path("node/run/blockhost-guard/100.json").exists());
    // QEMU has its tap long before it is a port.
    let control = lab.control();
    let net0 = control.snapshot().unwrap().guests[&100].config["net0"].clone();
    case(
        &lab,
        &["card-missing", "guard-incomplete", "route-missing"],
        || {
            control.power(100, Power::Stopped).unwrap();
            post_stop();
            control.unset(100, "net0").unwrap();
            control.power(100, Power::Running).unwrap();
        },
        || {
            control.power(100, Power::Stopped).unwrap();
            control.set(100, "net0", &net0).unwrap();
            start();
        },
    );
    case(
        &lab,
        // Without its hook script, which isolates that port, too.
        &["guard-incomplete", "port-behind-firewall", "route-missing"],
        || {
            control.power(100, Power::Stopped).unwrap();
            post_stop();
            control.set(100, "net0", &format!("{net0},firewall=1")).unwrap();
            control.power(100, Power::Running).unwrap();
        },
        || {
            control.power(100, Power::Stopped).unwrap();
            control.set(100, "net0", &net0).unwrap();
            start();
        },
    );
    let hook = control.snapshot().unwrap().guests[&100].config["hookscript"].clone();
    let set_hook = || control.set(100, "hookscript", &hook).unwrap();
    case(&lab, &["hook-not-set"], || control.unset(100, "hookscript").unwrap(), set_hook);
    let state = lab.path("node/run/blockhost-guard/100.json");
    let found = file_case(&lab, &["guard-incomplete"], &state, |path| {
        let text = read(path).replace("\"applied\":true", "\"applied\":false");
        write(path, &text.replace("\"missing\":[]", "\"missing\":[\"rules are missing\"]"));
    });
    assert_eq!(found[0]["what"], "rules are missing");
    let master = lab.path("node/sys/class/net/tap100i0/master");
    let target = std::fs::read_link(&master).unwrap();
    case(
        &lab,
        &["port-not-connected"],
        || std::fs::remove_file(&master).unwrap(),
        || std::os::unix::fs::symlink(&target, &master).unwrap(),
    );
}

#[test]
fn h37_h63_snippets_disks_and_guard_files_of_nobody_are_found() {
    let lab = healthy();
    let snippets = lab.path("node/var/lib/vz/snippets");
    let found = file_case(&lab, &["snippet-missing"], &snippets.join("blockhost-web-1-user.yaml"), |path| {
        std::fs::remove_file(path).unwrap();
    });
    assert!(found[0]["mend"].as_str().unwrap().contains("before the VM is switched off"), "{found:?}");
    let left = |found: &[Value]| found[0]["left"].as_array().unwrap()[0].as_str().unwrap().to_string();
    let found = file_case(&lab, &["snippet-leftover"], &snippets.join("blockhost-old-1-user.yaml"), |path| {
        write(path, "secret");
    });
    assert_eq!(left(&found), "snippet blockhost-old-1-user.yaml");
    // Of others, nothing is told.
    write(&snippets.join("theirs.yaml"), "x");
    assert_eq!(codes(&lab), [""; 0]);
    use std::os::unix::fs::PermissionsExt;
    let mode = |mode| std::fs::set_permissions(&snippets, PermissionsExt::from_mode(mode)).unwrap();
    case(&lab, &["snippets-unreadable"], || mode(0o777), || mode(0o755));

    let guards = lab.path("node/var/lib/blockhost-guard");
    let _ = std::fs::create_dir_all(&guards);
    std::fs::set_permissions(&guards, PermissionsExt::from_mode(0o700)).unwrap();
    let found = file_case(&lab, &["guard-leftover"], &guards.join("555.json"), |path| {
        write(path, "{\"name\": \"old-1\", \"anti_spoofing\": true, \"isolate\": true}");
    });
    assert_eq!(left(&found), "guard 555");

    // A disk that nobody knows is not proven to be ours: a person decides.
    let stuck = || {
        let control = lab.control();
        control.add_guest(NewGuest { vmid: 300, disk_gib: 1, ..NewGuest::default() }).unwrap();
        control.stick_volumes(&["local-lvm:vm-300-disk-0"]).unwrap();
        let _ = lab.tool("qm").args(["destroy", "300"]).output().unwrap();
        control.stick_volumes(&[]).unwrap();
    };
    let free = || drop(lab.tool("pvesm").args(["free", "local-lvm:vm-300-disk-0"]).output().unwrap());
    let found = case(&lab, &["volume-leftover"], stuck, free);
    assert_eq!(
        (left(&found).as_str(), found[0]["fixable"].as_bool()),
        ("volume local-lvm:vm-300-disk-0", Some(false))
    );
    // Of VMIDs outside our range, nothing is told.
    lab.control().add_guest(NewGuest { vmid: 5000, disk_gib: 1, ..NewGuest::default() }).unwrap();
    lab.control().stick_volumes(&["local-lvm:vm-5000-disk-0"]).unwrap();
    let _ = lab.tool("qm").args(["destroy", "5000"]).output().unwrap();
    assert_eq!(codes(&lab), [""; 0]);
}
