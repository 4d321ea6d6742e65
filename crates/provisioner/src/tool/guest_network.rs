//! The host's side of a guest's network, through the root agent: its IPv6 route and the isolation of its port.
//!
//! Routes are an action of our own plugin, which accepts the guests' bridge whatever its name. The daemon's own action
//! accepts five bridges by name (`facts/contract/root-agent.md`); it is used if the plugin is older than this command,
//! and if the plugin refuses the route: for a bridge that db.yaml does not name (terraform's variables may name
//! another), or for an address outside the broker's prefix.

use super::node::Node;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::value::text::BridgeName;
use crate::value::vmid::Vmid;
use serde_json::{Value, json};
use std::net::Ipv6Addr;

impl Node {
    /// Creates the host route to the guest's IPv6 address; an existing route is replaced.
    pub fn add_route(
        &self,
        address: Ipv6Addr,
        bridge: &BridgeName,
        deadline: Deadline,
    ) -> Result<(), AgentError> {
        self.route(("guest-route-add", "ip6-route-add"), address, bridge, deadline)
    }

    /// Removes the route. Only an older root agent reports an error if there was none.
    pub fn remove_route(
        &self,
        address: Ipv6Addr,
        bridge: &BridgeName,
        deadline: Deadline,
    ) -> Result<(), AgentError> {
        self.route(("guest-route-del", "ip6-route-del"), address, bridge, deadline)
    }

    fn route(
        &self,
        (of_plugin, of_daemon): (&str, &str),
        address: Ipv6Addr,
        bridge: &BridgeName,
        deadline: Deadline,
    ) -> Result<(), AgentError> {
        let params = || -> Value { json!({ "address": format!("{address}/128"), "dev": bridge.as_str() }) };
        match self.act(of_plugin, params(), deadline) {
            Err(error) if error.is_unknown_action() || matches!(error.code(), "bridge" | "prefix") => {
                self.act(of_daemon, params(), deadline).map(drop)
            }
            answer => answer.map(drop),
        }
    }

    /// Isolates the guest's first network card from other guests. Our VMs have no firewall bridge, so the tap is the
    /// bridge's port (H36).
    pub fn isolate(&self, vmid: Vmid, deadline: Deadline) -> Result<(), AgentError> {
        self.act("bridge-port-isolate", json!({ "dev": format!("tap{vmid}i0") }), deadline).map(drop)
    }
}
