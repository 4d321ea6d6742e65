//! Making a guest from nothing, destroying one, turning one into a template.

use std::collections::BTreeMap;

use super::access::Caller;
use super::change::{self, Change};
use super::drive::with_smbios_uuid;
use super::guest::{Behaviour, Guest};
use super::power::{check_lock, start_slowly};
use super::refusal::{Outcome, Refusal};
use super::tasks::{Worker, spawn};
use super::{Node, Shared, State, pause};

/// Parameters of a destroy.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Destroy {
    /// Also out of backup jobs, replication and HA.
    pub purge: bool,
    /// Also volumes with that VMID that no configuration names.
    pub unreferenced: bool,
    /// Past the configuration's lock; root@pam only.
    pub skip_lock: bool,
}

/// The destroy task.
///
/// # Errors
/// Missing, protected, running: said before the task.
pub(crate) async fn destroy(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    how: Destroy,
) -> Outcome<String> {
    check_destroyable(&node.state(), on, vmid)?;
    let (shared, on) = (node.clone(), on.to_owned());
    Ok(spawn(node, caller, "qmdestroy", vmid, move |worker| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        {
            let state = shared.state();
            check_destroyable(&state, &on, vmid)?;
            if !how.skip_lock {
                check_lock(state.guest(&on, vmid)?)?;
            }
        }
        check_unlinked(&shared.state(), &on, vmid)?;
        pause(shared.timing().destroy).await;
        let warnings = remove(&mut shared.state(), vmid, how.unreferenced);
        if how.purge {
            shared.state().backup_jobs.remove(&vmid);
        }
        for warning in warnings {
            // A plain warning in 8, one of the task in 9.
            match shared.options.pve {
                8 => worker.line(warning),
                _ => worker.warn(warning),
            }
        }
        remove_folder(&shared, vmid);
        Ok(())
    })
    .await)
}

fn check_destroyable(state: &State, on: &str, vmid: u32) -> Outcome<()> {
    let guest = state.guest(on, vmid)?;
    if guest.flag("protection") {
        return Err(Refusal::die(format!("can't remove VM {vmid} - protection mode enabled")));
    }
    if guest.run.is_some() {
        return Err(Refusal::die(format!("VM {vmid} is running - destroy failed")));
    }
    Ok(())
}

/// A template whose disk others hang on stays, where the storage can tell.
fn check_unlinked(state: &State, on: &str, vmid: u32) -> Outcome<()> {
    let volumes = state.guest(on, vmid)?.volumes();
    match volumes.iter().find(|volume| !state.storages.linked_to(volume).is_empty()) {
        Some(base) => Err(Refusal::die(format!("base volume '{base}' is still in use by linked cloned"))),
        None => Ok(()),
    }
}

/// Frees the volumes and takes the guest out; a volume that cannot be freed is a warning and stays.
fn remove(state: &mut State, vmid: u32, unreferenced: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut volumes = state.guests.get(&vmid).map(Guest::volumes).unwrap_or_default();
    if unreferenced {
        volumes.extend(
            state
                .storages
                .of_guest(vmid)
                .into_iter()
                .filter(|volume| !volumes.contains(volume))
                .collect::<Vec<_>>(),
        );
    }
    for volume in volumes {
        if state.storages.volume(&volume).is_none_or(|known| known.vmid != vmid) {
            continue;
        }
        if let Err(refusal) = state.storages.free(&volume) {
            warnings.push(format!("Could not remove disk '{volume}', check manually: {}", refusal.message));
        }
    }
    state.remove(vmid);
    // Rules on the VMID go with it (pve-access-control, `remove_vm_access`): whoever gets the number next starts anew.
    let path = format!("/vms/{vmid}");
    state.access.rules.retain(|rule| rule.path != path);
    warnings
}

fn remove_folder(node: &Node, vmid: u32) {
    let folder = node.guest_folder(vmid);
    if folder.is_dir()
        && let Err(error) = std::fs::remove_dir_all(&folder)
    {
        eprintln!("lab: {}: {error}", folder.display());
    }
}

/// The create task.
///
/// # Errors
/// Wrong options, or the VMID is taken anywhere in the cluster: said before the task.
pub(crate) async fn create(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    options: Vec<(String, String)>,
    start: bool,
) -> Outcome<String> {
    let mut pool = None;
    let mut set = Vec::new();
    for (key, value) in options {
        match key.as_str() {
            "pool" => pool = Some(value),
            _ => set.push((key, value)),
        }
    }
    let path = pool.as_ref().map_or_else(|| format!("/vms/{vmid}"), |pool| format!("/pool/{pool}"));
    if !node.state().access.may(caller, &path, pool.as_deref(), "VM.Allocate") {
        return Err(Refusal::forbidden(&path, "VM.Allocate"));
    }
    let change = Change { set, ..Change::default() }.checked(node, caller, vmid)?;
    if let Some((holder, _)) = node.state().ids().get(&vmid) {
        return Err(Refusal::die(format!(
            "unable to create VM {vmid} - VM {vmid} already exists on node '{holder}'"
        )));
    }
    let (shared, on) = (node.clone(), on.to_owned());
    Ok(spawn(node, caller, "qmcreate", vmid, move |worker| async move {
        let wait = 5_000.min(shared.timing().lock_wait);
        let _lock = shared.locks.exclusive(vmid, wait).await?;
        make(&shared, &on, vmid, pool, change).map_err(|refusal| {
            remove(&mut shared.state(), vmid, false);
            Refusal::die(format!("unable to create VM {vmid} - {}", refusal.message))
        })?;
        if start {
            start_or_warn(&shared, &worker, &on, vmid).await;
        }
        Ok(())
    })
    .await)
}

/// A failing start is only a warning: create still succeeds.
async fn start_or_warn(node: &Shared, worker: &Worker, on: &str, vmid: u32) {
    if let Err(refusal) = start_slowly(node, Some(worker), on, vmid).await {
        worker.warn(refusal.message);
    }
}

fn make(node: &Node, on: &str, vmid: u32, pool: Option<String>, change: Change) -> Outcome<()> {
    let mut state = node.state();
    if state.ids().contains_key(&vmid) {
        return Err(Refusal::die(format!("VM {vmid} already exists")));
    }
    let mut guest = Guest::new(vmid, on, BTreeMap::new(), Behaviour::of(&node.options));
    guest.pool = pool;
    state.insert(guest);
    change::apply_new(&mut state, on, vmid, &change)?;
    let uuid = uuid::Uuid::new_v4().to_string();
    let vmgenid = uuid::Uuid::new_v4().to_string();
    let guest = state.guest_mut(on, vmid)?;
    let smbios = guest.config.remove("smbios1").unwrap_or_default();
    let smbios = if smbios.contains("uuid=") { smbios } else { with_smbios_uuid(&smbios, &uuid) };
    guest.config.insert("smbios1".into(), smbios);
    guest.config.entry("vmgenid".into()).or_insert(vmgenid);
    guest.config.entry("meta".into()).or_insert_with(|| "creation-qemu=10.0.2,ctime=1790000000".into());
    state.changed(vmid);
    Ok(())
}

/// The template task: `template: 1` is written before the volumes are converted.
///
/// # Errors
/// What is known before the task: missing, a template already, running.
pub(crate) async fn template(node: &Shared, caller: &Caller, on: &str, vmid: u32) -> Outcome<String> {
    {
        let state = node.state();
        let guest = state.guest(on, vmid)?;
        check_lock(guest)?;
        if guest.flag("template") {
            return Err(Refusal::die("you can't convert a template to a template"));
        }
        if guest.run.is_some() {
            return Err(Refusal::die("you can't convert a VM to template if VM is running"));
        }
    }
    let (shared, on) = (node.clone(), on.to_owned());
    Ok(spawn(node, caller, "qmtemplate", vmid, move |_| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        {
            let mut state = shared.state();
            state.guest_mut(&on, vmid)?.config.insert("template".into(), "1".into());
            state.changed(vmid);
        }
        shared.faults.pass("task.qmtemplate.half").await?;
        let mut state = shared.state();
        for (key, mut drive) in state.guest(&on, vmid)?.drives() {
            if drive.is_cdrom() {
                continue;
            }
            let base = drive.volume.replacen(":vm-", ":base-", 1);
            state.storages.rename(&drive.volume, &base);
            drive.volume = base;
            state.guest_mut(&on, vmid)?.config.insert(key, drive.print());
        }
        state.changed(vmid);
        Ok(())
    })
    .await)
}
