//! `blockhost-vm-resume`: its flags and what it prints.

use crate::SomeVms;
use crate::expiry::{distance, earlier, parse_future};
use chrono::{DateTime, Utc};
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::mock;
use provisioner::operation::resume::{Expiry, resume};
use provisioner::value::timestamp;

/// Resume a suspended VM: start it and mark it active, with the time that was paid for
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-resume",
    version,
    styles = crate::STYLES,
    after_help = "Without one of the three options an expiry in the future is kept, and one in the past becomes default_expiry_days from now. \
        Succeeds if the VM is already running.\n\n\
        Examples:\n  blockhost-vm-resume web-1\n  blockhost-vm-resume web-1 --add-days 30\n  \
        blockhost-vm-resume web-1 --until 2027-03-01\n  blockhost-vm-resume web-1 --dry-run"
)]
pub struct ResumeCommand {
    #[command(flatten)]
    vms: SomeVms,
    /// Set the expiry to N days from now, replacing the current one even if that is later
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=36500), group = "expiry")]
    extend_days: Option<u32>,
    /// Add N days to the current expiry, or to now if it has passed
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=36500), group = "expiry")]
    add_days: Option<u32>,
    /// Set the expiry to TIME: a date (2027-03-01, midnight UTC) or a time with its zone (2027-03-01T12:00:00+01:00)
    #[arg(long, value_name = "TIME", value_parser = parse_future, group = "expiry")]
    until: Option<DateTime<Utc>>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

impl ResumeCommand {
    fn expiry(&self) -> Expiry {
        match (self.extend_days, self.add_days, self.until) {
            (Some(days), ..) => Expiry::DaysFromNow(days),
            (_, Some(days), _) => Expiry::DaysMore(days),
            (.., Some(end)) => Expiry::At(end),
            _ => Expiry::AsPaid,
        }
    }
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ResumeCommand = crate::parse();
    crate::run_vms(
        &command.vms,
        |_| Ok(()),
        |ctx, name| {
            let act = || resume(ctx, name, command.expiry(), command.dry_run);
            let done = match (command.dry_run, command.vms.mock) {
                (true, _) => act()?,
                (false, true) => mock::resume(ctx, name, command.expiry())?,
                (false, false) => audited(ctx, "resume", name, act)?,
            };
            for warning in &done.warnings {
                crate::warn(&format!("VM {name}: {warning}"));
            }
            let now = ctx.host.now();
            let moves = if command.dry_run { "would move" } else { "moved" };
            if let Some(warning) = earlier(done.expired_before, done.expires_at, moves, "--add-days", now) {
                crate::warn(&format!("VM {name}: {warning}"));
            }
            let until = done.expires_at.map_or_else(
                || "its record has no readable expiry".to_string(),
                |end| {
                    format!(
                        "expires at {} ({})",
                        timestamp::to_text(end),
                        distance(end, done.expired_before, now)
                    )
                },
            );
            let what = match (command.dry_run, done.was_suspended, done.was_running) {
                (true, true, _) => "would be started and set to active",
                (true, false, _) => "is active; it would be started if it is off",
                (false, true, _) => "is active again",
                (false, false, true) => "is already active",
                (false, false, false) => "was off and is running again",
            };
            crate::say(&format!("VM {name} {what}; {until}"));
            Ok(())
        },
    )
}
