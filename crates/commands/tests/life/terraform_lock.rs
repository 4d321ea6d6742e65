//! Terraform's own lock on its state (hazard H21): a person's terraform that holds it for a moment is waited for.

use crate::legacy_site::{add, legacy_record, legacy_site, state_of};
use crate::support::{Commands, SOON, read, write};
use lab::model::FaultAction;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

#[test]
fn h21_a_state_lock_that_somebody_holds_for_a_moment_is_waited_for() {
    let lab = legacy_site();
    add(&lab, "web-001", "192.168.122.200", None);
    let other = add(&lab, "web-002", "192.168.122.201", None);
    let look = format!("api.GET /nodes/pve/qemu/{other}/config");
    lab.control().fault(&look, FaultAction::Slow { ms: 2_500 }, 1).unwrap();
    let mut person = lab.tool("terraform");
    person.current_dir(lab.path("var/terraform")).env("TMPDIR", lab.path("home"));
    person.args(["plan", "-input=false", "-no-color", "-target=proxmox_virtual_environment_vm.web_002"]);
    let mut person = person.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    // It asks the node while it holds the lock.
    lab.control().wait_fault(&look, SOON).unwrap();
    assert!(lab.path("var/terraform/.terraform.tfstate.lock.info").exists());

    let said = lab.vm("destroy", &["web-001"]).ok();
    assert!(!said.err.contains("warning"), "{said:?}");
    assert!(state_of(&lab, "web_001").is_empty());
    assert_eq!(legacy_record(&lab, "web-001")["status"], "destroyed");
    assert!(person.wait().unwrap().success());
}

#[test]
fn h21_every_terraform_waits_for_the_lock_and_asks_nobody() {
    let lab = legacy_site();
    add(&lab, "web-001", "192.168.122.200", None);
    let (seen, wrapper) = (lab.path("run/terraform-calls"), lab.path("bin/terraform"));
    let path = std::env::var_os("PATH").unwrap();
    let real =
        std::env::split_paths(&path).map(|folder| folder.join("terraform")).find(|file| file.is_file());
    let text =
        format!("#!/bin/sh\necho \"$*\" >>'{}'\nexec '{}' \"$@\"\n", seen.display(), real.unwrap().display());
    write(&wrapper, &text);
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    lab.made("web-2");
    lab.vm("destroy", &["web-001"]).ok();
    let calls = read(&seen);
    let verbs: Vec<&str> = calls.lines().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(verbs, ["apply", "state", "destroy"], "{calls}");
    for call in calls.lines() {
        let seconds = call.split(' ').find_map(|word| word.strip_prefix("-lock-timeout=")?.strip_suffix('s'));
        assert!(seconds.is_some_and(|seconds| seconds.parse::<u32>().unwrap() >= 10), "{call}");
        assert!(call.contains("-input=false") || call.starts_with("state "), "{call}");
    }
}
