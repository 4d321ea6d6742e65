//! Who may use whom in the library: the rooms, their direction, and the doors to the machine. What stands in CLAUDE.md
//! is held here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "a test that reads the sources")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A room, and the rooms whose items it may name. Of `store` tools read db.yaml and how the node is reached.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("value", &["value"]),
    ("host", &["host", "value"]),
    ("plan", &["plan", "value"]),
    ("store", &["store", "plan", "host", "value"]),
    ("tool", &["tool", "plan", "host", "value", "store::settings", "store::node_access"]),
    ("operation", &["operation", "tool", "store", "plan", "host", "value"]),
];

/// What only `host` may do: environment, standard input, own program, signals to others.
const DOORS: [&str; 8] = [
    "std::env::",
    "stdin()",
    "current_exe",
    "kill_process",
    "Utc::now()",
    "Instant::now()",
    "TcpStream",
    "UnixStream",
];
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Each file of the library with the lines that are neither comments nor tests.
fn product() -> Vec<(String, Vec<String>)> {
    lines_of("src")
}

/// The same of a folder beside the library's own.
fn lines_of(folder: &str) -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    let code = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap().to_string();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.map(str::to_string).collect()
    };
    files.retain(|path| path.file_name().is_some_and(|name| name != "tests.rs"));
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_string();
    files.iter().map(|path| (name(path), code(path))).collect()
}

/// `store::settings` of `crate::store::settings::Settings`.
fn named(line: &str) -> Vec<String> {
    let paths = line.split("crate::").skip(1);
    let words = paths.map(|path| {
        let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(path.len());
        path[..end].split("::").filter(|word| !word.is_empty()).take(2).collect::<Vec<_>>().join("::")
    });
    words.collect()
}

#[test]
fn each_room_uses_only_the_rooms_below_it() {
    let mut wrong = BTreeSet::new();
    for (file, lines) in product() {
        let room = file.split(['/', '.']).next().unwrap();
        let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == room) else { continue };
        for path in lines.iter().flat_map(|line| named(line)) {
            let head = path.split("::").next().unwrap();
            let is_room = MAY_USE.iter().any(|(name, _)| *name == head);
            if is_room && !may.contains(&head) && !may.contains(&path.as_str()) {
                wrong.insert(format!("{file} uses {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_host_opens_a_door_to_the_machine() {
    let mut wrong = BTreeSet::new();
    for (file, lines) in product() {
        if file.starts_with("host/") {
            continue;
        }
        for line in &lines {
            for door in DOORS.iter().filter(|door| line.contains(*door)) {
                wrong.insert(format!("{file}: {door}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whoever acts has a host, and its doors lead to the machine that whoever made it meant: one that a module could reach
/// without it would be the real one in a simulation, or another thread's.
#[test]
fn the_machine_is_reached_by_a_host_alone() {
    // What BLOCKHOST_FAULT says to this process.
    let rules = "static RULES: OnceLock<Rules>";
    let global = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        words.next() == Some("static") || line.contains("LazyLock")
    };
    // Where a host is made, and the doors themselves.
    let makes_doors = ["host/mod.rs", "host/doors.rs"];
    // The other ways to a clock; what is asked of a host is all the same in a simulation.
    let clocks = ["Utc::now", "Instant::now", "SystemTime::now", "thread::sleep"];
    let has_clock = ["host/clock.rs", "host/failpoint.rs"];
    let mut wrong = BTreeSet::new();
    for (file, lines) in product() {
        for line in &lines {
            let is_global = global(line) && !(file == "host/failpoint.rs" && line.contains(rules));
            let makes = (line.contains("Doors::real") || line.contains("Doors::simulated"))
                && !makes_doors.contains(&file.as_str());
            let reads =
                clocks.iter().any(|clock| line.contains(clock)) && !has_clock.contains(&file.as_str());
            if is_global || makes || reads {
                wrong.insert(format!("{file}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a thread carries unseen, a second thread does not have.
#[test]
fn no_part_of_the_product_keeps_anything_in_a_thread() {
    let files = [product(), lines_of("../commands/src")].concat();
    assert!(files.iter().any(|(file, _)| file == "step_line.rs"));
    let keeps = |lines: &[String]| lines.iter().any(|line| line.contains("thread_local"));
    let wrong: Vec<_> = files.iter().filter(|(_, lines)| keeps(lines)).map(|(file, _)| file).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each command chooses once; whoever is called by either must not have to ask.
#[test]
fn mock_vms_are_one_files_affair() {
    // The context reads a mock's settings, which name its database, and has no journal then; that it is opened so may be
    // handed on.
    let may = ["operation/mock.rs", "operation/mod.rs"];
    let asks =
        |line: &str| line.replace("mock: bool", "").replace("Context::open(host, mock)", "").contains("mock");
    let mut wrong = BTreeSet::new();
    for (file, lines) in product() {
        if file.starts_with("operation/") && !may.contains(&file.as_str()) {
            wrong.extend(lines.iter().filter(|l| asks(l)).map(|l| format!("{file}: {}", l.trim())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is made from several settings together is made in one place.
#[test]
fn each_vms_folder_and_the_nodes_access_are_made_in_one_place() {
    for maker in ["VmFolder::new(", "LegacyFolder::new(", "NodeAccess::read(", "access.api("] {
        let mut places = Vec::new();
        for (file, lines) in product() {
            let hits = lines.iter().filter(|line| line.contains(maker));
            places.extend(hits.map(|line| format!("{file}: {}", line.trim())));
        }
        assert_eq!(places.len(), 1, "{maker} {places:#?}");
    }
}

#[test]
fn the_reading_of_sources_sees_what_it_must() {
    assert_eq!(named("use crate::store::settings::{Broker, Settings};"), ["store::settings"]);
    assert_eq!(
        named("let x: crate::host::clock::Deadline = crate::value::text::f();"),
        ["host::clock", "value::text"]
    );
    let files = product();
    assert!(files.len() > 80, "{}", files.len());
    assert!(files.iter().all(|(_, lines)| !lines.iter().any(|line| line.contains("mod tests {"))));
}
