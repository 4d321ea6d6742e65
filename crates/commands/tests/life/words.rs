//! What operators read while a command works and after it failed: long waits say that they go on, `-v` shows what was
//! done, the log of a failed create stays, and each error says what to do.

use crate::support::{Commands, WALLET, edit, guest, read, until};
use lab::Lab;
use lab::model::{AgentMode, FaultAction, Power};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

#[test]
fn the_log_of_a_failed_create_is_kept_without_the_token_and_named() {
    let lab = Lab::builder().start().unwrap();
    let token = lab.token();
    let secret = token.split('=').nth(1).unwrap();
    let words = format!("disk image is broken, said {secret}");
    lab.control().fault("task.qmclone.half", FaultAction::error(&words), 1).unwrap();
    let said = lab.create("web-1", &[]).fails(&["terraform failed", "its log is kept in "]);
    let folder = lab.path("var/failed");
    let path = folder.read_dir().unwrap().next().unwrap().unwrap().path();
    assert!(said.err.contains(&path.display().to_string()), "{said:?}");
    let text = read(&path);
    assert!(text.contains("disk image is broken") && !text.contains(secret), "{text}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    // What failed on the way to a VM that runs is no failed create.
    lab.control().fault("task.qmclone.half", FaultAction::error("got lock request timeout"), 1).unwrap();
    let said =
        lab.vm_with("limit@create-retry=10", "create", &["web-2", "--owner-wallet", WALLET, "--apply"]);
    said.ok().says(&["trying again"]);
    assert_eq!(folder.read_dir().unwrap().count(), 1);
    // One that was killed left its log behind; whoever undoes it keeps it.
    lab.vm_with("kill@create.applied", "create", &["web-3", "--owner-wallet", WALLET, "--apply"]);
    lab.vm("destroy", &["web-3"]).ok();
    assert_eq!(folder.read_dir().unwrap().count(), 2);
}

#[test]
fn the_kept_log_is_named_also_where_the_undo_failed() {
    // The root agent remembers a failed task: this lab is not used again.
    let lab = Lab::builder().start().unwrap();
    let control = lab.control();
    control.fault("provider.create.disk.after", FaultAction::error("the storage went away"), 1).unwrap();
    control.fault("qm.destroy", FaultAction::error("can't remove the disk"), 1).unwrap();
    let said = lab.create("web-1", &[]).fails(&["the storage went away", "can't remove the disk"]);
    let rest = said.err.split("its log is kept in ").nth(1).unwrap_or_else(|| panic!("{}", said.err));
    let path = rest.split(';').next().unwrap();
    let kept = read(Path::new(path));
    assert!(kept.contains("the storage went away"), "{kept}");
}

#[test]
fn a_long_wait_says_that_it_goes_on() {
    let lab = Lab::builder().agent(AgentMode::Never).start().unwrap();
    let arguments = ["web-1", "--owner-wallet", WALLET, "--apply", "--guest-timeout", "2"];
    let said = lab.vm_with("limit@patience=500", "create", &arguments);
    said.fails(&["did not answer within 2 s"])
        .says(&["still waiting for the guest agent, at most 2 s", " s so far)"]);
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control()
        .guest(100, lab::model::GuestChange { ignore_shutdown: Some(true), ..Default::default() })
        .unwrap();
    let said = lab.vm_with("limit@patience=500 limit@stop=4000", "stop", &["web-1"]);
    said.fails(&["did not shut down"]).says(&["VMID 100: still waiting, at most"]);
}

#[test]
fn who_waits_for_another_operation_is_told_at_once() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let first = lab.vm_start("sleep@start.running=3000", "start", &["web-1"]);
    until("the first to hold the lock", || {
        std::fs::read_to_string(lab.path("var/journal/web-1.lock")).is_ok_and(|note| note.contains("start"))
    });
    let said = lab.vm("kill", &["web-1"]).ok();
    said.says(&[&format!(
        "VM web-1: waiting for another operation on it (start, PID {}), at most",
        first.pid()
    )]);
    first.wait().ok();
}

#[test]
fn verbose_shows_what_is_done_and_no_secret() {
    let lab = Lab::builder().start().unwrap();
    let quiet = lab.create("web-1", &[]).ok();
    assert!(!quiet.err.contains("debug: "), "{quiet:?}");
    let said = lab.create("web-2", &["-v"]).ok().says(&[
        "debug: reached create.taken",
        "debug: Proxmox API: GET /version: HTTP 200",
        "debug: running terraform in ",
        "debug: root agent: snippet-put: ok (",
        "debug: root agent: vm-state of VMID 101: ok (",
    ]);
    let secret = lab.token().split('=').nth(1).unwrap().to_string();
    assert!(!said.err.contains(&secret), "{said:?}");
    let said = lab.vm("stop", &["web-2", "-v"]).ok();
    said.says(&["debug: root agent: qm-shutdown of VMID 101: ok ("]);
}

#[test]
fn the_power_button_is_pressed_again_while_a_guest_boots() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.vm("stop", &["web-1"]).ok();
    lab.control().timing(|timing| timing.boot = 3_000).unwrap();
    lab.vm("start", &["web-1"]).ok();
    lab.vm_with("limit@stop-again=1000", "stop", &["web-1"]).ok();
    assert_eq!(guest(&lab, 100).power, Power::Stopped);
}

/// Its agent ends before it does, so the second request is refused while the first one is being obeyed.
#[test]
fn a_guest_that_takes_its_time_to_go_down_is_no_failure() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let late = FaultAction::error("VM quit/powerdown failed - got timeout");
    lab.control().fault("task.qmshutdown", late, 1).unwrap();
    let stop = lab.vm_start("", "stop", &["web-1"]);
    let asked = || {
        let calls = lab.control().calls(0).unwrap();
        calls.iter().filter(|call| call.what == "qm-shutdown").count()
    };
    until("the first request", || asked() == 1);
    lab.control()
        .fault("task.qmshutdown", FaultAction::error("QEMU guest agent is not running"), 99)
        .unwrap();
    until("the second request", || asked() >= 2);
    lab.control().power(100, Power::Stopped).unwrap();
    stop.wait().ok().says(&["is off"]);
}

#[test]
fn mock_verbs_agree_with_one_another() {
    let lab = Lab::builder().start().unwrap();
    let mock = lab.path("mock.json");
    let run = |verb: &str, arguments: &[&str]| {
        let mut command = lab.vm_command(verb, arguments);
        command.arg("--mock").env("BLOCKHOST_MOCK_DB", &mock);
        crate::support::run(command).ok()
    };
    run("create", &["try-1", "--owner-wallet", WALLET, "--apply"]);
    let status = || run("status", &["try-1"]).out;
    assert_eq!(status(), "active\n");
    for off in ["stop", "kill"] {
        run(off, &["try-1"]).says(&["is off"]);
        assert_eq!(status(), "suspended\n");
        run(off, &["try-1"]).says(&["already off"]);
        run("start", &["try-1"]).says(&["VM try-1 is running\n"]);
        assert_eq!(status(), "active\n");
        run("start", &["try-1"]).says(&["is already running"]);
    }
    run("stop", &["try-1"]);
    run("resume", &["try-1"]).says(&["was off and is running again"]);
    assert_eq!(status(), "active\n");
}

#[test]
fn every_error_of_a_command_for_one_vm_names_it() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let settings = lab.path("etc/blockhost/db.yaml");
    let good = read(&settings);
    std::fs::remove_file(&settings).unwrap();
    for verb in ["start", "stop", "kill", "resume", "destroy"] {
        lab.vm(verb, &["web-1"]).fails(&[
            "VM web-1: ",
            "db.yaml does not exist",
            "blockhost-provisioner-setup",
        ]);
    }
    lab.vm("guest-exec", &["web-1", "true"]).fails(&["VM web-1: ", "db.yaml"]);
    lab.vm("update-gecos", &["web-1", WALLET, "--nft-id", "7"]).fails(&["VM web-1: ", "db.yaml"]);
    lab.create("web-2", &[]).fails(&["VM web-2: ", "db.yaml"]);
    std::fs::write(&settings, &good).unwrap();
    edit(&settings, "end: 999", "end: 100");
    lab.create("web-2", &[]).fails(&["VM web-2: no VMID is free"]);
    std::fs::write(&settings, good.replace("vmid_range:", "vmid_rnge:")).unwrap();
    lab.create("web-2", &[]).fails(&["key vmid_range (start, end) is missing", "vmid_range by vmid_rnge?"]);
    std::fs::write(&settings, good.replace("ip_pool:", "ip_pol:")).unwrap();
    lab.create("web-2", &[]).fails(&["key ip_pool", "ip_pool by ip_pol?"]);
    std::fs::write(&settings, &good).unwrap();
    let database = lab.path("var/vms.json");
    let text = read(&database);
    std::fs::write(&database, "{").unwrap();
    lab.vm("start", &["web-1"]).fails(&["VM web-1: ", "is corrupt", "restore it from a backup"]);
    std::fs::remove_file(&database).unwrap();
    lab.vm("start", &["web-1"]).fails(&["VM web-1: ", "does not exist", "restore it from a backup"]);
    std::fs::write(&database, text).unwrap();
    lab.vm_with("enospc@1", "kill", &["web-1"]);
    lab.create("web-3", &[]).ok();
    lab.vm_with("enospc@2", "create", &["web-4", "--owner-wallet", WALLET, "--apply"]).fails(&[
        "VM web-4",
        "No space left on device",
        "free space on that disk",
    ]);
}

#[test]
fn errors_say_what_to_do_next() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.control().fault("qm.stop", FaultAction::error("VM is locked (backup)"), 99).unwrap();
    let said = lab.vm_with("limit@kill=2000", "kill", &["web-1"]);
    said.fails(&["VM web-1 (VMID 100)", "VM is locked (backup): wait until the backup ends", "qm unlock"]);
    lab.control().clear_faults().unwrap();
    lab.control().fault("api.GET /version", FaultAction::error("internal error"), 9).unwrap();
    lab.create("web-2", &[]).fails(&["VM web-2", "HTTP 500", "internal error", "journalctl -u pvedaemon"]);
    lab.control().clear_faults().unwrap();
    lab.vm("stop", &["web-1"]).ok();
    lab.control().fault("task.qmstart", FaultAction::error("QEMU exited with code 1"), 9).unwrap();
    lab.vm("start", &["web-1"]).fails(&["QEMU exited with code 1", "pvenode task list --vmid 100"]);
    lab.control().clear_faults().unwrap();
    lab.control().remove_guest(100).unwrap();
    for (verb, more) in [("guest-exec", vec!["true"]), ("update-gecos", vec![WALLET, "--nft-id", "7"])] {
        let arguments: Vec<&str> = std::iter::once("web-1").chain(more).collect();
        lab.vm(verb, &arguments).fails(&["VM web-1", "deleted outside BlockHost", "blockhost-vm-destroy"]);
    }
    lab.vm("status", &["web-1"]).says(&["no such VM", "blockhost-vm-destroy web-1"]);
    lab.vm("destroy", &["web-1"]).ok();
    lab.vm("start", &["web-1"]).fails(&["was destroyed", "blockhost-vm-create web-1"]);
}

#[test]
fn an_interrupted_create_says_that_all_was_undone() {
    let lab = Lab::builder().agent(AgentMode::Never).start().unwrap();
    let create = lab.vm_start("", "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    until("the machine", || lab.control().snapshot().unwrap().guests.contains_key(&100));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(create.pid()).unwrap()).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    create.wait().fails(&["VM web-1", "interrupted by a signal; everything was rolled back"]);
}

/// From registration on nothing is undone: the VM is there and paid for.
#[test]
fn a_create_that_is_interrupted_while_it_registers_does_not_say_that_it_was_undone() {
    let lab = Lab::builder().start().unwrap();
    let arguments = ["web-1", "--owner-wallet", WALLET, "--apply"];
    let create = lab.vm_start("sleep@create.registering=3000", "create", &arguments);
    until("the entry", || {
        std::fs::read_to_string(lab.path("var/journal/web-1.json"))
            .is_ok_and(|text| text.contains("registered"))
    });
    create.terminate();
    let said = create.wait().fails(&["VM web-1", "interrupted by a signal", "run the same command again"]);
    assert!(!said.err.contains("undone"), "{said:?}");
    lab.vm("create", &arguments).ok();
    assert_eq!(guest(&lab, 100).power, Power::Running);
}

/// The range of db.yaml was moved while VMs lived outside the new one.
#[test]
fn a_vm_outside_a_range_that_was_moved_is_connected_and_can_be_closed() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.made("web-2");
    edit(&lab.path("etc/blockhost/db.yaml"), "start: 100", "start: 200");
    lab.control().reboot_node().unwrap();
    let isolated =
        || lab.control().snapshot().unwrap().ports.get("tap100i0").is_some_and(|port| port.isolated);
    // The guard acts on the VM's identity alone; what our commands do goes by the range.
    until("the node's own starts", || isolated() && guest(&lab, 101).power == Power::Running);
    let reapply = lab.command("blockhost-provisioner-reapply").output().unwrap();
    assert!(reapply.status.success() && isolated(), "{reapply:?}");
    assert_eq!(lab.vm("status", &["web-1"]).ok().out, "active\n");
    // Deleted outside BlockHost, and its number is somebody else's by now.
    for (vmid, name, more) in [(100, "web-1", None), (101, "web-2", Some("--forget"))] {
        lab.control().remove_guest(vmid).unwrap();
        let stranger =
            lab::model::NewGuest { vmid, name: "other".into(), running: true, ..Default::default() };
        lab.control().add_guest(stranger).unwrap();
        let before = guest(&lab, vmid);
        let mut arguments = vec![name];
        arguments.extend(more.into_iter().flat_map(|flag| [flag, "--yes"]));
        lab.vm("destroy", &arguments).ok();
        assert_eq!(guest(&lab, vmid), before, "the stranger is left alone");
        assert_eq!(lab.vm("status", &[name]).ok().out, "destroyed\n");
    }
}

#[test]
fn a_mock_vm_with_the_name_of_a_real_one_touches_nothing_of_it() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let copy = lab.path("var/terraform/vms/web-1/record.json");
    let trail = lab.path("var/audit").read_dir().unwrap().next().unwrap().unwrap().path();
    let before = (read(&copy), read(&trail), read(&lab.path("var/vms.json")));
    let mut create = lab.vm_command("create", &["web-1", "--no-web3", "--apply", "--mock"]);
    create.env("BLOCKHOST_MOCK_DB", lab.path("mock.json"));
    crate::support::run(create).ok();
    assert_eq!((read(&copy), read(&trail), read(&lab.path("var/vms.json"))), before);
}
