//! A change of a VM and its line in the audit trail.

use super::{Context, restore};
use crate::host::clock::Stopwatch;
use crate::host::root_agent::AgentError;
use crate::store::audit::{self, Change};
use crate::store::journal::Step;
use crate::tool::guest_agent::{Ended, ToolWords};
use crate::value::vm_name::VmName;

/// Does `act` and writes who did what to which VM, with which result.
pub fn audited<T>(
    ctx: &Context<'_>,
    verb: &str,
    name: &VmName,
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let words = |result: &anyhow::Result<T>| match result {
        Ok(_) => "ok".to_string(),
        Err(error) => format!("{error:#}"),
    };
    audited_in_words(ctx, verb, name, act, words)
}

/// The same for a command in a guest, of which the trail holds neither text nor output, but how it ended. A tool's
/// own words may repeat either, so an error is told in ours alone.
pub fn audited_guest_command(
    ctx: &Context<'_>,
    name: &VmName,
    act: impl FnOnce() -> anyhow::Result<Option<Ended>>,
) -> anyhow::Result<Option<Ended>> {
    let words = |result: &anyhow::Result<Option<Ended>>| match result {
        Ok(Some(ended)) => format!("exit {}", ended.exit_code),
        Ok(None) => "no end within its limit".to_string(),
        Err(error) => {
            let ours = error.chain().filter(|cause| !cause.is::<AgentError>() && !cause.is::<ToolWords>());
            let ours = ours.map(ToString::to_string);
            ours.collect::<Vec<_>>().join(": ")
        }
    };
    audited_in_words(ctx, "guest-exec", name, act, words)
}

/// The same, with what the trail says of the result.
pub fn audited_in_words<T>(
    ctx: &Context<'_>,
    verb: &str,
    name: &VmName,
    act: impl FnOnce() -> anyhow::Result<T>,
    words: impl FnOnce(&anyhow::Result<T>) -> String,
) -> anyhow::Result<T> {
    let begun = Stopwatch::start();
    let before = ctx.record(name).ok().flatten();
    let result = act();
    let after = ctx.record(name).ok().flatten();
    // A create that failed has registered nothing, unless its own entry says so: a record that came meanwhile is
    // another process's, and no effect of this one.
    let registered = || matches!(ctx.journal().read(name), Ok(Some(entry)) if entry.step == Step::Registered && entry.pid == std::process::id());
    let before = if verb == "create" && result.is_err() && !registered() { after.clone() } else { before };
    // Whatever was changed is what a record that an unlocked writer drops is restored from (H55).
    restore::keep_copy(ctx, name);
    let change = Change {
        verb,
        vm: name.as_str(),
        vmid: after.as_ref().or(before.as_ref()).map(|r| r.vmid.get()),
        before: before.as_ref().map(|r| r.status.as_str()),
        after: after.as_ref().map(|r| r.status.as_str()),
        result: &words(&result),
        duration: begun.elapsed(),
    };
    audit::write(ctx.host, &change);
    result
}
