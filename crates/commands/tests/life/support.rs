//! What every test here needs: commands with their words, the database, records, comparisons.

use lab::Lab;
use lab::model::{Call, GuestSnapshot};
use serde_json::Value;
use std::process::{Command, Stdio};
pub use test_support::{Ended, Running, SOON, WALLET, edit, read, run, until, write};

/// `vm("status", "web-1")` of a lab.
pub trait Commands {
    fn vm_command(&self, verb: &str, arguments: &[&str]) -> Command;

    fn vm(&self, verb: &str, arguments: &[&str]) -> Ended {
        run(self.vm_command(verb, arguments))
    }

    /// With rules for the debug build's failpoints.
    fn vm_with(&self, rules: &str, verb: &str, arguments: &[&str]) -> Ended {
        run(self.vm_command(verb, arguments).env("BLOCKHOST_FAULT", rules))
    }

    /// In the background.
    fn vm_start(&self, rules: &str, verb: &str, arguments: &[&str]) -> Running {
        test_support::start(self.vm_command(verb, arguments).env("BLOCKHOST_FAULT", rules))
    }

    /// A web3 VM with the usual wallet; must succeed.
    #[track_caller]
    fn made(&self, name: &str) -> Ended {
        self.made_with(name, &[])
    }

    /// The same with more flags.
    #[track_caller]
    fn made_with(&self, name: &str, more: &[&str]) -> Ended {
        self.create(name, more).ends(0)
    }

    /// The same, which may fail.
    fn create(&self, name: &str, more: &[&str]) -> Ended {
        let arguments: Vec<&str> =
            [name, "--owner-wallet", WALLET, "--apply"].iter().chain(more).copied().collect();
        self.vm("create", &arguments)
    }
}

impl Commands for Lab {
    fn vm_command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(&format!("blockhost-vm-{verb}"));
        command.args(arguments).stdin(Stdio::null());
        command
    }
}

/// The VM database.
pub fn database(lab: &Lab) -> Value {
    serde_json::from_str(&read(&lab.path("var/vms.json"))).unwrap()
}

/// A VM's record.
pub fn record(lab: &Lab, name: &str) -> Value {
    database(lab)["vms"][name].clone()
}

/// Changes a record as another program would.
pub fn edit_record(lab: &Lab, name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let mut all = database(lab);
    change(all["vms"][name].as_object_mut().unwrap());
    write_database(lab, &all);
}

pub fn write_database(lab: &Lab, all: &Value) {
    write(&lab.path("var/vms.json"), &format!("{all:#}\n"));
}

/// More lines for db.yaml.
pub fn add_settings(lab: &Lab, lines: &str) {
    let path = lab.path("etc/blockhost/db.yaml");
    write(&path, &format!("{}{lines}\n", read(&path)));
}

/// The guest on the node.
pub fn guest(lab: &Lab, vmid: u32) -> GuestSnapshot {
    lab.control().snapshot().unwrap().guests[&vmid].clone()
}

/// The VMID of a VM's record.
pub fn vmid(lab: &Lab, name: &str) -> u32 {
    u32::try_from(record(lab, name)["vmid"].as_u64().unwrap()).unwrap()
}

/// Everything that a refused command must leave as it is.
#[derive(Debug, PartialEq)]
pub struct World {
    node: lab::model::Snapshot,
    database: String,
    folders: Vec<String>,
    journal: Vec<String>,
}

impl World {
    /// Fails with the lines that differ.
    #[track_caller]
    pub fn same(&self, before: &World, what: &str) {
        if self == before {
            return;
        }
        let (now, before) = (format!("{self:#?}"), format!("{before:#?}"));
        let changed: Vec<&str> = now.lines().filter(|line| !before.contains(line)).collect();
        let lost: Vec<&str> = before.lines().filter(|line| !now.contains(line)).collect();
        panic!("{what}: something was changed: now {changed:#?}, before {lost:#?}");
    }

    /// A destroy that was refused half-way leaves its entry, so that the next one goes on.
    pub fn forget_journal(&mut self) {
        self.journal.clear();
    }
}

pub fn world(lab: &Lab) -> World {
    let mut folders: Vec<String> = Vec::new();
    let places = ["var/terraform", "var/terraform/vms", "node/var/lib/vz/snippets"];
    for place in places.map(|place| lab.path(place)) {
        for entry in std::fs::read_dir(&place).into_iter().flatten() {
            folders.push(entry.unwrap().path().display().to_string());
        }
    }
    // Made by the first create, and of no consequence.
    folders.retain(|folder| !folder.ends_with("/terraform/vms"));
    folders.sort();
    let entries = std::fs::read_dir(lab.path("var/journal")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let journal = names.filter(|name| name.ends_with(".json")).collect();
    World {
        node: lab.control().snapshot().unwrap(),
        database: read(&lab.path("var/vms.json")),
        folders,
        journal,
    }
}

/// What was asked of the node and the agent since, without looks.
pub fn acts(calls: &[Call]) -> Vec<String> {
    let is_act = |call: &&Call| match call.kind.as_str() {
        "agent" => call.what != "vm-state",
        "api" => !call.what.starts_with("GET "),
        _ => true,
    };
    calls.iter().filter(is_act).map(|call| call.what.clone()).collect()
}

/// The VM's own terraform resource.
pub fn terraform_vm(lab: &Lab, name: &str) -> Value {
    let file = lab.path(format!("var/terraform/vms/{name}/{name}.tf.json"));
    let all: Value = serde_json::from_str(&read(&file)).unwrap();
    let vms = all["resource"]["proxmox_virtual_environment_vm"].as_object().unwrap();
    assert_eq!(vms.len(), 1, "{all}");
    vms.values().next().unwrap().clone()
}

/// A root agent whose plugin is older than the commands: VMs that are made from now on have no guard.
pub fn without_guard(lab: &Lab) {
    for action in ["guard-set", "guard-clear"] {
        let unknown = lab::model::FaultAction::error(format!("Unknown action: {action}"));
        lab.control().fault(&format!("agent.{action}.before"), unknown, 100_000).unwrap();
    }
}

/// After a VM went off: what the node's hook script takes away has gone.
pub fn until_unguarded(lab: &Lab) {
    until("the hook script's last phase", || {
        let node = lab.control().snapshot().unwrap();
        let on = |vmid: u32| node.ports.contains_key(&format!("tap{vmid}i0"));
        // Its last act is to forget what it left.
        let guarded = |vmid: u32| lab.path(format!("node/run/blockhost-guard/{vmid}.json")).exists();
        !(100..110).any(|vmid| !on(vmid) && guarded(vmid))
    });
}
