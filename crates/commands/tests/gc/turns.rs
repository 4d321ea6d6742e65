//! One VM, one operation (H19): gc against resume, start, destroy, create and other writers, on one VM and on many.

use crate::support::{Ended, Running, Site, Vm, WALLET, due, expired, in_grace, paid, run, start, until};
use lab::model::Power;
use std::path::Path;

/// Whether somebody holds this VM's lock.
fn is_locked(site: &Site, name: &str) -> bool {
    let file = std::fs::File::open(site.path(&format!("var/journal/{name}.lock")));
    file.is_ok_and(|file| file.try_lock_shared().is_err())
}

#[test]
fn h19_gc_holds_each_vm_it_suspends_and_no_other() {
    let site = Site::with(&[expired("over", 100), paid("other", 101)]);
    let mut gc = site.gc_held_at("gc.asked", 1_200, &[]);
    assert!(is_locked(&site, "over") && !is_locked(&site, "other"));
    let mut resume = start(site.verb("resume", &["over"]));
    run(site.verb("stop", &["other"])).ok();
    run(site.verb("start", &["other"])).ok();
    let mut overtook = false;
    while gc.is_alive() {
        overtook |= !resume.is_alive() && gc.is_alive() && is_locked(&site, "over");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(!overtook, "resume ended while gc held the VM");
    gc.wait().ok();
    resume.wait().ok();
    // First suspended, then resumed.
    site.is_active("over", 100);
    assert_eq!(site.guest(100).starts, 2);
}

#[test]
fn h19_resume_destroy_start_while_gc_destroys_the_vm() {
    for (verb, code) in [("resume", Some(1)), ("start", Some(1)), ("destroy", Some(0))] {
        let site = Site::with(&[due("due", 100), paid("other", 101)]);
        let gc = site.gc_held_at("destroy.gone", 500, &[]);
        let other = start(site.verb(verb, &["due"]));
        gc.wait().ok();
        let said = other.wait();
        assert_eq!(said.code, code, "{verb}: {said:#?}");
        if code == Some(1) {
            said.fails_in_part(&["VM due was destroyed"]);
        }
        site.is_destroyed("due", 100);
    }
}

#[test]
fn h19_gc_meets_a_vm_that_somebody_works_on() {
    for (verb, point, name) in [
        ("resume", "resume.running", "due"),
        ("start", "start.running", "over"),
        ("destroy", "destroy.begun", "due"),
    ] {
        let site =
            Site::with(&[due("due", 100), expired("over", 101), expired("other", 102), paid("paid", 103)]);
        // Longer than gc waits.
        let busy = site.held_at(point, 6_000, site.verb(verb, &[name]));
        let mut command = site.verb("gc", &["--execute"]);
        command.env("BLOCKHOST_FAULT", "limit@vm-lock=200");
        run(command).fails_in_part(&[&format!("VM {name}"), "another operation is in progress", verb]);
        site.is_suspended("other", 102);
        busy.wait().ok();
        // What the other operation did stands.
        match verb {
            "resume" => site.is_active("due", 100),
            "start" => assert!(site.runs(101)),
            _ => site.is_destroyed("due", 100),
        }
        site.gc(&["--execute"]).ok();
        site.is_suspended("over", 101);
        site.is_tidy();
    }
}

#[test]
fn h19_a_resume_that_ends_in_time_keeps_its_vm() {
    // gc has it on its list, waits for the lock and looks again.
    let site = Site::with(&[due("due", 100), paid("other", 103)]);
    let busy = site.held_at("resume.running", 1_000, site.verb("resume", &["due"]));
    let said = site.gc(&["--execute"]).ok();
    assert!(said.out.contains("  due  not done\n"), "{said:#?}");
    busy.wait().ok();
    site.is_active("due", 100);
    site.gc(&["--execute"]).ok();
    site.is_active("due", 100);
}

#[test]
fn h19_a_create_of_the_same_name_while_gc_destroys() {
    let site = Site::with(&[due("web-1", 100), paid("other", 103)]);
    let gc = site.gc_held_at("destroy.marked", 500, &[]);
    let create = start(site.verb("create", &["web-1", "--owner-wallet", WALLET, "--apply"]));
    gc.wait().ok();
    create.wait().ok();
    let record = site.record("web-1");
    assert_eq!(record["status"], "active");
    assert!(record.get("suspended_at").is_none() && record.get("destroyed_at").is_none(), "{record}");
    assert!(site.runs(record["vmid"].as_u64().unwrap() as u32));
    site.gc(&["--execute"]).ok();
    assert_eq!(site.status("web-1"), "active");
}

#[test]
fn h19_a_create_that_is_under_way_is_nothing_to_gc() {
    let site = Site::with(&[expired("over", 150), paid("other", 151)]);
    let create = site.held_at(
        "create.applied",
        1_500,
        site.verb("create", &["web-1", "--owner-wallet", WALLET, "--apply"]),
    );
    site.gc(&["--execute"]).ok();
    site.is_suspended("over", 150);
    create.wait().ok();
    assert_eq!(site.status("web-1"), "active");
    assert!(site.runs(site.record("web-1")["vmid"].as_u64().unwrap() as u32));
}

/// A Python that follows the contract (`facts/contract/database.md`), renewing these names one after the other.
fn python_renews(site: &Site, names: &[String]) -> Running {
    const TEXT: &str = "
import fcntl, json, os, sys, datetime
path, names = sys.argv[1], sys.argv[2:]
for name in names:
    with open(path + '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path) as file:
            data = json.load(file)
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=45)
        data['vms'][name]['expires_at'] = end.isoformat(timespec='microseconds')
        data['vms'][name]['renewed'] = True
        with open(path + '.py', 'w') as file:
            json.dump(data, file, indent=2)
        os.rename(path + '.py', path)
";
    let mut command = site.lab.tool("python3");
    command.args(["-c", TEXT]).arg(site.path("var/vms.json")).args(names);
    start(command)
}

#[test]
fn h19_h10_many_at_once_on_many_vms() {
    // Five of each, all verbs at the same time as gc and a Python engine.
    let mut fleet: Vec<Vm> = Vec::new();
    for n in 0..5 {
        fleet.push(expired(&format!("over-{n}"), 100 + n));
        fleet.push(expired(&format!("renewed-{n}"), 110 + n));
        fleet.push(due(&format!("due-{n}"), 120 + n));
        fleet.push(due(&format!("late-{n}"), 130 + n));
        fleet.push(in_grace(&format!("resumed-{n}"), 140 + n));
        fleet.push(paid(&format!("paid-{n}"), 150 + n));
        fleet.push(paid(&format!("unwanted-{n}"), 160 + n));
    }
    let site = Site::with(&fleet);
    site.lab.control().timing(|timing| timing.guest_shutdown = 200).unwrap();
    let named = |word: &str| (0..5).map(|n| format!("{word}-{n}")).collect::<Vec<_>>();
    let python = python_renews(&site, &[named("renewed"), named("late")].concat());
    let gc = start(site.verb("gc", &["--execute"]));
    let mut others: Vec<Running> = Vec::new();
    for n in 0..5 {
        others.push(start(site.verb("resume", &[&format!("resumed-{n}")])));
        others.push(start(site.verb("stop", &[&format!("paid-{n}")])));
        others.push(start(site.verb("destroy", &[&format!("unwanted-{n}")])));
        others.push(start(site.verb("resume", &[&format!("late-{n}")])));
    }
    let create = start(site.verb("create", &["new-1", "--owner-wallet", WALLET, "--apply"]));
    python.wait().ok();
    let gc: Ended = gc.wait();
    assert_eq!(gc.code, Some(0), "{gc:#?}");
    let ended: Vec<Ended> = others.into_iter().map(Running::wait).collect();
    create.wait().ok();
    for n in 0..5 {
        site.is_suspended(&format!("over-{n}"), 100 + n);
        site.is_destroyed(&format!("due-{n}"), 120 + n);
        site.is_destroyed(&format!("unwanted-{n}"), 160 + n);
        site.is_active(&format!("resumed-{n}"), 140 + n);
        assert_eq!(site.guest(150 + n).power, Power::Stopped);
        assert_eq!(site.status(&format!("paid-{n}")), "active");
        // Renewed in time: untouched, or down and up. Or it was recorded a moment before: suspended, and paid.
        let renewed = format!("renewed-{n}");
        assert_eq!(site.record(&renewed)["renewed"], true, "the engine's write was lost");
        if site.status(&renewed) == "active" {
            site.is_active(&renewed, 110 + n);
        } else {
            site.is_suspended(&renewed, 110 + n);
        }
        // Renewed before the resume or not: it was resumed, or it had been destroyed while it was not paid.
        let late = format!("late-{n}");
        let resumed = &ended[(n as usize) * 4 + 3];
        match site.status(&late).as_str() {
            "active" => site.is_active(&late, 130 + n),
            "destroyed" => {
                site.is_destroyed(&late, 130 + n);
                resumed.clone().fails_in_part(&["was destroyed"]);
            }
            other => panic!("{late}: {other}: {resumed:#?}"),
        }
    }
    site.is_tidy();
    assert_addresses(&site);
}

/// No address is held that no live record has, and none twice.
fn assert_addresses(site: &Site) {
    let all = site.database();
    for (list, key) in [("allocated_ips", "ip_address"), ("allocated_ipv6", "ipv6_address")] {
        let mut held: Vec<String> =
            all[list].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect();
        let live = all["vms"].as_object().unwrap().values().filter(|record| record["status"] != "destroyed");
        let mut used: Vec<String> = live.map(|record| record[key].as_str().unwrap().to_owned()).collect();
        held.sort();
        used.sort();
        assert_eq!(held, used, "{list}");
    }
}

#[test]
fn h19_two_gcs_and_ten_resumes_of_one_vm() {
    let site = Site::with(&[due("web-1", 100), paid("other", 101)]);
    site.renew("web-1", 30);
    let mut all: Vec<Running> = (0..10).map(|_| start(site.verb("resume", &["web-1"]))).collect();
    all.push(start(site.verb("gc", &["--execute"])));
    for one in all {
        one.wait().ok();
    }
    site.is_active("web-1", 100);
    assert_eq!(site.guest(100).starts, 1, "it was started more than once");
    until("nobody holds it", || !is_locked(&site, "web-1"));
    assert!(Path::new(&site.path("var/journal/web-1.lock")).exists());
}
