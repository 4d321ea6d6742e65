//! Which VMID and addresses a create gets (`facts/contract/database.md#allocation`; hazards H01, H13).

use crate::support::{Ended, WALLET, assert_same_content, create, database, host_tree, vm, with_key};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::{Value, json};

fn given(ended: Ended) -> (u64, String, Value) {
    let result = ended.result();
    (result["vmid"].as_u64().unwrap(), result["ip"].as_str().unwrap().to_string(), result["ipv6"].clone())
}

fn stranger(vmid: u32) -> NewGuest {
    NewGuest { vmid, name: format!("stranger-{vmid}"), ..NewGuest::default() }
}

#[test]
fn h01_h13_vmids_go_upward_wrap_and_skip_what_exists_on_the_node() {
    let lab = with_key(Lab::builder().vmid_range(100, 104).start().unwrap());
    lab.control().add_guests(vec![stranger(101), stranger(103)]).unwrap();
    let strangers = |lab: &Lab| {
        let all = lab.control().snapshot().unwrap().guests;
        all.into_iter().filter(|(id, _)| [101, 103, 9001].contains(id)).collect::<Vec<_>>()
    };
    let before = strangers(&lab);
    assert_eq!(given(create(&lab, "vm-1", &[])).0, 100);
    assert_eq!(given(create(&lab, "vm-2", &[])).0, 102);
    // 102 comes back at once on the node, but here the number goes on to the end of the range first.
    vm(&lab, "destroy", &["vm-2"]).ok();
    assert_eq!(given(create(&lab, "vm-3", &[])).0, 104);
    assert_eq!(database(&lab)["next_vmid"], 100, "the range starts over");
    assert_eq!(given(create(&lab, "vm-4", &[])).0, 102, "the lowest that is not held");
    let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
    let refused = create(&lab, "vm-5", &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("no VMID is free") && refused.err.contains("100-104"), "{refused:?}");
    assert_same_content(&host, &host_tree(&lab), "exhausted");
    assert_eq!(node, lab.control().snapshot().unwrap());
    vm(&lab, "destroy", &["vm-1"]).ok();
    assert_eq!(given(create(&lab, "vm-5", &[])).0, 100);
    let wish = create(&lab, "vm-6", &["--vmid", "103"]);
    wish.fails_in_one_line(&["VMID 103", "exists on the node"]);
    assert_eq!(before, strangers(&lab), "strangers are left alone");
}

#[test]
fn h01_the_template_in_the_range_is_skipped() {
    let lab = with_key(Lab::builder().vmid_range(9000, 9003).start().unwrap());
    assert_eq!(given(create(&lab, "vm-1", &[])).0, 9000);
    assert_eq!(given(create(&lab, "vm-2", &[])).0, 9002);
    assert!(lab.control().snapshot().unwrap().guests[&9001].template);
}

#[test]
fn h13_the_lowest_free_addresses_come_back_and_their_end_is_said() {
    let lab = with_key(Lab::builder().ip_pool(0, 4).start().unwrap());
    // Of .0 to .4 the network and the gateway are nobody's.
    assert_eq!(given(create(&lab, "vm-1", &[])), (100, "192.168.122.2".into(), "2a11:6c7:f04:276::2".into()));
    assert_eq!(given(create(&lab, "vm-2", &[])), (101, "192.168.122.3".into(), "2a11:6c7:f04:276::3".into()));
    vm(&lab, "destroy", &["vm-1"]).ok();
    assert_eq!(given(create(&lab, "vm-3", &[])), (102, "192.168.122.2".into(), "2a11:6c7:f04:276::2".into()));
    assert_eq!(given(create(&lab, "vm-4", &[])).1, "192.168.122.4");
    let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
    let words = ["IP pool exhausted", "192.168.122.0-192.168.122.4", "3 of 3 addresses", "in use"];
    vm(&lab, "create", &["vm-5", "--owner-wallet", WALLET]).fails_in_one_line(&words);
    create(&lab, "vm-5", &[]).fails_in_one_line(&words);
    assert_same_content(&host, &host_tree(&lab), "exhausted");
    assert_eq!(node, lab.control().snapshot().unwrap());
    // Addresses that only the list holds (a live record was dropped by somebody) are held.
    vm(&lab, "destroy", &["vm-2"]).ok();
    let mut db = database(&lab);
    db["allocated_ips"].as_array_mut().unwrap().push("192.168.122.3".into());
    std::fs::write(lab.path("var/vms.json"), db.to_string()).unwrap();
    create(&lab, "vm-5", &[]).fails_in_one_line(&words);
    // And those that only a record holds, too.
    db["allocated_ips"] = json!([]);
    std::fs::write(lab.path("var/vms.json"), db.to_string()).unwrap();
    assert_eq!(given(create(&lab, "vm-5", &[])).1, "192.168.122.3");
}

/// What a dry run would give, on a host with this db.yaml and this database.
fn would_get(lab: &Lab, more: &[&str]) -> Ended {
    let mut arguments = vec!["vm-x", "--no-web3"];
    arguments.extend(more);
    vm(lab, "create", &arguments)
}

fn set_db(lab: &Lab, next: u32, ips: &[String], ipv6: &[String]) {
    let db = json!({"vms": {}, "next_vmid": next, "allocated_ips": ips, "allocated_ipv6": ipv6});
    std::fs::write(lab.path("var/vms.json"), db.to_string()).unwrap();
}

#[test]
fn h13_pools_of_other_shapes() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    let path = lab.path("etc/blockhost/db.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap();
    let old = "ip_pool:\n  network: 192.168.122.0/24\n  start: 200\n  end: 250\n  gateway: 192.168.122.1\n";
    assert!(yaml.contains(old));
    let pool = |text: &str| std::fs::write(&path, yaml.replace(old, text)).unwrap();
    let held = |list: &[&str]| list.iter().map(|a| (*a).to_string()).collect::<Vec<_>>();

    // Across octets, ends as full addresses and as digits in quotes.
    pool("ip_pool: {network: 10.0.0.0/23, start: 10.0.0.254, end: 10.0.1.255, gateway: 10.0.1.1}\n");
    for (taken, next) in [
        (vec![], "10.0.0.254"),
        (held(&["10.0.0.254"]), "10.0.0.255"),
        (held(&["10.0.0.254", "10.0.0.255"]), "10.0.1.0"),
        (held(&["10.0.0.254", "10.0.0.255", "10.0.1.0"]), "10.0.1.2"),
    ] {
        set_db(&lab, 100, &taken, &[]);
        let ended = would_get(&lab, &[]).ok();
        assert!(ended.out.contains(&format!(" {next} (if")), "{next}: {ended:?}");
    }
    pool("ip_pool: {network: 10.0.0.0/30, start: '0', end: '3', gateway: '2'}\n");
    set_db(&lab, 100, &[], &[]);
    assert!(would_get(&lab, &[]).ok().out.contains(" 10.0.0.1 (if"));
    set_db(&lab, 100, &held(&["10.0.0.1"]), &[]);
    would_get(&lab, &[]).fails_in_one_line(&[
        "IP pool exhausted",
        "10.0.0.0-10.0.0.3",
        "1 of 1 addresses",
        "in use",
    ]);
    std::fs::write(&path, &yaml).unwrap();

    // next_vmid outside the range, missing, null: from the start.
    for next in [json!(5), json!(5000), json!(4_000_000_000_u32), Value::Null] {
        let db = json!({"vms": {}, "next_vmid": next, "allocated_ips": [], "allocated_ipv6": []});
        std::fs::write(lab.path("var/vms.json"), db.to_string()).unwrap();
        assert!(would_get(&lab, &[]).ok().out.contains(" 100 (if"), "{next}");
    }
    std::fs::write(lab.path("var/vms.json"), r#"{"vms": {}}"#).unwrap();
    assert!(would_get(&lab, &[]).ok().out.contains(" 100 (if"));

    // IPv6: a prefix shorter than the pool ends it, and its exhaustion is said.
    let broker = lab.path("etc/blockhost/broker-allocation.json");
    std::fs::write(&broker, r#"{"prefix": "2a11::abcd/126", "mode": "manual", "x": 1}"#).unwrap();
    set_db(&lab, 100, &[], &[]);
    assert!(would_get(&lab, &[]).ok().out.contains(" 2a11::abce (if"));
    set_db(&lab, 100, &[], &held(&["2a11::abce"]));
    assert!(would_get(&lab, &[]).ok().out.contains(" 2a11::abcf (if"));
    set_db(&lab, 100, &[], &held(&["2a11::abce", "2a11:0:0::ABCF"]));
    would_get(&lab, &[]).fails_in_one_line(&[
        "IPv6 pool exhausted",
        "2a11::abcc/126",
        "2 of 2 addresses",
        "in use",
    ]);
    std::fs::write(&path, yaml.replace("  start: 2\n  end: 254\n", "  start: 7\n  end: 7\n")).unwrap();
    std::fs::write(&broker, r#"{"prefix": "2a11::/64"}"#).unwrap();
    set_db(&lab, 100, &[], &[]);
    assert!(would_get(&lab, &[]).ok().out.contains(" 2a11::7 (if"));
    std::fs::remove_file(&broker).unwrap();
    let ended = would_get(&lab, &[]).ok();
    assert!(ended.out.lines().any(|l| l.contains("IPv6 address") && l.ends_with("none")), "{ended:?}");
    would_get(&lab, &["--ipv6", "2a11::7"]).fails_in_one_line(&["no broker-allocation.json"]);
}

#[test]
fn h13_what_a_failed_create_took_comes_back() {
    let lab = with_key(Lab::builder().vmid_range(100, 101).ip_pool(200, 201).start().unwrap());
    let before = database(&lab);
    for point in ["provider.create.clone", "api.POST /nodes/*/qemu/*/clone", "provider.create.start"] {
        lab.control().fault(point, FaultAction::error("the storage is on fire"), 1).unwrap();
        let ended = create(&lab, "vm-1", &[]);
        lab.control().clear_faults().unwrap();
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{point}: {ended:?}");
        assert!(ended.err.contains("on fire"), "{point}: {ended:?}");
        assert_eq!(before, database(&lab), "{point}");
    }
    let result = create(&lab, "vm-1", &[]).result();
    assert_eq!((&result["vmid"], &result["ip"]), (&100.into(), &"192.168.122.200".into()));
}

#[test]
fn without_a_broker_there_is_no_ipv6() {
    let lab = with_key(Lab::builder().no_ipv6().start().unwrap());
    assert_eq!(given(create(&lab, "vm-1", &[])), (100, "192.168.122.200".into(), Value::Null));
    let db = database(&lab);
    assert_eq!((&db["vms"]["vm-1"]["ipv6_address"], &db["allocated_ipv6"]), (&Value::Null, &json!([])));
}
