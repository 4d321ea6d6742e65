//! What engines look at while a create runs: the process list and `provisioning.lock`.

use crate::support::{Commands, WALLET, read, until, write};
use lab::Lab;
use std::os::unix::fs::MetadataExt as _;

/// PIDs that `pgrep -f` finds for this create.
fn found(lab: &Lab, name: &str) -> Vec<u32> {
    let pattern = format!("blockhost-vm-create {name} ");
    let output = lab.tool("pgrep").args(["-f", &pattern]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn the_process_carries_its_name_as_long_as_it_runs() {
    let lab = Lab::builder().start().unwrap();
    let arguments = ["pgrep-me-1", "--owner-wallet", WALLET, "--apply"];
    let mut create = lab.vm_start("sleep@create.applied=60000", "create", &arguments);
    until("the VM", || lab.control().snapshot().unwrap().guests.contains_key(&100));
    assert_eq!(found(&lab, "pgrep-me-1"), [create.pid()]);
    let name = read(format!("/proc/{}/comm", create.pid()).as_ref());
    assert!(name.starts_with("blockhost-vm-cr"), "{name}");
    assert!(create.is_alive());
    create.kill();
    assert_eq!(found(&lab, "pgrep-me-1"), [] as [u32; 0]);
    let arguments = ["pgrep-me-2", "--owner-wallet", WALLET, "--apply"];
    lab.vm("create", &arguments).ok();
    assert_eq!(found(&lab, "pgrep-me-2"), [] as [u32; 0]);
}

#[test]
fn h18_provisioning_lock_names_a_running_create() {
    let lab = Lab::builder().start().unwrap();
    let path = lab.path("run/provisioning.lock");
    assert!(!path.exists());
    let start = |name: &str, ms: u32| {
        lab.vm_start(
            &format!("sleep@create.taken={ms}"),
            "create",
            &[name, "--owner-wallet", WALLET, "--apply"],
        )
    };
    let first = start("web-1", 1_000);
    until("the lock", || path.exists());
    assert_eq!(read(&path), format!("{}\n", first.pid()));
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o660);
    // Until the end of this test: it is killed then.
    let second = start("web-2", 60_000);
    until("the second ticket", || lab.path("run/creates/2").exists());
    let first_pid = first.pid();
    first.wait().ok();
    // The second still runs: the file stays and names it.
    let note = read(&path);
    assert!(note == format!("{}\n", second.pid()) && note != format!("{first_pid}\n"), "{note}");
    second.kill();
    assert!(path.exists());
    lab.made("web-3");
    assert!(!path.exists(), "the last one takes it away");
    // A dry run and other commands do not make one.
    lab.vm("create", &["web-4", "--no-web3"]).ok();
    assert!(!path.exists());
}

#[test]
fn h18_what_a_killed_create_left_is_taken_over() {
    let lab = Lab::builder().start().unwrap();
    let path = lab.path("run/provisioning.lock");
    let killed = lab.vm_with("kill@create.taken", "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    assert_eq!(killed.code, None);
    assert!(path.exists());
    lab.made("web-2");
    assert!(!path.exists());
    // A PID that lives and is no create: the file's word is nothing to us.
    write(&path, &format!("{}\n", std::process::id()));
    write(&lab.path("run/creates/7"), &format!("{} web-9", std::process::id()));
    lab.made("web-3");
    assert!(!path.exists() && !lab.path("run/creates/7").exists());
}
