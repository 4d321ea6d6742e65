//! A healthy lab with a VM of ours in every place that a VM is in, and cases that break and mend it.

use lab::Lab;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
pub use test_support::{Ended, SOON, WALLET, read, run, until, write};

pub const DOCTOR: &str = "blockhost-provisioner-doctor";

/// Every code that a case of this suite has made.
pub static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub fn command(lab: &Lab, program: &str, arguments: &[&str]) -> Command {
    let mut command = lab.command(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A lab without VMs.
pub fn empty() -> Lab {
    Lab::builder().start().unwrap()
}

/// A lab with `web-1` (VMID 100), made by a real create.
pub fn healthy() -> Lab {
    let lab = empty();
    create(&lab, "web-1", "");
    assert_eq!(codes(&lab), [""; 0], "a healthy VM: {:#?}", findings(&lab));
    lab
}

pub fn create(lab: &Lab, name: &str, rules: &str) -> Ended {
    let mut create = command(lab, "blockhost-vm-create", &[name, "--owner-wallet", WALLET, "--apply"]);
    run(create.env("BLOCKHOST_FAULT", rules))
}

pub fn vm(lab: &Lab, verb: &str, arguments: &[&str]) -> Ended {
    run(&mut command(lab, &format!("blockhost-vm-{verb}"), arguments))
}

/// The doctor's JSON, whatever it found; its exit code goes with the worst finding.
pub fn examined(lab: &Lab, arguments: &[&str], rules: &str) -> Value {
    let mut doctor = command(lab, DOCTOR, &[&["--format", "json"], arguments].concat());
    let ended = run(doctor.env("BLOCKHOST_FAULT", rules));
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
    let has = |severity: &str| json["counts"][severity].as_u64().unwrap() > 0;
    let expected = if has("error") {
        2
    } else if has("warning") {
        1
    } else {
        0
    };
    assert_eq!(ended.code, Some(expected), "{ended:#?}");
    json
}

pub fn findings(lab: &Lab) -> Vec<Value> {
    examined(lab, &[], "")["findings"].as_array().unwrap().clone()
}

/// The codes that are found, each once, in order of the alphabet.
pub fn codes(lab: &Lab) -> Vec<String> {
    codes_of(&findings(lab))
}

pub fn codes_of(findings: &[Value]) -> Vec<String> {
    let codes: BTreeSet<String> =
        findings.iter().map(|finding| finding["code"].as_str().unwrap().to_string()).collect();
    codes.into_iter().collect()
}

/// What doctor finds once it finds just `expected`, or at last: a hook script runs beside whoever started the VM.
fn settled(lab: &Lab, expected: &[&str]) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let found = findings(lab);
        if codes_of(&found) == expected || begun.elapsed() > SOON {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Breaks the lab, looks, and mends it again: exactly these codes, each with a place, a reason and a way out; nothing after.
#[track_caller]
pub fn case(lab: &Lab, expected: &[&str], break_it: impl FnOnce(), mend: impl FnOnce()) -> Vec<Value> {
    break_it();
    let found = settled(lab, expected);
    assert_eq!(codes_of(&found), expected, "{found:#?}");
    for finding in &found {
        for key in ["where", "what", "why", "mend"] {
            assert!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {finding}");
        }
    }
    SEEN.lock().unwrap().extend(codes_of(&found));
    mend();
    let after = settled(lab, &[]);
    assert_eq!(codes_of(&after), [""; 0], "after {expected:?}: {after:#?}");
    found
}

/// The same for a file that is changed and put back.
#[track_caller]
pub fn file_case(lab: &Lab, expected: &[&str], path: &Path, change: impl FnOnce(&Path)) -> Vec<Value> {
    let before = std::fs::read(path).ok();
    let mode = path.metadata().ok().map(|found| found.permissions());
    let put_back = || {
        let _ = std::fs::remove_file(path);
        if let (Some(bytes), Some(mode)) = (&before, mode) {
            std::fs::write(path, bytes).unwrap();
            std::fs::set_permissions(path, mode).unwrap();
        }
    };
    case(lab, expected, || change(path), put_back)
}

/// A change of the database's JSON.
#[track_caller]
pub fn database_case(lab: &Lab, expected: &[&str], change: impl FnOnce(&mut Value)) -> Vec<Value> {
    file_case(lab, expected, &lab.path("var/vms.json"), |path| {
        let mut all: Value = serde_json::from_str(&read(path)).unwrap();
        change(&mut all);
        write(path, &all.to_string());
    })
}

/// A line added to a file.
pub fn append(line: &'static str) -> impl FnOnce(&Path) {
    move |path| write(path, &format!("{}{line}\n", read(path)))
}

pub fn replace(old: &'static str, new: &'static str) -> impl FnOnce(&Path) {
    move |path| {
        let text = read(path);
        assert!(text.contains(old), "{old} is not in {text}");
        write(path, &text.replace(old, new));
    }
}

pub fn directory_of(lab: &Lab, name: &str) -> PathBuf {
    lab.path(format!("var/terraform/vms/{name}"))
}
