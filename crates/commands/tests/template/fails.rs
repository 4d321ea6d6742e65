//! Each step of the node fails, aloud or in silence: nothing is left, and the next build succeeds.

use crate::site::{Build, Site, has, run, start, until};
use lab::model::FaultAction;
use rustix::process::Signal;
use std::time::Duration;

/// An act that is not done although the tool exits 0 and says nothing.
const SILENCE: FaultAction = FaultAction::Garbage;

#[test]
fn h32_a_step_that_fails_leaves_nothing_of_a_first_template() {
    for (point, action, words) in [
        ("qm.create", FaultAction::error("no"), "qm create 9001"),
        ("qm.create.after", FaultAction::error("late no"), "qm create 9001"),
        ("qm.create", SILENCE, "does not exist"),
        ("qm.importdisk", FaultAction::error("no"), "qm importdisk 9001"),
        ("qm.importdisk.after", FaultAction::error("late no"), "qm importdisk 9001"),
        ("qm.importdisk", SILENCE, "no new disk"),
        ("qm.set", FaultAction::error("no"), "qm set 9001"),
        ("qm.set.after", FaultAction::error("late no"), "qm set 9001"),
        ("qm.set", SILENCE, "is not configured as expected"),
        ("qm.template", FaultAction::error("no"), "qm template 9001"),
        ("qm.template", SILENCE, "is not a template"),
        ("task.qmtemplate.half", FaultAction::error("lvrename failed"), "is no base volume"),
        ("virt-customize.run", FaultAction::error("virt-customize: error: no"), "libguestfs-test-tool"),
        (
            "virt-customize.run",
            FaultAction::error("BLOCKHOST: apt-get update failed"),
            "apt-get update failed",
        ),
    ] {
        let site = Site::fresh();
        // The installer grants before there is a template.
        let grant =
            ["acl", "modify", "/vms/9001", "--users", "blockhost@pve", "--roles", "BlockHostTemplate"];
        assert!(site.lab.tool("pveum").args(grant).output().unwrap().status.success());
        let before = site.node();
        assert_eq!(before.len(), 1);
        site.lab.control().fault(point, action, 1).unwrap();
        has(&run(&mut site.build()).refused(), &[words]);
        assert_eq!(site.node(), before, "{point}");
        assert!(!site.files().contains(&"template.json".to_owned()), "{point}");
        run(&mut site.build()).built();
        assert_eq!(site.node().keys().filter(|key| key.starts_with("grant")).count(), 1, "{point}");
    }
}

#[test]
fn h32_a_step_that_fails_before_the_old_template_goes_keeps_it() {
    for (point, action) in [
        ("qm.create", FaultAction::error("no")),
        ("qm.importdisk", SILENCE),
        ("qm.importdisk.after", FaultAction::error("no")),
        ("qm.set", SILENCE),
        ("qm.destroy", FaultAction::error("VM is protected")),
        ("qm.destroy", SILENCE),
    ] {
        let site = Site::with_template();
        let (before, old) = (site.node(), site.uuid());
        site.lab.control().fault(point, action, 1).unwrap();
        run(&mut site.build()).refused();
        assert_eq!((site.node(), site.uuid()), (before, old), "{point}");
        assert!(!site.files().contains(&"template.json".to_owned()), "{point}");
        run(&mut site.build()).built();
    }
}

#[test]
fn h32_a_step_that_fails_after_the_old_template_went_is_made_good_by_the_next_run() {
    for (point, action) in [
        ("qm.clone", FaultAction::error("no")),
        ("qm.clone", SILENCE),
        ("qm.clone.after", FaultAction::error("late no")),
        ("task.qmclone.half", FaultAction::error("storage is full")),
        ("qm.template", SILENCE),
        ("task.qmtemplate.half", FaultAction::error("lvrename failed")),
        ("pveum.acl.after", FaultAction::error("no")),
    ] {
        let site = Site::with_template();
        let keys: Vec<String> = site.node().into_keys().collect();
        // The grants are read twice before: they are to fail when they are given back.
        if point == "pveum.acl.after" {
            site.lab.control().fault("qm.template.after", FaultAction::Slow { ms: 800 }, 1).unwrap();
            let build = start(&mut site.build());
            site.lab.control().wait_fault("qm.template.after", Duration::from_secs(60)).unwrap();
            site.lab.control().fault(point, action, 1).unwrap();
            build.wait().refused();
        } else {
            site.lab.control().fault(point, action, 1).unwrap();
            has(&run(&mut site.build()).refused(), &["the new one is VM 9002", "run the command again"]);
        }
        let ended = run(&mut site.build()).built();
        has(&ended.err, &["completing an earlier build", "nothing left to do"]);
        assert_eq!(site.node().into_keys().collect::<Vec<_>>(), keys, "{point}");
        assert_eq!(site.files(), Site::files_at_rest());
    }
}

#[test]
fn what_was_finished_late_is_built_anew_if_it_is_of_other_parts() {
    let site = Site::with_template();
    site.lab.control().fault("qm.clone", FaultAction::error("no"), 1).unwrap();
    run(&mut site.build()).refused();
    site.package("another.deb", "two");
    let ended = run(&mut site.build()).built();
    has(&ended.err, &["completing an earlier build", "customising the image"]);
    assert!(!ended.err.contains("nothing left to do"));
    assert_eq!(site.node().keys().filter(|key| key.starts_with("guest")).count(), 1);
}

#[test]
fn a_storage_that_becomes_full_is_said_and_nothing_is_left() {
    let site = Site::fresh();
    let control = site.lab.control();
    control.fault("virt-customize.run", FaultAction::Slow { ms: 800 }, 1).unwrap();
    let build = start(&mut site.build());
    control.wait_fault("virt-customize.run", Duration::from_secs(60)).unwrap();
    control.storage("local-lvm", Some(1 << 19), None).unwrap();
    has(&build.wait().refused(), &["qm importdisk 9001", "free space in thin pool"]);
    assert!(site.node().is_empty());
    control.storage("local-lvm", Some(1 << 42), None).unwrap();
    run(&mut site.build()).built();
}

#[test]
fn h14_a_full_disk_of_our_own_leaves_nothing_broken() {
    for write in 1..=16 {
        let site = Site::fresh();
        let ended = run(&mut site.faulty(&format!("enospc@{write}")));
        if ended.code == Some(0) {
            assert!(write > 10, "write {write} was not the last");
            return;
        }
        has(&ended.refused(), &["No space left on device"]);
        assert!(site.node().is_empty(), "write {write}");
        run(&mut site.build()).built();
        assert_eq!(site.files(), Site::files_at_rest(), "write {write}");
    }
    panic!("there are more writes than this test goes through");
}

#[test]
fn h22_a_busy_vm_is_waited_for() {
    let site = Site::with_template();
    let busy = FaultAction::error("can't lock file '/var/lock/qemu-server/lock-9001.conf' - got timeout");
    site.lab.control().fault("qm.destroy", busy.clone(), 1).unwrap();
    site.lab.control().fault("qm.set", busy.clone(), 1).unwrap();
    let ended = run(&mut site.build()).built();
    has(&ended.err, &["got timeout", "trying again"]);
    // For so long, then the old one stays.
    let old = site.uuid();
    site.lab.control().fault("qm.destroy", busy, 20).unwrap();
    let build = start(&mut site.build());
    site.lab.control().wait_fault("qm.destroy", Duration::from_secs(60)).unwrap();
    until("the limit is over", || {
        let faults = site.lab.control().faults().unwrap();
        if faults.iter().any(|fault| fault.point == "qm.destroy" && fault.hits >= 3) {
            std::thread::sleep(Duration::from_millis(1_800));
            site.lab.control().clear_faults().unwrap();
            return true;
        }
        false
    });
    has(&build.wait().refused(), &["qm destroy 9001", "got timeout"]);
    assert_eq!(site.uuid(), old);
}

#[test]
fn h23_a_tool_that_hangs_is_stopped() {
    let site = Site::fresh();
    site.lab.control().fault("virt-customize.run", FaultAction::Hang, 1).unwrap();
    let ended = run(&mut site.faulty("limit@template-customise=700"));
    has(&ended.refused(), &["virt-customize did not finish within 0 s"]);
    assert!(site.node().is_empty());
}

#[test]
fn h32_volumes_that_destroy_leaves_behind_are_freed_or_named() {
    let site = Site::with_template();
    site.lab.control().stick_volumes(&["local-lvm:base-9001-disk-0"]).unwrap();
    let ended = run(&mut site.build()).built();
    has(
        &ended.err,
        &["warning: the old template is deleted, but its volume local-lvm:base-9001-disk-0 remains"],
    );
}

#[test]
fn h32_a_volume_that_undo_cannot_free_goes_with_the_next_run() {
    let site = Site::fresh();
    let control = site.lab.control();
    control.stick_volumes(&["local-lvm:vm-9001-disk-0"]).unwrap();
    control.fault("qm.set", FaultAction::error("no"), 1).unwrap();
    let error = run(&mut site.build()).refused();
    has(
        &error,
        &["qm set 9001 failed: no", "the next run removes it", "pvesm free local-lvm:vm-9001-disk-0 failed"],
    );
    assert_eq!(site.node().into_keys().collect::<Vec<_>>(), ["volume local-lvm:vm-9001-disk-0"]);
    control.stick_volumes(&[]).unwrap();
    run(&mut site.build()).built();
    assert_eq!(site.node().len(), 3, "{:?}", site.node());
}

#[test]
fn a_signal_removes_what_was_made() {
    for (signal, point) in [
        (Signal::TERM, "qm.importdisk"),
        (Signal::INT, "virt-customize.run"),
        (Signal::TERM, "qm.set.after"),
        (Signal::TERM, "qm.template.after"),
    ] {
        let site = Site::fresh();
        site.lab.control().fault(point, FaultAction::Slow { ms: 1_000 }, 1).unwrap();
        let build = start(&mut site.build());
        site.lab.control().wait_fault(point, Duration::from_secs(60)).unwrap();
        build.signal(signal);
        has(&build.wait().refused(), &["interrupted by a signal"]);
        std::thread::sleep(Duration::from_millis(1_100));
        assert!(site.node().is_empty(), "{point}: {:?}", site.node());
        assert!(!site.files().contains(&"template.json".to_owned()), "{point}");
        run(&mut site.build()).built();
    }
}

#[test]
fn a_signal_while_the_template_is_replaced_is_not_heard() {
    let site = Site::with_template();
    site.lab.control().fault("task.qmclone.half", FaultAction::Slow { ms: 600 }, 1).unwrap();
    let build = start(&mut site.build());
    site.lab.control().wait_fault("task.qmclone.half", Duration::from_secs(60)).unwrap();
    build.terminate();
    build.wait().built();
    assert_eq!(site.files(), Site::files_at_rest());
}
