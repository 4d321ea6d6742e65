//! `blockhost-provisioner-capacity`: what is left, in each form, and what is not known.

use crate::support::{Ended, command, edit_database, place, read, run, site, write};
use crate::world::{is_as_documented, is_harmless, large};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

fn capacity(lab: &Lab, arguments: &[&str]) -> Ended {
    run(&mut command(lab, "blockhost-provisioner-capacity", arguments))
}

/// As JSON, as it is documented.
fn counted(lab: &Lab) -> Value {
    let said = capacity(lab, &["--format", "json"]).ok();
    let all = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    is_as_documented("capacity.json", &all);
    all
}

/// A VM of ours in the pool, so that the token sees it, with so much memory in MB.
fn visible(lab: &Lab, vmid: u32, memory_mb: u32) {
    let config = [("memory".to_string(), memory_mb.to_string())].into();
    let (name, pool) = (format!("other-{vmid}"), Some("blockhost".to_string()));
    lab.control().add_guest(NewGuest { vmid, name, config, pool, ..NewGuest::default() }).unwrap();
}

fn set_key(lab: &Lab, line: &str) {
    let path = lab.path("etc/blockhost/db.yaml");
    write(&path, &format!("{}{line}\n", read(&path)));
}

#[test]
fn each_resource_is_counted_and_nothing_is_changed() {
    let lab = site();
    visible(&lab, 105, 4096);
    let before = (lab.control().snapshot().unwrap(), std::fs::read(lab.path("var/vms.json")).unwrap());
    let since = lab.control().last_call().unwrap();
    let all = counted(&lab);
    let calls = lab.control().calls(since).unwrap();
    assert_eq!((lab.control().snapshot().unwrap(), std::fs::read(lab.path("var/vms.json")).unwrap()), before);
    let asked: Vec<String> = calls.iter().map(|call| format!("{} {}", call.kind, call.what)).collect();
    let count = |what: &str| asked.iter().filter(|call| call.contains(what)).count();
    assert_eq!(
        [count("/cluster/resources"), count("agent guest-list"), count("api GET")],
        [1, 1, 2],
        "{asked:?}"
    );
    assert_eq!(count("agent "), 1, "{asked:?}");

    let numbers = |key: &str| {
        [&all[key]["total"], &all[key]["free"], &all[key]["more_vms"]].map(|n| n.as_u64().unwrap())
    };
    assert_eq!(numbers("vmids"), [900, 898, 898], "one of ours, one of somebody else");
    assert_eq!(numbers("ipv4"), [51, 51, 51], "its address is outside of the pool: {all:#}");
    assert_eq!(numbers("ipv6")[0], 253);
    let memory = &all["memory"];
    let figure = |key: &str| memory[key].as_u64().unwrap();
    assert_eq!(
        [figure("total_bytes"), figure("used_bytes"), figure("promised_bytes")],
        [32, 8, 4].map(|n| n * GIB)
    );
    assert_eq!(
        [&memory["node"], &memory["more_vms"], &memory["refuses"]],
        [&json!("pve"), &json!(14), &json!(false)]
    );
    let storage = &all["storages"][0];
    assert_eq!([&storage["storage"], &storage["type"], &storage["limit"]], ["local-lvm", "lvmthin", "known"]);
    assert_eq!(storage["total_bytes"], 4096 * GIB);
    assert_eq!([&all["more_vms"], &all["runs_out_first"]], [&json!(14), &json!(["memory"])]);
    assert_eq!([&all["not_known"], &all["nodes"][0]["status"]], [&json!([]), &json!("online")]);

    let text = capacity(&lab, &[]).ok().out;
    for line in [
        "RESOURCE                          TOTAL   IN USE        FREE  MORE VMS\n",
        "VMIDs                               900        2         898       898\n",
        "memory promised                32.0 GiB  4.0 GiB    28.0 GiB        14\n",
        "\n14 more VMs of the usual size fit (1 vCPU, 2048 MB memory, 20 GB disk); runs out first: memory\n",
        "create does not look at memory: overcommit_memory is not set in db.yaml\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(!text.contains("not known") && !text.contains("Not known"), "{text}");
}

#[test]
fn what_has_least_room_runs_out_first() {
    let lab = site();
    let first = |lab: &Lab| {
        let all = counted(lab);
        (all["more_vms"].as_u64(), all["runs_out_first"][0].as_str().map(str::to_string))
    };
    let is = |vms: u64, name: &str| (Some(vms), Some(name.to_string()));
    assert_eq!(first(&lab), is(16, "memory"));
    set_key(&lab, "overcommit_memory: 0.25");
    assert_eq!(first(&lab), is(4, "memory"));
    assert_eq!(counted(&lab)["memory"]["overcommit_memory"], json!(0.25));
    // Its template has 2 GiB: 3 VMs write 6 GiB.
    let storage = |bytes: u64| lab.control().storage("local-lvm", Some(bytes), None).unwrap();
    let used = counted(&lab)["storages"][0]["used_bytes"].as_u64().unwrap();
    let taken = counted(&lab)["storages"][0]["bytes_per_vm"].as_u64().unwrap();
    storage(used + 3 * taken + taken / 2);
    assert_eq!(counted(&lab)["storages"][0]["more_vms"], 0, "too small for a single disk of 20 GB");
    storage(30 * GIB + used);
    assert_eq!(counted(&lab)["storages"][0]["more_vms"], 30 * GIB / taken);
    assert_eq!(counted(&lab)["storages"][0]["more_vms_if_disks_fill"], 1);
    set_key(&lab, "storage_reserve_percent: 95");
    let left = counted(&lab)["storages"][0]["more_vms"].as_u64().unwrap();
    assert!(left < 2, "{left}");
    storage(4096 * GIB);
    let path = lab.path("etc/blockhost/db.yaml");
    let yaml = read(&path);
    write(&path, &yaml.replace("end: 999", "end: 101"));
    assert_eq!(first(&lab), is(1, "vmids"));
    write(&path, &yaml);
    edit_database(&lab, |all| {
        all["allocated_ips"] = (200..249).map(|n| format!("192.168.122.{n}")).collect()
    });
    assert_eq!(first(&lab), is(2, "ipv4"));
    edit_database(&lab, |all| {
        all["allocated_ips"] = (200..=250).map(|n| format!("192.168.122.{n}")).collect()
    });
    assert_eq!(first(&lab), is(0, "ipv4"));
    let text = capacity(&lab, &[]).ok().out;
    assert!(text.contains("no more VMs of the usual size fit") && text.contains("used up: ipv4\n"), "{text}");
}

#[test]
fn prometheus_text_is_what_promtool_takes() {
    let lab = site();
    visible(&lab, 105, 4096);
    let said = capacity(&lab, &["--format", "prometheus"]).ok();
    for line in [
        "blockhost_capacity_vms 14\n",
        "blockhost_capacity_resource_vms{resource=\"memory\"} 14\n",
        "blockhost_capacity_vmids_free 898\n",
        "blockhost_capacity_addresses{family=\"ipv4\"} 51\n",
        "blockhost_capacity_memory_promised_bytes{node=\"pve\"} 4294967296\n",
        "blockhost_capacity_storage_size_bytes{storage=\"local-lvm\"} 4398046511104\n",
        "blockhost_capacity_node_online{node=\"pve\"} 1\n",
    ] {
        assert!(said.out.contains(line), "{line:?} is not in {said:?}");
    }
    test_support::promtool(&said.out);
}

#[test]
fn h20_h23_h49_what_is_down_is_not_known_and_never_zero() {
    let lab = site();
    let control = lab.control();
    let unknown = |all: &Value, keys: &[&str]| {
        for key in ["vmids", "ipv4", "ipv6", "memory"] {
            let (limit, is_null) = (all[key]["limit"].as_str().unwrap(), all[key]["more_vms"].is_null());
            assert_eq!(
                (limit == "unknown", is_null),
                (keys.contains(&key), keys.contains(&key)),
                "{key}: {all:#}"
            );
        }
        assert_eq!(all["more_vms"], Value::Null, "{all:#}");
        assert!(!all["not_known"].as_array().unwrap().is_empty(), "{all:#}");
    };
    // The node itself is off, as the rest of the cluster sees it.
    control.peer("pve", false, 32 * GIB).unwrap();
    let all = counted(&lab);
    unknown(&all, &["memory"]);
    assert_eq!(
        [&all["nodes"][0]["status"], &all["nodes"][0]["memory_bytes"]],
        [&json!("offline"), &Value::Null]
    );
    assert!(capacity(&lab, &[]).ok().out.contains("node pve is offline\n"));
    control.peer("pve", true, 32 * GIB).unwrap();
    // Another one: its VMs take nothing here.
    control.peer("pve2", false, 32 * GIB).unwrap();
    visible(&lab, 105, 4096);
    control.migrate(105, "pve2").unwrap();
    let all = counted(&lab);
    assert_eq!([&all["memory"]["promised_bytes"], &all["more_vms"]], [&json!(0), &json!(16)], "{all:#}");
    assert_eq!(all["nodes"][1]["status"], "offline");
    // A storage.
    control.storage("local-lvm", None, Some(false)).unwrap();
    let all = counted(&lab);
    unknown(&all, &[]);
    let storage = &all["storages"][0];
    assert_eq!(
        [&storage["limit"], &storage["total_bytes"], &storage["free_bytes"]],
        [&json!("unknown"), &Value::Null, &Value::Null]
    );
    control.storage("local-lvm", None, Some(true)).unwrap();
    // The API: slow, refusing, talking nonsense.
    for fault in [
        FaultAction::Hang,
        FaultAction::error("no"),
        FaultAction::Error { message: "down".into(), code: Some(595) },
    ] {
        control.fault("api.GET /cluster/resources*", fault.clone(), 9).unwrap();
        let mut command = command(&lab, "blockhost-provisioner-capacity", &["--format", "json"]);
        let said = run(command.env("BLOCKHOST_FAULT", "limit@capacity=700")).ok();
        unknown(&serde_json::from_str(&said.out).unwrap(), &["memory"]);
        control.clear_faults().unwrap();
    }
    // The root agent.
    control.stop_root_agent().unwrap();
    let all = counted(&lab);
    unknown(&all, &["vmids", "ipv4", "ipv6"]);
    assert_eq!([&all["more_vms_at_most"], &all["runs_out_first"]], [&json!(16), &json!(["memory"])]);
    let text = capacity(&lab, &[]).ok().out;
    for words in
        ["at most 16 more VMs", "of what is known runs out first: memory\n", "\nNot known:\n", "root agent"]
    {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    let text = capacity(&lab, &["--format", "prometheus"]).ok().out;
    assert!(!text.contains("vmids") && !text.contains("blockhost_capacity_vms "), "{text}");
    test_support::promtool(&text);
    // All of it.
    std::fs::remove_file(lab.path("etc/blockhost/pve-token")).unwrap();
    std::fs::remove_file(lab.path("var/terraform/terraform.tfvars")).unwrap();
    let all = counted(&lab);
    unknown(&all, &["vmids", "ipv4", "ipv6", "memory"]);
    assert_eq!([&all["more_vms_at_most"], &all["storages"]], [&Value::Null, &json!([])]);
    assert_eq!(capacity(&lab, &["--format", "prometheus"]).ok().out, "");
    assert!(capacity(&lab, &[]).ok().out.contains("is not known\n"));
}

#[test]
fn h49_a_guest_whose_configuration_cannot_be_read_makes_the_pools_unknown() {
    let lab = site();
    lab.control().mount_etc_pve(false).unwrap();
    let all = counted(&lab);
    assert_eq!([&all["vmids"]["free"], &all["ipv4"]["free"]], [&Value::Null; 2], "{all:#}");
}

#[test]
fn a_vm_of_the_last_seconds_is_not_measured_and_makes_memory_unknown() {
    let lab = Lab::builder().no_terraform().node(|node| node.resources_lag = 60_000).start().unwrap();
    visible(&lab, 105, 4096);
    let all = counted(&lab);
    assert_eq!([&all["memory"]["limit"], &all["memory"]["vms_not_measured"]], [&json!("unknown"), &json!(1)]);
    assert!(capacity(&lab, &[]).ok().out.contains(" or more"), "{all:#}");
}

#[test]
fn h10_h11_a_database_that_cannot_be_read_makes_the_pools_unknown() {
    let lab = site();
    write(&lab.path("var/vms.json"), "{\"vms\": {");
    let all = counted(&lab);
    assert_eq!([&all["vmids"]["free"], &all["ipv4"]["free"]], [&Value::Null; 2], "{all:#}");
    assert!(all["not_known"][0].as_str().unwrap().contains("vms.json"), "{all:#}");
    assert_eq!(all["memory"]["limit"], "known");
    // Without settings there is nothing to count.
    write(&lab.path("etc/blockhost/db.yaml"), "- a\n");
    capacity(&lab, &[]).fails(&["db.yaml", "found a list"]);
}

#[test]
fn ten_thousand_records_are_counted_in_every_form() {
    let lab = site();
    large(&lab, 10_000);
    let path = lab.path("etc/blockhost/db.yaml");
    write(&path, &read(&path).replace("end: 999", "end: 99999"));
    let all = counted(&lab);
    // A third of them is destroyed and holds nothing; VMID 100 has a guest, too.
    assert_eq!(
        [&all["vmids"]["total"], &all["vmids"]["free"]],
        [&json!(99_900), &json!(99_900 - 6_667)],
        "{all:#}"
    );
    for arguments in [&[][..], &["--format", "prometheus"]] {
        let text = capacity(&lab, arguments).ok().out;
        assert!(text.contains("93233"), "{text}");
        assert!(text.len() < 5_000, "{}", text.len());
    }
}

#[test]
fn h26_names_of_the_cluster_command_no_terminal() {
    let lab = site();
    place(&lab, 101, "web-2");
    lab.control().migrate(101, crate::world::HOSTILE).unwrap();
    lab.control().peer(crate::world::HOSTILE, false, 1).unwrap();
    is_harmless(&capacity(&lab, &[]).ok().out, false);
    test_support::promtool(&capacity(&lab, &["--format", "prometheus"]).ok().out);
}
