//! The guest's first-boot configuration: the variables of templates, and the checks of the result
//! (`facts/contract/cloud-init.md`; hazards H27, H37).

use super::substitution::substitute;
use crate::value::allocation::Allocation;
use crate::value::text::UserName;
use crate::value::vm_name::VmName;
use crate::value::wallet::{NftTokenId, WalletAddress};
use serde_json::Value;
use std::net::Ipv6Addr;
use uuid::Uuid;

/// All values that a template may use. They are of checked types only, so no value can end the scalar that contains it.
#[derive(Debug, Clone)]
pub struct Variables<'a> {
    /// `VM_NAME`
    pub name: &'a VmName,
    /// `VM_IP`, `VM_IPV6`
    pub addresses: Allocation,
    /// The broker's DNS zone.
    pub dns_zone: Option<&'a str>,
    /// `USERNAME`
    pub username: &'a UserName,
    /// `WALLET_ADDRESS`
    pub wallet: Option<&'a WalletAddress>,
    /// `NFT_TOKEN_ID`, substituted only if given.
    pub nft_token_id: Option<&'a NftTokenId>,
    /// `OTP_LENGTH` in characters, and `OTP_TTL` in seconds.
    pub one_time_password: (u64, u64),
    /// `SECRET_KEY`: 64 hexadecimal digits.
    pub secret_key: &'a str,
    /// `SSH_KEYS`
    pub ssh_keys: &'a [String],
}

/// Returns the name that an IPv6 address has in the broker's zone: its low 64 bits in hexadecimal, a dot, the zone.
pub fn signing_domain(ipv6: Ipv6Addr, zone: &str) -> String {
    format!("{:x}.{zone}", u128::from(ipv6) as u64)
}

/// Fills in a template.
pub fn render(template: &str, v: &Variables<'_>) -> String {
    let ip = v.addresses.ipv4.to_string();
    let ipv6 = v.addresses.ipv6.map(|a| a.to_string()).unwrap_or_default();
    let domain = v.addresses.ipv6.zip(v.dns_zone).map(|(a, zone)| signing_domain(a, zone));
    let host = match (&domain, v.addresses.ipv6) {
        (Some(domain), _) => domain.clone(),
        (None, Some(a)) => format!("[{a}]"),
        (None, None) => ip.clone(),
    };
    let fqdn = domain.clone().unwrap_or_else(|| format!("{}.local", v.name));
    let keys = match v.ssh_keys {
        [] => "[]".to_string(),
        keys => keys.iter().map(|key| format!("\n      - {key}")).collect(),
    };
    let (length, ttl) = v.one_time_password;
    let (length, ttl) = (length.to_string(), ttl.to_string());
    let token = v.nft_token_id.map(ToString::to_string);
    let mut variables = vec![
        ("VM_NAME", v.name.as_str()),
        ("VM_FQDN", &fqdn),
        ("VM_IP", &ip),
        ("VM_IPV6", &ipv6),
        ("SIGNING_HOST", &host),
        ("SIGNING_DOMAIN", domain.as_deref().unwrap_or_default()),
        ("USERNAME", v.username.as_str()),
        ("WALLET_ADDRESS", v.wallet.map_or("", WalletAddress::as_str)),
        ("OTP_LENGTH", &length),
        ("OTP_TTL", &ttl),
        ("SECRET_KEY", v.secret_key),
        ("SSH_KEYS", &keys),
    ];
    if let Some(token) = &token {
        variables.push(("NFT_TOKEN_ID", token));
    }
    substitute(template, &variables)
}

/// Why a cloud-init text cannot be used. Never quotes the text, which contains a secret (H30).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCloudInit {
    /// The `#cloud-config` header is missing, so cloud-init would ignore the text.
    #[error("its first line is not #cloud-config")]
    NoHeader,
    /// Not YAML.
    #[error("it is not valid YAML{0}")]
    NotYaml(String),
    /// YAML, but not a mapping.
    #[error("it is not a YAML mapping of keys to values")]
    NoMapping,
    /// A value changed the structure around it.
    #[error("an inserted value would change its structure")]
    Structure,
    /// Larger than the limit of Proxmox VE (1 MiB).
    #[error("it is larger than 1 MiB")]
    TooLarge,
}

/// Checks that `text` is a cloud-config: it has the header and is a YAML mapping.
pub fn check(text: &str) -> Result<Value, BadCloudInit> {
    if text.len() > 1024 * 1024 {
        return Err(BadCloudInit::TooLarge);
    }
    if text.lines().next().map(str::trim_end) != Some("#cloud-config") {
        return Err(BadCloudInit::NoHeader);
    }
    let options = serde_yaml::options! { duplicate_keys: serde_yaml::DuplicateKeyPolicy::LastWins };
    let value: Value = serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|l| format!(" (line {})", l.line())).unwrap_or_default();
        BadCloudInit::NotYaml(place)
    })?;
    if value.is_object() { Ok(value) } else { Err(BadCloudInit::NoMapping) }
}

/// Fills in a template and compares the result with the same template filled in with harmless values: keys, lists and
/// nesting must be the same (H27).
pub fn render_checked(template: &str, v: &Variables<'_>) -> Result<String, BadCloudInit> {
    let text = render(template, v);
    let structure = |_| BadCloudInit::Structure;
    let (name, username) =
        (VmName::parse("vm-name").map_err(structure)?, UserName::parse("user").map_err(structure)?);
    let wallet = WalletAddress::parse("wallet").map_err(structure)?;
    let harmless = Variables {
        name: &name,
        username: &username,
        wallet: v.wallet.map(|_| &wallet),
        secret_key: "secret",
        ..v.clone()
    };
    let (value, expected) = (check(&text)?, check(&render(template, &harmless))?);
    if same_shape(&value, &expected) { Ok(text) } else { Err(BadCloudInit::Structure) }
}

/// Whether two documents differ only in their scalars.
fn same_shape(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.values().zip(b.values()).all(|(x, y)| same_shape(x, y))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| same_shape(x, y))
        }
        (Value::Object(_) | Value::Array(_), _) | (_, Value::Object(_) | Value::Array(_)) => false,
        _ => true,
    }
}

/// Returns the meta-data file. Its instance-id never changes, so cloud-init does not run again in a customer's VM when
/// the host's resolver, an address or a network card changes (H37).
pub fn meta_data(name: &VmName, smbios_uuid: Uuid) -> String {
    format!("instance-id: \"blockhost-{smbios_uuid}\"\nlocal-hostname: \"{name}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::vmid::Vmid;

    const TEMPLATE: &str = "#cloud-config\nhostname: $VM_NAME\nfqdn: ${VM_FQDN}\nusers:\n  - name: $USERNAME\n    ssh_authorized_keys: ${SSH_KEYS}\nwrite_files:\n  - path: /etc/x\n    content: |\n      wallet = \"$WALLET_ADDRESS\"\n      host = \"$SIGNING_HOST\" $HOME $$\n      nft = $NFT_TOKEN_ID\n";

    fn with<T>(
        wallet: &str,
        zone: Option<&str>,
        ipv6: Option<&str>,
        keys: &[String],
        test: impl FnOnce(&Variables<'_>) -> T,
    ) -> T {
        test(&Variables {
            name: &VmName::parse("web-1").unwrap(),
            addresses: Allocation {
                vmid: Vmid::new(100).unwrap(),
                ipv4: "10.0.0.2".parse().unwrap(),
                ipv6: ipv6.map(|t| t.parse().unwrap()),
            },
            dns_zone: zone,
            username: &UserName::parse("admin").unwrap(),
            wallet: Some(&WalletAddress::parse(wallet).unwrap()),
            nft_token_id: None,
            one_time_password: (6, 300),
            secret_key: &"ab".repeat(32),
            ssh_keys: keys,
        })
    }

    #[test]
    fn a_template_is_filled_in() {
        let keys = ["ssh-ed25519 AAAA a@b".to_string()];
        let text = with("0xAb", Some("vm.example"), Some("2a11::2"), &keys, |v| render_checked(TEMPLATE, v))
            .unwrap();
        assert!(
            text.contains("fqdn: 2.vm.example\n") && text.contains("host = \"2.vm.example\" $HOME $\n"),
            "{text}"
        );
        assert!(text.contains("ssh_authorized_keys: \n      - ssh-ed25519 AAAA a@b\n"), "{text}");
        assert!(text.contains("nft = $NFT_TOKEN_ID"), "only substituted when given");
        let text = with("0xAb", None, Some("2a11::2"), &[], |v| render_checked(TEMPLATE, v)).unwrap();
        assert!(
            text.contains("fqdn: web-1.local") && text.contains("\"[2a11::2]\"") && text.contains("keys: []"),
            "{text}"
        );
        let text = with("0xAb", Some("vm.example"), None, &[], |v| render_checked(TEMPLATE, v)).unwrap();
        assert!(text.contains("host = \"10.0.0.2\""), "{text}");
    }

    #[test]
    fn h27_a_value_that_breaks_out_of_its_scalar_is_refused() {
        let template = "#cloud-config\nkey: $SECRET_KEY\nlist: {a: $WALLET_ADDRESS}\n";
        let rendered = |secret: &str| {
            with("0xAb", None, None, &[], |v| {
                render_checked(template, &Variables { secret_key: secret, ..v.clone() })
            })
        };
        assert!(rendered("abc").is_ok());
        for evil in ["x\nruncmd: [id]", "{a: b}", "[1, 2]", "- x", "a: b"] {
            assert!(rendered(evil).is_err(), "{evil:?}");
        }
    }

    #[test]
    fn h27_what_is_no_cloud_config_is_refused_without_repeating_it() {
        for (text, why) in [
            ("hostname: s3cret", BadCloudInit::NoHeader),
            ("", BadCloudInit::NoHeader),
            ("#cloud-config\n- s3cret", BadCloudInit::NoMapping),
            ("#cloud-config\n", BadCloudInit::NoMapping),
            ("#cloud-config\nA s3cret", BadCloudInit::NoMapping),
        ] {
            assert_eq!(check(text).unwrap_err(), why, "{text}");
        }
        let error = check("#cloud-config\na: [s3cret\n").unwrap_err().to_string();
        assert!(error.contains("not valid YAML") && !error.contains("s3cret"), "{error}");
        assert!(check("#cloud-config\na: 1\na: 2\nb: !!binary aGk=\n").is_ok(), "what PyYAML takes");
    }

    #[test]
    fn h37_the_instance_id_depends_on_nothing_but_the_vm() {
        let uuid = Uuid::from_u128(7);
        assert_eq!(
            meta_data(&VmName::parse("web-1").unwrap(), uuid),
            "instance-id: \"blockhost-00000000-0000-0000-0000-000000000007\"\nlocal-hostname: \"web-1\"\n"
        );
    }
}
