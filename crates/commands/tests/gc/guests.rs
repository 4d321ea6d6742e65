//! How long it takes, and for whom: many guests, slow ones, deaf ones, locked ones (H20, H22, H24).

use crate::support::{Running, SOON, Site, Vm, due, expired, paid, start, until};
use lab::Lab;
use lab::model::{FaultAction, GuestChange, Power};
use std::time::{Duration, Instant};

fn fleet(count: u32) -> Vec<Vm> {
    let mut fleet: Vec<Vm> = (0..count).map(|n| expired(&format!("vm-{n:02}"), 100 + n)).collect();
    fleet.push(Vm { running: false, ..paid("other", 190) });
    fleet
}

/// Fifty guests that need a second each to shut down: how long gc took, and a start of another VM meanwhile.
fn fifty(qm_ms: u64) -> (Duration, Duration) {
    let site = Site::of(Lab::builder().qm_ms(qm_ms), &fleet(50));
    site.lab.control().timing(|timing| timing.guest_shutdown = 1_000).unwrap();
    let begun = Instant::now();
    let gc = start(site.verb("gc", &["--execute", "--accept-share"]));
    until("guests go down", || {
        let calls = site.lab.control().calls(0).unwrap();
        calls.iter().filter(|call| call.what.starts_with("qm-shutdown")).count() >= 5
    });
    let other = Instant::now();
    crate::support::run(site.verb("start", &["other"])).ok();
    let other = other.elapsed();
    gc.wait().ok();
    let took = begun.elapsed();
    for n in 0..50 {
        site.is_suspended(&format!("vm-{n:02}"), 100 + n);
    }
    assert!(site.runs(190));
    site.is_tidy();
    (took, other)
}

#[test]
fn h20_fifty_guests_take_about_as_long_as_the_slowest() {
    let (took, other) = fifty(0);
    println!("fifty guests of 1 s: {took:.1?}; a start meanwhile: {other:.2?}");
    // The sum would be 50 s; the machine may be busy.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(other < Duration::from_secs(10), "{other:?}");
}

#[test]
fn h20_fifty_guests_where_each_qm_takes_its_time() {
    let (took, other) = fifty(600);
    println!("fifty guests of 1 s, qm 0.6 s: {took:.1?}; a start meanwhile: {other:.2?}");
    // qm alone would be 30 s one after the other, the guests 50 s.
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(other < Duration::from_secs(12), "{other:?}");
}

#[test]
fn h24_a_guest_that_never_shuts_down_is_forced_off() {
    let site = Site::of(
        Lab::builder().db_yaml("guest_shutdown_timeout: 1"),
        &[expired("deaf", 100), expired("hears", 101), paid("paid", 102)],
    );
    let deaf = GuestChange { ignore_shutdown: Some(true), ..GuestChange::default() };
    site.lab.control().guest(100, deaf).unwrap();
    site.gc(&["--execute"]).ok().says_in_one_line(&[
        "VM deaf (VMID 100)",
        "did not shut down within",
        "switching it off",
    ]);
    site.is_suspended("deaf", 100);
    site.is_suspended("hears", 101);
    site.is_active("paid", 102);
}

#[test]
fn h24_a_guest_whose_shutdown_fails_is_forced_off_at_once() {
    let site = Site::with(&[expired("over", 100), paid("paid", 102)]);
    let begun = Instant::now();
    let fault = FaultAction::error("VM 100 qmp command 'guest-shutdown' failed - got wrong command id");
    site.lab.control().fault("qm.shutdown", fault, 9).unwrap();
    site.gc(&["--execute"]).ok().says_in_one_line(&[
        "VM over",
        "qmp command 'guest-shutdown' failed",
        "switching it off",
    ]);
    site.is_suspended("over", 100);
    assert!(begun.elapsed() < SOON, "it waited for a guest that nobody had asked");
}

#[test]
fn h24_one_that_cannot_even_be_switched_off_is_not_suspended() {
    let site = Site::of(
        Lab::builder().db_yaml("guest_shutdown_timeout: 1"),
        &[expired("stuck", 100), expired("hears", 101), due("due", 102), paid("paid", 103)],
    );
    let deaf = GuestChange { ignore_shutdown: Some(true), ..GuestChange::default() };
    site.lab.control().guest(100, deaf).unwrap();
    let fault = FaultAction::error("VM 100 is stuck in D state");
    site.lab.control().fault("agent.qm-stop", fault, 999).unwrap();
    let said = crate::support::run({
        let mut command = site.verb("gc", &["--execute"]);
        command.env("BLOCKHOST_FAULT", "limit@gc-power-off=1500");
        command
    });
    said.fails_in_part(&[
        "VM stuck (VMID 100)",
        "failed to switch it off",
        "stuck in D state",
        "it is not suspended",
    ]);
    assert_eq!((site.status("stuck").as_str(), site.runs(100)), ("active", true));
    site.is_suspended("hears", 101);
    site.is_destroyed("due", 102);
    site.lab.control().clear_faults().unwrap();
    site.gc(&["--execute"]).ok();
    site.is_suspended("stuck", 100);
    site.is_tidy();
}

#[test]
fn h22_a_backup_holds_up_none_of_the_others_and_is_waited_for() {
    let site =
        Site::with(&[expired("a-locked", 100), expired("b", 101), due("c-locked", 102), paid("paid", 103)]);
    let control = site.lab.control();
    control.set_lock(100, Some("backup")).unwrap();
    let running: Running = start(site.verb("gc", &["--execute"]));
    // The other one is suspended while the first is still locked.
    until("b is suspended", || site.status("b") == "suspended");
    assert!(site.runs(100));
    control.set_lock(100, None).unwrap();
    running.wait().ok();
    site.is_suspended("a-locked", 100);
    site.is_destroyed("c-locked", 102);
}

#[test]
fn h22_a_backup_that_does_not_end_is_named() {
    let site =
        Site::with(&[expired("locked", 100), expired("over", 101), due("due", 102), due("due-locked", 103)]);
    site.place(&[paid("paid", 104)]);
    let control = site.lab.control();
    control.set_lock(100, Some("backup")).unwrap();
    control.set_lock(103, Some("backup")).unwrap();
    let said = crate::support::run({
        let mut command = site.verb("gc", &["--execute"]);
        command.env("BLOCKHOST_FAULT", "limit@gc-busy=1500 limit@destroy=1500");
        command
    });
    said.fails_in_part(&["VM locked (VMID 100)", "VM is locked (backup)", "next run"])
        .says_in_one_line(&["VM due-locked (VMID 103)", "VM is locked (backup)"]);
    site.is_suspended("over", 101);
    site.is_destroyed("due", 102);
    assert_eq!((site.status("locked").as_str(), site.runs(100)), ("active", true));
    assert_eq!((site.status("due-locked").as_str(), site.exists(103)), ("suspended", true));
    control.set_lock(100, None).unwrap();
    control.set_lock(103, None).unwrap();
    site.gc(&["--execute"]).ok();
    site.is_suspended("locked", 100);
    site.is_destroyed("due-locked", 103);
    site.is_tidy();
}

#[test]
fn h22_a_lock_file_that_is_held_is_tried_again() {
    let site = Site::with(&[expired("over", 100), paid("paid", 101)]);
    let fault = FaultAction::error("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout");
    site.lab.control().fault("task.qmshutdown", fault, 1).unwrap();
    let said = site.gc(&["--execute"]).ok();
    assert!(!said.err.contains("switched off"), "it was forced off for nothing: {said:#?}");
    site.is_suspended("over", 100);
}

#[test]
fn h22_a_lock_that_the_root_agent_refuses_at_once_is_waited_for_too() {
    // The root agent asks nothing of a guest that is being cloned, and a power-off it answers with its result: those
    // refusals come at once, where a shutdown's comes later.
    for (lock, paused) in [("clone", false), ("backup", true)] {
        let site = Site::with(&[expired("a-locked", 100), expired("b", 101), paid("paid", 102)]);
        let control = site.lab.control();
        if paused {
            control.power(100, Power::Paused).unwrap();
        }
        control.set_lock(100, Some(lock)).unwrap();
        let running: Running = start(site.verb("gc", &["--execute"]));
        until("b is suspended", || site.status("b") == "suspended");
        assert_eq!(site.status("a-locked"), "active", "{lock}");
        control.set_lock(100, None).unwrap();
        running.wait().ok();
        site.is_suspended("a-locked", 100);
        site.is_tidy();
    }
}
