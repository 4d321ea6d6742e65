//! `blockhost-vm-create`: from a name to a running, registered VM.
//!
//! Order (`facts/contract/commands.md`): check everything, wait for a turn, take VMID and addresses in one locked
//! change, snippets, terraform, wait for the guest agent, register, route, isolation, report. Each step that takes
//! something is in the journal before it is done. What fails before registration is undone ([`super::recovery`]); after
//! it, a create of the same name and wallet goes on to the result.

mod attempt;
mod check;
mod earlier;
mod guest;
mod holders;
mod preflight;
mod report;
mod take;
mod template;
mod tries;
mod turn;

pub(super) use take::traces_of_vms;

use super::Context;
use crate::host::clock::{self, Deadline};
use crate::host::failpoint;
use crate::plan::vm_record;
use crate::value::allocation::Wish;
use crate::value::node_name::NodeName;
use crate::value::text::{OneLine, PlainName, StorageId, Tag, UserName};
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use crate::value::vmid::Vmid;
use crate::value::wallet::{NftTokenId, WalletAddress};
use anyhow::Context as _;
use check::Checked;
use report::Report;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use turn::Turn;

/// What was asked for. Every value is checked already.
#[derive(Debug, Clone)]
pub struct Request {
    /// The VM.
    pub name: VmName,
    /// The owner's wallet; required unless `no_web3`.
    pub owner_wallet: Option<WalletAddress>,
    /// The token, when it is known already.
    pub nft_token_id: Option<NftTokenId>,
    /// Days that were paid for; `None`: `default_expiry_days`.
    pub expiry_days: Option<u32>,
    /// vCPUs.
    pub cpu: u32,
    /// Memory in MB.
    pub memory_mb: u32,
    /// Disk in GB.
    pub disk_gb: u32,
    /// Do it; otherwise only show what would be done.
    pub apply: bool,
    /// A cloud-config to be used as it is.
    pub cloud_init_content: Option<PathBuf>,
    /// A template to be filled in.
    pub cloud_init_template: Option<PlainName>,
    /// No wallet login: without a template Proxmox makes the account.
    pub no_web3: bool,
    /// Free text.
    pub purpose: OneLine,
    /// Free text.
    pub owner: OneLine,
    /// The guest's user.
    pub username: UserName,
    /// Proxmox tags.
    pub tags: Vec<Tag>,
    /// Node, where not the configured one.
    pub node: Option<NodeName>,
    /// Template to clone; `None`: that of db.yaml.
    pub template_vmid: Option<Vmid>,
    /// Storage of the disk.
    pub disk_datastore: Option<StorageId>,
    /// Storage of the cloud-init drive.
    pub cloudinit_datastore: Option<StorageId>,
    /// VMID and addresses asked for.
    pub wish: Wish,
    /// One of several network modes.
    pub network_mode: Option<PlainName>,
    /// How long the guest may take; `None`: `guest_ready_timeout`.
    pub guest_timeout: Option<Duration>,
    /// How long other creates are waited for.
    pub queue_timeout: Duration,
}

/// What the caller is told: the result line (`facts/contract/commands.md`).
#[derive(Debug, Clone, PartialEq)]
pub struct VmResult {
    /// The JSON object with its seven keys.
    pub json: Value,
}

impl VmResult {
    fn new(
        name: &VmName,
        ip: &str,
        ipv6: Option<String>,
        vmid: Vmid,
        token: Value,
        username: &str,
    ) -> VmResult {
        VmResult {
            json: json!({ "status": "ok", "vm_name": name.as_str(), "ip": ip, "ipv6": ipv6, "vmid": vmid.get(), "nft_token_id": token, "username": username }),
        }
    }

    fn of_record(record: &VmRecord) -> VmResult {
        let text = |a: Option<String>| a.unwrap_or_default();
        VmResult::new(
            &record.name,
            &text(record.ipv4.map(|a| a.to_string())),
            record.ipv6.map(|a| a.to_string()),
            record.vmid,
            record.nft_token_id.clone().unwrap_or(Value::Null),
            record.username.as_deref().unwrap_or("admin"),
        )
    }
}

/// What `create` came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// Without `--apply`: what would be created, for a person.
    Planned(String),
    /// The VM runs, and its result was reported.
    Reported(Vec<String>),
}

/// Creates a VM. `report` prints the result; the journal entry goes only after it has.
pub fn create(ctx: &Context<'_>, request: &Request, report: Report<'_>) -> anyhow::Result<Created> {
    let checked = check::everything(ctx, request)?;
    if !request.apply {
        let text = check::describe(ctx, request, &checked)?;
        for warning in &checked.warnings {
            tracing::warn!("VM {}: {warning}", request.name);
        }
        return Ok(Created::Planned(text));
    }
    if ctx.mock {
        return create_mock(ctx, request, &checked, report);
    }
    super::directories::check(ctx).with_context(|| format!("VM {}", request.name))?;
    let queue_deadline = Deadline::after(request.queue_timeout);
    let vm = ctx.lock_vm(&request.name, "create", request.queue_timeout)?;
    if let Some(entry) = earlier::unreported(&vm)? {
        return report::unreported(&vm, request, &entry, report);
    }
    earlier::make_way(&vm, request)?;
    let turn = Turn::wait(&vm, queue_deadline)?;
    let (registered, mut kept_log) = tries::until_registered(&vm, request, &checked, &turn)?;
    let warnings = report::registered(&vm, &registered, report)?;
    kept_log.replace(None);
    failpoint::reached("create.done")?;
    Ok(Created::Reported(warnings))
}

/// `--mock`: the mock database is the node.
fn create_mock(
    ctx: &Context<'_>,
    request: &Request,
    checked: &Checked,
    report: &mut dyn FnMut(&VmResult) -> anyhow::Result<()>,
) -> anyhow::Result<Created> {
    let name = &request.name;
    let range = ctx.settings.vmid_range()?;
    if let Some(folder) = ctx.database.path().parent().filter(|f| !f.as_os_str().is_empty()) {
        crate::host::replace_file::make_folder(folder, 0o770)?;
    }
    ctx.database.make_if_missing(range.start.get(), || Ok(None))?;
    let allocation = ctx.database.update(|db| {
        let allocation = take::choose(ctx, request, checked, db, &[], &[], &mut holders::Holders::default())?;
        take::hold(db, allocation, range);
        let vm = checked.record(request, allocation, Some(uuid::Uuid::new_v4()));
        db.insert(name.as_str(), vm_record::fields(&vm, clock::now(), &ctx.settings.fields));
        Ok(allocation)
    })?;
    let token = request.nft_token_id.as_ref().map_or(Value::Null, NftTokenId::to_json);
    let ipv6 = allocation.ipv6.map(|a| a.to_string());
    report(&VmResult::new(
        name,
        &allocation.ipv4.to_string(),
        ipv6,
        allocation.vmid,
        token,
        request.username.as_str(),
    ))?;
    Ok(Created::Reported(Vec::new()))
}
