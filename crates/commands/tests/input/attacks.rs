//! Values as attacks: refused with nothing taken, or they arrive as plain text (hazards H03, H04, H26, H27).

use crate::support::{Ended, WALLET, assert_same, create, database, host_tree, json, run, vm, with_key};
use lab::Lab;
use serde_json::Value;

const LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123456789";

/// What somebody who may choose a value might try.
fn hostile() -> Vec<String> {
    let mut all: Vec<String> = [
        "${file(\"/etc/hostname\")}",
        "$${file(\"/etc/hostname\")}",
        "%{if true}yes%{endif}",
        "${var.proxmox_api_token}",
        "../x",
        "/etc/passwd",
        "a/../../b",
        "a\nb",
        "a\r\nb: c",
        "a\tb",
        "\u{1b}[2J",
        "--help",
        "-x",
        "--",
        "",
        " ",
        "a b",
        "a: b",
        "- a",
        "a #b",
        "{a: b}",
        "[a]",
        "&a *a",
        "!!python/object:os.system",
        "|",
        ">",
        "'",
        "\"",
        "`id`",
        "$(id)",
        "; id",
        "a;b",
        "a|b",
        "a&b",
        "a,b",
        "a=b",
        "\\",
        "%s%n",
        "ä",
        "日本",
        "\u{202e}gpj.exe",
        "😀",
        "{\"status\": \"ok\"}",
        "BLOCKHOST_RESULT: {}",
        "$VM_NAME",
        "${SECRET_KEY}",
    ]
    .map(str::to_string)
    .into();
    all.push(LONG.to_string());
    all.push("x".repeat(100_000));
    all
}

/// Exit 1 or 2, nothing on stdout, a reason that is no panic.
fn assert_refused(ended: &Ended, what: &str) {
    assert!(matches!(ended.code, Some(1 | 2)), "{what}: {ended:?}");
    assert_eq!(ended.out, "", "{what}: {ended:?}");
    assert!(ended.err.contains("error: ") && !ended.err.contains("panicked"), "{what}: {ended:?}");
}

#[test]
fn h04_h26_h27_narrow_flags_refuse_every_hostile_text_and_take_nothing() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
    // A hyphenated number is clap's business, the rest ours; either way it is a refusal.
    let flags = [
        "--owner-wallet",
        "--nft-token-id",
        "--username",
        "--tags",
        "--node",
        "--disk-datastore",
        "--cloudinit-datastore",
        "--ip",
        "--ipv6",
        "--vmid",
        "--template-vmid",
        "--network-mode",
        "--cloud-init",
        "--cloud-init-content",
        "--cpu",
        "--memory",
        "--disk",
        "--expiry-days",
        "--guest-timeout",
        "--queue-timeout",
    ];
    for flag in flags {
        for value in hostile() {
            // Seventy digits are a wallet and a token like any other.
            // A comma separates tags.
            let plain = value == LONG && ["--owner-wallet", "--nft-token-id"].contains(&flag)
                || value == "a,b" && flag == "--tags";
            if plain {
                continue;
            }
            let given = format!("{flag}={value}");
            let mut arguments = vec!["vm-1", "--apply", &given];
            if flag != "--owner-wallet" {
                arguments.extend(["--owner-wallet", WALLET]);
            }
            let shown: String = given.chars().take(80).collect();
            assert_refused(&vm(&lab, "create", &arguments), &shown);
            assert!(!lab.path("var/vms.json.lock").exists(), "{shown}: something was taken");
        }
    }
    assert_same(&host, &host_tree(&lab), "refused values");
    assert_eq!(node, lab.control().snapshot().unwrap());
}

#[test]
fn h04_hostile_names_are_refused_by_every_command() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
    let reserved = ["provider", "variables", "terraform", "override", "vms", "Provider", "TERRAFORM"];
    let words =
        ["true", "False", "yes", "no", "on", "null", "y", "123", "0x1f", "1e3", "2026-11-23", "1.5", "0o17"];
    let shapes = [".", "..", "a.", ".a", "a..b", "a-", "-a", "a_b", "a.-b", "A B"];
    let names = hostile().into_iter().chain(reserved.iter().chain(&shapes).map(|n| (*n).to_string()));
    for name in names {
        let shown: String = name.chars().take(80).collect();
        // Behind `--` an option-like name reaches us, not clap.
        let arguments = ["--owner-wallet", WALLET, "--apply", "--", &name];
        assert_refused(&vm(&lab, "create", &arguments), &shown);
        for verb in ["start", "stop", "kill", "destroy"] {
            assert_refused(&vm(&lab, verb, &["--", &name]), &shown);
        }
        let status = vm(&lab, "status", &["--", &name]).ok();
        assert_eq!(status.out, "unknown\n", "{shown}");
        assert!(status.err.contains("warning: ") && !status.err.contains("panicked"), "{status:?}");
    }
    for word in words {
        create(&lab, word, &[]).is_wrong_usage(&[word, "put a letter in it"]);
    }
    assert_same(&host, &host_tree(&lab), "refused names");
    assert_eq!(node, lab.control().snapshot().unwrap());
    // Without `--`, --help helps, whatever else is asked.
    let help = vm(&lab, "create", &["--help"]).ok();
    assert!(help.out.contains("Usage:") && !help.out.lines().any(|l| l.starts_with('{')));
}

#[test]
fn h03_names_that_share_a_terraform_label_collide() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "a-b", &[]).ok();
    for name in ["a.b", "a--b"] {
        let ended = create(&lab, name, &[]);
        if name == "a.b" {
            ended.fails_in_one_line(&["VM a.b", "a_b", "VM a-b", "choose another name"]);
        } else {
            assert_eq!(ended.ok().result()["vmid"], 101, "a__b is another label");
        }
    }
    let label = |name: &str| {
        let file = json(&lab.path(format!("var/terraform/vms/{name}/{name}.tf.json")));
        file["resource"]["proxmox_virtual_environment_vm"].as_object().unwrap().keys().next().unwrap().clone()
    };
    assert_eq!((label("a-b"), label("a--b")), ("a_b".to_string(), "a__b".to_string()));
    // A create in flight holds its label too.
    let entry = serde_json::json!({"name": "x-y", "step": "taken", "smbios_uuid": null, "vmid": 300,
        "previous_next_vmid": 100, "ipv4": "192.168.122.240", "ipv6": null, "wallet_address": null,
        "began_at": "2026-11-23T00:00:00Z", "pid": 1, "terraform_pid": null, "record": null});
    std::fs::write(lab.path("var/journal/x-y.json"), entry.to_string()).unwrap();
    create(&lab, "x.y", &[]).fails_in_one_line(&["VM x.y", "x_y", "VM x-y"]);
    // A destroyed VM's label is free.
    vm(&lab, "destroy", &["a-b"]).ok();
    create(&lab, "a.b", &[]).ok();
    assert_eq!(label("a.b"), "a_b");
    create(&lab, "a-b", &[]).fails_in_one_line(&["VM a-b", "a_b", "VM a.b"]);
}

/// No text of our files holds what terraform would have made of the attack.
fn assert_not_evaluated(lab: &Lab, name: &str) {
    let hostname = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let folder = lab.path(format!("var/terraform/vms/{name}"));
    for file in ["terraform.tfstate".to_string(), format!("{name}.tf.json")] {
        let text = std::fs::read_to_string(folder.join(&file)).unwrap();
        if hostname.trim().len() > 5 {
            assert!(!text.contains(hostname.trim()), "{file} was evaluated");
        }
        assert!(!text.contains(lab.token().split('=').nth(1).unwrap()), "{file} holds the token");
    }
}

#[test]
fn h26_h27_free_texts_arrive_as_they_are() {
    let lab = with_key(Lab::builder().ip_pool(2, 250).start().unwrap());
    let one_line = |v: &String| v.chars().count() <= 256 && !v.chars().any(char::is_control);
    let (fit, unfit): (Vec<String>, Vec<String>) = hostile().into_iter().partition(one_line);
    for value in unfit {
        for flag in ["--purpose", "--owner"] {
            let ended = create(&lab, "vm-x", &[&format!("{flag}={value}")]);
            assert_refused(&ended, flag);
        }
    }
    // Several at once: what counts is the text, not the number of creates.
    let values: Vec<&String> = fit.iter().collect();
    for (number, pair) in values.chunks(2).enumerate() {
        let name = format!("vm-{number}");
        let (purpose, owner) =
            (format!("--purpose={}", pair[0]), format!("--owner={}", pair[pair.len() - 1]));
        if number % 6 == 0 {
            create(&lab, &name, &[&purpose, &owner]).result();
            assert_not_evaluated(&lab, &name);
            let record = &database(&lab)["vms"][&name];
            assert_eq!(record["purpose"], pair[0].as_str());
            assert_eq!(record["owner"], pair[pair.len() - 1].as_str());
        }
        let dir = tempfile::tempdir().unwrap();
        let mut command = crate::hammer::mock_command(dir.path(), "create");
        let ended = run(command.args([&name, "--no-web3", "--mock", "--apply", &purpose, &owner]));
        assert_eq!(ended.result()["vm_name"], name.as_str());
        let db = json(&dir.path().join("mock.json"));
        assert_eq!(db["vms"][&name]["purpose"], pair[0].as_str());
        assert_eq!(db["vms"][&name]["owner"], pair[pair.len() - 1].as_str());
    }
}

#[test]
fn h26_h27_odd_but_allowed_values_stay_text_in_terraform_and_cloud_init() {
    let lab = with_key(Lab::builder().start().unwrap());
    let template = "#cloud-config\nhostname: $VM_NAME\nfqdn: $VM_FQDN\nuser: $USERNAME\nwallet: \"$WALLET_ADDRESS\"\nkeys: $SSH_KEYS\n\
        runcmd: [\"echo $WALLET_ADDRESS\", 'x=${file(\"/etc/hostname\")}']\n";
    std::fs::write(lab.path("share/cloud-init/templates/odd.yaml"), template).unwrap();
    let keys = "ssh-rsa AAAA+/= ${file(\"/etc/hostname\")}\nssh-rsa BBBB second: line\n";
    std::fs::write(lab.path("home/.ssh/id_rsa.pub"), keys).unwrap();
    let made = vm(
        &lab,
        "create",
        &[
            "e2e",
            "--owner-wallet",
            "123",
            "--username",
            "_a-1",
            "--tags",
            "true",
            "123",
            "a.b+c",
            "--apply",
            "--cloud-init",
            "odd",
            "--purpose",
            "true",
        ],
    );
    made.result();
    assert_not_evaluated(&lab, "e2e");
    let file = json(&lab.path("var/terraform/vms/e2e/e2e.tf.json"));
    let plan = &file["resource"]["proxmox_virtual_environment_vm"]["e2e"];
    assert_eq!(plan["tags"], serde_json::json!(["123", "a.b+c", "blockhost", "true"]));
    let snapshot = lab.control().snapshot().unwrap();
    let text = &snapshot.snippets["blockhost-e2e-user.yaml"];
    assert!(
        text.contains("\nhostname: e2e\nfqdn: 2.vm.blockhost.example\nuser: _a-1\nwallet: \"123\"\n"),
        "{text}"
    );
    assert!(text.contains("'x=${file(\"/etc/hostname\")}'"), "{text}");
    assert!(text.contains("      - ssh-rsa AAAA+/=\n") && !text.contains("BBBB"), "{text}");
    let guest = &snapshot.guests[&100];
    assert_eq!((guest.name.as_str(), guest.tags.as_str()), ("e2e", "123;a.b+c;blockhost;true"));
    let record: &Value = &database(&lab)["vms"]["e2e"];
    assert_eq!((&record["purpose"], &record["wallet_address"]), (&"true".into(), &"123".into()));

    // Where Proxmox makes the account, the keys stand in the terraform file.
    vm(&lab, "create", &["plain", "--no-web3", "--apply"]).ok();
    assert_not_evaluated(&lab, "plain");
    let file = json(&lab.path("var/terraform/vms/plain/plain.tf.json"));
    let account =
        &file["resource"]["proxmox_virtual_environment_vm"]["plain"]["initialization"]["user_account"];
    assert_eq!(
        account["keys"],
        serde_json::json!(["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@host", "ssh-rsa AAAA+/="])
    );
    for name in ["true", "null", "yes", "No", "on", "y", "1a", "root;id", "a$", "A"] {
        let ended = create(&lab, "vm-1", &["--username", name]);
        assert_refused(&ended, name);
    }
}

#[test]
fn wishes_outside_what_is_ours_to_give_are_refused() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "vm-0", &[]).ok();
    let (before, node) = (database(&lab), lab.control().snapshot().unwrap());
    for (flag, value, word) in [
        ("--ip", "192.168.122.0", "192.168.122.0"),
        ("--ip", "192.168.122.255", "192.168.122.255"),
        ("--ip", "10.0.0.5", "10.0.0.5"),
        ("--ip", "0.0.0.0", "0.0.0.0"),
        ("--ipv6", "2a11:6c7:f04:276::", "2a11:6c7:f04:276::"),
        ("--ipv6", "::1", "::1"),
        ("--ipv6", "2a11:6c7:f04:276::100", "2a11:6c7:f04:276::100"),
        ("--vmid", "9001", "outside"),
        ("--vmid", "1000", "outside"),
        ("--vmid", "999999999", "outside"),
    ] {
        create(&lab, "vm-1", &[flag, value]).is_wrong_usage(&["VM vm-1", flag, word]);
    }
    // What somebody has may be free tomorrow.
    for (flag, value, word) in [
        ("--ip", "192.168.122.1", "192.168.122.1"),
        ("--ip", "192.168.122.200", "192.168.122.200"),
        ("--ipv6", "2a11:6c7:f04:276::1", "2a11:6c7:f04:276::1"),
        ("--ipv6", "2a11:6c7:f04:276::2", "2a11:6c7:f04:276::2"),
        ("--vmid", "100", "taken"),
        ("--template-vmid", "100", "not a template"),
        ("--template-vmid", "8000", "template VM 8000"),
        ("--disk", "1", "cannot shrink"),
    ] {
        create(&lab, "vm-1", &[flag, value]).fails_in_one_line(&[word]);
    }
    // Our token may not look at a storage that is not there: terraform finds out, and all is undone.
    let ended = create(&lab, "vm-1", &["--disk-datastore", "nowhere"]);
    assert!(ended.code == Some(1) && ended.err.contains("/storage/nowhere"), "{ended:?}");
    assert_eq!(before, database(&lab));
    assert_eq!(node, lab.control().snapshot().unwrap());
    let result =
        create(&lab, "vm-1", &["--ip", "192.168.122.7", "--ipv6", "2a11:6c7:f04:276::fe", "--vmid", "555"]);
    let result = result.result();
    assert_eq!((&result["ip"], &result["ipv6"]), (&"192.168.122.7".into(), &"2a11:6c7:f04:276::fe".into()));
    assert_eq!(result["vmid"], 555);
}

#[test]
fn h27_a_refused_argument_reaches_the_terminal_as_printable_text() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    for verb in ["create", "destroy", "start", "status", "gc", "guest-exec", "list"] {
        for arguments in [
            &["--no-such-\u{1b}[2J\u{1b}]0;owned\u{7}"][..],
            &["a\u{1b}[31mb\u{9b}31m\r\u{8}"],
            &["\u{202e}txt.exe", "--\u{1b}c"],
            &["web-1", "--tags=\u{1b}[2J", "--cpu", "\u{1b}[2J"],
        ] {
            let ended = vm(&lab, verb, arguments);
            let raw = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
            assert!(!ended.err.contains(raw) && !ended.out.contains(raw), "{verb}: {ended:?}");
            assert!(verb == "status" || ended.code == Some(2), "{verb} {arguments:?}: {ended:?}");
        }
    }
}
