//! What a guest needs on the host after each start: the IPv6 host route, and its port isolated from other guests
//! (hazard H36: the tap is new every time).

use super::Context;
use crate::host::clock::Deadline;
use crate::tool::node::Node;
use crate::value::vmid::Vmid;
use std::net::Ipv6Addr;

/// Sets both; what could not be set is returned as warnings, because the guest runs all the same.
pub fn connect(
    ctx: &Context<'_>,
    node: &Node,
    vmid: Vmid,
    ipv6: Option<Ipv6Addr>,
    deadline: Deadline,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(address) = ipv6
        && let Err(error) = node.add_route(address, &ctx.bridge(), deadline)
    {
        warnings.push(format!("the host route to {address} was not set, so the guest cannot be reached by IPv6: {error}; blockhost-vm-start sets it again"));
    }
    if let Err(error) = node.isolate(vmid, deadline) {
        warnings.push(format!("port tap{vmid}i0 was not isolated, so other guests on this bridge can reach it: {error}; blockhost-vm-start sets it again"));
    }
    warnings
}
