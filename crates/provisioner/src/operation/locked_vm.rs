//! A VM that one operation works on: its lock, its name, its folder, its journal entry, its lines in the audit trail.
//!
//! Every function that changes a VM takes a [`LockedVm`]: without the lock it does not compile (hazard H19). Commands
//! write one line each for what was asked of them ([`super::audited`]); what is done besides (an undo, a record put
//! back, a VM that gc switches off) is written here.

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

/// See the head of this file. What belongs to all VMs is reached through it: `vm.settings`, `vm.database`.
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
    /// Waits for other operations on the VM, at most `limit`. `verb` is for the message that others get.
    pub fn lock_vm<'c>(
        &'c self,
        name: &VmName,
        verb: &str,
        limit: Duration,
    ) -> anyhow::Result<LockedVm<'c, 'h>> {
        Ok(LockedVm::new(self, name, VmLock::acquire(self.host, name, verb, limit)?))
    }

    /// The VM if nobody works on it.
    pub fn try_lock_vm<'c>(&'c self, name: &VmName, verb: &str) -> anyhow::Result<Option<LockedVm<'c, 'h>>> {
        Ok(VmLock::try_take(self.host, name, verb)?.map(|lock| LockedVm::new(self, name, lock)))
    }
}

impl<'c, 'h> LockedVm<'c, 'h> {
    fn new(ctx: &'c Context<'h>, name: &VmName, lock: VmLock) -> LockedVm<'c, 'h> {
        LockedVm { ctx, name: name.clone(), lock, begun: Stopwatch::start() }
    }

    /// Its name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// What belongs to all VMs.
    pub fn ctx(&self) -> &'c Context<'h> {
        self.ctx
    }

    /// Its record as it stands now; `None` where there is none.
    pub fn record_now(&self) -> anyhow::Result<Option<VmRecord>> {
        self.ctx.record(&self.name)
    }

    /// The same of a VM that is there and not destroyed (H41).
    pub fn live_record_now(&self) -> anyhow::Result<VmRecord> {
        self.ctx.live_record(&self.name)
    }

    /// Its terraform folder.
    pub fn folder(&self) -> VmFolder {
        self.folder_of(&self.name)
    }

    /// The folder of the older package, as far as it is about this VM.
    pub fn legacy_folder(&self) -> LegacyFolder {
        self.legacy_folder_of(&self.name)
    }

    /// Its journal entry.
    pub fn entry(&self) -> anyhow::Result<Option<Entry>> {
        self.journal().read(&self.name)
    }

    /// Writes its journal entry, whole.
    pub fn write_entry(&self, entry: &Entry) -> anyhow::Result<()> {
        self.journal().write(entry, &self.lock)
    }

    /// Removes it.
    pub fn remove_entry(&self) -> anyhow::Result<()> {
        self.journal().remove(&self.name, &self.lock)
    }

    /// A line in the audit trail about something that was done besides what a command was asked for. `result` is `ok`, or
    /// why it failed.
    pub fn audit(&self, verb: &str, vmid: Option<Vmid>, status: [Option<Status>; 2], result: &str) {
        let [before, after] = status.map(|status| status.map(Status::as_str));
        let (vm, duration) = (self.name.as_str(), self.begun.elapsed());
        audit::write(
            self.host,
            &Change { verb, vm, vmid: vmid.map(Vmid::get), before, after, result, duration },
        );
    }

    /// Lets go and removes the lock file: for a VM that is gone.
    pub fn forget(self) {
        self.lock.forget();
    }
}

/// How something ended, for the audit trail.
pub fn in_words<T>(result: &anyhow::Result<T>) -> String {
    result.as_ref().map_or_else(|error| format!("{error:#}"), |_| "ok".to_string())
}
