//! VMs that depend on a template's disk: it must not be destroyed while there is one.
//!
//! On most storages the volume of a linked clone names its base. On LVM-thin it does not; there the clone would outlive
//! its base, but a template that VMs were linked to is kept all the same. In that case the VM's terraform file shows
//! it.

use crate::host::Host;
use crate::host::read_file::Beneath;
use crate::plan::terraform_json::block;
use crate::store::settings::Settings;
use crate::tool::guest_config::GuestConfig;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::vmid::Vmid;
use rustix::io::Errno;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Lists the linked clones of a template, for people; empty if it has none.
pub fn linked_clones(
    tools: &ProxmoxCli,
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
    for (file, text) in terraform_files(terraform_dir)? {
        for clone in linked_in_terraform(&text, vmid) {
            if Vmid::new(clone).ok().map(|clone| tools.config(clone)).transpose()?.flatten().is_some() {
                found.insert(format!("VM {clone} ({})", file.display()));
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Matches `local-zfs:base-9001-disk-0/vm-100-disk-0` and `local:9001/base-9001-disk-0.qcow2/100/vm-100-disk-0.qcow2`.
fn is_linked(volume: &str, base: &str) -> bool {
    volume.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
}

/// Reads the terraform files in the directory and in those of the VMs. User blockhost controls these directories and
/// root reads them here, so links that lead outside are not followed (hazard H56). A file that cannot be read is left
/// out, as it concerns only its own VM; a directory that cannot be listed is an error, as it may hide a linked clone.
fn terraform_files(folder: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let told = |path: &Path, error: std::io::Error| {
        let text = match Errno::from_io_error(&error) {
            Some(Errno::XDEV) => "it leads outside Terraform's directory".to_owned(),
            _ => error.to_string(),
        };
        anyhow::anyhow!(
            "cannot tell which VMs are linked clones of the template: {}: {text}; check what is there, then remove it \
             or put a real directory in its place",
            folder.join(path).display()
        )
    };
    let inside = match Beneath::open(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| told(Path::new(""), error))?,
    };
    let mut folders = vec![PathBuf::from(".")];
    match inside.names("vms") {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(told(Path::new("vms"), error)),
        Ok(names) => folders.extend(names.into_iter().map(|name| Path::new("vms").join(name))),
    }
    let mut found = Vec::new();
    for own in folders {
        let names = match inside.names(&own) {
            // Not a directory, or removed just now.
            Err(error) if matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound) => continue,
            other => other.map_err(|error| told(&own, error))?,
        };
        for name in names.iter().filter(|name| name.to_string_lossy().ends_with(".tf.json")) {
            let path = own.join(name);
            let shown = folder.join(path.strip_prefix(".").unwrap_or(&path));
            found.extend(inside.text(&path).ok().map(|text| (shown, text)));
        }
    }
    Ok(found)
}

/// Returns the VMIDs of the VMs in a terraform file that are linked clones of the template.
fn linked_in_terraform(text: &str, template: Vmid) -> Vec<u64> {
    let Ok(file) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let number = |value: &Value| value.to_string().trim_matches('"').parse::<u64>().ok();
    let vms = file["resource"]["proxmox_virtual_environment_vm"].as_object();
    let vms = vms.into_iter().flat_map(|vms| vms.values()).filter_map(block);
    vms.filter(|vm| {
        block(&vm["clone"]).is_some_and(|clone| {
            clone["full"] == Value::Bool(false) && number(&clone["vm_id"]) == Some(template.get().into())
        })
    })
    .filter_map(|vm| number(&vm["vm_id"]))
    .collect()
}

/// Returns the terraform directory: the one in db.yaml if that exists, else the default.
pub fn terraform_dir(host: &Host) -> anyhow::Result<PathBuf> {
    let settings = Settings::read_if_there(host)?;
    Ok(settings.map_or_else(|| host.state_dir.join("terraform"), |settings| settings.terraform_dir))
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
    fn h56_root_reads_nothing_outside_of_the_directory_that_blockhost_rules() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("terraform");
        let outside = dir.path().join("outside");
        for made in [&folder.join("vms/web-1"), &outside.join("web-9")] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(folder.join("vms/web-1/web-1.tf.json"), "ours").unwrap();
        std::fs::write(folder.join("vms/notes"), "a file").unwrap();
        for file in ["web-9/x.tf.json", "y.tf.json"] {
            std::fs::write(outside.join(file), "root's own").unwrap();
        }
        let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        link(&outside.join("y.tf.json"), "vms/web-1/provider.tf.json");
        let texts = |folder: &Path| {
            terraform_files(folder).map(|found| found.into_iter().map(|(_, text)| text).collect::<Vec<_>>())
        };
        assert_eq!(texts(&folder).unwrap(), ["ours"]);
        // A link to the directory itself is the administrator's choice.
        std::os::unix::fs::symlink(&folder, dir.path().join("link")).unwrap();
        assert_eq!(texts(&dir.path().join("link")).unwrap(), ["ours"]);
        assert!(texts(&dir.path().join("none")).unwrap().is_empty());

        link(&outside.join("web-9"), "vms/web-2");
        let error = texts(&folder).unwrap_err().to_string();
        assert!(error.contains("terraform/vms/web-2: it leads outside Terraform's directory"), "{error}");
        std::fs::remove_file(folder.join("vms/web-2")).unwrap();
        std::fs::remove_dir_all(folder.join("vms")).unwrap();
        link(&outside, "vms");
        let error = texts(&folder).unwrap_err().to_string();
        assert!(error.contains("terraform/vms: it leads out"), "{error}");
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
