//! `blockhost-provisioner-reapply`
use clap::Parser;
use commands::Common;
use provisioner::operation::Context;
use provisioner::operation::reapply::reapply;

/// Put back the host routes and the isolation of all running VMs, after a reboot of the node
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
        commands::say(&format!("{} running VMs are connected, {} are off", done.connected, done.off));
        anyhow::ensure!(done.failures.is_empty(), "{} things could not be put back", done.failures.len());
        Ok(())
    })
}
