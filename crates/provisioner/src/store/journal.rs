//! Operations in progress: one entry for each create or destroy, written to disk before each step that allocates or
//! frees something (hazards H05, H07, H09).
//!
//! ```text
//!   create   taken ──▶ applying ──▶ registered ──▶ removed when the result line is out
//!              │           │             │
//!              └─────┬─────┘             └─ dead: the record is put back if it is missing; the entry stays
//!                    │                      until a create of the same name and wallet has reported it,
//!                    │                      a destroy, or seven days
//!                    └─ dead: whoever meets it first undoes it
//!   destroy  destroying ──▶ removed when all is gone; dead: the next destroy or gc goes on
//! ```
//!
//! An entry is alive while its VM's lock (`<name>.lock`) is held; the kernel decides this, never a PID. Nobody writes
//! an entry or rolls it back without holding that lock.

use super::vm_lock::{VmLock, journal_folder};
use crate::host::Host;
use crate::host::lock_file::LockFile;
use crate::host::read_file::text_for_people;
use crate::host::replace_file::{self, PRIVATE};
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use uuid::Uuid;

/// How far an operation has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// create: VMID and addresses are allocated (or about to be), and the snippets and the terraform directory are
    /// being created.
    Taken,
    /// create: terraform is running or has run; the node may have a VM.
    Applying,
    /// create: the guest has answered; the record is written (or about to be), but the result has not been reported.
    Registered,
    /// destroy: started.
    Destroying,
}

/// An operation in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The VM.
    pub name: String,
    /// How far it has got.
    pub step: Step,
    /// The identity assigned to the VM.
    pub smbios_uuid: Option<Uuid>,
    /// Its VMID.
    pub vmid: u32,
    /// `next_vmid` of the database before the VMID was allocated.
    pub previous_next_vmid: Option<u32>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The owner's wallet; running create again with the same wallet may complete the entry.
    pub wallet_address: Option<String>,
    /// When the operation started.
    pub began_at: DateTime<Utc>,
    /// PID of the process that works on it, for readers only; it does not decide whether the entry is alive.
    pub pid: u32,
    /// PID of terraform while it is running, for readers only; `terraform.lock` in the VM's directory shows whether it
    /// is alive.
    pub terraform_pid: Option<u32>,
    /// The record of a registered VM, kept because programs that write without the lock may drop it from the database.
    pub record: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Entry {
    /// The VMID, checked.
    pub fn checked_vmid(&self) -> anyhow::Result<Vmid> {
        Ok(Vmid::new(u64::from(self.vmid))?)
    }
}

/// The directory of entries.
pub struct Journal<'h> {
    host: &'h Host,
    /// `None`: nothing is ever recorded.
    folder: Option<PathBuf>,
}

impl<'h> Journal<'h> {
    /// The journal of this host.
    pub fn new(host: &'h Host) -> Journal<'h> {
        Journal { host, folder: Some(host.state_dir.join("journal")) }
    }

    /// A journal without entries, for the mock, whose VMs have no operations that could die.
    pub fn none(host: &'h Host) -> Journal<'h> {
        Journal { host, folder: None }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{name}.json")))
    }

    /// Returns who is working on the VM now, as noted in its lock.
    pub fn holder(&self, name: &VmName) -> Option<String> {
        LockFile::holder(&self.folder.as_ref()?.join(format!("{name}.lock")))
    }

    /// Returns the entry of one VM.
    pub fn read(&self, name: &VmName) -> anyhow::Result<Option<Entry>> {
        let Some(path) = self.path(name.as_str()).filter(|path| path.exists()) else {
            return Ok(None);
        };
        let text = match text_for_people(&path) {
            // Removed between the check and the read: its operation has ended.
            Err(_) if !path.exists() => return Ok(None),
            other => other?,
        };
        match serde_json::from_str::<Entry>(&text) {
            Ok(entry) if entry.name == name.as_str() => match entry.checked_vmid() {
                Ok(_) => Ok(Some(entry)),
                Err(why) => {
                    anyhow::bail!("{}: corrupt journal entry: {why}; left unchanged", path.display())
                }
            },
            Ok(entry) => anyhow::bail!(
                "{}: corrupt journal entry: it is for {:?}; left unchanged",
                path.display(),
                entry.name
            ),
            Err(error) => {
                anyhow::bail!("{}: corrupt journal entry: {error}; left unchanged", path.display())
            }
        }
    }

    /// Returns all entries, sorted by name. An unreadable entry is an error: what it holds is unknown, so nothing may
    /// be allocated.
    pub fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        self.names()?.iter().filter_map(|name| self.read(name).transpose()).collect()
    }

    /// The names of all entries, readable or not.
    pub fn names(&self) -> anyhow::Result<Vec<VmName>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let listing = match std::fs::read_dir(folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => anyhow::bail!("cannot read {}: {error}", folder.display()),
        };
        let mut names = Vec::new();
        for file in listing {
            let file = file?.file_name();
            if let Some(name) = file.to_str().and_then(|f| f.strip_suffix(".json")) {
                names.push(VmName::parse(name).map_err(|e| anyhow::anyhow!("{}: {e}", folder.display()))?);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Writes an entry (with fsync). `_lock` is the VM's lock, which makes the entry alive.
    pub fn write(&self, entry: &Entry, _lock: &VmLock) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(entry)?;
        journal_folder(self.host)?;
        let path = self.path(&entry.name).context("mock runs have no journal")?;
        Ok(replace_file::replace(self.host.doors, &path, text.as_bytes(), PRIVATE, "journal")?)
    }

    /// Removes an entry whose operation has ended or was rolled back.
    pub fn remove(&self, name: &VmName, _lock: &VmLock) -> anyhow::Result<()> {
        match self.path(name.as_str()) {
            Some(path) => Ok(replace_file::remove(&path)?),
            None => Ok(()),
        }
    }
}
