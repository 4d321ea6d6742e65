//! `blockhost-vm-kill`: powers a VM off at once.

use super::locked_vm::LockedVm;
use super::machine::Machine;
use super::{Context, machine};
use crate::host::clock::Deadline;
use crate::tool::node::Waited;
use crate::value::vm_name::VmName;
use anyhow::Context as _;
use std::time::Duration;

/// The admin panel kills us after 60 s, so we give up earlier.
const LIMIT: Duration = Duration::from_secs(45);

/// Powers a VM off; returns `false` if it was already off.
pub fn kill(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<bool> {
    let deadline = ctx.host.deadline_of("kill", LIMIT);
    let Some((vm, machine, _)) = machine::lock_running(ctx, name, "kill", deadline)? else {
        return Ok(false);
    };
    power_off(&vm, &machine, deadline)?;
    Ok(true)
}

/// Powers off a running VM of ours and waits until it is off.
pub fn power_off(vm: &LockedVm<'_, '_>, machine: &Machine, deadline: Deadline) -> anyhow::Result<()> {
    let node = vm.node();
    let stop = || node.stop(machine.vmid, &machine.identity, deadline);
    match node
        .act_and_wait(machine.act("qm-stop", deadline), stop, |s| !s.running)
        .with_context(|| machine.label())?
    {
        Waited::Done(_) => Ok(()),
        Waited::Failed(words) => anyhow::bail!("{}: failed to switch it off: {words}", machine.label()),
        Waited::TimedOut(last) => anyhow::bail!(
            "{}: it is still running{}; check the node's task log, then try again",
            machine.label(),
            if last.lock.is_empty() { String::new() } else { format!(" (locked: {})", last.lock) }
        ),
    }
}
