//! `blockhost-vm-destroy`: deletes the VM with its disks, files, route and addresses; the record stays as a tombstone
//! (hazards H02, H08, H09, H44, H52).
//!
//! It may be killed at any point and run again: each step finds out by itself what is left to do. The record becomes
//! `destroyed` only after the node has said that the VM is gone.

use super::kill::power_off;
use super::locked_vm::LockedVm;
use super::machine::{self, Machine};
use super::vanished::{self, Target};
use super::{Context, late_requests, leftovers, recovery, restore};
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::progress;
use crate::host::root_agent::AgentError;
use crate::store::journal::{Entry, Step};
use crate::tool::node::Attempt;
use crate::tool::terraform::{LegacyFolder, Outcome, Run};
use crate::tool::terraform_events::said_once;
use crate::tool::terraform_state::StateFile;
use crate::value::identity::Identity;
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vm_state::VmState;
use anyhow::Context as _;
use std::time::Duration;

/// The admin panel kills us after 60 s; after 50 s we report that the node is still working on it.
pub const LIMIT: Duration = Duration::from_secs(50);
/// Minimum time for cleaning up files and route together once the VM is gone: with less, a root agent whose lane is
/// busy for a while would leave a destroy unfinished that has done the most of its work.
const TIDYING: Duration = Duration::from_secs(15);

/// How long powering off the guest may take.
const POWER_OFF: Duration = Duration::from_secs(25);
/// With less time left than this, the request is not repeated: the answer, and the reason in it, would come too late.
const LAST_CALL: Duration = Duration::from_millis(500);
/// How long to wait for a terraform that an earlier run left running.
const EARLIER_TERRAFORM: Duration = Duration::from_secs(30);

/// Outcome of `destroy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destroyed {
    /// The VM is gone now.
    Gone,
    /// It was destroyed before.
    Already,
    /// There is no such VM.
    Unknown,
    /// Not a VM yet, but an interrupted create of this name, which was rolled back with its VM, disks, files and
    /// addresses.
    Undone,
    /// The condition does not hold (any more); the VM was left alone.
    NotDue,
    /// The VM is running, but the condition requires it to be off; it was left alone.
    Runs,
}

/// Condition for destroying a VM without a person's request.
pub struct Condition<'a> {
    /// Checked on the record, read again under the VM's lock: at the beginning, and right before each irreversible step
    /// (H10).
    pub due: &'a dyn Fn(&VmRecord) -> bool,
    /// The state required of the VM, checked at the same points.
    pub machine: MachineMust,
    /// Done before anything else once the VM is due and not running; afterwards the condition is checked again.
    pub first: Option<&'a dyn Fn(&VmRecord)>,
}

/// The state that a [`Condition`] requires of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineMust {
    /// Off, or gone (H50).
    BeOff,
    /// Gone: only its leftovers are removed.
    BeGone,
}

/// Outcome of removing the VM from the node.
enum Removal {
    Gone,
    /// Another guest has the VMID, and the VM is nowhere else: the reason why its record may be closed.
    Vanished(String),
    NotDue,
    Runs,
}

/// Destroys a VM; a protected one only with `force`.
pub fn destroy(ctx: &Context<'_>, name: &VmName, force: bool) -> anyhow::Result<Destroyed> {
    super::directories::check(ctx).with_context(|| format!("VM {name}"))?;
    destroy_when(ctx, name, force, LIMIT, None)
}

/// Destroys a VM if the condition holds.
pub fn destroy_when(
    ctx: &Context<'_>,
    name: &VmName,
    force: bool,
    limit: Duration,
    condition: Option<&Condition<'_>>,
) -> anyhow::Result<Destroyed> {
    let is_due = |record: &VmRecord| condition.is_none_or(|c| (c.due)(record));
    let deadline = ctx.host.deadline_of("destroy", limit);
    late_requests::look_again(ctx);
    if let Some(answer) = nothing_to_do(ctx, name)? {
        return Ok(answer);
    }
    let vm = ctx.lock_vm(name, "destroy", deadline.left())?;
    if let Some(answer) = nothing_to_do(ctx, name)? {
        return Ok(answer);
    }
    restore::of_vm(&vm)?;
    if end_its_create(&vm, deadline)? && nothing_to_do(ctx, name)?.is_some() {
        vm.forget();
        return Ok(Destroyed::Undone);
    }
    let Some(record) = vm.record_now()? else {
        return remove_leftovers_of_unknown(vm, deadline);
    };
    anyhow::ensure!(
        !record.protected || force,
        "VM {name} is protected (\"protected\": true in its record); use --force to destroy it anyway"
    );
    if record.is_live() && !is_due(&record) {
        return Ok(Destroyed::NotDue);
    }
    if record.is_live() {
        let machine = machine::of_record(&vm, record, deadline)?;
        let entry = vm.entry()?;
        let runs = || machine.state(ctx, deadline).is_ok_and(|state| state.running);
        if let Some(first) = condition.and_then(|condition| condition.first)
            && !runs()
        {
            first(&machine.record);
        }
        match remove_machine(&vm, &machine, deadline, condition)? {
            Removal::Gone => {}
            Removal::Vanished(why) => {
                tracing::warn!("{why}");
                note_closed(&vm, &machine.record, &why);
            }
            objection => {
                // Restores the journal as if nothing had been begun.
                match entry {
                    Some(entry) => vm.write_entry(&entry)?,
                    None => vm.remove_entry()?,
                }
                return Ok(match objection {
                    Removal::Runs => Destroyed::Runs,
                    _ => Destroyed::NotDue,
                });
            }
        }
        ctx.host.step("destroy.gone")?;
        tidy_up(&vm, &machine.record, deadline)?;
    } else {
        tidy_up(&vm, &record, deadline)?;
    }
    vm.forget();
    Ok(Destroyed::Gone)
}

/// Rolls back an interrupted create; restores the record of a create whose result was never reported. Returns whether a
/// create was rolled back.
fn end_its_create(vm: &LockedVm<'_, '_>, deadline: Deadline) -> anyhow::Result<bool> {
    let (name, Some(entry)) = (vm.name(), vm.entry()?) else { return Ok(false) };
    match entry.step {
        Step::Taken | Step::Applying => {
            let undone = recovery::undo(vm, &entry, deadline.left(), recovery::MayBeLate::Yes);
            undone.ended.with_context(|| {
                format!("VM {name}: its create was interrupted and cannot be rolled back yet")
            })?;
            tracing::warn!(
                "VM {name}: its create was interrupted; it is rolled back, and VMID {} no longer has a VM of it",
                entry.vmid
            );
            Ok(true)
        }
        Step::Registered => recovery::put_record_back(vm, &entry).map(|()| false),
        Step::Destroying => Ok(false),
    }
}

/// Returns the answer at once for a VM that is unknown or destroyed and has no leftovers.
fn nothing_to_do(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Option<Destroyed>> {
    let record = ctx.record(name)?;
    let leftovers = ctx.journal().read(name)?.is_some() || ctx.folder_of(name).exists();
    Ok(match record {
        None if !leftovers => Some(Destroyed::Unknown),
        Some(record) if !record.is_live() && !leftovers => Some(Destroyed::Already),
        _ => None,
    })
}

/// Removes a directory or journal entry without a record: either the record was lost, or this is a destroy's last step.
/// Files are removed only once the VM they made is gone.
fn remove_leftovers_of_unknown(vm: LockedVm<'_, '_>, deadline: Deadline) -> anyhow::Result<Destroyed> {
    let deadline = for_tidying(vm.host, deadline);
    leftovers::ensure_none_lives(&vm, None)?;
    vm.folder().remove()?;
    for kind in ["user", "meta"] {
        vm.node().delete_snippet(vm.name(), kind, deadline)?;
    }
    vm.remove_entry()?;
    vm.forget();
    Ok(Destroyed::Unknown)
}

/// Checks whether the condition still holds: `None` if so, else the outcome to report. The record is read last: after
/// everything slow (the root agent's lane), and right before the act (H10).
fn objection(
    ctx: &Context<'_>,
    machine: &Machine,
    state: &VmState,
    condition: Option<&Condition<'_>>,
) -> anyhow::Result<Option<Removal>> {
    let Some(condition) = condition else { return Ok(None) };
    let record = ctx.record(&machine.record.name)?;
    let due = record.is_some_and(|record| (condition.due)(&record));
    let is_gone_as_it_must = condition.machine != MachineMust::BeGone || !state.exists;
    Ok(if !due || !is_gone_as_it_must {
        Some(Removal::NotDue)
    } else if state.running {
        Some(Removal::Runs)
    } else {
        None
    })
}

/// Ends once the node says that the VM is gone, or with an objection.
///
/// The root agent verifies the identity and deletes in one request. Terraform would delete what its state names without
/// any proof (H02), and would need a second between our last check and its delete, in which a renewal would be lost
/// (H10).
fn remove_machine(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    deadline: Deadline,
    condition: Option<&Condition<'_>>,
) -> anyhow::Result<Removal> {
    let ctx = vm.ctx();
    let state = match vanished::target(ctx, machine, deadline)? {
        Target::Here(state) => state,
        Target::Vanished(why) => return vanished(vm, machine, why, condition),
    };
    if let Some(objection) = objection(ctx, machine, &state, condition)? {
        return Ok(objection);
    }
    // Otherwise the node would refuse only at the very end, after the guest was switched off.
    anyhow::ensure!(
        !state.protection,
        "{}: it is protected on the node (protection flag), so nothing was done; to destroy it anyway, run qm set {} \
         --protection 0 first",
        machine.label(),
        machine.vmid
    );
    write_entry(vm, machine)?;
    ctx.host.step("destroy.begun")?;
    if state.exists && state.running {
        power_off(vm, machine, deadline.at_most(POWER_OFF))?;
    }
    ctx.host.step("destroy.stopped")?;
    wait_for_earlier_terraform(vm, machine, deadline)?;
    ctx.host.step("destroy.terraform")?;
    progress::now(format_args!("{}: deleting it on the node", machine.label()));
    match delete(vm, machine, deadline, condition)? {
        None => {}
        Some(Removal::Vanished(why)) => return vanished(vm, machine, why, condition),
        Some(objection) => return Ok(objection),
    }
    if let Err(error) = tidy_shared_state(vm, deadline) {
        ctx.host.interrupt.check()?;
        tracing::warn!("{}: the VM is deleted, but {error:#}", machine.label());
    }
    Ok(Removal::Gone)
}

/// The VM is proven to be gone; the condition must hold all the same.
fn vanished(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    why: String,
    condition: Option<&Condition<'_>>,
) -> anyhow::Result<Removal> {
    if let Some(objection) = objection(vm, machine, &VmState::default(), condition)? {
        return Ok(objection);
    }
    write_entry(vm, machine)?;
    Ok(Removal::Vanished(why))
}

/// Writes a separate audit line for a record that is closed although nothing was deleted.
fn note_closed(vm: &LockedVm<'_, '_>, record: &VmRecord, why: &str) {
    vm.audit("close-record", Some(record.vmid), [Some(record.status), Some(Status::Destroyed)], why);
}

/// `--forget`: only closes the record, frees its addresses and removes its files. Whatever has its VMID is left alone;
/// refuses if that is known to be this VM.
pub fn forget(ctx: &Context<'_>, name: &VmName, force: bool) -> anyhow::Result<Destroyed> {
    if let Some(answer) = nothing_to_do(ctx, name)? {
        return Ok(answer);
    }
    let deadline = ctx.host.deadline_of("destroy", LIMIT);
    let vm = ctx.lock_vm(name, "destroy", deadline.left())?;
    let record = vm.live_record_now()?;
    anyhow::ensure!(
        !record.protected || force,
        "VM {name} is protected (\"protected\": true in its record); use --force to close its record anyway"
    );
    let unfinished = vm.entry()?.is_some_and(|e| matches!(e.step, Step::Taken | Step::Applying));
    anyhow::ensure!(
        !unfinished,
        "VM {name}: its create was interrupted; roll it back with blockhost-vm-destroy {name}"
    );
    vanished::ensure_not_here(ctx, &record, deadline)?;
    let vmid = record.vmid;
    let identity = record.smbios_uuid.map_or_else(|| Identity::Name(name.clone()), Identity::Uuid);
    write_entry(&vm, &Machine { record: record.clone(), vmid, identity })?;
    ctx.host.step("destroy.gone")?;
    let why = format!("VM {name}: closed its record (--forget); whatever has VMID {vmid} is left alone");
    tracing::warn!("{why}");
    note_closed(&vm, &record, &why);
    tidy_up(&vm, &record, deadline)?;
    vm.forget();
    Ok(Destroyed::Gone)
}

/// Deletes the VM from the node, each request right after checking VM and condition. If it has been started meanwhile,
/// it is stopped again; if it is busy, we wait.
fn delete(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    deadline: Deadline,
    condition: Option<&Condition<'_>>,
) -> anyhow::Result<Option<Removal>> {
    let ctx = vm.ctx();
    let node = ctx.node().impatient();
    let mut pause = Duration::from_millis(200);
    loop {
        let state = match vanished::target(ctx, machine, deadline)? {
            Target::Here(state) => state,
            Target::Vanished(why) => return Ok(Some(Removal::Vanished(why))),
        };
        if let Some(objection) = objection(ctx, machine, &state, condition)? {
            return Ok(Some(objection));
        }
        if !state.exists {
            return Ok(None);
        }
        if state.running {
            power_off(vm, machine, deadline.at_most(POWER_OFF))?;
            continue;
        }
        let words = match node.destroy_once(machine.vmid, &machine.identity, deadline)? {
            Attempt::Done(state) => {
                recovery::warn_of_leftovers(ctx, &machine.label(), machine.vmid, &state.leftovers);
                return Ok(None);
            }
            // A start was already on its way: the next check finds the VM running.
            Attempt::Failed(words) if !words.contains("is running") => {
                anyhow::bail!("{}: failed to delete it: {words}", machine.label())
            }
            Attempt::Failed(words) | Attempt::Busy(words) => words,
            Attempt::Lost => "the request was lost".to_string(),
            Attempt::TimedOut(_) => {
                anyhow::bail!(
                    "{}: the node is still deleting it; run the same command again",
                    machine.label()
                )
            }
        };
        anyhow::ensure!(
            deadline.left() > pause + LAST_CALL,
            "{}: failed to delete it: {words}; run the same command again",
            machine.label()
        );
        tracing::debug!("{}: {words}; trying again", machine.label());
        node.pause(pause)?;
        pause = (pause * 2).min(Duration::from_secs(3));
    }
}

fn write_entry(vm: &LockedVm<'_, '_>, machine: &Machine) -> anyhow::Result<()> {
    let record = &machine.record;
    let entry = Entry {
        name: record.name.to_string(),
        step: Step::Destroying,
        smbios_uuid: record.smbios_uuid,
        vmid: machine.vmid.get(),
        previous_next_vmid: None,
        ipv4: record.ipv4,
        ipv6: record.ipv6,
        wallet_address: record.wallet_address.clone(),
        began_at: vm.host.now(),
        pid: std::process::id(),
        terraform_pid: None,
        record: None,
    };
    vm.write_entry(&entry)
}

/// A killed create or destroy may have left a terraform running in the VM's directory.
fn wait_for_earlier_terraform(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    deadline: Deadline,
) -> anyhow::Result<()> {
    let folder = vm.folder();
    let idle = folder.wait_until_idle(None, deadline.at_most(EARLIER_TERRAFORM), &vm.host.interrupt)?;
    anyhow::ensure!(
        idle,
        "{}: an earlier terraform is still running in {}; try again later",
        machine.label(),
        folder.path().display()
    );
    Ok(())
}

/// A VM of the older package is in a terraform state that it shares with others. It is gone by now, and its VMID may be
/// somebody else's: terraform forgets it without touching the node, and removes only the uploaded cloud-init file.
fn tidy_shared_state(vm: &LockedVm<'_, '_>, deadline: Deadline) -> anyhow::Result<()> {
    let ctx = vm.ctx();
    let legacy = vm.legacy_folder();
    if !legacy.has_file() {
        return Ok(());
    }
    while legacy.is_busy()? && !deadline.passed() {
        ctx.host.sleep(Duration::from_millis(100));
        ctx.host.interrupt.check()?;
    }
    if legacy.secure_state()? == StateFile::Torn {
        anyhow::bail!("the shared Terraform state is truncated and has no good backup; left unchanged");
    }
    let (access, _) = vm.api()?;
    let left = legacy.left_in_state()?;
    if left.contains(&legacy.vm_address()) {
        let run = legacy.forget_machine(access)?;
        wait_for_tidying(ctx, run, "remove it from the shared terraform state", deadline)?;
    }
    if left.contains(&legacy.file_address()) {
        if legacy.file_in_state()?.is_some_and(|id| legacy.is_its_file(&id)) {
            let run = legacy.destroy_file(access)?;
            wait_for_tidying(ctx, run, "remove its cloud-init file", deadline)?;
        } else {
            anyhow::bail!(
                "the shared Terraform state names another file under {}; left unchanged",
                legacy.file_address()
            );
        }
    }
    Ok(())
}

fn wait_for_tidying(ctx: &Context<'_>, run: Run, what: &str, deadline: Deadline) -> anyhow::Result<()> {
    match run.wait(deadline, &ctx.host.interrupt)? {
        Outcome::Done => Ok(()),
        Outcome::Failed(diagnostics) => {
            anyhow::bail!("terraform failed to {what}: {}", said_once(&diagnostics))
        }
        Outcome::StillRunning => anyhow::bail!("terraform did not {what} in time and is still running"),
    }
}

fn for_tidying(host: &Host, deadline: Deadline) -> Deadline {
    host.deadline(deadline.left().max(host.limit("tidying", TIDYING)))
}

/// Removes everything that the VM leaves behind. Independent steps continue after a failure; the journal entry is
/// removed only when all have succeeded, so that the next destroy finds the rest.
pub fn tidy_up(vm: &LockedVm<'_, '_>, record: &VmRecord, deadline: Deadline) -> anyhow::Result<()> {
    let (ctx, name) = (vm.ctx(), vm.name());
    let deadline = for_tidying(vm.host, deadline);
    leftovers::ensure_none_lives(vm, Some(record))?;
    let node = ctx.node_uninterrupted();
    let mut failures: Vec<String> = Vec::new();
    // While the journal entry exists, nobody else has the address; once a tombstone has no entry, somebody may.
    let held = vm.entry()?.and_then(|entry| entry.ipv6);
    let bridge = || {
        ctx.bridge().unwrap_or_else(|error| {
            // That must not keep the VM from being destroyed; the next VM with this address replaces the route.
            tracing::warn!("VM {name}: {error:#}; looking for its host route on {}", ctx.settings.bridge);
            ctx.settings.bridge.clone()
        })
    };
    if let Some(address) = record.ipv6.filter(|address| record.is_live() || held == Some(*address))
        && !is_anothers_address(ctx, name, address)?
        && let Err(error) = node.remove_route(address, &bridge(), deadline)
    {
        match is_no_such_route(&error) {
            true => tracing::debug!("VM {name}: there is no host route to {address}"),
            false => failures.push(format!("its host route to {address}: {error}")),
        }
    }
    // Its VMID may be another's by now: the guard's file says whose it is.
    if record.is_live() || vm.entry()?.is_some() {
        let by_name = || Identity::Name(name.clone());
        let identity = record.smbios_uuid.map_or_else(by_name, Identity::Uuid);
        if let Err(error) = node.clear_guard(record.vmid, &identity, deadline) {
            failures.push(format!("its network guard: {error}"));
        }
    }
    ctx.host.step("destroy.route")?;
    for kind in ["user", "meta"] {
        if let Err(error) = node.delete_snippet(name, kind, deadline) {
            failures.push(format!("its {kind}-data snippet: {error}"));
        }
    }
    ctx.host.step("destroy.snippets")?;
    for result in [vm.folder().remove(), remove_legacy(&vm.legacy_folder())] {
        failures.extend(result.err().map(|error| format!("{error:#}")));
    }
    crate::store::metric_samples::MetricSamples::new(ctx.host).forget(name);
    ctx.host.step("destroy.folder")?;
    if record.is_live() {
        mark_destroyed(ctx, record)?;
    }
    ctx.host.step("destroy.marked")?;
    if !failures.is_empty() {
        anyhow::bail!(
            "VM {name} is deleted, but cleanup failed: {}; run the same command again",
            failures.join("; ")
        );
    }
    vm.remove_entry()?;
    // Everything is done, so a signal no longer matters here.
    Ok(vm.host.reached("destroy.done")?)
}

/// Whether a writer that ignores our lock has already given the address to another VM.
fn is_anothers_address(
    ctx: &Context<'_>,
    name: &VmName,
    address: std::net::Ipv6Addr,
) -> anyhow::Result<bool> {
    ctx.database.inspect(|db| {
        let mut others = db.records().flatten().filter(|record| record.is_live() && record.name != *name);
        Ok(others.any(|record| record.ipv6 == Some(address)))
    })
}

/// Whether iproute2 reports that there is nothing to delete, which is the desired state.
fn is_no_such_route(error: &AgentError) -> bool {
    let words = error.to_string();
    words.contains("No such process")
        || words.contains("No such file")
        || words.contains("Cannot find device")
}

/// Removes the older package's files. If the shared state still contains what they made, that is only a warning, since
/// the VM is deleted.
fn remove_legacy(legacy: &LegacyFolder) -> anyhow::Result<()> {
    if !legacy.has_file() {
        return Ok(());
    }
    let left = legacy.left_in_state()?;
    if !left.is_empty() {
        tracing::warn!(
            "the shared Terraform state still contains {}; removing its files anyway, since the VM is deleted",
            left.join(", ")
        );
    }
    legacy.remove_files()
}

pub(super) fn mark_destroyed(ctx: &Context<'_>, record: &VmRecord) -> anyhow::Result<()> {
    let name = record.name.as_str();
    ctx.database.update(|db| {
        db.set_status(name, Status::Destroyed);
        db.set(name, "destroyed_at", &timestamp::to_text(ctx.host.now()).into());
        if let Some(address) = record.ipv4 {
            db.release("allocated_ips", &address.to_string());
        }
        if let Some(address) = record.ipv6 {
            db.release("allocated_ipv6", &address.to_string());
        }
        Ok(())
    })
}
