//! The flags of `blockhost-vm-gc` and its summary.

use crate::{Common, answer, can_ask, confirmed, on_terminal, say};
use chrono::{DateTime, Utc};
use clap::Parser;
use provisioner::host::Host;
use provisioner::operation::Context;
use provisioner::operation::gc::{Options, Report, gc};
use provisioner::operation::mock;
use provisioner::plan::garbage_collection::{Brake, Due};
use provisioner::value::vm_name::VmName;

/// Suspend expired VMs, and destroy them after a grace period
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-gc",
    version,
    styles = crate::STYLES,
    after_help = "Without --execute nothing is changed.\n\
        Exit status 1: a VM could not be handled (the others were), or a safety check held VMs back: the previous run was too long ago or in the future (--accept-gap), \
        too many VMs are due at once, or the clock is ahead (--accept-share). VMs whose record is protected are left alone.\n\n\
        Examples:\n  blockhost-vm-gc\n  blockhost-vm-gc --execute\n  blockhost-vm-gc --execute --suspend-only\n  blockhost-vm-gc --grace-days 30"
)]
pub struct GcCommand {
    /// Suspend and destroy. Without this flag, only list what is due
    #[arg(long)]
    execute: bool,
    /// Suspend expired VMs, destroy nothing
    #[arg(long, conflicts_with = "destroy_only")]
    suspend_only: bool,
    /// Destroy VMs whose grace period is over, suspend nothing
    #[arg(long)]
    destroy_only: bool,
    /// Days between suspension and destruction [default: gc_grace_days of db.yaml, 7]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=36500))]
    grace_days: Option<u32>,
    /// Destroy even if the last run was more than gc_max_gap_days ago, or is dated in the future
    #[arg(long)]
    accept_gap: bool,
    /// Suspend and destroy even if more than gc_max_share of all VMs are due, or the clock is ahead
    #[arg(long)]
    accept_share: bool,
    /// With --execute on a terminal: do not ask before handling several VMs
    #[arg(long)]
    yes: bool,
    /// Use the mock database; the host is not touched
    #[arg(long)]
    pub mock: bool,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

impl GcCommand {
    /// Runs the command.
    pub fn run(self, host: &Host) -> anyhow::Result<()> {
        let options = Options {
            execute: self.execute,
            suspend_only: self.suspend_only,
            destroy_only: self.destroy_only,
            grace_days: self.grace_days,
            accept_gap: self.accept_gap,
            accept_share: self.accept_share,
        };
        let ctx = Context::open(host, self.mock)?;
        let run = |options| if self.mock { mock::gc(&ctx, options) } else { gc(&ctx, options) };
        if self.execute && !self.yes && can_ask() {
            ask(&run(Options { execute: false, ..options })?, options, host.now())?;
        }
        let report = run(options)?;
        answer(&summary(&report, options, on_terminal(), host.now()))?;
        for note in &report.notes {
            crate::warn(note);
        }
        for failure in &report.failures {
            crate::complain(failure);
        }
        let brakes: Vec<String> =
            [&report.suspend_brake, &report.brake].into_iter().flatten().map(ToString::to_string).collect();
        if !self.execute {
            // Shows what --execute would report; a dry run does not fail because of it.
            brakes.iter().for_each(|brake| crate::warn(brake));
        } else {
            anyhow::ensure!(brakes.is_empty(), "{}", brakes.join("; "));
        }
        let due = report.candidates.suspend.len() + report.candidates.destroy.len();
        let failed = report.failures.len();
        anyhow::ensure!(failed == 0, "{failed} of {} VMs could not be handled; see above", due.max(failed));
        Ok(())
    }
}

/// Asks whether more than one VM is to be suspended or destroyed. What a safety check holds back needs no answer.
fn ask(found: &Report, options: Options, now: DateTime<Utc>) -> anyhow::Result<()> {
    let count = |names: &[VmName], brake: &Option<Brake>| if brake.is_some() { 0 } else { names.len() };
    let suspend = count(&found.candidates.suspend, &found.suspend_brake);
    let destroy = count(&found.candidates.destroy, &found.brake);
    if suspend + destroy < 2 {
        return Ok(());
    }
    for line in summary(found, Options { execute: false, ..options }, true, now).lines() {
        say(line);
    }
    let question = format!("Suspend {suspend} and destroy {destroy} of these VMs?");
    anyhow::ensure!(confirmed(&question, "--yes")?, "not confirmed; nothing was done");
    Ok(())
}

/// How long ago the VM expired and, if it is suspended, when that happened.
fn reason(due: &Due, now: DateTime<Utc>) -> String {
    let ago = |time: DateTime<Utc>| match (now - time).num_hours() {
        hours @ ..48 => format!("{} h ago", hours.max(0)),
        hours => format!("{} days ago", hours / 24),
    };
    let expired =
        format!("expired {} ({})", ago(due.expired_at), due.expired_at.format("%Y-%m-%d %H:%M UTC"));
    match due.suspended_at {
        Some(suspended) => format!(": {expired}, suspended {}", ago(suspended)),
        None => format!(": {expired}"),
    }
}

fn counted(what: &str, count: usize) -> String {
    format!("{what}: {count} candidate{}\n", if count == 1 { "" } else { "s" })
}

/// The counts first, in the form callers parse; then one line per VM: plain, or aligned on a terminal.
fn summary(report: &Report, options: Options, aligned: bool, now: DateTime<Utc>) -> String {
    let found = &report.candidates;
    let mut text = String::new();
    if !options.destroy_only {
        text.push_str(&counted("Suspend", found.suspend.len()));
    }
    if !options.suspend_only {
        text.push_str(&counted("Destroy", found.destroy.len()));
    }
    let word = |done: &[VmName], name: &VmName, brake: &Option<Brake>, words: [&'static str; 2]| match (
        options.execute,
        done.contains(name),
        brake,
    ) {
        (true, true, _) => words[0],
        (_, _, Some(_)) => "due, but held back",
        (true, false, None) => "not done",
        (false, ..) => words[1],
    };
    let suspend = found.suspend.iter().map(|name| {
        (name, word(&report.suspended, name, &report.suspend_brake, ["suspended", "would be suspended"]))
    });
    let destroy = found.destroy.iter().map(|name| {
        (name, word(&report.destroyed, name, &report.brake, ["destroyed", "would be destroyed"]))
    });
    let lines: Vec<(&VmName, &str)> = suspend.chain(destroy).collect();
    let width =
        if aligned { lines.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0) } else { 0 };
    for (name, what) in lines {
        // A reason is shown only where a person still has to decide, not for what has been done.
        let why = found.due.get(name).filter(|_| what.starts_with("would") || what.starts_with("due"));
        let why = why.map(|due| reason(due, now)).unwrap_or_default();
        text.push_str(&format!("  {:<width$}  {what}{why}\n", name.as_str()));
    }
    if options.execute {
        text.push_str(&format!(
            "Done: {} suspended, {} destroyed, {} failed\n",
            report.suspended.len(),
            report.destroyed.len(),
            report.failures.len()
        ));
    }
    text
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: GcCommand = crate::parse();
    crate::run(&command.common.clone(), command.mock, |host| command.run(host))
}
