//! What the documents say about the commands is what the commands say of themselves, and what comments and documents
//! refer to is there: hazards, paths, sections, links. What the code reads and leaves on disk is in `doc/`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod doctor;
mod left_on_disk;
mod pages;
mod references;
mod tree;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use tree::root;

fn project() -> Value {
    let text = std::fs::read_to_string(root().join("PROJECT.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn manifest() -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("provisioner.json")).unwrap()).unwrap()
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

/// The executables of this package: one file of `src/bin` each.
fn executables() -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join("crates/commands/src/bin")).unwrap();
    files.map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string()).collect()
}

fn help(executable: &str) -> String {
    run_help(executable, &[])
}

/// The help of a program of the workspace, or of one of its subcommands.
fn run_help(executable: &str, words: &[&str]) -> String {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let output = Command::new(path.join(executable)).args(words).arg("--help").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{executable} {words:?} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// The long flags of a help text: words that begin an option's line.
fn flags(help: &str) -> BTreeSet<String> {
    let options = help.split("Options:").nth(1).unwrap_or_default();
    let lines = options.lines().filter(|line| line.trim_start().starts_with('-'));
    let words = lines.flat_map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
    words
        .filter(|w| w.starts_with("--"))
        .map(|w| w.trim_end_matches("...").trim_end_matches(',').to_string())
        .collect()
}

#[test]
fn project_yaml_lists_exactly_the_commands_and_flags_there_are() {
    let project = project();
    let commands = project["commands"].as_array().unwrap();
    let described: BTreeSet<String> =
        commands.iter().map(|c| c["executable"].as_str().unwrap().to_string()).collect();
    assert_eq!(described, executables());
    for command in commands {
        let executable = command["executable"].as_str().unwrap();
        let help = help(executable);
        assert_eq!(texts(&command["flags"]), flags(&help), "flags of {executable}");
        assert_eq!(help.lines().next(), command["summary"].as_str(), "summary of {executable}");
    }
}

#[test]
fn the_manifest_names_what_is_built_and_nothing_else_but_what_is_planned() {
    let (manifest, project) = (manifest(), project());
    assert_eq!(manifest["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(project["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    let built = executables();
    let planned = texts(&project["planned"]);
    assert!(planned.is_disjoint(&built), "planned, and built already: {:?}", planned.intersection(&built));
    let commands: BTreeMap<String, String> = serde_json::from_value(manifest["commands"].clone()).unwrap();
    for (verb, executable) in &commands {
        assert!(built.contains(executable) || planned.contains(executable), "{verb}: {executable}");
        let expected = if verb == "build-template" {
            "blockhost-build-template".into()
        } else {
            format!("blockhost-vm-{verb}")
        };
        assert_eq!(*executable, expected);
    }
    let verbs = "create destroy start stop kill status list metrics throttle build-template gc resume update-gecos guest-exec";
    assert_eq!(
        commands.keys().cloned().collect::<BTreeSet<_>>(),
        verbs.split(' ').map(str::to_string).collect()
    );
}

#[test]
fn every_help_has_examples() {
    for executable in executables() {
        let help = help(&executable);
        assert!(
            help.contains("Example") && help.contains(&format!("  {executable}")),
            "{executable}: no example"
        );
    }
}
