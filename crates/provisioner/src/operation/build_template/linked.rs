//! VMs that hang on a template's disk: it must not go while there is one.
//!
//! Most storages name the base in the volume of a linked clone. LVM-thin does not (there it would outlive its base, but
//! a template that VMs were linked to is kept all the same): then the terraform file of the VM tells.

use crate::host::Host;
use crate::tool::guest_config::GuestConfig;
use crate::tool::proxmox_tools::ProxmoxTools;
use crate::value::vmid::Vmid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The linked clones of a template, for people; empty where there is none.
pub fn linked_clones(
    tools: &ProxmoxTools,
    vmid: Vmid,
    template: &GuestConfig,
    terraform_dir: &Path,
) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    let bases: Vec<&str> = template.volumes();
    let storages: BTreeSet<&str> = bases.iter().filter_map(|v| v.split_once(':')).map(|(s, _)| s).collect();
    for storage in storages {
        for volume in tools.volumes(storage, None)? {
            if bases.iter().any(|base| is_linked(&volume.volid, base)) {
                let owner = volume.vmid.map_or_else(|| "a VM".to_owned(), |vmid| format!("VM {vmid}"));
                found.insert(format!("{owner} ({})", volume.volid));
            }
        }
    }
    for file in terraform_files(terraform_dir) {
        // One that cannot be read is its VM's matter, not ours.
        let Ok(text) = crate::host::read_file::text(&file) else { continue };
        for clone in linked_in_terraform(&text, vmid) {
            if Vmid::new(clone).ok().map(|clone| tools.config(clone)).transpose()?.flatten().is_some() {
                found.insert(format!("VM {clone} ({})", file.display()));
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// `local-zfs:base-9001-disk-0/vm-100-disk-0`, `local:9001/base-9001-disk-0.qcow2/100/vm-100-disk-0.qcow2`.
fn is_linked(volume: &str, base: &str) -> bool {
    volume.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
}

fn terraform_files(folder: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut files = list(folder);
    for own in list(&folder.join("vms")) {
        files.extend(list(&own));
    }
    let is_file = |path: &PathBuf| path.symlink_metadata().is_ok_and(|data| data.is_file());
    files.retain(|path| path.to_string_lossy().ends_with(".tf.json") && is_file(path));
    files
}

/// VMIDs of the VMs in a terraform file that are linked to the template.
fn linked_in_terraform(text: &str, template: Vmid) -> Vec<u64> {
    let Ok(file) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let block = |value: &Value| match value {
        Value::Array(list) => list.first().cloned().unwrap_or_default(),
        other => other.clone(),
    };
    let number = |value: &Value| value.to_string().trim_matches('"').parse::<u64>().ok();
    let vms = file["resource"]["proxmox_virtual_environment_vm"].as_object();
    let vms = vms.into_iter().flat_map(|vms| vms.values()).map(block);
    vms.filter(|vm| {
        let clone = block(&vm["clone"]);
        clone["full"] == Value::Bool(false) && number(&clone["vm_id"]) == Some(template.get().into())
    })
    .filter_map(|vm| number(&vm["vm_id"]))
    .collect()
}

/// Terraform's folder, where db.yaml can be read, else where it is by default.
pub fn terraform_dir(host: &Host) -> anyhow::Result<PathBuf> {
    if !host.config_file("db.yaml").exists() {
        return Ok(host.state_dir.join("terraform"));
    }
    crate::store::settings::Settings::read(host).map(|settings| settings.terraform_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linked_volume_names_its_base() {
        let base = "local-zfs:base-9001-disk-0";
        assert!(is_linked("local-zfs:base-9001-disk-0/vm-100-disk-0", base));
        for other in
            ["local-zfs:base-9001-disk-0", "local-zfs:base-9001-disk-01/vm-1-disk-0", "a:vm-100-disk-0"]
        {
            assert!(!is_linked(other, base), "{other}");
        }
        assert!(is_linked(
            "local:9001/base-9001-disk-0.qcow2/100/vm-100-disk-0.qcow2",
            "local:9001/base-9001-disk-0.qcow2"
        ));
    }

    #[test]
    fn terraform_files_tell_of_linked_clones() {
        let template = Vmid::new(9001).unwrap();
        let file = |clone: &str| {
            format!(
                r#"{{"resource":{{"proxmox_virtual_environment_vm":{{"a":{{"vm_id":100,"clone":{clone}}}}}}}}}"#
            )
        };
        assert_eq!(linked_in_terraform(&file(r#"{"vm_id":9001,"full":false}"#), template), [100]);
        assert_eq!(linked_in_terraform(&file(r#"[{"vm_id":"9001","full":false}]"#), template), [100]);
        for other in
            [r#"{"vm_id":9001,"full":true}"#, r#"{"vm_id":9001}"#, r#"{"vm_id":9002,"full":false}"#, "1"]
        {
            assert!(linked_in_terraform(&file(other), template).is_empty(), "{other}");
        }
        assert!(linked_in_terraform("{", template).is_empty());
    }
}
