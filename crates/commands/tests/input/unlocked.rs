//! Two engines write the database without the lock, one of them in place (hazards H16, H17).

use crate::hammer::{mock_command, writer};
use crate::support::{WALLET, create, database, json, run, until, vm};
use lab::Lab;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const WHOLE: &str = r#"{"vms": {"a": {"vm_name": "a", "vmid": 100, "ip_address": "192.168.122.200", "status": "active", "created_at": "2026-11-23T00:00:00Z"}}, "next_vmid": 101, "allocated_ips": ["192.168.122.200"], "allocated_ipv6": []}"#;

#[test]
fn h16_a_half_written_file_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mock.json");
    for (verb, arguments) in [
        ("list", &[][..]),
        ("status", &["a"][..]),
        ("create", &["b", "--no-web3", "--apply"][..]),
        ("destroy", &["a"][..]),
    ] {
        std::fs::write(&path, &WHOLE[..WHOLE.len() / 2]).unwrap();
        let command = mock_command(dir.path(), verb)
            .args(arguments)
            .arg("--mock")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Not to be in step with it: the slow writer itself.
        std::thread::sleep(Duration::from_millis(300));
        std::fs::write(&path, WHOLE).unwrap();
        let output = command.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("corrupt"), "{verb}: {stderr}");
        match verb {
            "list" => assert!(String::from_utf8_lossy(&output.stdout).contains("a\tactive\t")),
            "status" => assert_eq!(output.stdout, b"active\n"),
            "create" => assert!(json(&path)["vms"]["a"].is_object() && json(&path)["vms"]["b"].is_object()),
            _ => assert_eq!(json(&path)["vms"]["a"]["status"], "destroyed"),
        }
    }
}

#[test]
fn h17_a_file_that_stays_half_is_corrupt_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mock.json");
    let half = &WHOLE[..WHOLE.len() / 2];
    std::fs::write(&path, half).unwrap();
    let began = Instant::now();
    let ended = run(mock_command(dir.path(), "create").args(["b", "--no-web3", "--apply", "--mock"]));
    assert!(began.elapsed() >= Duration::from_millis(900), "called corrupt too early");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("corrupt") && ended.err.contains("byte"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), half);
}

#[test]
fn h16_in_place_writers_beside_our_readers_and_writers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mock.json");
    std::fs::write(&path, WHOLE).unwrap();
    let mut python = writer(&path, "py", 12, &["--in-place", "40"]);
    let mut looks = 0;
    while python.try_wait().unwrap().is_none() {
        let list = run(mock_command(dir.path(), "list").args(["--mock", "--format", "json"])).ok();
        assert!(list.err.is_empty(), "{list:?}");
        assert!(list.out.contains(r#""name": "a""#), "{list:?}");
        looks += 1;
    }
    assert!(looks > 3, "{looks}");
    assert_eq!(json(&path)["vms"].as_object().unwrap().len(), 13);
}

/// A create that is killed right after the record was written.
fn killed_after_registration(lab: &Lab, name: &str) {
    let status = lab
        .command("blockhost-vm-create")
        .args([name, "--owner-wallet", WALLET, "--apply"])
        .env("BLOCKHOST_FAULT", "kill@create.registered")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9));
}

/// What an engine does that had read the file before: its old copy comes back, addresses and all.
fn written_over(path: &Path, old: &str) {
    std::fs::write(path, old).unwrap();
}

#[test]
fn h16_a_record_that_an_unlocked_writer_dropped_is_put_back_from_the_journal() {
    let lab = Lab::builder().start().unwrap();
    let path = lab.path("var/vms.json");
    let old = std::fs::read_to_string(&path).unwrap();

    // By the same create, which then reports it.
    killed_after_registration(&lab, "vm-1");
    let registered = database(&lab)["vms"]["vm-1"].clone();
    assert_eq!(registered["vmid"], 100);
    written_over(&path, &old);
    let result = create(&lab, "vm-1", &[]).result();
    assert_eq!((&result["vmid"], &result["ip"]), (&100.into(), &"192.168.122.200".into()));
    assert_eq!(database(&lab)["vms"]["vm-1"], registered);
    assert_eq!(database(&lab)["allocated_ips"], serde_json::json!(["192.168.122.200"]));
    assert!(!lab.path("var/journal/vm-1.json").exists());

    // By somebody else's create, which gets other numbers although the lists were dropped too.
    let old = std::fs::read_to_string(&path).unwrap();
    killed_after_registration(&lab, "vm-2");
    written_over(&path, &old);
    let other = create(&lab, "vm-3", &[]).result();
    assert_eq!((&other["vmid"], &other["ip"]), (&102.into(), &"192.168.122.202".into()));
    assert_eq!(database(&lab)["vms"]["vm-2"]["vmid"], 101);
    assert_eq!(database(&lab)["vms"]["vm-2"]["ip_address"], "192.168.122.201");

    // By its destroy: the machine is found although its record is gone.
    written_over(&path, &old);
    vm(&lab, "destroy", &["vm-2"]).ok();
    assert_eq!(database(&lab)["vms"]["vm-2"]["status"], "destroyed");
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&101));
}

#[test]
fn h16_a_tombstone_of_the_vm_itself_is_not_revived_from_the_journal() {
    let lab = Lab::builder().start().unwrap();
    killed_after_registration(&lab, "vm-1");
    let mut whole = database(&lab);
    whole["vms"]["vm-1"]["status"] = "destroyed".into();
    std::fs::write(lab.path("var/vms.json"), whole.to_string()).unwrap();
    create(&lab, "vm-2", &[]).result();
    assert_eq!(database(&lab)["vms"]["vm-1"]["status"], "destroyed");
}

#[test]
fn h49_a_create_that_finishes_another_looks_whether_its_machine_is_there() {
    let lab = Lab::builder().start().unwrap();
    killed_after_registration(&lab, "vm-1");
    lab.control().remove_guest(100).unwrap();
    let refused = create(&lab, "vm-1", &[]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.err.contains("no such VM") && refused.err.contains("blockhost-vm-destroy vm-1"));
    vm(&lab, "destroy", &["vm-1"]).ok();
    create(&lab, "vm-1", &[]).result();
}

#[test]
fn h16_a_record_dropped_while_its_create_still_works_is_put_back_before_the_end() {
    let lab = Lab::builder().start().unwrap();
    let path = lab.path("var/vms.json");
    let old = std::fs::read_to_string(&path).unwrap();
    let trace = lab.path("trace");
    let fault = format!("trace@{} sleep@create.registered=1500", trace.display());
    let child = lab
        .command("blockhost-vm-create")
        .args(["vm-1", "--owner-wallet", WALLET, "--apply"])
        .env("BLOCKHOST_FAULT", fault)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the record is written", || {
        std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("create.registered"))
    });
    written_over(&path, &old);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let db = database(&lab);
    assert_eq!(db["vms"]["vm-1"]["status"], "active");
    assert_eq!(db["allocated_ips"], serde_json::json!(["192.168.122.200"]));
    assert_eq!(db["allocated_ipv6"], serde_json::json!(["2a11:6c7:f04:276::2"]));
}
