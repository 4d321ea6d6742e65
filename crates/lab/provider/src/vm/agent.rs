//! Waiting for the addresses that the guest's agent tells.
//!
//! This happens at the end of create and at every refresh of a running VM whose configuration has an agent,
//! so on every plan, apply and destroy that touches it. That it brings nothing is only a warning.

use super::Vm;
use crate::{
    api::{Api, ApiError, text},
    diagnostic::Diagnostic,
    duration,
    value::Value,
    version::{LATER, Version},
};
use serde_json::Value as Json;
use std::{net::IpAddr, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// `agent.timeout` where the state has none.
const DEFAULT_LIMIT: Duration = Duration::from_secs(15 * 60);

/// What a refresh tells about the guest's network: one entry per interface.
#[derive(Default)]
pub struct Network {
    names: Vec<String>,
    macs: Vec<String>,
    ipv4: Vec<Vec<String>>,
    ipv6: Vec<Vec<String>>,
}

impl Network {
    /// Without an agent: the MAC addresses of the configuration.
    pub fn of_config(macs: Vec<String>) -> Self {
        Self { macs, ..Self::default() }
    }

    fn of_agent(interfaces: &[Json]) -> Self {
        let mut network = Self::default();
        for interface in interfaces {
            network.names.push(text(interface, "name").into());
            network.macs.push(text(interface, "hardware-address").into());
            let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
            for address in addresses(interface) {
                let list = if text(address, "ip-address-type") == "ipv6" { &mut ipv6 } else { &mut ipv4 };
                list.push(text(address, "ip-address").to_string());
            }
            network.ipv4.push(ipv4);
            network.ipv6.push(ipv6);
        }
        network
    }

    /// Puts it into the state.
    pub fn write(self, state: &mut Value) {
        let lists = |lists: Vec<Vec<String>>| Value::List(lists.into_iter().map(Value::texts).collect());
        state.set("network_interface_names", Value::texts(self.names));
        state.set("mac_addresses", Value::texts(self.macs));
        state.set("ipv4_addresses", lists(self.ipv4));
        state.set("ipv6_addresses", lists(self.ipv6));
    }
}

fn addresses(interface: &Json) -> impl Iterator<Item = &Json> {
    interface.get("ip-addresses").and_then(Json::as_array).into_iter().flatten()
}

/// Asks once a poll until an interface other than `lo` has a global address, or `agent.timeout` is over.
/// `operation` names the fault points.
pub async fn network(vm: &Vm<'_>, state: &Value, operation: &str) -> Result<Network, Diagnostic> {
    let settings = state.block("agent");
    let limit = settings.and_then(|agent| agent.text("timeout")).and_then(duration::parse);
    let wait = settings.and_then(|agent| agent.block("wait_for_ip"));
    let wants = |key: &str| wait.and_then(|wait| wait.bool(key)) == Some(true);
    let (ipv4, ipv6) = (wants("ipv4"), wants("ipv6"));
    if vm.api.version >= Version(0, 109, 0) && wants("disabled") {
        return Ok(Network::default());
    }
    let whole = vm.api;
    let api = &whole.within(limit.unwrap_or(DEFAULT_LIMIT));
    let vm = &Vm { api, node: vm.node.clone(), id: vm.id };
    // In 0.93.0 the limit is that of the loop and not of the question: a guest that still boots is only told from a silent
    // one after 3 s.
    let asking = if whole.version >= LATER { api } else { whole };

    let point = |when: &str| format!("{operation}.agent-wait.{when}");
    let failed = |error: ApiError| Diagnostic {
        detail: error.to_string(),
        ..Diagnostic::warning("error waiting for network interfaces from QEMU agent")
    };
    vm.api.point(&point("before")).await?;
    // Ctrl-C in the terminal reaches this process too and ends this wait, and only this one.
    let interrupted = async {
        match signal(SignalKind::interrupt()) {
            Ok(mut interrupt) => {
                interrupt.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    let waited = tokio::select! {
        waited = until_published(vm, asking, ipv4, ipv6) => waited,
        () = interrupted => Err(ApiError::Other("context canceled".into())),
    };
    let network = waited.map_err(failed)?;
    vm.api.point(&point("after")).await?;
    Ok(network)
}

async fn until_published(vm: &Vm<'_>, asking: &Api, ipv4: bool, ipv6: bool) -> Result<Network, ApiError> {
    let timeout = || {
        let id = vm.id.to_string();
        ApiError::Other(format!(
            "timeout while waiting for the QEMU agent on VM {id:?} to publish the network interfaces"
        ))
    };
    loop {
        match asking.get(&vm.path("agent/network-get-interfaces")).await {
            Ok(answer) => {
                if let Some(Json::Array(interfaces)) = answer.get("result")
                    && has_addresses(interfaces, ipv4, ipv6)
                {
                    return Ok(Network::of_agent(interfaces));
                }
            }
            Err(error) if error.code() == Some(403) => return Err(error),
            Err(ApiError::Deadline) => return Err(timeout()),
            // The agent is not up yet.
            Err(_) => {}
        }
        vm.api.pause(1.0).await.map_err(|_| timeout())?;
    }
}

/// Whether what is waited for is there: any global address, or one of each family asked for.
fn has_addresses(interfaces: &[Json], ipv4: bool, ipv6: bool) -> bool {
    let global: Vec<IpAddr> = interfaces
        .iter()
        .filter(|interface| text(interface, "name") != "lo")
        .flat_map(addresses)
        .filter_map(|address| text(address, "ip-address").parse().ok())
        .filter(is_global)
        .collect();
    let (has4, has6) = (global.iter().any(IpAddr::is_ipv4), global.iter().any(IpAddr::is_ipv6));
    match (ipv4, ipv6) {
        (false, false) => has4 || has6,
        (four, six) => (has4 || !four) && (has6 || !six),
    }
}

fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            let link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            !(address.is_loopback() || link_local || address.is_multicast() || address.is_unspecified())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn interfaces(addresses: &[&str]) -> Vec<Json> {
        let list = |list: &[&str]| list.iter().map(|a| json!({"ip-address": a})).collect::<Vec<_>>();
        vec![
            json!({"name": "lo", "ip-addresses": list(&["127.0.0.1", "192.0.2.9"])}),
            json!({"name": "eth0", "ip-addresses": list(addresses)}),
        ]
    }

    #[test]
    fn a_global_address_ends_the_wait() {
        assert!(has_addresses(&interfaces(&["fe80::1", "192.0.2.10"]), false, false));
        assert!(has_addresses(&interfaces(&["2001:db8::1"]), false, true));
        assert!(!has_addresses(&interfaces(&["fe80::1", "169.254.1.1"]), false, false));
        assert!(!has_addresses(&interfaces(&["192.0.2.10"]), true, true));
        assert!(!has_addresses(&interfaces(&[]), false, false));
    }
}
