//! What goes wrong on the node, and what terraform knows afterwards.

use crate::{
    pve::{Pve, Rule},
    workdir::{ADDRESS, BOTH, NEW, OLD, Workdir, small_vm, with},
};
use serde_json::json;

pub fn rule(method: &'static str, path: &'static str, code: u16, reason: &str) -> Rule {
    Rule { method, path, code, reason: reason.into(), times: 1 }
}

pub fn tainted(workdir: &Workdir) -> bool {
    workdir.instance()["status"] == "tainted"
}

#[test]
fn a_failing_clone_leaves_nothing_in_the_state() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());

        pve.node().rules.push(rule(
            "POST",
            "/clone",
            500,
            "unable to find configuration file for VM 9001 on node 'pve'",
        ));
        let text = workdir.fails(&["apply"]);
        assert!(text.contains("unable to find configuration file for VM 9001"), "{text}");
        assert!(workdir.state().is_empty());

        pve.node().exits.insert("qmclone", "clone failed: no space left".into());
        let text = workdir.fails(&["apply"]);
        assert!(text.contains("failed to complete with exit code: clone failed: no space left"), "{text}");
        let short = text.contains("Error: VM clone");
        assert_eq!(short, version == NEW, "{text}");
        assert!(workdir.state().is_empty());

        pve.node().exits.insert("qmclone", "WARNINGS: 1".into());
        workdir.ok(&["apply"]);
        assert!(!tainted(&workdir));
    }
}

#[test]
fn a_failure_after_the_clone_taints() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());

        pve.node().rules.push(rule("PUT", "/config", 500, "VM is locked (backup)"));
        assert!(workdir.fails(&["apply"]).contains("VM is locked (backup)"));
        assert!(tainted(&workdir));
        assert_eq!(workdir.instance()["attributes"]["vm_id"], 101);
        // the next apply deletes and makes it again, with the same number
        pve.node().exits.insert("qmstart", "start failed: QEMU exited with code 1".into());
        let text = workdir.fails(&["apply"]);
        assert!(text.contains("exit code: start failed: QEMU exited with code 1"), "{text}");
        assert!(tainted(&workdir));
        let deleted = pve.node().requests.iter().filter(|seen| seen.method == "DELETE").count();
        assert_eq!(deleted, 1);

        pve.node().exits.clear();
        workdir.ok(&["destroy"]);
        assert!(!pve.node().guests.contains_key(&101));
    }
}

#[test]
fn a_clone_that_takes_too_long_is_not_in_the_state() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    pve.node().clone_looks = 1000;
    workdir.vm(&with(small_vm(), "timeout_clone", json!(1)));
    let text = workdir.fails(&["apply"]);
    assert!(text.contains("timeout while waiting for task \"UPID:pve:"), "{text}");
    assert!(workdir.state().is_empty());
    assert!(pve.node().guests.contains_key(&101));
    // and once more: the number is taken
    let text = workdir.fails(&["apply"]);
    assert!(text.contains("unable to create VM 101: config file already exists"), "{text}");
    assert_eq!(pve.node().requests.iter().filter(|seen| seen.path.ends_with("/clone")).count(), 2);
}

#[test]
fn a_lock_that_stays_runs_into_the_deadline() {
    let pve = Pve::start();
    let workdir = Workdir::new(OLD, &pve);
    // a token without VM.Audit: every look at the status is refused, and that is swallowed
    pve.node()
        .rules
        .push(Rule { times: 1000, ..rule("GET", "/101/status/current", 403, "Permission check failed") });
    workdir.vm(&with(small_vm(), "timeout_clone", json!(1)));
    let text = workdir.fails(&["apply"]);
    assert!(text.contains("timeout while waiting for VM 101 configuration to become unlocked"), "{text}");
    assert!(tainted(&workdir));
}

#[test]
fn retries_adopt_a_stranger() {
    let stranger = json!({"name": "stranger", "scsi0": "local-lvm:vm-101-disk-0,size=2252M"});
    let vm = with(small_vm(), "clone", json!({"vm_id": 9001, "datastore_id": "local-lvm", "retries": 2}));
    // 0.93 fails cleanly
    let pve = Pve::start();
    pve.node().add(101, "running", &stranger);
    let workdir = Workdir::new(OLD, &pve);
    workdir.vm(&vm);
    assert!(workdir.fails(&["apply"]).contains("config file already exists"));
    assert!(workdir.state().is_empty());
    // 0.111 takes it, and destroys it later
    let pve = Pve::start();
    pve.node().add(101, "running", &stranger);
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&vm);
    workdir.ok(&["apply"]);
    assert_eq!(pve.node().guests[&101].config["memory"], "512");
    workdir.ok(&["destroy"]);
    assert!(!pve.node().guests.contains_key(&101));
    // with one try it fails as well
    let pve = Pve::start();
    pve.node().add(101, "running", &stranger);
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    assert!(workdir.fails(&["apply"]).contains("config file already exists"));
    assert!(pve.node().guests[&101].config.get("memory").is_none());
}

#[test]
fn a_stop_with_warnings_is_taken_for_a_destroy() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());
        workdir.ok(&["apply"]);
        pve.node().exits.insert("qmstop", "WARNINGS: 1".into());
        if version == NEW {
            assert!(workdir.ok(&["destroy"]).contains("the lab says so"));
            assert!(workdir.state().is_empty());
        } else {
            assert!(workdir.fails(&["destroy"]).contains("WARNINGS: 1"));
            assert_eq!(workdir.state().len(), 1);
        }
        assert!(pve.node().guests.contains_key(&101));
    }
}

#[test]
fn a_failing_destroy_keeps_the_vm_in_the_state() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
    // one of the two wordings for a missing VM is not understood
    pve.node().rules.push(rule(
        "POST",
        "/status/stop",
        500,
        "unable to find configuration file for VM 101 on node 'pve'",
    ));
    assert!(workdir.fails(&["destroy"]).contains("unable to find configuration file for VM 101"));
    assert_eq!(workdir.state().len(), 1);
    // three tries at a 5xx, then it is an error
    pve.node().rules.push(Rule {
        times: 3,
        ..rule("DELETE", "/101/", 500, "can't remove VM 101 - protection mode enabled")
    });
    assert!(workdir.fails(&["destroy"]).contains("protection mode enabled"));
    assert_eq!(pve.node().requests.iter().filter(|seen| seen.method == "DELETE").count(), 3);
    assert_eq!(workdir.state().len(), 1);
    pve.node().rules.push(Rule { times: 2, ..rule("DELETE", "/101/", 596, "connection timed out") });
    workdir.ok(&["destroy"]);
    assert!(workdir.state().is_empty());
}

#[test]
fn a_vm_that_is_gone() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
    pve.node().guests.remove(&101);
    let plan = workdir.run(&["plan"]);
    assert!(plan.code == Some(2) && plan.text.contains("1 to add, 0 to change, 0 to destroy"), "{plan:?}");
    assert!(workdir.fails(&["destroy", "-refresh=false"]).contains("error retrieving VM status"));
    assert_eq!(workdir.state().len(), 1);
    workdir.ok(&["destroy"]);
    assert!(workdir.state().is_empty());
}

#[test]
fn a_silent_agent_is_only_a_warning() {
    for version in BOTH {
        let pve = Pve::start();
        pve.node().agent_error = Some((500, "QEMU guest agent is not running"));
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&with(small_vm(), "agent", json!({"enabled": true, "timeout": "300ms"})));
        let text = workdir.ok(&["apply"]);
        assert!(text.contains("error waiting for network interfaces from QEMU agent"), "{text}");
        assert!(text.contains("timeout while waiting for the QEMU agent on VM \"101\" to publish"), "{text}");
        assert!(!tainted(&workdir));
        // a refusal is not waited for
        pve.node().agent_error = Some((403, "Permission check failed (/vms/101, VM.GuestAgent.Audit)"));
        pve.take_requests();
        assert!(workdir.ok(&["plan"]).contains("Permission check failed"));
        assert_eq!(pve.take_requests().iter().filter(|seen| seen.path.contains("/agent/")).count(), 1);
    }
}

#[test]
fn a_busy_lock_file_is_tried_again() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    let busy = "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout";
    pve.node().rules.push(Rule { times: 2, ..rule("PUT", "/config", 500, busy) });
    pve.node()
        .rules
        .push(Rule { times: 2, ..rule("POST", "/start", 500, "got no worker upid - start worker failed") });
    pve.node().rules.push(Rule { times: 4, ..rule("PUT", "/resize", 500, busy) });
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
}

#[test]
fn a_disk_never_shrinks() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&with(small_vm(), "disk", json!({"interface": "scsi0", "size": 1})));
    let text = workdir.fails(&["apply"]);
    assert!(
        text.contains("disk resize failure: requested size (1G) is lower than current size (2.2G)"),
        "{text}"
    );
    assert!(tainted(&workdir));
}

#[test]
fn an_unknown_certificate_is_refused() {
    let pve = Pve::start();
    let provider =
        json!({"endpoint": format!("https://127.0.0.1:{}", pve.port), "api_token": crate::pve::TOKEN});
    let workdir = Workdir::with_provider(NEW, &provider);
    workdir.vm(&small_vm());
    assert!(workdir.fails(&["apply"]).contains("tls: failed to verify certificate"));
    let nobody = json!({"endpoint": "https://127.0.0.1:1", "api_token": crate::pve::TOKEN, "insecure": true});
    workdir.select(NEW, &nobody);
    assert!(workdir.fails(&["apply"]).contains("refused"));
    assert!(pve.take_requests().is_empty());
    assert!(workdir.state().iter().all(|(name, _)| name != ADDRESS));
}

#[test]
fn a_destroy_waits_until_the_vm_answers_no_more() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
    pve.node().ghost_looks = 3;
    pve.take_requests();
    workdir.ok(&["destroy"]);
    let requests = pve.take_requests();
    let deleted = requests.iter().position(|seen| seen.method == "DELETE").unwrap();
    let looks = requests[deleted..].iter().filter(|seen| seen.path.ends_with("/101/status/current")).count();
    assert_eq!((looks, pve.node().guests.contains_key(&101)), (4, false));
}
