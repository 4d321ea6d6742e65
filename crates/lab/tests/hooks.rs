//! Hook scripts as a real node of version 8.4 ran them (`facts/proxmox.md`).

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{api, node, ok, run, with_guest};
use lab::Lab;
use lab::model::Power;

const HOOK: &str = "local:snippets/hook.sh";

fn file(lab: &Lab) -> PathBuf {
    lab.path("node/var/lib/vz/snippets/hook.sh")
}

/// A script that notes phase, folder and tap, then does `more`.
fn script(lab: &Lab, more: &str) {
    let notes = lab.path("notes");
    let tap = lab.path("node/sys/class/net/tap100i0");
    let text = format!(
        "#!/bin/sh\nmaster=none; [ -d {tap} ] && master=alone; [ -e {tap}/brport ] && master=port\n\
         echo \"$1 $2 $(pwd) $# $master ${{HOME-unset}} ${{PVE_MIGRATED_FROM-unset}}\" >>{notes}\n{more}\n",
        tap = tap.display(),
        notes = notes.display()
    );
    std::fs::write(file(lab), text).unwrap();
    std::fs::set_permissions(file(lab), PermissionsExt::from_mode(0o755)).unwrap();
}

fn with_hook(more: &str) -> Lab {
    let lab = with_guest(node());
    ok(&lab, "qm stop 100");
    script(&lab, more);
    ok(&lab, &format!("qm set 100 --hookscript {HOOK}"));
    lab
}

fn notes(lab: &Lab) -> Vec<String> {
    let text = std::fs::read_to_string(lab.path("notes")).unwrap_or_default();
    text.lines().map(String::from).collect()
}

fn phases(lab: &Lab) -> Vec<String> {
    notes(lab).iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
}

#[track_caller]
fn until_phases(lab: &Lab, wanted: &[&str]) {
    test_support::until(&format!("{wanted:?}"), || phases(lab) == wanted);
}

fn power(lab: &Lab) -> Power {
    lab.control().snapshot().unwrap().guests[&100].power
}

#[test]
fn each_phase_has_its_moment() {
    let lab = with_hook("echo said by $2");
    assert!(ok(&lab, "qm start 100").contains("said by pre-start\nsaid by post-start\n"));
    ok(&lab, "qm stop 100");
    until_phases(&lab, &["pre-start", "post-start", "pre-stop", "post-stop"]);
    assert_eq!(
        notes(&lab),
        [
            "100 pre-start / 2 none /root ",
            "100 post-start / 2 port /root ",
            "100 pre-stop / 2 port /root ",
            "100 post-stop / 2 none unset unset",
        ]
    );
    ok(&lab, "qm start 100");
    ok(&lab, "qm shutdown 100");
    until_phases(
        &lab,
        &[
            "pre-start",
            "post-start",
            "pre-stop",
            "post-stop",
            "pre-start",
            "post-start",
            "pre-stop",
            "post-stop",
        ],
    );
}

#[test]
fn a_guest_that_ends_by_itself_has_the_last_phase_alone() {
    let lab = with_hook("");
    ok(&lab, "qm start 100");
    run(&lab, "qm guest exec 100 --synchronous 0 -- poweroff");
    until_phases(&lab, &["pre-start", "post-start", "post-stop"]);
}

#[test]
fn a_script_that_fails_keeps_the_guest_off_and_later_only_complains() {
    let lab = with_hook("[ $2 = pre-start ] && exit 3; exit 0");
    let said = run(&lab, "qm start 100");
    let words = |phase: &str, code: u8| {
        let command = format!("{} 100 {phase}", file(&lab).display());
        format!("hookscript error for 100 on {phase}: command '{command}' failed: exit code {code}\n")
    };
    assert_eq!((said.code, said.err), (255, words("pre-start", 3)));
    assert_eq!(power(&lab), Power::Stopped);
    script(&lab, "[ $2 = pre-start ] || exit 4; exit 0");
    let said = run(&lab, "qm start 100");
    assert_eq!((said.code, said.err), (0, words("post-start", 4)));
    assert_eq!(power(&lab), Power::Running);
    let said = run(&lab, "qm stop 100");
    assert_eq!((said.code, said.err), (0, words("pre-stop", 4)));
    assert_eq!(power(&lab), Power::Stopped);
}

#[test]
fn without_its_script_a_guest_does_not_start() {
    let lab = with_hook("");
    std::fs::remove_file(file(&lab)).unwrap();
    let said = run(&lab, "qm start 100");
    let words =
        format!("hookscript error for 100 on pre-start: script '{}' does not exist\n", file(&lab).display());
    assert_eq!((said.code, said.err), (255, words));
    assert_eq!(power(&lab), Power::Stopped);
    // Not by the node's own start either.
    script(&lab, "");
    ok(&lab, "qm set 100 --onboot 1");
    ok(&lab, "qm start 100");
    std::fs::remove_file(file(&lab)).unwrap();
    lab.control().reboot_node().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(power(&lab), Power::Stopped);
}

#[test]
fn the_node_runs_it_when_it_starts_its_guests() {
    let lab = with_hook("");
    ok(&lab, "qm set 100 --onboot 1");
    lab.control().reboot_node().unwrap();
    until_phases(&lab, &["pre-start", "post-start"]);
    assert_eq!(power(&lab), Power::Running);
}

#[test]
fn a_slow_script_holds_the_start_and_the_lock() {
    let lab = with_hook("[ $2 = post-start ] && sleep 1; exit 0");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| ok(&lab, "qm start 100"));
        until_phases(&lab, &["pre-start", "post-start"]);
        ok(&lab, "qm stop 100");
        assert!(begun.elapsed() >= Duration::from_secs(1), "the stop waits for the lock");
    });
}

#[test]
fn only_root_sets_it_and_only_to_what_can_be_run() {
    let lab = with_hook("");
    std::fs::set_permissions(file(&lab), PermissionsExt::from_mode(0o644)).unwrap();
    let said = run(&lab, &format!("qm set 100 --hookscript {HOOK}"));
    let words = format!(
        "400 Parameter verification failed.\nhookscript: script '{}' is not executable\n",
        file(&lab).display()
    );
    assert_eq!((said.code, said.err), (255, words));
    assert!(run(&lab, "qm set 100 --hookscript local:snippets/none.sh").err.contains("does not exist"));
    for body in ["hookscript=local:snippets/hook.sh", "delete=hookscript"] {
        let reply = api(&lab, "PUT", "/nodes/pve/qemu/100/config", body);
        assert_eq!((reply.code, reply.message()), (500, "only root can set 'hookscript' config"), "{body}");
    }
    ok(&lab, "pvesh set /nodes/pve/qemu/100/config --delete hookscript");
    assert!(!ok(&lab, "qm config 100").contains("hookscript"));
}

#[test]
fn a_clone_has_its_sources_script() {
    let lab = with_hook("");
    lab.control().set(9001, "hookscript", HOOK).unwrap();
    let reply = api(&lab, "POST", "/nodes/pve/qemu/9001/clone", "newid=101&full=1&pool=blockhost");
    assert_eq!(reply.code, 200);
    let config = || lab.control().snapshot().unwrap().guests[&101].config.clone();
    test_support::until("the clone is done", || !config().contains_key("lock"));
    assert_eq!(config()["hookscript"], HOOK);
}
