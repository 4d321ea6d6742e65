//! A VMID that somebody else takes between our look and the clone (H46).

use crate::site::{Ended, LONG, Site, run, start, until};
use lab::model::{FaultAction, GuestSnapshot, NewGuest};
use std::process::Command;

/// A create during which `stranger` appears just before the clone.
fn overtaken(site: &Site, command: &mut Command, stranger: NewGuest) -> Ended {
    let control = site.lab().control();
    let point = "provider.create.clone.before";
    control.fault(point, FaultAction::Slow { ms: 2000 }, 1).unwrap();
    let child = start(command);
    control.wait_fault(point, LONG).unwrap();
    control.add_guest(stranger).unwrap();
    child.wait()
}

fn stranger(node: &str) -> NewGuest {
    NewGuest {
        vmid: 100,
        name: "stranger".into(),
        node: node.into(),
        running: node.is_empty(),
        disk_gib: 8,
        ..NewGuest::default()
    }
}

fn guest_100(site: &Site) -> GuestSnapshot {
    site.lab().control().snapshot().unwrap().guests[&100].clone()
}

/// What the stranger looks like where nobody else is.
fn alone(node: &str) -> GuestSnapshot {
    let site = Site::new();
    site.lab().control().add_guest(stranger(node)).unwrap();
    guest_100(&site)
}

fn is_untouched(found: &GuestSnapshot, node: &str) {
    let expected = alone(node);
    assert_eq!(
        (&found.name, found.power, found.starts, &found.node, &found.description, &found.pool, &found.tags),
        (
            &expected.name,
            expected.power,
            expected.starts,
            &expected.node,
            &expected.description,
            &expected.pool,
            &expected.tags
        )
    );
    let keys = |guest: &GuestSnapshot| guest.config.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(found), keys(&expected), "its configuration was changed");
}

#[test]
fn h46_a_vmid_taken_meanwhile_is_left_alone_and_another_is_used() {
    for node in ["", "pve2"] {
        let site = Site::new();
        let ended = overtaken(&site, &mut site.create("web-1"), stranger(node)).ok();
        assert_eq!(ended.result()["vmid"], 101, "{node}");
        assert_eq!(ended.result()["ip"], "192.168.122.200", "{node}: the first address was given back");
        assert!(ended.err.contains("trying another VMID"), "{}", ended.err);
        is_untouched(&guest_100(&site), node);
        assert_eq!(site.database()["vms"]["web-1"]["vmid"], 101);
        assert_eq!(site.database()["allocated_ips"].as_array().unwrap().len(), 1);
        assert_eq!(site.journal_step("web-1"), None);
        let volumes = site.lab().control().snapshot().unwrap().volumes;
        assert!(volumes.contains_key("local-lvm:vm-100-disk-0"), "{volumes:#?}");
        site.destroyed("web-1");
        is_untouched(&guest_100(&site), node);
    }
}

#[test]
fn h46_a_vmid_that_was_asked_for_and_is_taken_meanwhile_is_an_error() {
    let site = Site::new();
    let empty = site.world();
    let ended = overtaken(&site, site.create("web-1").args(["--vmid", "100"]), stranger(""));
    let error = ended.failed();
    assert!(error.contains("VM web-1 (VMID 100)") && error.contains("exist"), "{error}");
    is_untouched(&guest_100(&site), "");
    site.lab().control().remove_guest(100).unwrap();
    site.world().must_be(&empty, "after the refused create");
}

#[test]
fn h44_h46_what_terraform_says_it_made_is_looked_at_before_it_is_registered() {
    for stands_in in [true, false] {
        let site = Site::new();
        let empty = site.world();
        let trace = site.path(if stands_in { "trace-1" } else { "trace-2" });
        let rules = format!("trace@{} sleep@create.applied=3000", trace.display());
        let child = start(site.create("web-1").args(["--guest-timeout", "5"]).env("BLOCKHOST_FAULT", rules));
        until("terraform is done", || {
            std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("create.applied"))
        });
        let control = site.lab().control();
        control.remove_guest(100).unwrap();
        let found = if stands_in {
            control.add_guest(stranger("")).unwrap();
            "stranger"
        } else {
            "no VM with this VMID"
        };
        let error = child.wait().failed();
        assert!(error.contains("terraform reported success, but the node has"), "{error}");
        assert!(error.contains(found), "{error}");
        assert!(site.database()["vms"].as_object().unwrap().is_empty());
        if stands_in {
            is_untouched(&guest_100(&site), "");
            control.remove_guest(100).unwrap();
        }
        site.world().must_be(&empty, "after the refused create");
    }
}

#[test]
fn h46_h01_recovery_leaves_a_stranger_at_a_dead_creates_vmid_alone() {
    let site = Site::new();
    run(site.create("web-1").env("BLOCKHOST_FAULT", "kill@create.applying")).was_killed();
    site.lab().control().add_guest(stranger("")).unwrap();
    let before = guest_100(&site);
    let ended = site.created("web-2");
    assert!(ended.err.contains("is not ours") && ended.err.contains("leaving it alone"), "{}", ended.err);
    assert_eq!(ended.result()["vmid"], 101);
    assert_eq!(guest_100(&site), before);
    assert_eq!(site.journal_step("web-1"), None);
}
