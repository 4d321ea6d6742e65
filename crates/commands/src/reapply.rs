//! `blockhost-provisioner-reapply`: its flags and what it prints.

use crate::Common;
use clap::{Parser, ValueEnum};
use provisioner::operation::Context;
use provisioner::operation::reapply::{reapply, remove_guard, set_anti_spoofing};
use provisioner::value::vm_name::VmName;

/// Whether something is to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// From now on
    On,
    /// Not any more
    Off,
}

/// Restore what the network of all running VMs lacks: routes, port isolation, limits, anti-spoofing
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-reapply",
    version,
    styles = crate::STYLES,
    after_help = "Safe at any time; run by blockhost-reapply.service at boot. Suspended and destroyed VMs are left alone.\n\n\
        Examples:\n  blockhost-provisioner-reapply\n  blockhost-provisioner-reapply --anti-spoofing on web-1"
)]
pub struct ReapplyCommand {
    /// VMs whose anti-spoofing is switched
    #[arg(value_name = "NAME", value_parser = crate::parse_name, requires = "anti_spoofing")]
    names: Vec<VmName>,
    /// Let these VMs send only from their own addresses, or from any, and remember it
    #[arg(long, value_enum, value_name = "on|off", requires = "names")]
    anti_spoofing: Option<Switch>,
    /// Remove the hook script from all VMs, before the package is removed: without the script they would not start
    #[arg(long, conflicts_with_all = ["names", "anti_spoofing"])]
    remove_guard: bool,
    #[command(flatten)]
    common: Common,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ReapplyCommand = crate::parse();
    crate::run(&command.common.clone(), false, |host| {
        if command.remove_guard {
            crate::say(&format!("removed the hook script from {}", vms(remove_guard(host)?)));
            return Ok(());
        }
        let ctx = Context::open(host, false)?;
        match command.anti_spoofing {
            Some(switch) => switch_all(&ctx, &command.names, switch == Switch::On),
            None => reapply_all(&ctx),
        }
    })
}

fn vms(number: usize) -> String {
    if number == 1 { "1 VM".to_string() } else { format!("{number} VMs") }
}

fn switch_all(ctx: &Context<'_>, names: &[VmName], on: bool) -> anyhow::Result<()> {
    let mut failed = 0;
    for name in names {
        let missing = set_anti_spoofing(ctx, name, on).unwrap_or_else(|error| vec![format!("{error:#}")]);
        for why in &missing {
            crate::warn(&format!("VM {name}: {why}"));
        }
        match missing.is_empty() {
            true => crate::say(&format!("VM {name}: anti-spoofing is {}", if on { "on" } else { "off" })),
            false => failed += 1,
        }
    }
    anyhow::ensure!(failed == 0, "anti-spoofing of {} was not set; see above", vms(failed));
    Ok(())
}

fn reapply_all(ctx: &Context<'_>) -> anyhow::Result<()> {
    let done = reapply(ctx)?;
    for line in &done.cleared {
        crate::say(line);
    }
    for failure in &done.failures {
        crate::warn(failure);
    }
    crate::say(&done.summary());
    match done.failures.len() {
        0 => {}
        1 => anyhow::bail!("1 VM, route or port could not be restored; see above"),
        n => anyhow::bail!("{n} VMs, routes or ports could not be restored; see above"),
    }
    Ok(())
}
