//! The end: nothing goes wrong any more, an operator has set right what only an operator can, and the commands
//! alone must bring the house in order.

use super::book::{records, text};
use super::judge::Verb;
use super::operations::{self, Ended, NAMES, wallet_of};
use super::world::{Faults, World};
use super::{checks, others};
use provisioner::operation::gc::Options;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Settles everything; violations are what could not be settled.
pub fn settle(world: &World) {
    world.note(|| "quiet".to_string());
    world.faults.replace(Faults::default());
    world.settling.set(true);
    world.pass(Duration::from_secs(300));
    set_right_by_hand(world);
    let all = Options { execute: true, accept_gap: true, accept_share: true, ..Options::default() };
    for _ in 0..2 {
        must(world, &Verb::Gc(all), "");
        world.pass(Duration::from_secs(3600));
    }
    for (name, entry) in world.journal() {
        let uuid = entry["smbios_uuid"].as_str();
        let is_there = world.node.borrow().guests.values().any(|g| uuid.is_some() && g.birth_uuid() == uuid);
        match entry["step"].as_str() {
            // A VM that somebody has removed before its result was read is not made anew: its record is closed first,
            // as the refusal says.
            Some("registered") if is_there => {
                let wallet = wallet_of(entry["wallet_address"].as_str().unwrap_or_default());
                must(world, &Verb::Create { wallet }, &name);
            }
            _ => must(world, &Verb::Destroy { force: true }, &name),
        }
    }
    clean(world, "settled");
    must(world, &Verb::Gc(all), "");
    for name in NAMES {
        must(world, &Verb::Destroy { force: true }, name);
    }
    clean(world, "all destroyed");
    let left = world.node.borrow().guests.values().filter(|g| g.is_ours()).count();
    if left > 0 {
        world.violation(format!("{left} machines of ours are left although all were destroyed"));
    }
    must(world, &Verb::Create { wallet: 0 }, NAMES[0]);
    must(world, &Verb::Destroy { force: false }, NAMES[0]);
    clean(world, "one more made and destroyed");
}

fn must(world: &World, verb: &Verb, name: &str) {
    let begun = world.now();
    world.note(|| format!("{verb:?} {name}"));
    match operations::run(world, verb, name) {
        Ended::Done(done) => world.note(|| format!("    {done:?}")),
        other => world.violation(format!("with nothing wrong any more, {verb:?} {name} ended so: {other:?}")),
    }
    checks::after_step(world, begun);
}

/// What the commands refuse to guess at, and say so.
pub fn set_right_by_hand(world: &World) {
    {
        let mut node = world.node.borrow_mut();
        node.unmounted = false;
        for guest in node.guests.values_mut().filter(|g| g.is_ours()) {
            guest.lock.clear();
            (guest.elsewhere, guest.protection, guest.paused) = (false, false, false);
            guest.name = guest.birth_name().to_string();
        }
    }
    // Records that an older copy has lost.
    let guests: Vec<_> = {
        let node = world.node.borrow();
        node.guests.iter().filter(|(_, g)| g.is_ours()).map(|(vmid, g)| (*vmid, g.clone())).collect()
    };
    for (vmid, guest) in guests {
        let (name, uuid) = (guest.birth_name(), guest.birth_uuid());
        let known = world.record(name).is_some_and(|r| {
            text(&r, "smbios_uuid") == uuid.unwrap_or_default() && text(&r, "status") != "destroyed"
        });
        let entries = world.journal();
        let entry = entries.get(name).filter(|e| e["smbios_uuid"].as_str() == uuid);
        // Its record is in the entry, or it has none yet.
        if known || entry.is_some_and(|e| e["step"] != "destroying") {
            continue;
        }
        let key = uuid.unwrap_or(name);
        if entry.is_none() && entries.contains_key(name) || !others::restore_record(world, key) {
            // Made before the copy and of a name that was used again: nothing names it any more.
            world.note(|| format!("    VMID {vmid} ({name}) is removed by hand"));
            world.node.borrow_mut().remove(vmid);
        }
    }
    // Records that it has brought back, of VMs whose VMID is another's by now.
    let database = world.database();
    for (name, record) in records(&database).filter(|(_, r)| text(r, "status") != "destroyed") {
        let vmid = record["vmid"].as_u64().unwrap_or(0) as u32;
        let another = world.node.borrow().guests.get(&vmid).is_some_and(|g| {
            g.birth_name() != name || g.birth_uuid().unwrap_or_default() != text(record, "smbios_uuid")
        });
        if another {
            world.note(|| format!("    the record of {name} is buried by hand"));
            others::bury(world, name);
        }
    }
    let database = world.database();
    world.book.borrow_mut().adopt(&database);
}

/// Nothing has leaked: entries, addresses, snippets, folders belong to live records.
fn clean(world: &World, when: &str) {
    let database = world.database();
    let live: Vec<_> = records(&database).filter(|(_, r)| text(r, "status") != "destroyed").collect();
    let mut names: BTreeSet<&str> = live.iter().map(|(name, _)| name.as_str()).collect();
    let journal = world.journal();
    if !journal.is_empty() {
        world.violation(format!("{when}, but the journal has {journal:?}"));
    }
    let book = world.book.borrow();
    // What a lost VM has left behind goes with a destroy of its name.
    names.extend(book.disturbed.iter().map(String::as_str));
    for (list, field) in [("allocated_ips", "ip_address"), ("allocated_ipv6", "ipv6_address")] {
        let listed: BTreeSet<&str> =
            database[list].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let held: BTreeSet<&str> =
            live.iter().map(|(_, r)| text(r, field)).filter(|a| !a.is_empty()).collect();
        let odd: Vec<_> =
            listed.symmetric_difference(&held).filter(|a| !book.disturbed_addresses.contains(**a)).collect();
        if !odd.is_empty() {
            world.violation(format!("{when}, but {list} and the live records differ in {odd:?}"));
        }
    }
    for snippet in &world.node.borrow().snippets {
        let name = snippet.trim_end_matches("-user").trim_end_matches("-meta");
        if !names.contains(name) {
            world.violation(format!("{when}, but snippet {snippet} belongs to no live VM"));
        }
    }
    for folder in std::fs::read_dir(world.path("var/terraform/vms")).into_iter().flatten().flatten() {
        let name = folder.file_name().to_string_lossy().into_owned();
        if !names.contains(name.as_str()) {
            world.violation(format!("{when}, but terraform folder {name} belongs to no live VM"));
        }
    }
    let tickets = std::fs::read_dir(world.path("run/creates")).into_iter().flatten().flatten();
    if let Some(left) = tickets.map(|f| f.file_name()).find(|name| name != "queue.lock") {
        world.violation(format!("{when}, but ticket {left:?} of a create is left"));
    }
}
