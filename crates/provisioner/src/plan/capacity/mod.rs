//! How many more VMs fit, and what runs out first: facts in, figures out. Everything here is pure; the facts are gathered
//! in `crates/provisioner/src/operation/capacity/mod.rs`.
//!
//! One computation for three: `blockhost-provisioner-capacity` prints it, doctor tells what is used up, and create's
//! preflight refuses what does not fit ([`Memory::refuses`], [`storage::refuses`]). The disaster would be a guess: an
//! unknown figure is unknown, never zero and never endless, and nothing is refused because of it.

mod prometheus;
pub mod storage;
pub mod supplies;

pub use prometheus::prometheus;
pub use storage::{Need, Storage};
pub use supplies::Supply;

use crate::value::cluster_rows::ClusterResource;
use serde::Serialize;

/// Bytes of a MiB and of a GiB.
const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// The size of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// vCPUs.
    pub cpus: u32,
    /// Memory in MB.
    pub memory_mb: u32,
    /// Disk in GB.
    pub disk_gb: u32,
}

/// The size that create gives a VM unless another is requested.
pub const USUAL: Size = Size { cpus: 1, memory_mb: 2048, disk_gb: 20 };

/// How many more VMs one resource has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// This many.
    Vms(u64),
    /// It limits nothing here.
    Endless,
    /// Its figures are not known.
    Unknown,
}

impl Room {
    /// The number, where it is known.
    pub fn vms(self) -> Option<u64> {
        match self {
            Room::Vms(vms) => Some(vms),
            Room::Endless | Room::Unknown => None,
        }
    }

    /// In JSON, beside a `more_vms` that is null for two reasons.
    pub fn word(self) -> &'static str {
        match self {
            Room::Vms(_) => "known",
            Room::Endless => "none",
            Room::Unknown => "unknown",
        }
    }
}

/// Numbers of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Counted: the pool, and how much of it is free.
    Counted(String, Supply),
    /// The host has none of them, and VMs get none.
    None,
    /// They could not be counted.
    Unknown,
}

impl Numbers {
    /// One for each VM.
    pub fn room(&self) -> Room {
        match self {
            Numbers::Counted(_, supply) => Room::Vms(supply.free as u64),
            Numbers::None => Room::Endless,
            Numbers::Unknown => Room::Unknown,
        }
    }
}

/// The node's memory against what its VMs may use together. Only of VMs that the API token may see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// The node.
    pub node: String,
    /// Its memory in bytes.
    pub total: Option<u64>,
    /// What it uses, in bytes.
    pub used: Option<u64>,
    /// Memory of all VMs there, those that are off too, in bytes: they may be started at any time. Of VMs whose size is
    /// known; `None`: the VMs are not known.
    pub promised: Option<u64>,
    /// VMs there whose size is not known, such as one that was made within the last seconds.
    pub unmeasured: u64,
    /// How many times the memory may be promised; `None`: create does not look at it.
    pub factor: Option<f64>,
}

impl Memory {
    /// Of this node, as `rows` tell; `None`: they are not known.
    pub fn of(node: &str, rows: Option<&[ClusterResource]>, factor: Option<f64>) -> Memory {
        let mut memory = Memory { node: node.to_string(), factor, ..Memory::default() };
        let Some(rows) = rows else { return memory };
        let here = || rows.iter().filter(|row| row.node.as_deref() == Some(node));
        if let Some(row) = here().find(|row| row.kind.as_deref() == Some("node")) {
            memory.total = row.memory.filter(|bytes| *bytes > 0);
            memory.used = row.memory_used;
        }
        let is_guest = |row: &&ClusterResource| matches!(row.kind.as_deref(), Some("qemu" | "lxc"));
        let mut promised = 0_u64;
        for guest in here().filter(is_guest).filter(|row| !row.is_template) {
            match guest.memory.filter(|bytes| *bytes > 0) {
                Some(bytes) => promised = promised.saturating_add(bytes),
                None => memory.unmeasured += 1,
            }
        }
        memory.promised = Some(promised);
        memory
    }

    /// Bytes that may be promised in all. Without a factor: what the node has.
    fn allowed(&self) -> Option<u64> {
        Some((self.total? as f64 * self.factor.unwrap_or(1.0)) as u64)
    }

    /// How many more VMs of this size have memory of their own.
    pub fn room(&self, size: Size) -> Room {
        let (Some(allowed), Some(promised)) = (self.allowed(), self.promised) else { return Room::Unknown };
        let left = allowed.saturating_sub(promised) / (u64::from(size.memory_mb) * MIB).max(1);
        // Those that are not measured make it less: of nothing, nothing is left.
        if self.unmeasured > 0 && left > 0 { Room::Unknown } else { Room::Vms(left) }
    }

    /// Why create refuses a VM with this much memory, if it does: only with a factor, and only what is certain.
    pub fn refuses(&self, memory_mb: u32) -> Option<String> {
        let factor = self.factor?;
        let (total, allowed, promised) = (self.total?, self.allowed()?, self.promised?);
        let left = allowed.saturating_sub(promised) / MIB;
        (left < u64::from(memory_mb)).then(|| {
            format!(
                "node {} has not enough memory: {left} MB can still be promised to VMs ({} MB are, of {} MB times \
                 overcommit_memory {factor}), {memory_mb} MB are needed; choose a smaller --memory, destroy VMs, or \
                 raise overcommit_memory in db.yaml",
                self.node,
                promised / MIB,
                total / MIB
            )
        })
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterNode {
    /// Its name.
    pub node: String,
    /// `online`, `offline` or `unknown`.
    pub status: String,
    /// Its memory; `None` while it is off, or nobody has measured it.
    pub memory_bytes: Option<u64>,
}

/// The nodes among `rows`, by name.
pub fn nodes(rows: &[ClusterResource]) -> Vec<ClusterNode> {
    let rows = rows.iter().filter(|row| row.kind.as_deref() == Some("node"));
    let node = |row: &ClusterResource| {
        let status = row.status.clone().unwrap_or_else(|| "unknown".to_string());
        Some(ClusterNode { node: row.node.clone()?, status, memory_bytes: row.memory.filter(|n| *n > 0) })
    };
    let mut nodes: Vec<ClusterNode> = rows.filter_map(node).collect();
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    nodes
}

/// Bytes of the template's first disk, which a full clone writes.
pub fn template_bytes(rows: &[ClusterResource], template: u32) -> Option<u64> {
    let row = rows.iter().find(|row| row.vmid == Some(u64::from(template)))?;
    row.disk.filter(|bytes| *bytes > 0)
}

/// Everything that limits how many more VMs fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    /// The size of VM that is counted in.
    pub size: Size,
    /// VMIDs of `vmid_range`.
    pub vmids: Numbers,
    /// Addresses of `ip_pool`.
    pub ipv4: Numbers,
    /// Addresses of the broker's prefix.
    pub ipv6: Numbers,
    /// The node's memory.
    pub memory: Memory,
    /// The storages of disks and of cloud-init drives.
    pub storages: Vec<Storage>,
    /// All nodes that the API shows.
    pub nodes: Vec<ClusterNode>,
    /// What could not be asked or read, one sentence each.
    pub not_known: Vec<String>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `vmids`, `ipv4`, `ipv6`, `memory`, or `storage NAME`.
    pub name: String,
    /// How many more VMs it has room for.
    pub room: Room,
}

impl Capacity {
    /// What limits, in a fixed order.
    pub fn resources(&self) -> Vec<Resource> {
        let resource = |name: &str, room| Resource { name: name.to_string(), room };
        let mut all = vec![
            resource("vmids", self.vmids.room()),
            resource("ipv4", self.ipv4.room()),
            resource("ipv6", self.ipv6.room()),
            resource("memory", self.memory.room(self.size)),
        ];
        all.extend(self.storages.iter().map(|one| resource(&format!("storage {}", one.name), one.room())));
        all
    }

    /// How many more VMs fit for certain: where something is unknown, only that none fits is certain.
    pub fn room(&self) -> Room {
        let all = self.resources();
        match self.at_most() {
            Some(0) => Room::Vms(0),
            _ if all.iter().any(|one| one.room == Room::Unknown) => Room::Unknown,
            Some(vms) => Room::Vms(vms),
            None => Room::Endless,
        }
    }

    /// More than this do not fit; `None`: nothing that is known limits them.
    pub fn at_most(&self) -> Option<u64> {
        self.resources().iter().filter_map(|one| one.room.vms()).min()
    }

    /// What runs out first, of all that is known; several where they run out together.
    pub fn runs_out_first(&self) -> Vec<String> {
        let least = self.at_most();
        let all = self.resources().into_iter();
        all.filter(|one| least.is_some() && one.room.vms() == least).map(|one| one.name).collect()
    }
}

impl Serialize for Capacity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde_json::json;
        let numbers = |numbers: &Numbers| {
            let room = numbers.room();
            let (pool, supply) = match numbers {
                Numbers::Counted(pool, supply) => (Some(pool), Some(supply)),
                Numbers::None | Numbers::Unknown => (None, None),
            };
            json!({"pool": pool, "total": supply.map(|one| one.total), "free": supply.map(|one| one.free),
                "limit": room.word(), "more_vms": room.vms()})
        };
        let room = self.memory.room(self.size);
        let mut memory = json!({
            "node": self.memory.node, "total_bytes": self.memory.total, "used_bytes": self.memory.used,
            "promised_bytes": self.memory.promised, "vms_not_measured": self.memory.unmeasured,
            "refuses": self.memory.factor.is_some(),
            "limit": room.word(), "more_vms": room.vms(),
        });
        // Null would mean that it is not known.
        if let Some(factor) = self.memory.factor {
            memory["overcommit_memory"] = json!(factor);
        }
        let whole = json!({
            "version": env!("CARGO_PKG_VERSION"), "size": self.size,
            "more_vms": self.room().vms(), "more_vms_at_most": self.at_most(),
            "runs_out_first": self.runs_out_first(),
            "vmids": numbers(&self.vmids), "ipv4": numbers(&self.ipv4), "ipv6": numbers(&self.ipv6),
            "memory": memory, "storages": self.storages, "nodes": self.nodes, "not_known": self.not_known,
        });
        whole.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
