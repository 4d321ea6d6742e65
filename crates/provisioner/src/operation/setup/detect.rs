//! What the wizard shows to choose from: node, storages, bridges, addresses, template. Changes nothing.

use super::{Choices, DEFAULT_TEMPLATE, text};
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::tool::ip::{Address, Network};
use crate::tool::proxmox_cli::{ProxmoxCli, number};
use crate::value::address::Ipv4Network;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The wizard's page waits for it.
const LIMIT: Duration = Duration::from_secs(12);

/// Looks around. What cannot be found out is null or empty, and said on stderr: the wizard has text fields then.
pub fn resources(host: &Host, input: &str) -> anyhow::Result<Value> {
    let chosen = Choices::read(host, input).ok();
    let template = chosen.as_ref().map_or(DEFAULT_TEMPLATE, |choices| u64::from(choices.template.get()));
    let cli = ProxmoxCli::new(host, Deadline::after(LIMIT));
    let node = or_said("the node's name", cli.node_name());
    let storages = node.as_ref().and_then(|node| or_said("storages", storages(&cli, node)));
    let machines = or_said("VMs", cli.rows("pvesh", &["get", "/cluster/resources", "--type", "vm"]));
    let machines = machines.unwrap_or_default();
    let network = or_said("the network", Network::look(Deadline::after(LIMIT)));
    let mut vmids: Vec<u64> = machines.iter().filter_map(|row| number(&row["vmid"])).collect();
    vmids.sort_unstable();
    let template = machines.iter().find(|row| number(&row["vmid"]) == Some(template)).map(|row| {
        json!({
            "vmid": number(&row["vmid"]),
            "name": text(row, "name"),
            "is_template": number(&row["template"]) == Some(1),
        })
    });
    Ok(json!({
        "node": node,
        "storages": storages.unwrap_or_default(),
        "bridges": network.as_ref().map(bridges).unwrap_or_default(),
        "wan_address": network.as_ref().and_then(wan_address).map(|address| address.ip),
        "template": template,
        "network": network.as_ref().and_then(proposal),
        "used_vmids": vmids,
    }))
}

fn or_said<T>(what: &str, found: anyhow::Result<T>) -> Option<T> {
    found.map_err(|error| tracing::warn!("cannot tell {what}: {error:#}")).ok()
}

/// Active storages, those for disk images first, the roomiest first.
fn storages(cli: &ProxmoxCli, node: &str) -> anyhow::Result<Vec<Value>> {
    let path = format!("/nodes/{node}/storage");
    let rows = cli.rows("pvesh", &["get", &path, "--enabled", "1"])?;
    let mut found: Vec<(bool, u64, Value)> = rows
        .iter()
        .filter(|row| number(&row["active"]) == Some(1))
        .map(|row| {
            let images = text(row, "content").split(',').any(|content| content.trim() == "images");
            let gib = |key: &str| number(&row[key]).unwrap_or(0) >> 30;
            let value = json!({
                "name": text(row, "storage"),
                "type": text(row, "type"),
                "total_gib": gib("total"),
                "free_gib": gib("avail"),
                "images": images,
            });
            (images, gib("avail"), value)
        })
        .collect();
    found.sort_by_key(|(images, free, _)| (std::cmp::Reverse(*images), std::cmp::Reverse(*free)));
    Ok(found.into_iter().map(|(_, _, value)| value).collect())
}

fn bridges(network: &Network) -> Vec<Value> {
    let bridges = network.interfaces.iter().filter(|one| one.is_bridge && !one.name.starts_with("fwbr"));
    bridges
        .map(|bridge| json!({"name": bridge.name, "address": ipv4(&bridge.addresses).map(|a| a.to_string())}))
        .collect()
}

fn ipv4(addresses: &[Address]) -> Option<&Address> {
    addresses.iter().find(|address| address.ip.is_ipv4())
}

fn wan_address(network: &Network) -> Option<Address> {
    ipv4(&network.uplink()?.0.addresses).copied()
}

/// The network of the bridge that leads outside, else of the uplink, else of any bridge: its upper addresses.
fn proposal(network: &Network) -> Option<Value> {
    let uplink = network.uplink().map(|(interface, route)| (interface, Some(route.gateway)));
    let bridge = network.interfaces.iter().find(|one| one.is_bridge && ipv4(&one.addresses).is_some());
    let (interface, gateway) = uplink.or(bridge.map(|bridge| (bridge, None)))?;
    let own = ipv4(&interface.addresses)?;
    let net = Ipv4Network::parse(&own.to_string()).ok()?;
    let gateway = match gateway {
        Some(IpAddr::V4(gateway)) if net.contains(gateway) => gateway,
        _ => own.ip.to_string().parse().ok()?,
    };
    let (start, end) = upper_addresses(&net)?;
    Some(json!({
        "ip_network": net.to_string(),
        "gateway": gateway,
        "ip_start": start,
        "ip_end": end,
    }))
}

/// Of 256 addresses .200 to .250; of others the same share.
fn upper_addresses(network: &Ipv4Network) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let first = u32::from(network.address());
    let size = u64::from(u32::from(network.broadcast()) - first) + 1;
    let last = u32::from(network.broadcast()) - 1;
    let at = |share: u64| {
        let offset = u32::try_from(size * share / 256).ok()?;
        Some(Ipv4Addr::from((first + offset).min(last)))
    };
    Some((at(200)?, at(250)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proposal_lies_in_the_upper_part_of_the_network() {
        let of = |text: &str| upper_addresses(&Ipv4Network::parse(text).unwrap()).unwrap();
        let show = |(a, b): (Ipv4Addr, Ipv4Addr)| format!("{a} {b}");
        assert_eq!(show(of("192.168.122.0/24")), "192.168.122.200 192.168.122.250");
        assert_eq!(show(of("10.0.0.0/8")), "10.200.0.0 10.250.0.0");
        assert_eq!(show(of("192.0.2.8/30")), "192.0.2.10 192.0.2.10");
    }
}
