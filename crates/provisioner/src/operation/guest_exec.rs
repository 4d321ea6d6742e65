//! `blockhost-vm-guest-exec`: runs a command in the guest and passes on its output and exit code (hazard H25).

use super::{Context, machine};
use crate::tool::guest_agent::{self, Ended};
use crate::value::vm_name::VmName;
use std::time::Duration;

/// How long beyond the limit to wait for the answer whether the command was started at all. Callers allow 30 s where
/// the limit is 25 s.
const GRACE: Duration = Duration::from_secs(4);

/// Runs `command` by the guest's `/bin/sh -c`. `Ok(None)`: it exceeded `limit` and continues in the guest.
pub fn guest_exec(
    ctx: &Context<'_>,
    name: &VmName,
    command: &str,
    limit: Duration,
) -> anyhow::Result<Option<Ended>> {
    let deadline = ctx.host.deadline(limit);
    let record = ctx.live_record(name)?;
    let machine = machine::seen(ctx, record, deadline)?;
    guest_agent::run(&ctx.node(), machine.vmid, &machine.identity, command, deadline, GRACE)
        .map_err(|error| error.context(machine.label()))
}
