//! Comments, tests and documents refer to hazards by number and to files by path. Both must lead somewhere: a number
//! to its paragraph in `facts/hazards.md`, a path to a file, `PAGE.md#heading` and `PAGE.md`, section N to a heading.

use crate::tree::{Text, Tree, root};
use regex_lite::Regex;
use std::collections::BTreeSet;

/// The numbers that `facts/hazards.md` explains: a heading and a paragraph each.
fn explained_hazards() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("facts/hazards.md")).unwrap();
    let mut found = BTreeSet::new();
    for part in text.split("\n### ").skip(1) {
        let (heading, paragraph) = part.split_once('\n').unwrap();
        let (number, title) = heading.split_once(' ').unwrap();
        assert!(
            !title.trim().is_empty() && paragraph.split_whitespace().count() > 10,
            "{number}: not explained"
        );
        assert!(found.insert(number.to_string()), "{number} is there twice");
    }
    let without_holes: BTreeSet<String> = (1..=found.len()).map(|n| format!("H{n:02}")).collect();
    assert_eq!(found, without_holes);
    found
}

/// Hazard numbers of a text: `H07` as a word, `h07` as a part of a name such as `test_h07_a_late_answer`.
fn hazards_named(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == 3 && word.starts_with(['H', 'h']))
        .filter(|word| word[1..].bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_ascii_uppercase)
}

#[test]
fn every_hazard_number_in_the_tree_is_explained() {
    let explained = explained_hazards();
    let mut unexplained = BTreeSet::new();
    let mut uses = 0;
    for Text { path, text } in &Tree::read().texts {
        for number in hazards_named(text) {
            uses += 1;
            if !explained.contains(&number) {
                unexplained.insert(format!("{number} in {path}"));
            }
        }
    }
    assert!(uses > 500, "hazards are named {uses} times only: are the files read?");
    assert!(unexplained.is_empty(), "not in facts/hazards.md: {unexplained:?}");
}

/// What a line names as a test: a function of Rust or Python, or a test of bats.
fn test_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let function = line.strip_prefix("fn ").or_else(|| line.strip_prefix("def "));
    function.and_then(|l| l.split('(').next()).or_else(|| line.strip_prefix("@test "))
}

#[test]
fn every_hazard_has_a_test_that_carries_its_number() {
    let tests = Tree::read().texts.into_iter().filter(|t| {
        let place = t.path.starts_with("crates/") || t.path.starts_with("tests/");
        place && [".rs", ".py", ".bats"].iter().any(|ending| t.path.ends_with(ending))
    });
    let covered: BTreeSet<String> = tests
        .flat_map(|t| t.text.lines().filter_map(test_name).flat_map(hazards_named).collect::<Vec<_>>())
        .collect();
    let missing: Vec<String> = explained_hazards().into_iter().filter(|h| !covered.contains(h)).collect();
    assert!(missing.is_empty(), "no test carries {missing:?}");
}

/// Rooms of the library: paths that begin with one are below `crates/provisioner/src`.
const ROOMS: [&str; 6] = ["value", "plan", "host", "store", "tool", "operation"];
/// Endings that only files of the tree have in what we write; a `.json` or `.yaml` may be a file of a host.
const OURS: [&str; 3] = [".rs", ".md", ".bats"];

/// Whether a word between back-ticks is meant as a path of the tree.
fn looks_like_a_path(word: &str, tree: &Tree) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/*".contains(c));
    let first = word.split('/').next().unwrap_or_default();
    let inside = word.contains('/') && (tree.paths.contains(first) || ROOMS.contains(&first));
    let outside = word.starts_with(['/', '*', '.']) && !word.starts_with(".ci/") || word.contains("//");
    plain
        && !outside
        && (inside || OURS.iter().any(|ending| word.ends_with(ending) && word.len() > ending.len()))
}

/// `*` stands for anything but a slash.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut parts, mut names) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), names.next()) {
            (None, None) => return true,
            (Some(part), Some(name)) => match part.split_once('*') {
                None if part == name => {}
                Some((before, after))
                    if name.len() >= before.len() + after.len()
                        && name.starts_with(before)
                        && name.ends_with(after) => {}
                _ => return false,
            },
            _ => return false,
        }
    }
}

/// Whether there is such a path: from the root, from the directory of the text or one above it, or, for a file below
/// a room or with an ending of ours, as the end of some path.
fn exists(word: &str, text: &Text, tree: &Tree) -> bool {
    let word = word.trim_end_matches('/');
    let there = |path: &str| match path.contains('*') {
        true => tree.paths.iter().any(|p| matches(path, p)),
        false => tree.paths.contains(path),
    };
    let above =
        std::iter::successors(text.path.rsplit_once('/').map(|(d, _)| d), |d| Some(d.rsplit_once('/')?.0));
    let from_the_text = above.map(|directory| format!("{directory}/{word}")).any(|path| there(&path));
    there(word)
        || from_the_text
        || there(&format!("crates/provisioner/src/{word}"))
        || !word.contains('/') && tree.paths.iter().any(|p| p.rsplit('/').next() == Some(word))
}

/// The headings of a page in the form of links: lower case, blanks as hyphens, no punctuation.
pub fn anchors(page: &str) -> BTreeSet<String> {
    let mut inside = false;
    let headings = page.lines().filter(|line| {
        inside ^= line.starts_with("```");
        !inside && line.starts_with('#')
    });
    let words = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    words
        .map(|title| {
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// What is wrong with `path`, `path#heading`, or a path followed by "section N": nothing, or one of these.
fn fault(word: &str, section: Option<&str>, text: &Text, tree: &Tree) -> Option<String> {
    let word = word.trim_end_matches(['.', ',', ':', ';']);
    let (path, anchor) = word.split_once('#').map_or((word, None), |(path, anchor)| (path, Some(anchor)));
    if !looks_like_a_path(path, tree) {
        return None;
    }
    if !exists(path, text, tree) {
        return Some(format!("there is no {path}"));
    }
    let headings = anchors(&std::fs::read_to_string(root().join(path)).unwrap_or_default());
    if let Some(anchor) = anchor.filter(|anchor| !headings.contains(*anchor)) {
        return Some(format!("{path} has no heading {anchor}"));
    }
    let number = section?;
    let there = headings.iter().any(|heading| heading.starts_with(&format!("{number}-")));
    (!there).then(|| format!("{path} has no section {number}"))
}

/// The references of a text that lead nowhere.
fn dangling(text: &Text, tree: &Tree) -> Vec<String> {
    // In one line, whatever comment signs it was broken at.
    let broken = Regex::new(r"\n[ \t]*(?://[/!]?|#)?[ \t]*").unwrap();
    let joined = format!(" {}", broken.replace_all(&text.text, " "));
    let marked = Regex::new(r"`([^`\s]+)`(?:,\s+section (\d+))?").unwrap();
    let bare = Regex::new(r"[^`\w/<.-](crates/[\w./*-]+)").unwrap();
    let mut found: Vec<String> = [marked, bare]
        .iter()
        .flat_map(|form| form.captures_iter(&joined))
        .filter_map(|c| fault(c.get(1)?.as_str(), c.get(2).map(|m| m.as_str()), text, tree))
        .collect();
    // A page of facts without back-ticks, or only a word that once meant one.
    let links = Regex::new(r"\[[^\]]*\]\([^)]*\)").unwrap();
    let joined = links.replace_all(&joined, "");
    let vague = Regex::new(r"[^`\w/<.-](facts/[\w./-]+)|\((contract|design|facts)[,;)]").unwrap();
    found
        .extend(vague.find_iter(&joined).map(|m| format!("not a path between back-ticks: {:?}", m.as_str())));
    found
}

#[test]
fn every_path_that_comments_and_documents_name_exists() {
    let tree = Tree::read();
    // This file has wrong ones on purpose.
    let texts = tree.texts.iter().filter(|text| !text.path.ends_with("documents/references.rs"));
    let found: Vec<String> = texts
        .flat_map(|t| dangling(t, &tree).into_iter().map(|fault| format!("{}: {fault}", t.path)))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_reference_that_leads_nowhere_is_found() {
    let tree = Tree::read();
    let wrong = |text: &str| dangling(&Text { path: "facts/hazards.md".into(), text: text.into() }, &tree);
    for good in [
        "`crates/commands/tests/documents/main.rs`, `host/run_process.rs`, `main.rs`, `facts/`",
        "(`facts/provider.md`, section 4) and `facts/contract/commands.md#update-gecos`",
        "`/etc/blockhost/db.yaml`, `target/debug/lab`, `<terraform_dir>/vms/NAME/`, `qm guest exec`",
        "`crates/lab/provider/tests/fixtures/conversation-*.txt`",
    ] {
        assert_eq!(wrong(good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "`crates/commands/tests/documents/none.rs`",
        "`host/walk_process.rs`",
        "`no_such_file.rs`",
        "`facts/contract/orders.md`",
        "//! (`facts/provider.md`,\n//! section 40)",
        "`facts/contract/commands.md#no-such-verb`",
        "`crates/lab/provider/tests/fixtures/talk-*.txt`",
        "see facts/provider.md",
        "as crates/commands/tests/none/main.rs does",
        "(contract, database)",
        "(design, habit 2)",
        "(facts, 1.1)",
    ] {
        assert_eq!(wrong(bad).len(), 1, "{bad}");
    }
}
