//! `blockhost-vm-kill`
use clap::Parser;
use commands::OneVm;
use provisioner::operation::audited::audited;
use provisioner::operation::kill::kill;
use provisioner::operation::mock;

/// Switch a VM off at once
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-kill",
    version,
    styles = commands::STYLES,
    after_help = "Succeeds if the VM is already off. The guest gets no chance to shut down cleanly: use blockhost-vm-stop for that.\n\n\
        Example:\n  blockhost-vm-kill web-1"
)]
struct Command {
    #[command(flatten)]
    vm: OneVm,
}

fn main() -> std::process::ExitCode {
    let command: Command = commands::parse();
    commands::run_vm(&command.vm, |host| {
        let (ctx, name) = (commands::open(host, &command.vm)?, &command.vm.name);
        let was_on = match command.vm.mock {
            true => mock::switch_off(&ctx, name)?,
            false => audited(&ctx, "kill", name, || kill(&ctx, name))?,
        };
        commands::say(&format!("VM {} is {}", command.vm.name, if was_on { "off" } else { "off already" }));
        Ok(())
    })
}
