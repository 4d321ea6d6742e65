//! README.md and `doc/` say what the code has and nothing else: settings, environment, flags, answers of the setup; and
//! their form: length, width, links.

use crate::references::anchors;
use crate::tree::root;
use crate::{executables, flags, help, project, run_help, texts};
use regex_lite::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub type Words = BTreeSet<String>;

/// The text of a file, by its path from the root.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The pages that people read, README.md and those of `doc/`: path and text.
fn pages() -> BTreeMap<String, String> {
    let doc = std::fs::read_dir(root().join("doc")).unwrap();
    let names = doc.map(|file| format!("doc/{}", file.unwrap().file_name().into_string().unwrap()));
    let pages: BTreeMap<_, _> =
        names.chain(["README.md".to_string()]).map(|path| (path.clone(), read(&path))).collect();
    assert!(pages.len() >= 10, "{:?}", pages.keys());
    pages
}

/// All Rust source of the product below `directory`, without its unit tests.
pub fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(directory)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!("{directory}/{name}");
        if root().join(&path).is_dir() {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            let text = read(&path);
            let product = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let without_comments =
                Regex::new(r"(?m)^\s*//.*$").unwrap().replace_all(product, "").into_owned();
            found.push((path, without_comments));
        }
    }
    found
}

/// The product's source in one text.
pub fn product() -> String {
    let all = ["crates/provisioner/src", "crates/commands/src"].iter().flat_map(|dir| sources(dir));
    all.map(|(_, text)| text).collect::<Vec<_>>().join("\n")
}

/// The first groups of all matches.
pub fn all(pattern: &str, text: &str) -> Words {
    Regex::new(pattern).unwrap().captures_iter(text).map(|c| c[1].to_string()).collect()
}

/// The words between back-ticks.
pub fn marked(text: &str) -> Words {
    all(r"`([^`]+)`", text)
}

/// A page's lines outside of blocks of code, by their numbers.
fn prose(page: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut lines = Vec::new();
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            inside = !inside;
        } else if !inside {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// The rows of all tables whose first headings are these.
pub fn rows(page: &str, headings: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.replace(r"\|", "\u{0}");
        let cells = line.trim().trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('\u{0}', "|")).collect()
    };
    let mut found = Vec::new();
    let mut wanted = None;
    for (_, line) in prose(page) {
        if !line.starts_with('|') {
            wanted = None;
        } else if let Some(is_wanted) = wanted {
            if is_wanted && !line.starts_with("|--") {
                found.push(cells(line));
            }
        } else {
            wanted = Some(cells(line).iter().zip(headings).all(|(cell, heading)| cell == heading));
        }
    }
    assert!(!found.is_empty(), "no table with {headings:?}");
    found
}

/// The marked words of one column.
fn column(page: &str, headings: &[&str], index: usize) -> Words {
    rows(page, headings).iter().flat_map(|row| marked(row.get(index).unwrap())).collect()
}

fn words(of: &[&str]) -> Words {
    of.iter().map(|word| word.to_string()).collect()
}

/// Words in settings.rs that look like a key and are none: file names, values, parts of keys, and fields of a record that
/// cannot be renamed.
const NO_KEYS: [&str; 31] = [
    "ipv6",
    "db.yaml",
    "vms.json",
    "terraform",
    "local",
    "blockhost",
    "full",
    "linked",
    "ip_pool",
    "start",
    "end",
    "terraform.tfvars",
    "provider.tf.json",
    "broker-allocation.json",
    "web3-defaults.yaml",
    "engine.json",
    "ipv6_address",
    "purpose",
    "wallet_address",
    "owner_wallet",
    "username",
    "network_mode",
    "smbios_uuid",
    "nft_token_id",
    "suspended_at",
    "destroyed_at",
    "protected",
    "pve-token",
    "pve-ca.pem",
    "network-modes.enabled",
    "nameserver",
];

/// The keys that a source text in the manner of settings.rs reads.
fn keys_read(source: &str) -> Words {
    let mut keys = all(r#""([a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*)""#, source);
    keys.retain(|key| !NO_KEYS.contains(&key.as_str()));
    for field in all(r#"\("([a-z_]+)", &mut names\."#, source) {
        assert!(keys.remove(&field));
        keys.insert(format!("fields.{field}"));
    }
    for parent in ["vmid_range", "vmid_pool"] {
        if keys.remove(parent) {
            keys.extend(["start", "end"].map(|end| format!("{parent}.{end}")));
        }
    }
    if keys.remove("provider.proxmox") && keys.remove("endpoint") {
        keys.insert("provider.proxmox.endpoint".into());
    }
    keys
}

#[test]
fn every_settings_key_is_in_the_configuration_page_and_no_other() {
    let files = ["/settings.rs", "/node_access.rs", "/side_files.rs"];
    let all = sources("crates/provisioner/src/store").into_iter();
    let source: String =
        all.filter(|(path, _)| files.iter().any(|file| path.ends_with(file))).map(|(_, text)| text).collect();
    let stale: Vec<_> = NO_KEYS.iter().filter(|word| !source.contains(&format!("\"{word}\""))).collect();
    assert!(stale.is_empty(), "{stale:?}");
    let read_keys = keys_read(&source);
    assert!(read_keys.len() > 40, "{read_keys:?}");
    let page = read("doc/configuration.md");
    let mut described = column(&page, &["key", "default", "values"], 0);
    described.extend(column(&page, &["file", "key"], 1));
    assert_eq!(described, read_keys);
}

#[test]
fn a_key_that_is_read_in_a_new_way_is_seen() {
    let keys = keys_read(
        r#"a: later("gc_colour")?, doc.text("x.y")?, ("vmid", &mut names.vmid), "local", "Not a key""#,
    );
    assert_eq!(keys, words(&["fields.vmid", "gc_colour", "x.y"]));
}

/// The variables that the product reads.
fn variables_read() -> Words {
    let text = product();
    let mut read_ones = all(r#"env::var(?:_os)?\(\s*"([A-Z][A-Z0-9_]*)""#, &text);
    read_ones.extend(all(r#"\benv = "([A-Z][A-Z0-9_]*)""#, &text));
    read_ones.extend(all(r#"\bdir\("([A-Z][A-Z0-9_]*)""#, &text));
    read_ones.extend(all(r#"\bvariable\("([A-Z][A-Z0-9_]*)""#, &text));
    // Two functions take the name from their callers, which are the last two forms.
    let by_name = Regex::new(r#"env::var(?:_os)?\(\s*[^"\s]"#).unwrap().find_iter(&text).count();
    assert_eq!(by_name, 2, "variables are read in a form that this test does not know");
    let hook = read("provisioner-hooks/first-boot.sh");
    read_ones.extend(all(r"(?m)^([A-Z_]+)=\$\{[A-Z_]+:-/", &hook));
    for path in ["root-agent-actions/qm.py", "python/blockhost/provisioner_proxmox/setup_command.py"] {
        assert!(!read(path).contains("getenv"), "{path} reads the environment");
    }
    read_ones
}

#[test]
fn every_environment_variable_is_in_the_configuration_page_and_no_other() {
    let read_ones = variables_read();
    assert_eq!(column(&read("doc/configuration.md"), &["variable", "default"], 0), read_ones);
    assert_eq!(texts(&project()["environment"]), read_ones, "environment of PROJECT.yaml");
    for (path, page) in pages() {
        let named = all(r"\b(BLOCKHOST_[A-Z_]+)", &page);
        // What create prints before its result.
        let unknown: Vec<_> =
            named.iter().filter(|word| !read_ones.contains(*word) && *word != "BLOCKHOST_RESULT").collect();
        assert!(unknown.is_empty(), "{path}: nobody reads {unknown:?}");
    }
}

const LONG_FLAG: &str = r"(?:^|[^A-Za-z0-9-])(--[a-z][a-z0-9-]*)";
/// Flags that every command has; the head of the page explains them.
const COMMON: [&str; 4] = ["--help", "--version", "--verbose", "--quiet"];
/// Flags of other programs that the pages mention.
const OF_OTHERS: [(&str, &str); 3] =
    [("--workspace", "cargo"), ("--release", "cargo"), ("--now", "systemctl")];

/// The part of a page below a heading, down to the next of its level.
fn section(page: &str, title: &str) -> Option<String> {
    let behind = page.split(&format!("\n## {title}\n")).nth(1)?;
    Some(behind.split("\n## ").next().unwrap().to_string())
}

/// What the page of commands lacks, or has too much of, for a command with these flags.
fn wrong_flags(page: &str, executable: &str, has: &Words) -> Vec<String> {
    let Some(section) = section(page, executable) else {
        return vec![format!("{executable} has no section")];
    };
    let common = words(&COMMON);
    let named = all(LONG_FLAG, &section);
    let missing = has.iter().filter(|flag| !named.contains(*flag) && !common.contains(*flag));
    let missing = missing.map(|flag| format!("{executable}: {flag} is not described"));
    let extra = named.difference(has).map(|flag| format!("{executable}: there is no {flag}"));
    missing.chain(extra).collect()
}

#[test]
fn every_flag_is_in_the_page_of_commands_and_no_other() {
    let page = read("doc/commands.md");
    let head = section(&page, "What all commands have in common").unwrap();
    assert!(COMMON.iter().all(|flag| head.contains(flag)));
    let wrong: Vec<String> =
        executables().iter().flat_map(|name| wrong_flags(&page, name, &flags(&help(name)))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let headings = all(r"(?m)^## (blockhost-[a-z-]+)$", &page);
    assert_eq!(headings, executables());
    let steps =
        project()["commands"].as_array().unwrap().iter().find_map(|c| c.get("steps").map(texts)).unwrap();
    let section = section(&page, "blockhost-provisioner-setup").unwrap();
    assert_eq!(all(r"(?m)^\*\*([a-z_-]+)\*\* ", &section), steps);
}

#[test]
fn a_flag_too_much_or_too_little_is_found() {
    let page = "# Commands\n\n## blockhost-x\n\n`--one`, `--three`\n\n## blockhost-y\n\n`--two`\n";
    let wrong = wrong_flags(page, "blockhost-x", &words(&["--one", "--two", "--help"]));
    assert_eq!(wrong, ["blockhost-x: --two is not described", "blockhost-x: there is no --three"]);
    assert_eq!(wrong_flags(page, "blockhost-z", &words(&[])).len(), 1);
}

/// Flags of the lab, by its own help.
fn flags_of_the_lab() -> Words {
    let forms = [
        vec!["up"],
        vec!["down"],
        vec!["status"],
        vec!["env"],
        vec!["ctl", "fault"],
        vec!["ctl", "guest"],
        vec!["ctl", "stranger"],
        vec!["ctl", "timing"],
    ];
    forms.iter().flat_map(|words| flags(&run_help("lab", words))).collect()
}

#[test]
fn the_page_of_the_lab_has_its_flags_and_what_ctl_does() {
    let page = read("doc/lab.md");
    let missing: Vec<String> = flags_of_the_lab()
        .into_iter()
        .filter(|flag| flag != "--help" && !page.contains(flag.as_str()))
        .collect();
    assert!(missing.is_empty(), "doc/lab.md lacks {missing:?}");
    let acts = run_help("lab", &["ctl"]);
    let acts = acts.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap().to_string();
    let acts = all(r"(?m)^  ([a-z-]+) ", &acts);
    let described: Words = rows(&page, &["`lab ctl …`"])
        .iter()
        .flat_map(|row| marked(&row[0]))
        .map(|words| words.split(' ').next().unwrap().to_string())
        .chain(["help".to_string()])
        .collect();
    assert_eq!(described, acts);
}

/// Flags that a page names and no program has, and those it gives to a command that has them not.
fn unknown_flags(page: &str, of: &BTreeMap<String, Words>, more: &Words) -> Vec<String> {
    let known = |flag: &String| more.contains(flag) || of.values().any(|flags| flags.contains(flag));
    let mut wrong: Vec<String> = all(LONG_FLAG, page).into_iter().filter(|flag| !known(flag)).collect();
    let mut lines: Vec<String> = marked(&page.replace("```", "")).into_iter().collect();
    lines.extend(all(r"(?m)^[$#] (.*)$", page));
    for line in lines {
        for call in all(r"(blockhost-[a-z]+-[a-z-]+[^|;&]*)", &line) {
            let (name, rest) = call.split_once(' ').unwrap_or((&call, ""));
            let ours = rest.split(" -- ").next().unwrap();
            let flags = of.get(name).cloned().unwrap_or_default();
            wrong.extend(all(LONG_FLAG, ours).difference(&flags).map(|flag| format!("{name} {flag}")));
        }
    }
    wrong
}

#[test]
fn no_page_names_a_flag_that_its_program_lacks() {
    let of: BTreeMap<String, Words> =
        executables().into_iter().map(|name| (name.clone(), flags(&help(&name)))).collect();
    let mut more = flags_of_the_lab();
    more.extend(OF_OTHERS.iter().map(|(flag, _)| flag.to_string()));
    for (path, page) in pages() {
        let wrong = unknown_flags(&page, &of, &more);
        assert!(wrong.is_empty(), "{path}: {wrong:?}");
    }
    let stop = "Use `blockhost-vm-stop web-1 --force`, or:\n$ blockhost-vm-list --colour\n";
    let found = unknown_flags(stop, &of, &more);
    assert_eq!(found, ["--colour", "blockhost-vm-stop --force", "blockhost-vm-list --colour"]);
}

#[test]
fn every_verb_of_the_audit_trail_is_in_the_page_of_monitoring_and_no_other() {
    let source = product();
    let mut verbs = all(r#"\baudited(?:_in_words)?\(&?ctx, "([a-z-]+)""#, &source);
    verbs.extend(all(r#"\.audit\(\s*"([a-z-]+)""#, &source));
    verbs.extend(all(r#"\bverb: "([a-z-]+)""#, &source));
    // Forms that this test does not know would hide a verb.
    let forms = Regex::new(r#"\baudited\(&ctx, [^"]|\.audit\(\s*[^"\s]"#).unwrap().find_iter(&source).count();
    assert_eq!(forms, 0);
    assert_eq!(column(&read("doc/monitoring.md"), &["verb", "written by"], 0), verbs);
}

#[test]
fn the_answers_that_setup_reads_are_described() {
    let choices = read("crates/provisioner/src/operation/setup/choices.rs");
    let known = choices.split("const KNOWN: ").nth(1).unwrap().split("];").next().unwrap();
    assert_eq!(column(&read("doc/commands.md"), &["answer", "default"], 0), all(r#""([a-z_]+)""#, known));
}

#[test]
fn the_pages_are_short_and_narrow() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: what is no first meeting goes to doc/");
    for (path, page) in pages() {
        let wide: Vec<usize> = prose(&page)
            .iter()
            .filter(|(_, line)| line.chars().count() > 120)
            .map(|(number, _)| *number)
            .collect();
        assert!(wide.is_empty(), "{path}: lines {wide:?} have more than 120 characters");
    }
}

/// The relative links of a page that lead nowhere: no such file, or no such heading in it.
fn dead_links(path: &str, page: &str) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap();
    let text: Vec<&str> = prose(page).into_iter().map(|(_, line)| line).collect();
    let links = all(r"\]\(([^)\s]+)\)", &text.join(" "));
    let relative = links.into_iter().filter(|link| !link.contains("://"));
    relative
        .filter(|link| {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, a)| (file, Some(a)));
            let target = if file.is_empty() { root().join(path) } else { root().join(folder).join(file) };
            let headings = || anchors(&std::fs::read_to_string(&target).unwrap_or_default());
            !target.exists() || anchor.is_some_and(|anchor| !headings().contains(anchor))
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for (path, page) in pages() {
        links += page.matches("](").count();
        let dead = dead_links(&path, &page);
        assert!(dead.is_empty(), "{path}: {dead:?}");
    }
    assert!(links > 30, "{links}");
    let page = "# The API token\n[a](lab.md) [b](#the-api-token) [c](lab.md#faults) [d](none.md) [e](#c) [f](lab.md#c) [g](../README.md)\n";
    assert_eq!(dead_links("doc/security.md", page), ["#c", "lab.md#c", "none.md"]);
}

#[test]
fn every_page_is_in_the_readme() {
    let readme = read("README.md");
    let missing: Vec<String> = pages()
        .into_keys()
        .filter(|path| path != "README.md" && !readme.contains(&format!("]({path})")))
        .collect();
    assert!(missing.is_empty(), "README.md does not link {missing:?}");
}
