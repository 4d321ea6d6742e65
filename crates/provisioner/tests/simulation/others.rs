//! Everybody else: engines that write the database with and without the lock, an operator on the node, strangers,
//! and other commands of ours at the same time.

use super::book::text;
use super::judge::Verb;
use super::node::{Manners, Origin, RANGE, TEMPLATE};
use super::operations;
use super::rng::Rng;
use super::world::World;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::rc::Rc;

/// Acts while an operation is under way, at `place`.
pub fn in_the_middle(world: &World, place: &str) {
    let kind = world.rng.borrow_mut().weighted(&[40, 12, 28, 20]);
    match kind {
        0 => with_lock(world),
        1 => without_lock(world, false),
        2 => by_hand(world),
        // Inside a write or a locked change another command of ours would only wait.
        _ if place.starts_with("write.") || database_lock(world).is_none() => {}
        _ => {
            let (verb, name) = Verb::draw(world);
            world.note(|| format!("    meanwhile {verb:?} {name} at {place}"));
            let ended = operations::run(world, &verb, &name);
            world.note(|| format!("    meanwhile ended: {ended:?}"));
        }
    }
}

/// The lock of the database, if nobody holds it.
fn database_lock(world: &World) -> Option<File> {
    let path = world.path("var/vms.json.lock");
    let file = File::options().create(true).append(true).open(path).unwrap();
    file.try_lock().is_ok().then_some(file)
}

fn to_text(moment: DateTime<Utc>) -> Value {
    moment.to_rfc3339_opts(chrono::SecondsFormat::Micros, false).into()
}

/// What an engine changes in a record.
fn change(world: &World, database: &mut Value) -> Option<String> {
    let now = world.now();
    let mut rng = world.rng.borrow_mut();
    let vms = database["vms"].as_object_mut()?;
    let live = |(_, r): &(&String, &Value)| r["status"] != "destroyed";
    let names: Vec<String> = vms.iter().filter(live).map(|(name, _)| name.clone()).collect();
    let name = rng.pick(&names)?.clone();
    let record = vms.get_mut(&name)?;
    let what = match rng.below(12) {
        0..=3 => {
            let end = now + TimeDelta::hours(rng.below(24 * 60) as i64);
            record["expires_at"] = to_text(end);
            format!("renews until {end}")
        }
        4..=7 => {
            let end = now - TimeDelta::hours(rng.below(24 * 30) as i64);
            record["expires_at"] = to_text(end);
            format!("sets the end to {end}")
        }
        8 => {
            let on = rng.chance(300);
            record["protected"] = on.into();
            format!("protected: {on}")
        }
        9 => {
            record["nft_token_id"] = format!("{:064x}", rng.next()).into();
            "sets a token".to_string()
        }
        10 => {
            record["gecos_synced"] = rng.chance(500).into();
            "sets gecos_synced".to_string()
        }
        _ => {
            record["beacon_name"] = format!("b{}", rng.below(9)).into();
            "sets a beacon".to_string()
        }
    };
    Some(format!("{name}: {what}"))
}

/// A writer that takes the lock: nothing of it may be lost, and it loses nothing of ours.
pub fn with_lock(world: &World) {
    let Some(_lock) = database_lock(world) else { return };
    world.finish_half_written();
    let mut database = (*world.database()).clone();
    let Some(what) = change(world, &mut database) else { return };
    let name = what.split(':').next().unwrap_or_default().to_string();
    world.note(|| format!("    an engine (with the lock) {what}"));
    replace(world, &database);
    let record = database["vms"][&name].as_object().unwrap().clone();
    world.book.borrow_mut().changed(name, record);
}

fn replace(world: &World, database: &Value) {
    let path = world.path("var/vms.json");
    let temporary = world.path("var/other-writer.tmp");
    std::fs::write(&temporary, serde_json::to_string_pretty(database).unwrap()).unwrap();
    std::fs::rename(&temporary, &path).unwrap();
}

/// A writer that takes none: by rename or in place, from what it has just read or read long ago.
pub fn without_lock(world: &World, older_copy: bool) {
    if !world.path("var/vms.json").exists() {
        return;
    }
    world.finish_half_written();
    let before = world.database();
    let mut database = (*before).clone();
    let mut what = change(world, &mut database).unwrap_or_default();
    let stale = {
        let (mut rng, book) = (world.rng.borrow_mut(), world.book.borrow());
        let stale = older_copy || rng.chance(100);
        stale.then(|| rng.pick(&book.copies).cloned()).flatten()
    };
    if let Some(copy) = stale {
        database = serde_json::from_str(&copy).unwrap();
        what = "puts an older copy back".to_string();
    } else if world.rng.borrow_mut().chance(100) {
        database["allocated_ips"] = json!([]);
        what.push_str(" and drops a list");
    }
    let in_place = world.rng.borrow_mut().chance(400);
    world.note(|| {
        format!("    an engine (without the lock{}) {what}", if in_place { ", in place" } else { "" })
    });
    world.book.borrow_mut().replaced(&before, &database);
    if in_place {
        let text = serde_json::to_vec_pretty(&database).unwrap();
        let (now, later) = text.split_at(text.len() / 2);
        let mut file = File::create(world.path("var/vms.json")).unwrap();
        file.write_all(now).unwrap();
        world.half_written.replace(Some((file, later.to_vec())));
    } else {
        replace(world, &database);
    }
}

/// An operator on the node, or somebody else's automation.
#[allow(clippy::too_many_lines, reason = "one arm for each thing that somebody may do")]
pub fn by_hand(world: &World) {
    let now = world.elapsed.get();
    let mut rng = world.rng.borrow_mut();
    let mut node = world.node.borrow_mut();
    let working = |vmid: &u32| world.runs.borrow().iter().any(|run| run.works_on(*vmid));
    let ours: Vec<u32> = node
        .guests
        .iter()
        .filter(|(v, g)| g.is_ours() && g.lock != "clone" && !working(v))
        .map(|(v, _)| *v)
        .collect();
    let what = match rng.weighted(&[6, 4, 6, 5, 10, 6, 6, 6, 4, 5, 4, 4, 2, 14]) {
        0 => {
            node.reboot(now);
            world.touched.borrow_mut().extend(&ours);
            "the node reboots".to_string()
        }
        1 => stranger(&mut node, &mut rng),
        2 => {
            let all: Vec<u32> = node
                .guests
                .iter()
                .filter(|(_, g)| g.origin == Origin::Stranger)
                .map(|(vmid, _)| *vmid)
                .collect();
            let Some(vmid) = rng.pick(&all).copied() else { return };
            node.remove(vmid);
            format!("the stranger at {vmid} goes")
        }
        3 => {
            let Some(vmid) = rng.pick(&ours).copied() else { return };
            node.remove(vmid);
            if rng.chance(500) {
                let guest = node.add(vmid, Origin::Stranger, "database");
                guest.running = true;
            }
            format!(
                "VMID {vmid} is removed by hand, {}",
                if node.guests.contains_key(&vmid) { "a stranger takes it" } else { "it is free" }
            )
        }
        12 => {
            node.unmounted = !node.unmounted;
            format!("/etc/pve unmounted: {}", node.unmounted)
        }
        13 => {
            node.unmounted = false;
            for guest in node.guests.values_mut().filter(|g| g.is_ours() && g.lock != "clone") {
                guest.elsewhere = false;
                guest.protection = false;
                guest.lock.clear();
                guest.name = guest.birth_name().to_string();
            }
            "all is mounted and back".to_string()
        }
        kind => {
            let Some(vmid) = rng.pick(&ours).copied() else { return };
            world.touched.borrow_mut().insert(vmid);
            let what = match kind {
                4 | 5 => {
                    node.act(vmid, if kind == 4 { "qm-start" } else { "qm-stop" }, now).ok();
                    if kind == 4 { "started" } else { "stopped" }
                }
                6 => {
                    let guest = node.guests.get_mut(&vmid).unwrap();
                    guest.paused = guest.running && !guest.paused;
                    "paused or continued"
                }
                7 => {
                    let guest = node.guests.get_mut(&vmid).unwrap();
                    guest.lock = if guest.lock.is_empty() { "backup".to_string() } else { String::new() };
                    "locked or unlocked"
                }
                8 => {
                    let guest = node.guests.get_mut(&vmid).unwrap();
                    guest.protection = !guest.protection;
                    "protected or unprotected"
                }
                9 => {
                    let guest = node.guests.get_mut(&vmid).unwrap();
                    guest.elsewhere = !guest.elsewhere;
                    node.isolated.remove(&vmid);
                    "migrated there or back"
                }
                10 => {
                    let guest = node.guests.get_mut(&vmid).unwrap();
                    let birth = guest.birth_name().to_string();
                    guest.name = if guest.name == birth { "renamed".to_string() } else { birth };
                    "renamed"
                }
                _ => {
                    let guest = node.guests.get_mut(&vmid).unwrap();
                    guest.manners = *rng.pick(&[Manners::Prompt, Manners::Slow(70), Manners::Deaf]).unwrap();
                    "taught other manners"
                }
            };
            format!("VMID {vmid} is {what} by hand")
        }
    };
    drop((rng, node));
    world.note(|| format!("    {what}"));
}

fn stranger(node: &mut super::node::Node, rng: &mut Rng) -> String {
    let free: Vec<u32> = RANGE.filter(|vmid| !node.guests.contains_key(vmid)).collect();
    let strangers = node.guests.values().filter(|g| g.origin == Origin::Stranger).count();
    let Some(vmid) = rng.pick(&free).copied().filter(|_| strangers < 5) else { return "nothing".to_string() };
    // Some have the name of one of ours.
    // Not of one that is known by its name alone: nobody could tell them apart.
    let ours: Vec<&str> = operations::NAMES.into_iter().filter(|name| !name.starts_with("old-")).collect();
    let name = if rng.chance(300) { rng.pick(&ours).unwrap() } else { "stranger" };
    let running = rng.chance(700);
    let guest = node.add(vmid, Origin::Stranger, name);
    guest.uuid = Some("00000000-0000-4000-8000-00000000dead".to_string());
    (guest.running, guest.onboot) = (running, true);
    format!("a stranger called {name} appears at {vmid}")
}

/// Whether somebody has changed whether this guest runs, in this step.
pub fn touched(world: &World, vmid: u32) -> bool {
    world.touched.borrow().contains(&vmid)
}

/// Keeps a copy of the database, for later.
pub fn keep_copy(world: &World) {
    let database = world.database();
    if database["vms"].is_object() {
        let mut book = world.book.borrow_mut();
        if book.copies.len() >= 3 {
            book.copies.remove(0);
        }
        book.copies.push(database.to_string());
    }
}

/// VMs of the older package: no UUID, no terraform folder, known by name.
pub fn legacy(world: &World) {
    let mut database = json!({ "vms": {}, "next_vmid": 102, "allocated_ips": [], "allocated_ipv6": [] });
    for (vmid, name) in [(100, "old-1"), (101, "old-2")] {
        let mut record = Map::new();
        let ip = format!("10.0.0.{}", vmid - 89);
        record.insert("vm_name".into(), name.into());
        record.insert("vmid".into(), vmid.into());
        record.insert("ip_address".into(), ip.clone().into());
        record.insert("ipv6_address".into(), Value::Null);
        record.insert("expires_at".into(), to_text(world.now() + TimeDelta::days(9)));
        record.insert("owner".into(), "admin".into());
        record.insert("status".into(), "active".into());
        record.insert("created_at".into(), to_text(world.now()));
        database["vms"][name] = Value::Object(record);
        database["allocated_ips"].as_array_mut().unwrap().push(ip.into());
        let mut node = world.node.borrow_mut();
        let guest = node.add(vmid, Origin::Legacy { name: name.to_string() }, name);
        (guest.running, guest.onboot) = (true, true);
    }
    world.node.borrow_mut().add(TEMPLATE, Origin::Template, "template");
    replace(world, &database);
    world.book.borrow_mut().adopt(&Rc::new(database));
}

/// The record that was lost of this VM, as an operator puts it back.
pub fn restore_record(world: &World, key: &str) -> bool {
    let Some((name, record)) = world.book.borrow().lost.get(key).cloned() else { return false };
    let mut database = (*world.database()).clone();
    for (list, field) in [("allocated_ips", "ip_address"), ("allocated_ipv6", "ipv6_address")] {
        let address = text(&record, field);
        let list = database[list].as_array_mut().unwrap();
        if !address.is_empty() && !list.iter().any(|a| a == address) {
            list.push(address.into());
        }
    }
    database["vms"][&name] = Value::Object(record);
    replace(world, &database);
    world.book.borrow_mut().adopt(&Rc::new(database));
    true
}

/// An operator takes a record away whose machine is gone and whose VMID is somebody else's by now.
pub fn bury(world: &World, name: &str) {
    let mut database = (*world.database()).clone();
    let record = &mut database["vms"][name];
    record["status"] = "destroyed".into();
    let addresses = [record["ip_address"].clone(), record["ipv6_address"].clone()];
    for list in ["allocated_ips", "allocated_ipv6"] {
        database[list].as_array_mut().unwrap().retain(|a| !addresses.contains(a));
    }
    replace(world, &database);
    let mut book = world.book.borrow_mut();
    book.disturbed.insert(name.to_string());
    book.adopt(&Rc::new(database));
}
