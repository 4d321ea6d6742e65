//! A renewal that arrives at each moment of a run wins (H10).

use crate::support::{Site, Vm, due, expired, paid};
use lab::model::GuestChange;
use serde_json::json;
use std::time::Duration;

/// How long a run waits at the point, in milliseconds; the renewal needs a few.
const HELD: u64 = 400;

/// One to be suspended and one to be destroyed, both renewed while gc is at this point.
fn renewed_at(point: &str) -> (Site, String) {
    let site = Site::with(&[expired("over", 100), due("due", 101), paid("other", 102)]);
    let running = site.gc_held_at(point, HELD, &[]);
    let end = site.renew("over", 30);
    site.renew("due", 30);
    running.wait().ok();
    assert!(site.exists(101), "{point}: a paid VM was destroyed");
    assert_eq!(site.status("due"), "suspended", "{point}");
    assert_eq!(site.record("over")["expires_at"], end, "{point}: the renewal was lost");
    site.is_active("other", 102);
    site.is_tidy();
    (site, end)
}

/// What the engine does next, and what must come of it.
#[track_caller]
fn comes_back(site: &Site, name: &str, vmid: u32) {
    let end = site.record(name)["expires_at"].clone();
    site.resume(&[name]).ok();
    site.is_active(name, vmid);
    assert_eq!(site.record(name)["expires_at"], end);
    site.gc(&["--execute"]).ok();
    site.is_active(name, vmid);
}

#[test]
fn h10_renewed_before_anything_is_asked() {
    let (site, _) = renewed_at("gc.noted");
    site.is_active("over", 100);
    assert_eq!(site.guest(100).starts, 1, "it was not even switched off");
    comes_back(&site, "due", 101);
}

#[test]
fn h10_renewed_while_the_guest_goes_down() {
    for point in ["gc.asked", "gc.off"] {
        let (site, end) = renewed_at(point);
        // Off and on again: it runs, starts with the node, and is reachable.
        site.is_active("over", 100);
        assert_eq!(site.guest(100).starts, 2, "{point}");
        let node = site.lab.control().snapshot().unwrap();
        assert!(node.ports["tap100i0"].isolated, "{point}");
        assert!(node.routes.iter().any(|route| route.dst.contains("276::64")), "{point}: {:?}", node.routes);
        assert_eq!(site.record("over")["expires_at"], end);
        comes_back(&site, "due", 101);
    }
}

#[test]
fn h10_renewed_between_shutdown_and_off() {
    // The guest takes its time; the engine writes meanwhile.
    let site = Site::with(&[expired("over", 100), paid("other", 102)]);
    let slow = GuestChange { shutdown_ms: Some(900), ..GuestChange::default() };
    site.lab.control().guest(100, slow).unwrap();
    let running = site.gc_held_at("gc.asked", 1, &[]);
    site.renew("over", 30);
    let said = running.wait().ok().says_in_one_line(&[
        "VM over (VMID 100)",
        "renewed while it was shutting down",
        "started again",
    ]);
    assert!(said.out.contains("  over  not done\n"), "{said:#?}");
    site.is_active("over", 100);
}

#[test]
fn h10_renewed_right_after_it_was_suspended() {
    for point in ["gc.recorded", "gc.suspended"] {
        let (site, end) = renewed_at(point);
        assert_eq!(site.status("over"), "suspended", "{point}");
        assert!(!site.runs(100));
        site.resume(&["over"]).ok();
        site.is_active("over", 100);
        assert_eq!(site.record("over")["expires_at"], end, "{point}");
        comes_back(&site, "due", 101);
    }
}

#[test]
fn h10_renewed_while_the_record_is_being_written() {
    // Our writer waits with the database's lock held: the engine's write comes after it, and nothing is lost.
    let site = Site::with(&[expired("over", 100), paid("other", 102)]);
    let running = site.gc_held_at("write.database.before", HELD, &[]);
    let end = site.renew("over", 30);
    running.wait().ok();
    assert_eq!(
        (site.status("over").as_str(), &site.record("over")["expires_at"]),
        ("suspended", &json!(end))
    );
    assert!(site.record("over")["suspended_at"].is_string());
    comes_back(&site, "over", 100);
}

#[test]
fn h10_renewed_at_any_moment_before_the_destruction_begins() {
    for with_terraform in [false, true] {
        for point in ["destroy.begun", "destroy.stopped", "write.journal.before", "write.journal.renamed"] {
            let site = Site::with(&[paid("other", 150)]);
            let vmid = due_one(&site, with_terraform);
            let before = site.guest(vmid);
            let running = site.gc_held_at(point, HELD, &[]);
            let end = site.renew("due", 30);
            let said = running.wait().ok().says_in_one_line(&["VM due", "renewed", "left alone"]);
            assert!(said.out.contains("  due  not done\n"), "{point}: {said:#?}");
            assert_eq!(site.guest(vmid), before, "{point}");
            assert_eq!(
                (site.status("due").as_str(), &site.record("due")["expires_at"]),
                ("suspended", &json!(end))
            );
            site.is_tidy();
            comes_back(&site, "due", vmid);
        }
    }
}

/// A VM that is due, placed or made by the real create.
fn due_one(site: &Site, with_terraform: bool) -> u32 {
    if !with_terraform {
        site.place(&[due("due", 101)]);
        return 101;
    }
    let vmid = site.made("due");
    site.write_as_another(|all| {
        all["vms"]["due"]["expires_at"] = crate::support::days_from_now(-1).into();
    });
    site.gc(&["--execute"]).ok();
    site.is_suspended("due", vmid);
    site.days_pass(8);
    // The others stay paid.
    site.renew("other", 20);
    vmid
}

#[test]
fn h10_renewed_right_before_the_deletion() {
    let site = Site::with(&[paid("other", 150)]);
    let vmid = due_one(&site, true);
    let running = site.gc_held_at("destroy.terraform", HELD, &[]);
    site.renew("due", 30);
    running.wait().ok().says_in_one_line(&["VM due", "left alone"]);
    assert!(site.exists(vmid));
    comes_back(&site, "due", vmid);
}

#[test]
fn h10_a_renewal_during_the_destruction_is_too_late_and_seen_as_that() {
    // From the moment at which the node deletes it there is no way back; the record says what happened.
    let site = Site::with(&[paid("other", 150)]);
    let vmid = due_one(&site, true);
    let running = site.gc_held_at("destroy.gone", HELD, &[]);
    let end = site.renew("due", 30);
    running.wait().ok();
    site.is_destroyed("due", vmid);
    assert_eq!(site.record("due")["expires_at"], end, "what was paid can be read, and given back");
    site.resume(&["due"]).fails_in_part(&["VM due was destroyed"]);
}

#[test]
fn h10_one_that_was_switched_off_by_its_owner_stays_off_when_renewed() {
    let site = Site::with(&[Vm { running: false, ..expired("over", 100) }, paid("other", 102)]);
    let running = site.gc_held_at("gc.asked", HELD, &[]);
    site.renew("over", 30);
    running.wait().ok();
    let guest = site.guest(100);
    assert_eq!((site.status("over").as_str(), guest.starts, guest.onboot), ("active", 0, true));
}

#[test]
fn h10_many_renewals_while_many_go_down() {
    let fleet: Vec<Vm> = (0..20).map(|n| expired(&format!("vm-{n:02}"), 100 + n)).collect();
    let site = Site::with(&fleet);
    site.lab.control().timing(|timing| timing.guest_shutdown = 500).unwrap();
    let running = site.gc_held_at("gc.asked", 1, &["--accept-share"]);
    let renewed: Vec<u32> = (0..20).filter(|n| n % 3 == 0).collect();
    for n in &renewed {
        site.renew(&format!("vm-{n:02}"), 10);
        std::thread::sleep(Duration::from_millis(20));
    }
    running.wait().ok();
    for n in 0..20 {
        let name = format!("vm-{n:02}");
        if renewed.contains(&n) && site.status(&name) == "active" {
            site.is_active(&name, 100 + n);
        } else {
            // Not renewed, or recorded a moment before the renewal.
            site.is_suspended(&name, 100 + n);
        }
    }
    for n in &renewed {
        site.resume(&[&format!("vm-{n:02}")]).ok();
        site.is_active(&format!("vm-{n:02}"), 100 + n);
    }
    site.is_tidy();
}

#[test]
fn h10_a_renewal_after_a_run_that_died_is_honoured_by_the_next() {
    for point in ["gc.asked", "gc.off"] {
        let site = Site::with(&[expired("over", 100), expired("over-2", 101), paid("other", 102)]);
        site.gc_with(&format!("kill@{point}"), &[]).was_killed();
        crate::support::until("the guests are off", || !site.runs(100) && !site.runs(101));
        let end = site.renew("over", 30);
        assert_eq!(site.status("over"), "active");
        site.gc(&["--execute"]).ok().says_in_one_line(&[
            "VM over",
            "renewed after an interrupted run",
            "started it again",
        ]);
        site.is_active("over", 100);
        assert_eq!(site.record("over")["expires_at"], end);
        site.is_suspended("over-2", 101);
        site.is_tidy();
    }
    // The engine calls resume, for which an active VM is nothing special: it runs, and starts with the node again.
    let site = Site::with(&[expired("over", 100)]);
    site.gc_with("kill@gc.off", &[]).was_killed();
    crate::support::until("the guest is off", || !site.runs(100));
    site.renew("over", 30);
    site.resume(&["over"]).ok().says_in_one_line(&["VM over was off and is running again"]);
    site.is_active("over", 100);
    site.gc(&["--execute"]).ok();
    assert_eq!(site.guest(100).starts, 2);
    site.is_tidy();
}

#[test]
fn h10_h09_a_dead_destroy_is_not_finished_on_a_new_vm_of_the_same_name() {
    // Two destroys die after their machines are gone; while gc finishes the first, somebody finishes the second and
    // makes that VM anew. It is even off, as one that gc may destroy would be.
    let site = Site::with(&[paid("other", 150)]);
    for name in ["first", "web-1"] {
        let vmid = site.made(name);
        let mut destroy = site.verb("destroy", &[name]);
        destroy.env("BLOCKHOST_FAULT", "kill@destroy.gone");
        crate::support::run(destroy).was_killed();
        assert!(!site.exists(vmid) && site.path(&format!("var/journal/{name}.json")).exists());
    }
    let mut running = site.gc_held_at("destroy.marked", 8_000, &[]);
    crate::support::run(site.verb("destroy", &["web-1"])).ok();
    let vmid = site.made("web-1");
    crate::support::run(site.verb("kill", &["web-1"])).ok();
    assert!(running.is_alive(), "it was not held long enough");
    running.wait().ok().says_in_one_line(&["VM first", "completed an interrupted destroy"]);
    assert_eq!((site.status("web-1").as_str(), site.exists(vmid)), ("active", true));
}
