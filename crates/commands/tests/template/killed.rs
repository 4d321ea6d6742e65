//! A build that is killed anywhere, and the next one.

use crate::site::{Build, Site, run, start};
use lab::model::FaultAction;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The points at which the state may change: the steps, the journal's writes, and each call of `qm`.
fn points(site: &Site) -> Vec<String> {
    let trace = site.lab.path("trace");
    run(&mut site.faulty(&format!("trace@{}", trace.display()))).built();
    let text = std::fs::read_to_string(&trace).unwrap();
    let mut passed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut points = Vec::new();
    for name in text.lines() {
        let count = passed.entry(name).or_default();
        *count += 1;
        let counts =
            name.starts_with("template.") || name.starts_with("write.template.") || name == "spawn.qm";
        if counts {
            points.push(format!("{name}:{count}"));
        }
    }
    points
}

fn sweep(new: fn() -> Site, must: &[&str]) {
    let reference = new();
    let all = points(&reference);
    for point in must {
        assert!(all.iter().any(|p| p == &format!("{point}:1")), "{point} is not among {all:?}");
    }
    let (node, files) = (reference.node(), reference.files());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(point) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let site = new();
                    run(&mut site.faulty(&format!("kill@{point}"))).was_killed();
                    whole_or_none(&site, point);
                    run(&mut site.build()).built();
                    assert_eq!(site.node(), node, "killed at {point}, then run again");
                    assert_eq!(site.files(), files, "killed at {point}, then run again");
                }
            });
        }
    });
}

/// What calls itself a template of ours is one.
fn whole_or_none(site: &Site, point: &str) {
    let node = site.lab.control().snapshot().unwrap();
    for (vmid, guest) in node.guests.iter().filter(|(_, guest)| guest.template) {
        let disk = guest.config["scsi0"].split(',').next().unwrap();
        assert!(
            disk.contains(":base-") && node.volumes.contains_key(disk),
            "VM {vmid} at {point}: {guest:?}"
        );
    }
}

#[test]
fn h05_a_first_build_killed_anywhere_succeeds_when_run_again() {
    sweep(
        Site::fresh,
        &[
            "template.locked",
            "template.customised",
            "template.journalled",
            "template.created",
            "template.imported",
            "template.drives",
            "template.converted",
            "template.verified",
            "template.done",
            "write.template.renamed",
        ],
    );
}

#[test]
fn h05_a_rebuild_killed_anywhere_succeeds_when_run_again() {
    sweep(
        Site::with_template,
        &[
            "template.made",
            "template.replacing",
            "template.destroyed",
            "template.cloned",
            "template.converted",
            "template.granted",
            "template.cleared",
            "template.done",
        ],
    );
}

/// A killed client does not stop the node's own worker.
#[test]
fn h05_a_build_killed_while_the_node_works_on_succeeds_when_run_again() {
    for (new, point) in [
        (Site::fresh as fn() -> Site, "qm.create"),
        (Site::fresh, "qm.importdisk"),
        (Site::with_template, "qm.destroy"),
        (Site::with_template, "task.qmclone.temporary"),
        (Site::with_template, "task.qmclone.half"),
        (Site::with_template, "task.qmtemplate.half"),
    ] {
        let reference = new();
        run(&mut reference.build()).built();
        let site = new();
        // An import and a destroy take their time under the VM's lock.
        let within = ["qm.importdisk", "qm.destroy"].contains(&point);
        site.lab.control().timing(|timing| (timing.disk, timing.destroy) = (1_200, 1_200)).unwrap();
        site.lab.control().fault(point, FaultAction::Slow { ms: if within { 1 } else { 1_200 } }, 1).unwrap();
        let build = start(&mut site.build());
        site.lab.control().wait_fault(point, Duration::from_secs(60)).unwrap();
        std::thread::sleep(Duration::from_millis(if within { 300 } else { 0 }));
        build.signal(Signal::KILL);
        build.wait().was_killed();
        // What the node was asked for appears up to 3 s later (the usual limit, here).
        run(&mut site.faulty("limit@template-appears=2500")).built();
        assert_eq!(site.node(), reference.node(), "{point}");
        assert_eq!(site.files(), Site::files_at_rest(), "{point}");
    }
}

#[test]
fn h02_recovery_leaves_a_stranger_alone() {
    let site = Site::fresh();
    run(&mut site.faulty("kill@template.imported")).was_killed();
    site.lab.control().remove_guest(9001).unwrap();
    let stranger =
        lab::model::NewGuest { vmid: 9001, name: "somebody".into(), disk_gib: 1, ..Default::default() };
    site.lab.control().add_guest(stranger).unwrap();
    let before = site.lab.control().snapshot().unwrap();
    let error = run(&mut site.build()).refused();
    assert!(error.contains("VMID 9001 has VM \"somebody\""), "{error}");
    assert_eq!(site.lab.control().snapshot().unwrap(), before);
    // Also one that has our name and description, but not our UUID: a copy of what we made.
    let site = Site::fresh();
    run(&mut site.faulty("kill@template.imported")).was_killed();
    site.lab.control().set(9001, "smbios1", "uuid=00000000-1111-4222-8333-444444444444").unwrap();
    let before = site.lab.control().snapshot().unwrap();
    run(&mut site.build()).refused();
    assert_eq!(site.lab.control().snapshot().unwrap(), before);
}

#[test]
fn h17_a_note_that_cannot_be_read_stays() {
    let site = Site::fresh();
    run(&mut site.faulty("kill@template.imported")).was_killed();
    let note = site.cache().join("template.json");
    std::fs::write(&note, "{\"host\":").unwrap();
    let before = site.lab.control().snapshot().unwrap();
    let error = run(&mut site.build()).refused();
    assert!(error.contains("template.json") && error.contains("left unchanged"), "{error}");
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "{\"host\":");
    assert_eq!(site.lab.control().snapshot().unwrap(), before);
}
