//! Several VMs named at once: each has its own outcome, and on a terminal somebody is asked before several go.

use crate::support::{Site, due, everything, expired, in_grace, paid, run};
use std::process::Command;
use test_support::Ended;

/// On a terminal that draws no line anew, whatever the terminal of the test.
fn on_terminal(command: &Command, typed: &str) -> Ended {
    let mut plain = Command::new(command.get_program());
    plain.args(command.get_args()).envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    test_support::on_terminal(plain.env("TERM", "dumb"), typed)
}

fn site() -> Site {
    Site::with(&[paid("web-1", 100), paid("web-2", 101), paid("web-3", 102), in_grace("off", 110)])
}

#[test]
fn each_vm_has_its_own_outcome_and_one_failure_keeps_no_other() {
    let site = site();
    let said = run(site.verb("stop", &["web-1", "nobody", "web-2", "web-1"]));
    let said = said.fails_in_part(&["error: VM nobody is unknown"]);
    assert_eq!(said.out, "");
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!([lines[0], lines[2]], ["VM web-1 is off", "VM web-2 is off"], "each once: {said:?}");
    assert_eq!(lines[3..], ["error: 1 of 3 VMs could not be handled; see above"]);
    assert!(!site.runs(100) && !site.runs(101) && site.runs(102));
    let said = run(site.verb("start", &["web-1", "web-2", "web-3"])).ok();
    assert_eq!(said.err, "VM web-1 is running\nVM web-2 is running\nVM web-3 is already running\n");
    assert_eq!(run(site.verb("kill", &["web-1", "web-2"])).ok().err, "VM web-1 is off\nVM web-2 is off\n");
    let said = run(site.verb("resume", &["off", "web-2", "--add-days", "3"])).ok();
    said.says(&["VM off is active again", "VM web-2 was off and is running again"]);
    // Programs that name one see what they always saw.
    run(site.verb("stop", &["nobody"])).fails_in_one_line(&["error: VM nobody is unknown"]);
    run(site.verb("start", &[])).ends(2).says(&["NAME"]);
    run(site.verb("start", &["web-1", "../x"])).ends(2);
}

#[test]
fn several_are_destroyed_and_nobody_is_asked_where_there_is_no_terminal() {
    let site = site();
    run(site.verb("protect", &["web-2", "on"])).ok();
    let said = run(site.verb("destroy", &["web-1", "web-2", "never-made", "web-3"]));
    let said = said.fails_in_part(&["error: VM web-2 is protected"]);
    assert_eq!(said.out, "VM web-1 is destroyed\nVM web-3 is destroyed\n");
    site.is_destroyed("web-1", 100);
    site.is_destroyed("web-3", 102);
    assert!(site.runs(101));
}

#[test]
fn on_a_terminal_somebody_is_asked_before_several_are_destroyed() {
    let site = site();
    let before = everything(&site);
    let several = site.verb("destroy", &["web-1", "web-2"]);
    for answer in ["n\n", "\n", "what\n"] {
        let said = on_terminal(&several, answer).ends(1);
        assert!(said.out.contains("Destroy 2 VMs with their disks: web-1, web-2? [y/N]"), "{said:?}");
        assert!(said.out.contains("error: VMs web-1, web-2: not confirmed; nothing was done"), "{said:?}");
    }
    assert!(everything(&site) == before);
    let said = on_terminal(&several, "y\n").ends(0);
    assert!(said.out.contains("VM web-1 is destroyed\nVM web-2 is destroyed\n"), "{said:?}");
    // One is not asked about, nor several with the flag.
    let said = on_terminal(&site.verb("destroy", &["web-3"]), "").ends(0);
    assert!(!said.out.contains("[y/N]") && said.out.contains("VM web-3 is destroyed"), "{said:?}");
    let said = on_terminal(&site.verb("destroy", &["web-3", "off", "--yes"]), "").ends(0);
    assert!(!said.out.contains("[y/N]") && said.out.contains("VM off is destroyed"), "{said:?}");
}

#[test]
fn closing_several_records_needs_one_answer() {
    let site = site();
    run(site.verb("destroy", &["web-1", "web-2", "--forget"])).fails(&[
        "VMs web-1, web-2",
        "nobody can be asked",
        "--yes",
    ]);
    assert_eq!([site.status("web-1"), site.status("web-2")], ["active", "active"]);
    let forget = site.verb("destroy", &["web-1", "web-2", "--forget"]);
    let said = on_terminal(&forget, "n\n").ends(1);
    assert!(said.out.contains("Close the records of 2 VMs (web-1, web-2)"), "{said:?}");
    // Somebody has deleted both by hand.
    for vmid in [100, 101] {
        site.lab.control().remove_guest(vmid).unwrap();
    }
    run(site.verb("destroy", &["web-1", "web-2", "--forget", "--yes"])).ok();
    assert_eq!([site.status("web-1"), site.status("web-2")], ["destroyed", "destroyed"]);
}

#[test]
fn on_a_terminal_gc_asks_before_it_handles_several() {
    let site = Site::with(&[
        expired("web-1", 100),
        due("web-2", 101),
        paid("p-1", 110),
        paid("p-2", 111),
        paid("p-3", 112),
    ]);
    let before = everything(&site);
    let execute = site.verb("gc", &["--execute"]);
    let said = on_terminal(&execute, "n\n").ends(1);
    assert!(said.out.contains("web-1  would be suspended"), "{said:?}");
    assert!(said.out.contains("Suspend 1 and destroy 1 of these VMs? [y/N]"), "{said:?}");
    assert!(said.out.contains("error: not confirmed; nothing was done"), "{said:?}");
    assert!(everything(&site) == before);
    // One is no reason to ask.
    let said = on_terminal(&site.verb("gc", &["--execute", "--destroy-only"]), "").ends(0);
    assert!(!said.out.contains("[y/N]") && said.out.contains("Done: 0 suspended, 1 destroyed"), "{said:?}");
    site.place(&[due("web-3", 120)]);
    let said = on_terminal(&execute, "y\n").ends(0);
    assert!(said.out.contains("Done: 1 suspended, 1 destroyed, 0 failed"), "{said:?}");
    site.place(&[due("web-4", 121), due("web-5", 122)]);
    let said = on_terminal(&site.verb("gc", &["--execute", "--yes"]), "").ends(0);
    assert!(!said.out.contains("[y/N]") && said.out.contains("2 destroyed"), "{said:?}");
    // The timer has no terminal.
    site.place(&[due("web-6", 123), due("web-7", 124)]);
    let said = site.gc(&["--execute"]).ok();
    assert!(said.out.contains("2 destroyed") && !said.err.contains("[y/N]"), "{said:?}");
}

#[test]
fn after_a_signal_no_other_vm_is_begun() {
    let site = site();
    let running = site.held_at("resume.running", 1500, site.verb("resume", &["off", "web-1"]));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(running.pid()).unwrap()).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let said = running.wait().ends(1);
    assert!(said.err.contains("error: VM web-1: nothing was done: "), "{said:?}");
    assert!(!said.err.contains("VM web-1 is already active"), "{said:?}");
}
