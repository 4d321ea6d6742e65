//! No space left: at each write of ours, and a small real file system on which terraform cannot write either.

use crate::create_sweep::REFERENCE;
use crate::site::{Ended, Site, WALLET, last_that_fails, run, sweep};
use std::process::Command;

/// How many writes a command makes: with a disk that is full from the next one on it succeeds.
fn failing_writes(command: impl Fn(&Site) -> Command, prepare: impl Fn(&Site)) -> Vec<usize> {
    let fails = |n: usize| {
        let site = Site::new();
        prepare(&site);
        run(command(&site).env("BLOCKHOST_FAULT", format!("enospc@{n}"))).code != Some(0)
    };
    (1..=last_that_fails(fails)).collect()
}

#[track_caller]
fn says_no_space(error: &str, site: &Site) {
    assert!(error.contains("No space left on device"), "{error}");
    assert!(error.contains(&format!("{}/", site.lab().dir().display())), "no file is named: {error}");
}

#[test]
fn h05_h14_a_full_disk_at_any_write_of_create_is_told_and_undone() {
    let writes = failing_writes(|site| site.create("web-1"), |_| {});
    assert!(writes.len() > 10, "{writes:?}");
    sweep(&writes, |n| {
        let site = Site::new();
        let error = run(site.create("web-1").env("BLOCKHOST_FAULT", format!("enospc@{n}"))).failed();
        says_no_space(&error, &site);
        let _whole = site.database();
        let result = site.created("web-1").result();
        assert_eq!(result["vmid"], 100);
        site.world().must_be(&REFERENCE.web_1, "after a create with space");
    });
}

#[test]
fn h09_h14_a_full_disk_at_any_write_of_destroy_is_told_and_a_rerun_completes() {
    let prepare = |site: &Site| {
        site.created("web-1");
    };
    let writes = failing_writes(|site| site.destroy("web-1"), prepare);
    sweep(&writes, |n| {
        let site = Site::new();
        prepare(&site);
        let error = run(site.destroy("web-1").env("BLOCKHOST_FAULT", format!("enospc@{n}"))).failed();
        says_no_space(&error, &site);
        assert_eq!(site.database()["vms"]["web-1"]["status"], "active");
        site.destroyed("web-1");
        site.world().must_be(&REFERENCE.web_1_destroyed, "after a destroy with space");
    });
}

/// Runs `$@` with a state folder of 1 MiB of which only `$LEFT` KiB are free, then again with space.
const SMALL_DISK: &str = r#"
set -e
cd "$LAB_DIR"
mkdir real
mount --bind var real
mount -t tmpfs -o size=1m,mode=755 tmpfs var
cp -a real/. var/
cd var
avail=$(df --output=avail -k . | tail -1)
dd if=/dev/zero of=filler bs=1k count=$((avail - LEFT)) 2>/dev/null
code=0
"$@" >"$LAB_DIR/first.out" 2>"$LAB_DIR/first.err" || code=$?
echo $code >"$LAB_DIR/first.code"
cp vms.json "$LAB_DIR/first.vms.json"
rm filler
code=0
"$@" >"$LAB_DIR/second.out" 2>"$LAB_DIR/second.err" || code=$?
echo $code >"$LAB_DIR/second.code"
cd ..
rm -rf real/* real/.[!.]*
cp -a var/. real/
umount var
umount real
rmdir real
"#;

fn may_mount() -> bool {
    let tried =
        Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Both runs: with `left` KiB of space, then with space again.
fn on_a_small_disk(site: &Site, left: u32, command: &[&str]) -> (Ended, Ended) {
    let mut shell = site.lab().tool("unshare");
    shell.args(["-m", "sh", "-c", SMALL_DISK, "sh"]).args(command).env("LEFT", left.to_string());
    run(&mut shell).ok();
    let read = |file: &str| std::fs::read_to_string(site.path(file)).unwrap();
    let ended = |which: &str| {
        let ended = Ended {
            code: read(&format!("{which}.code")).trim().parse().ok(),
            signal: None,
            out: read(&format!("{which}.out")),
            err: read(&format!("{which}.err")),
        };
        for file in ["code", "out", "err"] {
            std::fs::remove_file(site.path(&format!("{which}.{file}"))).unwrap();
        }
        ended
    };
    let both = (ended("first"), ended("second"));
    let vms = std::fs::read_to_string(site.path("first.vms.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&vms).unwrap();
    both
}

#[test]
fn h05_h14_h52_a_create_on_a_full_file_system_succeeds_once_there_is_space() {
    if !may_mount() {
        eprintln!("not shown: this needs the right to mount");
        return;
    }
    let command =
        ["blockhost-vm-create", "web-1", "--owner-wallet", WALLET, "--expiry-days", "30", "--apply"];
    let spaces = [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48];
    let failed: Vec<bool> = spaces
        .iter()
        .map(|left| {
            let site = Site::new();
            let (first, second) = on_a_small_disk(&site, *left, &command);
            let has_failed = first.code != Some(0);
            if has_failed {
                let error = first.failed();
                assert!(error.to_lowercase().contains("no space left"), "{left} KiB: {error}");
                second.ok().result();
            } else {
                second.failed();
            }
            site.world().must_be(&REFERENCE.web_1, &format!("after {left} KiB were free at first"));
            has_failed
        })
        .collect();
    let failures = failed.iter().filter(|f| **f).count();
    assert!(failures > 3 && failures < spaces.len(), "no space decides nothing: {failed:?}");
}
