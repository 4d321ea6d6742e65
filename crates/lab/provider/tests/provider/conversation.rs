//! The conversation with the API, call by call.

use crate::{
    pve::{Pve, Seen, TOKEN},
    workdir::{ADDRESS, BOTH, NEW, OLD, Workdir, fixture, small_vm, with},
};
use serde_json::{Value, json};

/// The recorded VM.
fn full_vm() -> Value {
    json!({"node_name": "pve", "vm_id": 101, "name": "web-1", "pool_id": "blockhost", "tags": ["blockhost"],
        "description": "BlockHost VM web-1 3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f",
        "on_boot": true, "started": true, "stop_on_destroy": true, "purge_on_destroy": true,
        "delete_unreferenced_disks_on_destroy": true, "reboot_after_update": false,
        "timeout_clone": 900, "timeout_start_vm": 180, "timeout_stop_vm": 120, "timeout_shutdown_vm": 120,
        "clone": {"vm_id": 9001, "full": true, "retries": 1, "datastore_id": "local-lvm"},
        "agent": {"enabled": true, "timeout": "20s", "type": "virtio", "trim": false},
        "cpu": {"cores": 2, "sockets": 1, "type": "x86-64-v2-AES"}, "memory": {"dedicated": 2048, "floating": 2048},
        "disk": [{"interface": "scsi0", "datastore_id": "local-lvm", "size": 20, "discard": "on", "ssd": true, "iothread": true}],
        "network_device": [{"bridge": "vmbr0", "model": "virtio", "firewall": false, "mac_address": null, "disconnected": null,
            "enabled": null, "mtu": null, "queues": null, "rate_limit": null, "trunks": null, "vlan_id": null}],
        "operating_system": {"type": "l26"}, "serial_device": [{"device": "socket"}], "scsi_hardware": "virtio-scsi-single",
        "smbios": {"uuid": "3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f"},
        "initialization": {"datastore_id": "local-lvm", "interface": "ide2", "dns": {"servers": ["192.0.2.53"]},
            "user_data_file_id": "local:snippets/blockhost-web-1-user.yaml",
            "meta_data_file_id": "local:snippets/blockhost-web-1-meta.yaml",
            "ip_config": [{"ipv4": {"address": "192.0.2.10/24", "gateway": "192.0.2.1"},
                "ipv6": {"address": "2001:db8::10/64", "gateway": "2001:db8::1"}}]}})
}

fn lines(requests: &[Seen]) -> Vec<String> {
    requests.iter().map(Seen::line).collect()
}

#[test]
fn apply_plan_and_destroy_as_recorded() {
    for (version, name) in [(OLD, "conversation-0.93.txt"), (NEW, "conversation-0.111.txt")] {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&with(full_vm(), "lifecycle", json!({"ignore_changes": "all"})));
        let mut seen = Vec::new();
        let mut all = Vec::new();
        for step in ["apply", "plan", "destroy"] {
            workdir.ok(&[step]);
            let requests = pve.take_requests();
            seen.push(format!("== {step}"));
            seen.extend(lines(&requests));
            all.extend(requests);
        }
        let expected = fixture(name);
        let expected: Vec<&str> = expected.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(seen, expected, "{version}");
        assert!(workdir.state().is_empty());
        assert!(!pve.node().guests.contains_key(&101));

        for request in all {
            let form = "application/x-www-form-urlencoded";
            assert_eq!(
                request.content_type.as_deref(),
                (!request.form.is_empty()).then_some(form),
                "{request:?}"
            );
            assert_eq!(request.authorization, Some(format!("PVEAPIToken={TOKEN}")));
        }
    }
}

#[test]
fn without_ignored_changes_nothing_is_to_be_done_either() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&with(full_vm(), "tags", json!(["zoo", " blockhost"])));
        workdir.ok(&["apply"]);
        assert_eq!(pve.node().guests[&101].config["tags"], "blockhost;zoo");
        workdir.ok(&["plan"]);
        // what the node says is what the state says
        let vm = &workdir.instance()["attributes"];
        assert_eq!((&vm["id"], &vm["vm_id"]), (&json!("101"), &json!(101)));
        assert_eq!(vm["ipv4_addresses"], json!([["127.0.0.1"], ["192.0.2.10"]]));
        assert_eq!(vm["network_interface_names"], json!(["lo", "eth0"]));
        assert_eq!(vm["disk"][0]["file_format"], "raw");
        assert_eq!(vm["network_device"][0]["mac_address"], "BC:24:11:AA:00:65");
        workdir.ok(&["destroy"]);
    }
}

#[test]
fn states_move_between_the_versions() {
    let pve = Pve::start();
    let workdir = Workdir::new(OLD, &pve);
    workdir.vm(&full_vm());
    workdir.ok(&["apply"]);
    let provider =
        json!({"endpoint": format!("https://127.0.0.1:{}", pve.port), "api_token": TOKEN, "insecure": true});
    for version in [NEW, OLD] {
        workdir.select(version, &provider);
        workdir.ok(&["plan"]);
    }
}

#[test]
fn a_small_vm_keeps_what_the_template_has() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        workdir.vm(&small_vm());
        workdir.ok(&["apply"]);
        let node = pve.node();
        let config = &node.guests[&101].config;
        assert_eq!(config["net0"], "virtio=BC:24:11:00:01:65,bridge=vmbr0");
        assert_eq!((&config["agent"], &config["serial0"]), (&json!("1"), &json!("socket")));
        let puts = node.requests.iter().filter(|seen| seen.method == "PUT" && seen.path.ends_with("/config"));
        assert!(
            puts.clone().all(|seen| seen.form.get("delete").is_none_or(|deleted| deleted == "ide2")),
            "{puts:?}"
        );
        drop(node);
        workdir.ok(&["plan"]);
        workdir.ok(&["destroy"]);
        assert!(!pve.node().guests.contains_key(&101));
    }
}

#[test]
fn numbers_are_allocated_one_by_one() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    let mut vm = small_vm();
    vm.as_object_mut().unwrap().remove("vm_id");
    let vms = json!({"web": vm, "b": with(vm.clone(), "name", json!("b")), "c": with(vm.clone(), "name", json!("c"))});
    workdir.write("web.tf.json", &json!({"resource": {"proxmox_virtual_environment_vm": vms}}));
    workdir.ok(&["apply"]);
    let ids: Vec<i64> = pve.node().guests.keys().copied().collect();
    assert_eq!(ids, [100, 101, 102, 9001]);
    let asked: Vec<_> =
        lines(&pve.take_requests()).into_iter().filter(|line| line.contains("nextid")).collect();
    let asked: Vec<&str> = asked.iter().map(|line| line.trim_start_matches("GET /cluster/nextid")).collect();
    assert_eq!(asked, ["", "?vmid=101", "?vmid=102"]);
    workdir.ok(&["plan"]);
}

#[test]
fn a_disk_moves_to_the_storage_it_should_be_on() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&with(small_vm(), "disk", json!({"interface": "scsi0", "datastore_id": "fast", "size": 3})));
    workdir.ok(&["apply"]);
    let moves: Vec<_> =
        lines(&pve.take_requests()).into_iter().filter(|line| line.contains("move_disk")).collect();
    assert_eq!(moves, ["POST /nodes/pve/qemu/101/move_disk  delete=1  disk=scsi0  storage=fast"]);
    workdir.ok(&["plan"]);
}

#[test]
fn changes_in_place() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    workdir.vm(&small_vm());
    workdir.ok(&["apply"]);
    pve.take_requests();

    let mut vm = with(small_vm(), "memory", json!({"dedicated": 1024}));
    vm["disk"]["size"] = json!(5);
    vm["name"] = json!("web-2");
    vm["reboot_after_update"] = json!(false);
    workdir.vm(&vm);
    assert!(workdir.ok(&["apply"]).contains("0 added, 1 changed, 0 destroyed"));
    let changes: Vec<_> =
        lines(&pve.take_requests()).into_iter().filter(|line| !line.starts_with("GET")).collect();
    let disk = "PUT /nodes/pve/qemu/101/config  scsi0=file=local-lvm:vm-101-disk-0";
    assert_eq!(changes[0], "PUT /nodes/pve/qemu/101/config  balloon=0  memory=1024  name=web-2");
    assert_eq!(changes[1..], ["PUT /nodes/pve/qemu/101/resize  disk=scsi0  size=5368709120"], "{disk}");

    // the machine was stopped by somebody: an apply starts it, `started: false` stops it
    pve.node().guests.get_mut(&101).unwrap().status = "stopped";
    workdir.ok(&["apply"]);
    assert_eq!(pve.node().guests[&101].status, "running");
    workdir.vm(&with(vm, "started", json!(false)));
    workdir.ok(&["apply"]);
    assert_eq!(pve.node().guests[&101].status, "stopped");
    workdir.ok(&["plan"]);
}

#[test]
fn an_imported_vm_can_be_destroyed_but_would_be_replaced() {
    let pve = Pve::start();
    let workdir = Workdir::new(NEW, &pve);
    pve.node().add(101, "running", &json!({"name": "web", "scsi0": "local-lvm:vm-101-disk-0,size=3G"}));
    workdir.vm(&small_vm());
    workdir.ok(&["import", ADDRESS, "pve/101"]);
    let plan = workdir.run(&["plan"]);
    assert_eq!(plan.code, Some(2));
    assert!(plan.text.contains("must be replaced"), "{}", plan.text);
    workdir.ok(&["destroy"]);
    assert!(!pve.node().guests.contains_key(&101));
}

#[test]
fn what_is_set_is_sent_and_read_back() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = Workdir::new(version, &pve);
        let mut vm = small_vm();
        let limit = if version == OLD { json!(2) } else { json!(1.5) };
        for (key, value) in [
            (
                "cpu",
                json!({"cores": 2, "sockets": 2, "numa": true, "limit": limit, "units": 200, "flags": ["+aes", "-pcid"], "type": "host"}),
            ),
            ("startup", json!({"order": 3, "up_delay": 60})),
            ("smbios", json!({"manufacturer": "A, B", "uuid": "3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f"})),
            ("serial_device", json!([{"device": "socket"}, {"device": "/dev/ttyS0"}])),
            (
                "network_device",
                json!([{"bridge": "vmbr1", "model": "e1000", "firewall": true, "vlan_id": 7, "mtu": 1400, "queues": 2,
                "rate_limit": 12.5, "trunks": "1;2", "disconnected": true, "mac_address": "BC:24:11:00:00:99", "enabled": true}]),
            ),
            ("on_boot", json!(false)),
            ("protection", json!(true)),
            ("machine", json!("q35")),
            (
                "initialization",
                json!({"interface": "ide0", "dns": {"domain": "example.org", "servers": ["192.0.2.1", "192.0.2.2"]},
                "user_account": {"username": "admin", "password": "p", "keys": ["ssh-ed25519 AAAA+b/c= me@there", "ssh-rsa B"]}}),
            ),
        ] {
            vm[key] = value;
        }
        vm["disk"]["speed"] = json!({"read": 100, "iops_write_burstable": 50});
        workdir.vm(&vm);
        workdir.ok(&["apply"]);
        let puts: Vec<_> = pve.take_requests().into_iter().filter(|seen| seen.method == "PUT").collect();
        assert_eq!(puts[0].line(), "PUT /nodes/pve/qemu/101/config  delete=ide0,ide2");
        let sent = &puts[1].form;
        for (key, value) in [
            ("cpu", "host,flags=+aes;-pcid"),
            ("cpulimit", if version == OLD { "2" } else { "1.5" }),
            ("cpuunits", "200"),
            ("numa", "1"),
            ("startup", "order=3,up=60"),
            ("smbios1", "base64=1,manufacturer=QSwgQg==,uuid=3d5c2f60-8f0b-4a59-9f4e-1a2b3c4d5e6f"),
            ("serial1", "/dev/ttyS0"),
            (
                "net0",
                "model=e1000,bridge=vmbr1,firewall=1,link_down=1,macaddr=BC:24:11:00:00:99,mtu=1400,queues=2,rate=12.5,tag=7,trunks=1;2",
            ),
            ("onboot", "0"),
            ("protection", "1"),
            ("machine", "q35"),
            ("ide0", "file=local-lvm:cloudinit,"),
            ("nameserver", "192.0.2.1 192.0.2.2"),
            ("searchdomain", "example.org"),
            ("ciuser", "admin"),
            ("sshkeys", "ssh-ed25519%20AAAA%2Bb%2Fc%3D%20me%40there%0Assh-rsa%20B"),
        ] {
            assert_eq!(sent.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(
            puts[2].form["scsi0"].contains(",backup=1,iops_wr_max=50,mbps_rd=100,iothread=0"),
            "{:?}",
            puts[2]
        );
        workdir.ok(&["plan"]);
    }
}
