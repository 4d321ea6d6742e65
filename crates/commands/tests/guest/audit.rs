//! The audit trail: one JSON line for each change of a VM, appended, whole, without secrets, and never in the way.

use crate::support::{
    Ended, WALLET, begin, command, edit_database, exec, place, read, set_field, site, snapshot, uuid, vm,
    vm_with, write,
};
use lab::Lab;
use lab::model::AgentMode;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// The file of this month; the test may run when a month ends.
fn files(lab: &Lab) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lab.path("var/audit")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn text(lab: &Lab) -> String {
    files(lab).iter().map(|path| read(path)).collect()
}

fn lines(lab: &Lab) -> Vec<Value> {
    let text = text(lab);
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The last line as verb, vm, vmid, before, after, result.
fn last(lab: &Lab) -> Value {
    let all = lines(lab);
    let last = all.last().unwrap_or_else(|| panic!("no line"));
    json!([last["verb"], last["vm"], last["vmid"], last["before"], last["after"], last["result"]])
}

fn days_ago(days: i64) -> String {
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let at = i64::try_from(at).unwrap() - days * 86_400;
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{at}"), "+%FT%T.000000+00:00"])
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_string()
}

#[test]
fn every_change_of_a_vm_leaves_a_line() {
    let lab = Lab::builder().start().unwrap();
    vm(&lab, "create", &["web-1", "--owner-wallet", WALLET, "--apply"]).ok();
    assert_eq!(last(&lab), json!(["create", "web-1", 100, null, "active", "ok"]));
    vm(&lab, "update-gecos", &["web-1", WALLET, "--nft-id", "7"]).ok();
    assert_eq!(last(&lab), json!(["update-gecos", "web-1", 100, "active", "active", "ok"]));
    exec(&lab, &["exit 3"]).ends(3);
    assert_eq!(last(&lab), json!(["guest-exec", "web-1", 100, "active", "active", "exit 3"]));
    vm(&lab, "stop", &["web-1"]).ok();
    assert_eq!(last(&lab), json!(["stop", "web-1", 100, "active", "active", "ok"]));
    vm(&lab, "start", &["web-1"]).ok();
    assert_eq!(last(&lab), json!(["start", "web-1", 100, "active", "active", "ok"]));
    vm(&lab, "kill", &["web-1"]).ok();
    assert_eq!(last(&lab), json!(["kill", "web-1", 100, "active", "active", "ok"]));
    // gc: first suspended …
    vm(&lab, "gc", &["--execute"]).ok();
    set_field(&lab, "web-1", "expires_at", days_ago(30).into());
    vm(&lab, "gc", &["--execute"]).ok();
    assert_eq!(last(&lab), json!(["suspend", "web-1", 100, "active", "suspended", "ok"]));
    vm(&lab, "resume", &["web-1"]).ok();
    assert_eq!(last(&lab), json!(["resume", "web-1", 100, "suspended", "active", "ok"]));
    // … then destroyed.
    set_field(&lab, "web-1", "expires_at", days_ago(30).into());
    vm(&lab, "gc", &["--execute", "--suspend-only"]).ok();
    set_field(&lab, "web-1", "suspended_at", days_ago(20).into());
    vm(&lab, "gc", &["--execute"]).ok();
    assert_eq!(last(&lab), json!(["gc-destroy", "web-1", 100, "suspended", "destroyed", "ok"]));
    vm(&lab, "create", &["web-2", "--no-web3", "--apply"]).ok();
    vm(&lab, "destroy", &["web-2"]).ok();
    assert_eq!(last(&lab), json!(["destroy", "web-2", 101, "active", "destroyed", "ok"]));
    let verbs: Vec<String> =
        lines(&lab).iter().map(|line| line["verb"].as_str().unwrap().to_string()).collect();
    assert_eq!(
        verbs,
        [
            "create",
            "update-gecos",
            "guest-exec",
            "stop",
            "start",
            "kill",
            "suspend",
            "resume",
            "suspend",
            "gc-destroy",
            "create",
            "destroy"
        ]
    );
    // Secrets: the token, what cloud-init got.
    let token = lab.token();
    let user_data = text(&lab);
    assert!(!user_data.contains(token.split('=').nth(1).unwrap()) && !user_data.contains("cloud-config"));
}

#[test]
fn who_when_how_long_and_where_it_is_kept() {
    let lab = site();
    let before = days_ago(0);
    let mut start = command(&lab, "blockhost-vm-start", &["web-1"]);
    assert!(start.env("SUDO_USER", "olga").output().unwrap().status.success());
    let file = files(&lab).pop().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap().to_string();
    assert!(
        name == format!("{}.jsonl", &before[..7]) || name == format!("{}.jsonl", &days_ago(0)[..7]),
        "{name}"
    );
    let line = lines(&lab).pop().unwrap();
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "time",
            "uid",
            "sudo_user",
            "caller",
            "verb",
            "vm",
            "vmid",
            "before",
            "after",
            "result",
            "duration_ms"
        ]
    );
    let time = line["time"].as_str().unwrap();
    assert!(time[..10] >= before[..10] && time.ends_with("+00:00") && time.len() == 32, "{time}");
    assert_eq!(line["uid"], rustix::process::getuid().as_raw());
    assert_eq!(line["sudo_user"], "olga");
    // Our own threads are named after the test.
    assert!(line["caller"].as_str().is_some_and(|caller| !caller.is_empty()), "{line}");
    assert!(line["duration_ms"].is_u64());
    let through_shell = lab.command("blockhost-vm-start").get_program().to_string_lossy().into_owned();
    let mut shell = lab.tool("sh");
    shell.args(["-c", "\"$1\" web-1; true", "secret-argument", &through_shell]).output().unwrap();
    assert_eq!(lines(&lab).pop().unwrap()["caller"], "sh", "the parent's name alone");
    assert!(!text(&lab).contains("secret-argument"));
    let folder = lab.path("var/audit").metadata().unwrap();
    let data = file.metadata().unwrap();
    assert_eq!((folder.mode() & 0o7777, data.mode() & 0o7777), (0o770, 0o660));
    assert_eq!((data.gid(), data.uid()), (folder.gid(), folder.uid()));
}

#[test]
fn h15_what_root_writes_belongs_to_the_owner_of_the_state_folder() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root makes files for others");
        return;
    }
    let lab = site();
    // As on a host: the service's user rules its directories and may read the configuration and ask the root agent.
    let shell = "chown -R 4242:4343 var run && chgrp -R 4343 etc/blockhost && chmod -R g+rX etc/blockhost && \
        chmod 755 . && chmod 666 run/*.sock";
    assert!(lab.tool("sh").args(["-c", shell]).current_dir(lab.dir()).status().unwrap().success());
    vm(&lab, "start", &["web-1"]).ok();
    for path in [lab.path("var/audit"), files(&lab).pop().unwrap()] {
        let data = path.metadata().unwrap();
        assert_eq!((data.uid(), data.gid()), (4242, 4343), "{}", path.display());
    }
}

#[test]
fn what_failed_is_told_with_its_reason() {
    let lab = site();
    vm(&lab, "start", &["nobody"]).ends(1);
    let line = last(&lab);
    assert_eq!((&line[0], &line[1], &line[2]), (&json!("start"), &json!("nobody"), &json!(null)));
    assert!(line[5].as_str().unwrap().starts_with("VM nobody is unknown"), "{line}");
    lab.control().set(100, "smbios1", &format!("uuid={}", uuid(9))).unwrap();
    vm(&lab, "kill", &["web-1"]).ends(1);
    let line = last(&lab);
    assert_eq!((&line[2], &line[3], &line[4]), (&json!(100), &json!("active"), &json!("active")));
    assert!(line[5].as_str().unwrap().contains("now belongs to another guest"), "{line}");
    let all = lines(&lab);
    assert!(all.iter().all(|line| line["result"].as_str().unwrap().len() <= 500), "bounded");
}

#[test]
fn h30_neither_text_nor_output_of_a_guest_command_is_kept() {
    let lab = site();
    let marks = ["hunter2", "printed-words", "err-words"];
    exec(&lab, &["echo printed-words; echo err-words >&2; : hunter2; exit 1"]).ends(1);
    exec(&lab, &["--timeout", "1", "sleep 30; : hunter2"]).ends(124);
    exec(&lab, &["kill -9 $$; : hunter2"]).ends(137);
    // A tool whose error repeats the command.
    let words = lab::model::FaultAction::error("400 unable to parse: hunter2");
    lab.control().fault("qm.guest-exec", words, 1).unwrap();
    exec(&lab, &["echo hunter2"]).ends(1).says(&["hunter2"]);
    lab.control().agent(100, AgentMode::Off).unwrap();
    exec(&lab, &["echo hunter2"]).ends(1);
    let results: Vec<Value> = lines(&lab).iter().map(|line| line["result"].clone()).collect();
    let not_run = "VM web-1 (VMID 100): could not run the command";
    assert_eq!(results, ["exit 1", "no end within its limit", "exit 137", not_run, not_run]);
    for mark in marks {
        assert!(!text(&lab).contains(mark), "{mark}");
    }
}

#[test]
fn h42_what_only_looks_leaves_no_line() {
    let lab = site();
    let looks: [(&str, &[&str]); 7] = [
        ("create", &["web-9", "--owner-wallet", WALLET]),
        ("status", &["web-1"]),
        ("list", &[]),
        ("gc", &[]),
        ("resume", &["web-1", "--dry-run"]),
        ("start", &["web-1", "--mock"]),
        ("destroy", &["web-1", "--nonsense"]),
    ];
    for (verb, arguments) in looks {
        vm(&lab, verb, arguments);
        assert!(!lab.path("var/audit").exists(), "{verb} {arguments:?}");
    }
    command(&lab, "blockhost-provisioner-reapply", &[]).output().unwrap();
    assert!(!lab.path("var/audit").exists());
}

#[test]
fn many_processes_at_once_never_mix_their_lines() {
    let lab = site();
    for vmid in 101..108 {
        place(&lab, vmid, &format!("web-{vmid}"));
    }
    // Long names and long reasons make long lines.
    let long = format!("nobody-{}", "x".repeat(50));
    for _ in 0..3 {
        let mut running = Vec::new();
        for vmid in 101..108 {
            running.push(begin(&lab, "", "blockhost-vm-start", &[&format!("web-{vmid}")]));
            running.push(begin(&lab, "", "blockhost-vm-kill", &[&long]));
        }
        for one in running {
            one.wait();
        }
    }
    let all = lines(&lab);
    assert_eq!(all.len(), 3 * 14, "every line whole, none lost");
    let names: BTreeSet<&str> = all.iter().map(|line| line["vm"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 8);
}

/// The change was made, and the trail is a warning.
#[track_caller]
fn only_warned(lab: &Lab, said: Ended, words: &str) {
    let said = said.ok().says(&["warning: failed to record this change in the audit trail: ", words]);
    assert_eq!(said.err.matches("warning: ").count(), 1, "{said:?}");
    assert_eq!(snapshot(lab).guests[&100].power, lab::model::Power::Running);
}

#[test]
fn a_trail_that_cannot_be_written_is_a_warning() {
    let lab = site();
    let kill_and_start = |words: &str| {
        vm(&lab, "kill", &["web-1"]).ok().says(&["failed to record this change in the audit trail", words]);
        only_warned(&lab, vm(&lab, "start", &["web-1"]), words);
    };
    // A file where the folder should be.
    write(&lab.path("var/audit"), "mine\n");
    kill_and_start("var/audit");
    assert_eq!(read(&lab.path("var/audit")), "mine\n");
    std::fs::remove_file(lab.path("var/audit")).unwrap();
    // A folder, a link, a pipe where the file should be.
    vm(&lab, "start", &["web-1"]).ok();
    let file = files(&lab).pop().unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    kill_and_start("jsonl");
    std::fs::remove_dir(&file).unwrap();
    write(&lab.path("elsewhere"), "");
    std::os::unix::fs::symlink(lab.path("elsewhere"), &file).unwrap();
    kill_and_start("jsonl");
    assert_eq!(read(&lab.path("elsewhere")), "", "no link is followed");
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    kill_and_start("not a regular file");
    std::fs::remove_file(&file).unwrap();
    // A full disk. `start` of a VM that runs writes nothing else.
    only_warned(&lab, vm_with(&lab, "enospc@1", "start", &["web-1"]), "No space left on device");
    vm(&lab, "start", &["web-1"]).ok();
    assert_eq!(lines(&lab).len(), 1, "with space again it goes on");
}

#[test]
fn a_folder_without_rights_is_a_warning_too() {
    let lab = site();
    vm(&lab, "start", &["web-1"]).ok();
    let file = files(&lab).pop().unwrap();
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere but where nobody may: the flag needs a file system that knows it.
        let done = std::process::Command::new("chattr").arg("+i").arg(&file).status();
        if !done.is_ok_and(|status| status.success()) {
            println!("skipped: root, and no immutable files here");
            return;
        }
        let said = vm(&lab, "start", &["web-1"]);
        std::process::Command::new("chattr").arg("-i").arg(&file).status().unwrap();
        only_warned(&lab, said, "jsonl");
    } else {
        std::fs::set_permissions(lab.path("var/audit"), PermissionsExt::from_mode(0o500)).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o400)).unwrap();
        let said = vm(&lab, "start", &["web-1"]);
        std::fs::set_permissions(lab.path("var/audit"), PermissionsExt::from_mode(0o700)).unwrap();
        only_warned(&lab, said, "jsonl");
    }
}

#[test]
fn it_is_only_appended_to_and_a_line_that_was_cut_short_spoils_no_other() {
    let lab = site();
    vm(&lab, "start", &["web-1"]).ok();
    let file = files(&lab).pop().unwrap();
    let first = read(&file);
    let inode = file.metadata().unwrap().ino();
    // What a full disk left.
    write(&file, &format!("{first}{{\"time\": \"2026-"));
    vm(&lab, "start", &["web-1"]).ok();
    vm(&lab, "start", &["web-1"]).ok();
    let text = read(&file);
    assert!(text.starts_with(&format!("{first}{{\"time\": \"2026-\n{{")), "{text}");
    let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    assert_eq!((whole, text.lines().count()), (3, 4));
    assert_eq!(file.metadata().unwrap().ino(), inode);
    // Another month is another file; the old one stays.
    let old = lab.path("var/audit/2020-01.jsonl");
    std::fs::rename(&file, &old).unwrap();
    let kept = read(&old);
    vm(&lab, "start", &["web-1"]).ok();
    assert_eq!((read(&old), files(&lab).len()), (kept, 2));
}

#[test]
fn a_broken_database_does_not_keep_the_attempt_out_of_the_trail() {
    let lab = site();
    edit_database(&lab, |all| all["vms"] = json!(7));
    vm(&lab, "start", &["web-1"]).ends(1);
    let line = last(&lab);
    assert_eq!((&line[1], &line[3], &line[4]), (&json!("web-1"), &json!(null), &json!(null)));
    assert!(line[5].as_str().unwrap().contains("vms.json"), "{line}");
}
