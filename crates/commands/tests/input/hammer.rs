//! Many writers of one database at once: our own processes and a Python program (hazards H13, H16).

use crate::support::{Ended, WALLET, create, database, json, run, until, vm};
use lab::Lab;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// The Python program beside our tests.
pub fn writer(database: &Path, name: &str, count: u32, more: &[&str]) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peer/writer.py");
    Command::new("python3")
        .arg(script)
        .arg(database)
        .args([name, &count.to_string()])
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the Python program says it has added; all of it must be there.
fn check_writer(child: Child, db: &Value) -> usize {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the Python writer failed");
    let added: Value = serde_json::from_slice(&output.stdout).unwrap();
    let records = added["records"].as_array().unwrap();
    for key in records {
        let record = &db["vms"][key.as_str().unwrap()];
        assert_eq!(record["beacon_name"], format!("beacon of {}", key.as_str().unwrap()));
        assert_eq!(record["owner"], "söme\u{2028}one");
        assert_eq!(record["box_id"].to_string(), r#"{"nested":[1,1180591620717411303424,null,true]}"#);
        let number: u32 = key.as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        assert_eq!(
            record["nft_token_id"].to_string(),
            (1_208_925_819_614_629_174_706_176u128 + u128::from(number)).to_string()
        );
    }
    let reserved = db["reserved_nft_tokens"].as_array().unwrap();
    for token in added["tokens"].as_array().unwrap() {
        assert!(reserved.contains(token), "{token} was lost");
    }
    for mark in added["marks"].as_array().unwrap() {
        let (name, field) = (mark[0].as_str().unwrap(), mark[1].as_str().unwrap());
        assert_eq!(db["vms"][name][field], mark[2], "{mark} was lost");
    }
    records.len()
}

/// No VMID and no address is held by two live records; the lists hold what live records hold.
pub fn check_holdings(db: &Value) {
    let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let live = db["vms"].as_object().unwrap().values().filter(|r| r["status"] != "destroyed");
    for record in live {
        lists.entry("vmid").or_default().push(record["vmid"].to_string());
        for (list, field) in [("allocated_ips", "ip_address"), ("allocated_ipv6", "ipv6_address")] {
            lists.entry(list).or_default().extend(record[field].as_str().map(str::to_string));
        }
    }
    for (what, values) in &lists {
        let different: BTreeSet<&String> = values.iter().collect();
        assert_eq!(different.len(), values.len(), "{what} held twice: {values:?}");
        if *what != "vmid" {
            let listed: BTreeSet<String> =
                db[*what].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_string()).collect();
            assert_eq!(listed, values.iter().cloned().collect(), "{what}");
            assert_eq!(listed.len(), db[*what].as_array().unwrap().len(), "{what} lists an address twice");
        }
    }
}

fn mock(lab_free: &Path, verb: &str, arguments: &[&str]) -> Ended {
    run(mock_command(lab_free, verb).args(arguments).arg("--mock"))
}

/// A command with nothing but a mock database.
pub fn mock_command(folder: &Path, verb: &str) -> Command {
    let path = PathBuf::from(match verb {
        "create" => env!("CARGO_BIN_EXE_blockhost-vm-create"),
        "destroy" => env!("CARGO_BIN_EXE_blockhost-vm-destroy"),
        "list" => env!("CARGO_BIN_EXE_blockhost-vm-list"),
        "status" => env!("CARGO_BIN_EXE_blockhost-vm-status"),
        "start" => env!("CARGO_BIN_EXE_blockhost-vm-start"),
        "stop" => env!("CARGO_BIN_EXE_blockhost-vm-stop"),
        "kill" => env!("CARGO_BIN_EXE_blockhost-vm-kill"),
        other => panic!("{other}"),
    });
    let mut command = Command::new(path);
    command.env_clear().env("BLOCKHOST_MOCK_DB", folder.join("mock.json")).current_dir(folder);
    for (variable, name) in [
        ("BLOCKHOST_CONFIG_DIR", "no-etc"),
        ("BLOCKHOST_STATE_DIR", "no-var"),
        ("BLOCKHOST_RUN_DIR", "no-run"),
        ("BLOCKHOST_SHARE_DIR", "no-share"),
    ] {
        command.env(variable, folder.join(name));
    }
    command
}

#[test]
fn h16_h13_mock_creates_destroys_and_python_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mock.json");
    let big = "340282366920938463463374607431768211456";
    let start = format!(
        r#"{{"vms": {{}}, "next_vmid": 100, "allocated_ips": [], "allocated_ipv6": [], "panel": {{"big": {big}, "é": "\u00e9"}}, "reserved_nft_tokens": [{big}]}}"#
    );
    std::fs::write(&path, start).unwrap();
    let pythons = [writer(&path, "py-a", 10, &[]), writer(&path, "py-b", 10, &[])];
    let done = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        // Readers take no lock and never see half a file, whoever writes.
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                json(&path);
                let list = mock(dir.path(), "list", &["--format", "json"]).ok();
                assert!(list.err.is_empty(), "{list:?}");
                serde_json::from_str::<Vec<Value>>(&list.out).unwrap();
                reads += 1;
            }
            reads
        });
        let creators: Vec<_> = (0..6)
            .map(|thread| {
                let folder = dir.path();
                scope.spawn(move || {
                    for number in 0..4 {
                        let name = format!("vm-{thread}-{number}");
                        let made = mock(folder, "create", &[&name, "--no-web3", "--apply"]).result();
                        assert_eq!(made["vm_name"], name);
                        if number % 2 == 1 {
                            mock(folder, "destroy", &[&name]).ok();
                        }
                    }
                })
            })
            .collect();
        creators.into_iter().for_each(|c| c.join().unwrap());
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 0);
    for python in pythons {
        // Its marks are on our records too, so all must be over before the look.
        let mut python = python;
        until("the Python writer ends", || python.try_wait().unwrap().is_some());
        assert_eq!(check_writer(python, &json(&path)), 10);
    }
    let db = json(&path);
    assert_eq!(db["panel"].to_string(), format!(r#"{{"big":{big},"é":"é"}}"#));
    assert_eq!(db["reserved_nft_tokens"][0].to_string(), big);
    let records = db["vms"].as_object().unwrap();
    assert_eq!(records.len(), 44);
    for thread in 0..6 {
        for number in 0..4 {
            let status = if number % 2 == 1 { "destroyed" } else { "active" };
            assert_eq!(records[&format!("vm-{thread}-{number}")]["status"], status);
        }
    }
    check_holdings(&db);
}

#[test]
fn h16_h13_real_creates_power_changes_destroys_and_python_at_once_lose_nothing() {
    let lab = Lab::builder().start().unwrap();
    let path = lab.path("var/vms.json");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let python = scope.spawn(|| {
            // Goes on as long as the others do: each run adds two records.
            let mut rounds = Vec::new();
            while !done.load(Ordering::Relaxed) && rounds.len() < 10 {
                let mut child = writer(&path, &format!("py-{}", rounds.len()), 2, &[]);
                until("the Python writer ends", || child.try_wait().unwrap().is_some());
                rounds.push(child);
            }
            rounds
        });
        let lab = &lab;
        let lives: Vec<_> = (0..5)
            .map(|number| {
                scope.spawn(move || {
                    let name = format!("vm-{number}");
                    let made = create(lab, &name, &[]).result();
                    vm(lab, "kill", &[&name]).ok();
                    vm(lab, "start", &[&name]).ok();
                    if number % 2 == 1 {
                        vm(lab, "destroy", &[&name]).ok();
                    }
                    made["vmid"].as_u64().unwrap()
                })
            })
            .collect();
        let vmids: Vec<u64> = lives.into_iter().map(|l| l.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        let rounds = python.join().unwrap();
        let db = database(lab);
        let added: usize = rounds.into_iter().map(|child| check_writer(child, &db)).sum();
        assert_eq!(db["vms"].as_object().unwrap().len(), 5 + added);
        check_holdings(&db);
        let guests = lab.control().snapshot().unwrap().guests;
        for (number, vmid) in vmids.iter().enumerate() {
            let name = format!("vm-{number}");
            assert_eq!(db["vms"][&name]["vmid"], *vmid);
            let there = guests.get(&u32::try_from(*vmid).unwrap());
            if number % 2 == 1 {
                assert_eq!(db["vms"][&name]["status"], "destroyed");
                assert!(there.is_none_or(|g| g.name != name));
            } else {
                assert_eq!(there.unwrap().name, name);
                assert_eq!(Some(there.unwrap().uuid.as_str()), db["vms"][&name]["smbios_uuid"].as_str());
            }
        }
        assert_eq!(guests.len(), 1 + 3, "the template and three VMs");
    });
}

#[test]
fn h16_values_of_others_keep_their_exact_text_and_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mock.json");
    let odd = r#"{
  "zeta": {"e": 1E+2, "f": 3.10, "n": -0.0, "b": 123456789012345678901234567890, "t": "\u00e9\/\ud83d\ude00"},
  "vms": {
    "old": {
      "zz": [1.50, {"k": null}],
      "status": "active",
      "vmid": 150,
      "nft_token_id": 99999999999999999999999999999999,
      "ip_address": "192.168.122.200"
    }
  },
  "allocated_ips": ["192.168.122.200"],
  "next_vmid": 100,
  "allocated_ipv6": [],
  "reserved_nft_tokens": [18446744073709551616, 1.0]
}
"#;
    std::fs::write(&path, odd).unwrap();
    let arguments = ["new-1", "--owner-wallet", WALLET, "--apply", "--owner", "Zoë 😀"];
    mock(dir.path(), "create", &arguments).ok();
    mock(dir.path(), "destroy", &["old"]).ok();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.is_ascii() && text.ends_with("}\n"), "{text}");
    for exact in [
        r#"  "zeta": {"e": 1E+2, "f": 3.10, "n": -0.0, "b": 123456789012345678901234567890, "t": "\u00e9\/\ud83d\ude00"},"#,
        r#"      "zz": [1.50, {"k": null}],"#,
        r#"      "nft_token_id": 99999999999999999999999999999999,"#,
        r#"  "reserved_nft_tokens": [18446744073709551616, 1.0]"#,
        r#"      "owner": "Zo\u00eb \ud83d\ude00","#,
    ] {
        assert!(text.contains(exact), "{exact} is missing in {text}");
    }
    let db = json(&path);
    let keys: Vec<&String> = db.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["zeta", "vms", "allocated_ips", "next_vmid", "allocated_ipv6", "reserved_nft_tokens"]);
    let fields: Vec<&String> = db["vms"]["old"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["zz", "status", "vmid", "nft_token_id", "ip_address", "destroyed_at"]);
    assert_eq!(db["vms"]["old"]["status"], "destroyed");
    assert_eq!(db["allocated_ips"], json!(["192.168.122.201"]));
}
