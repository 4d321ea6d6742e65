//! One terraform folder per VM, and plans that never replace a machine (hazards H43, H45).

use crate::support::{Commands, Ended, WALLET, add_settings, edit, guest, read, record, terraform_vm, write};
use lab::Lab;
use serde_json::Value;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

fn terraform(lab: &Lab, name: &str) -> Command {
    let mut command = lab.tool("terraform");
    // The provider keeps the last VMID it took in the temporary folder: other tests have theirs there.
    command
        .env("TMPDIR", lab.path("home"))
        .current_dir(lab.path("var/terraform/vms").join(name))
        .env("TF_DATA_DIR", lab.path("var/terraform/.terraform"));
    command
}

/// What `terraform plan` in the VM's folder would do: exit code 0 = nothing, 2 = something.
fn plan(lab: &Lab, name: &str) -> Ended {
    let mut command = terraform(lab, name);
    command.args([
        "plan",
        "-input=false",
        "-no-color",
        "-detailed-exitcode",
        "-var-file=../../terraform.tfvars",
    ]);
    crate::support::run(command)
}

#[track_caller]
pub fn no_changes(lab: &Lab, name: &str, after: &str) {
    let said = plan(lab, name);
    assert_eq!(said.code, Some(0), "{after}: {said:?}");
    assert!(said.out.contains("No changes."), "{after}: {said:?}");
}

#[test]
fn each_vm_has_a_folder_of_its_own() {
    let lab = Lab::builder().start().unwrap();
    let outside = |lab: &Lab| -> Vec<String> {
        let entries = std::fs::read_dir(lab.path("var/terraform")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let before = outside(&lab);
    lab.made("web-1");
    lab.made("web.2");
    let folder = lab.path("var/terraform/vms/web-1");
    for shared in ["provider.tf.json", "variables.tf.json", ".terraform.lock.hcl"] {
        let link = std::fs::read_link(folder.join(shared)).unwrap();
        assert_eq!(link, Path::new("../..").join(shared));
    }
    for own in ["web-1.tf.json", "terraform.tfstate", "terraform.log"] {
        assert_eq!(folder.join(own).metadata().unwrap().mode() & 0o777, 0o640, "{own}");
    }
    let state: Value = serde_json::from_str(&read(&folder.join("terraform.tfstate"))).unwrap();
    assert_eq!(state["resources"].as_array().unwrap().len(), 1);
    assert_eq!(state["resources"][0]["name"], "web_1");
    let file = read(&lab.path("var/terraform/vms/web.2/web.2.tf.json"));
    assert!(file.contains("\"web_2\"") && file.lines().count() > 40, "pretty-printed: {file}");
    let mut after = outside(&lab);
    after.retain(|name| name != "vms");
    assert_eq!(
        (after.len(), after.iter().all(|name| before.contains(name))),
        (before.len(), true),
        "{after:?}"
    );
    let init = lab.control().calls(0).unwrap();
    assert!(!init.is_empty());
    lab.vm("destroy", &["web-1"]).ok();
    assert!(!folder.exists() && lab.path("var/terraform/vms/web.2").exists());
}

#[test]
fn h45_both_providers_find_nothing_to_change() {
    for version in ["0.93.0", "0.111.1"] {
        let lab = Lab::builder().provider(version).start().unwrap();
        lab.made_with("web-1", &["--tags", "b", "a", "--cpu", "2", "--disk", "30"]);
        lab.vm("create", &["web-2", "--no-web3", "--apply"]).ok();
        no_changes(&lab, "web-1", version);
        no_changes(&lab, "web-2", version);
        lab.vm("stop", &["web-1"]).ok();
        no_changes(&lab, "web-1", "stopped");
        lab.vm("destroy", &["web-1"]).ok();
        lab.vm("destroy", &["web-2"]).ok();
        assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1, "{version}");
    }
}

#[test]
fn h45_nothing_that_is_edited_replaces_the_machine() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let uuid = guest(&lab, 100).uuid;
    let file = lab.path("var/terraform/vms/web-1/web-1.tf.json");
    let original = read(&file);
    // Each of these is a replacement without `ignore_changes`.
    for (from, to) in [
        ("\"vm_id\": 9001", "\"vm_id\": 9002"),
        ("\"vm_id\": 100", "\"vm_id\": 555"),
        ("\"full\": true", "\"full\": false"),
        ("blockhost-web-1-user.yaml", "another.yaml"),
        ("\"node_name\": \"pve\"", "\"node_name\": \"pve2\""),
        ("x86-64-v2-AES", "host"),
        ("\"size\": 20", "\"size\": 99"),
        ("\"started\": true", "\"started\": false"),
    ] {
        edit(&file, from, to);
    }
    no_changes(&lab, "web-1", "edited");
    write(&file, &original.replace("\"ignore_changes\": \"all\"", "\"ignore_changes\": []"));
    edit(&file, "\"vm_id\": 9001", "\"vm_id\": 9002");
    assert_eq!(plan(&lab, "web-1").code, Some(2), "these plans can tell");
    write(&file, &original);
    // Drift on the node, and a template that was rebuilt or is gone.
    lab.control().set(100, "memory", "4096").unwrap();
    lab.control().set(100, "net0", "virtio=BC:24:11:12:34:56,bridge=vmbr0").unwrap();
    lab.control().set(100, "tags", "somebody;else").unwrap();
    no_changes(&lab, "web-1", "drift");
    lab.control().remove_guest(9001).unwrap();
    no_changes(&lab, "web-1", "not a template");
    std::fs::remove_file(lab.path("node/var/lib/vz/snippets/blockhost-web-1-user.yaml")).unwrap();
    no_changes(&lab, "web-1", "no snippet");
    assert_eq!(guest(&lab, 100).uuid, uuid);
    lab.vm("destroy", &["web-1"]).ok();
}

/// Gives a lab the terraform files of one with another version, as an upgrade does.
fn upgrade(lab: &Lab, newer: &Lab, from: &str, to: &str) {
    let (ours, theirs) = (lab.path("var/terraform"), newer.path("var/terraform"));
    std::fs::remove_dir_all(ours.join(".terraform")).unwrap();
    let copied = lab.tool("cp").arg("-a").arg(theirs.join(".terraform")).arg(&ours).status().unwrap();
    assert!(copied.success());
    std::fs::copy(theirs.join(".terraform.lock.hcl"), ours.join(".terraform.lock.hcl")).unwrap();
    edit(&ours.join("provider.tf.json"), &format!("= {from}"), &format!("= {to}"));
}

#[test]
fn h45_a_provider_upgrade_replaces_nothing() {
    let lab = Lab::builder().start().unwrap();
    let newer = Lab::builder().provider("0.111.1").no_root_agent().start().unwrap();
    lab.made("web-1");
    lab.vm("create", &["web-2", "--no-web3", "--apply"]).ok();
    let before = lab.control().snapshot().unwrap();
    upgrade(&lab, &newer, "0.93.0", "0.111.1");
    no_changes(&lab, "web-1", "upgrade");
    no_changes(&lab, "web-2", "upgrade");
    // Even an apply of everything does nothing.
    let mut apply = terraform(&lab, "web-1");
    apply.args(["apply", "-input=false", "-auto-approve", "-no-color", "-var-file=../../terraform.tfvars"]);
    let said = crate::support::run(apply);
    assert!(said.clone().ok().out.contains("0 added, 0 changed, 0 destroyed"), "{said:?}");
    assert_eq!(lab.control().snapshot().unwrap(), before);
    lab.made("web-3");
    no_changes(&lab, "web-3", "made by the new one");
    for name in ["web-1", "web-2", "web-3"] {
        lab.vm("destroy", &[name]).ok();
    }
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1);
}

#[test]
fn h43_other_vms_broken_folders_do_not_disturb() {
    let lab = Lab::builder().start().unwrap();
    lab.made("broken");
    lab.made("web-1");
    let folder = lab.path("var/terraform/vms/broken");
    write(&folder.join("broken.tf.json"), "{\"resource\": {");
    write(&folder.join("terraform.tfstate"), "");
    std::fs::remove_file(folder.join("provider.tf.json")).unwrap();
    lab.made("web-2");
    no_changes(&lab, "web-1", "beside a broken one");
    lab.vm("destroy", &["web-1"]).ok();
    lab.vm("destroy", &["web-2"]).ok();
    // And the broken one itself can be destroyed.
    lab.vm("destroy", &["broken"]).ok();
    assert!(!folder.exists());
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1);
}

#[test]
fn the_token_file_wins_over_tfvars() {
    let lab = Lab::builder().start().unwrap();
    lab.made("before");
    let tfvars = lab.path("var/terraform/terraform.tfvars");
    edit(&tfvars, &lab.token(), "blockhost@pve!tf=00000000-0000-4000-8000-000000000000");
    lab.made("web-1");
    lab.vm("destroy", &["before"]).ok();
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&100));
    let own = lab.path("var/terraform/vms/web-1/pve-token.tfvars.json");
    assert_eq!(own.metadata().unwrap().mode() & 0o777, 0o640);
    // Without a token file, tfvars' counts; and the other way round.
    std::fs::remove_file(lab.path("etc/blockhost/pve-token")).unwrap();
    lab.create("web-2", &[]).fails(&["HTTP 401", "blockhost@pve!tf", "blockhost-provisioner-setup token"]);
    edit(&tfvars, "00000000-0000-4000-8000-000000000000", lab.token().split('=').nth(1).unwrap());
    lab.made("web-2");
    assert!(!lab.path("var/terraform/vms/web-2/pve-token.tfvars.json").exists());
    edit(&tfvars, "proxmox_api_token", "another_key");
    lab.create("web-3", &[]).fails(&["no API token", "pve-token", "proxmox_api_token", "terraform.tfvars"]);
    write(&lab.path("etc/blockhost/pve-token"), &format!("{}\n", lab.token()));
    lab.made("web-3");
}

#[test]
fn variables_of_the_caller_change_nothing() {
    let lab = Lab::builder().start().unwrap();
    let stray = [
        ("PROXMOX_VE_ENDPOINT", "https://192.0.2.1:8006"),
        ("PROXMOX_VE_API_TOKEN", "a@pve!b=00000000-0000-4000-8000-000000000000"),
        ("PROXMOX_VE_USERNAME", "root@pam"),
        ("PROXMOX_VE_INSECURE", "false"),
        ("TF_CLI_ARGS", "-no-such-flag"),
        ("TF_CLI_ARGS_apply", "-destroy"),
        ("TF_CLI_ARGS_destroy", "-refresh-only"),
        ("TF_VAR_proxmox_node", "elsewhere"),
        ("TF_VAR_proxmox_api_token", "nonsense"),
        ("TF_WORKSPACE", "other"),
        ("TF_DATA_DIR", "/nonexistent"),
        ("TF_LOG", "trace"),
        ("TF_LOG_PATH", "/tmp/life-terraform-trace-must-not-be"),
    ];
    let run = |verb: &str, arguments: &[&str]| -> Ended {
        crate::support::run(lab.vm_command(verb, arguments).envs(stray))
    };
    run("create", &["web-1", "--owner-wallet", WALLET, "--apply"]).ok();
    assert_eq!(guest(&lab, 100).node, "pve");
    assert!(!Path::new("/tmp/life-terraform-trace-must-not-be").exists());
    assert!(!read(&lab.path("var/terraform/vms/web-1/terraform.log")).contains("[TRACE]"));
    run("destroy", &["web-1"]).ok();
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1);
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
}

#[test]
fn linked_clones_pools_and_datastores() {
    let lab = Lab::builder().db_yaml("clone_mode: linked").start().unwrap();
    lab.made("web-1");
    let disk = guest(&lab, 100).config["scsi0"].clone();
    assert!(
        disk.contains("base-9001-disk-0/vm-100-disk-0") || disk.starts_with("local-lvm:vm-100-disk-0"),
        "{disk}"
    );
    let clone = &terraform_vm(&lab, "web-1")["clone"];
    assert_eq!((clone["full"].as_bool(), clone.get("datastore_id")), (Some(false), None));
    no_changes(&lab, "web-1", "linked");
    lab.vm("destroy", &["web-1"]).ok();
    add_settings(&lab, "pve_pool: \"\"");
    edit(&lab.path("etc/blockhost/db.yaml"), "clone_mode: linked", "clone_mode: full");
    let own = terraform_vm_of_dry_pool(&lab);
    assert!(own.contains("local-lvm"), "{own}");
    edit(&lab.path("var/terraform/terraform.tfvars"), "proxmox_storage", "disk_datastore");
    lab.vm("create", &["web-3", "--no-web3"]).ok();
}

/// The dry run names the storage.
fn terraform_vm_of_dry_pool(lab: &Lab) -> String {
    lab.vm("create", &["web-2", "--no-web3"]).ok().out
}
