//! A VM whose VMID is somebody else's by now: gone by proof, or not known (hazard H64).
//!
//! Somebody deleted the VM outside BlockHost, and the next guest that was made got its number. Where the VM is on no
//! guest of the whole cluster its record can be closed; where that cannot be known, only a person can say so
//! (`--forget`). The other guest is left alone in any case.

use super::Context;
use super::machine::{self, Machine};
use crate::host::clock::Deadline;
use crate::value::identity::Identity;
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::VmState;
use anyhow::Context as _;
use std::time::Duration;

/// How long the search through the cluster's configurations may take.
const SEARCH: Duration = Duration::from_secs(20);

/// What a destroy has before it.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one at a time, passed on at once")]
pub enum Target {
    /// Our machine, or nothing at its VMID.
    Here(VmState),
    /// Another guest has the VMID, and ours is nowhere in the cluster: why its record may be closed.
    Vanished(String),
}

/// The state of a machine for destroy. An error where the machine is not ours and ours may live elsewhere.
pub fn target(ctx: &Context<'_>, machine: &Machine, deadline: Deadline) -> anyhow::Result<Target> {
    judge(ctx, machine, machine.unproven_state(ctx, deadline)?, deadline)
}

/// The state of a machine; one that vanished is a machine that is gone. For those who switch off: a machine that has
/// only a name may have been renamed, and runs on.
pub fn state(ctx: &Context<'_>, machine: &Machine, deadline: Deadline) -> anyhow::Result<VmState> {
    judged(ctx, machine, machine.unproven_state(ctx, deadline)?, deadline)
}

/// The same for a state that was asked for.
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

/// Whether it is known that the guest with this VMID is not the machine.
fn is_anothers(machine: &Machine, state: &VmState) -> bool {
    state.exists && state.tells_whose() && !state.is(&machine.identity, &machine.record.name)
}

/// Fails where the record's machine is known to be there: its record must not be closed without deleting it.
pub fn ensure_not_here(ctx: &Context<'_>, record: &VmRecord, deadline: Deadline) -> anyhow::Result<()> {
    let name = &record.name;
    // An older record may have a wrong VMID; where nothing agrees, what it says is all there is to look at.
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
