//! What is known about a VM of the older package before the node is asked, and the words for what is wrong with one
//! (`facts/contract/legacy.md`). Pure.

use super::shared_state::{SharedState, StateVm, label_of_file};
use crate::value::vm_name::VmName;
use serde_json::Value;

/// What was found about one VM. Some of it import puts right, the rest keeps it from acting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Its record has no UUID.
    NoUuid,
    /// Its record has another VMID than state and node.
    WrongVmid,
    /// The shared state does not have it.
    MissingState,
    /// The shared state has another VMID than record and node.
    StaleState,
    /// Its terraform file is not there.
    MissingFile,
    /// Its cloud-init snippet is not on the node.
    MissingSnippet,
    /// An earlier import of it did not end.
    Unfinished,
    /// Its SMBIOS UUID is set at its next start; until then it is known by its description.
    UuidAtNextStart,
    /// No guest of the cluster is it.
    Gone,
    /// It is on another node.
    Elsewhere,
    /// Another guest or resource has its name.
    NameCollision,
    /// What is at its VMID is another guest.
    NotOurs,
    /// Its VMID is outside `vmid_range`.
    OutOfRange,
    /// The database has no live record of it.
    NoRecord,
    /// Its record cannot be read.
    BadRecord,
    /// Its name is not allowed any more.
    InvalidName,
    /// Its terraform file or resource has a form that cannot be moved.
    OddForm,
    /// Its own terraform directory is about another machine.
    OtherDirectory,
    /// Another operation on it has not ended.
    UnderWay,
    /// Its configuration is locked (a backup, a clone).
    Locked,
    /// The node could not be asked.
    Unknown,
}

impl Finding {
    /// The word in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Finding::NoUuid => "no-uuid",
            Finding::WrongVmid => "wrong-vmid",
            Finding::MissingState => "missing-state",
            Finding::StaleState => "stale-state",
            Finding::MissingFile => "missing-file",
            Finding::MissingSnippet => "missing-snippet",
            Finding::Unfinished => "unfinished-import",
            Finding::UuidAtNextStart => "uuid-at-next-start",
            Finding::Gone => "gone",
            Finding::Elsewhere => "elsewhere",
            Finding::NameCollision => "name-collision",
            Finding::NotOurs => "not-ours",
            Finding::OutOfRange => "out-of-range",
            Finding::NoRecord => "no-record",
            Finding::BadRecord => "bad-record",
            Finding::InvalidName => "invalid-name",
            Finding::OddForm => "odd-form",
            Finding::OtherDirectory => "other-directory",
            Finding::UnderWay => "under-way",
            Finding::Locked => "locked",
            Finding::Unknown => "unknown",
        }
    }
}

/// What the shared directory says about a VM.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claim {
    /// Its resource in the shared state.
    pub state: Option<StateVm>,
    /// Its terraform file.
    pub file: Option<Value>,
}

/// Finds the VM's resource and file. An error says why they cannot be moved.
pub fn claim(
    name: &VmName,
    state: &SharedState,
    file: Option<&Result<Value, String>>,
) -> Result<Claim, (Finding, String)> {
    let file = match file {
        Some(Err(why)) => {
            let words = format!("its Terraform file cannot be read: {why}; move it away, then try again");
            return Err((Finding::OddForm, words));
        }
        Some(Ok(file)) => Some(file.clone()),
        None => None,
    };
    let label = match file.as_ref().map(label_of_file) {
        Some(Err(why)) => {
            let words = format!("{name}.tf.json is not as the older package wrote it: {why}; left unchanged");
            return Err((Finding::OddForm, words));
        }
        Some(Ok(label)) => label,
        None => name.legacy_resource_label(),
    };
    let vms = state.vms();
    let of_name: Vec<&StateVm> = vms.iter().filter(|vm| vm.name == name.as_str()).collect();
    let found = match of_name[..] {
        [] => None,
        [one] if one.label == label => Some(one.clone()),
        _ => {
            let labels: Vec<&str> = of_name.iter().map(|vm| vm.label.as_str()).collect();
            let words = format!(
                "the shared Terraform state has {} under the name {name}, and its file describes {label}; left unchanged",
                labels.join(", ")
            );
            return Err((Finding::NameCollision, words));
        }
    };
    if let Some(other) = vms.iter().find(|vm| vm.label == label && vm.name != name.as_str()) {
        let whose = if other.name.is_empty() { "a VM without a name" } else { &other.name };
        let words =
            format!("the resource {label} of the shared Terraform state is that of {whose}; left unchanged");
        return Err((Finding::NameCollision, words));
    }
    if let Some(why) = found.as_ref().and_then(|vm| vm.refusal) {
        return Err((Finding::OddForm, format!("{why} in the shared Terraform state; left unchanged")));
    }
    Ok(Claim { state: found, file })
}

#[cfg(test)]
mod tests {
    use super::super::shared_state::{FILE, VM};
    use super::*;
    use serde_json::json;

    fn state(vms: &[(&str, &str, u32)]) -> SharedState {
        let resources: Vec<Value> = vms
            .iter()
            .map(|(label, name, vmid)| {
                json!({ "mode": "managed", "type": VM, "name": label,
                    "instances": [{ "attributes": { "name": name, "vm_id": vmid, "node_name": "pve" } }] })
            })
            .collect();
        SharedState::parse(&json!({ "version": 4, "resources": resources }).to_string()).unwrap()
    }

    fn file(label: &str) -> Result<Value, String> {
        Ok(json!({ "resource": { VM: { label: {} }, FILE: { format!("cloud_config_{label}"): {} } } }))
    }

    #[test]
    fn h03_a_resource_is_a_vms_own_only_with_its_label_and_its_name() {
        let name = VmName::parse("a-b").unwrap();
        let found = |vms: &[(&str, &str, u32)], file: Option<&Result<Value, String>>| {
            claim(&name, &state(vms), file).map(|claim| claim.state.and_then(|vm| vm.vmid))
        };
        assert_eq!(found(&[("a_b", "a-b", 101), ("c", "c", 102)], Some(&file("a_b"))), Ok(Some(101)));
        assert_eq!(found(&[("a_b", "a-b", 101)], None), Ok(Some(101)), "by the older rule");
        assert_eq!(found(&[("c", "c", 102)], Some(&file("a_b"))), Ok(None));
        for vms in [
            // a.b has the same label.
            &[("a_b", "a.b", 101)][..],
            &[("a_b", "", 101)],
            &[("other", "a-b", 101)],
            &[("a_b", "a-b", 101), ("other", "a-b", 102)],
        ] {
            assert_eq!(found(vms, Some(&file("a_b"))).unwrap_err().0, Finding::NameCollision, "{vms:?}");
        }
    }

    #[test]
    fn h17_a_file_that_is_not_understood_is_left() {
        let name = VmName::parse("a-b").unwrap();
        let all = state(&[("a_b", "a-b", 101)]);
        for file in [
            Err("line 1".to_string()),
            Ok(json!({})),
            Ok(json!({ "resource": { VM: { "a": {}, "b": {} } } })),
        ] {
            assert_eq!(claim(&name, &all, Some(&file)).unwrap_err().0, Finding::OddForm);
        }
    }
}
