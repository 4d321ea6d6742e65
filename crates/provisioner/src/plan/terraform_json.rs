//! The terraform file of one VM, in a form that both provider versions accept, plan again without changes, and destroy
//! (`facts/provider.md`, section 7).

use crate::value::allocation::Allocation;
use crate::value::identity::description;
use crate::value::node_name::NodeName;
use crate::value::text::{BridgeName, PlainName, StorageId, Tag, UserName};
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// Returns a block of terraform's JSON syntax, which may be an object or a list of one.
pub fn block(value: &Value) -> Option<&Value> {
    value.as_array().map_or(Some(value), |list| list.first())
}

/// How a guest gets its first-boot configuration.
#[derive(Debug, Clone)]
pub enum FirstBoot<'a> {
    /// With our own user-data and meta-data, put into the snippets directory beforehand. Proxmox then ignores accounts,
    /// keys and host name of its own (H37), so none are given.
    Snippets(&'a StorageId),
    /// With Proxmox' own user-data, which has this account.
    Account {
        /// The user.
        username: &'a UserName,
        /// Public keys.
        keys: &'a [String],
        /// Storage of our meta-data, which fixes the instance-id whatever generates the user-data (H61).
        snippets: &'a StorageId,
    },
}

/// The search domain of a guest that should have none.
const NO_SEARCH_DOMAIN: &str = ".";
/// The search domain of a guest whose user-data Proxmox generates: Proxmox appends it to the host name, and `web-1..`
/// is not a name. Our own user-data, too, names such a guest `web-1.local` (`facts/contract/cloud-init.md`).
const LOCAL_DOMAIN: &str = "local";

/// Everything that goes into the file.
#[derive(Debug, Clone)]
pub struct VmPlan<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// Its identity.
    pub smbios_uuid: Uuid,
    /// VMID and addresses.
    pub allocation: Allocation,
    /// Node that it is created on.
    pub node: &'a NodeName,
    /// Template it is cloned from.
    pub template: Vmid,
    /// Whether the VM gets a full copy of the template's disk, or a linked clone.
    pub full_clone: bool,
    /// vCPUs.
    pub cores: u32,
    /// Memory in MB.
    pub memory_mb: u32,
    /// Disk in GB.
    pub disk_gb: u32,
    /// QEMU cpu type.
    pub cpu_type: &'a str,
    /// Storage of the disk.
    pub disk_datastore: &'a StorageId,
    /// Storage of the cloud-init drive.
    pub cloudinit_datastore: &'a StorageId,
    /// Bridge of its network card.
    pub bridge: &'a BridgeName,
    /// Proxmox pool.
    pub pool: Option<&'a PlainName>,
    /// Tags in addition to `blockhost`.
    pub tags: &'a [Tag],
    /// IPv4 prefix length and gateway.
    pub ipv4_network: (u8, Ipv4Addr),
    /// IPv6 prefix length and gateway; only if the VM has an IPv6 address.
    pub ipv6_network: Option<(u8, Ipv6Addr)>,
    /// Name servers.
    pub dns_servers: &'a [IpAddr],
    /// First-boot configuration.
    pub first_boot: FirstBoot<'a>,
}

/// Returns `blockhost` and the requested tags.
pub fn all_tags(wanted: &[Tag]) -> Vec<&str> {
    let others = wanted.iter().map(Tag::as_str).filter(|tag| *tag != "blockhost");
    std::iter::once("blockhost").chain(others).collect()
}

/// Returns the name of a snippet file: `blockhost-<name>-user.yaml`.
pub fn snippet_file(name: &VmName, kind: &str) -> String {
    format!("blockhost-{name}-{kind}.yaml")
}

/// Returns the terraform address of the VM's resource.
pub fn resource_address(label: &str) -> String {
    format!("proxmox_virtual_environment_vm.{label}")
}

/// Returns the text of the file, pretty-printed: diagnostics quote the source line, and a file of a single line would
/// be quoted in full.
pub fn render(plan: &VmPlan<'_>) -> String {
    let mut ipv4_and_6 = json!({
        "ipv4": { "address": format!("{}/{}", plan.allocation.ipv4, plan.ipv4_network.0), "gateway": plan.ipv4_network.1.to_string() }
    });
    if let (Some(address), Some((prefix, gateway))) = (plan.allocation.ipv6, plan.ipv6_network) {
        ipv4_and_6["ipv6"] =
            json!({ "address": format!("{address}/{prefix}"), "gateway": gateway.to_string() });
    }
    let mut initialization = json!({
        "datastore_id": plan.cloudinit_datastore.as_str(), "interface": "ide2", "ip_config": [ipv4_and_6]
    });
    // Proxmox takes any setting that is left out from the node, now and at each later start (H61). An empty search
    // domain cannot be expressed; `.` alone means none.
    let servers: Vec<String> = plan.dns_servers.iter().map(ToString::to_string).collect();
    let domain = match &plan.first_boot {
        FirstBoot::Snippets(_) => NO_SEARCH_DOMAIN,
        FirstBoot::Account { .. } => LOCAL_DOMAIN,
    };
    initialization["dns"] = json!({ "domain": domain, "servers": servers });
    let snippet =
        |storage: &StorageId, kind: &str| format!("{storage}:snippets/{}", snippet_file(plan.name, kind));
    match &plan.first_boot {
        FirstBoot::Snippets(storage) => {
            initialization["user_data_file_id"] = snippet(storage, "user").into();
            initialization["meta_data_file_id"] = snippet(storage, "meta").into();
        }
        FirstBoot::Account { username, keys, snippets } => {
            initialization["meta_data_file_id"] = snippet(snippets, "meta").into();
            initialization["user_account"] = json!({ "username": username.as_str(), "keys": keys });
        }
    }
    let mut clone = json!({ "vm_id": plan.template.get(), "full": plan.full_clone, "retries": 1 });
    if plan.full_clone {
        clone["datastore_id"] = plan.disk_datastore.as_str().into();
    }
    let mut tags = all_tags(plan.tags);
    tags.sort_unstable();
    tags.dedup();
    let mut vm = json!({
        "node_name": plan.node.as_str(), "vm_id": plan.allocation.vmid.get(), "name": plan.name.as_str(),
        "description": description(plan.name, plan.smbios_uuid), "tags": tags,
        "on_boot": true, "started": true,
        "stop_on_destroy": true, "purge_on_destroy": true, "delete_unreferenced_disks_on_destroy": true,
        "reboot_after_update": false,
        "timeout_clone": 900, "timeout_start_vm": 180, "timeout_stop_vm": 120, "timeout_shutdown_vm": 120,
        "clone": clone,
        // Create itself waits for the guest to be ready; this timeout is the time that a refresh of a hanging guest
        // costs.
        "agent": { "enabled": true, "timeout": "2s", "type": "virtio", "trim": false },
        "cpu": { "cores": plan.cores, "sockets": 1, "type": plan.cpu_type },
        "memory": { "dedicated": plan.memory_mb, "floating": plan.memory_mb },
        "disk": [{ "interface": "scsi0", "datastore_id": plan.disk_datastore.as_str(), "size": plan.disk_gb, "discard": "on", "ssd": true, "iothread": true }],
        // An attribute since provider 0.98.1: a list of objects that must have every key (`facts/provider.md`, section
        // 1).
        "network_device": [{ "bridge": plan.bridge.as_str(), "model": "virtio", "firewall": false, "mac_address": null, "disconnected": null,
            "enabled": null, "mtu": null, "queues": null, "rate_limit": null, "trunks": null, "vlan_id": null }],
        "operating_system": { "type": "l26" }, "serial_device": [{ "device": "socket" }],
        "scsi_hardware": "virtio-scsi-single", "smbios": { "uuid": plan.smbios_uuid.to_string() },
        "initialization": initialization,
        // Neither drift nor an edited file nor an upgraded provider may ever replace a customer's VM (H45).
        "lifecycle": { "ignore_changes": "all" }
    });
    if let Some(pool) = plan.pool {
        vm["pool_id"] = pool.as_str().into();
    }
    let mut file = json!({ "resource": { "proxmox_virtual_environment_vm": {} } });
    escape_templates(&mut vm);
    file["resource"]["proxmox_virtual_environment_vm"][plan.name.resource_label()] = vm;
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}

/// Terraform treats every string as a template: `${file("/etc/shadow")}` would be evaluated. Escaping keeps it plain
/// text (H26).
fn escape_templates(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("${") || text.contains("%{") => {
            *text = text.replace("${", "$${").replace("%{", "%%{");
        }
        Value::Array(list) => list.iter_mut().for_each(escape_templates),
        Value::Object(map) => map.values_mut().for_each(escape_templates),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(first_boot: FirstBoot<'_>) -> Value {
        let parse = |t: &str| StorageId::parse(t).unwrap();
        let (disk, snippets) = (parse("local-lvm"), parse("local"));
        let _ = &snippets;
        let plan = VmPlan {
            name: &VmName::parse("web-1").unwrap(),
            smbios_uuid: "3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f".parse().unwrap(),
            allocation: Allocation {
                vmid: Vmid::new(101).unwrap(),
                ipv4: "192.0.2.10".parse().unwrap(),
                ipv6: "2001:db8::10".parse().ok(),
            },
            node: &NodeName::parse("pve").unwrap(),
            template: Vmid::new(9001).unwrap(),
            full_clone: true,
            cores: 2,
            memory_mb: 2048,
            disk_gb: 20,
            cpu_type: "x86-64-v2-AES",
            disk_datastore: &disk,
            cloudinit_datastore: &disk,
            bridge: &BridgeName::parse("vmbr0").unwrap(),
            pool: Some(&PlainName::parse("blockhost").unwrap()),
            tags: &[Tag::parse("web").unwrap(), Tag::parse("blockhost").unwrap()],
            ipv4_network: (24, "192.0.2.1".parse().unwrap()),
            ipv6_network: Some((64, "2001:db8::1".parse().unwrap())),
            dns_servers: &["192.0.2.53".parse().unwrap()],
            first_boot,
        };
        serde_json::from_str(&render(&plan)).unwrap()
    }

    #[test]
    fn h01_h45_h46_the_file_names_the_vmid_forbids_replacement_and_adopts_nobody() {
        let storage = StorageId::parse("local").unwrap();
        let file = rendered(FirstBoot::Snippets(&storage));
        let vm = &file["resource"]["proxmox_virtual_environment_vm"]["web_1"];
        assert_eq!(vm["vm_id"], 101);
        assert_eq!(vm["clone"]["retries"], 1);
        assert_eq!(vm["lifecycle"]["ignore_changes"], "all");
        assert_eq!(vm["tags"], json!(["blockhost", "web"]));
        assert_eq!(vm["description"], "BlockHost VM web-1 3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f");
        let init = &vm["initialization"];
        assert_eq!(init["user_data_file_id"], "local:snippets/blockhost-web-1-user.yaml");
        assert_eq!(init["meta_data_file_id"], "local:snippets/blockhost-web-1-meta.yaml");
        assert_eq!(init["ip_config"][0]["ipv6"]["address"], "2001:db8::10/64");
        assert!(init.get("user_account").is_none());
        assert_eq!(vm["network_device"][0].as_object().unwrap().len(), 11);
    }

    #[test]
    fn h61_nothing_that_proxmox_would_fill_in_is_left_out() {
        let storage = StorageId::parse("local").unwrap();
        let user = UserName::parse("admin").unwrap();
        let account = FirstBoot::Account { username: &user, keys: &[], snippets: &storage };
        for (first_boot, domain) in [(FirstBoot::Snippets(&storage), "."), (account, "local")] {
            let file = rendered(first_boot);
            let init = &file["resource"]["proxmox_virtual_environment_vm"]["web_1"]["initialization"];
            assert_eq!(init["dns"], json!({ "domain": domain, "servers": ["192.0.2.53"] }));
            assert_eq!(init["meta_data_file_id"], "local:snippets/blockhost-web-1-meta.yaml");
        }
    }

    #[test]
    fn h26_interpolation_in_any_text_is_escaped() {
        let keys =
            ["ssh-rsa AAAA ${file(\"/etc/shadow\")} %{if true}x".to_string(), "$HOME $${x}".to_string()];
        let user = UserName::parse("admin").unwrap();
        let storage = StorageId::parse("local").unwrap();
        let file = rendered(FirstBoot::Account { username: &user, keys: &keys, snippets: &storage });
        let account =
            &file["resource"]["proxmox_virtual_environment_vm"]["web_1"]["initialization"]["user_account"];
        assert_eq!(account["keys"][0], "ssh-rsa AAAA $${file(\"/etc/shadow\")} %%{if true}x");
        assert_eq!(account["keys"][1], "$HOME $$${x}");
    }
}
