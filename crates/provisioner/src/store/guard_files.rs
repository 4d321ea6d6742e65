//! The guard's files: what root has decided for a VM, and the result of the last run. They belong to root alone and are
//! outside user blockhost's directories, so nobody can free a VM from the guard by writing one (hazard H56).

use crate::host::{self, Host, read_file, replace_file};
use crate::plan::guard::{Guarded, GuestNetwork};
use crate::value::timestamp;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind::NotFound;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// What a run of the guard has set on the host, and what is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardState {
    /// The phase of that run.
    pub phase: String,
    /// When it ran, in the database's time format.
    pub at: String,
    /// Whether everything intended for the VM is in place.
    pub applied: bool,
    /// What is not in place, one sentence each.
    pub missing: Vec<String>,
    /// Taps that have a chain of rules.
    #[serde(default)]
    pub taps: Vec<String>,
    /// The host route to the guest, and its bridge.
    #[serde(default)]
    pub route: Option<(Ipv6Addr, String)>,
}

/// Where the files are: below `/`, or in a lab below its node's root.
#[derive(Debug, Clone)]
pub struct GuardFiles {
    root: PathBuf,
    vmid: Vmid,
}

impl GuardFiles {
    /// Returns the files of a VM. `BLOCKHOST_NODE_ROOT` is the root directory of a simulated node, as in the lab.
    pub fn of(vmid: Vmid) -> GuardFiles {
        let root = host::variable("BLOCKHOST_NODE_ROOT").filter(|root| !root.is_empty());
        GuardFiles { root: root.map_or_else(|| PathBuf::from("/"), PathBuf::from), vmid }
    }

    fn state_path(&self) -> PathBuf {
        self.root.join("run/blockhost-guard").join(format!("{}.json", self.vmid))
    }

    /// Returns what the guard has to do for the VM; `None` if it is not one of ours.
    pub fn guarded(&self) -> anyhow::Result<Option<Guarded>> {
        let path = self.root.join("var/lib/blockhost-guard").join(format!("{}.json", self.vmid));
        match read_file::text(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Returns the VM's configuration on this node; `None` if there is none.
    pub fn guest(&self) -> anyhow::Result<Option<GuestNetwork>> {
        let path = self.root.join("etc/pve/qemu-server").join(format!("{}.conf", self.vmid));
        match read_file::text(&path) {
            Ok(text) => Ok(Some(GuestNetwork::parse(self.vmid, &text))),
            Err(error) if error.kind() == NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn device(&self, name: &str) -> PathBuf {
        self.root.join("sys/class/net").join(name)
    }

    /// Whether the host has this network device.
    pub fn is_device(&self, name: &str) -> bool {
        self.device(name).exists()
    }

    /// Returns the bridge that a device is a port of.
    pub fn master(&self, name: &str) -> Option<String> {
        let target = std::fs::read_link(self.device(name).join("master")).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether the kernel's own bridge isolates this port; `None` if it is not a port of one.
    pub fn isolated(&self, name: &str) -> Option<bool> {
        let text = read_file::text(self.device(name).join("brport/isolated")).ok()?;
        Some(text.trim() == "1")
    }

    /// Returns the result of the last run; empty if it is not known.
    pub fn state(&self) -> GuardState {
        let text = read_file::text(self.state_path()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Records the result of this run. A reboot removes it together with the rules themselves.
    pub fn note(&self, host: &Host, state: &GuardState) -> anyhow::Result<()> {
        let path = self.state_path();
        let folder = path.parent().unwrap_or(Path::new("/"));
        replace_file::make_folders(host.doors, folder, 0o700)?;
        let now = timestamp::to_text(host.now());
        let text = serde_json::to_string(&GuardState { at: now, ..state.clone() })? + "\n";
        Ok(replace_file::replace_unsynced(host.doors, &path, text.as_bytes(), 0o600, "guard-state")?)
    }

    /// Removes the result of the last run, once nothing of it is left.
    pub fn forget(&self) -> anyhow::Result<()> {
        Ok(replace_file::remove(&self.state_path())?)
    }
}
