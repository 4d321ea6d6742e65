//! The units of the package: systemd has no complaint about them, and they say what the installer's contract says.

use crate::support::read;
use lab::Lab;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNITS: [&str; 3] = ["blockhost-gc.service", "blockhost-gc.timer", "blockhost-reapply.service"];

fn unit(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("debian").join(name);
    let text = read(&path);
    (path, text)
}

/// What `systemd-analyze verify` says about copies of these texts; `None` where there is no such program. Its exit
/// code proves nothing, and it complains about programs that are not installed: a copy names one that is.
fn complaints(texts: &[(&str, String)]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.arg("verify");
    for (name, text) in texts {
        let path = folder.path().join(name);
        let text: String = text
            .lines()
            .map(|line| match line.strip_prefix("ExecStart=") {
                Some(words) => {
                    format!("ExecStart=/bin/true {}\n", words.split_once(' ').map_or("", |(_, rest)| rest))
                }
                None => format!("{line}\n"),
            })
            .collect();
        std::fs::write(&path, text).unwrap();
        command.arg(path);
    }
    match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(String::from_utf8_lossy(&other.unwrap().stderr).into_owned()),
    }
}

#[test]
fn systemd_has_no_complaint() {
    let texts: Vec<(&str, String)> = UNITS.iter().map(|name| (*name, unit(name).1)).collect();
    let Some(said) = complaints(&texts) else {
        println!("skipped: there is no systemd-analyze here");
        return;
    };
    assert_eq!(said, "");
    // It would complain.
    let typo = texts[0].1.replace("ProtectSystem=", "ProtectSytem=");
    assert!(complaints(&[(UNITS[0], typo)]).unwrap().contains("ProtectSytem"));
}

/// A tool of systemd's, and what it prints; `None` where there is none.
fn analyze(words: &[&str]) -> Option<String> {
    match Command::new("systemd-analyze").args(words).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(String::from_utf8_lossy(&other.unwrap().stdout).into_owned()),
    }
}

#[test]
fn the_services_are_exposed_little() {
    for name in ["blockhost-gc.service", "blockhost-reapply.service"] {
        let (path, _) = unit(name);
        let Some(text) = analyze(&["security", "--offline=true", "--no-pager", path.to_str().unwrap()])
        else {
            println!("skipped: there is no systemd-analyze here");
            return;
        };
        let level = text.split("Overall exposure level for").nth(1).and_then(|rest| rest.split(": ").nth(1));
        let level: f32 = level.unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(level <= 2.0, "{name}: {level}\n{text}");
    }
}

/// The system calls of a set of systemd's, sets within it included.
fn allowed(set: &str) -> BTreeSet<String> {
    let text = analyze(&["syscall-filter", set]).unwrap();
    let words = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    words
        .flat_map(|word| if word.starts_with('@') { allowed(word) } else { [word.to_string()].into() })
        .collect()
}

/// The system calls of a command and all its children, failed ones too.
fn calls(lab: &Lab, command: &str, words: &[&str]) -> BTreeSet<String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let plain = lab.command(command);
    let environment = plain.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
    let mut traced = Command::new("strace");
    traced.env_clear().envs(environment.collect::<Vec<_>>()).args(["-f", "-qq", "-o"]).arg(log.path());
    let done = traced.arg(plain.get_program()).args(words).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let text = read(log.path());
    let names = text.lines().filter_map(|line| {
        let call = line.split_once(' ')?.1.trim_start();
        let name = call
            .strip_prefix("<... ")
            .map_or_else(|| call.split('(').next(), |rest| rest.split(' ').next())?;
        (!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
            .then(|| name.to_string())
    });
    names.collect()
}

#[test]
fn gc_reapply_and_terraform_make_no_system_call_that_the_services_forbid() {
    for name in ["blockhost-gc.service", "blockhost-reapply.service"] {
        assert_eq!(values(&unit(name).1, "SystemCallFilter"), ["@system-service"]);
    }
    if analyze(&["--version"]).is_none() {
        println!("skipped: there is no systemd-analyze here");
        return;
    }
    let lab = Lab::builder().start().unwrap();
    // A create runs terraform and its provider; gc suspends, and destroys what is over.
    let mut made =
        calls(&lab, "blockhost-vm-create", &["web-1", "--no-web3", "--expiry-days", "0", "--apply"]);
    made.extend(calls(&lab, "blockhost-provisioner-reapply", &[]));
    made.extend(calls(&lab, "blockhost-vm-gc", &["--execute", "--accept-share", "--grace-days", "0"]));
    assert!(
        ["openat", "execve", "flock", "connect", "futex"].iter().all(|call| made.contains(*call)),
        "{made:?}"
    );
    let allowed = allowed("@system-service");
    assert!(allowed.contains("flock") && !allowed.contains("mount"));
    let forbidden: Vec<_> = made.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// The values of a key, in order.
fn values(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_string).collect()
}

#[test]
fn the_services_run_as_blockhost_in_a_sandbox_that_leaves_them_what_they_need() {
    for (name, command) in [
        ("blockhost-gc.service", "/usr/bin/blockhost-vm-gc --execute"),
        ("blockhost-reapply.service", "/usr/bin/blockhost-provisioner-reapply"),
    ] {
        let (path, text) = unit(name);
        for (key, value) in [
            ("Type", "oneshot"),
            ("User", "blockhost"),
            ("Group", "blockhost"),
            ("ExecStart", command),
            ("ReadWritePaths", "/var/lib/blockhost -/run/blockhost"),
            ("ProtectSystem", "strict"),
            ("NoNewPrivileges", "yes"),
            ("PrivateTmp", "yes"),
        ] {
            assert_eq!(values(&text, key), [value], "{key} of {}", path.display());
        }
    }
    let (_, reapply) = unit("blockhost-reapply.service");
    let after = values(&reapply, "After").join(" ");
    assert!(
        ["pve-guests.service", "blockhost-root-agent.service"].iter().all(|unit| after.contains(unit)),
        "{after}"
    );
    assert_eq!(values(&reapply, "WantedBy"), ["multi-user.target"]);
}

#[test]
fn the_timer_fires_at_two_within_half_an_hour_and_makes_up_for_a_night_that_was_missed() {
    let (_, timer) = unit("blockhost-gc.timer");
    for (key, value) in
        [("RandomizedDelaySec", "30min"), ("Persistent", "true"), ("WantedBy", "timers.target")]
    {
        assert_eq!(values(&timer, key), [value], "{key}");
    }
    assert_eq!(values(&timer, "OnCalendar"), ["*-*-* 02:00:00"]);
}
