//! `blockhost-vm-kill`: its flags and what it prints.

use crate::SomeVms;
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::kill::kill;

/// Switch a VM off at once
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-kill",
    version,
    styles = crate::STYLES,
    after_help = "Succeeds if the VM is already off. The guest gets no chance to shut down cleanly: use blockhost-vm-stop for that.\n\n\
        Example:\n  blockhost-vm-kill web-1"
)]
pub struct KillCommand {
    #[command(flatten)]
    vms: SomeVms,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: KillCommand = crate::parse();
    crate::switch_off(&command.vms, |ctx, name| audited(ctx, "kill", name, || kill(ctx, name)))
}
