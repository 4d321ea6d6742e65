//! VMs between the journal and the database: who asks is told what happened to them.

use crate::support::{Commands, WALLET, read, until, world};
use lab::Lab;

const CREATE: [&str; 4] = ["web-1", "--owner-wallet", WALLET, "--apply"];

#[test]
fn a_create_that_died_is_told_with_its_step_and_the_way_out() {
    let lab = Lab::builder().start().unwrap();
    lab.vm_with("kill@create.applying", "create", &CREATE);
    let before = world(&lab);
    let words = ["a create of this name started", "ago and died at step \"applying\" (VMID 100)"];
    let ways = ["run blockhost-vm-create again", "blockhost-vm-destroy web-1 to roll it back"];
    let asked = lab.vm("status", &["web-1"]).ok();
    assert_eq!(asked.out, "unknown\n");
    asked.says(&words).says(&ways);
    for verb in ["start", "stop", "kill", "resume"] {
        lab.vm(verb, &["web-1"]).fails(&["VM web-1 is unknown"]).says(&words).says(&ways);
    }
    let listed = lab.vm("list", &["--live"]).ok();
    assert_eq!(listed.out, "NAME\tSTATUS\tIP\tCREATED\n");
    listed.says(&["VM web-1: "]).says(&words);
    assert!(!lab.vm("list", &[]).ok().err.contains("web-1"), "the database's list asks nobody");
    world(&lab).same(&before, "asked");
    lab.made("web-1");
    assert_eq!(lab.vm("status", &["web-1"]).ok().err, "");
    assert_eq!(lab.vm("list", &["--live"]).ok().err, "");
}

#[test]
fn a_create_that_runs_is_not_told_as_dead() {
    let lab = Lab::builder().start().unwrap();
    let running = lab.vm_start("sleep@create.applying=20000", "create", &CREATE);
    until("the entry", || {
        lab.path("var/journal/web-1.json").exists() && {
            read(&lab.path("var/journal/web-1.json")).contains("applying")
        }
    });
    let asked = lab.vm("status", &["web-1"]).ok();
    asked.says(&["is still running at step \"applying\" (VMID 100; locked by create, PID "]);
    running.kill();
}

#[test]
fn a_refused_create_does_not_audit_anothers_vm_as_its_effect() {
    let lab = Lab::builder().start().unwrap();
    let first = lab.vm_start("sleep@create.ready=3000", "create", &CREATE);
    until("the entry", || lab.path("var/journal/web-1.json").exists());
    let second = lab.vm("create", &CREATE).fails(&["already exists"]);
    assert!(!second.err.contains("panicked"));
    first.wait().ok();
    let trail: Vec<serde_json::Value> = std::fs::read_dir(lab.path("var/audit"))
        .unwrap()
        .flat_map(|file| {
            let text = read(&file.unwrap().path());
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()
        })
        .collect();
    let of = |ok: bool| trail.iter().find(|line| (line["result"] == "ok") == ok).unwrap();
    assert_eq!((&of(true)["before"], &of(true)["after"]), (&serde_json::Value::Null, &"active".into()));
    assert_eq!(of(false)["before"], of(false)["after"], "{trail:?}");
}
