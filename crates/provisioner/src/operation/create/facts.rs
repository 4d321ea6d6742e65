//! What is known about every new VM, assembled from what was read on this host.

use super::Request;
use crate::operation::Context;
use crate::plan::create_vm::{Facts, UserData};
use crate::store::settings::{Broker, CloneMode, guests_bridge};
use crate::value::node_name::NodeName;
use crate::value::text::{BridgeName, StorageId};
use std::net::IpAddr;

/// What is read in addition to db.yaml, on a real host or for a mock.
pub struct Surroundings {
    /// The node.
    pub node: NodeName,
    /// Storage of the disks.
    pub disk_datastore: StorageId,
    /// Storage of the cloud-init drives.
    pub cloudinit_datastore: StorageId,
    /// The guests' bridge, if terraform's variables name one.
    pub bridge: Option<BridgeName>,
    /// IPv6 addresses, if there is a broker.
    pub broker: Option<Broker>,
    /// Mode of the network plugins.
    pub network_mode: Option<String>,
    /// The guests' name servers.
    pub dns_servers: Vec<IpAddr>,
    /// Where the user-data comes from.
    pub user_data: UserData,
    /// Public keys for the guest's user.
    pub ssh_keys: Vec<String>,
    /// Length of one-time passwords in characters, and their lifetime in seconds.
    pub one_time_password: (u64, u64),
}

impl Surroundings {
    /// Adds db.yaml and the request, which takes precedence.
    pub fn with(self, ctx: &Context<'_>, request: &Request) -> anyhow::Result<Facts> {
        let settings = &ctx.settings;
        let (ipv6_pool, dns_zone) = self.broker.map(|broker| (broker.pool, broker.dns_zone)).unzip();
        Ok(Facts {
            node: self.node,
            template: request.template_vmid.unwrap_or(settings.template_vmid),
            full_clone: settings.clone_mode == CloneMode::Full,
            cpu_type: settings.cpu_type.clone(),
            disk_datastore: request.disk_datastore.clone().unwrap_or(self.disk_datastore),
            cloudinit_datastore: request.cloudinit_datastore.clone().unwrap_or(self.cloudinit_datastore),
            snippet_storage: settings.snippet_storage.clone(),
            pool: settings.pve_pool.clone(),
            bridge: guests_bridge(self.bridge, || Ok(Some(settings.bridge.clone())))?,
            ipv4_pool: settings.ipv4_pool()?,
            ipv6_pool,
            dns_zone: dns_zone.flatten(),
            dns_servers: self.dns_servers,
            network_mode: self.network_mode,
            anti_spoofing: settings.anti_spoofing,
            user_data: self.user_data,
            ssh_keys: self.ssh_keys,
            one_time_password: self.one_time_password,
            expiry_days: request.expiry_days.unwrap_or(settings.default_expiry_days),
        })
    }
}
