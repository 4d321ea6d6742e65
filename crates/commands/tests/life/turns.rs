//! One VM, one operation (H19); busy machines (H20, H22).

use crate::support::{Commands, Running, SOON, WALLET, add_settings, guest, read, record, until, world};
use lab::Lab;
use lab::model::{FaultAction, Power};
use std::time::{Duration, Instant};

/// Runs a verb that is held at a point while it has the VM's lock.
fn held(lab: &Lab, point: &str, verb: &str, name: &str) -> Running {
    let running = lab.vm_start(&format!("sleep@{point}=700"), verb, &[name]);
    let lock = lab.path(format!("var/journal/{name}.lock"));
    until("the VM's lock", || std::fs::read_to_string(&lock).is_ok_and(|note| note.starts_with(verb)));
    running
}

/// Whether somebody holds the lock of a VM.
fn is_held(lab: &Lab, name: &str) -> bool {
    let lock = std::fs::File::open(lab.path(format!("var/journal/{name}.lock")));
    lock.is_ok_and(|lock| {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
    })
}

#[test]
fn h19_operations_on_one_vm_come_one_after_the_other() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    for (first, point, second, power) in [
        ("start", "start.running", "kill", Some(Power::Stopped)),
        ("start", "start.running", "stop", Some(Power::Stopped)),
        ("destroy", "destroy.begun", "start", None),
    ] {
        let mut running = held(&lab, point, first, "web-1");
        let mut other = lab.vm_start("", second, &["web-1"]);
        let mut other_while_held = false;
        while running.is_alive() {
            // It may have let go of the VM and not have ended yet.
            other_while_held |= !other.is_alive() && running.is_alive() && is_held(&lab, "web-1");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(!other_while_held, "{second} ended while {first} held the VM");
        running.wait().ok();
        let said = other.wait();
        match power {
            Some(power) => {
                said.ok();
                assert_eq!(guest(&lab, 100).power, power);
            }
            // It met a VM that was gone by then.
            None => drop(said.fails(&["VM web-1 was destroyed"])),
        }
    }
}

#[test]
fn h19_a_create_and_a_destroy_of_one_name_exclude_each_other() {
    let lab = Lab::builder().start().unwrap();
    let create =
        lab.vm_start("sleep@create.applied=700", "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    until("the VM", || lab.control().snapshot().unwrap().guests.contains_key(&100));
    let destroy = lab.vm_start("", "destroy", &["web-1"]);
    // A second create of the same name waits as well, and finds that the name is free again or taken.
    create.wait().ok();
    destroy.wait().ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
    let first = lab.vm_start("", "create", &["web-2", "--owner-wallet", WALLET, "--apply"]);
    let second = lab.vm_start("", "create", &["web-2", "--owner-wallet", WALLET, "--apply"]);
    let mut codes = [first.wait().code, second.wait().code];
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(1)], "one makes it, the other is told so");
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 2);
}

#[test]
fn h19_other_vms_do_not_wait() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.made("web-2");
    let mut busy = lab.vm_start("sleep@start.running=60000", "start", &["web-1"]);
    until("the VM's lock", || lab.path("var/journal/web-1.lock").exists());
    for verb in ["stop", "start", "kill", "destroy"] {
        lab.vm(verb, &["web-2"]).ok();
    }
    lab.made("web-3");
    assert!(busy.is_alive());
}

#[test]
fn h19_who_waits_too_long_says_for_whom() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let busy = lab.vm_start("sleep@start.running=60000", "start", &["web-1"]);
    let lock = lab.path("var/journal/web-1.lock");
    until("the VM's lock", || read(&lock).starts_with("start"));
    let before = world(&lab);
    for verb in ["stop", "kill", "start", "destroy"] {
        let words = [
            "VM web-1",
            "another operation is in progress",
            &format!("start, PID {}", busy.pid()),
            "try again",
        ];
        lab.vm_with("limit@vm-lock=100", verb, &["web-1"]).fails(&words);
    }
    world(&lab).same(&before, "locked");
    busy.kill();
    lab.vm_with("limit@vm-lock=100", "kill", &["web-1"]).ok();
}

#[test]
fn h20_ten_stops_take_as_long_as_one() {
    let lab = Lab::builder().start().unwrap();
    add_settings(&lab, "max_parallel_creates: 8");
    let names: Vec<String> = (0..8).map(|n| format!("web-{n}")).collect();
    let creates: Vec<Running> = names
        .iter()
        .map(|name| lab.vm_start("", "create", &[name, "--owner-wallet", WALLET, "--apply"]))
        .collect();
    creates.into_iter().for_each(|create| drop(create.wait().ok()));
    // Each guest needs 2 s to shut down: 16 s one after the other.
    lab.control().timing(|timing| timing.guest_shutdown = 2_000).unwrap();
    let begun = Instant::now();
    let stops: Vec<Running> = names.iter().map(|name| lab.vm_start("", "stop", &[name])).collect();
    stops.into_iter().for_each(|stop| drop(stop.wait().ok()));
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let node = lab.control().snapshot().unwrap();
    assert!(node.guests.values().all(|guest| guest.power == Power::Stopped));
}

#[test]
fn h22_a_lock_that_is_held_longer_than_qm_waits_is_tried_again() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().timing(|timing| timing.lock_wait = 300).unwrap();
    for (verb, tool) in [("stop", "shutdown"), ("start", "start"), ("kill", "stop")] {
        let fault = FaultAction::error("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout");
        lab.control().fault(&format!("task.qm{tool}"), fault, 2).unwrap();
        lab.vm(verb, &["web-1"]).ok();
        let hits: u32 = lab.control().faults().unwrap().iter().map(|fault| fault.hits).sum();
        assert_eq!(hits, 2, "{verb}");
        lab.control().clear_faults().unwrap();
        if verb == "start" {
            assert_eq!(guest(&lab, 100).power, Power::Running);
        } else {
            assert_eq!(guest(&lab, 100).power, Power::Stopped);
        }
    }
    // Never free: said plainly, in the tool's words, and nothing is believed.
    let fault = FaultAction::error("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout");
    lab.control().fault("task.qmstart", fault, 999).unwrap();
    lab.vm_with("limit@start=1500", "start", &["web-1"]).fails(&[
        "failed to start",
        "can't lock file",
        "got timeout",
    ]);
}

#[test]
fn h22_a_lock_that_shows_only_after_the_agent_has_answered() {
    // Real waits: qm gives up after 4 s, the root agent answers after 3.
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().timing(|timing| timing.lock_wait = 4_000).unwrap();
    // A guest that does not heed: its shutdown holds the lock for 6 s.
    lab.control()
        .guest(100, lab::model::GuestChange { ignore_shutdown: Some(true), ..Default::default() })
        .unwrap();
    let mut holder = lab.tool("qm");
    let mut holder = holder.args(["shutdown", "100", "--timeout", "6"]).spawn().unwrap();
    until("the shutdown", || !lab.control().snapshot().unwrap().tasks_running.is_empty());
    lab.control()
        .guest(100, lab::model::GuestChange { ignore_shutdown: Some(false), ..Default::default() })
        .unwrap();
    lab.vm("stop", &["web-1"]).ok();
    holder.wait().unwrap();
    assert_eq!(guest(&lab, 100).power, Power::Stopped);
}

#[test]
fn h22_a_backup_is_waited_for_and_then_named() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let before = world(&lab);
    lab.control().set_lock(100, Some("backup")).unwrap();
    for (verb, limit) in [("stop", "stop"), ("kill", "kill"), ("destroy", "destroy")] {
        let rules = format!("limit@{limit}=1500");
        lab.vm_with(&rules, verb, &["web-1"]).fails(&["VM web-1 (VMID 100)", "VM is locked (backup)"]);
    }
    lab.control().set_lock(100, None).unwrap();
    let mut after = world(&lab);
    after.forget_journal();
    after.same(&before, "locked");
    // It ends while we wait.
    for verb in ["stop", "start", "kill", "destroy"] {
        lab.control().set_lock(100, Some("backup")).unwrap();
        let running = lab.vm_start("", verb, &["web-1"]);
        std::thread::sleep(Duration::from_millis(400));
        lab.control().set_lock(100, None).unwrap();
        running.wait().ok();
    }
}

#[test]
fn h22_a_busy_api_is_asked_again() {
    let lab = Lab::builder().start().unwrap();
    let before = world(&lab);
    let busy = |code: i32| FaultAction::Error { message: "Connection timed out".into(), code: Some(code) };
    for (code, point) in [
        (595, "api.GET /version"),
        (596, "api.GET /nodes/{node}/qemu/9001/config"),
        (599, "api.GET /cluster/nextid*"),
    ] {
        lab.control().fault(point, busy(code), 2).unwrap();
        lab.made("web-1");
        let hits: u32 = lab.control().faults().unwrap().iter().map(|fault| fault.hits).sum();
        assert_eq!(hits, 2, "{point}");
        lab.vm("destroy", &["web-1"]).ok();
        lab.control().clear_faults().unwrap();
    }
    let node = lab.control().snapshot().unwrap();
    lab.control().fault("api.GET /version", busy(596), 999).unwrap();
    let said = lab.vm_with("limit@preflight=1500", "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    said.fails(&["HTTP 596", "GET /version", "overloaded", "pvedaemon"]);
    lab.control().clear_faults().unwrap();
    assert_eq!(lab.control().snapshot().unwrap(), node);
    drop(before);
    // In the middle of terraform: undone and tried again.
    lab.control().fault("api.POST /nodes/{node}/qemu/9001/clone", busy(596), 1).unwrap();
    let said =
        lab.vm_with("limit@create-retry=50", "create", &["web-2", "--owner-wallet", WALLET, "--apply"]);
    said.ok().says(&["HTTP 596", "trying again"]);
    lab.control().clear_faults().unwrap();
    let lock = FaultAction::error("can't lock file '/var/lock/qemu-server/lock-9001.conf' - got timeout");
    lab.control().fault("api.POST /nodes/{node}/qemu/9001/clone", lock.clone(), 99).unwrap();
    let before = world(&lab);
    let said =
        lab.vm_with("limit@create-retry=50", "create", &["web-3", "--owner-wallet", WALLET, "--apply"]);
    said.fails(&["VM web-3", "can't lock file", "got timeout"]);
    assert!(lab.control().faults().unwrap().iter().any(|fault| fault.hits >= 4));
    world(&lab).same(&before, "given up");
}

#[test]
fn h23_a_deletion_that_hangs_does_not_keep_destroy_for_ever() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().fault("task.qmdestroy", FaultAction::Slow { ms: 6_000 }, 1).unwrap();
    let begun = Instant::now();
    let said = lab.vm_with("limit@destroy=4500", "destroy", &["web-1"]);
    said.fails(&["the node is still deleting it", "run the same command again"]);
    assert!(begun.elapsed() < SOON / 3, "{:?}", begun.elapsed());
    assert_eq!(record(&lab, "web-1")["status"], "active");
    // The node goes on alone; the next destroy waits for it and completes.
    lab.vm("destroy", &["web-1"]).ok();
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
}

#[test]
fn h23_a_task_of_the_node_that_hangs_is_given_up() {
    for (verb, task, before) in [
        ("stop", "task.qmshutdown", Power::Running),
        ("kill", "task.qmstop", Power::Running),
        ("start", "task.qmstart", Power::Stopped),
    ] {
        let lab = Lab::builder().start().unwrap();
        lab.made("web-1");
        lab.control().power(100, before).unwrap();
        lab.control().fault(task, FaultAction::Hang, 99).unwrap();
        let mut running = lab.vm_start(&format!("limit@{verb}=5000"), verb, &["web-1"]);
        until(&format!("{verb} gives up"), || !running.is_alive());
        running.wait().fails(&["VM web-1 (VMID 100)"]);
        assert_eq!(guest(&lab, 100).power, before, "{verb}");
        lab.control().clear_faults().unwrap();
    }
}

#[test]
fn h23_an_api_that_hangs_is_given_up_before_anything_is_taken() {
    let lab = Lab::builder().start().unwrap();
    let before = world(&lab);
    lab.control().fault("api.GET /version", FaultAction::Hang, 9).unwrap();
    let arguments = ["web-1", "--owner-wallet", WALLET, "--apply"];
    let mut running = lab.vm_start("limit@preflight=1500", "create", &arguments);
    until("create gives up", || !running.is_alive());
    running.wait().fails(&["VM web-1", "cannot reach the Proxmox API"]);
    lab.control().clear_faults().unwrap();
    world(&lab).same(&before, "given up");
}
