//! `blockhost-vm-destroy`: its flags and what it prints.

use crate::SomeVms;
use anyhow::Context as _;
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
    vms: SomeVms,
    /// Destroy the VM even if its record is protected
    #[arg(long)]
    force: bool,
    /// Only close the record: free its addresses and files, and leave whatever has its VMID alone
    #[arg(long)]
    forget: bool,
    /// Do not ask: neither before closing a record nor, on a terminal, before destroying several VMs
    #[arg(long)]
    yes: bool,
}

impl DestroyCommand {
    /// Asks before several VMs go, where somebody can be asked, and before a record is closed.
    fn ask(&self) -> anyhow::Result<()> {
        let (names, count) = (self.vms.in_words(), self.vms.names().len());
        let question = match (self.forget, count) {
            _ if self.yes => return Ok(()),
            (true, 1) => {
                format!("Close the record of VM {names} and free its addresses, without deleting any VM?")
            }
            (true, _) => format!(
                "Close the records of {count} VMs ({names}) and free their addresses, without deleting any VM?"
            ),
            (false, 1) => return Ok(()),
            (false, _) if !crate::can_ask() => return Ok(()),
            (false, _) => format!("Destroy {count} VMs with their disks: {names}?"),
        };
        let label = if count == 1 { format!("VM {names}") } else { format!("VMs {names}") };
        anyhow::ensure!(
            crate::confirmed(&question, "--yes").with_context(|| label.clone())?,
            "{label}: not confirmed; nothing was done"
        );
        Ok(())
    }
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: DestroyCommand = crate::parse();
    crate::run_vms(
        &command.vms,
        |_| command.ask(),
        |ctx, name| {
            let act = || match command.forget {
                true => forget(ctx, name, command.force),
                false => destroy(ctx, name, command.force),
            };
            let done = match command.vms.mock {
                true => mock::destroy(ctx, name, command.force)?,
                false => audited(ctx, "destroy", name, act)?,
            };
            crate::say(&match done {
                // Engines record what is on stdout.
                Destroyed::Gone => return crate::answer(&format!("VM {name} is destroyed\n")),
                Destroyed::Already => format!("VM {name} was destroyed before; nothing to do"),
                Destroyed::NotDue | Destroyed::Runs => format!("VM {name}: left alone"),
                Destroyed::Undone => format!("VM {name}: its create was interrupted; rolled it back"),
                Destroyed::Unknown => format!("VM {name} is unknown; nothing to do"),
            });
            Ok(())
        },
    )
}
