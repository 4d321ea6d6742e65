//! `blockhost-vm-protect`: its flags and what it prints.

use crate::OneVm;
use crate::expiry::in_days;
use clap::{Parser, ValueEnum};
use provisioner::operation::audited::audited_in_words;
use provisioner::operation::protect::{Protected, protect};
use provisioner::operation::{in_words, mock};

/// Whether a VM is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// gc leaves the VM alone, and destroy needs --force
    On,
    /// gc and destroy treat the VM as any other
    Off,
}

/// Protect a VM from gc and destroy, or take its protection away
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-protect",
    version,
    styles = crate::STYLES,
    after_help = "A protected VM is neither suspended when it expires nor destroyed, unless destroy is forced. \
        Succeeds if nothing has to be changed.\n\n\
        Examples:\n  blockhost-vm-protect web-1 on\n  blockhost-vm-protect web-1 off"
)]
pub struct ProtectCommand {
    #[command(flatten)]
    vm: OneVm,
    /// Whether the VM is protected
    #[arg(value_name = "on|off", value_enum)]
    switch: Switch,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ProtectCommand = crate::parse();
    crate::run_vm(&command.vm, |host| {
        let (ctx, name) = (crate::open(host, &command.vm)?, &command.vm.name);
        let on = command.switch == Switch::On;
        let words = |result: &anyhow::Result<Protected>| match result {
            Ok(done) => format!("ok; protected: {} (before: {})", done.is, done.was),
            Err(_) => in_words(result),
        };
        let done = match command.vm.mock {
            true => mock::protect(&ctx, name, on)?,
            false => audited_in_words(&ctx, "protect", name, || protect(&ctx, name, on), words)?,
        };
        let now = host.now();
        let ended = done.expires_at.filter(|end| !done.is && *end < now);
        if let Some(end) = ended {
            crate::warn(&format!(
                "VM {name} expired {} ago: the next gc run suspends it, or destroys it once its grace period is over; renew it with blockhost-vm-expire {name} --extend-days N",
                in_days(now - end)
            ));
        }
        crate::say(&format!(
            "VM {name} is {}",
            match (done.is, done.was) {
                (true, false) => "protected: gc leaves it alone, and destroy must be forced",
                (true, true) => "already protected",
                (false, true) => "no longer protected",
                (false, false) => "not protected; nothing to do",
            }
        ));
        Ok(())
    })
}
