use super::*;

fn resource(kind: &str, label: &str, attributes: Value) -> Value {
    json!({ "mode": "managed", "type": kind, "name": label,
        "provider": "provider[\"registry.terraform.io/bpg/proxmox\"]",
        "instances": [{ "schema_version": 0, "attributes": attributes,
            "dependencies": ["proxmox_virtual_environment_file.cloud_config_web_1"] }] })
}

fn state() -> Value {
    json!({ "version": 4, "terraform_version": "1.11.4", "serial": 7, "lineage": "l", "outputs": {},
        "resources": [
            { "mode": "data", "type": VM, "name": "web_1", "instances": [{ "attributes": { "vm_id": 1 } }] },
            resource(VM, "web_1", json!({ "vm_id": 101, "name": "web-1", "node_name": "pve", "big": 123456789012345678901234567890f64 })),
            resource(FILE, "cloud_config_web_1", json!({ "id": "local:snippets/web-1-cloud-config.yaml" })),
            resource(VM, "web_2", json!({ "vm_id": 102, "name": "web-2", "node_name": "pve" })),
            resource("proxmox_virtual_environment_pool", "p", json!({ "id": "p" })),
        ], "check_results": null })
}

const UUID: &str = "3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f";

fn own_vm() -> OwnVm<'static> {
    OwnVm {
        name: "web-1",
        label: "web_1",
        vmid: 101,
        node: "pve",
        uuid: UUID.parse().unwrap(),
        description: "BlockHost VM web-1",
        user_data: Some("local:snippets/blockhost-web-1-user.yaml"),
        address: Some("192.0.2.7/24"),
    }
}

fn parsed(state: &Value) -> SharedState {
    SharedState::parse(&state.to_string()).unwrap()
}

#[test]
fn h17_h52_what_is_no_state_of_version_4_is_refused() {
    let problem = |text: &str| SharedState::parse(text).unwrap_err();
    for torn in ["", "\0\0", "{\"version\": 4, \"resou", "[]", "4"] {
        assert_eq!(problem(torn), StateProblem::Torn, "{torn:?}");
    }
    let encrypted = r#"{"serial": 1, "meta": {}, "encrypted_data": "x", "encryption_version": "v0"}"#;
    assert_eq!(problem(encrypted), StateProblem::Encrypted);
    for version in ["3", "5", "\"4\"", "4.5"] {
        let text = format!("{{\"version\": {version}, \"resources\": []}}");
        assert_eq!(problem(&text), StateProblem::Version(version.to_string()));
    }
    assert!(matches!(problem("{}"), StateProblem::Form(_)));
    assert!(matches!(problem(r#"{"version": 4, "resources": {}}"#), StateProblem::Form(_)));
    assert!(SharedState::parse(r#"{"version": 4}"#).unwrap().vms().is_empty());
}

#[test]
fn only_vms_of_the_root_module_are_seen() {
    let mut all = state();
    let found = parsed(&all).vms();
    let labels: Vec<&str> = found.iter().map(|vm| vm.label.as_str()).collect();
    assert_eq!(labels, ["web_1", "web_2"]);
    assert_eq!((found[0].vmid, found[0].name.as_str(), found[0].refusal), (Some(101), "web-1", None));
    all["resources"][1]["module"] = "module.x".into();
    assert_eq!(parsed(&all).vms().len(), 1);
    let instance = all["resources"][3]["instances"][0].clone();
    for (change, word) in [("deposed", "replaced"), ("index_key", "count")] {
        let mut one = instance.clone();
        one[change] = "x".into();
        all["resources"][3]["instances"] = json!([one]);
        assert!(parsed(&all).vms()[0].refusal.unwrap().contains(word));
    }
    all["resources"][3]["instances"] = json!([instance, instance]);
    assert!(parsed(&all).vms()[0].refusal.is_some());
}

#[test]
fn h58_one_vm_is_moved_out_and_everything_else_stays() {
    let before = state();
    let shared = parsed(&before);
    let rest: Value = serde_json::from_str(&shared.without("web_1").unwrap()).unwrap();
    let mut expected = before.clone();
    expected["serial"] = 8.into();
    let resources = expected["resources"].as_array_mut().unwrap();
    resources.remove(2);
    resources.remove(1);
    assert_eq!(rest, expected, "its two resources, and the serial");
    assert_eq!(parsed(&rest).without("web_1"), None, "once");
    let own: Value = serde_json::from_str(&shared.own(Some("web_1"), &own_vm(), Uuid::nil())).unwrap();
    assert_eq!(own["resources"].as_array().unwrap().len(), 1);
    let instance = &own["resources"][0]["instances"][0];
    assert_eq!(instance["attributes"], before["resources"][1]["instances"][0]["attributes"]);
    assert_eq!(instance.get("dependencies"), None, "the file stays behind");
    assert_eq!((&own["serial"], &own["version"]), (&json!(1), &json!(4)));
    assert_ne!(own["lineage"], before["lineage"]);
}

#[test]
fn h45_a_tainted_vm_is_moved_as_one_that_is_kept() {
    let mut all = state();
    all["resources"][1]["instances"][0]["status"] = "tainted".into();
    let own = parsed(&all).own(Some("web_1"), &own_vm(), Uuid::nil());
    assert!(!own.contains("tainted"), "{own}");
}

#[test]
fn without_a_resource_the_state_is_that_of_an_import() {
    for label in [None, Some("web_9")] {
        let own: Value = serde_json::from_str(&parsed(&state()).own(label, &own_vm(), Uuid::nil())).unwrap();
        let attributes = &own["resources"][0]["instances"][0]["attributes"];
        assert_eq!(attributes, &json!({ "id": "101", "node_name": "pve", "vm_id": 101, "name": "web-1" }));
    }
}

fn older_file() -> Value {
    json!({ "resource": {
        VM: { "web_1": { "name": "web-1", "node_name": "pve", "clone": { "vm_id": 9001 },
            "initialization": { "datastore_id": "local",
                "ip_config": { "ipv4": { "address": "192.0.2.7/24", "gateway": "192.0.2.1" } },
                "user_data_file_id": "${proxmox_virtual_environment_file.cloud_config_web_1.id}" } } },
        FILE: { "cloud_config_web_1": { "content_type": "snippets" } } } })
}

#[test]
fn h45_h58_the_own_file_names_the_machine_and_nothing_that_stays_behind() {
    let file: Value = serde_json::from_str(&own_file(Some(&older_file()), &own_vm())).unwrap();
    let vm = &file["resource"][VM]["web_1"];
    assert_eq!(vm["vm_id"], 101);
    assert_eq!(vm["smbios"]["uuid"], UUID);
    assert_eq!(vm["lifecycle"]["ignore_changes"], "all");
    assert_eq!(vm["clone"]["vm_id"], 9001, "what it was made from is kept");
    let init = &vm["initialization"];
    assert_eq!(init["user_data_file_id"], "local:snippets/blockhost-web-1-user.yaml");
    assert_eq!(init["ip_config"]["ipv4"]["address"], "192.0.2.7/24");
    assert!(!file.to_string().contains("${"), "{file}");
    // Its file is lost: what is known.
    let file: Value = serde_json::from_str(&own_file(None, &own_vm())).unwrap();
    let vm = &file["resource"][VM]["web_1"];
    assert_eq!(vm["initialization"]["ip_config"][0]["ipv4"]["address"], "192.0.2.7/24");
    assert_eq!((&vm["name"], &vm["node_name"]), (&json!("web-1"), &json!("pve")));
    let bare = OwnVm { user_data: None, address: None, ..own_vm() };
    let file: Value = serde_json::from_str(&own_file(None, &bare)).unwrap();
    assert_eq!(file["resource"][VM]["web_1"].get("initialization"), None);
}

#[test]
fn a_file_with_more_than_one_vm_is_not_taken_apart() {
    assert_eq!(label_of_file(&older_file()), Ok("web_1".to_string()));
    let with = |pointer: &str, key: &str, value: Value| {
        let mut file = older_file();
        file.pointer_mut(pointer).unwrap()[key] = value;
        label_of_file(&file)
    };
    assert!(with("", "output", json!({})).is_err());
    assert_eq!(with("", "//", json!("a comment")), Ok("web_1".to_string()));
    assert!(with("/resource", "proxmox_virtual_environment_pool", json!({})).is_err());
    assert!(with(&format!("/resource/{VM}"), "web_2", json!({})).is_err());
    assert!(with(&format!("/resource/{FILE}"), "cloud_config_web_2", json!({})).is_err());
    assert!(label_of_file(&json!([])).is_err() && label_of_file(&json!({})).is_err());
    assert!(label_of_file(&json!({ "resource": { VM: {} } })).is_err());
}
