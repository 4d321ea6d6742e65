//! Terraform killed inside create and destroy, tasks that go on without it, states torn while they were written.

use crate::create_sweep::REFERENCE;
use crate::site::{LONG, Site, run, start, sweep, until};
use lab::model::{FaultAction, Power};

const CREATE_STEPS: [&str; 7] = ["clone", "clone-task", "config", "disk", "resize", "start", "agent-wait"];

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
fn h57_a_killed_terraform_may_have_sent_a_clone_request_so_its_vmid_is_watched() {
    for (action, watched) in [(FaultAction::Kill, true), (FaultAction::error("the disk is on fire"), false)] {
        let site = Site::new();
        site.lab().control().fault("provider.create.clone.before", action, 1).unwrap();
        run(&mut site.create("web-1")).failed();
        assert_eq!(site.path("var/withheld/100.json").exists(), watched);
    }
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
    until("terraform is gone", || !site.terraform_runs());
    let other = site.created("web-2");
    assert_eq!(other.result()["vmid"], 101);
    assert_eq!(other.result()["ip"], "192.168.122.201");
    assert!(
        other.err.contains("warning: VM web-1") && other.err.contains("its VMID and addresses stay reserved"),
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
fn h09_one_that_is_started_while_destroy_deletes_it_is_stopped_again() {
    sweep(&["agent", "qm"], |by| {
        let site = Site::new();
        site.created("web-1");
        let control = site.lab().control();
        // Between our look and qm's own: the plugin finds it running, or qm does.
        let point = if *by == "agent" { "agent.qm-destroy.before" } else { "qm.destroy.before" };
        control.fault(point, FaultAction::Slow { ms: 1500 }, 1).unwrap();
        let child = start(&mut site.destroy("web-1"));
        control.wait_fault(point, LONG).unwrap();
        control.power(100, Power::Running).unwrap();
        child.wait().ok();
        assert_eq!(hits(&site, point), 1, "{point} was not reached");
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    });
}

#[test]
fn h02_h58_what_the_terraform_state_names_is_not_deleted() {
    // A state that was restored wrongly names the neighbour.
    let site = Site::new();
    site.created("web-1");
    site.created("web-2");
    let path = site.path("var/terraform/vms/web-1/terraform.tfstate");
    let mut state: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let attributes = &mut state["resources"][0]["instances"][0]["attributes"];
    assert_eq!(attributes["vm_id"], 100);
    (attributes["vm_id"], attributes["id"]) = (101.into(), "101".into());
    std::fs::write(&path, state.to_string()).unwrap();
    let neighbour = site.lab().control().snapshot().unwrap().guests[&101].clone();
    site.destroyed("web-1");
    assert_eq!(site.guests(), [101]);
    assert_eq!(site.lab().control().snapshot().unwrap().guests[&101], neighbour);
    assert!(!path.exists());
}

#[test]
fn h02_h58_create_applies_nothing_that_it_has_not_put_there() {
    // While the create waits before its apply, somebody restores an old directory over the new one.
    let restored: [(&str, &str); 4] = [
        ("terraform.tfstate", r#"{"version": 4, "serial": 9, "lineage": "a", "resources": []}"#),
        (
            "override.tf.json",
            r#"{"resource": {"proxmox_virtual_environment_vm": {"web_1": {"vm_id": 101}}}}"#,
        ),
        ("x.auto.tfvars", "proxmox_node = \"pve2\"\n"),
        ("web-1.tf.json", r#"{"resource": {"proxmox_virtual_environment_vm": {"web_1": {"vm_id": 101}}}}"#),
    ];
    for (file, text) in restored {
        let site = Site::new();
        site.created("web-2");
        let before = site.world();
        let trace = site.path("trace");
        let rules = format!("trace@{} sleep@create.applying=1500", trace.display());
        let child = start(site.create("web-1").env("BLOCKHOST_FAULT", rules));
        until("the apply is next", || {
            std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("create.applying"))
        });
        std::fs::write(site.path("var/terraform/vms/web-1").join(file), text).unwrap();
        let error = child.wait().failed();
        assert!(error.contains(file) && error.contains("VM web-1"), "{file}: {error}");
        std::fs::remove_file(&trace).unwrap();
        site.world().must_be(&before, file);
    }
}

#[test]
fn h44_a_state_that_holds_another_address_keeps_nothing() {
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
fn h52_h08_a_torn_state_is_done_without() {
    let garbage = "\0{\"version\": 4, garb".repeat(1700);
    for torn in ["", &garbage] {
        let site = Site::new();
        site.created("web-1");
        let folder = site.path("var/terraform/vms/web-1");
        std::fs::write(folder.join("terraform.tfstate"), torn).unwrap();
        site.destroyed("web-1");
        site.world().must_be(&REFERENCE.web_1_destroyed, "after destroy");
    }
}

#[test]
fn h52_a_state_torn_in_a_create_that_was_killed_hides_no_machine() {
    for torn in ["", "{\"version\": 4, \"resources\": ["] {
        let site = Site::new();
        run(site.create("web-1").env("BLOCKHOST_FAULT", "kill@create.applied")).was_killed();
        std::fs::write(site.path("var/terraform/vms/web-1/terraform.tfstate"), torn).unwrap();
        site.created("web-2");
        site.world().must_be(&REFERENCE.web_2, "after another create");
    }
}
