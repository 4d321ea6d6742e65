//! A pipe, a device or a file without end where a file is read: refused at once and by name (hazard H23).

use crate::support::{create, run, vm, with_key};
use lab::Lab;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A thing that can stand in a file's place, and what makes it there.
type Kind = (&'static str, fn(&Path));

const KINDS: [Kind; 3] = [
    ("pipe", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
    ("device", |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
    ("huge", |path| std::fs::File::create(path).unwrap().set_len(1 << 42).unwrap()),
];

/// Every file below the lab's configuration and state that the commands open, by a trace of the system calls of real
/// runs, so that a new one is found by itself.
fn files_read(lab: &Lab) -> Vec<PathBuf> {
    let trace = lab.path("trace");
    let mut found = std::collections::BTreeSet::new();
    for (verb, arguments) in [
        ("list", vec![]),
        ("status", vec!["web-1"]),
        ("create", vec!["web-2", "--owner-wallet", crate::support::WALLET, "--apply"]),
        ("gc", vec!["--execute"]),
        ("destroy", vec!["web-2"]),
    ] {
        let own = lab.command(&format!("blockhost-vm-{verb}"));
        let mut traced = Command::new("strace");
        traced.args(["-qq", "-e", "trace=openat,open", "-e", "signal=none", "-s", "400", "-o"]).arg(&trace);
        traced.arg(own.get_program()).args(arguments);
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => traced.env(name, value),
                None => traced.env_remove(name),
            };
        }
        run(&mut traced).ok();
        let text = std::fs::read_to_string(&trace).unwrap();
        for line in text.lines().filter(|line| !line.contains("O_DIRECTORY") && line.contains(", O_R")) {
            let Some(path) = line.split('"').nth(1).map(PathBuf::from) else { continue };
            if !line.contains(".blockhost-")
                && ["etc", "var", "run"].iter().any(|folder| path.starts_with(lab.path(folder)))
            {
                found.insert(path);
            }
        }
    }
    found.into_iter().collect()
}

#[test]
fn h23_whatever_stands_in_the_place_of_a_file_we_read_is_refused_at_once() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "web-1", &[]).ok();
    let files = files_read(&lab);
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    for known in ["db.yaml", "vms.json", "terraform.tfvars", "web-2.json", "web-2.lock"] {
        assert!(names.iter().any(|name| name.ends_with(known)), "{known} was not seen: {names:?}");
    }
    for path in &files {
        for (kind, make) in KINDS {
            let aside = lab.path("aside");
            let there = path.exists();
            if there {
                std::fs::rename(path, &aside).unwrap();
            } else if !path.parent().unwrap().is_dir() {
                continue;
            }
            make(path);
            for (verb, arguments) in [
                ("list", vec![]),
                ("create", vec!["web-2"]),
                ("destroy", vec!["web-2"]),
                ("gc", vec![]),
                ("stop", vec!["web-1"]),
                ("start", vec!["web-1"]),
            ] {
                let began = Instant::now();
                let ended = vm(&lab, verb, &arguments);
                let took = began.elapsed();
                let shown = path.display();
                assert!(
                    took < Duration::from_secs(30),
                    "{verb} with a {kind} at {shown} took {took:?}: {ended:?}"
                );
                assert!(!ended.err.contains("panicked"), "{verb} with a {kind} at {shown}: {ended:?}");
            }
            std::fs::remove_file(path).ok();
            if there {
                std::fs::rename(&aside, path).unwrap();
            }
        }
    }
}

#[test]
fn h18_a_ticket_of_any_name_stops_no_create() {
    let lab = with_key(Lab::builder().start().unwrap());
    let queue = lab.path("run/creates");
    std::fs::create_dir_all(&queue).unwrap();
    for name in
        ["18446744073709551615", "18446744073709551614", "007", "+5", "-1", "x", " 3", "9223372036854775808"]
    {
        std::fs::write(queue.join(name), "1 somebody\n").unwrap();
    }
    assert!(Command::new("mkfifo").arg(queue.join("2")).status().unwrap().success());
    std::fs::create_dir(queue.join("3")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", queue.join("4")).unwrap();
    for name in ["web-1", "web-2"] {
        create(&lab, name, &[]).result();
    }
    assert!(queue.join("007").exists(), "what is no ticket is not ours to remove");
}
