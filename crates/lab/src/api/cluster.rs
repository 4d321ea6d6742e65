//! Cluster, node, storages, pools, tasks, permissions.

use serde_json::{Map, Value, json};

use super::figures;
use super::params::{Params, vmid as parse_vmid};
use crate::node::access::Caller;
use crate::node::refusal::{Outcome, Refusal};
use crate::node::tasks::Task;
use crate::node::{Peer, Shared, State};

pub(crate) fn version(node: &Shared) -> Value {
    match node.options.pve {
        8 => json!({"version": "8.4.1", "release": "8.4", "repoid": "2a5fa54a8503f96d", "console": "html5"}),
        _ => json!({"version": "9.0.5", "release": "9.0", "repoid": "9c5600b249dbfd2f", "console": "html5"}),
    }
}

/// The lowest free VMID, or the one asked for if it is free. Nothing is reserved.
pub(crate) fn next_id(node: &Shared, params: &Params) -> Outcome<Value> {
    let state = node.state();
    let Some(wanted) = params.get("vmid") else {
        return Ok(json!(state.next_id().to_string()));
    };
    let vmid = parse_vmid(wanted)?;
    if state.ids().contains_key(&vmid) {
        return Err(Refusal::parameter("vmid", format!("VM {vmid} already exists")));
    }
    Ok(json!(vmid.to_string()))
}

pub(crate) fn resources(node: &Shared, caller: &Caller, params: &Params) -> Value {
    let state = node.state();
    let mut list = Vec::new();
    if params.get("type").is_none_or(|kind| kind == "vm") {
        for guest in state.guests.values() {
            let path = format!("/vms/{}", guest.vmid);
            if state.access.may(caller, &path, guest.pool.as_deref(), "VM.Audit") {
                let is_up = state.cluster(&node.options.node).get(&guest.node).is_none_or(|peer| peer.online);
                list.push(figures::resource(guest, node, is_up));
            }
        }
        for (vmid, on) in &state.containers {
            if state.access.may(caller, &format!("/vms/{vmid}"), None, "VM.Audit") {
                list.push(json!({"id": format!("lxc/{vmid}"), "type": "lxc", "vmid": vmid, "node": on,
                    "name": format!("CT{vmid}"), "status": "running", "template": 0}));
            }
        }
    }
    if params.get("type").is_none_or(|kind| kind == "node") {
        for (name, peer) in state.cluster(&node.options.node) {
            let audit = state.access.may(caller, &format!("/nodes/{name}"), None, "Sys.Audit");
            list.push(node_row(&name, peer, audit));
        }
    }
    if params.get("type").is_none_or(|kind| kind == "storage") {
        for (name, storage) in state.storages.storages.iter().filter(|(_, storage)| storage.enabled) {
            if state.access.may(caller, &format!("/storage/{name}"), None, "Datastore.Audit") {
                list.push(json!({"id": format!("storage/{}/{name}", node.options.node), "type": "storage",
                    "storage": name, "node": node.options.node, "plugintype": storage.kind, "status": "available",
                    "shared": 0, "content": storage.content.join(","), "maxdisk": storage.total,
                    "disk": state.storages.used(name)}));
            }
        }
    }
    Value::Array(list)
}

/// A line of `cluster/resources` about a node: use only for who may audit it, and no figures at all of one that is off
/// (extract_node_stats in PVE/API2Tools.pm).
fn node_row(name: &str, peer: Peer, audit: bool) -> Value {
    let mut row = json!({"id": format!("node/{name}"), "type": "node", "node": name,
        "status": if peer.online { "online" } else { "offline" }});
    if peer.online {
        for (key, value) in [
            ("level", json!("")),
            ("maxcpu", json!(8)),
            ("maxmem", json!(peer.memory)),
            ("maxdisk", json!(100u64 << 30)),
        ] {
            row[key] = value;
        }
        if audit {
            for (key, value) in [
                ("uptime", json!(86_400)),
                ("cpu", json!(0.05)),
                ("mem", json!(8u64 << 30)),
                ("disk", json!(10u64 << 30)),
            ] {
                row[key] = value;
            }
        }
    }
    row
}

pub(crate) fn status(node: &Shared) -> Value {
    json!([{"id": format!("node/{}", node.options.node), "type": "node", "name": node.options.node, "online": 1,
        "local": 1, "nodeid": 0, "ip": "127.0.0.1"}])
}

pub(crate) fn nodes(node: &Shared) -> Value {
    json!([{"node": node.options.node, "status": "online", "id": format!("node/{}", node.options.node),
        "type": "node", "cpu": 0.05, "maxcpu": 8, "mem": 8u64 << 30, "maxmem": 32u64 << 30}])
}

/// A node of another name is only known while it has guests.
pub(crate) fn check_node(node: &Shared, on: &str) -> Outcome<()> {
    let state = node.state();
    if on == node.options.node || state.cluster(&node.options.node).contains_key(on) {
        return Ok(());
    }
    Err(Refusal::die(format!(
        "hostname lookup '{on}' failed - failed to get address info for: {on}: Name or service not known"
    )))
}

pub(crate) fn node_status(node: &Shared, caller: &Caller, on: &str) -> Outcome<Value> {
    need(&node.state(), caller, &format!("/nodes/{on}"), "Sys.Audit")?;
    Ok(json!({
        "uptime": 86_400, "cpu": 0.05, "loadavg": ["0.10", "0.10", "0.10"],
        "pveversion": if node.options.pve >= 9 { "pve-manager/9.0.5" } else { "pve-manager/8.4.1" },
        "memory": {"total": 32u64 << 30, "used": 8u64 << 30, "free": 24u64 << 30},
        "cpuinfo": {"cpus": 8, "cores": 4, "sockets": 1},
        "rootfs": {"total": 100u64 << 30, "used": 10u64 << 30, "avail": 90u64 << 30},
    }))
}

/// Seconds since 1970: `time` in UTC, `localtime` as the zone shows it.
pub(crate) fn node_time(node: &Shared, caller: &Caller, on: &str) -> Outcome<Value> {
    let state = node.state();
    need(&state, caller, &format!("/nodes/{on}"), "Sys.Audit")?;
    let now = chrono::Utc::now().timestamp() + state.clock_ahead_s;
    Ok(json!({"timezone": "UTC", "time": now, "localtime": now}))
}

fn need(state: &State, caller: &Caller, path: &str, privilege: &str) -> Outcome<()> {
    if state.access.may(caller, path, None, privilege) {
        return Ok(());
    }
    Err(Refusal::forbidden(path, privilege))
}

fn need_any(state: &State, caller: &Caller, path: &str, privileges: &[&str]) -> Outcome<()> {
    if privileges.iter().any(|privilege| state.access.may(caller, path, None, privilege)) {
        return Ok(());
    }
    Err(Refusal::forbidden(path, &privileges.join("|")))
}

pub(crate) fn network(node: &Shared) -> Value {
    let state = node.state();
    let list = state
        .network
        .devices()
        .filter(|(name, _)| !name.starts_with("tap") && !name.starts_with("fw"))
        .map(|(name, device)| {
            let mut entry = json!({"iface": name, "active": 1, "autostart": 1, "priority": device.index,
                "type": if device.bridge { "bridge" } else { "eth" }});
            if let Some(cidr) = &device.address {
                entry["address"] = json!(cidr.split('/').next());
                entry["cidr"] = json!(cidr);
            }
            if name == "vmbr0" {
                entry["bridge_ports"] = json!("eno1");
            }
            entry
        })
        .collect();
    Value::Array(list)
}

/// Writes `interfaces.new`: the bridge appears when the network is applied.
pub(crate) fn make_interface(node: &Shared, caller: &Caller, params: &Params) -> Outcome<Value> {
    let mut state = node.state();
    need(&state, caller, &format!("/nodes/{}", node.options.node), "Sys.Modify")?;
    let name = params.need("iface")?.to_owned();
    params.need("type")?;
    if state.network.get(&name).is_some() || state.network.planned.contains_key(&name) {
        return Err(Refusal::parameter("iface", "interface already exists"));
    }
    state.network.planned.insert(name, params.get("cidr").map(str::to_owned));
    Ok(Value::Null)
}

/// `ifreload`: everything planned comes to be. A task, and its failure is only in the task.
pub(crate) async fn apply_network(node: &Shared, caller: &Caller) -> Outcome<Value> {
    need(&node.state(), caller, &format!("/nodes/{}", node.options.node), "Sys.Modify")?;
    let shared = node.clone();
    let upid = crate::node::tasks::spawn(node, caller, "srvreload", 0, move |_| async move {
        let mut state = shared.state();
        let State { network, files, .. } = &mut *state;
        for (name, cidr) in std::mem::take(&mut network.planned) {
            network.add_bridge(files, &name, cidr.as_deref());
        }
        Ok(())
    })
    .await;
    Ok(json!(upid))
}

pub(crate) fn permissions(node: &Shared, caller: &Caller, params: &Params) -> Value {
    let state = node.state();
    let mut paths: Vec<String> = state.access.rules.iter().map(|rule| rule.path.clone()).collect();
    if let Some(path) = params.get("path") {
        paths = vec![path.to_owned()];
    }
    let map = paths
        .into_iter()
        .filter_map(|path| {
            let pool = path.strip_prefix("/vms/").and_then(|vmid| state.pool_of(vmid.parse().ok()?));
            let own: Map<String, Value> = state
                .access
                .effective(caller, &path, pool.as_deref())
                .into_iter()
                .map(|privilege| (privilege.to_owned(), json!(1)))
                .collect();
            (!own.is_empty()).then_some((path, Value::Object(own)))
        })
        .collect();
    Value::Object(map)
}

pub(crate) fn pools(node: &Shared, caller: &Caller, wanted: Option<&str>) -> Outcome<Value> {
    let state = node.state();
    if let Some(pool) = wanted {
        need(&state, caller, &format!("/pool/{pool}"), "Pool.Audit")?;
        return Ok(json!([pool_json(&state, pool)?]));
    }
    Ok(state
        .pools
        .keys()
        .filter(|pool| state.access.may(caller, &format!("/pool/{pool}"), None, "Pool.Audit"))
        .map(|pool| json!({"poolid": pool, "comment": state.pools[pool]}))
        .collect())
}

pub(crate) fn pool(node: &Shared, caller: &Caller, pool: &str) -> Outcome<Value> {
    let state = node.state();
    need(&state, caller, &format!("/pool/{pool}"), "Pool.Audit")?;
    let mut value = pool_json(&state, pool)?;
    if let Some(map) = value.as_object_mut() {
        map.remove("poolid");
    }
    Ok(value)
}

fn pool_json(state: &State, pool: &str) -> Outcome<Value> {
    let comment = state.pools.get(pool).ok_or_else(|| Refusal::die(format!("no such pool '{pool}'")))?;
    let members: Vec<Value> = state
        .guests
        .values()
        .filter(|guest| guest.pool.as_deref() == Some(pool))
        .map(|guest| json!({"id": format!("qemu/{}", guest.vmid), "type": "qemu", "vmid": guest.vmid, "node": guest.node}))
        .collect();
    Ok(json!({"poolid": pool, "comment": comment, "members": members}))
}

pub(crate) fn make_pool(node: &Shared, caller: &Caller, params: &Params) -> Outcome<Value> {
    let pool = params.need("poolid")?.to_owned();
    let mut state = node.state();
    need(&state, caller, &format!("/pool/{pool}"), "Pool.Allocate")?;
    if state.pools.contains_key(&pool) {
        return Err(Refusal::die(format!("create pool failed: pool '{pool}' already exists")));
    }
    state.pools.insert(pool, params.get("comment").unwrap_or("").into());
    Ok(Value::Null)
}

pub(crate) fn storage_definition(node: &Shared, caller: &Caller, name: &str) -> Outcome<Value> {
    let state = node.state();
    need(&state, caller, &format!("/storage/{name}"), "Datastore.Allocate")?;
    let storage = state.storages.get(name)?;
    let mut value =
        json!({"storage": name, "type": storage.kind, "content": storage.content.join(","), "digest": "0"});
    match &storage.path {
        Some(path) => value["path"] = json!(path),
        None => value["thinpool"] = json!("data"),
    }
    Ok(value)
}

fn storage_json(state: &State, name: &str) -> Outcome<Value> {
    let storage = state.storages.get(name)?;
    // One that is off has zeros for figures (storage_info in PVE/Storage.pm).
    let [total, used] = if storage.enabled { [storage.total, state.storages.used(name)] } else { [0; 2] };
    Ok(json!({"storage": name, "type": storage.kind, "content": storage.content.join(","),
        "enabled": u8::from(storage.enabled), "active": u8::from(storage.enabled), "shared": 0,
        "total": total, "used": used, "avail": total.saturating_sub(used)}))
}

pub(crate) fn storages(node: &Shared, caller: &Caller, params: &Params) -> Value {
    let state = node.state();
    state
        .storages
        .storages
        .iter()
        .filter(|(name, _)| {
            let path = format!("/storage/{name}");
            ["Datastore.Audit", "Datastore.AllocateSpace"]
                .iter()
                .any(|p| state.access.may(caller, &path, None, p))
        })
        .filter(|(_, storage)| params.get("content").is_none_or(|content| storage.content.contains(&content)))
        .filter(|(_, storage)| storage.enabled || !params.flag("enabled"))
        .filter_map(|(name, _)| storage_json(&state, name).ok())
        .collect()
}

pub(crate) fn storage_status(node: &Shared, caller: &Caller, name: &str) -> Outcome<Value> {
    let state = node.state();
    need_any(&state, caller, &format!("/storage/{name}"), &["Datastore.Audit", "Datastore.AllocateSpace"])?;
    storage_json(&state, name)
}

/// Always a list, never null.
pub(crate) fn storage_content(node: &Shared, caller: &Caller, name: &str, params: &Params) -> Outcome<Value> {
    let state = node.state();
    need_any(&state, caller, &format!("/storage/{name}"), &["Datastore.Audit", "Datastore.AllocateSpace"])?;
    state.storages.get(name)?;
    let content = params.get("content");
    let mut list = Vec::new();
    if content.is_none_or(|content| content == "images") {
        list.extend(state.storages.of(name).map(|volume| {
            json!({"volid": volume.volid, "content": "images", "format": volume.format, "size": volume.size,
                "vmid": volume.vmid})
        }));
    }
    if name == "local" && content.is_none_or(|content| content == "snippets") {
        let mut files: Vec<_> =
            std::fs::read_dir(state.files.snippets()).into_iter().flatten().flatten().collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        list.extend(files.iter().map(|file| {
            let size = file.metadata().map_or(0, |data| data.len());
            json!({"volid": format!("local:snippets/{}", file.file_name().to_string_lossy()),
                "content": "snippets", "format": "snippet", "size": size, "ctime": 1_790_000_000})
        }));
    }
    Ok(Value::Array(list))
}

/// A volume may be named with or without its storage.
fn full_volid(storage: &str, volume: &str) -> String {
    if volume.contains(':') { volume.to_owned() } else { format!("{storage}:{volume}") }
}

pub(crate) fn volume(node: &Shared, caller: &Caller, storage: &str, volume: &str) -> Outcome<Value> {
    let state = node.state();
    let volid = full_volid(storage, volume);
    let known = state.storages.volume(&volid);
    let owner_may = known.is_some_and(|known| {
        let path = format!("/vms/{}", known.vmid);
        state.access.may(caller, &path, state.pool_of(known.vmid).as_deref(), "VM.Config.Disk")
    });
    if !owner_may {
        need_any(
            &state,
            caller,
            &format!("/storage/{storage}"),
            &["Datastore.Audit", "Datastore.AllocateSpace"],
        )?;
    }
    let known = known.ok_or_else(|| Refusal::die(format!("volume_size_info on '{volid}' failed")))?;
    let path = format!("/dev/pve/{}", volid.split(':').nth(1).unwrap_or_default());
    Ok(json!({"path": path, "format": known.format, "size": known.size, "used": known.size}))
}

pub(crate) fn delete_volume(node: &Shared, caller: &Caller, storage: &str, volume: &str) -> Outcome<Value> {
    let mut state = node.state();
    let volid = full_volid(storage, volume);
    if let Some(known) = state.storages.volume(&volid) {
        let path = format!("/vms/{}", known.vmid);
        if !state.access.may(caller, &path, state.pool_of(known.vmid).as_deref(), "VM.Config.Disk") {
            need(&state, caller, &format!("/storage/{storage}"), "Datastore.Allocate")?;
        }
        state.storages.free(&volid)?;
        return Ok(Value::Null);
    }
    need(&state, caller, &format!("/storage/{storage}"), "Datastore.Allocate")?;
    let name =
        volid.strip_prefix("local:snippets/").filter(|name| !name.contains('/') && !name.starts_with('.'));
    let gone = name.and_then(|name| std::fs::remove_file(state.files.snippets().join(name)).ok());
    gone.map(|()| Value::Null).ok_or_else(|| Refusal::die(format!("volume '{volid}' does not exist")))
}

fn task(node: &Shared, caller: &Caller, on: &str, upid: &str) -> Outcome<Task> {
    if !upid.starts_with("UPID:") {
        return Err(Refusal::parameter("upid", "unable to parse worker upid"));
    }
    let task = node.tasks.get(upid).ok_or_else(|| Refusal::with_code(400, "no such task"))?;
    if *caller != Caller::Root && task.user != caller.user() {
        need(&node.state(), caller, &format!("/nodes/{on}"), "Sys.Audit")?;
    }
    Ok(task)
}

pub(crate) fn task_status(node: &Shared, caller: &Caller, on: &str, upid: &str) -> Outcome<Value> {
    let task = task(node, caller, on, upid)?;
    Ok(task_json(upid, &task, on))
}

fn task_json(upid: &str, task: &Task, on: &str) -> Value {
    let mut value = json!({"upid": upid, "node": on, "pid": task.pid, "pstart": 0x1A2B3, "starttime": task.start,
        "type": task.kind, "id": task.id, "user": task.user,
        "status": if task.exit.is_some() { "stopped" } else { "running" }});
    if let Some(exit) = &task.exit {
        value["exitstatus"] = json!(exit);
    }
    value
}

pub(crate) fn task_log(
    node: &Shared,
    caller: &Caller,
    on: &str,
    upid: &str,
    params: &Params,
) -> Outcome<Value> {
    let task = task(node, caller, on, upid)?;
    let start = params.number("start")?.unwrap_or(0) as usize;
    let limit = params.number("limit")?.unwrap_or(50) as usize;
    Ok(task
        .log
        .iter()
        .enumerate()
        .skip(start)
        .take(if limit == 0 { usize::MAX } else { limit })
        .map(|(index, line)| json!({"n": index + 1, "t": line}))
        .collect())
}

/// In the list, a task that has ended has an end time, and the words of its end as its status.
pub(crate) fn tasks(node: &Shared, caller: &Caller, params: &Params) -> Value {
    let on = &node.options.node;
    let all = node.state().access.may(caller, &format!("/nodes/{on}"), None, "Sys.Audit");
    let mut list: Vec<(String, Task)> =
        node.tasks.all().into_iter().filter(|(_, task)| all || task.user == caller.user()).collect();
    list.sort_by_key(|(_, task)| std::cmp::Reverse(task.pid));
    let only = params.get("vmid");
    let wanted = list.iter().filter(|(_, task)| only.is_none_or(|vmid| task.id == vmid));
    let row = |(upid, task): &(String, Task)| {
        let mut row = task_json(upid, task, on);
        row["status"] = task.exit.as_ref().map_or(json!("RUNNING"), |exit| json!(exit));
        if task.exit.is_some() {
            row["endtime"] = row["starttime"].clone();
        }
        row
    };
    wanted.map(row).collect()
}
