//! The real terraform with the stand-in provider against the node, in a lab as the product's tests have it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use std::time::{Duration, Instant};

use common::node;
use lab::Lab;
use lab::model::{FaultAction, Power};
use serde_json::{Value, json};

const UUID: &str = "3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f";

fn write_vm(lab: &Lab) {
    let vm = json!({
        "node_name": "pve", "vm_id": 101, "name": "web-1", "pool_id": "blockhost",
        "description": format!("BlockHost VM web-1 {UUID}"), "tags": ["blockhost"],
        "on_boot": true, "started": true, "stop_on_destroy": true, "reboot_after_update": false, "timeout_clone": 60,
        "clone": {"vm_id": 9001, "full": true, "retries": 1, "datastore_id": "local-lvm"},
        "agent": {"enabled": true, "timeout": "20s"},
        "cpu": {"cores": 2, "type": "x86-64-v2-AES"}, "memory": {"dedicated": 2048, "floating": 2048},
        "disk": [{"interface": "scsi0", "datastore_id": "local-lvm", "size": 20, "discard": "on", "ssd": true}],
        "operating_system": {"type": "l26"}, "smbios": {"uuid": UUID},
        "initialization": {"datastore_id": "local-lvm", "interface": "ide2",
            "ip_config": [{"ipv4": {"address": "192.168.122.200/24", "gateway": "192.168.122.1"}}]},
        "lifecycle": {"ignore_changes": "all"},
    });
    let file = json!({"resource": {"proxmox_virtual_environment_vm": {"web-1": vm}}});
    std::fs::write(lab.path("var/terraform/web-1.tf.json"), format!("{file:#}\n")).unwrap();
}

fn terraform(lab: &Lab, words: &[&str]) -> common::Said {
    let mut command = lab.tool("terraform");
    command.args(words).args(["-input=false", "-no-color"]).current_dir(lab.path("var/terraform"));
    command.output().unwrap().into()
}

fn life(version: &str) {
    let lab = Lab::builder().provider(version).no_root_agent().start().unwrap();
    let before = lab.control().snapshot().unwrap();
    write_vm(&lab);
    let apply = terraform(&lab, &["apply", "-auto-approve"]);
    assert_eq!(apply.code, 0, "{apply:?}");
    let guest = lab.control().snapshot().unwrap().guests[&101].clone();
    assert_eq!((guest.name.as_str(), guest.power, guest.uuid.as_str()), ("web-1", Power::Running, UUID));
    assert_eq!((guest.pool.as_deref(), guest.config["memory"].as_str()), (Some("blockhost"), "2048"));
    assert!(guest.config["scsi0"].contains("size=20G"), "{}", guest.config["scsi0"]);
    let plan = terraform(&lab, &["plan", "-detailed-exitcode"]);
    assert_eq!(plan.code, 0, "no changes: {plan:?}");
    let destroy = terraform(&lab, &["destroy", "-auto-approve"]);
    assert_eq!(destroy.code, 0, "{destroy:?}");
    assert_eq!(lab.control().snapshot().unwrap(), before);
}

#[test]
fn a_vm_lives_and_dies_with_0_93() {
    life("0.93.0");
}

#[test]
fn a_vm_lives_and_dies_with_0_111() {
    life("0.111.1");
}

#[test]
fn h05_a_terraform_killed_during_the_clone_leaves_a_bare_clone() {
    let lab = Lab::builder().no_root_agent().start().unwrap();
    write_vm(&lab);
    lab.control().fault("provider.create.clone.after", FaultAction::Kill, 1).unwrap();
    let apply = terraform(&lab, &["apply", "-auto-approve"]);
    assert_eq!(apply.code, -1, "killed: {apply:?}");
    let deadline = Instant::now() + Duration::from_secs(5);
    while lab.control().snapshot().unwrap().guests.get(&101).is_none_or(|guest| guest.lock.is_some()) {
        assert!(Instant::now() < deadline);
    }
    let guest = lab.control().snapshot().unwrap().guests[&101].clone();
    assert_eq!((guest.description, guest.power), (format!("BlockHost VM web-1 {UUID}"), Power::Stopped));
    assert_ne!(guest.uuid, UUID, "the SMBIOS setting would have come later");
}

#[test]
fn a_lab_starts_quickly() {
    // The first one may have to run `terraform init`.
    drop(Lab::builder().start().unwrap());
    let best = (0..3)
        .map(|_| {
            let begun = Instant::now();
            let lab = Lab::builder().start().unwrap();
            let took = begun.elapsed();
            drop(lab);
            took
        })
        .min()
        .unwrap();
    println!("a lab starts in {best:?}");
    assert!(best < Duration::from_millis(600), "{best:?} on a busy machine; 150 ms on an idle one");
}

#[test]
fn the_lock_file_belongs_to_the_build() {
    let lab = Lab::builder().no_root_agent().start().unwrap();
    let lock = std::fs::read_to_string(lab.path("var/terraform/.terraform.lock.hcl")).unwrap();
    assert!(lock.contains("registry.terraform.io/bpg/proxmox") && lock.contains("h1:"), "{lock}");
    let mut validate = lab.tool("terraform");
    validate.args(["validate", "-json"]).current_dir(lab.path("var/terraform"));
    let providers = common::Said::from(validate.output().unwrap());
    let answer: Value = serde_json::from_str(&providers.out).unwrap_or_default();
    assert_eq!(answer["valid"], true, "{providers:?}");
    let without = node().start().unwrap();
    assert!(!without.path("var/terraform/.terraform.lock.hcl").exists());
}
