//! What terraform may write, what is refused and what is replaced.

use crate::{
    pve::{Pve, TOKEN},
    workdir::{BOTH, NEW, OLD, Workdir, fixture, small_vm, with},
};
use serde_json::{Value, json};

/// Without what says nothing here: descriptions' kind, and members that are false or empty.
fn reduced(json: &Value) -> Value {
    match json {
        Value::Object(entries) => {
            let kept = entries
                .iter()
                .filter(|(key, value)| *key != "description_kind" && **value != Value::Bool(false));
            Value::Object(kept.map(|(key, value)| (key.clone(), reduced(value))).collect())
        }
        Value::Array(items) => items.iter().map(reduced).collect(),
        other => other.clone(),
    }
}

#[test]
fn the_schema_is_the_real_one() {
    for (version, name) in [(OLD, "schema-0.93.json"), (NEW, "schema-0.111.json")] {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        let printed: Value = serde_json::from_str(&workdir.ok(&["providers", "schema", "-json"])).unwrap();
        let ours = reduced(&printed["provider_schemas"]["registry.terraform.io/bpg/proxmox"]);
        let real: Value = serde_json::from_str(&fixture(name)).unwrap();
        for part in ["provider", "resource_schemas"] {
            let differences = differences(part, &ours[part], &real[part]);
            assert!(differences.is_empty(), "{version}: {differences:#?}");
        }
        assert!(ours.get("data_source_schemas").is_none());
    }
}

/// Where two JSON values differ, by path.
fn differences(path: &str, ours: &Value, real: &Value) -> Vec<String> {
    let (Value::Object(a), Value::Object(b)) = (ours, real) else {
        return if ours == real { Vec::new() } else { vec![format!("{path}: {ours}, should be {real}")] };
    };
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let differ =
        |key: &&String| differences(&format!("{path}.{key}"), &ours[key.as_str()], &real[key.as_str()]);
    keys.iter().flat_map(differ).collect()
}

#[test]
fn what_is_newer_is_unknown_to_the_old() {
    let pve = Pve::start();
    let vm = with(small_vm(), "agent", json!({"enabled": true, "wait_for_ip": {"disabled": true}}));
    for version in BOTH {
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&vm);
        if version == NEW {
            workdir.ok(&["validate"]);
        } else {
            assert!(workdir.fails(&["validate"]).contains("No argument or block type is named \"disabled\""));
        }
    }
}

#[test]
fn network_devices_are_blocks_first_and_an_attribute_later() {
    let pve = Pve::start();
    for version in BOTH {
        let workdir = Workdir::new(version, &pve);
        for (devices, words) in [
            (
                json!([{"bridge": "vmbr0"}]),
                "Inappropriate value for attribute \"network_device\": element 0: attributes \"disconnected\", \"enabled\", \"firewall\", \"mac_address\", \"model\", \"mtu\", \"queues\", \"rate_limit\", \"trunks\", and \"vlan_id\" are required",
            ),
            (json!({"bridge": "vmbr0"}), "list of object required"),
        ] {
            workdir.vm(&with(small_vm(), "network_device", devices));
            if version == OLD {
                workdir.ok(&["validate"]);
            } else {
                let text = workdir.fails(&["validate"]);
                assert!(text.contains("Incorrect attribute value type") && text.contains(words), "{text}");
            }
        }
    }
}

#[test]
fn an_empty_list_of_network_devices_removes_them() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&with(small_vm(), "network_device", json!([])));
    workdir.ok(&["apply"]);
    assert!(!pve.node().guests[&101].config.contains_key("net0"));
    workdir.ok(&["plan"]);
}

#[test]
fn values_are_checked() {
    let pve = Pve::start();
    for version in BOTH {
        let workdir = Workdir::new(version, &pve);
        for (key, value, words) in [
            ("vm_id", json!(99), "expected vm_id to be in the range (100 - 2147483647), got 99"),
            ("agent", json!({"timeout": "20"}), "\"20\" is not a duration"),
            ("cpu", json!({"type": "pentium9"}), "known CPU type"),
            ("name", json!("web_1"), "must be a valid DNS name"),
        ] {
            workdir.vm(&with(small_vm(), key, value));
            if (version, key) == (OLD, "name") {
                workdir.ok(&["validate"]);
            } else {
                let text = workdir.fails(&["validate"]);
                assert!(text.contains(words), "{text}");
            }
        }
    }
    let endpoint = format!("https://127.0.0.1:{}", pve.port);
    for (provider, words) in [
        (json!({"endpoint": "http://127.0.0.1:8006", "api_token": TOKEN}), "must specify a secure endpoint"),
        (
            json!({"endpoint": endpoint, "api_token": "nonsense"}),
            "must be in the format 'USER@REALM!TOKENID=UUID'",
        ),
        (json!({"endpoint": endpoint}), "must be in the format 'USER@REALM!TOKENID=UUID'"),
    ] {
        let workdir = Workdir::with_provider(NEW, &provider);
        workdir.vm(&small_vm());
        let text = workdir.fails(&["plan"]);
        assert!(text.contains(words), "{text}");
    }
    assert!(pve.take_requests().is_empty());
}

#[test]
fn what_cannot_change_in_place_replaces() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
    for (key, value) in [
        ("vm_id", json!(102)),
        ("node_name", json!("pve2")),
        ("clone", json!({"vm_id": 9001, "datastore_id": "local-lvm", "full": false})),
        (
            "initialization",
            json!({"user_data_file_id": "local:snippets/x.yaml", "ip_config": {"ipv4": {"address": "dhcp"}}}),
        ),
    ] {
        let mut vm = with(small_vm(), key, value);
        workdir.vm(&vm);
        let plan = workdir.run(&["plan"]);
        assert!(plan.code == Some(2) && plan.text.contains("must be replaced"), "{key}: {}", plan.text);
        vm["lifecycle"] = json!({"ignore_changes": "all"});
        workdir.vm(&vm);
        workdir.ok(&["plan"]);
    }
    workdir.vm(&with(small_vm(), "cpu", json!({"cores": 2, "type": "host"})));
    let plan = workdir.run(&["plan"]);
    assert!(
        plan.code == Some(2) && plan.text.contains("0 to add, 1 to change, 0 to destroy"),
        "{}",
        plan.text
    );
}

#[test]
fn what_the_stand_in_lacks_is_refused_by_name() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    let mut without = small_vm();
    without.as_object_mut().unwrap().remove("clone");
    for (vm, words) in [
        (with(small_vm(), "efi_disk", json!({"type": "4m"})), "\"efi_disk\""),
        (with(small_vm(), "clone", json!({"vm_id": 9001, "node_name": "pve2"})), "a clone from another node"),
        (without, "by \"clone\" only"),
    ] {
        workdir.vm(&vm);
        let text = workdir.fails(&["apply"]);
        assert!(text.contains(words), "{text}");
    }
    assert!(pve.take_requests().is_empty());
}
