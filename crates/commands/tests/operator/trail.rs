//! `blockhost-vm-audit`: the trail, newest first, from all of its files.

use crate::support::{Ended, command, place, site, vm, write};
use crate::world::{HOSTILE, is_as_documented, is_harmless, shown};
use lab::Lab;
use serde_json::{Value, json};
use std::fmt::Write as _;

fn audit(lab: &Lab, arguments: &[&str]) -> Ended {
    vm(lab, "audit", arguments)
}

/// The lines as JSON, as they are documented.
fn lines(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let said = audit(lab, &[&["--format", "json"], arguments].concat()).ends(0);
    let lines: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    is_as_documented("vm-audit.json", &lines);
    lines.as_array().unwrap().clone()
}

/// What each line is about.
fn told(lines: &[Value]) -> Vec<String> {
    let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_string();
    lines.iter().map(|line| format!("{} {}", word(line, "verb"), word(line, "vm"))).collect()
}

/// A line as the trail has it.
fn line(time: &str, verb: &str, vm: &str) -> String {
    json!({
        "time": format!("{time}.000000+00:00"), "uid": 0, "sudo_user": null, "caller": "bash", "verb": verb, "vm": vm,
        "vmid": 100, "before": "active", "after": "active", "result": "ok", "duration_ms": 1234
    })
    .to_string()
        + "\n"
}

#[test]
fn what_commands_did_is_shown_newest_first() {
    let lab = site();
    assert_eq!(audit(&lab, &[]).ok().out, "TIME\tVM\tVMID\tVERB\tSTATUS\tBY\tTOOK\tRESULT\n", "nothing yet");
    assert_eq!(audit(&lab, &["--format", "json"]).ok().out, "[\n]\n");
    place(&lab, 101, "web-2");
    vm(&lab, "stop", &["web-1"]).ok();
    vm(&lab, "protect", &["web-2", "on"]).ok();
    vm(&lab, "start", &["web-1"]).ok();
    vm(&lab, "destroy", &["web-2"]).fails(&["protected"]);
    let all = lines(&lab, &[]);
    assert_eq!(told(&all), ["destroy web-2", "start web-1", "protect web-2", "stop web-1"]);
    assert!(all[0]["result"].as_str().unwrap().contains("is protected"), "{}", all[0]);
    assert_eq!(told(&lines(&lab, &["web-1"])), ["start web-1", "stop web-1"]);
    assert_eq!(told(&lines(&lab, &["--verb", "protect,stop"])), ["protect web-2", "stop web-1"]);
    assert_eq!(told(&lines(&lab, &["web-2", "--verb", "protect", "--verb", "destroy"])).len(), 2);
    assert_eq!(lines(&lab, &["--since", "1h"]).len(), 4);
    assert_eq!(lines(&lab, &["--since", "2126-01-01"]).len(), 0);
    assert_eq!(told(&lines(&lab, &["--limit", "2"])), ["destroy web-2", "start web-1"]);
    assert_eq!(told(&lines(&lab, &["web-1", "--limit", "1"])), ["start web-1"]);
    assert_eq!(lines(&lab, &["--limit", "18446744073709551615"]).len(), 4);
    assert_eq!(audit(&lab, &["--limit", "1"]).ok().out.lines().count(), 2);
    audit(&lab, &["--limit", "0"]).ends(2);
    let table = audit(&lab, &["web-1"]).ok().out;
    let cells: Vec<&str> = table.lines().nth(1).unwrap().split('\t').collect();
    assert_eq!((cells[1], cells[2], cells[3], cells[4], cells[7]), ("web-1", "100", "start", "active", "ok"));
    audit(&lab, &["--since", "yesterday"]).ends(2).says(&["12h or 7d"]);
    audit(&lab, &["../x"]).ends(2);
}

#[test]
fn months_and_rotated_files_are_read_in_their_order() {
    let lab = site();
    let folder = lab.path("var/audit");
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, lines: &[(&str, &str)]| {
        let text: String = lines.iter().map(|(time, vm)| line(time, "stop", vm)).collect();
        write(&folder.join(name), &text);
    };
    file("2026-11.jsonl", &[("2026-11-20T00:00:00", "v-6"), ("2026-11-21T00:00:00", "v-7")]);
    file("2026-11.jsonl.1", &[("2026-11-10T00:00:00", "v-4"), ("2026-11-11T00:00:00", "v-5")]);
    file("2026-11.jsonl-20261105", &[("2026-11-01T00:00:00", "v-3")]);
    file("2026-02.jsonl", &[("2026-02-01T00:00:00", "v-1"), ("2026-02-28T23:59:59", "v-2")]);
    file("2025-12.jsonl", &[("2025-12-31T00:00:00", "v-0")]);
    write(&folder.join("notes.txt"), "somebody's");
    let names = |arguments: &[&str]| -> Vec<String> {
        lines(&lab, arguments).iter().map(|line| line["vm"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&[]), ["v-7", "v-6", "v-5", "v-4", "v-3", "v-2", "v-1", "v-0"]);
    assert_eq!(names(&["--since", "2026-02-28T23:59:59Z"]), ["v-7", "v-6", "v-5", "v-4", "v-3", "v-2"]);
    assert_eq!(audit(&lab, &[]).ok().err, "");
    // Compressed ones are said, where they could matter.
    write(&folder.join("2026-01.jsonl.gz"), "\u{1f}");
    let said = audit(&lab, &[]).ends(0);
    said.says_in_one_line(&["warning: ", "2026-01.jsonl.gz", "compressed"]);
    assert_eq!(audit(&lab, &["--since", "2026-02-01"]).ok().err, "");
}

#[test]
fn what_is_no_line_is_counted_and_no_reason_to_stop() {
    let lab = site();
    let folder = lab.path("var/audit");
    std::fs::create_dir_all(&folder).unwrap();
    let mut text = line("2026-11-01T00:00:00", "create", "first");
    let long = "x".repeat(300_000);
    let _ = write!(text, "[1]\n\n{{\"time\":\"2026-11-02\"}}\n{long}\n\0\u{1}\n");
    text += &line("2026-11-03T00:00:00", "stop", "last");
    // One that is being written, or was cut off.
    text += "{\"time\":\"2026-11-04T00:00";
    write(&folder.join("2026-11.jsonl"), &text);
    let said = audit(&lab, &["--format", "json"]).ends(0);
    let found: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(told(found.as_array().unwrap()), ["stop last", "create first"]);
    assert_eq!(said.err, "warning: 5 lines of the audit trail cannot be read; skipped\n");
    // A pipe or a folder in a file's place does not hold anybody up.
    std::fs::create_dir(folder.join("2026-10.jsonl")).unwrap();
    let pipe = folder.join("2026-09.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = audit(&lab, &[]).ends(0);
    said.says(&["2026-10.jsonl", "2026-09.jsonl: it is not a regular file"]);
}

#[test]
fn a_hundred_thousand_lines_are_read_without_being_held() {
    let lab = site();
    let folder = lab.path("var/audit");
    std::fs::create_dir_all(&folder).unwrap();
    let mut text = String::new();
    for index in 0..100_000 {
        text += &line(
            &format!("2026-11-{:02}T00:{:02}:{:02}", 1 + index / 4000, index / 60 % 60, index % 60),
            "stop",
            &format!("vm-{:05}", index % 10_000),
        );
    }
    write(&folder.join("2026-11.jsonl"), &text);
    drop(text);
    let all = lines(&lab, &["vm-00042"]);
    assert_eq!(all.len(), 10);
    assert!(all.windows(2).all(|pair| pair[0]["time"].as_str() >= pair[1]["time"].as_str()));
    // Twenty megabytes of trail in no more memory than a small one takes.
    let mut limited = std::process::Command::new("sh");
    let real = command(&lab, "blockhost-vm-audit", &[]);
    limited.args(["-c", "ulimit -v 400000; exec \"$0\"", real.get_program().to_str().unwrap()]);
    limited.envs(real.get_envs().filter_map(|(key, value)| Some((key, value?))));
    assert_eq!(test_support::run(&mut limited).ok().out.lines().count(), 100_001);
    // Whoever reads the first lines alone is no error.
    let mut head = std::process::Command::new("sh");
    head.args(["-c", "\"$0\" | head -n 2", real.get_program().to_str().unwrap()]);
    head.envs(real.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let said = test_support::run(&mut head).ok();
    assert_eq!((said.out.lines().count(), said.err.as_str()), (2, ""));
}

#[test]
fn a_terminal_gets_a_pager_and_no_commands_of_others() {
    let lab = site();
    let folder = lab.path("var/audit");
    std::fs::create_dir_all(&folder).unwrap();
    let hostile = json!({"time": "2026-11-03T00:00:00.000000+00:00", "verb": HOSTILE, "vm": HOSTILE, "result": HOSTILE,
        "caller": HOSTILE, "sudo_user": HOSTILE, "before": HOSTILE, "after": null, HOSTILE: 1});
    write(
        &folder.join("2026-11.jsonl"),
        &format!("{hostile}\n{}", line("2026-11-04T00:00:00", "stop", "web-1")),
    );
    let on_terminal = |arguments: &[&str]| shown(&mut command(&lab, "blockhost-vm-audit", arguments), false);
    let plain = on_terminal(&["--no-pager"]);
    is_harmless(&plain, false);
    let first = "2026-11-04 00:00:00  web-1             100    stop          active               uid 0, bash       1.2 s    ok";
    assert_eq!(plain.lines().nth(1), Some(first));
    is_harmless(&on_terminal(&["--no-pager", "--format", "json"]), false);
    let piped = audit(&lab, &[]).ends(0).out;
    is_harmless(&piped.replace('\t', " "), false);
}

/// A pager that says who it is and what it was given.
fn pager(lab: &Lab, path: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = lab.path(path);
    write(&path, "#!/bin/sh\necho \"pager $* secure=$LESSSECURE secret=$SECRET\"\nhead -n 2\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn h56_where_root_runs_it_no_pager_of_the_environment_is_started() {
    let lab = site();
    vm(&lab, "stop", &["web-1"]).ok();
    let program = pager(&lab, "pager");
    let mut command = command(&lab, "blockhost-vm-audit", &[]);
    command
        .env("PAGER", format!("{program} -x; touch {program}.done"))
        .env("SECRET", "of root")
        .env("LESS", "+!id");
    let text = shown(&mut command, false);
    assert!(rustix::process::getuid().is_root(), "the tests run as root");
    assert!(
        !text.contains("pager -x") && !text.contains("of root") && !text.contains("uid=0(root)"),
        "{text}"
    );
    assert!(text.contains("stop"), "{text}");
    // Somebody else has his own, with his words, and no shell.
    let mut somebody = std::process::Command::new("setpriv");
    somebody.args(["--reuid=65534", "--clear-groups", "--"]).arg(command.get_program());
    somebody.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    for folder in ["", "var", "var/audit"] {
        readable(&lab.path(folder));
    }
    readable(&lab.path("etc"));
    let text = shown(&mut somebody, false);
    assert!(text.contains("pager -x; touch"), "{text}");
    assert!(text.contains("secure=1 secret=of root"), "{text}");
    assert!(!lab.path("pager.done").exists());
}

/// For everybody, as the audit folder of a lab is not.
fn readable(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).unwrap().permissions().mode() | 0o555;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for file in std::fs::read_dir(path).into_iter().flatten().flatten().filter(|file| file.path().is_file()) {
        let mode = file.metadata().unwrap().permissions().mode() | 0o444;
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    }
}
