//! A root agent or an API that is silent, slow, down or talks nonsense is a finding, and never a wait without end.

use crate::support::*;
use lab::model::FaultAction;
use std::time::{Duration, Instant};

fn timed(lab: &lab::Lab, rules: &str) -> Vec<String> {
    let began = Instant::now();
    let json = examined(lab, &[], rules);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    codes_of(json["findings"].as_array().unwrap())
}

#[test]
fn h20_h23_h24_a_bad_root_agent_is_one_finding() {
    let lab = healthy();
    let control = lab.control();
    for (fault, code) in [
        (FaultAction::Hang, "root-agent-down"),
        (FaultAction::Garbage, "root-agent-down"),
        (FaultAction::Huge, "root-agent-down"),
        (FaultAction::Kill, "root-agent-down"),
        (FaultAction::error("/etc/pve is empty"), "root-agent-fails"),
    ] {
        control.fault("agent.guest-list", fault.clone(), 1).unwrap();
        assert_eq!(timed(&lab, "limit@doctor=1500"), [code], "{fault:?}");
        control.clear_faults().unwrap();
    }
    control.fault("agent.vm-state", FaultAction::error("busy"), 1).unwrap();
    assert_eq!(timed(&lab, ""), ["vm-not-checked"]);
    control.clear_faults().unwrap();
    control.fault("agent.volume-list", FaultAction::error("storage 'x' is not online"), 1).unwrap();
    assert_eq!(timed(&lab, ""), ["volumes-unreadable"]);
    control.clear_faults().unwrap();
    for action in ["guest-list", "host-inventory"] {
        control
            .fault(&format!("agent.{action}"), FaultAction::error(format!("Unknown action: {action}")), 1)
            .unwrap();
        assert_eq!(timed(&lab, ""), ["plugin-outdated"], "{action}");
        control.clear_faults().unwrap();
    }
    control.mount_etc_pve(false).unwrap();
    let found = timed(&lab, "");
    assert!(
        found.contains(&"root-agent-fails".to_string()) && !found.contains(&"vm-missing".to_string()),
        "H49: {found:?}"
    );
    control.mount_etc_pve(true).unwrap();
    control.stop_root_agent().unwrap();
    assert_eq!(timed(&lab, ""), ["root-agent-down"]);
    SEEN.lock().unwrap().extend(
        ["root-agent-down", "root-agent-fails", "vm-not-checked", "volumes-unreadable", "plugin-outdated"]
            .map(str::to_string),
    );
}

#[test]
fn h22_h23_a_bad_api_is_one_finding() {
    let lab = healthy();
    let control = lab.control();
    for fault in [FaultAction::Hang, FaultAction::Error { message: "down".into(), code: Some(595) }] {
        control.fault("api.GET /version", fault.clone(), 1_000).unwrap();
        assert_eq!(timed(&lab, "limit@doctor=1500"), ["api-unreachable"], "{fault:?}");
        control.clear_faults().unwrap();
    }
    // One request that fails takes only what it would have told.
    control.fault("api.GET /access/permissions", FaultAction::error("no"), 1).unwrap();
    assert_eq!(timed(&lab, ""), [""; 0]);
    control.clear_faults().unwrap();
    SEEN.lock().unwrap().insert("api-unreachable".into());
}

#[test]
fn h23_tools_of_the_host_that_hang_or_fail_are_given_up() {
    let lab = healthy();
    let slow = |name: &str, script: &str| {
        let path = lab.path(format!("bin/{name}"));
        let before = std::fs::read(&path).ok();
        write(&path, &format!("#!/bin/sh\n{script}\n"));
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let found = timed(&lab, "");
        std::fs::remove_file(&path).unwrap();
        if let Some(before) = before {
            std::fs::write(&path, before).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        found
    };
    assert_eq!(slow("systemctl", "sleep 60"), [""; 0]);
    assert_eq!(slow("terraform", "sleep 60"), [""; 0]);
    assert_eq!(slow("ip", "exit 1"), ["network-unreadable"]);
    SEEN.lock().unwrap().insert("network-unreadable".into());
}
