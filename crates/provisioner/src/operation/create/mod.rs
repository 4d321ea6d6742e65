//! `blockhost-vm-create`: from a name to a running, registered VM.
//!
//! Order (`facts/contract/commands.md`): check everything, wait for a turn, take VMID and addresses in one locked
//! change, snippets, terraform, wait for the guest agent, register, route, isolation, report. Each step that takes
//! something is in the journal before it is done. What fails before registration is undone ([`super::recovery`]); after
//! it, a create of the same name and wallet goes on to the result.

mod check;
mod guest;
mod holders;
mod preflight;
mod take;
mod template;

pub(super) use take::traces_of_vms;

use super::locked_vm::{LockedVm, in_words};
use super::recovery::MayBeLate;
use super::{Context, destroy, late_requests, machine, network, recovery, restore};
use crate::host::clock::{self, Deadline};
use crate::host::interrupt::Interrupted;
use crate::host::replace_file;
use crate::plan::{cloud_init, terraform_json, vm_record};
use crate::store::journal::{Entry, Step};
use crate::store::provisioning_queue::Ticket;
use crate::store::record_copy;
use crate::store::withheld_vmids::WithheldVmids;
use crate::tool::node::Node;
use crate::tool::terraform::{Outcome, VmFolder};
use crate::tool::terraform_events::{FailureKind, kind_of, lost_its_answer, said_once, volume_of};
use crate::tool::terraform_state::StateFile;
use crate::value::allocation::{Allocation, Wish};
use crate::value::identity::Identity;
use crate::value::node_name::NodeName;
use crate::value::text::{OneLine, PlainName, StorageId, Tag, UserName};
use crate::value::token::Secret;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use crate::value::vmid::Vmid;
use crate::value::wallet::{NftTokenId, WalletAddress};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

pub use check::Checked;

/// How often another VMID is tried.
const ATTEMPTS: u32 = 4;
/// How often the same is tried again where the node or the way to it was only busy; with the pauses (2, 4, 8, … s) some
/// three minutes.
const PASSING_ATTEMPTS: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Clone, configuration and start of one VM; the provider's own limit on the clone is 900 s.
const APPLY_LIMIT: Duration = Duration::from_secs(1200);

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
pub fn create(
    ctx: &Context<'_>,
    request: &Request,
    report: &mut dyn FnMut(&VmResult) -> anyhow::Result<()>,
) -> anyhow::Result<Created> {
    let name = &request.name;
    let checked = check::everything(ctx, request)?;
    if !request.apply {
        let text = check::describe(ctx, request, &checked)?;
        for warning in &checked.warnings {
            tracing::warn!("VM {name}: {warning}");
        }
        return Ok(Created::Planned(text));
    }
    if ctx.mock {
        return create_mock(ctx, request, &checked, report);
    }
    super::directories::check(ctx).with_context(|| format!("VM {name}"))?;
    let queue_deadline = Deadline::after(request.queue_timeout);
    let vm = ctx.lock_vm(name, "create", request.queue_timeout)?;
    if let Some(entry) = vm.entry()? {
        match entry.step {
            Step::Registered => return finish_unreported(&vm, request, &entry, report),
            Step::Taken | Step::Applying => {
                tracing::info!("VM {name}: undoing a create that did not end");
                undo_audited(&vm, &entry).with_context(|| {
                    format!("VM {name}: an earlier create of this name did not end and cannot be undone yet")
                })?;
            }
            // Ended by what follows: a live record makes the name taken, a tombstone's leftovers are removed.
            Step::Destroying => {}
        }
    }
    restore::of_vm(&vm)?;
    check::name_is_free(ctx, request)?;
    remove_leftovers(&vm)?;

    let ticket = Ticket::take(ctx.host, name.as_str())?;
    ctx.host.step("create.queued")?;
    ticket.wait_turn(ctx.settings.max_parallel_creates, queue_deadline, &mut |text| {
        tracing::info!("VM {name}: {text}")
    })?;
    ctx.host.step("create.turn")?;
    recovery::undo_dead_creates(ctx, Some(name));
    late_requests::look_again(ctx);
    restore::vanished(ctx, Some(name));
    restore::keep_copies(ctx, false);

    let mut not_these: Vec<Vmid> = Vec::new();
    let (mut vmids_tried, mut passing) = (1, 1);
    let mut kept_log = None;
    loop {
        template::wait_until_free(ctx, template::chosen(ctx, request))
            .with_context(|| format!("VM {name}"))?;
        let failure = match attempt_once(&vm, request, &checked, &not_these) {
            Ok(registered) => {
                let result = report_registered(ctx, name, registered, report)?;
                close_entry(&vm)?;
                replace_kept(&mut kept_log, None);
                crate::host::failpoint::reached("create.done")?;
                drop(ticket);
                return Ok(Created::Reported(result));
            }
            Err(failure) => failure,
        };
        let entry = vm.entry()?;
        let is_registered = entry.as_ref().is_some_and(|entry| entry.step == Step::Registered);
        if let Some(entry) = entry.filter(|entry| matches!(entry.step, Step::Taken | Step::Applying)) {
            tracing::info!("VM {name}: undoing what was made");
            match recovery::undo(&vm, &entry, recovery::PATIENT, failure.may_be_late) {
                // Of several tries the last one's tells why.
                Ok(kept) => replace_kept(&mut kept_log, kept),
                Err(undo) => anyhow::bail!(
                    "{:#}; and undoing it failed: {undo:#}. VMID {} and its addresses stay held; the next create or gc tries again",
                    failure.error,
                    entry.vmid
                ),
            }
        }
        if let (FailureKind::VmidTaken, Some(vmid)) = (failure.kind, failure.vmid) {
            pass_over(ctx, &checked, name, vmid, &failure.error);
        }
        match failure.kind {
            FailureKind::VmidTaken if vmids_tried < ATTEMPTS && request.wish.vmid.is_none() => {
                vmids_tried += 1;
                tracing::warn!("{:#}; trying another VMID", failure.error);
                not_these.extend(failure.vmid);
            }
            FailureKind::Busy if passing < PASSING_ATTEMPTS => {
                let pause = Duration::from_secs(1 << passing).min(LONGEST_PAUSE);
                passing += 1;
                tracing::warn!(
                    "{:#}; trying again in {} s (try {passing} of {PASSING_ATTEMPTS})",
                    failure.error,
                    pause.as_secs()
                );
                ctx.host.interrupt.sleep(crate::host::failpoint::limit("create-retry", pause));
            }
            _ if is_registered => {
                anyhow::bail!(
                    "{:#}; the VM is made: run the same command again to get its result",
                    failure.error
                )
            }
            _ if failure.error.is::<Interrupted>() => {
                anyhow::bail!("VM {name}: interrupted by a signal; everything was undone")
            }
            _ => {
                // Only where terraform failed does its log say more.
                let Some(log) = kept_log.filter(|_| failure.vmid.is_some()) else {
                    return Err(failure.error);
                };
                anyhow::bail!("{:#}; its log is kept in {}", failure.error, log.display());
            }
        }
        ctx.host.interrupt.check()?;
    }
}

/// A create that did not end is another one's: its undo has a line of its own in the audit trail.
fn undo_audited(vm: &LockedVm<'_, '_>, entry: &Entry) -> anyhow::Result<()> {
    let undone = recovery::undo(vm, entry, recovery::PATIENT, MayBeLate::Yes);
    vm.audit("undo-create", entry.checked_vmid().ok(), [None, None], &in_words(&undone));
    undone.map(drop)
}

/// Of several tries in one create the log of the last is kept, and none when it ends well.
fn replace_kept(kept: &mut Option<PathBuf>, new: Option<PathBuf>) {
    if let Some(old) = std::mem::replace(kept, new)
        && Some(&old) != kept.as_ref()
        && let Err(error) = replace_file::remove(&old)
    {
        tracing::debug!("{}: {error}", old.display());
    }
}

/// Remembers a VMID that cannot be used: it would be the next create's too, and fail it likewise (H63).
fn pass_over(ctx: &Context<'_>, checked: &Checked, name: &VmName, vmid: Vmid, error: &anyhow::Error) {
    let words = format!("{error:#}");
    let left_over = volume_of(&words, vmid.get()).map(|volume| match volume.contains(':') {
        true => volume,
        false if volume.contains("cloudinit") => format!("{}:{volume}", checked.access.cloudinit_datastore),
        false => format!("{}:{volume}", checked.access.disk_datastore),
    });
    let advice = left_over.map_or_else(
        || "look what is left of it on the node".to_string(),
        |volume| format!("volume {volume} is left over: free it with pvesm free {volume}"),
    );
    tracing::warn!("VM {name}: VMID {vmid} cannot be used and is passed over for a day; {advice}");
    if let Err(error) = WithheldVmids::new(ctx.host).withhold(vmid, &format!("{advice} ({words})"), None) {
        tracing::warn!("VM {name}: VMID {vmid} may be handed out again: {error:#}");
    }
}

/// What a destroy of this name left behind. A new VM must never begin with an old one's terraform state: its
/// VMID may be a stranger's by now, whom terraform would then take for ours.
fn remove_leftovers(vm: &LockedVm<'_, '_>) -> anyhow::Result<()> {
    let (name, folder) = (vm.name(), vm.folder());
    // The journal first: a fresh host has no database yet.
    if vm.entry()?.is_some()
        && let Some(record) = vm.record_now()?
    {
        tracing::info!("VM {name}: ending a destroy that did not end");
        let ended = destroy::tidy_up(vm, &record, Deadline::after(Duration::from_secs(60)));
        vm.audit("finish-destroy", Some(record.vmid), [None, Some(record.status)], &in_words(&ended));
        return ended;
    }
    if !folder.exists() {
        return Ok(());
    }
    let nothing_made = match folder.state()? {
        StateFile::Missing => true,
        StateFile::Holds(resources) => resources.is_empty(),
        StateFile::Torn => false,
    };
    anyhow::ensure!(
        nothing_made && !folder.is_busy()?,
        "VM {name}: {} is left from a VM of this name and may still know its machine; run blockhost-vm-destroy {name} first",
        folder.path().display()
    );
    folder.remove()
}

/// One try that did not end in a registered VM.
struct Failure {
    error: anyhow::Error,
    kind: FailureKind,
    vmid: Option<Vmid>,
    may_be_late: MayBeLate,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure { error, kind: FailureKind::Other, vmid: None, may_be_late: MayBeLate::Yes }
    }
}

/// A VM that is in the database.
struct Registered {
    result: VmResult,
    allocation: Allocation,
    identity: Identity,
}

fn attempt_once(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    not_these: &[Vmid],
) -> Result<Registered, Failure> {
    let (ctx, name) = (vm.ctx(), vm.name());
    let smbios_uuid = uuid::Uuid::new_v4();
    let mut entry = take::vmid_and_addresses(vm, request, checked, smbios_uuid, not_these)?;
    let vmid = entry.checked_vmid()?;
    let allocation = take::of_entry(&entry)?;
    let label = format!("VM {name} (VMID {vmid})");
    ctx.host.step("create.taken")?;

    put_snippets(ctx, request, checked, allocation, smbios_uuid).with_context(|| label.clone())?;
    ctx.host.step("create.snippets")?;

    let folder = vm.folder();
    folder
        .prepare(&checked.terraform_file(request, template::chosen(ctx, request), allocation, smbios_uuid))
        .with_context(|| label.clone())?;
    ctx.host.step("create.file")?;

    entry.step = Step::Applying;
    vm.write_entry(&entry)?;
    ctx.host.step("create.applying")?;
    apply(vm, checked, &folder, &mut entry).map_err(|mut failure| {
        failure.error = failure.error.context(label.clone());
        failure
    })?;
    // From here on terraform has ended and had an answer to everything.
    wait_and_register(vm, request, checked, &mut entry).map_err(|error| Failure {
        error,
        kind: FailureKind::Other,
        vmid: None,
        may_be_late: MayBeLate::No,
    })
}

/// The second half of a try: the guest's own start, and the record.
fn wait_and_register(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    entry: &mut Entry,
) -> anyhow::Result<Registered> {
    let (ctx, name) = (vm.ctx(), vm.name());
    let vmid = entry.checked_vmid()?;
    let allocation = take::of_entry(entry)?;
    let smbios_uuid = entry.smbios_uuid.context("the journal entry has no UUID")?;
    let label = format!("VM {name} (VMID {vmid})");
    ctx.host.step("create.applied")?;

    let node = ctx.node();
    let identity = Identity::Uuid(smbios_uuid);
    let state = node
        .state(vmid, Some(&identity), Deadline::after(Duration::from_secs(60)))
        .map_err(anyhow::Error::from)
        .with_context(|| label.clone())?;
    if !state.exists || !state.is(&identity, name) {
        let found = if state.exists { state.found() } else { "no machine".to_string() };
        anyhow::bail!("{label}: terraform said it was made, but the node has {found}");
    }
    let guest_timeout = request.guest_timeout.unwrap_or(ctx.settings.guest_ready_timeout);
    tracing::info!("{label}: waiting for the guest agent, at most {} s", guest_timeout.as_secs());
    guest::wait_until_ready(&node, &checked.api, checked.node(), vmid, &identity, guest_timeout)
        .with_context(|| label.clone())?;
    ctx.host.step("create.ready")?;

    let new_vm = checked.record(request, allocation, Some(smbios_uuid));
    let fields = vm_record::fields(&new_vm, clock::now(), &ctx.settings.fields);
    entry.step = Step::Registered;
    let record: serde_json::Map<String, Value> = fields.iter().cloned().collect();
    // What it is restored from when an unlocked writer drops it; the journal's goes when the create ends (H55).
    record_copy::write(&ctx.settings, name, &record).with_context(|| label.clone())?;
    entry.record = Some(record);
    vm.write_entry(entry)?;
    ctx.host.step("create.registering")?;
    ctx.database.update(|db| {
        db.insert(name.as_str(), fields);
        Ok(())
    })?;
    let token = request.nft_token_id.as_ref().map_or(Value::Null, NftTokenId::to_json);
    let ipv6 = allocation.ipv6.map(|a| a.to_string());
    let result =
        VmResult::new(name, &allocation.ipv4.to_string(), ipv6, vmid, token, request.username.as_str());
    Ok(Registered { result, allocation, identity })
}

/// User-data (where it is ours) and meta-data onto the node, by the root agent: no ssh, no upload (H29).
fn put_snippets(
    ctx: &Context<'_>,
    request: &Request,
    checked: &Checked,
    allocation: Allocation,
    smbios_uuid: uuid::Uuid,
) -> anyhow::Result<()> {
    let user_data = checked.user_data(ctx, request, allocation)?;
    let meta_data = Secret::new(cloud_init::meta_data(&request.name, smbios_uuid));
    let node = ctx.node();
    let deadline = Deadline::after(Duration::from_secs(90));
    // Meta-data for every VM: else Proxmox makes the instance-id of what may change on the node (H61).
    for (kind, text) in user_data.map(|text| ("user", text)).into_iter().chain([("meta", meta_data)]) {
        node.put_snippet(&request.name, kind, text.reveal(), deadline)
            .with_context(|| format!("failed to put the {kind}-data snippet onto the node"))?;
    }
    Ok(())
}

fn apply(
    vm: &LockedVm<'_, '_>,
    checked: &Checked,
    folder: &VmFolder,
    entry: &mut Entry,
) -> Result<(), Failure> {
    let ctx = vm.ctx();
    let label = checked.name.resource_label();
    let uuid = entry.smbios_uuid.context("the journal entry has no UUID")?;
    folder.ensure_fresh(entry.checked_vmid()?, uuid)?;
    let run = folder.run("apply", &[terraform_json::resource_address(&label)], &checked.access)?;
    entry.terraform_pid = Some(run.pid());
    vm.write_entry(entry)?;
    ctx.host.step("create.terraform")?;
    let outcome = run.wait(Deadline::after(APPLY_LIMIT), &ctx.host.interrupt)?;
    // Terraform ends its step after a signal and then says it failed: what it made is undone like any failure.
    ctx.host.interrupt.check()?;
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::StillRunning => Err(Failure {
            error: anyhow::anyhow!(
                "terraform did not end within {} s; it goes on and is tidied up after",
                APPLY_LIMIT.as_secs()
            ),
            kind: FailureKind::Other,
            vmid: entry.checked_vmid().ok(),
            may_be_late: MayBeLate::Yes,
        }),
        Outcome::Failed(diagnostics) => {
            let words = said_once(&diagnostics);
            let hint = check::hint_for(&words);
            Err(Failure {
                kind: kind_of(&diagnostics, entry.vmid),
                error: anyhow::anyhow!("terraform failed: {words}{hint}"),
                vmid: entry.checked_vmid().ok(),
                may_be_late: if lost_its_answer(&diagnostics) { MayBeLate::Yes } else { MayBeLate::No },
            })
        }
    }
}

/// Route, isolation, result. From registration on a signal no longer stops us: the VM is there and paid for.
fn report_registered(
    ctx: &Context<'_>,
    name: &VmName,
    registered: Registered,
    report: &mut dyn FnMut(&VmResult) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<String>> {
    crate::host::failpoint::reached("create.registered")?;
    let node: Node = ctx.node_uninterrupted();
    let deadline = Deadline::after(Duration::from_secs(90));
    let allocation = registered.allocation;
    let warnings =
        network::connect(ctx, &node, (allocation.vmid, &registered.identity), allocation.ipv6, deadline);
    for warning in &warnings {
        tracing::warn!("VM {name}: {warning}");
    }
    crate::host::failpoint::reached("create.connected")?;
    report(&registered.result)
        .context("the VM was made, but its result could not be printed; run the same command again")?;
    crate::host::failpoint::reached("create.reported")?;
    Ok(warnings)
}

/// A create of this name was registered and never reported: the same wallet gets its result now.
fn finish_unreported(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    entry: &Entry,
    report: &mut dyn FnMut(&VmResult) -> anyhow::Result<()>,
) -> anyhow::Result<Created> {
    let (ctx, name) = (vm.ctx(), vm.name());
    recovery::put_record_back(vm, entry)?;
    let record = ctx.live_record(name)?;
    let wallet = request.owner_wallet.as_ref().map(|w| w.as_str().to_string());
    anyhow::ensure!(
        entry.wallet_address == wallet,
        "VM {name} exists already and belongs to another wallet (status {})",
        record.status
    );
    // What is reported must be there: the caller counts on it, and on what it was paid for.
    let deadline = Deadline::after(Duration::from_secs(30));
    let place = machine::locate(ctx, &record, deadline)?;
    let state = ctx.node().state(place.vmid, Some(&place.identity), deadline);
    let state = state.with_context(|| format!("VM {name} (VMID {}): cannot ask the node", place.vmid))?;
    anyhow::ensure!(
        state.exists && state.is(&place.identity, name),
        "VM {name} (VMID {}): it was made before and not reported, but the node has {} there: remove its record with blockhost-vm-destroy {name}, then create it again",
        place.vmid,
        if state.exists { state.found() } else { "no such machine".to_owned() }
    );
    tracing::info!("VM {name}: it was made before and not reported; finishing that");
    // Nothing is waited for; the ticket of the one that died goes with ours.
    let _ticket = Ticket::take(ctx.host, name.as_str())?;
    let result = VmResult::of_record(&record);
    let ipv4 = record.ipv4.or(entry.ipv4).context("the record has no IPv4 address")?;
    let allocation = Allocation { vmid: record.vmid, ipv4, ipv6: record.ipv6 };
    let warnings =
        report_registered(ctx, name, Registered { result, allocation, identity: place.identity }, report)?;
    close_entry(vm)?;
    Ok(Created::Reported(warnings))
}

/// The entry goes, and with it the last copy of the record: an unlocked writer that had read the database before
/// the registration may have written its old copy since, so that is looked at once more (H16).
fn close_entry(vm: &LockedVm<'_, '_>) -> anyhow::Result<()> {
    if let Some(entry) = vm.entry()? {
        recovery::put_record_back(vm, &entry)?;
    }
    vm.remove_entry()
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
