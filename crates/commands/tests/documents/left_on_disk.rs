//! `doc/files.md` has every file that is left on disk, and no other: by the names in the code, and by what the life of a
//! VM leaves in a lab.

use crate::pages::{Words, all, marked, product, read, rows};
use crate::{project, texts};
use regex_lite::Regex;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// A path of the page, with the mode it is to have, where the page says one.
struct Described {
    path: String,
    mode: Option<u32>,
}

fn described() -> Vec<Described> {
    let page = read("doc/files.md");
    let mut found = Vec::new();
    for row in rows(&page, &["path", "what"]) {
        let mode = row.get(2).and_then(|cell| u32::from_str_radix(cell.get(..4)?, 8).ok());
        found.extend(marked(&row[0]).into_iter().map(|path| Described { path, mode }));
    }
    for row in rows(&page, &["file", "mode"]) {
        let mode = u32::from_str_radix(&row[1], 8).ok();
        let paths = marked(&row[0]).into_iter().map(|name| format!("<terraform_dir>/vms/NAME/{name}"));
        found.extend(paths.map(|path| Described { path, mode }));
    }
    assert!(found.len() > 50, "{}", found.len());
    found
}

/// A described path as a pattern: words in capitals stand for a value.
fn pattern(path: &str) -> Regex {
    let quoted = Regex::new(r"[.+]").unwrap().replace_all(path.trim_end_matches('/'), r"\$0");
    let with_values = Regex::new(r"[A-Z]{2,}").unwrap().replace_all(&quoted, "[^/]+");
    Regex::new(&format!("^{with_values}$")).unwrap()
}

/// Names that the code joins to a path and that are no files of ours: those of the kernel, of Proxmox, of terraform's
/// directories, of a person's home, and of what other packages ship.
const NOT_OURS: [&str; 15] = [
    "upper_ovs-system",
    "sys/class/net",
    "master",
    "brport/isolated",
    "etc/pve/qemu-server",
    "wireless",
    "phy80211",
    "cmdline",
    "cwd",
    ".ssh",
    "cloud-init/templates",
    "template-packages",
    "nodesource.sources",
    ".terraform/providers",
    "root-agent.sock",
];

/// Names that the code joins to a directory, or asks of the configuration, and that no page has.
fn undescribed(source: &str, known: &Words) -> Vec<String> {
    let mut names = all(r#"\.join\("([A-Za-z.][A-Za-z0-9._/-]+)"\)"#, source);
    names.extend(all(r#"\.join\(format!\("([A-Za-z.][A-Za-z.-]+)\{"#, source));
    names.extend(all(r#"(?:config|configuration)_file\("([^"]+)"\)"#, source));
    names.retain(|name| !NOT_OURS.contains(&name.as_str()));
    let parts = names.into_iter().flat_map(|name| name.split('/').map(str::to_string).collect::<Vec<_>>());
    parts
        .filter(|part| {
            !known.iter().any(|word| word == part || part.ends_with('-') && word.starts_with(part))
        })
        .collect()
}

#[test]
fn every_file_that_the_code_names_is_on_a_page() {
    let known: Words = ["doc/files.md", "doc/configuration.md"]
        .iter()
        .flat_map(|page| marked(&read(page).replace("```", "")))
        .flat_map(|path| path.split('/').map(str::to_string).collect::<Vec<_>>())
        .collect();
    let source = product();
    let stale: Vec<_> = NOT_OURS.iter().filter(|name| !source.contains(&format!("\"{name}\""))).collect();
    assert!(stale.is_empty(), "{stale:?}");
    let missing = undescribed(&source, &known);
    assert!(missing.is_empty(), "neither in doc/files.md nor in doc/configuration.md: {missing:?}");
    let new = r#"host.state_dir.join("figures").join("a.json"); x.join(format!("tf-{:x}", 1)); y.join(", ")"#;
    assert_eq!(undescribed(new, &known), ["a.json", "figures"]);
}

/// The parts of a described path that no source has.
fn unheard_of(path: &str, source: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !part.starts_with('<'));
    let capitals = Regex::new(r"[A-Z]{2,}").unwrap();
    let fixed = parts.flat_map(|part| capitals.split(part).map(str::to_string).collect::<Vec<_>>());
    // A lock is beside its file, a drop-in in a directory beside its unit.
    let known = |part: &str| {
        [part, part.trim_end_matches(".lock"), part.trim_end_matches(".d")].iter().any(|p| source.contains(p))
    };
    fixed.filter(|part| part.len() > 1 && !known(part)).collect()
}

#[test]
fn no_file_is_on_the_page_that_no_source_has() {
    let source = product() + &read("provisioner-hooks/first-boot.sh") + &read("root-agent-actions/qm.py");
    for Described { path, .. } in described() {
        // The shell's form of the markers.
        let path = path.replace(".step-", ".step-/");
        let unheard = unheard_of(&path, &source);
        assert!(unheard.is_empty(), "{path}: no source has {unheard:?}");
    }
    assert_eq!(unheard_of("/var/lib/blockhost/chronicles/NAME.scrap", &source), ["chronicles", ".scrap"]);
}

#[test]
fn the_page_has_what_project_yaml_lists() {
    let described = described();
    let files = &project()["files"];
    for list in [
        "written",
        "written_for_the_template",
        "written_by_setup",
        "written_for_older_vms",
        "written_with_mock",
    ] {
        for path in texts(&files[list]) {
            let there = described.iter().any(|d| d.path.starts_with(&path));
            assert!(there, "doc/files.md lacks {path}, which PROJECT.yaml has");
        }
    }
}

/// Files and directories below `folder`, as a host would have them.
fn found_in(lab: &Path, prefix: &str, folder: &Path, found: &mut Vec<(String, u32, bool)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let below = path.strip_prefix(lab).unwrap().to_str().unwrap().to_string();
        let data = path.symlink_metadata().unwrap();
        let shown = format!(
            "{prefix}/{}",
            path.strip_prefix(lab.join(below.split('/').next().unwrap())).unwrap().display()
        );
        let shown = shown.replace("/var/lib/blockhost/terraform", "<terraform_dir>");
        let mode = if data.is_symlink() { 0 } else { data.permissions().mode() & 0o777 };
        found.push((shown, mode, data.is_dir()));
        if data.is_dir() {
            found_in(lab, prefix, &path, found);
        }
    }
}

/// What is on disk and not on the page, or has another mode than it says.
fn surprises(found: &[(String, u32, bool)], described: &[Described]) -> Vec<String> {
    let described: Vec<(Regex, Option<u32>, bool)> =
        described.iter().map(|d| (pattern(&d.path), d.mode, d.path.ends_with('/'))).collect();
    let one = |(path, mode, is_directory): &(String, u32, bool)| {
        let here: Vec<_> = described.iter().filter(|(pattern, ..)| pattern.is_match(path)).collect();
        let inside = described.iter().any(|(pattern, _, whole)| {
            *whole
                && Path::new(path).ancestors().skip(1).any(|above| pattern.is_match(&above.to_string_lossy()))
                && !path.starts_with("<terraform_dir>/vms/")
        });
        // A directory that only holds described files needs no line of its own.
        if here.is_empty() && !inside && !is_directory {
            return Some(format!("{path} is not described"));
        }
        let expected: Vec<u32> = here.iter().filter_map(|(_, mode, _)| *mode).collect();
        let right = *mode == 0 || expected.is_empty() || expected.contains(mode);
        (!right).then(|| format!("{path} has mode {mode:o}, not {:o}", expected[0]))
    };
    found.iter().filter_map(one).collect()
}

fn run(lab: &lab::Lab, name: &str, arguments: &[&str]) -> Output {
    let mut command: Command = lab.command(name);
    command.args(arguments).output().unwrap()
}

#[test]
fn what_the_life_of_a_vm_leaves_on_disk_is_on_the_page() {
    let lab = lab::Lab::builder().start().unwrap();
    let all = || {
        let mut found = Vec::new();
        found_in(lab.dir(), "/var/lib/blockhost", &lab.dir().join("var"), &mut found);
        found_in(lab.dir(), "/run/blockhost", &lab.dir().join("run"), &mut found);
        found
    };
    let of_the_lab: BTreeSet<String> = all().into_iter().map(|(path, ..)| path).collect();
    let mut found = Vec::new();
    let mut look = || found.extend(all().into_iter().filter(|(path, ..)| !of_the_lab.contains(path)));
    let create = |name: &str| vec![name.to_string(), "--no-web3".into(), "--apply".into()];
    let created = lab.command("blockhost-vm-create").args(create("web-1")).output().unwrap();
    assert!(created.status.success(), "{created:?}");
    look();
    let killed = lab
        .command("blockhost-vm-create")
        .args(create("web-2"))
        .env("BLOCKHOST_FAULT", "kill@create.applied")
        .output();
    assert!(!killed.unwrap().status.success());
    look();
    let again = lab.command("blockhost-vm-create").args(create("web-2")).output().unwrap();
    assert!(again.status.success(), "{again:?}");
    assert!(run(&lab, "blockhost-vm-gc", &["--execute"]).status.success());
    look();
    for name in ["web-1", "web-2"] {
        assert!(run(&lab, "blockhost-vm-destroy", &[name]).status.success());
    }
    look();
    let described = described();
    let surprises = surprises(&found, &described);
    assert!(surprises.is_empty(), "{surprises:#?}");
    for expected in ["journal/web-2.json", "audit/", "failed/", "withheld/", "gc-last-run.json"] {
        assert!(found.iter().any(|(path, ..)| path.contains(expected)), "{expected} was not seen: {found:?}");
    }
    let seen = found.iter().any(|(path, ..)| path == "<terraform_dir>/vms/web-1/record.json");
    assert!(seen, "{found:?}");
}

#[test]
fn a_file_that_is_not_described_or_has_another_mode_is_found() {
    let described = described();
    let file = |path: &str, mode| (path.to_string(), mode, false);
    let good = [
        file("/var/lib/blockhost/journal/web-1.json", 0o640),
        file("/run/blockhost/creates/00000000000000000001", 0o660),
        file("<terraform_dir>/vms/web-1/web-1.tf.json", 0o640),
    ];
    assert_eq!(surprises(&good, &described), Vec::<String>::new());
    let bad = [
        file("/var/lib/blockhost/metrics.json", 0o640),
        file("/var/lib/blockhost/journal/web-1.json", 0o644),
        file("<terraform_dir>/vms/web-1/other", 0o640),
    ];
    assert_eq!(surprises(&bad, &described).len(), 3);
}
