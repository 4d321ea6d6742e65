//! The contents of the terraform directories: VMIDs and addresses of every VM that has a file or a state there, whether
//! the database knows it or not (hazard H55).
//!
//! An engine that writes the database without its lock can drop a record, but it cannot drop these files. So they are
//! read before anything is allocated. An unreadable file is skipped with a warning: the record, the journal and the
//! node still hold what is the VM's.

use crate::host::read_file::text_for_people;
use crate::store::settings::Settings;
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use serde_json::Value;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const RESOURCE: &str = "proxmox_virtual_environment_vm";

/// What one file says about a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// The VM's name according to its file or its resource.
    pub name: String,
    /// Its VMID.
    pub vmid: Option<Vmid>,
    /// Its SMBIOS UUID; files of the older package have none.
    pub uuid: Option<Uuid>,
    /// Its IPv4 and IPv6 addresses.
    pub addresses: Vec<IpAddr>,
}

/// The contents of the directories, read once; [`TerraformFiles::read_new`] reads what has been added since.
#[derive(Debug, Clone, Default)]
pub struct TerraformFiles {
    read: HashSet<PathBuf>,
    /// What was found.
    pub found: Vec<Described>,
}

impl TerraformFiles {
    /// Reads what has been added since the last call; the first call reads everything. The shared state is read once.
    pub fn read_new(&mut self, settings: &Settings) {
        let shared = &settings.terraform_dir;
        for name in vm_folders(settings) {
            let folder = shared.join("vms").join(name.as_str());
            self.read_one(&folder, |found| found.extend(TerraformFiles::of_vm(settings, &name)));
        }
        for path in listing(shared) {
            let file = path.file_name().and_then(|f| f.to_str()).unwrap_or_default();
            if let Some(name) =
                file.strip_suffix(".tf.json").filter(|n| !["provider", "variables"].contains(n))
            {
                self.read_one(&path, |found| found.extend(in_file(&path, name)));
            }
        }
        let state = shared.join("terraform.tfstate");
        if state.exists() {
            self.read_one(&state, |found| found.extend(in_state(&state)));
        }
    }

    /// Returns what the directory of one VM says: its file, or its state if the file is missing.
    pub fn of_vm(settings: &Settings, name: &VmName) -> Vec<Described> {
        let folder = settings.terraform_dir.join("vms").join(name.as_str());
        let file = folder.join(format!("{name}.tf.json"));
        let state = folder.join("terraform.tfstate");
        match file.exists() {
            true => in_file(&file, name.as_str()),
            false if state.exists() => in_state(&state),
            false => Vec::new(),
        }
    }

    fn read_one(&mut self, path: &Path, read: impl FnOnce(&mut Vec<Described>)) {
        if self.read.insert(path.to_path_buf()) {
            read(&mut self.found);
        }
    }
}

/// Returns the VMs that have their own directory.
pub fn vm_folders(settings: &Settings) -> Vec<VmName> {
    let folders = listing(&settings.terraform_dir.join("vms")).into_iter();
    let mut names: Vec<VmName> = folders
        .filter_map(|path| VmName::parse(path.file_name().and_then(|n| n.to_str()).unwrap_or_default()).ok())
        .collect();
    names.sort();
    names
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn in_file(path: &Path, name: &str) -> Vec<Described> {
    let Some(file) = json(path) else { return Vec::new() };
    let vms = file.pointer("/resource").and_then(|r| r.get(RESOURCE)).and_then(Value::as_object);
    let vms = vms.into_iter().flat_map(|vms| vms.values());
    vms.map(|vm| Described { name: name.to_string(), ..described(vm) }).collect()
}

fn in_state(path: &Path) -> Vec<Described> {
    let Some(state) = json(path) else { return Vec::new() };
    let resources = state.get("resources").and_then(Value::as_array).cloned().unwrap_or_default();
    let vms = resources.iter().filter(|r| r.get("type").and_then(Value::as_str) == Some(RESOURCE));
    let instances = vms.filter_map(|vm| vm.get("instances")?.as_array()).flatten();
    instances.filter_map(|instance| instance.get("attributes")).map(described).collect()
}

fn json(path: &Path) -> Option<Value> {
    let read = text_for_people(path).and_then(|text| Ok(serde_json::from_str(&text)?));
    read.map_err(|error| tracing::warn!("{}: cannot read what it holds: {error:#}", path.display())).ok()
}

/// Reads a resource in a file, or its attributes in a state, where blocks are lists.
fn described(vm: &Value) -> Described {
    let vmid = vm.get("vm_id").and_then(Value::as_u64).and_then(|n| Vmid::new(n).ok());
    let smbios = vm.get("smbios").map(|block| block.get(0).unwrap_or(block));
    let uuid = smbios.and_then(|block| block.get("uuid")).and_then(Value::as_str);
    let mut addresses = Vec::new();
    collect_addresses(vm.get("initialization").unwrap_or(&Value::Null), &mut addresses);
    Described {
        name: vm.get("name").and_then(Value::as_str).unwrap_or_default().to_string(),
        vmid,
        uuid: uuid.and_then(|text| Uuid::parse_str(text).ok()),
        addresses,
    }
}

/// Collects every `"address": "10.0.0.5/24"`, however deep: versions and packages nest their blocks differently.
fn collect_addresses(value: &Value, found: &mut Vec<IpAddr>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_addresses(item, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "address" => {
                        found.extend(text.split('/').next().and_then(|a| a.parse::<IpAddr>().ok()));
                    }
                    _ => collect_addresses(value, found),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h55_files_and_states_of_both_packages_are_read() {
        let file = serde_json::json!({ "vm_id": 100, "name": "a", "clone": { "vm_id": 9001 },
            "smbios": { "uuid": "5f0a1e9e-4a0b-4f43-9d3d-111111111111" },
            "initialization": { "dns": { "servers": ["10.0.0.1"] },
                "ip_config": [{ "ipv4": { "address": "10.0.0.2/24", "gateway": "10.0.0.1" }, "ipv6": { "address": "fd00::2/120" } }] } });
        let found = described(&file);
        assert_eq!(found.vmid.map(Vmid::get), Some(100));
        let texts: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.2", "fd00::2"], "neither gateway nor name server");
        let state = serde_json::json!({ "vm_id": 101, "name": "b", "smbios": [],
            "initialization": [{ "ip_config": [{ "ipv4": [{ "address": "dhcp", "gateway": "" }], "ipv6": [] },
                { "ipv4": [{ "address": "10.0.0.3/24" }] }] }] });
        let found = described(&state);
        assert_eq!((found.name.as_str(), found.uuid), ("b", None));
        assert_eq!(found.addresses, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(described(&Value::Null), Described::default());
    }
}
