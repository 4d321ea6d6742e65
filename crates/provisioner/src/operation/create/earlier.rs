//! What earlier operations on a VM of this name left: it is ended before a new VM begins.

use super::check;
use crate::host::clock::Deadline;
use crate::operation::locked_vm::{LockedVm, in_words};
use crate::operation::recovery::{self, MayBeLate};
use crate::operation::{destroy, restore};
use crate::store::journal::{Entry, Step};
use crate::tool::terraform_state::StateFile;
use anyhow::Context as _;
use std::time::Duration;

/// The entry of a create that was registered and whose result nobody has seen: this create goes on with it.
pub fn unreported(vm: &LockedVm<'_, '_>) -> anyhow::Result<Option<Entry>> {
    Ok(vm.entry()?.filter(|entry| entry.step == Step::Registered))
}

/// Ends what did not end, and fails where the name is not free after that.
pub fn make_way(vm: &LockedVm<'_, '_>) -> anyhow::Result<()> {
    let name = vm.name();
    // A destroy that did not end is ended by what follows: a live record makes the name taken, a tombstone's leftovers
    // are removed.
    if let Some(entry) = vm.entry()?.filter(|entry| matches!(entry.step, Step::Taken | Step::Applying)) {
        tracing::info!("VM {name}: rolling back an interrupted create");
        undo_audited(vm, &entry).with_context(|| {
            format!("VM {name}: an earlier create of this name was interrupted and cannot be rolled back yet")
        })?;
    }
    restore::of_vm(vm)?;
    check::name_is_free(vm.ctx(), name)?;
    remove_leftovers(vm)
}

/// A create that did not end is another one's: its undo has a line of its own in the audit trail.
fn undo_audited(vm: &LockedVm<'_, '_>, entry: &Entry) -> anyhow::Result<()> {
    let undone = recovery::undo(vm, entry, recovery::PATIENT, MayBeLate::Yes);
    vm.audit("undo-create", entry.checked_vmid().ok(), [None, None], &in_words(&undone.ended));
    undone.ended
}

/// What a destroy of this name left behind. A new VM must never begin with an old one's terraform state: its
/// VMID may be a stranger's by now, whom terraform would then take for ours.
fn remove_leftovers(vm: &LockedVm<'_, '_>) -> anyhow::Result<()> {
    let (name, folder) = (vm.name(), vm.folder());
    // The journal first: a fresh host has no database yet.
    if vm.entry()?.is_some()
        && let Some(record) = vm.record_now()?
    {
        tracing::info!("VM {name}: completing an interrupted destroy");
        let ended = destroy::tidy_up(vm, &record, Deadline::after(Duration::from_secs(60)));
        vm.audit("finish-destroy", Some(record.vmid), [None, Some(record.status)], &in_words(&ended));
        return ended;
    }
    if !folder.exists() {
        return Ok(());
    }
    let nothing_made = match folder.state()? {
        StateFile::Missing => true,
        StateFile::Holds(resources) => resources.is_empty(),
        StateFile::Torn => false,
    };
    anyhow::ensure!(
        nothing_made && !folder.is_busy()?,
        "VM {name}: {} is left over from a VM of this name, which may still exist; run blockhost-vm-destroy {name} \
         first",
        folder.path().display()
    );
    folder.remove()
}
