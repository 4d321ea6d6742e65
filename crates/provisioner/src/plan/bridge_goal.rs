//! What a host's network should look like after a change, and whether it does.

use crate::value::host_network::{Address, Network};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The intended state of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// A bridge that must exist and be up.
    pub bridge: String,
    /// An interface that must be a port of the bridge.
    pub port: Option<String>,
    /// An address that the bridge must have.
    pub address: Option<Address>,
    /// The default router, which must be reached through the bridge.
    pub gateway: Option<IpAddr>,
}

impl Goal {
    /// Returns the first difference from the intended state; `None` if there is none.
    pub fn missing(&self, network: &Network) -> Option<String> {
        let Goal { bridge, port, address, gateway } = self;
        let Some(found) = network.interface(bridge).filter(|one| one.is_bridge) else {
            return Some(format!("bridge {bridge} does not exist"));
        };
        if !found.is_up {
            return Some(format!("bridge {bridge} is down"));
        }
        if let Some(address) = address.filter(|address| !found.addresses.contains(address)) {
            return Some(format!("bridge {bridge} does not have the address {address}"));
        }
        if let Some(port) = port.as_ref().filter(|port| !network.ports_of(bridge).contains(&port.as_str())) {
            return Some(format!("{port} is not a port of {bridge}"));
        }
        if let Some(gateway) = gateway
            && !network
                .default_routes
                .iter()
                .any(|route| route.gateway == *gateway && route.device == *bridge)
        {
            return Some(format!("the default route via {gateway} does not go through {bridge}"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::host_network::{DefaultRoute, Interface};

    fn network(bridge: &[&str], uplink: &[&str], port: bool, router: Option<&str>) -> Network {
        let addresses = |list: &[&str]| {
            let parse = |text: &&str| Address { ip: text.parse().unwrap(), prefix: 24 };
            list.iter().map(parse).collect::<Vec<_>>()
        };
        let master = port.then(|| "vmbr0".to_owned());
        let (is_up, name) = (true, "vmbr0".to_owned());
        let routes = router
            .map(|device| DefaultRoute { gateway: "192.0.2.1".parse().unwrap(), device: device.into() });
        Network {
            interfaces: vec![
                Interface { name, master: None, is_bridge: true, is_up, addresses: addresses(bridge) },
                Interface {
                    name: "eno1".into(),
                    master,
                    is_bridge: false,
                    is_up,
                    addresses: addresses(uplink),
                },
            ],
            default_routes: routes.into_iter().collect(),
        }
    }

    #[test]
    fn nothing_less_than_what_was_planned_counts_as_settled() {
        let address = Address { ip: "192.0.2.7".parse().unwrap(), prefix: 24 };
        let goal = Goal {
            bridge: "vmbr0".into(),
            port: Some("eno1".into()),
            address: Some(address),
            gateway: Some("192.0.2.1".parse().unwrap()),
        };
        assert_eq!(goal.missing(&network(&["192.0.2.7"], &[], true, Some("vmbr0"))), None);
        for (now, word) in [
            (network(&[], &["192.0.2.7"], true, Some("vmbr0")), "does not have the address"),
            (network(&["192.0.2.7"], &[], false, Some("vmbr0")), "not a port"),
            (network(&["192.0.2.7"], &[], true, None), "default route"),
            (network(&["192.0.2.7"], &[], true, Some("eno1")), "does not go"),
        ] {
            assert!(goal.missing(&now).unwrap().contains(word), "{word}");
        }
    }
}
