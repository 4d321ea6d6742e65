//! The root agent answers late, not at all, or closes: the command asks for the state and never guesses (H48).

use crate::create_sweep::REFERENCE;
use crate::site::{Ended, Site, run, sweep};
use lab::model::FaultAction;

/// Longer than a command waits for one answer.
const LATE: FaultAction = FaultAction::Slow { ms: 5_000 };
const SHORT: &str = "limit@agent-action=3000";

fn asked(ended: &Ended) {
    assert!(ended.err.contains("asking for its state"), "{}", ended.err);
}

#[test]
fn h48_an_agent_that_closes_around_the_power_off_does_not_stop_destroy() {
    sweep(&["before", "after"], |when| {
        let site = Site::new();
        site.created("web-1");
        site.lab().control().fault(&format!("agent.qm-stop.{when}"), FaultAction::Kill, 1).unwrap();
        asked(&site.destroyed("web-1"));
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    });
}

#[test]
fn h48_an_agent_that_closes_around_the_deletion_does_not_stop_destroy() {
    sweep(&["before", "after"], |when| {
        let site = Site::new();
        site.created("web-1");
        let control = site.lab().control();
        control.fault(&format!("agent.qm-destroy.{when}"), FaultAction::Kill, 1).unwrap();
        asked(&site.destroyed("web-1"));
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    });
}

#[test]
fn h48_a_power_off_that_is_carried_out_too_late_is_seen() {
    let site = Site::new();
    site.created("web-1");
    site.lab().control().fault("agent.qm-stop", LATE, 1).unwrap();
    let ended = run(site.destroy("web-1").env("BLOCKHOST_FAULT", SHORT)).ok();
    asked(&ended);
    assert!(ended.err.contains("did not answer qm-stop within"), "{}", ended.err);
    site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
}

#[test]
fn h48_a_deletion_that_is_carried_out_too_late_is_seen() {
    let site = Site::new();
    site.created("web-1");
    let control = site.lab().control();
    control.fault("agent.qm-destroy", LATE, 1).unwrap();
    let ended = run(site.destroy("web-1").env("BLOCKHOST_FAULT", SHORT)).ok();
    assert!(ended.err.contains("did not answer qm-destroy within"), "{}", ended.err);
    site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
}

#[test]
fn h20_another_packages_action_that_holds_the_lane_is_waited_for() {
    // Hidden services take up to 30 s in the agent's one lane; the commands' own limits are longer.
    let site = Site::new();
    for (verb, action) in [("create", "snippet-put"), ("destroy", "vm-state")] {
        site.lab().control().fault(&format!("agent.{action}"), FaultAction::Slow { ms: 20_000 }, 1).unwrap();
        if verb == "create" {
            site.created("web-1");
        } else {
            let ended = site.destroyed("web-1");
            assert!(!ended.err.contains("did not answer"), "{}", ended.err);
        }
    }
}

#[test]
fn h48_a_snippet_that_is_written_too_late_does_not_stay() {
    let site = Site::new();
    let empty = site.world();
    site.lab().control().fault("agent.snippet-put", LATE, 1).unwrap();
    let error = run(site.create("web-1").env("BLOCKHOST_FAULT", SHORT)).failed();
    assert!(error.contains("did not answer snippet-put within"), "{error}");
    site.world().must_be(&empty, "after the create was undone");
    site.created("web-1");
    site.world().must_be(&REFERENCE.web_1, "after the same create again");
}

#[test]
fn h48_an_agent_that_closes_during_create_leaves_nothing_behind() {
    // Each action of a create, the second snippet and the look at the machine included.
    let cases = ["snippet-put.before", "snippet-put.after", "vm-state.before", "vm-state.after"];
    let site = Site::new();
    let empty = site.world();
    for case in cases {
        site.lab().control().fault(&format!("agent.{case}"), FaultAction::Kill, 1).unwrap();
        let error = run(&mut site.create("web-1")).failed();
        assert!(error.contains("closed the connection"), "{case}: {error}");
        site.world().must_be(&empty, &format!("after the agent closed at {case}"));
    }
    site.created("web-1");
    site.world().must_be(&REFERENCE.web_1, "after a create in peace");
}

#[test]
fn h48_an_agent_that_closes_during_undo_is_asked_for_the_state() {
    sweep(&["qm-stop.before", "qm-stop.after", "qm-destroy.before", "qm-destroy.after"], |case| {
        let site = Site::new();
        let empty = site.world();
        let control = site.lab().control();
        control.fault("provider.create.start.after", FaultAction::error("no"), 1).unwrap();
        control.fault(&format!("agent.{case}"), FaultAction::Kill, 1).unwrap();
        let ended = run(&mut site.create("web-1"));
        asked(&ended);
        let error = ended.failed();
        assert!(!error.contains("rolling back failed as well"), "{error}");
        site.world().must_be(&empty, "after the undo");
    });
}

#[test]
fn h48_h07_an_agent_that_is_gone_during_undo_keeps_everything_held() {
    let site = Site::new();
    let control = site.lab().control();
    control.fault("provider.create.start.after", FaultAction::error("no"), 1).unwrap();
    let ended = site.created_while_the_agent_fails("web-1", FaultAction::Garbage);
    let error = ended.failed();
    assert!(error.contains("is not JSON") && error.contains("stay reserved"), "{error}");
    assert_eq!(site.guests(), [100]);
    control.clear_faults().unwrap();
    control.stop_root_agent().unwrap();
    let refused = run(&mut site.destroy("web-1")).failed();
    assert!(refused.contains("blockhost-root-agent"), "{refused}");
    assert_eq!(site.guests(), [100]);
    assert_eq!(site.database()["allocated_ips"][0], "192.168.122.200");
    control.restart_root_agent(0).unwrap();
    site.created("web-1");
    site.world().must_be(&REFERENCE.web_1, "after the same create again");
}
