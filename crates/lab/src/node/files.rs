//! The node's files below `D/node`: what the root agent's plugin reads as `/etc/pve`, `/run`, `/proc`, `/sys`.
//!
//! Each file is written whole, by rename, so that a reader never meets half of one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::guest::Guest;
use super::monitor::Monitor;

/// Writes and removes the node's files.
#[derive(Debug)]
pub(crate) struct NodeFiles {
    /// `D/node`.
    root: PathBuf,
    /// This node's name: its guests have their files in `/etc/pve/qemu-server`.
    node: String,
    /// Whether `/etc/pve` is mounted.
    mounted: bool,
    version: u64,
    /// QEMU's monitors of the guests that run here.
    monitors: Mutex<BTreeMap<u32, Monitor>>,
}

impl NodeFiles {
    /// Makes the folders.
    pub fn new(dir: &Path, node: &str) -> io::Result<Self> {
        let root = dir.join("node");
        for folder in
            ["etc/pve/qemu-server", "run/qemu-server", "proc", "var/lib/vz/snippets", "sys/class/net"]
        {
            fs::create_dir_all(root.join(folder))?;
        }
        let files = Self { root, node: node.into(), mounted: true, version: 1, monitors: Mutex::default() };
        // The firewall's daemon writes it where its new form is not switched on.
        replace(&files.old_firewall(), b"");
        Ok(files)
    }

    fn old_firewall(&self) -> PathBuf {
        self.root.join("run/proxmox-nftables-firewall-force-disable")
    }

    /// Whether a card with `firewall=1` gets a bridge of its own: this file decides, and neither the package nor the
    /// node's firewall rules do.
    pub fn has_firewall_bridges(&self) -> bool {
        self.old_firewall().exists()
    }

    pub fn mounted(&self) -> bool {
        self.mounted
    }

    /// The snippets folder of storage `local`.
    /// What stands for `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn snippets(&self) -> PathBuf {
        self.root.join("var/lib/vz/snippets")
    }

    fn conf(&self, vmid: u32) -> PathBuf {
        self.root.join(format!("etc/pve/qemu-server/{vmid}.conf"))
    }

    /// The folders of other nodes: the cluster's file system has them on every node.
    fn elsewhere(&self) -> PathBuf {
        self.root.join("etc/pve/nodes")
    }

    fn write_conf(&self, guest: &Guest) {
        let file = format!("qemu-server/{}.conf", guest.vmid);
        for other in fs::read_dir(self.elsewhere()).into_iter().flatten().flatten() {
            remove(&other.path().join(&file));
        }
        if guest.node == self.node {
            replace(&self.conf(guest.vmid), guest.conf_text().as_bytes());
            return;
        }
        remove(&self.conf(guest.vmid));
        let path = self.elsewhere().join(&guest.node).join(file);
        if let Some(folder) = path.parent() {
            complain(fs::create_dir_all(folder), folder);
        }
        replace(&path, guest.conf_text().as_bytes());
    }

    fn remove_conf(&self, guest: &Guest) {
        remove(&self.conf(guest.vmid));
        remove(&self.elsewhere().join(&guest.node).join(format!("qemu-server/{}.conf", guest.vmid)));
    }

    /// Writes or removes the guest's files so that they say what the guest is.
    pub fn write_guest(&self, guest: &Guest) {
        if self.mounted {
            self.write_conf(guest);
        } else {
            self.remove_conf(guest);
        }
        let pid_file = self.root.join(format!("run/qemu-server/{}.pid", guest.vmid));
        match &guest.run {
            Some(run) if guest.node == self.node => {
                let process = self.root.join(format!("proc/{}", run.pid));
                if !process.is_dir() {
                    complain(fs::create_dir_all(&process), &process);
                    replace(&process.join("cmdline"), &command_line(guest));
                    replace(&pid_file, format!("{}\n", run.pid).as_bytes());
                    let socket = self.monitor_socket(guest.vmid);
                    if let Some(monitor) = Monitor::open(&socket) {
                        self.monitors().insert(guest.vmid, monitor);
                    }
                }
                if let Some(monitor) = self.monitors().get(&guest.vmid) {
                    monitor.set_paused(run.paused);
                }
            }
            _ => {
                if let Ok(pid) = fs::read_to_string(&pid_file) {
                    let process = self.root.join("proc").join(pid.trim());
                    if !pid.trim().is_empty() && process.is_dir() {
                        complain(fs::remove_dir_all(&process), &process);
                    }
                    remove(&pid_file);
                    self.monitors().remove(&guest.vmid);
                    remove(&self.monitor_socket(guest.vmid));
                }
            }
        }
    }

    fn monitor_socket(&self, vmid: u32) -> PathBuf {
        self.root.join(format!("run/qemu-server/{vmid}.qmp"))
    }

    fn monitors(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Monitor>> {
        self.monitors.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Removes what a guest had.
    pub fn remove_guest(&self, guest: &Guest) {
        let mut gone = guest.clone();
        gone.run = None;
        self.write_guest(&gone);
        self.remove_conf(guest);
    }

    /// Writes the list of all VMIDs of the cluster, `vmid → (node, type)`.
    pub fn write_vmlist(&mut self, ids: &BTreeMap<u32, (String, &'static str)>) {
        self.version += 1;
        if !self.mounted {
            return;
        }
        let ids: serde_json::Map<String, serde_json::Value> = ids
            .iter()
            .map(|(vmid, (node, kind))| {
                (vmid.to_string(), serde_json::json!({"node": node, "type": kind, "version": self.version}))
            })
            .collect();
        let text = serde_json::json!({"version": self.version, "ids": ids}).to_string();
        replace(&self.root.join("etc/pve/.vmlist"), text.as_bytes());
        let local = self.root.join("etc/pve/local");
        if local.symlink_metadata().is_err() {
            complain(symlink(format!("nodes/{}", self.node), &local), &local);
        }
        // A node without a cluster has no part `cluster` there. What a test puts in its place stays.
        let members = self.root.join("etc/pve/.members");
        if !members.exists() {
            let text = serde_json::json!({"nodename": self.node, "version": 3}).to_string();
            replace(&members, text.as_bytes());
        }
    }

    /// Takes everything below `/etc/pve` away, or makes the folders anew; the caller writes the files again.
    pub fn set_mounted(&mut self, mounted: bool) {
        self.mounted = mounted;
        let pve = self.root.join("etc/pve");
        if mounted {
            complain(fs::create_dir_all(pve.join("qemu-server")), &pve);
        } else if pve.is_dir() {
            complain(fs::remove_dir_all(&pve), &pve);
            complain(fs::create_dir_all(&pve), &pve);
        }
    }

    /// `/sys/class/net/<dev>`: where it is a port of a bridge, with a link `master` to that and `brport/isolated`.
    pub fn write_device(&self, dev: &str, master: Option<&str>, isolated: bool) {
        let folder = self.root.join("sys/class/net").join(dev);
        complain(fs::create_dir_all(&folder), &folder);
        let (link, port) = (folder.join("master"), folder.join("brport"));
        remove(&link);
        let Some(master) = master else {
            if port.is_dir() {
                complain(fs::remove_dir_all(&port), &port);
            }
            return;
        };
        complain(fs::create_dir_all(&port), &port);
        replace(&port.join("isolated"), if isolated { b"1\n" } else { b"0\n" });
        complain(symlink(format!("../{master}"), &link), &link);
    }

    /// The device is gone.
    pub fn remove_device(&self, dev: &str) {
        let folder = self.root.join("sys/class/net").join(dev);
        if folder.is_dir() {
            complain(fs::remove_dir_all(&folder), &folder);
        }
    }
}

/// The command line of the guest's QEMU, as `/proc/<pid>/cmdline` gives it.
fn command_line(guest: &Guest) -> Vec<u8> {
    let vmid = guest.vmid.to_string();
    let name = format!("{},debug-threads=on", guest.name());
    let mut line = Vec::new();
    for word in ["/usr/bin/kvm", "-id", &vmid, "-name", &name, "-no-shutdown", "-daemonize"] {
        line.extend_from_slice(word.as_bytes());
        line.push(0);
    }
    line
}

/// Replaces a file as a whole.
pub(crate) fn replace(path: &Path, text: &[u8]) {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    complain(fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)), path);
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => complain(Err(error), path),
        _ => {}
    }
}

/// A lab that cannot write its own folder is of no use to anybody; it says so and goes on.
fn complain(result: io::Result<()>, path: &Path) {
    if let Err(error) = result {
        eprintln!("lab: {}: {error}", path.display());
    }
}
