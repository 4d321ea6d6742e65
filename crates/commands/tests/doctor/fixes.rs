//! `--fix`: each safe act, what it refuses, and what is never done.

use crate::support::*;
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

fn fix(lab: &Lab) -> Ended {
    run(&mut command(lab, DOCTOR, &["--fix", "--yes"]))
}

#[test]
fn without_a_terminal_it_asks_for_yes_and_changes_nothing() {
    let lab = healthy();
    lab.tool("ip").args(["-6", "route", "del", "2a11:6c7:f04:276::2", "dev", "vmbr0"]).status().unwrap();
    let before = lab.control().snapshot().unwrap();
    let refused = run(&mut command(&lab, DOCTOR, &["--fix"])).ends(3);
    assert!(
        refused.err.contains("--yes") && refused.err.contains("set route, isolation and limits of VM web-1"),
        "{refused:?}"
    );
    assert_eq!(lab.control().snapshot().unwrap(), before);
    run(&mut command(&lab, DOCTOR, &["--yes"])).ends(2);
}

#[test]
fn on_a_terminal_it_asks_and_a_no_changes_nothing() {
    let lab = healthy();
    lab.tool("ip").args(["-6", "route", "del", "2a11:6c7:f04:276::2", "dev", "vmbr0"]).status().unwrap();
    let before = lab.control().snapshot().unwrap();
    let refused = test_support::on_terminal(&command(&lab, DOCTOR, &["--fix"]), "n\n").ends(2);
    assert!(refused.out.contains("will set route, isolation and limits of VM web-1\n"), "{refused:?}");
    assert!(refused.out.contains("Do this? [y/N]") && refused.out.contains("[route-missing]"), "{refused:?}");
    assert_eq!(lab.control().snapshot().unwrap(), before);
    let agreed = test_support::on_terminal(&command(&lab, DOCTOR, &["--fix"]), "y\n").ends(0);
    assert!(agreed.out.contains("nothing found; checked 1 VM"), "{agreed:?}");
    assert_ne!(lab.control().snapshot().unwrap(), before);
}

#[test]
fn h36_route_and_isolation_are_set_again() {
    let lab = healthy();
    let healthy = lab.control().snapshot().unwrap();
    lab.tool("ip").args(["-6", "route", "del", "2a11:6c7:f04:276::2", "dev", "vmbr0"]).status().unwrap();
    lab.tool("bridge").args(["link", "set", "dev", "tap100i0", "isolated", "off"]).status().unwrap();
    assert_eq!(codes(&lab), ["port-not-isolated", "route-missing"]);
    let ended = fix(&lab).ok();
    assert_eq!(ended.out, "nothing found; checked 1 VM\n", "{ended:?}");
    assert_eq!(lab.control().snapshot().unwrap(), healthy);
    let again = fix(&lab).ok();
    assert!(!again.err.contains("done"), "{again:?}");
}

#[test]
fn h36_the_hook_is_set_again() {
    let lab = healthy();
    let hook = lab.control().snapshot().unwrap().guests[&100].config["hookscript"].clone();
    lab.control().unset(100, "hookscript").unwrap();
    assert_eq!(codes(&lab), ["hook-not-set"]);
    assert_eq!(fix(&lab).ok().out, "nothing found; checked 1 VM\n");
    assert_eq!(lab.control().snapshot().unwrap().guests[&100].config["hookscript"], hook);
}

#[test]
fn h36_a_hook_script_that_is_missing_is_found_and_put_back() {
    let lab = healthy();
    let script = lab.path("node/var/lib/vz/snippets/blockhost-guard.sh");
    let text = read(&script);
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(codes(&lab), ["hook-missing"], "Proxmox does not start a VM whose script it cannot run");
    std::fs::remove_file(&script).unwrap();
    assert_eq!(codes(&lab), ["hook-missing"]);
    assert_eq!(fix(&lab).ok().out, "nothing found; checked 1 VM\n");
    assert_eq!(read(&script), text);
}

#[test]
fn h36_what_a_vm_that_is_gone_left_of_its_guard_is_removed() {
    let lab = healthy();
    create(&lab, "web-2", "").ok();
    // Stopped and deleted by hand at once, and its record is lost, too.
    lab.control().remove_guest(101).unwrap();
    let path = lab.path("var/vms.json");
    let mut all: Value = serde_json::from_str(&read(&path)).unwrap();
    all["vms"].as_object_mut().unwrap().remove("web-2").unwrap();
    write(&path, &all.to_string());
    let rules = |lab: &Lab| lab.control().snapshot().unwrap().rules.into_keys().collect::<Vec<_>>();
    assert!(codes(&lab).contains(&"guard-leftover".to_string()) && rules(&lab).len() == 2);
    let ended = fix(&lab);
    assert!(
        ended.err.contains("remove what is left of the network guard of VM web-2 (VMID 101)"),
        "{ended:?}"
    );
    assert_eq!(rules(&lab), ["tap100i0"]);
    assert!(!codes(&lab).contains(&"guard-leftover".to_string()));
    // One that is no VM's by its own words stays.
    write(&lab.path("node/var/lib/blockhost-guard/555.json"), "[]");
    let ended = fix(&lab);
    assert!(lab.path("node/var/lib/blockhost-guard/555.json").exists(), "{ended:?}");
}

#[test]
fn h55_a_lost_record_is_restored_and_nothing_else() {
    let lab = healthy();
    let path = lab.path("var/vms.json");
    let mut all: Value = serde_json::from_str(&read(&path)).unwrap();
    let record = all["vms"].as_object_mut().unwrap().remove("web-1").unwrap();
    write(&path, &all.to_string());
    fix(&lab).ok();
    let restored: Value = serde_json::from_str(&read(&path)).unwrap();
    assert_eq!(restored["vms"]["web-1"]["smbios_uuid"], record["smbios_uuid"]);
    assert_eq!(restored["vms"]["web-1"]["expires_at"], record["expires_at"]);
    // Its VM is another's: nothing proves that it is ours.
    write(&path, &all.to_string());
    lab.control().remove_guest(100).unwrap();
    lab.control().add_guest(NewGuest { vmid: 100, name: "web-1".into(), ..NewGuest::default() }).unwrap();
    let ended = fix(&lab);
    assert!(!codes(&lab).contains(&"record-lost".to_string()), "{ended:?}");
    let untouched: Value = serde_json::from_str(&read(&path)).unwrap();
    assert!(untouched["vms"].as_object().unwrap().is_empty());
}

#[test]
fn h05_h18_tickets_and_half_written_files_are_removed() {
    let lab = empty();
    create(&lab, "web-1", "kill@create.queued").was_killed();
    let half = lab.path("var/.blockhost-abc123.tmp");
    write(&half, "half");
    let held = lab.path("var/.blockhost-def456.tmp");
    let holder = std::fs::File::create(&held).unwrap();
    holder.lock().unwrap();
    assert_eq!(codes(&lab), ["queue-stale", "temporary-file"]);
    fix(&lab).ok();
    assert!(!half.exists() && held.exists(), "H14: one that is being written stays");
    assert!(!lab.path("run/provisioning.lock").exists());
    assert_eq!(codes(&lab), [""; 0]);
}

#[test]
fn h15_modes_and_owners_are_set() {
    let lab = healthy();
    let token = lab.path("etc/blockhost/pve-token");
    let state = lab.path("var/terraform/vms/web-1/terraform.tfstate");
    for (path, mode) in [(&token, 0o644), (&state, 0o666)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    fix(&lab).ok();
    for (path, mode) in [(&token, 0o640), (&state, 0o660)] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
    }
    // A link in a file's place is never followed.
    let target = lab.path("target");
    write(&target, "x");
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::remove_file(&state).unwrap();
    std::os::unix::fs::symlink(&target, &state).unwrap();
    fix(&lab);
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    std::fs::remove_file(&state).unwrap();
    if rustix::process::geteuid().is_root() {
        let all = lab
            .tool("chown")
            .args(["-R", "4242:4242"])
            .arg(lab.path("var"))
            .arg(lab.path("run"))
            .status()
            .unwrap();
        assert!(all.success());
        std::fs::set_permissions(lab.dir(), PermissionsExt::from_mode(0o755)).unwrap();
        for path in ["etc/blockhost/db.yaml", "etc/blockhost/pve-token"] {
            std::os::unix::fs::chown(lab.path(path), Some(0), Some(4242)).unwrap();
        }
        use std::os::unix::fs::MetadataExt as _;
        let database = lab.path("var/vms.json");
        let text = read(&database);
        std::os::unix::fs::chown(&database, Some(0), Some(4242)).unwrap();
        assert_eq!(codes(&lab), ["file-wrong-owner"]);
        fix(&lab).ok();
        let found = database.metadata().unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777, read(&database)), (4242, 0o660, text));
    }
}

#[test]
fn h32_h63_a_disk_that_our_destroy_could_not_free_is_freed_and_no_other() {
    let lab = healthy();
    let control = lab.control();
    control.stick_volumes(&["local-lvm:vm-100-disk-0"]).unwrap();
    vm(&lab, "destroy", &["web-1"]).ok();
    control.stick_volumes(&[]).unwrap();
    // And one of somebody else's, in our range.
    control.add_guest(NewGuest { vmid: 300, disk_gib: 1, ..NewGuest::default() }).unwrap();
    control.stick_volumes(&["local-lvm:vm-300-disk-0"]).unwrap();
    let _ = lab.tool("qm").args(["destroy", "300"]).output().unwrap();
    control.stick_volumes(&[]).unwrap();
    assert_eq!(codes(&lab), ["vmid-withheld", "volume-leftover"]);
    let ended = fix(&lab).ends(1);
    let volumes = control.snapshot().unwrap().volumes;
    assert!(!volumes.contains_key("local-lvm:vm-100-disk-0"), "{ended:?}");
    assert!(volumes.contains_key("local-lvm:vm-300-disk-0"), "not proven to be ours: {ended:?}");
    assert_eq!(codes(&lab), ["volume-leftover"], "its VMID is free again");
    let trail: String =
        std::fs::read_dir(lab.path("var/audit")).unwrap().flatten().map(|file| read(&file.path())).collect();
    assert!(trail.contains("\"verb\":\"free-volume\""), "{trail}");
}

#[test]
fn a_fix_that_fails_is_said_and_the_others_are_done() {
    let lab = healthy();
    lab.tool("ip").args(["-6", "route", "del", "2a11:6c7:f04:276::2", "dev", "vmbr0"]).status().unwrap();
    write(&lab.path("var/.blockhost-abc123.tmp"), "half");
    lab.control().fault("agent.guard-set", FaultAction::error("no"), 100).unwrap();
    lab.control().fault("agent.guest-route-add", FaultAction::error("no"), 100).unwrap();
    lab.control().fault("agent.ip6-route-add", FaultAction::error("no"), 100).unwrap();
    let ended = fix(&lab).ends(3);
    assert!(ended.err.contains("cannot set route, isolation and limits of VM web-1"), "{ended:?}");
    assert!(ended.err.contains("1 of the fixes failed"), "{ended:?}");
    assert!(!lab.path("var/.blockhost-abc123.tmp").exists());
    assert!(ended.out.contains("[route-missing]"), "{ended:?}");
}
