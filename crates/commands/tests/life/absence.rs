//! An error is not an absence (hazards H39, H49), and two wordings that are one (H33), and exit codes that say
//! nothing (H32).

use crate::support::{Commands, SOON, database, edit_record, guest, record, write_database};
use lab::Lab;
use lab::model::{FaultAction, Power};

#[track_caller]
fn still_there(lab: &Lab, name: &str) {
    assert_eq!(record(lab, name)["status"], "active");
    assert!(lab.path(format!("var/terraform/vms/{name}/{name}.tf.json")).exists());
    assert!(database(lab)["allocated_ips"].as_array().unwrap().contains(&"192.168.122.200".into()));
}

#[test]
fn h49_no_answer_about_the_machine_destroys_no_record() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let rules = "limit@destroy=4000";
    for fault in [
        FaultAction::error("pmxcfs hangs"),
        FaultAction::Garbage,
        FaultAction::Huge,
        FaultAction::Kill,
        FaultAction::error("unable to find configuration file for VM 100 on node 'pve'"),
        FaultAction::error("Configuration file 'nodes/pve/qemu-server/100.conf' does not exist"),
    ] {
        lab.control().fault("agent.vm-state", fault.clone(), 99).unwrap();
        lab.vm_with(rules, "destroy", &["web-1"]).fails(&["VM web-1", "cannot query the node"]);
        still_there(&lab, "web-1");
        lab.control().clear_faults().unwrap();
    }
    lab.control().mount_etc_pve(false).unwrap();
    for verb in ["destroy", "stop", "kill", "start"] {
        lab.vm_with(rules, verb, &["web-1"]).fails(&["cannot query the node", "not mounted"]);
        still_there(&lab, "web-1");
    }
    lab.control().mount_etc_pve(true).unwrap();
    lab.control().migrate(100, "pve2").unwrap();
    for verb in ["destroy", "stop", "kill", "start"] {
        lab.vm_with(rules, verb, &["web-1"]).fails(&["it is on node pve2 now"]);
        still_there(&lab, "web-1");
    }
    lab.control().migrate(100, "pve").unwrap();
    lab.control().stop_root_agent().unwrap();
    lab.vm_with(rules, "destroy", &["web-1"]).fails(&["root-agent.sock", "does not exist"]);
    still_there(&lab, "web-1");
    assert_eq!(guest(&lab, 100).power, Power::Running);
    lab.control().restart_root_agent(0).unwrap();
    lab.vm("destroy", &["web-1"]).ok();
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
}

#[test]
fn h49_unmounted_between_the_act_and_the_look_is_no_proof() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    // qm does nothing and says it was done; the list of guests has gone.
    lab.control().fault("qm.destroy", FaultAction::Slow { ms: 600 }, 1).unwrap();
    let running = lab.vm_start("limit@destroy=6000", "destroy", &["web-1"]);
    lab.control().wait_fault("qm.destroy", SOON).unwrap();
    lab.control().mount_etc_pve(false).unwrap();
    running.wait().fails(&["not mounted"]);
    still_there(&lab, "web-1");
    lab.control().mount_etc_pve(true).unwrap();
    lab.vm("destroy", &["web-1"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
}

#[test]
fn h39_h49_the_api_alone_never_decides() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let answers = [
        (500, "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist"),
        (403, "Permission check failed (/vms/100, VM.Audit)"),
        (404, "not here"),
    ];
    for (code, message) in answers {
        let fault = FaultAction::Error { message: message.into(), code: Some(code) };
        lab.control().fault("api.* /nodes/{node}/qemu/100*", fault, 99).unwrap();
        // The VM is there all the same, and only the root agent is asked about it.
        lab.control().fault("agent.qm-destroy", FaultAction::error("not now"), 99).unwrap();
        lab.vm_with("limit@destroy=9000", "destroy", &["web-1"]).fails(&["failed to delete it", "not now"]);
        still_there(&lab, "web-1");
        assert!(lab.control().snapshot().unwrap().guests.contains_key(&100), "{code}");
        lab.control().clear_faults().unwrap();
    }
    // What the API cannot, the root agent can.
    let fault = FaultAction::Error { message: "no".into(), code: Some(500) };
    lab.control().fault("api.* /nodes/{node}/qemu/100*", fault, 99).unwrap();
    lab.vm("destroy", &["web-1"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
}

#[test]
fn h49_a_token_that_may_not_see_the_machine_changes_nothing_about_it() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().pool(100, None).unwrap();
    assert_eq!(lab.vm("status", &["web-1"]).ok().out, "active\n");
    let listed = lab.vm("list", &["--live"]).ok();
    assert!(listed.out.contains("web-1\tactive\t"), "{listed:?}");
    // The token sees nothing; create must not take the VMID for free, start and stop still work.
    lab.made("web-2");
    assert_eq!(record(&lab, "web-2")["vmid"], 101);
    lab.vm("stop", &["web-1"]).ok();
    lab.vm("start", &["web-1"]).ok();
    lab.vm("destroy", &["web-1"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
}

#[test]
fn h33_gone_has_two_wordings_and_both_are_gone() {
    let lab = Lab::builder().start().unwrap();
    // Somebody else removes the machine while our tool is about to act on it.
    for (point, words) in [
        ("qm.stop", "unable to find configuration file for VM"),
        ("qm.destroy", "Configuration file 'nodes/pve/qemu-server"),
    ] {
        lab.made("web-1");
        let id = crate::support::vmid(&lab, "web-1");
        lab.control().fault(point, FaultAction::Slow { ms: 700 }, 1).unwrap();
        let since = lab.control().last_call().unwrap();
        let running = lab.vm_start("", "destroy", &["web-1"]);
        lab.control().wait_fault(point, SOON).unwrap();
        lab.control().remove_guest(id).unwrap();
        running.wait().ok();
        assert_eq!(record(&lab, "web-1")["status"], "destroyed");
        let calls = lab.control().calls(since).unwrap();
        assert!(
            calls.iter().any(|call| call.what.starts_with(&point.replace('.', " ")) && call.code != Some(0)),
            "the tool did say {words}: {calls:?}"
        );
        lab.control().clear_faults().unwrap();
    }
}

#[test]
fn h33_wordings_about_a_machine_that_is_there_are_errors() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    for words in [
        "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist",
        "unable to find configuration file for VM 100 on node 'pve'",
    ] {
        for code in [2, 255] {
            lab.control().power(100, Power::Stopped).unwrap();
            let fault = FaultAction::Error { message: words.into(), code: Some(code) };
            lab.control().fault("qm.destroy", fault, 1).unwrap();
            lab.vm_with("limit@destroy=9000", "destroy", &["web-1"])
                .fails(&["failed to delete it", "still there"]);
            still_there(&lab, "web-1");
        }
    }
    lab.vm("destroy", &["web-1"]).ok();
}

#[test]
fn h32_a_destroy_that_exits_0_and_did_nothing_is_found_out() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let liar = FaultAction::Error { message: String::new(), code: Some(0) };
    lab.control().fault("qm.destroy", liar, 1).unwrap();
    lab.vm_with("limit@destroy=9000", "destroy", &["web-1"]).fails(&["failed to delete it", "still there"]);
    still_there(&lab, "web-1");
}

#[test]
fn h32_disks_that_could_not_be_freed_are_named() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let disk = guest(&lab, 100).config["scsi0"].split(',').next().unwrap().to_owned();
    lab.control().stick_volumes(&[&disk]).unwrap();
    let said = lab.vm("destroy", &["web-1"]).ok();
    assert!(said.err.contains(&format!("pvesm free {disk}")), "{said:?}");
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
}

#[test]
fn h08_a_missing_terraform_file_is_no_proof() {
    let lab = Lab::builder().start().unwrap();
    for loss in ["web-1/web-1.tf.json", "web-1", "web-1/terraform.tfstate"] {
        lab.made("web-1");
        let path = lab.path("var/terraform/vms").join(loss);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        let before = lab.control().snapshot().unwrap().guests.len();
        lab.vm("destroy", &["web-1"]).ok();
        assert_eq!(lab.control().snapshot().unwrap().guests.len(), before - 1, "{loss}");
        assert!(!lab.path("var/terraform/vms/web-1").exists());
        assert_eq!(record(&lab, "web-1")["status"], "destroyed");
    }
}

#[test]
fn h08_what_a_living_machine_needs_stays_though_its_record_was_lost() {
    // An older copy of the database: without the record, or with the tombstone of an earlier VM of the same name.
    for tombstone in [false, true] {
        let lab = Lab::builder().start().unwrap();
        lab.made("web-1");
        let good = database(&lab);
        if tombstone {
            edit_record(&lab, "web-1", |record| {
                record["status"] = "destroyed".into();
                record["vmid"] = 133.into();
                record["smbios_uuid"] = "00000000-0000-4000-8000-000000000133".into();
            });
        } else {
            let mut all = good.clone();
            all["vms"].as_object_mut().unwrap().remove("web-1");
            write_database(&lab, &all);
        }
        // No file goes while the node cannot be asked.
        lab.control().mount_etc_pve(false).unwrap();
        lab.vm("destroy", &["web-1"]).fails(&["web-1"]);
        lab.control().mount_etc_pve(true).unwrap();
        assert!(lab.path("var/terraform/vms/web-1/web-1.tf.json").exists());
        // The record is found and restored, and then it is a destroy like any other.
        lab.vm("destroy", &["web-1"]).ok().says(&["VM web-1 (VMID 100)", "restored it"]);
        assert_eq!(record(&lab, "web-1")["smbios_uuid"], good["vms"]["web-1"]["smbios_uuid"]);
        assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
        assert!(!lab.path("var/terraform/vms/web-1").exists());
    }
}

#[test]
fn a_machine_removed_by_hand_can_still_be_destroyed() {
    let lab = Lab::builder().start().unwrap();
    let before = lab.control().snapshot().unwrap();
    lab.made("web-1");
    lab.control().remove_guest(100).unwrap();
    for verb in ["start", "stop", "kill"] {
        lab.vm(verb, &["web-1"]).fails(&[
            "VM web-1 (VMID 100)",
            "the VM no longer exists on the node",
            "blockhost-vm-destroy web-1",
        ]);
    }
    lab.vm("destroy", &["web-1"]).ok();
    assert_eq!(lab.control().snapshot().unwrap(), before, "snippets and route are gone, too");
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
}
