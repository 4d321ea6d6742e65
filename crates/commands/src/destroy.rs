//! `blockhost-vm-destroy`: its flags and what it prints.

use crate::OneVm;
use clap::Parser;
use provisioner::operation::audited::audited;
use provisioner::operation::destroy::{Destroyed, destroy, forget};
use provisioner::operation::mock;

/// Destroy a VM with its disks, files, route and addresses; its record stays
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-destroy",
    version,
    styles = crate::STYLES,
    after_help = "Can be repeated: succeeds if the VM is unknown or already destroyed.\n\n\
        Examples:\n  blockhost-vm-destroy web-1\n  blockhost-vm-destroy web-1 --force   # even if its record is protected\n  \
        blockhost-vm-destroy web-1 --forget  # its VM was deleted by hand, and somebody else's has its VMID"
)]
pub struct DestroyCommand {
    #[command(flatten)]
    vm: OneVm,
    /// Destroy the VM even if its record is protected
    #[arg(long)]
    force: bool,
    /// Only close the record: free its addresses and files, and leave whatever has its VMID alone
    #[arg(long)]
    forget: bool,
    /// Do not ask before closing the record
    #[arg(long, requires = "forget")]
    yes: bool,
}

/// The whole command.
pub fn main() -> std::process::ExitCode {
    let command: DestroyCommand = crate::parse();
    crate::run_vm(&command.vm, |host| {
        let name = &command.vm.name;
        let ctx = crate::open(host, &command.vm)?;
        if command.forget && !command.yes {
            let question =
                format!("Close the record of VM {name} and free its addresses, without deleting any VM?");
            anyhow::ensure!(
                crate::confirmed(&question, "--yes")?,
                "VM {name}: not confirmed; nothing was done"
            );
        }
        let act = || match command.forget {
            true => forget(&ctx, name, command.force),
            false => destroy(&ctx, name, command.force),
        };
        let done = match command.vm.mock {
            true => mock::destroy(&ctx, name, command.force)?,
            false => audited(&ctx, "destroy", name, act)?,
        };
        crate::say(&match done {
            // Engines note what stands on stdout.
            Destroyed::Gone => return crate::answer(&format!("VM {name} is destroyed\n")),
            Destroyed::Already => format!("VM {name} was destroyed before; nothing to do"),
            Destroyed::NotDue | Destroyed::Runs => format!("VM {name}: left alone"),
            Destroyed::Undone => format!("VM {name}: its create was interrupted; rolled it back"),
            Destroyed::Unknown => format!("VM {name} is unknown; nothing to do"),
        });
        Ok(())
    })
}
