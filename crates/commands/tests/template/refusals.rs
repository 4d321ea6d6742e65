//! What it does not touch: strangers, templates with linked clones, a node that is not as it should be.

use crate::site::{Build, Site, has, run, start};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use std::time::Duration;

fn stranger(site: &Site, name: &str, template: bool) {
    let config = if template { [("template".to_owned(), "1".to_owned())].into() } else { Default::default() };
    let guest = NewGuest { vmid: 9001, name: name.into(), disk_gib: 1, config, ..NewGuest::default() };
    site.lab.control().add_guest(guest).unwrap();
}

#[test]
fn h02_a_stranger_at_the_vmid_is_left_alone() {
    for (name, template) in [
        ("somebody", false),
        ("somebody", true),
        ("debian-12-web3-template", false),
        ("debian-12-web3-template-old", true),
        ("", false),
    ] {
        let site = Site::fresh();
        stranger(&site, name, template);
        let before = site.lab.control().snapshot().unwrap();
        let error = run(&mut site.build()).refused();
        has(&error, &["VMID 9001 has", "not a template of ours", "--template-vmid"]);
        assert_eq!(site.lab.control().snapshot().unwrap(), before);
        assert_eq!(site.web.asked(), [""; 0]);
    }
    let site = Site::fresh();
    for guest in [
        NewGuest { vmid: 9001, container: true, ..NewGuest::default() },
        NewGuest { vmid: 9005, node: "pve2".into(), ..NewGuest::default() },
    ] {
        let vmid = guest.vmid.to_string();
        site.lab.control().add_guest(guest).unwrap();
        let error = run(site.build().args(["--template-vmid", &vmid])).refused();
        has(&error, &["taken by another guest of the cluster"]);
    }
}

#[test]
fn h02_a_stranger_who_comes_meanwhile_is_left_alone() {
    // First template: somebody takes the VMID while the image is made.
    let site = Site::fresh();
    let control = site.lab.control();
    control.fault("virt-customize.run", FaultAction::Slow { ms: 1_000 }, 1).unwrap();
    let build = start(&mut site.build());
    control.wait_fault("virt-customize.run", Duration::from_secs(60)).unwrap();
    stranger(&site, "somebody", false);
    let before = site.node();
    has(&build.wait().refused(), &["already exists"]);
    assert_eq!(site.node(), before);
    assert!(!site.files().contains(&"template.json".to_owned()));

    // Rebuild: the old template becomes somebody else's VM while the new one is made.
    let site = Site::with_template();
    let control = site.lab.control();
    control.fault("qm.importdisk", FaultAction::Slow { ms: 1_000 }, 1).unwrap();
    let build = start(&mut site.build());
    control.wait_fault("qm.importdisk", Duration::from_secs(60)).unwrap();
    control.remove_guest(9001).unwrap();
    stranger(&site, "debian-12-web3-template", true);
    let before: Vec<String> = site.node().into_keys().filter(|key| key.contains("9001")).collect();
    has(&build.wait().refused(), &["a different VM"]);
    assert_eq!(
        site.node().into_keys().collect::<Vec<_>>(),
        before,
        "the staging VM is gone, the stranger is not"
    );
}

/// A site whose template lies on ZFS and has a linked clone.
fn linked() -> Site {
    let site = Site::fresh();
    site.lab.control().add_zfs("tank").unwrap();
    run(site.build().args(["--storage", "tank"])).built();
    site
}

fn link(site: &Site) {
    let done = site.lab.tool("qm").args(["clone", "9001", "100", "--name", "linked"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_template_with_linked_clones_is_kept() {
    let site = linked();
    link(&site);
    let before = site.lab.control().snapshot().unwrap();
    let error = run(site.build().args(["--storage", "tank"])).refused();
    has(&error, &["keeping template 9001", "VM 100 (tank:base-9001-disk-0/vm-100-disk-0)"]);
    // Also where the new one would lie elsewhere.
    has(&run(&mut site.build()).refused(), &["keeping template 9001"]);
    assert_eq!(site.lab.control().snapshot().unwrap(), before);
    site.lab.control().remove_guest(100).unwrap();
    run(&mut site.build()).built();
}

#[test]
fn a_clone_that_is_linked_while_the_new_template_is_made_keeps_the_old_one() {
    // While the new one is imported, and, past all looks, right before the old one is destroyed.
    for point in ["qm.importdisk", "qm.destroy"] {
        let site = linked();
        let control = site.lab.control();
        control.fault(point, FaultAction::Slow { ms: 1_000 }, 1).unwrap();
        let build = start(site.build().args(["--storage", "tank"]));
        control.wait_fault(point, Duration::from_secs(60)).unwrap();
        let old = site.uuid();
        link(&site);
        let error = build.wait().refused();
        let why = if point == "qm.destroy" { "still in use by linked" } else { "keeping template 9001" };
        has(&error, &[why]);
        assert_eq!(site.uuid(), old);
        let guests: Vec<u32> = site.lab.control().snapshot().unwrap().guests.into_keys().collect();
        assert_eq!(guests, [100, 9001], "{point}");
        assert!(!site.files().contains(&"template.json".to_owned()));
    }
}

#[test]
fn a_linked_clone_on_lvm_thin_is_known_by_its_terraform_file() {
    let site = Site::of(Lab::builder().db_yaml("clone_mode: linked\n"));
    let made =
        site.lab.command("blockhost-vm-create").args(["web-1", "--no-web3", "--apply"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let before = site.lab.control().snapshot().unwrap();
    has(&run(&mut site.build()).refused(), &["keeping template 9001", "VM 100 (", "web-1.tf.json"]);
    assert_eq!(site.lab.control().snapshot().unwrap(), before);
}

#[test]
fn a_node_that_is_not_ready_is_known_before_anything_is_fetched() {
    let site = Site::fresh();
    let control = site.lab.control();
    has(&run(site.build().args(["--storage", "nope"])).refused(), &["storage nope does not exist"]);
    has(
        &run(site.build().args(["--storage", "local"])).refused(),
        &["storage local does not exist or does not accept disks"],
    );
    has(&run(site.build().args(["--bridge", "vmbr9"])).refused(), &["no bridge vmbr9"]);
    control.storage("local-lvm", None, Some(false)).unwrap();
    has(&run(&mut site.build()).refused(), &["storage local-lvm is not active"]);
    control.storage("local-lvm", Some(1 << 30), Some(true)).unwrap();
    has(&run(&mut site.build()).refused(), &["storage local-lvm has 1024 MiB free, but 2048 MiB are needed"]);
    control.storage("local-lvm", Some(1 << 42), None).unwrap();
    // A volume that somebody's VM has left.
    stranger(&site, "somebody", false);
    control.stick_volumes(&["local-lvm:vm-9001-disk-0"]).unwrap();
    site.lab.tool("qm").args(["destroy", "9001"]).output().unwrap();
    has(
        &run(&mut site.build()).refused(),
        &["VM 9001 does not exist", "local-lvm:vm-9001-disk-0", "pvesm free"],
    );
    control.stick_volumes(&[]).unwrap();
    site.lab.tool("pvesm").args(["free", "local-lvm:vm-9001-disk-0"]).output().unwrap();
    for tool in ["qm", "virt-customize"] {
        let (there, away) = (site.lab.path(format!("bin/{tool}")), site.lab.path("away"));
        std::fs::rename(&there, &away).unwrap();
        // The machine may have the real one.
        let error = run(site.build().env("PATH", site.lab.path("bin"))).refused();
        has(&error, &[&format!("{tool} is not installed")]);
        std::fs::rename(&away, &there).unwrap();
    }
    assert_eq!(site.web.asked(), [""; 0]);
    run(&mut site.build()).built();
}

#[test]
fn h33_an_answer_that_is_no_absence_is_an_error() {
    let site = Site::with_template();
    let before = site.node();
    for message in [
        "unable to open file '/etc/pve/nodes/pve/qemu-server/9001.conf'",
        "got timeout",
        "ipcc_send_rec failed",
    ] {
        site.lab.control().fault("qm.config", FaultAction::error(message), 1).unwrap();
        has(&run(&mut site.build()).refused(), &["qm config 9001 failed", message]);
        assert_eq!(site.node(), before);
    }
}

#[test]
fn only_root_may_build_on_this_machine() {
    let site = Site::fresh();
    let build = site.build();
    let mut other = site.lab.tool("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(build.get_program());
    other.args(build.get_args());
    let folder = site.lab.dir();
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ended = run(other.current_dir("/"));
    has(&ended.refused(), &["only root"]);
}
