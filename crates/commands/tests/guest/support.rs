//! Commands with their words, and VMs of ours that stand on a node without a terraform having made them.

use lab::Lab;
use lab::model::{NewGuest, Snapshot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
pub use test_support::{Ended, Running, SOON, WALLET, read, run, until, write};

/// A command of the lab with its arguments.
pub fn command(lab: &Lab, program: &str, arguments: &[&str]) -> Command {
    let mut command = lab.command(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `blockhost-vm-VERB ARGUMENTS`, to its end.
pub fn vm(lab: &Lab, verb: &str, arguments: &[&str]) -> Ended {
    vm_with(lab, "", verb, arguments)
}

/// With rules for the debug build's failpoints.
pub fn vm_with(lab: &Lab, rules: &str, verb: &str, arguments: &[&str]) -> Ended {
    let mut command = command(lab, &format!("blockhost-vm-{verb}"), arguments);
    run(command.env("BLOCKHOST_FAULT", rules))
}

/// A command in the guest of `web-1`.
pub fn exec(lab: &Lab, arguments: &[&str]) -> Ended {
    vm(lab, "guest-exec", &[&["web-1"], arguments].concat())
}

/// In the background.
pub fn begin(lab: &Lab, rules: &str, program: &str, arguments: &[&str]) -> Running {
    let mut command = command(lab, program, arguments);
    test_support::start(command.env("BLOCKHOST_FAULT", rules))
}

/// A node on which nothing takes time, with one running VM of ours, `web-1` (VMID 100), whose user is `admin`.
pub fn site() -> Lab {
    let lab = Lab::builder().no_terraform().start().unwrap();
    place(&lab, 100, "web-1");
    lab
}

/// One running VM of ours with two vCPUs and a disk, that the API token may see.
pub fn visible() -> Lab {
    let lab = site();
    lab.control().remove_guest(100).unwrap();
    let net = "virtio=BC:24:11:00:00:64,bridge=vmbr0";
    let uuid = format!("uuid={}", uuid(100));
    let config = [("agent", "enabled=1"), ("smbios1", &uuid), ("cores", "2"), ("net0", net)];
    let config = config.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect();
    let pool = Some("blockhost".to_string());
    let name = "web-1".to_string();
    let guest =
        NewGuest { vmid: 100, name, running: true, config, disk_gib: 10, pool, ..NewGuest::default() };
    lab.control().add_guest(guest).unwrap();
    lab
}

/// The SMBIOS UUID of a placed VM.
pub fn uuid(vmid: u32) -> String {
    format!("{vmid:08x}-0000-4000-8000-00000000b10c")
}

/// The IPv6 address of a placed VM.
pub fn ipv6(vmid: u32) -> String {
    format!("2a11:6c7:f04:276::{:x}", vmid - 98)
}

/// A VM of ours that runs, as create leaves it: machine, record, user.
pub fn place(lab: &Lab, vmid: u32, name: &str) {
    stand_in(lab, vmid, name, &uuid(vmid));
    edit_database(lab, |all| {
        all["vms"][name] = json!({
            "vm_name": name, "vmid": vmid, "ip_address": format!("192.168.122.{}", 100 + vmid % 100),
            "ipv6_address": ipv6(vmid), "expires_at": "2126-11-23T01:09:55.123456+00:00", "owner": "admin",
            "status": "active", "created_at": "2026-11-23T01:09:55.123456+00:00", "purpose": "",
            "wallet_address": WALLET, "owner_wallet": WALLET, "username": "admin", "network_mode": "broker",
            "smbios_uuid": uuid(vmid)
        });
    });
    let passwd = lab.path(format!("guests/{vmid}/etc/passwd"));
    add_user(&passwd, "admin");
}

/// A running machine with this UUID, of whomever.
pub fn stand_in(lab: &Lab, vmid: u32, name: &str, uuid: &str) {
    let net = format!("virtio=BC:24:11:00:{:02X}:{:02X},bridge=vmbr0", vmid / 256, vmid % 256);
    let config =
        [("agent", "enabled=1"), ("net0", &net), ("onboot", "1"), ("smbios1", &format!("uuid={uuid}"))];
    let config: BTreeMap<String, String> =
        config.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect();
    let guest = NewGuest { vmid, name: name.into(), running: true, config, ..NewGuest::default() };
    lab.control().add_guest(guest).unwrap();
}

/// Another account in the guest.
pub fn add_user(passwd: &Path, name: &str) {
    until("the guest's passwd", || passwd.is_file());
    let old = read(passwd);
    let number = 1000 + old.lines().count();
    write(passwd, &format!("{old}{name}:x:{number}:{number}:Debian,,,:/home/{name}:/bin/bash\n"));
}

/// The line of a user in a guest's passwd.
pub fn passwd_line(lab: &Lab, vmid: u32, user: &str) -> String {
    let text = read(&lab.path(format!("guests/{vmid}/etc/passwd")));
    let line = text.lines().find(|line| line.split(':').next() == Some(user));
    line.unwrap_or_else(|| panic!("no {user} in {text}")).to_string()
}

/// Changes the database as another program would.
pub fn edit_database(lab: &Lab, change: impl FnOnce(&mut Value)) {
    let path = lab.path("var/vms.json");
    let mut all: Value = serde_json::from_str(&read(&path)).unwrap();
    change(&mut all);
    write(&path, &format!("{all:#}\n"));
}

/// Sets a field of a record.
pub fn set_field(lab: &Lab, name: &str, key: &str, value: Value) {
    edit_database(lab, |all| all["vms"][name][key] = value);
}

/// A program of all guests does this instead.
pub fn replace_guest_program(lab: &Lab, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = lab.path(format!("guest-bin/{name}"));
    // A new file: the old one may be running.
    std::fs::remove_file(&path).unwrap();
    write(&path, &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

pub fn snapshot(lab: &Lab) -> Snapshot {
    lab.control().snapshot().unwrap()
}

/// The commands that were started in guests so far.
pub fn commands_in_guests(lab: &Lab) -> usize {
    lab.control().calls(0).unwrap().iter().filter(|call| call.kind == "guest").count()
}

/// What was asked of the root agent after this call, looks left out.
pub fn asked(lab: &Lab, since: u64) -> Vec<String> {
    let calls = lab.control().calls(since).unwrap();
    let acts = calls.iter().filter(|call| call.kind == "agent" && call.what != "vm-state");
    acts.map(|call| call.what.clone()).collect()
}
