//! Handles a VM whose VMID now belongs to another guest: either proven gone, or unknown (hazard H64).
//!
//! Somebody deleted the VM outside BlockHost, and the next guest that was created got its VMID. If no guest in the
//! whole cluster is the VM, its record can be closed; if that cannot be determined, only a person can decide
//! (`--forget`). The other guest is left alone in any case.

use super::Context;
use super::machine::{self, Machine};
use crate::host::clock::Deadline;
use crate::value::identity::Identity;
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::VmState;
use anyhow::Context as _;
use std::time::Duration;

/// Time limit for searching the cluster's configurations.
const SEARCH: Duration = Duration::from_secs(20);

/// What a destroy is dealing with.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one at a time, passed on at once")]
pub enum Target {
    /// Our VM, or nothing at its VMID.
    Here(VmState),
    /// Another guest has the VMID, and our VM is nowhere in the cluster; says why its record may be closed.
    Vanished(String),
}

/// Returns the state of a VM for destroy. Fails if the VM found is not ours and ours may exist elsewhere.
pub fn target(ctx: &Context<'_>, machine: &Machine, deadline: Deadline) -> anyhow::Result<Target> {
    judge(ctx, machine, machine.unproven_state(ctx, deadline)?, deadline)
}

/// Returns the state of a VM for commands that switch it off; a VM that vanished counts as gone. A VM identified by
/// name alone may have been renamed and still be running, so it never counts as vanished.
pub fn state(ctx: &Context<'_>, machine: &Machine, deadline: Deadline) -> anyhow::Result<VmState> {
    judged(ctx, machine, machine.unproven_state(ctx, deadline)?, deadline)
}

/// Like `state`, for a state that was already queried.
pub fn judged(
    ctx: &Context<'_>,
    machine: &Machine,
    state: VmState,
    deadline: Deadline,
) -> anyhow::Result<VmState> {
    if matches!(machine.identity, Identity::Name(_)) {
        machine.prove(&state)?;
        return Ok(state);
    }
    Ok(match judge(ctx, machine, state, deadline)? {
        Target::Here(state) => state,
        Target::Vanished(_) => VmState::default(),
    })
}

fn judge(ctx: &Context<'_>, machine: &Machine, state: VmState, deadline: Deadline) -> anyhow::Result<Target> {
    if !is_anothers(machine, &state) {
        machine.prove(&state)?;
        return Ok(Target::Here(state));
    }
    let (name, vmid) = (&machine.record.name, machine.vmid);
    let other = if state.name.is_empty() { "no name" } else { &state.name };
    let taken = format!("{}: VMID {vmid} now belongs to another guest ({other})", machine.label());
    let address = machine.record.ipv4.filter(|_| matches!(machine.identity, Identity::Name(_)));
    let found = match ctx.node().find(&machine.identity, address, deadline.at_most(SEARCH)) {
        Ok(found) => found,
        Err(why) => anyhow::bail!(
            "{taken}: expected {}, found {}. Whether VM {name} is elsewhere in the cluster is unknown: {why}; nothing was done. If it was deleted outside BlockHost, close its record alone with blockhost-vm-destroy {name} --forget",
            machine.identity,
            state.description()
        ),
    };
    anyhow::ensure!(
        found.is_empty(),
        "{taken}: expected {}, found {}, and {} may be VM {name}; nothing was done. If it is not, close the record alone with blockhost-vm-destroy {name} --forget",
        machine.identity,
        state.description(),
        found.join(", ")
    );
    Ok(Target::Vanished(format!(
        "{taken}, and no guest of the cluster has {}: VM {name} was deleted outside BlockHost; closing its record and \
         leaving the other guest alone",
        machine.identity
    )))
}

/// Whether the guest with this VMID is known not to be the VM.
fn is_anothers(machine: &Machine, state: &VmState) -> bool {
    state.exists && state.tells_whose() && !state.is(&machine.identity, &machine.record.name)
}

/// Fails if the record's VM is known to exist: the record must not be closed without deleting the VM.
pub fn ensure_not_here(ctx: &Context<'_>, record: &VmRecord, deadline: Deadline) -> anyhow::Result<()> {
    let name = &record.name;
    // An older record may have a wrong VMID; if nothing matches, the VMID in the record is the only one that can be
    // checked.
    let (vmid, identity) = match machine::locate(ctx, record, deadline) {
        Ok(place) => (place.vmid, place.identity),
        Err(_) => (record.vmid, Identity::Name(name.clone())),
    };
    let state = ctx.node().state(vmid, Some(&identity), deadline);
    let state = state.with_context(|| format!("VM {name} (VMID {vmid}): cannot query the node"))?;
    anyhow::ensure!(
        !state.exists || !state.is(&identity, name),
        "VM {name} (VMID {vmid}) exists on node {}; destroy it without --forget",
        state.node
    );
    Ok(())
}
