//! Step bridge on real interfaces: the host keeps its address, whatever happens.

use super::namespace::{INTERFACES, Namespace};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const BEFORE: [&str; 2] = ["default via 192.0.2.1 dev eno1", "eno1 192.0.2.7/24"];
const AFTER: [&str; 2] = ["default via 192.0.2.1 dev vmbr0", "vmbr0 192.0.2.7/24"];

fn shared() -> Value {
    json!({"node": "pve", "bridge": "vmbr0", "ip_network": "192.0.2.0/24", "ip_start": "200", "ip_end": "250", "gateway": "192.0.2.1"})
}

fn own_network() -> Value {
    json!({"node": "pve", "bridge": "vmbr0", "ip_network": "10.1.0.0/24", "ip_start": "200", "ip_end": "250", "gateway": "10.1.0.1"})
}

#[track_caller]
fn fails(answer: &Value, words: &[&str]) {
    let error = answer["error"].as_str().unwrap();
    for word in words {
        assert!(error.contains(word), "{word:?}: {error}");
    }
}

/// As before: addresses, routes, files, and no guard.
#[track_caller]
fn is_untouched(host: &Namespace) {
    assert_eq!(host.picture(), BEFORE);
    assert_eq!(host.file("interfaces").as_deref(), Some(INTERFACES));
    assert_eq!(host.file("interfaces.new"), None);
    assert_eq!(host.guards(), 0);
    assert!(!host.sh("ip -o link").contains(" vmbr0:"));
}

#[test]
fn the_bridge_takes_over_the_uplink_and_its_address() {
    let host = Namespace::new();
    assert_eq!(host.bridge(&shared())["ok"], true);
    assert_eq!(host.picture(), AFTER);
    assert!(host.sh("ip -o link show eno1").contains("master vmbr0"));
    let file = host.file("interfaces").unwrap();
    assert!(
        file.contains("auto vmbr0\niface vmbr0 inet static\n\taddress 192.0.2.7/24\n\tgateway 192.0.2.1\n"),
        "{file}"
    );
    assert!(
        file.contains("bridge-ports eno1") && file.contains("auto eno1\niface eno1 inet manual\n"),
        "{file}"
    );
    assert_eq!(host.guards(), 0);
    // Again: nothing is asked of the node but a look.
    host.set_file("calls", "");
    assert_eq!(host.bridge(&shared())["ok"], true);
    assert_eq!(host.file("calls").unwrap(), "get /nodes/pve/network --output-format json\n");
}

#[test]
fn guests_of_a_network_of_their_own_get_a_bridge_beside_the_uplink() {
    let host = Namespace::new();
    assert_eq!(host.bridge(&own_network())["ok"], true);
    assert_eq!(host.picture(), [BEFORE[0], BEFORE[1], "vmbr0 10.1.0.1/24"]);
}

#[test]
fn h32_a_task_that_fails_with_exit_code_0_is_noticed_and_put_back() {
    for fault in ["apply-fails", "apply-half"] {
        let host = Namespace::new();
        host.fault(fault);
        let answer = host.bridge(&shared());
        fails(&answer, &["the network is as it was before", "vmbr0"]);
        is_untouched(&host);
        host.fault("");
        assert_eq!(host.bridge(&shared())["ok"], true, "{fault}: it can be run again");
        assert_eq!(host.picture(), AFTER);
    }
}

#[test]
fn a_plan_that_proxmox_wrote_otherwise_is_not_applied() {
    let host = Namespace::new();
    host.fault("plan-is-wrong");
    fails(&host.bridge(&shared()), &["has no vmbr0 with 192.0.2.7"]);
    is_untouched(&host);
}

#[test]
fn changes_of_an_administrator_that_wait_are_not_applied_with_ours() {
    let host = Namespace::new();
    host.set_file("interfaces.new", "iface eno9 inet manual\n");
    fails(&host.bridge(&shared()), &["not applied", "interfaces.new"]);
    assert_eq!(host.file("interfaces.new").as_deref(), Some("iface eno9 inet manual\n"));
    assert_eq!(host.picture(), BEFORE);
}

#[test]
fn an_uplink_that_is_configured_elsewhere_is_not_taken() {
    let host = Namespace::new();
    host.set_file("interfaces", "auto lo\niface lo inet loopback\n");
    fails(&host.bridge(&shared()), &["eno1", "cloud-init"]);
    assert_eq!(host.picture(), BEFORE);
    assert_eq!(host.file("interfaces.new"), None);
}

#[test]
fn killed_in_the_middle_the_guard_puts_the_address_back() {
    let host = Namespace::new();
    host.fault("apply-hangs");
    let mut child = host.start(&shared(), None);
    host.becomes(&["default via 192.0.2.1 dev eno1"][..0]);
    assert_eq!(host.guards(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    host.becomes(&BEFORE);
    wait_for_no_guard(&host);
    is_untouched(&host);
}

#[test]
fn killed_after_a_change_that_went_well_the_guard_leaves_it() {
    let host = Namespace::new();
    host.fault("apply-slow");
    let mut child = host.start(&shared(), Some("kill@setup.bridge.applied"));
    child.wait().unwrap();
    wait_for_no_guard(&host);
    assert_eq!(host.picture(), AFTER);
    assert_eq!(host.bridge(&shared())["ok"], true);
}

#[test]
fn killed_at_every_step_the_host_has_its_address_and_the_next_run_finishes() {
    for point in ["planned", "guarded", "applied"] {
        let host = Namespace::new();
        host.start(&shared(), Some(&format!("kill@setup.bridge.{point}"))).wait().unwrap();
        wait_for_no_guard(&host);
        assert!(host.picture() == BEFORE || host.picture() == AFTER, "{point}: {:?}", host.picture());
        assert_eq!(host.bridge(&shared())["ok"], true, "{point}");
        assert_eq!(host.picture(), AFTER, "{point}");
        assert_eq!(host.file("interfaces.new"), None);
    }
}

#[test]
fn a_signal_in_the_middle_puts_the_address_back() {
    let host = Namespace::new();
    host.fault("apply-hangs");
    let child = host.start(&shared(), None);
    host.becomes(&["default via 192.0.2.1 dev eno1"][..0]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let done = child.wait_with_output().unwrap();
    fails(&super::namespace::answer(&done), &["interrupted", "as it was before"]);
    is_untouched(&host);
}

fn wait_for_no_guard(host: &Namespace) {
    let end = Instant::now() + Duration::from_secs(60);
    while host.guards() > 0 {
        assert!(Instant::now() < end, "the guard of {} stays", host.path().display());
        std::thread::sleep(Duration::from_millis(100));
    }
}
