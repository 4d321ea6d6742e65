//! Requests that outlive their client: Proxmox carries out a clone whose sender was killed, seconds or minutes later
//! (hazard H57). So absence right after a kill proves nothing.
//!
//! When a dead create is rolled back, its addresses, directory and journal entry are released at once: a clone is
//! neither configured nor started by itself, so nothing that arrives late can use them. Its VMID is not: it stays
//! withheld, together with the identity that the VM would have ([`withheld_vmids`](crate::store::withheld_vmids)),
//! until the node has been seen without that VM for longer than a request can be late. Every create, destroy and gc
//! checks again, and removes a VM that has arrived and is proven to be that one.

use super::{Context, recovery};
use crate::store::audit::{self, Change};
use crate::store::journal::Entry;
use crate::store::withheld_vmids::{Late, Withheld, WithheldVmids};
use crate::value::identity::Identity;
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// Time limit for one query of the node's tasks.
const TASKS: Duration = Duration::from_secs(5);

/// Starts watching the VMID of `entry`: its create has died, or its terraform did not get an answer to a request.
pub fn watch(ctx: &Context<'_>, entry: &Entry) -> anyhow::Result<()> {
    let Some(smbios_uuid) = entry.smbios_uuid else { return Ok(()) };
    let reason =
        format!("a create of VM {} was killed; one of its requests may still reach the node", entry.name);
    let late = Late { name: entry.name.clone(), smbios_uuid };
    WithheldVmids::new(ctx.host).withhold(entry.checked_vmid()?, &reason, Some(late))
}

/// Checks every watched VMID again. A failure is only a warning: the VMID stays withheld.
pub fn look_again(ctx: &Context<'_>) {
    let withheld = WithheldVmids::new(ctx.host);
    for one in withheld.all() {
        let Some(late) = &one.late else { continue };
        if let Err(error) = look_at(ctx, &withheld, &one, late) {
            tracing::warn!(
                "VMID {}: cannot tell yet whether a late request of an interrupted create of VM {} created a VM: \
                 {error:#}; the VMID stays withheld",
                one.vmid,
                late.name
            );
        }
    }
}

fn look_at(
    ctx: &Context<'_>,
    withheld: &WithheldVmids<'_>,
    one: &Withheld,
    late: &Late,
) -> anyhow::Result<()> {
    let vmid = Vmid::new(u64::from(one.vmid))?;
    let name = VmName::parse(&late.name)?;
    let identity = Identity::Uuid(late.smbios_uuid);
    let deadline = ctx.host.deadline(Duration::from_secs(15));
    let state = ctx.node_uninterrupted().state(vmid, Some(&identity), deadline);
    let state = state.context("cannot query the node")?;
    if state.exists && (state.is(&identity, &name) || state.lock == "clone") {
        let begun = ctx.host.stopwatch();
        let removed = recovery::remove_machine(ctx, &name, vmid, &identity, recovery::BRIEF);
        let words = removed.as_ref().map_or_else(|error| format!("{error:#}"), |_| "ok".to_string());
        if removed.is_ok() {
            tracing::warn!(
                "VM {name} (VMID {vmid}): removed a clone that arrived late, requested by a create that was killed"
            );
        }
        let change = Change {
            verb: "remove-late-clone",
            vm: name.as_str(),
            vmid: Some(one.vmid),
            before: None,
            after: None,
            result: &words,
            duration: begun.elapsed(),
        };
        audit::write(ctx.host, &change);
        removed?;
        // A start request may arrive as late as the clone did.
        return withheld.withhold(vmid, &one.reason, Some(late.clone()));
    }
    if !one.is_over(ctx.host) {
        return Ok(());
    }
    if has_running_task(ctx, vmid)? {
        return withheld.withhold(vmid, &one.reason, Some(late.clone()));
    }
    withheld.forget(one.vmid);
    Ok(())
}

/// Whether a task of ours about this VMID is running on the node; our token sees its own tasks.
fn has_running_task(ctx: &Context<'_>, vmid: Vmid) -> anyhow::Result<bool> {
    let (access, api) = ctx.api()?;
    let path = format!("/nodes/{}/tasks?source=active&vmid={vmid}", access.node);
    let tasks = api.get(&path, ctx.host.deadline(TASKS)).context("cannot query the node's tasks")?;
    let tasks = tasks.as_array().cloned().unwrap_or_default();
    let is_about_it = |task: &Value| {
        let id = task.get("id").and_then(Value::as_str).unwrap_or_default();
        // A finished task has an end time.
        id == vmid.to_string() && task.get("endtime").is_none()
    };
    Ok(tasks.iter().any(is_about_it))
}
