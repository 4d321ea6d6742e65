//! A clock that jumped or a broken database must not empty the house (H11).

use crate::support::{Ended, Report, Site, Vm, days_from_now, due, expired, paid, read, write};
use chrono::{TimeDelta, Utc};
use lab::model::{FaultAction, Power};
use serde_json::json;

/// One to be suspended, one to be destroyed, two that are paid.
fn site() -> Site {
    Site::with(&[expired("over", 100), due("due", 101), paid("paid-1", 102), paid("paid-2", 103)])
}

/// Suspending went on, destroying did not, and what to do is said.
#[track_caller]
fn braked(site: &Site, said: Ended, words: &[&str]) {
    let said = said.fails_in_part(&["no VM was destroyed"]).says_in_one_line(words);
    assert!(said.out.contains("Suspend: 1 candidate\nDestroy: 1 candidate\n"), "{said:#?}");
    assert!(
        said.out.contains("  over  suspended\n") && said.out.contains("  due  due, but held back: expired "),
        "{said:#?}"
    );
    site.is_suspended("over", 100);
    assert!(site.exists(101));
    assert_eq!(site.status("due"), "suspended");
}

fn noted_now(site: &Site) -> bool {
    Utc::now() - site.last_run() < TimeDelta::minutes(5)
}

#[test]
fn h11_a_clock_that_stands_before_the_last_run_destroys_nothing() {
    let site = site();
    site.note_last_run(3);
    let note = read(&site.path("var/gc-last-run.json"));
    braked(&site, site.gc(&["--execute"]), &["in the future", "--accept-gap"]);
    assert_eq!(read(&site.path("var/gc-last-run.json")), note, "a clock that is behind is not noted");
    site.gc(&["--execute"]).fails_in_part(&["in the future"]);
    // An operator has looked: also the next run knows.
    site.gc(&["--execute", "--accept-gap"]).ok();
    site.is_destroyed("due", 101);
    assert!(noted_now(&site));
    site.gc(&["--execute"]).ok();
}

#[test]
fn h11_a_run_long_ago_destroys_nothing_and_is_noted() {
    let site = site();
    site.note_last_run(-15);
    braked(&site, site.gc(&["--execute"]), &["15 days ago", "14", "gc_max_gap_days", "--accept-gap"]);
    assert!(noted_now(&site), "refused runs are noted too");
    // The clock is right: tomorrow's run goes on.
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 101);
}

#[test]
fn h11_a_long_gap_can_be_accepted_and_its_limit_set() {
    let site = site();
    site.note_last_run(-400);
    site.gc(&["--execute", "--accept-gap"]).ok();
    site.is_destroyed("due", 101);
    assert!(noted_now(&site));

    let site = self::site();
    write(
        &site.path("etc/blockhost/db.yaml"),
        &format!("{}gc_max_gap_days: 500\n", read(&site.path("etc/blockhost/db.yaml"))),
    );
    site.note_last_run(-400);
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 101);
}

#[test]
fn h11_no_note_is_now() {
    let site = site();
    std::fs::remove_file(site.path("var/gc-last-run.json")).unwrap();
    site.gc(&[]).ok();
    assert!(!site.path("var/gc-last-run.json").exists(), "a dry run notes nothing");
    site.gc(&["--execute"]).ok();
    assert!(noted_now(&site));
    site.is_destroyed("due", 101);
}

#[test]
fn h11_h17_a_note_that_cannot_be_read_brakes_and_stays() {
    for text in
        ["", "{", "[]", "{}", "{\"at\": 7}", "{\"at\": \"yesterday\"}", "{\"at\": \"2026-01-01T00:00:00\"}"]
    {
        let site = site();
        write(&site.path("var/gc-last-run.json"), text);
        braked(&site, site.gc(&["--execute"]), &["gc-last-run.json", "remove", "--accept-gap"]);
        assert_eq!(read(&site.path("var/gc-last-run.json")), text);
        site.gc(&["--execute", "--accept-gap"]).ok();
        site.is_destroyed("due", 101);
        assert!(noted_now(&site), "{text}");
    }
}

#[test]
fn h11_a_note_that_cannot_be_written_brakes() {
    // A run that leaves no note would count as no run: the next one could not tell how long ago it was.
    let site = site();
    let note = read(&site.path("var/gc-last-run.json"));
    let rules = "error@write.gc-last-run.before";
    braked(&site, site.gc_with(rules, &[]), &["no VM was destroyed", "gc-last-run.json"]);
    assert_eq!(read(&site.path("var/gc-last-run.json")), note);
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 101);
}

#[test]
fn h11_the_clock_jumps_both_ways() {
    // A year forward: everything is due at once. Then back again.
    let fleet: Vec<Vm> = (0..6).map(|n| paid(&format!("paid-{n}"), 100 + n)).collect();
    let site = Site::with(&fleet);
    site.days_pass(365);
    site.gc(&["--execute"]).fails_in_part(&["no VM was suspended", "6 of 6", "--accept-share"]);
    site.gc(&["--execute", "--accept-share"]).ok();
    assert!(site.guests().len() == 6 && (0..6).all(|n| site.status(&format!("paid-{n}")) == "suspended"));
    site.days_pass(365);
    site.gc(&["--execute"]).fails_in_part(&["no VM was destroyed", "days ago", "--accept-gap"]);
    assert_eq!(site.guests().len(), 6);
    // Noted by then; the share still brakes.
    site.gc(&["--execute"]).fails_in_part(&["6 of 6", "--accept-share"]);
    assert_eq!(site.guests().len(), 6);
    site.days_pass(-730);
    site.gc(&["--execute"])
        .ok()
        .prints("Suspend: 0 candidates\nDestroy: 0 candidates\nDone: 0 suspended, 0 destroyed, 0 failed\n");
    // Suspended in what is now the future, and paid: resume puts it right.
    for n in 0..6 {
        let end = site.record(&format!("paid-{n}"))["expires_at"].clone();
        site.resume(&[&format!("paid-{n}")]).ok();
        site.is_active(&format!("paid-{n}"), 100 + n);
        assert_eq!(site.record(&format!("paid-{n}"))["expires_at"], end);
    }
}

#[test]
fn h11_a_large_share_is_braked() {
    let fleet = |due_ones: u32, others: u32| -> Vec<Vm> {
        let due_ones = (0..due_ones).map(|n| due(&format!("due-{n}"), 100 + n));
        due_ones.chain((0..others).map(|n| paid(&format!("paid-{n}"), 120 + n))).collect()
    };
    // (due, others, goes on)
    for (due_ones, others, goes_on) in [(3, 0, true), (4, 3, false), (4, 4, true), (4, 0, false)] {
        let site = Site::with(&fleet(due_ones, others));
        let said = site.gc(&["--execute"]);
        if goes_on {
            said.ok();
            assert_eq!(site.guests().len() as u32, others);
            continue;
        }
        let count = format!("{due_ones} of {}", due_ones + others);
        said.fails_in_part(&["no VM was destroyed", &count, "gc_max_share", "--accept-share"]);
        assert_eq!(site.guests().len() as u32, due_ones + others);
        site.gc(&["--execute", "--accept-gap"]).fails_in_part(&["--accept-share"]);
        site.gc(&["--execute", "--accept-share"]).ok();
        assert_eq!(site.guests().len() as u32, others);
    }
    // Destroyed records do not make the house larger.
    let site = Site::with(&fleet(4, 3));
    site.write_as_another(|all| {
        for n in 0..50 {
            all["vms"][format!("gone-{n}")] = json!({"vm_name": format!("gone-{n}"), "vmid": 200 + n,
                "status": "destroyed", "expires_at": days_from_now(-90)});
        }
    });
    site.gc(&["--execute"]).fails_in_part(&["4 of 7"]);
    // The share is a setting.
    let yaml = site.path("etc/blockhost/db.yaml");
    write(&yaml, &format!("{}gc_max_share: 0.6\n", read(&yaml)));
    site.gc(&["--execute"]).ok();
    assert_eq!(site.guests().len(), 3);
}

#[test]
fn h11_the_brakes_accept_each_its_own_flag() {
    let fleet: Vec<Vm> = (0..5).map(|n| due(&format!("due-{n}"), 100 + n)).collect();
    let site = Site::with(&fleet);
    site.note_last_run(-60);
    site.gc(&["--execute", "--accept-share"]).fails_in_part(&["--accept-gap"]);
    site.note_last_run(-60);
    site.gc(&["--execute", "--accept-gap"]).fails_in_part(&["--accept-share"]);
    assert_eq!(site.guests().len(), 5);
    site.note_last_run(-60);
    site.gc(&["--execute", "--accept-gap", "--accept-share"]).ok();
    assert_eq!(site.guests().len(), 0);
}

#[test]
fn h11_a_dry_run_says_what_the_brake_would_say() {
    let site = site();
    site.note_last_run(-15);
    let note = read(&site.path("var/gc-last-run.json"));
    site.gc(&[]).ok().says_in_one_line(&["warning: ", "no VM was destroyed", "--accept-gap"]);
    assert_eq!(read(&site.path("var/gc-last-run.json")), note);
}

#[test]
fn h11_protected_records_are_never_destroyed_by_gc() {
    for word in [json!(true), json!("true"), json!(1)] {
        let site = Site::with(&[
            due("protected", 100).with("protected", word.clone()),
            expired("active", 101).with("protected", word.clone()),
            paid("paid", 102),
        ]);
        let said = site.gc(&["--execute", "--accept-share", "--accept-gap"]);
        assert!(site.exists(100), "{word}");
        assert_eq!(site.status("protected"), "suspended");
        // An operator protects a VM of his own against this very thing (H62).
        site.is_active("active", 101);
        said.says_in_one_line(&["VM active", "expired, but its record is protected"]);
        if word == json!(true) {
            crate::support::run(site.verb("destroy", &["protected"]))
                .fails_in_part(&["protected", "--force"]);
            crate::support::run(site.verb("destroy", &["protected", "--force"])).ok();
            site.is_destroyed("protected", 100);
        }
    }
}

#[test]
fn h10_a_record_without_a_readable_time_is_left_alone() {
    for (key, value) in [
        ("expires_at", json!(null)),
        ("expires_at", json!("soon")),
        ("expires_at", json!("2020-01-01T00:00:00")),
        ("expires_at", json!(0)),
        ("suspended_at", json!(null)),
        ("suspended_at", json!("long ago")),
        ("suspended_at", json!("2020-01-01 00:00:00")),
        ("vmid", json!("100")),
        ("vmid", json!(null)),
        ("status", json!("gone")),
        ("status", json!(null)),
    ] {
        let site =
            Site::with(&[due("odd", 100).with(key, value.clone()), due("due", 101), paid("paid", 102)]);
        let record = site.record("odd");
        let said = site.gc(&["--execute"]).says_in_one_line(&["odd"]);
        assert!(said.out.contains("  due  destroyed\n"), "{key} {value}: {said:#?}");
        assert_eq!(site.record("odd"), record, "{key} {value}");
        assert!(site.exists(100), "{key} {value}");
        site.is_destroyed("due", 101);
    }
}

/// A clock that runs ahead makes every VM look expired (H62).
#[test]
fn h62_a_clock_ahead_of_the_nodes_suspends_no_small_house() {
    // Three VMs: a share of three is no brake, as long as the clock is believed.
    let fleet = |n: u32| (0..n).map(|n| expired(&format!("vm-{n}"), 100 + n)).collect::<Vec<_>>();
    for count in [1, 3] {
        let site = Site::with(&fleet(count));
        site.lab.control().set_clock_ahead(-40 * 86_400 - 60).unwrap();
        let words = format!("{count} of {count} VMs are due at once");
        let said = site.gc(&["--execute"]).fails_in_part(&[
            "no VM was suspended",
            &words,
            "40 days ahead of the node's",
            "--accept-share",
        ]);
        assert!(said.out.contains("  vm-0  due, but held back: expired "), "{said:#?}");
        assert!(
            (0..count).all(|n| site.status(&format!("vm-{n}")) == "active"
                && site.guest(100 + n).power == Power::Running)
        );
        // It stays so at the next run, and goes on when the clocks agree again.
        site.gc(&["--execute"]).fails_in_part(&["no VM was suspended"]);
        site.lab.control().set_clock_ahead(0).unwrap();
        site.gc(&["--execute"]).ok();
        assert!((0..count).all(|n| site.status(&format!("vm-{n}")) == "suspended"));
    }
    // The operator has looked; and a node that cannot be asked is no reason to keep everything running.
    let site = Site::with(&fleet(2));
    site.lab.control().set_clock_ahead(-40 * 86_400 - 60).unwrap();
    site.gc(&["--execute", "--accept-share"]).ok();
    assert_eq!(site.status("vm-1"), "suspended");
    let site = Site::with(&fleet(2));
    site.lab
        .control()
        .fault(
            "api.GET /nodes/*/time",
            FaultAction::Error { message: "internal error".into(), code: None },
            9,
        )
        .unwrap();
    site.gc(&["--execute"]).ok();
    assert_eq!(site.status("vm-1"), "suspended");
}

#[test]
fn h62_a_clock_that_moved_more_than_the_machine_ran_destroys_no_small_house() {
    let site = Site::with(&[due("due", 100), expired("over", 101)]);
    // The note of a run of three hours ago by uptime, and ten days ago by the wall clock.
    let uptime = provisioner_uptime();
    let note = |hours: i64, days: i64| {
        let believed = json!({"at": days_from_now(-days), "boot_id": uptime.0, "uptime_seconds": uptime.1 - hours * 3600});
        write(
            &site.path("var/gc-last-run.json"),
            &json!({"at": days_from_now(-days), "believed": believed}).to_string(),
        );
    };
    note(3, 10);
    let said = site.gc(&["--execute", "--destroy-only"]);
    // One of two is not more than half.
    said.ok();
    site.is_destroyed("due", 100);
    note(3, 10);
    let words = [
        "no VM was suspended",
        "1 of 1",
        "the clock has moved 9 days more than this machine has been running",
    ];
    site.gc(&["--execute"]).fails_in_part(&words);
    site.gc(&["--execute"]).fails_in_part(&words);
    assert_eq!(site.status("over"), "active");
    // An operator has looked: the clock is believed from now on.
    site.gc(&["--execute", "--accept-gap", "--accept-share"]).ok();
    assert_eq!(site.status("over"), "suspended");
    site.place(&[expired("more", 102)]);
    site.gc(&["--execute"]).ok();
    assert_eq!(site.status("more"), "suspended");
}

/// Boot and seconds since then, as the machine itself says.
fn provisioner_uptime() -> (String, i64) {
    let boot = read(std::path::Path::new("/proc/sys/kernel/random/boot_id"));
    let uptime = read(std::path::Path::new("/proc/uptime"));
    (boot.trim().to_string(), uptime.split('.').next().unwrap().parse().unwrap())
}
