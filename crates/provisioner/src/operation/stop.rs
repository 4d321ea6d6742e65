//! `blockhost-vm-stop`: asks the guest to shut down and waits; never uses force.

use super::{Context, machine};
use crate::host::progress;
use crate::tool::node::Waited;
use crate::value::vm_name::VmName;
use anyhow::Context as _;
use std::time::Duration;

/// The admin panel kills us after 60 s, so we give up earlier.
const LIMIT: Duration = Duration::from_secs(45);
/// How long the guest may take to react to the power button before it is pressed again.
const PRESS: Duration = Duration::from_secs(15);
/// How long it is watched before that.
const AGAIN: Duration = Duration::from_secs(5);
/// Error of `qm shutdown` if the guest did not shut down in time.
const UNHEARD: &str = "powerdown failed";

/// Shuts a VM down; returns `false` if it was already off.
pub fn stop(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<bool> {
    let limit = ctx.host.limit("stop", LIMIT);
    let deadline = ctx.host.deadline(limit);
    let Some((_vm, machine, state)) = machine::lock_running(ctx, name, "stop", deadline)? else {
        return Ok(false);
    };
    let label = machine.label();
    let paused = || {
        format!(
            "{label}: it is paused, so it cannot shut down; continue it with blockhost-vm-start {name} or switch it off with blockhost-vm-kill {name}"
        )
    };
    anyhow::ensure!(state.paused != Some(true), paused());
    let node = ctx.node();
    let shutdown = || {
        // The node gives up a little earlier than we do, so that its task does not outlast our answer, and early enough
        // for another attempt: a guest that is still booting does not react to the power button.
        let left = deadline.left().saturating_sub(Duration::from_secs(3));
        let limit = left.min(ctx.host.limit("stop-again", PRESS)).max(Duration::from_secs(1));
        node.shutdown(machine.vmid, &machine.identity, limit, deadline)
    };
    progress::now(format_args!("{label}: waiting for the guest to shut down"));
    let mut pressed_before = false;
    let waited = loop {
        let act = machine.act("qm-shutdown", deadline);
        let waited = node.act_and_wait(act, shutdown, |s| !s.running).with_context(|| label.clone())?;
        let goes_on = match &waited {
            // A guest that is shutting down no longer has an agent that could be asked; it needs more time.
            Waited::Failed(words) => {
                words.contains(UNHEARD) || (pressed_before && !words.contains("VM is paused"))
            }
            _ => false,
        };
        if !goes_on {
            break waited;
        }
        tracing::debug!("{label}: it is still running; pressing the power button again in a moment");
        pressed_before = true;
        // Too late for another request, but there is still time to see it shut down.
        let moment = if deadline.left() < AGAIN * 2 { deadline } else { deadline.at_most(AGAIN) };
        let seen = node.wait_for(machine.vmid, &machine.identity, moment, |s| !s.running);
        if let done @ Waited::Done(_) = seen.with_context(|| label.clone())? {
            break done;
        }
        if deadline.passed() {
            break waited;
        }
    };
    match waited {
        Waited::Done(_) => Ok(true),
        Waited::Failed(words) if words.contains("VM is paused") => anyhow::bail!(paused()),
        Waited::Failed(words) if !words.contains(UNHEARD) && !pressed_before => {
            anyhow::bail!("{label}: failed to shut down: {words}")
        }
        Waited::Failed(_) | Waited::TimedOut(_) => anyhow::bail!(
            "{label}: the guest did not shut down within {} s and is still running; it may still be booting: try again in a minute, or switch it off with blockhost-vm-kill {name}",
            limit.as_secs()
        ),
    }
}
