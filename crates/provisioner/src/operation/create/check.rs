//! Checks everything that can be known before anything is taken (`CLAUDE.md#habits`).

use super::allocate::traces_of_vms;
use super::facts::Surroundings;
use super::preflight::preflight;
use super::{Request, first_boot};
use crate::host::proxmox_api::ProxmoxApi;
use crate::operation::{Context, WrongUsage};
use crate::plan::allocation::check_wish;
use crate::plan::create_vm::{self, Facts};
use crate::store::journal::Step;
use crate::store::node_access::NodeAccess;
use crate::store::settings::Broker;
use crate::store::side_files;
use crate::store::vm_database::Fields;
use crate::value::vm_name::VmName;
use anyhow::Context as _;

/// A request that can be carried out, as far as can be known beforehand.
pub struct Checked<'c> {
    /// A client of the node's API.
    pub api: &'c ProxmoxApi,
    /// The API's token and CA, for terraform.
    pub access: &'c NodeAccess,
    /// Everything known about the VM before it is created.
    pub facts: Facts,
    /// What a preview could not check.
    pub warnings: Vec<String>,
}

/// Checks settings, name, wallet, template, cloud-init text, and what the node can say.
pub fn everything<'c>(ctx: &'c Context<'_>, request: &Request) -> anyhow::Result<Checked<'c>> {
    let (host, name) = (ctx.host, &request.name);
    arguments(request)?;
    if let Some(wallet) = &request.owner_wallet {
        side_files::check_wallet(host, wallet)?;
    }
    name_is_free(ctx, name)?;
    let broker = ctx.settings.broker(host)?;
    wishes(ctx, request, broker.as_ref())?;
    let network_mode = side_files::network_mode(host, request.network_mode.as_ref())?;
    let (access, api) = ctx.api()?;
    if let Some(node) = request.node.as_ref().filter(|node| **node != access.node) {
        // All other commands use the root agent of this node, which would find the VM on another node.
        anyhow::bail!(
            "VM {name}: --node {node}: VMs can only be created on node {}, where this host's root agent runs; omit \
             --node, or run the command on node {node}",
            access.node
        );
    }
    let dns_servers = side_files::name_servers(&ctx.settings)?;
    let user_data = first_boot::user_data(host, request)?;
    let ssh_keys = first_boot::ssh_keys(host);
    if ssh_keys.is_empty() {
        first_boot::tell_of_no_keys(host, request.no_web3);
    }
    let surroundings = Surroundings {
        node: access.node.clone(),
        disk_datastore: access.disk_datastore.clone(),
        cloudinit_datastore: access.cloudinit_datastore.clone(),
        bridge: access.bridge.clone(),
        broker,
        network_mode,
        dns_servers,
        user_data,
        ssh_keys,
        one_time_password: side_files::one_time_password(host)?,
    };
    let facts = surroundings.with(ctx, request)?;
    create_vm::check(request, &facts, ctx.settings.vmid_range()?.start)?;
    let warnings = preflight(ctx, api, &facts, request).with_context(|| format!("VM {name}"))?;
    Ok(Checked { api, access, facts, warnings })
}

/// Checks that the name is allowed for a new VM, and that a wallet is given unless none is wanted.
pub fn arguments(request: &Request) -> anyhow::Result<()> {
    request.name.check_for_new_vm().map_err(WrongUsage::new)?;
    if request.owner_wallet.is_none() && !request.no_web3 {
        return Err(WrongUsage::new(format!(
            "VM {}: --owner-wallet ADDR is required, or --no-web3 for a VM without wallet login",
            request.name
        ))
        .into());
    }
    Ok(())
}

/// Checks that the requested VMID and addresses may be assigned.
pub fn wishes(ctx: &Context<'_>, request: &Request, broker: Option<&Broker>) -> anyhow::Result<()> {
    let ipv4_pool = ctx.settings.ipv4_pool()?;
    let range = ctx.settings.vmid_range()?;
    check_wish(request.wish, range, &ipv4_pool, broker.map(|broker| &broker.pool))
        .with_context(|| format!("VM {}", request.name))
}

/// Shortens a wallet to `0xAb58…eC9B`, enough to recognise it.
fn shortened(wallet: &str) -> String {
    let letters: Vec<char> = wallet.chars().collect();
    if letters.len() <= 12 {
        return wallet.to_string();
    }
    let text = |part: &[char]| part.iter().collect::<String>();
    format!("{}…{}", text(&letters[..6]), text(&letters[letters.len() - 4..]))
}

/// Checks that no VM has the name, according to the database, the journal and the directory of the older package (H03).
pub fn name_is_free(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<()> {
    if !ctx.database.path().exists() {
        // Checked before anything is rolled back or created: a missing database may be a lost one, not a fresh start.
        return traces_of_vms(ctx)?.map_or(Ok(()), |why| Err(ctx.database.lost(&why)));
    }
    no_vm_has(ctx, name)?;
    anyhow::ensure!(
        !ctx.legacy_folder_of(name).has_file(),
        "VM {name}: {} has a file of this name, but the database has no such VM; move the file away or choose another \
         name",
        ctx.settings.terraform_dir.display()
    );
    Ok(())
}

/// Checks that neither the name nor the terraform label made from it belongs to a live VM or to one being created
/// (H03).
pub fn no_vm_has(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<()> {
    let label = name.resource_label();
    let fields = Fields::Holding;
    let (same, mut similar, mut twin) = ctx.database.gather(
        fields,
        <(Option<_>, Option<_>, Option<_>)>::default,
        |(same, similar, twin), view| {
            if view.is_destroyed() {
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
    // A create that was registered but never reported is completed instead.
    if let Some(status) = same
        && !matches!(ctx.journal().read(name), Ok(Some(entry)) if entry.step == Step::Registered)
    {
        let wallet = ctx.record(name).ok().flatten().and_then(|record| record.wallet_address);
        let owner = wallet.map(|wallet| format!(", owner {}", shortened(&wallet))).unwrap_or_default();
        anyhow::bail!("VM {name} already exists ({status}{owner}); choose another name");
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
            "VM {name}: its name differs from VM {other} only in upper and lower case, which host names ignore; \
             choose another name"
        );
    }
    if let Some(other) = similar {
        anyhow::bail!(
            "VM {name}: the Terraform resource name {label} is already used by VM {other}; choose another name"
        );
    }
    Ok(())
}
