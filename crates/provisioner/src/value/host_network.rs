//! The network of a host: what the kernel has, and what is configured in Proxmox.

use super::lenient;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An address with the prefix length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The prefix length.
    pub prefix: u8,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// An interface, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The bridge that it is a port of.
    pub master: Option<String>,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Addresses of global scope.
    pub addresses: Vec<Address>,
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRoute {
    /// The router.
    pub gateway: IpAddr,
    /// The interface that the route goes through.
    #[serde(rename = "dev")]
    pub device: String,
}

/// A snapshot of interfaces and routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// The IPv4 default routes, in order of preference.
    pub default_routes: Vec<DefaultRoute>,
}

impl Network {
    /// Returns the interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// Returns the names of a bridge's ports, except guests' taps.
    pub fn ports_of(&self, bridge: &str) -> Vec<&str> {
        let ports = self.interfaces.iter().filter(|one| one.master.as_deref() == Some(bridge));
        ports
            .map(|one| one.name.as_str())
            .filter(|n| !n.starts_with("tap") && !n.starts_with("fwpr"))
            .collect()
    }

    /// Returns the interface of the preferred default route, and the route.
    pub fn uplink(&self) -> Option<(&Interface, &DefaultRoute)> {
        let route = self.default_routes.first()?;
        Some((self.interface(&route.device)?, route))
    }
}

/// An interface as configured in Proxmox, including changes that have not been applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConfiguredInterface {
    /// Its name.
    #[serde(rename = "iface", deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// `eth`, `bridge`, `OVSBridge` …
    #[serde(rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Whether it is started at boot.
    #[serde(rename = "autostart", deserialize_with = "lenient::is_one")]
    pub starts_with_node: bool,
    /// `static`, `manual`, `dhcp` …
    #[serde(deserialize_with = "lenient::text")]
    pub method: Option<String>,
    /// The IPv4 address with its prefix length.
    #[serde(deserialize_with = "lenient::text")]
    pub cidr: Option<String>,
    /// The IPv4 address.
    #[serde(deserialize_with = "lenient::text")]
    pub address: Option<String>,
    /// Its netmask or prefix length.
    #[serde(deserialize_with = "lenient::text")]
    pub netmask: Option<String>,
    /// The IPv4 router.
    #[serde(deserialize_with = "lenient::text")]
    pub gateway: Option<String>,
    /// The IPv6 address with its prefix length.
    #[serde(deserialize_with = "lenient::text")]
    pub cidr6: Option<String>,
    /// The IPv6 address.
    #[serde(deserialize_with = "lenient::text")]
    pub address6: Option<String>,
    /// Its prefix length.
    #[serde(deserialize_with = "lenient::text")]
    pub netmask6: Option<String>,
    /// The IPv6 router.
    #[serde(deserialize_with = "lenient::text")]
    pub gateway6: Option<String>,
}

impl ConfiguredInterface {
    /// Returns the interface of this name.
    pub fn find<'a>(name: &str, all: &'a [ConfiguredInterface]) -> Option<&'a ConfiguredInterface> {
        all.iter().find(|one| one.name.as_deref() == Some(name))
    }

    /// Returns its type; empty if it has none.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }

    /// Returns the settings that it gives up when a bridge takes them over, by their names in Proxmox.
    pub fn held(&self) -> Vec<&'static str> {
        let settings = [
            ("cidr", &self.cidr),
            ("address", &self.address),
            ("netmask", &self.netmask),
            ("gateway", &self.gateway),
            ("cidr6", &self.cidr6),
            ("address6", &self.address6),
            ("netmask6", &self.netmask6),
            ("gateway6", &self.gateway6),
        ];
        settings.into_iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_holds_is_named_as_proxmox_names_it() {
        let text = r#"[{"iface": "lo", "type": "loopback"}, {"iface": "eno1", "type": "eth", "autostart": "1",
            "method": "static", "cidr": "192.0.2.7/24", "address": "192.0.2.7", "netmask": 24, "gateway": null,
            "cidr6": "2001:db8::7/64", "families": ["inet", "inet6"], "priority": 3}]"#;
        let all: Vec<ConfiguredInterface> = serde_json::from_str(text).unwrap();
        let found = ConfiguredInterface::find("eno1", &all).unwrap();
        assert!(found.starts_with_node && found.kind() == "eth");
        assert_eq!(found.held(), ["cidr", "address", "netmask", "cidr6"]);
        assert!(ConfiguredInterface::find("lo", &all).unwrap().held().is_empty());
        assert_eq!(ConfiguredInterface::find("eno2", &all), None);
    }
}
