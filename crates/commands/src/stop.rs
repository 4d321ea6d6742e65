//! `blockhost-vm-stop`: its flags and what it prints.

use crate::SomeVms;
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::stop::stop;

/// Shut a VM down and wait until it is off
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-stop",
    version,
    styles = crate::STYLES,
    after_help = "Succeeds if the VM is already off. A guest that does not shut down within about 45 s keeps running; use blockhost-vm-kill to switch it off.\n\n\
        Example:\n  blockhost-vm-stop web-1"
)]
pub struct StopCommand {
    #[command(flatten)]
    vms: SomeVms,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: StopCommand = crate::parse();
    crate::switch_off(&command.vms, |ctx, name| audited(ctx, "stop", name, || stop(ctx, name)))
}
