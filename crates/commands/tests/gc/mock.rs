//! `--mock`: the database is the node, and nothing real is touched.

use crate::support::{Report, Site, WALLET, due, everything, expired, in_grace, paid, read, run, write};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A site with real VMs that are due, and a mock database with others.
fn site() -> (Site, PathBuf) {
    let site = Site::with(&[expired("real-over", 100), due("real-due", 101), paid("real-paid", 102)]);
    let mock = site.lab.dir().join("mock/mock-db.json");
    std::fs::create_dir_all(mock.parent().unwrap()).unwrap();
    let vms = [expired("over", 110), due("due", 111), in_grace("in-grace", 112), paid("paid", 113)];
    let real = site.database();
    site.place(&vms);
    std::fs::copy(site.path("var/vms.json"), &mock).unwrap();
    let mut all: Value = serde_json::from_str(&read(&mock)).unwrap();
    all["vms"].as_object_mut().unwrap().retain(|name, _| !name.starts_with("real-"));
    write(&mock, &format!("{all:#}"));
    for vmid in 110..114 {
        site.lab.control().remove_guest(vmid).unwrap();
    }
    write(&site.path("var/vms.json"), &format!("{real:#}"));
    (site, mock)
}

#[test]
fn h42_mock_touches_nothing_real() {
    let (site, mock) = site();
    let gc = |arguments: &[&str]| {
        let mut command = site.verb("gc", arguments);
        command.env("BLOCKHOST_MOCK_DB", &mock);
        run(command)
    };
    let (before, mock_before) = (everything(&site), read(&mock));
    let calls = site.lab.control().last_call().unwrap();
    gc(&["--mock"]).ok().prints(
        "Suspend: 1 candidate\nDestroy: 1 candidate\n  over  would be suspended\n  due  would be destroyed\n",
    );
    assert_eq!(read(&mock), mock_before);
    gc(&["--mock", "--execute"]).ok().prints(
        "Suspend: 1 candidate\nDestroy: 1 candidate\n  over  suspended\n  due  destroyed\nDone: 1 suspended, 1 destroyed, 0 failed\n",
    );
    assert!(everything(&site) == before, "--mock touched something real");
    assert_eq!(site.lab.control().last_call().unwrap(), calls);
    let all: Value = serde_json::from_str(&read(&mock)).unwrap();
    let status = |name: &str| all["vms"][name]["status"].as_str().unwrap().to_owned();
    assert_eq!(
        ["over", "due", "in-grace", "paid"].map(status),
        ["suspended", "destroyed", "suspended", "active"]
    );
    assert!(all["vms"]["over"]["suspended_at"].is_string() && all["vms"]["due"]["destroyed_at"].is_string());
    assert!(!all["allocated_ips"].as_array().unwrap().contains(&all["vms"]["due"]["ip_address"]));
    // resume, there too.
    let resume = |name: &str, more: &[&str]| {
        let mut command = site.verb("resume", &[&[name, "--mock"], more].concat());
        command.env("BLOCKHOST_MOCK_DB", &mock);
        run(command)
    };
    let text = read(&mock);
    resume("over", &["--dry-run"]).ok().says_in_one_line(&["would be started"]);
    assert_eq!(read(&mock), text);
    resume("over", &[]).ok().says_in_one_line(&["VM over is active again"]);
    resume("due", &[]).fails_in_part(&["VM due was destroyed"]);
    let all: Value = serde_json::from_str(&read(&mock)).unwrap();
    assert_eq!(all["vms"]["over"]["status"], "active");
    assert!(all["vms"]["over"].get("suspended_at").is_none());
    assert!(everything(&site) == before);
}

#[test]
fn h42_a_mock_run_tidies_up_after_nobody_and_leaves_no_trail() {
    // What a real run would finish: a create and a destroy that died.
    let (site, mock) = site();
    site.made("gone");
    for (verb, arguments, point) in [
        ("create", &["half", "--owner-wallet", WALLET, "--apply"][..], "create.applied"),
        ("destroy", &["gone"][..], "destroy.gone"),
    ] {
        let mut command = site.verb(verb, arguments);
        command.env("BLOCKHOST_FAULT", format!("kill@{point}"));
        run(command).was_killed();
    }
    let trail = site.path("var/audit");
    let _ = std::fs::remove_dir_all(&trail);
    let before = everything(&site);
    let calls = site.lab.control().last_call().unwrap();
    let mut command = site.verb("gc", &["--mock", "--execute"]);
    command.env("BLOCKHOST_MOCK_DB", &mock);
    run(command).ok();
    assert!(everything(&site) == before, "--mock touched something real");
    assert_eq!(site.lab.control().last_call().unwrap(), calls);
    assert!(!trail.exists(), "nothing real was changed, so there is nothing to tell");
    site.gc(&["--execute"]).ok().says_in_one_line(&["VM gone", "completed an interrupted destroy"]);
    assert!(!site.path("var/journal/half.json").exists());
}

#[test]
fn h11_the_share_brakes_a_mock_run_too_and_its_protected_records_stay() {
    let (site, mock) = site();
    let mut all: Value = serde_json::from_str(&read(&mock)).unwrap();
    for n in 0..5 {
        all["vms"][format!("due-{n}")] = all["vms"]["due"].clone();
    }
    all["vms"]["due-4"]["protected"] = json!(true);
    write(&mock, &all.to_string());
    let gc = |more: &[&str]| {
        let mut command = site.verb("gc", &[&["--mock", "--execute"], more].concat());
        command.env("BLOCKHOST_MOCK_DB", &mock);
        run(command)
    };
    gc(&[]).fails_in_part(&["no VM was destroyed", "5 of 9", "--accept-share"]);
    gc(&["--accept-share"]).ok();
    let all: Value = serde_json::from_str(&read(&mock)).unwrap();
    assert_eq!(
        (&all["vms"]["due-0"]["status"], &all["vms"]["due-4"]["status"]),
        (&json!("destroyed"), &json!("suspended"))
    );
}
