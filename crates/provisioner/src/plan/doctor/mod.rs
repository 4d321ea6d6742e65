//! What doctor finds: facts of database, node and files in, findings out. Everything here is pure; the facts are gathered
//! in `crates/provisioner/src/operation/doctor/`.
//!
//! One file for each area. What a finding is called and why it matters is in [`kinds`] alone, and in `doc/doctor.md`.

pub mod access;
pub mod addresses;
pub mod configuration;
pub mod files;
pub mod kinds;
pub mod leftovers;
pub mod records;
pub mod storage;
pub mod systemd;
pub mod terraform;
pub mod versions;
pub mod vm;

pub use kinds::{Kind, Severity};

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use std::path::PathBuf;

/// One thing that is wrong, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing: code, severity, and why it matters.
    pub kind: &'static Kind,
    /// The VM that it is about, where it is about one.
    pub vm: Option<String>,
    /// Where it was found: a VM, a path, a storage.
    pub place: String,
    /// What is wrong there.
    pub what: String,
    /// The command that mends it, or what to do.
    pub mend: String,
    /// What lies about because of it, one word for the kind of thing and its name (`directory /var/…`).
    pub left: Vec<String>,
    /// What `--fix` does about it.
    pub fix: Option<Fix>,
}

impl Finding {
    /// A finding about no VM in particular.
    pub fn new(
        kind: &'static Kind,
        place: impl ToString,
        what: impl ToString,
        mend: impl ToString,
    ) -> Finding {
        Finding {
            kind,
            vm: None,
            place: place.to_string(),
            what: what.to_string(),
            mend: mend.to_string(),
            left: Vec::new(),
            fix: None,
        }
    }

    /// The same about this VM.
    pub fn of(self, vm: impl ToString) -> Finding {
        Finding { vm: Some(vm.to_string()), ..self }
    }

    /// With what lies about.
    pub fn with(self, left: Vec<String>) -> Finding {
        Finding { left, ..self }
    }

    /// With what `--fix` does.
    pub fn mended_by(self, fix: Fix) -> Finding {
        Finding { fix: Some(fix), ..self }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Finding", 9)?;
        object.serialize_field("severity", self.kind.severity.word())?;
        object.serialize_field("code", self.kind.code)?;
        object.serialize_field("vm", &self.vm)?;
        object.serialize_field("where", &self.place)?;
        object.serialize_field("what", &self.what)?;
        object.serialize_field("why", self.kind.why)?;
        object.serialize_field("mend", &self.mend)?;
        object.serialize_field("fixable", &self.fix.is_some())?;
        object.serialize_field("left", &self.left)?;
        object.end()
    }
}

/// What `--fix` can do: nothing that could hurt a VM, a customer or somebody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fix {
    /// Puts back the record of this VM, if the node still has the VM.
    RestoreRecord(String),
    /// Sets host route, isolation and bandwidth limits of this running VM.
    Reconnect(String),
    /// Removes tickets of creates that died, and the file by which engines see a create.
    TidyQueue,
    /// Removes half-written files of commands that died, in this directory.
    RemoveTemporary(PathBuf),
    /// Sets the mode of this file.
    SetMode(PathBuf, u32),
    /// Gives this file to user blockhost.
    SetOwner(PathBuf),
    /// Frees this disk, which a destroy of ours could not free.
    FreeVolume(String),
    /// Removes what is left of the guard of a VM that is gone: its VMID, and its name.
    ClearGuard(u32, String),
}

/// Order for a person: the worst first, those of a kind together.
pub fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| {
        let kind = |finding: &Finding| (finding.kind.severity, finding.kind.code);
        kind(a).cmp(&kind(b)).then_with(|| a.place.cmp(&b.place)).then_with(|| a.what.cmp(&b.what))
    });
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests;
