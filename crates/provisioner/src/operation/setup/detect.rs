//! What the wizard shows to choose from: node, storages, bridges, addresses, template. Changes nothing.

use super::{DEFAULT_TEMPLATE, choices::Choices, pool_choice, text};
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::tool::ip::{Address, Network};
use crate::tool::proxmox_cli::{ProxmoxCli, number};
use serde_json::{Value, json};
use std::time::Duration;

/// The wizard's page waits for it.
const LIMIT: Duration = Duration::from_secs(12);

/// Looks around. What cannot be found out is null or empty, and said on stderr: the wizard has text fields then.
pub fn resources(host: &Host, input: &str) -> anyhow::Result<Value> {
    let chosen = Choices::read(host, input).ok();
    let template = chosen.as_ref().map_or(DEFAULT_TEMPLATE, |choices| u64::from(choices.template.get()));
    let cli = ProxmoxCli::new(host, Deadline::after(LIMIT));
    let node = or_said("cannot find out the node's name", cli.node_name());
    let storages =
        node.as_ref().and_then(|node| or_said("cannot list the node's storages", storages(&cli, node)));
    let machines = or_said(
        "cannot list the node's VMs",
        cli.rows("pvesh", &["get", "/cluster/resources", "--type", "vm"]),
    );
    let machines = machines.unwrap_or_default();
    let network = or_said("cannot read this host's network", Network::look(Deadline::after(LIMIT)));
    // Names of bridges that are configured and not there yet.
    let rows = node.as_ref().filter(|_| network.is_some());
    let rows = rows.and_then(|node| cli.rows("pvesh", &["get", &format!("/nodes/{node}/network")]).ok());
    let used: Vec<String> = rows.iter().flatten().map(|row| text(row, "iface").to_owned()).collect();
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
        "network": network.as_ref().and_then(|network| pool_choice::proposal(network, &used)),
        "used_vmids": vmids,
    }))
}

fn or_said<T>(what: &str, found: anyhow::Result<T>) -> Option<T> {
    found.map_err(|error| tracing::warn!("{what}: {error:#}")).ok()
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
