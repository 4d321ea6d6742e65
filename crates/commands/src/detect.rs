//! `blockhost-provisioner-detect`: its flags and what it prints.

use crate::Common;
use clap::Parser;
use provisioner::host::run_process;
use std::process::ExitCode;

/// Check whether this is a Proxmox VE node
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-detect",
    version,
    styles = crate::STYLES,
    after_help = "Exit code 0 where Proxmox VE is installed (pvesh can be found), else 1. Prints nothing.\n\n\
        Example:\n  blockhost-provisioner-detect && echo \"a Proxmox node\""
)]
pub struct DetectCommand {
    #[command(flatten)]
    common: Common,
}

/// The command's entry point.
pub fn main() -> ExitCode {
    let DetectCommand { common: _ } = crate::parse();
    if run_process::find("pvesh").is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
