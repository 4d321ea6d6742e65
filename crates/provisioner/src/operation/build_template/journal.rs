//! What a build has under way on the node, on disk before each step that takes or frees something there.
//!
//! ```text
//!   making       a VM that is no template yet: at the template's VMID, or, where an old template is there, at another
//!      │         one, the staging VM. Dead: the next build removes it, proven by its UUID, with its volumes.
//!      ▼
//!   replacing    (old template only) the staging VM is complete; the old template goes, and a whole copy takes its
//!                VMID. Dead: the next build goes on, whatever it was called for.
//! ```
//!
//! One entry at most: the folder's lock is held by whoever reads or writes it.

use super::machine::Wanted;
use super::work_folder::WorkFolder;
use crate::host::read_file::text_for_people;
use crate::host::replace_file;
use crate::tool::proxmox_cli::Grant;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The VM that is being made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Its VMID.
    pub vmid: u32,
    /// Its SMBIOS UUID, made for it.
    pub uuid: Uuid,
}

/// The template that is to be replaced, and what takes its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replacement {
    /// SMBIOS UUID of the old one.
    pub old_uuid: String,
    /// Its name.
    pub old_name: String,
    /// Stands in the description of the new one: its SMBIOS UUID is of Proxmox' making.
    pub build: Uuid,
}

/// A build on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The node, as the operator named it.
    pub host: String,
    /// The template's VMID.
    pub vmid: u32,
    /// What the VM is to be.
    pub wanted: Wanted,
    /// What the image was made of.
    pub recipe: String,
    /// The VM that is being made.
    pub made: Made,
    /// Set once the made VM is complete and the old template is to go.
    pub replacing: Option<Replacement>,
    /// Who might do what with the template's VMID before.
    pub grants: Vec<Grant>,
    /// The pool the old template was in.
    pub pool: Option<String>,
    /// A folder on another machine, for the image.
    pub remote_folder: String,
}

impl Entry {
    /// The template's VMID.
    pub fn vmid(&self) -> anyhow::Result<Vmid> {
        Ok(Vmid::new(self.vmid.into())?)
    }

    /// The VMID of the VM that is being made.
    pub fn made_vmid(&self) -> anyhow::Result<Vmid> {
        Ok(Vmid::new(self.made.vmid.into())?)
    }
}

/// The entry that a killed build left.
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
    Ok(replace_file::replace(&folder.journal(), text.as_bytes(), 0o600, "template")?)
}

/// Nothing is under way any more.
pub fn remove(folder: &WorkFolder) -> anyhow::Result<()> {
    Ok(replace_file::remove(&folder.journal())?)
}
