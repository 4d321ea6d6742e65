//! One attempt to create the VM. Its phases are types, so that none can be left out and each receives what the previous
//! one produced:
//!
//! ```text
//! Taken ──▶ its plan ──▶ snippets, terraform's file ──▶ Applied ──▶ the guest answers ──▶ Registered
//! ```
//!
//! Each step that takes something is recorded in the journal first. Nothing is rolled back here (that happens in
//! `operation/create/tries.rs`).

use super::allocate::{self, Taken};
use super::check::Checked;
use super::{Request, VmResult, first_boot, guest};
use crate::host::progress;
use crate::operation::locked_vm::LockedVm;
use crate::operation::recovery::MayBeLate;
use crate::plan::create_vm::{CreatePlan, Drawn};
use crate::plan::{terraform_json, vm_record};
use crate::store::journal::Step;
use crate::store::node_access::NodeAccess;
use crate::store::record_copy;
use crate::tool::terraform::Outcome;
use crate::tool::terraform_events::{FailureKind, kind_of, lost_its_answer, said_once};
use crate::value::allocation::Allocation;
use crate::value::identity::Identity;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// For cloning, configuring and starting one VM; the provider's own limit for the clone is 900 s.
const APPLY_LIMIT: Duration = Duration::from_secs(1200);

/// An attempt that did not end with a registered VM.
pub struct Failure {
    /// The cause; names the VM.
    pub error: anyhow::Error,
    /// Whether another attempt may succeed.
    pub kind: FailureKind,
    /// The VMID, if terraform failed.
    pub vmid: Option<Vmid>,
    /// Whether one of its requests may still reach the node.
    pub may_be_late: MayBeLate,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure { error, kind: FailureKind::Other, vmid: None, may_be_late: MayBeLate::Yes }
    }
}

/// terraform has ended successfully and got an answer to every request: as far as it knows, the VM is on the node.
struct Applied(Taken);

/// A VM that has a record in the database.
pub struct Registered {
    /// The result reported to the caller.
    pub result: VmResult,
    /// Its VMID and addresses.
    pub allocation: Allocation,
    /// The UUID or name that identifies it.
    pub identity: Identity,
}

/// Makes one attempt, from choosing VMID and addresses to writing the record.
pub fn attempt(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked<'_>,
    not_these: &[Vmid],
) -> Result<Registered, Failure> {
    progress::now(format_args!("VM {}: choosing a VMID and addresses", vm.name()));
    let taken = allocate::vmid_and_addresses(vm, request, checked, not_these)?;
    vm.host.step("create.taken")?;
    let plan = plan(request, checked, &taken).with_context(|| taken.label())?;
    put_snippets(vm, &plan).with_context(|| taken.label())?;
    vm.host.step("create.snippets")?;
    vm.folder().prepare(&plan.terraform_file).with_context(|| taken.label())?;
    vm.host.step("create.file")?;
    let applied = apply(vm, checked, taken)?;
    // From here on, terraform has ended and got an answer to every request.
    wait_and_register(vm, request, checked, plan, applied).map_err(|error| Failure {
        error,
        kind: FailureKind::Other,
        vmid: None,
        may_be_late: MayBeLate::No,
    })
}

fn plan<'a>(request: &'a Request, checked: &'a Checked<'_>, taken: &Taken) -> anyhow::Result<CreatePlan<'a>> {
    let drawn = Drawn {
        allocation: taken.allocation,
        smbios_uuid: taken.smbios_uuid,
        secret_key: first_boot::signing_key()?,
    };
    Ok(CreatePlan::new(request, &checked.facts, &drawn)?)
}

/// Puts the user-data (if we provide it) and the meta-data on the node through the root agent: no ssh, no upload (H29).
fn put_snippets(vm: &LockedVm<'_, '_>, plan: &CreatePlan<'_>) -> anyhow::Result<()> {
    let node = vm.node();
    let deadline = vm.host.deadline(Duration::from_secs(90));
    // Every VM gets meta-data: without it, Proxmox derives the instance-id from what may change on the node (H61).
    let user_data = plan.user_data.iter().map(|text| ("user", text));
    for (kind, text) in user_data.chain([("meta", &plan.meta_data)]) {
        node.put_snippet(vm.name(), kind, text.reveal(), deadline)
            .with_context(|| format!("failed to write the {kind}-data snippet on the node"))?;
    }
    Ok(())
}

/// Runs terraform, which clones, configures and starts the VM.
fn apply(vm: &LockedVm<'_, '_>, checked: &Checked<'_>, mut taken: Taken) -> Result<Applied, Failure> {
    taken.entry.step = Step::Applying;
    vm.write_entry(&taken.entry)?;
    vm.host.step("create.applying")?;
    progress::now(format_args!("{}: cloning and starting it (Terraform)", taken.label()));
    match run_terraform(vm, checked.access, &mut taken) {
        Ok(()) => Ok(Applied(taken)),
        Err(failure) => Err(Failure { error: failure.error.context(taken.label()), ..failure }),
    }
}

fn run_terraform(vm: &LockedVm<'_, '_>, access: &NodeAccess, taken: &mut Taken) -> Result<(), Failure> {
    let (folder, vmid) = (vm.folder(), taken.allocation.vmid);
    folder.ensure_fresh(vmid, taken.smbios_uuid)?;
    let address = terraform_json::resource_address(&vm.name().resource_label());
    let run = folder.run("apply", &[address], access)?;
    taken.entry.terraform_pid = Some(run.pid());
    vm.write_entry(&taken.entry)?;
    vm.host.step("create.terraform")?;
    let outcome = run.wait(vm.host.deadline(APPLY_LIMIT), &vm.host.interrupt)?;
    // After a signal, terraform finishes its current step and then reports failure: what it made is rolled back as
    // after any failure.
    vm.host.interrupt.check()?;
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::StillRunning => Err(Failure {
            error: anyhow::anyhow!(
                "terraform did not finish within {} s; it continues in the background and is cleaned up afterwards",
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

/// What an operator can do about a terraform failure (`facts/provider.md`, section 4).
fn hint_for(words: &str) -> &'static str {
    const HINTS: [(&str, &str); 11] = [
        ("HTTP 401", "; the API token is wrong or expired; renew it with blockhost-provisioner-setup token"),
        (
            "no such token",
            "; the API token was deleted; create a new one with blockhost-provisioner-setup token",
        ),
        (
            "(/storage/",
            "; either this storage does not exist (pvesm status) or the API token has no rights on it (blockhost-provisioner-setup token)",
        ),
        (
            "(/pool/",
            "; either this pool does not exist (pvesh get /pools) or the API token has no rights on it (blockhost-provisioner-setup token)",
        ),
        ("HTTP 403", "; the API token lacks a privilege; renew it with blockhost-provisioner-setup token"),
        ("not enough memory", "; the node does not have enough memory for this VM"),
        ("free space", "; the storage is full (pvesm status)"),
        ("No space left", "; the storage is full (pvesm status)"),
        (
            "Required plugins are not installed",
            "; terraform is not initialised; run blockhost-provisioner-setup terraform",
        ),
        (
            "Inconsistent dependency lock file",
            "; terraform is not initialised; run blockhost-provisioner-setup terraform",
        ),
        ("disk resize failure", "; the requested disk is smaller than the template's"),
    ];
    HINTS.iter().find(|(pattern, _)| words.contains(pattern)).map_or("", |(_, hint)| hint)
}

/// The second half of an attempt: waiting for the guest, and writing the record.
fn wait_and_register(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked<'_>,
    plan: CreatePlan<'_>,
    applied: Applied,
) -> anyhow::Result<Registered> {
    vm.host.step("create.applied")?;
    let Applied(taken) = applied;
    let identity = Identity::Uuid(taken.smbios_uuid);
    wait_for_guest(vm, request, checked, &taken, &identity).with_context(|| taken.label())?;
    vm.host.step("create.ready")?;
    register(vm, plan, taken, identity)
}

/// Checks that the VM made by terraform exists and is ours, and waits until its guest agent answers.
fn wait_for_guest(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked<'_>,
    taken: &Taken,
    identity: &Identity,
) -> anyhow::Result<()> {
    let (node, vmid) = (vm.node(), taken.allocation.vmid);
    let state = node.state(vmid, Some(identity), vm.host.deadline(Duration::from_secs(60)))?;
    if !state.exists || !state.is(identity, vm.name()) {
        let found = if state.exists { state.description() } else { "no VM with this VMID".to_string() };
        anyhow::bail!("terraform reported success, but the node has {found}");
    }
    let limit = request.guest_timeout.unwrap_or(vm.settings.guest_ready_timeout);
    tracing::info!("{}: waiting for the guest agent, at most {} s", taken.label(), limit.as_secs());
    progress::now(format_args!(
        "{}: waiting for the guest agent, at most {} s",
        taken.label(),
        limit.as_secs()
    ));
    guest::wait_until_ready(vm.ctx(), checked.api, &checked.facts.node, vmid, identity, limit)
}

/// Writes the record: first to the journal, then to its copy, then to the database.
fn register(
    vm: &LockedVm<'_, '_>,
    plan: CreatePlan<'_>,
    taken: Taken,
    identity: Identity,
) -> anyhow::Result<Registered> {
    progress::now(format_args!("{}: registering and connecting it", taken.label()));
    let (name, label) = (vm.name(), taken.label());
    let Taken { mut entry, allocation, .. } = taken;
    let fields = vm_record::fields(&plan.record, vm.host.now(), &vm.settings.fields);
    entry.step = Step::Registered;
    let record: serde_json::Map<String, Value> = fields.iter().cloned().collect();
    // From this copy the record is restored if an unlocked writer drops it; the one in the journal is removed when the
    // create ends (H55).
    record_copy::write(vm.host, &vm.settings, name, &record).context(label)?;
    entry.record = Some(record);
    vm.write_entry(&entry)?;
    vm.host.step("create.registering")?;
    vm.database.update(|db| {
        db.insert(name.as_str(), fields);
        Ok(())
    })?;
    Ok(Registered { result: plan.result, allocation, identity })
}
