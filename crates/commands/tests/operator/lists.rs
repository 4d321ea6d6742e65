//! `blockhost-vm-list`: what programs read is what it always was; the other columns and forms tell what is in the record
//! and, once for all VMs, what the node knows.

use crate::support::{Ended, WALLET, command, edit_database, place, set_field, site, stand_in, uuid, vm};
use crate::world::{HOSTILE, add_hostile, days_from_now, is_as_documented, is_harmless, large, name, shown};
use lab::Lab;
use lab::model::{NewGuest, Power};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn list(lab: &Lab, arguments: &[&str]) -> Ended {
    vm(lab, "list", arguments)
}

fn json_of(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let said = list(lab, &[&["--format", "json"], arguments].concat()).ends(0);
    let value: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    is_as_documented("vm-list.json", &value);
    value.as_array().unwrap().clone()
}

/// A site with three more VMs: a suspended one that is off, one that was destroyed, one of another owner.
fn several() -> Lab {
    let lab = site();
    for (vmid, vm_name) in [(101, "web-2"), (102, "web-3"), (103, "other")] {
        place(&lab, vmid, vm_name);
    }
    for (vm_name, days) in [("web-1", 3), ("web-2", -2), ("web-3", -20), ("other", 90)] {
        set_field(&lab, vm_name, "expires_at", days_from_now(days).into());
    }
    set_field(&lab, "web-2", "status", "suspended".into());
    lab.control().power(101, Power::Stopped).unwrap();
    set_field(&lab, "web-3", "status", "destroyed".into());
    lab.control().remove_guest(102).unwrap();
    for key in ["wallet_address", "owner_wallet"] {
        set_field(&lab, "other", key, "0x00ff".into());
    }
    lab
}

/// Puts a VM into the pool that the API token may see, with two vCPUs and a disk.
fn sized(lab: &Lab, vmid: u32, vm_name: &str) {
    lab.control().remove_guest(vmid).unwrap();
    let smbios = format!("uuid={}", uuid(vmid));
    let config = [("cores", "2"), ("memory", "2048"), ("smbios1", &smbios)];
    let config: BTreeMap<String, String> =
        config.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect();
    let guest = NewGuest {
        vmid,
        name: vm_name.into(),
        running: true,
        config,
        disk_gib: 20,
        pool: Some("blockhost".into()),
        ..NewGuest::default()
    };
    lab.control().add_guest(guest).unwrap();
}

#[test]
fn what_programs_read_is_byte_for_byte_what_it_was() {
    let lab = several();
    let table = "NAME\tSTATUS\tIP\tCREATED\nweb-1\tactive\t192.168.122.100\t2026-11-23\n\
                 web-2\tsuspended\t192.168.122.101\t2026-11-23\nweb-3\tdestroyed\t192.168.122.102\t2026-11-23\n\
                 other\tactive\t192.168.122.103\t2026-11-23\n";
    assert_eq!(list(&lab, &[]).ok().out, table);
    let row = |name: &str, status: &str, end: u32| {
        format!(
            "{{\"name\": \"{name}\", \"status\": \"{status}\", \"ip\": \"192.168.122.{end}\", \"created\": \"2026-11-23\"}}"
        )
    };
    let rows = [
        row("web-1", "active", 100),
        row("web-2", "suspended", 101),
        row("web-3", "destroyed", 102),
        row("other", "active", 103),
    ];
    let json = format!("[{}]\n", rows.join(", "));
    for arguments in
        [&["--format", "json"][..], &["--json"], &["--json", "--columns", "name,status,ip,created"]]
    {
        assert_eq!(list(&lab, arguments).ok().out, json);
    }
    assert_eq!(lab.control().last_call().unwrap(), last_placed(&lab), "the node was not asked");
    is_as_documented("vm-list.json", &serde_json::from_str(&json).unwrap());
    // In another order, each row is the same still.
    let sorted = list(&lab, &["--json", "--sort", "-ip"]).ok().out;
    assert_eq!(sorted, format!("[{}]\n", rows.iter().rev().cloned().collect::<Vec<_>>().join(", ")));
}

/// The last call of the lab so far.
fn last_placed(lab: &Lab) -> u64 {
    let calls = lab.control().calls(0).unwrap();
    let asked = calls.iter().filter(|call| ["agent", "api"].contains(&call.kind.as_str()));
    assert_eq!(asked.count(), 0, "{calls:?}");
    lab.control().last_call().unwrap()
}

#[test]
fn a_wide_list_tells_what_the_node_knows_from_one_question() {
    let lab = several();
    sized(&lab, 100, "web-1");
    let since = lab.control().last_call().unwrap();
    let rows = json_of(&lab, &["--wide"]);
    let calls = lab.control().calls(since).unwrap();
    let asked: Vec<_> = calls.iter().map(|call| call.what.as_str()).collect();
    assert!(asked.iter().filter(|what| what.contains("cluster/resources")).count() == 1, "{asked:?}");
    assert!(asked.iter().filter(|what| **what == "guest-list").count() == 1, "{asked:?}");
    let keys: Vec<_> = rows[0].as_object().unwrap().keys().cloned().collect();
    let wide = "name status ip created vmid node wallet expires_at cpus memory_mb disk_gb live";
    assert_eq!(keys, wide.split(' ').collect::<Vec<_>>());
    let first = &rows[0];
    assert_eq!(
        [
            &first["vmid"],
            &first["wallet"],
            &first["cpus"],
            &first["memory_mb"],
            &first["disk_gb"],
            &first["live"]
        ],
        [&json!(100), &json!(WALLET), &json!(2), &json!(2048), &json!(20), &json!("running")]
    );
    assert!(first["node"].is_string(), "{first}");
    // A tombstone's VMID may be anybody's.
    assert_eq!([&rows[2]["live"], &rows[2]["node"]], [&Value::Null; 2]);

    let table = list(&lab, &["--wide"]).ok().out;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0].join(" "), "NAME STATUS IP CREATED VMID NODE WALLET EXPIRES CPU MEMORY DISK LIVE");
    assert_eq!(lines[1][6..], ["0xAb58…eC9B", "in 2 days", "2", "2048 MB", "20 GB", "running"]);
    assert_eq!((lines[2][7], lines[3][11]), ("2 days ago", "-"));
}

#[test]
fn h02_a_stranger_with_our_vmid_lends_a_list_no_figures() {
    let lab = several();
    sized(&lab, 100, "web-1");
    lab.control().remove_guest(100).unwrap();
    stand_in(&lab, 100, "somebody", &uuid(999));
    lab.control().pool(100, Some("blockhost")).unwrap();
    let rows = json_of(&lab, &["--wide"]);
    assert_eq!([&rows[0]["live"], &rows[0]["memory_mb"], &rows[0]["node"]], [&Value::Null; 3], "{}", rows[0]);
    // Even under our name.
    lab.control().remove_guest(100).unwrap();
    stand_in(&lab, 100, "web-1", &uuid(999));
    lab.control().pool(100, Some("blockhost")).unwrap();
    assert_eq!(json_of(&lab, &["--wide"])[0]["live"], Value::Null);
}

#[test]
fn what_cannot_be_asked_is_said_and_the_rest_is_listed() {
    let down = Lab::builder().no_terraform().no_root_agent().start().unwrap();
    place(&down, 100, "web-1");
    let said = list(&down, &["--wide", "--format", "json"]).ends(0);
    said.clone().says(&["warning: cannot tell which VMs on the node are ours"]);
    let rows: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!([&rows[0]["vmid"], &rows[0]["live"]], [&json!(100), &Value::Null]);
    std::fs::remove_file(down.path("etc/blockhost/pve-token")).unwrap();
    std::fs::remove_file(down.path("var/terraform/terraform.tfvars")).unwrap();
    let said = list(&down, &["--columns", "name,live"]).ends(0);
    said.clone().says(&["warning: cannot query the node"]);
    assert_eq!(said.out, "NAME\tLIVE\nweb-1\t-\n");
}

#[test]
fn vms_are_chosen_by_owner_and_by_what_expires() {
    let lab = several();
    let names = |arguments: &[&str]| -> Vec<String> {
        let rows = json_of(&lab, arguments);
        rows.iter().map(|row| row["name"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&["--expiring", "7"]), ["web-1", "web-2"], "expired ones too, destroyed ones not");
    assert_eq!(names(&["--expiring", "0"]), ["web-2"]);
    assert_eq!(names(&["--expiring", "7", "--status", "active"]), ["web-1"]);
    assert_eq!(names(&["--expiring", "36500", "--sort", "-expires"]), ["other", "web-1", "web-2"]);
    assert_eq!(names(&["--wallet", "0x00FF"]), ["other"]);
    assert_eq!(names(&["--wallet", &WALLET.to_lowercase()]), ["web-1", "web-2", "web-3"]);
    assert_eq!(names(&["--wallet", "nobody's"]), [""; 0]);
    assert_eq!(
        names(&["--sort", "status"]),
        ["web-1", "other", "web-3", "web-2"],
        "equal ones as they stand"
    );
    for (arguments, words) in [
        (&["--columns", "name,colour"][..], "colour"),
        (&["--sort", "colour"], "expected one of: name"),
        (&["--wide", "--columns", "name"], "cannot be used with"),
        (&["--expiring", "-1"], "-1"),
    ] {
        assert_eq!(list(&lab, arguments).ends(2).says(&[words]).out, "");
    }
}

#[test]
fn csv_and_yaml_say_the_same_as_json() {
    let lab = several();
    add_hostile(&lab);
    let columns = ["--columns", "name,status,vmid,wallet,expires,protected"];
    let rows = json_of(&lab, &columns);
    assert_eq!(rows.len(), 7, "the key that is no name is a warning elsewhere and a row here");
    let yaml = list(&lab, &[&["--format", "yaml"][..], &columns].concat()).ends(0).out;
    let read: Value = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(read, json!(rows));
    is_harmless(&yaml, false);
    let csv = list(&lab, &[&["--format", "csv"][..], &columns].concat()).ends(0).out;
    let mut lines = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(
        lines.headers().unwrap().iter().collect::<Vec<_>>(),
        ["name", "status", "vmid", "wallet", "expires_at", "protected"]
    );
    for (line, row) in lines.records().map(Result::unwrap).zip(&rows) {
        let text = |key: &str| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_string);
        let expected = ["name", "status", "vmid", "wallet", "expires_at", "protected"].map(text);
        assert_eq!(line.iter().collect::<Vec<_>>(), expected.map(|cell| cell.replace("null", "")));
    }
    // A database that cannot be read: an empty list in each form, and exit code 0.
    std::fs::write(lab.path("var/vms.json"), "{").unwrap();
    for (form, empty) in [("csv", "name,status,ip,created\n"), ("yaml", "[]\n"), ("json", "[]\n")] {
        let said = list(&lab, &["--format", form]).ends(0).says(&["error: the VM database"]);
        assert_eq!(said.out, empty);
    }
}

#[test]
fn a_terminal_gets_colours_columns_and_no_commands_of_others() {
    let lab = several();
    let wide = || command(&lab, "blockhost-vm-list", &["--wide"]);
    let usual = || command(&lab, "blockhost-vm-list", &[]);
    let plain = shown(&mut usual(), false);
    let line = "NAME   STATUS     IP               CREATED\nweb-1  active     192.168.122.100  2026-11-23\n";
    assert!(plain.starts_with(line), "{plain}");
    let coloured = shown(&mut usual(), true);
    assert!(coloured.contains("\u{1b}[32mactive\u{1b}[0m"), "{coloured:?}");
    assert!(shown(usual().env("TERM", "dumb"), false) == plain);
    // In a pipe never, whatever the terminal.
    let piped = test_support::run(usual().env("TERM", "xterm").env_remove("NO_COLOR")).ok();
    is_harmless(&piped.out.replace('\t', " "), false);

    add_hostile(&lab);
    for colours in [false, true] {
        is_harmless(&shown(&mut usual(), colours), colours);
        is_harmless(&shown(&mut wide(), colours), colours);
    }
    for form in ["json", "csv", "yaml"] {
        let mut command = command(&lab, "blockhost-vm-list", &["--wide", "--format", form]);
        let text = shown(&mut command, true);
        is_harmless(&text, false);
        if form == "json" {
            let line = text.lines().find(|line| line.starts_with('[')).unwrap();
            let rows: Value = serde_json::from_str(line).unwrap();
            assert_eq!(rows[4]["name"], HOSTILE, "escaped, and still the same");
        }
    }
}

#[test]
fn ten_thousand_vms_are_listed_in_every_form() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    large(&lab, 10_000);
    assert_eq!(list(&lab, &[]).ok().out.lines().count(), 10_001);
    assert_eq!(json_of(&lab, &[]).len(), 10_000);
    let rows = json_of(&lab, &["--columns", "name,vmid,expires", "--sort", "-vmid"]);
    assert_eq!((rows.len(), &rows[0]["name"]), (10_000, &json!(name(9_999))));
    assert!(rows.windows(2).all(|pair| pair[0]["vmid"].as_u64() > pair[1]["vmid"].as_u64()));
    let rows = json_of(&lab, &["--expiring", "0", "--sort", "expires", "--columns", "name,status,expires"]);
    // Eleven of each hundred have expired, of which a third is destroyed.
    assert!((720..=735).contains(&rows.len()), "{}", rows.len());
    assert!(rows.windows(2).all(|pair| pair[0]["expires_at"].as_str() <= pair[1]["expires_at"].as_str()));
    let wallet = format!("0x{:040x}", 4_242);
    assert_eq!(json_of(&lab, &["--wallet", &wallet])[0]["name"], name(4_242));
    assert_eq!(list(&lab, &["--wide", "--format", "csv"]).ends(0).out.lines().count(), 10_001);
    let yaml = list(&lab, &["--format", "yaml"]).ok().out;
    assert_eq!(serde_yaml::from_str::<Value>(&yaml).unwrap().as_array().unwrap().len(), 10_000);
    edit_database(&lab, |all| all["vms"][name(5)]["status"] = json!("on fire"));
    assert_eq!(list(&lab, &["--wide"]).ends(0).says(&["skipped"]).out.lines().count(), 10_000);
    let mut command = command(&lab, "blockhost-vm-list", &["--wide"]);
    assert!(shown(&mut command, false).lines().count() >= 10_000);
}

#[test]
fn mock_vms_are_listed_widely_too() {
    let lab = site();
    for name in ["m-1", "m-2"] {
        vm(&lab, "create", &[name, "--no-web3", "--mock", "--apply"]).ok();
    }
    vm(&lab, "stop", &["m-2", "--mock"]).ok();
    let rows = json_of(&lab, &["--wide", "--mock"]);
    assert_eq!([&rows[0]["live"], &rows[1]["live"]], ["running", "stopped"]);
}
