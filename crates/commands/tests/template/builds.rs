//! What is made: the first template, one that takes another's place, a VM from it.

use crate::site::{Build, READY, Site, has, image, run, start, until};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};

#[test]
fn the_first_template_on_both_versions() {
    for pve in [8, 9] {
        let site = Site::of(Lab::builder().no_terraform().no_root_agent().no_template().pve(pve));
        let ended = run(&mut site.build()).built();
        assert_eq!(ended.out, READY);
        let node = site.lab.control().snapshot().unwrap();
        let template = &node.guests[&9001];
        assert!(template.template && node.guests.len() == 1);
        assert!(template.description.contains(&template.uuid), "it is known by its own UUID: {template:?}");
        for (key, value) in [
            ("name", "debian-12-web3-template"),
            ("memory", "512"),
            ("cores", "1"),
            ("scsihw", "virtio-scsi-pci"),
            ("ostype", "l26"),
            ("agent", "enabled=1"),
            ("serial0", "socket"),
            ("vga", "serial0"),
            ("boot", "order=scsi0"),
            ("scsi0", "local-lvm:base-9001-disk-0,discard=on,size=3G"),
            ("ide2", "local-lvm:vm-9001-cloudinit,media=cdrom"),
        ] {
            assert_eq!(template.config[key], value, "{key}");
        }
        assert!(
            template.config["net0"].starts_with("virtio=")
                && template.config["net0"].ends_with(",bridge=vmbr0")
        );
        assert_eq!(node.volumes.len(), 2);
        assert_eq!(site.files(), Site::files_at_rest());
        // The image as it was published, with what the lab's virt-customize was told, in this order.
        let disk = std::fs::read(site.lab.path("imported/local-lvm-vm-9001-disk-0")).unwrap();
        let published = image(1);
        assert!(disk.starts_with(&published));
        let acts = String::from_utf8_lossy(&disk[published.len()..]).into_owned();
        let order: Vec<usize> = ["01.deb:/var/tmp", "install.sh", "configure.sh", "clean.sh", "check.sh"]
            .iter()
            .map(|act| acts.find(act).unwrap())
            .collect();
        assert!(order.is_sorted(), "{acts}");
        assert_eq!(
            std::fs::read(site.cache().join("images/debian-12-generic-amd64.qcow2")).unwrap(),
            published
        );
    }
}

#[test]
fn a_storage_of_disks_and_snippets_keeps_the_snippets() {
    let site = Site::fresh();
    let set = site.lab.tool("pvesm").args(["set", "local", "--content", "images,snippets"]).output().unwrap();
    assert!(set.status.success(), "{set:?}");
    let snippet = site.lab.path("node/var/lib/vz/snippets/web-1-user.yaml");
    std::fs::write(&snippet, "somebody's").unwrap();
    // One that fails frees what it had made, and nothing else.
    site.lab.control().fault("task.qmtemplate.half", FaultAction::error("no"), 1).unwrap();
    run(site.build().args(["--storage", "local"])).refused();
    run(site.build().args(["--storage", "local"])).built();
    assert_eq!(std::fs::read_to_string(&snippet).unwrap(), "somebody's");
}

#[test]
fn options_come_from_flags_and_environment() {
    let site = Site::fresh();
    site.lab.control().add_zfs("tank").unwrap();
    let mut build = site.build();
    build.env("TEMPLATE_VMID", "9001").env("STORAGE", "tank").env("PROXMOX_HOST", "localhost");
    let ended = run(build.args(["--template-vmid", "9010", "--debian", "13", "--quiet"])).built();
    assert_eq!(
        (ended.out.as_str(), ended.err.as_str()),
        ("template VM 9010 (debian-13-web3-template) is ready\n", "")
    );
    let node = site.lab.control().snapshot().unwrap();
    assert!(node.guests[&9010].config["scsi0"].starts_with("tank:base-9010-disk-0"));
    for (flag, value) in [
        ("--template-vmid", "99"),
        ("--storage", "-x"),
        ("--host", "-oProxyCommand=id"),
        ("--image-url", "http://example.org/a.qcow2"),
        ("--debian", "11"),
        ("--nodejs-suite", "a b"),
        ("--bridge", "a b"),
    ] {
        let ended = run(site.lab.command("blockhost-build-template").arg(format!("{flag}={value}")));
        assert_eq!(ended.code, Some(2), "{flag} {ended:#?}");
    }
}

#[test]
fn a_template_is_replaced_and_what_others_may_do_with_it_stays() {
    let site = Site::with_template();
    let (before, old) = (site.node(), site.uuid());
    site.lab.control().pool(9001, Some("blockhost")).unwrap();
    site.lab.control().add_backup_job(9001).unwrap();
    run(&mut site.build()).built();
    let after = site.node();
    assert_ne!(site.uuid(), old);
    let keys: Vec<&String> = before.keys().collect();
    assert_eq!(after.keys().collect::<Vec<_>>(), keys, "no other VM, volume or grant");
    assert!(keys.iter().any(|key| key.starts_with("grant ") && key.contains("/vms/9001")), "{keys:?}");
    let node = site.lab.control().snapshot().unwrap();
    assert_eq!(node.guests[&9001].pool.as_deref(), Some("blockhost"));
    assert!(node.backup_jobs.contains(&9001));
    assert_eq!(site.files(), Site::files_at_rest());
    // And once more: what it replaces is of its own making now.
    run(&mut site.build()).built();
    assert_eq!(site.node().keys().collect::<Vec<_>>(), keys);
}

#[test]
fn a_vm_is_cloned_from_the_new_template() {
    let site = Site::of(Lab::builder());
    run(&mut site.build()).built();
    let made =
        site.lab.command("blockhost-vm-create").args(["web-1", "--no-web3", "--apply"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let node = site.lab.control().snapshot().unwrap();
    assert!(!node.guests[&100].template && node.guests[&100].name == "web-1");
}

#[test]
fn the_bridge_is_that_of_flag_tfvars_db_yaml_or_vmbr0() {
    let site = Site::fresh();
    let tfvars = site.lab.path("var/terraform/terraform.tfvars");
    let text = std::fs::read_to_string(&tfvars).unwrap();
    std::fs::write(&tfvars, text.replace("\"vmbr0\"", "\"vmbr7\"")).unwrap();
    has(&run(&mut site.build()).refused(), &["no bridge vmbr7", "--bridge"]);
    run(site.build().args(["--bridge", "vmbr0"])).built();
    std::fs::remove_file(&tfvars).unwrap();
    let yaml = site.lab.path("etc/blockhost/db.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(&yaml, text.replace("bridge: vmbr0", "bridge: vmbr8")).unwrap();
    has(&run(&mut site.build()).refused(), &["no bridge vmbr8"]);
    std::fs::remove_file(&yaml).unwrap();
    run(&mut site.build()).built();
}

#[test]
fn h32_the_image_of_a_failed_build_is_used_again_but_not_that_of_other_packages() {
    let site = Site::fresh();
    let control = site.lab.control();
    let customisings = || {
        let calls = site.lab.control().calls(0).unwrap();
        calls.iter().filter(|call| call.kind == "virt-customize").count()
    };
    control.fault("qm.create", FaultAction::error("storage is full"), 1).unwrap();
    has(&run(&mut site.build()).refused(), &["qm create 9001", "storage is full"]);
    assert!(site.node().is_empty());
    assert_eq!(customisings(), 1);
    control.fault("qm.create", FaultAction::error("storage is full"), 1).unwrap();
    site.package("another.deb", "two");
    run(&mut site.build()).refused();
    assert_eq!(customisings(), 2, "another package makes another image");
    let kept = site.files().iter().filter(|file| file.starts_with("customised-")).count();
    assert_eq!(kept, 1, "the image of the other packages is gone");
    run(&mut site.build()).built();
    assert_eq!(customisings(), 2);
    assert_eq!(site.files(), Site::files_at_rest());
}

#[test]
fn one_build_at_a_time() {
    let site = Site::fresh();
    site.lab.control().fault("virt-customize.run", FaultAction::Slow { ms: 1_500 }, 1).unwrap();
    let first = start(&mut site.build());
    site.lab.control().wait_fault("virt-customize.run", std::time::Duration::from_secs(60)).unwrap();
    let pid = first.pid().to_string();
    has(&run(&mut site.build()).refused(), &["another template build", &pid]);
    first.wait().built();
    assert_eq!(site.node().keys().filter(|key| key.starts_with("guest")).count(), 1);
}

#[test]
fn another_vm_beside_it_is_not_taken_for_the_staging_one() {
    let site = Site::with_template();
    let neighbour = NewGuest { vmid: 9002, name: "somebody".into(), disk_gib: 1, ..NewGuest::default() };
    site.lab.control().add_guest(neighbour).unwrap();
    let container = NewGuest { vmid: 9003, container: true, ..NewGuest::default() };
    site.lab.control().add_guest(container).unwrap();
    let before: Vec<String> = site.node().into_keys().collect();
    run(&mut site.build()).built();
    assert_eq!(site.node().into_keys().collect::<Vec<_>>(), before);
}

#[test]
fn progress_is_lines_in_a_log_and_a_bar_on_a_terminal() {
    let site = Site::fresh();
    let lines = run(&mut site.build()).built().err;
    for line in [
        "fetching the image",
        "fetching the image: 100 % (0 of 0 MiB)",
        "importing the image to local-lvm: 50 %",
    ] {
        assert!(lines.lines().any(|l| l == line), "{line:?} is not in {lines}");
    }
    assert!(!lines.contains('\u{1b}') && !lines.contains('\r'), "{lines:?}");
    // `script` gives it a terminal of its own.
    let mut build = site.build();
    let words: Vec<String> = std::iter::once(build.get_program())
        .chain(build.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let envs: Vec<(std::ffi::OsString, std::ffi::OsString)> =
        build.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    build = site.lab.tool("script");
    build.envs(envs).env("TERM", "xterm").args(["-qec", &words.join(" "), "/dev/null"]);
    let shown = String::from_utf8_lossy(&build.output().unwrap().stdout).into_owned();
    assert!(shown.contains('\u{1b}') && shown.contains(" is ready"), "{shown:?}");
    assert!(!shown.contains("importing the image to local-lvm: 50 %"), "{shown:?}");
    until("nothing is left", || site.files() == Site::files_at_rest());
}
