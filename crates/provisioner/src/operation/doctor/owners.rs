//! Owners and modes of every file that is ours (`doc/files.md`).

use crate::host::Host;
use crate::host::accounts::{self, Account};
use crate::plan::doctor::Finding;
use crate::plan::doctor::files::{self, Belongs, Entry, Owners};
use crate::store::settings::Settings;
use crate::tool::terraform_files::vm_folders;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that all may read: they hold no secret, and other programs write them so.
const NO_SECRETS: [&str; 4] =
    ["provider.tf.json", "variables.tf.json", "broker-allocation.json", ".terraform.lock.hcl"];

/// What is wrong with owners and modes.
pub fn findings(host: &Host, settings: Option<&Settings>) -> Vec<Finding> {
    let blockhost = accounts::ruler(host, &[]).ok().flatten().unwrap_or_else(Account::own);
    let root =
        host.config_dirs.first().and_then(|folder| folder.metadata().ok()).map_or(0, |found| found.uid());
    let owners = Owners { blockhost: blockhost.uid, group: blockhost.gid, root };
    let mut entries = Vec::new();
    for name in ["db.yaml", "pve-token", "broker-allocation.json"] {
        add(&host.config_file(name), Belongs::ToRoot, &mut entries);
    }
    if let Some(settings) = settings {
        state(host, settings, &mut entries);
    }
    entries.iter().flat_map(|entry| files::findings(entry, owners)).collect()
}

fn state(host: &Host, settings: &Settings, entries: &mut Vec<Entry>) {
    let state = &host.state_dir;
    let ours = Belongs::ToBlockhost;
    add(state, ours, entries);
    for name in ["gc-last-run.json", "gc-under-way.json", "gc.lock"] {
        add(&state.join(name), ours, entries);
    }
    add(&settings.db_file, ours, entries);
    add(&PathBuf::from(format!("{}.lock", settings.db_file.display())), ours, entries);
    for folder in ["journal", "withheld", "failed", "audit", "metrics"] {
        whole(&state.join(folder), entries);
    }
    let terraform = &settings.terraform_dir;
    whole(terraform, entries);
    add(&terraform.join("vms"), ours, entries);
    for name in vm_folders(settings) {
        whole(&terraform.join("vms").join(name.as_str()), entries);
    }
}

/// A directory and the files in it.
fn whole(folder: &Path, entries: &mut Vec<Entry>) {
    add(folder, Belongs::ToBlockhost, entries);
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.file_type().is_ok_and(|kind| kind.is_file()) {
            add(&file.path(), Belongs::ToBlockhost, entries);
        }
    }
}

/// What is not there has no owner; a link is its maker's and leads to a file that is looked at by itself.
fn add(path: &Path, belongs: Belongs, entries: &mut Vec<Entry>) {
    let Ok(found) = path.symlink_metadata() else { return };
    if found.is_symlink() {
        return;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    entries.push(Entry {
        path: path.to_path_buf(),
        belongs,
        is_directory: found.is_dir(),
        // db.yaml has no secrets, but decides what is ours.
        is_secret: !NO_SECRETS.contains(&name.as_ref()) && name != "db.yaml",
        uid: found.uid(),
        gid: found.gid(),
        mode: found.mode(),
    });
}
