//! SIGTERM and SIGINT: a caller that gives up. What was begun is ended cleanly.

use crate::create_sweep::REFERENCE;
use crate::site::{Ended, LONG, Running, Site, run, start, sweep, until};
use lab::Lab;
use lab::model::{AgentMode, FaultAction};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;

#[derive(Debug, Clone, Copy)]
struct Caller(Signal, u32);

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} times", self.0, self.1)
    }
}

const CALLERS: [Caller; 3] = [Caller(Signal::TERM, 1), Caller(Signal::INT, 1), Caller(Signal::TERM, 3)];

impl Caller {
    /// Gives up on a command.
    fn gives_up(self, child: Running) -> Ended {
        let pid = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
        for _ in 0..self.1 {
            // After the first the command may have ended.
            let _ = kill_process(pid, self.0);
        }
        child.wait()
    }
}

#[track_caller]
fn interrupted(ended: Ended) {
    let error = ended.failed();
    assert!(error.contains("interrupted by a signal"), "{error}");
}

#[test]
fn a_create_that_is_told_to_end_while_it_queues_takes_nothing() {
    sweep(&CALLERS, |caller| {
        let site = Site::of(Lab::builder().db_yaml("max_parallel_creates: 1\n"));
        let control = site.lab().control();
        control.fault("task.qmclone.half", FaultAction::Hang, 1).unwrap();
        let first = start(&mut site.create("web-2"));
        control.wait_fault("task.qmclone.half", LONG).unwrap();
        let before = site.database();
        let second = start(&mut site.create("web-1"));
        until("it has a ticket", || site.path("run/creates/2").exists());
        interrupted(caller.gives_up(second));
        assert_eq!(site.database(), before);
        assert_eq!(site.journal_step("web-1"), None);
        control.clear_faults().unwrap();
        first.wait().ok();
        site.world().must_be(&REFERENCE.web_2, "after the other create");
    });
}

#[test]
fn h05_a_create_that_is_told_to_end_while_terraform_works_is_undone() {
    sweep(&CALLERS, |caller| {
        let site = Site::new();
        let empty = site.world();
        let control = site.lab().control();
        for point in ["provider.create.clone.after", "provider.create.start.before"] {
            control.fault(point, FaultAction::Slow { ms: 1500 }, 1).unwrap();
            let child = start(&mut site.create("web-1"));
            control.wait_fault(point, LONG).unwrap();
            interrupted(caller.gives_up(child));
            site.world().must_be(&empty, &format!("after {caller} at {point}"));
            control.clear_faults().unwrap();
        }
    });
}

#[test]
fn h05_a_create_that_is_told_to_end_while_the_guest_boots_is_undone() {
    sweep(&CALLERS, |caller| {
        let site = Site::of(Lab::builder().agent(AgentMode::Never));
        let empty = site.world();
        let control = site.lab().control();
        let child = start(&mut site.create("web-1"));
        until("the guest agent is asked", || {
            control.points().unwrap().iter().any(|point| point.contains("/agent/ping"))
        });
        interrupted(caller.gives_up(child));
        site.world().must_be(&empty, "after the create was told to end");
    });
}

#[test]
fn h09_a_destroy_that_is_told_to_end_can_be_run_again() {
    sweep(&CALLERS, |caller| {
        for point in ["agent.qm-stop.before", "agent.qm-destroy.before"] {
            let site = Site::new();
            site.created("web-1");
            let control = site.lab().control();
            control.fault(point, FaultAction::Slow { ms: 1500 }, 1).unwrap();
            let child = start(&mut site.destroy("web-1"));
            control.wait_fault(point, LONG).unwrap();
            interrupted(caller.gives_up(child));
            if site.database()["vms"]["web-1"]["status"] == "destroyed" {
                assert!(site.guests().is_empty());
            }
            site.destroyed("web-1");
            site.world().must_be(&REFERENCE.web_1_destroyed, "after another destroy");
        }
    });
}

#[test]
fn a_signal_after_registration_does_not_lose_the_result() {
    let site = Site::new();
    let control = site.lab().control();
    control.fault("agent.guard-set.before", FaultAction::Slow { ms: 1500 }, 1).unwrap();
    let child = start(&mut site.create("web-1"));
    control.wait_fault("agent.guard-set.before", LONG).unwrap();
    Caller(Signal::TERM, 2).gives_up(child).ok().result();
    site.world().must_be(&REFERENCE.web_1, "after a create that went on to its result");
    run(&mut site.create("web-1")).failed();
}
