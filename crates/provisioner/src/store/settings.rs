//! The settings of operators and the installer: `db.yaml` and the files beside it (`facts/contract/configuration.md`).

use super::document::Document;
use crate::host::Host;
use crate::value::address::{Ipv4Network, Ipv4Pool, Ipv6Pool, Ipv6Prefix};
use crate::value::field_names::FieldNames;
use crate::value::nearest::nearest;
use crate::value::text::{BridgeName, PlainName, StorageId};
use crate::value::vmid::{Vmid, VmidRange};
use anyhow::Context;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a VM's disk is made from the template's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneMode {
    /// A full copy.
    Full,
    /// A linked clone of the template's disk, if the storage supports it.
    Linked,
}

/// `db.yaml` with every key checked; missing keys have the contract's defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The VM database.
    pub db_file: PathBuf,
    /// Terraform's directory.
    pub terraform_dir: PathBuf,
    /// The guests' bridge, unless tfvars names another one.
    pub bridge: BridgeName,
    /// Days until a VM expires if the request does not say.
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
    /// Whether create probes the network for an address before it assigns the address to a VM.
    pub probe_addresses: bool,
    /// The template that is cloned unless another is requested.
    pub template_vmid: Vmid,
    /// Maximum number of creates that run in parallel.
    pub max_parallel_creates: u32,
    /// Full or linked clones.
    pub clone_mode: CloneMode,
    /// Storage with the snippets directory that the root agent writes.
    pub snippet_storage: StorageId,
    /// The Proxmox pool of our VMs; `None` if set to an empty string.
    pub pve_pool: Option<PlainName>,
    /// gc's check: the largest share of all VMs (0 to 1) that one run may destroy or suspend.
    pub gc_max_share: f64,
    /// gc's check: the largest number of days since its last run.
    pub gc_max_gap_days: u32,
    /// How many times the node's memory may be promised to VMs; `None`: create does not compare the two.
    pub overcommit_memory: Option<f64>,
    /// Percentage of a storage that create leaves free.
    pub storage_reserve_percent: u32,
    /// Whether new VMs may send from their own addresses only; if false, no VM of the site is restricted.
    pub anti_spoofing: bool,
    /// Whether a VM stays off if its network cannot be guarded.
    pub guard_required: bool,
    path: PathBuf,
}

const YEARS: u64 = 36_500;

impl Settings {
    /// Reads `db.yaml`.
    pub fn read(host: &Host) -> anyhow::Result<Settings> {
        let document = Document::read_yaml(&host.config_file("db.yaml"))?;
        Settings::from_document(&document, &host.state_dir)
    }

    /// Reads `db.yaml` if it exists: the installer's commands run before it is written.
    pub fn read_if_there(host: &Host) -> anyhow::Result<Option<Settings>> {
        host.config_file("db.yaml").exists().then(|| Settings::read(host)).transpose()
    }

    /// Settings for `--mock`, which works without any configuration.
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
        let bridge = doc.text("bridge")?.map(|text| doc.checked("bridge", BridgeName::parse(&text)));
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
            "{}: ipv6_pool: start is after end",
            doc.path().display()
        );
        Ok(Settings {
            db_file: absolute("db_file", state_dir.join("vms.json"))?,
            terraform_dir: absolute("terraform_dir", state_dir.join("terraform"))?,
            bridge: bridge.transpose()?.unwrap_or_else(BridgeName::first_of_proxmox),
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
            template_vmid: match doc.integer("template_vmid", 100, 999_999_999)? {
                Some(number) => Vmid::new(number)?,
                None => Vmid::DEFAULT_TEMPLATE,
            },
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
            overcommit_memory: doc.number("overcommit_memory", 0.1, 100.0)?,
            storage_reserve_percent: doc.integer("storage_reserve_percent", 0, 99)?.unwrap_or(0) as u32,
            anti_spoofing: doc.flag("anti_spoofing")?.unwrap_or(true),
            guard_required: doc.flag("guard_required")?.unwrap_or(false),
            path: doc.path().to_path_buf(),
        })
    }

    /// Returns the VMIDs to allocate from; fails if db.yaml does not set them.
    pub fn vmid_range(&self) -> anyhow::Result<VmidRange> {
        self.vmid_range.with_context(|| self.missing("vmid_range", "start, end"))
    }

    /// Says that a key is missing, and which existing key may be a misspelling of it. Unknown keys are allowed, so
    /// nothing else would report it.
    fn missing(&self, key: &str, parts: &str) -> String {
        let text = format!("{}: key {key} ({parts}) is missing", self.path.display());
        let document = Document::read_yaml(&self.path).ok();
        let others = document.iter().flat_map(Document::keys).filter(|other| !other.starts_with("ipv6"));
        match nearest(key, others) {
            Some(near) => format!("{text}; did you mean {key} by {near}?"),
            None => text,
        }
    }

    /// Returns the IPv4 addresses to allocate from; fails if db.yaml does not set them.
    pub fn ipv4_pool(&self) -> anyhow::Result<Ipv4Pool> {
        self.ipv4_pool.with_context(|| self.missing("ip_pool", "network, start, end, gateway"))
    }

    /// Returns the IPv6 addresses to allocate from and the broker's DNS zone; `None` if there is no
    /// broker-allocation.json.
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

/// The contents of broker-allocation.json.
#[derive(Debug, Clone)]
pub struct Broker {
    /// The addresses for VMs.
    pub pool: Ipv6Pool,
    /// The zone in which each address has a name.
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
            "{}: {key}: start {} is after end {}",
            doc.path().display(),
            range.start,
            range.end
        );
        return Ok(Some(range));
    }
    Ok(None)
}

/// Returns the guests' bridge: from terraform.tfvars, otherwise from db.yaml, otherwise Proxmox' first one. db.yaml is
/// read only if it is needed, because some callers must work without it.
pub fn guests_bridge(
    in_tfvars: Option<BridgeName>,
    in_db_yaml: impl FnOnce() -> anyhow::Result<Option<BridgeName>>,
) -> anyhow::Result<BridgeName> {
    let named = in_tfvars.map_or_else(in_db_yaml, |bridge| Ok(Some(bridge)))?;
    Ok(named.unwrap_or_else(BridgeName::first_of_proxmox))
}

/// Reads a pool from four keys: network, first and last address, gateway. The last three may be given as the last octet
/// alone. The caller decides whether any address is left.
pub fn pool_of_keys(doc: &Document, keys: [&str; 4]) -> anyhow::Result<Ipv4Pool> {
    let [network, start, end, gateway] = keys;
    let text = doc.require(network, doc.text(network)?)?;
    let network = doc.checked(network, Ipv4Network::parse(&text))?;
    let address = |key: &str| -> anyhow::Result<std::net::Ipv4Addr> {
        let text = doc.require(key, doc.text_or_number(key)?)?;
        doc.checked(key, network.pool_end(&text))
    };
    Ok(Ipv4Pool { network, start: address(start)?, end: address(end)?, gateway: address(gateway)? })
}

fn ipv4_pool(doc: &Document) -> anyhow::Result<Option<Ipv4Pool>> {
    if doc.value("ip_pool")?.is_none() {
        return Ok(None);
    }
    let pool = pool_of_keys(doc, ["ip_pool.network", "ip_pool.start", "ip_pool.end", "ip_pool.gateway"])?;
    anyhow::ensure!(
        pool.start <= pool.end,
        "{}: ip_pool: start {} is after end {}",
        doc.path().display(),
        pool.start,
        pool.end
    );
    Ok(Some(pool))
}

fn field_names(doc: &Document) -> anyhow::Result<FieldNames> {
    /// Fields of the record whose names cannot be changed.
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
                "{}: fields.{key}: {name} is already the name of another record field",
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
            "{}: fields: two record fields would be called {name}",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(yaml: &str) -> anyhow::Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.yaml");
        std::fs::write(&path, yaml).unwrap();
        Settings::from_document(&Document::read_yaml(&path)?, Path::new("/var/lib/blockhost"))
    }

    #[test]
    fn the_guests_bridge_is_that_of_tfvars_then_of_db_yaml_then_the_first() {
        let named = |text: &str| BridgeName::parse(text).ok();
        let shown = |tfvars: Option<BridgeName>, db_yaml: Option<BridgeName>| {
            guests_bridge(tfvars, || Ok(db_yaml)).unwrap().to_string()
        };
        assert_eq!(shown(named("vmbr2"), named("vmbr1")), "vmbr2");
        assert_eq!(shown(None, named("vmbr1")), "vmbr1");
        assert_eq!(shown(None, None), "vmbr0");
        // An unreadable db.yaml does not matter if tfvars names the bridge.
        assert!(guests_bridge(None, || anyhow::bail!("broken")).is_err());
        assert!(guests_bridge(named("vmbr2"), || anyhow::bail!("broken")).is_ok());
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
        assert_eq!((s.overcommit_memory, s.storage_reserve_percent), (None, 0));
        let s = settings("overcommit_memory: 2\nstorage_reserve_percent: \"5\"\n").unwrap();
        assert_eq!((s.overcommit_memory, s.storage_reserve_percent), (Some(2.0), 5));
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
            ("vmid_range: {start: 200, end: 100}\n", "is after"),
            ("vmid_range: {start: 1, end: 100}\n", "vmid_range.start"),
            ("ip_pool: {start: 1, end: 2, gateway: 1}\n", "ip_pool.network"),
            ("ip_pool: {network: 10.0.0.0/24, start: 300, end: 2, gateway: 1}\n", "ip_pool.start"),
            ("ip_pool: {network: 10.0.0.0/24, start: 20, end: 10, gateway: 1}\n", "is after"),
            ("ip_pool: {network: nonsense, start: 20, end: 10, gateway: 1}\n", "ip_pool.network"),
            ("fields: {status: 3}\n", "fields.status"),
            ("clone_mode: half\n", "clone_mode"),
            ("dns_servers: [x]\n", "dns_servers"),
            ("gc_max_share: 2\n", "gc_max_share"),
            ("overcommit_memory: 0\n", "overcommit_memory"),
            ("overcommit_memory: none\n", "overcommit_memory"),
            ("storage_reserve_percent: 100\n", "storage_reserve_percent"),
            ("storage_reserve_percent: 5.5\n", "storage_reserve_percent"),
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
}
