//! Faults at the named points, signals, and the end of terraform.

use crate::{
    pve::Pve,
    workdir::{NEW, Run, Workdir, small_vm, with},
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    time::{Duration, Instant},
};

fn fault(pve: &Pve, point: &str, answer: serde_json::Value) {
    pve.node().lab.as_mut().unwrap().insert(point.into(), answer);
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The provider processes that belong to a folder: theirs is the temporary folder in the environment.
fn providers(workdir: &Workdir) -> usize {
    let mark = format!("TMPDIR={}", workdir.path("tmp").display());
    let belongs = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let program = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&program).contains("terraform-provider-proxmox")
            && String::from_utf8_lossy(&environment).split('\0').any(|variable| variable == mark)
    };
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| belongs(&entry.path())).count()
}

fn full() -> serde_json::Value {
    with(small_vm(), "agent", json!({"enabled": true, "timeout": "5s"}))
}

#[test]
fn every_point_is_passed_in_order() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&full());
    let passed = || {
        let points = std::mem::take(&mut pve.node().points);
        points.iter().map(|point| point.trim_start_matches("provider.").to_string()).collect::<Vec<_>>()
    };
    let both = |steps: &[&str]| -> Vec<String> {
        steps.iter().flat_map(|step| [format!("{step}.before"), format!("{step}.after")]).collect()
    };
    workdir.ok(&["apply"]);
    let steps = ["clone", "clone-task", "config", "disk", "resize", "start", "agent-wait"];
    let steps: Vec<String> = steps.iter().map(|step| format!("create.{step}")).collect();
    let steps: Vec<&str> = std::iter::once("plan.vm")
        .chain(std::iter::once("plan.vm"))
        .chain(steps.iter().map(String::as_str))
        .collect();
    assert_eq!(passed(), both(&steps));
    workdir.ok(&["plan"]);
    let read = ["read.vm.before", "read.agent-wait.before", "read.agent-wait.after", "read.vm.after"];
    assert_eq!(passed(), [&read.map(String::from)[..], &both(&["plan.vm"])].concat());
    workdir.ok(&["destroy"]);
    let deleted: Vec<_> = passed().into_iter().filter(|point| point.starts_with("delete")).collect();
    assert_eq!(deleted, both(&["delete.stop", "delete.delete"]));
}

#[test]
fn an_update_has_points_too() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
    pve.node().points.clear();
    let mut vm = with(small_vm(), "started", json!(false));
    vm["disk"]["size"] = json!(4);
    workdir.vm(&vm);
    fault(&pve, "provider.update.stop.after", json!({"action": "error", "message": "broken by hand"}));
    assert!(workdir.fails(&["apply"]).contains("broken by hand"));
    let points: Vec<_> =
        pve.node().points.iter().filter(|point| point.contains(".update.")).cloned().collect();
    let steps = ["config", "disk", "resize", "stop"];
    let both = steps
        .iter()
        .flat_map(|step| ["before", "after"].map(|when| format!("provider.update.{step}.{when}")));
    assert_eq!(points, both.collect::<Vec<_>>());
    assert!(workdir.instance().get("status").is_none(), "tainted");
}

#[test]
fn errors_before_and_after_the_clone() {
    for (point, known) in [
        ("clone.before", false),
        ("clone.after", false),
        ("clone-task.before", false),
        ("clone-task.after", true),
        ("config.before", true),
        ("config.after", true),
        ("disk.before", true),
        ("disk.after", true),
        ("resize.before", true),
        ("resize.after", true),
        ("start.before", true),
        ("start.after", true),
        ("agent-wait.before", true),
        ("agent-wait.after", true),
    ] {
        let pve = Pve::start();
        let workdir = Workdir::new(NEW, &pve);
        workdir.vm(&full());
        fault(
            &pve,
            &format!("provider.create.{point}"),
            json!({"action": "error", "message": "broken by hand"}),
        );
        assert!(workdir.fails(&["apply"]).contains("broken by hand"), "{point}");
        let state = workdir.state();
        assert_eq!(state.len(), usize::from(known), "{point}");
        assert!(state.iter().all(|(_, instance)| instance["status"] == "tainted"), "{point}");
    }
}

#[test]
fn errors_in_plan_read_and_delete() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&full());
    workdir.ok(&["apply"]);
    for (verb, point) in [
        ("plan", "plan.vm.before"),
        ("plan", "plan.vm.after"),
        ("plan", "read.vm.before"),
        ("plan", "read.vm.after"),
        ("destroy", "delete.stop.before"),
        ("destroy", "delete.delete.before"),
        ("destroy", "delete.delete.after"),
    ] {
        fault(&pve, &format!("provider.{point}"), json!({"action": "error", "message": "broken by hand"}));
        assert!(workdir.fails(&[verb]).contains("broken by hand"), "{point}");
        assert_eq!(workdir.state().len(), 1, "{point}");
    }
    fault(&pve, "provider.read.vm.before", json!({"action": "slow", "ms": 700}));
    let start = Instant::now();
    workdir.ok(&["destroy"]);
    assert!(start.elapsed() >= Duration::from_millis(700));
}

#[test]
fn kill_takes_terraform_and_the_provider() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&full());
    fault(&pve, "provider.create.clone.after", json!({"action": "kill"}));
    let output = workdir.start(&["apply"]).wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{:?}", Run::new(&["apply"], output));
    until("the provider is gone", || providers(&workdir) == 0);
    // what the node was told goes on; terraform knows nothing
    assert!(workdir.state().is_empty());
    assert!(pve.node().guests.contains_key(&101));
}

#[test]
fn a_provider_whose_terraform_was_killed_goes() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&full());
    fault(&pve, "provider.create.config.before", json!({"action": "hang"}));
    let mut terraform = workdir.start(&["apply"]);
    until("the point is reached", || {
        pve.node().points.iter().any(|point| point.ends_with("create.config.before"))
    });
    assert_eq!(providers(&workdir), 1);
    terraform.kill().unwrap();
    terraform.wait().unwrap();
    until("the provider is gone", || providers(&workdir) == 0);
    assert!(
        fs::read_dir(workdir.path("tmp"))
            .unwrap()
            .flatten()
            .all(|file| !file.file_name().to_string_lossy().starts_with("plugin"))
    );
}

#[test]
fn a_wish_to_stop_does_not_stop_a_create() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&full());
    fault(&pve, "provider.create.config.before", json!({"action": "slow", "ms": 500}));
    let terraform = workdir.start(&["apply"]);
    until("the point is reached", || {
        pve.node().points.iter().any(|point| point.ends_with("create.config.before"))
    });
    let pid = Pid::from_raw(i32::try_from(terraform.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let run = Run::new(&["apply"], terraform.wait_with_output().unwrap());
    assert!(run.code == Some(1) && run.text.contains("execution halted"), "{run:?}");
    assert!(workdir.instance().get("status").is_none(), "tainted");
    assert_eq!(pve.node().guests[&101].status, "running");
    workdir.ok(&["plan"]);
}

#[test]
fn ctrl_c_ends_the_wait_for_the_agent_only() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    pve.node().agent_error = Some((500, "QEMU guest agent is not running"));
    workdir.vm(&with(small_vm(), "agent", json!({"enabled": true, "timeout": "10m"})));
    let terraform = workdir.start(&["apply"]);
    let waiting = || pve.node().requests.iter().any(|seen| seen.path.contains("/agent/"));
    until("the agent is waited for", waiting);
    let group = Pid::from_raw(i32::try_from(terraform.id()).unwrap()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    let run = Run::new(&["apply"], terraform.wait_with_output().unwrap());
    assert!(run.text.contains("error waiting for network interfaces from QEMU agent"), "{run:?}");
    assert!(workdir.instance().get("status").is_none(), "tainted");
    assert_eq!(pve.node().guests[&101].status, "running");
}

#[test]
fn nobody_starts_a_provider_by_hand() {
    let program = env!("CARGO_BIN_EXE_terraform-provider-proxmox");
    let output = std::process::Command::new(program).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("terraform starts it, people do not"));
}
