//! One lab, the commands in it, and how a command ended.

use crate::world::World;
use lab::model::FaultAction;
use lab::{Lab, LabBuilder};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
pub use test_support::{Ended, LONG, Running, WALLET, run, start, until};

pub const OTHER_WALLET: &str = "0x00000000219ab540356cBB839Cbe05303d7705Fa";

/// Labs that are as they were when they were new: starting one costs more than most cases.
static IDLE: Mutex<Vec<(Lab, World)>> = Mutex::new(Vec::new());

/// A lab with shorthands.
pub struct Site {
    lab: Option<Lab>,
    /// What it was like when it was new, for those that may be used again.
    fresh: Option<World>,
}

/// A VMID is not watched for late requests: worlds could not be compared while one is. They have tests of their own
/// ([`crate::late_request`]).
const NOTHING_IS_LATE: &str = "limit@late-request=0";

impl Site {
    /// A lab like new. The next case gets it too if it can be brought back to what it was.
    pub fn new() -> Site {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (lab, fresh) = idle.unwrap_or_else(|| {
            let lab = Lab::builder().start().unwrap();
            let fresh = World::of(&lab);
            (lab, fresh)
        });
        Site { lab: Some(lab), fresh: Some(fresh) }
    }

    /// A lab of its own.
    pub fn of(builder: LabBuilder) -> Site {
        Site { lab: Some(builder.start().unwrap()), fresh: None }
    }

    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().unwrap()
    }

    /// Takes away everything that commands have made.
    fn clean(&self, fresh: &World) -> anyhow::Result<()> {
        let control = self.lab().control();
        control.clear_faults()?;
        self.settle();
        for vmid in self.guests() {
            control.remove_guest(vmid)?;
        }
        for route in control.snapshot()?.routes {
            self.lab().tool("ip").args(["-6", "route", "del", &route.dst, "dev", &route.dev]).output()?;
        }
        for snippet in std::fs::read_dir(self.path("node/var/lib/vz/snippets"))? {
            std::fs::remove_file(snippet?.path())?;
        }
        for folder in ["var/journal", "var/terraform/vms", "run/creates", "var/withheld"] {
            if self.path(folder).exists() {
                std::fs::remove_dir_all(self.path(folder))?;
            }
        }
        for file in ["run/provisioning.lock", "var/vms.json.lock"] {
            if self.path(file).exists() {
                std::fs::remove_file(self.path(file))?;
            }
        }
        std::fs::write(self.path("var/vms.json"), fresh.text("var/vms.json"))?;
        Ok(())
    }

    /// The call that engines make.
    pub fn create(&self, name: &str) -> Command {
        self.create_for(name, WALLET)
    }

    pub fn create_for(&self, name: &str, wallet: &str) -> Command {
        let mut command = self.lab().command("blockhost-vm-create");
        command.args([name, "--owner-wallet", wallet, "--expiry-days", "30", "--apply"]);
        command.env("BLOCKHOST_FAULT", NOTHING_IS_LATE);
        command
    }

    pub fn destroy(&self, name: &str) -> Command {
        self.verb("destroy", name)
    }

    pub fn verb(&self, verb: &str, name: &str) -> Command {
        let mut command = self.lab().command(&format!("blockhost-vm-{verb}"));
        command.arg(name);
        command.env("BLOCKHOST_FAULT", NOTHING_IS_LATE);
        command
    }

    /// A create that must succeed.
    pub fn created(&self, name: &str) -> Ended {
        run(&mut self.create(name)).ok()
    }

    /// A create during whose clone the root agent begins to answer every look at a machine with `fault`.
    pub fn created_while_the_agent_fails(&self, name: &str, fault: FaultAction) -> Ended {
        let control = self.lab().control();
        control.fault("provider.create.resize.after", FaultAction::Slow { ms: 3_000 }, 1).unwrap();
        let create = start(&mut self.create(name));
        control.wait_fault("provider.create.resize.after", Duration::from_secs(60)).unwrap();
        control.fault("agent.vm-state", fault, 1_000).unwrap();
        create.wait()
    }

    /// A destroy that must succeed.
    pub fn destroyed(&self, name: &str) -> Ended {
        run(&mut self.destroy(name)).ok()
    }

    /// Everything there is, once nothing moves any more.
    pub fn world(&self) -> World {
        self.settle();
        World::of(self.lab())
    }

    /// Waits until no task runs on the node and no terraform in any folder.
    pub fn settle(&self) {
        until("tasks and terraforms end", || {
            self.lab().control().snapshot().unwrap().tasks_running.is_empty() && !self.terraform_runs()
        });
        // The hook script's last phase runs after the stop; its last act is to forget what it left.
        until("the hook scripts' last phases end", || {
            let node = self.lab().control().snapshot().unwrap();
            let has_tap = |vmid: u32| node.ports.contains_key(&format!("tap{vmid}i0"));
            let is_guarded = |vmid: u32| self.path(&format!("node/run/blockhost-guard/{vmid}.json")).exists();
            !node.guests.keys().any(|vmid| !has_tap(*vmid) && is_guarded(*vmid))
        });
    }

    /// Whether a terraform, or its provider, holds its folder's lock.
    pub fn terraform_runs(&self) -> bool {
        let folders = std::fs::read_dir(self.path("var/terraform/vms"));
        folders.into_iter().flatten().flatten().any(|folder| {
            let file = std::fs::File::open(folder.path().join("terraform.lock"));
            file.is_ok_and(|file| file.try_lock_shared().is_err())
        })
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.lab().path(below)
    }

    /// The step in the journal entry of `name`, if there is one.
    pub fn journal_step(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(&format!("var/journal/{name}.json"))).ok()?;
        let entry: serde_json::Value = serde_json::from_str(&text).unwrap();
        Some(entry["step"].as_str().unwrap().to_owned())
    }

    pub fn database(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.path("var/vms.json")).unwrap()).unwrap()
    }

    /// The VMIDs of guests that are no template.
    pub fn guests(&self) -> Vec<u32> {
        let guests = self.lab().control().snapshot().unwrap().guests;
        guests.iter().filter(|(_, guest)| !guest.template).map(|(vmid, _)| *vmid).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let Some(fresh) = self.fresh.take() else { return };
        if !std::thread::panicking() && self.clean(&fresh).is_ok() && World::of(self.lab()) == fresh {
            let lab = self.lab.take().map(|lab| (lab, fresh));
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(lab);
        }
    }
}

/// The points that a command passes, which must succeed ([`test_support::points`]).
pub fn points(site: &Site, command: Command) -> Vec<String> {
    test_support::points(&site.path("trace"), command, |ended| drop(ended.ok()))
}

/// Runs the cases in a few threads and tells about all that failed.
pub fn sweep<T: Sync + std::fmt::Display>(cases: &[T], one: impl Fn(&T) + Sync) {
    test_support::sweep(cases, 3, one);
}

/// The last write whose failing makes a command fail; `fails` runs it with a disk that is full from write N on.
pub fn last_that_fails(fails: impl Fn(usize) -> bool) -> usize {
    // Doubling, then halving the distance: each look costs a lab.
    let (mut low, mut high) = (1, 2);
    while fails(high) {
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if fails(middle) { low = middle } else { high = middle }
    }
    low
}
