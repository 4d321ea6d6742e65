//! From clone to destroy: stages, locks, identities, what is left.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use std::time::Duration;

use common::{api, node, ok, run, with_guest, words_of};
use lab::model::{FaultAction, NewGuest, Power};

const DESCRIPTION: &str = "BlockHost VM web-1 3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f";

#[test]
fn clone_to_destroy_leaves_the_node_as_it_was() {
    let lab = node().start().unwrap();
    let before = lab.control().snapshot().unwrap();
    words_of(
        &lab,
        &["qm", "clone", "9001", "100", "--name", "web-1", "--full", "1", "--description", DESCRIPTION],
    );
    let guest = lab.control().snapshot().unwrap().guests[&100].clone();
    assert_eq!(
        (guest.name.as_str(), guest.description.as_str(), guest.power),
        ("web-1", DESCRIPTION, Power::Stopped)
    );
    let template = &before.guests[&9001];
    assert_ne!(guest.uuid, template.uuid);
    assert_ne!(guest.config["net0"], template.config["net0"]);
    assert_eq!(guest.config["meta"], template.config["meta"]);
    assert!(!guest.template && guest.lock.is_none());
    ok(&lab, "qm start 100");
    ok(&lab, "qm stop 100");
    ok(&lab, "qm destroy 100 --purge 1 --destroy-unreferenced-disks 1");
    assert_eq!(lab.control().snapshot().unwrap(), before);
    assert!(!lab.path("guests/100").exists());
}

#[test]
fn h05_a_clone_passes_three_stages() {
    let lab = node().node(|node| node.timing.lock_wait = 300).start().unwrap();
    let control = lab.control();
    let conf = lab.path("node/etc/pve/qemu-server/100.conf");
    control.fault("task.qmclone.temporary", FaultAction::Hang, 1).unwrap();
    control.fault("task.qmclone.end", FaultAction::Hang, 1).unwrap();
    let body = "newid=100&name=web-1&full=1&pool=blockhost&description=BlockHost+VM+web-1+x";
    let upid = api(&lab, "POST", "/nodes/pve/qemu/9001/clone", body).data().as_str().unwrap().to_owned();
    let status = format!("/nodes/pve/tasks/{upid}/status");
    assert_eq!(api(&lab, "GET", &status, "").data()["status"], "running");
    assert_eq!(std::fs::read_to_string(&conf).unwrap(), "# qmclone temporary file\nlock: clone\n");
    assert_eq!(api(&lab, "GET", "/nodes/pve/qemu/100/status/current", "").code, 403, "not in the pool yet");
    assert_eq!(
        run(&lab, "qm start 100").err,
        "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout\n".to_owned()
    );
    control.release().unwrap();
    control.wait_fault("task.qmclone.end", Duration::from_secs(5)).unwrap();
    let text = std::fs::read_to_string(&conf).unwrap();
    assert!(text.starts_with("#BlockHost VM web-1 x\n") && text.contains("\nlock: clone\n"), "{text}");
    control.clear_faults().unwrap();
    while api(&lab, "GET", &status, "").data()["status"] == "running" {}
    assert_eq!(api(&lab, "GET", "/nodes/pve/qemu/100/status/current", "").code, 200);
    assert!(!std::fs::read_to_string(&conf).unwrap().contains("\nlock:"));
}

#[test]
fn h46_a_taken_vmid_refuses_here_and_fails_the_task_elsewhere() {
    let lab = node().start().unwrap();
    let control = lab.control();
    control
        .add_guest(NewGuest { vmid: 100, name: "here".into(), disk_gib: 4, ..NewGuest::default() })
        .unwrap();
    control.add_guest(NewGuest { vmid: 101, node: "pve2".into(), ..NewGuest::default() }).unwrap();
    control.add_guest(NewGuest { vmid: 102, container: true, ..NewGuest::default() }).unwrap();
    let before = control.snapshot().unwrap();
    let reply = api(&lab, "POST", "/nodes/pve/qemu/9001/clone", "newid=100&full=1&pool=blockhost");
    assert_eq!(
        (reply.code, reply.reason.as_str()),
        (500, "unable to create VM 100: config file already exists")
    );
    for vmid in [101, 102] {
        let reply =
            api(&lab, "POST", "/nodes/pve/qemu/9001/clone", &format!("newid={vmid}&full=1&pool=blockhost"));
        let upid = reply.data().as_str().unwrap().to_owned();
        let status = api(&lab, "GET", &format!("/nodes/pve/tasks/{upid}/status"), "");
        let exit = status.data()["exitstatus"].as_str().unwrap();
        assert!(exit.starts_with("clone failed: ") && exit.ends_with("File exists"), "{exit}");
    }
    assert_eq!(control.snapshot().unwrap(), before);
    let said = run(&lab, "qm create 101 --name x");
    assert_eq!(said.err, "unable to create VM 101 - VM 101 already exists on node 'pve2'\n");
}

#[test]
fn a_failing_clone_cleans_up() {
    let lab = node().start().unwrap();
    let before = lab.control().snapshot().unwrap();
    lab.control().fault("task.qmclone.half", FaultAction::error("no space left on device"), 1).unwrap();
    let said = run(&lab, "qm clone 9001 100 --full 1");
    assert_eq!((said.code, said.err.as_str()), (255, "clone failed: no space left on device\n"));
    assert_eq!(lab.control().snapshot().unwrap(), before);
    lab.control().storage("local-lvm", Some(3 << 30), None).unwrap();
    let said = run(&lab, "qm clone 9001 100 --full 1");
    assert_eq!((said.code, said.err.contains("free space")), (255, true));
    assert_eq!(lab.control().snapshot().unwrap(), before);
}

#[test]
fn clones_of_one_template_run_side_by_side() {
    let lab = node().node(|node| node.timing.clone = 600).start().unwrap();
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for vmid in 100..105 {
            let lab = &lab;
            scope.spawn(move || ok(lab, &format!("qm clone 9001 {vmid} --full 1")));
        }
    });
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(590) && took < Duration::from_millis(1_800), "{took:?}");
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 6);
}

#[test]
fn h33_missing_has_two_wordings() {
    let lab = node().start().unwrap();
    for call in ["status", "config", "start", "destroy", "template", "pending"] {
        let said = run(&lab, &format!("qm {call} 555"));
        assert_eq!(
            said.err, "Configuration file 'nodes/pve/qemu-server/555.conf' does not exist\n",
            "{call}"
        );
        assert_ne!(said.code, 0, "{call}");
    }
    let other = "unable to find configuration file for VM 555 on node 'pve'\n";
    for call in [
        "stop 555",
        "resume 555",
        "suspend 555",
        "suspend 555 --todisk 1",
        "shutdown 555",
        "reboot 555",
        "clone 555 556",
    ] {
        let said = run(&lab, &format!("qm {call}"));
        let twice = call.starts_with("shutdown") || call.starts_with("reboot");
        assert_eq!(said.err, other.repeat(if twice { 2 } else { 1 }), "{call}");
        assert_ne!(said.code, 0, "{call}");
    }
}

#[test]
fn h32_destroy_exits_0_when_a_disk_stays() {
    let stuck = |pve| {
        let lab = with_guest(node().pve(pve));
        ok(&lab, "qm stop 100");
        lab.control().stick_volumes(&["local-lvm:vm-100-disk-0"]).unwrap();
        let said = run(&lab, "qm destroy 100");
        assert_eq!(said.code, 0);
        (lab, said)
    };
    let (_lab, said) = stuck(8);
    assert!(
        said.out.starts_with("Could not remove disk 'local-lvm:vm-100-disk-0', check manually: "),
        "{said:?}"
    );
    assert_eq!(said.err, "", "no warning of the task");
    let (lab, said) = stuck(9);
    assert!(said.out.contains("WARN: Could not remove disk 'local-lvm:vm-100-disk-0'"), "{said:?}");
    assert_eq!(said.err, "Task finished with 1 warning(s)!\n");
    let left = lab.control().snapshot().unwrap();
    assert!(left.volumes.contains_key("local-lvm:vm-100-disk-0") && !left.guests.contains_key(&100));
    lab.control().stick_volumes(&[]).unwrap();
    ok(&lab, "qm clone 9001 100 --full 1");
    let guest = &lab.control().snapshot().unwrap().guests[&100];
    assert!(guest.config["scsi0"].starts_with("local-lvm:vm-100-disk-1,"), "the leak is still in the way");
    ok(&lab, "qm destroy 100");
    assert!(lab.control().snapshot().unwrap().volumes.contains_key("local-lvm:vm-100-disk-0"));
    ok(&lab, "qm clone 9001 100 --full 1");
    ok(&lab, "qm destroy 100 --destroy-unreferenced-disks 1");
    assert!(!lab.control().snapshot().unwrap().volumes.contains_key("local-lvm:vm-100-disk-0"));
}

#[test]
fn destroy_refuses_what_proxmox_refuses() {
    let lab = with_guest(node());
    let refused = |text: &str| {
        let said = run(&lab, "qm destroy 100");
        assert_eq!((said.code != 0, said.err.as_str()), (true, text));
    };
    refused("VM 100 is running - destroy failed\n");
    lab.control().power(100, Power::Stopped).unwrap();
    ok(&lab, "qm set 100 --protection 1");
    refused("can't remove VM 100 - protection mode enabled\n");
    ok(&lab, "qm set 100 --protection 0");
    lab.control().set_lock(100, Some("backup")).unwrap();
    refused("VM is locked (backup)\n");
    ok(&lab, "qm unlock 100");
    lab.control().add_backup_job(100).unwrap();
    ok(&lab, "qm destroy 100");
    assert!(lab.control().snapshot().unwrap().backup_jobs.contains(&100), "inherited by the next guest 100");
    ok(&lab, "qm clone 9001 100");
    ok(&lab, "qm destroy 100 --purge=1");
    assert!(lab.control().snapshot().unwrap().backup_jobs.is_empty());
}

#[test]
fn a_bare_purge_eats_the_vmid() {
    let lab = with_guest(node());
    let said = run(&lab, "qm destroy --purge 100");
    assert_eq!((said.code != 0, said.err.as_str()), (true, "400 not enough arguments\n"));
    assert!(lab.control().snapshot().unwrap().guests.contains_key(&100));
}

#[test]
fn h32_template_and_resize_exit_0_when_they_failed() {
    let lab = node().start().unwrap();
    ok(&lab, "qm create 100 --name t --memory 512 --scsi0 local-lvm:2 --ide2 local-lvm:cloudinit");
    lab.control().fault("task.qmtemplate.half", FaultAction::error("lvconvert failed"), 1).unwrap();
    let said = run(&lab, "qm template 100");
    assert_eq!((said.code, said.err.as_str()), (0, "lvconvert failed\n"));
    let guest = lab.control().snapshot().unwrap().guests[&100].clone();
    assert!(
        guest.template && guest.config["scsi0"].contains(":vm-100-disk-0"),
        "written before the volumes are"
    );
    let said = run(&lab, "qm template 100");
    assert_eq!((said.code != 0, said.err.as_str()), (true, "you can't convert a template to a template\n"));

    for (line, why) in [
        (
            "qm disk resize 555 scsi0 +1G",
            "Configuration file 'nodes/pve/qemu-server/555.conf' does not exist\n",
        ),
        ("qm resize 100 scsi0 1G", "shrinking disks is not supported\n"),
        ("qm resize 100 scsi1 1G", "disk 'scsi1' does not exist\n"),
    ] {
        let said = run(&lab, line);
        assert_eq!((said.code, said.err.as_str()), (0, why), "{line}");
    }
    ok(&lab, "qm resize 100 scsi0 +1G");
    ok(&lab, "qm disk resize 100 scsi0 3G");
    assert!(lab.control().snapshot().unwrap().guests[&100].config["scsi0"].ends_with("size=3G"));
}

#[test]
fn template_converts_its_volumes() {
    let lab = node().start().unwrap();
    ok(&lab, "qm create 100 --name t --scsi0 local-lvm:2 --ide2 local-lvm:cloudinit --pool blockhost");
    ok(&lab, "qm template 100");
    let node = lab.control().snapshot().unwrap();
    assert_eq!(node.guests[&100].config["scsi0"], "local-lvm:base-100-disk-0,size=2G");
    assert!(
        node.volumes.contains_key("local-lvm:base-100-disk-0")
            && node.volumes.contains_key("local-lvm:vm-100-cloudinit")
    );
    assert_eq!(run(&lab, "qm start 100").err, "you can't start a vm if it's a template\n");
    assert_eq!(node.pools["blockhost"], [100]);
}

#[test]
fn h40_imports_are_told_in_two_ways() {
    for (pve, last) in [
        (8, "Successfully imported disk as 'unused0:local-lvm:vm-100-disk-0'\n"),
        (9, "unused0: successfully imported disk 'local-lvm:vm-100-disk-0'\n"),
    ] {
        let lab = node().pve(pve).start().unwrap();
        ok(&lab, "qm create 100 --name t");
        std::fs::write(lab.path("var/disk.raw"), vec![0u8; 3 << 20]).unwrap();
        let text = ok(&lab, "qm importdisk 100 disk.raw local-lvm");
        assert!(
            text.starts_with("importing disk 'disk.raw' to VM 100 ...\n") && text.ends_with(last),
            "{text}"
        );
        let node = lab.control().snapshot().unwrap();
        assert_eq!(node.guests[&100].config["unused0"], "local-lvm:vm-100-disk-0");
        assert_eq!(node.volumes["local-lvm:vm-100-disk-0"].size, 3 << 20);
        ok(&lab, "qm set 100 --scsi0 local-lvm:vm-100-disk-0");
        assert_ne!(run(&lab, "qm disk import 100 missing.raw local-lvm").code, 0);
        assert!(run(&lab, "qm disk import 100 disk.raw local").err.contains("content-type 'images'"));
        let text = ok(&lab, "qm disk import 100 disk.raw local-lvm --target-disk scsi1");
        assert!(text.ends_with("scsi1: successfully imported disk 'local-lvm:vm-100-disk-1'\n"), "{text}");
        // Without a size until somebody looks.
        let scsi1 = || lab.control().snapshot().unwrap().guests[&100].config["scsi1"].clone();
        assert_eq!(scsi1(), "local-lvm:vm-100-disk-1");
        ok(&lab, "qm set 100 --boot order=scsi1");
        let boot_disk = || {
            ok(&lab, "qm list --full 0").lines().nth(1).unwrap().split_whitespace().nth(4).unwrap().to_owned()
        };
        assert_eq!(boot_disk(), "0.00");
        assert!(ok(&lab, "qm disk rescan --vmid 100").contains("(scsi1): size of disk"));
        assert_eq!((scsi1().as_str(), boot_disk().as_str()), ("local-lvm:vm-100-disk-1,size=3M", "0.00"));
    }
}

#[test]
fn a_failing_start_does_not_fail_create() {
    let lab = node().start().unwrap();
    let said = run(&lab, "qm create 100 --net0 virtio,bridge=vmbr7 --start 1");
    assert_eq!((said.code, said.err.as_str()), (0, "Task finished with 1 warning(s)!\n"));
    assert_eq!(lab.control().snapshot().unwrap().guests[&100].power, Power::Stopped);
    assert_eq!(run(&lab, "qm start 100").err, "bridge 'vmbr7' does not exist\n");
}

#[test]
fn tasks_end_as_faults_say() {
    let lab = with_guest(node());
    lab.control().fault("task.qmstop", FaultAction::Warnings { count: 1 }, 1).unwrap();
    let said = run(&lab, "qm stop 100");
    assert_eq!((said.code, said.err.as_str()), (0, "Task finished with 1 warning(s)!\n"));
    lab.control().fault("task.qmstart.after", FaultAction::error("QEMU exited with code 1"), 1).unwrap();
    let said = run(&lab, "qm start 100");
    assert_eq!((said.code, said.err.as_str()), (255, "QEMU exited with code 1\n"));
    lab.control().fault("qm.destroy", FaultAction::Kill, 1).unwrap();
    assert_eq!(run(&lab, "qm destroy 100").code, -1);
    lab.control().fault("qm.status", FaultAction::Error { message: "no".into(), code: Some(4) }, 1).unwrap();
    assert_eq!(run(&lab, "qm status 100").code, 4);
}
