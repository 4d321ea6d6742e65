//! A clone request that reaches the node after whoever sent it is dead (H57): Proxmox carries it out all the same.

use crate::site::{Site, run, start, until};
use lab::model::FaultAction;
use std::process::Command;

const CLONE: &str = "api.POST /nodes/*/qemu/*/clone";

/// A create whose clone request is on its way when command, terraform and provider die.
fn killed_while_the_clone_is_on_its_way(site: &Site, name: &str, ms: u64) {
    killed_at(site, name, CLONE, FaultAction::Slow { ms });
}

/// A create that dies with terraform and provider while a request of it stands at this point of the node.
fn killed_at(site: &Site, name: &str, point: &str, fault: FaultAction) {
    let control = site.lab().control();
    control.fault(point, fault, 1).unwrap();
    let create = start(&mut site.create(name));
    control.wait_fault(point, crate::site::LONG).unwrap();
    create.kill();
    let folder = site.path(&format!("var/terraform/vms/{name}"));
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let is_here = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder);
        if let (true, Ok(pid)) = (is_here, process.file_name().to_str().unwrap_or_default().parse::<i32>()) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    until("terraform is gone", || !site.terraform_runs());
}

/// Without the shorter limit that the other tests here have.
fn plain(mut command: Command) -> Command {
    command.env_remove("BLOCKHOST_FAULT");
    command
}

fn gc(site: &Site) -> Command {
    let mut gc = site.lab().command("blockhost-vm-gc");
    gc.arg("--execute");
    gc
}

fn note(site: &Site, vmid: u32) -> bool {
    site.path(&format!("var/withheld/{vmid}.json")).exists()
}

#[test]
fn h57_a_clone_that_arrives_after_the_undo_is_found_and_removed() {
    // Whoever comes next looks again.
    for who in ["create", "destroy", "gc"] {
        let site = Site::new();
        killed_while_the_clone_is_on_its_way(&site, "web-1", 3000);
        // At once: nothing is there yet, and the VM is made under another number.
        let again = run(&mut plain(site.create("web-1"))).ok();
        assert_eq!(
            (&again.result()["vmid"], &again.result()["ip"]),
            (&101.into(), &"192.168.122.200".into())
        );
        assert!(note(&site, 100));
        until("the late clone is there", || site.guests().contains(&100));
        site.settle();
        let mut next = match who {
            "create" => site.create("web-2"),
            "destroy" => site.destroy("nobody"),
            _ => gc(&site),
        };
        let said = run(next.env_remove("BLOCKHOST_FAULT")).ok();
        assert!(
            said.err.contains("VM web-1 (VMID 100)") && said.err.contains("arrived late"),
            "{who}: {}",
            said.err
        );
        assert!(!site.guests().contains(&100), "{who}");
        assert!(site.guests().contains(&101), "{who}: the VM that was made again stays");
        assert!(note(&site, 100), "its start may be as late");
        let audit = std::fs::read_dir(site.path("var/audit")).unwrap().flatten();
        let lines: String = audit.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
        assert!(lines.contains("\"verb\":\"remove-late-clone\""), "{lines}");
        // Seen without it for long enough, the number can be used again.
        run(site.destroy("nobody").env("BLOCKHOST_FAULT", "limit@late-request=0")).ok();
        assert!(!note(&site, 100), "{who}");
    }
}

#[test]
fn h57_a_stranger_with_a_watched_vmid_is_left_alone() {
    let site = Site::new();
    killed_while_the_clone_is_on_its_way(&site, "web-1", 60_000);
    run(&mut plain(site.destroy("web-1"))).ok();
    assert!(note(&site, 100));
    let stranger =
        lab::model::NewGuest { vmid: 100, name: "somebody".into(), running: true, ..Default::default() };
    site.lab().control().add_guest(stranger).unwrap();
    let before = site.lab().control().snapshot().unwrap().guests[&100].clone();
    run(&mut plain(site.destroy("nobody"))).ok();
    assert_eq!(site.lab().control().snapshot().unwrap().guests[&100], before);
}

#[test]
fn h57_whoever_undoes_the_create_keeps_its_vmid_watched() {
    for who in ["create", "destroy", "gc"] {
        let site = Site::new();
        killed_while_the_clone_is_on_its_way(&site, "web-1", 60_000);
        let mut other = match who {
            "create" => site.create("web-2"),
            "destroy" => site.destroy("web-1"),
            _ => gc(&site),
        };
        run(other.env_remove("BLOCKHOST_FAULT")).ok();
        assert_eq!(site.journal_step("web-1"), None, "{who} undoes it");
        assert!(note(&site, 100), "{who}");
    }
}

#[test]
fn h57_a_clone_that_arrives_between_the_two_looks_of_the_undo_is_removed_by_it() {
    let site = Site::new();
    let control = site.lab().control();
    killed_at(&site, "web-1", CLONE, FaultAction::Hang);
    // The first look has seen nothing, and its answer is on its way.
    control.fault("agent.vm-state.after", FaultAction::Slow { ms: 2_000 }, 1).unwrap();
    let destroy = start(&mut plain(site.destroy("web-1")));
    control.wait_fault("agent.vm-state.after", crate::site::LONG).unwrap();
    control.release().unwrap();
    until("the late clone is there", || site.guests().contains(&100));
    destroy.wait().ok();
    site.settle();
    assert!(site.guests().is_empty(), "{:?}", site.guests());
}

#[test]
fn h57_a_vmid_whose_clone_is_still_under_way_is_not_given_up_however_late_it_is() {
    let site = Site::new();
    killed_while_the_clone_is_on_its_way(&site, "web-1", 1_500);
    site.lab().control().fault("task.qmclone.temporary", FaultAction::Hang, 1).unwrap();
    run(&mut plain(site.destroy("web-1"))).ok();
    until("the late clone has begun", || site.guests().contains(&100));
    let said = run(&mut site.destroy("nobody")).ok();
    assert!(said.err.contains("cannot tell yet whether a late request"), "{}", said.err);
    assert!(note(&site, 100) && site.guests().contains(&100));
    site.lab().control().clear_faults().unwrap();
    site.settle();
    run(&mut site.destroy("nobody")).ok();
    assert!(site.guests().is_empty());
}

#[test]
fn h57_a_start_that_the_node_still_works_on_keeps_the_vmid_of_what_was_undone() {
    let site = Site::new();
    killed_at(&site, "web-1", "task.qmstart", FaultAction::Hang);
    run(&mut plain(site.destroy("web-1"))).ok();
    assert!(site.guests().is_empty());
    // Its time is over, and its task is not.
    run(&mut site.destroy("nobody")).ok();
    assert!(note(&site, 100), "a start that arrives late would start whoever has the VMID by then");
    assert_eq!(site.created("web-2").result()["vmid"], 101);
    site.lab().control().clear_faults().unwrap();
    site.settle();
    run(&mut site.destroy("nobody")).ok();
    assert!(!note(&site, 100));
    assert_eq!(site.guests(), [101]);
}

#[test]
fn h57_a_clone_whose_answer_was_lost_keeps_its_vmid_watched() {
    for moment in ["before", "after"] {
        let site = Site::new();
        site.lab().control().fault(&format!("{CLONE}.{moment}"), FaultAction::Kill, 1).unwrap();
        let made = run(&mut plain(site.create("web-1"))).ok();
        assert_eq!(made.result()["vmid"], 101, "{moment}: {}", made.err);
        assert!(note(&site, 100), "{moment}");
        assert_eq!(site.guests(), [101], "{moment}");
    }
}

#[test]
fn destroy_says_that_it_undid_a_create() {
    let site = Site::new();
    run(site.create("web-1").env("BLOCKHOST_FAULT", "kill@create.ready")).was_killed();
    let said = site.destroyed("web-1");
    assert!(said.err.contains("its create was interrupted; it is rolled back"), "{}", said.err);
    assert!(!said.err.contains("nothing to do"), "{}", said.err);
    let said = site.destroyed("web-1");
    assert!(said.err.contains("is unknown"), "{}", said.err);
}
