//! A node that is reached by another address than loopback, and somebody before it with a certificate (hazard H31).

use super::bare::{Bare, fails};
use lab::{Outside, Shown, in_own_network};
use serde_json::Value;
use std::fs;

#[test]
fn h31_setup_tells_a_token_to_a_good_certificate_alone_and_never_switches_the_check_off() {
    let done = in_own_network(|| {
        let bare = Bare::new();
        let outside = Outside::before(&bare.0).unwrap();
        let path = bare.0.path("var/terraform/provider.tf.json");
        let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        // As somebody wrote who had loopback in mind.
        file["provider"]["proxmox"]["insecure"] = true.into();
        file["provider"]["proxmox"]["endpoint"] = outside.endpoint().into();
        fs::write(&path, file.to_string()).unwrap();
        fs::write(bare.0.path("etc/blockhost/pve-ca.pem"), outside.authority()).unwrap();
        let refused = |words: &str| {
            for shown in Shown::BAD {
                outside.show(shown).unwrap();
                fails(&bare.step("token", &bare.answers()), &[words, "certificate"]);
                let heard = outside.heard();
                assert!(heard.connections > 0 && heard.bytes.is_empty(), "{shown:?}: {heard:?}");
            }
        };

        refused("cannot reach the Proxmox API");
        assert!(
            !bare.0.path("etc/blockhost/pve-token").exists(),
            "a token that could not be tried is not kept"
        );
        outside.show(Shown::Good).unwrap();
        bare.ok("token");
        assert!(String::from_utf8(outside.heard().bytes).unwrap().contains(&bare.token()));
        // One that is there already is tried first.
        refused("cannot tell whether the token is still valid");

        outside.show(Shown::Good).unwrap();
        for step in ["terraform", "db_config"] {
            bare.ok(step);
        }
        let file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let provider = &file["provider"]["proxmox"];
        assert_eq!(
            (&provider["endpoint"], &provider["insecure"]),
            (&outside.endpoint().into(), &Value::Null)
        );
        bare.makes_a_vm();
    });
    done.unwrap();
}
