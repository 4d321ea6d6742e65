//! `blockhost-provisioner-guard`: its flags and what it prints.

use crate::Common;
use clap::Parser;
use provisioner::operation::guard::{Phase, guard};
use provisioner::value::vmid::Vmid;
use std::process::ExitCode;

/// Guard the network of a VM: the hook script that Proxmox runs when the VM starts and stops
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-guard",
    version,
    styles = crate::STYLES,
    after_help = "Run by Proxmox through the hook script blockhost-guard.sh, and by the root agent; root only. What is to be\n\
        done is in /var/lib/blockhost-guard/VMID.json; a VM without that file is left alone.\n\n\
        Examples:\n  blockhost-provisioner-guard 100 apply     put back what a running VM lacks\n  \
        blockhost-provisioner-guard 100 off       take rules, limits and route away"
)]
pub struct GuardCommand {
    /// The VM's number on this node
    #[arg(value_name = "VMID", value_parser = parse_vmid)]
    vmid: Vmid,
    /// pre-start, post-start, pre-stop, post-stop, apply or off; any other does nothing
    #[arg(value_name = "PHASE")]
    phase: String,
    #[command(flatten)]
    common: Common,
}

fn parse_vmid(text: &str) -> Result<Vmid, String> {
    let number: u32 = crate::number(text, 100..=999_999_999, "a VMID, e.g. 100")?;
    Vmid::new(u64::from(number)).map_err(|refused| refused.why.to_string())
}

/// The command's entry point.
pub fn main() -> ExitCode {
    let command: GuardCommand = crate::parse();
    let Some(phase) = Phase::parse(&command.phase) else { return ExitCode::SUCCESS };
    let vmid = command.vmid;
    crate::run_as_root(&command.common, |host| {
        let done = guard(host, vmid, phase)?;
        for missing in &done.missing {
            crate::warn(&format!("VMID {vmid}: {missing}"));
        }
        // When the hook fails in pre-start, Proxmox does not start the VM.
        anyhow::ensure!(!done.refused, "VMID {vmid} stays off, because db.yaml says guard_required: true");
        anyhow::ensure!(
            done.missing.is_empty() || phase == Phase::PreStart,
            "the network of VMID {vmid} is not guarded as it should be; see above"
        );
        Ok(())
    })
}
