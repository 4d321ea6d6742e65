//! The API token's privileges: the minimum for create, destroy and the queries of the other commands (hazards H29,
//! H40), each granted only on the path where it is needed.
//!
//! These are the privileges that Proxmox checks for the provider's calls (`facts/proxmox.md`). The lab checks them too,
//! and its tests run with a token that has no others.

use crate::value::node_name::NodeName;
use crate::value::text::{BridgeName, PlainName, StorageId};
use crate::value::vmid::Vmid;

/// One of our roles and its privileges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name in Proxmox.
    pub name: &'static str,
    /// Its privileges.
    pub privileges: Vec<&'static str>,
}

/// A role granted on a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The path in Proxmox, for example `/storage/local-lvm`.
    pub path: String,
    /// The role.
    pub role: &'static str,
}

/// Prefix of all our role names; it identifies the grants of an earlier setup.
pub const ROLE_PREFIX: &str = "BlockHost";

const MACHINES: &str = "BlockHost";
const TEMPLATE: &str = "BlockHostTemplate";
const STORAGE: &str = "BlockHostStorage";
const NETWORK: &str = "BlockHostNetwork";
const NODE: &str = "BlockHostNode";

/// Returns the roles for a Proxmox release. A privilege that the release does not know makes the whole role fail, so
/// the privilege to query the guest agent has the name used there: `VM.Monitor` up to 8, `VM.GuestAgent.Audit` from 9
/// on (H40).
pub fn roles(release: u32) -> Vec<Role> {
    let agent = if release >= 9 { "VM.GuestAgent.Audit" } else { "VM.Monitor" };
    let role = |name, privileges: &[&'static str]| Role { name, privileges: privileges.to_vec() };
    let mut machines = role(
        MACHINES,
        &[
            "Pool.Audit",
            "VM.Allocate",
            "VM.Audit",
            "VM.Config.CDROM",
            "VM.Config.CPU",
            "VM.Config.Cloudinit",
            "VM.Config.Disk",
            "VM.Config.HWType",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
            "VM.PowerMgmt",
        ],
    );
    machines.privileges.push(agent);
    vec![
        machines,
        role(TEMPLATE, &["VM.Audit", "VM.Clone"]),
        role(STORAGE, &["Datastore.AllocateSpace", "Datastore.Audit"]),
        role(NETWORK, &["SDN.Use"]),
        role(NODE, &["Sys.Audit"]),
    ]
}

/// What the token has access to.
#[derive(Debug)]
pub struct Reach<'a> {
    /// The pool our VMs are in.
    pub pool: &'a PlainName,
    /// The template.
    pub template: Vmid,
    /// Storages of disks and cloud-init drives.
    pub storages: Vec<&'a StorageId>,
    /// The guests' bridge.
    pub bridge: &'a BridgeName,
    /// The node.
    pub node: &'a NodeName,
}

impl Reach<'_> {
    /// Returns the rules to set; never on `/` and never on all of `/vms`.
    pub fn grants(&self) -> Vec<Grant> {
        let grant = |path: String, role| Grant { path, role };
        let mut grants = vec![
            grant(format!("/pool/{}", self.pool), MACHINES),
            grant(format!("/vms/{}", self.template), TEMPLATE),
        ];
        for storage in &self.storages {
            let next = grant(format!("/storage/{storage}"), STORAGE);
            if !grants.contains(&next) {
                grants.push(next);
            }
        }
        grants.push(grant(format!("/sdn/zones/localnetwork/{}", self.bridge), NETWORK));
        grants.push(grant(format!("/nodes/{}", self.node), NODE));
        grants
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h40_each_release_gets_only_privileges_it_knows() {
        let all = |release| roles(release).into_iter().flat_map(|role| role.privileges).collect::<Vec<_>>();
        assert!(all(8).contains(&"VM.Monitor") && !all(8).iter().any(|p| p.starts_with("VM.GuestAgent")));
        assert!(all(9).contains(&"VM.GuestAgent.Audit") && !all(9).contains(&"VM.Monitor"));
        for release in [7, 8, 9, 10] {
            assert!(roles(release).iter().all(|role| role.name.starts_with(ROLE_PREFIX)));
        }
    }

    #[test]
    fn h29_no_rule_reaches_beyond_what_is_ours() {
        let (pool, storage) =
            (PlainName::parse("blockhost").unwrap(), StorageId::parse("local-lvm").unwrap());
        let (bridge, node) = (BridgeName::parse("vmbr0").unwrap(), NodeName::parse("pve").unwrap());
        let reach = Reach {
            pool: &pool,
            template: Vmid::new(9001).unwrap(),
            storages: vec![&storage, &storage],
            bridge: &bridge,
            node: &node,
        };
        let paths: Vec<String> = reach.grants().into_iter().map(|grant| grant.path).collect();
        let expected = [
            "/pool/blockhost",
            "/vms/9001",
            "/storage/local-lvm",
            "/sdn/zones/localnetwork/vmbr0",
            "/nodes/pve",
        ];
        assert_eq!(paths, expected);
        // On anything that is not ours alone: no privilege to change a VM, a storage or the node.
        let of = |name: &str| roles(9).into_iter().find(|role| role.name == name).unwrap().privileges;
        assert_eq!(of(TEMPLATE), ["VM.Audit", "VM.Clone"]);
        assert_eq!(of(NODE), ["Sys.Audit"]);
        for dangerous in
            ["Permissions.Modify", "Sys.Modify", "User.Modify", "Datastore.Allocate", "VM.Console"]
        {
            assert!(roles(9).iter().all(|role| !role.privileges.contains(&dangerous)), "{dangerous}");
        }
    }
}
