//! `blockhost-provisioner-capacity`: how many more VMs fit, and what runs out first. Reads only.
//!
//! Facts are gathered here, side by side and each within a time of its own; what they mean is in
//! `crates/provisioner/src/plan/capacity/mod.rs`, which doctor and create's preflight use as well. Each source may fail by
//! itself: what it would have told is unknown then, and said so.
//!
//! ```text
//!   db.yaml ──┬─▶ root agent  (thread)   VMIDs and addresses of the cluster's guests
//!             ├─▶ API         (thread)   one request for all guests and nodes, one for each of our storages
//!             └─▶ this host              database, journal, directories, its own addresses
//! ```

pub mod supplies;

use super::Context;
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::plan::capacity::{Capacity, Memory, Need, Storage, USUAL, nodes, template_bytes};
use crate::store::node_access::NodeAccess;
use crate::store::settings::{CloneMode, Settings};
use crate::tool::ip;
use crate::tool::node::Guests;
use crate::value::cluster_rows::{ClusterResource, NodeStorage};
use crate::value::text::StorageId;
use std::time::Duration;
use supplies::Supplies;

/// How long the root agent and the API may take, each.
const LIMIT: Duration = Duration::from_secs(10);
/// A query to the kernel.
const LOOK: Duration = Duration::from_secs(5);

/// The request for all nodes and guests of the cluster.
pub const RESOURCES: &str = "/cluster/resources";

/// What can be counted now. An error: db.yaml cannot be used.
pub fn capacity(host: &Host) -> anyhow::Result<Capacity> {
    let ctx = &Context::to_look(host, Settings::read(host)?);
    let limit = || host.deadline_of("capacity", LIMIT);
    let (guests, api) = std::thread::scope(|scope| {
        let agent = scope.spawn(|| guests(ctx, limit()));
        let api = scope.spawn(|| FromApi::ask(ctx, limit()));
        // A thread that panicked has told nothing.
        (agent.join().unwrap_or_else(|_| Err("root agent: no answer".into())), api.join().unwrap_or_default())
    });
    let mut not_known = Vec::new();
    let supplies = match guests {
        Ok(guests) => count(ctx, guests, &mut not_known),
        Err(why) => {
            not_known.push(why);
            Supplies::UNKNOWN
        }
    };
    not_known.extend(api.not_known);
    let node = ctx.api().ok().map(|(access, _)| access);
    Ok(whole(ctx, node, supplies, api.rows.as_deref(), &api.storages, not_known))
}

/// Puts together what was told; `storages`: our storages, by name.
pub fn whole(
    ctx: &Context<'_>,
    access: Option<&NodeAccess>,
    supplies: Supplies,
    rows: Option<&[ClusterResource]>,
    storages: &[(String, Option<NodeStorage>)],
    not_known: Vec<String>,
) -> Capacity {
    let node = access.map(|access| access.node.to_string()).unwrap_or_default();
    let of = |(storage, purposes): (&StorageId, Vec<&'static str>)| {
        let name = storage.as_str();
        let row = storages.iter().find(|(known, _)| known == name).and_then(|(_, row)| row.as_ref());
        let need = match purposes.contains(&DISKS) {
            true => need_of_disk(ctx, rows),
            false => Need::CLOUD_INIT,
        };
        Storage::of(name, purposes, row, need, ctx.settings.storage_reserve_percent)
    };
    Capacity {
        size: USUAL,
        vmids: supplies.vmids,
        ipv4: supplies.ipv4,
        ipv6: supplies.ipv6,
        memory: Memory::of(&node, rows, ctx.settings.overcommit_memory),
        storages: access.map(ours).into_iter().flatten().map(of).collect(),
        nodes: rows.map(nodes).unwrap_or_default(),
        not_known,
    }
}

const DISKS: &str = "disks";
const DRIVES: &str = "cloud-init drives";

/// The storages of new VMs, and what is made on each.
fn ours(access: &NodeAccess) -> Vec<(&StorageId, Vec<&'static str>)> {
    let (disks, drives) = (&access.disk_datastore, &access.cloudinit_datastore);
    match disks == drives {
        true => vec![(disks, vec![DISKS, DRIVES])],
        false => vec![(disks, vec![DISKS]), (drives, vec![DRIVES])],
    }
}

/// What the disk of a VM of the usual size takes.
pub fn need_of_disk(ctx: &Context<'_>, rows: Option<&[ClusterResource]>) -> Need {
    let template = rows.and_then(|rows| template_bytes(rows, ctx.settings.template_vmid.get()));
    Need::of_disk(USUAL.disk_gb, ctx.settings.clone_mode == CloneMode::Full, template)
}

/// The guests of the cluster; why they are not all known.
fn guests(ctx: &Context<'_>, deadline: Deadline) -> Result<Guests, String> {
    match ctx.node().impatient().guests(deadline) {
        Ok(Some(guests)) if guests.unread == 0 => Ok(guests),
        Ok(Some(guests)) => {
            Err(format!("VMIDs and addresses: the configurations of {} guests cannot be read", guests.unread))
        }
        Ok(None) => {
            Err("VMIDs and addresses: the root agent's plugin is too old to list the guests; systemctl \
                         restart blockhost-root-agent"
                .to_string())
        }
        Err(error) => Err(format!("VMIDs and addresses: {error}; systemctl status blockhost-root-agent")),
    }
}

/// Counts VMIDs and addresses.
fn count(ctx: &Context<'_>, guests: Guests, not_known: &mut Vec<String>) -> Supplies {
    let addresses = ip::host_addresses(ctx.host, ctx.host.deadline(LOOK));
    let is_host_known = match &addresses {
        Ok(_) => true,
        Err(error) => {
            not_known.push(format!("IP addresses: the host's own cannot be read: {error:#}"));
            false
        }
    };
    let own = supplies::of_host(ctx, addresses.into_iter().flatten());
    let held = match supplies::held(ctx, &Some(guests), &own) {
        Ok(held) => held,
        Err(error) => {
            not_known.push(format!("VMIDs and addresses: {error:#}"));
            return Supplies::UNKNOWN;
        }
    };
    let counted = supplies::count(ctx, &held, not_known);
    match is_host_known {
        true => counted,
        false => Supplies { vmids: counted.vmids, ..Supplies::UNKNOWN },
    }
}

/// What the API tells.
#[derive(Debug, Default)]
pub struct FromApi {
    /// Nodes and guests; `None`: not known.
    pub rows: Option<Vec<ClusterResource>>,
    /// Our storages.
    pub storages: Vec<(String, Option<NodeStorage>)>,
    not_known: Vec<String>,
}

impl FromApi {
    fn ask(ctx: &Context<'_>, deadline: Deadline) -> FromApi {
        let mut told = FromApi::default();
        let (access, api) = match ctx.api() {
            Ok(found) => found,
            Err(error) => {
                told.not_known.push(format!("memory and storages: {error:#}"));
                return told;
            }
        };
        match resources(api, deadline) {
            Ok(rows) => told.rows = Some(rows),
            Err(error) => {
                told.not_known.push(format!("memory: {error}"));
                // A bad token costs three seconds each time (hazard H39).
                if !matches!(error, ApiError::Status { .. } | ApiError::Forbidden { .. }) {
                    told.not_known.push("storages: not asked after that".to_string());
                    return told;
                }
            }
        }
        told.note_memory(access);
        for (storage, _) in ours(access) {
            let path = format!("/nodes/{}/storage/{storage}/status", access.node);
            let answer = api.get(&path, deadline).map(serde_json::from_value::<NodeStorage>);
            let row = match answer {
                Ok(Ok(row)) => Some(row),
                Ok(Err(error)) => told.missed(storage, &error),
                Err(error) => told.missed(storage, &error),
            };
            if let Some(row) = &row
                && !row.is_active
            {
                told.not_known.push(format!("storage {storage}: it is disabled or offline; pvesm status"));
            }
            told.storages.push((storage.to_string(), row));
        }
        told
    }

    fn missed(&mut self, storage: &StorageId, why: &dyn std::fmt::Display) -> Option<NodeStorage> {
        self.not_known.push(format!("storage {storage}: {why}"));
        None
    }

    /// Why the node's memory is not known, where the API has answered.
    fn note_memory(&mut self, access: &NodeAccess) {
        let Some(rows) = &self.rows else { return };
        let node = access.node.as_str();
        let memory = Memory::of(node, Some(rows), None);
        if memory.total.is_none() {
            let nodes = nodes(rows);
            let status = nodes.iter().find(|one| one.node == node).map_or("not listed", |one| &one.status);
            self.not_known
                .push(format!("memory: node {node} is {status}, so its size is not told; pvecm status"));
        }
        if memory.unmeasured > 0 {
            let words =
                "VMs of the node are not told, as those made within the last seconds are not measured yet";
            self.not_known.push(format!("memory: the sizes of {} {words}", memory.unmeasured));
        }
    }
}

/// Asks for all nodes and guests that the token may see.
pub fn resources(api: &ProxmoxApi, deadline: Deadline) -> Result<Vec<ClusterResource>, ApiError> {
    let rows = api.get(RESOURCES, deadline)?;
    serde_json::from_value(rows).map_err(|_| ApiError::NotUnderstood(format!("GET {RESOURCES}")))
}
