//! Changes of a VM and their lines in the audit trail.

use super::{Context, restore};
use crate::host::root_agent::AgentError;
use crate::store::audit::{self, Change};
use crate::store::journal::Step;
use crate::tool::guest_agent::{Ended, ToolWords};
use crate::value::vm_name::VmName;

/// Runs `act` and records who did what to which VM, with which result.
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

/// As [`audited`], for a command in a guest: the trail gets neither its text nor its output, only how it ended. A
/// tool's message may repeat either, so an error is recorded only in our own words.
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

/// As [`audited`], with `words` for the result in the trail.
pub fn audited_in_words<T>(
    ctx: &Context<'_>,
    verb: &str,
    name: &VmName,
    act: impl FnOnce() -> anyhow::Result<T>,
    words: impl FnOnce(&anyhow::Result<T>) -> String,
) -> anyhow::Result<T> {
    let begun = ctx.host.stopwatch();
    let before = ctx.record(name).ok().flatten();
    let result = act();
    let after = ctx.record(name).ok().flatten();
    // A create that failed has registered nothing, unless its own journal entry says so: a record that appeared
    // meanwhile is another process's and no effect of this one.
    let registered = || matches!(ctx.journal().read(name), Ok(Some(entry)) if entry.step == Step::Registered && entry.pid == std::process::id());
    let before = if verb == "create" && result.is_err() && !registered() { after.clone() } else { before };
    // Whatever was changed must be in the copy from which a record dropped by an unlocked writer is restored (H55).
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
