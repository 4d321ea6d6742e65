//! `blockhost-vm-stop`: asks the guest to shut down and waits; never by force.

use super::{Context, machine};
use crate::host::clock::Deadline;
use crate::host::failpoint;
use crate::tool::node::Waited;
use crate::value::vm_name::VmName;
use anyhow::Context as _;
use std::time::Duration;

/// The admin panel kills us at 60 s, so we decide before.
const LIMIT: Duration = Duration::from_secs(45);
/// How long the guest may take to hear the power button before it is pressed again.
const PRESS: Duration = Duration::from_secs(15);

/// Shuts a VM down; `false` when it was off already.
pub fn stop(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<bool> {
    let limit = failpoint::limit("stop", LIMIT);
    let deadline = Deadline::after(limit);
    ctx.live_record(name)?;
    let vm = ctx.lock_vm(name, "stop", Duration::from_secs(30))?;
    let machine = machine::of_record(&vm, vm.live_record_now()?, deadline)?;
    let label = machine.label();
    let state = machine.settled_state(&vm, deadline)?;
    anyhow::ensure!(
        state.exists,
        "{label}: the VM no longer exists on the node (deleted outside BlockHost?); restore it from a backup, or close its record with blockhost-vm-destroy {name}"
    );
    if !state.running {
        return Ok(false);
    }
    let paused = || {
        format!(
            "{label}: it is paused, so it cannot shut down; continue it with blockhost-vm-start {name} or switch it off with blockhost-vm-kill {name}"
        )
    };
    anyhow::ensure!(state.paused != Some(true), paused());
    let node = ctx.node();
    let shutdown = || {
        // The node gives up a little before we do, so that its task does not outlast our answer; and in time for
        // another try: a guest that is still booting does not hear the button.
        let left = deadline.left().saturating_sub(Duration::from_secs(3));
        let limit = left.min(failpoint::limit("stop-again", PRESS)).max(Duration::from_secs(1));
        node.shutdown(machine.vmid, &machine.identity, limit, deadline)
    };
    let mut waited;
    loop {
        let act = machine.act("qm-shutdown", deadline);
        waited = node.act_and_wait(act, shutdown, |s| !s.running).with_context(|| label.clone())?;
        let unheard = matches!(&waited, Waited::Failed(words) if words.contains("powerdown failed"));
        if !unheard || deadline.left() < Duration::from_secs(5) {
            break;
        }
        tracing::debug!("{label}: the guest has not heard the power button; pressing it again");
        node.pause(Duration::from_secs(1))?;
    }
    match waited {
        Waited::Done(_) => Ok(true),
        Waited::Failed(words) if words.contains("VM is paused") => anyhow::bail!(paused()),
        Waited::Failed(words) if !words.contains("powerdown failed") => {
            anyhow::bail!("{label}: failed to shut down: {words}")
        }
        Waited::Failed(_) | Waited::TimedOut(_) => anyhow::bail!(
            "{label}: the guest did not shut down within {} s and is still running; it may still be booting: try again in a minute, or switch it off with blockhost-vm-kill {name}",
            limit.as_secs()
        ),
    }
}
