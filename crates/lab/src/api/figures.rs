//! Guests as JSON: configuration, current status, the lines of `cluster/resources`, rrddata.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::model::Power;
use crate::node::Node;
use crate::node::config_options::is_number;
use crate::node::guest::Guest;

/// A configuration as the API gives it: booleans and counts as numbers, the rest as strings, the password masked.
pub(crate) fn config_json(config: &BTreeMap<String, String>) -> Map<String, Value> {
    config
        .iter()
        .map(|(key, value)| {
            let value = match key.as_str() {
                "cipassword" => json!("**********"),
                key if is_number(key) => match value.parse::<u64>() {
                    Ok(number) => json!(number),
                    Err(_) => json!(value),
                },
                _ => json!(value),
            };
            (key.clone(), value)
        })
        .collect()
}

/// The counters since the guest's start.
struct Counters {
    uptime: u64,
    netin: u64,
    netout: u64,
    diskread: u64,
    diskwrite: u64,
    reads: u64,
    writes: u64,
}

fn counters(guest: &Guest) -> Counters {
    // Rates need more than whole seconds of a test's short life.
    let ms = u64::try_from(guest.uptime().as_millis()).unwrap_or(0);
    let figures = &guest.behaviour.figures;
    let since = |rate: u64| rate * ms / 1000;
    Counters {
        uptime: ms / 1000,
        netin: since(figures.netin),
        netout: since(figures.netout),
        diskread: since(figures.diskread),
        diskwrite: since(figures.diskwrite),
        reads: since(figures.read_ops),
        writes: since(figures.write_ops),
    }
}

fn state_word(guest: &Guest) -> &'static str {
    if guest.run.is_some() { "running" } else { "stopped" }
}

/// What `status/current`, the list and `qm list` have in common.
fn common(guest: &Guest) -> Map<String, Value> {
    let running = guest.run.is_some();
    let counters = counters(guest);
    let figures = &guest.behaviour.figures;
    let mut map = Map::new();
    let name = if guest.name().is_empty() { format!("VM {}", guest.vmid) } else { guest.name().to_owned() };
    map.insert("vmid".into(), json!(guest.vmid));
    map.insert("name".into(), json!(name));
    map.insert("status".into(), json!(state_word(guest)));
    map.insert("cpus".into(), json!(guest.cpus()));
    map.insert("cpu".into(), json!(0));
    map.insert("maxmem".into(), json!(guest.memory()));
    map.insert("mem".into(), json!(if running { figures.mem } else { 0 }));
    map.insert("maxdisk".into(), json!(guest.boot_disk_size()));
    map.insert("disk".into(), json!(0));
    map.insert("uptime".into(), json!(counters.uptime));
    for (key, value) in [
        ("netin", counters.netin),
        ("netout", counters.netout),
        ("diskread", counters.diskread),
        ("diskwrite", counters.diskwrite),
    ] {
        map.insert(key.into(), json!(value));
    }
    if let Some(run) = &guest.run {
        map.insert("pid".into(), json!(run.pid));
    }
    if let Some(lock) = guest.lock() {
        map.insert("lock".into(), json!(lock));
    }
    if let Some(tags) = guest.get("tags") {
        map.insert("tags".into(), json!(tags));
    }
    if guest.flag("template") {
        map.insert("template".into(), json!(1));
    }
    map
}

/// `GET …/status/current`.
///
/// `cpu` is 0 on a worker's first look at a guest and an average since its last look afterwards: the lab's workers are
/// always new ones, which is the least kind.
pub(crate) fn status_current(guest: &Guest, pve: u32) -> Value {
    let mut map = common(guest);
    map.insert("qmpstatus".into(), json!(guest.power().word()));
    map.insert("ha".into(), json!({"managed": 0}));
    if guest.agent_enabled() {
        map.insert("agent".into(), json!(1));
    }
    if guest.run.is_some() {
        let counters = counters(guest);
        map.insert("running-machine".into(), json!("pc-i440fx-10.0+pve0"));
        map.insert("running-qemu".into(), json!("10.0.2"));
        map.insert("balloon".into(), json!(guest.memory()));
        let drives: Map<String, Value> = guest
            .drives()
            .into_iter()
            .map(|(key, drive)| {
                let none = drive.is_cdrom();
                let of = |value: u64| if none { 0 } else { value };
                let stat = json!({
                    "rd_bytes": of(counters.diskread), "wr_bytes": of(counters.diskwrite),
                    "rd_operations": of(counters.reads), "wr_operations": of(counters.writes),
                    "flush_operations": 0, "rd_total_time_ns": 0, "wr_total_time_ns": 0,
                });
                (key, stat)
            })
            .collect();
        map.insert("blockstat".into(), Value::Object(drives));
        let nics: Map<String, Value> = guest
            .nics()
            .into_iter()
            .map(|(number, _)| {
                let stat = json!({"netin": counters.netin, "netout": counters.netout});
                (format!("tap{}i{number}", guest.vmid), stat)
            })
            .collect();
        map.insert("nics".into(), Value::Object(nics));
        if pve >= 9 {
            map.insert("memhost".into(), json!(guest.behaviour.figures.mem + (64 << 20)));
        }
    }
    Value::Object(map)
}

/// A line of `GET /nodes/{n}/qemu`.
pub(crate) fn list_entry(guest: &Guest) -> Value {
    Value::Object(common(guest))
}

/// A line of `GET /cluster/resources?type=vm`.
///
/// Existence, node, lock, tags, template and pool are live; name, status and figures are what was last reported, and a
/// brand-new guest has none until then, nor has one on a node that is off.
pub(crate) fn resource(guest: &Guest, node: &Node, is_node_up: bool) -> Value {
    let mut map = Map::new();
    map.insert("id".into(), json!(format!("qemu/{}", guest.vmid)));
    map.insert("type".into(), json!("qemu"));
    map.insert("vmid".into(), json!(guest.vmid));
    map.insert("node".into(), json!(guest.node));
    map.insert("template".into(), json!(u8::from(guest.flag("template"))));
    for key in ["lock", "tags"] {
        if let Some(value) = guest.get(key) {
            map.insert(key.into(), json!(value));
        }
    }
    if let Some(pool) = &guest.pool {
        map.insert("pool".into(), json!(pool));
    }
    if !is_node_up || guest.born.elapsed() < Duration::from_millis(node.options.resources_lag) {
        map.insert("status".into(), json!("unknown"));
        return Value::Object(map);
    }
    let mut common = common(guest);
    let cpu = match guest.power() {
        Power::Running => guest.behaviour.figures.cpu,
        _ => 0.0,
    };
    map.insert("status".into(), json!(guest.power().word()));
    map.insert("cpu".into(), json!(cpu));
    map.insert("maxcpu".into(), json!(guest.cpus()));
    for key in
        ["name", "mem", "maxmem", "disk", "maxdisk", "uptime", "netin", "netout", "diskread", "diskwrite"]
    {
        if let Some(value) = common.remove(key) {
            map.insert(key.into(), value);
        }
    }
    Value::Object(map)
}

/// `GET …/rrddata`: a point a minute; an unknown value is a missing key, and a stopped guest has hardly any.
pub(crate) fn rrddata(guest: &Guest, timeframe: &str, pve: u32) -> Value {
    let (points, step) = match timeframe {
        "hour" => (if pve >= 9 { 60 } else { 70 }, 60),
        "day" => (70, 1_800),
        "week" => (70, 10_800),
        "month" => (70, 43_200),
        _ => (70, 604_800),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / step * step;
    let started = now.saturating_sub(guest.uptime().as_secs());
    let figures = &guest.behaviour.figures;
    let list = (0..points)
        .rev()
        .map(|back| {
            let time = now - back * step;
            let mut point = json!({
                "time": time, "maxcpu": guest.cpus(), "maxmem": guest.memory(), "maxdisk": guest.boot_disk_size(),
                "disk": 0,
            });
            if guest.run.is_some() && time >= started {
                point["cpu"] = json!(figures.cpu);
                point["mem"] = json!(figures.mem);
                point["netin"] = json!(figures.netin);
                point["netout"] = json!(figures.netout);
                point["diskread"] = json!(figures.diskread);
                point["diskwrite"] = json!(figures.diskwrite);
            }
            point
        })
        .collect();
    Value::Array(list)
}
