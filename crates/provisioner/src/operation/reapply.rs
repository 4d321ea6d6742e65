//! `blockhost-provisioner-reapply`: after a reboot of the node the taps are new and the routes gone; what our running
//! VMs lack is put back (hazard H36). Suspended and destroyed ones are left alone (H51).

use super::create::traces_of_vms;
use super::{Context, machine, network};
use crate::host::clock::Deadline;
use crate::host::failpoint;
use crate::host::root_agent::AgentError;
use crate::store::vm_database::{DatabaseError, Fields, Status, VmRecord};
use crate::store::vm_lock::VmLock;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use std::time::Duration;

/// For one VM.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the root agent may take to come up after a reboot.
const AGENT_START: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reapplied {
    /// Running VMs whose route and isolation stand now.
    pub connected: usize,
    /// VMs that are off: nothing to do.
    pub off: usize,
    /// What could not be set, one line each.
    pub failures: Vec<String>,
}

/// Goes through all active VMs. Safe at any time; one VM's failure does not stop the others.
pub fn reapply(ctx: &Context<'_>) -> anyhow::Result<Reapplied> {
    let mut done = Reapplied::default();
    let read = ctx.database.gather(Fields::All, Vec::new, |found, view| found.push(view.to_record()));
    let found = match read {
        // A host that has never had a VM; the unit runs at its first boot too.
        Err(DatabaseError::Missing(_)) if traces_of_vms(ctx)?.is_none() => return Ok(done),
        other => other?,
    };
    let mut records: Vec<VmRecord> = Vec::new();
    for record in found {
        match record {
            Ok(record) if record.status == Status::Active => records.push(record),
            Ok(_) => {}
            Err(why) => tracing::warn!("{}: {why}; skipped", ctx.database.path().display()),
        }
    }
    if let Some(first) = records.first() {
        wait_for_agent(ctx, first.vmid)?;
    }
    for record in records {
        ctx.host.interrupt.check()?;
        let name = record.name.clone();
        match one(ctx, record) {
            Ok(None) => done.off += 1,
            Ok(Some(warnings)) if warnings.is_empty() => done.connected += 1,
            Ok(Some(warnings)) => {
                done.failures.extend(warnings.into_iter().map(|w| format!("VM {name}: {w}")))
            }
            Err(error) => done.failures.push(format!("{error:#}")),
        }
    }
    Ok(done)
}

/// Waits until the root agent answers at all; what it says about this VM is looked at later. One that hangs is given
/// up once, not once for each VM.
fn wait_for_agent(ctx: &Context<'_>, vmid: Vmid) -> anyhow::Result<()> {
    let deadline = Deadline::after(failpoint::limit("reapply-agent", AGENT_START));
    let node = ctx.node();
    let mut told = false;
    loop {
        match node.state(vmid, deadline) {
            Ok(_) | Err(AgentError::Said { .. }) => return Ok(()),
            Err(error) if deadline.passed() => {
                return Err(error).context("nothing was put back: the root agent did not come up");
            }
            Err(error) if !told => {
                tracing::info!("{error}; waiting for it, at most {} s", deadline.left().as_secs() + 1);
                told = true;
            }
            Err(_) => {}
        }
        node.pause(Duration::from_millis(250).min(deadline.left()))?;
    }
}

/// One VM under its lock, its record read again: what was suspended meanwhile stays unconnected.
fn one(ctx: &Context<'_>, record: VmRecord) -> anyhow::Result<Option<Vec<String>>> {
    let deadline = Deadline::after(LIMIT);
    let name = record.name;
    let _lock = VmLock::take(ctx.host, &name, "reapply", LIMIT)?;
    let Some(record) = ctx.record(&name)?.filter(|r| r.status == Status::Active) else { return Ok(None) };
    let machine = machine::of_record(ctx, record, deadline)?;
    // Not `proven_state`: whether it is paused does not matter here, and the API may still be starting.
    let state = ctx.node().state(machine.vmid, deadline);
    let state = state.with_context(|| format!("{}: cannot ask the node", machine.label()))?;
    machine.prove(&state)?;
    if !state.exists || !state.running {
        return Ok(None);
    }
    Ok(Some(network::connect(ctx, &ctx.node(), machine.vmid, machine.record.ipv6, deadline)))
}
