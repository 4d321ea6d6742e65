//! What is found out before anything is taken, in words that tell what to do.

use crate::support::{Commands, edit, read, world, write};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};

#[track_caller]
fn refused(lab: &Lab, flags: &[&str], words: &[&str]) {
    let before = world(lab);
    lab.create("web-1", flags).fails(words);
    world(lab).same(&before, "refused");
}

#[test]
fn the_template_is_looked_at_first() {
    let lab = Lab::builder().no_template().start().unwrap();
    refused(&lab, &[], &["template VM 9001 does not exist on node pve", "blockhost-build-template"]);
    let lab = Lab::builder().start().unwrap();
    refused(
        &lab,
        &["--disk", "2"],
        &["--disk 2 GB is smaller than the template's disk (2252 MiB)", "cannot shrink"],
    );
    lab.made_with("fits", &["--disk", "3"]);
    lab.control()
        .add_guest(NewGuest {
            vmid: 150,
            name: "plain".into(),
            pool: Some("blockhost".into()),
            ..NewGuest::default()
        })
        .unwrap();
    refused(&lab, &["--template-vmid", "150"], &["VM 150", "is not a template", "blockhost-build-template"]);
    refused(&lab, &["--node", "pve2"], &["pve2"]);
}

#[test]
fn storages_are_looked_at_first() {
    let lab = Lab::builder().start().unwrap();
    refused(&lab, &["--disk-datastore", "nowhere"], &["nowhere"]);
    lab.control().storage("local-lvm", None, Some(false)).unwrap();
    refused(&lab, &[], &["local-lvm"]);
    lab.control().storage("local-lvm", Some(3 << 30), Some(true)).unwrap();
    refused(&lab, &[], &["VM web-1", "storage local-lvm", "too small"]);
}

#[test]
fn h39_a_wrong_token_is_named_and_not_shown() {
    let lab = Lab::builder().start().unwrap();
    let wrong = "blockhost@pve!tf=00000000-0000-4000-8000-00000000000f";
    write(&lab.path("etc/blockhost/pve-token"), wrong);
    let before = world(&lab);
    let said = lab.create("web-1", &["-vv"]);
    assert!(!said.err.contains("00000000000f"), "{said:?}");
    let words = ["blockhost@pve!tf", "HTTP 401", "blockhost-provisioner-setup token"];
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    said.says(&words);
    world(&lab).same(&before, "refused");
    // Other verbs do not need it: the root agent does what terraform cannot.
    write(&lab.path("etc/blockhost/pve-token"), &lab.token());
    lab.made("web-1");
    write(&lab.path("etc/blockhost/pve-token"), wrong);
    for verb in ["stop", "start", "kill", "destroy"] {
        lab.vm(verb, &["web-1"]).ok();
    }
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1);
}

#[test]
fn h39_a_token_without_privileges_is_told_which() {
    let lab = Lab::builder().start().unwrap();
    let token = "poor@pve!tf=3f1f6f0c-1b1e-4d0e-9c55-6d2f1c0a7b12";
    let pveum = |words: &str| {
        let said = lab.tool("pveum").args(words.split(' ')).output().unwrap();
        assert!(said.status.success(), "{words}: {said:?}");
        String::from_utf8(said.stdout).unwrap()
    };
    pveum("user add poor@pve");
    let added = pveum("user token add poor@pve tf --privsep 0 --output-format json");
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let token = token.split('=').next().unwrap().to_owned() + "=" + added["value"].as_str().unwrap();
    write(&lab.path("etc/blockhost/pve-token"), &token);
    refused(&lab, &[], &["poor@pve!tf", "HTTP 403", "/vms/9001"]);
    // One privilege is missing in the middle of terraform's work.
    write(&lab.path("etc/blockhost/pve-token"), &lab.token());
    let lacks = FaultAction::Error {
        message: "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)".into(),
        code: Some(403),
    };
    lab.control().fault("api.PUT /nodes/{node}/qemu/{vmid}/config", lacks, 9).unwrap();
    refused(&lab, &[], &["VM web-1 (VMID 100)", "SDN.Use", "vmbr0", "blockhost-provisioner-setup token"]);
}

#[test]
fn terraform_that_is_not_there() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    refused(&lab, &[], &["terraform", "blockhost-provisioner-setup terraform"]);
    let lab = Lab::builder().start().unwrap();
    let nowhere = lab.path("bin").display().to_string();
    let before = world(&lab);
    let mut command =
        lab.vm_command("create", &["web-1", "--owner-wallet", crate::support::WALLET, "--apply"]);
    let said = crate::support::run(command.env("PATH", &nowhere));
    said.fails(&["terraform is not installed"]);
    world(&lab).same(&before, "not installed");
    // destroy does without it.
    lab.made("web-1");
    let said: crate::support::Ended =
        lab.vm_command("destroy", &["web-1"]).env("PATH", &nowhere).output().unwrap().into();
    assert!(!said.ok().err.contains("warning"));
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1);
    // A provider that was taken away.
    std::fs::remove_dir_all(lab.path("var/terraform/.terraform/providers")).unwrap();
    refused(&lab, &[], &["terraform is not initialised", "blockhost-provisioner-setup terraform"]);
    std::fs::create_dir_all(lab.path("var/terraform/.terraform/providers")).unwrap();
    refused(&lab, &[], &["terraform is not initialised", "blockhost-provisioner-setup terraform"]);
    let path = lab.path("var/terraform/terraform.tfvars");
    let text = read(&path);
    std::fs::remove_file(&path).unwrap();
    refused(&lab, &[], &["terraform.tfvars", "blockhost-provisioner-setup terraform"]);
    write(&path, &text);
    edit(&path, "proxmox_node", "other");
    refused(&lab, &[], &["terraform.tfvars", "proxmox_node", "missing"]);
}

#[test]
fn an_api_or_agent_that_is_down() {
    let lab = Lab::builder().start().unwrap();
    let path = lab.path("var/terraform/provider.tf.json");
    let text = read(&path);
    edit(&path, &lab.endpoint().unwrap(), "https://127.0.0.1:1");
    refused(&lab, &[], &["cannot reach the Proxmox API at https://127.0.0.1:1"]);
    edit(&path, "https://127.0.0.1:1", "http://127.0.0.1:8006");
    refused(&lab, &[], &["http://127.0.0.1:8006", "https://"]);
    write(&path, &text);
    lab.control().stop_root_agent().unwrap();
    refused(&lab, &[], &["root-agent.sock", "does not exist", "systemctl status blockhost-root-agent"]);
    for verb in ["stop", "start", "kill", "destroy"] {
        assert_ne!(lab.vm(verb, &["never-made"]).code, None);
    }
    lab.control().restart_root_agent(0).unwrap();
    lab.made("web-1");
}
