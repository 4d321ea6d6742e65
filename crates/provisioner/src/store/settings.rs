//! What operators and the installer decided: `db.yaml` and the files beside it (`facts/contract/configuration.md`).

use super::document::{self, Document};
use super::tfvars::Tfvars;
use crate::host::Host;
use crate::host::proxmox_api::{self, ProxmoxApi};
use crate::value::address::{Ipv4Network, Ipv4Pool, Ipv6Pool, Ipv6Prefix};
use crate::value::field_names::FieldNames;
use crate::value::node_name::NodeName;
use crate::value::text::{BridgeName, PlainName, StorageId};
use crate::value::token::ApiToken;
use crate::value::vmid::{Vmid, VmidRange};
use crate::value::wallet::WalletAddress;
use anyhow::Context;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a VM's disk comes from the template's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneMode {
    /// A copy of its own.
    Full,
    /// A difference to the template's disk, where the storage can.
    Linked,
}

/// `db.yaml`, every key checked; what is absent has the contract's default.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The VM database.
    pub db_file: PathBuf,
    /// Terraform's folder.
    pub terraform_dir: PathBuf,
    /// The guests' bridge, where tfvars does not name another.
    pub bridge: BridgeName,
    /// Days a VM lives when nobody said how long.
    pub default_expiry_days: u32,
    /// Days between suspension and destruction.
    pub gc_grace_days: u32,
    vmid_range: Option<VmidRange>,
    ipv4_pool: Option<Ipv4Pool>,
    ipv6_offsets: (u64, u64),
    /// Names of the record's fields.
    pub fields: FieldNames,
    /// QEMU's cpu type (the provider's own default, qemu64, is slow).
    pub cpu_type: String,
    /// Name servers of new guests; `None`: the host's.
    pub dns_servers: Option<Vec<IpAddr>>,
    /// How long create waits for the guest agent.
    pub guest_ready_timeout: Duration,
    /// How long gc gives guests to shut down before it switches them off.
    pub guest_shutdown_timeout: Duration,
    /// Whether create asks the network who has an address before it gives it to a VM.
    pub probe_addresses: bool,
    /// The template that is cloned where no other is asked for.
    pub template_vmid: Vmid,
    /// Creates that run side by side.
    pub max_parallel_creates: u32,
    /// Full or linked clones.
    pub clone_mode: CloneMode,
    /// Storage whose snippets folder the root agent writes.
    pub snippet_storage: StorageId,
    /// The Proxmox pool our VMs are in; `None` where set to an empty text.
    pub pve_pool: Option<PlainName>,
    /// gc's brake: the largest share of all VMs it may destroy in one run.
    pub gc_max_share: f64,
    /// gc's brake: the largest number of days since its last run.
    pub gc_max_gap_days: u32,
    path: PathBuf,
}

const YEARS: u64 = 36_500;

impl Settings {
    /// Reads `db.yaml`.
    pub fn read(host: &Host) -> anyhow::Result<Settings> {
        let document = Document::read_yaml(&host.config_file("db.yaml"))?;
        Settings::from_document(&document, &host.state_dir)
    }

    /// Settings for `--mock`, which works with no configuration at all.
    pub fn for_mock(host: &Host) -> anyhow::Result<Settings> {
        let mut settings = Settings::from_document(&Document::empty(Path::new("(mock)")), &host.state_dir)?;
        let network = Ipv4Network::parse("192.168.122.0/24")?;
        settings.db_file = host.mock_database.clone();
        settings.vmid_range = Some(VmidRange { start: Vmid::new(100)?, end: Vmid::new(999)? });
        settings.ipv4_pool = Some(Ipv4Pool {
            network,
            start: network.pool_end("200")?,
            end: network.pool_end("250")?,
            gateway: network.pool_end("1")?,
        });
        Ok(settings)
    }

    fn from_document(doc: &Document, state_dir: &Path) -> anyhow::Result<Settings> {
        let absolute = |key: &str, default: PathBuf| -> anyhow::Result<PathBuf> {
            let path = doc.text(key)?.map_or(default, PathBuf::from);
            anyhow::ensure!(
                path.is_absolute(),
                "{}: {key}: expected an absolute path, found {path:?}",
                doc.path().display()
            );
            Ok(path)
        };
        let days = |key: &str, default: u32| -> anyhow::Result<u32> {
            Ok(doc.integer(key, 0, YEARS)?.map_or(default, |n| n as u32))
        };
        let bridge = doc.text("bridge")?.unwrap_or_else(|| "vmbr0".to_string());
        let storage = doc.text("snippet_storage")?.unwrap_or_else(|| "local".to_string());
        let pool = doc.text("pve_pool")?.unwrap_or_else(|| "blockhost".to_string());
        let cpu_type = doc.text("cpu_type")?.unwrap_or_else(|| "x86-64-v2-AES".to_string());
        doc.checked("cpu_type", PlainName::parse(&cpu_type))?;
        let clone_mode = match doc.text("clone_mode")?.as_deref() {
            None | Some("full") => CloneMode::Full,
            Some("linked") => CloneMode::Linked,
            Some(other) => anyhow::bail!(
                "{}: clone_mode: expected full or linked, found {other:?}",
                doc.path().display()
            ),
        };
        let offset =
            |key: &str, default| anyhow::Ok(doc.integer(key, 2, u64::from(u32::MAX))?.unwrap_or(default));
        let ipv6_offsets = (offset("ipv6_pool.start", 2)?, offset("ipv6_pool.end", 254)?);
        anyhow::ensure!(
            ipv6_offsets.0 <= ipv6_offsets.1,
            "{}: ipv6_pool: start lies behind end",
            doc.path().display()
        );
        Ok(Settings {
            db_file: absolute("db_file", state_dir.join("vms.json"))?,
            terraform_dir: absolute("terraform_dir", state_dir.join("terraform"))?,
            bridge: doc.checked("bridge", BridgeName::parse(&bridge))?,
            default_expiry_days: days("default_expiry_days", 30)?,
            gc_grace_days: days("gc_grace_days", 7)?,
            vmid_range: vmid_range(doc)?,
            ipv4_pool: ipv4_pool(doc)?,
            ipv6_offsets,
            fields: field_names(doc)?,
            cpu_type,
            dns_servers: dns_servers(doc)?,
            guest_ready_timeout: Duration::from_secs(
                doc.integer("guest_ready_timeout", 1, 86_400)?.unwrap_or(180),
            ),
            guest_shutdown_timeout: Duration::from_secs(
                doc.integer("guest_shutdown_timeout", 1, 3600)?.unwrap_or(60),
            ),
            probe_addresses: doc.flag("probe_addresses")?.unwrap_or(true),
            template_vmid: Vmid::new(doc.integer("template_vmid", 100, 999_999_999)?.unwrap_or(9001))?,
            max_parallel_creates: doc.integer("max_parallel_creates", 1, 64)?.unwrap_or(3) as u32,
            clone_mode,
            snippet_storage: doc.checked("snippet_storage", StorageId::parse(&storage))?,
            pve_pool: if pool.is_empty() {
                None
            } else {
                Some(doc.checked("pve_pool", PlainName::parse(&pool))?)
            },
            gc_max_share: doc.share("gc_max_share")?.unwrap_or(0.5),
            gc_max_gap_days: days("gc_max_gap_days", 14)?,
            path: doc.path().to_path_buf(),
        })
    }

    /// The VMIDs we hand out; an error where db.yaml does not say.
    pub fn vmid_range(&self) -> anyhow::Result<VmidRange> {
        self.vmid_range
            .with_context(|| format!("{}: key vmid_range (start, end) is missing", self.path.display()))
    }

    /// The IPv4 addresses we hand out; an error where db.yaml does not say.
    pub fn ipv4_pool(&self) -> anyhow::Result<Ipv4Pool> {
        self.ipv4_pool.with_context(|| {
            format!("{}: key ip_pool (network, start, end, gateway) is missing", self.path.display())
        })
    }

    /// The IPv6 addresses we hand out, and the broker's DNS zone: `None` where there is no broker-allocation.json.
    pub fn broker(&self, host: &Host) -> anyhow::Result<Option<Broker>> {
        let path = host.config_file("broker-allocation.json");
        if !path.exists() {
            return Ok(None);
        }
        let doc = Document::read_json(&path)?;
        let prefix = doc.require("prefix", doc.text("prefix")?)?;
        let prefix = doc.checked("prefix", Ipv6Prefix::parse(&prefix))?;
        let zone = doc.text("dns_zone")?.map(|z| z.trim_matches('.').to_string()).filter(|z| !z.is_empty());
        if let Some(zone) = &zone {
            doc.checked("dns_zone", crate::value::vm_name::VmName::parse(zone))?;
        }
        let (start, end) = self.ipv6_offsets;
        let pool = Ipv6Pool {
            prefix,
            start,
            end,
            gateway: prefix.at(1).context("an IPv6 prefix has no address 1")?,
        };
        Ok(Some(Broker { pool, dns_zone: zone }))
    }
}

/// What broker-allocation.json says.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Addresses of VMs.
    pub pool: Ipv6Pool,
    /// Zone in which each address has a name.
    pub dns_zone: Option<String>,
}

fn vmid_range(doc: &Document) -> anyhow::Result<Option<VmidRange>> {
    for key in ["vmid_range", "vmid_pool"] {
        if doc.value(key)?.is_none() {
            continue;
        }
        let end_of = |end: &str| -> anyhow::Result<Vmid> {
            let key = format!("{key}.{end}");
            let number = doc.require(&key, doc.integer(&key, 100, 999_999)?)?;
            doc.checked(&key, Vmid::new(number))
        };
        let range = VmidRange { start: end_of("start")?, end: end_of("end")? };
        anyhow::ensure!(
            range.start <= range.end,
            "{}: {key}: start {} lies behind end {}",
            doc.path().display(),
            range.start,
            range.end
        );
        return Ok(Some(range));
    }
    Ok(None)
}

fn ipv4_pool(doc: &Document) -> anyhow::Result<Option<Ipv4Pool>> {
    if doc.value("ip_pool")?.is_none() {
        return Ok(None);
    }
    let network = doc.require("ip_pool.network", doc.text("ip_pool.network")?)?;
    let network = doc.checked("ip_pool.network", Ipv4Network::parse(&network))?;
    let address = |key: &str| -> anyhow::Result<std::net::Ipv4Addr> {
        let text = doc.require(key, doc.text_or_number(key)?)?;
        doc.checked(key, network.pool_end(&text))
    };
    let pool = Ipv4Pool {
        network,
        start: address("ip_pool.start")?,
        end: address("ip_pool.end")?,
        gateway: address("ip_pool.gateway")?,
    };
    anyhow::ensure!(
        pool.start <= pool.end,
        "{}: ip_pool: start {} lies behind end {}",
        doc.path().display(),
        pool.start,
        pool.end
    );
    Ok(Some(pool))
}

fn field_names(doc: &Document) -> anyhow::Result<FieldNames> {
    /// What the record holds under names that cannot be changed.
    const TAKEN: [&str; 11] = [
        "ipv6_address",
        "purpose",
        "wallet_address",
        "owner_wallet",
        "username",
        "network_mode",
        "smbios_uuid",
        "nft_token_id",
        "suspended_at",
        "destroyed_at",
        "protected",
    ];
    let mut names = FieldNames::default();
    for (key, slot) in [
        ("vm_name", &mut names.vm_name),
        ("vmid", &mut names.vmid),
        ("ip_address", &mut names.ip_address),
        ("expires_at", &mut names.expires_at),
        ("owner", &mut names.owner),
        ("status", &mut names.status),
        ("created_at", &mut names.created_at),
    ] {
        if let Some(name) = doc.text(&format!("fields.{key}"))? {
            anyhow::ensure!(
                !name.is_empty(),
                "{}: fields.{key}: expected a name, found an empty text",
                doc.path().display()
            );
            anyhow::ensure!(
                !TAKEN.contains(&name.as_str()),
                "{}: fields.{key}: {name} is the name of another field of the record",
                doc.path().display()
            );
            *slot = name;
        }
    }
    let all = [
        &names.vm_name,
        &names.vmid,
        &names.ip_address,
        &names.expires_at,
        &names.owner,
        &names.status,
        &names.created_at,
    ];
    for (index, name) in all.iter().enumerate() {
        anyhow::ensure!(
            !all[..index].contains(name),
            "{}: fields: two fields of the record would be called {name}",
            doc.path().display()
        );
    }
    Ok(names)
}

fn dns_servers(doc: &Document) -> anyhow::Result<Option<Vec<IpAddr>>> {
    let Some(list) = doc.texts("dns_servers")? else {
        return Ok(None);
    };
    let parse = |text: &String| {
        doc.checked(
            "dns_servers",
            text.parse().map_err(|_| format!("expected an IP address, found {text:?}")),
        )
    };
    Ok(Some(list.iter().map(parse).collect::<anyhow::Result<_>>()?))
}

/// What create and the API need of terraform's folder and the token file.
#[derive(Debug, Clone)]
pub struct NodeAccess {
    /// The node VMs are made on (`proxmox_node`).
    pub node: NodeName,
    /// Storage of disks (`disk_datastore`, else `proxmox_storage`).
    pub disk_datastore: StorageId,
    /// Storage of the cloud-init drive (`cloudinit_datastore`, else as the disk).
    pub cloudinit_datastore: StorageId,
    /// The guests' bridge (`proxmox_bridge`), where tfvars names one.
    pub bridge: Option<BridgeName>,
    /// The API token.
    pub token: ApiToken,
    /// The token of tfvars is another one (or missing): terraform must be told ours.
    pub token_overrides_tfvars: bool,
    /// Where the API is.
    pub endpoint: String,
    /// The node's own CA, where the operator has put one: terraform's provider has to trust it, too (H31).
    pub own_ca: Option<PathBuf>,
}

impl NodeAccess {
    /// Reads `terraform.tfvars`, `provider.tf.json` and `pve-token`.
    pub fn read(host: &Host, settings: &Settings) -> anyhow::Result<NodeAccess> {
        let path = settings.terraform_dir.join("terraform.tfvars");
        let tfvars = Tfvars::read(&path)
            .context("terraform has not been set up (blockhost-provisioner-setup terraform)")?;
        let at = |key: &str| format!("{}: {key}", path.display());
        let storage = |key: &str| -> anyhow::Result<Option<StorageId>> {
            tfvars.get(key).map(|text| StorageId::parse(text).with_context(|| at(key))).transpose()
        };
        let node =
            tfvars.get("proxmox_node").with_context(|| format!("{} is missing", at("proxmox_node")))?;
        let node = NodeName::parse(node).with_context(|| at("proxmox_node"))?;
        let main = storage("proxmox_storage")?;
        let disk = storage("disk_datastore")?
            .or_else(|| main.clone())
            .with_context(|| format!("{} is missing", at("proxmox_storage")))?;
        let cloudinit = storage("cloudinit_datastore")?.or(main).unwrap_or_else(|| disk.clone());
        let bridge = tfvars
            .get("proxmox_bridge")
            .map(|text| BridgeName::parse(text).with_context(|| at("proxmox_bridge")))
            .transpose()?;
        let in_tfvars = tfvars
            .get("proxmox_api_token")
            .map(|text| ApiToken::parse(text).with_context(|| at("proxmox_api_token")));
        let token_file = host.config_file("pve-token");
        let (token, token_overrides_tfvars) = if token_file.exists() {
            let text = crate::host::read_file::text_for_people(&token_file)?;
            let token = ApiToken::parse(&text).with_context(|| token_file.display().to_string())?;
            let same = matches!(&in_tfvars, Some(Ok(other)) if *other == token);
            (token, !same)
        } else {
            let missing = || {
                anyhow::anyhow!(
                    "there is no API token: neither {} nor proxmox_api_token in {}",
                    token_file.display(),
                    path.display()
                )
            };
            (in_tfvars.unwrap_or_else(|| Err(missing()))?, false)
        };
        let endpoint = endpoint(&settings.terraform_dir.join("provider.tf.json"))?;
        Ok(NodeAccess {
            node,
            disk_datastore: disk,
            cloudinit_datastore: cloudinit,
            bridge,
            token,
            token_overrides_tfvars,
            endpoint,
            own_ca: Some(host.config_file("pve-ca.pem")).filter(|path| path.exists()),
        })
    }
}

impl NodeAccess {
    /// The node's API, with the node's own CA where the operator has put one (`pve-ca.pem`).
    pub fn api(&self, host: &Host) -> anyhow::Result<ProxmoxApi> {
        ProxmoxApi::new(&self.endpoint, self.token.clone(), Some(host.config_file("pve-ca.pem")))
    }
}

fn endpoint(path: &Path) -> anyhow::Result<String> {
    const DEFAULT: &str = "https://127.0.0.1:8006";
    let doc = Document::read_json(path)
        .context("terraform has not been set up (blockhost-provisioner-setup terraform)")?;
    // JSON syntax allows a block as an object or as a list of one.
    let provider = doc.value("provider.proxmox")?;
    let block = provider.and_then(|p| p.as_array().and_then(|list| list.first()).or(Some(p)));
    let blocks = provider.and_then(|p| p.as_array().map(Vec::as_slice).or(Some(std::slice::from_ref(p))));
    for block in blocks.unwrap_or_default() {
        proxmox_api::refuse_unchecked(path, block)?;
    }
    match block.and_then(|b| b.get("endpoint")) {
        None => Ok(DEFAULT.to_string()),
        Some(serde_json::Value::String(text)) if proxmox_api::host_of(text).is_some() => {
            Ok(text.trim_end_matches('/').to_string())
        }
        Some(serde_json::Value::String(text)) => anyhow::bail!(
            "{}: provider.proxmox.endpoint: expected an address like https://127.0.0.1:8006, found {text:?}",
            path.display()
        ),
        Some(other) => anyhow::bail!(
            "{}: provider.proxmox.endpoint: expected text, found {}",
            path.display(),
            document::describe(other)
        ),
    }
}

/// The mode of the network plugins, written into each new record: the one entry of `network-modes.enabled`.
pub fn network_mode(host: &Host, chosen: Option<&PlainName>) -> anyhow::Result<Option<String>> {
    let folder = host.config_file("network-modes.enabled");
    if !folder.exists() {
        return match chosen {
            None => Ok(None),
            Some(mode) => {
                anyhow::bail!("network mode {mode} is not enabled: {} does not exist", folder.display())
            }
        };
    }
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut modes: Vec<String> = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let name = entry.file_name();
        if let Some(mode) = name.to_str().and_then(|n| n.strip_suffix(".json")) {
            // The dispatcher of network modes refuses such a one too, but only when the VM is there.
            anyhow::ensure!(
                entry.path().exists(),
                "network mode {mode} is not enabled: {} is a dangling link; enable the mode again or remove the link",
                entry.path().display()
            );
            modes.push(mode.to_string());
        }
    }
    modes.sort();
    let place = folder.display();
    match (chosen, modes.as_slice()) {
        (Some(mode), _) if modes.iter().any(|m| m == mode.as_str()) => Ok(Some(mode.to_string())),
        (Some(mode), _) => {
            anyhow::bail!("network mode {mode} is not enabled; {place} has: {}", modes.join(", "))
        }
        (None, [one]) => Ok(Some(PlainName::parse(one).with_context(|| place.to_string())?.to_string())),
        (None, []) => anyhow::bail!("no network mode is enabled: {place} is empty"),
        (None, several) => anyhow::bail!(
            "several network modes are enabled in {place} ({}); choose one with --network-mode NAME",
            several.join(", ")
        ),
    }
}

/// One-time-password settings of web3-defaults.yaml: length and life in seconds.
pub fn one_time_password(host: &Host) -> anyhow::Result<(u64, u64)> {
    let path = host.config_file("web3-defaults.yaml");
    if !path.exists() {
        return Ok((6, 300));
    }
    let doc = Document::read_yaml(&path)?;
    let length = doc.integer("auth.otp_length", 4, 64)?.unwrap_or(6);
    let ttl = doc.integer("auth.otp_ttl_seconds", 1, 86_400)?.unwrap_or(300);
    Ok((length, ttl))
}

/// Checks a wallet against the pattern of the chain in use (`constraints.address_pattern` of engine.json).
pub fn check_wallet(host: &Host, wallet: &WalletAddress) -> anyhow::Result<()> {
    let path = host.share_dir.join("engine.json");
    if !path.exists() {
        return Ok(());
    }
    let doc = Document::read_json(&path)?;
    let Some(pattern) = doc.text("constraints.address_pattern")? else {
        return Ok(());
    };
    let regex = regex_lite::Regex::new(&pattern).map_err(|error| {
        anyhow::anyhow!(
            "{}: constraints.address_pattern {pattern:?} is not a usable regular expression: {error}",
            path.display()
        )
    })?;
    // The pattern of all chains of Ethereum's kind, which a person can be told in words.
    let form = match pattern.as_str() {
        "^0x[0-9a-fA-F]{40}$" => "expected 0x and 40 hexadecimal digits".to_string(),
        other => format!("it does not match {other}"),
    };
    anyhow::ensure!(
        regex.is_match(wallet.as_str()),
        "wallet address {wallet} is not a valid address for this engine: {form} (constraints.address_pattern of {})",
        path.display()
    );
    Ok(())
}

/// The name servers that a `resolv.conf` names and a guest can reach: none on loopback, none that are only known on one
/// link of the host (H37, H61). At most three, as Proxmox takes them.
pub fn host_name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let of_the_link_only = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !of_the_link_only(ip))
        .take(3)
        .collect()
}

/// The name servers of new guests: those of db.yaml, else the host's, else those behind its resolver on loopback. A
/// guest without any would get the node's own resolver from Proxmox, anew at each start.
///
/// # Errors
/// There are none.
pub fn name_servers(settings: &Settings) -> anyhow::Result<Vec<IpAddr>> {
    const HOST: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let named = settings.dns_servers.clone().filter(|list| !list.is_empty());
    let found = named.or_else(|| {
        HOST.iter()
            .map(|path| host_name_servers(&crate::host::read_file::text(path).unwrap_or_default()))
            .find(|list| !list.is_empty())
    });
    found.ok_or_else(|| {
        anyhow::anyhow!(
            "no name server for the guest: {} names none that a guest can reach (only loopback or link-local ones); set dns_servers in db.yaml",
            HOST[0]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(yaml: &str) -> anyhow::Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.yaml");
        std::fs::write(&path, yaml).unwrap();
        Settings::from_document(&Document::read_yaml(&path)?, Path::new("/var/lib/blockhost"))
    }

    const GOOD: &str = "db_file: /var/lib/blockhost/vms.json\nterraform_dir: /var/lib/blockhost/terraform\nbridge: vmbr0\n\
        vmid_pool: {start: 100, end: \"999\"}\nip_pool:\n  network: 192.168.122.0/24\n  start: \"200\"\n  end: 250\n  gateway: 192.168.122.1\n\
        somebody_elses: [1, yes]\n";

    #[test]
    fn a_full_file_and_an_almost_empty_one_are_read() {
        let s = settings(GOOD).unwrap();
        assert_eq!(s.vmid_range().unwrap().to_string(), "100-999");
        assert_eq!(s.ipv4_pool().unwrap().to_string(), "192.168.122.200-192.168.122.250 of 192.168.122.0/24");
        let s = settings("bridge: vmbr1\n").unwrap();
        assert_eq!((s.default_expiry_days, s.gc_grace_days, s.max_parallel_creates), (30, 7, 3));
        assert!(s.vmid_range().unwrap_err().to_string().contains("vmid_range"));
    }

    #[test]
    fn h17_each_malformed_form_gives_one_line_naming_file_and_key() {
        for (yaml, key) in [
            ("", "found nothing"),
            ("- a\n", "found a list"),
            ("a: [", "not valid YAML"),
            ("db_file: relative.json\n", "db_file"),
            ("db_file: 7\n", "db_file"),
            ("bridge: yes\n", "bridge"),
            ("bridge: \"a b\"\n", "bridge"),
            ("gc_grace_days: -1\n", "gc_grace_days"),
            ("gc_grace_days: soon\n", "gc_grace_days"),
            ("default_expiry_days: 1.5\n", "default_expiry_days"),
            ("vmid_range: 100-999\n", "vmid_range"),
            ("vmid_range: {start: 100}\n", "vmid_range.end"),
            ("vmid_range: {start: 200, end: 100}\n", "lies behind"),
            ("vmid_range: {start: 1, end: 100}\n", "vmid_range.start"),
            ("ip_pool: {start: 1, end: 2, gateway: 1}\n", "ip_pool.network"),
            ("ip_pool: {network: 10.0.0.0/24, start: 300, end: 2, gateway: 1}\n", "ip_pool.start"),
            ("ip_pool: {network: 10.0.0.0/24, start: 20, end: 10, gateway: 1}\n", "lies behind"),
            ("ip_pool: {network: nonsense, start: 20, end: 10, gateway: 1}\n", "ip_pool.network"),
            ("fields: {status: 3}\n", "fields.status"),
            ("clone_mode: half\n", "clone_mode"),
            ("dns_servers: [x]\n", "dns_servers"),
            ("gc_max_share: 2\n", "gc_max_share"),
            ("guest_shutdown_timeout: 0\n", "guest_shutdown_timeout"),
            ("max_parallel_creates: 0\n", "max_parallel_creates"),
            ("ipv6_pool: {start: 9, end: 3}\n", "ipv6_pool"),
        ] {
            let error = format!("{:#}", settings(yaml).expect_err(yaml));
            assert!(
                error.contains("db.yaml") && error.contains(key) && !error.contains('\n'),
                "{yaml}: {error}"
            );
        }
    }

    #[test]
    fn h37_loopback_name_servers_are_left_out() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\nnameserver bad\noptions edns0\n";
        assert_eq!(host_name_servers(text), ["192.0.2.53".parse::<IpAddr>().unwrap()]);
        let none = "nameserver 127.0.0.1\nnameserver fe80::1%vmbr0\nnameserver fe80::1\nnameserver 169.254.1.1\nnameserver ::ffff:127.0.0.53\nsearch a\n";
        assert!(host_name_servers(none).is_empty(), "H61");
    }
}
