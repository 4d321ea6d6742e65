//! One VM moved, step by step (the head of [`super`] has the list). Each step is safe to repeat.

use super::look::{self, Proven};
use super::survey::{self, Candidate, Known};
use super::{Row, Verdict};
use crate::host::clock::Deadline;
use crate::operation::locked_vm::LockedVm;
use crate::operation::{Context, network};
use crate::plan::import::Finding;
use crate::plan::shared_state::{OwnVm, SharedState};
use crate::store::record_copy;
use crate::tool::guest_adoption::{Adopted, Adoption, UserData};
use crate::tool::legacy_state::SharedFolder;
use crate::value::identity::{Identity, description};
use crate::value::vm_record::{Status, VmRecord};
use anyhow::Context as _;
use std::time::Duration;
use uuid::Uuid;

/// How long another operation on the VM is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(20);
/// How long a VM is waited for that Proxmox has locked: a backup may take hours, a change of its settings a moment.
const BUSY: Duration = Duration::from_secs(15);
/// For one VM.
const LIMIT: Duration = Duration::from_secs(120);

/// Moves one VM, or says why not.
pub fn one(ctx: &Context<'_>, seen: &Candidate) -> Row {
    let name = &seen.record.name;
    let limit = ctx.host.limit("import-lock", LOCK_WAIT);
    let vm = match ctx.lock_vm(name, "import", limit) {
        Ok(vm) => vm,
        Err(error) => {
            let mut row = seen.row.clone();
            row.refuse(Finding::UnderWay, format!("{error:#}"));
            return row;
        }
    };
    // Seen again: another import, a destroy or a create may have been here.
    match survey::again(ctx, name) {
        Ok(Some(Known::Candidate(candidate))) => locked(&vm, &candidate),
        Ok(Some(Known::Settled(row))) => row,
        Ok(Some(Known::Ours(record))) => already(&record),
        Ok(None) => {
            let mut row = seen.row.clone();
            row.refuse(Finding::NoRecord, "it was destroyed in the meantime");
            row
        }
        Err(error) => {
            let mut row = seen.row.clone();
            row.refuse(Finding::Unknown, format!("{error:#}"));
            row
        }
    }
}

/// Another import has moved it while this one waited for the VM.
fn already(record: &VmRecord) -> Row {
    let mut row = Row::new(record.name.as_str());
    row.status = Some(record.status);
    (row.record_vmid, row.node_vmid) = (Some(record.vmid.get()), Some(record.vmid.get()));
    row.uuid = record.smbios_uuid;
    row.verdict = Verdict::Imported;
    row.detail = "another import has just moved it".to_string();
    row
}

fn locked(vm: &LockedVm<'_, '_>, candidate: &Candidate) -> Row {
    let (mut row, proven) = look::one(vm, candidate);
    let Some(proven) = proven else { return row };
    let moved = move_it(vm, candidate, &proven, &mut row);
    let status = Some(candidate.record.status);
    let result = match &moved {
        Ok(()) => {
            row.verdict = Verdict::Imported;
            let uuid = row.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
            format!("ok; UUID {uuid}")
        }
        Err(error) => {
            row.verdict = Verdict::Failed;
            row.detail = format!("{error:#}; to go on, run blockhost-provisioner-import --apply again");
            format!("{error:#}")
        }
    };
    vm.audit("import", Some(proven.vmid), [status, status], &result);
    row
}

fn move_it(
    vm: &LockedVm<'_, '_>,
    candidate: &Candidate,
    proven: &Proven,
    row: &mut Row,
) -> anyhow::Result<()> {
    let ctx = vm.ctx();
    let deadline = ctx.host.deadline(LIMIT);
    ctx.host.step("import.begun")?;
    let adopted = mark(vm, candidate, proven, deadline)?;
    ctx.host.step("import.marked")?;
    row.uuid = Some(adopted.uuid);
    match adopted.uuid_pending {
        true => row.say("its SMBIOS UUID is set at its next start; until then its description identifies it"),
        false => row.findings.retain(|found| *found != Finding::UuidAtNextStart),
    }
    if adopted.user_data == UserData::Foreign {
        row.say("its cloud-init snippet is not the older package's and stays where it is");
    }
    directory(vm, candidate, proven, &adopted)?;
    ctx.host.step("import.directory")?;
    record(vm, candidate, proven, adopted.uuid)?;
    ctx.host.step("import.recorded")?;
    guard(vm, proven, adopted.uuid, row, deadline)?;
    ctx.host.step("import.guarded")?;
    let legacy = vm.legacy_folder();
    if let Some(state) = &candidate.claim.state {
        legacy.unshare(&state.label, deadline, &ctx.host.interrupt)?;
    }
    ctx.host.step("import.unshared")?;
    // Before the last trace of the older form goes: whoever lost the record finds it here (H55).
    record_copy::refresh(ctx.host, &vm.settings, &vm.database, vm.name())?;
    legacy.remove_files()?;
    // Everything is done, so a signal no longer matters here.
    Ok(ctx.host.reached("import.done")?)
}

/// The VM's mark and UUID on the node, and its user-data out of the older package's file.
fn mark(
    vm: &LockedVm<'_, '_>,
    candidate: &Candidate,
    proven: &Proven,
    deadline: Deadline,
) -> anyhow::Result<Adopted> {
    let name = vm.name();
    let wanted = Adoption { uuid: candidate.uuid, ..look::adoption(candidate) };
    if proven.adopted.user_data == UserData::Missing {
        // Without it the VM does not start, and the text that was uploaded is still here.
        let text = vm.legacy_folder().user_data().with_context(|| {
            format!("VM {name}: its cloud-init snippet is missing on the node, and so is its source")
        })?;
        vm.node().put_snippet(name, "user", &text, deadline)?;
    }
    let adopted = vm.node().adopt(proven.vmid, &wanted, deadline.at_most(vm.host.limit("import-busy", BUSY)));
    let adopted = adopted.with_context(|| format!("VM {name} (VMID {}): cannot mark it", proven.vmid))?;
    anyhow::ensure!(
        adopted.user_data != UserData::Missing,
        "VM {name} (VMID {}): its cloud-init snippet is missing on the node",
        proven.vmid
    );
    Ok(adopted)
}

/// Its own terraform directory: the file first, by which the VM is known, then the state. Nothing is decided by the state.
fn directory(
    vm: &LockedVm<'_, '_>,
    candidate: &Candidate,
    proven: &Proven,
    adopted: &Adopted,
) -> anyhow::Result<()> {
    let (name, folder) = (vm.name(), vm.folder());
    let label = name.resource_label();
    let description = description(name, adopted.uuid);
    let pool = vm.settings.ipv4_pool().ok();
    let address = candidate.record.ipv4.map(|address| {
        let network = pool.map(|pool| pool.network.to_string()).unwrap_or_default();
        format!("{address}/{}", network.split_once('/').map_or("32", |(_, prefix)| prefix))
    });
    let snippet = format!("{}:snippets/blockhost-{name}-user.yaml", vm.settings.snippet_storage);
    let own = OwnVm {
        name: name.as_str(),
        label: &label,
        vmid: proven.vmid.get(),
        node: &adopted.node,
        uuid: adopted.uuid,
        description: &description,
        user_data: (adopted.user_data == UserData::Ours).then_some(&snippet),
        address: address.as_deref(),
    };
    match folder.machine()? {
        None => folder.prepare(&crate::plan::shared_state::own_file(candidate.claim.file.as_ref(), &own))?,
        Some(machine) => anyhow::ensure!(
            machine == (proven.vmid, adopted.uuid),
            "VM {name}: {} describes VMID {} with UUID {}, but the node has VMID {} with UUID {}",
            folder.path().display(),
            machine.0,
            machine.1,
            proven.vmid,
            adopted.uuid
        ),
    }
    // Read again: another VM's import may have written it since.
    let shared = SharedFolder::read(&vm.settings)?;
    let in_state = candidate.claim.state.as_ref().filter(|vm| vm.vmid == Some(proven.vmid.get()));
    let label = in_state.map(|vm| vm.label.as_str());
    let state: &SharedState = &shared.state;
    folder.adopt_state(&state.own(label, &own, Uuid::new_v4()))
}

/// UUID and VMID in the record, unless another program has changed it meanwhile.
fn record(vm: &LockedVm<'_, '_>, candidate: &Candidate, proven: &Proven, uuid: Uuid) -> anyhow::Result<()> {
    let (name, vmid) = (vm.name(), proven.vmid);
    let before = vm.database.update(|db| {
        let record = db.record(name.as_str()).and_then(Result::ok);
        let record = record
            .filter(|record| record.is_live() && record.smbios_uuid.is_none_or(|found| found == uuid))
            .with_context(|| format!("VM {name}: its record was changed in the meantime"))?;
        if record.vmid != vmid {
            db.set_vmid(name.as_str(), vmid.get());
        }
        if record.smbios_uuid.is_none() {
            db.set(name.as_str(), "smbios_uuid", &uuid.to_string().into());
        }
        Ok(record.vmid)
    })?;
    if before != vmid {
        let status = Some(candidate.record.status);
        vm.audit("correct-vmid", Some(vmid), [status, status], &format!("ok; it was {before}"));
    }
    Ok(())
}

/// What its network is held to, at each of its starts and now. What could not be set is said, and no reason to stop:
/// `blockhost-provisioner-reapply` sets it again.
fn guard(
    vm: &LockedVm<'_, '_>,
    proven: &Proven,
    uuid: Uuid,
    row: &mut Row,
    deadline: Deadline,
) -> anyhow::Result<()> {
    let record = vm.live_record_now()?;
    let mut decision = network::decision_for(vm.ctx(), &record);
    // Nothing is put back for a VM that is suspended, whoever starts it (H51).
    decision.enabled = record.status == Status::Active;
    match vm.node().set_guard(proven.vmid, &Identity::Uuid(uuid), &decision, deadline) {
        Ok(guarded) => guarded.missing.iter().for_each(|why| row.say(why)),
        // An older root agent guards no VM.
        Err(error) if error.is_unknown_action() => {}
        Err(error) => {
            row.say(&format!("its network is not guarded yet: {error}; run blockhost-provisioner-reapply"))
        }
    }
    Ok(())
}

/// Makes the change of the SMBIOS UUID wait again for the VM's next start, where somebody has reverted it.
pub(super) fn set_uuid_again(ctx: &Context<'_>, record: &VmRecord, row: &mut Row) {
    let again = || -> anyhow::Result<()> {
        let vm = ctx.lock_vm(&record.name, "import", LOCK_WAIT)?;
        let now = vm.live_record_now()?;
        anyhow::ensure!(now.smbios_uuid == record.smbios_uuid, "its record was changed in the meantime");
        let wanted =
            Adoption { name: &now.name, address: now.ipv4, uuid: now.smbios_uuid, new_uuid: Uuid::new_v4() };
        vm.node().adopt(now.vmid, &wanted, ctx.host.deadline(LIMIT)).map(drop)
    };
    if let Err(error) = again() {
        row.verdict = Verdict::Failed;
        row.say(&format!("{error:#}"));
    }
}
