//! Arbitrary bytes for every flag of every command: never a panic, never a false result.

use crate::hammer::mock_command;
use crate::support::{Ended, json, run};
use proptest::prelude::*;
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

/// A word of the command line: anything that a program can be given.
fn word() -> impl Strategy<Value = OsString> {
    let bytes = proptest::collection::vec(1u8..=255, 0..40).prop_map(OsString::from_vec);
    let text = "\\PC{0,20}".prop_map(OsString::from);
    let near = prop_oneof![
        "[a-z0-9.-]{1,12}",
        "[0-9]{1,25}",
        "-{1,2}[a-z-]{0,12}=?",
        "[0-9a-f]{60,66}",
        "0x[0-9a-fA-F]{40}",
        "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
        "[0-9a-f:]{2,20}",
        Just("{\"status\": \"ok\"}\n{\"status\": \"ok\"}".to_string()),
        Just("BLOCKHOST_RESULT: {}".to_string()),
    ]
    .prop_map(OsString::from);
    prop_oneof![2 => bytes, 1 => text, 3 => near]
}

const FLAGS: [&str; 30] = [
    "--owner-wallet",
    "--nft-token-id",
    "--expiry-days",
    "--cpu",
    "--memory",
    "--disk",
    "--apply",
    "--no-web3",
    "--cloud-init-content",
    "--cloud-init",
    "--purpose",
    "--owner",
    "--username",
    "--tags",
    "--node",
    "--template-vmid",
    "--disk-datastore",
    "--cloudinit-datastore",
    "--ip",
    "--ipv6",
    "--vmid",
    "--network-mode",
    "--guest-timeout",
    "--queue-timeout",
    "--force",
    "--format",
    "--json",
    "--status",
    "--live",
    "-vq",
];

fn arguments() -> impl Strategy<Value = Vec<OsString>> {
    let flag = proptest::sample::select(FLAGS.as_slice()).prop_map(OsString::from);
    let pair = (flag.clone(), word()).prop_map(|(flag, value)| vec![flag, value]);
    let joined = (flag.clone(), word()).prop_map(|(mut flag, value)| {
        flag.push("=");
        flag.push(value);
        vec![flag]
    });
    let part = prop_oneof![3 => pair, 2 => joined, 1 => flag.prop_map(|f| vec![f]), 2 => word().prop_map(|w| vec![w])];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn check(folder: &Path, verb: &str, arguments: &[OsString], ended: &Ended) -> Result<(), TestCaseError> {
    let shown = format!("{verb} {arguments:?}: {ended:?}");
    prop_assert!(matches!(ended.code, Some(0..=2)), "{shown}");
    prop_assert!(!ended.err.contains("panicked") && !ended.out.contains("panicked"), "{shown}");
    let braces: Vec<&str> = ended.out.lines().filter(|line| line.trim_start().starts_with('{')).collect();
    let helped = ended.out.contains("Usage:") || ended.out.starts_with("blockhost-vm-");
    if ended.code == Some(0) && verb == "create" && !helped && arguments.iter().any(|a| a == "--apply") {
        prop_assert_eq!(braces.len(), 1, "{}", shown);
        let lines: Vec<&str> = ended.out.lines().collect();
        prop_assert_eq!(lines.len(), 2, "{}", shown);
        prop_assert_eq!(lines[0], format!("BLOCKHOST_RESULT: {}", lines[1]), "{}", shown);
        let result: Value = serde_json::from_str(lines[1]).unwrap();
        let record = &json(&folder.join("mock.json"))["vms"][result["vm_name"].as_str().unwrap()];
        prop_assert_eq!(&record["vmid"], &result["vmid"], "{}", shown);
        prop_assert_eq!(&record["ip_address"], &result["ip"], "{}", shown);
    } else {
        prop_assert_eq!(braces.len(), 0, "{}", shown);
        prop_assert!(helped || !ended.out.contains("BLOCKHOST_RESULT"), "{}", shown);
    }
    if ended.code != Some(0) {
        prop_assert!(!ended.err.is_empty(), "{}", shown);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn h27_any_bytes_for_any_flag_of_create(arguments in arguments(), apply: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut all: Vec<OsString> = vec!["vm-1".into(), "--mock".into(), "--no-web3".into()];
        if apply {
            all.push("--apply".into());
        }
        all.extend(arguments);
        let ended = run(mock_command(dir.path(), "create").args(&all));
        check(dir.path(), "create", &all, &ended)?;
        // Nothing is written where nothing was made.
        if ended.code != Some(0) || !all.iter().any(|a| a == "--apply") {
            prop_assert_eq!(dir.path().read_dir().unwrap().count(), usize::from(dir.path().join("mock.json.lock").exists()));
        }
    }

    #[test]
    fn h27_any_bytes_as_the_arguments_of_the_other_commands(
        arguments in arguments(),
        verb in proptest::sample::select(vec!["start", "stop", "kill", "destroy", "status", "list", "create"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut all = arguments;
        all.insert(0, "--mock".into());
        let ended = run(mock_command(dir.path(), verb).args(&all));
        if verb == "list" && ended.code == Some(0) {
            prop_assert!(!ended.err.contains("panicked"));
        } else {
            check(dir.path(), verb, &all, &ended)?;
        }
    }

    #[test]
    fn h17_any_bytes_as_the_database(bytes in proptest::collection::vec(any::<u8>(), 0..200), wrapped: bool) {
        // What parses at once; a torn file is another test, and takes a second each.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let value = serde_json::json!({ "vms": { &text: { "status": &text, "vmid": &text }, "a": text },
            "next_vmid": 100, "allocated_ips": [&text], "x": wrapped });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mock.json");
        std::fs::write(&path, value.to_string()).unwrap();
        let list = run(mock_command(dir.path(), "list").args(["--mock", "--format", "json"]));
        prop_assert_eq!((list.code, list.out.as_str()), (Some(0), "[]\n"));
        let made = run(mock_command(dir.path(), "create").args(["new-1", "--no-web3", "--mock", "--apply"]));
        prop_assert_eq!(made.code, Some(0), "{:?}", made);
        let mut after = json(&path);
        prop_assert!(after["vms"]["new-1"].is_object());
        after["vms"].as_object_mut().unwrap().shift_remove("new-1");
        prop_assert_eq!(&after["vms"], &value["vms"]);
        prop_assert_eq!(&after["x"], &value["x"]);
    }
}
