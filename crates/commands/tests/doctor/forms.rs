//! What it prints, what it costs, and that it changes nothing.

use crate::support::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn files(folder: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&path, all),
            kind if kind.is_file() => {
                drop(all.insert(path.display().to_string(), std::fs::read(&path).unwrap()))
            }
            _ => {}
        }
    }
}

#[test]
fn h42_a_look_changes_nothing() {
    let lab = empty();
    create(&lab, "web-1", "kill@create.ready").was_killed();
    until("tasks end", || lab.control().snapshot().unwrap().tasks_running.is_empty());
    std::fs::create_dir_all(lab.path("var/withheld")).unwrap();
    let old = json!({"vmid": 300, "reason": "old", "since": "2026-01-01T00:00:00Z", "late": null});
    write(&lab.path("var/withheld/300.json"), &old.to_string());
    let all = || {
        let mut all = BTreeMap::new();
        files(&lab.path("var"), &mut all);
        files(&lab.path("etc"), &mut all);
        files(&lab.path("run/creates"), &mut all);
        (all, lab.control().snapshot().unwrap())
    };
    let before = all();
    let since = lab.control().last_call().unwrap();
    findings(&lab);
    assert_eq!(all(), before);
    let calls = lab.control().calls(since).unwrap();
    let changed: Vec<_> =
        calls.iter().filter(|call| call.kind == "api" && !call.what.starts_with("GET ")).collect();
    assert!(changed.is_empty(), "{changed:?}");
    let asked =
        |what: &str| calls.iter().filter(|call| call.kind == "api" && call.what.contains(what)).count();
    assert_eq!(asked("/cluster/resources"), 1, "one request for all VMs");
    let acts: Vec<&str> =
        calls.iter().filter(|call| call.kind == "agent").map(|call| call.what.as_str()).collect();
    assert!(
        acts.iter().all(|what| ["guest-list", "host-inventory", "vm-state", "volume-list"].contains(what)),
        "{acts:?}"
    );
}

#[test]
fn only_what_is_about_the_named_vms_is_told() {
    let lab = healthy();
    create(&lab, "web-2", "").ok();
    for vmid in [100, 101] {
        lab.control().power(vmid, lab::model::Power::Stopped).unwrap();
    }
    lab.control().set_clock_ahead(600).unwrap();
    let about = |names: &[&str]| -> Vec<Value> {
        examined(&lab, names, "")["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["vm"].clone())
            .collect()
    };
    assert_eq!(about(&["web-2"]), [json!("web-2")]);
    assert_eq!(about(&["web-1", "web-2"]).len(), 2);
    let unknown = run(&mut command(&lab, DOCTOR, &["web-3"]));
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    assert!(
        unknown.err.contains("VM web-3 is unknown") && unknown.err.contains("did you mean"),
        "{unknown:?}"
    );
    run(&mut command(&lab, DOCTOR, &["no_name"])).ends(2).says(&["no_name", "only letters, digits"]);
}

#[test]
fn the_text_names_what_where_why_and_the_way_out() {
    let lab = healthy();
    lab.control().remove_guest(100).unwrap();
    let ended = run(&mut command(&lab, DOCTOR, &[])).ends(2);
    assert!(ended.err.is_empty(), "{ended:?}");
    let expected = "error: VM web-1 (VMID 100): the node has no such VM [vm-missing]\n  why:  its customer has no VM\n  \
                    mend: restore it from a backup, or close its record: blockhost-vm-destroy web-1\n\n\
                    note: device vmbr0";
    assert!(
        !ended.out.contains("route-leftover")
            && ended.out.starts_with(&expected[..expected.find("note").unwrap()]),
        "{ended:?}"
    );
    assert!(ended.out.ends_with("1 error, 0 warnings, 0 notes; checked 1 VM\n"), "{ended:?}");
}

#[test]
fn h26_h27_hostile_names_and_texts_are_escaped() {
    let lab = healthy();
    let evil = "a\u{1b}[2Jb\u{202e}c\nd";
    let path = lab.path("var/vms.json");
    let mut all: Value = serde_json::from_str(&read(&path)).unwrap();
    all["vms"][evil] = json!({"vmid": evil, "status": "active"});
    write(&path, &all.to_string());
    let stray = lab.path("var/terraform/x\u{1b}[31m.tf.json");
    write(&stray, "{}");
    std::fs::set_permissions(&stray, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    lab.control().rename(100, "evil").unwrap();
    let ended = run(&mut command(&lab, DOCTOR, &[]));
    assert!(!ended.out.contains('\u{1b}') && !ended.out.contains('\u{202e}'), "{ended:?}");
    assert!(ended.out.contains("\\u{1b}"), "{ended:?}");
    let json = examined(&lab, &[], "");
    assert_eq!(codes_of(json["findings"].as_array().unwrap()), ["record-unreadable", "terraform-file-stray"]);
}

#[test]
fn the_json_is_as_its_schema_says() {
    let schema: Value =
        serde_json::from_str(&read(&root().join("facts").join("schema").join("doctor.json"))).unwrap();
    let lab = healthy();
    lab.control().remove_guest(100).unwrap();
    lab.control().set_clock_ahead(600).unwrap();
    let found = test_support::schema::violations(&schema, &examined(&lab, &[], ""));
    assert!(found.is_empty(), "{found:#?}");
    create(&lab, "web-2", "kill@create.ready").was_killed();
    let found = test_support::schema::violations(&schema, &examined(&lab, &[], ""));
    assert!(found.is_empty(), "{found:#?}");
}

pub fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn ten_thousand_records_are_judged() {
    let lab = healthy();
    let path = lab.path("var/vms.json");
    let mut all: Value = serde_json::from_str(&read(&path)).unwrap();
    let one = all["vms"]["web-1"].clone();
    for n in 0..10_000 {
        let mut record = one.clone();
        record["vmid"] = json!(100 + n % 900);
        record["smbios_uuid"] = json!(format!("{n:08x}-0000-4000-8000-00000000b10c"));
        record["ip_address"] = json!(format!("10.{}.{}.2", n / 250, n % 250));
        record["ipv6_address"] = json!(format!("2001:db8::{n:x}"));
        record["status"] = json!(if n == 0 { "active" } else { "destroyed" });
        all["vms"][format!("old-{n}")] = record;
    }
    write(&path, &all.to_string());
    assert_eq!(codes(&lab), ["terraform-directory-missing", "vmid-recorded-twice", "vmid-taken-over"]);
    // All of them alive: each is named, in a text that can be read.
    for n in 0..10_000 {
        all["vms"][format!("old-{n}")]["status"] = json!("active");
        all["vms"][format!("old-{n}")]["vmid"] = json!(5_000 + n);
    }
    write(&path, &all.to_string());
    write(
        &lab.path("etc/blockhost/db.yaml"),
        &read(&lab.path("etc/blockhost/db.yaml")).replace("end: 999", "end: 99999"),
    );
    let json = examined(&lab, &[], "");
    let missing =
        json["findings"].as_array().unwrap().iter().filter(|one| one["code"] == "vm-missing").count();
    assert_eq!(missing, 9_999, "and one has the VMID of the template");
    let text = run(&mut command(&lab, DOCTOR, &[])).ends(2).out;
    assert!(text.len() < 50_000 && text.contains("and 9979 more of vm-missing"), "{}", text.len());
}
