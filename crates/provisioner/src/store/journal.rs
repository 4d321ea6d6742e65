//! What is under way: one entry per create or destroy in flight, on disk before each step that takes or frees
//! something (hazards H05, H07, H09).
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
//! An entry is alive while its VM's lock (`<name>.lock`) is held; the kernel decides, never a PID. Nobody
//! writes or undoes an entry without holding that lock.

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

/// How far an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// create: VMID and addresses are taken (or about to be), snippets and the terraform folder are being made.
    Taken,
    /// create: terraform runs or has run; there may be a VM on the node.
    Applying,
    /// create: the guest answered; the record is written (or about to be), the result not yet reported.
    Registered,
    /// destroy: begun.
    Destroying,
}

/// One operation in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The VM.
    pub name: String,
    /// How far it has come.
    pub step: Step,
    /// The identity given to the VM.
    pub smbios_uuid: Option<Uuid>,
    /// Its VMID.
    pub vmid: u32,
    /// `next_vmid` of the database before the VMID was taken.
    pub previous_next_vmid: Option<u32>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The owner's wallet: a create run again with the same one may finish the entry.
    pub wallet_address: Option<String>,
    /// When the operation began.
    pub began_at: DateTime<Utc>,
    /// Who works on it, for readers; not what decides whether it is alive.
    pub pid: u32,
    /// PID of terraform while it runs, for readers: `terraform.lock` of the VM's folder tells whether it lives.
    pub terraform_pid: Option<u32>,
    /// The record of a registered VM: unlocked writers may drop it from the database.
    pub record: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Entry {
    /// The VMID, checked.
    pub fn checked_vmid(&self) -> anyhow::Result<Vmid> {
        Ok(Vmid::new(u64::from(self.vmid))?)
    }
}

/// The folder of entries.
pub struct Journal<'h> {
    host: &'h Host,
    /// `None`: nothing was ever noted.
    folder: Option<PathBuf>,
}

impl<'h> Journal<'h> {
    /// The journal of this host.
    pub fn new(host: &'h Host) -> Journal<'h> {
        Journal { host, folder: Some(host.state_dir.join("journal")) }
    }

    /// A journal without entries, for a mock, whose VMs have no operations that could die.
    pub fn none(host: &'h Host) -> Journal<'h> {
        Journal { host, folder: None }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{name}.json")))
    }

    /// Who works on the VM right now, in the words of its lock.
    pub fn holder(&self, name: &VmName) -> Option<String> {
        LockFile::holder(&self.folder.as_ref()?.join(format!("{name}.lock")))
    }

    /// The entry of one VM.
    pub fn read(&self, name: &VmName) -> anyhow::Result<Option<Entry>> {
        let Some(path) = self.path(name.as_str()).filter(|path| path.exists()) else {
            return Ok(None);
        };
        let text = match text_for_people(&path) {
            // Removed between the look and the read: its operation has ended.
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

    /// All entries, by name. One that cannot be read is an error: what it holds is unknown, so nothing may be
    /// handed out.
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

    /// Writes an entry (fsync). `_lock` is the VM's lock, which makes the entry alive.
    pub fn write(&self, entry: &Entry, _lock: &VmLock) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(entry)?;
        journal_folder(self.host)?;
        let path = self.path(&entry.name).context("mock runs have no journal")?;
        Ok(replace_file::replace(&path, text.as_bytes(), PRIVATE, "journal")?)
    }

    /// Removes an entry: its operation has ended or was undone.
    pub fn remove(&self, name: &VmName, _lock: &VmLock) -> anyhow::Result<()> {
        match self.path(name.as_str()) {
            Some(path) => Ok(replace_file::remove(&path)?),
            None => Ok(()),
        }
    }
}
