//! The host's network as far as guests touch it: bridges, taps, isolation, traffic control, IPv6 host routes.

use std::collections::{BTreeMap, BTreeSet};

use super::files::NodeFiles;
use super::guest::Guest;
use crate::model::{Port, Route};
use crate::tool::nft::Tables;

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// The bridge it is a port of.
    pub master: Option<String>,
    pub isolated: bool,
    /// Root qdisc, its classes, ingress, filters, as they were set.
    pub tc: Vec<String>,
    /// Interface number.
    pub index: u32,
    /// A bridge.
    pub bridge: bool,
    /// Its IPv4 address with the length, in the form `192.168.122.1/24`.
    pub address: Option<String>,
    /// `disable_ipv6=1`: Proxmox sets it on taps and on the firewall's bridges and pairs.
    pub no_ipv6: bool,
}

/// All devices and routes.
#[derive(Debug)]
pub(crate) struct Network {
    devices: BTreeMap<String, Device>,
    pub routes: BTreeSet<Route>,
    /// Machines on the local network that are no guests: address, and hardware address with the entry's state.
    pub neighbours: BTreeMap<String, (String, String)>,
    /// Bridges in `interfaces.new`, not yet applied, with their addresses.
    pub planned: BTreeMap<String, Option<String>>,
    /// nftables.
    pub tables: Tables,
    next_index: u32,
}

impl Network {
    /// A host with one uplink on `vmbr0`.
    pub fn new(files: &NodeFiles) -> Self {
        let mut network = Self {
            devices: BTreeMap::new(),
            routes: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            planned: BTreeMap::new(),
            tables: Tables::new(),
            next_index: 2,
        };
        network.add(files, "eno1", Some("vmbr0"), false, false);
        network.add_bridge(files, "vmbr0", Some("192.168.122.1/24"));
        network
    }

    fn add(&mut self, files: &NodeFiles, name: &str, master: Option<&str>, bridge: bool, no_ipv6: bool) {
        let device = Device {
            master: master.map(String::from),
            isolated: false,
            tc: Vec::new(),
            index: self.next_index,
            bridge,
            address: None,
            no_ipv6,
        };
        self.next_index += 1;
        files.write_device(name, master, false);
        self.devices.insert(name.into(), device);
    }

    /// Makes a bridge of the host.
    pub fn add_bridge(&mut self, files: &NodeFiles, name: &str, address: Option<&str>) {
        self.add(files, name, None, true, false);
        if let Some(device) = self.devices.get_mut(name) {
            device.address = address.map(str::to_owned);
        }
    }

    pub fn get(&self, name: &str) -> Option<&Device> {
        self.devices.get(name)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Device> {
        self.devices.get_mut(name)
    }

    pub fn devices(&self) -> impl Iterator<Item = (&String, &Device)> {
        self.devices.iter()
    }

    pub fn is_bridge(&self, name: &str) -> bool {
        self.devices.get(name).is_some_and(|device| device.bridge)
    }

    /// Makes the taps of a guest that starts, with the firewall's bridge and pair where a NIC asks for them. Whatever
    /// was there under these names is lost with its settings.
    pub fn plug(&mut self, files: &NodeFiles, guest: &Guest) {
        for (number, nic) in guest.nics() {
            self.plug_one(files, guest.vmid, number, &nic);
        }
    }

    /// What there is of a guest that starts as soon as its QEMU runs: the taps, which are no ports of a bridge yet.
    pub fn make_taps(&mut self, files: &NodeFiles, guest: &Guest) {
        for (number, nic) in guest.nics() {
            self.unplug_one(files, guest.vmid, number);
            if nic.bridge().is_some() {
                self.add(files, &format!("tap{}i{number}", guest.vmid), None, false, true);
            }
        }
    }

    /// Sets whether a port may talk to other isolated ones; false where it is no port of a bridge.
    pub fn isolate(&mut self, files: &NodeFiles, name: &str, isolated: bool) -> bool {
        let Some(device) = self.devices.get_mut(name).filter(|device| device.master.is_some()) else {
            return false;
        };
        device.isolated = isolated;
        files.write_device(name, device.master.as_deref(), isolated);
        true
    }

    /// One NIC of [`Network::plug`].
    pub fn plug_one(&mut self, files: &NodeFiles, vmid: u32, number: u32, nic: &super::drive::Nic) {
        self.unplug_one(files, vmid, number);
        let Some(bridge) = nic.bridge() else { return };
        let tap = format!("tap{vmid}i{number}");
        if nic.firewall() && files.has_firewall_bridges() {
            let own = format!("fwbr{vmid}i{number}");
            self.add(files, &own, None, true, true);
            self.add(files, &format!("fwln{vmid}i{number}"), Some(&own), false, true);
            self.add(files, &format!("fwpr{vmid}p{number}"), Some(bridge), false, true);
            self.add(files, &tap, Some(&own), false, true);
        } else {
            self.add(files, &tap, Some(bridge), false, true);
        }
        self.limit_rate(vmid, number, nic);
    }

    /// Proxmox' own limiter: deletes root and ingress first, whatever they were, then sets both ways to `rate`.
    pub fn limit_rate(&mut self, vmid: u32, number: u32, nic: &super::drive::Nic) {
        let Some(device) = self.devices.get_mut(&format!("tap{vmid}i{number}")) else {
            return;
        };
        device.tc.clear();
        if let Some(rate) = nic.options.get("rate") {
            device.tc = vec![
                "qdisc root handle 1: htb default 1".into(),
                format!("class parent 1: classid 1:1 htb rate {rate}mbps burst 1048576b"),
                "qdisc handle ffff: ingress".into(),
                format!(
                    "filter parent ffff: prio 50 basic police rate {rate}mbps burst 1048576b mtu 64kb drop flowid :1"
                ),
            ];
        }
    }

    /// Takes one NIC's devices away.
    pub fn unplug_one(&mut self, files: &NodeFiles, vmid: u32, number: u32) {
        for name in [
            format!("tap{vmid}i{number}"),
            format!("fwbr{vmid}i{number}"),
            format!("fwln{vmid}i{number}"),
            format!("fwpr{vmid}p{number}"),
        ] {
            if self.devices.remove(&name).is_some() {
                files.remove_device(&name);
            }
        }
    }

    /// Takes all devices of a guest that stops away.
    pub fn unplug(&mut self, files: &NodeFiles, vmid: u32) {
        for number in 0..32 {
            self.unplug_one(files, vmid, number);
        }
    }

    /// Chains of nftables to which a device leads, with their rules, as tests see them.
    pub fn rules(&self) -> BTreeMap<String, Vec<String>> {
        let entries = self.tables.values().flat_map(|table| {
            table.entries.iter().map(|(device, chain)| (device.clone(), table.chains.get(chain).cloned()))
        });
        entries.map(|(device, rules)| (device, rules.unwrap_or_default())).collect()
    }

    /// The guests' devices as tests see them.
    pub fn ports(&self) -> BTreeMap<String, Port> {
        self.devices
            .iter()
            .filter(|(name, _)| name.starts_with("tap") || name.starts_with("fw"))
            .map(|(name, device)| {
                let port = Port {
                    bridge: device.master.clone().unwrap_or_default(),
                    isolated: device.isolated,
                    tc: device.tc.clone(),
                };
                (name.clone(), port)
            })
            .collect()
    }
}
