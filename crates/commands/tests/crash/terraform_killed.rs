//! Terraform killed inside create and destroy, tasks that go on without it, states torn while they were written.

use crate::create_sweep::REFERENCE;
use crate::site::{LONG, Site, end_of, run, start, sweep, wait_until};
use lab::Lab;
use lab::model::{FaultAction, Power};

const CREATE_STEPS: [&str; 7] = ["clone", "clone-task", "config", "disk", "resize", "start", "agent-wait"];
/// What destroy reaches: the machine is off by then, so there is no stop.
const DELETE_POINTS: [&str; 4] =
    ["read.vm.before", "read.vm.after", "delete.delete.before", "delete.delete.after"];

fn create_points() -> Vec<String> {
    CREATE_STEPS
        .iter()
        .flat_map(|step| ["before", "after"].map(|when| format!("create.{step}.{when}")))
        .collect()
}

fn hits(site: &Site, point: &str) -> u32 {
    let faults = site.lab().control().faults().unwrap();
    faults.iter().filter(|fault| fault.point == point).map(|fault| fault.hits).sum()
}

#[test]
fn h05_a_terraform_killed_anywhere_is_undone_by_the_create_that_ran_it() {
    let site = Site::new();
    let empty = site.world();
    for point in create_points() {
        let point = format!("provider.{point}");
        site.lab().control().fault(&point, FaultAction::Kill, 1).unwrap();
        let error = run(&mut site.create("web-1")).failed();
        assert_eq!(hits(&site, &point), 1, "{point} was not reached");
        assert!(error.contains("VM web-1 (VMID 100)") && error.contains("terraform"), "{point}: {error}");
        site.world().must_be(&empty, &format!("after terraform was killed at {point}"));
    }
    site.created("web-1");
    site.world().must_be(&REFERENCE.web_1, "after a create in peace");
}

#[test]
fn h06_an_error_at_any_step_of_the_provider_is_undone_and_told() {
    let site = Site::new();
    let empty = site.world();
    for step in CREATE_STEPS {
        let point = format!("provider.create.{step}.before");
        site.lab().control().fault(&point, FaultAction::error("the disk is on fire"), 1).unwrap();
        let error = run(&mut site.create("web-1")).failed();
        assert!(
            error.contains("VM web-1 (VMID 100)") && error.contains("the disk is on fire"),
            "{point}: {error}"
        );
        site.world().must_be(&empty, &format!("after an error at {point}"));
    }
    site.created("web-1");
    site.world().must_be(&REFERENCE.web_1, "after a create in peace");
}

#[test]
fn h05_h21_create_and_terraform_killed_together_leave_nothing_that_the_next_create_minds() {
    sweep(&create_points(), |point| {
        let site = Site::new();
        let point = format!("provider.{point}");
        site.lab().control().fault(&point, FaultAction::Kill, 1).unwrap();
        run(site.create("web-1").env("BLOCKHOST_FAULT", "kill@create.terraform")).was_killed();
        // At once: terraform may not have come to its end yet.
        let result = site.created("web-1").result();
        assert_eq!(hits(&site, &point), 1, "{point} was not reached");
        assert_eq!(result["vmid"], 100);
        site.world().must_be(&REFERENCE.web_1, "after the same create again");
    });
}

#[test]
fn h05_a_clone_that_goes_on_without_terraform_is_waited_for_and_removed() {
    for stage in ["temporary", "half"] {
        let site = Site::new();
        let empty = site.world();
        let control = site.lab().control();
        control.fault(&format!("task.qmclone.{stage}"), FaultAction::Slow { ms: 1500 }, 1).unwrap();
        control.fault("provider.create.clone.after", FaultAction::Kill, 1).unwrap();
        run(&mut site.create("web-1")).failed();
        assert_eq!(hits(&site, &format!("task.qmclone.{stage}")), 1);
        site.world().must_be(&empty, &format!("after a clone that went on from stage {stage}"));
    }
}

#[test]
fn h05_h07_a_clone_that_takes_long_keeps_its_vmid_until_it_is_over() {
    let site = Site::new();
    let control = site.lab().control();
    // Held until the faults are cleared: the others must not wait for it, nor touch it.
    control.fault("task.qmclone.temporary", FaultAction::Hang, 1).unwrap();
    control.fault("provider.create.clone.after", FaultAction::Kill, 1).unwrap();
    let mut killed = site.create("web-1");
    run(killed.env("BLOCKHOST_FAULT", "kill@create.terraform")).was_killed();
    control.wait_fault("provider.create.clone.after", LONG).unwrap();
    wait_until("terraform is gone", || !site.terraform_runs());
    let other = site.created("web-2");
    assert_eq!(other.result()["vmid"], 101);
    assert_eq!(other.result()["ip"], "192.168.122.201");
    assert!(
        other.err.contains("warning: VM web-1") && other.err.contains("its VMID and addresses stay held"),
        "{}",
        other.err
    );
    assert!(site.guests().contains(&100) && site.journal_step("web-1").is_some());
    control.clear_faults().unwrap();
    site.settle();
    site.destroyed("web-2");
    site.created("web-3");
    assert_eq!(site.journal_step("web-1"), None);
    assert_eq!(site.guests().len(), 1, "the stray clone is gone");
    assert_eq!(site.database()["allocated_ips"].as_array().unwrap().len(), 1);
}

#[test]
fn h44_a_terraform_killed_during_destroy_does_not_stop_it() {
    let cases = DELETE_POINTS;
    sweep(&cases, |point| {
        let site = Site::new();
        site.created("web-1");
        let point = format!("provider.{point}");
        site.lab().control().fault(&point, FaultAction::Kill, 1).unwrap();
        site.destroyed("web-1");
        assert_eq!(hits(&site, &point), 1, "{point} was not reached");
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    });
}

#[test]
fn h09_destroy_and_terraform_killed_together_are_completed_by_the_next_destroy() {
    let cases = DELETE_POINTS;
    sweep(&cases, |point| {
        let site = Site::new();
        site.created("web-1");
        let point = format!("provider.{point}");
        site.lab().control().fault(&point, FaultAction::Kill, 1).unwrap();
        run(site.destroy("web-1").env("BLOCKHOST_FAULT", "kill@destroy.running")).was_killed();
        assert_eq!(site.database()["vms"]["web-1"]["status"], "active");
        site.destroyed("web-1");
        assert_eq!(hits(&site, &point), 1, "{point} was not reached");
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    });
}

/// Somebody switches the machine on again after destroy has switched it off: terraform has to stop it, and the
/// fault meets it there.
fn destroyed_while_running(site: &Site, point: &str, fault: FaultAction) {
    let control = site.lab().control();
    control.fault("provider.read.vm.before", FaultAction::Slow { ms: 3000 }, 1).unwrap();
    control.fault(point, fault, 1).unwrap();
    let child = start(&mut site.destroy("web-1"));
    control.wait_fault("provider.read.vm.before", LONG).unwrap();
    control.power(100, Power::Running).unwrap();
    end_of(child).succeeded();
    assert_eq!(hits(site, point), 1, "{point} was not reached");
    site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
}

#[test]
fn h44_a_terraform_killed_while_it_stops_the_machine_does_not_stop_destroy() {
    sweep(&["before", "after"], |when| {
        let site = Site::new();
        site.created("web-1");
        destroyed_while_running(&site, &format!("provider.delete.stop.{when}"), FaultAction::Kill);
    });
}

#[test]
fn h44_a_stop_with_warnings_that_makes_the_provider_give_up_is_not_the_end() {
    let site = Site::of(Lab::builder().provider("0.111.1"));
    site.created("web-1");
    let warnings = FaultAction::Warnings { count: 1 };
    let control = site.lab().control();
    let before = control.last_call().unwrap();
    control.fault("provider.read.vm.before", FaultAction::Slow { ms: 3000 }, 1).unwrap();
    let child = start(&mut site.destroy("web-1"));
    control.wait_fault("provider.read.vm.before", LONG).unwrap();
    control.power(100, Power::Running).unwrap();
    control.fault("task.qmstop*", warnings, 1).unwrap();
    let ended = end_of(child).succeeded();
    assert_eq!(hits(&site, "task.qmstop*"), 1, "the provider's stop task was not reached");
    let calls = control.calls(before).unwrap();
    assert!(
        !calls.iter().any(|call| call.what.starts_with("DELETE ")),
        "the provider was meant to leave the machine: {calls:#?}"
    );
    assert!(ended.err.contains("Destruction complete"), "terraform said it was done: {}", ended.err);
    assert!(site.guests().is_empty());
    assert_eq!(site.database()["vms"]["web-1"]["status"], "destroyed");
}

#[test]
fn h44_a_destroy_of_an_unknown_address_is_not_believed() {
    let site = Site::new();
    site.created("web-1");
    let state = site.path("var/terraform/vms/web-1/terraform.tfstate");
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains(r#""name": "web_1""#));
    std::fs::write(&state, text.replace(r#""name": "web_1""#, r#""name": "renamed""#)).unwrap();
    site.destroyed("web-1");
    site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
}

#[test]
fn h52_h08_a_torn_state_is_restored_or_done_without() {
    let garbage = "\0{\"version\": 4, garb".repeat(1700);
    let cases = ["", &garbage].map(|torn| ["copy", "no copy"].map(|copy| (torn, copy)));
    for (torn, copy) in cases.into_iter().flatten() {
        let site = Site::new();
        site.created("web-1");
        let folder = site.path("var/terraform/vms/web-1");
        std::fs::write(folder.join("terraform.tfstate"), torn).unwrap();
        if copy == "no copy" {
            std::fs::remove_file(folder.join("terraform.tfstate.blockhost")).unwrap();
        }
        let ended = site.destroyed("web-1");
        let word = if copy == "copy" { "restored from" } else { "torn" };
        assert!(ended.err.contains(word), "{copy}: {}", ended.err);
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    }
}

#[test]
fn h52_a_state_torn_in_a_create_that_was_killed_hides_no_machine() {
    for torn in ["", "{\"version\": 4, \"resources\": ["] {
        let site = Site::new();
        run(site.create("web-1").env("BLOCKHOST_FAULT", "kill@write.state-copy.before")).was_killed();
        std::fs::write(site.path("var/terraform/vms/web-1/terraform.tfstate"), torn).unwrap();
        site.created("web-2");
        site.world().must_be(&REFERENCE.web_2, "after another create");
    }
}
