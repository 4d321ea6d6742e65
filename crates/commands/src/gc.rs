//! The flags of `blockhost-vm-gc` and its summary.

use crate::{Common, answer, on_terminal};
use clap::Parser;
use provisioner::host::Host;
use provisioner::operation::Context;
use provisioner::operation::gc::{Options, Report, gc};
use provisioner::value::vm_name::VmName;

/// Suspend VMs whose time is over, and destroy them after a grace period
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-gc",
    version,
    styles = crate::STYLES,
    after_help = "Without --execute it only says what is due. Exit code 1: a VM failed (the others were handled), or a brake stopped the destroying:\n\
        the last run is too long ago or in the future (--accept-gap), or too large a share of all VMs would go (--accept-share).\n\n\
        Examples:\n  blockhost-vm-gc\n  blockhost-vm-gc --execute\n  blockhost-vm-gc --execute --suspend-only\n  blockhost-vm-gc --grace-days 30"
)]
pub struct GcCommand {
    /// Do it
    #[arg(long)]
    execute: bool,
    /// Suspend only
    #[arg(long, conflicts_with = "destroy_only")]
    suspend_only: bool,
    /// Destroy only
    #[arg(long)]
    destroy_only: bool,
    /// Days between suspension and destruction [default: gc_grace_days of db.yaml, 7]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=36500))]
    grace_days: Option<u32>,
    /// Destroy although the last run is long ago or in the future
    #[arg(long)]
    accept_gap: bool,
    /// Destroy although a large share of all VMs would go
    #[arg(long)]
    accept_share: bool,
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
        let report = gc(&Context::open(host, self.mock)?, options)?;
        answer(&summary(&report, options, on_terminal()))?;
        for note in &report.notes {
            crate::warn(note);
        }
        for failure in &report.failures {
            crate::complain(failure);
        }
        match &report.brake {
            Some(brake) if self.execute => anyhow::bail!("{brake}"),
            // What it would say; looking is no failure.
            Some(brake) => crate::warn(&brake.to_string()),
            None => {}
        }
        anyhow::ensure!(
            report.failures.is_empty(),
            "{} of the VMs failed; the others were handled",
            report.failures.len()
        );
        Ok(())
    }
}

fn counted(what: &str, count: usize) -> String {
    format!("{what}: {count} candidate{}\n", if count == 1 { "" } else { "s" })
}

/// Counts first, in the form callers read; then a line for each VM: plain, or in columns on a terminal.
fn summary(report: &Report, options: Options, aligned: bool) -> String {
    let found = &report.candidates;
    let mut text = String::new();
    if !options.destroy_only {
        text.push_str(&counted("Suspend", found.suspend.len()));
    }
    if !options.suspend_only {
        text.push_str(&counted("Destroy", found.destroy.len()));
    }
    let done = |list: &[VmName], name: &VmName, yes: &'static str, no: &'static str| match (
        options.execute,
        list.contains(name),
    ) {
        (true, true) => yes,
        (true, false) => "not done",
        (false, _) => no,
    };
    let suspend = found
        .suspend
        .iter()
        .map(|name| (name, done(&report.suspended, name, "suspended", "would be suspended")));
    let destroy = found
        .destroy
        .iter()
        .map(|name| (name, done(&report.destroyed, name, "destroyed", "would be destroyed")));
    let lines: Vec<(&VmName, &str)> = suspend.chain(destroy).collect();
    let width =
        if aligned { lines.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0) } else { 0 };
    for (name, what) in lines {
        text.push_str(&format!("  {:<width$}  {what}\n", name.as_str()));
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
