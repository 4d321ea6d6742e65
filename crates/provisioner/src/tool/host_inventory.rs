//! What the root agent lists of its own directories and of the storages, for doctor.

use super::node::Node;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::value::host_inventory::{Inventory, LooseVolume};
use crate::value::text::StorageId;
use serde_json::{Map, Value, json};

impl Node {
    /// The files of ours that only root can list; `None` from a plugin that is older than this command.
    pub fn inventory(&self, deadline: Deadline) -> Result<Option<Inventory>, AgentError> {
        match self.act("host-inventory", json!({}), deadline) {
            Ok(answer) => Ok(Some(inventory_in(&answer))),
            Err(error) if error.is_unknown_action() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Disks on these storages whose VMID is of our range and no guest's.
    pub fn loose_volumes(
        &self,
        storages: &[&StorageId],
        deadline: Deadline,
    ) -> Result<Vec<LooseVolume>, AgentError> {
        let storages: Vec<&str> = storages.iter().map(|storage| storage.as_str()).collect();
        let answer = match self.act("volume-list", json!({ "storages": storages }), deadline) {
            Err(error) if error.is_unknown_action() => return Ok(Vec::new()),
            answer => answer?,
        };
        let rows = answer.get("volumes").and_then(Value::as_array).into_iter().flatten();
        let volume = |row: &Value| {
            let volid = row.get("volid")?.as_str()?.to_string();
            Some(LooseVolume { volid, vmid: row.get("vmid")?.as_u64()?.try_into().ok()? })
        };
        Ok(rows.filter_map(volume).collect())
    }

    /// Frees such a disk; the root agent refuses where a guest has its VMID or names it.
    pub fn free_volume(&self, volid: &str, deadline: Deadline) -> Result<(), AgentError> {
        self.act("volume-free", json!({ "volid": volid }), deadline).map(drop)
    }
}

fn inventory_in(answer: &Map<String, Value>) -> Inventory {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
    let rows = |key: &str| answer.get(key).and_then(Value::as_array).into_iter().flatten();
    let own = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let guard = |row: &Value| Some((row.get("vmid")?.as_u64()?.try_into().ok()?, text(row, "name")));
    Inventory {
        version: own("version"),
        folder: own("folder"),
        snippets: rows("snippets").filter_map(|row| Some((text(row, "name")?, text(row, "kind")?))).collect(),
        hook: answer.get("hook") == Some(&Value::Bool(true)),
        guards: rows("guards").filter_map(guard).collect(),
    }
}
