//! The choices that the installer's wizard offers, built from what was found on the node.

use crate::value::cluster_rows::{ClusterGuest, NodeStorage};
use crate::value::host_network::{Address, Network};
use crate::value::vmid::Vmid;
use serde_json::{Value, json};
use std::cmp::Reverse;

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'f> {
    /// The node's name.
    pub node: Option<&'f str>,
    /// Its storages.
    pub storages: &'f [NodeStorage],
    /// VMs and containers of the cluster.
    pub guests: &'f [ClusterGuest],
    /// The host's interfaces.
    pub network: Option<&'f Network>,
    /// The template's VMID.
    pub template: Vmid,
}

impl Offer<'_> {
    /// Returns the JSON for the wizard; unknown values are null or empty. `addresses`: the result of
    /// [`super::address_proposal::proposal`].
    pub fn to_json(&self, addresses: Option<Value>) -> Value {
        let mut vmids: Vec<u64> = self.guests.iter().filter_map(|guest| guest.vmid).collect();
        vmids.sort_unstable();
        let vmid = Some(u64::from(self.template.get()));
        let template = self.guests.iter().find(|guest| guest.vmid == vmid).map(|guest| {
            json!({
                "vmid": guest.vmid,
                "name": guest.name.as_deref().unwrap_or_default(),
                "is_template": guest.is_template,
            })
        });
        json!({
            "node": self.node,
            "storages": storages(self.storages),
            "bridges": self.network.map(bridges).unwrap_or_default(),
            "wan_address": self.network.and_then(wan_address).map(|address| address.ip),
            "template": template,
            "network": addresses,
            "used_vmids": vmids,
        })
    }
}

/// Active storages: those for disk images first, and those with the most free space first.
fn storages(rows: &[NodeStorage]) -> Vec<Value> {
    let gib = |bytes: Option<u64>| bytes.unwrap_or(0) >> 30;
    let mut found: Vec<&NodeStorage> = rows.iter().filter(|storage| storage.is_active).collect();
    found.sort_by_key(|storage| (Reverse(storage.takes_images()), Reverse(gib(storage.available))));
    let shown = found.into_iter().map(|storage| {
        json!({
            "name": storage.name.as_deref().unwrap_or_default(),
            "type": storage.kind.as_deref().unwrap_or_default(),
            "total_gib": gib(storage.total),
            "free_gib": gib(storage.available),
            "images": storage.takes_images(),
        })
    });
    shown.collect()
}

/// Bridges, except those that Proxmox creates for a guest's firewall.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::host_network::{DefaultRoute, Interface};

    fn interface(name: &str, is_bridge: bool, addresses: &[&str]) -> Interface {
        let address = |text: &&str| Address { ip: text.parse().unwrap(), prefix: 24 };
        let addresses = addresses.iter().map(address).collect();
        Interface { name: name.into(), master: None, is_bridge, is_up: true, addresses }
    }

    #[test]
    fn nothing_known_is_null_or_empty() {
        let template = Vmid::DEFAULT_TEMPLATE;
        let offer = Offer { node: None, storages: &[], guests: &[], network: None, template };
        let empty = json!({"node": null, "storages": [], "bridges": [], "wan_address": null, "template": null,
            "network": null, "used_vmids": []});
        assert_eq!(offer.to_json(None), empty);
    }

    #[test]
    fn storages_for_disks_come_first_and_the_roomiest_of_them_before_the_others() {
        let gib = 1_u64 << 30;
        let rows = json!([
            {"storage": "iso", "type": "dir", "content": "iso", "active": 1, "total": 900 * gib, "avail": 800 * gib},
            {"storage": "small", "type": "lvmthin", "content": "images", "active": "1", "total": 9 * gib, "avail": 5 * gib},
            {"storage": "off", "type": "nfs", "content": "images", "active": 0, "total": 99 * gib, "avail": 99 * gib},
            {"storage": "large", "content": "rootdir,images", "active": 1, "total": 90 * gib, "avail": 6 * gib + 1},
        ]);
        let rows: Vec<NodeStorage> = serde_json::from_value(rows).unwrap();
        let shown: Vec<String> = storages(&rows)
            .iter()
            .map(|row| {
                format!(
                    "{} {} {} {} {}",
                    row["name"], row["type"], row["total_gib"], row["free_gib"], row["images"]
                )
            })
            .collect();
        let wanted =
            [r#""large" "" 90 6 true"#, r#""small" "lvmthin" 9 5 true"#, r#""iso" "dir" 900 800 false"#];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn bridges_template_and_used_vmids_are_shown() {
        let route = DefaultRoute { gateway: "192.0.2.1".parse().unwrap(), device: "vmbr0".into() };
        let network = Network {
            interfaces: vec![
                interface("vmbr0", true, &["2001:db8::7", "192.0.2.7"]),
                interface("fwbr100i0", true, &[]),
                interface("vmbr1", true, &[]),
                interface("eno1", false, &[]),
            ],
            default_routes: vec![route],
        };
        let guests = json!([{"vmid": 300}, {"vmid": "9001", "name": "t", "template": 1}, {"vmid": 100}, {}]);
        let guests: Vec<ClusterGuest> = serde_json::from_value(guests).unwrap();
        let template = Vmid::DEFAULT_TEMPLATE;
        let offer =
            Offer { node: Some("pve"), storages: &[], guests: &guests, network: Some(&network), template };
        let shown = offer.to_json(Some(json!({"a": 1})));
        let bridges =
            json!([{"name": "vmbr0", "address": "192.0.2.7/24"}, {"name": "vmbr1", "address": null}]);
        assert_eq!(shown["bridges"], bridges);
        assert_eq!((&shown["wan_address"], &shown["network"]), (&json!("192.0.2.7"), &json!({"a": 1})));
        assert_eq!(shown["template"], json!({"vmid": 9001, "name": "t", "is_template": true}));
        assert_eq!(shown["used_vmids"], json!([100, 300, 9001]));
    }
}
