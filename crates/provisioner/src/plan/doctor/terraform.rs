//! A VM's terraform directory: its file, its state, and what else lies there (hazards H42, H43, H45, H46, H52, H58).

use super::Finding;
use super::kinds::*;
use super::vm::label;
use crate::value::vm_record::VmRecord;
use serde_json::Value;
use uuid::Uuid;

const VM: &str = "proxmox_virtual_environment_vm";

/// The contents of a state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Missing,
    /// It is empty, cut off or no JSON.
    Torn,
    /// The VMIDs and UUIDs of the VMs in it.
    Vms(Vec<(Option<u64>, Option<Uuid>)>),
}

/// Reads a state.
pub fn state(text: Option<&str>) -> State {
    let Some(text) = text else { return State::Missing };
    let Ok(Value::Object(state)) = serde_json::from_str::<Value>(text) else { return State::Torn };
    let resources = state.get("resources").and_then(Value::as_array).cloned().unwrap_or_default();
    let vms = resources.iter().filter(|one| one.get("type").and_then(Value::as_str) == Some(VM));
    let instances = vms.filter_map(|vm| vm.get("instances")?.as_array()).flatten();
    let attributes = instances.filter_map(|instance| instance.get("attributes"));
    State::Vms(attributes.map(|vm| (vm.get("vm_id").and_then(Value::as_u64), uuid_of(vm))).collect())
}

fn uuid_of(vm: &Value) -> Option<Uuid> {
    let smbios = vm.get("smbios").map(|block| block.get(0).unwrap_or(block))?;
    Uuid::parse_str(smbios.get("uuid")?.as_str()?).ok()
}

/// What is wrong with the directory `path` of a live VM of ours. `file`: the text of its `.tf.json`.
pub fn directory(record: &VmRecord, path: &str, file: Option<&str>, state: &State) -> Vec<Finding> {
    let name = &record.name;
    let make = |kind, what: String, mend: String| Finding::new(kind, label(record), what, mend).of(name);
    let mut found = Vec::new();
    let aside = "compare it with qm config, then move the directory away".to_string();
    if *state == State::Torn {
        let what = format!("{path}/terraform.tfstate is empty or cut off");
        found.push(make(
            &TERRAFORM_STATE_TORN,
            what,
            format!("nothing needs it any more: rm {path}/terraform.tfstate"),
        ));
    }
    let is_other = |vmid: Option<u64>, uuid: Option<Uuid>| {
        vmid.is_some_and(|vmid| vmid != u64::from(record.vmid.get()))
            || matches!((uuid, record.smbios_uuid), (Some(a), Some(b)) if a != b)
    };
    if let State::Vms(vms) = state
        && let Some((vmid, _)) = vms.iter().find(|(vmid, uuid)| is_other(*vmid, *uuid))
    {
        let shown = vmid.map_or_else(|| "another UUID".to_string(), |vmid| format!("VMID {vmid}"));
        found.push(make(
            &TERRAFORM_NAMES_ANOTHER_VM,
            format!("{path}/terraform.tfstate names {shown}, not this VM"),
            aside.clone(),
        ));
    }
    let Some(file) = file else {
        let what = format!("{path}/{name}.tf.json is missing");
        let mend = "nothing has to be done: the VM can be destroyed without it".to_string();
        found.push(make(&TERRAFORM_DIRECTORY_MISSING, what, mend));
        return found;
    };
    let parsed = serde_json::from_str::<Value>(file).unwrap_or_default();
    let vm = parsed
        .pointer(&format!("/resource/{VM}"))
        .and_then(Value::as_object)
        .and_then(|vms| vms.values().next());
    let Some(vm) = vm else {
        let what = format!("{path}/{name}.tf.json describes no VM");
        found.push(make(&TERRAFORM_FILE_UNSAFE, what, aside));
        return found;
    };
    if is_other(vm.get("vm_id").and_then(Value::as_u64), uuid_of(vm)) {
        let what = format!("{path}/{name}.tf.json describes another VM");
        found.push(make(&TERRAFORM_NAMES_ANOTHER_VM, what, aside.clone()));
    }
    let ignores =
        vm.pointer("/lifecycle/ignore_changes").or_else(|| vm.pointer("/lifecycle/0/ignore_changes"));
    let ignores_all =
        ignores.is_some_and(|value| value == "all" || value.get(0).is_some_and(|one| one == "all"));
    let clone = vm.get("clone").map(|block| block.get(0).unwrap_or(block));
    let retries = clone.and_then(|clone| clone.get("retries")).and_then(Value::as_u64).unwrap_or(1);
    if !ignores_all || retries > 1 {
        let what = match ignores_all {
            true => format!("{path}/{name}.tf.json sets clone.retries to {retries}"),
            false => format!("{path}/{name}.tf.json lacks lifecycle.ignore_changes = \"all\""),
        };
        found.push(make(&TERRAFORM_FILE_UNSAFE, what, aside));
    }
    found
}

/// Files of a VM's directory that terraform would read and that are not ours: it would act on them in a create.
pub fn is_stray(file: &str, vm: &str) -> bool {
    const KNOWN: [&str; 4] =
        ["provider.tf.json", "variables.tf.json", ".terraform.lock.hcl", "pve-token.tfvars.json"];
    let is_read = [".tf", ".tf.json", ".tfvars", ".tfvars.json"].iter().any(|end| file.ends_with(end));
    is_read && !KNOWN.contains(&file) && file != format!("{vm}.tf.json")
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;
    use serde_json::json;

    fn file(change: impl FnOnce(&mut Value)) -> String {
        let mut vm = json!({"vm_id": 100, "smbios": {"uuid": Uuid::from_u128(100).to_string()},
            "clone": {"retries": 1}, "lifecycle": {"ignore_changes": "all"}});
        change(&mut vm);
        json!({"resource": {VM: {"web_1": vm}}}).to_string()
    }

    fn state_of(vmid: u64, uuid: u128) -> State {
        let text = json!({"resources": [{"type": VM, "instances": [{"attributes": {"vm_id": vmid,
            "smbios": [{"uuid": Uuid::from_u128(uuid).to_string()}]}}]}]});
        state(Some(&text.to_string()))
    }

    #[test]
    fn each_edit_of_a_directory_has_its_finding() {
        let record = record("web-1", 100);
        let codes = |file: Option<&str>, state: State| -> Vec<&str> {
            directory(&record, "/tf", file, &state).iter().map(|finding| finding.kind.code).collect()
        };
        let good = file(|_| {});
        assert_eq!(codes(Some(&good), state_of(100, 100)), [""; 0]);
        assert_eq!(codes(Some(&good), State::Missing), [""; 0]);
        for torn in ["", "{\"resou", "[]"] {
            assert_eq!(codes(Some(&good), state(Some(torn))), ["terraform-state-torn"], "H52");
        }
        assert_eq!(codes(Some(&good), state_of(101, 100)), ["terraform-names-another-vm"], "H58");
        assert_eq!(codes(Some(&good), state_of(100, 101)), ["terraform-names-another-vm"], "H58");
        assert_eq!(codes(None, State::Missing), ["terraform-directory-missing"]);
        let other = file(|vm| vm["vm_id"] = json!(101));
        assert_eq!(codes(Some(&other), State::Missing), ["terraform-names-another-vm"]);
        let replaced = file(|vm| vm["lifecycle"] = Value::Null);
        assert_eq!(codes(Some(&replaced), State::Missing), ["terraform-file-unsafe"], "H45");
        let adopts = file(|vm| vm["clone"]["retries"] = json!(3));
        assert_eq!(codes(Some(&adopts), State::Missing), ["terraform-file-unsafe"], "H46");
        assert_eq!(codes(Some("{"), State::Missing), ["terraform-file-unsafe"]);
    }

    #[test]
    fn h43_a_file_that_terraform_would_read_is_stray() {
        for known in
            ["web-1.tf.json", "provider.tf.json", "terraform.log", "record.json", "terraform.tfstate"]
        {
            assert!(!is_stray(known, "web-1"), "{known}");
        }
        for stray in ["web-2.tf.json", "x.tf", "a.auto.tfvars", "override.tf.json"] {
            assert!(is_stray(stray, "web-1"), "{stray}");
        }
    }
}
