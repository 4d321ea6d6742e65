//! VMs that the older package made: found, moved on, destroyed where they are (`facts/contract/legacy.md`).

use crate::legacy_site::{DATABASE, SHARED_STATE, add, legacy_record, legacy_site, state_of};
use crate::support::{Commands, WALLET, edit, guest, read, write};
use lab::Lab;
use lab::model::{NewGuest, Power};

fn snippets(lab: &Lab) -> Vec<String> {
    lab.control().snapshot().unwrap().snippets.into_keys().collect()
}

#[test]
fn a_legacy_vm_lives_and_is_destroyed_where_it_is() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    let other = add(&lab, "web-002", "192.168.122.201", None);
    let neighbour = (guest(&lab, other), state_of(&lab, "web_002"), legacy_record(&lab, "web-002"));
    assert_eq!(neighbour.1.len(), 2);
    assert_eq!(lab.vm("status", &["web-001"]).ok().out, "active\n");
    assert!(lab.vm("list", &["--live"]).ok().out.contains("web-001\tactive\t192.168.122.200\t2025-01-01\n"));
    lab.vm("stop", &["web-001"]).ok();
    assert_eq!(lab.vm("status", &["web-001"]).ok().out, "suspended\n");
    lab.vm("start", &["web-001"]).ok();
    assert!(lab.control().snapshot().unwrap().ports[&format!("tap{id}i0")].isolated);
    lab.vm("kill", &["web-001"]).ok();
    assert_eq!(guest(&lab, id).power, Power::Stopped);
    lab.vm("start", &["web-001"]).ok();
    let said = lab.vm("destroy", &["web-001"]).ok();
    assert!(!said.err.contains("warning"), "{said:?}");
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
    assert_eq!(snippets(&lab), ["web-002-cloud-config.yaml"]);
    assert!(state_of(&lab, "web_001").is_empty());
    for file in ["web-001.tf.json", "web-001-cloud-config.yaml"] {
        assert!(!lab.path("var/terraform").join(file).exists(), "{file}");
    }
    let gone = legacy_record(&lab, "web-001");
    assert_eq!((&gone["status"], &gone["vmid"]), (&"destroyed".into(), &id.into()));
    assert!(!crate::legacy_site::records(&lab)["allocated_ips"].to_string().contains("122.200"));
    // The neighbour has not felt a thing.
    let now = (guest(&lab, other), state_of(&lab, "web_002"), legacy_record(&lab, "web-002"));
    assert_eq!(now, neighbour);
    assert_eq!(
        lab.vm("destroy", &["web-001"]).ok().err.lines().last(),
        Some("VM web-001 was destroyed before; nothing to do")
    );
    lab.vm("destroy", &["web-002"]).ok();
    assert!(snippets(&lab).is_empty());
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1);
}

#[test]
fn h01_a_wrong_vmid_is_corrected_where_the_name_agrees() {
    for verb in ["stop", "kill", "start", "destroy"] {
        let lab = legacy_site();
        let id = add(&lab, "web-001", "192.168.122.200", Some(105));
        // The number that the record names is a stranger's.
        lab.control()
            .add_guest(NewGuest { vmid: 105, name: "customer".into(), running: true, ..NewGuest::default() })
            .unwrap();
        let stranger = guest(&lab, 105);
        assert_eq!(lab.vm("status", &["web-001"]).ok().out, "active\n", "by the true VMID");
        assert_eq!(legacy_record(&lab, "web-001")["vmid"], 105, "status changes nothing");
        let said = lab.vm(verb, &["web-001"]).ok();
        said.says(&["warning: ", "VMID 105", &format!("say {id}"), "correcting the record"]);
        assert_eq!(legacy_record(&lab, "web-001")["vmid"], id, "{verb}");
        assert_eq!(guest(&lab, 105), stranger, "{verb}");
        let trail = lab.path("var/audit").read_dir().unwrap().next().unwrap().unwrap().path();
        let trail = read(&trail);
        let line = trail.lines().find(|line| line.contains("\"verb\":\"correct-vmid\"")).unwrap();
        assert!(
            line.contains("\"result\":\"ok; it was 105\"") && line.contains(&format!("\"vmid\":{id}")),
            "{line}"
        );
        if verb == "destroy" {
            assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
        } else {
            let power = if verb == "start" { Power::Running } else { Power::Stopped };
            assert_eq!(guest(&lab, id).power, power, "{verb}");
            assert!(!lab.vm(verb, &["web-001"]).ok().err.contains("corrected"), "once only");
        }
    }
}

#[test]
fn h02_where_nothing_agrees_it_is_refused() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", Some(105));
    lab.control()
        .add_guest(NewGuest { vmid: 105, name: "customer".into(), running: true, ..NewGuest::default() })
        .unwrap();
    lab.control().rename(id, "renamed").unwrap();
    let before =
        (lab.control().snapshot().unwrap(), read(&lab.path(DATABASE)), read(&lab.path(SHARED_STATE)));
    for verb in ["stop", "kill", "start", "destroy"] {
        let said = lab.vm(verb, &["web-001"]);
        said.fails(&["VM web-001", "105", &id.to_string(), "customer", "renamed", "nothing was done"]);
    }
    let said = lab.vm("status", &["web-001"]).ok();
    assert_eq!(said.out, "unknown\n");
    said.says(&["customer", "renamed"]);
    let after = (lab.control().snapshot().unwrap(), read(&lab.path(DATABASE)), read(&lab.path(SHARED_STATE)));
    assert_eq!(after, before);
    // The record was right after all, and the state is stale.
    lab.control().rename(105, "web-001").unwrap();
    lab.vm("stop", &["web-001"]).ok();
    assert_eq!((guest(&lab, 105).power, guest(&lab, id).power), (Power::Stopped, Power::Running));
}

#[test]
fn h02_h58_terraform_is_not_let_loose_on_what_the_shared_state_names() {
    // The state names a neighbour's machine, and as the file a neighbour's file.
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    let other = add(&lab, "web-002", "192.168.122.201", None);
    let path = lab.path(SHARED_STATE);
    let mut state: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
    for resource in state["resources"].as_array_mut().unwrap() {
        let name = resource["name"].as_str().unwrap().to_string();
        let attributes = &mut resource["instances"][0]["attributes"];
        match name.as_str() {
            "web_001" => {
                (attributes["vm_id"], attributes["id"]) = (other.into(), other.to_string().into());
            }
            "cloud_config_web_001" => {
                attributes["id"] = "local:snippets/web-002-cloud-config.yaml".into();
                attributes["file_name"] = "web-002-cloud-config.yaml".into();
            }
            _ => {}
        }
    }
    write(&path, &state.to_string());
    let neighbour = (guest(&lab, other), state_of(&lab, "web_002"), legacy_record(&lab, "web-002"));
    lab.vm("destroy", &["web-001"]).ok().says(&["names another file"]);
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
    let now = (guest(&lab, other), state_of(&lab, "web_002"), legacy_record(&lab, "web-002"));
    assert_eq!(now, neighbour);
    assert!(snippets(&lab).contains(&"web-002-cloud-config.yaml".to_string()));
    assert_eq!(legacy_record(&lab, "web-001")["status"], "destroyed");
}

#[test]
fn h44_a_terraform_killed_while_it_tidies_the_shared_state_does_not_stop_destroy() {
    for point in ["provider.read.file.before", "provider.delete.file.before", "provider.delete.file.after"] {
        let lab = legacy_site();
        let id = add(&lab, "web-001", "192.168.122.200", None);
        lab.control().fault(point, lab::model::FaultAction::Kill, 1).unwrap();
        lab.vm("destroy", &["web-001"])
            .ok()
            .says(&["warning: ", "the VM is deleted, but terraform failed to"]);
        assert!(lab.control().faults().unwrap().iter().any(|f| f.hits == 1), "{point}");
        assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
        assert_eq!(legacy_record(&lab, "web-001")["status"], "destroyed");
    }
}

#[test]
fn new_vms_live_beside_them() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    let before =
        (read(&lab.path(SHARED_STATE)), guest(&lab, id), read(&lab.path("var/terraform/web-001.tf.json")));
    // The label of a live VM is taken, whatever made it (H03).
    for name in ["web.001", "web-001"] {
        lab.create(name, &[]).fails(&["web-001"]);
    }
    lab.vm("create", &["web-2", "--owner-wallet", WALLET, "--apply"]).ok();
    assert_eq!(lab.vm("status", &["web-2"]).ok().out, "active\n");
    lab.vm("destroy", &["web-2"]).ok();
    assert_eq!(
        (read(&lab.path(SHARED_STATE)), guest(&lab, id), read(&lab.path("var/terraform/web-001.tf.json"))),
        before
    );
    lab.vm("destroy", &["web-001"]).ok();
    // Gone: name and label are free again.
    lab.create("web.001", &[]).ok();
}

#[test]
fn h43_a_broken_neighbour_does_not_keep_the_machine() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    write(&lab.path("var/terraform/web-009.tf.json"), "{\"resource\": {");
    let said = lab.vm("destroy", &["web-001"]).ok();
    said.says(&["warning: ", "the VM is deleted, but terraform failed to", "web_001"]);
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
    assert_eq!(legacy_record(&lab, "web-001")["status"], "destroyed");
    assert_eq!(read(&lab.path("var/terraform/web-009.tf.json")), "{\"resource\": {", "not ours to touch");
}

#[test]
fn h52_a_torn_shared_state_is_not_believed() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    let other = add(&lab, "web-002", "192.168.122.201", None);
    // Terraform keeps the state before the last run: with web-001, without web-002.
    write(&lab.path(SHARED_STATE), "");
    lab.vm("destroy", &["web-001"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
    assert_eq!(legacy_record(&lab, "web-001")["status"], "destroyed");
    // No good copy at all: the root agent does it.
    write(&lab.path(SHARED_STATE), "\0\0\0");
    for file in std::fs::read_dir(lab.path("var/terraform")).unwrap() {
        let path = file.unwrap().path();
        if path.display().to_string().contains("tfstate.") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let said = lab.vm("destroy", &["web-002"]);
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&other), "{said:?}");
}

#[test]
fn h21_two_at_once_wait_for_the_shared_state() {
    let lab = legacy_site();
    for n in 1..=3 {
        add(&lab, &format!("web-00{n}"), &format!("192.168.122.20{n}"), None);
    }
    let running: Vec<_> = (1..=3).map(|n| lab.vm_start("", "destroy", &[&format!("web-00{n}")])).collect();
    for destroy in running {
        let said = destroy.wait().ok();
        assert!(!said.err.contains("warning"), "{said:?}");
    }
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1);
    assert!(snippets(&lab).is_empty());
    assert!((1..=3).all(|n| state_of(&lab, &format!("web_00{n}")).is_empty()));
}

#[test]
fn a_legacy_vm_without_its_file_is_known_by_its_name() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    std::fs::remove_file(lab.path("var/terraform/web-001.tf.json")).unwrap();
    lab.vm("destroy", &["web-001"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
    // A name that no live record knows keeps its file from being overwritten.
    write(&lab.path("var/terraform/web-007.tf.json"), "{}");
    lab.create("web-007", &[]).fails(&["web-007", "has a file of this name"]);
    assert_eq!(read(&lab.path("var/terraform/web-007.tf.json")), "{}");
    edit(&lab.path("var/terraform/web-007.tf.json"), "{}", "{}");
}
