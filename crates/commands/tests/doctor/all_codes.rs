//! Each finding has a case that makes it. Runs last by looking at the sources, not at the order of tests.

use provisioner::plan::doctor::kinds::ALL;
use std::path::Path;

#[test]
fn every_finding_is_made_by_a_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor");
    let text: String = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|file| file.file_name() != "all_codes.rs")
        .map(|file| crate::support::read(&file.path()))
        .collect();
    // Made in pure tests alone: the lab's disks are never full, and its guests' configurations always readable.
    const PURE: [&str; 2] = ["state-disk-full", "guests-unreadable"];
    let missing: Vec<&str> = ALL
        .iter()
        .map(|kind| kind.code)
        .filter(|code| !PURE.contains(code) && !text.contains(&format!("\"{code}\"")))
        .collect();
    assert!(missing.is_empty(), "no case makes {missing:?}");
}
