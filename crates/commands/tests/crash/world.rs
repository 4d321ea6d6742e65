//! Everything a command can change, as text that two runs can be compared by.

use lab::Lab;
use regex_lite::Regex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

/// What there is: a key for each guest, volume, file … and its text without what differs from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World(BTreeMap<String, String>);

impl World {
    /// Reads node, state folder and run folder.
    pub fn of(lab: &Lab) -> World {
        let mut all = BTreeMap::new();
        let node = serde_json::to_value(lab.control().snapshot().unwrap()).unwrap();
        for (part, value) in node.as_object().unwrap() {
            match value {
                Value::Object(things) => {
                    for (name, thing) in things {
                        all.insert(format!("node {part} {name}"), pretty(thing));
                    }
                }
                other => {
                    all.insert(format!("node {part}"), pretty(other));
                }
            }
        }
        files(&lab.path("var"), "var", &mut all);
        files(&lab.path("run"), "run", &mut all);
        World(all)
    }

    /// The text of one key.
    pub fn text(&self, key: &str) -> &str {
        &self.0[key]
    }

    /// Without the keys that hold one of these words.
    pub fn without(&self, words: &[&str]) -> World {
        let keep = |key: &String| !words.iter().any(|word| key.contains(word));
        World(self.0.iter().filter(|(key, _)| keep(key)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    /// Panics with what differs.
    #[track_caller]
    pub fn must_be(&self, expected: &World, when: &str) {
        let mut differences = Vec::new();
        for (key, text) in &expected.0 {
            match self.0.get(key) {
                None => differences.push(format!("{key} is missing")),
                Some(found) if found != text => {
                    differences.push(format!("{key} differs:\n{}", lines_apart(text, found)));
                }
                Some(_) => {}
            }
        }
        for (key, text) in &self.0 {
            if !expected.0.contains_key(key) {
                differences.push(format!("{key} is there, and should not be:\n{text}"));
            }
        }
        assert!(differences.is_empty(), "the world is not as expected {when}:\n{}", differences.join("\n"));
    }
}

/// The files below a folder. Lock files are left out: the kernel's lock counts, and nobody holds it.
fn files(folder: &Path, name: &str, all: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let file = entry.file_name().into_string().unwrap();
        let key = format!("{name}/{file}");
        let kind = entry.file_type().unwrap();
        // The audit trail grows with each command, VMIDs that are watched stay so for minutes, and logs of failed creates are kept: they have their own
        // tests.
        let of_the_lab = [
            "node.sock",
            "root-agent.sock",
            "endpoint",
            "setup.json",
            ".terraform",
            "audit",
            "withheld",
            "failed",
        ];
        if of_the_lab.contains(&file.as_str()) || (file.ends_with(".lock") && file != "provisioning.lock") {
            continue;
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            all.insert(key, format!("-> {}", target.display()));
        } else if kind.is_dir() {
            if name == "var/terraform/vms" {
                all.insert(key.clone(), "a folder".into());
            }
            files(&path, &key, all);
        } else {
            let text = match file.as_str() {
                "terraform.log" => "a log".into(),
                "terraform.tfstate" => state(&path),
                _ => String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned(),
            };
            all.insert(key, blotted(&text));
        }
    }
}

/// A terraform state without its own counters.
fn state(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    match serde_json::from_str::<Value>(&text) {
        Ok(mut state) => {
            for key in ["serial", "lineage"] {
                state[key] = Value::Null;
            }
            pretty(&state)
        }
        Err(_) => format!("no JSON: {text:?}"),
    }
}

fn pretty(value: &Value) -> String {
    blotted(&serde_json::to_string_pretty(value).unwrap())
}

/// Identifiers, times, hardware addresses, keys and PIDs out of a text.
fn blotted(text: &str) -> String {
    static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)", "TIME"),
            (r"(?i)\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "MAC"),
            // Made of them.
            (r"\bfe80::[0-9a-f:]+|0xfe80[0-9a-f]{28}", "LINK-LOCAL"),
            (r"\b[0-9a-f]{64}\b", "KEY"),
            (r"https://127\.0\.0\.1:\d+", "ENDPOINT"),
            (r#"/[^\s"]*/lab-[A-Za-z0-9]+/"#, "LAB/"),
            (r#""file_tag": "[0-9a-f-]+""#, "TAG"),
            (r#"("(terraform_)?pid": )\d+"#, "${1}PID"),
        ]
        .map(|(pattern, word)| (Regex::new(pattern).unwrap(), word))
        .into()
    });
    PATTERNS
        .iter()
        .fold(text.to_owned(), |text, (pattern, word)| pattern.replace_all(&text, *word).into_owned())
}

fn lines_apart(expected: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let gone = old.iter().filter(|l| !new.contains(l)).map(|l| format!("- {l}"));
    let come = new.iter().filter(|l| !old.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(come).collect::<Vec<_>>().join("\n")
}
