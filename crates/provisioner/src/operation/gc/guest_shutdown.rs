//! A guest that is shutting down, and what is recorded when it is off (hazards H10, H22, H24).

use super::Report;
use super::suspend::{BUSY, LOOK};
use crate::host::clock::{Deadline, Stopwatch};
use crate::host::root_agent::AgentError;
use crate::operation::locked_vm::LockedVm;
use crate::operation::machine::Machine;
use crate::operation::{Context, network, start};
use crate::plan::garbage_collection::is_due_for_suspension;
use crate::tool::node::Node;
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::Status;
use crate::value::vm_state::VmState;
use std::collections::HashSet;
use std::time::Duration;

/// How long powering off may take.
const POWER_OFF: Duration = Duration::from_secs(30);
/// Interval between repetitions of a request; repeating one that is in progress does no harm.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A guest that is shutting down.
pub struct GuestShutdown<'c, 'h> {
    /// The VM.
    pub machine: Machine,
    /// `false` if its record is already suspended and only the VM is running (H50).
    pub to_be_suspended: bool,
    /// It was running when asked to shut down: a VM that its owner had switched off is not started again.
    pub was_running: bool,
    /// The shutdown request got no answer, or failed because the VM was busy.
    pub ask_again: bool,
    /// Result of telling the node not to start it at boot.
    pub onboot: anyhow::Result<()>,
    /// It is being powered off.
    forced: bool,
    /// When it is powered off; once that has begun, when powering off counts as failed.
    until: Deadline,
    /// It is locked on the node, as far as we know.
    busy: bool,
    /// End of the repetitions, counted from when it was first found locked.
    busy_until: Option<Deadline>,
    /// When to repeat the request.
    again: Deadline,
    /// Why the last request failed.
    words: Option<String>,
    begun: Stopwatch,
    vm: LockedVm<'c, 'h>,
}

/// Outcome of one round for a guest.
pub enum Step {
    /// It is still shutting down.
    Goes,
    /// Still shutting down, but the root agent did not answer in time, and is not asked about other guests in this
    /// round.
    Silence,
    /// It has failed, and that was reported.
    GivenUp,
}

impl<'c, 'h> GuestShutdown<'c, 'h> {
    /// A guest that has just been asked to shut down within `timeout`.
    pub fn new(
        machine: Machine,
        to_be_suspended: bool,
        begun: Stopwatch,
        vm: LockedVm<'c, 'h>,
        timeout: Duration,
    ) -> GuestShutdown<'c, 'h> {
        GuestShutdown {
            machine,
            to_be_suspended,
            was_running: true,
            ask_again: false,
            onboot: Ok(()),
            forced: false,
            until: vm.host.deadline(timeout),
            busy: false,
            busy_until: None,
            again: vm.host.deadline(Duration::ZERO),
            words: None,
            begun,
            vm,
        }
    }

    /// Records why the last request failed.
    pub fn fails(&mut self, words: String) {
        self.words = Some(words);
    }

    /// Evaluates what the root agent reports about the request it carried out.
    pub fn hear(&mut self, state: &VmState) {
        let wanted = if self.forced { "qm-stop" } else { "qm-shutdown" };
        // If the last request got no answer, the report may be about an earlier one.
        let failed = state.failed.as_ref().filter(|f| !self.ask_again && f.action == wanted);
        let Some(failed) = failed else { return };
        self.words = Some(failed.words.clone());
        if failed.is_busy() {
            self.is_busy();
        } else if !self.forced {
            // The shutdown is no longer in progress.
            self.until = self.vm.host.deadline(Duration::ZERO);
        }
    }

    fn is_busy(&mut self) {
        (self.busy, self.ask_again) = (true, true);
        self.busy_until.get_or_insert_with(|| self.vm.host.deadline_of("gc-busy", BUSY));
    }

    /// Deals with a guest that is still running: repeats the request, powers it off, or gives up. `ask`: whether the
    /// root agent may be asked.
    pub fn step(&mut self, node: &Node, timeout: Duration, report: &mut Report, ask: bool) -> Step {
        let label = self.machine.label();
        let words = |words: &mut Option<String>| words.take().unwrap_or_else(|| "it still runs".to_string());
        let and = if self.to_be_suspended { "; it is not suspended" } else { "" };
        if self.busy && self.busy_until.is_some_and(|until| until.passed()) {
            let words = words(&mut self.words);
            report.failures.push(format!("{label}: {words}{and}; the next run tries again"));
            return Step::GivenUp;
        }
        if self.until.passed() && self.forced && !self.busy {
            let words = words(&mut self.words);
            report.failures.push(format!("{label}: failed to switch it off: {words}{and}"));
            return Step::GivenUp;
        }
        if self.until.passed() && !self.busy {
            let why = self.words.take().map_or_else(String::new, |words| format!(" ({words})"));
            report.notes.push(format!(
                "{label}: the guest did not shut down within {} s{why}; switching it off",
                self.begun.elapsed().as_secs()
            ));
            self.forced = true;
            self.until = self.vm.host.deadline_of("gc-power-off", POWER_OFF);
            self.again = self.vm.host.deadline(Duration::ZERO);
        }
        if !(self.forced || self.ask_again) || !self.again.passed() || !ask {
            return Step::Goes;
        }
        self.again = self.vm.host.deadline(ASK_AGAIN);
        let (vmid, identity) = (self.machine.vmid, &self.machine.identity);
        let deadline = self.vm.host.deadline_of("gc-look", LOOK);
        let sent = if self.forced {
            node.stop(vmid, identity, deadline)
        } else {
            node.shutdown(vmid, identity, timeout, deadline)
        };
        match sent {
            Ok(()) => {
                if self.busy {
                    // No longer busy; if it is after all, the next round shows it.
                    let time =
                        if self.forced { self.vm.host.limit("gc-power-off", POWER_OFF) } else { timeout };
                    self.until = self.vm.host.deadline(time);
                }
                (self.busy, self.ask_again) = (false, false);
                Step::Goes
            }
            Err(error) => {
                let silence = is_silence(&error);
                self.words = Some(error.to_string());
                if error.is_busy() {
                    self.is_busy();
                }
                if silence { Step::Silence } else { Step::Goes }
            }
        }
    }
}

/// Whether the request timed out; then the next one would take as long.
pub fn is_silence(error: &AgentError) -> bool {
    matches!(error, AgentError::TimedOut { .. })
}

/// Marks the VMs that are off as suspended, in one change of the database. One that was renewed while shutting down is
/// started again.
pub fn record(
    ctx: &Context<'_>,
    off: Vec<GuestShutdown<'_, '_>>,
    report: &mut Report,
) -> anyhow::Result<Vec<VmName>> {
    let (off, only_off): (Vec<GuestShutdown<'_, '_>>, Vec<GuestShutdown<'_, '_>>) =
        off.into_iter().partition(|one| one.to_be_suspended);
    for one in only_off {
        let is = Some(Status::Suspended);
        one.vm.audit("switch-off", Some(one.machine.vmid), [is, is], "ok; it was running although suspended");
    }
    let mut settled = Vec::new();
    if off.is_empty() {
        return Ok(settled);
    }
    ctx.host.step("gc.off")?;
    let now = ctx.host.now();
    let suspended: HashSet<VmName> = ctx.database.update(|db| {
        let mut done = HashSet::new();
        for one in &off {
            let name = &one.machine.record.name;
            let due =
                db.record(name.as_str()).and_then(Result::ok).is_some_and(|r| is_due_for_suspension(&r, now));
            if due {
                db.set_status(name.as_str(), Status::Suspended);
                db.set(name.as_str(), "suspended_at", &timestamp::to_text(now).into());
                done.insert(name.clone());
            }
        }
        Ok(done)
    })?;
    ctx.host.step("gc.recorded")?;
    for one in off {
        let name = one.machine.record.name.clone();
        let is_suspended = suspended.contains(&name);
        let mut words = "ok".to_string();
        if is_suspended {
            report.suspended.push(name.clone());
            settled.push(name.clone());
            unguard(ctx, &one.machine, report);
        } else {
            match start_again(&one.vm, &one.machine, one.was_running) {
                Ok(what) => {
                    words = format!("renewed while it was shutting down; {what}");
                    report.notes.push(format!("{}: {words}", one.machine.label()));
                    settled.push(name.clone());
                }
                Err(error) => {
                    words =
                        format!("renewed while it was shutting down, and cannot be started again: {error:#}");
                    report.failures.push(format!("{}: {words}", one.machine.label()));
                }
            }
        }
        let after = if is_suspended { Status::Suspended } else { Status::Active };
        one.vm.audit("suspend", Some(one.machine.vmid), [Some(Status::Active), Some(after)], &words);
    }
    Ok(settled)
}

/// Nothing is put back for a suspended VM that somebody else starts (H51); the next run tries again where this fails.
fn unguard(ctx: &Context<'_>, machine: &Machine, report: &mut Report) {
    let (node, deadline) = (ctx.node().impatient(), ctx.host.deadline_of("gc-look", LOOK));
    if let Err(error) = network::suspend(&node, (machine.vmid, &machine.identity), &machine.record, deadline)
    {
        report.notes.push(format!("{}: its network guard is still on: {error}", machine.label()));
    }
}

/// The same for one that was suspended before, and is off.
pub fn unguard_if_on(ctx: &Context<'_>, machine: &Machine, state: &VmState, report: &mut Report) {
    if !state.running && state.guard.as_ref().is_some_and(|guard| guard.enabled) {
        unguard(ctx, machine, report);
    }
}

/// Reverts what was done to a VM that is no longer to be suspended. `run`: it was running before. Returns what was
/// done.
pub fn start_again(vm: &LockedVm<'_, '_>, machine: &Machine, run: bool) -> anyhow::Result<&'static str> {
    let still_ours = vm.record_now()?.is_some_and(|r| r.status == Status::Active);
    if !still_ours {
        return Ok("its record is not active, so it stays off");
    }
    let deadline = vm.host.deadline(Duration::from_secs(60));
    if run {
        start::run(vm, machine, deadline)?;
    }
    vm.node().set_onboot(machine.vmid, &machine.identity, true, deadline)?;
    Ok(if run { "started again" } else { "it was off before" })
}
