//! A VM's bandwidth limits on its network card (`facts/proxmox.md` sections 2 and 3; hazards H35, H36, H51).
//!
//! Proxmox keeps none of them: a tap is new at every start and whatever was set on it is gone. So the record says what is to
//! be, and throttle, start, resume and reapply set it.

use super::Context;
use super::locked_vm::LockedVm;
use super::machine::Machine;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::value::limits::{FIELD, Limit, Limits};
use crate::value::vm_name::VmName;
use crate::value::vm_record::Status;

/// The two directions.
pub const BOTH: [Limit; 2] = [Limit::BandwidthIn, Limit::BandwidthOut];

/// The limits of a VM's record as it stands now.
pub fn recorded(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Limits> {
    let fields = ctx.database.inspect(|db| Ok(db.fields(name.as_str())))?;
    let limits = Limits::from_record(fields.as_ref().and_then(|fields| fields.get(FIELD)));
    limits.map_err(|why| {
        anyhow::anyhow!(
            "VM {name}: its record cannot be used: {why}; correct or remove its key {FIELD} in {}",
            ctx.database.path().display()
        )
    })
}

/// Sets these directions of a running VM, in order; what failed, and the directions that are not set because of it.
pub fn set(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    limits: &[(Limit, u32)],
    deadline: Deadline,
) -> Result<(), (AgentError, Vec<Limit>)> {
    let node = vm.node();
    for (index, (limit, kbps)) in limits.iter().enumerate() {
        if let Err(error) = node.limit_rate(machine.vmid, &machine.identity, *limit, *kbps, deadline) {
            return Err((error, limits[index..].iter().map(|(limit, _)| *limit).collect()));
        }
    }
    Ok(())
}

/// Sets what the record of a VM says that has just been started, or found running. Nothing where it is suspended or
/// destroyed (H51). What could not be set is returned as warnings, because the guest runs all the same.
pub fn put_back(vm: &LockedVm<'_, '_>, machine: &Machine, deadline: Deadline) -> Vec<String> {
    let name = vm.name();
    let look = || -> anyhow::Result<Limits> {
        let is_active = vm.record_now()?.is_some_and(|record| record.status == Status::Active);
        if is_active { recorded(vm, name) } else { Ok(Limits::default()) }
    };
    let limits = match look() {
        Ok(limits) => limits,
        Err(error) => return vec![format!("its bandwidth limits were not restored: {error:#}")],
    };
    let wanted: Vec<_> =
        BOTH.into_iter().map(|limit| (limit, limits.get(limit))).filter(|(_, kbps)| *kbps > 0).collect();
    match set(vm, machine, &wanted, deadline) {
        Ok(()) => Vec::new(),
        Err((error, missing)) => {
            let missing: Vec<_> = missing.into_iter().map(Limit::name).collect();
            vec![format!(
                "{} not restored: {error}; blockhost-vm-start {name} sets it again",
                if missing.len() == 1 {
                    format!("{} was", missing[0])
                } else {
                    format!("{} were", missing.join(" and "))
                }
            )]
        }
    }
}
