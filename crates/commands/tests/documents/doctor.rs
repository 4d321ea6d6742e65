//! `doc/doctor.md` has every finding with its severity, and says of every hazard what is found of it; doctor knows every key
//! of db.yaml.

use crate::pages::{all, marked, read, rows};
use provisioner::plan::doctor::configuration::{KEYS, TFVARS};
use provisioner::plan::doctor::kinds::ALL;
use std::collections::BTreeSet;

/// Code and severity of each row of the tables of findings.
fn described() -> BTreeSet<(String, String)> {
    let page = read("doc/doctor.md");
    let rows = rows(&page, &["code", "severity", "found when"]);
    rows.iter().map(|row| (marked(&row[0]).into_iter().next().unwrap(), row[1].clone())).collect()
}

#[test]
fn every_finding_is_on_the_page_and_no_other() {
    let known: BTreeSet<(String, String)> =
        ALL.iter().map(|kind| (kind.code.to_string(), kind.severity.word().to_string())).collect();
    assert_eq!(described(), known);
}

#[test]
fn every_hazard_has_its_findings_or_leaves_no_trace() {
    let page = read("doc/doctor.md");
    let codes: BTreeSet<&str> = ALL.iter().map(|kind| kind.code).collect();
    let rows = rows(&page, &["hazard", "findings"]);
    let explained = all(r"(?m)^### (H[0-9][0-9]) ", &read(&["facts", "hazards.md"].join("/")));
    let named: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(named, explained);
    for row in &rows {
        let found = marked(&row[1]);
        let unknown: Vec<_> = found.iter().filter(|code| !codes.contains(code.as_str())).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", row[0]);
        assert!(!found.is_empty() || row[1].starts_with("leaves no trace: "), "{row:?}");
    }
}

#[test]
fn doctor_knows_every_key_of_the_configuration_page() {
    let page = read("doc/configuration.md");
    let keys = rows(&page, &["key", "default", "values"])
        .iter()
        .flat_map(|row| marked(&row[0]))
        .collect::<BTreeSet<_>>();
    assert_eq!(KEYS.map(str::to_string).into_iter().collect::<BTreeSet<_>>(), keys);
    let other = rows(&page, &["file", "key"]);
    let start = other.iter().position(|row| marked(&row[0]).contains("terraform.tfvars")).unwrap();
    let of_tfvars = other[start..].iter().enumerate().take_while(|(n, row)| *n == 0 || row[0].is_empty());
    let keys: BTreeSet<String> = of_tfvars.flat_map(|(_, row)| marked(&row[1])).collect();
    assert_eq!(TFVARS.map(str::to_string).into_iter().collect::<BTreeSet<_>>(), keys);
}
