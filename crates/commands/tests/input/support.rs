//! Running commands with a limit, and comparing what lies on disk.

use lab::Lab;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
pub use test_support::{Ended, WALLET, json, run, until};

/// `blockhost-vm-<verb> <arguments>` in the lab.
pub fn vm(lab: &Lab, verb: &str, arguments: &[&str]) -> Ended {
    run(lab.command(&format!("blockhost-vm-{verb}")).args(arguments))
}

/// A create with a wallet, and `--apply`.
pub fn create(lab: &Lab, name: &str, more: &[&str]) -> Ended {
    let mut arguments = vec![name, "--owner-wallet", WALLET, "--apply"];
    arguments.extend(more);
    vm(lab, "create", &arguments)
}

/// A lab whose user has an ssh key, so that stderr holds nothing but what a test provokes.
pub fn with_key(lab: Lab) -> Lab {
    std::fs::create_dir_all(lab.path("home/.ssh")).unwrap();
    std::fs::write(lab.path("home/.ssh/id_ed25519.pub"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@host\n")
        .unwrap();
    lab
}

/// The lab's database.
pub fn database(lab: &Lab) -> Value {
    json(&lab.path("var/vms.json"))
}

/// One file, folder, link or socket, with everything about it that a write would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub inode: u64,
    pub changed: (i64, i64),
    pub content: Vec<u8>,
}

/// Everything below the folders.
pub fn tree(roots: &[PathBuf]) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    for root in roots {
        look(root, &mut seen);
    }
    assert!(!seen.is_empty());
    seen
}

/// The audit trail grows with each command, and has its own tests.
fn is_trail(path: &Path) -> bool {
    path.ends_with("var/audit")
}

fn look(path: &Path, seen: &mut BTreeMap<PathBuf, Seen>) {
    let Ok(data) = path.symlink_metadata() else { return };
    let content = if data.is_symlink() {
        path.read_link().unwrap().into_os_string().into_encoded_bytes()
    } else if data.is_file() {
        std::fs::read(path).unwrap_or_default()
    } else {
        Vec::new()
    };
    let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&data.file_type());
    let it = Seen {
        // The lab's root agent gives its socket to the group a moment after it listens.
        mode: if is_socket { 0 } else { data.mode() },
        uid: data.uid(),
        gid: data.gid(),
        inode: data.ino(),
        // The state folder itself changes when the trail begins; whatever else begins in it is seen by its name.
        changed: if path.ends_with("var") || is_socket { (0, 0) } else { (data.ctime(), data.ctime_nsec()) },
        content,
    };
    seen.insert(path.to_path_buf(), it);
    if data.is_dir() {
        let entries = path.read_dir().unwrap().flatten().map(|entry| entry.path());
        entries.filter(|entry| !is_trail(entry)).for_each(|entry| look(&entry, seen));
    }
}

/// What our commands may write: configuration, state, run folder, home, share. (Sockets answer without changing.)
pub fn host_tree(lab: &Lab) -> BTreeMap<PathBuf, Seen> {
    tree(&["etc", "var", "run", "home", "share"].map(|name| lab.path(name)))
}

/// Fails with the paths that differ.
pub fn assert_same(before: &BTreeMap<PathBuf, Seen>, after: &BTreeMap<PathBuf, Seen>, why: &str) {
    let all = before.keys().chain(after.keys());
    let differ: std::collections::BTreeSet<&PathBuf> =
        all.filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(differ.is_empty(), "{why}: changed: {differ:?}");
}

/// Whether every file has the content it had; lock files and the folders that hold them may have come.
pub fn assert_same_content(before: &BTreeMap<PathBuf, Seen>, after: &BTreeMap<PathBuf, Seen>, why: &str) {
    let kept = |all: &BTreeMap<PathBuf, Seen>| -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let files = all.iter().filter(|(path, seen)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !(name.ends_with(".lock") || seen.mode & 0o170_000 == 0o040_000)
        });
        files.map(|(path, seen)| (path.clone(), (seen.mode, seen.content.clone()))).collect()
    };
    let (before, after) = (kept(before), kept(after));
    let all = before.keys().chain(after.keys());
    let differ: std::collections::BTreeSet<&PathBuf> =
        all.filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(differ.is_empty(), "{why}: changed: {differ:?}");
}
