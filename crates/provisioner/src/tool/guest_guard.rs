//! What guards a guest's network at every start, through the root agent
//! (`facts/contract/root-agent.md#the-guard-of-a-vms-network`).

use super::node::{Node, put};
use super::vm_state::texts;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::value::identity::Identity;
use crate::value::limits::{Limit, Limits};
use crate::value::vmid::Vmid;
use serde_json::{Map, Value, json};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What a VM's network is to be held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Its own IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its own IPv6 address, to which the host gets a route.
    pub ipv6: Option<Ipv6Addr>,
    /// It may send from these alone.
    pub anti_spoofing: bool,
    /// False for a suspended VM: nothing of all this, whoever starts it (hazard H51).
    pub enabled: bool,
    /// Its bandwidth limits; `None`: they stay as they are.
    pub limits: Option<Limits>,
}

/// Result of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guarded {
    /// The VM runs, and everything is in place.
    pub applied: bool,
    /// What is not in place, one sentence each.
    pub missing: Vec<String>,
}

impl Node {
    /// Decides what guards the VM from its next start on, whoever starts it, and at once where it runs.
    pub fn set_guard(
        &self,
        vmid: Vmid,
        identity: &Identity,
        decision: &Decision,
        deadline: Deadline,
    ) -> Result<Guarded, AgentError> {
        let mut params = Map::new();
        params.insert("vmid".into(), vmid.get().into());
        put(identity, &mut params);
        let Decision { ipv4, ipv6, anti_spoofing, enabled, limits } = decision;
        params.insert("anti_spoofing".into(), (*anti_spoofing).into());
        params.insert("isolate".into(), true.into());
        params.insert("enabled".into(), (*enabled).into());
        params.extend(ipv4.map(|address| ("ipv4".to_owned(), Value::from(address.to_string()))));
        params.extend(ipv6.map(|address| ("ipv6".to_owned(), Value::from(address.to_string()))));
        params.extend(limits.map(|limits| {
            let keys = [Limit::BandwidthIn, Limit::BandwidthOut];
            let each = keys.map(|limit| (limit.key().to_owned(), Value::from(limits.get(limit))));
            ("limits".to_owned(), Value::Object(Map::from_iter(each)))
        }));
        let answer = self.act("guard-set", Value::Object(params), deadline)?;
        let applied = answer.get("applied") == Some(&Value::Bool(true));
        Ok(Guarded { applied, missing: texts(answer.get("missing")) })
    }

    /// Nothing guards the VM any more, and nothing of it is left; also of a VM that is gone. An older root agent has
    /// nothing to take away.
    pub fn clear_guard(&self, vmid: Vmid, identity: &Identity, deadline: Deadline) -> Result<(), AgentError> {
        let mut params = Map::new();
        params.insert("vmid".into(), vmid.get().into());
        put(identity, &mut params);
        match self.act("guard-clear", Value::Object(params), deadline) {
            // A stranger has the VMID, and no file is ours.
            Err(error) if error.is_unknown_action() || error.code() == "identity" => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Takes our hook script out of one VM of the node; how many had it. At none the script itself is gone.
    pub fn remove_guard(&self, deadline: Deadline) -> Result<u64, AgentError> {
        let answer = self.act("guard-remove", json!({}), deadline)?;
        Ok(answer.get("left").and_then(Value::as_u64).unwrap_or_default())
    }
}
