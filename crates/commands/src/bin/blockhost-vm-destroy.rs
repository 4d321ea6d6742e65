//! `blockhost-vm-destroy`
use clap::Parser;
use commands::OneVm;
use provisioner::operation::audited::audited;
use provisioner::operation::destroy::{Destroyed, destroy};

/// Destroy a VM with its disks, files, route and addresses; its record stays
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-destroy",
    version,
    styles = commands::STYLES,
    after_help = "Safe to run again: a VM that is unknown or destroyed already is success.\n\n\
        Examples:\n  blockhost-vm-destroy web-1\n  blockhost-vm-destroy web-1 --force   # although its record is protected"
)]
struct Command {
    #[command(flatten)]
    vm: OneVm,
    /// Destroy it although its record is protected
    #[arg(long)]
    force: bool,
}

fn main() -> std::process::ExitCode {
    let command: Command = commands::parse();
    commands::run(&command.vm.common, |host| {
        let name = &command.vm.name;
        let ctx = commands::open(host, &command.vm)?;
        commands::say(&match audited(&ctx, "destroy", name, || destroy(&ctx, name, command.force))? {
            Destroyed::Gone => format!("VM {name} is destroyed"),
            Destroyed::Already => format!("VM {name} was destroyed before; nothing to do"),
            Destroyed::NotDue | Destroyed::Runs => format!("VM {name} was left alone"),
            Destroyed::Unknown => format!("VM {name} is unknown; nothing to do"),
        });
        Ok(())
    })
}
