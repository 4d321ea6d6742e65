//! What the root agent does to a VM of the older package so that it is known by a UUID (`facts/contract/root-agent.md`,
//! `vm-adopt`): proof and act are one request.

use super::node::Node;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use uuid::Uuid;

const ADOPT: &str = "vm-adopt";
/// How often it is asked again while `qm` is at it.
const POLL: Duration = Duration::from_millis(250);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Adoption<'a> {
    /// The VM's name, by which it is proven.
    pub name: &'a VmName,
    /// The address of its record, which must be the one that Proxmox configures.
    pub address: Option<Ipv4Addr>,
    /// The UUID that its record or directory has already.
    pub uuid: Option<Uuid>,
    /// The UUID that it gets where it has none of its own.
    pub new_uuid: Uuid,
}

/// What became of the VM's user-data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserData {
    /// It is, or will be, among our snippets.
    Ours,
    /// The VM has none.
    None,
    /// It is a file of somebody else's making, and stays.
    Foreign,
    /// The file is gone from the node: the VM would not start.
    Missing,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// What the VM is known by.
    pub uuid: Uuid,
    /// It runs.
    pub running: bool,
    /// The node that it is on.
    pub node: String,
    /// Its SMBIOS UUID becomes that at its next start.
    pub uuid_pending: bool,
    /// Its user-data.
    pub user_data: UserData,
}

impl Node {
    /// Whether the VM could be adopted, and how it would be; changes nothing.
    pub fn check_adoption(
        &self,
        vmid: Vmid,
        wanted: &Adoption<'_>,
        deadline: Deadline,
    ) -> Result<Adopted, AgentError> {
        let answer = self.act(ADOPT, params(vmid, wanted, true), deadline)?;
        adopted(&answer).ok_or_else(|| AgentError::NotJson(ADOPT.to_string()))
    }

    /// Adopts the VM, and waits until that is done. It can be repeated: whatever is as it should be stays.
    pub fn adopt(&self, vmid: Vmid, wanted: &Adoption<'_>, deadline: Deadline) -> anyhow::Result<Adopted> {
        loop {
            let answer = self.act(ADOPT, params(vmid, wanted, false), deadline)?;
            if answer.get("pending") != Some(&Value::Bool(true)) {
                return Ok(adopted(&answer).ok_or_else(|| AgentError::NotJson(ADOPT.to_string()))?);
            }
            anyhow::ensure!(
                !deadline.passed(),
                "the node is busy: qm set did not finish in time; run the same command again"
            );
            self.pause(POLL)?;
        }
    }
}

fn params(vmid: Vmid, wanted: &Adoption<'_>, check: bool) -> Value {
    let mut params = json!({
        "vmid": vmid.get(), "name": wanted.name.as_str(), "new_uuid": wanted.new_uuid.to_string(), "check": check
    });
    if let Some(uuid) = wanted.uuid {
        params["uuid"] = uuid.to_string().into();
    }
    if let Some(address) = wanted.address {
        params["address"] = address.to_string().into();
    }
    params
}

fn adopted(answer: &Map<String, Value>) -> Option<Adopted> {
    let flag = |key: &str| answer.get(key).and_then(Value::as_bool);
    let user_data = match answer.get("snippet")?.as_str()? {
        "moved" | "ours" => UserData::Ours,
        "none" => UserData::None,
        "foreign" => UserData::Foreign,
        "missing" => UserData::Missing,
        _ => return None,
    };
    Some(Adopted {
        uuid: Uuid::parse_str(answer.get("uuid")?.as_str()?).ok()?,
        running: flag("running")?,
        node: answer.get("node").and_then(Value::as_str).unwrap_or_default().to_string(),
        uuid_pending: flag("uuid_pending")?,
        user_data,
    })
}
