//! The root agent's actions for limits, and the API's view of those in a VM's configuration.

use super::node::Node;
use crate::host::clock::Deadline;
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::host::root_agent::AgentError;
use crate::value::identity::Identity;
use crate::value::limits::Limit;
use crate::value::vmid::Vmid;
use serde_json::{Map, Value, json};

/// The action that sets CPU and IOPS limits, by which a failure after its answer is known.
pub const SET: &str = "pve-set-throttle";

/// A VM's configuration, what counts now beside what waits for its next start (`facts/proxmox.md` section 2).
pub fn configuration(
    api: &ProxmoxApi,
    node: &str,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Value, ApiError> {
    api.get(&format!("/nodes/{node}/qemu/{vmid}/pending"), deadline)
}

impl Node {
    /// Sets limits of the VM's configuration on a running VM. Whether it has ended: a busy node takes longer for one `qm`
    /// than the root agent waits for it.
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

    /// Limits one direction of the first card's traffic, until the VM stops; 0 removes the limit. `limit` is one of the two
    /// of bandwidth, `kbps` are kilobits per second.
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
