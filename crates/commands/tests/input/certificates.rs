//! An API that is not on loopback, and somebody before it with a certificate (hazard H31): a good one is accepted where
//! the operator has put its authority, and with any other nothing is sent, by no verb and not by terraform.

use crate::support::{Ended, WALLET, create, json, run, vm, with_key};
use lab::{Heard, Lab, Outside, Shown, in_own_network};
use std::process::Command;

/// All that a command does with a VM, in an order in which each finds something to do.
const VERBS: &[(&str, &[&str])] = &[
    ("status", &["@"]),
    ("stop", &["@"]),
    ("start", &["@"]),
    ("guest-exec", &["@", "true"]),
    ("update-gecos", &["@", WALLET, "--nft-id", "1"]),
    ("list", &[]),
    ("kill", &["@"]),
    ("start", &["@"]),
    ("gc", &["--execute"]),
    ("resume", &["@"]),
    ("create", &["new", "--owner-wallet", WALLET, "--apply"]),
    ("destroy", &["@"]),
];

/// Those that ask the API when all is well: the others go by the root agent.
const ASK: [&str; 3] = ["gc", "create", "destroy"];

/// The API's address becomes one outside; with certificates checked, as setup writes it.
fn move_outside(lab: &Lab, outside: &Outside) {
    let path = lab.path("var/terraform/provider.tf.json");
    let mut file = json(&path);
    let provider = file["provider"]["proxmox"].as_object_mut().unwrap();
    provider.insert("endpoint".into(), outside.endpoint().into());
    provider.remove("insecure");
    std::fs::write(&path, file.to_string()).unwrap();
    std::fs::write(lab.path("etc/blockhost/pve-ca.pem"), outside.authority()).unwrap();
}

/// gc finds this VM expired.
fn expire(lab: &Lab, name: &str) {
    let path = lab.path("var/vms.json");
    let mut database = json(&path);
    database["vms"][name]["expires_at"] = "2024-01-01T00:00:00Z".into();
    std::fs::write(&path, database.to_string()).unwrap();
}

/// A VMID whose late requests are looked for: its time is over once the node's tasks, by the API, say so.
fn watch(lab: &Lab) {
    let late = serde_json::json!({"name": "gone", "smbios_uuid": "0c5a2a5c-3f2e-4a53-9d3c-0d8f0c1a2b3c"});
    let note =
        serde_json::json!({"vmid": 900, "reason": "a test", "since": "2024-01-01T00:00:00Z", "late": late});
    std::fs::create_dir_all(lab.path("var/withheld")).unwrap();
    std::fs::write(lab.path("var/withheld/900.json"), note.to_string()).unwrap();
}

/// terraform as a command starts it, in the folder of a VM.
fn terraform(lab: &Lab, name: &str) -> Command {
    let mut terraform = lab.tool("terraform");
    let folder = lab.path("var/terraform/vms").join(name);
    terraform.current_dir(folder).args(["plan", "-no-color", "-input=false"]);
    terraform
        .arg("-var-file=../../terraform.tfvars")
        .env("TF_DATA_DIR", lab.path("var/terraform/.terraform"));
    terraform.env("SSL_CERT_FILE", lab.path("etc/blockhost/pve-ca.pem"));
    terraform
}

fn knows(heard: &Heard, secret: &str) -> bool {
    String::from_utf8_lossy(&heard.bytes).contains(secret)
}

/// With a certificate that is not to be accepted, whoever asks (`asks`) is turned away by the handshake.
fn judge(shown: Shown, who: &str, asks: bool, ended: &Ended, heard: &Heard, token: &str) {
    let is_good = shown == Shown::Good;
    assert_eq!(heard.connections > 0, asks, "{shown:?}: {who}: {ended:?}");
    assert_eq!(knows(heard, token), asks && is_good, "{shown:?}: {who}: {ended:?}");
    assert!(is_good || heard.bytes.is_empty(), "{shown:?}: {who}: {ended:?}: {heard:?}");
    for words in [&ended.out, &ended.err] {
        assert!(!words.contains(token.split('=').next_back().unwrap()), "{shown:?}: {who}: {ended:?}");
    }
}

#[test]
fn h31_every_verb_and_terraform_tell_the_token_to_a_good_certificate_alone() {
    let done = in_own_network(|| {
        let lab = with_key(Lab::builder().start().unwrap());
        let shown = [&Shown::BAD[..], &[Shown::Good]].concat();
        for number in 0..shown.len() {
            create(&lab, &format!("web-{number}"), &[]).ok();
        }
        let outside = Outside::before(&lab).unwrap();
        move_outside(&lab, &outside);
        let token = lab.token();
        for (number, shown) in shown.into_iter().enumerate() {
            let name = format!("web-{number}");
            let is_good = shown == Shown::Good;
            outside.show(shown).unwrap();

            let ended = run(&mut terraform(&lab, &name));
            judge(shown, "terraform", true, &ended, &outside.heard(), &token);
            assert_eq!(ended.code == Some(0), is_good, "{shown:?}: {ended:?}");
            assert!(is_good || ended.err.contains("x509"), "{shown:?}: {ended:?}");

            for (verb, arguments) in VERBS {
                match *verb {
                    "gc" => expire(&lab, &name),
                    "destroy" => watch(&lab),
                    _ => {}
                }
                let arguments: Vec<&str> =
                    arguments.iter().map(|word| if *word == "@" { &name } else { *word }).collect();
                let ended = vm(&lab, verb, &arguments);
                judge(shown, verb, ASK.contains(verb), &ended, &outside.heard(), &token);
                // Nothing but a create needs the API.
                assert_eq!(
                    ended.code == Some(0),
                    is_good || *verb != "create",
                    "{shown:?}: {verb}: {ended:?}"
                );
                if *verb == "create" && !is_good {
                    ended.fails_in_one_line(&["cannot reach the Proxmox API", "certificate"]);
                }
            }
            let left: Vec<u32> = lab.control().snapshot().unwrap().guests.keys().copied().collect();
            let made = if is_good { 1 } else { 0 };
            assert_eq!(left.len(), Shown::BAD.len() - number + made + 1, "{shown:?}: {left:?}");
        }
        // Who is not told of the authority does not take it for good.
        std::fs::remove_file(lab.path("etc/blockhost/pve-ca.pem")).unwrap();
        let ended = create(&lab, "last", &[]);
        judge(Shown::SelfSigned, "create", true, &ended, &outside.heard(), &token);
        assert_eq!(ended.code, Some(1), "{ended:?}");
    });
    done.unwrap();
}
