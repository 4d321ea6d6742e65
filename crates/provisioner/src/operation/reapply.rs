//! `blockhost-provisioner-reapply`: after a reboot of the node the taps are new and the routes gone; restores what our
//! running VMs lack (hazard H36). Suspended and destroyed VMs are left alone (H51).

use super::create::traces_of_vms;
use super::network::Isolation;
use super::{Context, bandwidth, guard_upkeep, machine, network, node_cloud_init, restore};
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::store::vm_database::{DatabaseError, Fields};
use crate::tool::node::Node;
use crate::value::identity::Identity;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use std::collections::VecDeque;
use std::time::Duration;

/// Time limit for one VM, from the first check of it.
const LIMIT: Duration = Duration::from_secs(30);
/// With this much of its limit left, a VM whose port has not appeared is tried for the last time.
const LAST_TRY: Duration = Duration::from_secs(2);
/// Pause after each round over all VMs that wait for their port.
const ROUND: Duration = Duration::from_millis(300);
/// How long the root agent may take to start after a reboot.
const AGENT_START: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reapplied {
    /// Number of running VMs whose route and isolation are set now.
    pub connected: usize,
    /// Number of VMs that are off and need nothing.
    pub off: usize,
    /// Active VMs that are missing on the node.
    pub missing: Vec<String>,
    /// What VMs that are gone had left and was removed, one line each.
    pub cleared: Vec<String>,
    /// What could not be set, one line each.
    pub failures: Vec<String>,
}

impl Reapplied {
    /// The counts, for a person; VMs missing on the node are named.
    pub fn summary(&self) -> String {
        let vms = if self.connected == 1 { "VM" } else { "VMs" };
        let mut text = format!("reconnected {} {vms}; {} stopped", self.connected, self.off);
        if !self.missing.is_empty() {
            text.push_str(&format!(
                ", {} missing on the node ({})",
                self.missing.len(),
                self.missing.join(", ")
            ));
        }
        text
    }
}

/// Goes through all active VMs. Safe at any time; one VM's failure does not stop the others.
pub fn reapply(ctx: &Context<'_>) -> anyhow::Result<Reapplied> {
    if let Some(danger) = node_cloud_init::danger(ctx.host) {
        tracing::warn!("{danger}");
    }
    let mut done = Reapplied::default();
    let read = ctx.database.gather(Fields::All, Vec::new, |found, view| found.push(view.to_record()));
    let found = match read {
        // The host has never had a VM; the unit also runs at its first boot.
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
    // Only now, since after a reboot the root agent has started while we waited for it.
    for name in restore::vanished(ctx, None) {
        records.extend(ctx.record(&name)?.filter(|record| record.status == Status::Active));
    }
    // Alternating between VMs: right after a boot their ports appear one after another, and each may take its time
    // (H54).
    let mut waiting: VecDeque<(VmName, Option<Deadline>)> =
        records.into_iter().map(|record| (record.name, None)).collect();
    let mut put_off = 0;
    while let Some((name, deadline)) = waiting.pop_front() {
        ctx.host.interrupt.check()?;
        let deadline = deadline.unwrap_or_else(|| ctx.host.deadline_of("reapply", LIMIT));
        match one(ctx, &name, deadline) {
            Ok(Ended::Off) => done.off += 1,
            Ok(Ended::Missing) => done.missing.push(name.to_string()),
            Ok(Ended::NotYet) => {
                waiting.push_back((name, Some(deadline)));
                put_off += 1;
                if put_off >= waiting.len() {
                    ctx.node().pause(ROUND)?;
                    put_off = 0;
                }
            }
            Ok(Ended::Connected(warnings)) if warnings.is_empty() => done.connected += 1,
            Ok(Ended::Connected(warnings)) => {
                done.failures.extend(warnings.into_iter().map(|w| format!("VM {name}: {w}")))
            }
            Err(error) => done.failures.push(format!("{error:#}")),
        }
    }
    if done != Reapplied::default() {
        // The root agent answers.
        let upkeep = guard_upkeep::look_after(ctx);
        done.cleared.extend(upkeep.done);
        done.failures.extend(upkeep.failures);
    }
    Ok(done)
}

/// Takes the guard's hook script out of all VMs of the node, then the script itself away: before the package is removed,
/// for a VM whose script is missing does not start. How many VMs had it.
pub fn remove_guard(host: &Host) -> anyhow::Result<usize> {
    // A host that was never set up has no VMs of ours.
    if !host.config_file("db.yaml").exists() {
        return Ok(0);
    }
    let node = Node::new(host, host.interrupt.clone());
    let mut done = 0;
    loop {
        host.interrupt.check()?;
        match node.remove_guard(host.deadline(LIMIT)) {
            Ok(0) => return Ok(done),
            Ok(_) => done += 1,
            // Its plugin is older: it has set no hook script.
            Err(error) if error.is_unknown_action() => return Ok(done),
            Err(error) => {
                return Err(error).context(
                    "VMs may still name the hook script blockhost-guard.sh, and would not start without it",
                );
            }
        }
    }
}

/// Holds a VM to its own addresses from now on, or lets it send from any; in its record and, where it runs, at once.
/// What could not be set is returned as warnings.
pub fn set_anti_spoofing(ctx: &Context<'_>, name: &VmName, on: bool) -> anyhow::Result<Vec<String>> {
    let vm = ctx.lock_vm(name, "reapply", LIMIT)?;
    let mut record = vm.live_record_now()?;
    anyhow::ensure!(
        !on || ctx.settings.anti_spoofing,
        "VM {name}: anti_spoofing is false in db.yaml, so no VM of this site is held to its addresses"
    );
    ctx.database.update(|db| {
        db.set(name.as_str(), "anti_spoofing", &on.into());
        Ok(())
    })?;
    record.anti_spoofing = Some(on);
    let deadline = ctx.host.deadline_of("reapply", LIMIT);
    let machine = machine::of_record(&vm, record, deadline)?;
    let mut decision = network::decision_for(ctx, &machine.record);
    decision.enabled = machine.record.status == Status::Active;
    let done = ctx.node().set_guard(machine.vmid, &machine.identity, &decision, deadline);
    Ok(done.with_context(|| format!("{}: cannot set its network guard", machine.label()))?.missing)
}

/// Waits until the root agent answers at all; what it says about this VM is evaluated later. An agent that hangs is
/// given up once, not once per VM.
fn wait_for_agent(ctx: &Context<'_>, vmid: Vmid) -> anyhow::Result<()> {
    let deadline = ctx.host.deadline_of("reapply-agent", AGENT_START);
    let node = ctx.node();
    let mut told = false;
    loop {
        match node.state(vmid, None, deadline) {
            Ok(_) | Err(AgentError::Said { .. }) => return Ok(()),
            Err(error) if deadline.passed() => {
                return Err(error).context("reconnected nothing: the root agent did not start");
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

/// One VM alone, as [`reapply`] does it: what could not be set, one line each. Nothing is set where it is off or no active
/// VM of ours.
pub fn reconnect(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Vec<String>> {
    let deadline = ctx.host.deadline_of("reapply", LIMIT);
    loop {
        match one(ctx, name, deadline)? {
            Ended::Off | Ended::Missing => return Ok(Vec::new()),
            Ended::Connected(warnings) => return Ok(warnings),
            Ended::NotYet => ctx.node().pause(ROUND)?,
        }
    }
}

/// One VM's current state.
enum Ended {
    /// It is not running, or no longer an active VM.
    Off,
    /// Its record is active, but the node has no such VM.
    Missing,
    /// It is running, but its port does not exist yet.
    NotYet,
    /// It is connected, except for what the warnings say.
    Connected(Vec<String>),
}

/// Handles one VM under its lock, with its record read again: a VM suspended meanwhile stays unconnected.
fn one(ctx: &Context<'_>, name: &VmName, deadline: Deadline) -> anyhow::Result<Ended> {
    let vm = ctx.lock_vm(name, "reapply", LIMIT)?;
    let Some(record) = ctx.record(name)?.filter(|r| r.status == Status::Active) else {
        return Ok(Ended::Off);
    };
    let machine = machine::of_record(&vm, record, deadline)?;
    let node = ctx.node();
    // Not `proven_state`: whether it is paused does not matter here, and the API may still be starting.
    let state = node.state(machine.vmid, Some(&machine.identity), deadline);
    let state = state.with_context(|| format!("{}: cannot query the node", machine.label()))?;
    machine.prove(&state)?;
    if !state.exists {
        return Ok(Ended::Missing);
    }
    if let Identity::Uuid(uuid) = &machine.identity
        && state.uuid != Some(*uuid)
    {
        tracing::info!(
            "{}: it is known by its description until its next start, which sets its SMBIOS UUID; if it stays so after \
             that, run blockhost-provisioner-import --apply",
            machine.label()
        );
    }
    let decision = network::decision_for(ctx, &machine.record);
    if !state.running {
        // An older VM gets its guard, and a hook script that is gone comes back, before somebody starts it.
        network::prepare(&node, (machine.vmid, &machine.identity), &decision, deadline);
        return Ok(Ended::Off);
    }
    let isolation = network::connect_once(&vm, &node, (machine.vmid, &machine.identity), &decision, deadline);
    if matches!(isolation, Isolation::NotYet(_)) && deadline.left() > LAST_TRY {
        return Ok(Ended::NotYet);
    }
    let mut warnings = network::finish(ctx, &node, machine.vmid, machine.record.ipv6, &isolation, deadline);
    warnings.extend(bandwidth::put_back(&vm, &machine, deadline));
    Ok(Ended::Connected(warnings))
}
