//! `blockhost-provisioner-detect`
use clap::Parser;
use commands::Common;
use provisioner::host::run_process;
use std::process::ExitCode;

/// Tell by the exit code whether this is a Proxmox VE node
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-detect",
    version,
    styles = commands::STYLES,
    after_help = "Exit code 0 where Proxmox VE is installed (pvesh can be found), else 1. Prints nothing.\n\n\
        Example:\n  blockhost-provisioner-detect && echo \"a Proxmox node\""
)]
struct Command {
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let Command { common: _ } = commands::parse();
    if run_process::find("pvesh").is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
