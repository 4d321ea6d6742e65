//! Rolls back dead creates: what they took is found in the journal and released, after querying the node (hazards H05,
//! H06, H07, H48). Recovery never guesses: what it cannot know it leaves alone, and reports it.

use super::locked_vm::{LockedVm, in_words};
use super::{Context, late_requests};
use crate::host::interrupt::Interrupt;
use crate::store::failed_logs;
use crate::store::journal::{Entry, Step};
use crate::store::withheld_vmids::WithheldVmids;
use crate::tool::node::{Act, Waited};
use crate::value::identity::Identity;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vm_state::VmState;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use chrono::TimeDelta;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// For a caller that needs this very VM: waits for a terraform or a clone that is still finishing.
pub const PATIENT: Duration = Duration::from_secs(120);
/// For somebody else's VM, met in passing.
pub const BRIEF: Duration = Duration::from_secs(2);
/// How many days the entry of a registered VM is kept for a create that reads its result.
const UNREPORTED_DAYS: i64 = 7;

/// Rolls back every create that died before registration, except that of `not_this`. A failure is only a warning: it
/// must not stop the create that found it.
pub fn undo_dead_creates(ctx: &Context<'_>, not_this: Option<&VmName>) {
    let entries = match ctx.journal().entries() {
        Ok(entries) => entries,
        // Allocation reads the journal too, and fails with the same message.
        Err(error) => return tracing::debug!("{error:#}"),
    };
    for entry in entries.iter().filter(|e| not_this.is_none_or(|name| e.name != name.as_str())) {
        if let Err(error) = undo_if_dead(ctx, &entry.name) {
            tracing::warn!(
                "VM {}: cannot roll back an interrupted create yet: {error:#}; its VMID and addresses stay reserved",
                entry.name
            );
        }
    }
}

fn undo_if_dead(ctx: &Context<'_>, name: &str) -> anyhow::Result<()> {
    let name = VmName::parse(name)?;
    // Whoever is alive holds the lock. The entry is read again under the lock: its operation may have ended since.
    let Some(vm) = ctx.try_lock_vm(&name, "recovery")? else {
        return Ok(());
    };
    let Some(entry) = vm.entry()? else {
        return Ok(());
    };
    match entry.step {
        Step::Taken | Step::Applying => {
            tracing::info!("VM {name}: rolling back an interrupted create");
            let ended = undo(&vm, &entry, BRIEF, MayBeLate::Yes).ended;
            vm.audit("undo-create", entry.checked_vmid().ok(), [None, None], &in_words(&ended));
            ended?;
            vm.forget();
            Ok(())
        }
        Step::Registered => {
            put_record_back(&vm, &entry)?;
            if ctx.host.now() - entry.began_at > TimeDelta::days(UNREPORTED_DAYS) {
                vm.remove_entry()?;
            }
            Ok(())
        }
        // The next destroy of this VM, or gc, continues it.
        Step::Destroying => Ok(()),
    }
}

/// Restores the record of a registered VM that an unlocked writer has dropped, or whose create died just before writing
/// it.
pub fn put_record_back(vm: &LockedVm<'_, '_>, entry: &Entry) -> anyhow::Result<()> {
    let Some(record) = &entry.record else {
        return Ok(());
    };
    let there = vm.database.inspect(|db| {
        // The tombstone of an earlier VM of this name does not count as this VM's record; its own tombstone does.
        let earlier = |r: &VmRecord| r.status == Status::Destroyed && r.smbios_uuid != entry.smbios_uuid;
        Ok(db.record(&entry.name).is_some_and(|r| !matches!(r, Ok(r) if earlier(&r))))
    })?;
    if there {
        return Ok(());
    }
    tracing::warn!("VM {}: its record was missing; restored it from the journal", entry.name);
    let put = vm.database.update(|db| {
        db.insert(&entry.name, record.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        for (list, address) in [
            ("allocated_ips", entry.ipv4.map(|a| a.to_string())),
            ("allocated_ipv6", entry.ipv6.map(|a| a.to_string())),
        ] {
            if let Some(address) = address {
                db.hold(list, &address);
            }
        }
        Ok(())
    });
    let status = record.get(&vm.settings.fields.status).and_then(Value::as_str).and_then(Status::parse);
    vm.audit("restore-record", entry.checked_vmid().ok(), [None, status], &in_words(&put));
    put
}

/// Whether a request of the create being rolled back may still be on its way to the node (H57).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayBeLate {
    /// The create was killed, or its terraform lost its connection: nobody got the answer.
    Yes,
    /// Its terraform ended by itself and got an answer to every request.
    No,
}

/// Outcome of a rollback.
pub struct Undone {
    /// Where terraform's output is kept, whatever happened afterwards; `None` if terraform was not run.
    pub kept_log: Option<PathBuf>,
    /// An error means that the rollback is incomplete; what is left stays reserved.
    pub ended: anyhow::Result<()>,
}

/// Rolls back an unregistered create: first the VM, then its files, its addresses, and its journal entry. Fails without
/// releasing anything while the VM may still exist (H07). If terraform was run, its output is saved first.
pub fn undo(vm: &LockedVm<'_, '_>, entry: &Entry, patience: Duration, may_be_late: MayBeLate) -> Undone {
    let mut kept_log = None;
    let ended = undo_keeping(vm, entry, patience, may_be_late, &mut kept_log);
    Undone { kept_log, ended }
}

fn undo_keeping(
    vm: &LockedVm<'_, '_>,
    entry: &Entry,
    patience: Duration,
    may_be_late: MayBeLate,
    kept_log: &mut Option<PathBuf>,
) -> anyhow::Result<()> {
    let (ctx, name) = (vm.ctx(), vm.name());
    let vmid = entry.checked_vmid()?;
    let folder = vm.folder();
    let deadline = vm.host.deadline(patience);
    anyhow::ensure!(
        folder.wait_until_idle(entry.terraform_pid, deadline, &Interrupt::never())?,
        "a terraform of VM {name} is still running in {}",
        folder.path().display()
    );
    // Without knowing the token, nobody can tell whether the log contains it.
    let access = ctx.api().ok();
    *kept_log = access
        .and_then(|(access, _)| failed_logs::keep(ctx.host, access, name, entry.began_at, &folder.log()));
    if entry.step == Step::Applying {
        let uuid = entry.smbios_uuid.context("the journal entry has no UUID")?;
        // Before checking the node: what is not there yet may arrive later (H57).
        if may_be_late == MayBeLate::Yes && folder.was_run() {
            late_requests::watch(ctx, entry)?;
        }
        remove_machine(ctx, name, vmid, &Identity::Uuid(uuid), patience)?;
    }
    vm.host.reached("undo.machine")?;
    folder.remove()?;
    vm.host.reached("undo.folder")?;
    let node = ctx.node_uninterrupted();
    for kind in ["user", "meta"] {
        node.delete_snippet(name, kind, vm.host.deadline(Duration::from_secs(60)))?;
    }
    vm.host.reached("undo.snippets")?;
    give_back(ctx, entry)?;
    vm.host.reached("undo.released")?;
    vm.remove_entry()
}

/// Releases the addresses, and sets `next_vmid` back unless it has been moved since.
fn give_back(ctx: &Context<'_>, entry: &Entry) -> anyhow::Result<()> {
    let range = ctx.settings.vmid_range()?;
    let after = crate::plan::allocation::next_after(entry.checked_vmid()?, range);
    ctx.database.update(|db| {
        // If a live record has the same address, it is not ours to release.
        let (mut ipv4_used, mut ipv6_used) = (false, false);
        for record in db.records().flatten().filter(|r| r.is_live()) {
            ipv4_used |= record.ipv4.is_some() && record.ipv4 == entry.ipv4;
            ipv6_used |= record.ipv6.is_some() && record.ipv6 == entry.ipv6;
        }
        if let (Some(address), false) = (entry.ipv4, ipv4_used) {
            db.release("allocated_ips", &address.to_string());
        }
        if let (Some(address), false) = (entry.ipv6, ipv6_used) {
            db.release("allocated_ipv6", &address.to_string());
        }
        if let Some(previous) = entry.previous_next_vmid
            && db.next_vmid().ok().flatten() == Some(after)
        {
            db.set_next_vmid(previous);
        }
        Ok(())
    })
}

/// Removes the half-made VM if the one with this VMID is ours. Takes a name instead of a locked VM: a clone that
/// arrives late may have the name of a VM that is being created right now, and has nothing to do with it.
pub fn remove_machine(
    ctx: &Context<'_>,
    name: &VmName,
    vmid: Vmid,
    identity: &Identity,
    patience: Duration,
) -> anyhow::Result<()> {
    let node = ctx.node_uninterrupted();
    let label = format!("VM {name} (VMID {vmid})");
    let state = look_twice(ctx, vmid, identity, patience)
        .with_context(|| format!("{label}: cannot query the node"))?;
    let clear = || {
        let cleared = node.clear_guard(vmid, identity, ctx.host.deadline(patience));
        cleared.with_context(|| format!("{label}: failed to remove its network guard"))
    };
    if !state.exists {
        return clear();
    }
    if !state.is(identity, name) {
        anyhow::ensure!(
            state.tells_whose(),
            "{label}: node {} has a VM with this VMID, but its configuration cannot be read, so its owner is unknown",
            state.node
        );
        anyhow::ensure!(
            !is_being_cloned(&state),
            "{label}: a clone into this VMID is still running; cannot tell yet whether it is ours"
        );
        tracing::warn!(
            "{label}: the VM with this VMID is not ours ({}); leaving it alone",
            state.description()
        );
        return Ok(());
    }
    anyhow::ensure!(!state.elsewhere, "{label}: it is on node {}", state.node);
    let patience = patience.max(Duration::from_secs(30));
    if state.running {
        let deadline = ctx.host.deadline(patience);
        let stop = || node.stop(vmid, identity, deadline);
        match node.act_and_wait(Act { vmid, identity, action: "qm-stop", deadline }, stop, |s| !s.running)? {
            Waited::Done(_) => {}
            Waited::Failed(words) => anyhow::bail!("{label}: failed to switch it off: {words}"),
            Waited::TimedOut(_) => anyhow::bail!("{label}: failed to switch it off"),
        }
    }
    let (waited, leftovers) = node.destroy(vmid, identity, ctx.host.deadline(patience))?;
    warn_of_leftovers(ctx, &label, vmid, &leftovers);
    match waited {
        Waited::Done(_) => clear(),
        Waited::Failed(words) => anyhow::bail!("{label}: failed to delete it: {words}"),
        Waited::TimedOut(_) => anyhow::bail!("{label}: it is still being deleted"),
    }
}

/// Checks the VMID twice: a request of a killed terraform may reach the node a moment later, and a running clone does
/// not show whose it is. So only absent twice counts as absent, and a clone lock is waited for.
fn look_twice(
    ctx: &Context<'_>,
    vmid: Vmid,
    identity: &Identity,
    patience: Duration,
) -> anyhow::Result<VmState> {
    let node = ctx.node_uninterrupted();
    let ask = || node.state(vmid, Some(identity), ctx.host.deadline(Duration::from_secs(60)));
    if !ask()?.exists {
        ctx.host.doors.sleep(Duration::from_millis(300));
    }
    let deadline = ctx.host.deadline(patience);
    loop {
        let state = ask()?;
        if !is_being_cloned(&state) || deadline.passed() {
            return Ok(state);
        }
        ctx.host.doors.sleep(Duration::from_millis(200));
    }
}

fn is_being_cloned(state: &VmState) -> bool {
    state.exists && state.lock == "clone"
}

/// Warns of disks that `qm destroy` could not free, and withholds the VMID: the next VM with it would fail because of
/// them (H63).
pub fn warn_of_leftovers(ctx: &Context<'_>, label: &str, vmid: Vmid, disks: &[String]) {
    for disk in disks {
        tracing::warn!("{label}: leftover disk {disk}; remove it with pvesm free {disk}");
    }
    if let Some(disk) = disks.first() {
        let reason = format!("leftover disk {disk}; remove it with pvesm free {disk}");
        if let Err(error) = WithheldVmids::new(ctx.host).withhold(vmid, &reason, None) {
            tracing::warn!("{label}: its VMID may be reused although a disk is left over: {error:#}");
        }
    }
}
