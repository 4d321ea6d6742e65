//! The files that setup writes in terraform's directory: variables and provider. Settings that others have added are
//! kept.

use super::terraform_json::block;
use crate::value::api_endpoint::{LOCAL_ENDPOINT, host_of};
use crate::value::web_address::is_loopback;
use serde_json::{Map, Value, json};

/// 1.0 removes names of the provider that we use; nothing older than 0.93 has been tested (`facts/provider.md`).
const PROVIDER_VERSIONS: &str = ">= 0.93.0, < 1.0.0";

/// Returns `variables.tf.json`: every variable except the token has its value as the default, so that `terraform
/// console` works without a file of values. `file` must be an object.
pub fn variables(mut file: Value, settings: &Map<String, Value>) -> Value {
    let variables = object(&mut file, "variable");
    variables["proxmox_api_token"] = json!({"type": "string", "sensitive": true});
    for (key, value) in settings {
        let kind = if value.is_number() { "number" } else { "string" };
        variables[key] = json!({"type": kind, "default": value});
    }
    file
}

/// Returns `provider.tf.json`. A version and an endpoint that somebody has set are kept. An `ssh` block is removed:
/// nothing here connects to the node by ssh, and its key would be root's (hazard H29). `file` must be an object.
pub fn provider(mut file: Value) -> Value {
    let version = file["terraform"]["required_providers"]["proxmox"]["version"].as_str();
    let version = version.unwrap_or(PROVIDER_VERSIONS).to_owned();
    let mut provider =
        block(&file["provider"]["proxmox"]).and_then(Value::as_object).cloned().unwrap_or_default();
    provider.remove("ssh");
    let endpoint = provider.get("endpoint").and_then(Value::as_str).unwrap_or(LOCAL_ENDPOINT).to_owned();
    // The node's certificate is not from a public CA; on loopback nobody can be in between.
    let on_loopback = host_of(&endpoint).is_some_and(is_loopback);
    provider.insert("endpoint".into(), json!(endpoint));
    provider.insert("api_token".into(), json!("${var.proxmox_api_token}"));
    if on_loopback {
        provider.insert("insecure".into(), json!(true));
    } else {
        provider.remove("insecure");
    }
    let required = json!({"source": "bpg/proxmox", "version": version});
    object(&mut file, "terraform")["required_providers"]["proxmox"] = required;
    object(&mut file, "provider")["proxmox"] = Value::Object(provider);
    file
}

/// Returns a member of the file as an object; a value of any other type is replaced by an empty one.
fn object<'f>(file: &'f mut Value, key: &str) -> &'f mut Value {
    let member = &mut file[key];
    if !member.is_object() {
        *member = json!({});
    }
    member
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_stay_and_ours_get_their_values_as_defaults() {
        let settings = json!({"proxmox_node": "pve", "template_vmid": 9001});
        let settings = settings.as_object().unwrap();
        let ours = json!({
            "proxmox_api_token": {"type": "string", "sensitive": true},
            "proxmox_node": {"type": "string", "default": "pve"},
            "template_vmid": {"type": "number", "default": 9001},
        });
        for (before, others) in [
            (json!({}), json!({})),
            (json!({"variable": []}), json!({})),
            (
                json!({"variable": {"mine": {"default": 1}}, "output": {"a": 1}}),
                json!({"mine": {"default": 1}}),
            ),
            (json!({"variable": {"proxmox_node": {"default": "old", "nullable": false}}}), json!({})),
        ] {
            let after = variables(before.clone(), settings);
            let mut wanted = ours.clone();
            wanted.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
            assert_eq!(after["variable"], wanted, "{before}");
            assert_eq!(after.get("output"), before.get("output"));
        }
    }

    #[test]
    fn h29_h31_the_provider_keeps_version_and_endpoint_and_loses_ssh_and_unchecked_certificates() {
        let token = "${var.proxmox_api_token}";
        let local = json!({"endpoint": LOCAL_ENDPOINT, "api_token": token, "insecure": true});
        let far = json!({"endpoint": "https://pve.example:8006", "api_token": token});
        for (before, version, wanted) in [
            (json!({}), PROVIDER_VERSIONS, &local),
            (json!({"provider": 7, "terraform": []}), PROVIDER_VERSIONS, &local),
            (json!({"provider": {"proxmox": [{"ssh": {"agent": true}}]}}), PROVIDER_VERSIONS, &local),
            (
                json!({"provider": {"proxmox": {"endpoint": "https://pve.example:8006", "insecure": true, "ssh": {}}}}),
                PROVIDER_VERSIONS,
                &far,
            ),
            (
                json!({"terraform": {"required_providers": {"proxmox": {"version": "0.95.0"}}}}),
                "0.95.0",
                &local,
            ),
        ] {
            let after = provider(before.clone());
            assert_eq!(after["provider"]["proxmox"], *wanted, "{before}");
            let required = json!({"source": "bpg/proxmox", "version": version});
            assert_eq!(after["terraform"]["required_providers"]["proxmox"], required, "{before}");
        }
        let other = json!({"provider": {"dns": {"a": 1}}, "terraform": {"backend": {"local": {}}}});
        let after = provider(other);
        assert_eq!(after["provider"]["dns"], json!({"a": 1}));
        assert_eq!(after["terraform"]["backend"], json!({"local": {}}));
    }
}
