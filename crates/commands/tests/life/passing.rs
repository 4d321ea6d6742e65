//! States that pass by themselves are waited for (hazard H22), and what others hold stops nobody.

use crate::support::{Commands, WALLET, add_settings, record, terraform_vm, world};
use lab::Lab;
use lab::model::FaultAction;

const CREATE: [&str; 4] = ["web-1", "--owner-wallet", WALLET, "--apply"];

#[test]
fn h22_a_template_that_is_being_backed_up_is_waited_for() {
    let lab = Lab::builder().start().unwrap();
    lab.control().set_lock(9001, Some("backup")).unwrap();
    let before = world(&lab);
    lab.vm_with("limit@create-template-lock=1500", "create", &CREATE).fails(&[
        "VM web-1",
        "template VM 9001 is still locked (backup)",
        "qm unlock 9001",
    ]);
    world(&lab).same(&before, "nothing was reserved");
    let running = lab.vm_start("", "create", &CREATE);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    lab.control().set_lock(9001, None).unwrap();
    let said = running.wait().ok();
    assert_eq!(said.err.matches("template VM 9001 is locked (backup); waiting").count(), 1, "{said:?}");
    assert!(!said.err.contains("terraform failed"), "{said:?}");
}

#[test]
fn h22_passing_refusals_are_tried_again_and_others_are_not() {
    let lab = Lab::builder().start().unwrap();
    let rules = "limit@create-retry=50";
    for words in
        ["cluster not ready - no quorum?", "error with cfs lock 'storage-nfs': unable to acquire lock"]
    {
        lab.control().fault("task.qmclone.half", FaultAction::error(words), 1).unwrap();
        lab.vm_with(rules, "create", &CREATE).ok().says(&[
            "VM web-1 (VMID 10",
            words,
            "trying again in 2 s (try 2 of 8)",
        ]);
        lab.vm("destroy", &["web-1"]).ok();
    }
    lab.control().fault("task.qmclone.half", FaultAction::error("Can't use an undefined value"), 1).unwrap();
    let said = lab.vm_with(rules, "create", &CREATE);
    assert!(!said.err.contains("trying again"), "{said:?}");
    said.fails(&["VM web-1", "Can't use an undefined value"]);
}

/// The provider repeats a resize for two reasons only: all others end the whole create.
#[test]
fn h22_a_resize_that_is_given_up_is_undone_and_tried_again_where_it_passes() {
    let rules = "limit@create-retry=50";
    for version in ["0.93.0", "0.111.1"] {
        let lab = Lab::builder().provider(version).start().unwrap();
        let guests = |lab: &Lab| lab.control().snapshot().unwrap().guests;
        let before = guests(&lab);
        let resize = "api.PUT /nodes/*/qemu/*/resize";
        for (fault, words) in [
            (FaultAction::Kill, "/resize\": EOF"),
            (FaultAction::error("storage 'local-lvm' is not online"), "is not online"),
        ] {
            lab.control().fault(resize, fault, 1).unwrap();
            let said = lab.vm_with(rules, "create", &CREATE).ok();
            said.says(&[words, "trying again in 2 s (try 2 of 8)"]);
            assert_eq!(guests(&lab).len(), 2, "{version}: the template and one VM");
            lab.vm("destroy", &["web-1"]).ok();
        }
        lab.control().fault(resize, FaultAction::error("lvextend failed"), 1).unwrap();
        let said = lab.vm_with(rules, "create", &CREATE);
        assert!(!said.err.contains("trying again"), "{said:?}");
        said.fails(&["VM web-1", "lvextend failed"]);
        assert_eq!(guests(&lab), before, "{version}: undone");
    }
}

#[test]
fn a_start_with_warnings_makes_a_vm() {
    for version in ["0.93.0", "0.111.1"] {
        let lab = Lab::builder().provider(version).start().unwrap();
        lab.control().fault("task.qmstart", FaultAction::Warnings { count: 1 }, 1).unwrap();
        let said = lab.vm("create", &CREATE).ok();
        assert!(!said.err.contains("undoing"), "{said:?}");
    }
}

#[test]
fn a_lock_in_the_common_tmp_holds_no_terraform_up() {
    let lab = Lab::builder().start().unwrap();
    let common = lab.path("common-tmp");
    std::fs::create_dir(&common).unwrap();
    let held = std::fs::File::create(common.join("terraform-provider-proxmox-id-gen.lock")).unwrap();
    held.lock().unwrap();
    let mut create = lab.vm_command("create", &CREATE);
    let said = crate::support::run(create.env("TMPDIR", &common));
    said.ok();
    let left: Vec<_> = std::fs::read_dir(lab.path("var")).unwrap().flatten().map(|f| f.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("tf-")), "{left:?}");
}

#[test]
fn a_host_route_that_stays_keeps_the_entry_until_it_is_gone() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    // Whoever tries: the hook script when the VM stops, and destroy.
    lab.control().fault("ip.route", FaultAction::error("RTNETLINK answers: busy"), 1_000).unwrap();
    lab.vm("destroy", &["web-1"]).fails(&["VM web-1", "host route", "busy", "run the same command again"]);
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
    assert_eq!(lab.control().snapshot().unwrap().routes.len(), 1);
    lab.control().clear_faults().unwrap();
    // Nobody else gets the address meanwhile.
    lab.made("web-2");
    assert_ne!(record(&lab, "web-2")["ipv6_address"], record(&lab, "web-1")["ipv6_address"]);
    lab.vm("destroy", &["web-1"]).ok();
    assert_eq!(lab.control().snapshot().unwrap().routes.len(), 1, "web-2's stays");
    assert!(!lab.path("var/journal/web-1.json").exists());
}

/// Another package's action holds the root agent's one lane: the caller's own limit counts, not one of each step.
#[test]
fn files_and_route_have_what_is_left_of_the_callers_time() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().fault("agent.snippet-delete.before", FaultAction::Slow { ms: 1_500 }, 1).unwrap();
    lab.vm_with("limit@tidying=200", "destroy", &["web-1"]).ok();
    assert!(!lab.path("var/journal/web-1.json").exists());
}

#[test]
fn what_a_dead_create_left_of_its_turn_goes_with_the_next_command() {
    let lab = Lab::builder().start().unwrap();
    lab.vm_with("kill@create.turn", "create", &CREATE);
    assert!(lab.path("run/provisioning.lock").exists());
    lab.vm("list", &[]).ok();
    assert!(!lab.path("run/provisioning.lock").exists() && !lab.path("run/creates/1").exists());
}

#[test]
fn the_template_is_that_of_the_settings_and_one_that_can_be_cloned() {
    let lab = Lab::builder().start().unwrap();
    add_settings(&lab, "template_vmid: 9005");
    // The preview asks what --apply asks.
    for arguments in [&CREATE[..3], &CREATE[..]] {
        lab.vm("create", arguments).fails(&["template VM 9005 does not exist"]);
    }
    lab.create("web-1", &["--template-vmid", "9001"]).ok();
    assert_eq!(terraform_vm(&lab, "web-1")["clone"]["vm_id"], 9001);
    for (key, value, words) in [
        ("hookscript", "local:snippets/x.pl", ["local:snippets/x.pl", "qm set 9001 --delete hookscript"]),
        ("boot", "order=net0;scsi0", ["boots from net0 first", "scsi0"]),
    ] {
        lab.control().set(9001, key, value).unwrap();
        let before = world(&lab);
        for apply in [&["--template-vmid", "9001"][..], &["--template-vmid", "9001", "--apply"]] {
            let arguments = [&["web-2", "--no-web3"][..], apply].concat();
            let said =
                lab.vm("create", &arguments).fails(&[&["VM web-2", "template VM 9001"][..], &words].concat());
            world(&lab).same(&before, "nothing was taken");
            assert!(!said.err.contains("terraform"), "{said:?}");
        }
        assert!(!lab.path("var/journal/web-2.json").exists());
        assert!(!lab.path("var/terraform/vms/web-2").exists());
        assert_eq!(record(&lab, "web-2"), serde_json::Value::Null);
        lab.control().unset(9001, key).unwrap();
    }
}
