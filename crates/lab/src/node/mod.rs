//! The node: its state behind one lock, and the acts that change it.
//!
//! ```text
//!   api/  (HTTPS)  ─┐                     ┌─ guest, storage, network, access   what there is
//!   tool/ (qm …)   ─┼─►  acts below here ─┼─ files                             what of it lies in D/node
//!   control (tests)─┘                     └─ tasks, locks, faults, call_log    how acts run, wait, fail, are seen
//! ```
//!
//! An act takes the guest's file lock first, then works on the state in one short critical section without waiting;
//! what takes time sleeps between such sections.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::model::{NewGuest, NodeOptions, Route, Snapshot, Timing};

pub(crate) mod access;
pub(crate) mod call_log;
pub(crate) mod change;
pub(crate) mod clone;
pub(crate) mod config_options;
pub(crate) mod disks;
pub(crate) mod drive;
pub(crate) mod existence;
pub(crate) mod faults;
pub(crate) mod files;
pub(crate) mod guest;
pub(crate) mod guest_agent;
pub(crate) mod guest_system;
pub(crate) mod hook;
pub(crate) mod locks;
mod monitor;
pub(crate) mod network;
pub(crate) mod power;
pub(crate) mod refusal;
pub(crate) mod storage;
pub(crate) mod tasks;

use access::Access;
use call_log::CallLog;
use faults::Faults;
use files::NodeFiles;
use guest::{Behaviour, Guest};
use guest_agent::Executions;
use locks::FileLocks;
use network::Network;
use refusal::{Outcome, Refusal};
use storage::Storages;
use tasks::Tasks;

/// The node as everything in the daemon shares it.
pub(crate) type Shared = Arc<Node>;

/// Everything of one lab's node.
#[derive(Debug)]
pub(crate) struct Node {
    /// The lab's folder.
    pub dir: PathBuf,
    pub options: NodeOptions,
    timing: Mutex<Timing>,
    state: Mutex<State>,
    pub tasks: Tasks,
    pub locks: FileLocks,
    pub faults: Faults,
    pub log: CallLog,
    pub executions: Executions,
    /// Rung when the lab is to end.
    pub ending: Notify,
}

/// A node of the cluster, as far as `cluster/resources` tells of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub online: bool,
    /// Bytes.
    pub memory: u64,
}

impl Default for Peer {
    fn default() -> Self {
        Self { online: true, memory: 32 << 30 }
    }
}

/// What there is on the node.
#[derive(Debug)]
pub(crate) struct State {
    pub files: NodeFiles,
    pub guests: BTreeMap<u32, Guest>,
    /// Containers: VMID → node. They take a VMID and nothing else here.
    pub containers: BTreeMap<u32, String>,
    /// Pool → comment.
    pub pools: BTreeMap<String, String>,
    /// VMIDs that backup jobs name. They outlive a guest that is destroyed without `--purge`.
    pub backup_jobs: BTreeSet<u32>,
    pub storages: Storages,
    pub network: Network,
    pub access: Access,
    /// The host's name server, part of a guest's instance-id where it has none of its own.
    pub resolver: String,
    /// The host's search domain, likewise.
    pub search_domain: String,
    /// Nodes that a test has changed or added.
    pub peers: BTreeMap<String, Peer>,
    /// Seconds by which the node's clock is ahead.
    pub clock_ahead_s: i64,
    next_pid: u32,
    next_mac: u32,
}

impl State {
    /// All nodes of the cluster: this one, those with guests, and those that a test has added.
    pub fn cluster(&self, own: &str) -> BTreeMap<String, Peer> {
        let names = self.guests.values().map(|guest| guest.node.clone()).chain([own.to_owned()]);
        let mut all: BTreeMap<String, Peer> = names.map(|name| (name, Peer::default())).collect();
        all.extend(self.peers.iter().map(|(name, peer)| (name.clone(), *peer)));
        all
    }
}

impl Node {
    /// A node in its folder, with the template if the options ask for one.
    pub fn new(dir: &Path, options: NodeOptions) -> io::Result<Shared> {
        let files = NodeFiles::new(dir, &options.node)?;
        fs::create_dir_all(dir.join("guests"))?;
        let storages = Storages::new(&files.snippets().to_string_lossy().replace("/snippets", ""));
        let network = Network::new(&files);
        let mut state = State {
            files,
            guests: BTreeMap::new(),
            containers: BTreeMap::new(),
            pools: BTreeMap::from([("blockhost".to_owned(), "BlockHost VMs".to_owned())]),
            backup_jobs: BTreeSet::new(),
            storages,
            network,
            access: Access::new(&options),
            resolver: "192.0.2.53".into(),
            search_domain: "node.example".into(),
            peers: BTreeMap::new(),
            clock_ahead_s: 0,
            next_pid: 20_000,
            next_mac: 1,
        };
        if let Some(vmid) = options.template {
            let guest =
                state.template(vmid, &options).map_err(|refusal| io::Error::other(refusal.message))?;
            state.guests.insert(vmid, guest);
            state.changed(vmid);
        }
        state.list_changed();
        Ok(Arc::new(Self {
            dir: dir.into(),
            timing: Mutex::new(options.timing),
            options,
            state: Mutex::new(state),
            tasks: Tasks::default(),
            locks: FileLocks::default(),
            faults: Faults::default(),
            log: CallLog::default(),
            executions: Executions::default(),
            ending: Notify::new(),
        }))
    }

    /// The state. Never held across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The durations that count now.
    pub fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the durations of a running lab.
    pub fn set_timing(&self, timing: Timing) {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = timing;
    }

    /// The guest's folder, its "disk".
    pub fn guest_folder(&self, vmid: u32) -> PathBuf {
        self.dir.join(format!("guests/{vmid}"))
    }

    /// The whole node as tests compare it.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let mut snippets = texts_in(&state.files.snippets());
        snippets.retain(|name, _| !name.ends_with(".sh"));
        let members = |pool: &String| {
            state
                .guests
                .values()
                .filter(|guest| guest.pool.as_ref() == Some(pool))
                .map(|guest| guest.vmid)
                .collect()
        };
        Snapshot {
            guests: state.guests.iter().map(|(vmid, guest)| (*vmid, guest.snapshot())).collect(),
            volumes: state.storages.volumes().clone(),
            snippets,
            ports: state.network.ports(),
            routes: state.network.routes.iter().cloned().collect::<Vec<Route>>(),
            rules: state.network.rules(),
            guards: texts_in(&state.files.root().join("var/lib/blockhost-guard")),
            pools: state.pools.keys().map(|pool| (pool.clone(), members(pool))).collect(),
            backup_jobs: state.backup_jobs.clone(),
            tasks_running: self.tasks.running(),
            pve_mounted: state.files.mounted(),
        }
    }
}

impl State {
    /// The guest, on that node.
    ///
    /// # Errors
    /// The wording of config, set, start, destroy, template, disk and guest calls.
    pub fn guest(&self, node: &str, vmid: u32) -> Outcome<&Guest> {
        self.find(node, vmid).ok_or_else(|| Refusal::no_such_config(node, vmid))
    }

    /// The same, to change it; call [`State::changed`] afterwards.
    pub fn guest_mut(&mut self, node: &str, vmid: u32) -> Outcome<&mut Guest> {
        self.guests
            .get_mut(&vmid)
            .filter(|guest| guest.node == node)
            .ok_or_else(|| Refusal::no_such_config(node, vmid))
    }

    /// The guest, if that node has it.
    pub fn find(&self, node: &str, vmid: u32) -> Option<&Guest> {
        self.guests.get(&vmid).filter(|guest| guest.node == node)
    }

    /// The pool of a guest, for privileges.
    pub fn pool_of(&self, vmid: u32) -> Option<String> {
        self.guests.get(&vmid).and_then(|guest| guest.pool.clone())
    }

    /// Writes the guest's files.
    pub fn changed(&self, vmid: u32) {
        if let Some(guest) = self.guests.get(&vmid) {
            self.files.write_guest(guest);
        }
    }

    /// All VMIDs of the cluster with node and type.
    pub fn ids(&self) -> BTreeMap<u32, (String, &'static str)> {
        let vms = self.guests.iter().map(|(vmid, guest)| (*vmid, (guest.node.clone(), "qemu")));
        let containers = self.containers.iter().map(|(vmid, node)| (*vmid, (node.clone(), "lxc")));
        vms.chain(containers).collect()
    }

    /// Writes the list of VMIDs.
    pub fn list_changed(&mut self) {
        let ids = self.ids();
        self.files.write_vmlist(&ids);
    }

    /// Puts a guest into the node.
    pub fn insert(&mut self, guest: Guest) {
        let vmid = guest.vmid;
        self.guests.insert(vmid, guest);
        self.changed(vmid);
        self.list_changed();
    }

    /// Takes a guest out of the node; its volumes are not its own any more, they stay.
    pub fn remove(&mut self, vmid: u32) -> Option<Guest> {
        let guest = self.guests.remove(&vmid)?;
        self.network.unplug(&self.files, vmid);
        self.files.remove_guest(&guest);
        self.list_changed();
        Some(guest)
    }

    /// The lowest VMID from 100 that nobody has: a destroyed guest's is the next one handed out.
    pub fn next_id(&self) -> u32 {
        let ids = self.ids();
        (100..).find(|vmid| !ids.contains_key(vmid)).unwrap_or(100)
    }

    /// A PID for a QEMU process or a task's worker.
    pub fn next_pid(&mut self) -> u32 {
        self.next_pid += 1;
        self.next_pid
    }

    /// A MAC address nobody has had.
    pub fn next_mac(&mut self) -> String {
        let number = self.next_mac;
        self.next_mac += 1;
        let bytes = number.to_be_bytes();
        format!("BC:24:11:{:02X}:{:02X}:{:02X}", bytes[1], bytes[2], bytes[3])
    }

    /// The template a host has after its installation.
    fn template(&mut self, vmid: u32, options: &NodeOptions) -> Outcome<Guest> {
        const DISK: u64 = 2252 << 20;
        let disk = self.storages.allocate("local-lvm", vmid, DISK, DISK, "base")?;
        let drive = self.storages.allocate_cloudinit("local-lvm", vmid)?;
        let mac = self.next_mac();
        let config = [
            ("agent", "1".to_owned()),
            ("boot", "order=scsi0".into()),
            ("cores", "1".into()),
            ("ide2", format!("{drive},media=cdrom,size=4M")),
            ("memory", "512".into()),
            ("meta", "creation-qemu=10.0.2,ctime=1790000000".into()),
            ("name", "debian-12-web3-template".into()),
            ("net0", format!("virtio={mac},bridge=vmbr0")),
            ("numa", "0".into()),
            ("ostype", "l26".into()),
            ("scsi0", format!("{disk},size=2252M")),
            ("scsihw", "virtio-scsi-pci".into()),
            ("serial0", "socket".into()),
            ("smbios1", format!("uuid={}", uuid::Uuid::new_v4())),
            ("sockets", "1".into()),
            ("template", "1".into()),
            ("vga", "serial0".into()),
            ("vmgenid", uuid::Uuid::new_v4().to_string()),
        ];
        let config = config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Guest::new(vmid, &options.node, config, Behaviour::of(options)))
    }

    /// Adds a stranger's guest; the caller writes the list of VMIDs.
    ///
    /// # Errors
    /// The VMID is taken, or the storage is full.
    pub fn add_stranger(&mut self, wanted: &NewGuest, options: &NodeOptions) -> Outcome<()> {
        let node = if wanted.node.is_empty() { options.node.clone() } else { wanted.node.clone() };
        let vmid = wanted.vmid;
        let holder = self.guests.get(&vmid).map(|guest| &guest.node).or_else(|| self.containers.get(&vmid));
        if let Some(holder) = holder {
            return Err(Refusal::die(format!("VM {vmid} already exists on node '{holder}'")));
        }
        if wanted.container {
            self.containers.insert(vmid, node);
            return Ok(());
        }
        let mut config = BTreeMap::from([
            ("cores".to_owned(), "1".to_owned()),
            ("memory".into(), "512".into()),
            ("net0".into(), format!("virtio={},bridge=vmbr0", self.next_mac())),
            ("smbios1".into(), format!("uuid={}", uuid::Uuid::new_v4())),
        ]);
        if !wanted.name.is_empty() {
            config.insert("name".into(), wanted.name.clone());
        }
        if wanted.disk_gib > 0 {
            let volume = self.storages.allocate("local-lvm", vmid, wanted.disk_gib << 30, 0, "vm")?;
            config.insert("scsi0".into(), format!("{volume},size={}G", wanted.disk_gib));
        }
        config.extend(wanted.config.clone());
        let mut guest = Guest::new(vmid, &node, config, Behaviour::of(options));
        guest.pool.clone_from(&wanted.pool);
        self.guests.insert(vmid, guest);
        self.changed(vmid);
        Ok(())
    }
}

/// Sleeps, unless there is nothing to sleep.
pub(crate) async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// The files of a folder, name and text.
fn texts_in(folder: &std::path::Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), text(entry.path()))).collect()
}
