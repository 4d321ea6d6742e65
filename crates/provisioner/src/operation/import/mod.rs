//! `blockhost-provisioner-import`: VMs of the older package, found, shown, and moved into the form of today
//! (`facts/contract/legacy.md`; hazards H02, H17, H52, H55, H58). The VMs run on untouched.
//!
//! ```text
//!   survey   database, shared directory, shared state          reads files
//!   look     the node: is the guest the VM, and it alone?       asks the root agent, changes nothing
//!   move     with --apply, one VM after the other, under its lock; both are done again there
//!     1 marked     the root agent proves the VM and marks it in the same request: description, UUID, snippet
//!     2 directory  the VM's own terraform file and state
//!     3 recorded   UUID and VMID in its record: from now on it goes by its UUID
//!     4 guarded    the guard's hook
//!     5 unshared   out of the shared state, which was copied aside
//!     6 done       the older package's files go, the last trace of the older form
//! ```
//!
//! There is no journal entry: after each step the VM is one that every command can handle, by name before 3 and by UUID
//! from then on, and what is left to do can be seen. Each step finds out whether it is done, so a killed import is
//! completed by the next one, and a destroy in between removes both forms.
//!
//! A disaster would be: a VM that is not proven; a shared state that was not understood and is written all the same.

mod carry_out;
mod look;
mod survey;

use super::Context;
use crate::plan::import::Finding;
use crate::tool::legacy_state::SharedFolder;
use crate::value::vm_record::Status;
use survey::Known;

/// What became of a VM, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `--apply` moves it.
    Ready,
    /// It has been moved.
    Imported,
    /// It was moved before; something waits for its next start.
    Waiting,
    /// It is not moved, and nothing was changed.
    Refused,
    /// Moving it failed; what was done stays, and the next import goes on.
    Failed,
    /// The node could not be asked, or did not answer.
    Unknown,
}

impl Verdict {
    /// The word in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ready => "ready",
            Verdict::Imported => "imported",
            Verdict::Waiting => "waiting",
            Verdict::Refused => "refused",
            Verdict::Failed => "failed",
            Verdict::Unknown => "unknown",
        }
    }
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name, as record, file or state have it.
    pub name: String,
    /// The status of its record.
    pub status: Option<Status>,
    /// The VMID in its record.
    pub record_vmid: Option<u32>,
    /// The VMID in the shared state.
    pub state_vmid: Option<u32>,
    /// The VMID under which the node has it.
    pub node_vmid: Option<u32>,
    /// Whether it runs there.
    pub running: Option<bool>,
    /// What it is known by, from now on or already.
    pub uuid: Option<uuid::Uuid>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What became of it.
    pub verdict: Verdict,
    /// The same in a sentence; empty where there is nothing to say.
    pub detail: String,
}

impl Row {
    fn new(name: &str) -> Row {
        Row {
            name: name.to_string(),
            status: None,
            record_vmid: None,
            state_vmid: None,
            node_vmid: None,
            running: None,
            uuid: None,
            findings: Vec::new(),
            verdict: Verdict::Refused,
            detail: String::new(),
        }
    }

    fn find(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
            self.findings.sort();
        }
    }

    fn refuse(&mut self, finding: Finding, why: impl Into<String>) {
        self.find(finding);
        self.verdict = if finding == Finding::Unknown { Verdict::Unknown } else { Verdict::Refused };
        self.detail = why.into();
    }

    fn say(&mut self, words: &str) {
        if !self.detail.is_empty() {
            self.detail.push_str("; ");
        }
        self.detail.push_str(words);
    }
}

/// All VMs of the older package, and what became of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// By name.
    pub rows: Vec<Row>,
    /// What a person should know about the shared state.
    pub remark: Option<String>,
}

impl Imported {
    /// How many have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }
}

/// Shows the VMs of the older package and, with `apply`, moves those that are proven. One VM's trouble stops that VM
/// alone; a shared state that cannot be used stops all.
pub fn import(ctx: &Context<'_>, apply: bool) -> anyhow::Result<Imported> {
    let shared = SharedFolder::read(&ctx.settings)?;
    let mut rows = Vec::new();
    for known in survey::all(ctx, &shared)? {
        ctx.host.interrupt.check()?;
        let row = match known {
            Known::Settled(row) => row,
            Known::Candidate(candidate) => match apply {
                true => carry_out::one(ctx, &candidate),
                false => look::one(ctx, &candidate).0,
            },
            Known::Ours(record) => match look::waits_for_start(ctx, &record, apply) {
                Some(row) => row,
                None => continue,
            },
        };
        rows.push(row);
    }
    Ok(Imported { rows, remark: shared.remark })
}
