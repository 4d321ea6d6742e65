//! `start`: who may start, and what the new tap needs (hazard H36).

use crate::support::{
    Commands, edit_record, guest, read, record, until_unguarded, without_guard, world, write,
};
use lab::Lab;
use lab::model::{FaultAction, Power, Route};

const ADDRESS: &str = "2a11:6c7:f04:276::2";

/// As gc leaves it.
fn suspend(lab: &Lab, expires: Option<&str>) {
    lab.control().power(100, Power::Stopped).unwrap();
    lab.control().set(100, "onboot", "0").unwrap();
    until_unguarded(lab);
    edit_record(lab, "web-1", |record| {
        record.insert("status".into(), "suspended".into());
        record.insert("suspended_at".into(), "2026-01-01T00:00:00.000000+00:00".into());
        record.insert("gecos_synced".into(), true.into());
        match expires {
            Some(text) => record.insert("expires_at".into(), text.into()),
            None => record.shift_remove("expires_at"),
        };
    });
}

/// Reached from outside, and by no other guest.
fn connected(lab: &Lab) -> bool {
    let node = lab.control().snapshot().unwrap();
    let routes: Vec<&Route> = node.routes.iter().filter(|route| route.dst == ADDRESS).collect();
    routes.len() == 1
        && routes[0].dev == "vmbr0"
        && node.ports.get("tap100i0").is_some_and(|port| port.isolated)
}

#[test]
fn h12_a_suspended_vm_that_is_paid_for_becomes_active() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let made = record(&lab, "web-1");
    // Any form of time that other programs write.
    for expires in ["2999-01-01T00:00:00Z", "2999-01-01T00:00:00.000000+00:00", "2999-01-01T02:00:00+02:00"] {
        suspend(&lab, Some(expires));
        let said = lab.vm("start", &["web-1"]).ok();
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", "VM web-1 is running and is active again\n"));
        let now = record(&lab, "web-1");
        assert_eq!((&now["status"], now.get("suspended_at")), (&"active".into(), None));
        assert_eq!((&now["expires_at"], &now["gecos_synced"]), (&expires.into(), &true.into()), "kept");
        assert_eq!(now["created_at"], made["created_at"]);
        let vm = guest(&lab, 100);
        assert_eq!((vm.power, vm.onboot), (Power::Running, true));
        assert!(connected(&lab));
    }
    // Running already, but suspended in the database (H50).
    edit_record(&lab, "web-1", |record| {
        record.insert("status".into(), "suspended".into());
    });
    lab.vm("start", &["web-1"]).ok().says(&["is already running and is active again"]);
    assert_eq!(record(&lab, "web-1")["status"], "active");
}

#[test]
fn a_suspended_vm_that_has_expired_is_refused() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    for expires in [Some("2026-01-01T00:00:00.000000+00:00"), None, Some("soon"), Some("2999-01-01T00:00:00")]
    {
        suspend(&lab, expires);
        let before = world(&lab);
        let said = lab.vm("start", &["web-1"]);
        said.fails(&["VM web-1 is suspended", "blockhost-vm-resume web-1", "--force", "expir"]);
        world(&lab).same(&before, "expired");
        let suspended = record(&lab, "web-1");
        lab.vm("start", &["web-1", "--force"]).ok();
        assert_eq!(record(&lab, "web-1"), suspended, "left as it is");
        let vm = guest(&lab, 100);
        assert_eq!((vm.power, vm.onboot), (Power::Running, false));
        assert!(connected(&lab));
    }
}

#[test]
fn an_active_vm_that_has_expired_starts_until_gc_has_seen_it() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.vm("stop", &["web-1"]).ok();
    edit_record(&lab, "web-1", |record| {
        record.insert("expires_at".into(), "2026-01-01T00:00:00.000000+00:00".into());
    });
    let before = record(&lab, "web-1");
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(record(&lab, "web-1"), before);
    assert_eq!(guest(&lab, 100).power, Power::Running);
}

#[test]
fn h36_without_the_guard_route_and_isolation_come_back_with_every_start_of_ours() {
    let lab = Lab::builder().start().unwrap();
    without_guard(&lab);
    lab.made("web-1");
    assert!(connected(&lab), "by create");
    lab.vm("stop", &["web-1"]).ok();
    assert!(!connected(&lab), "the tap went");
    lab.vm("start", &["web-1"]).ok();
    assert!(connected(&lab));
    lab.control().reboot_node().unwrap();
    assert_eq!(guest(&lab, 100).power, Power::Running, "started with the node");
    assert!(!connected(&lab));
    lab.vm("start", &["web-1"]).ok().says(&["VM web-1 is already running"]);
    assert!(connected(&lab));
    // Off and on behind our back.
    lab.control().power(100, Power::Stopped).unwrap();
    lab.control().power(100, Power::Running).unwrap();
    lab.vm("start", &["web-1"]).ok();
    assert!(connected(&lab));
    lab.vm("destroy", &["web-1"]).ok();
    assert!(lab.control().snapshot().unwrap().routes.iter().all(|route| route.dst != ADDRESS));
}

#[test]
fn h54_the_port_is_isolated_however_long_the_start_takes_after_the_vm_runs() {
    // Longer than the root agent waits for a start: it answers "pending", and the VM runs long before its port is one.
    let lab = Lab::builder().plug_ms(3_800).start().unwrap();
    let said = lab.made("web-1");
    assert!(connected(&lab) && !said.err.contains("isolated"), "by create: {said:?}");
    lab.vm("stop", &["web-1"]).ok();
    let said = lab.vm("start", &["web-1"]).ok();
    assert!(connected(&lab) && !said.err.contains("isolated"), "by start: {said:?}");
    lab.vm("stop", &["web-1"]).ok();
    suspend(&lab, Some("2999-01-01T00:00:00+00:00"));
    let said = lab.vm("resume", &["web-1"]).ok();
    assert!(connected(&lab) && !said.err.contains("isolated"), "by resume: {said:?}");
    // Somebody else's start is on its way: the root agent has no task to tell of.
    lab.vm("stop", &["web-1"]).ok();
    let mut other = lab.tool("qm").args(["start", "100"]).spawn().unwrap();
    while guest(&lab, 100).power != Power::Running {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let said = lab.vm("start", &["web-1"]).ok().says(&["is already running"]);
    assert!(connected(&lab) && !said.err.contains("isolated"), "{said:?}");
    assert!(other.wait().unwrap().success());
}

#[test]
fn h54_isolation_is_read_back_and_a_port_that_never_comes_is_a_warning() {
    let lab = Lab::builder().start().unwrap();
    without_guard(&lab);
    lab.made("web-1");
    lab.vm("stop", &["web-1"]).ok();
    // The root agent says yes and the port is not isolated: said once, done in the second try.
    let (tool, real) = (lab.path("bin/bridge"), lab.path("bin/bridge.real"));
    std::fs::rename(&tool, &real).unwrap();
    let marker = lab.path("lied");
    let text = format!(
        "#!/bin/sh\n[ -e '{0}' ] || {{ : > '{0}'; exit 0; }}\nexec '{1}' \"$@\"\n",
        marker.display(),
        real.display()
    );
    std::fs::write(&tool, text).unwrap();
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    lab.vm("start", &["web-1"]).ok();
    assert!(marker.exists() && connected(&lab));
    lab.vm("stop", &["web-1"]).ok();
    lab.control().timing(|timing| timing.plug = 60_000).unwrap();
    let began = std::time::Instant::now();
    let said = lab.vm_with("limit@start=6000", "start", &["web-1"]).ok();
    said.says(&[
        "failed to isolate port tap100i0",
        "other guests on this bridge can reach it",
        "blockhost-vm-start",
    ]);
    assert!(began.elapsed() < std::time::Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(!connected(&lab));
}

#[test]
fn h54_what_cannot_be_isolated_is_said_at_once() {
    let lab = Lab::builder().start().unwrap();
    without_guard(&lab);
    lab.made("web-1");
    // A daemon without the action.
    let began = std::time::Instant::now();
    let unknown = || FaultAction::error("Unknown action: bridge-port-isolate");
    lab.vm("stop", &["web-1"]).ok();
    lab.control().fault("agent.bridge-port-isolate", unknown(), 1).unwrap();
    lab.vm("start", &["web-1"]).ok().says(&["failed to isolate port", "too old", "upgrade blockhost-common"]);
    // Somebody has switched the firewall's bridge on: the tap's isolation would mean nothing.
    lab.vm("stop", &["web-1"]).ok();
    let net0 = guest(&lab, 100).config["net0"].replace(",firewall=0", "") + ",firewall=1";
    lab.control().set(100, "net0", &net0).unwrap();
    lab.vm("start", &["web-1"]).ok().says(&["failed to isolate port", "fwpr100p0", "firewall=0"]);
    // No card at all.
    lab.vm("stop", &["web-1"]).ok();
    lab.control().unset(100, "net0").unwrap();
    lab.vm("start", &["web-1"]).ok().says(&["failed to isolate port", "no network card"]);
    assert!(began.elapsed() < std::time::Duration::from_secs(25), "{:?}", began.elapsed());
}

#[test]
fn h36_what_could_not_be_connected_is_a_warning() {
    let lab = Lab::builder().start().unwrap();
    without_guard(&lab);
    let break_network = || {
        lab.control().fault("agent.ip6-route-add", FaultAction::error("RTNETLINK answers: No"), 1).unwrap();
        lab.control().fault("agent.bridge-port-isolate", FaultAction::error("no such port"), 1).unwrap();
    };
    break_network();
    let words = [
        "warning: VM web-1: ",
        "failed to set the host route to 2a11:6c7:f04:276::2",
        "RTNETLINK answers: No",
        "failed to isolate port tap100i0",
        "no such port",
        "blockhost-vm-start",
    ];
    let said = lab.made("web-1").says(&words);
    assert_eq!(said.out.lines().count(), 2, "{said:?}");
    assert_eq!(record(&lab, "web-1")["status"], "active");
    break_network();
    lab.vm("start", &["web-1"]).ok().says(&words);
    assert!(!connected(&lab));
    lab.vm("start", &["web-1"]).ok();
    assert!(connected(&lab));
    suspend(&lab, Some("2999-01-01T00:00:00+00:00"));
    lab.control().fault("agent.qm-set", FaultAction::error("no config today"), 1).unwrap();
    lab.vm("start", &["web-1"]).ok().says(&["will not start with the node", "no config today"]);
    assert_eq!(record(&lab, "web-1")["status"], "active");
}

#[test]
fn a_start_that_fails_says_why() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.vm("stop", &["web-1"]).ok();
    let before = world(&lab);
    for words in
        ["start failed: QEMU exited with code 1", "not enough memory", "bridge 'vmbr0' does not exist"]
    {
        lab.control().fault("task.qmstart", FaultAction::error(words), 1).unwrap();
        lab.vm("start", &["web-1"]).fails(&["VM web-1 (VMID 100)", "failed to start", words]);
    }
    world(&lab).same(&before, "not started");
    lab.vm("start", &["web-1"]).ok();
}

#[test]
fn a_snippet_that_is_missing_is_named() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    lab.vm("stop", &["web-1"]).ok();
    std::fs::remove_file(lab.path("node/var/lib/vz/snippets/blockhost-web-1-user.yaml")).unwrap();
    lab.vm("start", &["web-1"]).fails(&["failed to start", "blockhost-web-1-user.yaml"]);
    // A slow start fails only after the root agent has answered: the words still arrive, and at once.
    lab.control().timing(|timing| timing.start = 3_500).unwrap();
    let begun = std::time::Instant::now();
    lab.vm("start", &["web-1"]).fails(&["failed to start", "blockhost-web-1-user.yaml"]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn h36_a_route_is_not_set_to_a_guessed_bridge() {
    let lab = Lab::builder().start().unwrap();
    without_guard(&lab);
    lab.made("web-1");
    let path = lab.path("var/terraform/terraform.tfvars");
    let text = read(&path);
    lab.control().reboot_node().unwrap();
    // The line that names the bridge may be the one that cannot be read.
    write(&path, &text.replace("proxmox_bridge", "proxmox_bridge = ["));
    let said = lab.vm("start", &["web-1"]).ok();
    said.says(&[
        "failed to set the host route to",
        "failed to set the host route",
        "cannot determine the guests' bridge",
        "terraform.tfvars",
    ]);
    assert!(lab.control().snapshot().unwrap().routes.is_empty());
    write(&path, &text);
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(lab.control().snapshot().unwrap().routes.len(), 1);
}

/// The daemon's own route action accepts five bridges by name, and the guests' may have any other.
#[test]
fn h36_the_route_goes_to_the_guests_bridge_whatever_its_name() {
    let lab = Lab::builder().start().unwrap();
    for words in
        ["create /nodes/pve/network --iface vmbr7 --type bridge --autostart 1", "set /nodes/pve/network"]
    {
        assert!(lab.tool("pvesh").args(words.split(' ')).output().unwrap().status.success(), "{words}");
    }
    lab.control().grant("/sdn/zones/localnetwork/vmbr7", "blockhost@pve", "BlockHostNetwork").unwrap();
    for (path, old, new) in [
        ("etc/blockhost/db.yaml", "bridge: vmbr0", "bridge: vmbr7"),
        ("var/terraform/terraform.tfvars", "proxmox_bridge = \"vmbr0\"", "proxmox_bridge = \"vmbr7\""),
    ] {
        let path = lab.path(path);
        let text = read(&path);
        assert!(text.contains(old), "{text}");
        write(&path, &text.replace(old, new));
    }
    let routes = || {
        let snapshot = lab.control().snapshot().unwrap();
        snapshot.routes.into_iter().map(|route| (route.dst, route.dev)).collect::<Vec<_>>()
    };
    let there = vec![(ADDRESS.to_string(), "vmbr7".to_string())];
    let said = lab.made("web-1");
    assert!(!said.err.contains("warning"), "{said:?}");
    assert_eq!(routes(), there);
    lab.control().reboot_node().unwrap();
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(routes(), there);
    lab.vm("destroy", &["web-1"]).ok();
    assert_eq!(routes(), vec![]);
}
