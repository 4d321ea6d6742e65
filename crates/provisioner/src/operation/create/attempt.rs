//! One try to make the VM. Its phases are types, so that none can be left out and each has what the one before it made:
//!
//! ```text
//! Taken ──▶ snippets, terraform's file ──▶ Applied ──▶ the guest answers ──▶ Registered
//! ```
//!
//! Each step that takes something is in the journal before it is done. Nothing is undone here (`operation/create/tries.rs`).

use super::check::{Checked, hint_for};
use super::take::{self, Taken};
use super::{Request, VmResult, guest, template};
use crate::host::clock::{self, Deadline};
use crate::operation::locked_vm::LockedVm;
use crate::operation::recovery::MayBeLate;
use crate::plan::{cloud_init, terraform_json, vm_record};
use crate::store::journal::Step;
use crate::store::record_copy;
use crate::tool::terraform::Outcome;
use crate::tool::terraform_events::{FailureKind, kind_of, lost_its_answer, said_once};
use crate::value::allocation::Allocation;
use crate::value::identity::Identity;
use crate::value::token::Secret;
use crate::value::vmid::Vmid;
use crate::value::wallet::NftTokenId;
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// Clone, configuration and start of one VM; the provider's own limit on the clone is 900 s.
const APPLY_LIMIT: Duration = Duration::from_secs(1200);

/// One try that did not end in a registered VM.
pub struct Failure {
    /// Why, with the VM's name.
    pub error: anyhow::Error,
    /// Whether another try may do better.
    pub kind: FailureKind,
    /// The VMID, where it was terraform that failed.
    pub vmid: Option<Vmid>,
    /// Whether a request of it may still reach the node.
    pub may_be_late: MayBeLate,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure { error, kind: FailureKind::Other, vmid: None, may_be_late: MayBeLate::Yes }
    }
}

/// terraform has ended well and had an answer to everything: the VM is on the node, as far as terraform knows.
struct Applied(Taken);

/// A VM that is in the database.
pub struct Registered {
    /// What the caller is told.
    pub result: VmResult,
    /// Its VMID and addresses.
    pub allocation: Allocation,
    /// What proves it.
    pub identity: Identity,
}

/// Tries once, from VMID and addresses to the record.
pub fn attempt(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    not_these: &[Vmid],
) -> Result<Registered, Failure> {
    let taken = take::vmid_and_addresses(vm, request, checked, not_these)?;
    vm.host.step("create.taken")?;
    put_snippets(vm, request, checked, &taken).with_context(|| taken.label())?;
    vm.host.step("create.snippets")?;
    write_file(vm, request, checked, &taken).with_context(|| taken.label())?;
    vm.host.step("create.file")?;
    let applied = apply(vm, checked, taken)?;
    wait_and_register(vm, request, checked, applied).map_err(|error| Failure {
        error,
        kind: FailureKind::Other,
        vmid: None,
        may_be_late: MayBeLate::No,
    })
}

/// User-data (where it is ours) and meta-data onto the node, by the root agent: no ssh, no upload (H29).
fn put_snippets(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    taken: &Taken,
) -> anyhow::Result<()> {
    let user_data = checked.user_data(vm, request, taken.allocation)?;
    let meta_data = Secret::new(cloud_init::meta_data(&request.name, taken.smbios_uuid));
    let node = vm.node();
    let deadline = Deadline::after(Duration::from_secs(90));
    // Meta-data for every VM: else Proxmox makes the instance-id of what may change on the node (H61).
    for (kind, text) in user_data.map(|text| ("user", text)).into_iter().chain([("meta", meta_data)]) {
        node.put_snippet(&request.name, kind, text.reveal(), deadline)
            .with_context(|| format!("failed to put the {kind}-data snippet onto the node"))?;
    }
    Ok(())
}

/// Makes the VM's terraform folder.
fn write_file(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    taken: &Taken,
) -> anyhow::Result<()> {
    let template = template::chosen(vm, request);
    vm.folder().prepare(&checked.terraform_file(request, template, taken.allocation, taken.smbios_uuid))
}

/// Runs terraform, which clones, configures and starts the VM.
fn apply(vm: &LockedVm<'_, '_>, checked: &Checked, mut taken: Taken) -> Result<Applied, Failure> {
    taken.entry.step = Step::Applying;
    vm.write_entry(&taken.entry)?;
    vm.host.step("create.applying")?;
    match run_terraform(vm, checked, &mut taken) {
        Ok(()) => Ok(Applied(taken)),
        Err(failure) => Err(Failure { error: failure.error.context(taken.label()), ..failure }),
    }
}

fn run_terraform(vm: &LockedVm<'_, '_>, checked: &Checked, taken: &mut Taken) -> Result<(), Failure> {
    let (folder, vmid) = (vm.folder(), taken.allocation.vmid);
    folder.ensure_fresh(vmid, taken.smbios_uuid)?;
    let address = terraform_json::resource_address(&checked.name.resource_label());
    let run = folder.run("apply", &[address], &checked.access)?;
    taken.entry.terraform_pid = Some(run.pid());
    vm.write_entry(&taken.entry)?;
    vm.host.step("create.terraform")?;
    let outcome = run.wait(Deadline::after(APPLY_LIMIT), &vm.host.interrupt)?;
    // Terraform ends its step after a signal and then says it failed: what it made is undone like any failure.
    vm.host.interrupt.check()?;
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::StillRunning => Err(Failure {
            error: anyhow::anyhow!(
                "terraform did not end within {} s; it goes on and is tidied up after",
                APPLY_LIMIT.as_secs()
            ),
            kind: FailureKind::Other,
            vmid: Some(vmid),
            may_be_late: MayBeLate::Yes,
        }),
        Outcome::Failed(diagnostics) => {
            let words = said_once(&diagnostics);
            let hint = hint_for(&words);
            Err(Failure {
                kind: kind_of(&diagnostics, vmid.get()),
                error: anyhow::anyhow!("terraform failed: {words}{hint}"),
                vmid: Some(vmid),
                may_be_late: if lost_its_answer(&diagnostics) { MayBeLate::Yes } else { MayBeLate::No },
            })
        }
    }
}

/// The second half of a try: the guest's own start, and the record.
fn wait_and_register(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    applied: Applied,
) -> anyhow::Result<Registered> {
    vm.host.step("create.applied")?;
    let Applied(taken) = applied;
    let identity = Identity::Uuid(taken.smbios_uuid);
    wait_for_guest(vm, request, checked, &taken, &identity).with_context(|| taken.label())?;
    vm.host.step("create.ready")?;
    register(vm, request, checked, taken, identity)
}

/// What terraform made is there and ours, and its guest agent answers.
fn wait_for_guest(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    taken: &Taken,
    identity: &Identity,
) -> anyhow::Result<()> {
    let (node, vmid) = (vm.node(), taken.allocation.vmid);
    let state = node.state(vmid, Some(identity), Deadline::after(Duration::from_secs(60)))?;
    if !state.exists || !state.is(identity, vm.name()) {
        let found = if state.exists { state.found() } else { "no machine".to_string() };
        anyhow::bail!("terraform said it was made, but the node has {found}");
    }
    let limit = request.guest_timeout.unwrap_or(vm.settings.guest_ready_timeout);
    tracing::info!("{}: waiting for the guest agent, at most {} s", taken.label(), limit.as_secs());
    guest::wait_until_ready(&node, &checked.api, checked.node(), vmid, identity, limit)
}

/// The record: in the journal first, then in a copy, then in the database.
fn register(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked,
    taken: Taken,
    identity: Identity,
) -> anyhow::Result<Registered> {
    let (name, label) = (vm.name(), taken.label());
    let Taken { mut entry, allocation, smbios_uuid } = taken;
    let new_vm = checked.record(request, allocation, Some(smbios_uuid));
    let fields = vm_record::fields(&new_vm, clock::now(), &vm.settings.fields);
    entry.step = Step::Registered;
    let record: serde_json::Map<String, Value> = fields.iter().cloned().collect();
    // What it is restored from when an unlocked writer drops it; the journal's goes when the create ends (H55).
    record_copy::write(&vm.settings, name, &record).context(label)?;
    entry.record = Some(record);
    vm.write_entry(&entry)?;
    vm.host.step("create.registering")?;
    vm.database.update(|db| {
        db.insert(name.as_str(), fields);
        Ok(())
    })?;
    let token = request.nft_token_id.as_ref().map_or(Value::Null, NftTokenId::to_json);
    let ipv6 = allocation.ipv6.map(|a| a.to_string());
    let (ipv4, username) = (allocation.ipv4.to_string(), request.username.as_str());
    let result = VmResult::new(name, &ipv4, ipv6, allocation.vmid, token, username);
    Ok(Registered { result, allocation, identity })
}
