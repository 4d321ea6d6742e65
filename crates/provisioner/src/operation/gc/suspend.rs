//! gc's first phase: all guests are asked to shut down, then all are waited for (hazard H20). The root agent's single
//! lane stays free for others the whole time, and a busy VM (for example, during a backup) does not hold up the rest.
//!
//! ```text
//!   busy ──▶ asked to shut down ──▶ off ──▶ recorded        renewed meanwhile: started again
//!     │              │               ▲
//!     │              └─▶ forced off ─┘
//!     └─▶ failure            └─▶ failure
//! ```

use super::guest_shutdown::{GuestShutdown, Step, is_silence, record, start_again, unguard_if_on};
use super::{Report, under_way};
use crate::host::clock::Deadline;
use crate::host::progress;
use crate::host::proxmox_api::ApiError;
use crate::operation::Context;
use crate::operation::locked_vm::in_words;
use crate::operation::machine::{self, Machine};
use crate::operation::vanished;
use crate::plan::garbage_collection::{is_due_for_suspension, is_past};
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use std::collections::HashSet;
use std::time::Duration;

/// How long, and how often, the request is repeated for a VM that is locked on the node.
pub const BUSY: Duration = Duration::from_secs(30);
const BUSY_AGAIN: Duration = Duration::from_secs(1);
/// How long to wait for another operation on a VM; the next run comes tomorrow.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// Time limit of one check of a VM.
pub const LOOK: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(200);
/// After this many consecutive requests without an answer, no more are sent.
const SILENT: usize = 2;

/// Result of asking a VM to shut down.
enum Turn<'c, 'h> {
    /// Nothing to wait for.
    Nothing,
    /// Shutting down: must be waited for.
    GuestShutdown(Box<GuestShutdown<'c, 'h>>),
    /// Locked on the node; contains the error message.
    Busy(String),
}

/// A VM whose turn has not come yet.
struct Waiting {
    name: VmName,
    to_be_suspended: bool,
}

/// Suspends all candidates, and switches off VMs that are running although suspended. Returns the VMs that must not be
/// destroyed in this run: they were running, or it could not be verified that they are off.
pub fn all(ctx: &Context<'_>, report: &mut Report) -> anyhow::Result<HashSet<VmName>> {
    let mut phase = Phase {
        ctx,
        report,
        shutdowns: Vec::new(),
        unsure: HashSet::new(),
        settled: HashSet::new(),
        silent: 0,
        by_api: true,
    };
    let (left_over, readable) = phase.finish_interrupted();
    let is_braked = phase.report.suspend_brake.is_some();
    let active = if is_braked { Vec::new() } else { phase.report.candidates.suspend.clone() };
    let noted: Vec<VmName> = active.iter().chain(&left_over).cloned().collect();
    let can_note = readable && phase.note(&noted);
    let suspended: Vec<VmName> = phase
        .report
        .candidates
        .stay_suspended
        .iter()
        .chain(&phase.report.candidates.destroy)
        .cloned()
        .collect();
    let all = active
        .into_iter()
        .map(|name| Waiting { name, to_be_suspended: true })
        .chain(suspended.into_iter().map(|name| Waiting { name, to_be_suspended: false }));
    let busy = phase.ask_all(all.collect())?;
    ctx.host.step("gc.asked")?;
    progress::now(format_args!("waiting for {} guests to shut down", phase.shutdowns.len()));
    phase.wait(busy)?;
    if can_note {
        // What may still shut down by itself stays in the note.
        let open = |name: &VmName| phase.unsure.contains(name) && !phase.settled.contains(name);
        let open: Vec<VmName> = noted.into_iter().filter(|n| open(n) || left_over.contains(n)).collect();
        phase.note(&open);
    }
    Ok(phase.unsure)
}

/// One run of the phase.
struct Phase<'a, 'h> {
    ctx: &'a Context<'h>,
    report: &'a mut Report,
    shutdowns: Vec<GuestShutdown<'a, 'h>>,
    /// VMs that were running, or could not be verified to be off.
    unsure: HashSet<VmName>,
    /// VMs that were suspended or started again.
    settled: HashSet<VmName>,
    /// Consecutive requests that the root agent did not answer in time.
    silent: usize,
    /// Whether the API still works: it has not failed in this run.
    by_api: bool,
}

impl<'a, 'h> Phase<'a, 'h> {
    /// Writes the note; a full disk must not keep unpaid VMs running.
    fn note(&mut self, names: &[VmName]) -> bool {
        match under_way::write(self.ctx.host, names) {
            Ok(()) => true,
            Err(error) => {
                self.report.failures.push(format!("{error:#}"));
                false
            }
        }
    }

    /// Starts VMs again that an interrupted run was shutting down and that have been renewed since. Returns those that
    /// are still open, and whether the note of them could be read.
    fn finish_interrupted(&mut self) -> (Vec<VmName>, bool) {
        let names = match under_way::read(self.ctx.host) {
            Ok(names) => names,
            Err(error) => {
                self.report.failures.push(format!("{error:#}"));
                return (Vec::new(), false);
            }
        };
        let mut open = Vec::new();
        for name in names {
            if self.report.candidates.suspend.contains(&name) {
                // A VM held back by the brake stays in the note until a run may deal with it.
                if self.report.suspend_brake.is_some() {
                    open.push(name);
                }
                continue;
            }
            match finish_interrupted(self.ctx, &name, self.report) {
                Ok(true) => {}
                Ok(false) => open.push(name),
                Err(error) => {
                    self.report.failures.push(format!("{error:#}"));
                    open.push(name);
                }
            }
        }
        (open, true)
    }

    /// Asks each VM once to shut down; returns those that are busy, with the reason.
    fn ask_all(&mut self, all: Vec<Waiting>) -> anyhow::Result<Vec<(Waiting, String)>> {
        let mut busy = Vec::new();
        for waiting in all {
            self.ctx.host.interrupt.check()?;
            let name = &waiting.name;
            if self.silent >= SILENT {
                let why = format!("VM {name}: skipped, because the root agent does not answer");
                self.report.failures.push(why);
                self.unsure.insert(name.clone());
                continue;
            }
            match self.begin(&waiting) {
                Ok(turn) => {
                    self.silent = 0;
                    match turn {
                        Turn::Nothing => {}
                        Turn::Busy(words) => {
                            self.unsure.insert(name.clone());
                            busy.push((waiting, words));
                        }
                        Turn::GuestShutdown(one) => {
                            self.unsure.insert(name.clone());
                            self.shutdowns.push(*one);
                        }
                    }
                }
                Err(error) => {
                    let timed_out = error.downcast_ref().is_some_and(is_silence);
                    self.silent = if timed_out { self.silent + 1 } else { 0 };
                    self.unsure.insert(name.clone());
                    self.report.failures.push(format!("{error:#}"));
                }
            }
        }
        Ok(busy)
    }

    /// Locks the VM, checks its record again and asks the guest to shut down.
    fn begin(&mut self, waiting: &Waiting) -> anyhow::Result<Turn<'a, 'h>> {
        let Waiting { name, to_be_suspended } = waiting;
        let (ctx, to_be_suspended) = (self.ctx, *to_be_suspended);
        let begun = self.ctx.host.stopwatch();
        let deadline = self.ctx.host.deadline_of("gc-look", LOOK);
        let look = |record: &VmRecord| match to_be_suspended {
            true => is_due_for_suspension(record, self.ctx.host.now()),
            false => record.status == Status::Suspended,
        };
        if !to_be_suspended {
            // Most suspended VMs are off and stay off: for them a check without the lock is enough.
            let Some(record) = ctx.record(name)?.filter(look) else { return Ok(Turn::Nothing) };
            let paid = !is_past(&record, self.ctx.host.now());
            let machine = machine::seen(ctx, record, deadline)?;
            let state = vanished::state(ctx, &machine, deadline)?;
            if paid && state.running {
                self.report.notes.push(format!(
                    "{}: it is running and paid for, but its record says suspended; to correct it, run \
                     blockhost-vm-resume {name}",
                    machine.label()
                ));
            }
            unguard_if_on(ctx, &machine, &state, self.report);
            if paid || !state.running && !state.onboot {
                return Ok(Turn::Nothing);
            }
        }
        let vm = ctx.lock_vm(name, "gc", LOCK_WAIT)?;
        let Some(record) = vm.record_now()?.filter(look) else {
            if to_be_suspended {
                self.report.notes.push(format!("VM {name}: renewed or changed in the meantime; left alone"));
            }
            return Ok(Turn::Nothing);
        };
        if !to_be_suspended && !is_past(&record, self.ctx.host.now()) {
            return Ok(Turn::Nothing);
        }
        let machine = machine::of_record(&vm, record, deadline)?;
        let state = vanished::state(ctx, &machine, deadline)?;
        let label = machine.label();
        let node = ctx.node().impatient();
        let onboot =
            if state.exists && state.onboot { self.set_onboot_off(&machine, deadline) } else { Ok(()) };
        let timeout = ctx.settings.guest_shutdown_timeout;
        let mut answered = false;
        if state.running {
            let sent = if state.paused == Some(true) {
                node.stop(machine.vmid, &machine.identity, deadline)
            } else {
                node.shutdown(machine.vmid, &machine.identity, timeout, deadline)
            };
            match sent {
                Ok(()) => answered = true,
                Err(error) if error.is_busy() => return Ok(Turn::Busy(format!("{label}: {error}"))),
                Err(error) if error.outcome_unknown() => {}
                Err(error) => anyhow::bail!("{label}: failed to shut it down: {error}"),
            }
        }
        if !state.exists {
            self.report.notes.push(format!("{label}: the node has no such VM"));
        }
        if !to_be_suspended {
            if !state.running {
                if let Err(error) = onboot {
                    self.report
                        .notes
                        .push(format!("{label}: the node would start it when it boots: {error:#}"));
                }
                return Ok(Turn::Nothing);
            }
            self.report.notes.push(format!(
                "{label}: it was running although suspended; switching it off, and destroying it in the next run at \
                 the earliest"
            ));
        }
        let mut shutdown = GuestShutdown::new(machine, to_be_suspended, begun, vm, timeout);
        shutdown.was_running = state.running;
        shutdown.ask_again = state.running && !answered;
        shutdown.onboot = onboot;
        Ok(Turn::GuestShutdown(Box::new(shutdown)))
    }

    /// Uses the API, which leaves the root agent's lane free, or the root agent if the token lacks the privilege or the
    /// API has failed.
    fn set_onboot_off(&mut self, machine: &Machine, deadline: Deadline) -> anyhow::Result<()> {
        let ctx = self.ctx;
        let by_api = || -> anyhow::Result<()> {
            let (access, api) = ctx.api()?;
            let path = format!("/nodes/{}/qemu/{}/config", access.node, machine.vmid);
            let deadline = deadline.at_most(Duration::from_secs(5));
            api.put(&path, &[("onboot", "0")], deadline)?;
            Ok(())
        };
        if self.by_api {
            let Err(error) = by_api() else { return Ok(()) };
            tracing::debug!("{}: {error:#}; asking the root agent", machine.label());
            // This kind of refusal may concern only this VM (a backup); any other failure concerns all.
            self.by_api = matches!(error.downcast_ref(), Some(ApiError::Status { .. }));
        }
        Ok(ctx.node().impatient().set_onboot(machine.vmid, &machine.identity, false, deadline)?)
    }

    /// Waits until all are off or given up; each round records those that are off.
    fn wait(&mut self, mut busy: Vec<(Waiting, String)>) -> anyhow::Result<()> {
        let patience = self.ctx.host.deadline_of("gc-busy", BUSY);
        let mut next = self.ctx.host.deadline(BUSY_AGAIN);
        loop {
            self.look_round()?;
            if !busy.is_empty() && patience.passed() {
                for (_, words) in busy.drain(..) {
                    self.report.failures.push(format!("{words}; the next run tries again"));
                }
            }
            if !busy.is_empty() && next.passed() {
                busy = self.ask_all(busy.into_iter().map(|(waiting, _)| waiting).collect())?;
                next = self.ctx.host.deadline(BUSY_AGAIN);
            }
            if self.shutdowns.is_empty() && busy.is_empty() {
                return Ok(());
            }
            self.ctx.host.sleep(POLL);
            // Guests that were asked shut down by themselves; the next run records them.
            self.ctx.host.interrupt.check()?;
        }
    }

    /// Checks each VM that is shutting down, once.
    fn look_round(&mut self) -> anyhow::Result<()> {
        let node = self.ctx.node().impatient();
        let (mut off, mut on) = (Vec::new(), Vec::new());
        let mut silence = false;
        for mut one in std::mem::take(&mut self.shutdowns) {
            if silence {
                // The others would take as long, to no avail.
                on.push(one);
                continue;
            }
            match node.state(
                one.machine.vmid,
                Some(&one.machine.identity),
                self.ctx.host.deadline_of("gc-look", LOOK),
            ) {
                Err(error) => {
                    silence = is_silence(&error);
                    one.fails(error.to_string());
                    on.push(one);
                }
                Ok(state) => {
                    match vanished::judged(self.ctx, &one.machine, state, self.ctx.host.deadline(LOOK)) {
                        Err(error) => self.report.failures.push(format!("{error:#}")),
                        Ok(state) if !state.exists || !state.running => off.push(one),
                        Ok(state) => {
                            one.hear(&state);
                            on.push(one);
                        }
                    }
                }
            }
        }
        for one in &mut off {
            if let Err(error) = std::mem::replace(&mut one.onboot, Ok(()))
                && let Err(again) =
                    self.set_onboot_off(&one.machine, self.ctx.host.deadline_of("gc-look", LOOK))
            {
                tracing::debug!("{}: {error:#}", one.machine.label());
                let label = one.machine.label();
                self.report.notes.push(format!("{label}: the node would start it when it boots: {again:#}"));
            }
        }
        self.settled.extend(record(self.ctx, off, self.report)?);
        for mut one in on {
            match one.step(&node, self.ctx.settings.guest_shutdown_timeout, self.report, !silence) {
                Step::Goes => {}
                Step::Silence => silence = true,
                Step::GivenUp => continue,
            }
            self.shutdowns.push(one);
        }
        Ok(())
    }
}

/// Returns whether nothing is left to do about a VM that an interrupted run may have shut down.
fn finish_interrupted(ctx: &Context<'_>, name: &VmName, report: &mut Report) -> anyhow::Result<bool> {
    let deadline = ctx.host.deadline(Duration::from_secs(60));
    let vm = ctx.lock_vm(name, "gc", LOCK_WAIT)?;
    let Some(record) = vm.record_now()?.filter(|r| r.status == Status::Active) else {
        // It has been suspended or destroyed since. If there is no such VM, its lock file is not needed either.
        if vm.record_now()?.is_none() {
            vm.forget();
        }
        return Ok(true);
    };
    if is_due_for_suspension(&record, ctx.host.now()) {
        return Ok(false);
    }
    let machine = machine::of_record(&vm, record, deadline)?;
    let state = machine.state(ctx, deadline)?;
    if !state.exists || state.running && state.onboot {
        return Ok(true);
    }
    let again = start_again(&vm, &machine, !state.running);
    let is = Some(Status::Active);
    vm.audit("start-again", Some(machine.vmid), [is, is], &in_words(&again));
    again?;
    report.notes.push(format!(
        "{}: renewed after an interrupted run had shut it down; started it again",
        machine.label()
    ));
    Ok(true)
}
