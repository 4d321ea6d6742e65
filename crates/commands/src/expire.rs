//! `blockhost-vm-expire`: its flags and what it prints.

use crate::OneVm;
use crate::expiry::{distance, earlier, parse_moment};
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Parser};
use provisioner::operation::audited::audited_in_words;
use provisioner::operation::expire::{Expires, expire};
use provisioner::operation::resume::Expiry;
use provisioner::operation::{WrongUsage, in_words, mock};
use provisioner::value::timestamp;
use provisioner::value::vm_record::Status;

/// Set when a VM expires, without starting or stopping it
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-expire",
    version,
    styles = crate::STYLES,
    group = ArgGroup::new("expiry").required(true),
    after_help = "Only the record changes: a suspended VM stays off until blockhost-vm-resume, a running one runs on until the next gc run.\n\n\
        Examples:\n  blockhost-vm-expire web-1 --extend-days 30\n  blockhost-vm-expire web-1 --at 2027-03-01\n  \
        blockhost-vm-expire web-1 --at 2026-11-01T00:00:00Z --force   # has passed: the next gc run suspends it"
)]
pub struct ExpireCommand {
    #[command(flatten)]
    vm: OneVm,
    /// Set the expiry to TIME: a date (2027-03-01, midnight UTC) or a time with its zone (2027-03-01T12:00:00+01:00)
    #[arg(long, value_name = "TIME", value_parser = parse_moment, group = "expiry")]
    at: Option<DateTime<Utc>>,
    /// Add N days to the current expiry, or to now if it has passed
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=36500), group = "expiry")]
    extend_days: Option<u32>,
    /// Set an expiry that has passed
    #[arg(long, conflicts_with = "extend_days")]
    force: bool,
}

impl ExpireCommand {
    fn expiry(&self, now: DateTime<Utc>) -> anyhow::Result<Expiry> {
        match (self.at, self.extend_days) {
            (Some(end), _) if end <= now && !self.force => Err(WrongUsage::new(format!(
                "VM {}: {} has passed, so the next gc run would suspend the VM; nothing was changed; to set it all the same, use --force",
                self.vm.name,
                timestamp::to_text(end)
            ))
            .into()),
            (Some(end), _) => Ok(Expiry::At(end)),
            // clap wants one of the two.
            (None, days) => Ok(Expiry::DaysMore(days.unwrap_or_default())),
        }
    }
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ExpireCommand = crate::parse();
    crate::run_vm(&command.vm, |host| {
        let expiry = command.expiry(host.now())?;
        let (ctx, name) = (crate::open(host, &command.vm)?, &command.vm.name);
        let words = |result: &anyhow::Result<Expires>| match result {
            Ok(done) => format!(
                "ok; expires_at: {} (before: {})",
                timestamp::to_text(done.expires_at),
                done.before.map_or_else(|| "unknown".to_string(), timestamp::to_text)
            ),
            Err(_) => in_words(result),
        };
        let done = match command.vm.mock {
            true => mock::expire(&ctx, name, expiry)?,
            false => audited_in_words(&ctx, "expire", name, || expire(&ctx, name, expiry), words)?,
        };
        let now = host.now();
        if let Some(warning) = earlier(done.before, Some(done.expires_at), "moved", "--extend-days", now) {
            crate::warn(&format!("VM {name}: {warning}"));
        }
        crate::say(&format!(
            "VM {name} expires at {} ({}){}",
            timestamp::to_text(done.expires_at),
            distance(done.expires_at, done.before, now),
            what_follows(&done, name.as_str(), now)
        ));
        Ok(())
    })
}

/// What the expiry alone does not do, or gc will do.
fn what_follows(done: &Expires, name: &str, now: DateTime<Utc>) -> String {
    let is_over = done.expires_at <= now;
    match (is_over, done.status) {
        (true, _) if done.protected => "; it is protected, so gc leaves it alone".to_string(),
        (true, Status::Active) => "; the next gc run suspends it".to_string(),
        (true, _) => "; gc destroys it once its grace period is over".to_string(),
        (false, Status::Suspended) => {
            format!("; it is still suspended: start it with blockhost-vm-resume {name}")
        }
        (false, _) => String::new(),
    }
}
