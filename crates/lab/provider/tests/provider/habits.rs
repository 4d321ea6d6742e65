//! What each release tries again, what it takes for a failure, and its words (`facts/provider.md`).

use crate::{
    failures::{rule, tainted},
    pve::{Pve, Rule},
    workdir::{BOTH, NEW, OLD, Workdir, small_vm, with},
};
use serde_json::json;
use std::time::{Duration, Instant};

const BUSY: &str = "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout";

fn seen(pve: &Pve, method: &str, end: &str) -> usize {
    pve.node().requests.iter().filter(|seen| seen.method == method && seen.path.ends_with(end)).count()
}

#[test]
fn a_resize_is_tried_again_for_two_reasons_only() {
    for version in BOTH {
        for (code, reason) in [(500, "lvextend failed"), (595, "no route to host"), (0, "")] {
            let pve = Pve::start();
            let workdir = Workdir::new(version, &pve);
            workdir.vm(&small_vm());
            pve.node().rules.push(rule("PUT", "/resize", code, reason));
            let text = workdir.fails(&["apply"]);
            assert!(text.contains(reason) && tainted(&workdir), "{text}");
            assert_eq!(seen(&pve, "PUT", "/resize"), 1, "{version}: {reason}");
        }
        for reason in [BUSY, "storage 'local-lvm' does not exist"] {
            let pve = Pve::start();
            let workdir = Workdir::new(version, &pve);
            workdir.vm(&small_vm());
            pve.node().rules.push(Rule { times: 4, ..rule("PUT", "/resize", 500, reason) });
            workdir.ok(&["apply"]);
            assert_eq!(seen(&pve, "PUT", "/resize"), 5, "{version}: {reason}");
        }
    }
}

#[test]
fn the_older_one_repeats_the_resizes_task_too() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());
        pve.node().exits.insert("resize", BUSY.into());
        let text = workdir.fails(&["apply"]);
        assert!(text.contains("got timeout"), "{text}");
        assert_eq!(seen(&pve, "PUT", "/resize"), if version == OLD { 5 } else { 1 });
    }
}

#[test]
fn a_start_with_warnings_is_a_start() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());
        pve.node().exits.insert("qmstart", "WARNINGS: 1".into());
        workdir.ok(&["apply"]);
        assert!(!tainted(&workdir) && pve.node().guests[&101].status == "running");
    }
    // as long as the older one can read them
    let pve = Pve::start();
    let workdir = Workdir::new(OLD, &pve);
    workdir.vm(&small_vm());
    pve.node().exits.insert("qmstart", "WARNINGS: 1".into());
    pve.node().rules.push(rule("GET", "/log", 403, "Permission check failed"));
    assert!(workdir.fails(&["apply"]).contains("Permission check failed"));
    assert!(tainted(&workdir));
}

#[test]
fn the_older_one_deletes_again_whatever_went_wrong() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());
        workdir.ok(&["apply"]);
        pve.node().rules.push(rule("DELETE", "/101/", 0, ""));
        match version {
            OLD => drop(workdir.ok(&["destroy"])),
            _ => assert!(workdir.fails(&["destroy"]).contains("/nodes/pve/qemu/101/")),
        }
        assert_eq!(seen(&pve, "DELETE", "purge=1"), if version == OLD { 2 } else { 1 });
    }
    // not for what is gone, and a failed task is final
    let pve = Pve::start();
    let workdir = Workdir::new(OLD, &pve);
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
    let gone = "Configuration file 'nodes/pve/qemu-server/101.conf' does not exist";
    pve.node().rules.push(rule("DELETE", "/101/", 500, gone));
    assert!(workdir.fails(&["destroy"]).contains("does not exist"));
    assert_eq!(seen(&pve, "DELETE", "purge=1"), 1);
    pve.node().exits.insert("qmdestroy", "unable to remove".into());
    assert!(workdir.fails(&["destroy"]).contains("unable to remove"));
    assert_eq!(seen(&pve, "DELETE", "purge=1"), 2);
}

#[test]
fn the_older_one_lets_a_question_to_the_agent_end() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&with(small_vm(), "agent", json!({"enabled": true, "timeout": "100ms"})));
        {
            let mut node = pve.node();
            node.agent_error = Some((500, "QEMU guest agent is not running"));
            node.agent_takes = Duration::from_secs(2);
        }
        let start = Instant::now();
        workdir.ok(&["apply"]);
        let took = start.elapsed();
        assert_eq!(took >= Duration::from_secs(2), version == OLD, "{version}: {took:?}");
    }
}

#[test]
fn a_volume_that_is_gone_keeps_the_older_one_from_reading() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());
        workdir.ok(&["apply"]);
        let gone = "volume 'local-lvm:vm-101-disk-0' does not exist";
        pve.node().rules.push(rule("GET", "content/local-lvm:vm-101-disk-0", 500, gone));
        match version {
            OLD => {
                let text = workdir.fails(&["plan"]);
                let words = "error get file local-lvm:vm-101-disk-0 from datastore local-lvm: ";
                assert!(text.contains(words), "{text}");
            }
            _ => drop(workdir.ok(&["plan"])),
        }
    }
}

#[test]
fn a_start_of_what_runs_already() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&with(small_vm(), "timeout_start_vm", json!(1)));
        pve.node().rules.push(rule("POST", "/start", 500, "VM 101 already running"));
        let text = workdir.fails(&["apply"]);
        let words = match version {
            OLD => "the server did not include a data object in the response",
            // It is off in fact.
            _ => "timeout while waiting for VM 101 to enter the status \"running\"",
        };
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_missing_file_is_a_missing_vm_to_the_later_one() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());
        workdir.ok(&["apply"]);
        pve.node().rules.push(rule("GET", "/101/config", 500, "open 101.conf: No such file or directory"));
        match version {
            OLD => assert!(workdir.fails(&["plan"]).contains("No such file or directory")),
            _ => assert!(workdir.run(&["plan"]).text.contains("1 to add")),
        }
    }
}

/// The words for one refused request of a create, from the first of the text wanted on.
fn said(version: &'static str, refused: Rule) -> String {
    let pve = Pve::start();
    let workdir = Workdir::new(version, &pve);
    workdir.vm(&small_vm());
    pve.node().rules.push(refused);
    let text = workdir.fails(&["apply"]).replace(&pve.port.to_string(), "PORT");
    text.split_once("Error: ").map(|(_, text)| text.to_string()).unwrap_or(text)
}

#[test]
fn words_of_a_create() {
    let full = "received an HTTP 500 response - Reason: storage is full";
    let taken = "received an HTTP 500 response - Reason: VM 101 already exists";
    let clone = "error waiting for VM clone: All attempts fail: #1: error cloning VM: ";
    let resize =
        "disk resize fails: error waiting for VM disk resize: All attempts fail: #1: error moving VM disk: ";
    for (version, method, path, reason, begins, ends) in [
        (OLD, "POST", "/clone", "storage is full", clone, full),
        (NEW, "POST", "/clone", "storage is full", "VM clone ", full),
        (
            NEW,
            "POST",
            "/clone",
            "storage is full",
            "VM clone ",
            "All attempts fail: #1: error cloning VM: received",
        ),
        (
            NEW,
            "POST",
            "/clone",
            "VM 101 already exists",
            "VM clone ",
            "the requested resource already exists",
        ),
        (NEW, "POST", "/clone", "VM 101 already exists", "VM clone ", taken),
        (OLD, "PUT", "/config", "storage is full", "error updating VM: ", full),
        (NEW, "PUT", "/config", "storage is full", "All attempts fail: #1: ", full),
        (OLD, "PUT", "/resize", "storage is full", resize, full),
        (NEW, "PUT", "/resize", "storage is full", "Disk resize ", "All attempts fail: #1: "),
        (
            OLD,
            "GET",
            "/cluster/resources",
            "storage is full",
            "failed to get resources list of type (\"vm\") for cluster: ",
            full,
        ),
        (
            NEW,
            "GET",
            "/pools",
            "storage is full",
            "failed to determine pool for VM 101: error listing pools: ",
            full,
        ),
    ] {
        let text = said(version, rule(method, path, 500, reason));
        // terraform puts the address of the resource between headline and detail
        assert!(text.starts_with(begins) && text.contains(ends), "{version} {path}: {text}");
        assert!(!text.contains("(storage is full)") && !text.contains("(VM 101"), "{text}");
    }
}

#[test]
fn words_of_a_lost_connection() {
    for version in BOTH {
        let text = said(version, rule("POST", "/clone", 0, ""));
        let words = "failed to perform HTTP POST request (path: nodes/pve/qemu/9001/clone) - Reason: Post \"https://127.0.0.1:PORT/api2/json/nodes/pve/qemu/9001/clone\": EOF";
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn the_later_one_tells_a_failed_tasks_log_and_every_try() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    pve.node().exits.insert("qmclone", "clone failed".into());
    assert!(
        workdir.fails(&["apply"]).contains("exit code: clone failed task log: WARN: the lab says so done")
    );
    pve.node().exits.clear();
    pve.node().rules.push(Rule { times: 3, ..rule("PUT", "/config", 500, BUSY) });
    let text = workdir.fails(&["apply"]);
    assert_eq!(text.matches("got timeout").count(), 3, "{text}");
    assert!(text.contains("#2: received an HTTP 500 response") && text.contains("#3: "), "{text}");
}
