//! Addresses for VMs: which to propose, and which addresses of a chosen pool belong to the host itself.
//!
//! A VM that gets an address of the host, its router or a name server takes it away from everybody on the network
//! (H55). The network of a hosting provider's uplink is not ours to assign from either; in that case a separate private
//! network for the VMs is proposed.

use crate::value::address::{Ipv4Network, Ipv4Pool};
use crate::value::host_network::{Address, Interface, Network};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Returns every IPv4 address that the host has or needs: those of all its interfaces, its default routers and its name
/// servers.
pub fn taken(network: &Network, name_servers: impl IntoIterator<Item = IpAddr>) -> BTreeSet<Ipv4Addr> {
    let own = network.interfaces.iter().flat_map(|one| one.addresses.iter().map(|address| address.ip));
    let routers = network.default_routes.iter().map(|route| route.gateway);
    let all = own.chain(routers).chain(name_servers);
    all.filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }).collect()
}

/// Proposes a network with its gateway and the range for VMs, and the name of its bridge if that exists or is to be
/// created.
pub fn proposal(network: &Network, taken: &BTreeSet<Ipv4Addr>, used_names: &[String]) -> Option<Value> {
    let uplink = network.uplink().map(|(interface, route)| (interface, Some(route.gateway)));
    let is_ours = |one: &&Interface| one.is_bridge && ipv4(&one.addresses).is_some_and(|a| is_private(a.ip));
    let bridge = network.interfaces.iter().find(is_ours).map(|bridge| (bridge, None));
    let is_public = uplink.is_some_and(|(one, _)| ipv4(&one.addresses).is_none_or(|a| !is_private(a.ip)));
    let found = if is_public { bridge } else { uplink.or(bridge) };
    let Some((interface, gateway)) = found else {
        return is_public.then(|| of_its_own(network, used_names)).flatten();
    };
    let own = ipv4(&interface.addresses)?;
    let net = Ipv4Network::parse(&own.to_string()).ok()?;
    let gateway = match gateway {
        Some(IpAddr::V4(gateway)) if net.contains(gateway) => gateway,
        _ => own.ip.to_string().parse().ok()?,
    };
    let (start, end) = range(&net, gateway, taken)?;
    let mut found =
        json!({"ip_network": net.to_string(), "gateway": gateway, "ip_start": start, "ip_end": end});
    if interface.is_bridge {
        found["bridge"] = json!(interface.name);
    }
    Some(found)
}

/// Proposes a private network unknown to the host, on a bridge that does not exist yet.
fn of_its_own(network: &Network, used_names: &[String]) -> Option<Value> {
    let known: Vec<Ipv4Network> = network
        .interfaces
        .iter()
        .flat_map(|one| {
            one.addresses.iter().filter_map(|address| Ipv4Network::parse(&address.to_string()).ok())
        })
        .collect();
    let candidates =
        (0..=255).map(|n| format!("10.10.{n}.0/24")).chain((0..=255).map(|n| format!("192.168.{n}.0/24")));
    let free = candidates.filter_map(|text| Ipv4Network::parse(&text).ok()).find(|one| {
        known.iter().all(|other| !other.contains(one.address()) && !one.contains(other.address()))
    })?;
    let name = (0..4096)
        .map(|n| format!("vmbr{n}"))
        .find(|name| network.interface(name).is_none() && !used_names.contains(name))?;
    let at = |last: u32| Ipv4Addr::from(u32::from(free.address()) + last);
    Some(json!({
        "ip_network": free.to_string(),
        "gateway": at(1),
        "ip_start": at(10),
        "ip_end": at(250),
        "bridge": name,
        "note": format!(
            "This host's uplink has a public address, so its network is not used for VMs. The proposal is the private \
             network {free} on the new bridge {name}, which setup creates with the address {}. It has no connection \
             to the outside until you set one up: forward and translate it (net.ipv4.ip_forward = 1 and a masquerade \
             rule for {free}), or route it.",
            at(1)
        ),
    }))
}

fn ipv4(addresses: &[Address]) -> Option<&Address> {
    addresses.iter().find(|address| address.ip.is_ipv4())
}

/// Whether the address is of a network that anybody may use: RFC 1918, shared address space, link-local, or loopback.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback() || is_shared(ip),
        IpAddr::V6(_) => false,
    }
}

fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && (64..128).contains(&second)
}

/// Returns the longest run of unused addresses: in the upper part of the network (.200 to .250 of 256 addresses),
/// otherwise in all of it.
fn range(
    network: &Ipv4Network,
    gateway: Ipv4Addr,
    taken: &BTreeSet<Ipv4Addr>,
) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let first = u32::from(network.address());
    let size = u64::from(u32::from(network.broadcast()) - first) + 1;
    let last = u32::from(network.broadcast()) - 1;
    let at = |share: u64| u32::try_from(size * share / 256).ok().map(|offset| (first + offset).min(last));
    let held: BTreeSet<u32> = taken.iter().copied().chain([gateway]).map(u32::from).collect();
    let upper = longest_run(at(200)?, at(250)?, &held);
    let all = || longest_run(first + 1, last, &held);
    let (start, end) = upper.or_else(all)?;
    Some((start.into(), end.into()))
}

fn longest_run(start: u32, end: u32, held: &BTreeSet<u32>) -> Option<(u32, u32)> {
    let mut runs = Vec::new();
    let mut next = start;
    for taken in held.range(start..=end) {
        if *taken > next {
            runs.push((next, taken - 1));
        }
        next = taken.saturating_add(1);
    }
    if next <= end {
        runs.push((next, end));
    }
    // Of runs of equal length, take the first.
    runs.into_iter().rev().max_by_key(|(start, end)| end - start)
}

/// Returns `pool` with the host's own addresses trimmed from its ends, and those of them within the pool, which create
/// skips. Fails if no address is left.
pub fn narrowed(pool: &Ipv4Pool, taken: &BTreeSet<Ipv4Addr>) -> anyhow::Result<(Ipv4Pool, Vec<Ipv4Addr>)> {
    let is_free = |ip: &Ipv4Addr| !taken.contains(ip);
    let from_end = (u32::from(pool.start)..=u32::from(pool.end)).rev().map(Ipv4Addr::from);
    let (start, end) = (pool.addresses().find(is_free), from_end.filter(|ip| pool.usable(*ip)).find(is_free));
    let within = |ip: &Ipv4Addr| (pool.start..=pool.end).contains(ip);
    let (Some(start), Some(end)) = (start, end) else {
        let held: Vec<String> = taken.iter().filter(|ip| within(ip)).map(ToString::to_string).collect();
        anyhow::bail!(
            "no address of the pool {pool} can be assigned to a VM: {} already in use by this host, its router or a \
             name server; choose another ip_start and ip_end",
            match held.as_slice() {
                [one] => format!("{one} is"),
                several => format!("{} are", several.join(", ")),
            }
        );
    };
    let held = taken.iter().copied().filter(|ip| within(ip) && *ip != pool.gateway).collect();
    // Ends that are the gateway, or unusable for VMs for another reason, stay as chosen.
    let trim = |chosen: Ipv4Addr, free: Ipv4Addr| if taken.contains(&chosen) { free } else { chosen };
    Ok((Ipv4Pool { start: trim(pool.start, start), end: trim(pool.end, end), ..*pool }, held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::host_network::DefaultRoute;

    fn host(interfaces: &[(&str, bool, &str)], router: &str) -> Network {
        let interface = |(name, is_bridge, address): &(&str, bool, &str)| {
            let (ip, prefix) = address.split_once('/').unwrap();
            let address = Address { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() };
            let name = (*name).to_owned();
            Interface { name, master: None, is_bridge: *is_bridge, is_up: true, addresses: vec![address] }
        };
        let route = DefaultRoute { gateway: router.parse().unwrap(), device: interfaces[0].0.into() };
        Network { interfaces: interfaces.iter().map(interface).collect(), default_routes: vec![route] }
    }

    fn shown(network: &Network, used: &[String]) -> String {
        let found = proposal(network, &taken(network, []), used).unwrap();
        let text = |key: &str| found[key].as_str().unwrap_or("-").to_owned();
        ["ip_network", "gateway", "ip_start", "ip_end", "bridge"].map(text).join(" ")
    }

    #[test]
    fn h55_interfaces_routers_and_name_servers_are_taken() {
        let network =
            host(&[("eno1", false, "192.0.2.7/24"), ("eno2", false, "2001:db8::7/64")], "192.0.2.1");
        let servers: [IpAddr; 2] = ["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()];
        let found: Vec<String> = taken(&network, servers).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["9.9.9.9", "192.0.2.1", "192.0.2.7"]);
    }

    #[test]
    fn h55_the_proposal_leaves_out_every_address_of_the_host() {
        for (own, expected) in [
            ("192.168.1.10/24", "192.168.1.0/24 192.168.1.1 192.168.1.200 192.168.1.250 vmbr0"),
            ("192.168.1.210/24", "192.168.1.0/24 192.168.1.1 192.168.1.211 192.168.1.250 vmbr0"),
            ("192.168.1.200/24", "192.168.1.0/24 192.168.1.1 192.168.1.201 192.168.1.250 vmbr0"),
            ("192.168.1.240/24", "192.168.1.0/24 192.168.1.1 192.168.1.200 192.168.1.239 vmbr0"),
        ] {
            assert_eq!(shown(&host(&[("vmbr0", true, own)], "192.168.1.1"), &[]), expected, "{own}");
        }
        // One address is on another interface, and the router is not one of the host's interfaces.
        let two = host(&[("vmbr0", true, "10.0.0.2/29"), ("eno2", false, "10.0.0.3/29")], "10.0.0.6");
        assert_eq!(shown(&two, &[]), "10.0.0.0/29 10.0.0.6 10.0.0.4 10.0.0.5 vmbr0");
    }

    #[test]
    fn h55_a_hosters_network_is_not_proposed() {
        let public = host(&[("eno1", false, "203.0.113.9/24")], "203.0.113.1");
        assert_eq!(shown(&public, &[]), "10.10.0.0/24 10.10.0.1 10.10.0.10 10.10.0.250 vmbr0");
        let bridged = host(&[("vmbr0", true, "8.8.8.9/24"), ("eno2", false, "10.10.0.7/23")], "8.8.8.1");
        let used = ["vmbr1".to_owned()];
        assert_eq!(shown(&bridged, &used), "10.10.2.0/24 10.10.2.1 10.10.2.10 10.10.2.250 vmbr2");
        let inner = host(&[("eno1", false, "8.8.8.9/24"), ("vmbr1", true, "10.7.0.1/24")], "8.8.8.1");
        assert_eq!(shown(&inner, &[]), "10.7.0.0/24 10.7.0.1 10.7.0.200 10.7.0.250 vmbr1");
        // Shared address space is not a public network.
        assert!(
            shown(&host(&[("eno1", false, "100.64.1.9/24")], "100.64.1.1"), &[]).starts_with("100.64.1.0/24")
        );
    }

    #[test]
    fn h55_a_pool_loses_the_hosts_addresses_at_its_ends_and_is_refused_when_nothing_is_left() {
        let network = Ipv4Network::parse("192.168.1.0/24").unwrap();
        let at = |text: &str| network.pool_end(text).unwrap();
        let pool = |start, end| Ipv4Pool { network, start: at(start), end: at(end), gateway: at("1") };
        let held_by_host = |all: &[&str]| all.iter().map(|text| at(text)).collect::<BTreeSet<_>>();
        let (same, held) = narrowed(&pool("200", "250"), &held_by_host(&["1", "9"])).unwrap();
        assert_eq!((same, held.len()), (pool("200", "250"), 0));
        let (less, held) =
            narrowed(&pool("200", "250"), &held_by_host(&["200", "201", "220", "250"])).unwrap();
        assert_eq!((less, held.len()), (pool("202", "249"), 4));
        let error = narrowed(&pool("200", "200"), &held_by_host(&["200"])).unwrap_err().to_string();
        assert!(error.contains("192.168.1.200 is already in use by this host"), "{error}");
    }

    #[test]
    fn the_proposal_lies_in_the_upper_part_of_the_network() {
        let of = |text: &str| {
            let network = Ipv4Network::parse(text).unwrap();
            range(&network, "192.0.2.9".parse().unwrap(), &BTreeSet::new()).unwrap()
        };
        let show = |(a, b): (Ipv4Addr, Ipv4Addr)| format!("{a} {b}");
        assert_eq!(show(of("192.168.122.0/24")), "192.168.122.200 192.168.122.250");
        assert_eq!(show(of("10.0.0.0/8")), "10.200.0.0 10.250.0.0");
        assert_eq!(show(of("192.0.2.8/30")), "192.0.2.10 192.0.2.10");
    }
}
