//! Terraform's directory and the database outside of the state directory: the services' drop-ins, and the commands
//! where a directory cannot be written, as in the services' sandbox.

use super::bare::{Bare, WALLET, fails};
use lab::Lab;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNITS: [&str; 2] = ["blockhost-gc.service", "blockhost-reapply.service"];

fn drop_in(bare: &Bare, unit: &str) -> PathBuf {
    bare.0.path(format!("etc/systemd/system/{unit}.d/blockhost-paths.conf"))
}

#[track_caller]
fn paths(bare: &Bare) -> Vec<String> {
    let texts = UNITS.map(|unit| fs::read_to_string(drop_in(bare, unit)).unwrap());
    assert_eq!(texts[0], texts[1]);
    let lines =
        texts[0].lines().filter_map(|line| line.strip_prefix("ReadWritePaths=\"-")?.strip_suffix('"'));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_directory_elsewhere_is_added_to_the_services_and_taken_away_again() {
    let bare = Bare::without_provider();
    bare.ok("db_config");
    assert!(!bare.0.path("etc/systemd").exists(), "nothing is needed for the usual places");
    let folder = bare.0.path("srv/terra form 100%");
    fs::create_dir_all(bare.0.path("srv/data base")).unwrap();
    fs::write(bare.0.path("srv/data base/vms.json"), "{\"vms\": {}}\n").unwrap();
    let yaml = bare.text("etc/blockhost/db.yaml");
    let yaml: String =
        yaml.lines().filter(|line| !line.starts_with("db_file")).map(|l| format!("{l}\n")).collect();
    let database = format!("db_file: {}\n{yaml}", json!(bare.0.path("srv/data base/vms.json")));
    fs::write(bare.0.path("etc/blockhost/db.yaml"), database).unwrap();
    let mut answers = bare.answers();
    answers["terraform_dir"] = json!(folder);
    let answer = bare.step("db_config", &answers);
    assert_eq!(answer["ok"], true, "{answer}");
    let real = |name: &str| bare.0.path("srv").canonicalize().unwrap().join(name).display().to_string();
    assert_eq!(paths(&bare), [real("terra form 100%%"), real("data base")]);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(drop_in(&bare, UNITS[0])).unwrap());
    assert_eq!(mode & 0o777, 0o644);
    systemd_has_no_complaint(&bare);

    // A drop-in of the administrator's stays, ours goes.
    let theirs = drop_in(&bare, UNITS[0]).with_file_name("override.conf");
    fs::write(&theirs, "[Service]\nNice=5\n").unwrap();
    fs::remove_file(bare.0.path("srv/data base/vms.json")).unwrap();
    bare.ok("db_config");
    assert!(theirs.exists());
    assert!(UNITS.iter().all(|unit| !drop_in(&bare, unit).exists()));
    assert!(!drop_in(&bare, UNITS[1]).parent().unwrap().exists());
}

/// `systemd-analyze verify` of the packaged unit with its drop-in; it would complain about a path that is none.
fn systemd_has_no_complaint(bare: &Bare) {
    let units = bare.0.path("etc/systemd/system");
    let debian = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../debian");
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.arg("verify").args(UNITS.map(|unit| units.join(unit)));
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            other => Some(String::from_utf8_lossy(&other.unwrap().stderr).into_owned()),
        }
    };
    for unit in UNITS {
        let text = fs::read_to_string(debian.join(unit)).unwrap();
        let line = |line: &str| {
            let line = if line.starts_with("ExecStart=") { "ExecStart=/bin/true" } else { line };
            format!("{line}\n")
        };
        fs::write(units.join(unit), text.lines().map(line).collect::<String>()).unwrap();
    }
    let Some(said) = verify() else {
        println!("skipped: there is no systemd-analyze here");
        return;
    };
    assert_eq!(said, "");
    let path = drop_in(bare, UNITS[0]);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"-/", "\"-")).unwrap();
    assert!(verify().unwrap().contains("blockhost-paths.conf"), "it reads the drop-in");
    fs::write(&path, text).unwrap();
}

#[test]
fn step_terraform_adds_the_new_directory_and_keeps_the_one_in_use() {
    let bare = Bare::new();
    let old = bare.0.path("srv/old");
    fs::create_dir_all(&old).unwrap();
    fs::rename(bare.0.path("var/terraform"), old.join("tf")).unwrap();
    let mut answers = bare.answers();
    answers["terraform_dir"] = json!(old.join("tf"));
    for step in ["token", "terraform", "db_config"] {
        let answer = bare.step(step, &answers);
        assert_eq!(answer["ok"], true, "{step}: {answer}");
    }
    let real = bare.0.path("srv").canonicalize().unwrap();
    let shown = |name: &str| real.join(name).display().to_string();
    assert_eq!(paths(&bare), [shown("old/tf")]);
    // Moved: until db_config has named the new one, gc works in the old one.
    let new = bare.0.path("srv/new");
    fs::create_dir(&new).unwrap();
    fs::copy(old.join("tf/provider.tf.json"), new.join("provider.tf.json")).unwrap();
    answers["terraform_dir"] = json!(new);
    let answer = bare.step("terraform", &answers);
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(paths(&bare), [shown("new"), shown("old/tf")]);
    let answer = bare.step("db_config", &answers);
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(paths(&bare), [shown("new")]);
}

#[test]
fn what_the_services_cannot_see_is_refused_before_anything_is_done() {
    let bare = Bare::without_provider();
    let before = bare.access();
    let mut answers = bare.answers();
    for (folder, why) in [("/tmp/tf", "PrivateTmp=yes"), ("/home/blockhost/tf", "ProtectHome=yes")] {
        answers["terraform_dir"] = json!(folder);
        for step in ["token", "terraform", "db_config"] {
            fails(&bare.step(step, &answers), &["terraform_dir of the wizard's answers", folder, why]);
        }
        assert!(!Path::new(folder).exists());
    }
    assert!(!bare.0.path("etc/blockhost/db.yaml").exists() && bare.access() == before);
    // By way of a link.
    std::os::unix::fs::symlink("/home", bare.0.path("srv")).unwrap();
    answers["terraform_dir"] = json!(bare.0.path("srv/tf"));
    fails(&bare.step("terraform", &answers), &["it leads to /home/tf", "ProtectHome=yes"]);
    // The database of an installed host.
    let elsewhere = tempfile::tempdir_in("/tmp").unwrap();
    let database = elsewhere.path().join("vms.json");
    fs::write(&database, "{\"vms\": {}}\n").unwrap();
    let text = format!("db_file: {}\n", database.display());
    fs::write(bare.0.path("etc/blockhost/db.yaml"), &text).unwrap();
    fails(&bare.step("db_config", &bare.answers()), &["db.yaml: db_file", "below /tmp", "PrivateTmp=yes"]);
    assert_eq!(bare.text("etc/blockhost/db.yaml"), text);
    assert!(!bare.0.path("etc/systemd").exists());
}

/// A command in which this directory is read-only, as in the services' sandbox.
fn with_read_only(lab: &Lab, folder: &Path, command: &str, words: &[&str]) -> Output {
    let plain = lab.command(command);
    let environment: Vec<_> =
        plain.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
    let mut sandboxed = Command::new("unshare");
    sandboxed.env_clear().envs(environment).args(["--mount", "sh", "-ec"]);
    sandboxed
        .arg("mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; shift; exec \"$@\"")
        .arg("sh");
    sandboxed.arg(folder).arg(plain.get_program()).args(words).output().unwrap()
}

#[test]
fn a_directory_that_cannot_be_written_is_found_out_before_anything_is_done() {
    for (key, folder) in [("terraform_dir", "srv/tf"), ("terraform_dir", "srv/tf/vms"), ("db_file", "srv/db")]
    {
        let lab = Lab::builder().start().unwrap();
        fs::create_dir_all(lab.path("srv/db")).unwrap();
        fs::rename(lab.path("var/terraform"), lab.path("srv/tf")).unwrap();
        fs::rename(lab.path("var/vms.json"), lab.path("srv/db/vms.json")).unwrap();
        let yaml = fs::read_to_string(lab.path("etc/blockhost/db.yaml")).unwrap();
        let others = yaml.lines().filter(|l| !l.starts_with("terraform_dir") && !l.starts_with("db_file"));
        let mut yaml: String = others.map(|line| format!("{line}\n")).collect();
        yaml.push_str(&format!(
            "terraform_dir: {}\ndb_file: {}\n",
            lab.path("srv/tf").display(),
            lab.path("srv/db/vms.json").display()
        ));
        fs::write(lab.path("etc/blockhost/db.yaml"), yaml).unwrap();
        let made = lab
            .command("blockhost-vm-create")
            .args(["web-1", "--owner-wallet", WALLET, "--expiry-days", "0", "--apply"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let read = |file: &str| fs::read_to_string(lab.path(file)).unwrap();
        let before = (lab.control().snapshot().unwrap(), read("srv/db/vms.json"));
        for (command, words) in [
            ("blockhost-vm-gc", &["--execute", "--accept-share"][..]),
            ("blockhost-vm-create", &["web-2", "--owner-wallet", WALLET, "--apply"]),
            ("blockhost-vm-destroy", &["web-1"]),
        ] {
            let done = with_read_only(&lab, &lab.path(folder), command, words);
            let said = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.code(), Some(1), "{command}: {said}");
            let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error:")).collect();
            assert_eq!(errors.len(), 1, "{command}: {said}");
            let shown = format!("db.yaml: {key}: directory {} is not writable", lab.path(folder).display());
            for part in [
                shown.as_str(),
                "Read-only file system",
                "nothing was done",
                "blockhost-provisioner-setup db_config",
            ] {
                assert!(errors[0].contains(part), "{command}: {part}: {said}");
            }
            assert_eq!((lab.control().snapshot().unwrap(), read("srv/db/vms.json")), before, "{command}");
            assert_eq!(journal_entries(&lab), 0, "{command}");
        }
        // A preview and a dry run write nothing (H42).
        for (command, words) in [
            ("blockhost-vm-create", &["web-2", "--owner-wallet", WALLET][..]),
            ("blockhost-vm-gc", &["--accept-share"]),
        ] {
            let done = with_read_only(&lab, &lab.path(folder), command, words);
            assert!(done.status.success(), "{done:?}");
        }
        // And with its rights back, gc does its work.
        let done = lab.command("blockhost-vm-gc").args(["--execute", "--accept-share"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let database: Value = serde_json::from_str(&read("srv/db/vms.json")).unwrap();
        assert_eq!(database["vms"]["web-1"]["status"], "suspended");
    }
}

fn journal_entries(lab: &Lab) -> usize {
    let entries = fs::read_dir(lab.path("var/journal")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".json")).count()
}
