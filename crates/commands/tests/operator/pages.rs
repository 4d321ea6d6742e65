//! `blockhost-vm-show`: one VM on a page, whatever is down.

use crate::support::{
    Ended, WALLET, command, edit_database, place, set_field, site, stand_in, uuid, vm, vm_with, write,
};
use crate::world::{HOSTILE, add_hostile, days_from_now, is_as_documented, is_harmless, large, name, shown};
use lab::Lab;
use lab::model::{NewGuest, Power};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn show(lab: &Lab, arguments: &[&str]) -> Ended {
    vm(lab, "show", arguments)
}

/// The page as JSON, as it is documented.
fn page(lab: &Lab, name: &str) -> Value {
    let said = show(lab, &[name, "--format", "json"]).ok();
    let page = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    is_as_documented("vm-show.json", &page);
    page
}

/// One VM that the API token may see, with two vCPUs and a disk.
fn visible() -> Lab {
    let lab = site();
    lab.control().remove_guest(100).unwrap();
    let smbios = format!("uuid={}", uuid(100));
    let net = "virtio=BC:24:11:00:00:64,bridge=vmbr0";
    let config = [("cores", "2"), ("memory", "2048"), ("smbios1", &smbios), ("net0", net), ("onboot", "1")];
    let config: BTreeMap<String, String> =
        config.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect();
    let (name, pool) = ("web-1".to_string(), Some("blockhost".to_string()));
    let guest =
        NewGuest { vmid: 100, name, running: true, config, disk_gib: 20, pool, ..NewGuest::default() };
    lab.control().add_guest(guest).unwrap();
    lab
}

/// Nobody can ask the API any more.
fn without_token(lab: &Lab) {
    for path in ["etc/blockhost/pve-token", "var/terraform/terraform.tfvars"] {
        std::fs::remove_file(lab.path(path)).unwrap();
    }
}

#[test]
fn a_page_has_all_that_is_known_and_changes_nothing() {
    let lab = visible();
    vm(&lab, "throttle", &["web-1", "--cpu-quota", "50"]).ok();
    set_field(&lab, "web-1", "expires_at", days_from_now(3).into());
    set_field(&lab, "web-1", "nft_minted", json!([1, {"deep": null}]));
    let before = std::fs::read(lab.path("var/vms.json")).unwrap();
    let node = lab.control().snapshot().unwrap();
    let page = page(&lab, "web-1");
    assert_eq!(
        [&page["status"], &page["vmid"], &page["not_known"]],
        [&json!("active"), &json!(100), &json!([])]
    );
    let live = &page["live"];
    assert_eq!(
        [
            &live["state"],
            &live["cpus"],
            &live["memory_mb"],
            &live["disk_gb"],
            &live["lock"],
            &live["starts_with_node"]
        ],
        [&json!("running"), &json!(2), &json!(2048), &json!(20), &Value::Null, &json!(true)]
    );
    assert!(live["uptime_seconds"].is_u64() && live["node"].is_string(), "{live}");
    assert_eq!(page["addresses"]["ipv4"], "192.168.122.100");
    assert_eq!([&page["limits"]["source"], &page["limits"]["cpu_quota"]], [&json!("node"), &json!(50)]);
    let left = page["expiry"]["seconds_left"].as_i64().unwrap();
    assert!((3 * 86_400 - 120..=3 * 86_400).contains(&left), "{left}");
    assert_eq!(page["record"]["nft_minted"], json!([1, {"deep": null}]), "fields of others too");
    assert_eq!(page["audit"][0]["verb"], "throttle");
    assert_eq!(page["unfinished"], Value::Null);
    assert_eq!([&page["guard"]["set"], &page["guard"]["applied"]], [false, false], "nobody has decided yet");

    let text = show(&lab, &["web-1"]).ok().out;
    for line in [
        "VM            web-1\n",
        "VMID          100\n",
        "status        active\n",
        "resources     2 vCPUs, 2048 MB memory, 20 GB disk\n",
        "protected     no\n",
        "guard         none; blockhost-provisioner-reapply sets it\n",
        "limits        cpu-quota 50 % (1 of 2 vCPUs)\n",
        "unfinished    nothing\n",
        "  wallet_address    0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B\n",
        "\nLast changes (blockhost-vm-audit web-1 shows all):\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(text.contains("expires       in 2 days, ") && text.contains(" local ("), "{text}");
    assert!(!text.contains("Not known"), "{text}");
    assert_eq!(std::fs::read(lab.path("var/vms.json")).unwrap(), before);
    assert_eq!(lab.control().snapshot().unwrap(), node);
    // What differs from the record is told.
    lab.control().set(100, "cpulimit", "0.5").unwrap();
    assert!(show(&lab, &["web-1"]).ok().out.contains("cpu-quota is 25 %"));
}

#[test]
fn off_locked_and_suspended_vms_say_so() {
    let lab = visible();
    lab.control().power(100, Power::Stopped).unwrap();
    lab.control().set(100, "lock", "backup").unwrap();
    set_field(&lab, "web-1", "status", "suspended".into());
    set_field(&lab, "web-1", "suspended_at", days_from_now(-4).into());
    set_field(&lab, "web-1", "protected", true.into());
    let page = page(&lab, "web-1");
    assert_eq!([&page["live"]["state"], &page["live"]["lock"]], ["stopped", "backup"]);
    let text = show(&lab, &["web-1"]).ok().out;
    for words in ["locked (backup)", "status        suspended", "protected     yes", "; suspended 4 days ago"]
    {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn h02_of_a_stranger_with_our_vmid_nothing_is_shown() {
    let lab = visible();
    lab.control().remove_guest(100).unwrap();
    stand_in(&lab, 100, "somebody", &uuid(999));
    lab.control().pool(100, Some("blockhost")).unwrap();
    let said = show(&lab, &["web-1", "--format", "json"]).ok();
    assert!(!said.out.contains(&uuid(999)), "the key to act on it: {said:?}");
    let page: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!([&page["live"], &page["limits"]["source"]], [&Value::Null, &json!("record")]);
    assert!(page["not_known"][0].as_str().unwrap().contains("now belongs to another guest"), "{page}");
    // Nor with the root agent down, when the API alone could tell.
    let lab = Lab::builder().no_terraform().no_root_agent().start().unwrap();
    place(&lab, 100, "web-1");
    lab.control().remove_guest(100).unwrap();
    stand_in(&lab, 100, "web-1", &uuid(999));
    lab.control().pool(100, Some("blockhost")).unwrap();
    let page = self::page(&lab, "web-1");
    assert_eq!(page["live"], Value::Null, "{page}");
    assert_eq!(page["not_known"].as_array().unwrap().len(), 2, "{page}");
}

#[test]
fn h41_of_a_destroyed_vm_the_node_is_not_asked() {
    let lab = visible();
    set_field(&lab, "web-1", "status", "destroyed".into());
    let since = lab.control().last_call().unwrap();
    let page = page(&lab, "web-1");
    assert_eq!(
        [&page["status"], &page["live"], &page["not_known"]],
        [&json!("destroyed"), &Value::Null, &json!([])]
    );
    assert_eq!(lab.control().last_call().unwrap(), since);
}

#[test]
fn what_is_down_is_said_and_the_rest_is_shown() {
    // The root agent: the API tells.
    let lab = Lab::builder().no_terraform().no_root_agent().start().unwrap();
    place(&lab, 100, "web-1");
    lab.control().pool(100, Some("blockhost")).unwrap();
    let page = self::page(&lab, "web-1");
    assert_eq!(
        [&page["live"]["state"], &page["live"]["starts_with_node"]],
        [&json!("running"), &Value::Null]
    );
    assert!(page["not_known"][0].as_str().unwrap().starts_with("root agent: "), "{page}");
    assert_eq!(page["guard"], Value::Null);
    // Both.
    without_token(&lab);
    let page = self::page(&lab, "web-1");
    assert_eq!([&page["live"], &page["limits"]["source"]], [&Value::Null, &json!("record")]);
    assert_eq!(page["not_known"].as_array().unwrap().len(), 2, "{page}");
    let text = show(&lab, &["web-1"]).ok().out;
    for words in ["live state    not known", "none (as recorded", "\nNot known:\n", "Proxmox API: "] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    // The API alone.
    let lab = visible();
    without_token(&lab);
    let page = self::page(&lab, "web-1");
    assert_eq!([&page["live"]["state"], &page["live"]["cpus"]], [&json!("running"), &Value::Null]);
    assert!(page["not_known"][0].as_str().unwrap().starts_with("Proxmox API: "), "{page}");
    // The VM.
    lab.control().remove_guest(100).unwrap();
    let page = self::page(&lab, "web-1");
    assert!(page["not_known"][0].as_str().unwrap().contains("the node has no such VM"), "{page}");
    assert_eq!(page["live"], Value::Null);
}

#[test]
fn unfinished_work_and_damage_have_a_page_too() {
    let lab = Lab::builder().start().unwrap();
    vm_with(&lab, "kill@create.applying", "create", &["web-1", "--owner-wallet", WALLET, "--apply"])
        .was_killed();
    let page = self::page(&lab, "web-1");
    assert_eq!([&page["record"], &page["status"]], [&Value::Null; 2]);
    assert!(page["unfinished"].as_str().unwrap().contains("died at step \"applying\""), "{page}");
    assert_eq!(page["vmid"], 100);
    assert_eq!(page["snippets"][0], "local:snippets/blockhost-web-1-user.yaml");
    assert_eq!(page["terraform"]["exists"], true);
    // Made whole, it has a state and a copy of its record.
    vm(&lab, "create", &["web-1", "--owner-wallet", WALLET, "--apply"]).ok();
    let page = self::page(&lab, "web-1");
    assert_eq!(
        [&page["terraform"]["state"], &page["terraform"]["record_copy"]],
        [&json!("present"), &json!(true)]
    );
    let guard = &page["guard"];
    assert_eq!([&guard["set"], &guard["applied"], &guard["at_every_start"]], [true, true, true], "{page}");
    let text = show(&lab, &["web-1"]).ok().out;
    assert!(text.contains("guard         set and in force; every start carries it out\n"), "{text}");
    write(&lab.path("var/terraform/vms/web-1/terraform.tfstate"), "");
    assert_eq!(self::page(&lab, "web-1")["terraform"]["state"], "torn");
    // A record that cannot be used is shown as it stands, with what is wrong.
    set_field(&lab, "web-1", "vmid", json!("a hundred"));
    let page = self::page(&lab, "web-1");
    assert_eq!([&page["status"], &page["record"]["vmid"]], [&Value::Null, &json!("a hundred")]);
    assert!(page["not_known"][0].as_str().unwrap().contains("field vmid"), "{page}");
    // A database that cannot be read: what else knows the VM is shown.
    write(&lab.path("var/vms.json"), "{");
    let page = self::page(&lab, "web-1");
    assert!(page["not_known"][0].as_str().unwrap().contains("corrupt"), "{page}");
    show(&lab, &["web-2"]).fails(&["VM web-2 is unknown", "corrupt"]);
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    let lab = visible();
    show(&lab, &["web-11"]).fails(&["VM web-11 is unknown", "did you mean web-1?"]);
    show(&lab, &["../web-1"]).ends(2);
}

#[test]
fn a_page_commands_no_terminal() {
    let lab = visible();
    add_hostile(&lab);
    let audit = lab.path("var/audit");
    std::fs::create_dir_all(&audit).unwrap();
    let line = json!({"time": days_from_now(0), "verb": HOSTILE, "vm": "evil", "result": HOSTILE, "caller": HOSTILE});
    write(&audit.join("2026-11.jsonl"), &format!("{line}\n"));
    for colours in [false, true] {
        let text = shown(&mut command(&lab, "blockhost-vm-show", &["evil"]), colours);
        is_harmless(&text, colours);
        assert!(text.contains("\\u{1b}[2J"), "{text}");
    }
    let text = shown(&mut command(&lab, "blockhost-vm-show", &["evil", "--format", "json"]), true);
    is_harmless(&text, false);
    let page: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(page["record"]["purpose"], HOSTILE);
    is_harmless(&show(&lab, &["evil"]).ok().out, false);
    let coloured = shown(&mut command(&lab, "blockhost-vm-show", &["web-1"]), true);
    assert!(coloured.contains("status        \u{1b}[32mactive\u{1b}[0m"), "{coloured:?}");
}

#[test]
fn one_of_ten_thousand_has_a_page() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    large(&lab, 10_000);
    let page = page(&lab, &name(9_999));
    assert_eq!([&page["record"]["vmid"], &page["status"]], [&json!(10_099), &json!("active")]);
    assert!(show(&lab, &[&name(9_999)]).ok().out.contains("VMID          10099"));
    edit_database(&lab, |all| all["vms"][name(4)]["status"] = json!("on fire"));
    assert_eq!(self::page(&lab, &name(4))["status"], Value::Null);
}

#[test]
fn mock_vms_have_a_page() {
    let lab = site();
    vm(&lab, "create", &["m-1", "--no-web3", "--mock", "--apply"]).ok();
    let said = show(&lab, &["m-1", "--mock", "--format", "json"]).ok();
    let page: Value = serde_json::from_str(&said.out).unwrap();
    is_as_documented("vm-show.json", &page);
    assert_eq!([&page["live"]["state"], &page["record"]["vm_name"]], ["running", "m-1"]);
    show(&lab, &["web-1", "--mock"]).fails(&["VM web-1 is unknown"]);
    assert!(show(&lab, &["m-1", "--mock"]).ok().out.starts_with("VM            m-1\n"));
}
