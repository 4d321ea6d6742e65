//! `blockhost-vm-start`: its flags and what it prints.

use crate::SomeVms;
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::mock;
use provisioner::operation::start::start;

/// Start a VM, set its IPv6 host route and isolate its port
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-start",
    version,
    styles = crate::STYLES,
    after_help = "Succeeds if the VM is already running. A suspended VM that is still paid for becomes active; one that has expired is refused.\n\n\
        Examples:\n  blockhost-vm-start web-1\n  blockhost-vm-start web-1 --force   # even if it has expired; its record stays suspended"
)]
pub struct StartCommand {
    #[command(flatten)]
    vms: SomeVms,
    /// Start the VM even if it has expired; its record stays suspended
    #[arg(long)]
    force: bool,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: StartCommand = crate::parse();
    crate::run_vms(
        &command.vms,
        |_| Ok(()),
        |ctx, name| {
            let started = match command.vms.mock {
                true => mock::start(ctx, name, command.force)?,
                false => audited(ctx, "start", name, || start(ctx, name, command.force))?,
            };
            for warning in &started.warnings {
                crate::warn(&format!("VM {name}: {warning}"));
            }
            let what = if started.was_running { "is already running" } else { "is running" };
            let more = if started.resumed { " and is active again" } else { "" };
            crate::say(&format!("VM {name} {what}{more}"));
            Ok(())
        },
    )
}
