//! Keys of configuration files that nobody reads: which one was meant.

use super::Finding;
use super::kinds::*;
use crate::value::nearest::nearest;
use serde_json::{Map, Value};

/// The keys of db.yaml that mean something, parts of a mapping behind a dot. `crates/commands/tests/documents` compares them
/// with `doc/configuration.md`.
pub const KEYS: [&str; 38] = [
    "db_file",
    "terraform_dir",
    "bridge",
    "default_expiry_days",
    "vmid_range.start",
    "vmid_range.end",
    "vmid_pool.start",
    "vmid_pool.end",
    "ip_pool.network",
    "ip_pool.start",
    "ip_pool.end",
    "ip_pool.gateway",
    "ipv6_pool.start",
    "ipv6_pool.end",
    "fields.vm_name",
    "fields.vmid",
    "fields.ip_address",
    "fields.expires_at",
    "fields.owner",
    "fields.status",
    "fields.created_at",
    "cpu_type",
    "dns_servers",
    "guest_ready_timeout",
    "guest_shutdown_timeout",
    "max_parallel_creates",
    "probe_addresses",
    "clone_mode",
    "snippet_storage",
    "pve_pool",
    "template_vmid",
    "gc_grace_days",
    "gc_max_share",
    "gc_max_gap_days",
    "overcommit_memory",
    "storage_reserve_percent",
    "anti_spoofing",
    "guard_required",
];

/// The keys of terraform.tfvars that our commands read; the installer writes others for terraform.
pub const TFVARS: [&str; 6] = [
    "proxmox_node",
    "proxmox_storage",
    "disk_datastore",
    "cloudinit_datastore",
    "proxmox_bridge",
    "proxmox_api_token",
];

/// Keys of db.yaml (`root`, read from `path`) that look like one of ours and are none.
pub fn misspelt(path: &str, root: &Map<String, Value>) -> Vec<Finding> {
    let outer = || KEYS.iter().map(|key| key.split('.').next().unwrap_or(key));
    let mut found = Vec::new();
    for (key, value) in root {
        if !outer().any(|known| known == key) {
            // Keys that are like none of ours are other programs'. What is set already was not meant.
            let unset = outer().filter(|known| !root.contains_key(*known));
            found.extend(nearest(key, unset).map(|known| misspelling(path, key, known)));
            continue;
        }
        let parts: Vec<&str> =
            KEYS.iter().filter_map(|known| known.strip_prefix(key)?.strip_prefix('.')).collect();
        for part in value.as_object().into_iter().flatten().map(|(part, _)| part) {
            if !parts.contains(&part.as_str())
                && let Some(known) = nearest(part, parts.iter().copied())
            {
                found.push(misspelling(path, &format!("{key}.{part}"), &format!("{key}.{known}")));
            }
        }
    }
    found
}

/// The same of the keys of terraform.tfvars.
pub fn misspelt_in_tfvars<'a>(path: &str, keys: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let keys: Vec<&str> = keys.collect();
    let unknown = keys.iter().filter(|key| !TFVARS.contains(key));
    let unset = || TFVARS.into_iter().filter(|known| !keys.contains(known));
    unknown.filter_map(|key| Some(misspelling(path, key, nearest(key, unset())?))).collect()
}

fn misspelling(path: &str, key: &str, known: &str) -> Finding {
    let what = format!("nobody reads key {key}; did you mean {known}?");
    Finding::new(&CONFIGURATION_KEY_MISSPELT, path, what, format!("rename {key} to {known}, or remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_slip_is_told_from_somebody_elses_key() {
        let said = |root: Value| -> Vec<String> {
            misspelt("db.yaml", root.as_object().unwrap()).into_iter().map(|finding| finding.what).collect()
        };
        assert_eq!(said(json!({"bridge": "x", "ip_pool": {"start": 1}, "panel_port": 8443})), [""; 0]);
        let found = said(json!({"gc_grace_day": 3, "ip_pool": {"strat": 1}, "bridges": "x", "bridge": "y"}));
        assert_eq!(
            found,
            [
                "nobody reads key gc_grace_day; did you mean gc_grace_days?",
                "nobody reads key ip_pool.strat; did you mean ip_pool.start?"
            ]
        );
        let keys = ["proxmox_nod", "template_vmid", "proxmox_storage"];
        assert_eq!(misspelt_in_tfvars("x", keys.into_iter()).len(), 1);
    }
}
