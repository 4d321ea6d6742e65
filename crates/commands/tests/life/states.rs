//! `status` in every state: always exit 0, always one of four words.

use crate::support::{Commands, Ended, edit_record, record, until};
use lab::Lab;
use lab::model::{FaultAction, NewGuest, Power};
use std::time::{Duration, Instant};

#[track_caller]
fn status(lab: &Lab, name: &str, word: &str) -> Ended {
    let said = lab.vm("status", &[name]).ok();
    assert_eq!(said.out, format!("{word}\n"), "{said:?}");
    said
}

#[test]
fn running_stopped_paused_and_destroyed() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    assert_eq!(status(&lab, "web-1", "active").err, "");
    lab.control().power(100, Power::Paused).unwrap();
    assert_eq!(status(&lab, "web-1", "suspended").err, "");
    lab.control().power(100, Power::Running).unwrap();
    status(&lab, "web-1", "active");
    lab.control().power(100, Power::Stopped).unwrap();
    assert_eq!(status(&lab, "web-1", "suspended").err, "");
    // What the database says does not matter while the node answers.
    edit_record(&lab, "web-1", |record| {
        record.insert("status".into(), "suspended".into());
    });
    lab.control().power(100, Power::Running).unwrap();
    status(&lab, "web-1", "active");
    lab.vm("destroy", &["web-1"]).ok();
    assert_eq!(status(&lab, "web-1", "destroyed").err, "");
    // Somebody else's machine has the VMID by now.
    lab.control()
        .add_guest(NewGuest { vmid: 100, name: "web-1".into(), running: true, ..NewGuest::default() })
        .unwrap();
    status(&lab, "web-1", "destroyed");
    let said = status(&lab, "never-made", "unknown").says(&["VM never-made", "no such record"]);
    assert!(!said.err.contains("did you mean"), "{said:?}");
    for odd in ["", "a_b", "../x", &"x".repeat(70), "${x}"] {
        let said = status(&lab, odd, "unknown");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn an_unknown_name_is_told_which_live_vm_may_be_meant() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.made("mail-1");
    lab.vm("destroy", &["mail-1"]).ok();
    let before = lab.control().snapshot().unwrap();
    for verb in ["start", "stop", "kill"] {
        lab.vm(verb, &["webb-1"]).fails(&["VM webb-1 is unknown", "did you mean web-1?"]);
        lab.vm(verb, &["100"]).fails(&["VM 100 is unknown", "VMID 100 is VM web-1"]);
        // A destroyed VM is no help.
        assert!(
            !lab.vm(verb, &["mail-2"]).fails(&["VM mail-2 is unknown"]).err.contains("did you mean"),
            "{verb}"
        );
    }
    status(&lab, "web-l", "unknown").says(&["did you mean web-1?"]);
    assert_eq!(lab.control().snapshot().unwrap(), before, "a suggestion is not acted on");
}

#[test]
fn a_machine_that_is_gone_or_a_stranger_is_unknown() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.made("web-2");
    lab.control().remove_guest(100).unwrap();
    status(&lab, "web-1", "unknown").says(&["VM web-1 (VMID 100)", "the node has no such VM"]);
    lab.control()
        .add_guest(NewGuest { vmid: 100, name: "web-1".into(), running: true, ..NewGuest::default() })
        .unwrap();
    // Its name alone does not make it ours.
    status(&lab, "web-1", "unknown").says(&["now belongs to another guest", "found web-1"]);
    // Ours with another name is still ours: the UUID counts.
    lab.control().rename(101, "renamed").unwrap();
    status(&lab, "web-2", "active");
    assert_eq!(record(&lab, "web-1")["status"], "active", "status changes nothing");
}

#[test]
fn h49_where_the_node_cannot_tell_the_database_is_believed() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().migrate(100, "pve2").unwrap();
    status(&lab, "web-1", "active").says(&["on node pve2", "its last known state"]);
    lab.control().migrate(100, "pve").unwrap();
    lab.control().mount_etc_pve(false).unwrap();
    status(&lab, "web-1", "active").says(&["not mounted", "its last known state"]);
    lab.control().mount_etc_pve(true).unwrap();
    for fault in [FaultAction::error("no"), FaultAction::Garbage, FaultAction::Huge, FaultAction::Kill] {
        lab.control().fault("agent.vm-state", fault, 1).unwrap();
        status(&lab, "web-1", "active").says(&["its last known state"]);
    }
    lab.control().stop_root_agent().unwrap();
    status(&lab, "web-1", "active").says(&["its last known state", "root-agent.sock", "does not exist"]);
}

#[test]
fn h23_a_silent_node_is_waited_for_2_s() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().fault("agent.vm-state", FaultAction::Slow { ms: 8_000 }, 1).unwrap();
    let begun = Instant::now();
    status(&lab, "web-1", "active").says(&["its last known state", "did not answer"]);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1_900) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn h23_a_silent_api_does_not_keep_status_waiting() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    // QEMU's monitor tells nobody, so the API is asked whether it is paused.
    std::fs::remove_file(lab.path("node/run/qemu-server/100.qmp")).unwrap();
    lab.control().fault("api.GET /nodes/{node}/qemu/{vmid}/status/current", FaultAction::Hang, 9).unwrap();
    let mut running = lab.vm_start("", "status", &["web-1"]);
    let begun = Instant::now();
    until("status answers", || !running.is_alive());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(running.wait().ok().out, "active\n");
    assert!(lab.control().faults().unwrap().iter().any(|fault| fault.hits > 0), "the API was not asked");
    lab.control().clear_faults().unwrap();
}
