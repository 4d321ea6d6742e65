//! The tests' door to the node: what it looks like, what shall go wrong, what was asked.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::Request;
use crate::model::{
    AgentMode, Call, Fault, FaultAction, Figures, GuestChange, NewGuest, Power, Snapshot, Timing,
};
use crate::tool::client::ask;

/// A client of a lab's node. Cheap to clone; every call is a connection of its own.
#[derive(Debug, Clone)]
pub struct Control {
    dir: PathBuf,
}

type Done = anyhow::Result<()>;

impl Control {
    /// For the lab in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> anyhow::Result<T> {
        let answer: Value = ask(&self.dir, &serde_json::to_value(request)?)?;
        serde_json::from_value(answer).context("the lab's node answered in another form")
    }

    fn tell(&self, request: &Request) -> Done {
        self.ask::<Value>(request).map(|_| ())
    }

    /// The whole node; two of them can be compared.
    ///
    /// # Errors
    /// The node does not answer (so for every method here).
    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        self.ask(&Request::Snapshot)
    }

    /// Sets a fault at a point for so many times. Points: `api.<METHOD> <path>`, `qm.<subcommand>` (also the other
    /// tools), `task.<type>`, `task.qmclone.temporary|half|end`, `task.qmtemplate.half`, `agent.<action>`,
    /// `provider.<create|read|delete|plan>.<step>`, each with `.before` (the default) or `.after`; `*` and `{name}`
    /// stand for any text.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn fault(&self, point: &str, fault: FaultAction, times: u32) -> Done {
        self.tell(&Request::Fault { point: point.into(), fault, times })
    }

    /// Forgets all faults and lets go whoever hangs.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn clear_faults(&self) -> Done {
        self.tell(&Request::ClearFaults)
    }

    /// Lets go whoever hangs at a point of the node; the faults stay.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn release(&self) -> Done {
        self.tell(&Request::Release)
    }

    /// The faults that were set, with how often each has fired.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn faults(&self) -> anyhow::Result<Vec<Fault>> {
        self.ask(&Request::Faults)
    }

    /// Every point that was reached since the last [`Control::clear_faults`]: what a sweep goes through.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn points(&self) -> anyhow::Result<Vec<String>> {
        self.ask(&Request::Points)
    }

    /// Waits until a fault set for exactly this point has fired.
    ///
    /// # Errors
    /// It did not within the time.
    pub fn wait_fault(&self, point: &str, limit: Duration) -> Done {
        let deadline = Instant::now() + limit;
        while !self.faults()?.iter().any(|fault| fault.point == point && fault.hits > 0) {
            if Instant::now() > deadline {
                bail!("nothing reached {point} within {limit:?}; reached were {:?}", self.points()?);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    }

    /// The log of API requests, tools and root agent actions after call number `since` (0 = all).
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn calls(&self, since: u64) -> anyhow::Result<Vec<Call>> {
        self.ask(&Request::Calls { since })
    }

    /// The number of the last call.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn last_call(&self) -> anyhow::Result<u64> {
        Ok(self.calls(0)?.last().map_or(0, |call| call.seq))
    }

    /// Adds somebody else's guest.
    ///
    /// # Errors
    /// The VMID is taken.
    pub fn add_guest(&self, guest: NewGuest) -> Done {
        self.add_guests(vec![guest])
    }

    /// Adds many at once.
    ///
    /// # Errors
    /// A VMID is taken.
    pub fn add_guests(&self, guests: Vec<NewGuest>) -> Done {
        self.tell(&Request::AddGuests { guests })
    }

    /// Takes a guest away with its disks, whatever its state, as if another administrator had destroyed it.
    ///
    /// # Errors
    /// There is none (so for every method below that names a guest).
    pub fn remove_guest(&self, vmid: u32) -> Done {
        self.tell(&Request::RemoveGuest { vmid })
    }

    /// Sets a key of the configuration, past every check, as if the file had been edited.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn set(&self, vmid: u32, key: &str, value: &str) -> Done {
        self.tell(&Request::Set { vmid, key: key.into(), value: Some(value.into()) })
    }

    /// Deletes a key of the configuration.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn unset(&self, vmid: u32, key: &str) -> Done {
        self.tell(&Request::Set { vmid, key: key.into(), value: None })
    }

    /// Gives the guest another name.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn rename(&self, vmid: u32, name: &str) -> Done {
        self.set(vmid, "name", name)
    }

    /// Sets or takes away the configuration lock (`backup`, `clone` …).
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn set_lock(&self, vmid: u32, lock: Option<&str>) -> Done {
        match lock {
            Some(lock) => self.set(vmid, "lock", lock),
            None => self.unset(vmid, "lock"),
        }
    }

    /// Switches a guest on, off, or halts it, as if by somebody else; at once.
    ///
    /// # Errors
    /// As [`Control::remove_guest`]; it cannot be started.
    pub fn power(&self, vmid: u32, power: Power) -> Done {
        self.tell(&Request::Power { vmid, power })
    }

    /// What the guest's agent does from now on.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn agent(&self, vmid: u32, agent: AgentMode) -> Done {
        self.guest(vmid, GuestChange { agent: Some(agent), ..GuestChange::default() })
    }

    /// What the guest uses.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn figures(&self, vmid: u32, figures: Figures) -> Done {
        self.guest(vmid, GuestChange { figures: Some(figures), ..GuestChange::default() })
    }

    /// Anything of the guest's behaviour.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn guest(&self, vmid: u32, change: GuestChange) -> Done {
        self.tell(&Request::Guest { vmid, change })
    }

    /// Puts a guest into a pool, which is made if need be, or takes it out.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn pool(&self, vmid: u32, pool: Option<&str>) -> Done {
        self.tell(&Request::Pool { vmid, pool: pool.map(String::from) })
    }

    /// Moves a guest to another node of the cluster.
    ///
    /// # Errors
    /// As [`Control::remove_guest`].
    pub fn migrate(&self, vmid: u32, node: &str) -> Done {
        self.tell(&Request::Migrate { vmid, node: node.into() })
    }

    /// The node goes down and comes up: all guests off, routes and taps gone, guests with `onboot` started again.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn reboot_node(&self) -> Done {
        self.tell(&Request::RebootNode)
    }

    /// `/etc/pve` is not mounted (an empty folder), or is again.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn mount_etc_pve(&self, mounted: bool) -> Done {
        self.tell(&Request::Mount { mounted })
    }

    /// Changes durations of the running lab.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn timing(&self, change: impl FnOnce(&mut Timing)) -> Done {
        let mut timing = self.ask(&Request::GetTiming)?;
        change(&mut timing);
        self.tell(&Request::SetTiming { timing })
    }

    /// Starts the root agent anew with this latency per run in milliseconds.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart_root_agent(&self, latency_ms: u64) -> Done {
        self.tell(&Request::RootAgent { latency_ms: Some(latency_ms) })
    }

    /// Stops the root agent; its socket is gone.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn stop_root_agent(&self) -> Done {
        self.tell(&Request::RootAgent { latency_ms: None })
    }

    /// Gives a user or token a role on a path, with everything below it.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn grant(&self, path: &str, subject: &str, role: &str) -> Done {
        self.tell(&Request::Grant { path: path.into(), subject: subject.into(), role: role.into() })
    }

    /// The host's name server changes: part of the instance-id of guests that have none of their own.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn host_resolver(&self, address: &str) -> Done {
        self.tell(&Request::Resolver { address: address.into() })
    }

    /// The node's clock is so many seconds ahead of this machine's (negative: behind).
    pub fn set_clock_ahead(&self, seconds: i64) -> anyhow::Result<()> {
        self.tell(&Request::Clock { ahead_s: seconds })
    }

    /// A backup job names this VMID from now on; only a destroy with `--purge` takes it out again.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn add_backup_job(&self, vmid: u32) -> Done {
        self.tell(&Request::BackupJob { vmid })
    }

    /// These volumes cannot be freed from now on: destroy warns, exits 0 and leaves them.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn stick_volumes(&self, volumes: &[&str]) -> Done {
        self.tell(&Request::Stick { volumes: volumes.iter().map(|volume| (*volume).to_owned()).collect() })
    }

    /// Somebody on the local network answers for `address`; `state` is that of the entry in the neighbour table
    /// (`REACHABLE`, `STALE` …).
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn neighbour(&self, address: &str, lladdr: &str, state: &str) -> Done {
        let (lladdr, state) = (Some(lladdr.to_owned()), Some(state.to_owned()));
        self.tell(&Request::Neighbour { address: address.into(), lladdr, state })
    }

    /// Adds a storage of type ZFS, on which linked clones can be told by their volumes.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn add_zfs(&self, storage: &str) -> Done {
        self.tell(&Request::Zfs { storage: storage.into() })
    }

    /// The size of a storage in bytes, and whether it is enabled; `None` leaves it.
    ///
    /// # Errors
    /// There is no such storage.
    pub fn storage(&self, storage: &str, total: Option<u64>, enabled: Option<bool>) -> Done {
        self.tell(&Request::Storage { storage: storage.into(), total, enabled })
    }

    /// A node of the cluster, this one (`pve`) or another: whether it is on, and its memory in bytes. What
    /// `cluster/resources` tells of it and of its guests; nothing happens to them.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub fn peer(&self, node: &str, online: bool, memory: u64) -> Done {
        self.tell(&Request::Peer { node: node.into(), online, memory })
    }

    /// Ends the lab.
    ///
    /// # Errors
    /// As [`Control::snapshot`].
    pub(crate) fn down(&self) -> Done {
        self.tell(&Request::Down)
    }
}
