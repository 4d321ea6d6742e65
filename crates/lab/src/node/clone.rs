//! `clone`: the new guest's file goes through three stages, as in Proxmox' source.
//!
//! ```text
//!   "# qmclone temporary file" + lock   ─►  all keys but the disks to come, lock  ─►  all, no lock, in the pool
//!   (nobody can tell whose it is)            (description is there)
//! ```
//!
//! The pool comes last: a token whose rights come from the pool cannot see the guest before its clone is over.

use std::collections::BTreeMap;

use super::access::Caller;
use super::change::{check_bridge, with_line_end};
use super::config_options::check;
use super::drive::{Drive, Nic, numbered, print_size, with_smbios_uuid};
use super::guest::{Behaviour, Guest};
use super::power::check_lock;
use super::refusal::{Outcome, Refusal};
use super::storage::storage_of;
use super::tasks::{Worker, spawn};
use super::{Shared, State, pause};

/// Parameters of a clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct CloneRequest {
    pub newid: u32,
    pub name: Option<String>,
    pub description: Option<String>,
    pub pool: Option<String>,
    pub storage: Option<String>,
    pub full: bool,
}

/// How long both of a clone's locks are waited for.
const LOCK_WAIT: u64 = 1_000;

/// Checks, writes the first file, and starts the task.
///
/// # Errors
/// Privileges, a missing source, a VMID that is taken on this node.
pub(crate) async fn clone(
    node: &Shared,
    caller: &Caller,
    on: &str,
    source: u32,
    request: CloneRequest,
) -> Outcome<String> {
    for (key, value) in [("name", &request.name), ("description", &request.description)] {
        if let Some(value) = value {
            check(key, value).map_err(|why| Refusal::parameter(key, why))?;
        }
    }
    check_privileges(&node.state(), caller, source, &request)?;
    let wait = LOCK_WAIT.min(node.timing().lock_wait);
    let running = {
        let state = node.state();
        let guest = state.find(on, source).ok_or_else(|| Refusal::no_such_vm(on, source))?;
        guest.run.is_some()
    };
    let lock = match running {
        true => node.locks.exclusive(source, wait).await?,
        false => node.locks.shared(source, wait).await?,
    };
    let own_lock = node.locks.exclusive(request.newid, wait).await?;
    let taken_elsewhere = prepare(node, on, source, &request)?;
    let (shared, on) = (node.clone(), on.to_owned());
    let upid = spawn(node, caller, "qmclone", source, move |worker| async move {
        let _locks = (lock, own_lock);
        let newid = request.newid;
        if taken_elsewhere {
            return Err(Refusal::die(format!(
                "clone failed: unable to create config file '/etc/pve/nodes/{on}/qemu-server/{newid}.conf' - File exists"
            )));
        }
        let mut done = copy(&shared, &worker, &on, source, &request).await;
        if done.is_ok() {
            done = shared.faults.pass("task.qmclone.end").await;
        }
        if let Err(refusal) = done {
            undo(&mut shared.state(), newid);
            return Err(Refusal::die(format!("clone failed: {}", refusal.message)));
        }
        finish(&mut shared.state(), newid, &request);
        Ok(())
    })
    .await;
    Ok(upid)
}

fn check_privileges(state: &State, caller: &Caller, source: u32, request: &CloneRequest) -> Outcome<()> {
    let access = &state.access;
    let path = format!("/vms/{source}");
    if !access.may(caller, &path, state.pool_of(source).as_deref(), "VM.Clone") {
        return Err(Refusal::forbidden(&path, "VM.Clone"));
    }
    match &request.pool {
        Some(pool) => {
            let path = format!("/pool/{pool}");
            if !access.may(caller, &path, Some(pool), "VM.Allocate") {
                return Err(Refusal::forbidden(&path, "VM.Allocate"));
            }
        }
        // Refused without a word about what is missing.
        None if !access.may(caller, &format!("/vms/{}", request.newid), None, "VM.Allocate") => {
            return Err(Refusal::with_code(403, "Permission check failed"));
        }
        None => {}
    }
    if let Some(pool) = &request.pool
        && !state.pools.contains_key(pool)
    {
        return Err(Refusal::die(format!("pool '{pool}' does not exist")));
    }
    let Some(guest) = state.guests.get(&source) else {
        return Ok(());
    };
    for (_, drive) in guest.drives().iter().filter(|(_, drive)| drive.volume != "none") {
        let storage = request.storage.as_deref().unwrap_or_else(|| storage_of(&drive.volume));
        let path = format!("/storage/{storage}");
        if !access.may(caller, &path, None, "Datastore.AllocateSpace") {
            return Err(Refusal::forbidden(&path, "Datastore.AllocateSpace"));
        }
    }
    for (_, nic) in guest.nics() {
        if let Some(bridge) = nic.bridge() {
            check_bridge(state, caller, bridge)?;
        }
    }
    Ok(())
}

/// Writes the temporary file; says whether somebody else in the cluster has the VMID.
fn prepare(node: &Shared, on: &str, source: u32, request: &CloneRequest) -> Outcome<bool> {
    let mut state = node.state();
    let guest = state.find(on, source).ok_or_else(|| Refusal::no_such_vm(on, source))?;
    check_lock(guest)?;
    if let Some(storage) = &request.storage {
        if !request.full && guest.flag("template") {
            return Err(Refusal::parameter("storage", "parameter 'storage' not allowed for linked clones"));
        }
        state.storages.for_images(storage)?;
    }
    let newid = request.newid;
    match state.ids().get(&newid) {
        Some((holder, "qemu")) if holder == on => {
            Err(Refusal::die(format!("unable to create VM {newid}: config file already exists")))
        }
        Some(_) => Ok(true),
        None => {
            let mut guest = Guest::new(newid, on, BTreeMap::new(), Behaviour::of(&node.options));
            guest.config.insert("lock".into(), "clone".into());
            guest.temporary = true;
            state.insert(guest);
            Ok(false)
        }
    }
}

async fn copy(node: &Shared, worker: &Worker, on: &str, source: u32, request: &CloneRequest) -> Outcome<()> {
    let third = node.timing().clone / 3;
    node.faults.pass("task.qmclone.temporary").await?;
    pause(third).await;
    let (config, drives) = new_config(&mut node.state(), on, source, request)?;
    // Smallest first, as the keys sort: the cloud-init drive is there at once, the disk takes the time.
    for (round, (key, drive)) in drives.into_iter().enumerate() {
        if round > 0 {
            node.faults.pass("task.qmclone.half").await?;
            pause(third * 2).await;
        }
        let kind = if request.full { "full" } else { "linked" };
        worker.line(format!("create {kind} clone of drive {key} ({})", drive.volume));
        let mut state = node.state();
        let made = copy_drive(&mut state, &drive, request)?;
        let guest = state.guest_mut(on, request.newid)?;
        if guest.temporary {
            guest.temporary = false;
            guest.config.clone_from(&config);
        }
        guest.config.insert(key, made);
        state.changed(request.newid);
    }
    let mut state = node.state();
    let guest = state.guest_mut(on, request.newid)?;
    if guest.temporary {
        guest.temporary = false;
        guest.config = config;
    }
    Ok(())
}

type Drives = Vec<(String, Drive)>;

fn new_config(
    state: &mut State,
    on: &str,
    source: u32,
    request: &CloneRequest,
) -> Outcome<(BTreeMap<String, String>, Drives)> {
    let guest = state.find(on, source).ok_or_else(|| Refusal::no_such_vm(on, source))?.clone();
    let drives = guest.drives();
    let mut config = guest.config.clone();
    config.retain(|key, _| {
        !drives.iter().any(|(drive, _)| drive == key) && !numbered(key, "unused", 256) && key != "template"
    });
    for (number, nic) in guest.nics() {
        let nic = Nic { mac: state.next_mac(), ..nic };
        config.insert(format!("net{number}"), nic.print());
    }
    let smbios = config.get("smbios1").cloned().unwrap_or_default();
    config.insert("smbios1".into(), with_smbios_uuid(&smbios, &uuid::Uuid::new_v4().to_string()));
    if config.contains_key("vmgenid") {
        config.insert("vmgenid".into(), uuid::Uuid::new_v4().to_string());
    }
    let name = match (&request.name, guest.name()) {
        (Some(name), _) => name.clone(),
        (None, "") => format!("Copy-of-VM-{source}"),
        (None, name) => format!("Copy-of-VM-{name}"),
    };
    config.insert("name".into(), name);
    if let Some(description) = request.description.as_deref().filter(|text| !text.is_empty()) {
        config.insert("description".into(), with_line_end(description));
    }
    config.insert("lock".into(), "clone".into());
    // A disk that is copied as it stands (an ISO, an empty drive) needs no copying.
    let (copied, kept): (Drives, Drives) =
        drives.into_iter().partition(|(_, drive)| drive.is_cloudinit() || !drive.is_cdrom());
    config.extend(kept.into_iter().map(|(key, drive)| (key, drive.print())));
    Ok((config, copied))
}

fn copy_drive(state: &mut State, drive: &Drive, request: &CloneRequest) -> Outcome<String> {
    let (size, data) = state
        .storages
        .volume(&drive.volume)
        .map(|volume| (volume.size, volume.data))
        .ok_or_else(|| Refusal::die(format!("volume '{}' does not exist", drive.volume)))?;
    let storage = request.storage.as_deref().unwrap_or_else(|| storage_of(&drive.volume)).to_owned();
    let mut copy = drive.clone();
    if drive.is_cloudinit() {
        copy.volume = state.storages.allocate_cloudinit(&storage, request.newid)?;
    } else if !request.full && drive.volume.contains(":base-") {
        copy.volume = state.storages.allocate_linked(&drive.volume, request.newid, size)?;
        copy.options.insert("size".into(), print_size(size));
    } else {
        copy.volume = state.storages.allocate(&storage, request.newid, size, data, "vm")?;
        copy.options.insert("size".into(), print_size(size));
    }
    Ok(copy.print())
}

fn undo(state: &mut State, newid: u32) {
    for volume in state.guests.get(&newid).map(Guest::volumes).unwrap_or_default() {
        if let Err(refusal) = state.storages.free(&volume) {
            eprintln!("lab: {}", refusal.message);
        }
    }
    state.remove(newid);
}

fn finish(state: &mut State, newid: u32, request: &CloneRequest) {
    if let Some(guest) = state.guests.get_mut(&newid) {
        guest.config.remove("lock");
        guest.pool.clone_from(&request.pool);
    }
    state.changed(newid);
}
