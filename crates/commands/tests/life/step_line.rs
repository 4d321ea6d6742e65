//! The line that changes on a terminal, and that nothing of it is anywhere else.

use crate::support::*;
use lab::Lab;
use lab::model::FaultAction;

/// The command with a terminal as its standard streams.
fn on_terminal(lab: &Lab, term: &str, verb: &str, arguments: &[&str]) -> Ended {
    test_support::on_terminal(lab.vm_command(verb, arguments).env("TERM", term), "")
}

/// What stays on the screen: indicatif erases its line (`ESC [2K`) before another text is written.
fn what_stays(output: &str) -> Vec<&str> {
    let last = |line: &'_ str| line.rfind("\u{1b}[2K").map_or(0, |at| at + "\u{1b}[2K".len());
    output.lines().map(|line| line[last(line)..].trim_end_matches('\r')).collect()
}

#[test]
fn a_terminal_shows_what_is_being_done_and_for_how_long() {
    let lab = Lab::builder().start().unwrap();
    let shown = on_terminal(&lab, "xterm", "create", &["web-1", "--no-web3", "--apply"]).ends(0).out;
    for step in [
        "VM web-1: checking the node and the configuration",
        "VM web-1: choosing a VMID and addresses",
        "VM web-1 (VMID 100): cloning and starting it (Terraform)",
        "VM web-1 (VMID 100): waiting for the guest agent, at most 180 s",
    ] {
        assert!(shown.contains(step), "{step} in {shown}");
    }
    assert!(shown.contains(" 0s"), "{shown}");
    let stays = what_stays(&shown);
    let results = stays.iter().filter(|line| line.contains(r#"{"status": "ok""#)).count();
    assert_eq!(results, 2, "{stays:#?}");
    assert!(!stays.iter().any(|line| line.contains("checking the node")), "{stays:#?}");

    lab.control().fault("agent.qm-destroy", FaultAction::Slow { ms: 1200 }, 1).unwrap();
    let shown = on_terminal(&lab, "xterm", "destroy", &["web-1"]).ends(0).out;
    assert!(shown.contains("VM web-1 (VMID 100): deleting it on the node"), "{shown}");
    assert!(shown.contains(" 1s"), "the time goes on: {shown}");
    assert_eq!(what_stays(&shown).last(), Some(&"VM web-1 is destroyed"), "{shown}");
}

#[test]
fn an_error_stands_on_a_line_of_its_own() {
    let lab = Lab::builder().start().unwrap();
    lab.control().fault("provider.create.clone", FaultAction::error("the disk is on fire"), 9).unwrap();
    let shown = on_terminal(&lab, "xterm", "create", &["web-1", "--no-web3", "--apply"]).ends(1).out;
    assert!(shown.contains("VM web-1: rolling back"), "{shown}");
    let stays = what_stays(&shown);
    assert!(stays.iter().any(|line| line.starts_with("error: VM web-1")), "{stays:#?}");
}

#[test]
fn pipes_dumb_terminals_quiet_and_verbose_commands_see_no_line_that_changes() {
    let lab = Lab::builder().start().unwrap();
    let made = lab.made("web-1");
    assert!(!made.err.contains('\u{1b}') && !made.err.contains('\r'), "{}", made.err);
    assert!(!made.err.contains("checking the node"), "{}", made.err);
    for (term, arguments) in [
        ("dumb", &["web-1"] as &[&str]),
        ("", &["web-1"]),
        ("xterm", &["web-1", "-q"]),
        ("xterm", &["web-1", "-v"]),
    ] {
        let shown = on_terminal(&lab, term, "stop", arguments).ends(0).out;
        assert!(
            !shown.contains('\u{1b}') && !shown.contains("waiting for the guest to shut down"),
            "{term} {arguments:?}: {shown}"
        );
        lab.vm("start", &["web-1"]).ends(0);
    }
}
