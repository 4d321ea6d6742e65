//! `blockhost-vm-throttle`: limits CPU, disk and network of a running VM (`facts/contract/commands.md#throttle`; hazards
//! H02, H34, H35, H41, H51).
//!
//! In order: the record, the proof that the VM is ours and running, and its configuration; then the CPU and IOPS limits
//! in the configuration, the record, and the bandwidth. If killed after the configuration, the node has limits that the
//! record lacks: the next call reports that and corrects the record, as the node is right. If killed after the record,
//! the bandwidth is not set yet: the next call, start or reapply sets it, as the record is right.
//!
//! The disaster would be to report a limit as in force that is not, when somebody paid for it or relies on it.

use super::Context;
use super::bandwidth::{self, recorded};
use super::locked_vm::LockedVm;
use super::machine::{self, Machine};
use super::metrics::state_of;
use crate::host::clock::Deadline;
use crate::plan::throttle::{LimitRequest, NodeLimits, agent_limits, current_config};
use crate::tool::throttle;
use crate::value::limits::{FIELD, Limit, Limits};
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// The admin panel kills whatever takes longer than 60 s.
const LIMIT: Duration = Duration::from_secs(50);
/// How long to wait for other operations on the VM.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// How long a change may take to show in the configuration if the request got no answer.
const UNANSWERED: Duration = Duration::from_secs(8);
/// Pause between two checks of the configuration.
const POLL: Duration = Duration::from_millis(300);

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttled {
    /// One line per change.
    pub lines: Vec<String>,
    /// What else a person should know.
    pub warnings: Vec<String>,
}

/// The limits of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its VMID.
    pub vmid: u32,
    /// Whether it is running; otherwise the limits have no effect yet.
    pub is_running: bool,
    /// What is in force: CPU and IOPS as the node has them, bandwidth as the guard has it, or else as the record says.
    pub limits: Limits,
    /// The same limits for a person, in the order of [`Limit::ALL`].
    pub words: Vec<(Limit, String)>,
    /// Differences between record and node.
    pub differences: Vec<String>,
}

/// Changes limits of a running VM.
pub fn throttle(ctx: &Context<'_>, name: &VmName, request: &LimitRequest) -> anyhow::Result<Throttled> {
    let deadline = ctx.host.deadline_of("throttle", LIMIT);
    runs_for_us(&ctx.live_record(name)?)?;
    let vm = ctx.lock_vm(name, "throttle", LOCK_WAIT)?;
    let record = vm.live_record_now()?;
    runs_for_us(&record)?;
    let before = recorded(ctx, name)?;
    let machine = machine::of_record(&vm, record, deadline)?;
    let label = machine.label();
    let state = machine.settled_state(&vm, deadline)?;
    machine.ensure_exists(&state)?;
    anyhow::ensure!(
        state.running,
        "{label} is not running, and limits are set on running VMs only; start it with blockhost-vm-start {name}"
    );
    let node = configuration(ctx, &machine, deadline)?;
    let limits = agent_limits(request, &node).with_context(|| label.clone())?;
    let differences = node.differences(&before);
    let mut warnings = Vec::new();
    if !differences.is_empty() {
        warnings.push(format!(
            "VM {name}: changed outside of blockhost-vm-throttle, or by one that was interrupted: {}; the record is corrected",
            differences.join("; ")
        ));
    }
    let configured = match &limits {
        None => Ok(node.clone()),
        Some(limits) => configure(&vm, &machine, limits, request, &node, deadline),
    };
    ctx.host.step("throttle.configured")?;
    let after = match &configured {
        Ok(after) => after,
        Err(failed) => failed.after.as_ref().unwrap_or(&node),
    };
    let mut limits = after.recorded(&before);
    if let Err(failed) = configured.as_ref() {
        if failed.after.is_some() {
            record_limits(ctx, name, &limits)?;
        }
        return Err(half_set(&label, name, request, failed, &[]));
    }
    for (limit, value) in request.changes().filter(|(limit, _)| limit.is_bandwidth()) {
        limits.set(limit, value);
    }
    record_limits(ctx, name, &limits)?;
    ctx.host.step("throttle.recorded")?;
    set_bandwidth(&vm, &machine, request, after, (&before, limits), deadline)?;
    let lines = confirmations(name, request, |limit| match limit.is_bandwidth() {
        true => [&before, &limits].map(|limits| limit.in_words(limits.get(limit))),
        false => [&node, after].map(|node| node.in_words(limit)),
    });
    Ok(Throttled { lines, warnings })
}

/// Returns the limits of a VM, running or not. Changes nothing.
pub fn show(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Shown> {
    let deadline = ctx.host.deadline_of("throttle", LIMIT);
    let record = ctx.live_record(name)?;
    let recorded = recorded(ctx, name);
    let machine = machine::seen(ctx, record, deadline)?;
    let state = machine.state(ctx, deadline)?;
    machine.ensure_exists(&state)?;
    let node = configuration(ctx, &machine, deadline)?;
    let (record, mut differences) = match recorded {
        Ok(record) => (record, node.differences(&record)),
        Err(error) => (Limits::default(), vec![format!("{error:#}")]),
    };
    let waits = node.pending.iter().map(|key| format!("a change of {key} waits for the VM's next start"));
    differences.extend(waits);
    let mut limits = node.recorded(&record);
    if let Some(guarded) = state.guard.as_ref().and_then(|guard| guard.bandwidth()) {
        for limit in bandwidth::BOTH {
            let (is, said) = (guarded.get(limit), record.get(limit));
            if is != said {
                let [is, said] = [is, said].map(|value| limit.in_words(value));
                differences.push(format!("{}: the guard has {is}, the record says {said}", limit.name()));
            }
            limits.set(limit, is);
        }
    }
    let words = |limit: Limit| match limit.is_bandwidth() {
        true => limit.in_words(limits.get(limit)),
        false => node.in_words(limit),
    };
    Ok(Shown {
        vmid: machine.vmid.get(),
        is_running: state.running,
        limits,
        words: Limit::ALL.into_iter().map(|limit| (limit, words(limit))).collect(),
        differences,
    })
}

/// Refuses a VM that is suspended.
pub(super) fn runs_for_us(record: &VmRecord) -> anyhow::Result<()> {
    let name = &record.name;
    anyhow::ensure!(
        record.status == Status::Active,
        "VM {name} is suspended, and limits are set on running VMs only; resume it with blockhost-vm-resume {name}"
    );
    Ok(())
}

/// Reads the limits in a VM's configuration; the same answer proves that the VM is ours.
pub(super) fn configuration(
    ctx: &Context<'_>,
    machine: &Machine,
    deadline: Deadline,
) -> anyhow::Result<NodeLimits> {
    let cannot = || format!("{}: cannot read its limits from the node", machine.label());
    let (access, api) = ctx.api().with_context(cannot)?;
    let items = throttle::configuration(api, access.node.as_str(), machine.vmid, deadline);
    let items = items.with_context(cannot)?;
    machine.prove(&state_of(&Value::Object(current_config(&items)), &machine.identity))?;
    Ok(NodeLimits::of(&items))
}

/// A change of the configuration that was not made as requested.
struct Failed {
    /// Why.
    cause: anyhow::Error,
    /// What is in force now; `None` if that cannot be read.
    after: Option<NodeLimits>,
}

/// Sets CPU and IOPS limits. A `qm set` with several options may apply the first of them and then fail
/// (`facts/proxmox.md` section 1), so anything but success is followed by a check.
fn configure(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    limits: &serde_json::Map<String, Value>,
    request: &LimitRequest,
    before: &NodeLimits,
    deadline: Deadline,
) -> Result<NodeLimits, Failed> {
    let set = vm.node().set_throttle(machine.vmid, &machine.identity, limits, deadline);
    let (cause, until) = match set {
        // The root agent has verified the change.
        Ok(true) => return Ok(before.with(request)),
        Ok(false) => (None, deadline),
        Err(error) if error.outcome_unknown() => {
            tracing::warn!("{}: {error}; reading its configuration", machine.label());
            (Some(anyhow::Error::from(error)), deadline.at_most(UNANSWERED))
        }
        Err(error) => {
            let after = configuration(vm, machine, vm.host.deadline(UNANSWERED)).ok();
            return Err(Failed { cause: error.into(), after });
        }
    };
    // A failure that the root agent reports belongs to this request if it has begun it; otherwise it may belong to an
    // earlier one.
    let is_begun = cause.is_none();
    let (after, failure) = wait_for(vm, machine, request, is_begun, until);
    match after {
        Ok(after) if has_all(request, &after) => Ok(after),
        Ok(after) => {
            let failure = failure.map(anyhow::Error::msg).or(cause);
            let cause =
                failure.unwrap_or_else(|| anyhow::anyhow!("the node is busy: qm set did not finish in time"));
            Err(Failed { cause, after: Some(after) })
        }
        Err(error) => Err(Failed { cause: cause.unwrap_or(error), after: None }),
    }
}

fn has_all(request: &LimitRequest, node: &NodeLimits) -> bool {
    request.changes().filter(|(limit, _)| !limit.is_bandwidth()).all(|(limit, value)| node.has(limit, value))
}

/// Polls the configuration until it matches the request or, if `is_begun`, the root agent's `qm` has failed. Returns
/// the last configuration read and, in the case of a failure, the output of that `qm`.
fn wait_for(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    request: &LimitRequest,
    is_begun: bool,
    until: Deadline,
) -> (anyhow::Result<NodeLimits>, Option<String>) {
    loop {
        // Query the failure first: if it happened before the configuration was read, the configuration already reflects
        // it.
        let state = is_begun.then(|| machine.state(vm, until).ok()).flatten();
        let failed = state.and_then(|state| state.failed).filter(|failed| failed.action == throttle::SET);
        let look = configuration(vm, machine, until);
        let is_there = look.as_ref().is_ok_and(|node| has_all(request, node));
        if is_there || failed.is_some() || until.passed() || vm.node().pause(POLL).is_err() {
            return (look, failed.map(|failed| failed.words));
        }
    }
}

/// Sets the requested bandwidth limits, and sets the other recorded ones again, because an interrupted call may not
/// have set them. On failure the record goes back to its previous values.
fn set_bandwidth(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    request: &LimitRequest,
    node: &NodeLimits,
    (before, limits): (&Limits, Limits),
    deadline: Deadline,
) -> anyhow::Result<()> {
    let is_asked = |limit: Limit| request.wanted(limit).is_some();
    let wanted: Vec<_> = bandwidth::BOTH
        .into_iter()
        .filter(|limit| is_asked(*limit) || limits.get(*limit) > 0)
        .map(|limit| (limit, limits.get(limit)))
        .collect();
    let Err((error, missing)) = bandwidth::set(vm, machine, &wanted, deadline) else { return Ok(()) };
    let mut kept = limits;
    if !error.outcome_unknown() {
        missing.iter().for_each(|limit| kept.set(*limit, before.get(*limit)));
        record_limits(vm, vm.name(), &kept)?;
    }
    let failed = Failed { cause: error.into(), after: Some(node.clone()) };
    let missing: Vec<_> = missing.into_iter().filter(|limit| is_asked(*limit)).collect();
    if missing.is_empty() {
        // What was requested is in force; only limits that were not part of the request could not be set again.
        tracing::warn!(
            "{}: its other bandwidth limit was not set again: {:#}",
            machine.label(),
            failed.cause
        );
        return Ok(());
    }
    Err(half_set(&machine.label(), vm.name(), request, &failed, &missing))
}

/// Builds the error for a request that is only partly in force. `missing`: the directions that are not.
fn half_set(
    label: &str,
    name: &VmName,
    request: &LimitRequest,
    failed: &Failed,
    missing: &[Limit],
) -> anyhow::Error {
    let Some(after) = &failed.after else {
        return anyhow::anyhow!(
            "{label}: the limits may not be in force: {:#}; check with blockhost-vm-throttle {name} --show",
            failed.cause
        );
    };
    // If no direction is named, setting the configuration failed and no direction was tried.
    let has = |limit: Limit, value| match limit.is_bandwidth() {
        true => !missing.is_empty() && !missing.contains(&limit),
        false => after.has(limit, value),
    };
    let (set, not_set): (Vec<_>, Vec<_>) = request.changes().partition(|(limit, value)| has(*limit, *value));
    let list = |limits: &[(Limit, u32)]| {
        let each = limits.iter().map(|(limit, value)| format!("{} {}", limit.name(), limit.in_words(*value)));
        each.collect::<Vec<_>>().join(", ")
    };
    let in_force = if set.is_empty() { String::new() } else { format!("; in force: {}", list(&set)) };
    anyhow::anyhow!("{label}: not in force: {}: {:#}{in_force}", list(&not_set), failed.cause)
}

/// Writes the limits into the record if they differ; keys that other programs put there are kept.
pub(super) fn record_limits(ctx: &Context<'_>, name: &VmName, limits: &Limits) -> anyhow::Result<()> {
    ctx.database.update(|db| {
        let fields = db.fields(name.as_str());
        let fields = fields.with_context(|| format!("VM {name}: its record was removed in the meantime"))?;
        let present = fields.get(FIELD).filter(|value| !value.is_null());
        match limits.to_record(present) {
            Some(value) if present != Some(&value) => db.set(name.as_str(), FIELD, &value),
            None if present.is_some() => db.remove(name.as_str(), FIELD),
            _ => {}
        }
        Ok(())
    })
}

/// Returns one line for each limit that was named and for each that was removed. `words` gives a limit before and after
/// the change, for a person.
pub(super) fn confirmations(
    name: &VmName,
    request: &LimitRequest,
    words: impl Fn(Limit) -> [String; 2],
) -> Vec<String> {
    let line = |limit: Limit| {
        let [was, is] = words(limit);
        let is_named = request.named.iter().any(|(named, _)| *named == limit);
        match was == is {
            true if is_named => Some(format!("VM {name}: {} {is} (unchanged)", limit.name())),
            true => None,
            false => Some(format!("VM {name}: {} {is} (before: {was})", limit.name())),
        }
    };
    let lines: Vec<_> = request.changes().filter_map(|(limit, _)| line(limit)).collect();
    if lines.is_empty() { vec![format!("VM {name}: no limits were set")] } else { lines }
}
