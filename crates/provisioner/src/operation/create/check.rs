//! Everything that can be known before anything is taken (`CLAUDE.md#habits`).

use super::{Request, template};
use crate::host::proxmox_api::{LOCAL_ENDPOINT, ProxmoxApi};
use crate::host::read_file::text_for_people;
use crate::host::rights::PUBLIC_KEYS;
use crate::operation::{Context, WrongUsage};
use crate::plan::allocation::check_wish;
use crate::plan::cloud_init::{self, Variables};
use crate::plan::terraform_json::{self, FirstBoot, VmPlan};
use crate::plan::vm_record::NewVm;
use crate::store::node_access::NodeAccess;
use crate::store::settings::{Broker, CloneMode, guests_bridge};
use crate::store::side_files;
use crate::value::address::Ipv4Pool;
use crate::value::allocation::Allocation;
use crate::value::node_name::NodeName;
use crate::value::text::{BridgeName, PlainName, StorageId};
use crate::value::token::{ApiToken, Secret};
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What was read and checked.
pub struct Checked {
    /// The VM.
    pub name: VmName,
    /// Token, node, storages.
    pub access: NodeAccess,
    /// The node's API.
    pub api: ProxmoxApi,
    /// Network plugins' mode.
    pub network_mode: Option<String>,
    /// IPv6 prefix, where there is a broker.
    pub broker: Option<Broker>,
    ipv4_pool: Ipv4Pool,
    bridge: BridgeName,
    dns_servers: Vec<IpAddr>,
    user_data: UserData,
    ssh_keys: Vec<String>,
    one_time_password: (u64, u64),
    expiry_days: u32,
    /// Whether the template's disk is copied whole.
    pub full_clone: bool,
    cpu_type: String,
    /// Proxmox pool of the VMs.
    pub pool: Option<PlainName>,
    /// Storage of the cloud-init snippets.
    pub snippet_storage: StorageId,
    /// What a preview could not check.
    pub warnings: Vec<String>,
}

enum UserData {
    None,
    AsIs(Secret),
    Template(String),
}

/// Checks settings, name, wallet, template, cloud-init text, and what the node can tell.
pub fn everything(ctx: &Context<'_>, request: &Request) -> anyhow::Result<Checked> {
    let host = ctx.host;
    request.name.check_for_new_vm().map_err(WrongUsage::new)?;
    match &request.owner_wallet {
        Some(wallet) if !ctx.mock => side_files::check_wallet(host, wallet)?,
        None if !request.no_web3 => {
            return Err(WrongUsage::new(format!(
                "VM {}: --owner-wallet ADDR is required, or --no-web3 for a VM without wallet login",
                request.name
            ))
            .into());
        }
        _ => {}
    }
    name_is_free(ctx, request)?;
    let ipv4_pool = ctx.settings.ipv4_pool()?;
    let range = ctx.settings.vmid_range()?;
    let broker = if ctx.mock { Some(mock_broker()?) } else { ctx.settings.broker(host)? };
    check_wish(request.wish, range, &ipv4_pool, broker.as_ref().map(|broker| &broker.pool))
        .with_context(|| format!("VM {}", request.name))?;
    let network_mode = if ctx.mock {
        side_files::network_mode(host, request.network_mode.as_ref()).unwrap_or_default()
    } else {
        side_files::network_mode(host, request.network_mode.as_ref())?
    };
    let mut access = if ctx.mock { mock_access()? } else { ctx.api()?.0.clone() };
    if let Some(node) = request.node.as_ref().filter(|node| **node != access.node && !ctx.mock) {
        // Every other verb asks the root agent of this node: it would find the VM elsewhere.
        anyhow::bail!(
            "VM {}: --node {node}: VMs are made on node {} only, where this host's root agent is; leave --node out, or run the command on node {node}",
            request.name,
            access.node
        );
    }
    if let Some(storage) = &request.disk_datastore {
        access.disk_datastore = storage.clone();
    }
    if let Some(storage) = &request.cloudinit_datastore {
        access.cloudinit_datastore = storage.clone();
    }
    let api = access.api(host)?;
    let dns_servers = if ctx.mock { Vec::new() } else { side_files::name_servers(&ctx.settings)? };
    let mut checked = Checked {
        name: request.name.clone(),
        bridge: guests_bridge(access.bridge.clone(), || Ok(Some(ctx.settings.bridge.clone())))?,
        api,
        network_mode,
        broker,
        ipv4_pool,
        dns_servers,
        user_data: user_data(ctx, request)?,
        ssh_keys: ssh_keys(ctx, request.no_web3),
        one_time_password: if ctx.mock { (6, 300) } else { side_files::one_time_password(host)? },
        expiry_days: request.expiry_days.unwrap_or(ctx.settings.default_expiry_days),
        full_clone: ctx.settings.clone_mode == CloneMode::Full,
        cpu_type: ctx.settings.cpu_type.clone(),
        pool: ctx.settings.pve_pool.clone(),
        snippet_storage: ctx.settings.snippet_storage.clone(),
        access,
        warnings: Vec::new(),
    };
    // Rendered once with made-up addresses: what cannot work is known before anything is taken.
    let mut wish = request.wish;
    wish.vmid = None;
    let example = Allocation {
        vmid: ctx.settings.vmid_range()?.start,
        ipv4: wish.ipv4.unwrap_or(checked.ipv4_pool.start),
        ipv6: checked.broker.as_ref().map(|b| wish.ipv6.unwrap_or(b.pool.gateway)),
    };
    checked.user_data(ctx, request, example)?;
    if !ctx.mock {
        let warnings = super::preflight::preflight(ctx, &checked, request);
        checked.warnings = warnings.with_context(|| format!("VM {}", request.name))?;
    }
    Ok(checked)
}

/// `0xAb58…eC9B`: enough to know a wallet again.
fn shortened(wallet: &str) -> String {
    let letters: Vec<char> = wallet.chars().collect();
    if letters.len() <= 12 {
        return wallet.to_string();
    }
    let text = |part: &[char]| part.iter().collect::<String>();
    format!("{}…{}", text(&letters[..6]), text(&letters[letters.len() - 4..]))
}

/// The name is not a live VM's, and neither is the terraform label made from it (H03).
pub fn name_is_free(ctx: &Context<'_>, request: &Request) -> anyhow::Result<()> {
    let name = &request.name;
    if !ctx.database.path().exists() {
        // Before anything is undone or made: a lost database is no beginning.
        let why = if ctx.mock { None } else { super::take::traces_of_vms(ctx)? };
        return why.map_or(Ok(()), |why| Err(ctx.database.lost(&why)));
    }
    let label = name.resource_label();
    let fields = crate::store::vm_database::Fields::Holding;
    let (same, mut similar, mut twin) = ctx.database.gather(
        fields,
        <(Option<_>, Option<_>, Option<_>)>::default,
        |(same, similar, twin), view| {
            if view.status_text() == "destroyed" {
                return;
            }
            if view.key == name.as_str() {
                *same = Some(view.status_text().into_owned());
            } else if view.key.eq_ignore_ascii_case(name.as_str()) {
                *twin = Some(view.key.to_string());
            } else if VmName::parse(&view.key).is_ok_and(|other| other.resource_label() == label) {
                *similar = Some(view.key.to_string());
            }
        },
    )?;
    // A create that was registered and not reported finishes instead.
    if let Some(status) = same
        && !matches!(ctx.journal().read(name), Ok(Some(entry)) if entry.step == crate::store::journal::Step::Registered)
    {
        let wallet = ctx.record(name).ok().flatten().and_then(|record| record.wallet_address);
        let owner = wallet.map(|wallet| format!(", owner {}", shortened(&wallet))).unwrap_or_default();
        anyhow::bail!("VM {name} exists already ({status}{owner}); choose another name");
    }
    for entry in ctx.journal().entries()? {
        if entry.name == name.as_str() {
            continue;
        } else if entry.name.eq_ignore_ascii_case(name.as_str()) {
            twin = Some(entry.name);
        } else if VmName::parse(&entry.name).is_ok_and(|other| other.resource_label() == label) {
            similar = Some(entry.name);
        }
    }
    if let Some(other) = twin {
        anyhow::bail!(
            "VM {name}: its name differs from that of VM {other} only in capitals, and host names do not tell these apart; choose another name"
        );
    }
    if let Some(other) = similar {
        anyhow::bail!(
            "VM {name}: the name is too similar to VM {other} (both become {label} in terraform); choose another name"
        );
    }
    let legacy = ctx.legacy_folder_of(name);
    anyhow::ensure!(
        ctx.mock || !legacy.has_file(),
        "VM {name}: {} holds a file of this name, but the database has no such VM; move the file away or choose another name",
        ctx.settings.terraform_dir.display()
    );
    Ok(())
}

fn user_data(ctx: &Context<'_>, request: &Request) -> anyhow::Result<UserData> {
    if let Some(path) = &request.cloud_init_content {
        let text = content_of(ctx, path)?;
        cloud_init::check(&text).with_context(|| format!("{}: not a usable cloud-config", path.display()))?;
        return Ok(UserData::AsIs(Secret::new(text)));
    }
    let template = match (&request.cloud_init_template, request.no_web3) {
        (Some(template), _) => template.clone(),
        (None, true) => return Ok(UserData::None),
        (None, false) => PlainName::parse("nft-auth")?,
    };
    let mut folders = vec![ctx.host.share_dir.join("cloud-init/templates")];
    if ctx.host.dev {
        folders.push(PathBuf::from("cloud-init/templates"));
    }
    let path = folders.iter().map(|dir| dir.join(format!("{template}.yaml"))).find(|path| path.is_file());
    match path {
        Some(path) => Ok(UserData::Template(text_for_people(&path)?)),
        None if ctx.mock => {
            tracing::warn!("there is no cloud-init template {template}; the mock VM gets none");
            Ok(UserData::None)
        }
        None => anyhow::bail!(
            "there is no cloud-init template {template}; there are: {}",
            template_names(&folders)
        ),
    }
}

/// A file that the caller named: root's, where root called, was read with root's rights.
fn content_of(ctx: &Context<'_>, path: &Path) -> anyhow::Result<String> {
    let brought = ctx.host.brought.iter().flat_map(|brought| &brought.files).find(|(at, _)| at == path);
    match brought {
        Some((_, Ok(text))) => Ok(text.clone()),
        Some((_, Err(why))) => anyhow::bail!("cannot read {}: {why}", path.display()),
        None => text_for_people(path),
    }
}

fn template_names(folders: &[PathBuf]) -> String {
    let files = folders.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|f| f.file_name().to_str().and_then(|n| n.strip_suffix(".yaml")).map(str::to_string))
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() { format!("none ({})", folders[0].display()) } else { names.join(", ") }
}

/// Public keys of the caller. The comment is kept only where it is harmless in YAML.
fn ssh_keys(ctx: &Context<'_>, only_way_in: bool) -> Vec<String> {
    let Some(home) = &ctx.host.home else {
        return Vec::new();
    };
    let texts = match &ctx.host.brought {
        Some(brought) => brought.public_keys.clone(),
        None => {
            let files = PUBLIC_KEYS.map(|file| home.join(".ssh").join(file));
            files.iter().filter_map(|file| crate::host::read_file::text(file).ok()).collect()
        }
    };
    let keys: Vec<String> = texts.iter().filter_map(|text| public_key(text)).collect();
    if keys.is_empty() && !ctx.mock {
        let whose =
            if ctx.host.brought.is_some() { "root's home".into() } else { home.display().to_string() };
        let files = PUBLIC_KEYS.join(", ");
        let text =
            format!("no SSH key found in {whose}/.ssh ({files}): SSH login by key will not work in this VM");
        // Users log in by wallet: a warning that comes with every create is one that nobody reads.
        if only_way_in {
            tracing::warn!("{text}");
        } else {
            tracing::debug!("{text}");
        }
    }
    keys
}

/// `type base64 [comment]` of the first line, or `None` for anything else.
fn public_key(text: &str) -> Option<String> {
    let mut words = text.lines().next()?.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let plain = |word: &str, more: &[char]| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
    };
    // A private key in the wrong file is none.
    let is_key = ["ssh-", "ecdsa-", "sk-"].iter().any(|family| kind.starts_with(family));
    if !is_key || !plain(kind, &['-', '@', '.']) || !plain(key, &['+', '/', '=']) {
        return None;
    }
    let comment = words.next().filter(|word| plain(word, &['-', '@', '.', '_']));
    Some(comment.map_or_else(|| format!("{kind} {key}"), |comment| format!("{kind} {key} {comment}")))
}

fn mock_broker() -> anyhow::Result<Broker> {
    let prefix = crate::value::address::Ipv6Prefix::parse("fd00::/120")?;
    let gateway = prefix.at(1).context("fd00::1")?;
    Ok(Broker {
        pool: crate::value::address::Ipv6Pool { prefix, start: 2, end: 254, gateway },
        dns_zone: None,
    })
}

fn mock_access() -> anyhow::Result<NodeAccess> {
    Ok(NodeAccess {
        node: NodeName::parse("mock")?,
        disk_datastore: StorageId::parse("local")?,
        cloudinit_datastore: StorageId::parse("local")?,
        bridge: None,
        token: ApiToken::parse("mock@mock!mock=mock")?,
        token_overrides_tfvars: false,
        endpoint: LOCAL_ENDPOINT.to_string(),
        own_ca: None,
    })
}

/// What an operator can do about a terraform failure (`facts/provider.md`, section 4).
pub fn hint_for(words: &str) -> &'static str {
    const HINTS: [(&str, &str); 11] = [
        ("HTTP 401", "; the API token is wrong or expired: blockhost-provisioner-setup token"),
        ("no such token", "; the API token was deleted: blockhost-provisioner-setup token"),
        (
            "(/storage/",
            "; either this storage does not exist (pvesm status) or the API token has no rights on it (blockhost-provisioner-setup token)",
        ),
        (
            "(/pool/",
            "; either this pool does not exist (pvesh get /pools) or the API token has no rights on it (blockhost-provisioner-setup token)",
        ),
        ("HTTP 403", "; the API token lacks a privilege: blockhost-provisioner-setup token"),
        ("not enough memory", "; the node has not enough memory for this VM"),
        ("free space", "; the storage is full: look at pvesm status"),
        ("No space left", "; the storage is full: look at pvesm status"),
        (
            "Required plugins are not installed",
            "; terraform has not been initialised: blockhost-provisioner-setup terraform",
        ),
        (
            "Inconsistent dependency lock file",
            "; terraform has not been initialised: blockhost-provisioner-setup terraform",
        ),
        ("disk resize failure", "; the disk asked for is smaller than the template's"),
    ];
    HINTS.iter().find(|(pattern, _)| words.contains(pattern)).map_or("", |(_, hint)| hint)
}

/// What would be created, for a person. No line begins with `{`: engines look for such lines.
pub fn describe(ctx: &Context<'_>, request: &Request, checked: &Checked) -> anyhow::Result<String> {
    let mut holders = super::holders::Holders::gather(ctx, checked, false)?;
    let allocation = if ctx.database.path().exists() {
        ctx.database.look(|db| {
            let entries = super::take::journal_entries(ctx)?;
            super::take::choose(ctx, request, checked, db, &entries, &[], &mut holders)
        })?
    } else {
        super::take::first(ctx, request, checked)?
    };
    let none = || "none".to_string();
    let first_boot = match (&checked.user_data, &request.cloud_init_content, &request.cloud_init_template) {
        (UserData::None, ..) => "account made by Proxmox".to_string(),
        (UserData::AsIs(_), Some(path), _) => format!("file {}", path.display()),
        (_, _, template) => format!("template {}", template.as_ref().map_or("nft-auth", PlainName::as_str)),
    };
    let lines = [
        ("VMID", format!("{} (if still free)", allocation.vmid)),
        ("IPv4 address", format!("{} (if still free)", allocation.ipv4)),
        ("IPv6 address", allocation.ipv6.map_or_else(none, |a| format!("{a} (if still free)"))),
        ("owner wallet", request.owner_wallet.as_ref().map_or_else(none, ToString::to_string)),
        ("user", request.username.to_string()),
        ("expires", expiry(crate::host::clock::now(), checked.expiry_days)),
        ("vCPUs", request.cpu.to_string()),
        ("memory", format!("{} MB", request.memory_mb)),
        ("disk", format!("{} GB on {}", request.disk_gb, checked.access.disk_datastore)),
        ("template VM", template::chosen(ctx, request).to_string()),
        ("node", checked.access.node.to_string()),
        ("tags", terraform_json::all_tags(&request.tags).join(", ")),
        ("owner", request.owner.as_str().to_string()),
        ("purpose", Some(request.purpose.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(none)),
        ("network mode", checked.network_mode.clone().unwrap_or_else(none)),
        ("first boot", first_boot),
    ];
    let mut text = format!("Would create VM {}:\n", request.name);
    for (key, value) in lines {
        // A path may hold a line break, and any text what a caller would take for a result.
        let value =
            value.replace(char::is_control, "\u{fffd}").replace("BLOCKHOST_RESULT", "BLOCKHOST RESULT");
        text.push_str(&format!("  {key:<14} {value}\n"));
    }
    text.push_str("This was a preview. Run again with --apply to create the VM.\n");
    Ok(text)
}

/// When a VM that is made now expires, for a person. 0 is no "never".
fn expiry(now: DateTime<Utc>, days: u32) -> String {
    let date = now
        .checked_add_days(chrono::Days::new(days.into()))
        .map_or_else(|| "?".to_string(), |at| at.format("%Y-%m-%d").to_string());
    match days {
        0 => format!("{date}, at once: the next gc run suspends it"),
        1 => format!("{date} (in 1 day)"),
        _ => format!("{date} (in {days} days)"),
    }
}

impl Checked {
    /// The node VMs are made on.
    pub fn node(&self) -> &NodeName {
        &self.access.node
    }

    /// The guests' name servers and the host's own: some are in the guests' network.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        let own = crate::host::read_file::text("/etc/resolv.conf").unwrap_or_default();
        self.dns_servers.iter().copied().chain(side_files::host_name_servers(&own)).collect()
    }

    /// The IPv4 pool.
    pub fn ipv4_pool(&self) -> &Ipv4Pool {
        &self.ipv4_pool
    }

    /// The guest's user-data, if it gets any of ours.
    pub fn user_data(
        &self,
        ctx: &Context<'_>,
        request: &Request,
        addresses: Allocation,
    ) -> anyhow::Result<Option<Secret>> {
        let template = match &self.user_data {
            UserData::None => return Ok(None),
            UserData::AsIs(text) => return Ok(Some(text.clone())),
            UserData::Template(template) => template,
        };
        let mut random = [0u8; 32];
        getrandom::fill(&mut random)
            .map_err(|e| anyhow::anyhow!("no random numbers from the system: {e}"))?;
        let secret_key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = cloud_init::render_checked(
            template,
            &Variables {
                name: &self.name,
                addresses,
                dns_zone: self.broker.as_ref().and_then(|b| b.dns_zone.as_deref()),
                username: &request.username,
                wallet: request.owner_wallet.as_ref(),
                nft_token_id: request.nft_token_id.as_ref(),
                one_time_password: self.one_time_password,
                secret_key: &secret_key,
                ssh_keys: &self.ssh_keys,
            },
        );
        let template_name = request.cloud_init_template.as_ref().map_or("nft-auth", PlainName::as_str);
        match text {
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(error) if ctx.mock => {
                tracing::warn!("cloud-init template {template_name} cannot be used: {error}");
                Ok(None)
            }
            Err(error) => Err(anyhow::anyhow!(
                "cloud-init template {template_name} cannot be used for VM {}: {error}",
                self.name
            )),
        }
    }

    /// The VM's terraform file.
    pub fn terraform_file(
        &self,
        request: &Request,
        template: Vmid,
        allocation: Allocation,
        smbios_uuid: uuid::Uuid,
    ) -> String {
        let first_boot = match self.user_data {
            UserData::None => FirstBoot::Account {
                username: &request.username,
                keys: &self.ssh_keys,
                snippets: &self.snippet_storage,
            },
            _ => FirstBoot::Snippets(&self.snippet_storage),
        };
        terraform_json::render(&VmPlan {
            name: &self.name,
            smbios_uuid,
            allocation,
            node: &self.access.node,
            template,
            full_clone: self.full_clone,
            cores: request.cpu,
            memory_mb: request.memory_mb,
            disk_gb: request.disk_gb,
            cpu_type: &self.cpu_type,
            disk_datastore: &self.access.disk_datastore,
            cloudinit_datastore: &self.access.cloudinit_datastore,
            bridge: &self.bridge,
            pool: self.pool.as_ref(),
            tags: &request.tags,
            ipv4_network: (self.ipv4_pool.network.prefix(), self.ipv4_pool.gateway),
            ipv6_network: self.broker.as_ref().map(|b| (b.pool.prefix.length(), b.pool.gateway)),
            dns_servers: &self.dns_servers,
            first_boot,
        })
    }

    /// The VM's record.
    pub fn record<'a>(
        &'a self,
        request: &'a Request,
        allocation: Allocation,
        smbios_uuid: Option<uuid::Uuid>,
    ) -> NewVm<'a> {
        NewVm {
            name: &self.name,
            allocation,
            expiry_days: self.expiry_days,
            owner: &request.owner,
            purpose: &request.purpose,
            wallet: request.owner_wallet.as_ref(),
            username: &request.username,
            network_mode: self.network_mode.as_deref(),
            smbios_uuid,
            nft_token_id: request.nft_token_id.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h27_public_keys_are_taken_apart() {
        assert_eq!(public_key("ssh-ed25519 AAAA+/= me@host\n"), Some("ssh-ed25519 AAAA+/= me@host".into()));
        assert_eq!(
            public_key("ssh-ed25519 AAAA a: b\n"),
            Some("ssh-ed25519 AAAA".into()),
            "a comment that YAML would read is dropped"
        );
        assert_eq!(public_key("ssh-ed25519 AA\u{7f}A x"), None);
        assert_eq!(public_key("${file(\"/etc/shadow\")} x"), None);
        assert_eq!(public_key("-----BEGIN OPENSSH PRIVATE KEY-----\n"), None);
        assert_eq!(public_key(""), None);
    }
}
