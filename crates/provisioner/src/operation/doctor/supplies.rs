//! What runs out, and addresses of the pools that others use.

use crate::operation::Context;
use crate::operation::capacity::supplies::Supplies;
use crate::plan::capacity::Numbers;
use crate::plan::doctor::Finding;
use crate::plan::doctor::addresses;
use crate::value::allocation::Held;
use std::collections::HashSet;
use std::net::IpAddr;

/// What runs out, and who uses an address that is nobody's.
pub fn findings(
    ctx: &Context<'_>,
    held: &Held,
    left: &Supplies,
    neighbours: &[(IpAddr, String)],
) -> Vec<Finding> {
    let mut found: Vec<Finding> = [
        ("VMIDs", "vmid_range", &left.vmids),
        ("IPv4 addresses", "ip_pool", &left.ipv4),
        ("IPv6 addresses", "ipv6_pool", &left.ipv6),
    ]
    .into_iter()
    .filter_map(|(what, key, numbers)| match numbers {
        Numbers::Counted(_, supply) => addresses::supply(what, key, *supply),
        Numbers::None | Numbers::Unknown => None,
    })
    .collect();
    let pool = ctx.settings.ipv4_pool().ok();
    let in_pool = |address: &IpAddr| match address {
        IpAddr::V4(address) => pool.is_some_and(|pool| (pool.start..=pool.end).contains(address)),
        IpAddr::V6(_) => false,
    };
    let answering: Vec<(IpAddr, String)> = neighbours.iter().filter(|(a, _)| in_pool(a)).cloned().collect();
    let all: HashSet<IpAddr> = held
        .ipv4
        .iter()
        .map(|a| IpAddr::from(*a))
        .chain(held.ipv6.iter().map(|a| IpAddr::from(*a)))
        .collect();
    found.extend(addresses::of_others(&answering, &all));
    found
}
