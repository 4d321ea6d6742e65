//! The wizard's answers, checked; what was not answered comes from this host's configuration, else from defaults.

use crate::host::Host;
use crate::store::document::Document;
use crate::store::settings::{Settings, guests_bridge, pool_of_keys};
use crate::store::tfvars::Tfvars;
use crate::value::address::Ipv4Pool;
use crate::value::node_name::NodeName;
use crate::value::pve_user::PveUser;
use crate::value::text::{BridgeName, PlainName, StorageId};
use crate::value::vmid::{Vmid, VmidRange};
use anyhow::Context as _;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The Proxmox user if none was chosen.
const DEFAULT_USER: &str = "blockhost@pve";
const DEFAULT_STORAGE: &str = "local-lvm";
const DEFAULT_RANGE: (u64, u64) = (100, 999);

/// The wizard's answers.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The node; `None` means this one.
    pub node: Option<NodeName>,
    /// Storage of disks and cloud-init drives.
    pub storage: StorageId,
    /// Further storages that terraform.tfvars names.
    pub more_storages: Vec<StorageId>,
    /// The guests' bridge.
    pub bridge: BridgeName,
    /// Owner of the API token.
    pub user: PveUser,
    /// The template.
    pub template: Vmid,
    /// The VMIDs of our VMs.
    pub vmids: VmidRange,
    /// The VMs' IPv4 addresses; `None` if neither the wizard nor the configuration has any.
    pub pool: Option<Ipv4Pool>,
    /// Days between suspension and destruction; `None`: keep the file's value.
    pub gc_grace_days: Option<u64>,
    /// The terraform directory.
    pub terraform_dir: PathBuf,
    /// Whether the terraform directory comes from the wizard's answers instead of the configuration.
    pub terraform_dir_is_given: bool,
    /// A filesystem mirror of the provider, for hosts that cannot reach its registry.
    pub provider_mirror: Option<PathBuf>,
    /// The terraform directory in the existing configuration, if any: in use until step db_config.
    pub terraform_dir_now: Option<PathBuf>,
    /// Proxmox pool of our VMs.
    pub pve_pool: Option<PlainName>,
}

impl Choices {
    /// Parses `input`, the wizard's session as JSON, whose member `provisioner` has our answers. Empty input is an
    /// empty session.
    pub fn read(host: &Host, input: &str) -> anyhow::Result<Choices> {
        let session: Value = match input.trim() {
            "" => Value::Object(serde_json::Map::new()),
            text => serde_json::from_str(text).context("the configuration on standard input is not JSON")?,
        };
        anyhow::ensure!(session.is_object(), "the configuration on standard input is not a JSON object");
        warn_of_unknown(&session);
        let given = Document::of(Path::new("wizard"), session["provisioner"].clone())?;
        let settings = Settings::read_if_there(host)?;
        let given_dir = given.text("terraform_dir")?;
        let terraform_dir = match (&given_dir, &settings) {
            (Some(text), _) => checked_folder(text)?,
            (None, Some(settings)) => settings.terraform_dir.clone(),
            (None, None) => host.state_dir.join("terraform"),
        };
        let path = terraform_dir.join("terraform.tfvars");
        let tfvars = if path.exists() { Tfvars::read(&path)? } else { Tfvars::default() };
        let either = |key: &str, variable: &str| -> anyhow::Result<Option<String>> {
            Ok(given.text(key)?.filter(|t| !t.is_empty()).or_else(|| tfvars.get(variable).map(str::to_owned)))
        };
        let number = |key: &str| -> anyhow::Result<Option<u64>> {
            let found = given.integer(key, 0, 999_999_999)?;
            Ok(found.or_else(|| tfvars.get(key)?.parse().ok()))
        };
        let vmids = match (number("vmid_start")?, number("vmid_end")?) {
            (None, None) => {
                settings.as_ref().and_then(|s| s.vmid_range().ok()).unwrap_or(range(DEFAULT_RANGE)?)
            }
            (start, end) => range((start.unwrap_or(DEFAULT_RANGE.0), end.unwrap_or(DEFAULT_RANGE.1)))?,
        };
        let template = number("template_vmid")?.map_or(Ok(Vmid::DEFAULT_TEMPLATE), Vmid::new)?;
        anyhow::ensure!(
            !vmids.contains(template),
            "template_vmid {template} is within {vmids}, the VMIDs of customers' VMs, and would be assigned to one"
        );
        let named = either("bridge", "proxmox_bridge")?.map(|text| BridgeName::parse(&text)).transpose()?;
        let bridge = guests_bridge(named, || Ok(settings.as_ref().map(|settings| settings.bridge.clone())))?;
        let more_storages = ["disk_datastore", "cloudinit_datastore"]
            .iter()
            .filter_map(|key| tfvars.get(key))
            .map(StorageId::parse)
            .collect::<Result<_, _>>()?;
        let configured = settings.as_ref();
        Ok(Choices {
            node: either("node", "proxmox_node")?.map(|text| NodeName::parse(&text)).transpose()?,
            storage: StorageId::parse(
                either("storage", "proxmox_storage")?.as_deref().unwrap_or(DEFAULT_STORAGE),
            )?,
            more_storages,
            bridge,
            user: user(given.text("user")?)?,
            template,
            vmids,
            pool: match pool(&given)? {
                Some(pool) => Some(pool),
                None => configured.and_then(|settings| settings.ipv4_pool().ok()),
            },
            gc_grace_days: given.integer("gc_grace_days", 0, 36_500)?,
            terraform_dir,
            terraform_dir_is_given: given_dir.is_some(),
            provider_mirror: given.text("provider_mirror")?.map(|text| mirror(&text)).transpose()?,
            terraform_dir_now: settings.as_ref().map(|settings| settings.terraform_dir.clone()),
            pve_pool: match configured {
                Some(settings) => settings.pve_pool.clone(),
                None => Some(PlainName::parse("blockhost")?),
            },
        })
    }
}

/// The known answers.
const KNOWN: [&str; 14] = [
    "node",
    "storage",
    "bridge",
    "user",
    "template_vmid",
    "vmid_start",
    "vmid_end",
    "ip_network",
    "ip_start",
    "ip_end",
    "gateway",
    "gc_grace_days",
    "terraform_dir",
    "provider_mirror",
];

/// Warns of misspelt answers, which would silently be replaced by defaults. The rest of the session belongs to other
/// packages.
fn warn_of_unknown(session: &Value) {
    for warning in unknown(session) {
        tracing::warn!("{warning}");
    }
}

fn unknown(session: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for key in session["provisioner"].as_object().into_iter().flat_map(serde_json::Map::keys) {
        if !KNOWN.contains(&key.as_str()) && !key.starts_with('_') {
            let near = KNOWN.iter().find(|known| is_near(key, known));
            let near = near.map_or_else(String::new, |known| format!("; did you mean {known}?"));
            found.push(format!("provisioner.{}: unknown key, ignored{near}", key.escape_debug()));
        }
    }
    for key in KNOWN.iter().filter(|key| !session[**key].is_null()) {
        found.push(format!("{key}: ignored outside of \"provisioner\""));
    }
    found
}

/// Whether two names differ by one character, or agree at both ends with at most two characters different in between.
fn is_near(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let start = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let rest = (one.len() - start).min(other.len() - start);
    let end = one.iter().rev().zip(other.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    (one.len() - start - end).max(other.len() - start - end) <= 2
}

/// Older automated installations name root@pam; they get the same user as everybody else.
fn user(given: Option<String>) -> anyhow::Result<PveUser> {
    match given.as_deref() {
        None | Some("") => Ok(PveUser::parse(DEFAULT_USER)?),
        Some("root@pam") => {
            tracing::warn!(
                "a token of root@pam would give user blockhost the whole node; using {DEFAULT_USER} instead"
            );
            Ok(PveUser::parse(DEFAULT_USER)?)
        }
        Some(text) => Ok(PveUser::parse(text)?),
    }
}

fn range((start, end): (u64, u64)) -> anyhow::Result<VmidRange> {
    let highest = super::HIGHEST_VMID;
    anyhow::ensure!(
        (100..=highest).contains(&start) && (start..=highest).contains(&end),
        "the range of VMIDs {start}-{end} is not allowed: it must be within 100-{highest}, its start before its end"
    );
    Ok(VmidRange { start: Vmid::new(start)?, end: Vmid::new(end)? })
}

fn pool(given: &Document) -> anyhow::Result<Option<Ipv4Pool>> {
    if given.text("ip_network")?.is_none_or(|text| text.is_empty()) {
        return Ok(None);
    }
    let pool = pool_of_keys(given, ["ip_network", "ip_start", "ip_end", "gateway"])?;
    anyhow::ensure!(
        pool.start <= pool.end && pool.addresses().next().is_some(),
        "ip_start {} to ip_end {}: no address in this range can be assigned to a VM",
        pool.start,
        pool.end
    );
    Ok(Some(pool))
}

/// System directories: they cannot become terraform's, which belongs to user blockhost.
const SYSTEM_FOLDERS: [&str; 14] = [
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys",
    "usr",
];

/// Checks the path of a mirror. Whether it has the provider is checked by user blockhost, who will read it.
fn mirror(text: &str) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(text);
    anyhow::ensure!(
        path.is_absolute() && !text.chars().any(char::is_control),
        "provider_mirror {text:?} is not allowed: expected an absolute path"
    );
    Ok(path)
}

fn checked_folder(text: &str) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(text);
    let plain = path
        .components()
        .all(|part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_)));
    anyhow::ensure!(
        path.is_absolute() && plain && !text.chars().any(char::is_control),
        "terraform_dir {text:?} is not allowed: expected an absolute path without '..'"
    );
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let deep_enough = if parts.first() == Some(&"var") { 3 } else { 2 };
    anyhow::ensure!(
        parts.len() >= deep_enough && !SYSTEM_FOLDERS.contains(&parts[0]),
        "terraform_dir {text:?} is not allowed: it will belong to user blockhost, so it must not be a system directory"
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_misspelt_answer_is_named_and_what_belongs_to_others_is_not() {
        let session =
            json!({"_engine": "x", "wallet": {"bridgee": 1}, "provisioner": {"_note": 1, "node": "pve"}});
        assert_eq!(unknown(&session), [""; 0]);
        let wrong = json!({"bridge": "vmbr1", "provisioner": {"vmid_strat": 5, "colour": "red"}});
        let found = unknown(&wrong).join("\n");
        for words in [
            "vmid_strat: unknown key, ignored; did you mean vmid_start?",
            "colour: unknown key, ignored\n",
            "bridge: ignored outside",
        ] {
            assert!(found.contains(words), "{found}");
        }
    }
}
