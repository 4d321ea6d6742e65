//! What the simulation knows of the database beside the database: what was paid, which fields others have added,
//! and what a writer without the lock has undone (which is not ours to answer for).

use super::world::World;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A record as it stood at the last look.
#[derive(Debug, Clone)]
pub struct Known {
    pub record: Map<String, Value>,
}

impl Known {
    pub fn text(&self, key: &str) -> &str {
        text(&self.record, key)
    }

    /// Which VM this is a record of.
    pub fn identity(&self) -> (String, u64) {
        identity(&self.record)
    }

    pub fn is_live(&self) -> bool {
        self.text("status") != "destroyed"
    }
}

pub fn text<'r>(record: &'r Map<String, Value>, key: &str) -> &'r str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub fn identity(record: &Map<String, Value>) -> (String, u64) {
    (text(record, "smbios_uuid").to_string(), record.get("vmid").and_then(Value::as_u64).unwrap_or(0))
}

#[derive(Default)]
pub struct Book {
    pub known: BTreeMap<String, Known>,
    /// Names whose records a writer without the lock, or an older copy, has changed into something else: until
    /// they are destroyed or made anew, nobody answers for them.
    pub disturbed: BTreeSet<String>,
    /// Records that were lost so, by UUID (by name for older ones): what an operator would restore.
    pub lost: BTreeMap<String, (String, Map<String, Value>)>,
    /// Addresses that such a writer put into a list or took from it.
    pub disturbed_addresses: BTreeSet<String>,
    /// The file was changed under the hands of whoever works with it: the next look believes it.
    rewritten: bool,
    adopted: Option<Rc<Value>>,
    /// Older copies.
    pub copies: Vec<String>,
    /// Names that a resume may have extended in this step.
    pub extended: BTreeSet<String>,
}

impl Book {
    pub fn was_rewritten(&mut self) {
        self.rewritten = true;
    }

    pub fn take_rewritten(&mut self) -> bool {
        std::mem::take(&mut self.rewritten)
    }

    /// Takes the file as it is.
    pub fn adopt(&mut self, database: &Rc<Value>) {
        if self.adopted.as_ref().is_some_and(|known| Rc::ptr_eq(known, database)) {
            return;
        }
        self.adopted = Some(database.clone());
        self.known = records(database).map(|(name, r)| (name.clone(), Known { record: r.clone() })).collect();
    }

    /// A writer with the lock has made this of the record.
    pub fn changed(&mut self, name: String, record: Map<String, Value>) {
        self.adopted = None;
        self.known.insert(name, Known { record });
    }

    /// Notes the difference that a writer made who did not ask: `before` and `after` are whole databases.
    pub fn replaced(&mut self, before: &Value, after: &Value) {
        let old: BTreeMap<_, _> = records(before).collect();
        let new: BTreeMap<_, _> = records(after).collect();
        for name in old.keys().chain(new.keys()) {
            let what =
                |r: Option<&&Map<String, Value>>| r.map(|r| (identity(r), text(r, "status") == "destroyed"));
            if what(old.get(name)) == what(new.get(name)) {
                continue;
            }
            self.disturbed.insert((*name).clone());
            for record in [old.get(name), new.get(name)].into_iter().flatten() {
                let uuid = text(record, "smbios_uuid");
                let key = if uuid.is_empty() { (*name).clone() } else { uuid.to_string() };
                if text(record, "status") != "destroyed" {
                    self.lost.insert(key, ((*name).clone(), (*record).clone()));
                }
                for field in ["ip_address", "ipv6_address"] {
                    self.disturbed_addresses.insert(text(record, field).to_string());
                }
            }
        }
        for list in ["allocated_ips", "allocated_ipv6"] {
            let of = |db: &Value| -> BTreeSet<String> {
                let list = db[list].as_array().into_iter().flatten();
                list.filter_map(Value::as_str).map(str::to_string).collect()
            };
            let (old, new) = (of(before), of(after));
            self.disturbed_addresses.extend(old.symmetric_difference(&new).cloned());
        }
        self.rewritten = true;
    }
}

/// The records of a database.
pub fn records(database: &Value) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    let vms = database["vms"].as_object().into_iter().flatten();
    vms.filter_map(|(name, record)| record.as_object().map(|r| (name, r)))
}

impl World {
    /// The database, whole: who writes it in place ends first.
    pub fn database(&self) -> Rc<Value> {
        let read = || std::fs::read_to_string(self.path("var/vms.json")).unwrap_or_else(|_| "{}".to_string());
        let mut text = read();
        if let Some((known, database)) = &*self.parsed.borrow()
            && *known == text
        {
            return database.clone();
        }
        let parsed: Value = serde_json::from_str(&text).unwrap_or_else(|_| {
            self.finish_half_written();
            text = read();
            serde_json::from_str(&text).expect("a whole database")
        });
        let database = Rc::new(parsed);
        self.parsed.replace(Some((text, database.clone())));
        database
    }

    pub fn record(&self, name: &str) -> Option<Map<String, Value>> {
        self.database()["vms"].get(name).and_then(Value::as_object).cloned()
    }

    /// The entries of the journal: by name.
    pub fn journal(&self) -> BTreeMap<String, Value> {
        let mut entries = BTreeMap::new();
        for file in std::fs::read_dir(self.path("var/journal")).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".json") {
                let text = std::fs::read_to_string(file.path()).unwrap_or_default();
                entries.insert(name.to_string(), serde_json::from_str(&text).unwrap_or_default());
            }
        }
        entries
    }

    pub fn has_folder(&self, name: &str) -> bool {
        self.path("var/terraform/vms").join(name).exists()
    }
}
