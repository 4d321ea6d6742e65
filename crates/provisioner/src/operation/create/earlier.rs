//! Completes or rolls back what earlier operations on a VM of this name left, before a new VM is created.

use super::check;
use crate::operation::locked_vm::{LockedVm, in_words};
use crate::operation::recovery::{self, MayBeLate};
use crate::operation::{destroy, restore};
use crate::store::journal::{Entry, Step};
use crate::tool::terraform_state::StateFile;
use anyhow::Context as _;
use std::time::Duration;

/// Returns the entry of a create that was registered but whose result was never reported: this create completes it.
pub fn unreported(vm: &LockedVm<'_, '_>) -> anyhow::Result<Option<Entry>> {
    Ok(vm.entry()?.filter(|entry| entry.step == Step::Registered))
}

/// Ends interrupted operations; fails if the name is still taken after that.
pub fn make_way(vm: &LockedVm<'_, '_>) -> anyhow::Result<()> {
    let name = vm.name();
    // An interrupted destroy needs no step of its own here: if its record is live, the name is taken; if it is a
    // tombstone, its leftovers are removed below.
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

/// Rolls back an interrupted create. It was another operation, so its rollback gets its own line in the audit trail.
fn undo_audited(vm: &LockedVm<'_, '_>, entry: &Entry) -> anyhow::Result<()> {
    let undone = recovery::undo(vm, entry, recovery::PATIENT, MayBeLate::Yes);
    vm.audit("undo-create", entry.checked_vmid().ok(), [None, None], &in_words(&undone.ended));
    undone.ended
}

/// Removes what a destroy of this name left behind. A new VM must never start with an old one's terraform state: by now
/// the old VMID may be somebody else's VM, which terraform would take for ours.
fn remove_leftovers(vm: &LockedVm<'_, '_>) -> anyhow::Result<()> {
    let (name, folder) = (vm.name(), vm.folder());
    // The journal is checked first, because a fresh host has no database yet.
    if vm.entry()?.is_some()
        && let Some(record) = vm.record_now()?
    {
        tracing::info!("VM {name}: completing an interrupted destroy");
        let ended = destroy::tidy_up(vm, &record, vm.host.deadline(Duration::from_secs(60)));
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
