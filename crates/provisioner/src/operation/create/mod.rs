//! `blockhost-vm-create`: from a name to a running, registered VM.
//!
//! Order (`facts/contract/commands.md`): check everything, wait for a turn, take VMID and addresses in one locked
//! change, write the snippets, run terraform, wait for the guest agent, register, set the route, isolate the port,
//! report. Each step that takes something is recorded in the journal first. A failure before registration is rolled
//! back ([`super::recovery`]); after it, a create of the same name and wallet continues to the result.

pub(super) mod allocate;
mod attempt;
pub(super) mod check;
mod earlier;
pub(super) mod facts;
pub(super) mod first_boot;
mod guest;
pub(super) mod holders;
mod preflight;
pub(super) mod preview;
mod report;
mod template;
mod tries;
mod turn;

pub(super) use allocate::traces_of_vms;

pub use crate::plan::create_vm::{Request, VmResult};
pub use report::OnResult;

use super::Context;
use crate::host::progress;
use anyhow::Context as _;
use holders::Holders;
use turn::Turn;

/// Outcome of `create`.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// Without `--apply`: what would be created, for a person.
    Planned(String),
    /// The VM is running and its result was reported; contains the warnings.
    Reported(Vec<String>),
}

/// Creates a VM. `report` prints the result; only then is the journal entry removed.
pub fn create(ctx: &Context<'_>, request: &Request, report: OnResult<'_>) -> anyhow::Result<Created> {
    progress::now(format_args!("VM {}: checking the node and the configuration", request.name));
    let checked = check::everything(ctx, request)?;
    if !request.apply {
        let mut holders = Holders::gather(ctx, &checked.facts, false)?;
        let text = preview::describe(ctx, request, &checked.facts, &mut holders)?;
        for warning in &checked.warnings {
            tracing::warn!("VM {}: {warning}", request.name);
        }
        return Ok(Created::Planned(text));
    }
    super::directories::check(ctx).with_context(|| format!("VM {}", request.name))?;
    progress::now(format_args!("VM {}: waiting for its turn", request.name));
    let queue_deadline = ctx.host.deadline(request.queue_timeout);
    let vm = ctx.lock_vm(&request.name, "create", request.queue_timeout)?;
    if let Some(entry) = earlier::unreported(&vm)? {
        return report::unreported(&vm, request, &entry, report);
    }
    earlier::make_way(&vm)?;
    let turn = Turn::wait(&vm, queue_deadline)?;
    preflight::still_fits(ctx, &checked, request).with_context(|| format!("VM {}", request.name))?;
    let (registered, mut kept_log) = tries::until_registered(&vm, request, &checked, &turn)?;
    let warnings = report::registered(&vm, &registered, report)?;
    kept_log.replace(None);
    ctx.host.reached("create.done")?;
    Ok(Created::Reported(warnings))
}
