//! What the real provider refuses before it plans: the rules named in `schema.txt`. Unknown and absent
//! values pass.

use super::{Attribute, Block, Check, Step};
use crate::{duration, value::Value, version::Version};

/// A value that breaks a rule.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// Where it stands.
    pub path: Vec<Step>,
    /// What is wrong with it.
    pub message: String,
}

impl Block {
    /// Everything in `config` that breaks a rule.
    pub fn refusals(&self, config: &Value, version: Version) -> Vec<Refusal> {
        let mut found = Vec::new();
        self.check(config, version, &mut Vec::new(), &mut found);
        found
    }

    fn check(&self, config: &Value, version: Version, at: &mut Vec<Step>, found: &mut Vec<Refusal>) {
        for attribute in &self.attributes {
            let value = config.get(&attribute.name);
            if matches!(value, Value::Null | Value::Unknown) {
                continue;
            }
            for check in &attribute.checks {
                if let Err(message) = attribute.obeys(check, value, version) {
                    let path = [at.as_slice(), &[Step::Attribute(attribute.name.clone())]].concat();
                    found.push(Refusal { path, message });
                }
            }
        }
        for nested in &self.blocks {
            for (index, item) in config.list(&nested.name).iter().enumerate() {
                at.extend([Step::Attribute(nested.name.clone()), Step::Element(index)]);
                nested.block.check(item, version, at, found);
                at.truncate(at.len() - 2);
            }
        }
    }
}

impl Attribute {
    fn obeys(&self, check: &Check, value: &Value, version: Version) -> Result<(), String> {
        let name = &self.name;
        match (check, value) {
            (Check::Range(low, high), Value::Int(number)) if !(low..=high).contains(&number) => {
                Err(format!("expected {name} to be in the range ({low} - {high}), got {number}"))
            }
            (Check::Range(low, high), Value::Float(number))
                if *number < *low as f64 || *number > *high as f64 =>
            {
                Err(format!("expected {name} to be in the range ({low} - {high}), got {number}"))
            }
            (Check::OneOf(words), Value::Text(text)) if !words.contains(text) => {
                Err(format!("expected {name} to be one of {words:?}, got {text}"))
            }
            (Check::Named(rule), value) => named(rule, name, value, version),
            _ => Ok(()),
        }
    }
}

fn named(rule: &str, name: &str, value: &Value, version: Version) -> Result<(), String> {
    let text = if let Value::Text(text) = value { text.as_str() } else { "" };
    let holds = |truth: bool, message: String| if truth { Ok(()) } else { Err(message) };
    match rule {
        "vm_id" => {
            let number = if let Value::Int(number) = value { *number } else { 0 };
            let ok = number == -1 || (100..=2_147_483_647).contains(&number);
            holds(ok, format!("expected {name} to be in the range (100 - 2147483647), got {number}"))
        }
        // Before 0.97.1 any name passed.
        "name" if version < Version(0, 97, 1) => Ok(()),
        "name" => holds(
            text.is_empty() || text.split('.').all(is_label),
            format!("invalid value for {name} (must be a valid DNS name): {text:?}"),
        ),
        "node_name" => holds(!text.trim().is_empty(), format!("expected {name:?} to not be an empty string")),
        "tags" => {
            let Value::List(items) = value else { return Ok(()) };
            let empty = |tag: &Value| matches!(tag, Value::Text(tag) if tag.trim().is_empty());
            holds(!items.iter().any(empty), format!("expected {name:?} to not contain an empty string"))
        }
        "duration" => match duration::parse(text) {
            Some(_) => Ok(()),
            None => Err(format!("invalid {name}: {text:?} is not a duration such as 20s or 15m")),
        },
        "cpu_type" => {
            holds(is_cpu_type(text), format!("expected {name} to be a known CPU type or custom-<model>, got {text}"))
        }
        "disk_interface" => holds(
            is_device(text, &[("ide", 3), ("sata", 5), ("scsi", 30), ("virtio", 15)]),
            format!("invalid {name} {text:?}: one of scsiN, sataN, virtioN is wanted"),
        ),
        "cloud_init_interface" => holds(
            text.is_empty() || is_device(text, &[("ide", 3), ("sata", 5), ("scsi", 30)]),
            format!("invalid {name} {text:?}: one of ide0..3, sata0..5, scsi0..30 is wanted"),
        ),
        "api_token" => holds(
            is_token(text),
            "the API token must be in the format 'USER@REALM!TOKENID=UUID'".to_string(),
        ),
        "endpoint" => holds(
            text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()),
            "You must specify a secure endpoint for the Proxmox Virtual Environment API (valid: https://host:port/)"
                .to_string(),
        ),
        _ => Err(format!("schema.txt names the rule {rule:?}, which does not exist")),
    }
}

fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    label.chars().all(inner) && edge(label.chars().next()) && edge(label.chars().next_back())
}

fn is_device(text: &str, buses: &[(&str, u32)]) -> bool {
    buses.iter().any(|(bus, last)| {
        let number = text.strip_prefix(bus).and_then(|number| number.parse::<u32>().ok());
        number.is_some_and(|number| number <= *last)
    })
}

/// `^\S+@\S+!\S+=[A-Za-z0-9-]+$`
fn is_token(text: &str) -> bool {
    let Some((id, secret)) = text.rsplit_once('=') else {
        return false;
    };
    let Some((user, token)) = id.rsplit_once('!') else {
        return false;
    };
    let realm = user.rsplit_once('@').is_some_and(|(user, realm)| !user.is_empty() && !realm.is_empty());
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    realm
        && !token.is_empty()
        && !secret.is_empty()
        && secret.chars().all(plain)
        && !id.contains(char::is_whitespace)
}

/// The types the provider's documentation lists.
const CPU_TYPES: &str = "486 Broadwell Broadwell-IBRS Broadwell-noTSX Broadwell-noTSX-IBRS \
    Cascadelake-Server Cascadelake-Server-noTSX Cascadelake-Server-v2 Cascadelake-Server-v4 \
    Cascadelake-Server-v5 Conroe Cooperlake Cooperlake-v2 EPYC EPYC-Genoa EPYC-IBPB EPYC-Milan \
    EPYC-Milan-v2 EPYC-Rome EPYC-Rome-v2 EPYC-Rome-v3 EPYC-Rome-v4 EPYC-v3 EPYC-v4 Haswell Haswell-IBRS \
    Haswell-noTSX Haswell-noTSX-IBRS Icelake-Client Icelake-Client-noTSX Icelake-Server \
    Icelake-Server-noTSX Icelake-Server-v3 Icelake-Server-v4 Icelake-Server-v5 Icelake-Server-v6 \
    IvyBridge IvyBridge-IBRS KnightsMill Nehalem Nehalem-IBRS Opteron_G1 Opteron_G2 Opteron_G3 \
    Opteron_G4 Opteron_G5 Penryn SandyBridge SandyBridge-IBRS SapphireRapids SapphireRapids-v2 \
    Skylake-Client Skylake-Client-IBRS Skylake-Client-noTSX-IBRS Skylake-Client-v4 Skylake-Server \
    Skylake-Server-IBRS Skylake-Server-noTSX-IBRS Skylake-Server-v4 Skylake-Server-v5 Westmere \
    Westmere-IBRS athlon core2duo coreduo host kvm32 kvm64 max pentium pentium2 pentium3 phenom qemu32 \
    qemu64 x86-64-v2 x86-64-v2-AES x86-64-v3 x86-64-v4";

fn is_cpu_type(text: &str) -> bool {
    CPU_TYPES.split_whitespace().any(|known| known == text)
        || text.strip_prefix("custom-").is_some_and(|model| !model.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Schema, VM};
    use serde_json::json;

    fn refused(version: Version, config: serde_json::Value) -> Vec<String> {
        let schema = Schema::of(version).unwrap();
        let block = schema.resource(VM).unwrap();
        let config = Value::from_json(&config);
        block.refusals(&config, version).into_iter().map(|refusal| refusal.message).collect()
    }

    #[test]
    fn each_rule_refuses_and_lets_pass() {
        let new = Version(0, 111, 1);
        for (good, bad) in [
            (json!({"vm_id": 100}), json!({"vm_id": 99})),
            (json!({"vm_id": -1}), json!({"clone": [{"vm_id": 5}]})),
            (json!({"name": "a-b.c9"}), json!({"name": "a_b"})),
            (json!({"name": ""}), json!({"name": "-a"})),
            (json!({"agent": [{"timeout": "1m30s"}]}), json!({"agent": [{"timeout": "20"}]})),
            (json!({"agent": [{"type": "isa"}]}), json!({"agent": [{"type": "serial"}]})),
            (json!({"cpu": [{"type": "host", "cores": 2304}]}), json!({"cpu": [{"type": "pentium9"}]})),
            (json!({"cpu": [{"type": "custom-x"}]}), json!({"cpu": [{"cores": 0}]})),
            (json!({"memory": [{"dedicated": 64}]}), json!({"memory": [{"dedicated": 63}]})),
            (json!({"disk": [{"interface": "scsi30"}]}), json!({"disk": [{"interface": "scsi31"}]})),
            (json!({"disk": [{"size": 1}]}), json!({"disk": [{"size": 0}]})),
            (json!({"tags": ["a"]}), json!({"tags": ["a", ""]})),
            (
                json!({"network_device": [{"model": "e1000e"}]}),
                json!({"network_device": [{"model": "ne2k"}]}),
            ),
            (
                json!({"initialization": [{"interface": "ide2"}]}),
                json!({"initialization": [{"interface": "ide4"}]}),
            ),
        ] {
            assert_eq!(refused(new, good.clone()), Vec::<String>::new(), "{good}");
            assert_eq!(refused(new, bad.clone()).len(), 1, "{bad}");
        }
    }

    #[test]
    fn the_old_version_does_not_check_names() {
        assert!(refused(Version(0, 93, 0), json!({"name": "a_b"})).is_empty());
        assert!(refused(Version(0, 97, 1), json!({"name": "a_b"}))[0].contains("name"));
    }

    #[test]
    fn unknown_values_pass_and_paths_are_told() {
        let version = Version(0, 111, 1);
        let schema = Schema::of(version).unwrap();
        let mut config = Value::from_json(&json!({"disk": [{"size": 1}, {"size": 0}]}));
        config.set("vm_id", Value::Unknown);
        let refusals = schema.resource(VM).unwrap().refusals(&config, version);
        let path = [Step::Attribute("disk".into()), Step::Element(1), Step::Attribute("size".into())];
        assert_eq!((refusals.len(), &refusals[0].path[..]), (1, &path[..]));
    }

    #[test]
    fn provider_block() {
        let schema = Schema::of(Version(0, 93, 0)).unwrap();
        let count = |endpoint: &str, token: &str| {
            let config = Value::from_json(&json!({"endpoint": endpoint, "api_token": token}));
            schema.provider.refusals(&config, Version(0, 93, 0)).len()
        };
        assert_eq!(count("https://127.0.0.1:8006", "blockhost@pve!tf=0000-aa"), 0);
        assert_eq!(count("http://127.0.0.1:8006", "blockhost@pve!tf=0000-aa"), 1);
        for token in ["", "blockhost@pve=00", "blockhost!tf=00", "a@b!c", "a@b!c=", "a@b!c=x y", "a @b!c=x"] {
            assert_eq!(count("https://x", token), 1, "{token}");
        }
    }
}
