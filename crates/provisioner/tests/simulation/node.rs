//! The simulated node: guests with what matters of their configuration, snippets, routes, isolated ports.
//! It knows what no real node tells: whose a guest truly is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Our range in db.yaml.
pub const RANGE: std::ops::RangeInclusive<u32> = 100..=119;
/// The template.
pub const TEMPLATE: u32 = 9001;

/// Whose a guest truly is, whatever its name and configuration say by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Template,
    Stranger,
    /// Made by a create of ours, with this name and UUID.
    Ours {
        name: String,
        uuid: String,
    },
    /// Of the older package: its record has no UUID and there is no terraform folder.
    Legacy {
        name: String,
    },
}

/// How a guest takes a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    Prompt,
    Slow(u64),
    Deaf,
}

#[derive(Debug, Clone)]
pub struct Guest {
    pub serial: u64,
    pub origin: Origin,
    pub name: String,
    pub uuid: Option<String>,
    pub description: String,
    pub running: bool,
    pub paused: bool,
    pub onboot: bool,
    pub lock: String,
    pub protection: bool,
    pub elsewhere: bool,
    pub manners: Manners,
    /// When its agent answers; never, where there is none.
    pub answers_at: Option<Duration>,
    pub goes_down_at: Option<Duration>,
}

impl Guest {
    pub fn is_ours(&self) -> bool {
        matches!(self.origin, Origin::Ours { .. } | Origin::Legacy { .. })
    }

    /// The name it was made with.
    pub fn birth_name(&self) -> &str {
        match &self.origin {
            Origin::Ours { name, .. } | Origin::Legacy { name } => name,
            _ => "",
        }
    }

    pub fn birth_uuid(&self) -> Option<&str> {
        match &self.origin {
            Origin::Ours { uuid, .. } => Some(uuid),
            _ => None,
        }
    }
}

/// What the plugin tells of the last detached tool of a VMID.
#[derive(Debug, Clone)]
pub struct Task {
    pub action: &'static str,
    pub running: bool,
    pub error: Option<String>,
}

/// What happens by itself at some time.
#[derive(Debug, Clone)]
pub enum Later {
    /// A detached tool ends: with these words, or by having done it.
    Tool { action: &'static str, fails: Option<String> },
    /// A clone that goes on without its terraform is done.
    CloneDone,
}

struct Pending {
    at: Duration,
    vmid: u32,
    serial: u64,
    what: Later,
}

#[derive(Default)]
pub struct Node {
    pub guests: BTreeMap<u32, Guest>,
    pub snippets: BTreeSet<String>,
    pub routes: BTreeSet<String>,
    pub isolated: BTreeSet<u32>,
    pub tasks: BTreeMap<u32, Task>,
    /// `/etc/pve` is not mounted.
    pub unmounted: bool,
    pending: Vec<Pending>,
    serials: u64,
}

impl Node {
    pub fn add(&mut self, vmid: u32, origin: Origin, name: &str) -> &mut Guest {
        self.serials += 1;
        let guest = Guest {
            serial: self.serials,
            origin,
            name: name.to_string(),
            uuid: None,
            description: String::new(),
            running: false,
            paused: false,
            onboot: false,
            lock: String::new(),
            protection: false,
            elsewhere: false,
            manners: Manners::Prompt,
            answers_at: None,
            goes_down_at: None,
        };
        self.guests.entry(vmid).insert_entry(guest).into_mut()
    }

    pub fn power_on(&mut self, vmid: u32, now: Duration) {
        if let Some(guest) = self.guests.get_mut(&vmid).filter(|g| !g.running) {
            guest.running = true;
            guest.paused = false;
            guest.goes_down_at = None;
            guest.answers_at = guest.answers_at.map(|_| now + Duration::from_secs(4));
        }
    }

    /// The tap goes with its process, and with it the isolation of its port.
    pub fn power_off(&mut self, vmid: u32) {
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.running = false;
            guest.paused = false;
            guest.goes_down_at = None;
        }
        self.isolated.remove(&vmid);
    }

    pub fn remove(&mut self, vmid: u32) {
        self.power_off(vmid);
        self.guests.remove(&vmid);
    }

    pub fn reboot(&mut self, now: Duration) {
        self.pending.retain(|p| matches!(p.what, Later::CloneDone));
        self.tasks.clear();
        self.routes.clear();
        self.isolated.clear();
        let vmids: Vec<u32> =
            self.guests.iter().filter(|(_, g)| !g.elsewhere).map(|(vmid, _)| *vmid).collect();
        for vmid in vmids {
            self.power_off(vmid);
            if self.guests[&vmid].onboot && self.guests[&vmid].lock.is_empty() {
                self.power_on(vmid, now);
            }
        }
    }

    pub fn later(&mut self, at: Duration, vmid: u32, what: Later) {
        let Some(serial) = self.guests.get(&vmid).map(|g| g.serial) else { return };
        if let Later::Tool { action, .. } = what {
            self.tasks.insert(vmid, Task { action, running: true, error: None });
        }
        self.pending.push(Pending { at, vmid, serial, what });
    }

    /// Whether something still happens by itself.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn settle(&mut self, now: Duration) {
        let down = self.guests.iter().filter(|(_, g)| g.goes_down_at.is_some_and(|at| at <= now));
        for vmid in down.map(|(vmid, _)| *vmid).collect::<Vec<_>>() {
            self.power_off(vmid);
        }
        let (due, rest) = std::mem::take(&mut self.pending).into_iter().partition(|p| p.at <= now);
        self.pending = rest;
        for pending in due {
            let Pending { vmid, serial, what, .. } = pending;
            let there = self.guests.get(&vmid).is_some_and(|g| g.serial == serial && !g.elsewhere);
            match what {
                Later::CloneDone if there => self.guests.get_mut(&vmid).unwrap().lock.clear(),
                Later::CloneDone => {}
                Later::Tool { action, fails } => {
                    let mut error = fails;
                    if !there {
                        error.get_or_insert_with(|| {
                            format!("Configuration file '{vmid}.conf' does not exist")
                        });
                    }
                    let shut_down = action == "qm-shutdown" && error.is_some();
                    if error.is_none() {
                        error = self.act(vmid, action, now).err();
                    } else if shut_down && self.guests.get(&vmid).is_none_or(|g| !g.running) {
                        error = None;
                    }
                    self.tasks.insert(vmid, Task { action, running: false, error });
                }
            }
        }
    }

    /// What a tool does to a guest of this node, or its last words.
    pub fn act(&mut self, vmid: u32, action: &str, now: Duration) -> Result<(), String> {
        let guest = self.guests.get_mut(&vmid).ok_or("no such VM")?;
        if !guest.lock.is_empty() {
            return Err(format!("VM is locked ({})", guest.lock));
        }
        match action {
            "qm-start" => self.power_on(vmid, now),
            "qm-stop" => self.power_off(vmid),
            "qm-resume" => guest.paused = false,
            "qm-destroy" if guest.protection => {
                return Err(format!("can't remove VM {vmid} - protection mode enabled"));
            }
            "qm-destroy" if guest.running => return Err(format!("VM {vmid} is running - destroy failed")),
            "qm-destroy" => self.remove(vmid),
            _ => {}
        }
        Ok(())
    }
}
