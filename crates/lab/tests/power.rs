//! Start, stop, shutdown: locks, codes, and what is made anew.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use std::time::{Duration, Instant};

use common::{node, ok, run, with_guest};
use lab::model::{AgentMode, GuestChange, Power};

#[test]
fn start_is_not_idempotent_and_stop_is() {
    let lab = with_guest(node());
    let said = run(&lab, "qm start 100");
    assert_eq!((said.code, said.err.as_str()), (255, "VM 100 already running\n"));
    ok(&lab, "qm stop 100");
    let said = run(&lab, "qm stop 100");
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", ""));
    let said = run(&lab, "qm shutdown 100");
    assert_eq!((said.code, said.err.as_str()), (0, "VM 100 not running\n"));
}

#[test]
fn h24_a_deaf_guest_survives_its_shutdown() {
    let lab = with_guest(node().ignore_shutdown());
    let begun = Instant::now();
    let said = run(&lab, "qm shutdown 100 --timeout 1");
    assert_eq!((said.code, said.err.as_str()), (255, "VM quit/powerdown failed - got timeout\n"));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(ok(&lab, "qm status 100"), "status: running\n");
    ok(&lab, "qm shutdown 100 --timeout 1 --forceStop 1");
    assert_eq!(ok(&lab, "qm status 100"), "status: stopped\n");
}

#[test]
fn a_booting_guest_hears_nothing_and_a_slow_one_takes_its_time() {
    let lab = with_guest(node().agent(AgentMode::Never));
    assert_ne!(run(&lab, "qm shutdown 100 --timeout 1").code, 0);
    lab.control().power(100, Power::Stopped).unwrap();
    lab.control().agent(100, AgentMode::Off).unwrap();
    lab.control().guest(100, GuestChange { shutdown_ms: Some(300), ..GuestChange::default() }).unwrap();
    ok(&lab, "qm start 100");
    let begun = Instant::now();
    ok(&lab, "qm shutdown 100");
    assert!(begun.elapsed() >= Duration::from_millis(300), "ACPI works without the agent");
}

#[test]
fn h22_the_file_lock_is_held_for_the_whole_shutdown() {
    let lab = with_guest(node().ignore_shutdown().node(|node| node.timing.lock_wait = 200));
    std::thread::scope(|scope| {
        let shutdown = scope.spawn(|| run(&lab, "qm shutdown 100 --timeout 30"));
        lab.control().timing(|_| {}).unwrap();
        while !lab.control().snapshot().unwrap().tasks_running.contains(&"qmshutdown 100".to_owned()) {}
        let busy = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout\n";
        for line in ["qm set 100 --name x", "qm stop 100", "qm start 100"] {
            let said = run(&lab, line);
            assert_eq!((said.code != 0, said.err.as_str()), (true, busy), "{line}");
        }
        ok(&lab, "qm stop 100 --overrule-shutdown 1");
        assert_eq!(shutdown.join().unwrap().code, 255);
    });
    assert_eq!(ok(&lab, "qm status 100"), "status: stopped\n");
}

#[test]
fn a_paused_guest_cannot_shut_down() {
    let lab = with_guest(node());
    ok(&lab, "qm suspend 100");
    assert_eq!(ok(&lab, "qm status 100"), "status: paused\n");
    let said = run(&lab, "qm shutdown 100");
    assert_eq!((said.code != 0, said.err.as_str()), (true, "VM is paused - cannot shutdown\n"));
    ok(&lab, "qm shutdown 100 --forceStop 1");
    assert_eq!(ok(&lab, "qm status 100"), "status: stopped\n");
    assert_ne!(run(&lab, "qm resume 100").code, 0);
    ok(&lab, "qm start 100");
    ok(&lab, "qm suspend 100");
    ok(&lab, "qm resume 100");
    assert_eq!(ok(&lab, "qm status 100"), "status: running\n");
    ok(&lab, "qm suspend 100 --todisk 1");
    assert_eq!(lab.control().snapshot().unwrap().guests[&100].lock.as_deref(), Some("suspended"));
    ok(&lab, "qm start 100");
    assert_eq!(lab.control().snapshot().unwrap().guests[&100].lock, None);
}

#[test]
fn h22_a_config_lock_refuses() {
    let lab = with_guest(node());
    lab.control().set_lock(100, Some("backup")).unwrap();
    for line in
        ["qm stop 100", "qm set 100 --name x", "qm shutdown 100", "qm suspend 100", "qm clone 100 101"]
    {
        assert_eq!(run(&lab, line).err, "VM is locked (backup)\n", "{line}");
    }
    ok(&lab, "qm stop 100 --skiplock 1");
    assert_eq!(run(&lab, "qm start 100").err, "VM is locked (backup)\n");
}

#[test]
fn h36_taps_are_new_at_every_start() {
    let lab = with_guest(node());
    ok(&lab, "bridge link set dev tap100i0 isolated on");
    ok(&lab, "tc qdisc add dev tap100i0 root tbf rate 2mbit burst 64kb latency 50ms");
    let port = |name: &str| lab.control().snapshot().unwrap().ports[name].clone();
    assert!(port("tap100i0").isolated && !port("tap100i0").tc.is_empty());
    ok(&lab, "qm reboot 100");
    assert!(!port("tap100i0").isolated && port("tap100i0").tc.is_empty());
    ok(&lab, "bridge link set dev tap100i0 isolated on");
    ok(&lab, "tc qdisc add dev tap100i0 root tbf rate 2mbit burst 64kb latency 50ms");
    let mac = lab.control().snapshot().unwrap().guests[&100].config["net0"].clone();
    let mac = mac.split(',').next().unwrap().to_owned();
    ok(&lab, &format!("qm set 100 --net0 {mac},bridge=vmbr0,rate=3"));
    assert!(port("tap100i0").isolated, "a rate alone leaves the port");
    assert!(port("tap100i0").tc[0].contains("htb"), "and takes the place of what was there");
    ok(&lab, &format!("qm set 100 --net0 {mac},bridge=vmbr0"));
    assert!(port("tap100i0").tc.is_empty(), "and goes with it");
    ok(&lab, &format!("qm set 100 --net0 {mac},bridge=vmbr0,firewall=1"));
    assert_eq!((port("tap100i0").bridge.as_str(), port("fwpr100p0").bridge.as_str()), ("fwbr100i0", "vmbr0"));
    assert!(!port("tap100i0").isolated && port("tap100i0").tc.is_empty());
    let master = std::fs::read_link(lab.path("node/sys/class/net/tap100i0/master")).unwrap();
    assert_eq!(master.file_name().unwrap(), "fwbr100i0");
    // The flag file decides whether there is such a bridge at all.
    std::fs::remove_file(lab.path("node/run/proxmox-nftables-firewall-force-disable")).unwrap();
    ok(&lab, &format!("qm set 100 --net0 {mac},bridge=vmbr0,firewall=1,mtu=1400"));
    assert_eq!(port("tap100i0").bridge, "vmbr0");
    assert!(!lab.control().snapshot().unwrap().ports.contains_key("fwpr100p0"));
    ok(&lab, "qm stop 100");
    assert!(lab.control().snapshot().unwrap().ports.is_empty());
    assert_eq!(
        run(&lab, "bridge link set dev tap100i0 isolated on").err,
        "Cannot find bridge device \"tap100i0\"\n"
    );
}

#[test]
fn h51_a_node_reboot_starts_onboot_guests_and_forgets_routes() {
    let lab = with_guest(node());
    ok(&lab, "qm clone 9001 101");
    ok(&lab, "qm start 101");
    ok(&lab, "qm set 101 --onboot 1");
    ok(&lab, "ip -6 route replace 2a11:6c7:f04:276::2/128 dev vmbr0");
    ok(&lab, "bridge link set dev tap101i0 isolated on");
    lab.control().reboot_node().unwrap();
    let after = lab.control().snapshot().unwrap();
    assert_eq!((after.guests[&100].power, after.guests[&101].power), (Power::Stopped, Power::Running));
    assert_eq!((after.guests[&101].starts, after.routes.len()), (2, 0));
    assert_eq!(after.ports.keys().collect::<Vec<_>>(), ["tap101i0"]);
    assert!(!after.ports["tap101i0"].isolated);
}

#[test]
fn the_node_files_follow_the_guest() {
    let lab = with_guest(node());
    let pid_file = lab.path("node/run/qemu-server/100.pid");
    let pid = std::fs::read_to_string(&pid_file).unwrap().trim().to_owned();
    let line = std::fs::read(lab.path(format!("node/proc/{pid}/cmdline"))).unwrap();
    assert!(line.starts_with(b"/usr/bin/kvm\0-id\x00100\0"), "{line:?}");
    lab.control().power(100, Power::Stopped).unwrap();
    assert!(!pid_file.exists() && !lab.path(format!("node/proc/{pid}")).exists());
    ok(&lab, "qm start 100");
    assert_ne!(std::fs::read_to_string(&pid_file).unwrap().trim(), pid);
}

#[test]
fn h49_an_unmounted_cluster_file_system_is_empty() {
    let lab = with_guest(node());
    let folder = lab.path("node/etc/pve");
    lab.control().mount_etc_pve(false).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    assert!(!lab.control().snapshot().unwrap().pve_mounted);
    lab.control().mount_etc_pve(true).unwrap();
    assert!(folder.join("qemu-server/100.conf").exists() && folder.join(".vmlist").exists());
}
