//! `blockhost-vm-start`: starts the guest, then restores what its new tap lacks.

use super::locked_vm::LockedVm;
use super::machine::{self, Machine};
use super::{Context, bandwidth, network};
use crate::host::clock::Deadline;
use crate::host::progress;
use crate::tool::node::Waited;
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vm_state::VmState;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// The admin panel kills us after 60 s.
const LIMIT: Duration = Duration::from_secs(50);

/// What was done, for the person who asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// It was already running.
    pub was_running: bool,
    /// It was suspended and is active again.
    pub resumed: bool,
    /// What could not be set on the host.
    pub warnings: Vec<String>,
}

/// Starts a VM. A suspended VM that is still paid for becomes active; an expired one is refused unless `force`.
pub fn start(ctx: &Context<'_>, name: &VmName, force: bool) -> anyhow::Result<Started> {
    let deadline = ctx.host.deadline_of("start", LIMIT);
    ctx.live_record(name)?;
    let vm = ctx.lock_vm(name, "start", Duration::from_secs(40))?;
    let record = vm.live_record_now()?;
    let resumed = becomes_active(&record, force, ctx.host.now())?;
    let machine = machine::of_record(&vm, record, deadline)?;
    let (was_running, mut warnings) = run(&vm, &machine, deadline)?;
    ctx.host.step("start.running")?;
    if resumed {
        if let Err(error) = ctx.node().set_onboot(machine.vmid, &machine.identity, true, deadline) {
            warnings.push(format!("the VM will not start with the node: {error}"));
        }
        activate(ctx, name)?;
    }
    warnings.extend(bandwidth::put_back(&vm, &machine, deadline));
    Ok(Started { was_running, resumed, warnings })
}

/// Whether starting the VM makes it active again: so for a suspended VM that is still paid for. An expired one is
/// refused unless `force`.
pub(super) fn becomes_active(record: &VmRecord, force: bool, now: DateTime<Utc>) -> anyhow::Result<bool> {
    let name = &record.name;
    let suspended = record.status == Status::Suspended;
    let paid = record.expires_at.is_some_and(|end| end > now);
    if suspended && !paid && !force {
        let expired = record.expires_at.map_or_else(
            || "has no readable expiry".to_string(),
            |end| format!("expired at {}", timestamp::to_text(end)),
        );
        anyhow::bail!(
            "VM {name} is suspended and {expired} (the next gc run may destroy it); \
             renew it with blockhost-vm-resume {name}, or start it without renewing with --force"
        );
    }
    Ok(suspended && paid)
}

/// Starts or unpauses the VM, and connects it. Returns whether it was already running, and what could not be set on the
/// host.
pub fn run(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    deadline: Deadline,
) -> anyhow::Result<(bool, Vec<String>)> {
    let node = vm.node();
    let label = machine.label();
    let state = machine.proven_state(vm, deadline)?;
    machine.ensure_exists(&state)?;
    let was_running = state.running && state.paused != Some(true);
    let decision = network::decision_for(vm, &machine.record);
    if !was_running {
        progress::now(format_args!("{label}: starting it"));
        let waited = if state.running {
            let resume = || node.resume(machine.vmid, &machine.identity, deadline);
            let goes_on = |s: &VmState| {
                s.running && machine::with_pause(vm, machine.vmid, s.clone(), deadline).paused != Some(true)
            };
            node.act_and_wait(machine.act("qm-resume", deadline), resume, goes_on)
        } else {
            network::prepare(&node, (machine.vmid, &machine.identity), &decision, deadline);
            let start = || node.start(machine.vmid, &machine.identity, deadline);
            // Running is not the same as started: the start ends only after the taps are ports of their bridges (H54).
            node.act_and_wait(machine.act("qm-start", deadline), start, |s| s.running && !s.starting)
        };
        match waited.with_context(|| label.clone())? {
            Waited::Done(_) => {}
            // It is running but its start has not ended; what is still missing is reported below.
            Waited::TimedOut(last) if last.running && last.paused != Some(true) => {}
            Waited::Failed(words) => anyhow::bail!(
                "{label}: failed to start: {words} (pvenode task list --vmid {} has more)",
                machine.vmid
            ),
            Waited::TimedOut(last) => anyhow::bail!(
                "{label}: it is still not running after {} s{}; check the node's task log, then try again",
                LIMIT.as_secs(),
                if last.lock.is_empty() { String::new() } else { format!(" (locked: {})", last.lock) }
            ),
        }
    }
    let mut warnings = network::connect(vm, &node, (machine.vmid, &machine.identity), &decision, deadline);
    if was_running && state.paused.is_none() {
        warnings.push(
            "it is running, but may be paused: the API did not answer; to continue a paused VM, run \
            blockhost-vm-start"
                .to_string(),
        );
    }
    Ok((was_running, warnings))
}

/// Marks a record active.
pub(super) fn activate(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<()> {
    ctx.database.update(|db| {
        db.set_status(name.as_str(), Status::Active);
        db.remove(name.as_str(), "suspended_at");
        Ok(())
    })
}
