//! `blockhost-vm-stop`: its flags and what it prints.

use crate::SomeVms;
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::mock;
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
    crate::run_vms(
        &command.vms,
        |_| Ok(()),
        |ctx, name| {
            let was_on = match command.vms.mock {
                true => mock::switch_off(ctx, name)?,
                false => audited(ctx, "stop", name, || stop(ctx, name))?,
            };
            crate::say(&format!("VM {} is {}", name, if was_on { "off" } else { "already off" }));
            Ok(())
        },
    )
}
