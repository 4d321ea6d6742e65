//! Changing a guest's configuration: check everything, then apply; what a running guest cannot take waits as pending.

use super::access::Caller;
use super::config_options::{check, is_live, known, privilege};
use super::drive::{COLD_DRIVE_KEYS, Drive, Nic, is_drive_key, numbered, print_size};
use super::guest::Guest;
use super::hook;
use super::power::check_lock;
use super::refusal::{Outcome, Refusal};
use super::storage::storage_of;
use super::{Node, Shared, State, pause};

/// What is to be changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub set: Vec<(String, String)>,
    pub delete: Vec<String>,
    /// Changes that wait and are to be forgotten.
    pub revert: Vec<String>,
    /// Refuse if the configuration has another digest by now.
    pub digest: Option<String>,
    /// `--skiplock`, root@pam only.
    pub skip_lock: bool,
}

impl Change {
    /// Checks forms and privileges; values come out as stored.
    ///
    /// # Errors
    /// 400 for a key or a value, 403 for a privilege; nothing is applied then.
    pub fn checked(mut self, node: &Node, caller: &Caller, vmid: u32) -> Outcome<Self> {
        for key in &self.delete {
            if !known(key) {
                return Err(Refusal::parameter("delete", format!("unknown option '{key}'")));
            }
            if self.set.iter().any(|(set, _)| set == key) {
                return Err(Refusal::parameter(
                    "delete",
                    format!("you can't use '-{key}' and -delete {key}' at the same time"),
                ));
            }
        }
        for key in &self.revert {
            if !known(key) {
                return Err(Refusal::parameter("revert", format!("unknown option '{key}'")));
            }
            if self.set.iter().any(|(set, _)| set == key) {
                return Err(Refusal::parameter(
                    "revert",
                    format!("you can't use '-{key}' and '-revert {key}' at the same time"),
                ));
            }
        }
        for (key, value) in &mut self.set {
            if !known(key) {
                return Err(Refusal::parameter(
                    key,
                    "property is not defined in schema and the schema does not allow additional properties",
                ));
            }
            *value = check(key, value).map_err(|why| Refusal::parameter(key, why))?;
        }
        if *caller != Caller::Root {
            self.check_privileges(&node.state(), caller, vmid)?;
        }
        Ok(self)
    }

    fn check_privileges(&self, state: &State, caller: &Caller, vmid: u32) -> Outcome<()> {
        let pool = state.pool_of(vmid);
        let path = format!("/vms/{vmid}");
        if self.skip_lock {
            return Err(Refusal::parameter("skiplock", "Only root may use this option."));
        }
        let current = state.guests.get(&vmid).map(|guest| &guest.config);
        let deleted = self.delete.iter().map(|key| {
            let value = current.and_then(|config| config.get(key)).map_or("", String::as_str);
            (key.as_str(), value)
        });
        for (key, value) in self.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).chain(deleted)
        {
            let needed = privilege(key, value)
                .ok_or_else(|| Refusal::die(format!("only root can set '{key}' config")))?;
            if !state.access.may(caller, &path, pool.as_deref(), needed) {
                return Err(Refusal::forbidden(&path, needed));
            }
        }
        for (key, value) in &self.set {
            if let Some(storage) = allocates(key, value) {
                let path = format!("/storage/{storage}");
                if !state.access.may(caller, &path, None, "Datastore.AllocateSpace") {
                    return Err(Refusal::forbidden(&path, "Datastore.AllocateSpace"));
                }
            }
            if numbered(key, "net", 32)
                && let Ok(nic) = Nic::parse(value)
                && let Some(bridge) = nic.bridge()
            {
                check_bridge(state, caller, bridge)?;
            }
        }
        Ok(())
    }
}

/// `SDN.Use` on the bridge.
pub(crate) fn check_bridge(state: &State, caller: &Caller, bridge: &str) -> Outcome<()> {
    let path = format!("/sdn/zones/localnetwork/{bridge}");
    if state.access.may(caller, &path, None, "SDN.Use") {
        return Ok(());
    }
    Err(Refusal::forbidden(&path, "SDN.Use"))
}

/// The storage on which a drive value makes a new volume.
fn allocates(key: &str, value: &str) -> Option<String> {
    if !is_drive_key(key) {
        return None;
    }
    let drive = Drive::parse(value).ok()?;
    let (storage, rest) = drive.volume.split_once(':')?;
    (rest == "cloudinit" || rest.parse::<f64>().is_ok()).then(|| storage.to_owned())
}

/// The whole change, under the guest's file lock. Gives the warnings.
///
/// # Errors
/// Anything of [`Change::checked`], the lock, the configuration's lock, a volume that is not there.
pub(crate) async fn change(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    change: Change,
) -> Outcome<Vec<String>> {
    let change = change.checked(node, caller, vmid)?;
    node.state().guest(on, vmid)?;
    if let Some((_, volid)) = change.set.iter().find(|(key, _)| key == "hookscript") {
        hook::script(&node.state(), volid).map_err(|why| Refusal::parameter("hookscript", why))?;
    }
    let _lock = node.locks.exclusive(vmid, node.timing().lock_wait).await?;
    pause(node.timing().config).await;
    let mut state = node.state();
    apply(&mut state, on, vmid, &change)
}

fn apply(state: &mut State, on: &str, vmid: u32, change: &Change) -> Outcome<Vec<String>> {
    let guest = state.guest(on, vmid)?;
    if change.digest.as_ref().is_some_and(|digest| *digest != guest.digest()) {
        return Err(Refusal::die("detected modified configuration - file changed by other user? Try again."));
    }
    if !change.skip_lock {
        check_lock(guest)?;
    }
    let pending = &mut state.guest_mut(on, vmid)?.pending;
    pending.retain(|key, _| !change.revert.contains(key));
    let mut warnings = Vec::new();
    // Key after key: what was done before one fails stays.
    let mut result = Ok(());
    for key in &change.delete {
        let guest = state.guest_mut(on, vmid)?;
        if !guest.config.contains_key(key) && !guest.pending.contains_key(key) {
            warnings.push(format!("cannot delete '{key}' - not set in current configuration!"));
            continue;
        }
        result = delete_key(state, on, vmid, key);
        if result.is_err() {
            break;
        }
    }
    for (key, value) in &change.set {
        if result.is_err() {
            break;
        }
        result = set_key(state, on, vmid, key, value);
    }
    state.changed(vmid);
    result.map(|()| warnings)
}

/// Applies the options of a guest that is being made.
///
/// # Errors
/// A volume that cannot be made.
pub(crate) fn apply_new(state: &mut State, on: &str, vmid: u32, change: &Change) -> Outcome<()> {
    for (key, value) in &change.set {
        set_key(state, on, vmid, key, value)?;
    }
    state.changed(vmid);
    Ok(())
}

/// Applies what waited for a start.
pub(crate) fn apply_pending(state: &mut State, on: &str, vmid: u32) -> Outcome<()> {
    let pending = std::mem::take(&mut state.guest_mut(on, vmid)?.pending);
    for (key, value) in pending {
        match value {
            Some(value) => {
                state.guest_mut(on, vmid)?.config.insert(key, value);
            }
            None => remove_key(state, on, vmid, &key)?,
        }
    }
    state.changed(vmid);
    Ok(())
}

fn delete_key(state: &mut State, on: &str, vmid: u32, key: &str) -> Outcome<()> {
    let guest = state.guest_mut(on, vmid)?;
    guest.pending.remove(key);
    if !guest.config.contains_key(key) {
        return Ok(());
    }
    let pluggable = numbered(key, "scsi", 31) || numbered(key, "virtio", 16) || numbered(key, "unused", 256);
    if guest.run.is_none() || is_live(key) || pluggable {
        return remove_key(state, on, vmid, key);
    }
    if numbered(key, "net", 32) {
        remove_key(state, on, vmid, key)?;
        let number = key[3..].parse().unwrap_or_default();
        let State { network, files, .. } = state;
        network.unplug_one(files, vmid, number);
        return Ok(());
    }
    guest.pending.insert(key.into(), None);
    Ok(())
}

/// Takes a key out of the configuration: the cloud-init drive and unused disks are freed, other disks become unused.
fn remove_key(state: &mut State, on: &str, vmid: u32, key: &str) -> Outcome<()> {
    let Some(value) = state.guest_mut(on, vmid)?.config.remove(key) else {
        return Ok(());
    };
    if numbered(key, "unused", 256) {
        return state.storages.free(&value);
    }
    if is_drive_key(key) {
        release(state, on, vmid, &value)?;
    }
    Ok(())
}

fn release(state: &mut State, on: &str, vmid: u32, value: &str) -> Outcome<()> {
    let Ok(drive) = Drive::parse(value) else {
        return Ok(());
    };
    if drive.is_cloudinit() {
        // A cloud-init drive whose volume is gone already is no reason to fail.
        if state.storages.volume(&drive.volume).is_some() {
            state.storages.free(&drive.volume)?;
        }
    } else if !drive.is_cdrom() && drive.volume != "none" {
        add_unused(state.guest_mut(on, vmid)?, &drive.volume);
    }
    Ok(())
}

/// Notes a volume that no drive uses under the lowest free `unusedN`.
pub(crate) fn add_unused(guest: &mut Guest, volume: &str) -> String {
    let key = (0..256)
        .map(|number| format!("unused{number}"))
        .find(|key| !guest.config.contains_key(key))
        .unwrap_or_else(|| "unused255".into());
    guest.config.insert(key.clone(), volume.into());
    key
}

fn set_key(state: &mut State, on: &str, vmid: u32, key: &str, value: &str) -> Outcome<()> {
    if is_drive_key(key) {
        return set_drive(state, on, vmid, key, value);
    }
    if numbered(key, "net", 32) {
        return set_nic(state, on, vmid, key, value);
    }
    let guest = state.guest_mut(on, vmid)?;
    let value = if key == "description" { with_line_end(value) } else { value.to_owned() };
    if guest.run.is_none() || is_live(key) {
        guest.pending.remove(key);
        guest.config.insert(key.into(), value);
    } else if guest.config.get(key) == Some(&value) {
        guest.pending.remove(key);
    } else {
        guest.pending.insert(key.into(), Some(value));
    }
    Ok(())
}

/// Descriptions come back from Proxmox with a line end.
pub(crate) fn with_line_end(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

fn set_nic(state: &mut State, on: &str, vmid: u32, key: &str, value: &str) -> Outcome<()> {
    let mut nic = Nic::parse(value).map_err(|why| Refusal::parameter(key, why))?;
    if nic.mac.is_empty() {
        // Not repeating the MAC gives the guest a new card.
        nic.mac = state.next_mac();
    }
    let number: u32 = key[3..].parse().unwrap_or_default();
    let guest = state.guest_mut(on, vmid)?;
    let before = guest.get(key).and_then(|text| Nic::parse(text).ok());
    guest.config.insert(key.into(), nic.print());
    if guest.run.is_none() {
        return Ok(());
    }
    let mut same_but_rate = before.clone();
    if let Some(before) = &mut same_but_rate {
        before.options.remove("rate");
        if let Some(rate) = nic.options.get("rate") {
            before.options.insert("rate".into(), rate.clone());
        }
    }
    let State { network, files, .. } = state;
    if same_but_rate.as_ref() == Some(&nic) {
        if before.as_ref() != Some(&nic) {
            network.limit_rate(vmid, number, &nic);
        }
    } else {
        network.plug_one(files, vmid, number, &nic);
    }
    Ok(())
}

fn set_drive(state: &mut State, on: &str, vmid: u32, key: &str, value: &str) -> Outcome<()> {
    let mut drive = Drive::parse(value).map_err(|why| Refusal::parameter(key, why))?;
    let before = state.guest(on, vmid)?.get(key).and_then(|text| Drive::parse(text).ok());
    let known = before.as_ref().is_some_and(|before| before.volume == drive.volume);
    fill(state, vmid, &mut drive, known)?;
    let guest = state.guest_mut(on, vmid)?;
    // A volume that a drive uses is not unused any more.
    guest.config.retain(|key, value| !numbered(key, "unused", 256) || *value != drive.volume);
    match before {
        Some(before) if before.volume == drive.volume => {
            let cold = COLD_DRIVE_KEYS.iter().any(|key| before.options.get(*key) != drive.options.get(*key));
            if guest.run.is_some() && cold {
                guest.pending.insert(key.into(), Some(drive.print()));
                return Ok(());
            }
            guest.pending.remove(key);
            guest.config.insert(key.into(), drive.print());
        }
        Some(before) => {
            guest.config.insert(key.into(), drive.print());
            release(state, on, vmid, &before.print())?;
        }
        None => {
            guest.config.insert(key.into(), drive.print());
        }
    }
    Ok(())
}

/// Makes the volume a drive value asks for and writes its real size in; for a volume that is there but was no drive yet, a
/// size that is not whole in MiB stays in bytes. `known`: the drive had this volume before.
fn fill(state: &mut State, vmid: u32, drive: &mut Drive, known: bool) -> Outcome<()> {
    if drive.volume == "none" || drive.volume.contains(":iso/") {
        drive.options.insert("media".into(), "cdrom".into());
        return Ok(());
    }
    let (storage, rest) = drive
        .volume
        .split_once(':')
        .map(|(storage, rest)| (storage.to_owned(), rest.to_owned()))
        .ok_or_else(|| Refusal::die(format!("unable to parse volume ID '{}'", drive.volume)))?;
    state.storages.get(&storage)?;
    if rest == "cloudinit" {
        drive.volume = state.storages.allocate_cloudinit(&storage, vmid)?;
        drive.options.insert("media".into(), "cdrom".into());
    } else if let Ok(gib) = rest.parse::<f64>() {
        let (size, data) = match drive.options.remove("import-from") {
            Some(source) => std::fs::metadata(&source)
                .map(|data| (data.len(), data.len()))
                .map_err(|_| Refusal::die(format!("import-from: volume '{source}' does not exist")))?,
            None => ((gib * f64::from(1u32 << 30)) as u64, 0),
        };
        drive.volume = state.storages.allocate(&storage, vmid, size, data, "vm")?;
        drive.options.insert("size".into(), print_size(size));
    } else {
        let volume = state
            .storages
            .volume(&drive.volume)
            .ok_or_else(|| Refusal::die(format!("volume '{}' does not exist", drive.volume)))?;
        if volume.vmid != vmid && storage_of(&drive.volume) != "none" {
            return Err(Refusal::die(format!("volume '{}' is owned by VM {}", drive.volume, volume.vmid)));
        }
        if !drive.is_cloudinit() {
            let whole = volume.size.is_multiple_of(1 << 20);
            let size = if known || whole { print_size(volume.size) } else { volume.size.to_string() };
            drive.options.insert("size".into(), size);
        }
    }
    Ok(())
}
