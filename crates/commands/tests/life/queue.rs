//! Creates wait their turn (hazard H18).

use crate::support::{Commands, Running, WALLET, database, read, until, vmid, world, write};
use lab::Lab;
use lab::model::FaultAction;

/// Where the creates of these tests are held: terraform runs, the clone has not been asked for.
const CLONE: &str = "provider.create.clone";

fn start(lab: &Lab, name: &str, rules: &str, more: &[&str]) -> Running {
    let arguments: Vec<&str> =
        [name, "--owner-wallet", WALLET, "--apply"].iter().chain(more).copied().collect();
    lab.vm_start(rules, "create", &arguments)
}

/// Starts creates one after the other, so that their order in the queue is known.
fn queue_up(lab: &Lab, names: &[String]) -> Vec<Running> {
    let mut running = Vec::new();
    for (index, name) in names.iter().enumerate() {
        running.push(start(lab, name, "", &[]));
        let ticket = lab.path(format!("run/creates/{}", index + 1));
        until("a ticket", || ticket.exists() && read(&ticket).contains(' '));
    }
    running
}

fn under_way(lab: &Lab) -> u32 {
    lab.control().faults().unwrap().iter().filter(|f| f.point == CLONE).map(|f| f.hits).sum()
}

/// The line that says which creates are waited for.
fn waiting(words: &str) -> Option<&str> {
    words.lines().find(|line| line.contains("waiting for") && line.contains(" create"))
}

fn ten_at_once(limit: u32) {
    let lab = Lab::builder().db_yaml(&format!("max_parallel_creates: {limit}")).start().unwrap();
    // Long enough to see who waits, on a machine that is busy.
    lab.control().fault(CLONE, FaultAction::Slow { ms: 100 * u64::from(limit) }, 10).unwrap();
    let names: Vec<String> = (0..10).map(|n| format!("q-{n}")).collect();
    let running = queue_up(&lab, &names);
    for (index, create) in running.into_iter().enumerate() {
        let said = create.wait().ok();
        assert_eq!(said.out.lines().count(), 2, "{said:?}");
        let waited = waiting(&said.err).is_some();
        if index < limit as usize {
            assert!(!waited, "{index}: {said:?}");
        } else if index == limit as usize {
            // The first that waits says for whom, by name and PID.
            let line = waiting(&said.err).unwrap_or_default();
            assert!(
                line.contains("q-0 (PID ") || line.contains(&format!("q-{} (PID ", limit - 1)),
                "{said:?}"
            );
        }
    }
    assert_eq!(under_way(&lab), 10);
    let all = database(&lab);
    let mut vmids: Vec<u32> = names.iter().map(|name| vmid(&lab, name)).collect();
    if limit == 1 {
        assert!(vmids.is_sorted(), "in order: {vmids:?}");
        let made: Vec<&String> = all["vms"].as_object().unwrap().keys().collect();
        assert_eq!(made, names.iter().collect::<Vec<_>>());
    }
    vmids.sort_unstable();
    assert_eq!(vmids, (100..110).collect::<Vec<_>>());
    assert_eq!(all["allocated_ips"].as_array().unwrap().len(), 10);
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 11);
    assert!(!lab.path("run/provisioning.lock").exists());
    let left = std::fs::read_dir(lab.path("run/creates")).unwrap().count();
    assert_eq!(left, 1, "only queue.lock");
}

#[test]
fn h18_ten_creates_one_at_a_time() {
    ten_at_once(1);
}

#[test]
fn h18_ten_creates_two_at_a_time() {
    ten_at_once(2);
}

#[test]
fn h18_ten_creates_three_at_a_time() {
    ten_at_once(3);
}

#[test]
fn h18_never_more_than_the_limit() {
    let lab = Lab::builder().db_yaml("max_parallel_creates: 2").start().unwrap();
    let names: Vec<String> = (0..2).map(|n| format!("q-{n}")).collect();
    let held: Vec<Running> =
        names.iter().map(|name| start(&lab, name, "sleep@create.turn=60000", &[])).collect();
    until("two turns", || lab.path("run/creates/2").exists());
    let waiting = start(&lab, "q-2", "", &[]);
    until("the third ticket", || lab.path("run/creates/3").exists());
    // It waits as long as both live, and goes on when one of them is gone.
    std::thread::sleep(std::time::Duration::from_millis(400));
    let mut waiting = waiting;
    assert!(waiting.is_alive() && database(&lab)["vms"].get("q-2").is_none());
    let mut held = held.into_iter();
    held.next().unwrap().kill();
    waiting.wait().ok().says(&["waiting for ", "q-0 (PID ", "q-1 (PID "]);
    held.next().unwrap().kill();
}

#[test]
fn h18_a_killed_holder_or_waiter_frees_its_place() {
    let lab = Lab::builder().db_yaml("max_parallel_creates: 1").start().unwrap();
    let holder = start(&lab, "holder", "sleep@create.turn=60000", &[]);
    until("the first ticket", || lab.path("run/creates/1").exists());
    let waiter = start(&lab, "waiter", "", &[]);
    until("the second ticket", || lab.path("run/creates/2").exists());
    let last = start(&lab, "last", "", &[]);
    until("the third ticket", || lab.path("run/creates/3").exists());
    waiter.kill();
    holder.kill();
    last.wait().ok();
    assert_eq!(database(&lab)["vms"].as_object().unwrap().len(), 1);
}

#[test]
fn h18_the_queue_can_be_too_long() {
    let lab = Lab::builder().db_yaml("max_parallel_creates: 1").start().unwrap();
    let holder = start(&lab, "holder", "sleep@create.turn=60000", &[]);
    until("the lock", || lab.path("run/provisioning.lock").exists());
    let before = world(&lab);
    let words = ["waited 1 s", "holder (PID ", "nothing was reserved", "--queue-timeout"];
    start(&lab, "web-1", "", &["--queue-timeout", "1"]).wait().fails(&words);
    lab.create("web-1", &["--queue-timeout", "0"]).fails(&["waited 0 s"]);
    world(&lab).same(&before, "queue");
    assert_eq!(read(&lab.path("run/provisioning.lock")), format!("{}\n", holder.pid()));
    holder.kill();
    lab.made_with("web-1", &["--queue-timeout", "0"]);
}

#[test]
fn h18_a_recycled_pid_fools_nobody() {
    let lab = Lab::builder().db_yaml("max_parallel_creates: 1").start().unwrap();
    std::fs::create_dir_all(lab.path("run/creates")).unwrap();
    // All of them name a process that lives: this one.
    let own = std::process::id();
    write(&lab.path("run/provisioning.lock"), &format!("{own}\n"));
    write(&lab.path("run/creates/1"), &format!("{own} web-9"));
    write(&lab.path("run/creates/2"), "1 web-8");
    std::fs::create_dir_all(lab.path("var/journal")).unwrap();
    write(&lab.path("var/journal/web-1.lock"), &format!("create, PID {own}"));
    let said = lab.made("web-1");
    assert_eq!(waiting(&said.err), None);
    assert!(!lab.path("run/provisioning.lock").exists());
    assert!(!lab.path("run/creates/1").exists() && !lab.path("run/creates/2").exists());
}

#[test]
fn h18_a_waiting_create_ends_on_sigterm_and_leaves_nothing() {
    let lab = Lab::builder().db_yaml("max_parallel_creates: 1").start().unwrap();
    let holder = start(&lab, "holder", "sleep@create.turn=60000", &[]);
    until("the first ticket", || lab.path("run/creates/1").exists());
    let before = world(&lab);
    let waiter = start(&lab, "web-1", "", &[]);
    until("the second ticket", || lab.path("run/creates/2").exists());
    std::thread::sleep(std::time::Duration::from_millis(150));
    waiter.terminate();
    waiter.wait().fails(&["interrupted"]);
    world(&lab).same(&before, "interrupted");
    assert!(!lab.path("run/creates/2").exists());
    drop(holder);
}

#[test]
fn h18_a_create_does_not_wait_for_the_guest_of_another() {
    let lab = Lab::builder().boot_ms(600_000).start().unwrap();
    let slow = start(&lab, "slow", "", &[]);
    let booting =
        |lab: &Lab| lab.control().snapshot().unwrap().guests.get(&100).is_some_and(|vm| vm.starts == 1);
    until("its guest", || booting(&lab));
    lab.control().timing(|timing| timing.boot = 0).unwrap();
    lab.made("quick");
    assert!(database(&lab)["vms"].get("slow").is_none());
    drop(slow);
}
