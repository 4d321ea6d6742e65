//! Ten thousand VMs, hostile records, schemas.

use crate::support::{WALLET, edit_database, read, write};
use chrono::{SecondsFormat, TimeDelta, Utc};
use lab::Lab;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;

/// What would command a terminal: clear it, colour it, ring, turn the direction of writing.
pub const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\u{7}\u{202e}\"y";

/// A moment so many days from now, as the database writes it.
pub fn days_from_now(days: i64) -> String {
    (Utc::now() + TimeDelta::days(days)).to_rfc3339_opts(SecondsFormat::Micros, false)
}

/// A database of so many VMs that no node has.
pub fn large(lab: &Lab, count: u32) {
    let record = |index: u32| {
        let (name, [high, low]) = (name(index), [index / 250, index % 250]);
        let status = ["active", "suspended", "destroyed"][index as usize % 3];
        let record = json!({
            "vm_name": name, "vmid": 100 + index, "ip_address": format!("10.0.{high}.{low}"),
            "ipv6_address": null, "expires_at": days_from_now(i64::from(index % 100) - 10), "owner": "admin",
            "status": status, "created_at": "2026-11-23T01:09:55.123456+00:00", "purpose": "",
            "wallet_address": format!("0x{index:040x}"), "owner_wallet": format!("0x{index:040x}"), "username": "admin",
            "smbios_uuid": format!("{index:08x}-0000-4000-8000-000000000000")
        });
        (name, record)
    };
    let vms: Map<String, Value> = (0..count).map(record).collect();
    let all = json!({ "vms": vms, "next_vmid": 100, "allocated_ips": [], "allocated_ipv6": [] });
    write(&lab.path("var/vms.json"), &format!("{all:#}\n"));
}

/// The name of a VM of that database.
pub fn name(index: u32) -> String {
    format!("vm-{index:05}")
}

/// Records that nobody would write in good faith.
pub fn add_hostile(lab: &Lab) {
    edit_database(lab, |all| {
        let record = json!({
            "vmid": 199, "status": "active", "ip_address": HOSTILE, "created_at": HOSTILE, "ipv6_address": HOSTILE,
            "wallet_address": HOSTILE, "username": HOSTILE, "expires_at": HOSTILE, "purpose": HOSTILE
        });
        all["vms"][HOSTILE] = record.clone();
        all["vms"]["evil"] = record;
        all["vms"]["csv,\"\n=cmd"] = json!({ "vmid": 198, "status": "active", "wallet_address": WALLET });
    });
}

/// No character that commands a terminal but for line ends and, with `colours`, styles.
#[track_caller]
pub fn is_harmless(text: &str, colours: bool) {
    let mut text = text.to_string();
    if colours {
        text = regex_lite::Regex::new("\u{1b}\\[[0-9;]*m").unwrap().replace_all(&text, "").into_owned();
    }
    let odd = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}');
    assert!(!text.contains(odd), "{text:?}");
}

/// As the schema of this name documents.
#[track_caller]
pub fn is_as_documented(schema: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../facts/schema").join(schema);
    let schema: Value = serde_json::from_str(&read(&path)).unwrap();
    let found = test_support::schema::violations(&schema, value);
    assert!(found.is_empty(), "{found:#?}");
}

/// On a terminal that has colours, whatever the terminal of the test.
#[track_caller]
pub fn shown(command: &mut Command, colours: bool) -> String {
    command.env("TERM", "xterm-256color");
    match colours {
        true => command.env_remove("NO_COLOR"),
        false => command.env("NO_COLOR", "1"),
    };
    test_support::on_terminal(command, "").ends(0).out
}
