//! Disks: resize, move to another storage, import.

use std::path::Path;

use super::access::Caller;
use super::change::add_unused;
use super::drive::{Drive, is_drive_key, parse_size, print_size};
use super::power::check_lock;
use super::refusal::{Outcome, Refusal};
use super::storage::storage_of;
use super::tasks::spawn;
use super::{Node, Shared, State, pause};

/// The resize task. Everything, "does not exist" too, is found out inside it.
pub(crate) async fn resize(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    disk: &str,
    size: &str,
) -> String {
    let (shared, on, disk, size) = (node.clone(), on.to_owned(), disk.to_owned(), size.to_owned());
    spawn(node, caller, "resize", vmid, move |_| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        check_lock(shared.state().guest(&on, vmid)?)?;
        pause(shared.timing().disk).await;
        resize_now(&mut shared.state(), &on, vmid, &disk, &size)
    })
    .await
}

fn resize_now(state: &mut State, on: &str, vmid: u32, disk: &str, size: &str) -> Outcome<()> {
    let mut drive = drive_of(state, on, vmid, disk)?;
    if drive.is_cdrom() {
        return Err(Refusal::die("you can't resize a cdrom"));
    }
    let now = state.storages.volume(&drive.volume).map_or_else(|| drive.size(), |volume| volume.size);
    let (relative, text) = size.strip_prefix('+').map_or((false, size), |text| (true, text));
    let wanted = parse_size(text)
        .ok_or_else(|| Refusal::parameter("size", "value does not match the regex pattern"))?;
    let wanted = if relative { now + wanted } else { wanted };
    if wanted < now {
        return Err(Refusal::die("shrinking disks is not supported"));
    }
    state.storages.resize(&drive.volume, wanted);
    drive.options.insert("size".into(), print_size(wanted));
    state.guest_mut(on, vmid)?.config.insert(disk.into(), drive.print());
    state.changed(vmid);
    Ok(())
}

fn drive_of(state: &State, on: &str, vmid: u32, disk: &str) -> Outcome<Drive> {
    let guest = state.guest(on, vmid)?;
    if !is_drive_key(disk) {
        return Err(Refusal::parameter(
            "disk",
            format!("value '{disk}' does not have a value in the enumeration"),
        ));
    }
    let text = guest.get(disk).ok_or_else(|| Refusal::die(format!("disk '{disk}' does not exist")))?;
    Drive::parse(text).map_err(Refusal::die)
}

/// The task that moves a disk to another storage.
///
/// # Errors
/// `Datastore.AllocateSpace` on the target.
pub(crate) async fn move_disk(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    disk: &str,
    storage: &str,
    delete: bool,
) -> Outcome<String> {
    let path = format!("/storage/{storage}");
    if !node.state().access.may(caller, &path, None, "Datastore.AllocateSpace") {
        return Err(Refusal::forbidden(&path, "Datastore.AllocateSpace"));
    }
    let (shared, on, disk, storage) = (node.clone(), on.to_owned(), disk.to_owned(), storage.to_owned());
    Ok(spawn(node, caller, "qmmove", vmid, move |_| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        check_lock(shared.state().guest(&on, vmid)?)?;
        pause(shared.timing().disk).await;
        let mut state = shared.state();
        let mut drive = drive_of(&state, &on, vmid, &disk)?;
        if storage_of(&drive.volume) == storage {
            return Err(Refusal::die("you can't move to the same storage with same format"));
        }
        let (size, data) =
            state.storages.volume(&drive.volume).map_or((0, 0), |volume| (volume.size, volume.data));
        let old =
            std::mem::replace(&mut drive.volume, state.storages.allocate(&storage, vmid, size, data, "vm")?);
        state.guest_mut(&on, vmid)?.config.insert(disk, drive.print());
        if delete {
            state.storages.free(&old)?;
        } else {
            add_unused(state.guest_mut(&on, vmid)?, &old);
        }
        state.changed(vmid);
        Ok(())
    })
    .await)
}

/// A disk that was imported, and the key it stands under.
#[derive(Debug)]
pub(crate) struct Imported {
    pub key: String,
    pub volume: String,
    /// Bytes.
    pub size: u64,
}

/// Imports a file as a disk, in the calling process as `qm disk import` does.
///
/// # Errors
/// No regular file, no such guest, a storage that takes no disks.
pub(crate) async fn import(
    node: &Node,
    on: &str,
    vmid: u32,
    source: &Path,
    storage: &str,
    target: Option<&str>,
) -> Outcome<Imported> {
    node.state().guest(on, vmid)?;
    let file = std::fs::metadata(source)
        .ok()
        .filter(std::fs::Metadata::is_file)
        .ok_or_else(|| Refusal::die(format!("{}: non-existent or non-regular file", source.display())))?;
    let _lock = node.locks.exclusive(vmid, node.timing().lock_wait).await?;
    {
        let state = node.state();
        check_lock(state.guest(on, vmid)?)?;
        state.storages.for_images(storage)?;
    }
    pause(node.timing().disk).await;
    let mut state = node.state();
    let size = virtual_size(source).unwrap_or(file.len());
    let volume = state.storages.allocate(storage, vmid, size, file.len(), "vm")?;
    keep(node, source, &volume)?;
    let guest = state.guest_mut(on, vmid)?;
    let key = match target {
        Some(target) => {
            // Without its size: `qm list` shows none until the disk is resized, cloned or scanned.
            guest.config.insert(target.into(), volume.clone());
            target.to_owned()
        }
        None => add_unused(guest, &volume),
    };
    state.changed(vmid);
    Ok(Imported { key, volume, size })
}

/// Writes the sizes that the storages know into a guest's drives; tells what was changed.
pub(crate) fn rescan(state: &mut State, vmid: u32, dry_run: bool) -> String {
    let mut text = String::new();
    let drives = state.guests.get(&vmid).map(super::guest::Guest::drives).unwrap_or_default();
    for (key, mut drive) in drives.into_iter().filter(|(_, drive)| !drive.is_cdrom()) {
        let Some(size) = state.storages.volume(&drive.volume).map(|volume| volume.size) else { continue };
        if drive.size() == size {
            continue;
        }
        let before = drive.options.insert("size".into(), print_size(size));
        let before = before.unwrap_or_else(|| "0T".into());
        text.push_str(&format!(
            "VM {vmid} ({key}): size of disk '{}' updated from {before} to {}\n",
            drive.volume,
            print_size(size)
        ));
        if let Some(guest) = state.guests.get_mut(&vmid).filter(|_| !dry_run) {
            guest.config.insert(key, drive.print());
        }
    }
    state.changed(vmid);
    text
}

/// Keeps what was imported in the lab's folder `imported`, for tests that look into it.
fn keep(node: &Node, source: &Path, volume: &str) -> Outcome<()> {
    let folder = node.dir.join("imported");
    let name = folder.join(volume.replace([':', '/'], "-"));
    let keep = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        if name.exists() {
            std::fs::remove_file(&name)?;
        }
        // Without a copy where the file system is the same.
        std::fs::hard_link(source, &name).or_else(|_| std::fs::copy(source, &name).map(drop))
    };
    keep().map_err(|error| Refusal::die(format!("{}: {error}", source.display())))
}

/// The size a qcow2 image says it has; `None` for anything else.
fn virtual_size(path: &Path) -> Option<u64> {
    use std::io::Read;
    let mut head = [0u8; 32];
    std::fs::File::open(path).ok()?.read_exact(&mut head).ok()?;
    let size: [u8; 8] = head[24..32].try_into().ok()?;
    head.starts_with(b"QFI\xfb").then(|| u64::from_be_bytes(size))
}
