//! One lab with placed VMs, another writer of the database, and how commands ended.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use lab::model::{GuestSnapshot, NewGuest, Power};
use lab::{Lab, LabBuilder};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
pub use test_support::{Ended, Running, SOON, WALLET, read, run, start, until, write};

/// A VM that is placed.
#[derive(Debug, Clone)]
pub struct Vm {
    pub name: String,
    pub vmid: u32,
    pub status: &'static str,
    /// Days from now.
    pub expires: i64,
    /// Days ago; of a suspended one.
    pub suspended: i64,
    pub running: bool,
    pub more: Map<String, Value>,
}

/// Active, and its time is over.
pub fn expired(name: &str, vmid: u32) -> Vm {
    Vm {
        name: name.into(),
        vmid,
        status: "active",
        expires: -1,
        suspended: 0,
        running: true,
        more: Map::new(),
    }
}

/// Active and paid.
pub fn paid(name: &str, vmid: u32) -> Vm {
    Vm { expires: 20, ..expired(name, vmid) }
}

/// Suspended, and the grace period is over.
pub fn due(name: &str, vmid: u32) -> Vm {
    Vm { status: "suspended", expires: -30, suspended: 8, running: false, ..expired(name, vmid) }
}

/// Suspended for two days.
pub fn in_grace(name: &str, vmid: u32) -> Vm {
    Vm { expires: -2, suspended: 2, ..due(name, vmid) }
}

impl Vm {
    pub fn with(mut self, key: &str, value: Value) -> Vm {
        self.more.insert(key.into(), value);
        self
    }

    fn uuid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.vmid)
    }

    fn ip(&self) -> String {
        format!("192.168.122.{}", self.vmid % 200)
    }

    fn ipv6(&self) -> String {
        format!("2a11:6c7:f04:276::{:x}", self.vmid % 200)
    }

    fn record(&self) -> Value {
        let mut record = json!({
            "vm_name": self.name, "vmid": self.vmid, "ip_address": self.ip(), "ipv6_address": self.ipv6(),
            "expires_at": days_from_now(self.expires), "owner": "admin", "status": self.status,
            "created_at": days_from_now(-100), "purpose": "", "wallet_address": WALLET, "owner_wallet": WALLET,
            "username": "admin", "network_mode": "broker", "smbios_uuid": self.uuid(), "beacon_name": "keep me",
        });
        if self.status == "suspended" {
            record["suspended_at"] = days_from_now(-self.suspended).into();
        }
        for (key, value) in &self.more {
            record[key] = value.clone();
        }
        record
    }

    fn guest(&self) -> NewGuest {
        let onboot = u8::from(self.status == "active").to_string();
        NewGuest {
            vmid: self.vmid,
            name: self.name.clone(),
            running: self.running,
            config: BTreeMap::from([
                ("smbios1".to_owned(), format!("uuid={}", self.uuid())),
                ("onboot".into(), onboot),
            ]),
            disk_gib: 1,
            pool: Some("blockhost".into()),
            ..NewGuest::default()
        }
    }
}

/// As the contract writes times (`facts/contract/database.md#form`).
pub fn days_from_now(days: i64) -> String {
    text_of(Utc::now() + TimeDelta::days(days))
}

pub fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, false)
}

/// One lab with shorthands.
pub struct Site {
    pub lab: Lab,
}

impl Site {
    /// With these VMs, and a note that gc ran a day ago.
    pub fn with(vms: &[Vm]) -> Site {
        Site::of(Lab::builder(), vms)
    }

    pub fn of(builder: LabBuilder, vms: &[Vm]) -> Site {
        let site = Site { lab: builder.start().unwrap() };
        site.place(vms);
        site.note_last_run(-1);
        site
    }

    /// More of them.
    pub fn place(&self, vms: &[Vm]) {
        self.lab.control().add_guests(vms.iter().map(Vm::guest).collect()).unwrap();
        self.write_as_another(|all| {
            for vm in vms {
                all["vms"][&vm.name] = vm.record();
                all["allocated_ips"].as_array_mut().unwrap().push(vm.ip().into());
                all["allocated_ipv6"].as_array_mut().unwrap().push(vm.ipv6().into());
            }
        });
    }

    /// A VM made by the real create, terraform included.
    pub fn made(&self, name: &str) -> u32 {
        let command = self.verb("create", &[name, "--owner-wallet", WALLET, "--apply"]);
        let _ = run(command).ok();
        u32::try_from(self.record(name)["vmid"].as_u64().unwrap()).unwrap()
    }

    /// The note of gc's last run, so many days from now.
    pub fn note_last_run(&self, days: i64) {
        write(&self.path("var/gc-last-run.json"), &json!({ "at": days_from_now(days) }).to_string());
    }

    /// When gc last ran, as it is noted.
    pub fn last_run(&self) -> DateTime<Utc> {
        let note: Value = serde_json::from_str(&read(&self.path("var/gc-last-run.json"))).unwrap();
        note["at"].as_str().unwrap().parse().unwrap()
    }

    pub fn path(&self, below: &str) -> std::path::PathBuf {
        self.lab.path(below)
    }

    pub fn verb(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = self.lab.command(&format!("blockhost-vm-{verb}"));
        command.args(arguments);
        command
    }

    pub fn gc(&self, arguments: &[&str]) -> Ended {
        run(self.verb("gc", arguments))
    }

    /// `gc --execute` with fault rules of the debug build.
    pub fn gc_with(&self, rules: &str, arguments: &[&str]) -> Ended {
        let mut command = self.verb("gc", &[&["--execute"], arguments].concat());
        command.env("BLOCKHOST_FAULT", rules);
        run(command)
    }

    pub fn resume(&self, arguments: &[&str]) -> Ended {
        run(self.verb("resume", arguments))
    }

    pub fn database(&self) -> Value {
        serde_json::from_str(&read(&self.path("var/vms.json"))).unwrap()
    }

    pub fn record(&self, name: &str) -> Value {
        self.database()["vms"][name].clone()
    }

    pub fn status(&self, name: &str) -> String {
        self.record(name)["status"].as_str().unwrap_or("none").to_owned()
    }

    /// Another program that follows the contract (`facts/contract/database.md`): flock, read, change, write aside,
    /// rename.
    pub fn write_as_another(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("var/vms.json");
        let lock = std::fs::File::create(self.path("var/vms.json.lock")).unwrap();
        lock.lock().unwrap();
        let mut all: Value = serde_json::from_str(&read(&path)).unwrap();
        change(&mut all);
        let aside = self.path("var/.vms.json.another");
        write(&aside, &format!("{all:#}\n"));
        std::fs::rename(aside, path).unwrap();
    }

    /// An engine that has seen a payment.
    pub fn renew(&self, name: &str, days: i64) -> String {
        let end = days_from_now(days);
        self.write_as_another(|all| all["vms"][name]["expires_at"] = end.clone().into());
        end
    }

    /// Everybody's time passes: all stamps of the records and of gc's note move back.
    pub fn days_pass(&self, days: i64) {
        let shift = |value: &mut Value| {
            if let Some(time) = value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok()) {
                *value = text_of(time - TimeDelta::days(days)).into();
            }
        };
        self.write_as_another(|all| {
            for (_, record) in all["vms"].as_object_mut().unwrap() {
                for key in ["expires_at", "suspended_at", "created_at", "destroyed_at"] {
                    if let Some(value) = record.get_mut(key) {
                        shift(value);
                    }
                }
            }
        });
        let mut note: Value = serde_json::from_str(&read(&self.path("var/gc-last-run.json"))).unwrap();
        shift(&mut note["at"]);
        write(&self.path("var/gc-last-run.json"), &note.to_string());
    }

    pub fn guests(&self) -> BTreeMap<u32, GuestSnapshot> {
        let mut guests = self.lab.control().snapshot().unwrap().guests;
        guests.retain(|_, guest| !guest.template);
        guests
    }

    pub fn guest(&self, vmid: u32) -> GuestSnapshot {
        self.guests().remove(&vmid).unwrap_or_else(|| panic!("no guest {vmid}"))
    }

    pub fn exists(&self, vmid: u32) -> bool {
        self.guests().contains_key(&vmid)
    }

    pub fn runs(&self, vmid: u32) -> bool {
        self.guest(vmid).power == Power::Running
    }

    /// Suspended as it should be: off, not started by the node, recorded, and its record otherwise as it was.
    #[track_caller]
    pub fn is_suspended(&self, name: &str, vmid: u32) {
        let (record, guest) = (self.record(name), self.guest(vmid));
        assert_eq!((guest.power, guest.onboot), (Power::Stopped, false), "{name}");
        assert_eq!(record["status"], "suspended", "{name}");
        let at: DateTime<Utc> = record["suspended_at"].as_str().unwrap().parse().unwrap();
        assert!((Utc::now() - at).num_days() < 365 && at <= Utc::now(), "{name}: {at}");
        assert_eq!(record["smbios_uuid"].as_str().map(str::len), Some(36), "{name}");
    }

    /// Active as it should be: runs, starts with the node.
    #[track_caller]
    pub fn is_active(&self, name: &str, vmid: u32) {
        let (record, guest) = (self.record(name), self.guest(vmid));
        assert_eq!((guest.power, guest.onboot), (Power::Running, true), "{name}");
        assert_eq!(record["status"], "active", "{name}");
        assert!(record.get("suspended_at").is_none(), "{name}: {record}");
    }

    /// Gone as it should be: no guest, no disk, no address held, no folder, no journal; the record stays.
    #[track_caller]
    pub fn is_destroyed(&self, name: &str, vmid: u32) {
        let all = self.database();
        let record = &all["vms"][name];
        assert_eq!(record["status"], "destroyed", "{name}");
        assert!(record["destroyed_at"].is_string(), "{name}: {record}");
        assert!(!self.exists(vmid), "{name} is on the node");
        let node = self.lab.control().snapshot().unwrap();
        assert!(node.volumes.values().all(|volume| volume.vmid != vmid), "{name}: {:#?}", node.volumes);
        assert!(node.snippets.keys().all(|file| !file.contains(&format!("-{name}-"))), "{name}");
        for (list, key) in [("allocated_ips", "ip_address"), ("allocated_ipv6", "ipv6_address")] {
            assert!(
                !all[list].as_array().unwrap().contains(&record[key]),
                "{name}: {list} holds its address"
            );
        }
        assert!(!self.path(&format!("var/terraform/vms/{name}")).exists(), "{name}");
        assert!(!self.path(&format!("var/journal/{name}.json")).exists(), "{name}");
    }

    /// Nothing of a run is left over.
    #[track_caller]
    pub fn is_tidy(&self) {
        assert!(!self.path("var/gc-under-way.json").exists());
        for folder in ["var", "var/journal"] {
            for entry in std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                let known = ["vms.json", "gc-last-run.json"].contains(&name.as_str());
                assert!(
                    known || !name.ends_with(".json") && !name.contains(".tmp"),
                    "{folder}/{name} is left"
                );
            }
        }
    }

    /// Starts `gc --execute` that waits at a point; comes back when it is there.
    pub fn gc_held_at(&self, point: &str, ms: u64, arguments: &[&str]) -> Running {
        self.held_at(point, ms, self.verb("gc", &[&["--execute"], arguments].concat()))
    }

    /// Starts a command that waits at each passing of a point; comes back when it is there for the first time.
    pub fn held_at(&self, point: &str, ms: u64, mut command: Command) -> Running {
        let trace = self.path(&format!("trace-{}", point.replace('/', "-")));
        let _ = std::fs::remove_file(&trace);
        command.env("BLOCKHOST_FAULT", format!("trace@{} sleep@{point}={ms}", trace.display()));
        let running = start(command);
        until(&format!("{point} is reached"), || {
            std::fs::read_to_string(&trace).is_ok_and(|text| text.lines().any(|line| line == point))
        });
        running
    }
}

/// What gc prints.
pub trait Report {
    /// stdout, byte for byte; but for since when what is only due has been so.
    fn prints(self, text: &str) -> Self;
}

impl Report for Ended {
    #[track_caller]
    fn prints(self, text: &str) -> Ended {
        let lines = self.out.lines().map(|line| line.split_once(": expired ").map_or(line, |(what, _)| what));
        let said: String = lines.map(|line| format!("{line}\n")).collect();
        assert_eq!(said, text, "{}", self.err);
        self
    }
}

/// All files below a folder with their content, and the node: what a dry run must leave as it is.
pub fn everything(site: &Site) -> (BTreeMap<String, Vec<u8>>, lab::model::Snapshot) {
    fn files(folder: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if path.ends_with("var/audit") {
                continue;
            }
            if kind.is_dir() {
                all.insert(path.display().to_string(), Vec::new());
                files(&path, all);
            } else if kind.is_file() {
                all.insert(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    for folder in ["var", "run", "etc"] {
        files(&site.path(folder), &mut all);
    }
    (all, site.lab.control().snapshot().unwrap())
}
