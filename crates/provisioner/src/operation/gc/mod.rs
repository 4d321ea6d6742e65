//! `blockhost-vm-gc`: suspends VMs that are no longer paid for, and destroys them after a grace period.
//!
//! A dry run unless told to execute. Each decision is made again under the VM's lock, on the record as it is then: a
//! renewal that arrives meanwhile wins (hazard H10). One VM's failure never stops the others. A run that dies is
//! completed by the next: what it has done is in the records, what it was doing is in the journal.

mod guest_shutdown;
pub(super) mod last_run;
mod network_cleanup;
mod suspend;
pub(super) mod under_way;

use super::destroy::{Condition, Destroyed, LIMIT, MachineMust, destroy_when};
use super::locked_vm::in_words;
use super::{Context, guard_upkeep, late_requests, recovery, restore};
use crate::host::lock_file::LockFile;
use crate::host::progress;
use crate::plan::garbage_collection::{self, BelievedClock, Brake, Candidates, Limits, OtherClocks};
use crate::store::audit::{self, Change};
use crate::store::journal::{Entry, Step};
use crate::store::vm_database::Fields;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use last_run::LastRun;
use serde_json::Value;
use std::cell::RefCell;
use std::sync::Mutex;
use std::time::Duration;

/// How many VMs are destroyed in parallel. A destroy mostly waits for the node, for up to 50 s ([`super::destroy::LIMIT`]):
/// with four, a thousand of the slowest take less than the four hours that the unit allows (`TimeoutStartSec`). With more,
/// commands of customers would wait: the root agent serves one request at a time, and each destroy runs a terraform.
const SIDE_BY_SIDE: usize = 4;
/// How long the node may take to report its time; its clock is only a second opinion.
const NODE_CLOCK: Duration = Duration::from_secs(5);

/// What was requested.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Options {
    /// Suspend and destroy, instead of a dry run.
    pub execute: bool,
    /// Suspend only.
    pub suspend_only: bool,
    /// Destroy only.
    pub destroy_only: bool,
    /// Grace period in days, overriding `gc_grace_days`.
    pub grace_days: Option<u32>,
    /// Proceed even if the last run was long ago or is dated in the future.
    pub accept_gap: bool,
    /// Proceed even if a large share of the VMs is due, or the clock is ahead.
    pub accept_share: bool,
}

/// What a run found and did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The VMs that were due.
    pub candidates: Candidates,
    /// The VMs suspended in this run.
    pub suspended: Vec<VmName>,
    /// The VMs destroyed in this run.
    pub destroyed: Vec<VmName>,
    /// VMs left alone at the last moment, or worth checking: one line each.
    pub notes: Vec<String>,
    /// Failures, one line per VM.
    pub failures: Vec<String>,
    /// Why nothing was suspended.
    pub suspend_brake: Option<Brake>,
    /// Why nothing was destroyed.
    pub brake: Option<Brake>,
}

impl Report {
    /// Whether the run failed: a VM failed, or a brake held something back.
    pub fn failed(&self) -> bool {
        !self.failures.is_empty() || self.brake.is_some() || self.suspend_brake.is_some()
    }
}

/// Runs gc once.
pub fn gc(ctx: &Context<'_>, options: Options) -> anyhow::Result<Report> {
    let grace = TimeDelta::days(i64::from(options.grace_days.unwrap_or(ctx.settings.gc_grace_days)));
    if options.execute {
        super::directories::check(ctx)?;
    }
    let _only_one = if options.execute { Some(only_one(ctx)?) } else { None };
    if options.execute {
        recovery::undo_dead_creates(ctx, None);
        late_requests::look_again(ctx);
        restore::vanished(ctx, None);
        restore::keep_copies(ctx, true);
    }
    let now = ctx.host.now();
    let mut report = Report { candidates: candidates(ctx, options, grace)?, ..Report::default() };
    report.notes.extend(report.candidates.left_alone.iter().cloned());
    if options.execute {
        let upkeep = guard_upkeep::look_after(ctx);
        report.notes.extend(upkeep.done);
        report.failures.extend(upkeep.failures);
    }
    let limits = limits(ctx, options);
    let last = last_run::read(ctx.host).map_err(|error| format!("{error:#}"));
    let believed = last.as_ref().ok().cloned().flatten().and_then(|last| last.believed);
    let last = last.as_ref().map(|last| last.as_ref().map(|last| last.at)).map_err(String::as_str);
    let others = OtherClocks {
        believed: believed.clone(),
        uptime: ctx.host.doors.uptime(),
        // A dry run queries nobody.
        node: if options.execute { node_time(ctx, &report.candidates) } else { None },
    };
    let clock = garbage_collection::clock_ahead(now, &others);
    report.suspend_brake = garbage_collection::suspend_brake(&report.candidates, limits, clock);
    report.brake = garbage_collection::brake(&report.candidates, last, now, limits, clock);
    if !options.execute {
        return Ok(report);
    }
    if garbage_collection::note_this_run(last, now, limits) {
        // A clock that is ahead stays distrusted until an operator has checked it, however many runs see it.
        let is_believed = clock.is_none() || limits.accept_gap;
        let believed = if is_believed {
            others.uptime.map(|uptime| BelievedClock { at: now, uptime })
        } else {
            believed
        };
        if let Err(error) = last_run::write(ctx.host, &LastRun { at: now, believed }) {
            // Suspending needs no note; but a brake that is never set is no brake.
            report.brake.get_or_insert(Brake::Note(format!("{error:#}")));
        }
    }
    ctx.host.step("gc.noted")?;

    let not_now = suspend::all(ctx, &mut report)?;
    ctx.host.step("gc.suspended")?;
    finish_dead_destroys(ctx, &mut report);
    if report.brake.is_none() {
        let due: Vec<VmName> =
            report.candidates.destroy.iter().filter(|name| !not_now.contains(*name)).cloned().collect();
        destroy_all(ctx, &due, grace, &mut report);
    }
    ctx.host.interrupt.check()?;
    Ok(report)
}

/// Reads the node's own clock if anything is due (`facts/proxmox.md`, section 4: seconds since 1970). It is only a
/// second opinion, so `None` if the node cannot be queried.
fn node_time(ctx: &Context<'_>, found: &Candidates) -> Option<DateTime<Utc>> {
    if found.suspend.is_empty() && found.destroy.is_empty() {
        return None;
    }
    let ask = || -> anyhow::Result<DateTime<Utc>> {
        let (access, api) = ctx.api()?;
        let path = format!("/nodes/{}/time", access.node);
        let time = api.get(&path, ctx.host.deadline(NODE_CLOCK))?;
        let seconds = time.get("time").and_then(Value::as_i64).context("no time")?;
        DateTime::from_timestamp(seconds, 0).context("no such time")
    };
    ask().map_err(|error| tracing::debug!("cannot read the node's clock: {error:#}")).ok()
}

/// The limits of the brakes, from db.yaml and the flags.
pub(super) fn limits(ctx: &Context<'_>, options: Options) -> Limits {
    Limits {
        max_gap_days: ctx.settings.gc_max_gap_days,
        max_share: ctx.settings.gc_max_share,
        accept_gap: options.accept_gap,
        accept_share: options.accept_share,
    }
}

/// Finds what is due, from the database alone.
pub(super) fn candidates(
    ctx: &Context<'_>,
    options: Options,
    grace: TimeDelta,
) -> anyhow::Result<Candidates> {
    let now = ctx.host.now();
    let mut found = ctx.database.gather(Fields::Due, Candidates::default, |found, view| {
        // There may be ten thousand records, so only those that could matter are parsed.
        if view.is_destroyed() {
            return;
        }
        if view.is_paid_for(now) {
            found.live += 1;
            return;
        }
        match view.to_record() {
            Ok(record) => found.consider(&record, now, grace),
            Err(why) => found.left_alone.push(format!("{}: {why}; skipped", ctx.database.path().display())),
        }
    })?;
    if options.suspend_only {
        found.stay_suspended.append(&mut found.destroy);
    }
    if options.destroy_only {
        found.suspend.clear();
    }
    Ok(found)
}

/// Two runs at once would only get in each other's way.
fn only_one(ctx: &Context<'_>) -> anyhow::Result<LockFile> {
    let path = ctx.host.state_dir.join("gc.lock");
    let lock = LockFile::lock(&path, ctx.host.deadline(Duration::from_secs(5)), &ctx.host.interrupt);
    let mut lock = lock.context("another gc is running; exiting")?;
    lock.note(&format!("gc, PID {}", std::process::id()));
    Ok(lock)
}

/// Cleans up after destroys that died once their VM was gone. If the VM still exists, that is left to whoever began the
/// destroy, or to this run if it is due.
fn finish_dead_destroys(ctx: &Context<'_>, report: &mut Report) {
    let entries = match ctx.journal().entries() {
        Ok(entries) => entries,
        Err(error) => return report.failures.push(format!("{error:#}")),
    };
    for entry in entries.iter().filter(|e| e.step == Step::Destroying) {
        match finish_dead_destroy(ctx, entry) {
            Ok(Some(note)) => report.notes.push(note),
            Ok(None) => {}
            Err(error) => report.failures.push(format!("{error:#}")),
        }
    }
}

fn finish_dead_destroy(ctx: &Context<'_>, entry: &Entry) -> anyhow::Result<Option<String>> {
    let name = VmName::parse(&entry.name)?;
    // Whoever is alive holds the lock.
    if ctx.try_lock_vm(&name, "gc")?.is_none() {
        return Ok(None);
    }
    // Since the entry was read, somebody may have completed the destroy and created a VM of the same name.
    let same = |record: &VmRecord| record.vmid.get() == entry.vmid && record.smbios_uuid == entry.smbios_uuid;
    let condition = Condition { due: &same, machine: MachineMust::BeGone, first: None };
    let begun = ctx.host.stopwatch();
    let done = destroy_when(ctx, &name, true, LIMIT, Some(&condition));
    if matches!(&done, Ok(Destroyed::NotDue | Destroyed::Runs | Destroyed::Already)) {
        return Ok(None);
    }
    let change = Change {
        verb: "finish-destroy",
        vm: name.as_str(),
        vmid: Some(entry.vmid),
        before: None,
        after: done.is_ok().then(|| Status::Destroyed.as_str()),
        result: &in_words(&done),
        duration: begun.elapsed(),
    };
    audit::write(ctx.host, &change);
    done.map(|_| Some(format!("VM {name}: completed an interrupted destroy")))
}

/// Destroys the VMs as `blockhost-vm-destroy` does, several in parallel, each checked again under its lock.
fn destroy_all(ctx: &Context<'_>, due: &[VmName], grace: TimeDelta, report: &mut Report) {
    let queue = Mutex::new(due.iter());
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some(name) = next.filter(|_| !ctx.host.interrupt.requested()) else { break };
            progress::now(format_args!("VM {name}: destroying it"));
            let result = destroy_one(ctx, name, grace);
            results.lock().unwrap_or_else(|e| e.into_inner()).push((name.clone(), result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..(SIDE_BY_SIDE - 1).min(ctx.host.more_threads).min(due.len().saturating_sub(1)) {
            scope.spawn(work);
        }
        // This thread works as well.
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, result) in results {
        match result {
            Ok(Destroyed::NotDue) => {
                report.notes.push(format!("VM {name}: renewed or changed in the meantime; left alone"))
            }
            Ok(Destroyed::Runs) => report.notes.push(format!(
                "VM {name}: it was started in the meantime although suspended; not destroying it in this run"
            )),
            Ok(_) => report.destroyed.push(name),
            Err(error) => report.failures.push(format!("{error:#}")),
        }
    }
}

fn destroy_one(ctx: &Context<'_>, name: &VmName, grace: TimeDelta) -> anyhow::Result<Destroyed> {
    let begun = ctx.host.stopwatch();
    let still_due = |record: &_| garbage_collection::is_due_for_destruction(record, ctx.host.now(), grace);
    let unreleased = RefCell::new(None);
    let release = |record: &VmRecord| *unreleased.borrow_mut() = network_cleanup::release(ctx, record);
    let condition = Condition { due: &still_due, machine: MachineMust::BeOff, first: Some(&release) };
    let result = destroy_when(ctx, name, false, LIMIT + network_cleanup::LIMIT, Some(&condition));
    let unreleased = unreleased.into_inner();
    if let Some(why) = &unreleased {
        tracing::warn!("{why}");
    }
    let words = match (&result, unreleased) {
        (Ok(Destroyed::NotDue | Destroyed::Runs), _) => return result,
        (Ok(_), None) => "ok".to_string(),
        (Ok(_), Some(why)) => format!("ok, but {why}"),
        (Err(error), _) => format!("{error:#}"),
    };
    let after = if result.is_ok() { Status::Destroyed } else { Status::Suspended };
    let change = Change {
        verb: "gc-destroy",
        vm: name.as_str(),
        vmid: ctx.record(name).ok().flatten().map(|r| r.vmid.get()),
        before: Some(Status::Suspended.as_str()),
        after: Some(after.as_str()),
        result: &words,
        duration: begun.elapsed(),
    };
    audit::write(ctx.host, &change);
    result
}
