//! VMs of the older package moved into the form of today: shown, moved, and used afterwards like any other
//! (`facts/contract/legacy.md`).

use crate::legacy_site::{
    SHARED_STATE, add, everything, import, legacy_record, legacy_site, records, rows, state_of, unchanged,
};
use crate::support::{Commands, guest, read, run, write};
use crate::terraform::no_changes;
use lab::Lab;
use lab::model::Power;
use serde_json::Value;

fn uuid_on_node(lab: &Lab, vmid: u32) -> Option<String> {
    let config = guest(lab, vmid).config;
    let smbios = config.get("smbios1")?;
    smbios.split(',').find_map(|part| part.strip_prefix("uuid=")).map(str::to_string)
}

fn audit(lab: &Lab) -> String {
    let files = std::fs::read_dir(lab.path("var/audit")).unwrap().flatten();
    files.map(|file| read(&file.path())).collect()
}

fn snippets(lab: &Lab) -> Vec<String> {
    lab.control().snapshot().unwrap().snippets.into_keys().collect()
}

#[test]
fn h42_a_dry_run_shows_each_vm_and_changes_nothing() {
    let lab = legacy_site();
    let one = add(&lab, "web-001", "192.168.122.200", None);
    let two = add(&lab, "web-002", "192.168.122.201", Some(105));
    lab.vm("kill", &["web-001"]).ok();
    let before = everything(&lab);
    let since = lab.control().last_call().unwrap();
    let said = import(&lab, &[]).ok();
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 3, "{said:#?}");
    let cells = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    assert_eq!(cells(lines[0]), ["NAME", "STATUS", "RECORD", "STATE", "NODE", "FINDINGS", "RESULT"]);
    let (one, two) = (one.to_string(), two.to_string());
    assert_eq!(cells(lines[1]), ["web-001", "active", &one, &one, &one, "stopped", "no-uuid", "ready"]);
    assert_eq!(
        cells(lines[2]),
        ["web-002", "active", "105", &two, &two, "running", "no-uuid,wrong-vmid", "ready"]
    );
    assert_eq!(said.err, "2 VMs can be moved (--apply does it)\n");
    import(&lab, &["--format", "json", "-q"]).ok();
    unchanged(&lab, &before);
    let calls = lab.control().calls(since).unwrap();
    let acts: Vec<&str> = calls
        .iter()
        .map(|call| call.what.as_str())
        .filter(|what| !["vm-adopt", "vm-find"].contains(what))
        .collect();
    assert!(acts.is_empty(), "nothing else was asked for: {acts:?}");
}

#[test]
fn h02_h55_h58_a_vm_is_moved_while_it_runs() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    let other = add(&lab, "web-002", "192.168.122.201", None);
    lab.control().set(id, "description", "ask Bob\nbefore you stop it: Grüße").unwrap();
    let neighbour = (guest(&lab, other), state_of(&lab, "web_002"), legacy_record(&lab, "web-002"));
    let before = guest(&lab, id);
    let shared_before = read(&lab.path(SHARED_STATE));
    let of_vm = |resource: &Value| resource["type"] == "proxmox_virtual_environment_vm";
    let resource = state_of(&lab, "web_001").into_iter().find(of_vm).unwrap();
    let attributes = resource["instances"][0]["attributes"].clone();
    let text = read(&lab.path("node/var/lib/vz/snippets/web-001-cloud-config.yaml"));
    // Its neighbour is held, so that one VM alone is moved.
    lab.control().set_lock(other, Some("clone")).unwrap();
    let said = import(&lab, &["--apply", "--format", "json"]).ends(1);
    lab.control().set_lock(other, None).unwrap();
    let row = &rows(&said)["web-001"];
    assert_eq!(
        (&row["result"], &row["uuid"]),
        (&"imported".into(), &uuid_on_node(&lab, id).unwrap().into()),
        "{said:#?}"
    );
    // The node: marked, with its own UUID, and otherwise as it was; it was neither stopped nor started.
    let after = guest(&lab, id);
    let uuid = uuid_on_node(&lab, id).unwrap();
    let notes = format!("BlockHost VM web-001 {uuid}\nask Bob\nbefore you stop it: Grüße");
    assert_eq!(after.config["description"].trim_end(), notes);
    assert_eq!(after.config["cicustom"], "user=local:snippets/blockhost-web-001-user.yaml");
    assert_eq!(after.config["hookscript"], "local:snippets/blockhost-guard.sh", "guarded at its next start");
    assert_eq!(
        (after.power, after.starts, &after.config["smbios1"]),
        (before.power, before.starts, &before.config["smbios1"])
    );
    assert_eq!(read(&lab.path("node/var/lib/vz/snippets/blockhost-web-001-user.yaml")), text);
    assert!(!snippets(&lab).contains(&"web-001-cloud-config.yaml".to_string()), "{:?}", snippets(&lab));
    // The record.
    let record = legacy_record(&lab, "web-001");
    assert_eq!(
        (&record["smbios_uuid"], &record["vmid"], &record["status"]),
        (&uuid.as_str().into(), &id.into(), &"active".into())
    );
    // Its own directory and state, and nothing in the shared one.
    let folder = lab.path("var/terraform/vms/web-001");
    let own: Value = serde_json::from_str(&read(&folder.join("terraform.tfstate"))).unwrap();
    assert_eq!(own["resources"][0]["instances"][0]["attributes"], attributes);
    assert!(state_of(&lab, "web_001").is_empty());
    for file in ["web-001.tf.json", "web-001-cloud-config.yaml"] {
        assert!(!lab.path("var/terraform").join(file).exists(), "{file}");
    }
    assert_eq!(read(&lab.path("var/terraform/terraform.tfstate.before-import")), shared_before);
    assert_eq!(read(&lab.path("var/terraform/terraform.tfstate.blockhost")), shared_before);
    assert!(read(&folder.join("record.json")).contains(&uuid), "H55: its record can be restored from now on");
    assert!(audit(&lab).contains("\"verb\":\"import\"") && audit(&lab).contains(&format!("ok; UUID {uuid}")));
    let now = (guest(&lab, other), state_of(&lab, "web_002"), legacy_record(&lab, "web-002"));
    assert_eq!(now, neighbour);
    // Terraform agrees, should anybody ask it.
    no_changes(&lab, "web-001", "imported");
    let again = import(&lab, &["--apply"]).ok();
    assert!(again.err.contains("moved 1 VM"), "the other: {again:#?}");
    assert_eq!(import(&lab, &["--apply"]).ok().err, "no VM of the older package is left\n");
    assert_eq!(
        read(&lab.path("var/terraform/terraform.tfstate.before-import")),
        shared_before,
        "written once"
    );
}

#[test]
fn an_imported_vm_lives_and_dies_like_one_of_ours() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    import(&lab, &["--apply"]).ok();
    assert_eq!(lab.vm("status", &["web-001"]).ok().out, "active\n");
    lab.vm("throttle", &["web-001", "--cpu-quota", "50"]).ok();
    run(lab.command("blockhost-provisioner-reapply")).ok().says(&["reconnected 1 VM"]);
    lab.vm("stop", &["web-001"]).ok();
    lab.vm("start", &["web-001"]).ok();
    assert!(lab.control().snapshot().unwrap().ports[&format!("tap{id}i0")].isolated);
    // Renamed by somebody on the node: it goes by its UUID now.
    lab.control().rename(id, "renamed").unwrap();
    lab.vm("kill", &["web-001"]).ok();
    assert_eq!(guest(&lab, id).power, Power::Stopped);
    // gc suspends it, and destroys it when its time is over.
    let mut all = records(&lab);
    all["vms"]["web-001"]["expires_at"] = "2020-01-01T00:00:00.000000+00:00".into();
    write(&lab.path(crate::legacy_site::DATABASE), &format!("{all:#}\n"));
    lab.vm("gc", &["--execute"]).ok().says(&[]);
    assert_eq!(legacy_record(&lab, "web-001")["status"], "suspended");
    let since = lab.control().last_call().unwrap();
    lab.vm("gc", &["--execute", "--grace-days", "0", "--accept-gap"]).ok();
    assert_eq!(legacy_record(&lab, "web-001")["status"], "destroyed");
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
    assert!(
        !lab.path("var/terraform/vms/web-001").exists()
            && snippets(&lab).iter().all(|s| !s.contains("web-001"))
    );
    let calls = lab.control().calls(since).unwrap();
    assert!(calls.iter().all(|call| call.kind != "provider"), "{calls:#?}");
    assert!(!lab.path("var/terraform/terraform.log").exists(), "no terraform was run by us");
}

#[test]
fn destroy_of_an_imported_vm_runs_no_terraform() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    import(&lab, &["--apply"]).ok();
    let shared = read(&lab.path(SHARED_STATE));
    let trace = lab.path("trace");
    let rules = format!("trace@{}", trace.display());
    lab.vm_with(&rules, "destroy", &["web-001"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&id));
    assert!(!read(&trace).contains("spawn.terraform"), "{}", read(&trace));
    assert_eq!(read(&lab.path(SHARED_STATE)), shared);
    assert!(snippets(&lab).is_empty() && !lab.path("var/terraform/vms/web-001").exists());
}

#[test]
fn h55_the_record_of_an_imported_vm_comes_back() {
    let lab = legacy_site();
    add(&lab, "web-001", "192.168.122.200", None);
    import(&lab, &["--apply"]).ok();
    let record = legacy_record(&lab, "web-001");
    let mut all = records(&lab);
    all["vms"].as_object_mut().unwrap().remove("web-001");
    all["allocated_ips"] = serde_json::json!([]);
    write(&lab.path(crate::legacy_site::DATABASE), &format!("{all:#}\n"));
    run(lab.command("blockhost-provisioner-reapply")).ok().says(&["restored it"]);
    assert_eq!(legacy_record(&lab, "web-001"), record);
}

#[test]
fn h37_the_guest_gets_the_same_user_data_at_its_next_start() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    // Another instance-id, and cloud-init would run again in a customer's machine.
    let before = guest(&lab, id);
    import(&lab, &["--apply"]).ok();
    lab.vm("stop", &["web-001"]).ok();
    lab.vm("start", &["web-001"]).ok();
    let after = guest(&lab, id);
    assert!(!before.instance_id.is_empty());
    assert_eq!((after.instance_id, after.cloud_init_runs), (before.instance_id, before.cloud_init_runs));
    assert_eq!(after.starts, before.starts + 1);
}

#[test]
fn h51_a_suspended_vm_stays_off_and_gets_no_network() {
    let lab = legacy_site();
    let id = add(&lab, "web-001", "192.168.122.200", None);
    lab.vm("kill", &["web-001"]).ok();
    let mut all = records(&lab);
    all["vms"]["web-001"]["status"] = "suspended".into();
    all["vms"]["web-001"]["suspended_at"] = "2026-11-01T00:00:00.000000+00:00".into();
    write(&lab.path(crate::legacy_site::DATABASE), &format!("{all:#}\n"));
    import(&lab, &["--apply"]).ok();
    assert_eq!(
        (guest(&lab, id).power, &legacy_record(&lab, "web-001")["status"]),
        (Power::Stopped, &"suspended".into())
    );
    let decided = read(&lab.path(format!("node/var/lib/blockhost-guard/{id}.json")));
    let decided: Value = serde_json::from_str(&decided).unwrap();
    assert_eq!((&decided["enabled"], &decided["name"]), (&false.into(), &"web-001".into()));
}
