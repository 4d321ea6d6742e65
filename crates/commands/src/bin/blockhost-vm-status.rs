//! `blockhost-vm-status`
use clap::Parser;
use commands::{Common, answer};
use provisioner::operation::status::{Shown, status};
use provisioner::operation::{Context, mock};
use provisioner::value::vm_name::VmName;

/// Print one word: active, suspended, destroyed or unknown
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-status",
    version,
    styles = commands::STYLES,
    after_help = "Always exits 0; the reason for \"unknown\" is on stderr. active: the VM is running; suspended: it exists but is off or paused.\n\n\
        Example:\n  blockhost-vm-status web-1"
)]
struct Command {
    /// The VM's name
    #[arg(value_name = "NAME")]
    name: String,
    /// Use the mock database
    #[arg(long)]
    mock: bool,
    #[command(flatten)]
    common: Common,
}

fn main() -> std::process::ExitCode {
    let command: Command = commands::parse();
    let common = command.common.clone();
    commands::run(&common, command.mock, |host| {
        // Whatever is wrong, the answer is one of the four words.
        let looked = Context::open(host, command.mock).and_then(|ctx| {
            let name = VmName::parse(&command.name)?;
            Ok(if command.mock { mock::status(&ctx, &name) } else { status(&ctx, &name) })
        });
        let (shown, reason) = looked.unwrap_or_else(|error| (Shown::Unknown, Some(format!("{error:#}"))));
        if let Some(reason) = reason {
            commands::warn(&reason);
        }
        answer(&format!("{}\n", shown.as_str()))
    })
}
