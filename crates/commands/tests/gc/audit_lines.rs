//! What is done to a VM besides what a command was asked for has a line of its own in the audit trail.

use crate::support::{Site, Vm, due, expired, paid, run};
use lab::model::Power;
use serde_json::Value;

fn lines(site: &Site, verb: &str) -> Vec<Value> {
    let files = std::fs::read_dir(site.path("var/audit")).into_iter().flatten().flatten();
    let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|line: &Value| line["verb"] == verb).collect()
}

#[track_caller]
fn the_only_line(site: &Site, verb: &str, vm: &str, vmid: u32, status: [Option<&str>; 2]) {
    let lines = lines(site, verb);
    assert_eq!(lines.len(), 1, "{verb}: {lines:?}");
    let line = &lines[0];
    assert_eq!((&line["vm"], &line["vmid"]), (&vm.into(), &vmid.into()), "{line}");
    assert_eq!([line["before"].as_str(), line["after"].as_str()], status, "{line}");
    assert!(line["result"].as_str().unwrap().starts_with("ok"), "{line}");
}

#[test]
fn gc_leaves_a_line_for_what_it_finishes_and_sets_right() {
    let runs = Vm { running: true, ..due("runs", 110) };
    let site = Site::with(&[paid("paid-1", 100), paid("paid-2", 101), paid("paid-3", 102), runs]);
    // A create that died, a destroy that died after its machine was gone.
    let mut create = site.verb("create", &["dead-1", "--no-web3", "--apply"]);
    create.env("BLOCKHOST_FAULT", "kill@create.applied");
    run(create).was_killed();
    let vmid = site.guests().into_iter().find(|(_, guest)| guest.name == "dead-1").unwrap().0;
    let mut destroy = site.verb("destroy", &["paid-3"]);
    destroy.env("BLOCKHOST_FAULT", "kill@destroy.gone");
    run(destroy).was_killed();
    site.gc(&["--execute"]).ok();
    the_only_line(&site, "undo-create", "dead-1", vmid, [None, None]);
    the_only_line(&site, "finish-destroy", "paid-3", 102, [None, Some("destroyed")]);
    the_only_line(&site, "switch-off", "runs", 110, [Some("suspended"); 2]);
    // Nothing is done twice, and nothing is told twice.
    site.gc(&["--execute"]).ok();
    assert_eq!(lines(&site, "undo-create").len() + lines(&site, "finish-destroy").len(), 2);
}

#[test]
fn a_vm_that_gc_starts_again_has_a_line() {
    let site = Site::with(&[expired("over", 100), paid("paid", 101)]);
    site.gc_with("kill@gc.off", &[]).was_killed();
    assert_eq!(site.guest(100).power, Power::Stopped);
    site.renew("over", 30);
    site.gc(&["--execute"]).ok();
    the_only_line(&site, "start-again", "over", 100, [Some("active"); 2]);
}

#[test]
fn a_record_that_the_journal_puts_back_has_a_line() {
    let site = Site::with(&[paid("paid", 101)]);
    let before = site.database();
    let mut create = site.verb("create", &["web-1", "--no-web3", "--apply"]);
    create.env("BLOCKHOST_FAULT", "kill@create.registered");
    run(create).was_killed();
    let vmid = site.record("web-1")["vmid"].as_u64().unwrap();
    // Somebody writes the copy that he had read before.
    site.write_as_another(|all| *all = before);
    site.gc(&["--execute"]).ok();
    the_only_line(&site, "restore-record", "web-1", u32::try_from(vmid).unwrap(), [None, Some("active")]);
}
