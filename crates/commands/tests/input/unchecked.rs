//! An endpoint that is not this machine and whose certificate nobody checks, verb by verb.

use crate::support::{WALLET, create, run, with_key};
use lab::Lab;
use serde_json::Value;
use std::net::{TcpListener, UdpSocket};

/// What a verb does where the API may not be asked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Without {
    /// It cannot do its work, and says why.
    Refuses,
    /// It does what the root agent can do, and says what is missing and why.
    Tells,
    /// The API is no part of it, or a second opinion.
    Works,
}

/// Every command that works with VMs or the template, in an order in which each finds what it needs.
const VERBS: [(&[&str], Without); 18] = [
    (&["create", "new-1", "--owner-wallet", WALLET], Without::Refuses),
    (&["create", "new-1", "--owner-wallet", WALLET, "--apply"], Without::Refuses),
    (&["create", "new-1", "--no-web3", "--apply"], Without::Refuses),
    (&["list"], Without::Works),
    (&["list", "--live"], Without::Works),
    (&["status", "runs"], Without::Works),
    (&["guest-exec", "runs", "true"], Without::Works),
    (&["update-gecos", "runs", WALLET, "--nft-id", "7"], Without::Works),
    (&["reapply"], Without::Works),
    (&["stop", "runs"], Without::Works),
    (&["start", "runs"], Without::Works),
    (&["kill", "runs"], Without::Works),
    (&["gc"], Without::Works),
    (&["gc", "--execute", "--accept-share", "--accept-gap"], Without::Works),
    (&["resume", "due", "--dry-run"], Without::Works),
    (&["resume", "due"], Without::Works),
    (&["destroy", "due"], Without::Tells),
    (&["build-template"], Without::Works),
];

/// A lab whose API settings name somebody who stands in between: he listens at an address of this machine that is not
/// loopback. `None` where the machine has none.
fn with_somebody_between() -> Option<(Lab, TcpListener)> {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "runs", &[]).ok();
    create(&lab, "due", &["--expiry-days", "0"]).ok();
    let outside = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()))
        .map(|address| address.ip());
    let Ok(outside) = outside else {
        println!("skipped: this machine has no address but loopback");
        return None;
    };
    let listener = TcpListener::bind((outside, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let path = lab.path("var/terraform/provider.tf.json");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let block = &mut file["provider"]["proxmox"];
    let block = if block.is_array() { &mut block[0] } else { block };
    block["endpoint"] = format!("https://{}", listener.local_addr().unwrap()).into();
    block["insecure"] = true.into();
    std::fs::write(&path, file.to_string()).unwrap();
    Some((lab, listener))
}

const TOLD: &str = "the API token would go over an unchecked certificate";

#[test]
fn h31_no_verb_reaches_an_unchecked_endpoint_off_loopback() {
    let Some((lab, listener)) = with_somebody_between() else { return };
    for (words, without) in VERBS {
        let program = match words[0] {
            "reapply" => "blockhost-provisioner-reapply".to_owned(),
            "build-template" => "blockhost-build-template".to_owned(),
            verb => format!("blockhost-vm-{verb}"),
        };
        let ended = run(lab.command(&program).args(&words[1..]));
        let told = ended.err.contains(TOLD);
        assert_eq!(told, without != Without::Works, "{words:?}: {ended:?}");
        assert!(without != Without::Refuses || ended.code == Some(1), "{words:?}: {ended:?}");
        assert!(listener.accept().is_err(), "{words:?}: somebody was connected to: {ended:?}");
    }
    // What was refused took nothing, and gc and destroy did their work by the root agent.
    let node = lab.control().snapshot().unwrap();
    assert!(!format!("{node:?}").contains("new-1"));
    let records: Value =
        serde_json::from_str(&std::fs::read_to_string(lab.path("var/vms.json")).unwrap()).unwrap();
    assert_eq!(records["vms"]["due"]["status"], "destroyed");
}

/// The root agent reads the bridge in the VM's own configuration. One that does not guard VMs is told it by us, from the
/// settings that hold the token.
#[test]
fn h31_with_an_older_root_agent_they_say_why_they_know_no_bridge() {
    let Some((lab, listener)) = with_somebody_between() else { return };
    let unknown = lab::model::FaultAction::error("Unknown action: guard-set");
    lab.control().fault("agent.guard-set.before", unknown, 1_000).unwrap();
    for (program, vm, code) in [
        ("blockhost-provisioner-reapply", None, 1),
        ("blockhost-vm-start", Some("runs"), 0),
        ("blockhost-vm-resume", Some("due"), 0),
    ] {
        let ended = run(lab.command(program).args(vm));
        assert!(ended.code == Some(code) && ended.err.contains(TOLD), "{program}: {ended:?}");
        assert!(listener.accept().is_err(), "{program}: somebody was connected to: {ended:?}");
    }
}
