//! vms.json and the journal, malformed or lost (hazard H17); one bad record among good ones.

use crate::support::{Ended, WALLET, assert_same_content, create, database, host_tree, run, vm, with_key};
use lab::Lab;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const EMPTY: &str = r#"{"vms": {}, "next_vmid": 100, "allocated_ips": [], "allocated_ipv6": []}"#;

/// A host of its own for a database of its own; the lab's node is behind it.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new(lab: &Lab, bytes: &[u8]) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(lab.path("etc/blockhost/db.yaml")).unwrap();
        let own = dir.path().join("vms.json");
        let line = format!("db_file: {}\n", own.display());
        let rest: String = text.lines().skip(1).map(|l| format!("{l}\n")).collect();
        std::fs::write(dir.path().join("db.yaml"), line + &rest).unwrap();
        std::fs::write(own, bytes).unwrap();
        Case { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("vms.json")
    }

    fn vm(&self, lab: &Lab, verb: &str, arguments: &[&str]) -> Ended {
        let mut command = lab.command(&format!("blockhost-vm-{verb}"));
        run(command.args(arguments).env("BLOCKHOST_CONFIG_DIR", self.dir.path()))
    }
}

#[test]
fn h17_a_corrupt_database_is_named_with_its_place_and_never_written_over() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    let deep = format!("{{\"vms\": {}{}}}", "{\"a\":".repeat(300), "1".to_string() + &"}".repeat(300));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", b"".to_vec(), "it is empty"),
        ("blanks", b" \n\t ".to_vec(), "it is empty"),
        ("not an object", b"[]".to_vec(), "object"),
        ("null", b"null".to_vec(), "object"),
        ("no vms", b"{}".to_vec(), "\"vms\" is missing"),
        ("vms a list", br#"{"vms": []}"#.to_vec(), "records"),
        ("vms null", br#"{"vms": null}"#.to_vec(), "records"),
        ("vms twice", br#"{"vms": {}, "vms": {}}"#.to_vec(), "twice"),
        ("cut off", EMPTY.as_bytes()[..40].to_vec(), "byte 40"),
        ("something behind it", format!("{EMPTY}}}").into_bytes(), "trailing"),
        ("two documents", format!("{EMPTY}\n{EMPTY}").into_bytes(), "trailing"),
        ("no UTF-8", b"{\"vms\": {\"a\xff\": {}}}".to_vec(), "byte 11"),
        ("NULs", vec![0; 4096], "byte 1 "),
        ("byte order mark", format!("\u{feff}{EMPTY}").into_bytes(), "byte"),
        ("python's NaN", br#"{"vms": {"a": {"x": NaN}}}"#.to_vec(), "byte"),
        ("single quotes", b"{'vms': {}}".to_vec(), "byte"),
        ("control character", b"{\"vms\": {\"a\nb\": {}}}".to_vec(), "byte"),
        ("never ends", deep.as_bytes()[..400].to_vec(), "byte"),
    ];
    std::thread::scope(|scope| {
        for (why, bytes, word) in &cases {
            let lab = &lab;
            scope.spawn(move || {
                let case = Case::new(lab, bytes);
                let file = case.path().display().to_string();
                case.vm(lab, "create", &["vm-1", "--owner-wallet", WALLET, "--apply"]).fails_in_one_line(&[
                    &file,
                    word,
                    "left unchanged",
                ]);
                for verb in ["start", "stop", "destroy"] {
                    case.vm(lab, verb, &["vm-1"]).fails_in_one_line(&[&file, word]);
                }
                let status = case.vm(lab, "status", &["vm-1"]).ends(0);
                assert_eq!(status.out, "unknown\n", "{why}");
                assert!(status.err.contains(&file) && status.err.contains(word), "{why}: {status:?}");
                let list = case.vm(lab, "list", &["--format", "json"]).ends(0);
                assert_eq!(list.out, "[]\n", "{why}");
                assert!(list.err.contains(&file) && list.err.contains(word), "{why}: {list:?}");
                assert_eq!(&std::fs::read(case.path()).unwrap(), bytes, "{why}");
            });
        }
    });
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1, "nothing was made");
}

#[test]
fn h17_wrong_types_beside_the_records_stop_a_create_and_change_nothing() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    std::thread::scope(|scope| {
        for (text, key) in [
            (r#"{"vms": {}, "next_vmid": "x"}"#, "next_vmid"),
            (r#"{"vms": {}, "next_vmid": "1.5"}"#, "next_vmid"),
            (r#"{"vms": {}, "next_vmid": ""}"#, "next_vmid"),
            (r#"{"vms": {}, "next_vmid": 1.5}"#, "next_vmid"),
            (r#"{"vms": {}, "next_vmid": -1}"#, "next_vmid"),
            (r#"{"vms": {}, "next_vmid": [100]}"#, "next_vmid"),
            (r#"{"vms": {}, "allocated_ips": {}}"#, "allocated_ips"),
            (r#"{"vms": {}, "allocated_ips": "192.168.122.200"}"#, "allocated_ips"),
            (r#"{"vms": {}, "allocated_ips": [200]}"#, "allocated_ips"),
            (r#"{"vms": {}, "allocated_ipv6": 5}"#, "allocated_ipv6"),
        ] {
            let lab = &lab;
            scope.spawn(move || {
                let case = Case::new(lab, text.as_bytes());
                let file = case.path().display().to_string();
                case.vm(lab, "create", &["vm-1", "--no-web3"]).fails_in_one_line(&[&file, key]);
                case.vm(lab, "create", &["vm-1", "--no-web3", "--apply"]).fails_in_one_line(&[&file, key]);
                assert_eq!(std::fs::read_to_string(case.path()).unwrap(), text);
                assert_eq!(case.vm(lab, "list", &["--json"]).ends(0).out, "[]\n", "{text}");
            });
        }
    });
}

fn loss(lab: &Lab, words: &[&str]) {
    let (host, node) = (host_tree(lab), lab.control().snapshot().unwrap());
    create(lab, "vm-2", &[]).fails_in_one_line(words);
    assert!(!lab.path("var/vms.json").exists(), "an empty database hides a loss");
    assert_same_content(&host, &host_tree(lab), "a lost database");
    assert_eq!(node, lab.control().snapshot().unwrap());
    let status = vm(lab, "status", &["vm-1"]).ends(0);
    assert_eq!(status.out, "unknown\n");
    assert!(status.err.contains("does not exist"), "{status:?}");
    let list = vm(lab, "list", &[]).ends(0);
    assert_eq!(list.out, "NAME\tSTATUS\tIP\tCREATED\n");
    assert!(list.err.contains("does not exist"), "{list:?}");
    for verb in ["start", "stop", "kill", "destroy"] {
        vm(lab, verb, &["vm-1"]).fails_in_one_line(&["vms.json", "does not exist"]);
    }
}

#[test]
fn h17_a_missing_database_with_traces_of_vms_is_a_loss() {
    let lab = with_key(Lab::builder().start().unwrap());
    let path = lab.path("var/vms.json");
    create(&lab, "vm-1", &[]).ok();
    let saved = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    loss(&lab, &["vms.json", "lost", "vm-1/terraform.tfstate"]);
    std::fs::write(&path, &saved).unwrap();
    vm(&lab, "destroy", &["vm-1"]).ok();

    // A VM of the older package, in the shared state.
    std::fs::remove_file(&path).unwrap();
    let shared = lab.path("var/terraform/terraform.tfstate");
    let state =
        r#"{"version": 4, "resources": [{"type": "proxmox_virtual_environment_vm", "name": "web_1"}]}"#;
    std::fs::write(&shared, state).unwrap();
    loss(&lab, &["vms.json", "lost", "terraform/terraform.tfstate"]);
    std::fs::remove_file(&shared).unwrap();

    // A create that had taken something.
    let entry = lab.path("var/journal/vm-9.json");
    let died = json!({"name": "vm-9", "step": "taken", "smbios_uuid": null, "vmid": 100, "previous_next_vmid": 100,
        "ipv4": "192.168.122.200", "ipv6": null, "wallet_address": null, "began_at": "2026-11-23T00:00:00Z",
        "pid": 1, "terraform_pid": null, "record": null});
    std::fs::write(&entry, died.to_string()).unwrap();
    loss(&lab, &["vms.json", "lost", "journal", "vm-9"]);
    std::fs::remove_file(&entry).unwrap();

    // Without any trace it is a beginning.
    create(&lab, "vm-3", &[]).ok();
    assert_eq!(database(&lab)["vms"]["vm-3"]["vmid"], 100);
}

#[test]
fn h17_a_malformed_journal_entry_stops_creates_and_its_vm_and_stays() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "vm-1", &[]).ok();
    let folder = lab.path("var/journal");
    let good = json!({"name": "vm-9", "step": "taken", "smbios_uuid": null, "vmid": 105, "previous_next_vmid": 100,
        "ipv4": "192.168.122.205", "ipv6": null, "wallet_address": null, "began_at": "2026-11-23T00:00:00Z",
        "pid": 1, "terraform_pid": null, "record": null});
    let with = |key: &str, value: Value| {
        let mut entry = good.clone();
        entry[key] = value;
        entry.to_string()
    };
    for (file, text, word) in [
        ("vm-9.json", String::new(), "vm-9.json"),
        ("vm-9.json", "{".to_string(), "line 1"),
        ("vm-9.json", "[]".to_string(), "vm-9.json"),
        ("vm-9.json", good.to_string()[..80].to_string(), "column 80"),
        ("vm-9.json", with("step", "thinking".into()), "thinking"),
        ("vm-9.json", with("vmid", "105".into()), "105"),
        ("vm-9.json", with("vmid", 7.into()), "7"),
        ("vm-9.json", with("ipv4", "192.168.122".into()), "IPv4"),
        ("vm-9.json", with("smbios_uuid", "x".into()), "UUID"),
        ("vm-9.json", with("began_at", "yesterday".into()), "vm-9.json"),
        ("vm-9.json", with("name", "vm-1".into()), "vm-1"),
        ("-x.json", good.to_string(), "-x"),
        ("${file}.json", good.to_string(), "not allowed"),
    ] {
        let entry = folder.join(file);
        std::fs::write(&entry, &text).unwrap();
        let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
        let refused = create(&lab, "vm-2", &[]);
        refused.fails_in_one_line(&["journal", word]);
        if file == "vm-9.json" {
            create(&lab, "vm-9", &[]).fails_in_one_line(&["journal", word]);
            vm(&lab, "destroy", &["vm-9"]).fails_in_one_line(&["journal", word]);
        }
        assert_same_content(&host, &host_tree(&lab), word);
        assert_eq!(node, lab.control().snapshot().unwrap(), "{word}");
        // Others go on.
        vm(&lab, "kill", &["vm-1"]).ok();
        vm(&lab, "start", &["vm-1"]).ok();
        assert_eq!(vm(&lab, "status", &["vm-1"]).ok().out, "active\n");
        assert_eq!(std::fs::read_to_string(&entry).unwrap(), text);
        std::fs::remove_file(&entry).unwrap();
    }
    create(&lab, "vm-2", &[]).ok();
}

fn with_records(path: &Path, records: &[(&str, Value)]) {
    let mut db: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (name, record) in records {
        db["vms"][*name] = record.clone();
    }
    std::fs::write(path, format!("{db:#}\n")).unwrap();
}

#[test]
fn h17_one_bad_record_never_stops_work_on_the_others() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "good-1", &[]).ok();
    let path = lab.path("var/vms.json");
    let good = |vmid: u32, octet: u8| {
        json!({"vm_name": "x", "vmid": vmid, "ip_address": format!("192.168.122.{octet}"), "ipv6_address": null,
            "status": "active", "expires_at": "2036-01-01T00:00:00+00:00", "created_at": "2026-01-01T00:00:00+00:00"})
    };
    let with = |mut record: Value, key: &str, value: Value| {
        record[key] = value;
        record
    };
    // Those that `list` cannot show, and those of which only some field is bad.
    let unusable: Vec<(&str, Value)> = vec![
        ("bad-number", 5.into()),
        ("bad-list", json!([1, "a"])),
        ("bad-text", "x".into()),
        ("bad-null", Value::Null),
        ("bad-empty", json!({})),
        ("bad-status", with(good(102, 203), "status", "paused".into())),
        ("bad-status-type", with(good(301, 221), "status", 1.into())),
    ];
    let partly: Vec<(&str, Value)> = vec![
        ("bad-vmid", with(good(302, 222), "vmid", "302".into())),
        ("bad-vmid-2", with(good(303, 223), "vmid", 1e30.into())),
        ("bad-uuid", with(good(101, 201), "smbios_uuid", "not-one".into())),
        ("bad-vmid-3", with(good(304, 202), "vmid", "304".into())),
    ];
    let usable: Vec<(&str, Value)> = vec![
        ("no-expiry", with(good(305, 225), "expires_at", Value::Null)),
        ("no-zone", with(good(306, 226), "expires_at", "2026-01-01T00:00:00".into())),
        ("odd-address", with(good(307, 227), "ip_address", 7.into())),
    ];
    with_records(&path, &unusable);
    with_records(&path, &partly);
    with_records(&path, &usable);
    let before = database(&lab);

    let list = vm(&lab, "list", &["--format", "json"]).ends(0);
    let names: Vec<Value> = serde_json::from_str::<Vec<Value>>(&list.out).unwrap();
    let names: Vec<&str> = names.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let expected: Vec<&str> =
        ["good-1"].into_iter().chain(partly.iter().chain(&usable).map(|(n, _)| *n)).collect();
    assert_eq!(names, expected);
    for (name, _) in &unusable {
        assert!(list.err.contains(&format!("record \"{name}\"")), "{name}: {list:?}");
        for verb in ["start", "stop", "kill", "destroy"] {
            let ended = vm(&lab, verb, &[name]);
            ended.fails_in_one_line(&["vms.json", &format!("record \"{name}\"")]);
        }
        let status = vm(&lab, "status", &[name]).ok();
        assert_eq!(status.out, "unknown\n");
        assert!(status.err.contains("vms.json") && status.err.contains(name), "{status:?}");
    }
    for (name, _) in &partly {
        vm(&lab, "stop", &[name]).fails_in_one_line(&["vms.json", &format!("record \"{name}\"")]);
    }

    vm(&lab, "kill", &["good-1"]).ok();
    vm(&lab, "start", &["good-1"]).ok();
    let made = create(&lab, "good-2", &[]).ok();
    for (name, _) in unusable.iter().chain(partly.iter().filter(|(name, _)| name.contains("vmid"))) {
        assert!(made.err.contains(&format!("record \"{name}\"")), "{name}: {made:?}");
    }
    // What a bad record holds is still held: its VMID and address go to nobody else.
    let result = made.result();
    assert_eq!((&result["vmid"], &result["ip"]), (&103.into(), &"192.168.122.204".into()));
    vm(&lab, "destroy", &["good-1"]).ok();
    let after = database(&lab);
    for (name, _) in unusable.iter().chain(&partly).chain(&usable) {
        assert_eq!(after["vms"][*name].to_string(), before["vms"][*name].to_string(), "{name}");
    }
    assert_eq!(after["vms"]["good-1"]["status"], "destroyed");
    assert!(list.err.lines().all(|line| line.starts_with("warning: ")), "{list:?}");
}

#[test]
fn a_database_of_the_first_days_without_ipv6_list_is_read_and_grows_one() {
    let lab = with_key(Lab::builder().start().unwrap());
    let old = json!({"vms": {"web-0": {"vm_name": "web-0", "vmid": 100, "ip_address": "192.168.122.200",
        "expires_at": "2036-01-01T00:00:00+00:00", "owner": "admin", "status": "active",
        "created_at": "2026-01-01T00:00:00+00:00"}}, "next_vmid": 101, "allocated_ips": ["192.168.122.200"]});
    std::fs::write(lab.path("var/vms.json"), format!("{old:#}")).unwrap();
    let result = create(&lab, "web-1", &[]).result();
    assert_eq!(
        (&result["vmid"], &result["ip"], &result["ipv6"]),
        (&101.into(), &"192.168.122.201".into(), &"2a11:6c7:f04:276::2".into())
    );
    let db = database(&lab);
    assert_eq!(db["vms"]["web-0"], old["vms"]["web-0"]);
    assert_eq!(db["allocated_ipv6"], json!(["2a11:6c7:f04:276::2"]));
    let keys: Vec<&String> = db.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["vms", "next_vmid", "allocated_ips", "allocated_ipv6"]);
    // The file ended without a newline, and still does.
    assert!(std::fs::read_to_string(lab.path("var/vms.json")).unwrap().ends_with('}'));
}
