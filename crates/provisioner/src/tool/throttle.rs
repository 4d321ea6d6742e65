//! The root agent's actions for limits, and the API's view of the limits in a VM's configuration.

use super::node::Node;
use crate::host::clock::Deadline;
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::host::root_agent::AgentError;
use crate::value::identity::Identity;
use crate::value::limits::Limit;
use crate::value::vmid::Vmid;
use serde_json::{Map, Value, json};

/// The action that sets CPU and IOPS limits; a failure reported after its answer has this name.
pub const SET: &str = "pve-set-throttle";

/// Returns a VM's configuration: what is in force now, and what is pending until its next start (`facts/proxmox.md`
/// section 2).
pub fn configuration(
    api: &ProxmoxApi,
    node: &str,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Value, ApiError> {
    api.get(&format!("/nodes/{node}/qemu/{vmid}/pending"), deadline)
}

impl Node {
    /// Sets limits in the configuration of a running VM. Returns whether that has ended: on a busy node, one `qm` can
    /// take longer than the root agent waits for it.
    pub fn set_throttle(
        &self,
        vmid: Vmid,
        identity: &Identity,
        limits: &Map<String, Value>,
        deadline: Deadline,
    ) -> Result<bool, AgentError> {
        let answer = self.forceful(SET, vmid, identity, json!({ "limits": limits }), deadline)?;
        Ok(answer.get("pending") != Some(&Value::Bool(true)))
    }

    /// Limits one direction of the first network card's traffic until the VM stops; 0 removes the limit. `limit` is one
    /// of the two bandwidth limits; `kbps` is in kilobits per second.
    pub fn limit_rate(
        &self,
        vmid: Vmid,
        identity: &Identity,
        limit: Limit,
        kbps: u32,
        deadline: Deadline,
    ) -> Result<(), AgentError> {
        let direction = if limit == Limit::BandwidthIn { "in" } else { "out" };
        let mut params = json!({ "dev": format!("tap{vmid}i0"), "direction": direction });
        match kbps {
            0 => params["remove"] = true.into(),
            kbps => params["rate_kbps"] = kbps.into(),
        }
        self.forceful("tc-rate-limit", vmid, identity, params, deadline).map(drop)
    }
}
