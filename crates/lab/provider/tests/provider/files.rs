//! VMs as the older package made them: with their user data as a file resource, without a VMID.

use crate::{
    pve::Pve,
    workdir::{BOTH, NEW, OLD, Workdir},
};
use serde_json::json;
use std::fs;

const FILE: &str = "proxmox_virtual_environment_file.cloud_config_web_001";
const VM: &str = "proxmox_virtual_environment_vm.web_001";
const VOLUME: &str = "local:snippets/web-001-cloud-config.yaml";

fn legacy(version: &'static str, pve: &Pve) -> Workdir {
    let workdir = Workdir::new(version, pve);
    let source = workdir.path("wd/web-001-cloud-config.yaml");
    fs::write(&source, "#cloud-config\nhostname: web-001\n").unwrap();
    workdir.write(
        "web-001.tf.json",
        &json!({"resource": {
            "proxmox_virtual_environment_vm": {"web_001": {"name": "web-001", "node_name": "pve", "clone": {"vm_id": 9001},
                "cpu": {"cores": 1}, "memory": {"dedicated": 2048}, "disk": {"datastore_id": "local", "size": 20, "interface": "scsi0"},
                "agent": {"enabled": true}, "initialization": {"datastore_id": "local",
                    "ip_config": {"ipv4": {"address": "192.168.122.200/24", "gateway": "192.168.122.1"}},
                    "user_account": {"username": "admin", "keys": []},
                    "user_data_file_id": format!("${{{FILE}.id}}")}}},
            "proxmox_virtual_environment_file": {"cloud_config_web_001": {"content_type": "snippets", "datastore_id": "local",
                "node_name": "pve", "source_file": {"path": source, "file_name": "web-001-cloud-config.yaml"}}}}}),
    );
    workdir
}

#[test]
fn applied_refreshed_and_destroyed() {
    for version in BOTH {
        let pve = Pve::start();
        let workdir = legacy(version, &pve);
        workdir.ok(&["apply"]);
        assert_eq!(pve.node().snippets[VOLUME], "#cloud-config\nhostname: web-001\n");
        let config = pve.node().guests[&100].config.clone();
        assert_eq!(config["cicustom"], format!("user={VOLUME}"));
        assert_eq!(config["ipconfig0"], "gw=192.168.122.1,ip=192.168.122.200/24");
        assert_eq!((&config["ciuser"], config.get("sshkeys")), (&json!("admin"), None));
        assert!(config["scsi0"].as_str().unwrap().starts_with("local:vm-100-disk-0"));
        let asked: Vec<String> = pve.take_requests().iter().take(5).map(|seen| seen.line()).collect();
        assert_eq!(
            asked,
            [
                "GET /version",
                "GET /nodes/pve/storage/local/content?content=snippets",
                "GET /storage/local",
                "GET /version",
                "GET /nodes/pve/storage/local/content?content=snippets",
            ]
        );
        workdir.ok(&["plan"]);

        // the VM alone leaves its file behind
        pve.take_requests();
        workdir.ok(&["destroy", "-target", VM]);
        let changes = pve.take_requests().into_iter().filter(|seen| seen.method != "GET");
        assert_eq!(
            changes.map(|seen| seen.line()).collect::<Vec<_>>(),
            [
                "POST /nodes/pve/qemu/100/status/shutdown  forceStop=1  timeout=1800",
                "DELETE /nodes/pve/qemu/100/?destroy-unreferenced-disks=1&purge=1"
            ]
        );
        assert_eq!(workdir.state().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [FILE]);
        assert!(!pve.node().guests.contains_key(&100) && pve.node().snippets.len() == 1);
        pve.take_requests();
        workdir.ok(&["destroy", "-target", FILE]);
        let deleted =
            pve.take_requests().iter().map(|seen| seen.line()).find(|line| line.starts_with("DELETE"));
        let volume = "local:snippets%2Fweb-001-cloud-config.yaml";
        assert_eq!(deleted, Some(format!("DELETE /nodes/pve/storage/local/content/{volume}")));
        assert!(workdir.state().is_empty() && pve.node().snippets.is_empty());
    }
}

#[test]
fn a_source_that_vanished_replaces_file_and_vm() {
    let pve = Pve::start();
    let workdir = legacy(NEW, &pve);
    workdir.ok(&["apply"]);
    fs::write(workdir.path("wd/web-001-cloud-config.yaml"), "edited").unwrap();
    workdir.ok(&["plan"]);
    fs::remove_file(workdir.path("wd/web-001-cloud-config.yaml")).unwrap();
    let plan = workdir.run(&["plan"]);
    assert!(plan.text.contains("2 to add, 0 to change, 2 to destroy"), "{}", plan.text);
    // the VM is gone before it is found that the file cannot be made again
    assert!(workdir.fails(&["apply"]).contains("failed to open"));
    assert!(!pve.node().guests.contains_key(&100) && pve.node().snippets.is_empty());
}

#[test]
fn a_snippet_removed_on_the_node_is_dropped() {
    let pve = Pve::start();
    let workdir = legacy(OLD, &pve);
    workdir.ok(&["apply", "-target", FILE]);
    pve.node().snippets.clear();
    let plan = workdir.run(&["plan", "-target", FILE]);
    assert!(plan.text.contains("1 to add, 0 to change, 0 to destroy"), "{}", plan.text);
    // gone already is fine for a delete
    workdir.ok(&["destroy", "-target", FILE, "-refresh=false"]);
    assert!(workdir.state().is_empty());
}

#[test]
fn an_api_without_the_lab_cannot_take_snippets() {
    let pve = Pve::start();
    pve.node().lab = None;
    let workdir = legacy(NEW, &pve);
    assert!(workdir.fails(&["apply"]).contains("the API has no /lab/snippet"));
    assert!(workdir.state().is_empty());
}
