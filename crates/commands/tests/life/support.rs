//! What every test here needs: commands with their words, the database, records, comparisons.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::Lab;
use lab::model::{Call, GuestSnapshot};
use serde_json::Value;

pub const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";
/// Generous: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(30);

/// What a command said, and its exit code (`None`: killed by a signal).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    /// Exit code 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Exit code 1, nothing on stdout, one `error:` line that holds all these words.
    #[track_caller]
    pub fn fails(self, words: &[&str]) -> Self {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{self:?}");
        let errors: Vec<&str> = self.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        for word in words {
            assert!(errors[0].contains(word), "{word:?} is not in: {}", errors[0]);
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }

    /// stderr holds all these words.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        self
    }
}

/// `vm("status", "web-1")` of a lab.
pub trait Commands {
    fn vm_command(&self, verb: &str, arguments: &[&str]) -> Command;

    fn vm(&self, verb: &str, arguments: &[&str]) -> Said {
        self.vm_command(verb, arguments).output().unwrap().into()
    }

    /// With rules for the debug build's failpoints.
    fn vm_with(&self, rules: &str, verb: &str, arguments: &[&str]) -> Said {
        self.vm_command(verb, arguments).env("BLOCKHOST_FAULT", rules).output().unwrap().into()
    }

    /// In the background.
    fn vm_start(&self, rules: &str, verb: &str, arguments: &[&str]) -> Running {
        let mut command = self.vm_command(verb, arguments);
        command.env("BLOCKHOST_FAULT", rules).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(Some(command.spawn().unwrap()))
    }

    /// A web3 VM with the usual wallet; must succeed.
    #[track_caller]
    fn made(&self, name: &str) -> Said {
        self.made_with(name, &[])
    }

    /// The same with more flags.
    #[track_caller]
    fn made_with(&self, name: &str, more: &[&str]) -> Said {
        self.create(name, more).ok()
    }

    /// The same, which may fail.
    fn create(&self, name: &str, more: &[&str]) -> Said {
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

/// A command in the background; killed when the test fails.
pub struct Running(Option<Child>);

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Its end.
    pub fn wait(mut self) -> Said {
        self.0.take().unwrap().wait_with_output().unwrap().into()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// SIGTERM.
pub fn terminate(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

/// Waits until `seen`; fails with `what` when it does not come.
#[track_caller]
pub fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !seen() {
        assert!(Instant::now() < deadline, "did not come: {what}");
        std::thread::sleep(Duration::from_millis(5));
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

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Changes a file of the lab.
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = read(path);
    assert!(text.contains(from), "{from:?} is not in {}: {text}", path.display());
    write(path, &text.replace(from, to));
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
