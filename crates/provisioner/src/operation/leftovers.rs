//! A VM's files are removed only once the VM they made is gone, whatever the database says: an older copy of it may
//! have lost the record, or restored the tombstone of an earlier VM of the same name (hazard H08).

use super::locked_vm::LockedVm;
use crate::tool::terraform_state::StateFile;
use crate::value::identity::Identity;
use crate::value::vm_record::VmRecord;
use anyhow::Context as _;
use std::time::Duration;

/// Fails if the VM that the terraform directory or the journal has under this name still exists. The VM of `record` is
/// known to be gone.
pub fn ensure_none_lives(vm: &LockedVm<'_, '_>, record: Option<&VmRecord>) -> anyhow::Result<()> {
    let (ctx, name, folder) = (vm.ctx(), vm.name(), vm.folder());
    let mut machines = Vec::new();
    match folder.machine().unwrap_or_default() {
        Some(machine) => machines.push(machine),
        // Our files, older ones too, always contain both; a state without a file was edited by hand.
        None if record.is_none() => {
            if let StateFile::Holds(resources) = folder.state()? {
                anyhow::ensure!(
                    resources.is_empty(),
                    "VM {name}: {} describes a VM, but not which; look for it on the node, then remove the directory",
                    folder.path().display()
                );
            }
        }
        None => {}
    }
    if let Some(entry) = vm.entry()?
        && let Some(uuid) = entry.smbios_uuid
    {
        machines.push((entry.checked_vmid()?, uuid));
    }
    machines.dedup();
    let gone = record.and_then(|record| record.smbios_uuid);
    for (vmid, uuid) in machines.into_iter().filter(|(_, uuid)| Some(*uuid) != gone) {
        let identity = Identity::Uuid(uuid);
        let deadline = vm.host.deadline(Duration::from_secs(45));
        let state = ctx.node_uninterrupted().state(vmid, Some(&identity), deadline);
        let state = state.with_context(|| format!("VM {name} (VMID {vmid}): cannot query the node"))?;
        let is_ours = state.is(&identity, name) || !state.tells_whose();
        anyhow::ensure!(
            !state.exists || !is_ours,
            "VM {name} (VMID {vmid}, UUID {uuid}) exists, but has no record in {}: the database was replaced by an \
             older copy, or the record was removed manually; restore the record, then destroy again",
            ctx.database.path().display()
        );
    }
    Ok(())
}
