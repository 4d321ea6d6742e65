//! The guard of a VM's network: what holds at every start, whoever starts the VM (hazards H36, H51).

use crate::support::{
    Commands, Ended, edit_record, guest, record, run, until, until_unguarded, without_guard,
};
use lab::Lab;
use lab::model::{FaultAction, Power};

const ADDRESS: &str = "2a11:6c7:f04:276::2";
const OURS: &str = "local:snippets/blockhost-guard.sh";

/// What there is for VM 100 on the node.
#[derive(Debug, PartialEq, Eq)]
struct There {
    isolated: bool,
    route: bool,
    /// It may send from its own addresses alone.
    held: bool,
    /// Limits of what it receives, and sends.
    limits: [bool; 2],
}

const ALL: There = There { isolated: true, route: true, held: true, limits: [false; 2] };
const NOTHING: There = There { isolated: false, route: false, held: false, limits: [false; 2] };

fn there(lab: &Lab) -> There {
    let node = lab.control().snapshot().unwrap();
    let port = node.ports.get("tap100i0");
    let rules = node.rules.get("tap100i0").cloned().unwrap_or_default();
    let has = |words: &str| rules.iter().any(|rule| rule.contains(words));
    There {
        isolated: port.is_some_and(|port| port.isolated),
        route: node.routes.iter().any(|route| route.dst == ADDRESS && route.dev == "vmbr0"),
        held: has("ip saddr 192.168.122.200 accept") && has("ether saddr != bc:24:11"),
        limits: [
            port.is_some_and(|port| port.tc.iter().any(|line| line.contains("tbf rate 7000kbit"))),
            has("limit rate over 1000000 bytes/second"),
        ],
    }
}

fn tool(lab: &Lab, line: &str) -> Ended {
    let mut words = line.split(' ');
    run(lab.tool(words.next().unwrap()).args(words))
}

fn reapply(lab: &Lab, arguments: &[&str]) -> Ended {
    run(lab.command("blockhost-provisioner-reapply").args(arguments))
}

fn script(lab: &Lab) -> std::path::PathBuf {
    lab.path("node/var/lib/vz/snippets/blockhost-guard.sh")
}

/// Off, and all that the hook script takes away has gone.
fn stopped(lab: &Lab) {
    tool(lab, "qm stop 100").ok();
    until_unguarded(lab);
    until("nothing", || there(lab) == NOTHING);
}

fn made(lab: &Lab) {
    let said = lab.made("web-1");
    assert!(!said.err.contains("warning"), "{said:?}");
    assert_eq!(there(lab), ALL);
}

#[test]
fn h36_a_vm_that_somebody_else_starts_keeps_all_that_holds_its_network() {
    let lab = Lab::builder().start().unwrap();
    made(&lab);
    assert_eq!(record(&lab, "web-1")["anti_spoofing"], true);
    lab.vm("throttle", &["web-1", "--bandwidth-in", "7000", "--bandwidth-out", "8000"]).ok();
    let limited = There { limits: [true; 2], ..ALL };
    stopped(&lab);
    tool(&lab, "qm start 100").ok();
    assert_eq!(there(&lab), limited);
    // A start of ours changes nothing of it; nor the node's own, nor a guest that ends by itself.
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(there(&lab), limited);
    lab.control().reboot_node().unwrap();
    until("the node's own start", || there(&lab) == limited);
    lab.control().power(100, Power::Stopped).unwrap();
    until("nothing", || there(&lab) == NOTHING);
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(there(&lab), limited);
    lab.vm("destroy", &["web-1"]).ok();
    let node = lab.control().snapshot().unwrap();
    assert!(node.guards.is_empty() && node.rules.is_empty() && node.routes.is_empty(), "{node:?}");
}

#[test]
fn a_hook_script_that_is_gone_comes_back_before_the_vm_is_started() {
    let lab = Lab::builder().start().unwrap();
    made(&lab);
    for put_back in ["start", "reapply", "resume"] {
        stopped(&lab);
        std::fs::remove_file(script(&lab)).unwrap();
        let refused = tool(&lab, "qm start 100");
        assert!(refused.code != Some(0) && refused.err.contains("does not exist"), "{refused:?}");
        match put_back {
            "start" => lab.vm("start", &["web-1"]).ok(),
            "resume" => lab.vm("resume", &["web-1"]).ok(),
            _ => {
                reapply(&lab, &[]).ok();
                tool(&lab, "qm start 100").ok()
            }
        };
        assert_eq!(there(&lab), ALL, "{put_back}");
    }
}

#[test]
fn a_hook_script_of_somebody_else_is_left_and_said() {
    let lab = Lab::builder().start().unwrap();
    made(&lab);
    let theirs = lab.path("node/var/lib/vz/snippets/theirs.pl");
    std::fs::write(&theirs, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    tool(&lab, "qm set 100 --hookscript local:snippets/theirs.pl").ok();
    tool(&lab, "qm stop 100").ok();
    tool(&lab, "qm start 100").ok();
    assert!(!there(&lab).isolated);
    let said = lab.vm("start", &["web-1"]).ok();
    said.says(&["warning: VM web-1: ", "a hook script of its own (local:snippets/theirs.pl)"]);
    assert_eq!(there(&lab), ALL, "now it holds, until somebody starts it");
    assert_eq!(guest(&lab, 100).config["hookscript"], "local:snippets/theirs.pl");
}

#[test]
fn a_guard_that_fails_stops_no_vm_and_is_told() {
    let lab = Lab::builder().start().unwrap();
    made(&lab);
    stopped(&lab);
    lab.control().fault("nft.load", FaultAction::error("Error: no table today"), 1_000).unwrap();
    let started = tool(&lab, "qm start 100").ok();
    assert!(started.out.contains("anti-spoofing is not in force"), "in the task's log: {started:?}");
    assert_eq!(there(&lab), There { held: false, ..ALL }, "the rest is done");
    let words = [
        "VM web-1 (VMID 100)",
        "anti-spoofing is not in force",
        "no table today",
        "blockhost-vm-start web-1",
    ];
    let status = lab.vm("status", &["web-1"]).ok().says(&words);
    assert_eq!(status.out, "active\n");
    let listed = lab.vm("list", &["--live"]).ok().says(&words);
    assert!(listed.out.contains("web-1\tactive"), "{listed:?}");
    lab.vm("start", &["web-1"]).ok().says(&["warning: VM web-1: anti-spoofing is not in force"]);
    lab.control().clear_faults().unwrap();
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(there(&lab), ALL);
    assert_eq!(lab.vm("status", &["web-1"]).ok().err, "");
}

#[test]
fn where_the_guard_is_required_a_vm_stays_off_without_it() {
    let lab = Lab::builder().db_yaml("guard_required: true").start().unwrap();
    made(&lab);
    stopped(&lab);
    lab.control().fault("nft.load", FaultAction::error("no"), 1_000).unwrap();
    let refused = tool(&lab, "qm start 100");
    assert!(refused.code != Some(0) && refused.out.contains("guard_required"), "{refused:?}");
    assert_eq!(guest(&lab, 100).power, Power::Stopped);
    lab.vm("start", &["web-1"]).fails(&["VM web-1 (VMID 100)", "failed to start", "pre-start"]);
    lab.control().clear_faults().unwrap();
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(there(&lab), ALL);
}

#[test]
fn h51_a_suspended_vm_that_somebody_starts_gets_nothing() {
    let lab = Lab::builder().start().unwrap();
    made(&lab);
    edit_record(&lab, "web-1", |record| {
        record.insert("expires_at".into(), "2026-01-01T00:00:00+00:00".into());
    });
    lab.vm("gc", &["--execute", "--suspend-only"]).ok();
    until("nothing", || there(&lab) == NOTHING);
    tool(&lab, "qm start 100").ok();
    assert_eq!(there(&lab), NOTHING);
    assert_eq!(reapply(&lab, &[]).ok().err, "reconnected 0 VMs; 0 stopped\n");
    assert_eq!(there(&lab), NOTHING);
    lab.vm("resume", &["web-1"]).ok();
    assert_eq!(there(&lab), ALL);
    // And by its next start, whoever does it.
    stopped(&lab);
    tool(&lab, "qm start 100").ok();
    assert_eq!(there(&lab), ALL);
}

#[test]
fn a_vm_of_before_gets_its_guard_by_reapply_and_is_held_to_its_addresses_when_asked() {
    let lab = Lab::builder().start().unwrap();
    without_guard(&lab);
    let said = lab.made("web-1");
    assert!(said.err.contains("warning: the root agent does not guard VMs"), "{said:?}");
    lab.control().clear_faults().unwrap();
    edit_record(&lab, "web-1", |record| drop(record.shift_remove("anti_spoofing")));
    assert_eq!(there(&lab), There { held: false, ..ALL });
    assert!(!guest(&lab, 100).config.contains_key("hookscript"));
    reapply(&lab, &[]).ok();
    assert_eq!(guest(&lab, 100).config["hookscript"], OURS);
    stopped(&lab);
    tool(&lab, "qm start 100").ok();
    assert_eq!(there(&lab), There { held: false, ..ALL }, "who sent from anywhere still may");
    reapply(&lab, &["--anti-spoofing", "on", "web-1"]).ok().says(&["VM web-1: anti-spoofing is on"]);
    assert_eq!((there(&lab), &record(&lab, "web-1")["anti_spoofing"]), (ALL, &true.into()));
    reapply(&lab, &["--anti-spoofing", "off", "web-1"]).ok();
    assert_eq!((there(&lab).held, &record(&lab, "web-1")["anti_spoofing"]), (false, &false.into()));
    let unknown = reapply(&lab, &["--anti-spoofing", "on", "web-9"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert_eq!(reapply(&lab, &["web-1"]).code, Some(2));
}

#[test]
fn an_older_root_agent_is_warned_of_once_however_many_vms_are_connected() {
    let lab = Lab::builder().start().unwrap();
    without_guard(&lab);
    for name in ["web-1", "web-2"] {
        lab.made(name);
    }
    let words = "the root agent does not guard VMs at their starts";
    let said = reapply(&lab, &[]).ok();
    assert!(said.err.contains("reconnected 2 VMs") && said.err.matches(words).count() == 1, "{said:?}");
    lab.vm("kill", &["web-1", "web-2"]).ok();
    let said = lab.vm("start", &["web-1", "web-2"]).ok();
    assert_eq!(said.err.matches(words).count(), 1, "{said:?}");
}

#[test]
fn a_site_without_anti_spoofing_has_all_the_rest() {
    let lab = Lab::builder().db_yaml("anti_spoofing: false").start().unwrap();
    lab.made("web-1");
    assert_eq!(record(&lab, "web-1")["anti_spoofing"], false);
    assert_eq!(there(&lab), There { held: false, ..ALL });
    let refused = reapply(&lab, &["--anti-spoofing", "on", "web-1"]);
    assert!(refused.code == Some(1) && refused.err.contains("anti_spoofing is false"), "{refused:?}");
}

#[test]
fn before_the_package_goes_the_hook_is_taken_out_of_all_vms() {
    let lab = Lab::builder().start().unwrap();
    made(&lab);
    lab.made("web-2");
    reapply(&lab, &["--remove-guard"]).ok().says(&["removed the hook script from 2 VMs"]);
    assert!(!script(&lab).exists());
    for vmid in [100, 101] {
        assert!(!guest(&lab, vmid).config.contains_key("hookscript"));
    }
    assert!(lab.control().snapshot().unwrap().rules.is_empty());
    tool(&lab, "qm stop 100").ok();
    tool(&lab, "qm start 100").ok();
    reapply(&lab, &["--remove-guard"]).ok().says(&["removed the hook script from 0 VMs"]);
    // The package is back.
    lab.vm("start", &["web-1"]).ok();
    assert_eq!(there(&lab), ALL);
}

#[test]
fn h01_the_vmid_of_a_vm_that_is_gone_is_nobodys_guard() {
    let lab = Lab::builder().start().unwrap();
    made(&lab);
    lab.control().remove_guest(100).unwrap();
    let stranger = lab::model::NewGuest { vmid: 100, name: "other".into(), ..Default::default() };
    lab.control().add_guest(stranger).unwrap();
    tool(&lab, &format!("qm set 100 --hookscript {OURS}")).ok();
    tool(&lab, "qm start 100").ok();
    assert!(!there(&lab).isolated && !there(&lab).held);
}
