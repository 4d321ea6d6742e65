//! Terraform with its provider: it reads the VM's real file and state in the real folder, works on the node in
//! stages while time passes, holds its lock until its end, and goes on when whoever started it has died.

use super::judge::Act;
use super::node::{Later, Manners, Origin};
use super::world::World;
use provisioner::host::run_process::Program;
use provisioner::host::simulated::Process;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    None,
    /// The stage fails, in words that do not say what was done.
    Fails(usize),
    /// The node's lock on the template was held too long: worth another try.
    Busy(usize),
    /// SIGKILL before this stage; `true`: in the middle of writing the state.
    Killed(usize, bool),
    /// It says that it was done, and it was not (H44).
    Lies,
}

pub struct Run {
    pid: u32,
    pub name: String,
    folder: PathBuf,
    log: PathBuf,
    destroys: bool,
    began: Duration,
    mishap: Mishap,
    stage: Cell<usize>,
    asked_to_end: Cell<bool>,
    lock: RefCell<Option<File>>,
    ended: Cell<Option<i32>>,
    vmid: Cell<u32>,
    /// The serial number of the guest it works on.
    serial: Cell<u64>,
}

/// When each stage comes, in milliseconds after the beginning.
const APPLY: [u64; 6] = [100, 300, 1500, 1800, 2200, 2500];
const DESTROY: [u64; 3] = [200, 1000, 1300];

pub struct Handle(Rc<Run>);

impl Process for Handle {
    fn id(&self) -> u32 {
        self.0.pid
    }
    fn try_wait(&self) -> Option<ExitStatus> {
        self.0.ended.get().map(ExitStatus::from_raw)
    }
    fn terminate(&self) {
        self.0.asked_to_end.set(true);
    }
}

impl Run {
    pub fn lives(&self) -> bool {
        self.ended.get().is_none()
    }

    pub fn works_on(&self, vmid: u32) -> bool {
        self.lives() && self.vmid.get() == vmid
    }
}

pub fn spawn(world: &World, program: &Program<'_>, output: &Path, lock: File) -> Handle {
    let destroys = program.arguments[0] == "destroy";
    let stages = if destroys { DESTROY.len() } else { APPLY.len() } as u64;
    let mishap = if world.misfortune(|f| f.terraform) {
        let mut rng = world.rng.borrow_mut();
        let stage = rng.below(stages) as usize;
        match rng.below(5) {
            0 | 1 => Mishap::Fails(stage),
            2 => Mishap::Busy(stage),
            3 => Mishap::Killed(stage, rng.chance(500)),
            _ => Mishap::Lies,
        }
    } else {
        Mishap::None
    };
    let name = program.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::fs::write(output, "").unwrap();
    // No process of this machine has such a PID.
    let pid = 5_000_000 + world.runs_started.replace(world.runs_started.get() + 1);
    let run = Rc::new(Run {
        pid,
        name,
        folder: program.folder.to_path_buf(),
        log: output.to_path_buf(),
        destroys,
        began: world.elapsed.get(),
        mishap,
        stage: Cell::new(0),
        asked_to_end: Cell::new(false),
        lock: RefCell::new(Some(lock)),
        ended: Cell::new(None),
        vmid: Cell::new(0),
        serial: Cell::new(0),
    });
    if destroys && let Some(vmid) = run.vmid_in_state() {
        run.vmid.set(vmid);
        let serial = world.node.borrow().guests.get(&vmid).map(|g| g.serial);
        if let Some(serial) = serial {
            run.serial.set(serial);
            world.judge(Act::Destroy, vmid);
        }
    }
    world.note(|| {
        format!("    terraform {} for {} ({mishap:?})", if destroys { "destroy" } else { "apply" }, run.name)
    });
    world.runs.borrow_mut().push(run.clone());
    Handle(run)
}

impl Run {
    /// Does what is due by now.
    pub fn advance(&self, world: &World) {
        let stages: &[u64] = if self.destroys { &DESTROY } else { &APPLY };
        while self.lives() {
            let stage = self.stage.get();
            let at = self.began + Duration::from_millis(stages[stage]);
            if world.elapsed.get() < at {
                return;
            }
            match self.mishap {
                Mishap::Killed(when, torn) if when == stage => {
                    if torn {
                        std::fs::write(self.state_file(), "").unwrap();
                    }
                    self.end(9);
                    return;
                }
                Mishap::Fails(when) if when == stage => return self.fail("HTTP 500 it is broken"),
                Mishap::Busy(when) if when == stage => {
                    return self.fail("can't lock file '/var/lock/qemu-server/lock-9001.conf' - got timeout");
                }
                _ => {}
            }
            if self.asked_to_end.get() {
                return self.fail("execution halted");
            }
            let done =
                if self.destroys { self.destroy_stage(world, stage) } else { self.apply_stage(world, stage) };
            if let Err(words) = done {
                return self.fail(&words);
            }
            if stage + 1 == stages.len() {
                return self.end(0);
            }
            self.stage.set(stage + 1);
        }
    }

    fn end(&self, status: i32) {
        self.ended.set(Some(status));
        self.lock.borrow_mut().take();
    }

    /// A failure is said, and what is known by then is in the state.
    fn fail(&self, words: &str) {
        let line = json!({ "type": "diagnostic", "diagnostic": { "severity": "error", "summary": words, "detail": "" } });
        std::fs::write(&self.log, format!("{line}\n")).unwrap();
        if !self.destroys && self.stage.get() > 2 {
            self.write_state(true);
        }
        self.end(1 << 8);
    }

    fn state_file(&self) -> PathBuf {
        self.folder.join("terraform.tfstate")
    }

    fn file(&self) -> Option<(String, Value)> {
        let text = std::fs::read_to_string(self.folder.join(format!("{}.tf.json", self.name))).ok()?;
        let file: Value = serde_json::from_str(&text).ok()?;
        let vms = file.pointer("/resource/proxmox_virtual_environment_vm")?.as_object()?;
        vms.iter().next().map(|(label, vm)| (label.clone(), vm.clone()))
    }

    fn vmid_in_state(&self) -> Option<u32> {
        let state: Value = serde_json::from_str(&std::fs::read_to_string(self.state_file()).ok()?).ok()?;
        let vmid = state.pointer("/resources/0/instances/0/attributes/vm_id")?.as_u64()?;
        u32::try_from(vmid).ok()
    }

    fn write_state(&self, holds: bool) {
        let mut resources = Vec::new();
        if holds && let Some((label, vm)) = self.file() {
            resources.push(json!({ "type": "proxmox_virtual_environment_vm", "name": label,
                "instances": [{ "attributes": { "vm_id": vm["vm_id"] } }] }));
        }
        let _ =
            std::fs::write(self.state_file(), json!({ "version": 4, "resources": resources }).to_string());
    }

    /// Whether the guest it made is still at its VMID.
    fn still_there(&self, world: &World) -> bool {
        world
            .node
            .borrow()
            .guests
            .get(&self.vmid.get())
            .is_some_and(|g| g.serial == self.serial.get() && !g.elsewhere)
    }

    fn apply_stage(&self, world: &World, stage: usize) -> Result<(), String> {
        let now = world.elapsed.get();
        let (_, vm) = self.file().ok_or("there is no configuration")?;
        let vmid = vm["vm_id"].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("no vm_id")?;
        let text =
            |pointer: &str| vm.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        match stage {
            0 => Ok(()),
            1 => {
                self.vmid.set(vmid);
                let mut node = world.node.borrow_mut();
                if node.guests.contains_key(&vmid) {
                    return Err(format!("unable to create VM {vmid}: config file already exists"));
                }
                let uuid = text("/smbios/uuid");
                let manners = match world.rng.borrow_mut().below(20) {
                    0 => Manners::Deaf,
                    n @ 1..4 => Manners::Slow(n * 20),
                    _ => Manners::Prompt,
                };
                let boots = if world.misfortune(|f| f.terraform) { None } else { Some(Duration::MAX) };
                let guest = node.add(vmid, Origin::Ours { name: text("/name"), uuid }, &text("/name"));
                guest.description = text("/description");
                guest.lock = "clone".to_string();
                (guest.manners, guest.answers_at) = (manners, boots);
                self.serial.set(guest.serial);
                node.later(now + Duration::from_millis(APPLY[2] - APPLY[1]), vmid, Later::CloneDone);
                Ok(())
            }
            _ if stage < 5 && !self.still_there(world) => Err(format!("VM {vmid} does not exist")),
            2 => {
                world.node.borrow_mut().guests.get_mut(&vmid).unwrap().lock.clear();
                Ok(())
            }
            3 => {
                let mut node = world.node.borrow_mut();
                let guest = node.guests.get_mut(&vmid).unwrap();
                guest.uuid = Some(text("/smbios/uuid"));
                guest.onboot = true;
                Ok(())
            }
            4 if self.mishap == Mishap::Lies => Ok(()),
            4 => world.node.borrow_mut().act(vmid, "qm-start", now),
            _ => {
                self.write_state(true);
                Ok(())
            }
        }
    }

    fn destroy_stage(&self, world: &World, stage: usize) -> Result<(), String> {
        let (now, vmid) = (world.elapsed.get(), self.vmid.get());
        match stage {
            1 if self.mishap == Mishap::Lies => Ok(()),
            1 => {
                let (serial, elsewhere) = match world.node.borrow().guests.get(&vmid) {
                    Some(guest) => (guest.serial, guest.elsewhere),
                    // Refreshed away: there is nothing to destroy.
                    None => return Ok(()),
                };
                if elsewhere {
                    return Err(format!("VM {vmid} is not on this node"));
                }
                if serial != self.serial.get() {
                    // The provider asks for no identity.
                    world.judge(Act::Destroy, vmid);
                }
                let mut node = world.node.borrow_mut();
                if node.guests[&vmid].lock.is_empty() {
                    node.power_off(vmid);
                }
                node.act(vmid, "qm-destroy", now)
            }
            2 => {
                self.write_state(false);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
