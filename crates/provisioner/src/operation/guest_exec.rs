//! `blockhost-vm-guest-exec`: a command in the guest; its output and exit code are passed on (hazard H25).

use super::{Context, machine};
use crate::host::clock::Deadline;
use crate::tool::guest_agent::{self, Ended};
use crate::value::vm_name::VmName;
use std::time::Duration;

/// How long beyond the limit the answer is waited for whether the command was begun at all. Callers give 30 s where
/// the limit is 25 s.
const GRACE: Duration = Duration::from_secs(4);

/// Runs `command` by the guest's `/bin/sh -c`. `Ok(None)`: it outlived `limit` and goes on in the guest.
pub fn guest_exec(
    ctx: &Context<'_>,
    name: &VmName,
    command: &str,
    limit: Duration,
) -> anyhow::Result<Option<Ended>> {
    let deadline = Deadline::after(limit);
    let record = ctx.live_record(name)?;
    let machine = machine::seen(ctx, record, deadline)?;
    guest_agent::run(&ctx.node(), machine.vmid, &machine.identity, command, deadline, GRACE)
        .map_err(|error| error.context(machine.label()))
}
