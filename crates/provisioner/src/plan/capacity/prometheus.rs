//! The same as Prometheus' text exposition format: gauges; what is unknown has no sample.

use super::{Capacity, Numbers, Supply};
use std::fmt::Write as _;

/// A sample: its labels, and its value.
type Sample = (String, Option<u64>);

/// The whole text. Names of storages and nodes have no quotes and no backslashes (`value/text.rs`); those that Proxmox
/// said are checked all the same.
pub fn prometheus(capacity: &Capacity) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: Vec<Sample>| {
        if samples.iter().all(|(_, value)| value.is_none()) {
            return;
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (labels, value) in samples {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            if let Some(value) = value {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        }
    };
    let one = |value| vec![(String::new(), value)];
    let rooms = capacity.resources().into_iter();
    let rooms = rooms.map(|one| (label("resource", &one.name), one.room.vms())).collect();
    family("blockhost_capacity_vms", "VMs of the default size that still fit.", one(capacity.room().vms()));
    family("blockhost_capacity_resource_vms", "VMs that each resource still has room for.", rooms);

    let of = |numbers: &Numbers, value: fn(&Supply) -> usize| match numbers {
        Numbers::Counted(_, supply) => Some(value(supply) as u64),
        Numbers::None | Numbers::Unknown => None,
    };
    let vmids = |value| one(of(&capacity.vmids, value));
    family("blockhost_capacity_vmids", "VMIDs of vmid_range.", vmids(|supply| supply.total));
    family("blockhost_capacity_vmids_free", "VMIDs that nobody has.", vmids(|supply| supply.free));
    let addresses = |value: fn(&Supply) -> usize| {
        let families = [("ipv4", &capacity.ipv4), ("ipv6", &capacity.ipv6)];
        families.map(|(name, numbers)| (label("family", name), of(numbers, value))).to_vec()
    };
    family("blockhost_capacity_addresses", "Addresses of the pools.", addresses(|supply| supply.total));
    family("blockhost_capacity_addresses_free", "Addresses that nobody has.", addresses(|one| one.free));

    let memory = &capacity.memory;
    let of_node = |value| vec![(label("node", &memory.node), value)];
    family("blockhost_capacity_memory_size_bytes", "Memory of the node.", of_node(memory.total));
    family("blockhost_capacity_memory_used_bytes", "Memory that the node uses.", of_node(memory.used));
    let promised = "Memory of all VMs there that the API shows, off or on.";
    let known = memory.promised.filter(|_| memory.unmeasured == 0);
    family("blockhost_capacity_memory_promised_bytes", promised, of_node(known));

    let storages = |value: fn(&super::Storage) -> Option<u64>| {
        let storages = capacity.storages.iter();
        storages.map(|storage| (label("storage", &storage.name), value(storage))).collect::<Vec<_>>()
    };
    let name = "blockhost_capacity_storage_size_bytes";
    family(name, "Size of the storage.", storages(|storage| storage.row.total));
    let name = "blockhost_capacity_storage_used_bytes";
    family(name, "In use; of a thin pool what was written.", storages(|storage| storage.row.used));
    let name = "blockhost_capacity_storage_free_bytes";
    family(name, "Free space of the storage.", storages(|storage| storage.row.free));

    let is_online = |status: &str| match status {
        "online" => Some(1),
        "offline" => Some(0),
        _ => None,
    };
    let nodes = capacity.nodes.iter().map(|node| (label("node", &node.node), is_online(&node.status)));
    family("blockhost_capacity_node_online", "Whether the node is online.", nodes.collect());
    text
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}
