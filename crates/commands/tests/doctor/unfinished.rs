//! Operations that died or are under way, and their notes.

use crate::forms::root;
use crate::support::*;
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn h05_h07_h09_operations_that_died_are_named_with_all_they_left() {
    let lab = empty();
    create(&lab, "web-1", "kill@create.ready").was_killed();
    let settled = || lab.control().snapshot().unwrap().tasks_running.is_empty();
    until("tasks end", settled);
    let found = findings(&lab);
    assert_eq!(codes_of(&found), ["create-unfinished", "queue-stale"], "{found:#?}");
    let create_finding = found.iter().find(|one| one["code"] == "create-unfinished").unwrap();
    let left: Vec<&str> =
        create_finding["left"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    for thing in ["journal web-1", "vm 100", "snippet blockhost-web-1-user.yaml", "address 192.168.122.200"] {
        assert!(left.contains(&thing), "{thing}: {left:?}");
    }
    assert!(create_finding["what"].as_str().unwrap().contains("died at step"), "{create_finding}");
    vm(&lab, "destroy", &["web-1"]).ok();
    assert_eq!(codes(&lab), ["vmid-withheld"], "H57: its VMID is watched");
    std::fs::remove_dir_all(lab.path("var/withheld")).unwrap();

    create(&lab, "web-1", "kill@create.connected").was_killed();
    assert_eq!(codes(&lab), ["create-unreported", "queue-stale"]);
    create(&lab, "web-1", "").ok();
    assert_eq!(codes(&lab), [""; 0]);
    let mut destroy = command(&lab, "blockhost-vm-destroy", &["web-1"]);
    run(destroy.env("BLOCKHOST_FAULT", "kill@destroy.gone")).was_killed();
    assert_eq!(codes(&lab), ["destroy-unfinished"]);
    vm(&lab, "destroy", &["web-1"]).ok();
    assert_eq!(codes(&lab), [""; 0]);
    SEEN.lock().unwrap().extend(
        ["create-unfinished", "queue-stale", "vmid-withheld", "create-unreported", "destroy-unfinished"]
            .map(str::to_string),
    );
}

#[test]
fn h19_a_vm_that_somebody_works_on_is_not_judged() {
    let lab = healthy();
    let lock = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(lab.path("var/journal/web-1.lock"))
        .unwrap();
    lock.lock().unwrap();
    lab.control().power(100, lab::model::Power::Stopped).unwrap();
    assert_eq!(codes(&lab), [""; 0]);
    drop(lock);
    assert_eq!(codes(&lab), ["vm-off"]);
    vm(&lab, "start", &["web-1"]).ok();
    // A create that waits for its guest.
    lab.control().timing(|timing| timing.boot = 60_000).unwrap();
    let mut create = command(&lab, "blockhost-vm-create", &["web-2", "--owner-wallet", WALLET, "--apply"]);
    let running = test_support::start(&mut create);
    until("it has begun", || lab.path("var/journal/web-2.json").exists());
    // A file that the create is just writing is there for a moment.
    until("doctor finds the create alone", || codes(&lab) == ["operation-running"]);
    running.signal(rustix::process::Signal::TERM);
    running.wait();
    SEEN.lock().unwrap().insert("operation-running".into());
}

/// What a person and the admin page want to know first when a customer waits.
#[test]
fn h18_creates_that_run_and_wait_are_told() {
    let lab = empty();
    let settings = lab.path("etc/blockhost/db.yaml");
    write(&settings, &(read(&settings) + "\nmax_parallel_creates: 1\n"));
    lab.control().timing(|timing| timing.boot = 60_000).unwrap();
    let creates = |names: &[&str]| examined(&lab, names, "")["creates"].clone();
    assert_eq!(creates(&[]), json!([]));
    let started = ["web-1", "web-2", "web-3"].map(|name| {
        let arguments = [name, "--owner-wallet", WALLET, "--apply"];
        let running = test_support::start(&mut command(&lab, "blockhost-vm-create", &arguments));
        until("it has its place", || creates(&[]).to_string().contains(name));
        running
    });
    let all = creates(&[]);
    let told: Vec<(&str, &str)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["vm"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("web-1", "running"), ("web-2", "waiting"), ("web-3", "waiting")]);
    let schema: Value =
        serde_json::from_str(&read(&root().join("facts").join("schema").join("doctor.json"))).unwrap();
    assert_eq!(test_support::schema::violations(&schema, &examined(&lab, &[], "")), [""; 0]);
    let since: chrono::DateTime<chrono::Utc> = all[0]["since"].as_str().unwrap().parse().unwrap();
    assert!((chrono::Utc::now() - since).num_seconds().abs() < 120, "{all}");
    assert!(all[0]["pid"].as_u64().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()), "{all}");
    let text = run(&mut command(&lab, DOCTOR, &[])).out;
    assert!(text.contains("\ncreates running: web-1\ncreates waiting: web-2, web-3\n"), "{text}");
    until("its journal is there", || lab.path("var/journal/web-1.json").exists());
    assert_eq!(creates(&["web-1"]).as_array().unwrap().len(), 1);
    // One that dies gives its place up, and is none any more.
    let [first, second, third] = started;
    second.signal(rustix::process::Signal::KILL);
    second.wait();
    let names = || creates(&[]).as_array().unwrap().iter().map(|one| one["vm"].clone()).collect::<Vec<_>>();
    assert_eq!(names(), ["web-1", "web-3"]);
    for running in [third, first] {
        running.signal(rustix::process::Signal::TERM);
        running.wait();
    }
    assert_eq!(creates(&[]), json!([]));
}

#[test]
fn h14_h17_h63_notes_and_half_written_files_are_judged() {
    let lab = healthy();
    let var = lab.path("var");
    file_case(&lab, &["journal-unreadable"], &var.join("journal/web-9.json"), |path| {
        write(path, "{");
        private(path);
    });
    let withheld = var.join("withheld");
    std::fs::create_dir(&withheld).unwrap();
    file_case(&lab, &["withheld-unreadable"], &withheld.join("300.json"), |path| {
        write(path, "nonsense");
        private(path);
    });
    let late = json!({"vmid": 301, "reason": "a create was killed", "since": chrono_now(), "late":
        {"name": "late-1", "smbios_uuid": "33333333-2222-4333-8444-555555555555"}});
    file_case(&lab, &["vmid-withheld"], &withheld.join("301.json"), |path| {
        write(path, &late.to_string());
        private(path);
    });
    write(&withheld.join("301.json"), &late.to_string());
    private(&withheld.join("301.json"));
    let uuid = "33333333-2222-4333-8444-555555555555";
    let config =
        [("description", format!("BlockHost VM late-1 {uuid}")), ("smbios1", format!("uuid={uuid}"))];
    let config = config.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    let guest = lab::model::NewGuest { vmid: 301, name: "late-1".into(), config, ..Default::default() };
    lab.control().add_guest(guest).unwrap();
    assert_eq!(codes(&lab), ["clone-arrived-late", "vmid-withheld"], "H57");
    SEEN.lock().unwrap().insert("clone-arrived-late".into());
    lab.control().remove_guest(301).unwrap();
    std::fs::remove_dir_all(&withheld).unwrap();

    for folder in ["journal", "terraform/vms/web-1", "."] {
        let path = var.join(folder).join(".blockhost-abc123.tmp");
        let found = file_case(&lab, &["temporary-file"], &path, |path| {
            write(path, "half");
            private(path);
        });
        assert!(found[0]["left"][0].as_str().unwrap().ends_with(".blockhost-abc123.tmp"), "{found:?}");
    }
    file_case(&lab, &["gc-interrupted"], &var.join("gc-under-way.json"), |path| {
        write(path, "{\"suspending\": [\"web-1\"]}");
        private(path);
    });
    file_case(&lab, &["gc-note-unreadable"], &var.join("gc-under-way.json"), |path| {
        write(path, "{}");
        private(path);
    });
}

fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o640)).unwrap();
}

fn chrono_now() -> String {
    let now = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    String::from_utf8(now.stdout).unwrap().trim().to_string()
}
