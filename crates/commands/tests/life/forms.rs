//! What callers read: stdout byte for byte, exit codes, help.

use crate::support::{Commands, Ended, WALLET, database, edit_record, record};
use lab::Lab;
use serde_json::Value;
use std::process::Command;

const ALL: [&str; 7] = ["create", "destroy", "start", "stop", "kill", "status", "list"];

/// The only two lines of a create.
fn result(name: &str, ip: &str, ipv6: &str, vmid: u32, token: &str, user: &str) -> String {
    let object = format!(
        "{{\"status\": \"ok\", \"vm_name\": \"{name}\", \"ip\": \"{ip}\", \"ipv6\": {ipv6}, \"vmid\": {vmid}, \
         \"nft_token_id\": {token}, \"username\": \"{user}\"}}"
    );
    format!("BLOCKHOST_RESULT: {object}\n{object}\n")
}

#[test]
fn create_prints_the_result_and_nothing_else() {
    let lab = Lab::builder().start().unwrap();
    // Exactly as the engines call it.
    let said =
        lab.vm("create", &["blockhost-001", "--owner-wallet", WALLET, "--expiry-days", "30", "--apply"]).ok();
    let expected =
        result("blockhost-001", "192.168.122.200", "\"2a11:6c7:f04:276::2\"", 100, "null", "admin");
    assert_eq!(said.out, expected);
    assert_eq!(record(&lab, "blockhost-001")["status"], "active");
    // Loud, quiet and with a token: the same two lines.
    let said =
        lab.made_with("web-2", &["-vv", "--nft-token-id", "18446744073709551617", "--username", "alice"]);
    let expected =
        result("web-2", "192.168.122.201", "\"2a11:6c7:f04:276::3\"", 101, "18446744073709551617", "alice");
    assert_eq!(said.out, expected);
    let hex = "00ff".repeat(16);
    let said = lab.made_with("web-3", &["--quiet", "--nft-token-id", &hex]);
    let expected =
        result("web-3", "192.168.122.202", "\"2a11:6c7:f04:276::4\"", 102, &format!("\"{hex}\""), "admin");
    assert_eq!((said.out, said.err), (expected, String::new()));
}

#[test]
fn without_a_broker_the_result_has_a_null() {
    let lab = Lab::builder().no_ipv6().start().unwrap();
    let said = lab.made("web-1");
    assert_eq!(said.out, result("web-1", "192.168.122.200", "null", 100, "null", "admin"));
    assert_eq!(record(&lab, "web-1")["ipv6_address"], Value::Null);
    lab.vm("stop", &["web-1"]).ok();
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(lab.vm("destroy", &["web-1"]).ok().out, "VM web-1 is destroyed\n");
}

#[test]
fn mock_has_the_same_form_and_touches_nothing() {
    let lab = Lab::builder().no_terraform().no_root_agent().start().unwrap();
    let before = crate::support::world(&lab);
    let said = lab.vm("create", &["m-1", "--owner-wallet", WALLET, "--mock", "--apply"]).ok();
    assert_eq!(said.out, result("m-1", "192.168.122.200", "\"fd00::2\"", 100, "null", "admin"));
    let said = lab.vm("create", &["m-2", "--no-web3", "--mock", "--apply"]).ok();
    assert_eq!(said.out, result("m-2", "192.168.122.201", "\"fd00::3\"", 101, "null", "admin"));
    assert_eq!(lab.vm("status", &["m-1", "--mock"]).ok().out, "active\n");
    for verb in ["stop", "kill", "start"] {
        assert_eq!(lab.vm(verb, &["m-1", "--mock"]).ok().out, "", "{verb}");
    }
    assert_eq!(lab.vm("destroy", &["m-1", "--mock"]).ok().out, "VM m-1 is destroyed\n");
    assert_eq!(lab.vm("status", &["m-1", "--mock"]).ok().out, "destroyed\n");
    assert!(lab.vm("list", &["--mock"]).ok().out.contains("m-2\tactive\t192.168.122.201\t"));
    crate::support::world(&lab).same(&before, "refused");
    assert_eq!(lab.control().last_call().unwrap(), 0, "the node was never asked");
}

#[test]
fn the_other_verbs_print_nothing_and_can_be_repeated() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    for (verb, words) in [
        ("start", "VM web-1 is already running"),
        ("stop", "VM web-1 is off"),
        ("stop", "VM web-1 is already off"),
        ("kill", "VM web-1 is already off"),
        ("start", "VM web-1 is running"),
        ("kill", "VM web-1 is off"),
        ("kill", "VM web-1 is already off"),
        ("destroy", "VM web-1 is destroyed"),
        ("destroy", "VM web-1 was destroyed before; nothing to do"),
    ] {
        let said = lab.vm(verb, &["web-1"]);
        // Engines note what destroy prints.
        let printed = if words.ends_with("is destroyed") { format!("{words}\n") } else { String::new() };
        assert_eq!((said.code, &said.out), (Some(0), &printed), "{verb}: {said:?}");
        let last = if printed.is_empty() { said.err.lines().last() } else { said.out.lines().last() };
        assert_eq!(last, Some(words), "{verb}");
    }
    let said = lab.vm("destroy", &["never-made"]).ok();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", "VM never-made is unknown; nothing to do\n"));
    for verb in ["start", "stop", "kill"] {
        lab.vm(verb, &["never-made"]).fails(&["VM never-made is unknown", "vms.json"]);
    }
    assert_eq!(lab.vm("destroy", &["web-1", "--quiet"]).ok().err, "");
}

#[test]
fn the_same_name_is_refused_while_it_lives_and_free_after() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let before = crate::support::world(&lab);
    lab.create("web-1", &[]).fails(&["VM web-1 already exists", "active"]);
    crate::support::world(&lab).same(&before, "refused");
    edit_record(&lab, "web-1", |record| {
        record.insert("status".into(), "suspended".into());
    });
    lab.create("web-1", &[]).fails(&["VM web-1 already exists", "suspended"]);
    lab.vm("destroy", &["web-1"]).ok();
    edit_record(&lab, "web-1", |record| {
        record.insert("nft_minted".into(), true.into());
    });
    lab.made("web-1");
    let made = record(&lab, "web-1");
    assert_eq!(
        (made.get("nft_minted"), made.get("destroyed_at"), &made["status"]),
        (None, None, &"active".into())
    );
}

#[test]
fn list_has_a_table_for_pipes_and_json_for_programs() {
    let lab = Lab::builder().start().unwrap();
    assert_eq!(lab.vm("list", &[]).ok().out, "NAME\tSTATUS\tIP\tCREATED\n");
    assert_eq!(lab.vm("list", &["--format", "json"]).ok().out, "[]\n");
    lab.made("a");
    lab.made("long-name.example");
    lab.vm("destroy", &["a"]).ok();
    let created = record(&lab, "a")["created_at"].as_str().unwrap()[..10].to_owned();
    let rows = |status: &str| {
        format!(
            "NAME\tSTATUS\tIP\tCREATED\na\tdestroyed\t192.168.122.200\t{created}\n\
             long-name.example\t{status}\t192.168.122.201\t{created}\n"
        )
    };
    let listed = lab.vm("list", &[]).ok();
    assert_eq!((listed.out, listed.err), (rows("active"), String::new()));
    let object = |name: &str, status: &str, ip: &str| {
        format!(
            "{{\"name\": \"{name}\", \"status\": \"{status}\", \"ip\": \"{ip}\", \"created\": \"{created}\"}}"
        )
    };
    let both = format!(
        "[{}, {}]\n",
        object("a", "destroyed", "192.168.122.200"),
        object("long-name.example", "active", "192.168.122.201")
    );
    for flags in [["--format", "json"].as_slice(), &["--json"], &["--json", "--format", "table"]] {
        assert_eq!(lab.vm("list", flags).ok().out, both, "{flags:?}");
    }
    assert_eq!(serde_json::from_str::<Value>(&both).unwrap()[0]["created"], created.as_str());
    let one = format!("[{}]\n", object("a", "destroyed", "192.168.122.200"));
    assert_eq!(lab.vm("list", &["--json", "--status", "destroyed"]).ok().out, one);
    assert_eq!(lab.vm("list", &["--json", "--status", "suspended"]).ok().out, "[]\n");
    assert_eq!(lab.vm("list", &["--status", "none"]).code, Some(2));

    // Off behind our back: the database does not know it, --live does.
    lab.control().power(101, lab::model::Power::Stopped).unwrap();
    assert_eq!(lab.vm("list", &[]).ok().out, rows("active"));
    assert_eq!(lab.vm("list", &["--live"]).ok().out, rows("suspended"));
    assert_eq!(lab.vm("list", &["--live", "--json", "--status", "active"]).ok().out, "[]\n");
    lab.control().remove_guest(101).unwrap();
    let said = lab.vm("list", &["--live", "--status", "unknown"]).ok();
    assert!(said.out.contains("long-name.example\tunknown\t") && !said.out.contains("destroyed"), "{said:?}");
    assert!(said.err.contains("the node has no such VM"), "{said:?}");
}

#[test]
fn list_lines_its_columns_up_on_a_terminal() {
    let lab = Lab::builder().no_terraform().no_root_agent().start().unwrap();
    let mut all = database(&lab);
    let vm = |name: &str, ip: &str| {
        serde_json::json!({"vm_name": name, "vmid": 100, "ip_address": ip, "status": "active",
            "created_at": "2026-01-02T03:04:05.000000+00:00"})
    };
    all["vms"] =
        serde_json::json!({"a": vm("a", "10.0.0.2"), "longer-name": vm("longer-name", "10.0.0.200")});
    crate::support::write_database(&lab, &all);
    let program = lab.command("blockhost-vm-list").get_program().to_owned();
    // Python's pty gives the command a terminal of its own.
    let mut command = lab.tool("python3");
    command.args(["-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"]).arg(program);
    let said = crate::support::run(command);
    assert_eq!(
        said.ok().out.replace("\r\n", "\n"),
        "NAME         STATUS  IP          CREATED\n\
         a            active  10.0.0.2    2026-01-02\n\
         longer-name  active  10.0.0.200  2026-01-02\n"
    );
}

/// A command outside of any lab.
fn alone(verb: &str, arguments: &[&str]) -> Ended {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(std::path::Path::parent).unwrap();
    let mut command = Command::new(folder.join(format!("blockhost-vm-{verb}")));
    crate::support::run(command.args(arguments).env_clear().env("BLOCKHOST_CONFIG_DIR", "/nonexistent"))
}

#[test]
fn every_command_has_help_with_examples_a_version_and_the_usual_flags() {
    for verb in ALL {
        let name = format!("blockhost-vm-{verb}");
        for flag in ["--help", "-h"] {
            let said = alone(verb, &[flag]).ok();
            assert!(said.out.contains(&format!("Usage: {name}")), "{verb}: {}", said.out);
            assert!(
                said.out.contains("Example") && said.out.contains(&format!("\n  {name} ")) || verb == "list"
            );
            for word in ["--verbose", "--quiet", "--help", "--version"] {
                assert!(said.out.contains(word), "{verb} {word}");
            }
            assert_eq!(said.err, "");
        }
        assert_eq!(alone(verb, &["--version"]).ok().out, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn wrong_usage_ends_with_2_and_takes_nothing() {
    for verb in ALL {
        let said = alone(verb, &["--no-such-flag"]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{verb}: {said:?}");
        assert!(said.err.contains("--no-such-flag"), "{verb}: {said:?}");
        if verb != "list" {
            assert_eq!(alone(verb, &[]).code, Some(2), "{verb} without a name");
            if !["start", "stop", "kill", "destroy", "resume"].contains(&verb) {
                assert_eq!(alone(verb, &["a", "b"]).code, Some(2), "{verb} with two names");
            }
        }
        assert_eq!(alone(verb, &["web-1", "-q", "-v"]).code, Some(2), "{verb}");
    }
    for arguments in [
        ["web-1", "--memory", "lots"].as_slice(),
        &["web-1", "--cpu", "0"],
        &["web-1", "--disk", "-1"],
        &["web-1", "--owner-wallet", "0x12 34"],
        &["web-1", "--vmid", "7"],
        &["web-1", "--ip", "300.1.1.1"],
        &["web-1", "--guest-timeout", "0"],
        &["web-1", "--cloud-init", "a", "--cloud-init-content", "b"],
        &["bad_name"],
        &["-"],
    ] {
        assert_eq!(alone("create", arguments).code, Some(2), "{arguments:?}");
    }
    // Not a matter of the form: an error of what was asked.
    assert_eq!(alone("create", &["web-1", "--apply"]).code, Some(1));
}

#[test]
fn no_configuration_at_all_is_one_clear_line() {
    for verb in ["create", "destroy", "start", "stop", "kill"] {
        let mut arguments = vec!["web-1"];
        arguments.extend((verb == "create").then_some("--no-web3"));
        alone(verb, &arguments).fails(&["/nonexistent/db.yaml"]);
    }
    let said = alone("status", &["web-1"]).ok();
    assert_eq!(said.out, "unknown\n");
    assert!(said.err.contains("/nonexistent/db.yaml") && said.err.lines().count() == 1, "{said:?}");
    let said = alone("list", &[]).ends(0);
    assert_eq!(said.out, "NAME\tSTATUS\tIP\tCREATED\n");
    assert!(said.err.contains("/nonexistent/db.yaml") && said.err.lines().count() == 1, "{said:?}");
    assert_eq!(alone("list", &["--json"]).ends(0).out, "[]\n");
}
