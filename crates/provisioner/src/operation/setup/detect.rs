//! What the wizard shows to choose from: node, storages, bridges, addresses, template. Changes nothing.

use super::{choices::Choices, pool_choice};
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::tool::ip;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::host_network::{Address, Network};
use crate::value::node_name::NodeName;
use crate::value::vmid::Vmid;
use serde_json::{Value, json};
use std::time::Duration;

/// The wizard's page waits for it.
const LIMIT: Duration = Duration::from_secs(12);

/// Looks around. What cannot be found out is null or empty, and said on stderr: the wizard has text fields then.
pub fn resources(host: &Host, input: &str) -> anyhow::Result<Value> {
    let chosen = Choices::read(host, input).ok();
    let template = chosen.as_ref().map_or(Vmid::DEFAULT_TEMPLATE, |choices| choices.template);
    let cli = ProxmoxCli::here(host, Deadline::after(LIMIT));
    let node = or_said("cannot find out the node's name", cli.node_name());
    let storages =
        node.as_ref().and_then(|node| or_said("cannot list the node's storages", storages(&cli, node)));
    let guests = or_said("cannot list the node's VMs", cli.guests()).unwrap_or_default();
    let network = or_said("cannot read this host's network", ip::network(Deadline::after(LIMIT)));
    // Names of bridges that are configured and not there yet.
    let rows = node.as_ref().filter(|_| network.is_some());
    let rows = rows.and_then(|node| cli.interfaces(&NodeName::parse(node).ok()?).ok());
    let used: Vec<String> = rows.into_iter().flatten().filter_map(|row| row.name).collect();
    let mut vmids: Vec<u64> = guests.iter().filter_map(|guest| guest.vmid).collect();
    vmids.sort_unstable();
    let template = guests.iter().find(|guest| guest.vmid == Some(template.get().into())).map(|guest| {
        json!({
            "vmid": guest.vmid,
            "name": guest.name.as_deref().unwrap_or_default(),
            "is_template": guest.is_template,
        })
    });
    Ok(json!({
        "node": node,
        "storages": storages.unwrap_or_default(),
        "bridges": network.as_ref().map(bridges).unwrap_or_default(),
        "wan_address": network.as_ref().and_then(wan_address).map(|address| address.ip),
        "template": template,
        "network": network.as_ref().and_then(|network| pool_choice::proposal(network, &used)),
        "used_vmids": vmids,
    }))
}

fn or_said<T>(what: &str, found: anyhow::Result<T>) -> Option<T> {
    found.map_err(|error| tracing::warn!("{what}: {error:#}")).ok()
}

/// Active storages, those for disk images first, the roomiest first.
fn storages(cli: &ProxmoxCli, node: &str) -> anyhow::Result<Vec<Value>> {
    let rows = cli.storages(node)?;
    let mut found: Vec<(bool, u64, Value)> = rows
        .iter()
        .filter(|storage| storage.is_active)
        .map(|storage| {
            let images = storage.takes_images();
            let gib = |bytes: Option<u64>| bytes.unwrap_or(0) >> 30;
            let value = json!({
                "name": storage.name.as_deref().unwrap_or_default(),
                "type": storage.kind.as_deref().unwrap_or_default(),
                "total_gib": gib(storage.total),
                "free_gib": gib(storage.available),
                "images": images,
            });
            (images, gib(storage.available), value)
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
