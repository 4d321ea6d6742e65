//! What a build is doing on the node, written to disk before each step that takes or frees something there.
//!
//! ```text
//!   making       a VM that is no template yet: at the template's VMID, or, where an old template is there, at another
//!      │         one, the staging VM. Dead: the next build removes it, proven by its UUID, with its volumes.
//!      ▼
//!   replacing    (old template only) the staging VM is complete; the old template goes, and a whole copy takes its
//!                VMID. Dead: the next build goes on, whatever it was called for.
//! ```
//!
//! There is at most one entry. Whoever reads or writes it holds the directory's lock.

use super::machine::Wanted;
use super::work_folder::WorkFolder;
use crate::host::read_file::text_for_people;
use crate::host::replace_file;
use crate::tool::proxmox_cli::Grant;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The VM being made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Its VMID.
    pub vmid: u32,
    /// The SMBIOS UUID made for it.
    pub uuid: Uuid,
}

/// The template to be replaced, and its replacement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replacement {
    /// SMBIOS UUID of the old template.
    pub old_uuid: String,
    /// Its name.
    pub old_name: String,
    /// Part of the new template's description, because Proxmox generates its SMBIOS UUID.
    pub build: Uuid,
}

/// A build in progress on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The node, as the operator named it.
    pub host: String,
    /// The template's VMID.
    pub vmid: u32,
    /// Properties of the VM.
    pub wanted: Wanted,
    /// What the image was made of, as a hash.
    pub recipe: String,
    /// The VM being made.
    pub made: Made,
    /// Set once the new VM is complete and the old template is about to be destroyed.
    pub replacing: Option<Replacement>,
    /// The permissions on the template's VMID before the build.
    pub grants: Vec<Grant>,
    /// The pool the old template was in.
    pub pool: Option<String>,
    /// A directory on another host, for the image.
    pub remote_folder: String,
}

impl Entry {
    /// The template's VMID.
    pub fn vmid(&self) -> anyhow::Result<Vmid> {
        Ok(Vmid::new(self.vmid.into())?)
    }

    /// The VMID of the VM being made.
    pub fn made_vmid(&self) -> anyhow::Result<Vmid> {
        Ok(Vmid::new(self.made.vmid.into())?)
    }
}

/// Reads the entry that a killed build left.
pub fn read(folder: &WorkFolder) -> anyhow::Result<Option<Entry>> {
    let path = folder.journal();
    if !crate::host::is_there(&path) {
        return Ok(None);
    }
    let entry: Entry = serde_json::from_str(&text_for_people(&path)?).with_context(|| {
        format!("{}: corrupt record of an unfinished build; left unchanged", path.display())
    })?;
    entry.vmid().and(entry.made_vmid()).with_context(|| path.display().to_string())?;
    Ok(Some(entry))
}

/// Writes the entry (fsync).
pub fn write(folder: &WorkFolder, entry: &Entry) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(entry)?;
    Ok(replace_file::replace(folder.doors, &folder.journal(), text.as_bytes(), 0o600, "template")?)
}

/// Removes the entry: nothing is in progress any more.
pub fn remove(folder: &WorkFolder) -> anyhow::Result<()> {
    Ok(replace_file::remove(&folder.journal())?)
}
