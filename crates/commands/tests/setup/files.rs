//! The files of steps terraform and db_config: whose they are, what stays in them, what is not followed or written over.

use super::bare::{Bare, fails};
use super::namespace::answer;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

#[test]
fn h29_the_ssh_key_of_the_systems_check_can_do_nothing() {
    let bare = Bare::new();
    bare.ok("token");
    bare.ok("terraform");
    let public = bare.text("etc/blockhost/terraform_ssh_key.pub");
    let keys = bare.text("home/.ssh/authorized_keys");
    assert_eq!(keys, format!("restrict,command=\"/bin/false\" {public}"));
    let private = fs::metadata(bare.0.path("etc/blockhost/terraform_ssh_key")).unwrap();
    assert_eq!((private.mode() & 0o777, private.uid(), private.gid()), (0o640, 0, 0));
    // It is a pair: what ssh makes of the private half is the public one. ssh-keygen insists on mode 0600.
    let copy = bare.0.path("run/key");
    fs::copy(bare.0.path("etc/blockhost/terraform_ssh_key"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    let derived = Command::new("ssh-keygen").args(["-y", "-f"]).arg(&copy).output().unwrap();
    let blob = |text: &str| text.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(blob(&String::from_utf8_lossy(&derived.stdout)), blob(&public));
}

#[test]
fn a_providers_version_and_endpoint_stay_and_its_ssh_goes() {
    let bare = Bare::new();
    bare.ok("token");
    let path = bare.0.path("var/terraform/provider.tf.json");
    let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let endpoint = file["provider"]["proxmox"]["endpoint"].clone();
    file["provider"]["proxmox"]["ssh"] =
        json!({"username": "root", "private_key": "${file(\"/etc/blockhost/terraform_ssh_key\")}"});
    fs::write(&path, file.to_string()).unwrap();
    bare.ok("terraform");
    let file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(file["provider"]["proxmox"]["endpoint"], endpoint);
    assert_eq!(file["provider"]["proxmox"]["ssh"], Value::Null);
    assert_eq!(file["terraform"]["required_providers"]["proxmox"]["version"], "= 0.93.0");
    assert!(bare.0.path("var/terraform/.terraform/providers").is_dir());
}

#[test]
fn an_init_that_fails_leaves_the_former_files() {
    let bare = Bare::new();
    bare.ok("token");
    bare.ok("terraform");
    let provider = bare.0.path("var/terraform/provider.tf.json");
    let text = fs::read_to_string(&provider).unwrap().replace("= 0.93.0", "= 0.94.0");
    fs::write(&provider, &text).unwrap();
    let values = bare.text("var/terraform/terraform.tfvars");
    let mut answers = bare.answers();
    answers["storage"] = json!("local");
    fails(&bare.step("terraform", &answers), &["terraform init", "failed"]);
    assert_eq!(fs::read_to_string(&provider).unwrap(), text);
    assert_eq!(bare.text("var/terraform/terraform.tfvars"), values);
    // On a fresh host nothing of ours stays.
    let fresh = Bare::new();
    fresh.ok("token");
    fs::remove_file(fresh.0.path("var/terraform/terraform.tfvars")).unwrap();
    fs::write(
        fresh.0.path("tf.rc"),
        "provider_installation {\n  filesystem_mirror {\n    path = \"/nowhere\"\n  }\n}\n",
    )
    .unwrap();
    fails(&fresh.step("terraform", &fresh.answers()), &["terraform init"]);
    assert!(!fresh.0.path("var/terraform/variables.tf.json").exists());
    assert!(!fresh.0.path("var/terraform/terraform.tfvars").exists());
}

#[test]
fn the_provider_comes_from_a_mirror_where_the_registry_cannot_be_reached() {
    let bare = Bare::new();
    bare.ok("token");
    // A host without a way outside, and nothing fetched before.
    fs::write(
        bare.0.path("tf.rc"),
        "disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path = \"/nowhere\"\n  }\n}\n",
    )
    .unwrap();
    let _ = fs::remove_dir_all(bare.0.path("var/terraform/.terraform"));
    let _ = fs::remove_file(bare.0.path("var/terraform/.terraform.lock.hcl"));
    let mut answers = bare.answers();
    fails(&bare.step("terraform", &answers), &["terraform init", "failed"]);
    // What cannot be a mirror is said before anything is written.
    let before = bare.text("var/terraform/terraform.tfvars");
    let empty = bare.0.path("srv/empty");
    fs::create_dir_all(empty.join("registry.terraform.io/bpg/proxmox/0.93.0/darwin_arm64")).unwrap();
    for (mirror, words) in [
        (json!("mirror"), ["provider_mirror", "absolute path"]),
        (
            json!(bare.0.path("srv/none")),
            ["srv/none/registry.terraform.io/bpg/proxmox", "terraform providers mirror"],
        ),
        (json!(empty), ["srv/empty/registry.terraform.io/bpg/proxmox", "no version for linux_amd64"]),
    ] {
        answers["provider_mirror"] = mirror;
        fails(&bare.step("terraform", &answers), &words);
        assert_eq!(bare.text("var/terraform/terraform.tfvars"), before);
    }
    answers["provider_mirror"] = json!(bare.0.path("mirror"));
    let answer = bare.step("terraform", &answers);
    assert_eq!(answer["ok"], true, "{answer}");
    let provider = "var/terraform/.terraform/providers/registry.terraform.io/bpg/proxmox/0.93.0/linux_amd64";
    assert!(bare.0.path(provider).exists());
    assert!(bare.text("var/terraform/.terraform.lock.hcl").contains("bpg/proxmox"));
    // Without the answer it fails as before, and leaves what works.
    let lock = bare.text("var/terraform/.terraform.lock.hcl");
    fails(&bare.step("terraform", &bare.answers()), &["terraform init", "failed"]);
    assert_eq!(bare.text("var/terraform/.terraform.lock.hcl"), lock);
    assert!(bare.0.path(provider).exists());
}

#[test]
fn h17_files_that_cannot_be_read_are_named_and_not_written_over() {
    for (file, bad, step) in [
        ("var/terraform/terraform.tfvars", "proxmox_node = \"open", "terraform"),
        ("var/terraform/provider.tf.json", "{\"provider\": ", "terraform"),
        ("var/terraform/variables.tf.json", "[]", "terraform"),
        ("etc/blockhost/db.yaml", "bridge: [", "db_config"),
        ("etc/blockhost/db.yaml", "{bridge: vmbr0, theirs: 1}\n", "db_config"),
    ] {
        let bare = Bare::new();
        bare.ok("token");
        fs::write(bare.0.path(file), bad).unwrap();
        let answer = bare.step(step, &bare.answers());
        fails(&answer, &[file.rsplit('/').next().unwrap()]);
        assert_eq!(bare.text(file), bad, "{answer}");
    }
}

#[test]
fn other_programs_keys_of_db_yaml_keep_their_spelling() {
    let bare = Bare::without_provider();
    let theirs = "# by hand\nport: 0123\nflag: yes\nday: 2026-01-02\nsigning:\n- a\n";
    fs::write(
        bare.0.path("etc/blockhost/db.yaml"),
        format!("{theirs}gc_grace_days: 9\nvmid_pool: {{start: 1000, end: 1999}}\n"),
    )
    .unwrap();
    bare.ok("db_config");
    let text = bare.text("etc/blockhost/db.yaml");
    assert!(text.starts_with(theirs), "{text}");
    for line in [
        "gc_grace_days: 5\n",
        "vmid_pool:\n  start: 100\n  end: 999\n",
        "vmid_range:\n  start: 100\n",
        "default_expiry_days: 30\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains(&format!("db_file: \"{}\"", bare.0.path("var/vms.json").display())), "{text}");
    assert!(!text.contains("template_vmid"));
    let mode = fs::metadata(bare.0.path("etc/blockhost/db.yaml")).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o640);
    let database: Value = serde_json::from_str(&bare.text("var/vms.json")).unwrap();
    assert_eq!(database, json!({"vms": {}, "next_vmid": 100, "allocated_ips": [], "allocated_ipv6": []}));
}

#[test]
fn another_template_is_told_to_the_root_agent() {
    let bare = Bare::without_provider();
    let mut answers = bare.answers();
    answers["template_vmid"] = json!("9100");
    assert_eq!(bare.step("db_config", &answers)["ok"], true);
    assert!(bare.text("etc/blockhost/db.yaml").contains("template_vmid: 9100\n"));
    assert_eq!(bare.step("db_config", &bare.answers())["ok"], true);
    assert!(bare.text("etc/blockhost/db.yaml").contains("template_vmid: 9001\n"), "and back");
}

#[test]
fn a_database_of_the_older_package_stays_where_it_is() {
    let bare = Bare::without_provider();
    let old = bare.0.path("var/vm-db.json");
    fs::write(&old, "{\"vms\": {}}\n").unwrap();
    fs::write(bare.0.path("etc/blockhost/db.yaml"), format!("db_file: {}\n", old.display())).unwrap();
    bare.ok("db_config");
    assert!(bare.text("etc/blockhost/db.yaml").starts_with(&format!("db_file: {}\n", old.display())));
    assert!(!bare.0.path("var/vms.json").exists());
}

#[test]
fn a_missing_database_with_vms_about_is_a_loss() {
    let bare = Bare::without_provider();
    fs::create_dir_all(bare.0.path("var/terraform/vms/web-1")).unwrap();
    fs::write(bare.0.path("var/terraform/vms/web-1/terraform.tfstate"), "{}").unwrap();
    fails(&bare.step("db_config", &bare.answers()), &["was lost", "web-1"]);
    assert!(!bare.0.path("var/vms.json").exists());
}

#[test]
fn h29_nothing_is_written_or_read_as_root_in_a_folder_of_user_blockhost() {
    // A user without rights owns the state; the commands are run from a place that it can reach.
    const USER: u32 = 4242;
    let bare = Bare::new();
    let own = bare.0.path("bin/blockhost-provisioner-setup");
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    fs::set_permissions(bare.0.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    for folder in ["var", "var/terraform"] {
        std::os::unix::fs::chown(bare.0.path(folder), Some(USER), Some(USER)).unwrap();
    }
    std::os::unix::fs::chown(bare.0.path("var/terraform/provider.tf.json"), Some(USER), Some(USER)).unwrap();
    let run = |step: &str| {
        let mut command = bare.0.tool(own.to_str().unwrap());
        command.arg(step);
        answer(&bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string()))
    };
    // What only root may read, offered as terraform's file.
    let secret = bare.0.path("run/secret");
    fs::write(&secret, "root_secret = \"4711\"\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let values = bare.0.path("var/terraform/terraform.tfvars");
    std::os::unix::fs::symlink(&secret, &values).unwrap();
    let refused = run("token");
    fails(&refused, &["terraform.tfvars"]);
    assert!(!refused.to_string().contains("4711"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "root_secret = \"4711\"\n");
    fs::remove_file(&values).unwrap();
    assert_eq!(run("token")["ok"], true);
    let token = fs::metadata(bare.0.path("etc/blockhost/pve-token")).unwrap();
    assert_eq!((token.uid(), token.gid(), token.mode() & 0o777), (0, USER, 0o640));
    assert_eq!(fs::metadata(&values).unwrap().uid(), USER);
}

#[test]
fn h56_what_runs_as_user_blockhost_has_no_group_of_roots() {
    const USER: u32 = 4242;
    let bare = Bare::without_provider();
    let own = bare.0.path("bin/blockhost-provisioner-setup");
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    for folder in ["var", "var/terraform"] {
        std::os::unix::fs::chown(bare.0.path(folder), Some(USER), Some(USER)).unwrap();
    }
    let terraform = bare.0.path("bin/terraform");
    let _ = fs::remove_file(&terraform);
    fs::write(&terraform, "#!/bin/sh\nid -u >who; id -G >>who; mkdir -p .terraform/providers\n").unwrap();
    for path in [bare.0.dir(), &own, &terraform] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(bare.0.path("etc/blockhost/pve-token"), "blockhost@pve!provisioner=0000\n").unwrap();
    // Root in groups of its own, as at a login.
    let plain = bare.0.tool(own.to_str().unwrap());
    let mut command = Command::new("setpriv");
    command.args(["--groups=0,4,4747", "--"]).arg(plain.get_program()).arg("terraform").env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string());
    assert_eq!(answer(&done)["ok"], true, "{done:?}");
    assert_eq!(bare.text("var/terraform/who"), format!("{USER}\n{USER}\n"));
}

#[test]
fn h15_a_folder_that_was_left_to_root_is_given_to_user_blockhost() {
    const USER: u32 = 4242;
    let bare = Bare::new();
    std::os::unix::fs::chown(bare.0.path("var"), Some(USER), Some(USER)).unwrap();
    let own = bare.0.path("bin/blockhost-provisioner-setup");
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    fs::set_permissions(bare.0.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = bare.0.path("var/terraform");
    fs::create_dir_all(folder.join("vms/web-1")).unwrap();
    fs::write(folder.join("vms/web-1/terraform.tfstate"), "{}").unwrap();
    let outside = bare.0.path("run/roots");
    fs::write(&outside, "").unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("token");
    let done = bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string());
    assert_eq!(answer(&done)["ok"], true, "{done:?}");
    for file in
        ["", "provider.tf.json", "terraform.tfvars", "vms", "vms/web-1", "vms/web-1/terraform.tfstate"]
    {
        assert_eq!(fs::metadata(folder.join(file)).unwrap().uid(), USER, "{file}");
    }
    assert_eq!(fs::metadata(&outside).unwrap().uid(), 0, "a link is not followed");
}

#[test]
fn a_folder_for_terraform_in_a_place_of_roots_is_made_and_given_away() {
    const USER: u32 = 4242;
    let bare = Bare::new();
    std::os::unix::fs::chown(bare.0.path("var"), Some(USER), Some(USER)).unwrap();
    let own = bare.0.path("bin/blockhost-provisioner-setup");
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    fs::set_permissions(bare.0.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut answers = bare.answers();
    answers["terraform_dir"] = json!(bare.0.path("home/tf"));
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("token");
    // The lab's API is not at the usual port, so the new token cannot be tried, and is taken back.
    let done = bare.run_with(command, &json!({"provisioner": answers}).to_string());
    fails(&answer(&done), &["cannot reach the Proxmox API"]);
    // With the endpoint in the folder it goes on; root's folder above it is not the user's to write.
    let made = bare.0.path("home/tf");
    assert!(!made.exists());
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("terraform");
    fs::write(bare.0.path("etc/blockhost/pve-token"), "blockhost@pve!provisioner=0000\n").unwrap();
    let done = bare.run_with(command, &json!({"provisioner": answers}).to_string());
    assert_eq!(answer(&done)["ok"], true, "{done:?}");
    let data = fs::metadata(&made).unwrap();
    assert_eq!((data.uid(), data.mode() & 0o777), (USER, 0o750));
    assert_eq!(fs::metadata(made.join("terraform.tfvars")).unwrap().uid(), USER);
    assert_eq!(fs::metadata(made.join(".terraform/providers")).unwrap().uid(), USER);
}
