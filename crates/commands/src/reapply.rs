//! `blockhost-provisioner-reapply`: its flags and what it prints.

use crate::Common;
use clap::Parser;
use provisioner::operation::Context;
use provisioner::operation::reapply::reapply;

/// Restore the host routes and the port isolation of all running VMs, after a reboot of the node
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-reapply",
    version,
    styles = crate::STYLES,
    after_help = "Safe at any time; run by blockhost-reapply.service at boot. Suspended and destroyed VMs are left alone.\n\n\
        Example:\n  blockhost-provisioner-reapply"
)]
pub struct ReapplyCommand {
    #[command(flatten)]
    common: Common,
}

/// The whole command.
pub fn main() -> std::process::ExitCode {
    let command: ReapplyCommand = crate::parse();
    crate::run(&command.common, false, |host| {
        let done = reapply(&Context::open(host, false)?)?;
        for failure in &done.failures {
            crate::warn(failure);
        }
        crate::say(&done.summary());
        match done.failures.len() {
            0 => {}
            1 => anyhow::bail!("1 VM, route or port could not be restored; see above"),
            n => anyhow::bail!("{n} VMs, routes or ports could not be restored; see above"),
        }
        Ok(())
    })
}
