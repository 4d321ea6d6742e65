//! Storages and the volumes on them. A volume lives until it is freed, whether or not a configuration names it: that
//! is how a leaked disk shows.

use std::collections::BTreeMap;

use super::refusal::{Outcome, Refusal};
use crate::model::Volume;

/// A storage's definition.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub kind: &'static str,
    /// Content types it takes.
    pub content: Vec<&'static str>,
    /// Folder, for storages of files.
    pub path: Option<String>,
    /// Bytes.
    pub total: u64,
    pub enabled: bool,
}

/// All storages of the node.
#[derive(Debug)]
pub(crate) struct Storages {
    pub storages: BTreeMap<String, Storage>,
    volumes: BTreeMap<String, Volume>,
    /// Bytes written, by storage: thin volumes take what they hold, not what they could.
    in_use: BTreeMap<String, u64>,
    /// Volumes that cannot be freed (a test's choice): destroy then only warns.
    pub stuck: Vec<String>,
}

const GIB: u64 = 1 << 30;

impl Storages {
    /// `local` (a folder for snippets, images to install from and templates) and `local-lvm` (LVM-thin for disks).
    pub fn new(path: &str) -> Self {
        let storages = BTreeMap::from([
            (
                "local".to_owned(),
                Storage {
                    kind: "dir",
                    content: vec!["snippets", "iso", "vztmpl"],
                    path: Some(path.into()),
                    total: 100 * GIB,
                    enabled: true,
                },
            ),
            (
                "local-lvm".to_owned(),
                Storage {
                    kind: "lvmthin",
                    content: vec!["images", "rootdir"],
                    path: None,
                    total: 4096 * GIB,
                    enabled: true,
                },
            ),
        ]);
        Self { storages, volumes: BTreeMap::new(), in_use: BTreeMap::new(), stuck: Vec::new() }
    }

    /// The storage of that name.
    ///
    /// # Errors
    /// Proxmox' wording for an unknown one.
    pub fn get(&self, name: &str) -> Outcome<&Storage> {
        self.storages.get(name).ok_or_else(|| Refusal::die(format!("storage '{name}' does not exist")))
    }

    /// The storage, which must take disks.
    pub fn for_images(&self, name: &str) -> Outcome<&Storage> {
        let storage = self.get(name)?;
        if !storage.enabled {
            return Err(Refusal::die(format!("storage '{name}' is disabled")));
        }
        if !storage.content.contains(&"images") {
            return Err(Refusal::die(format!("storage '{name}' does not support content-type 'images'")));
        }
        Ok(storage)
    }

    pub fn volume(&self, volid: &str) -> Option<&Volume> {
        self.volumes.get(volid)
    }

    pub fn volumes(&self) -> &BTreeMap<String, Volume> {
        &self.volumes
    }

    /// Bytes in use on a storage.
    pub fn used(&self, name: &str) -> u64 {
        self.in_use.get(name).copied().unwrap_or(0)
    }

    /// The volumes of a storage.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Volume> {
        self.volumes.values().filter(move |volume| storage_of(&volume.volid) == name)
    }

    /// Volumes that carry a VMID, on any enabled storage.
    pub fn of_guest(&self, vmid: u32) -> Vec<String> {
        self.volumes
            .values()
            .filter(|volume| volume.vmid == vmid)
            .map(|volume| volume.volid.clone())
            .collect()
    }

    /// A pool of ZFS for disks, beside the others: there a linked clone's volume names its base.
    pub fn add_zfs(&mut self, name: &str) {
        let (content, total) = (vec!["images", "rootdir"], 4096 * GIB);
        let storage = Storage { kind: "zfspool", content, path: None, total, enabled: true };
        self.storages.insert(name.into(), storage);
    }

    /// Whether linked clones of a volume can be told by their names.
    pub fn names_links(&self, volid: &str) -> bool {
        self.storages.get(storage_of(volid)).is_some_and(|storage| storage.kind == "zfspool")
    }

    /// Linked clones of a base volume.
    pub fn linked_to(&self, base: &str) -> Vec<String> {
        let prefix = format!("{base}/");
        self.volumes.keys().filter(|volid| volid.starts_with(&prefix)).cloned().collect()
    }

    /// Makes a linked clone of a base volume: it takes no room of its own. Where the storage has names for that, it is
    /// called after its base, too.
    ///
    /// # Errors
    /// As [`Storages::allocate`].
    pub fn allocate_linked(&mut self, base: &str, vmid: u32, size: u64) -> Outcome<String> {
        let made = self.allocate(storage_of(base), vmid, size, 0, "vm")?;
        if !self.names_links(base) {
            return Ok(made);
        }
        let own = made.split_once(':').map_or(made.as_str(), |(_, own)| own).to_owned();
        let linked = format!("{base}/{own}");
        self.rename(&made, &linked);
        Ok(linked)
    }

    /// Makes a disk of `size` bytes, `data` of them written, with the lowest free number.
    ///
    /// # Errors
    /// The storage does not take disks or is full.
    pub fn allocate(
        &mut self,
        storage: &str,
        vmid: u32,
        size: u64,
        data: u64,
        prefix: &str,
    ) -> Outcome<String> {
        let number = (0..)
            .find(|number| {
                !self.volumes.contains_key(&volid(storage, &format!("vm-{vmid}-disk-{number}")))
                    && !self.volumes.contains_key(&volid(storage, &format!("base-{vmid}-disk-{number}")))
            })
            .unwrap_or_default();
        self.insert(storage, vmid, (size, data), &format!("{prefix}-{vmid}-disk-{number}"))
    }

    /// Makes the cloud-init drive; its name is fixed, so a left-over of another life is in the way.
    ///
    /// # Errors
    /// It exists already, or the storage does not take disks.
    pub fn allocate_cloudinit(&mut self, storage: &str, vmid: u32) -> Outcome<String> {
        let name = format!("vm-{vmid}-cloudinit");
        if self.volumes.contains_key(&volid(storage, &name)) {
            return Err(Refusal::die(format!(
                "lvcreate 'pve/{name}' error:   Logical Volume \"{name}\" already exists in volume group \"pve\""
            )));
        }
        self.insert(storage, vmid, (4 << 20, 4 << 20), &name)
    }

    fn insert(&mut self, storage: &str, vmid: u32, (size, data): (u64, u64), name: &str) -> Outcome<String> {
        let total = self.for_images(storage)?.total;
        if self.used(storage) + data > total {
            return Err(Refusal::die(format!(
                "lvcreate 'pve/{name}' error:   Cannot create new thin volume, free space in thin pool pve/data reached threshold."
            )));
        }
        let volid = volid(storage, name);
        *self.in_use.entry(storage.into()).or_default() += data;
        let volume = Volume { volid: volid.clone(), vmid, size, data, format: "raw".into() };
        self.volumes.insert(volid.clone(), volume);
        Ok(volid)
    }

    /// Frees a volume.
    ///
    /// # Errors
    /// It does not exist or is stuck.
    pub fn free(&mut self, volid: &str) -> Outcome<()> {
        if self.stuck.iter().any(|stuck| stuck == volid) {
            let name = volid.split_once(':').map_or(volid, |(_, name)| name);
            return Err(Refusal::die(format!(
                "lvremove 'pve/{name}' error:   Logical volume pve/{name} in use."
            )));
        }
        let volume = self
            .volumes
            .remove(volid)
            .ok_or_else(|| Refusal::die(format!("volume '{volid}' does not exist")))?;
        if let Some(used) = self.in_use.get_mut(storage_of(volid)) {
            *used = used.saturating_sub(volume.data);
        }
        Ok(())
    }

    /// Grows a volume.
    pub fn resize(&mut self, volid: &str, size: u64) {
        if let Some(volume) = self.volumes.get_mut(volid) {
            volume.size = size;
        }
    }

    /// Gives a volume another name on the same storage (`vm-…` to `base-…`).
    pub fn rename(&mut self, old: &str, new: &str) {
        if let Some(mut volume) = self.volumes.remove(old) {
            volume.volid = new.into();
            self.volumes.insert(new.into(), volume);
        }
    }
}

/// `storage:name`.
fn volid(storage: &str, name: &str) -> String {
    format!("{storage}:{name}")
}

/// The part before the colon.
pub(crate) fn storage_of(volid: &str) -> &str {
    volid.split_once(':').map_or(volid, |(storage, _)| storage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_holes_and_leaks_stay() {
        let mut storages = Storages::new("/x");
        let first = storages.allocate("local-lvm", 100, 1, 1, "vm").unwrap();
        let second = storages.allocate("local-lvm", 100, 1, 1, "vm").unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("local-lvm:vm-100-disk-0", "local-lvm:vm-100-disk-1"));
        storages.free(&first).unwrap();
        assert_eq!(storages.allocate("local-lvm", 100, 1, 1, "vm").unwrap(), first);
        assert_eq!(storages.of_guest(100).len(), 2);
        assert!(storages.free("local-lvm:vm-9-disk-0").unwrap_err().message.contains("does not exist"));
    }

    #[test]
    fn a_full_or_wrong_storage_refuses() {
        let mut storages = Storages::new("/x");
        assert!(
            storages.allocate("local", 1, 1, 1, "vm").unwrap_err().message.contains("content-type 'images'")
        );
        assert!(
            storages.allocate("nope", 1, 1, 1, "vm").unwrap_err().message.contains("'nope' does not exist")
        );
        assert!(
            storages
                .allocate("local-lvm", 1, 1, 4097 * GIB, "vm")
                .unwrap_err()
                .message
                .contains("free space")
        );
    }
}
