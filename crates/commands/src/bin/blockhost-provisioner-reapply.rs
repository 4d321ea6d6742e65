//! `blockhost-provisioner-reapply`
use clap::Parser;
use commands::Common;
use provisioner::operation::Context;
use provisioner::operation::reapply::reapply;

/// Restore the host routes and the port isolation of all running VMs, after a reboot of the node
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-reapply",
    version,
    styles = commands::STYLES,
    after_help = "Safe at any time; run by blockhost-reapply.service at boot. Suspended and destroyed VMs are left alone.\n\n\
        Example:\n  blockhost-provisioner-reapply"
)]
struct Command {
    #[command(flatten)]
    common: Common,
}

fn main() -> std::process::ExitCode {
    let command: Command = commands::parse();
    commands::run(&command.common, false, |host| {
        let done = reapply(&Context::open(host, false)?)?;
        for failure in &done.failures {
            commands::warn(failure);
        }
        commands::say(&done.summary());
        match done.failures.len() {
            0 => {}
            1 => anyhow::bail!("1 VM, route or port could not be restored; see above"),
            n => anyhow::bail!("{n} VMs, routes or ports could not be restored; see above"),
        }
        Ok(())
    })
}
