//! The state that all VMs of the older package share, taken apart: what it says about each, and one VM moved out of it
//! as `terraform state mv` would, by text alone (`facts/contract/legacy.md`; hazards H52, H58).
//!
//! Pure: whoever calls reads and writes the files. What is not understood is refused, never guessed: a state of another
//! version or an encrypted one, a resource with several instances.

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The type of a VM's resource.
pub const VM: &str = "proxmox_virtual_environment_vm";
/// The type of its cloud-init file's.
pub const FILE: &str = "proxmox_virtual_environment_file";

/// Why a state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateProblem {
    /// A killed terraform's (H52).
    #[error("it was truncated by a killed terraform")]
    Torn,
    /// OpenTofu's encryption.
    #[error("it is encrypted")]
    Encrypted,
    /// Another version than the one that is known.
    #[error("it has version {0}, and only version 4 is known")]
    Version(String),
    /// Anything else that terraform would not write.
    #[error("it is not a Terraform state: {0}")]
    Form(&'static str),
}

/// What the state says about one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateVm {
    /// The label of its resource.
    pub label: String,
    /// Its name; empty where the state does not say.
    pub name: String,
    /// Its VMID.
    pub vmid: Option<u32>,
    /// Its node.
    pub node: Option<String>,
    /// Why it cannot be moved.
    pub refusal: Option<&'static str>,
}

/// A state of version 4.
#[derive(Debug, Clone)]
pub struct SharedState {
    root: Map<String, Value>,
}

impl SharedState {
    /// Reads a state's text.
    pub fn parse(text: &str) -> Result<SharedState, StateProblem> {
        let Ok(Value::Object(root)) = serde_json::from_str::<Value>(text) else {
            return Err(StateProblem::Torn);
        };
        if root.contains_key("encrypted_data") || root.contains_key("encryption_version") {
            return Err(StateProblem::Encrypted);
        }
        match root.get("version") {
            Some(version) if version.as_u64() == Some(4) => {}
            Some(other) => return Err(StateProblem::Version(other.to_string())),
            None => return Err(StateProblem::Form("it has no version")),
        }
        if !root.get("resources").is_none_or(Value::is_array) {
            return Err(StateProblem::Form("its resources are no list"));
        }
        Ok(SharedState { root })
    }

    /// A state without anything.
    pub fn empty() -> SharedState {
        SharedState { root: Map::new() }
    }

    fn resources(&self) -> impl Iterator<Item = &Value> {
        self.root.get("resources").and_then(Value::as_array).into_iter().flatten()
    }

    /// All VMs, and nothing else that may be in it.
    pub fn vms(&self) -> Vec<StateVm> {
        self.resources().filter(|resource| is_managed(resource, VM)).map(state_vm).collect()
    }

    /// Whether it has a resource of this type and label.
    pub fn has(&self, kind: &str, label: &str) -> bool {
        self.resources().any(|resource| is_at(resource, kind, label))
    }

    /// Without the VM's two resources (`None` where it has neither), with the next serial.
    pub fn without(&self, label: &str) -> Option<String> {
        let file = format!("cloud_config_{label}");
        let goes = |resource: &Value| is_at(resource, VM, label) || is_at(resource, FILE, &file);
        if !self.resources().any(goes) {
            return None;
        }
        let mut rest = self.root.clone();
        if let Some(Value::Array(resources)) = rest.get_mut("resources") {
            resources.retain(|resource| !goes(resource));
        }
        let serial = rest.get("serial").and_then(Value::as_u64).unwrap_or(0);
        rest.insert("serial".into(), (serial + 1).into());
        Some(pretty(&Value::Object(rest)))
    }

    /// The VM's own state: its resource as it is here, under the label of its own file, else what `terraform import` would
    /// begin with.
    pub fn own(&self, label: Option<&str>, vm: &OwnVm<'_>, lineage: Uuid) -> String {
        let here = label.and_then(|label| self.resources().find(|resource| is_at(resource, VM, label)));
        let mut resource = here.cloned().unwrap_or_else(|| imported(vm));
        resource["name"] = vm.label.into();
        if let Some(instance) = resource.pointer_mut("/instances/0").and_then(Value::as_object_mut) {
            // What it depended on stays behind; one that was to be replaced must never be (H45).
            instance.remove("dependencies");
            instance.remove("status");
        }
        let version = self.root.get("terraform_version").cloned().unwrap_or_else(|| "1.11.0".into());
        pretty(&json!({
            "version": 4, "terraform_version": version, "serial": 1, "lineage": lineage.to_string(),
            "outputs": {}, "resources": [resource], "check_results": null
        }))
    }
}

/// A VM in its new form, as far as terraform's files need it.
#[derive(Debug, Clone, Copy)]
pub struct OwnVm<'a> {
    /// Its name.
    pub name: &'a str,
    /// The label of its resource from now on.
    pub label: &'a str,
    /// Its VMID.
    pub vmid: u32,
    /// Its node.
    pub node: &'a str,
    /// What it is known by.
    pub uuid: Uuid,
    /// Its description.
    pub description: &'a str,
    /// The volume of its user-data, where it has one.
    pub user_data: Option<&'a str>,
    /// Its address with the length of its prefix, where nothing else says it.
    pub address: Option<&'a str>,
}

/// The VM's own terraform file, from that of the older package, or from what is known without it.
pub fn own_file(older: Option<&Value>, vm: &OwnVm<'_>) -> String {
    let resource = older.and_then(|file| file.pointer("/resource")?.get(VM)?.as_object()?.values().next());
    let mut resource = resource.and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in [
        ("name", json!(vm.name)),
        ("vm_id", json!(vm.vmid)),
        ("node_name", json!(vm.node)),
        ("description", json!(vm.description)),
        ("smbios", json!({ "uuid": vm.uuid.to_string() })),
        // Neither drift nor an edited file nor an upgraded provider may ever replace a customer's VM (H45).
        ("lifecycle", json!({ "ignore_changes": "all" })),
    ] {
        resource.insert(key.into(), value);
    }
    let initialization = resource.entry("initialization").or_insert_with(|| {
        let address = vm.address.map(|address| json!({ "ipv4": { "address": address } }));
        address.map_or_else(|| json!({}), |address| json!({ "ip_config": [address] }))
    });
    // A block may also stand as a list of one.
    let block = match initialization {
        Value::Array(list) => list.first_mut(),
        other => Some(other),
    };
    if let Some(Value::Object(block)) = block {
        // The resource that it named is in this directory no more: a literal (H45).
        block.remove("user_data_file_id");
        if let Some(volume) = vm.user_data {
            block.insert("user_data_file_id".into(), volume.into());
        }
    }
    if resource.get("initialization") == Some(&json!({})) {
        resource.remove("initialization");
    }
    pretty(&json!({ "resource": { VM: { vm.label: resource } } }))
}

/// Whether a file of the older package describes one VM and its cloud-init file, and nothing else that would be lost with
/// it: the label of the VM's resource, or why not.
pub fn label_of_file(file: &Value) -> Result<String, &'static str> {
    let root = file.as_object().ok_or("it is no object")?;
    if root.keys().any(|key| key != "resource" && key != "//") {
        return Err("it has more than resources");
    }
    let resources = root.get("resource").and_then(Value::as_object).ok_or("it has no resource")?;
    if resources.keys().any(|kind| kind != VM && kind != FILE) {
        return Err("it has resources of other types");
    }
    let labels = |kind: &str| -> Vec<&String> {
        resources.get(kind).and_then(Value::as_object).into_iter().flat_map(Map::keys).collect()
    };
    let [label] = labels(VM)[..] else { return Err("it does not describe exactly one VM") };
    match labels(FILE)[..] {
        [] => Ok(label.clone()),
        [file] if *file == format!("cloud_config_{label}") => Ok(label.clone()),
        _ => Err("it has a file of another VM"),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// One of the root module that terraform itself made: neither a data source nor a module's.
fn is_managed(resource: &Value, kind: &str) -> bool {
    text(resource, "type") == kind
        && resource.get("module").is_none()
        && matches!(text(resource, "mode"), "managed" | "")
}

fn is_at(resource: &Value, kind: &str, label: &str) -> bool {
    is_managed(resource, kind) && text(resource, "name") == label
}

fn state_vm(resource: &Value) -> StateVm {
    let instances = resource.get("instances").and_then(Value::as_array);
    let refusal = match instances.map(Vec::as_slice) {
        Some([one]) if one.get("deposed").is_some() => Some("its resource is being replaced"),
        Some([one]) if one.get("index_key").is_some() => Some("its resource was made by count or for_each"),
        Some([_]) => None,
        _ => Some("its resource does not have exactly one instance"),
    };
    let attributes = resource.pointer("/instances/0/attributes").unwrap_or(&Value::Null);
    let vmid = attributes.get("vm_id").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let node = attributes.get("node_name").and_then(Value::as_str).map(str::to_string);
    let name = text(attributes, "name").to_string();
    StateVm { label: text(resource, "name").to_string(), name, vmid, node, refusal }
}

/// Where `terraform import` begins; the next refresh fills in the rest.
fn imported(vm: &OwnVm<'_>) -> Value {
    json!({
        "mode": "managed", "type": VM, "name": vm.label,
        "provider": "provider[\"registry.terraform.io/bpg/proxmox\"]",
        "instances": [{ "schema_version": 0, "attributes": {
            "id": vm.vmid.to_string(), "node_name": vm.node, "vm_id": vm.vmid, "name": vm.name
        } }]
    })
}

fn pretty(value: &Value) -> String {
    // A value that was parsed, or made here: nothing in it cannot be written.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests;
