//! Step template, with a builder of the test's own beside the setup command.

use super::bare::{Bare, fails};
use super::namespace::answer;
use lab::model::NewGuest;
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The setup command in a folder with a builder of the test's own beside it.
fn with_builder(bare: &Bare, script: &str) -> Command {
    let (own, builder) =
        (bare.0.path("bin/blockhost-provisioner-setup"), bare.0.path("bin/blockhost-build-template"));
    let text = bare.0.path("run/builder");
    fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
    // By a program of its own: a file that this one has open for writing is also open in every child that another test
    // is just starting, and cannot be executed meanwhile.
    for (from, into) in
        [(bare.0.command("blockhost-provisioner-setup").get_program(), &own), (text.as_os_str(), &builder)]
    {
        assert!(Command::new("install").arg("-m755").arg(from).arg(into).status().unwrap().success());
    }
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("template");
    command
}

#[test]
fn a_template_that_is_there_is_not_built_again() {
    let bare = Bare::without_provider();
    let command = with_builder(&bare, "echo called >&2; exit 1");
    let done = bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string());
    assert_eq!(answer(&done), json!({"ok": true, "error": null}), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
}

#[test]
fn a_template_that_is_missing_or_half_made_is_built() {
    let bare = Bare::without_provider();
    let mut answers = bare.answers();
    answers["template_vmid"] = json!(9100);
    let input = json!({"provisioner": answers}).to_string();
    let said = bare.0.path("run/said");
    let script = format!("echo \"$@\" > '{}'; echo 'image: 50 %' >&2; echo ready", said.display());
    let done = bare.run_with(with_builder(&bare, &script), &input);
    assert_eq!(answer(&done)["ok"], true, "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("image: 50 %"), "{done:?}");
    let flags = "--template-vmid 9100 --storage local-lvm --bridge vmbr0 --host localhost\n";
    assert_eq!(fs::read_to_string(&said).unwrap(), flags);
    // A VM without being a template: the builder knows whether it is what it left.
    fs::remove_file(&said).unwrap();
    bare.0.control().add_guest(NewGuest { vmid: 9100, name: "half".into(), ..NewGuest::default() }).unwrap();
    let done = bare.run_with(
        with_builder(
            &bare,
            &format!("touch '{}'; echo 'error: VMID 9100 has VM half' >&2; exit 1", said.display()),
        ),
        &input,
    );
    fails(&answer(&done), &["failed to build the template: VMID 9100 has VM half"]);
    assert!(said.exists());
}

#[test]
fn a_build_that_is_stopped_gets_time_to_take_back_what_it_did() {
    let bare = Bare::without_provider();
    let mut answers = bare.answers();
    answers["template_vmid"] = json!(9100);
    let (begun, undone) = (bare.0.path("run/begun"), bare.0.path("run/undone"));
    let script = format!(
        "trap 'sleep 7; touch \"{}\"; exit 1' TERM; touch '{}'; while :; do sleep 0.1; done",
        undone.display(),
        begun.display()
    );
    let mut command = with_builder(&bare, &script);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(json!({"provisioner": answers}).to_string().as_bytes()).unwrap();
    test_support::until("the build has begun", || begun.exists());
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    fails(&answer(&child.wait_with_output().unwrap()), &["interrupted"]);
    assert!(undone.exists());
}

#[test]
fn h32_a_template_whose_build_was_killed_is_not_taken_for_whole() {
    let bare = Bare::without_provider();
    let cache = bare.0.path("run/cache");
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("template.json"), "{}").unwrap();
    let mut command = with_builder(&bare, "echo called >&2; exit 0");
    command.env("BLOCKHOST_CACHE_DIR", &cache);
    let done = bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string());
    assert_eq!(answer(&done)["ok"], true);
    assert!(String::from_utf8_lossy(&done.stderr).contains("called"), "{done:?}");
}
