//! What gc says: counts on stdout byte for byte, flags, exit codes; and that a dry run is dry.

use crate::support::{Report, Site, Vm, due, everything, expired, in_grace, paid, run, write};
use chrono::Utc;
use lab::model::FaultAction;
use serde_json::json;

fn house() -> Vec<Vm> {
    vec![
        paid("paid-1", 100),
        expired("over-1", 101),
        expired("over-2", 102),
        Vm { running: false, ..expired("over-and-off", 103) },
        in_grace("in-grace", 104),
        due("grace-over", 105),
        Vm { expires: 3, ..due("renewed", 106) },
        due("protected", 107).with("protected", json!(true)),
        paid("paid-2", 108),
    ]
}

#[test]
fn h42_without_execute_nothing_is_touched() {
    let site = Site::with(&house());
    let before = everything(&site);
    let calls = site.lab.control().last_call().unwrap();
    site.gc(&[]).ok().prints(
        "Suspend: 3 candidates\nDestroy: 1 candidate\n  over-1  would be suspended\n  over-2  would be suspended\n  \
         over-and-off  would be suspended\n  grace-over  would be destroyed\n",
    );
    assert!(everything(&site) == before, "a dry run changed something");
    assert_eq!(site.lab.control().last_call().unwrap(), calls, "a dry run asks nobody");
}

#[test]
fn what_is_due_is_done_and_said() {
    let site = Site::with(&house());
    site.gc(&["--execute"])
        .ok()
        .prints(
            "Suspend: 3 candidates\nDestroy: 1 candidate\n  over-1  suspended\n  over-2  suspended\n  \
             over-and-off  suspended\n  grace-over  destroyed\nDone: 3 suspended, 1 destroyed, 0 failed\n",
        )
        .says_in_one_line(&["protected", "VM protected"]);
    for (name, vmid) in [("over-1", 101), ("over-2", 102), ("over-and-off", 103)] {
        site.is_suspended(name, vmid);
        assert_eq!(site.record(name)["beacon_name"], "keep me");
    }
    site.is_destroyed("grace-over", 105);
    for (name, vmid) in [("in-grace", 104), ("renewed", 106), ("protected", 107)] {
        assert_eq!(site.status(name), "suspended");
        assert!(site.exists(vmid), "{name}");
    }
    site.is_active("paid-1", 100);
    site.is_active("paid-2", 108);
    site.is_tidy();
    // Run again at once: nothing is left to do.
    site.gc(&["--execute"])
        .ok()
        .prints("Suspend: 0 candidates\nDestroy: 0 candidates\nDone: 0 suspended, 0 destroyed, 0 failed\n");
    // Eight days later what was suspended goes.
    site.days_pass(8);
    site.gc(&["--execute", "--accept-share"]).ok();
    for (name, vmid) in [("over-1", 101), ("over-2", 102), ("over-and-off", 103), ("in-grace", 104)] {
        site.is_destroyed(name, vmid);
    }
    site.is_active("paid-1", 100);
}

#[test]
fn one_phase_alone() {
    let site = Site::with(&house());
    let suspend =
        "Suspend: 3 candidates\n  over-1  suspended\n  over-2  suspended\n  over-and-off  suspended\n";
    site.gc(&["--suspend-only"]).ok().prints(&suspend.replace("  suspended", "  would be suspended"));
    site.gc(&["--destroy-only"]).ok().prints("Destroy: 1 candidate\n  grace-over  would be destroyed\n");
    site.gc(&["--execute", "--suspend-only"])
        .ok()
        .prints(&format!("{suspend}Done: 3 suspended, 0 destroyed, 0 failed\n"));
    assert!(site.exists(105));
    site.place(&[expired("over-3", 110)]);
    site.gc(&["--execute", "--destroy-only"])
        .ok()
        .prints("Destroy: 1 candidate\n  grace-over  destroyed\nDone: 0 suspended, 1 destroyed, 0 failed\n");
    site.is_destroyed("grace-over", 105);
    site.is_active("over-3", 110);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let site = Site::with(&house());
    let before = everything(&site);
    for (arguments, word) in [
        (&["--execute", "--grace-days", "-1"][..], "-1"),
        (&["--execute", "--grace-days=-1"], "-1"),
        (&["--execute", "--grace-days", "soon"], "soon"),
        (&["--execute", "--grace-days", "1.5"], "1.5"),
        (&["--execute", "--grace-days"], "--grace-days"),
        (&["--execute", "--suspend-only", "--destroy-only"], "--destroy-only"),
        (&["--execute", "web-1"], "web-1"),
    ] {
        let said = site.gc(arguments);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:#?}");
        assert!(said.err.contains(word), "{said:#?}");
    }
    assert!(everything(&site) == before);
    assert_eq!(site.gc(&["--help"]).ok().out.matches("--execute").count(), 5);
    assert!(site.gc(&["--version"]).ok().out.starts_with("blockhost-vm-gc "));
}

#[test]
fn the_grace_period_is_that_of_the_flag_else_of_db_yaml_else_seven_days() {
    let counted = |site: &Site, arguments: &[&str]| {
        let out = site.gc(arguments).ok().out;
        out.lines().find_map(|line| line.strip_prefix("Destroy: ").map(str::to_owned)).unwrap()
    };
    let fleet: Vec<Vm> =
        (0..10).map(|days| Vm { suspended: days, ..due(&format!("vm-{days}"), 100 + days as u32) }).collect();
    let site = Site::with(&fleet);
    // A VM that was suspended exactly N days ago is that and a moment more.
    for (arguments, count) in [
        (&[][..], "3 candidates"),
        (&["--grace-days", "9"], "1 candidate"),
        (&["--grace-days", "8"], "2 candidates"),
        (&["--grace-days", "10"], "0 candidates"),
        (&["--grace-days", "36500"], "0 candidates"),
    ] {
        assert_eq!(counted(&site, arguments), count, "{arguments:?}");
    }
    let said =
        site.gc(&["--grace-days", "0"]).ok().says_in_one_line(&["no VM was destroyed", "--accept-share"]);
    assert!(said.out.contains("Destroy: 10 candidates\n"), "{said:#?}");
    let yaml = site.path("etc/blockhost/db.yaml");
    let text = crate::support::read(&yaml);
    write(&yaml, &text.replace("gc_grace_days: 7", "gc_grace_days: 8"));
    assert_eq!(counted(&site, &[]), "2 candidates");
    assert_eq!(counted(&site, &["--grace-days", "9"]), "1 candidate", "the flag wins");
    write(&yaml, &text.replace("gc_grace_days: 7\n", ""));
    assert_eq!(counted(&site, &[]), "3 candidates");
}

#[test]
fn one_vms_failure_never_stops_the_others() {
    let fleet: Vec<Vm> = (0..3)
        .flat_map(|n| [expired(&format!("over-{n}"), 100 + n), due(&format!("due-{n}"), 110 + n)])
        .chain([paid("paid", 120), paid("paid-2", 121)])
        .collect();
    let site = Site::with(&fleet);
    let control = site.lab.control();
    // Another machine stands at the place of one to be suspended and of one to be destroyed, where ours are may not be
    // known, and one has a bad record.
    control.set(101, "smbios1", "uuid=99999999-0000-4000-8000-000000000000").unwrap();
    control.set(111, "smbios1", "uuid=99999999-0000-4000-8000-000000000001").unwrap();
    control.fault("agent.vm-find", FaultAction::error("no quorum"), 99).unwrap();
    site.write_as_another(|all| {
        all["vms"]["no-zone"] = json!({"vm_name": "no-zone", "vmid": 130, "status": "active",
            "ip_address": "192.168.122.130", "expires_at": "2020-01-01T00:00:00"});
        all["vms"]["no-status"] =
            json!({"vm_name": "no-status", "vmid": 131, "expires_at": "2020-01-01T00:00:00Z"});
        all["vms"]["a-text"] = "text".into();
    });
    let strangers = (site.guest(101), site.guest(111));
    let said = site
        .gc(&["--execute"])
        .fails_in_part(&[
            "VM over-1 (VMID 101)",
            "now belongs to another guest",
            "found over-1 with another UUID",
        ])
        .says_in_one_line(&["VM due-1 (VMID 111)", "now belongs to another guest"])
        .says_in_one_line(&["warning: ", "no-zone"])
        .says_in_one_line(&["warning: ", "no-status"])
        .says_in_one_line(&["warning: ", "a-text"])
        .says_in_one_line(&["error: 2 of 6 VMs could not be handled; see above"]);
    assert!(
        said.out.contains("  over-1  not done\n") && said.out.contains("  due-1  not done\n"),
        "{said:#?}"
    );
    assert!(said.out.ends_with("Done: 2 suspended, 2 destroyed, 2 failed\n"), "{said:#?}");
    for n in [0, 2] {
        site.is_suspended(&format!("over-{n}"), 100 + n);
        site.is_destroyed(&format!("due-{n}"), 110 + n);
    }
    assert_eq!((site.guest(101), site.guest(111)), strangers, "a stranger was touched");
    assert_eq!((site.status("over-1"), site.status("due-1")), ("active".into(), "suspended".into()));
}

#[test]
fn a_database_that_cannot_be_read_is_one_error_and_nothing_done() {
    let site = Site::with(&house());
    let (database, node) = (site.path("var/vms.json"), site.lab.control().snapshot().unwrap());
    for text in ["", "{\"vms\": {", "[]", "{}"] {
        write(&database, text);
        let said = site.gc(&["--execute"]).fails_in_part(&["vms.json"]);
        assert_eq!((said.out.as_str(), said.err.lines().count()), ("", 1), "{said:#?}");
        assert_eq!(crate::support::read(&database), text);
    }
    std::fs::remove_file(&database).unwrap();
    site.gc(&["--execute"]).fails_in_part(&["vms.json", "does not exist"]);
    assert_eq!(site.lab.control().snapshot().unwrap(), node);
}

#[test]
fn on_a_terminal_the_table_lines_up() {
    let site = Site::with(&[expired("a", 100), expired("a-much-longer-name", 101), due("middle-1", 102)]);
    let gc = site.verb("gc", &[]);
    let program = gc.get_program().to_string_lossy().into_owned();
    // A terminal by Python's standard library: what the command writes to it is passed on.
    let text = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut python = site.lab.tool("python3");
    python.args(["-c", text, &program]);
    let mut said = run(python).ok();
    said.out = said.out.replace("\r\n", "\n");
    said.prints(
        "Suspend: 2 candidates\nDestroy: 1 candidate\n  a                   would be suspended\n  \
         a-much-longer-name  would be suspended\n  middle-1            would be destroyed\n",
    );
}

#[test]
fn what_would_be_done_says_since_when_it_is_due() {
    let site = Site::with(&house());
    let said = site.gc(&[]).ok();
    let line = |name: &str| said.out.lines().find(|line| line.contains(name)).unwrap().to_string();
    let date = (Utc::now() - chrono::TimeDelta::hours(24)).format("%Y-%m-%d").to_string();
    assert_eq!(
        line("over-1 ").split('(').next().unwrap().trim_end(),
        "  over-1  would be suspended: expired 24 h ago"
    );
    assert!(line("over-1 ").contains(&date) && line("over-1 ").ends_with(" UTC)"), "{said:?}");
    assert!(
        line("grace-over").contains("would be destroyed: expired ")
            && line("grace-over").contains("), suspended ")
    );
}

#[test]
fn two_runs_at_once_are_one_run() {
    let site = Site::with(&[expired("over-1", 100)]);
    let first = site.gc_held_at("gc.noted", 8_000, &[]);
    site.gc(&["--execute"]).fails_in_part(&["another gc is running", "gc, PID"]);
    // Looking is allowed.
    site.gc(&[]).ok();
    drop(first);
    site.gc(&["--execute"]).ok();
    site.is_suspended("over-1", 100);
}

#[test]
fn sigterm_ends_a_run_and_the_next_one_finishes_it() {
    let site = Site::with(&[expired("over-1", 100), due("due-1", 101), paid("paid", 102)]);
    let running = site.gc_held_at("gc.noted", 300, &[]);
    running.signal(rustix::process::Signal::TERM);
    let said = running.wait().fails_in_part(&["interrupted by a signal"]);
    assert!(!said.err.contains("panicked"));
    assert!(site.exists(101));
    site.gc(&["--execute"]).ok();
    site.is_suspended("over-1", 100);
    site.is_destroyed("due-1", 101);
}

#[test]
fn a_full_disk_is_said_and_harms_nobody() {
    for write in 1..=6 {
        let site = Site::with(&[expired("over-1", 100), due("due-1", 101), paid("paid", 102)]);
        let said = site.gc_with(&format!("enospc@{write}"), &[]);
        if said.code == Some(0) {
            continue;
        }
        said.fails_in_part(&["No space left on device"]);
        if site.status("due-1") == "destroyed" {
            assert!(!site.exists(101));
        }
        site.gc(&["--execute"]).ok();
        site.is_suspended("over-1", 100);
        site.is_destroyed("due-1", 101);
        site.is_active("paid", 102);
        site.is_tidy();
    }
}

#[test]
fn the_python_that_reads_stdout_finds_its_counts() {
    let site = Site::with(&house());
    let said = site.gc(&["--execute"]).ok();
    assert!(said.out.lines().all(|line| !line.starts_with('{')));
    let said = run(site.verb("gc", &["--execute", "-q"])).ok();
    assert_eq!(said.err, "");
    // A failure is said also then.
    site.place(&[expired("over-9", 150)]);
    site.lab.control().fault("agent.vm-state", FaultAction::error("no"), 999).unwrap();
    run(site.verb("gc", &["--execute", "-q"])).fails_in_part(&["VM over-9", "no"]);
}
