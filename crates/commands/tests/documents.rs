//! What the documents say about the commands is what the commands say of themselves; every hazard that is named is
//! explained in facts/hazards.md, and those that are held have tests of their numbers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

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
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let output = Command::new(path.join(executable)).arg("--help").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{executable} --help");
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
fn every_help_has_examples_and_every_command_is_in_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for executable in executables() {
        let help = help(&executable);
        assert!(
            help.contains("Example") && help.contains(&format!("  {executable}")),
            "{executable}: no example"
        );
        assert!(readme.contains(&executable), "README.md does not name {executable}");
    }
}

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py") {
            found.push(path);
        }
    }
}

#[test]
fn every_hazard_has_a_test_that_carries_its_number() {
    let mut files = Vec::new();
    for folder in ["crates", "tests"] {
        source_files(&root().join(folder), &mut files);
    }
    let mut covered = BTreeSet::new();
    for text in files.iter().map(|path| std::fs::read_to_string(path).unwrap()) {
        for line in text.lines().map(str::trim_start) {
            let name = line
                .strip_prefix("fn ")
                .or_else(|| line.strip_prefix("def "))
                .and_then(|l| l.split('(').next());
            let Some(name) = name else { continue };
            let parts = name.trim_start_matches("test_").split('_');
            covered.extend(
                parts
                    .filter(|p| p.len() == 3 && p.starts_with('h') && p[1..].parse::<u8>().is_ok())
                    .map(str::to_string),
            );
        }
    }
    let missing: Vec<String> =
        (1..=52).map(|n| format!("h{n:02}")).filter(|h| !covered.contains(h)).collect();
    assert!(missing.is_empty(), "no test carries {missing:?}");
}

/// The numbers that `facts/hazards.md` explains: a heading and a paragraph each.
fn explained_hazards() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("facts/hazards.md")).unwrap();
    let mut found = BTreeSet::new();
    for part in text.split("\n### ").skip(1) {
        let (heading, paragraph) = part.split_once('\n').unwrap();
        let (number, title) = heading.split_once(' ').unwrap();
        assert!(
            !title.trim().is_empty() && paragraph.split_whitespace().count() > 10,
            "{number}: not explained"
        );
        assert!(found.insert(number.to_string()), "{number} is there twice");
    }
    found
}

/// Every text file of the tree below these places, whatever its ending.
fn texts_below(place: &Path, found: &mut Vec<(PathBuf, String)>) {
    if place.is_dir() {
        for entry in std::fs::read_dir(place).unwrap().flatten() {
            let name = entry.file_name();
            if !matches!(name.to_str(), Some("__pycache__" | ".pytest_cache" | "target")) {
                texts_below(&entry.path(), found);
            }
        }
    } else if let Ok(text) = std::fs::read_to_string(place) {
        found.push((place.to_path_buf(), text));
    }
}

/// What the project wrote itself: code, tests, scripts, documents.
fn own_texts() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let folders =
        ["crates", "tests", "python", "root-agent-actions", "provisioner-hooks", "debian", "facts", ".ci"];
    for folder in folders {
        texts_below(&root().join(folder), &mut found);
    }
    for entry in std::fs::read_dir(root()).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "md" || e == "yaml" || e == "toml" || e == "json") {
            texts_below(&path, &mut found);
        }
    }
    found
}

/// Hazard numbers of a text: `H07` as a word, `h07` as a part of a name such as `test_h07_a_late_answer`.
fn hazards_named(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == 3 && word.starts_with(['H', 'h']))
        .filter(|word| word[1..].bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_ascii_uppercase)
}

#[test]
fn every_hazard_number_in_the_tree_is_explained() {
    let explained = explained_hazards();
    let expected: BTreeSet<String> = (1..=explained.len()).map(|n| format!("H{n:02}")).collect();
    assert_eq!(explained, expected, "the numbers of facts/hazards.md have no holes");
    let texts = own_texts();
    let mut unexplained = BTreeSet::new();
    let mut uses = 0;
    for (path, text) in &texts {
        for number in hazards_named(text) {
            uses += 1;
            if !explained.contains(&number) {
                unexplained.insert(format!("{number} in {}", path.display()));
            }
        }
    }
    assert!(uses > 500, "hazards are named {uses} times only: are the files read?");
    assert!(unexplained.is_empty(), "not in facts/hazards.md: {unexplained:?}");
}
