//! Configuration, directories, owners and modes, units, versions, neighbours.

use crate::support::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn empty_file(path: &Path) {
    write(path, "{}");
    mode(path, 0o640);
}

#[test]
fn h17_configuration_files_are_judged_key_by_key() {
    let lab = healthy();
    let db_yaml = lab.path("etc/blockhost/db.yaml");
    for bad in ["bridge: true", "vmid_range: 7", "\tx"] {
        file_case(&lab, &["configuration-unusable"], &db_yaml, |path| {
            write(path, &format!("{}{bad}\n", read(path)))
        });
    }
    let slip = append("guest_ready_timeuot: 3");
    let found = file_case(&lab, &["configuration-key-misspelt"], &db_yaml, slip);
    assert!(found[0]["what"].as_str().unwrap().contains("did you mean guest_ready_timeout?"), "{found:?}");
    file_case(&lab, &["configuration-incomplete"], &db_yaml, |path| {
        let text = read(path);
        let (before, rest) = text.split_once("ip_pool:").unwrap();
        let after = rest.split_once("ipv6_pool:").unwrap().1;
        write(path, &format!("{before}ipv6_pool:{after}"));
    });
    append("panel_port: 8443")(&db_yaml);
    assert_eq!(codes(&lab), [""; 0], "keys of others are others' affair");
    let etc = lab.path("etc/blockhost");
    let broker = etc.join("broker-allocation.json");
    file_case(&lab, &["side-file-unusable"], &broker, |path| write(path, "{\"prefix\": \"nonsense\"}"));
    file_case(&lab, &["side-file-unusable"], &etc.join("web3-defaults.yaml"), |path| {
        write(path, "auth: 7\n")
    });
    let modes = etc.join("network-modes.enabled");
    case(
        &lab,
        &["side-file-unusable"],
        || std::os::unix::fs::symlink("/nowhere", modes.join("onion.json")).unwrap(),
        || std::fs::remove_file(modes.join("onion.json")).unwrap(),
    );
    write(&modes.join("onion.json"), "{}");
    assert_eq!(codes(&lab), [""; 0], "several modes are a choice");
    std::fs::remove_file(modes.join("onion.json")).unwrap();
    let cloud = lab.path("etc/cloud");
    case(
        &lab,
        &["node-cloud-init"],
        || std::fs::create_dir(&cloud).unwrap(),
        || std::fs::remove_dir_all(&cloud).unwrap(),
    );
    let marker = etc.join("bridge-under-way");
    file_case(&lab, &["bridge-step-unfinished"], &marker, |path| write(path, ""));
}

#[test]
fn h42_h43_h45_h46_h52_h55_h58_terraforms_directories_are_judged() {
    let lab = healthy();
    let own = directory_of(&lab, "web-1");
    let file = own.join("web-1.tf.json");
    file_case(&lab, &["terraform-state-torn"], &own.join("terraform.tfstate"), |path| write(path, ""));
    file_case(
        &lab,
        &["terraform-names-another-vm"],
        &own.join("terraform.tfstate"),
        replace("\"vm_id\": 100", "\"vm_id\": 101"),
    );
    file_case(&lab, &["terraform-names-another-vm"], &file, |path| {
        let text = read(path);
        write(
            path,
            &text.replace("\"vm_id\": 100", "\"vm_id\": 101").replace("\"vm_id\":100", "\"vm_id\":101"),
        );
    });
    file_case(&lab, &["terraform-file-unsafe"], &file, replace("ignore_changes", "ignore_nothing"));
    file_case(&lab, &["terraform-directory-missing"], &file, |path| std::fs::remove_file(path).unwrap());
    file_case(&lab, &["terraform-file-stray"], &own.join("override.tf.json"), empty_file);
    file_case(&lab, &["record-copy-missing"], &own.join("record.json"), |path| {
        std::fs::remove_file(path).unwrap()
    });
    let shared = lab.path("var/terraform");
    file_case(&lab, &["terraform-file-stray"], &shared.join("old-1.tf.json"), empty_file);
    let providers = shared.join(".terraform");
    let aside = lab.path("var/aside");
    case(
        &lab,
        &["terraform-not-ready"],
        || std::fs::rename(&providers, &aside).unwrap(),
        || std::fs::rename(&aside, &providers).unwrap(),
    );
    // A directory that nobody knows, as an interrupted destroy of an older version left it.
    let old = directory_of(&lab, "old-1");
    let found = case(
        &lab,
        &["terraform-directory-leftover"],
        || std::fs::create_dir(&old).unwrap(),
        || drop(vm(&lab, "destroy", &["old-1"]).ok()),
    );
    assert_eq!(found[0]["left"][0], format!("directory {}", old.display()));
    // A terraform that outlived its command.
    let lock = std::fs::File::open(own.join("terraform.lock")).unwrap();
    case(&lab, &["terraform-still-running"], || lock.lock().unwrap(), || lock.unlock().unwrap());
}

#[test]
fn h15_h30_owners_and_modes_are_judged() {
    let lab = healthy();
    for path in [
        "etc/blockhost/pve-token",
        "var/vms.json",
        "var/terraform/terraform.tfvars",
        "var/terraform/vms/web-1/terraform.tfstate",
    ] {
        file_case(&lab, &["file-open-to-all"], &lab.path(path), |path| mode(path, 0o644));
    }
    file_case(&lab, &["file-open-to-all"], &lab.path("etc/blockhost/db.yaml"), |path| mode(path, 0o646));
    std::fs::create_dir(lab.path("var/failed")).unwrap();
    let failed = |bits| mode(&lab.path("var/failed"), bits);
    case(&lab, &["file-open-to-all"], || failed(0o777), || failed(0o770));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Where user blockhost rules the state, and root the configuration.
    let give = |path: &str, uid: u32| std::os::unix::fs::chown(lab.path(path), Some(uid), Some(uid)).unwrap();
    let all = || {
        lab.tool("chown")
            .args(["-R", "4242:4242"])
            .arg(lab.path("var"))
            .arg(lab.path("run"))
            .status()
            .unwrap()
    };
    assert!(all().success());
    for path in ["etc/blockhost/db.yaml", "etc/blockhost/pve-token"] {
        std::os::unix::fs::chown(lab.path(path), Some(0), Some(4242)).unwrap();
    }
    mode(lab.dir(), 0o755);
    assert_eq!(codes(&lab), [""; 0]);
    case(
        &lab,
        &["database-unreadable", "file-wrong-owner"],
        || give("var/vms.json", 0),
        || give("var/vms.json", 4242),
    );
    let mine = "etc/blockhost/db.yaml";
    case(
        &lab,
        &["configuration-not-roots"],
        || give(mine, 4242),
        || {
            std::os::unix::fs::chown(lab.path(mine), Some(0), Some(4242)).unwrap();
        },
    );
    case(
        &lab,
        &["directory-not-writable", "file-wrong-owner"],
        || give("var/terraform/vms", 0),
        || give("var/terraform/vms", 4242),
    );
}

#[test]
fn units_and_versions_are_judged() {
    let lab = healthy();
    let systemctl = lab.path("bin/systemctl");
    let unit = |id: &str, load: &str, active: &str, file: &str| {
        format!("Id={id}\\nLoadState={load}\\nActiveState={active}\\nUnitFileState={file}\\n\\n")
    };
    let answer = |blocks: String| {
        move |path: &Path| {
            write(path, &format!("#!/bin/sh\nprintf '{blocks}'\n"));
            mode(path, 0o755);
        }
    };
    let timer = |load, active, file| unit("blockhost-gc.timer", load, active, file);
    file_case(&lab, &["unit-missing"], &systemctl, answer(timer("not-found", "inactive", "")));
    file_case(&lab, &["unit-inactive"], &systemctl, answer(timer("loaded", "inactive", "enabled")));
    file_case(
        &lab,
        &["unit-failed"],
        &systemctl,
        answer(unit("blockhost-gc.service", "loaded", "failed", "static")),
    );
    let terraform = lab.path("bin/terraform");
    file_case(&lab, &["version-unsupported"], &terraform, |path| {
        write(path, "#!/bin/sh\necho '{\"terraform_version\": \"1.5.7\"}'\n");
        mode(path, 0o755);
    });
    let lock = lab.path("var/terraform/.terraform.lock.hcl");
    file_case(&lab, &["version-unsupported"], &lock, replace("\"0.93.0\"", "\"0.66.0\""));
}

#[test]
fn h55_a_device_that_answers_for_an_address_of_nobody_is_found() {
    let lab = healthy();
    lab.control().neighbour("192.168.122.200", "bc:24:11:00:00:01", "REACHABLE").unwrap();
    assert_eq!(codes(&lab), [""; 0], "web-1 itself");
    lab.control().neighbour("192.168.122.220", "bc:24:11:00:00:02", "STALE").unwrap();
    assert_eq!(codes(&lab), [""; 0], "it answered long ago");
    lab.control().neighbour("192.168.122.221", "bc:24:11:00:00:03", "REACHABLE").unwrap();
    assert_eq!(codes(&lab), ["address-used-by-others"]);
    SEEN.lock().unwrap().insert("address-used-by-others".into());
}
