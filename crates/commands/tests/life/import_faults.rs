//! What is wrong with VMs of the older package, each shown and none acted on that is not proven: the table's findings,
//! neighbours, and a node or a state that cannot be asked (`facts/contract/legacy.md`).

use crate::legacy_site::{
    DATABASE, SHARED_STATE, add, everything, import, import_command, import_with, legacy_record, legacy_site,
    records, rows, state_of, unchanged,
};
use crate::support::{Commands, Ended, guest, read, run, until, write};
use crate::terraform::no_changes;
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::{Value, json};

fn stranger(vmid: u32, name: &str) -> NewGuest {
    NewGuest { vmid, name: name.into(), running: true, ..NewGuest::default() }
}

fn edit_database(lab: &Lab, change: impl FnOnce(&mut Value)) {
    let mut all = records(lab);
    change(&mut all);
    write(&lab.path(DATABASE), &format!("{all:#}\n"));
}

fn edit_state(lab: &Lab, change: impl Fn(&mut Value)) {
    let path = lab.path(SHARED_STATE);
    let mut state: Value = serde_json::from_str(&read(&path)).unwrap();
    change(&mut state);
    write(&path, &format!("{state:#}\n"));
}

/// Takes the resources of this label out of the shared state.
fn forget(lab: &Lab, label: &str) {
    let file = format!("cloud_config_{label}");
    edit_state(lab, |state| {
        state["resources"]
            .as_array_mut()
            .unwrap()
            .retain(|r| r["name"] != label && r["name"] != file.as_str());
    });
}

/// web-001 has this finding and result, dry and with `--apply`, which moves web-002 beside it and nothing of web-001.
#[track_caller]
fn refused(lab: &Lab, finding: &str, words: &[&str]) {
    let (dry, applied) = judged(lab, "refused", finding, words);
    dry.ends(0);
    applied.says(&["did not move 1 VM"]);
}

#[track_caller]
fn judged(lab: &Lab, result: &str, finding: &str, words: &[&str]) -> (Ended, Ended) {
    let before = everything(lab);
    let dry = import(lab, &["--format", "json"]);
    unchanged(lab, &before);
    let node = lab.control().snapshot().unwrap();
    let applied = import(lab, &["--apply", "--format", "json"]).ends(1);
    for said in [&dry, &applied] {
        let all = rows(said);
        let row = &all["web-001"];
        let found = row["findings"].as_array().unwrap();
        assert!(found.contains(&finding.into()) && row["result"] == result, "{said:#?}");
        let detail = row["detail"].as_str().unwrap();
        assert!(words.iter().all(|word| detail.contains(word)), "{words:?}: {said:#?}");
    }
    assert_eq!(rows(&applied)["web-002"]["result"], "imported", "{applied:#?}");
    // Nothing of web-001, and of nobody else's guests, was touched.
    let after = everything(lab);
    for (path, text) in before.1.iter().filter(|(path, _)| path.contains("web-001")) {
        assert_eq!(after.1.get(path), Some(text), "{path}");
    }
    for (vmid, guest) in &node.guests {
        if guest.name != "web-002" {
            assert_eq!(after.0.guests.get(vmid), Some(guest), "VMID {vmid}");
        }
    }
    (dry, applied)
}

/// Two VMs; the second is fine.
fn two() -> (Lab, u32) {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    add(&lab, "web-002", "192.168.122.201", None);
    (lab, id)
}

#[test]
fn h01_a_wrong_vmid_is_corrected_when_state_and_node_agree() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", Some(105));
    lab.control().add_guest(stranger(105, "customer")).unwrap();
    let before = guest(&lab, 105);
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["findings"], json!(["no-uuid", "wrong-vmid"]));
    assert_eq!((&legacy_record(&lab, "web-001")["vmid"], guest(&lab, 105)), (&id.into(), before));
    let trail = lab.path("var/audit").read_dir().unwrap().next().unwrap().unwrap().path();
    assert!(read(&trail).contains("ok; it was 105"));
    lab.vm("destroy", &["web-001"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
}

#[test]
fn h58_a_state_that_names_another_guest_is_not_followed() {
    // Record and node agree; what the state names is a customer's.
    let (lab, id) = two();
    lab.control().add_guest(stranger(150, "customer")).unwrap();
    edit_state(&lab, |state| {
        for resource in state["resources"].as_array_mut().unwrap() {
            if resource["name"] == "web_001" {
                resource["instances"][0]["attributes"]["vm_id"] = 150.into();
                resource["instances"][0]["attributes"]["id"] = "150".into();
            }
        }
    });
    let before = guest(&lab, 150);
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["findings"], json!(["no-uuid", "stale-state"]));
    assert_eq!((guest(&lab, 150), &legacy_record(&lab, "web-001")["vmid"]), (before, &id.into()));
    let own = read(&lab.path("var/terraform/vms/web-001/terraform.tfstate"));
    assert!(!own.contains("150"), "{own}");
    assert!(state_of(&lab, "web_001").is_empty(), "nobody destroys the customer by it any more");
    // Nothing agrees.
    let (lab, id) = two();
    lab.control().add_guest(stranger(150, "customer")).unwrap();
    edit_state(&lab, |state| {
        for resource in state["resources"].as_array_mut().unwrap() {
            if resource["name"] == "web_001" {
                resource["instances"][0]["attributes"]["vm_id"] = 150.into();
            }
        }
    });
    lab.control().rename(id, "renamed").unwrap();
    refused(&lab, "not-ours", &[&id.to_string(), "150", "disagree"]);
}

#[test]
fn a_vm_that_the_state_has_lost_is_moved_if_record_and_node_agree() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    forget(&lab, "web_001");
    let shared = read(&lab.path(SHARED_STATE));
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["findings"], json!(["no-uuid", "missing-state"]));
    assert_eq!(read(&lab.path(SHARED_STATE)), shared, "it had nothing of it");
    let own: Value =
        serde_json::from_str(&read(&lab.path("var/terraform/vms/web-001/terraform.tfstate"))).unwrap();
    assert_eq!(own["resources"][0]["instances"][0]["attributes"]["vm_id"], id);
    // terraform fills in the rest, and wants to change nothing.
    no_changes(&lab, "web-001", "imported");
    // Neither state nor files: the whole directory was lost.
    let lab = legacy_site();
    add(&lab, "web-001", "192.168.122.200", None);
    for file in
        ["terraform.tfstate", "terraform.tfstate.backup", "web-001.tf.json", "web-001-cloud-config.yaml"]
    {
        let _ = std::fs::remove_file(lab.path("var/terraform").join(file));
    }
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["findings"], json!(["no-uuid", "missing-state", "missing-file"]));
    lab.vm("stop", &["web-001"]).ok();
    lab.vm("start", &["web-001"]).ok();
    lab.vm("destroy", &["web-001"]).ok();
}

#[test]
fn h49_a_vm_that_is_gone_is_said_to_be_gone_and_its_record_stays() {
    let (lab, id) = two();
    lab.control().remove_guest(id).unwrap();
    refused(&lab, "gone", &["blockhost-vm-destroy web-001"]);
    assert_eq!(legacy_record(&lab, "web-001")["status"], "active");
    // An error is not an absence.
    let (lab, id) = two();
    lab.control().remove_guest(id).unwrap();
    lab.control().fault("agent.vm-find", FaultAction::error("the cluster has no quorum"), 99).unwrap();
    let (dry, applied) = judged(&lab, "unknown", "unknown", &["no quorum"]);
    dry.ends(1).says(&["could not look at 1 VM"]);
    applied.says(&["could not look at 1 VM"]);
}

#[test]
fn h02_a_guest_of_somebody_else_with_the_same_name_is_not_taken_for_the_vm() {
    // Beside ours: either could be meant.
    let (lab, id) = two();
    lab.control().add_guest(stranger(300, "web-001")).unwrap();
    refused(&lab, "name-collision", &["VMID 300", "rename the other guest"]);
    lab.control().rename(300, "web-001-copy").unwrap();
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["node_vmid"], id);
    // On another node.
    let (lab, _) = two();
    lab.control().add_guest(NewGuest { node: "pve2".into(), ..stranger(300, "web-001") }).unwrap();
    refused(&lab, "name-collision", &["VMID 300"]);
    // In the place of ours, with the same VMID: its address is another.
    let (lab, id) = two();
    lab.control().remove_guest(id).unwrap();
    let config = [("ipconfig0".to_string(), "ip=10.9.9.9/24,gw=10.9.9.1".to_string())].into();
    lab.control().add_guest(NewGuest { config, ..stranger(id, "web-001") }).unwrap();
    refused(&lab, "not-ours", &["10.9.9.9", "192.168.122.200"]);
    // Ours is gone, and a guest of its name has a VMID that nobody has noted.
    let (lab, id) = two();
    lab.control().remove_guest(id).unwrap();
    lab.control().add_guest(stranger(300, "web-001")).unwrap();
    refused(&lab, "name-collision", &["VMID 300", "nothing proves"]);
}

#[test]
fn h03_two_names_with_one_label_are_not_mixed_up() {
    let (lab, id) = two();
    edit_database(&lab, |all| {
        let mut other = all["vms"]["web-001"].clone();
        (other["vm_name"], other["vmid"]) = ("web.001".into(), 333.into());
        other["ip_address"] = "192.168.122.209".into();
        all["vms"]["web.001"] = other;
    });
    let said = import(&lab, &["--apply", "--format", "json"]).ends(1);
    let all = rows(&said);
    assert_eq!(all["web.001"]["findings"], json!(["no-uuid", "name-collision"]), "{said:#?}");
    assert_eq!((&all["web-001"]["result"], &all["web-001"]["node_vmid"]), (&"imported".into(), &id.into()));
    assert!(!lab.path("var/terraform/vms/web.001").exists());
}

#[test]
fn a_vm_of_another_node_is_left_there() {
    let (lab, id) = two();
    lab.control().migrate(id, "pve2").unwrap();
    refused(&lab, "elsewhere", &["pve2", "migrate the VM back"]);
}

#[test]
fn h47_a_vmid_outside_the_range_is_left() {
    let (lab, id) = two();
    lab.control().remove_guest(id).unwrap();
    lab.control().add_guest(stranger(20_000, "web-001")).unwrap();
    edit_database(&lab, |all| all["vms"]["web-001"]["vmid"] = 20_000.into());
    forget(&lab, "web_001");
    refused(&lab, "out-of-range", &["vmid_range"]);
}

#[test]
fn h04_h17_names_and_records_that_cannot_be_read_stop_themselves_alone() {
    let (lab, _) = two();
    edit_database(&lab, |all| {
        for (name, vmid) in [("web_009", json!(110)), ("../x", json!(111)), ("web-010", json!("many"))] {
            let mut other = all["vms"]["web-001"].clone();
            (other["vm_name"], other["vmid"]) = (name.into(), vmid);
            other["ip_address"] = "192.168.122.219".into();
            all["vms"][name] = other;
        }
    });
    write(&lab.path("var/terraform/web-010.tf.json"), "{}");
    // A file and a resource that no record knows.
    write(&lab.path("var/terraform/web-011.tf.json"), "{}");
    let said = import(&lab, &["--apply", "--format", "json"]).ends(1);
    let all = rows(&said);
    for (name, finding) in [
        ("web_009", "invalid-name"),
        ("../x", "invalid-name"),
        ("web-010", "bad-record"),
        ("web-011", "no-record"),
    ] {
        assert!(all[name]["findings"].as_array().unwrap().contains(&finding.into()), "{name}: {said:#?}");
        assert_eq!(all[name]["result"], "refused");
    }
    assert_eq!(
        (&all["web-001"]["result"], &all["web-002"]["result"]),
        (&"imported".into(), &"imported".into())
    );
    assert_eq!(read(&lab.path("var/terraform/web-010.tf.json")), "{}");
}

#[test]
fn resources_that_are_no_vms_stay_in_the_shared_state() {
    let (lab, _) = two();
    edit_state(&lab, |state| {
        state["resources"].as_array_mut().unwrap().push(json!({
            "mode": "managed", "type": "proxmox_virtual_environment_pool", "name": "own",
            "provider": "provider[\"registry.terraform.io/bpg/proxmox\"]",
            "instances": [{ "schema_version": 0, "attributes": { "id": "own", "pool_id": "own" } }] }));
        state["outputs"] = json!({ "note": { "value": "kept", "type": "string" } });
    });
    import(&lab, &["--apply"]).ok();
    let state: Value = serde_json::from_str(&read(&lab.path(SHARED_STATE))).unwrap();
    let left: Vec<&Value> = state["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!((left, &state["outputs"]["note"]["value"]), (vec![&json!("own")], &json!("kept")));
}

#[test]
fn a_file_with_more_than_the_vm_is_not_taken_apart() {
    let (lab, _) = two();
    let path = lab.path("var/terraform/web-001.tf.json");
    let whole = read(&path);
    let mut file: Value = serde_json::from_str(&whole).unwrap();
    file["output"] = json!({ "address": { "value": "x" } });
    write(&path, &file.to_string());
    refused(&lab, "odd-form", &["more than resources"]);
    write(&path, "{\"resource\": {");
    refused_alone(&lab, "odd-form", &["cannot be read"]);
    write(&path, &whole);
    edit_state(&lab, |state| {
        for resource in
            state["resources"].as_array_mut().unwrap().iter_mut().filter(|r| r["name"] == "web_001")
        {
            resource["instances"][0]["index_key"] = 0.into();
        }
    });
    refused_alone(&lab, "odd-form", &["count"]);
}

/// The same where web-002 has been moved already.
#[track_caller]
fn refused_alone(lab: &Lab, finding: &str, words: &[&str]) {
    let before = everything(lab);
    let said = import(lab, &["--apply", "--format", "json"]).ends(1);
    let row = &rows(&said)["web-001"];
    assert!(row["findings"].as_array().unwrap().contains(&finding.into()), "{said:#?}");
    assert!(words.iter().all(|word| row["detail"].as_str().unwrap().contains(word)), "{said:#?}");
    unchanged(lab, &before);
}

#[test]
fn h17_h52_a_state_that_is_not_understood_stops_all_and_is_left() {
    let (lab, _) = two();
    let path = lab.path(SHARED_STATE);
    let whole = read(&path);
    for (text, words) in [
        (whole.replace("\"version\": 4", "\"version\": 5"), "only version 4"),
        (whole.replace("\"version\": 4", "\"version\": 3"), "only version 4"),
        (r#"{"serial": 7, "meta": {"key_provider.x": "y"}, "encrypted_data": "AAAA", "encryption_version": "v0"}"#.to_string(), "encrypted"),
        (r#"{"version": 4, "resources": {}}"#.to_string(), "not a Terraform state"),
    ] {
        write(&path, &text);
        let before = everything(&lab);
        for arguments in [&[][..], &["--apply"]] {
            import(&lab, arguments).fails(&[words, "terraform.tfstate", "left unchanged"]);
            unchanged(&lab, &before);
        }
    }
    // Truncated, and no copy of it is whole.
    for copy in ["terraform.tfstate.backup", "terraform.tfstate.blockhost"] {
        let _ = std::fs::remove_file(lab.path("var/terraform").join(copy));
    }
    for torn in ["", &whole[..whole.len() / 2], "\0\0\0"] {
        write(&path, torn);
        let before = everything(&lab);
        import(&lab, &["--apply"]).fails(&["truncated", "restore it from a backup"]);
        unchanged(&lab, &before);
    }
    // Truncated beside a good copy: shown from that, put back by the import itself.
    write(&lab.path("var/terraform/terraform.tfstate.backup"), &whole);
    write(&path, &whole[..whole.len() / 2]);
    let before = everything(&lab);
    import(&lab, &[]).ok().says(&["truncated", "terraform.tfstate.backup instead"]);
    unchanged(&lab, &before);
    import(&lab, &["--apply"]).ok().says(&["moved 2 VMs"]);
    assert_eq!(read(&lab.path("var/terraform/terraform.tfstate.before-import")), whole);
}

#[test]
fn h48_h49_without_the_root_agent_nothing_is_known_and_nothing_done() {
    let (lab, _) = two();
    lab.control().stop_root_agent().unwrap();
    let before = everything(&lab);
    for arguments in [&["--format", "json"][..], &["--format", "json", "--apply"]] {
        let said = import(&lab, arguments).ends(1).says(&["could not look at 2 VMs"]);
        let all = rows(&said);
        assert!(all.values().all(|row| row["result"] == "unknown"), "{said:#?}");
        unchanged(&lab, &before);
    }
    lab.control().restart_root_agent(0).unwrap();
    // An older one does not have the action.
    lab.control().fault("agent.vm-adopt", FaultAction::error("unknown action: vm-adopt"), 99).unwrap();
    let said = import(&lab, &["--apply", "--format", "json"]).ends(1);
    assert!(
        rows(&said)["web-001"]["detail"].as_str().unwrap().contains("older than this command"),
        "{said:#?}"
    );
    unchanged(&lab, &before);
    lab.control().clear_faults().unwrap();
    // It dies in the middle: what was done stays, and the next import goes on.
    lab.control().fault("agent.vm-adopt.after", FaultAction::Kill, 4).unwrap();
    let _ = import(&lab, &["--apply"]);
    lab.control().clear_faults().unwrap();
    import(&lab, &["--apply"]).ok();
    assert!(["web-001", "web-002"].iter().all(|name| legacy_record(&lab, name)["smbios_uuid"].is_string()));
}

#[test]
fn the_api_is_not_needed() {
    let (lab, _) = two();
    lab.control().fault("api.*", FaultAction::Kill, 9_999).unwrap();
    import(&lab, &["--apply"]).ok().says(&["moved 2 VMs"]);
}

#[test]
fn h22_a_vm_that_is_locked_waits_for_another_import() {
    let (lab, id) = two();
    lab.control().set_lock(id, Some("clone")).unwrap();
    refused(&lab, "locked", &["clone", "try again"]);
    // A backup locks it, too, which only Proxmox says.
    lab.control().set_lock(id, Some("backup")).unwrap();
    let said = import_with(&lab, "limit@import-busy=500", &["--apply", "--format", "json"]).ends(1);
    let row = &rows(&said)["web-001"];
    assert!(row["result"] == "failed" && row["detail"].as_str().unwrap().contains("backup"), "{said:#?}");
    assert!(!lab.path("var/terraform/vms/web-001").exists());
    lab.control().set_lock(id, None).unwrap();
    import(&lab, &["--apply"]).ok();
}

#[test]
fn h02_a_uuid_that_two_guests_have_is_replaced_at_the_next_start() {
    let (lab, id) = two();
    let config = guest(&lab, id).config;
    // Restored from a backup of it, under another name.
    let copy = [("smbios1".to_string(), config["smbios1"].clone())].into();
    lab.control().add_guest(NewGuest { config: copy, ..stranger(300, "restored") }).unwrap();
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    let row = &rows(&said)["web-001"];
    assert!(row["detail"].as_str().unwrap().contains("at its next start"), "{said:#?}");
    let uuid = row["uuid"].as_str().unwrap().to_string();
    assert_eq!(legacy_record(&lab, "web-001")["smbios_uuid"], uuid.as_str());
    assert!(!config["smbios1"].contains(&uuid) && guest(&lab, id).config["smbios1"] == config["smbios1"]);
    assert_eq!(guest(&lab, id).pending["smbios1"], Some(format!("uuid={uuid}")));
    // Until then it is known by its description.
    assert_eq!(lab.vm("status", &["web-001"]).ok().out, "active\n");
    run(lab.command("blockhost-provisioner-reapply")).ok().says(&["web-001", "next start"]);
    let said = import(&lab, &["--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["result"], "waiting");
    // Somebody reverts it: the next import sets it again.
    run(lab.tool("qm").args(["set", &id.to_string(), "--revert", "smbios1"])).ok();
    assert_eq!(rows(&import(&lab, &["--apply", "--format", "json"]).ok())["web-001"]["result"], "waiting");
    assert_eq!(guest(&lab, id).pending["smbios1"], Some(format!("uuid={uuid}")));
    // A start from outside will do.
    lab.vm("stop", &["web-001"]).ok();
    run(lab.tool("qm").args(["start", &id.to_string()])).ok();
    assert_eq!(guest(&lab, id).config["smbios1"], format!("uuid={uuid}"));
    assert_eq!(import(&lab, &["--apply"]).ok().err, "no VM of the older package is left\n");
    lab.vm("kill", &["web-001"]).ok();
    lab.vm("destroy", &["web-001"]).ok();
    assert!(lab.control().snapshot().unwrap().guests.contains_key(&300), "the copy is another's");
}

#[test]
fn a_vm_without_any_uuid_gets_one_and_keeps_what_else_smbios_says() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    lab.vm("kill", &["web-001"]).ok();
    lab.control().set(id, "smbios1", "base64=1,manufacturer=QUNNRQ==").unwrap();
    import(&lab, &["--apply"]).ok();
    let uuid = legacy_record(&lab, "web-001")["smbios_uuid"].as_str().unwrap().to_string();
    let smbios = &guest(&lab, id).config["smbios1"];
    assert_eq!(smbios, &format!("uuid={uuid},base64=1,manufacturer=QUNNRQ=="), "at once: it is off");
}

#[test]
fn h37_a_snippet_that_is_missing_on_the_node_comes_back() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    let text = read(&lab.path("var/terraform/web-001-cloud-config.yaml"));
    std::fs::remove_file(lab.path("node/var/lib/vz/snippets/web-001-cloud-config.yaml")).unwrap();
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["findings"], json!(["no-uuid", "missing-snippet"]), "{said:#?}");
    assert_eq!(read(&lab.path("node/var/lib/vz/snippets/blockhost-web-001-user.yaml")), text);
    lab.vm("stop", &["web-001"]).ok();
    lab.vm("start", &["web-001"]).ok();
    assert_eq!(guest(&lab, id).cloud_init_runs, 1);
    // Nor is its source there: said, and nothing done.
    let lab = legacy_site();
    add(&lab, "web-001", "192.168.122.200", None);
    std::fs::remove_file(lab.path("node/var/lib/vz/snippets/web-001-cloud-config.yaml")).unwrap();
    std::fs::remove_file(lab.path("var/terraform/web-001-cloud-config.yaml")).unwrap();
    let before = everything(&lab);
    let said = import(&lab, &["--apply", "--format", "json"]).ends(1);
    assert_eq!(rows(&said)["web-001"]["result"], "failed");
    unchanged(&lab, &before);
}

#[test]
fn h37_a_snippet_that_a_copy_of_the_vm_names_stays() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    let cicustom = guest(&lab, id).config["cicustom"].clone();
    let config = [("cicustom".to_string(), cicustom)].into();
    lab.control().add_guest(NewGuest { config, ..stranger(300, "copy") }).unwrap();
    import(&lab, &["--apply"]).ok();
    let snippets = lab.control().snapshot().unwrap().snippets;
    assert_eq!(snippets["web-001-cloud-config.yaml"], snippets["blockhost-web-001-user.yaml"]);
}

#[test]
fn h19_two_imports_at_once_share_the_work() {
    let lab = legacy_site();
    for n in 1..=4 {
        add(&lab, &format!("web-00{n}"), &format!("192.168.122.20{n}"), None);
    }
    let rules = "sleep@import.recorded=150";
    let start = || test_support::start(import_command(&lab, &["--apply"]).env("BLOCKHOST_FAULT", rules));
    let (one, two) = (start(), start());
    one.wait().ok();
    two.wait().ok();
    for n in 1..=4 {
        assert!(legacy_record(&lab, &format!("web-00{n}"))["smbios_uuid"].is_string());
        assert!(lab.path(format!("var/terraform/vms/web-00{n}/terraform.tfstate")).exists());
        assert!(state_of(&lab, &format!("web_00{n}")).is_empty());
    }
    assert_eq!(import(&lab, &[]).ok().err, "no VM of the older package is left\n");
}

#[test]
fn h18_a_create_and_a_destroy_go_on_beside_an_import() {
    let (lab, _) = two();
    lab.control().fault("provider.create.resize.after", FaultAction::Slow { ms: 1_500 }, 1).unwrap();
    let create = lab.vm_start("", "create", &["web-9", "--owner-wallet", crate::support::WALLET, "--apply"]);
    lab.control().wait_fault("provider.create.resize.after", crate::support::SOON).unwrap();
    import(&lab, &["--apply"]).ok().says(&["moved 2 VMs"]);
    create.wait().ok();
    assert_eq!(lab.vm("status", &["web-9"]).ok().out, "active\n");
    assert_eq!(import(&lab, &[]).ok().err, "no VM of the older package is left\n");
    // A destroy holds its VM: the import does not wait for ever, and touches nothing of it.
    let (lab, id) = two();
    let mut destroy = lab.vm_start("sleep@destroy.begun=4000", "destroy", &["web-001"]);
    until("the destroy has begun", || lab.path("var/journal/web-001.json").exists());
    let said = import_with(&lab, "limit@import-lock=200", &["--apply", "--format", "json"]).ends(1);
    assert_eq!(rows(&said)["web-001"]["findings"], json!(["no-uuid", "under-way"]), "{said:#?}");
    assert!(destroy.is_alive());
    destroy.wait().ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
}

#[test]
fn h09_a_destroy_that_died_is_finished_by_destroy_and_not_by_import() {
    let (lab, _) = two();
    lab.vm_with("kill@destroy.begun", "destroy", &["web-001"]).was_killed();
    refused(&lab, "under-way", &["blockhost-vm-destroy web-001"]);
    lab.vm("destroy", &["web-001"]).ok();
}

#[test]
fn h21_a_terraform_of_somebody_else_keeps_the_shared_state() {
    let (lab, _) = two();
    // As terraform locks it: a record lock, which ends with its process.
    let script = "import fcntl, sys, time\nf = open(sys.argv[1], 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()\n";
    let mut holder = std::process::Command::new("python3")
        .args(["-c", script, lab.path(SHARED_STATE).to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    let shared = read(&lab.path(SHARED_STATE));
    let said = import(&lab, &["--apply", "--format", "json"]).ends(1);
    assert!(
        rows(&said)["web-001"]["detail"].as_str().unwrap().contains("somebody runs terraform"),
        "{said:#?}"
    );
    assert_eq!(read(&lab.path(SHARED_STATE)), shared);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-001"]["findings"], json!(["unfinished-import"]), "{said:#?}");
}

#[test]
fn a_record_that_lost_its_uuid_gets_it_back() {
    // A VM of ours, and an engine that wrote an older copy of its record.
    let lab = legacy_site();
    lab.made("web-1");
    let record = legacy_record(&lab, "web-1");
    edit_database(&lab, |all| drop(all["vms"]["web-1"].as_object_mut().unwrap().remove("smbios_uuid")));
    let file = read(&lab.path("var/terraform/vms/web-1/web-1.tf.json"));
    let said = import(&lab, &["--apply", "--format", "json"]).ok();
    assert_eq!(rows(&said)["web-1"]["findings"], json!(["no-uuid"]), "{said:#?}");
    assert_eq!(legacy_record(&lab, "web-1")["smbios_uuid"], record["smbios_uuid"]);
    assert_eq!(read(&lab.path("var/terraform/vms/web-1/web-1.tf.json")), file);
    // Its directory is about another machine.
    edit_database(&lab, |all| drop(all["vms"]["web-1"].as_object_mut().unwrap().remove("smbios_uuid")));
    let other = file.replace(record["smbios_uuid"].as_str().unwrap(), "11111111-2222-4333-8444-555555555555");
    write(&lab.path("var/terraform/vms/web-1/web-1.tf.json"), &other);
    let said = import(&lab, &["--apply", "--format", "json"]).ends(1);
    assert_eq!(rows(&said)["web-1"]["findings"], json!(["no-uuid", "not-ours"]), "{said:#?}");
}
