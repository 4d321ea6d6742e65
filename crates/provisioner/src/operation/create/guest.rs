//! Waits for the guest: engines run commands in it as soon as they have read the result (hazard H24).

use crate::host::patience::Patience;
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::operation::Context;
use crate::value::identity::Identity;
use crate::value::node_name::NodeName;
use crate::value::vmid::Vmid;
use std::time::Duration;

/// The state of the VM itself is checked at every tenth ping, so that a dead VM is not waited for.
const LOOK_EVERY: u32 = 10;

/// Waits until the guest agent answers. Queries the API, which leaves the root agent's single lane free (H20), or the
/// root agent if the token lacks the privilege.
pub fn wait_until_ready(
    ctx: &Context<'_>,
    api: &ProxmoxApi,
    node_name: &NodeName,
    vmid: Vmid,
    identity: &Identity,
    limit: Duration,
) -> anyhow::Result<()> {
    let (node, deadline) = (ctx.node(), ctx.host.deadline(limit));
    let path = format!("/nodes/{node_name}/qemu/{vmid}/agent/ping");
    let mut by_api = true;
    let mut pause = Duration::from_millis(100);
    let mut patience = Patience::new(ctx.host.doors);
    for look in 1u32.. {
        let last: String;
        if by_api {
            match api.post(&path, &[], deadline.at_most(Duration::from_secs(10))) {
                Ok(_) => return Ok(()),
                Err(error @ (ApiError::Forbidden { .. } | ApiError::Status { status: 501, .. })) => {
                    tracing::debug!("{error}; trying the root agent instead");
                    by_api = false;
                    continue;
                }
                Err(error) => last = error.to_string(),
            }
        } else {
            match node.guest_ping(vmid, identity, deadline.at_most(Duration::from_secs(10))) {
                Ok(()) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
        }
        if look.is_multiple_of(LOOK_EVERY)
            && let Ok(state) = node.state(vmid, Some(identity), deadline.at_most(Duration::from_secs(5)))
        {
            anyhow::ensure!(
                state.exists && state.running,
                "the guest shut itself down during its first boot ({last}); check its console with qm terminal {vmid}"
            );
        }
        anyhow::ensure!(
            !deadline.passed(),
            "the guest agent did not answer within {} s ({last}); likely causes: the template lacks qemu-guest-agent, \
             cloud-init hangs (no network, a package mirror that does not answer), or the node is overloaded; to \
             wait longer, set --guest-timeout, or guest_ready_timeout in db.yaml",
            limit.as_secs()
        );
        let most = limit.as_secs();
        patience
            .still(|| format!("VMID {vmid}: still waiting for the guest agent, at most {most} s: {last}"));
        node.pause(pause.min(deadline.left()))?;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
    Ok(())
}
