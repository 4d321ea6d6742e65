//! resume: keeps what was paid, refuses tombstones, and takes an error for an error.

use crate::support::{
    Report, Site, Vm, days_from_now, due, everything, expired, in_grace, paid, read, run, write,
};
use chrono::{DateTime, TimeDelta, Utc};
use lab::model::{FaultAction, Power};
use serde_json::json;

/// Days from now until a VM's time is over, rounded.
fn days_left(site: &Site, name: &str) -> i64 {
    let end: DateTime<Utc> = site.record(name)["expires_at"].as_str().unwrap().parse().unwrap();
    let hours = (end - Utc::now() + TimeDelta::minutes(30)).num_hours();
    (hours + 12).div_euclid(24)
}

#[test]
fn h12_what_was_paid_is_kept() {
    let site = Site::with(&[
        in_grace("paid-year", 100),
        in_grace("unpaid", 101),
        in_grace("flag", 102),
        paid("other", 110),
    ]);
    let end = site.renew("paid-year", 400);
    site.resume(&["paid-year"]).ok().says_in_one_line(&["VM paid-year is active again", "expires at", &end]);
    assert_eq!(site.record("paid-year")["expires_at"], end, "the paid year was cut");
    site.resume(&["unpaid"]).ok();
    assert_eq!(days_left(&site, "unpaid"), 30);
    site.renew("flag", 400);
    site.resume(&["flag", "--extend-days", "5"]).ok();
    assert_eq!(days_left(&site, "flag"), 5);
    for (name, vmid) in [("paid-year", 100), ("unpaid", 101), ("flag", 102)] {
        site.is_active(name, vmid);
        assert_eq!(site.record(name)["beacon_name"], "keep me");
    }
    let node = site.lab.control().snapshot().unwrap();
    assert_eq!((node.routes.len(), node.ports.values().filter(|port| port.isolated).count()), (3, 3));
}

#[test]
fn h12_an_active_vm_is_not_extended_for_nothing() {
    let site =
        Site::with(&[paid("web-1", 100), Vm { running: false, ..paid("web-2", 101) }, expired("web-3", 102)]);
    let ends = ["web-1", "web-2", "web-3"].map(|name| site.record(name)["expires_at"].clone());
    site.resume(&["web-1"]).ok().says_in_one_line(&["VM web-1 is already active"]);
    site.resume(&["web-2"]).ok().says_in_one_line(&["VM web-2 was off and is running again"]);
    site.resume(&["web-3"]).ok().says_in_one_line(&["VM web-3 is already active"]);
    assert_eq!(ends, ["web-1", "web-2", "web-3"].map(|name| site.record(name)["expires_at"].clone()));
    site.is_active("web-2", 101);
    // The flag counts in each case.
    for name in ["web-1", "web-2", "web-3"] {
        site.resume(&[name, "--extend-days", "60"]).ok();
        assert_eq!(days_left(&site, name), 60, "{name}");
    }
    // A paused one goes on.
    site.lab.control().power(100, Power::Paused).unwrap();
    site.resume(&["web-1"]).ok();
    site.is_active("web-1", 100);
}

#[test]
fn h12_the_default_is_that_of_db_yaml_and_a_renewal_during_the_start_is_kept() {
    let site = Site::with(&[in_grace("web-1", 100), in_grace("web-2", 101)]);
    let yaml = site.path("etc/blockhost/db.yaml");
    write(&yaml, &read(&yaml).replace("default_expiry_days: 30", "default_expiry_days: 3"));
    site.resume(&["web-1"]).ok();
    assert_eq!(days_left(&site, "web-1"), 3);
    let running = site.held_at("resume.running", 400, site.verb("resume", &["web-2"]));
    let end = site.renew("web-2", 90);
    running.wait().ok();
    site.is_active("web-2", 101);
    assert_eq!(site.record("web-2")["expires_at"], end);
}

#[test]
fn h42_a_dry_resume_touches_nothing() {
    let site = Site::with(&[in_grace("web-1", 100), paid("web-2", 101)]);
    let before = everything(&site);
    let calls = site.lab.control().last_call().unwrap();
    site.resume(&["web-1", "--dry-run"])
        .ok()
        .says_in_one_line(&["VM web-1 would be started", "expires at"])
        .prints("");
    site.resume(&["web-2", "--dry-run", "--extend-days", "3"]).ok().says_in_one_line(&["VM web-2 is active"]);
    assert!(everything(&site) == before);
    assert_eq!(site.lab.control().last_call().unwrap(), calls);
}

#[test]
fn h12_what_moves_the_end_says_from_where_and_warns_when_it_takes_time_away() {
    let site = Site::with(&[paid("web-1", 100), in_grace("over", 101)]);
    let said = site.resume(&["web-1", "--extend-days", "90"]).ok();
    assert!(said.err.contains("in 90 days; before: ") && !said.err.contains("EARLIER"), "{said:#?}");
    let before = site.record("web-1")["expires_at"].as_str().unwrap().to_string();
    // Two days from now are 88 days less.
    let dry = site.resume(&["web-1", "--extend-days", "2", "--dry-run"]).ok();
    assert!(dry.err.contains("would move EARLIER") && days_left(&site, "web-1") == 90, "{dry:#?}");
    let said = site.resume(&["web-1", "--extend-days", "2"]).ok();
    said.says_in_one_line(&[
        "warning: VM web-1: the expiry moved EARLIER",
        &before,
        "88 days less",
        "--add-days",
    ]);
    assert_eq!(days_left(&site, "web-1"), 2);
    // More is more, and what is over begins now.
    site.resume(&["web-1", "--add-days", "88"]).ok();
    assert_eq!(days_left(&site, "web-1"), 90);
    site.resume(&["over", "--add-days", "10"]).ok();
    assert_eq!(days_left(&site, "over"), 10);
    // To a moment, in any form that leaves no doubt.
    let day = (Utc::now() + TimeDelta::days(200)).format("%Y-%m-%d").to_string();
    site.resume(&["web-1", "--until", &day]).ok();
    assert_eq!(site.record("web-1")["expires_at"], format!("{day}T00:00:00.000000+00:00"));
    site.resume(&["web-1", "--until", &format!("{day}T12:00:00+02:00")]).ok();
    assert_eq!(site.record("web-1")["expires_at"], format!("{day}T10:00:00.000000+00:00"));
    let said = site.resume(&["web-1"]).ok();
    assert!(said.err.contains("unchanged") && !said.err.contains("EARLIER"), "{said:#?}");
}

#[test]
fn h12_no_end_is_written_that_nobody_can_read() {
    let site = Site::with(&[paid("far", 100), paid("damaged", 101)]);
    site.write_as_another(|all| {
        all["vms"]["far"]["expires_at"] = json!("9990-01-01T00:00:00.000000+00:00");
        all["vms"]["damaged"]["expires_at"] = json!("soon");
    });
    let before = (site.record("far"), site.record("damaged"));
    site.resume(&["far", "--add-days", "36500"]).fails_in_part(&["VM far", "beyond the year 9999"]);
    site.resume(&["far", "--add-days", "36500", "--dry-run"])
        .fails_in_part(&["VM far", "beyond the year 9999"]);
    // Counted from now, a day more could be years less.
    site.resume(&["damaged", "--add-days", "1"]).fails_in_part(&[
        "VM damaged",
        "no readable expires_at",
        "--until",
    ]);
    assert_eq!((site.record("far"), site.record("damaged")), before);
    site.resume(&["damaged", "--until", "2090-01-01"]).ok().says_in_one_line(&["before: unknown"]);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let site = Site::with(&[in_grace("web-1", 100)]);
    for arguments in [
        &[][..],
        &["web-1", "--extend-days", "-1"],
        &["web-1", "--extend-days", "0"],
        &["web-1", "--extend-days", "x"],
        &["web-1", "--add-days", "0"],
        &["web-1", "--until", "2020-01-01"],
        &["web-1", "--until", "tomorrow"],
        &["web-1", "--until", "+12026-01-01"],
        // A time without its zone could be days away from what was meant.
        &["web-1", "--until", "2099-01-01T00:00:00"],
        &["web-1", "--until", "2099-01-01", "--add-days", "1"],
        &["web-1", "--extend-days", "1", "--add-days", "1"],
        &["../x"],
    ] {
        assert_eq!(site.resume(arguments).code, Some(2), "{arguments:?}");
    }
    assert_eq!(site.status("web-1"), "suspended");
    site.resume(&["nobody"]).fails_in_part(&["VM nobody is unknown"]);
}

#[test]
fn h41_a_tombstone_is_not_resumed() {
    let site = Site::with(&[due("web-1", 100), paid("web-2", 102)]);
    site.gc(&["--execute"]).ok();
    site.is_destroyed("web-1", 100);
    // Its VMID belongs to somebody else by now.
    site.lab
        .control()
        .add_guest(lab::model::NewGuest {
            vmid: 100,
            name: "web-1".into(),
            ..lab::model::NewGuest::default()
        })
        .unwrap();
    let before = everything(&site);
    for arguments in [&["web-1"][..], &["web-1", "--extend-days", "30"], &["web-1", "--dry-run"]] {
        site.resume(arguments).fails_in_part(&["VM web-1 was destroyed", "100"]);
    }
    assert!(everything(&site) == before);
}

#[test]
fn h49_no_error_becomes_destroyed_and_resume_can_be_run_again() {
    let site = Site::with(&[in_grace("web-1", 100)]);
    let record = site.record("web-1");
    let control = site.lab.control();
    let no_vm = "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist";
    for (point, fault, word) in [
        ("agent.vm-state", FaultAction::error("pmxcfs hangs"), "pmxcfs hangs"),
        ("agent.vm-state", FaultAction::Garbage, "not JSON"),
        ("agent.vm-state", FaultAction::Huge, "10 MiB"),
        ("agent.vm-state", FaultAction::Kill, "closed the connection"),
        ("agent.vm-state", FaultAction::error(no_vm), "does not exist"),
        (
            "agent.qm-start",
            FaultAction::error("unable to find configuration file for VM 100"),
            "configuration file",
        ),
        ("agent.qm-start", FaultAction::error("no space"), "no space"),
        ("qm.start", FaultAction::error("start failed: QEMU exited with code 1"), "QEMU exited"),
    ] {
        control.fault(point, fault, 99).unwrap();
        site.resume(&["web-1"]).fails_in_part(&["VM web-1", word]);
        assert_eq!(site.record("web-1"), record, "{point}");
        control.clear_faults().unwrap();
    }
    // What the API says decides nothing.
    for code in [403, 404, 500, 595] {
        let fault = FaultAction::Error { message: no_vm.into(), code: Some(code) };
        control.fault("api.* *", fault, 99).unwrap();
        site.resume(&["web-1"]).ok();
        control.clear_faults().unwrap();
        site.is_active("web-1", 100);
    }
    site.write_as_another(|all| all["vms"]["web-1"] = record.clone());
    control.mount_etc_pve(false).unwrap();
    site.resume(&["web-1"]).fails_in_part(&["VM web-1", "not mounted"]);
    control.mount_etc_pve(true).unwrap();
    control.migrate(100, "pve2").unwrap();
    site.resume(&["web-1"]).fails_in_part(&["VM web-1 (VMID 100)", "on node pve2"]);
    control.migrate(100, "pve").unwrap();
    control.stop_root_agent().unwrap();
    site.resume(&["web-1"]).fails_in_part(&["root-agent.sock", "does not exist"]);
    control.restart_root_agent(0).unwrap();
    assert_eq!(site.record("web-1"), record);
    site.resume(&["web-1"]).ok();
    site.is_active("web-1", 100);
}

#[test]
fn h49_a_machine_that_is_gone_is_said_and_its_record_stays() {
    let site = Site::with(&[in_grace("web-1", 100)]);
    let record = site.record("web-1");
    site.lab.control().remove_guest(100).unwrap();
    site.resume(&["web-1"]).fails_in_part(&["VM web-1 (VMID 100)", "the VM no longer exists on the node"]);
    assert_eq!(site.record("web-1"), record);
}

#[test]
fn h02_resume_starts_no_stranger() {
    let site = Site::with(&[in_grace("web-1", 100)]);
    site.lab.control().set(100, "smbios1", "uuid=99999999-0000-4000-8000-000000000000").unwrap();
    let (guest, record) = (site.guest(100), site.record("web-1"));
    site.resume(&["web-1"]).fails_in_part(&["VM web-1 (VMID 100)", "now belongs to another guest"]);
    assert_eq!((site.guest(100), site.record("web-1")), (guest, record));
}

#[test]
fn h36_what_could_not_be_set_on_the_host_is_a_warning() {
    let site = Site::with(&[in_grace("web-1", 100)]);
    let control = site.lab.control();
    for (point, times) in [("ip.route", 1_000), ("bridge.link", 1_000), ("agent.qm-set", 1)] {
        control.fault(point, FaultAction::error("not now"), times).unwrap();
    }
    site.resume(&["web-1"])
        .ok()
        .says_in_one_line(&["warning: VM web-1", "host route"])
        .says_in_one_line(&["warning: VM web-1", "isolate port"])
        .says_in_one_line(&["warning: VM web-1", "not start with the node"]);
    assert_eq!(site.status("web-1"), "active");
    assert!(site.runs(100) && !site.guest(100).onboot);
    // As it says: run again.
    control.clear_faults().unwrap();
    site.resume(&["web-1"]).ok();
    site.is_active("web-1", 100);
}

#[test]
fn a_record_with_an_odd_time_can_be_resumed() {
    for odd in [json!(null), json!("soon"), json!("2020-01-01T00:00:00")] {
        let site = Site::with(&[in_grace("web-1", 100).with("expires_at", odd)]);
        site.resume(&["web-1"]).ok();
        site.is_active("web-1", 100);
        assert_eq!(days_left(&site, "web-1"), 30);
    }
    // Other programs' forms of a time.
    let site = Site::with(&[in_grace("web-1", 100)]);
    let end = days_from_now(300).replace("+00:00", "Z");
    site.write_as_another(|all| all["vms"]["web-1"]["expires_at"] = end.clone().into());
    site.resume(&["web-1"]).ok();
    assert_eq!(site.record("web-1")["expires_at"], end);
}

#[test]
fn start_of_a_suspended_vm_depends_on_what_is_paid() {
    let site = Site::with(&[in_grace("web-1", 100), in_grace("web-2", 101)]);
    let start = |arguments: &[&str]| run(site.verb("start", arguments));
    start(&["web-1"]).fails_in_part(&["suspended and expired", "blockhost-vm-resume web-1"]);
    assert!(!site.runs(100));
    start(&["web-1", "--force"]).ok();
    assert!(site.runs(100));
    assert_eq!(site.status("web-1"), "suspended");
    let end = site.renew("web-2", 30);
    start(&["web-2"]).ok().says_in_one_line(&["is active again"]);
    site.is_active("web-2", 101);
    assert_eq!(site.record("web-2")["expires_at"], end);
}
