//! What the API tells: whether the token may what it must, the template, the storages, the pool, the clock, the release.
//!
//! One request for all VMs (`/cluster/resources`). After an error that concerns all requests no more is asked: a bad token
//! costs three seconds each time (hazard H39).

use crate::host::clock::Deadline;
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::operation::Context;
use crate::operation::capacity::{RESOURCES, need_of_disk};
use crate::plan::capacity::Need;
use crate::plan::doctor::kinds::*;
use crate::plan::doctor::{Finding, access, storage, versions};
use crate::plan::privileges::Reach;
use crate::store::node_access::NodeAccess;
use crate::value::cluster_rows::{ClusterResource, NodeStorage};
use crate::value::text::PlainName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashSet;
use std::time::Duration;

/// One request.
const ONE: Duration = Duration::from_secs(4);

/// What it told.
#[derive(Debug, Default)]
pub struct FromApi {
    /// The VMIDs that it shows in our pool; `None`: not known.
    pub members: Option<HashSet<u32>>,
    /// Nodes and guests; `None`: not known.
    pub rows: Option<Vec<ClusterResource>>,
    /// The storages of disks and of cloud-init drives; `None` for one that the node does not list.
    pub storages: Vec<(String, Option<NodeStorage>)>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

struct Query<'q> {
    ctx: &'q Context<'q>,
    access: &'q NodeAccess,
    api: &'q ProxmoxApi,
    deadline: Deadline,
    told: FromApi,
}

/// Asks; ends by `deadline`.
pub fn ask(ctx: &Context<'_>, deadline: Deadline) -> FromApi {
    let (access, api) = match ctx.api() {
        Ok(found) => found,
        Err(error) => {
            let path = ctx.settings.terraform_dir.display().to_string();
            let mend = "blockhost-provisioner-setup terraform, then blockhost-provisioner-setup token";
            let finding = Finding::new(&ACCESS_UNUSABLE, path, format!("{error:#}"), mend);
            return FromApi { findings: vec![finding], ..FromApi::default() };
        }
    };
    let mut query = Query { ctx, access, api, deadline, told: FromApi::default() };
    // Whoever could not be asked has said why.
    let _ = query.all();
    query.told
}

/// No more is asked.
struct Over;

impl Query<'_> {
    fn all(&mut self) -> Result<(), Over> {
        let version = self.get("/version")?.unwrap_or_default();
        let release = version.get("release").and_then(Value::as_str).unwrap_or_default().to_string();
        self.told.findings.extend(versions::proxmox(&release));
        let release = versions::numbers(&release).map_or(9, |[major, _]| u32::try_from(major).unwrap_or(9));
        self.token(release)?;
        self.guests()?;
        self.storages()?;
        self.template()?;
        let node = self.access.node.clone();
        if let Some(time) = self.get(&format!("/nodes/{node}/time"))? {
            self.told.findings.extend(access::clock(&time, self.ctx.host.now()));
        }
        Ok(())
    }

    /// `None`: this one request was refused or not understood.
    fn get(&mut self, path: &str) -> Result<Option<Value>, Over> {
        let (kind, mend) = match self.api.get(path, self.deadline.at_most(ONE)) {
            Ok(value) => return Ok(Some(value)),
            Err(ApiError::Forbidden { .. } | ApiError::Status { .. } | ApiError::NotUnderstood(_)) => {
                return Ok(None);
            }
            Err(error @ ApiError::BadToken { .. }) => {
                (&TOKEN_REFUSED, ("blockhost-provisioner-setup token", error))
            }
            Err(error) => (&API_UNREACHABLE, ("systemctl status pveproxy pvedaemon", error)),
        };
        let (mend, error) = mend;
        self.told.findings.push(Finding::new(kind, &self.access.endpoint, error, mend));
        Err(Over)
    }

    fn rows<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<Vec<T>>, Over> {
        Ok(self.get(path)?.and_then(|rows| serde_json::from_value(rows).ok()))
    }

    fn token(&mut self, release: u32) -> Result<(), Over> {
        let Some(permissions) = self.get("/access/permissions")? else { return Ok(()) };
        let (ctx, access) = (self.ctx, self.access);
        let Ok(bridge) = ctx.bridge() else { return Ok(()) };
        let none = PlainName::parse("blockhost");
        let (Some(pool), template) =
            (ctx.settings.pve_pool.as_ref().or(none.as_ref().ok()), ctx.settings.template_vmid)
        else {
            return Ok(());
        };
        let storages = vec![&access.disk_datastore, &access.cloudinit_datastore];
        let reach = Reach { pool, template, storages, bridge: &bridge, node: &access.node };
        self.told.findings.extend(access::token(&permissions, access.token.id(), release, &reach));
        Ok(())
    }

    fn guests(&mut self) -> Result<(), Over> {
        let rows = self.rows::<ClusterResource>(RESOURCES)?;
        if let Some(pool) = &self.ctx.settings.pve_pool {
            let in_pool = |row: &&ClusterResource| row.pool.as_deref() == Some(pool.as_str());
            let vmids = |rows: &Vec<ClusterResource>| {
                rows.iter().filter(in_pool).filter_map(|row| u32::try_from(row.vmid?).ok()).collect()
            };
            self.told.members = rows.as_ref().map(vmids);
        }
        self.told.rows = rows;
        Ok(())
    }

    fn storages(&mut self) -> Result<(), Over> {
        let (node, disks) = (self.access.node.clone(), self.access.disk_datastore.clone());
        let drive = self.access.cloudinit_datastore.clone();
        let Some(mut rows) = self.rows::<NodeStorage>(&format!("/nodes/{node}/storage"))? else {
            return Ok(());
        };
        let mut of = |name: &str, key, need| {
            let row = rows.iter().position(|row| row.name.as_deref() == Some(name));
            let row = row.map(|index| rows.swap_remove(index));
            let reserve = self.ctx.settings.storage_reserve_percent;
            self.told.findings.extend(storage::findings(name, row.as_ref(), key, need, reserve));
            self.told.storages.push((name.to_string(), row));
        };
        let need = need_of_disk(self.ctx, self.told.rows.as_deref());
        of(disks.as_str(), "terraform.tfvars", need);
        if drive != disks {
            of(drive.as_str(), "cloudinit_datastore", Need::CLOUD_INIT);
        }
        Ok(())
    }

    fn template(&mut self) -> Result<(), Over> {
        let (node, vmid) = (self.access.node.clone(), self.ctx.settings.template_vmid);
        if self.ctx.settings.vmid_range().is_ok_and(|range| range.contains(vmid)) {
            let what = "template_vmid is inside vmid_range";
            let mend = "change vmid_range in db.yaml, or build the template at another VMID";
            self.told.findings.push(Finding::new(&TEMPLATE_IN_RANGE, "db.yaml", what, mend));
        }
        match self.get(&format!("/nodes/{node}/qemu/{vmid}/config"))? {
            Some(config) => self.told.findings.extend(access::template(vmid.get(), &config)),
            None => {
                let what = format!("node {node} has no template VM {vmid}, or the token no rights on it");
                let mend = "blockhost-build-template";
                self.told.findings.push(Finding::new(
                    &TEMPLATE_MISSING,
                    format!("template VM {vmid}"),
                    what,
                    mend,
                ));
            }
        }
        Ok(())
    }
}
