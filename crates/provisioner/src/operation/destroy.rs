//! `blockhost-vm-destroy`: the machine, its disks, its files, its route and its addresses go; the record stays as a
//! tombstone (hazards H02, H08, H09, H44, H52).
//!
//! Safe to be killed anywhere and run again: each step finds out for itself what is left to do. The record becomes
//! `destroyed` only after the node has said that the machine is gone.

use super::kill::power_off;
use super::machine::{self, Machine};
use super::{Context, leftovers, recovery};
use crate::host::clock::{self, Deadline};
use crate::host::failpoint;
use crate::plan::terraform_json;
use crate::store::journal::{Entry, Step};
use crate::store::settings::NodeAccess;
use crate::store::vm_database::{Status, VmRecord};
use crate::store::vm_lock::VmLock;
use crate::tool::node::Waited;
use crate::tool::terraform::{LegacyFolder, Outcome, Run, StateFile, VmFolder};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use anyhow::Context as _;
use std::time::Duration;

/// The admin panel kills us at 60 s; at 50 s we say that the node is still at it.
pub const LIMIT: Duration = Duration::from_secs(50);
/// What is left for files, route and database after the machine is gone.
const TIDYING: Duration = Duration::from_secs(15);

/// How the words about a terraform that ran and failed begin.
const TERRAFORM_FAILED: &str = "terraform could not destroy it";

/// What `destroy` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destroyed {
    /// It is gone now.
    Gone,
    /// It was destroyed before.
    Already,
    /// There is no such VM; a create of this name that had died was undone, if there was one.
    Unknown,
    /// The condition does not hold (any more): it was left alone.
    NotDue,
    /// It runs, and the condition was that it is off: it was left alone.
    Runs,
}

/// On what a destroy depends that nobody has asked for by hand.
pub struct Condition<'a> {
    /// Asked of the record, read again under the VM's lock: at the beginning, and right before each act that cannot be
    /// taken back (H10).
    pub due: &'a dyn Fn(&VmRecord) -> bool,
    /// What the machine must be, asked likewise.
    pub machine: MachineMust,
}

/// See [`Condition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineMust {
    /// Off, or gone (H50).
    BeOff,
    /// Gone: only what it left behind is removed.
    BeGone,
}

/// How the removal of the machine ended.
enum Removal {
    Gone,
    NotDue,
    Runs,
}

/// Destroys a VM. A protected one only with `force`.
pub fn destroy(ctx: &Context<'_>, name: &VmName, force: bool) -> anyhow::Result<Destroyed> {
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
    let deadline = Deadline::after(failpoint::limit("destroy", limit));
    if ctx.mock {
        return destroy_mock(ctx, name, force, &is_due);
    }
    if let Some(answer) = nothing_to_do(ctx, name)? {
        return Ok(answer);
    }
    let lock = VmLock::take(ctx.host, name, "destroy", deadline.left())?;
    if let Some(answer) = nothing_to_do(ctx, name)? {
        return Ok(answer);
    }
    let entry = ctx.journal().read(name)?;
    let unfinished = entry.as_ref().filter(|e| matches!(e.step, Step::Taken | Step::Applying));
    if let Some(entry) = unfinished {
        recovery::undo(ctx, entry, &lock, deadline.left())
            .with_context(|| format!("VM {name}: its create did not end and cannot be undone yet"))?;
        if let Some(answer) = nothing_to_do(ctx, name)? {
            lock.forget();
            return Ok(answer);
        }
    } else if let Some(entry) = &entry
        && entry.step == Step::Registered
    {
        recovery::put_record_back(ctx, entry)?;
    }
    let Some(record) = ctx.record(name)? else {
        return remove_leftovers_of_unknown(ctx, name, lock);
    };
    anyhow::ensure!(
        !record.protected || force,
        "VM {name} is protected (\"protected\": true in its record); --force destroys it all the same"
    );
    if record.is_live() && !is_due(&record) {
        return Ok(Destroyed::NotDue);
    }
    if record.is_live() {
        let machine = machine::of_record(ctx, record, deadline)?;
        let entry = ctx.journal().read(name)?;
        match remove_machine(ctx, &machine, &lock, deadline, condition)? {
            Removal::Gone => {}
            objection => {
                // As if nothing had been begun.
                match entry {
                    Some(entry) => ctx.journal().write(&entry, &lock)?,
                    None => ctx.journal().remove(name, &lock)?,
                }
                return Ok(match objection {
                    Removal::Runs => Destroyed::Runs,
                    _ => Destroyed::NotDue,
                });
            }
        }
        ctx.host.step("destroy.gone")?;
        tidy_up(ctx, &machine.record, &lock)?;
    } else {
        tidy_up(ctx, &record, &lock)?;
    }
    lock.forget();
    Ok(Destroyed::Gone)
}

/// Unknown or destroyed, with nothing left over: the answer at once.
fn nothing_to_do(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Option<Destroyed>> {
    let record = ctx.record(name)?;
    let leftovers =
        ctx.journal().read(name)?.is_some() || VmFolder::new(ctx.host, &ctx.settings, name).exists();
    Ok(match record {
        None if !leftovers => Some(Destroyed::Unknown),
        Some(record) if !record.is_live() && !leftovers => Some(Destroyed::Already),
        _ => None,
    })
}

/// A folder or entry without any record: a record was lost, or a destroy's last step. Files go only when the
/// machine that they made is gone.
fn remove_leftovers_of_unknown(ctx: &Context<'_>, name: &VmName, lock: VmLock) -> anyhow::Result<Destroyed> {
    leftovers::ensure_none_lives(ctx, name, None)?;
    VmFolder::new(ctx.host, &ctx.settings, name).remove()?;
    for kind in ["user", "meta"] {
        ctx.node().delete_snippet(name, kind, Deadline::after(TIDYING))?;
    }
    ctx.journal().remove(name, &lock)?;
    lock.forget();
    Ok(Destroyed::Unknown)
}

/// Whether the condition still holds: `None`, or what to say. Everything that takes time comes before this look.
fn objection(
    ctx: &Context<'_>,
    machine: &Machine,
    deadline: Deadline,
    condition: Option<&Condition<'_>>,
) -> anyhow::Result<Option<Removal>> {
    let Some(condition) = condition else { return Ok(None) };
    let state = machine.proven_state(ctx, deadline)?;
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

/// Ends with the node saying that the machine is gone, or with an objection.
fn remove_machine(
    ctx: &Context<'_>,
    machine: &Machine,
    lock: &VmLock,
    deadline: Deadline,
    condition: Option<&Condition<'_>>,
) -> anyhow::Result<Removal> {
    if let Some(objection) = objection(ctx, machine, deadline, condition)? {
        return Ok(objection);
    }
    let state = machine.proven_state(ctx, deadline)?;
    // The node would refuse at the very end, after the guest was switched off.
    anyhow::ensure!(
        !state.protection,
        "{}: an operator has protected it on the node (protection flag); nothing was done. To destroy it all the same: qm set {} --protection 0",
        machine.label(),
        machine.vmid
    );
    write_entry(ctx, machine, lock)?;
    ctx.host.step("destroy.begun")?;
    if state.exists && state.running {
        power_off(ctx, machine, deadline.at_most(Duration::from_secs(25)))?;
    }
    ctx.host.step("destroy.stopped")?;
    let mut terraform = prepare_terraform(ctx, machine, deadline)?;
    // Asked again: what came before takes time, and terraform asks for no proof before it deletes (H02).
    if !machine.proven_state(ctx, deadline)?.exists && matches!(terraform, Terraform::Own(..)) {
        terraform = Terraform::Useless("the node has no such machine".to_string());
    }
    if let Some(objection) = objection(ctx, machine, deadline, condition)? {
        return Ok(objection);
    }
    // What terraform says is noted and not believed: the node is asked in any case (H44).
    let said = run_terraform(ctx, machine, terraform, deadline)?;
    ctx.host.step("destroy.terraform")?;
    let state = machine.proven_state(ctx, deadline)?;
    if !state.exists {
        if let Some(words) = said.filter(|words| words.starts_with(TERRAFORM_FAILED)) {
            tracing::warn!(
                "{}: it is gone, although {words}; disks may be left over (pvesm list)",
                machine.label()
            );
        }
        return Ok(Removal::Gone);
    }
    if let Some(objection) = objection(ctx, machine, deadline, condition)? {
        return Ok(objection);
    }
    if let Some(words) = &said {
        tracing::warn!("{}: {words}; deleting it through the root agent", machine.label());
    }
    if state.running {
        // Somebody has started it since.
        power_off(ctx, machine, deadline.at_most(Duration::from_secs(25)))?;
    }
    let node = ctx.node();
    let (waited, leftovers) = node.destroy(machine.vmid, &machine.identity, deadline)?;
    for disk in leftovers {
        tracing::warn!("{}: a disk was left over: {disk}; free it with pvesm free {disk}", machine.label());
    }
    match waited {
        Waited::Done(_) => Ok(Removal::Gone),
        Waited::Failed(words) => anyhow::bail!("{}: failed to delete it: {words}", machine.label()),
        Waited::TimedOut(_) => {
            anyhow::bail!("{}: the node is still deleting it; run the same command again", machine.label())
        }
    }
}

fn write_entry(ctx: &Context<'_>, machine: &Machine, lock: &VmLock) -> anyhow::Result<()> {
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
        began_at: clock::now(),
        pid: std::process::id(),
        terraform_pid: None,
        record: None,
    };
    ctx.journal().write(&entry, lock)
}

/// What terraform can do about a machine.
enum Terraform {
    /// Destroy this address in the VM's own folder.
    Own(VmFolder, String, NodeAccess),
    /// Destroy it in the older package's shared folder.
    Shared(LegacyFolder, NodeAccess),
    /// Nothing, and why; the root agent must.
    Useless(String),
}

/// Waits for earlier terraforms and makes sure of the state.
fn prepare_terraform(ctx: &Context<'_>, machine: &Machine, deadline: Deadline) -> anyhow::Result<Terraform> {
    let name = &machine.record.name;
    let folder = VmFolder::new(ctx.host, &ctx.settings, name);
    let legacy = LegacyFolder::new(ctx.host, &ctx.settings, name);
    let useless = |words: &str| Ok(Terraform::Useless(words.to_string()));
    let access = match NodeAccess::read(ctx.host, &ctx.settings) {
        Ok(access) => access,
        Err(error) => return useless(&format!("terraform cannot be used: {error:#}")),
    };
    if folder.exists() {
        let idle =
            folder.wait_until_idle(None, deadline.at_most(Duration::from_secs(30)), &ctx.host.interrupt)?;
        anyhow::ensure!(
            idle,
            "{}: an earlier terraform is still at it; run the same command again",
            machine.label()
        );
        let Some(label) = folder.resource_label().unwrap_or_default() else {
            return useless(&format!("{} has no terraform file of this VM", folder.path().display()));
        };
        // An older copy of the database may have brought back the record of an earlier VM of this name.
        let described = folder.machine().unwrap_or_default();
        if described
            .is_some_and(|other| Some(other) != machine.record.smbios_uuid.map(|uuid| (machine.vmid, uuid)))
        {
            return useless(&format!(
                "the terraform file in {} is of another machine",
                folder.path().display()
            ));
        }
        match folder.secure_state()? {
            StateFile::Holds(resources) if !resources.is_empty() => {
                Ok(Terraform::Own(folder, terraform_json::resource_address(&label), access))
            }
            StateFile::Torn => useless("its terraform state is torn and has no good copy"),
            _ => useless("its terraform state holds nothing"),
        }
    } else if legacy.has_file() {
        while legacy.is_busy()? {
            anyhow::ensure!(
                !deadline.passed(),
                "{}: another terraform works in the shared folder; run the same command again",
                machine.label()
            );
            ctx.host.interrupt.sleep(Duration::from_millis(100));
            ctx.host.interrupt.check()?;
        }
        match legacy.secure_state()? {
            StateFile::Holds(_) if !legacy.left_in_state()?.is_empty() => {
                Ok(Terraform::Shared(legacy, access))
            }
            StateFile::Torn => useless("the shared terraform state is torn and has no good copy"),
            _ => useless("the shared terraform state does not hold it"),
        }
    } else {
        useless("it has no terraform file")
    }
}

/// Lets terraform destroy what its state holds. `Ok(Some(words))`: it could not, and the root agent must.
fn run_terraform(
    ctx: &Context<'_>,
    machine: &Machine,
    terraform: Terraform,
    deadline: Deadline,
) -> anyhow::Result<Option<String>> {
    match terraform {
        Terraform::Useless(words) => Ok(Some(words)),
        Terraform::Own(folder, address, access) => {
            outcome_in_words(ctx, machine, folder.run("destroy", &[address], &access), deadline)
        }
        Terraform::Shared(legacy, access) => {
            outcome_in_words(ctx, machine, legacy.run_destroy(&access), deadline)
        }
    }
}

fn outcome_in_words(
    ctx: &Context<'_>,
    machine: &Machine,
    run: anyhow::Result<Run>,
    deadline: Deadline,
) -> anyhow::Result<Option<String>> {
    let run = match run {
        Ok(run) => run,
        Err(error) => return Ok(Some(format!("terraform cannot be started: {error:#}"))),
    };
    ctx.host.step("destroy.running")?;
    match run.wait(deadline, &ctx.host.interrupt)? {
        Outcome::Done => Ok(None),
        Outcome::Failed(diagnostics) => {
            let words: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
            Ok(Some(format!("{TERRAFORM_FAILED}: {}", words.join("; "))))
        }
        Outcome::StillRunning => {
            anyhow::bail!(
                "{}: terraform is still deleting it after {} s; run the same command again",
                machine.label(),
                LIMIT.as_secs()
            )
        }
    }
}

/// All that the machine leaves behind. Independent steps go on after a failure; the entry goes only when all are
/// done, so that the next destroy finds what was left.
pub fn tidy_up(ctx: &Context<'_>, record: &VmRecord, lock: &VmLock) -> anyhow::Result<()> {
    let name = &record.name;
    leftovers::ensure_none_lives(ctx, name, Some(record))?;
    let node = ctx.node_uninterrupted();
    let mut failures: Vec<String> = Vec::new();
    if let Some(address) = record.ipv6
        && record.is_live()
        && let Err(error) = node.remove_route(address, &ctx.bridge(), Deadline::after(TIDYING))
    {
        // The address may be the next VM's soon, whose create sets the route anew.
        tracing::warn!("VM {name}: the host route to {address} was not removed: {error}");
    }
    ctx.host.step("destroy.route")?;
    for kind in ["user", "meta"] {
        if let Err(error) = node.delete_snippet(name, kind, Deadline::after(TIDYING)) {
            failures.push(format!("its {kind}-data snippet: {error}"));
        }
    }
    ctx.host.step("destroy.snippets")?;
    let folder = VmFolder::new(ctx.host, &ctx.settings, name);
    let legacy = LegacyFolder::new(ctx.host, &ctx.settings, name);
    for result in [folder.remove(), remove_legacy(&legacy)] {
        failures.extend(result.err().map(|error| format!("{error:#}")));
    }
    ctx.host.step("destroy.folder")?;
    if record.is_live() {
        mark_destroyed(ctx, record)?;
    }
    ctx.host.step("destroy.marked")?;
    if !failures.is_empty() {
        anyhow::bail!(
            "VM {name} is gone, but could not be removed: {}; run the same command again",
            failures.join("; ")
        );
    }
    ctx.journal().remove(name, lock)?;
    // All is done: a signal that comes now changes nothing.
    Ok(crate::host::failpoint::reached("destroy.done")?)
}

/// The older package's files go only when the shared state no longer holds what they made.
fn remove_legacy(legacy: &LegacyFolder) -> anyhow::Result<()> {
    if !legacy.has_file() {
        return Ok(());
    }
    let left = legacy.left_in_state()?;
    if !left.is_empty() {
        tracing::warn!(
            "the shared terraform state still holds {}; its files are removed all the same, for its machine is gone",
            left.join(", ")
        );
    }
    legacy.remove_files()
}

fn mark_destroyed(ctx: &Context<'_>, record: &VmRecord) -> anyhow::Result<()> {
    let name = record.name.as_str();
    ctx.database.update(|db| {
        db.set_status(name, Status::Destroyed);
        db.set(name, "destroyed_at", &timestamp::to_text(clock::now()).into());
        if let Some(address) = record.ipv4 {
            db.release("allocated_ips", &address.to_string());
        }
        if let Some(address) = record.ipv6 {
            db.release("allocated_ipv6", &address.to_string());
        }
        Ok(())
    })
}

fn destroy_mock(
    ctx: &Context<'_>,
    name: &VmName,
    force: bool,
    due: &dyn Fn(&VmRecord) -> bool,
) -> anyhow::Result<Destroyed> {
    match ctx.record(name)? {
        None => Ok(Destroyed::Unknown),
        Some(record) if !record.is_live() => Ok(Destroyed::Already),
        Some(record) if !due(&record) => Ok(Destroyed::NotDue),
        Some(record) => {
            anyhow::ensure!(
                !record.protected || force,
                "VM {name} is protected; --force destroys it all the same"
            );
            mark_destroyed(ctx, &record)?;
            Ok(Destroyed::Gone)
        }
    }
}
