//! What lies about without a VM that it belongs to, and operations that died: each thing on node and host is somebody's,
//! or it is named here.
//!
//! The kill sweep's judge knows the same from the outside; a test compares the two after each kill
//! (`crates/commands/tests/crash/doctor_agrees.rs`). A dead operation has one finding that names all that it has left,
//! because one command mends all of it.

use super::kinds::*;
use super::{Finding, Fix};
use crate::value::host_inventory::{Inventory, LooseVolume};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use uuid::Uuid;

/// How far an operation had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A create whose VM is not registered.
    Creating,
    /// A create whose VM is registered, and whose result nobody has read.
    Registered,
    /// A destroy.
    Destroying,
}

/// An entry of the journal.
#[derive(Debug, Clone)]
pub struct Work {
    /// Its VM.
    pub name: String,
    /// How far it had come.
    pub stage: Stage,
    /// The VMID it has taken.
    pub vmid: u32,
    /// The identity of its VM.
    pub uuid: Option<Uuid>,
    /// The addresses it has taken.
    pub addresses: Vec<IpAddr>,
    /// Who works on the VM, while somebody does.
    pub holder: Option<String>,
    /// The operation in words: `a create of this name started 12 min ago and died …`.
    pub words: String,
}

impl Work {
    /// Whether what is wrong with its VM is the operation's: all but a create that ended except for its result.
    pub fn is_judged_as_a_whole(&self) -> bool {
        self.holder.is_some() || self.stage != Stage::Registered
    }
}

/// A VM's terraform directory.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The VM, by the directory's name.
    pub name: String,
    /// Returns its path.
    pub path: String,
    /// The VM that its file describes.
    pub machine: Option<(u32, Uuid)>,
    /// The addresses that its file gives.
    pub addresses: Vec<IpAddr>,
    /// The kinds of cloud-init snippets that its file names.
    pub snippets: Vec<String>,
}

/// A VM of the cluster that carries our mark.
#[derive(Debug, Clone)]
pub struct Marked {
    /// Its VMID.
    pub vmid: u32,
    /// The name it was created with.
    pub name: String,
    /// The identity it was created with.
    pub uuid: Uuid,
}

/// A record as far as it holds something.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Destroyed: it holds nothing, and explains what was its VM's.
    pub is_destroyed: bool,
    /// Its VMID.
    pub vmid: u32,
    /// Its identity.
    pub uuid: Option<Uuid>,
    /// Its IPv4 and IPv6 addresses.
    pub addresses: Vec<IpAddr>,
}

/// Everything there is. What is `None` could not be asked, and nothing is concluded from it.
#[derive(Debug, Default)]
pub struct Everything {
    /// All records by name; one that cannot be read holds its name.
    pub records: HashMap<String, Holder>,
    /// The database cannot be read: what belongs to nobody is not known.
    pub is_blind: bool,
    /// The journal.
    pub works: Vec<Work>,
    /// Terraform directories of VMs.
    pub directories: Vec<Directory>,
    /// Directories of temporary files of terraform, and the VMs they are for.
    pub temporary: Vec<(String, String)>,
    /// The VMIDs of our range that are in use in the cluster, whosever they are.
    pub vmids: Option<HashSet<u32>>,
    /// VMs of the cluster that are ours by their mark.
    pub marked: Vec<Marked>,
    /// Root's own files.
    pub inventory: Option<Inventory>,
    /// Disks of nobody.
    pub volumes: Option<Vec<LooseVolume>>,
    /// Disks that a destroy of ours could not free, by its own note.
    pub noted_volumes: HashSet<String>,
    /// Host routes to single addresses of the guests' prefix by way of the bridge.
    pub routes: Vec<(Ipv6Addr, String)>,
    /// The addresses that the database's lists hold, with the list's key.
    pub listed: Vec<(&'static str, IpAddr)>,
    /// VMIDs that are watched for a clone that arrives late, and its identity.
    pub late: Vec<(u32, Uuid)>,
    /// The database's path, for messages.
    pub database: String,
}

/// What lies about.
pub fn findings(all: &Everything) -> Vec<Finding> {
    let index = Index::of(all);
    let mut found: Vec<Finding> = all.works.iter().map(|work| index.work(work)).collect();
    if all.is_blind {
        return found;
    }
    for directory in all.directories.iter().filter(|directory| index.is_nobodys(&directory.name)) {
        found.push(index.directory(directory));
    }
    found.extend(all.marked.iter().filter_map(|marked| index.marked(marked)));
    found.extend(index.files_of_root());
    found.extend(index.volumes());
    for (address, device) in &all.routes {
        if !index.holders.contains(&IpAddr::from(*address)) {
            let what = format!("a host route leads to {address}, which no VM has");
            let mend = format!("ip -6 route del {address} dev {device}");
            let left = vec![format!("route {address}")];
            found.push(Finding::new(&ROUTE_LEFTOVER, format!("device {device}"), what, mend).with(left));
        }
    }
    for (list, address) in &all.listed {
        if !index.holders.contains(address) {
            let what = format!("{list} holds {address}, which no VM has");
            let mend = format!("remove {address} from {list}, under the lock: flock {}.lock …", all.database);
            let left = vec![format!("address {address}")];
            found.push(Finding::new(&ADDRESS_LEFTOVER, &all.database, what, mend).with(left));
        }
    }
    found
}

struct Index<'a> {
    all: &'a Everything,
    works: HashMap<&'a str, &'a Work>,
    directories: HashMap<&'a str, &'a Directory>,
    marked: HashMap<Uuid, &'a Marked>,
    /// The addresses of live records, dead operations and directories: each is explained by its holder.
    holders: HashSet<IpAddr>,
    snippets: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Index<'a> {
    fn of(all: &'a Everything) -> Index<'a> {
        let mut holders: HashSet<IpAddr> = HashSet::with_capacity(all.records.len() * 2);
        holders.extend(all.records.values().filter(|r| !r.is_destroyed).flat_map(|r| &r.addresses));
        holders.extend(all.works.iter().flat_map(|work| &work.addresses));
        let is_dead = |name: &str| all.records.get(name).is_some_and(|r| r.is_destroyed);
        // A directory that a destroy has left holds nothing: its record says that the VM is gone.
        holders.extend(all.directories.iter().filter(|d| !is_dead(&d.name)).flat_map(|d| &d.addresses));
        let mut snippets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, kind) in all.inventory.iter().flat_map(|inventory| &inventory.snippets) {
            snippets.entry(name).or_default().push(kind);
        }
        Index {
            all,
            works: all.works.iter().map(|work| (work.name.as_str(), work)).collect(),
            directories: all.directories.iter().map(|d| (d.name.as_str(), d)).collect(),
            marked: all.marked.iter().map(|marked| (marked.uuid, marked)).collect(),
            holders,
            snippets,
        }
    }

    fn is_live(&self, name: &str) -> bool {
        self.all.records.get(name).is_some_and(|record| !record.is_destroyed)
    }

    /// Neither a live record nor the journal knows this name.
    fn is_nobodys(&self, name: &str) -> bool {
        !self.is_live(name) && !self.works.contains_key(name)
    }

    /// What is left of a VM's files: its directory, its snippets.
    fn files(&self, name: &str) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(self.directories.get(name).map(|directory| format!("directory {}", directory.path)));
        let temporary = self.all.temporary.iter().filter(|(vm, _)| vm == name);
        left.extend(temporary.map(|(_, path)| format!("directory {path}")));
        for kind in self.snippets.get(name).into_iter().flatten() {
            left.push(format!("snippet blockhost-{name}-{kind}.yaml"));
        }
        left
    }

    fn work(&self, work: &Work) -> Finding {
        let (name, vmid) = (&work.name, work.vmid);
        let place = format!("VM {name} (VMID {vmid})");
        let finding = |kind, mend: String| Finding::new(kind, &place, &work.words, mend).of(name);
        if let Some(holder) = &work.holder {
            let mend = format!("nothing; if it never ends, look at it: {holder}");
            return finding(&OPERATION_RUNNING, mend);
        }
        let mut left = vec![format!("journal {name}")];
        if work.stage == Stage::Registered && self.is_live(name) {
            let mend = format!("run the engine's create of {name} again; its result is printed then");
            return finding(&CREATE_UNREPORTED, mend).with(left);
        }
        if self.is_live(name) {
            left.push(format!("record {name}"));
        }
        let is_there = self.all.vmids.as_ref().is_some_and(|vmids| vmids.contains(&vmid));
        let of_another = self.all.marked.iter().any(|m| m.vmid == vmid && Some(m.uuid) != work.uuid);
        if is_there && !of_another {
            left.push(format!("vm {vmid}"));
        } else {
            let volumes = self.all.volumes.iter().flatten().filter(|volume| volume.vmid == vmid);
            left.extend(volumes.map(|volume| format!("volume {}", volume.volid)));
        }
        left.extend(self.files(name));
        for (_, address) in self.all.listed.iter().filter(|(_, a)| work.addresses.contains(a)) {
            left.push(format!("address {address}"));
        }
        let guards = self.all.inventory.iter().flat_map(|inventory| &inventory.guards);
        left.extend(guards.filter(|(other, _)| *other == vmid).map(|_| format!("guard {vmid}")));
        let routes = self.all.routes.iter().filter(|(a, _)| work.addresses.contains(&IpAddr::from(*a)));
        left.extend(routes.map(|(address, _)| format!("route {address}")));
        match work.stage {
            Stage::Creating => finding(
                &CREATE_UNFINISHED,
                format!("roll it back: blockhost-vm-destroy {name}; or create it again"),
            ),
            Stage::Registered => {
                finding(&CREATE_UNREPORTED, format!("blockhost-vm-create {name} …, as before"))
            }
            Stage::Destroying => finding(&DESTROY_UNFINISHED, format!("blockhost-vm-destroy {name}")),
        }
        .with(left)
    }

    /// A directory of no live VM.
    fn directory(&self, directory: &Directory) -> Finding {
        let name = &directory.name;
        let there = directory.machine.filter(|(_, uuid)| self.marked.contains_key(uuid));
        let own = self.all.records.get(name);
        let is_its_tombstone = |uuid: Uuid| own.is_some_and(|r| r.is_destroyed && r.uuid == Some(uuid));
        if let Some((vmid, uuid)) = there
            && !is_its_tombstone(uuid)
        {
            let what = format!("the node has VM {name}, but {} has no record of it", self.all.database);
            let mend = "blockhost-provisioner-doctor --fix, or the next create, destroy or gc";
            return Finding::new(&RECORD_LOST, format!("VM {name} (VMID {vmid})"), what, mend)
                .of(name)
                .mended_by(Fix::RestoreRecord(name.clone()));
        }
        let what = "no VM has this Terraform directory";
        let mut left = self.files(name);
        let listed = self.all.listed.iter().filter(|(_, address)| directory.addresses.contains(address));
        left.extend(listed.map(|(_, address)| format!("address {address}")));
        let mend = format!("blockhost-vm-destroy {name}");
        Finding::new(&TERRAFORM_DIRECTORY_LEFTOVER, &directory.path, what, mend).of(name).with(left)
    }

    /// A VM with our mark of which no live record knows.
    fn marked(&self, marked: &Marked) -> Option<Finding> {
        let (name, vmid) = (&marked.name, marked.vmid);
        let known = self.all.records.get(name).filter(|r| r.uuid == Some(marked.uuid) || r.uuid.is_none());
        if known.is_some_and(|record| !record.is_destroyed)
            || self.works.get(name.as_str()).is_some_and(|w| w.uuid.is_none_or(|uuid| uuid == marked.uuid))
        {
            return None;
        }
        let place = format!("VM {name} (VMID {vmid})");
        let left = vec![format!("vm {vmid}")];
        if known.is_some_and(|record| record.uuid.is_some()) {
            let what = "its record says destroyed, but the node has it";
            let mend = format!("if nobody needs it: qm stop {vmid} && qm destroy {vmid} --purge 1");
            return Some(Finding::new(&VM_DESTROYED_BUT_THERE, place, what, mend).of(name).with(left));
        }
        if self.all.late.iter().any(|(_, uuid)| *uuid == marked.uuid) {
            let what = "a clone arrived after its create had been rolled back";
            let mend = "the next create, destroy or gc removes it: blockhost-vm-gc --execute";
            return Some(Finding::new(&CLONE_ARRIVED_LATE, place, what, mend).of(name).with(left));
        }
        let described = self.directories.get(name.as_str()).and_then(|directory| directory.machine);
        if described.is_some_and(|(_, uuid)| uuid == marked.uuid) && self.is_nobodys(name) {
            // Said of its directory.
            return None;
        }
        let what = format!("the node has it with our mark, but {} has no record of it", self.all.database);
        let mend = format!(
            "restore the record from a backup of {}, or if nobody needs the VM: qm stop {vmid} && qm destroy {vmid} \
             --purge 1",
            self.all.database
        );
        Some(Finding::new(&VM_WITHOUT_RECORD, place, what, mend).of(name).with(left))
    }

    /// Snippets and guard files of VMs that are gone, and snippets that a VM of ours lacks.
    fn files_of_root(&self) -> Vec<Finding> {
        let Some(inventory) = &self.all.inventory else { return Vec::new() };
        let folder = &inventory.folder;
        let mut found = Vec::new();
        let is_marked: HashSet<&str> = self.all.marked.iter().map(|marked| marked.name.as_str()).collect();
        for (name, kinds) in &self.snippets {
            let is_of_directory = self.directories.contains_key(name);
            if !self.is_nobodys(name)
                || is_of_directory
                || is_marked.contains(name)
                || self.all.vmids.is_none()
            {
                continue;
            }
            let files: Vec<String> =
                kinds.iter().map(|kind| format!("blockhost-{name}-{kind}.yaml")).collect();
            let paths: Vec<String> = files.iter().map(|file| format!("{folder}/{file}")).collect();
            let mend = format!(
                "as root, if no guest names them (grep -l blockhost-{name}- /etc/pve/nodes/*/qemu-server/*.conf): rm {}",
                paths.join(" ")
            );
            let left = files.iter().map(|file| format!("snippet {file}")).collect();
            let what = format!("cloud-init snippets of VM {name}, which is gone: {}", files.join(", "));
            found.push(Finding::new(&SNIPPET_LEFTOVER, folder, what, mend).of(name).with(left));
        }
        for directory in &self.all.directories {
            let name = directory.name.as_str();
            let Some(record) = self.all.records.get(name).filter(|record| !record.is_destroyed) else {
                continue;
            };
            let has = self.snippets.get(name).map(Vec::as_slice).unwrap_or_default();
            let missing = directory.snippets.iter().filter(|kind| !has.contains(&kind.as_str()));
            for kind in missing.filter(|_| !self.works.contains_key(name)) {
                let place = format!("VM {name} (VMID {})", record.vmid);
                let what = format!("{folder}/blockhost-{name}-{kind}.yaml is missing");
                let mend = "restore it from a backup of the node before the VM is switched off";
                found.push(Finding::new(&SNIPPET_MISSING, place, what, mend).of(name));
            }
        }
        // A record that cannot be read, or was lost, may be its VM's: the name or the VMID is enough.
        let is_there = |vmid: u32| self.all.vmids.as_ref().is_none_or(|vmids| vmids.contains(&vmid));
        let live: HashSet<u32> = self
            .all
            .records
            .values()
            .filter(|record| !record.is_destroyed)
            .map(|record| record.vmid)
            .collect();
        for (vmid, name) in &inventory.guards {
            let by_name = name.as_deref().is_some_and(|name| self.is_live(name));
            if !live.contains(vmid)
                && !by_name
                && !is_there(*vmid)
                && !self.all.works.iter().any(|work| work.vmid == *vmid)
            {
                let whose = name.as_deref().unwrap_or("a VM");
                let path = format!("/var/lib/blockhost-guard/{vmid}.json");
                let what = format!("it is for {whose}, which is gone");
                let left = vec![format!("guard {vmid}")];
                found.push(match name {
                    Some(name) => {
                        let mend = "blockhost-provisioner-doctor --fix, or the next gc";
                        let finding = Finding::new(&GUARD_LEFTOVER, path, what, mend).with(left);
                        finding.mended_by(Fix::ClearGuard(*vmid, name.clone()))
                    }
                    // Whose it is cannot be read.
                    None => {
                        Finding::new(&GUARD_LEFTOVER, &path, what, format!("as root: rm {path}")).with(left)
                    }
                });
            }
        }
        found
    }

    fn volumes(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for volume in self.all.volumes.iter().flatten() {
            if self.all.works.iter().any(|work| work.vmid == volume.vmid) {
                continue;
            }
            let volid = &volume.volid;
            let is_noted = self.all.noted_volumes.contains(volid);
            let what = format!("disk {volid} belongs to no guest");
            let mend = match is_noted {
                true => format!("blockhost-provisioner-doctor --fix, or as root: pvesm free {volid}"),
                false => format!("if nobody needs it, as root: pvesm free {volid}"),
            };
            let place = format!("storage {}", volid.split(':').next().unwrap_or_default());
            let finding =
                Finding::new(&VOLUME_LEFTOVER, place, what, mend).with(vec![format!("volume {volid}")]);
            found.push(match is_noted {
                true => finding.mended_by(Fix::FreeVolume(volid.clone())),
                false => finding,
            });
        }
        found
    }
}

#[cfg(test)]
mod tests;
