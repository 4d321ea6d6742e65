//! A VM that an operation is working on: its lock, name, directory, journal entry and audit lines.
//!
//! Every function that changes a VM takes a [`LockedVm`], so it does not compile without the lock (hazard H19).
//! Commands write one audit line each for what they were asked to do ([`super::audited`]); what is done in addition (a
//! rollback, a restored record, a VM switched off by gc) is written here.

use super::Context;
use crate::host::clock::Stopwatch;
use crate::store::audit::{self, Change};
use crate::store::journal::Entry;
use crate::store::vm_lock::VmLock;
use crate::tool::terraform::{LegacyFolder, VmFolder};
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vmid::Vmid;
use std::ops::Deref;
use std::time::Duration;

/// A locked VM; see the module's documentation. What is common to all VMs is reached through it: `vm.settings`,
/// `vm.database`.
pub struct LockedVm<'c, 'h> {
    ctx: &'c Context<'h>,
    name: VmName,
    lock: VmLock,
    begun: Stopwatch,
}

impl<'h> Deref for LockedVm<'_, 'h> {
    type Target = Context<'h>;

    fn deref(&self) -> &Context<'h> {
        self.ctx
    }
}

impl<'h> Context<'h> {
    /// Locks the VM, waiting up to `limit` for other operations on it. `verb` appears in the message that others get.
    pub fn lock_vm<'c>(
        &'c self,
        name: &VmName,
        verb: &str,
        limit: Duration,
    ) -> anyhow::Result<LockedVm<'c, 'h>> {
        Ok(LockedVm::new(self, name, VmLock::acquire(self.host, name, verb, limit)?))
    }

    /// Locks the VM if nobody else is working on it.
    pub fn try_lock_vm<'c>(&'c self, name: &VmName, verb: &str) -> anyhow::Result<Option<LockedVm<'c, 'h>>> {
        Ok(VmLock::try_take(self.host, name, verb)?.map(|lock| LockedVm::new(self, name, lock)))
    }
}

impl<'c, 'h> LockedVm<'c, 'h> {
    fn new(ctx: &'c Context<'h>, name: &VmName, lock: VmLock) -> LockedVm<'c, 'h> {
        LockedVm { ctx, name: name.clone(), lock, begun: ctx.host.stopwatch() }
    }

    /// Its name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// What is common to all VMs.
    pub fn ctx(&self) -> &'c Context<'h> {
        self.ctx
    }

    /// The VM's current record; `None` if it has none.
    pub fn record_now(&self) -> anyhow::Result<Option<VmRecord>> {
        self.ctx.record(&self.name)
    }

    /// The VM's current record; fails unless it exists and is not destroyed (H41).
    pub fn live_record_now(&self) -> anyhow::Result<VmRecord> {
        self.ctx.live_record(&self.name)
    }

    /// Its terraform directory.
    pub fn folder(&self) -> VmFolder {
        self.folder_of(&self.name)
    }

    /// The part of the older package's directory that concerns this VM.
    pub fn legacy_folder(&self) -> LegacyFolder {
        self.legacy_folder_of(&self.name)
    }

    /// Its journal entry.
    pub fn entry(&self) -> anyhow::Result<Option<Entry>> {
        self.journal().read(&self.name)
    }

    /// Replaces its journal entry.
    pub fn write_entry(&self, entry: &Entry) -> anyhow::Result<()> {
        self.journal().write(entry, &self.lock)
    }

    /// Removes its journal entry.
    pub fn remove_entry(&self) -> anyhow::Result<()> {
        self.journal().remove(&self.name, &self.lock)
    }

    /// Writes an audit line about something done in addition to what a command was asked to do. `result` is `ok`, or
    /// why it failed.
    pub fn audit(&self, verb: &str, vmid: Option<Vmid>, status: [Option<Status>; 2], result: &str) {
        let [before, after] = status.map(|status| status.map(Status::as_str));
        let (vm, duration) = (self.name.as_str(), self.begun.elapsed());
        audit::write(
            self.host,
            &Change { verb, vm, vmid: vmid.map(Vmid::get), before, after, result, duration },
        );
    }

    /// Releases the lock and removes its file, for a VM that is gone.
    pub fn forget(self) {
        self.lock.forget();
    }
}

/// Describes a result for the audit trail.
pub fn in_words<T>(result: &anyhow::Result<T>) -> String {
    result.as_ref().map_or_else(|error| format!("{error:#}"), |_| "ok".to_string())
}
