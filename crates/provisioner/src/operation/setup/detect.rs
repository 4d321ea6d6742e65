//! Finds what the wizard offers to choose from: node, storages, bridges, addresses, template. Changes nothing.

use super::choices::Choices;
use super::pool_choice::taken;
use crate::host::Host;
use crate::plan::address_proposal::proposal;
use crate::plan::installer_offer::Offer;
use crate::tool::ip;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::node_name::NodeName;
use crate::value::vmid::Vmid;
use serde_json::Value;
use std::time::Duration;

/// Time limit; the wizard's page waits for the result.
const LIMIT: Duration = Duration::from_secs(12);

/// Inspects the node. What cannot be determined is null or empty and reported on stderr; the wizard then shows text
/// fields.
pub fn resources(host: &Host, input: &str) -> anyhow::Result<Value> {
    let chosen = Choices::read(host, input).ok();
    let template = chosen.as_ref().map_or(Vmid::DEFAULT_TEMPLATE, |choices| choices.template);
    let cli = ProxmoxCli::here(host, host.deadline(LIMIT));
    let node = or_said("cannot determine the node's name", cli.node_name());
    let storages =
        node.as_ref().and_then(|node| or_said("cannot list the node's storages", cli.storages(node)));
    let guests = or_said("cannot list the node's VMs", cli.guests()).unwrap_or_default();
    let network = or_said("cannot read this host's network", ip::network(host, host.deadline(LIMIT)));
    // Names of bridges that are configured but do not exist yet.
    let rows = node.as_ref().filter(|_| network.is_some());
    let rows = rows.and_then(|node| cli.interfaces(&NodeName::parse(node).ok()?).ok());
    let used: Vec<String> = rows.into_iter().flatten().filter_map(|row| row.name).collect();
    let proposal = network.as_ref().and_then(|network| proposal(network, &taken(network), &used));
    Ok(Offer {
        node: node.as_deref(),
        storages: &storages.unwrap_or_default(),
        guests: &guests,
        network: network.as_ref(),
        template,
    }
    .to_json(proposal))
}

fn or_said<T>(what: &str, found: anyhow::Result<T>) -> Option<T> {
    found.map_err(|error| tracing::warn!("{what}: {error:#}")).ok()
}
