//! What gc sees to of the guard of VMs' networks: the hook script, without which no VM starts, and what VMs that are gone
//! have left (`facts/contract/root-agent.md#the-guard-of-a-vms-network`).

use crate::support::{Ended, Site, Vm, due, paid, read, run, start, until};
use lab::model::{FaultAction, NewGuest, Power};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

const NONE: [Vm; 0] = [];

fn script(site: &Site) -> PathBuf {
    site.path("node/var/lib/vz/snippets/blockhost-guard.sh")
}

fn qm(site: &Site, arguments: &[&str]) -> Ended {
    run({
        let mut command = site.lab.tool("qm");
        command.args(arguments);
        command
    })
}

/// Off, and the hook script's last phase has run.
fn stop(site: &Site) {
    qm(site, &["stop", "100"]).ok();
    until("the hook script's last phase", || !site.path("node/run/blockhost-guard/100.json").exists());
}

fn reapply(site: &Site) -> Ended {
    run(site.lab.command("blockhost-provisioner-reapply"))
}

/// What guards a VMID on the node: its rules, its host route, the decision, and what the last run noted.
fn left(site: &Site, vmid: u32) -> [bool; 4] {
    let node = site.lab.control().snapshot().unwrap();
    let route = format!("2a11:6c7:f04:276::{:x}", vmid - 98);
    [
        node.rules.contains_key(&format!("tap{vmid}i0")),
        node.routes.iter().any(|found| found.dst == route),
        node.guards.contains_key(&format!("{vmid}.json")),
        site.path(&format!("node/run/blockhost-guard/{vmid}.json")).exists(),
    ]
}

fn trail(site: &Site) -> String {
    let folder = std::fs::read_dir(site.path("var/audit")).unwrap();
    folder.map(|file| read(&file.unwrap().path())).collect()
}

#[test]
fn h36_a_hook_script_that_is_gone_is_put_back_so_that_vms_start() {
    let site = Site::with(&NONE);
    site.made("web-1");
    stop(&site);
    let spoil: [fn(&PathBuf); 2] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap(),
    ];
    for spoil in spoil {
        spoil(&script(&site));
        let before = site.lab.control().snapshot().unwrap();
        site.gc(&[]).ok();
        assert_eq!(site.lab.control().snapshot().unwrap(), before, "a dry run changes nothing");
        assert_ne!(qm(&site, &["start", "100"]).code, Some(0));
        site.gc(&["--execute"]).ok().says(&["the hook script of VMs was missing: put back (VM web-1)"]);
        qm(&site, &["start", "100"]).ok();
        assert_eq!(left(&site, 100), [true; 4]);
        stop(&site);
        let again = site.gc(&["--execute"]).ok();
        assert!(!again.err.contains("hook script"), "{again:?}");
    }
    assert_eq!(trail(&site).matches("\"verb\":\"guard-script\"").count(), 2);
}

#[test]
fn h36_a_hook_script_that_cannot_be_put_back_is_a_failure() {
    let site = Site::with(&NONE);
    site.made("web-1");
    std::fs::remove_file(script(&site)).unwrap();
    site.lab.control().fault("agent.guard-set", FaultAction::error("no room"), 100).unwrap();
    let said = site.gc(&["--execute"]).ends(1);
    said.says(&["the hook script of VMs is missing, so none of them starts", "no room", "web-1"]);
    site.lab.control().clear_faults().unwrap();
    // A VM that another operation works on is not waited for, and the next one does as well.
    site.made("web-2");
    std::fs::remove_file(script(&site)).unwrap();
    let lock = site.path("var/journal/web-1.lock");
    let held = std::fs::OpenOptions::new().create(true).append(true).open(&lock).unwrap();
    held.lock().unwrap();
    site.gc(&["--execute"]).ok().says(&["put back (VM web-2)"]);
    assert!(script(&site).exists());
}

#[test]
fn h51_a_hook_script_is_put_back_by_way_of_a_suspended_vm_too_which_stays_unguarded() {
    let site = Site::with(&NONE);
    site.made("web-1");
    site.write_as_another(|all| all["vms"]["web-1"]["expires_at"] = json!("2026-01-01T00:00:00+00:00"));
    site.gc(&["--execute", "--suspend-only", "--accept-share"]).ok();
    assert_eq!(site.status("web-1"), "suspended");
    std::fs::remove_file(script(&site)).unwrap();
    site.gc(&["--execute", "--suspend-only"]).ok().says(&["put back (VM web-1)"]);
    qm(&site, &["start", "100"]).ok();
    assert_eq!(left(&site, 100), [false, false, true, false]);
    let node = site.lab.control().snapshot().unwrap();
    assert!(node.guards["100.json"].contains("\"enabled\": false"), "{:?}", node.guards);
}

/// Two VMs that run; the first is then stopped and deleted by hand at once, so nothing has run its last phase.
fn one_is_gone() -> Site {
    let site = Site::with(&[due("old-1", 900)]);
    site.made("web-1");
    site.made("web-2");
    site.lab.control().remove_guest(100).unwrap();
    assert_eq!((left(&site, 100), left(&site, 101)), ([true; 4], [true; 4]));
    site
}

#[test]
fn h36_what_a_vm_that_is_gone_left_of_its_guard_is_removed() {
    for by in ["gc", "reapply", "gc, and its record is gone, too"] {
        let site = one_is_gone();
        if by.contains("record") {
            site.write_as_another(|all| drop(all["vms"].as_object_mut().unwrap().remove("web-1")));
        }
        let said = match by {
            "reapply" => reapply(&site).ok(),
            _ => site.gc(&["--execute", "--suspend-only"]).ok(),
        };
        let words = "VM web-1 (VMID 100): removed what was left of its network guard, because the VM is gone";
        said.says(&[words]);
        assert_eq!((left(&site, 100), left(&site, 101)), ([false; 4], [true; 4]), "{by}");
        assert_eq!(trail(&site).matches("\"verb\":\"clear-guard\"").count(), 1, "{by}");
        let again = site.gc(&["--execute", "--suspend-only"]).ok();
        assert!(!again.err.contains("guard") && !again.out.contains("guard"), "{again:?}");
    }
}

#[test]
fn h08_what_is_not_proven_to_be_gone_keeps_its_guard() {
    let site = one_is_gone();
    let stays = |what: &str, arguments: &[&str]| {
        let said = site.gc(arguments);
        assert_eq!(left(&site, 100), [true; 4], "{what}: {said:?}");
        said
    };
    let execute = ["--execute", "--suspend-only"];
    stays("a dry run", &[]).ok();
    // No answer is no absence.
    site.lab.control().fault("agent.guest-list", FaultAction::error("no list"), 100).unwrap();
    stays("no list", &execute).says(&["cannot tell which guards", "no list"]);
    site.lab.control().clear_faults().unwrap();
    // Nor is a state that cannot be asked for.
    site.lab.control().fault("agent.vm-state", FaultAction::error("no state"), 100).unwrap();
    let said = stays("no state", &execute);
    assert!(said.err.contains("VM web-1 (VMID 100): cannot query the node"), "{said:?}");
    site.lab.control().clear_faults().unwrap();
    // Somebody works on it.
    let held =
        std::fs::OpenOptions::new().create(true).append(true).open(site.path("var/journal/web-1.lock"));
    let held = held.unwrap();
    held.lock().unwrap();
    stays("locked", &execute).ok();
    drop(held);
    // A destroy of it died.
    let mut destroy = site.verb("destroy", &["web-1"]);
    run(destroy.env("BLOCKHOST_FAULT", "kill@destroy.begun"));
    assert!(site.path("var/journal/web-1.json").exists());
    let mut reapply = site.lab.command("blockhost-provisioner-reapply");
    run(&mut reapply).ok();
    assert_eq!(left(&site, 100), [true; 4], "whoever ends it clears it");
    site.gc(&execute).ok();
    assert_eq!(left(&site, 100), [false; 4]);
}

#[test]
fn h08_a_vm_that_is_restored_while_gc_works_keeps_its_guard() {
    let site = one_is_gone();
    let fault = FaultAction::Slow { ms: 2_000 };
    site.lab.control().fault("agent.vm-state.before", fault, 1).unwrap();
    let gc = start(&mut site.verb("gc", &["--execute", "--suspend-only"]));
    site.lab.control().wait_fault("agent.vm-state.before", Duration::from_secs(30)).unwrap();
    // The list of guests did not have it.
    let restored = NewGuest { vmid: 100, name: "web-1".into(), running: true, ..NewGuest::default() };
    site.lab.control().add_guest(restored).unwrap();
    gc.wait();
    assert!(left(&site, 100)[2] && left(&site, 100)[3], "{:?}", left(&site, 100));
    assert_eq!(trail(&site).matches("\"verb\":\"clear-guard\"").count(), 0);
}

#[test]
fn h01_the_guard_of_whoever_has_the_vmid_now_stays() {
    let site = one_is_gone();
    let stranger = NewGuest { vmid: 100, name: "theirs".into(), running: true, ..NewGuest::default() };
    site.lab.control().add_guest(stranger).unwrap();
    site.place(&[paid("web-3", 300)]);
    let before = site.lab.control().snapshot().unwrap();
    site.gc(&["--execute", "--suspend-only"]);
    reapply(&site);
    assert_eq!(site.lab.control().snapshot().unwrap().guests[&100], before.guests[&100]);
    assert!(left(&site, 100)[2], "the VMID is somebody's: doctor and its next start judge");
    assert_eq!(site.lab.control().snapshot().unwrap().guests[&100].power, Power::Running);
}
