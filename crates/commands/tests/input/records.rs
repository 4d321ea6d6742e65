//! The records we write, byte for byte (`facts/contract/database.md`).

use crate::hammer::mock_command;
use crate::support::{WALLET, create, database, run, vm, with_key};
use lab::Lab;
use serde_json::{Value, json};

/// The database's text with what differs from run to run replaced.
fn text(lab: &Lab) -> String {
    normalised(&std::fs::read_to_string(lab.path("var/vms.json")).unwrap())
}

fn normalised(text: &str) -> String {
    let one = |line: &str| {
        for field in ["expires_at", "created_at", "destroyed_at", "until", "since", "smbios_uuid"] {
            if let Some((start, value)) = line.split_once(&format!("\"{field}\": \"")) {
                let value = value.trim_end_matches(',').trim_end_matches('"');
                let comma = if line.ends_with(',') { "," } else { "" };
                let kind = if value.len() == 36 && field == "smbios_uuid" {
                    "UUID"
                } else {
                    assert!(is_moment(value), "{line}");
                    "MOMENT"
                };
                return format!("{start}\"{field}\": \"{kind}\"{comma}\n");
            }
        }
        format!("{line}\n")
    };
    text.lines().map(one).collect()
}

/// `2026-11-23T01:09:55.123456+00:00`
fn is_moment(value: &str) -> bool {
    let form: String = value.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    form == "0000-00-00T00:00:00.000000+00:00"
}

#[test]
fn the_record_of_a_vm_with_wallet_login() {
    let lab = with_key(Lab::builder().start().unwrap());
    let more = ["--purpose", "a \"test\"", "--owner", "Zoë", "--username", "zoe", "--expiry-days", "3"];
    create(&lab, "vm-1", &more).ok();
    let expected = format!(
        r#"{{
  "vms": {{
    "vm-1": {{
      "vm_name": "vm-1",
      "vmid": 100,
      "ip_address": "192.168.122.200",
      "ipv6_address": "2a11:6c7:f04:276::2",
      "expires_at": "MOMENT",
      "owner": "Zo\u00eb",
      "status": "active",
      "created_at": "MOMENT",
      "purpose": "a \"test\"",
      "wallet_address": "{WALLET}",
      "owner_wallet": "{WALLET}",
      "username": "zoe",
      "network_mode": "broker",
      "smbios_uuid": "UUID",
      "anti_spoofing": true
    }}
  }},
  "next_vmid": 101,
  "allocated_ips": [
    "192.168.122.200"
  ],
  "allocated_ipv6": [
    "2a11:6c7:f04:276::2"
  ]
}}
"#
    );
    assert_eq!(text(&lab), expected);
    let record = &database(&lab)["vms"]["vm-1"];
    let moment = |field: &str| {
        let text = record[field].as_str().unwrap().to_string();
        let python = "import sys,datetime as d; print((d.datetime.fromisoformat(sys.argv[1])-d.datetime.fromisoformat(sys.argv[2])).total_seconds())";
        (text, python)
    };
    // Python reads both, and they are three days apart.
    let ((expires, python), (created, _)) = (moment("expires_at"), moment("created_at"));
    let output =
        std::process::Command::new("python3").args(["-c", python, &expires, &created]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "259200.0");
    assert_eq!(record["smbios_uuid"].as_str().unwrap(), lab.control().snapshot().unwrap().guests[&100].uuid);

    vm(&lab, "destroy", &["vm-1"]).ok();
    let gone = expected
        .replace("\"status\": \"active\"", "\"status\": \"destroyed\"")
        .replace("_spoofing\": true\n", "_spoofing\": true,\n      \"destroyed_at\": \"MOMENT\"\n")
        .replace("[\n    \"192.168.122.200\"\n  ]", "[]")
        .replace("[\n    \"2a11:6c7:f04:276::2\"\n  ]", "[]");
    assert_eq!(text(&lab), gone);
}

#[test]
fn the_record_without_wallet_broker_and_network_modes() {
    let lab = with_key(Lab::builder().no_ipv6().no_network_modes().no_database().start().unwrap());
    vm(&lab, "create", &["vm-1", "--no-web3", "--apply"]).ok();
    let expected = r#"{
  "vms": {
    "vm-1": {
      "vm_name": "vm-1",
      "vmid": 100,
      "ip_address": "192.168.122.200",
      "ipv6_address": null,
      "expires_at": "MOMENT",
      "owner": "admin",
      "status": "active",
      "created_at": "MOMENT",
      "purpose": "",
      "wallet_address": null,
      "username": "admin",
      "smbios_uuid": "UUID",
      "anti_spoofing": true
    }
  },
  "next_vmid": 101,
  "allocated_ips": [
    "192.168.122.200"
  ],
  "allocated_ipv6": []
}
"#;
    assert_eq!(text(&lab), expected);
}

#[test]
fn token_ids_keep_every_digit() {
    let dir = tempfile::tempdir().unwrap();
    let hex = format!("{}A", "0f".repeat(31)) + "b";
    let digits64 = "1".repeat(64);
    for (number, (given, kept)) in [
        ("7", "7"),
        ("0", "0"),
        ("007", "7"),
        ("18446744073709551616", "18446744073709551616"),
        ("340282366920938463463374607431768211456", "340282366920938463463374607431768211456"),
        (hex.as_str(), &format!("\"{hex}\"")),
        (digits64.as_str(), &format!("\"{digits64}\"")),
        ("ff", "\"ff\""),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("vm-{number}");
        let mut command = mock_command(dir.path(), "create");
        let arguments = ["--owner-wallet", WALLET, "--nft-token-id", given, "--mock", "--apply"];
        let ended = run(command.arg(&name).args(arguments));
        assert!(ended.out.contains(&format!("\"nft_token_id\": {kept}, ")), "{given}: {ended:?}");
        let text = std::fs::read_to_string(dir.path().join("mock.json")).unwrap();
        let record = text.split(&format!("\"{name}\": {{")).nth(1).unwrap().split('}').next().unwrap();
        assert!(record.trim_end().ends_with(&format!("\"nft_token_id\": {kept}")), "{given}: {record}");
    }
}

#[test]
fn renamed_fields_are_written_and_read() {
    let fields = "fields:\n  vm_name: name\n  vmid: number\n  ip_address: ipv4\n  expires_at: until\n  owner: who\n  status: state\n  created_at: since\n";
    let lab = with_key(Lab::builder().db_yaml(fields).start().unwrap());
    create(&lab, "vm-1", &["--nft-token-id", "7"]).ok();
    let expected = format!(
        r#"    "vm-1": {{
      "name": "vm-1",
      "number": 100,
      "ipv4": "192.168.122.200",
      "ipv6_address": "2a11:6c7:f04:276::2",
      "until": "MOMENT",
      "who": "admin",
      "state": "active",
      "since": "MOMENT",
      "purpose": "",
      "wallet_address": "{WALLET}",
      "owner_wallet": "{WALLET}",
      "username": "admin",
      "network_mode": "broker",
      "smbios_uuid": "UUID",
      "anti_spoofing": true,
      "nft_token_id": 7
    }}
"#
    );
    assert!(text(&lab).contains(&expected), "{}", text(&lab));
    // Somebody's fields that have the old names are somebody's.
    let mut db = database(&lab);
    db["vms"]["vm-1"]["status"] = "gone".into();
    db["vms"]["vm-1"]["vmid"] = 9001.into();
    std::fs::write(lab.path("var/vms.json"), db.to_string()).unwrap();
    assert_eq!(vm(&lab, "status", &["vm-1"]).ok().out, "active\n");
    let list = vm(&lab, "list", &[]).ok().out;
    assert!(list.contains("vm-1\tactive\t192.168.122.200\t20"), "{list}");
    vm(&lab, "kill", &["vm-1"]).ok();
    assert_eq!(vm(&lab, "status", &["vm-1"]).ok().out, "suspended\n");
    create(&lab, "vm-1", &[]).fails_in_one_line(&["already exists"]);
    vm(&lab, "destroy", &["vm-1"]).ok();
    let record = &database(&lab)["vms"]["vm-1"];
    assert_eq!((&record["state"], &record["status"]), (&"destroyed".into(), &"gone".into()));
    assert!(lab.control().snapshot().unwrap().guests.contains_key(&9001));
}

#[test]
fn h41_a_new_vm_over_a_tombstone_takes_nothing_of_it() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "vm-1", &["--nft-token-id", "77"]).ok();
    create(&lab, "vm-2", &[]).ok();
    let old_uuid = database(&lab)["vms"]["vm-1"]["smbios_uuid"].clone();
    let mut db = database(&lab);
    let record = &mut db["vms"]["vm-1"];
    for (key, value) in [
        ("nft_minted", json!(true)),
        ("gecos_synced", json!(true)),
        ("network_config_synced", json!(true)),
        ("protected", json!(false)),
        ("suspended_at", json!("2026-01-01T00:00:00+00:00")),
        ("beacon_name", json!("x")),
        ("unheard_of", json!({"a": 1})),
    ] {
        record[key] = value;
    }
    std::fs::write(lab.path("var/vms.json"), db.to_string()).unwrap();
    vm(&lab, "destroy", &["vm-1"]).ok();
    assert_eq!(database(&lab)["vms"]["vm-1"]["unheard_of"], json!({"a": 1}), "the tombstone keeps all");
    let result = create(&lab, "vm-1", &["--expiry-days", "1"]).result();
    assert_eq!(result["nft_token_id"], Value::Null);
    let db = database(&lab);
    let fields: Vec<&String> = db["vms"]["vm-1"].as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "vm_name",
            "vmid",
            "ip_address",
            "ipv6_address",
            "expires_at",
            "owner",
            "status",
            "created_at",
            "purpose",
            "wallet_address",
            "owner_wallet",
            "username",
            "network_mode",
            "smbios_uuid",
            "anti_spoofing"
        ]
    );
    assert_ne!(db["vms"]["vm-1"]["smbios_uuid"], old_uuid);
    assert_eq!(db["vms"].as_object().unwrap().len(), 2);
    let names: Vec<&String> = db["vms"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["vm-2", "vm-1"], "the new record stands at the end");
}

#[test]
fn the_result_of_a_mock_create_has_the_same_form() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["vm-1", "--owner-wallet", WALLET, "--mock", "--apply"];
    let ended = run(mock_command(dir.path(), "create").args(arguments)).ok();
    let line = r#"{"status": "ok", "vm_name": "vm-1", "ip": "192.168.122.200", "ipv6": "fd00::2", "vmid": 100, "nft_token_id": null, "username": "admin"}"#;
    assert_eq!(ended.out, format!("BLOCKHOST_RESULT: {line}\n{line}\n"));
}

#[test]
fn h02_a_uuid_of_a_wrong_type_is_a_damaged_record_and_nothing_forceful_happens() {
    let lab = crate::support::with_key(lab::Lab::builder().start().unwrap());
    crate::support::create(&lab, "vm-1", &[]).ok();
    let path = lab.path("var/vms.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let before = lab.control().snapshot().unwrap();
    for wrong in [
        serde_json::json!(7),
        true.into(),
        serde_json::json!({}),
        serde_json::json!([]),
        "".into(),
        " ".into(),
        "x".into(),
    ] {
        let mut file: serde_json::Value = serde_json::from_str(&good).unwrap();
        file["vms"]["vm-1"]["smbios_uuid"] = wrong.clone();
        std::fs::write(&path, file.to_string()).unwrap();
        for arguments in
            [&["stop", "vm-1"][..], &["kill", "vm-1"], &["destroy", "vm-1"], &["destroy", "vm-1", "--force"]]
        {
            let ended = crate::support::vm(&lab, arguments[0], &arguments[1..]);
            assert_eq!(ended.code, Some(1), "{wrong}: {arguments:?}: {ended:?}");
            assert!(ended.err.contains("smbios_uuid"), "{wrong}: {arguments:?}: {ended:?}");
        }
        assert_eq!(lab.control().snapshot().unwrap(), before, "{wrong}");
    }
}
