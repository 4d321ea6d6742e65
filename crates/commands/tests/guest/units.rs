//! The units of the package: systemd has no complaint about them, and they say what the installer's contract says.

use crate::support::read;
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
