//! What must hold after every step, whatever has happened in it.

use super::book::{Known, identity, records, text};
use super::judge::time;
use super::world::World;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Fields that our operations may change in a live record; all others belong to those who wrote them.
const OURS: [&str; 4] = ["status", "suspended_at", "destroyed_at", "expires_at"];

/// Looks at node, database and journal together. `begun` is when the step began.
pub fn after_step(world: &World, begun: DateTime<Utc>) {
    if world.half_written.borrow().is_some() {
        world.finish_half_written();
    }
    let database = world.database();
    let journal = world.journal();
    records_are_kept(world, &database, begun);
    every_machine_is_known(world, &database, &journal);
    nothing_is_held_twice(world, &database, &journal);
    let mut book = world.book.borrow_mut();
    let settled: Vec<String> = book
        .disturbed
        .iter()
        .filter(|name| {
            let gone = database["vms"].get(*name).is_none_or(|r| r["status"] == "destroyed");
            let node = world.node.borrow();
            let guest = node.guests.values().any(|g| g.birth_name() == *name);
            let files = world.has_folder(name) || node.snippets.contains(&format!("{name}-user"));
            gone && !guest && !files && !journal.contains_key(*name)
        })
        .cloned()
        .collect();
    for name in settled {
        book.disturbed.remove(&name);
    }
    book.adopt(&database);
    book.extended.clear();
}

/// No update of others is lost, what was paid is kept (H12, H16), and a record changes only into what it may.
fn records_are_kept(world: &World, database: &Value, begun: DateTime<Utc>) {
    if world.book.borrow_mut().take_rewritten() {
        return;
    }
    let book = world.book.borrow();
    let now: BTreeMap<_, _> = records(database).collect();
    for (name, known) in &book.known {
        let Some(record) = now.get(name) else {
            world.violation(format!("the record of {name} has vanished"));
            continue;
        };
        if identity(record) != known.identity() {
            if known.is_live() {
                world.violation(format!("the live record of {name} was replaced: {:?}", known.record));
            }
            continue;
        }
        if !known.is_live() && text(record, "status") != "destroyed" {
            world.violation(format!("the tombstone of {name} has come to life"));
        }
        if (text(record, "status") == "suspended") != record.contains_key("suspended_at")
            && text(record, "status") != "destroyed"
        {
            world.violation(format!("{name}: status and suspended_at do not agree"));
        }
        for (field, value) in known.record.iter().filter(|(field, _)| !OURS.contains(&field.as_str())) {
            if record.get(field) != Some(value) {
                world.violation(format!("{name}: {field} was {value} and is {:?}", record.get(field)));
            }
        }
        if text(record, "expires_at") != known.text("expires_at")
            && !(book.extended.contains(name) && may_be_extended(world, known, record, begun))
        {
            world.violation(format!(
                "{name}: what was paid was {} and is {}",
                known.text("expires_at"),
                text(record, "expires_at")
            ));
        }
    }
}

/// resume: an end in the future is kept unless days were asked for, and a new one counts from now.
fn may_be_extended(world: &World, known: &Known, record: &Map<String, Value>, begun: DateTime<Utc>) -> bool {
    let Some(end) = time(record, "expires_at") else { return false };
    let extend =
        |days: i64| (begun + TimeDelta::days(days)..=world.now() + TimeDelta::days(days)).contains(&end);
    let was_paid = time(&known.record, "expires_at").is_some_and(|end| end > world.now());
    let asked = world.asked_days.borrow().iter().any(|days| extend(*days));
    asked || !was_paid && extend(30)
}

/// No VM of ours without a record or an entry; no tombstone of a VM that lives; what a VM needs stays with it.
fn every_machine_is_known(world: &World, database: &Value, journal: &BTreeMap<String, Value>) {
    let (node, book) = (world.node.borrow(), world.book.borrow());
    for (vmid, guest) in node.guests.iter().filter(|(_, g)| g.is_ours()) {
        let (name, uuid) = (guest.birth_name(), guest.birth_uuid());
        let record = database["vms"].get(name).and_then(Value::as_object);
        let record = record.filter(|r| text(r, "smbios_uuid") == uuid.unwrap_or_default());
        let entry = journal.get(name).filter(|e| e["smbios_uuid"].as_str() == uuid);
        match record.map(|r| text(r, "status")) {
            Some("destroyed") if !book.disturbed.contains(name) => {
                world.violation(format!("the record of {name} is destroyed, but VMID {vmid} lives"));
            }
            None if entry.is_none() && !book.disturbed.contains(name) => {
                world.violation(format!(
                    "VMID {vmid} ({:?}) has neither record nor journal entry",
                    guest.origin
                ));
            }
            _ => {}
        }
        let whole = ["user", "meta"].iter().all(|kind| node.snippets.contains(&format!("{name}-{kind}")));
        if uuid.is_some() && !whole {
            world.violation(format!("VM {name} (VMID {vmid}) lives, but its snippets are gone"));
        }
        if uuid.is_some() && !world.has_folder(name) {
            world.violation(format!("VM {name} (VMID {vmid}) lives, but its terraform folder is gone"));
        }
    }
}

/// Live records and entries of other names never share a VMID or an address.
fn nothing_is_held_twice(world: &World, database: &Value, journal: &BTreeMap<String, Value>) {
    let book = world.book.borrow();
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    let mut hold = |what: String, name: &str| {
        let before = holders.insert(what.clone(), name.to_string());
        if let Some(other) = before.filter(|other| other != name)
            && !book.disturbed.contains(name)
            && !book.disturbed.contains(&other)
        {
            world.violation(format!("{what} is held by {other} and by {name}"));
        }
    };
    for (name, record) in records(database).filter(|(_, r)| text(r, "status") != "destroyed") {
        hold(format!("VMID {}", record["vmid"]), name);
        for address in ["ip_address", "ipv6_address"].map(|field| text(record, field)) {
            if !address.is_empty() {
                hold(address.to_string(), name);
            }
        }
    }
    for (name, entry) in journal {
        hold(format!("VMID {}", entry["vmid"]), name);
        for address in ["ipv4", "ipv6"].map(|field| entry[field].as_str().unwrap_or_default()) {
            if !address.is_empty() {
                hold(address.to_string(), name);
            }
        }
    }
}
