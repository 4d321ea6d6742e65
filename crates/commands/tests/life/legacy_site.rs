//! A host of the older package: VMs in the shared terraform folder, records without identity
//! (`facts/contract/legacy.md`).

use crate::support::{Ended, add_settings, edit, read, write};
use lab::Lab;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub const DATABASE: &str = "var/vm-db.json";
pub const SHARED_STATE: &str = "var/terraform/terraform.tfstate";

/// Its node, its settings, its provider block; no VMs yet.
pub fn legacy_site() -> Lab {
    let lab = Lab::builder().node(|node| node.token_may_all = true).start().unwrap();
    edit(&lab.path("etc/blockhost/db.yaml"), "var/vms.json", DATABASE);
    std::fs::rename(lab.path("var/vms.json"), lab.path(DATABASE)).unwrap();
    let key = lab.path("etc/blockhost/terraform_ssh_key");
    write(
        &key,
        "-----BEGIN OPENSSH PRIVATE KEY-----\nnot used by the stand-in\n-----END OPENSSH PRIVATE KEY-----\n",
    );
    let path = lab.path("var/terraform/provider.tf.json");
    let mut provider: Value = serde_json::from_str(&read(&path)).unwrap();
    provider["provider"]["proxmox"]["ssh"] = json!({"agent": false, "username": "root", "private_key": format!("${{file(\"{}\")}}", key.display())});
    write(&path, &format!("{provider:#}\n"));
    add_settings(&lab, "somebody_elses: yes");
    lab
}

/// Makes a VM as the older package did; its VMID is terraform's choice. `recorded` is what the record says.
pub fn add(lab: &Lab, name: &str, ip: &str, recorded: Option<u32>) -> u32 {
    let folder = lab.path("var/terraform");
    let label = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
    let config = folder.join(format!("{name}-cloud-config.yaml"));
    write(&config, &format!("#cloud-config\nhostname: {name}\nusers:\n  - name: admin\n"));
    let file = json!({"resource": {
        "proxmox_virtual_environment_vm": {label.clone(): {
            "name": name, "node_name": "pve", "clone": {"vm_id": 9001}, "cpu": {"cores": 1},
            "memory": {"dedicated": 2048}, "disk": {"datastore_id": "local-lvm", "size": 20, "interface": "scsi0"},
            "agent": {"enabled": true},
            "initialization": {"datastore_id": "local-lvm",
                "ip_config": {"ipv4": {"address": format!("{ip}/24"), "gateway": "192.168.122.1"}},
                "user_account": {"username": "admin", "keys": []},
                "user_data_file_id": format!("${{proxmox_virtual_environment_file.cloud_config_{label}.id}}")}}},
        "proxmox_virtual_environment_file": {format!("cloud_config_{label}"): {
            "content_type": "snippets", "datastore_id": "local", "node_name": "pve",
            "source_file": {"path": config.display().to_string(), "file_name": format!("{name}-cloud-config.yaml")}}}}});
    write(&folder.join(format!("{name}.tf.json")), &format!("{file:#}\n"));
    let mut command = lab.tool("terraform");
    // The provider keeps the last VMID it took in the temporary folder: other tests have theirs there.
    command.env("TMPDIR", lab.path("home"));
    command.current_dir(&folder).args(["apply", "-input=false", "-auto-approve", "-no-color"]);
    command.args(addresses(&label).map(|address| format!("-target={address}")));
    let said = crate::support::run(command);
    said.ok();
    let vmid = state_of(lab, &label)
        .iter()
        .find_map(|resource| resource.pointer("/instances/0/attributes/vm_id").and_then(Value::as_u64));
    let vmid = u32::try_from(vmid.unwrap()).unwrap();
    let mut all = records(lab);
    all["vms"][name] = json!({"vm_name": name, "vmid": recorded.unwrap_or(vmid), "ip_address": ip, "ipv6_address": null,
        "expires_at": "2999-01-01T00:00:00.000000+00:00", "owner": "admin", "status": "active",
        "created_at": "2025-01-01T00:00:00.000000+00:00", "purpose": "", "wallet_address": "0xabc"});
    all["allocated_ips"].as_array_mut().unwrap().push(ip.into());
    write(&lab.path(DATABASE), &format!("{all:#}\n"));
    vmid
}

pub fn addresses(label: &str) -> [String; 2] {
    [
        format!("proxmox_virtual_environment_vm.{label}"),
        format!("proxmox_virtual_environment_file.cloud_config_{label}"),
    ]
}

/// What the shared state holds of a VM.
pub fn state_of(lab: &Lab, label: &str) -> Vec<Value> {
    let state: Value = serde_json::from_str(&read(&lab.path(SHARED_STATE))).unwrap();
    let resources = state["resources"].as_array().unwrap().iter();
    let named = |name: &str| name == label || name == format!("cloud_config_{label}");
    resources.filter(|resource| named(resource["name"].as_str().unwrap())).cloned().collect()
}

pub fn records(lab: &Lab) -> Value {
    serde_json::from_str(&read(&lab.path(DATABASE))).unwrap()
}

pub fn legacy_record(lab: &Lab, name: &str) -> Value {
    records(lab)["vms"][name].clone()
}

/// Everything that a dry run must leave as it is: the node, and every file of ours but locks and the audit trail.
pub fn everything(lab: &Lab) -> (lab::model::Snapshot, BTreeMap<String, String>) {
    let mut files = BTreeMap::new();
    collect(&lab.path("var"), &mut files);
    collect(&lab.path("node/var/lib"), &mut files);
    (lab.control().snapshot().unwrap(), files)
}

/// Everything is as it was; what is not is named.
#[track_caller]
pub fn unchanged(lab: &Lab, before: &(lab::model::Snapshot, BTreeMap<String, String>)) {
    let now = everything(lab);
    for (path, text) in before.1.iter().chain(&now.1) {
        assert!(before.1.get(path) == now.1.get(path), "{path} was changed; here it is:\n{text}");
    }
    assert_eq!(now.0, before.0);
}

fn collect(folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let left_out = [".terraform", "audit"].contains(&name.as_str()) || name.ends_with(".lock");
        if left_out || name.ends_with(".sock") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            // Made by the first command that locks a VM.
            if name != "journal" {
                files.insert(path.display().to_string(), "a directory".into());
            }
            collect(&path, files);
        } else if entry.file_type().unwrap().is_symlink() {
            files.insert(path.display().to_string(), "a link".into());
        } else {
            let bytes = std::fs::read(&path).unwrap();
            files.insert(path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// `blockhost-provisioner-import` with these arguments.
pub fn import(lab: &Lab, arguments: &[&str]) -> Ended {
    import_with(lab, "", arguments)
}

/// The same with rules for the failpoints.
pub fn import_with(lab: &Lab, rules: &str, arguments: &[&str]) -> Ended {
    crate::support::run(import_command(lab, arguments).env("BLOCKHOST_FAULT", rules))
}

pub fn import_command(lab: &Lab, arguments: &[&str]) -> std::process::Command {
    let mut command = lab.command("blockhost-provisioner-import");
    command.args(arguments).stdin(std::process::Stdio::null());
    command
}

/// The rows of `--format json`, by name.
#[track_caller]
pub fn rows(ended: &Ended) -> BTreeMap<String, Value> {
    let all: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../facts/schema/provisioner-import.json");
    let schema: Value = serde_json::from_str(&read(&path)).unwrap();
    let wrong = test_support::schema::violations(&schema, &all);
    assert!(wrong.is_empty(), "not as documented: {wrong:#?}");
    let vms = all["vms"].as_array().unwrap().iter();
    vms.map(|row| (row["name"].as_str().unwrap().to_string(), row.clone())).collect()
}
