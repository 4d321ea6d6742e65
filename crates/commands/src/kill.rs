//! `blockhost-vm-kill`: its flags and what it prints.

use crate::SomeVms;
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::kill::kill;
use provisioner::operation::mock;

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
    crate::run_vms(
        &command.vms,
        |_| Ok(()),
        |ctx, name| {
            let was_on = match command.vms.mock {
                true => mock::switch_off(ctx, name)?,
                false => audited(ctx, "kill", name, || kill(ctx, name))?,
            };
            crate::say(&format!("VM {} is {}", name, if was_on { "off" } else { "already off" }));
            Ok(())
        },
    )
}
