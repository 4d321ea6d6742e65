//! `blockhost-vm-status`: its flags and what it prints.

use crate::{Common, answer};
use clap::Parser;
use provisioner::operation::status::{Shown, status};
use provisioner::operation::{Context, mock};
use provisioner::value::vm_name::VmName;

/// Print one word: active, suspended, destroyed or unknown
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-status",
    version,
    styles = crate::STYLES,
    after_help = "Always exits 0; the reason for \"unknown\" is on stderr. active: the VM is running; suspended: it exists but is off or paused.\n\n\
        Example:\n  blockhost-vm-status web-1"
)]
pub struct StatusCommand {
    /// The VM's name
    #[arg(value_name = "NAME")]
    name: String,
    /// Use the mock database
    #[arg(long)]
    mock: bool,
    #[command(flatten)]
    common: Common,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: StatusCommand = crate::parse();
    let common = command.common.clone();
    crate::run(&common, command.mock, |host| {
        // Whatever goes wrong, the answer is one of the four words.
        let looked = Context::open(host, command.mock).and_then(|ctx| {
            let name = VmName::parse(&command.name)?;
            Ok(if command.mock { mock::status(&ctx, &name) } else { status(&ctx, &name) })
        });
        let (shown, reason) = looked.unwrap_or_else(|error| (Shown::Unknown, Some(format!("{error:#}"))));
        if let Some(reason) = reason {
            crate::warn(&reason);
        }
        answer(&format!("{}\n", shown.as_str()))
    })
}
