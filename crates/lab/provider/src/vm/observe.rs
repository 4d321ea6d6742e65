//! Read: what the node says about a VM, brought into the state.
//!
//! The order of the calls is the real provider's. A VMID that is in no list of the cluster's resources is
//! gone for it, whatever the reason, and so is dropped from the state.
//!
//! As with the real provider, a clone's attributes that have their default value and its blocks that are
//! absent stay so: what the template brought along is no change.

use super::{
    Vm,
    agent::{self, Network},
    create::agent_enabled,
    drive::{self, Drive, GIB},
};
use crate::{
    api::{Api, ApiError, int, list, segment, text, truth},
    diagnostic::Diagnostic,
    schema::same,
    value::Value,
    version::{LATER, Version},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Pools are asked by query from about here on, by path before. (Known of 0.93.0 and 0.111.1 only.)
const POOLS_BY_QUERY: Version = Version(0, 100, 0);

/// Refreshes a state; null when the VM is gone.
pub async fn read(api: &Api, state: &Value) -> (Value, Vec<Diagnostic>) {
    let mut said = Vec::new();
    let read = async {
        api.point("read.vm.before").await?;
        let observed = observe(api, state, "read", &mut said).await?;
        api.point("read.vm.after").await?;
        Ok::<_, Diagnostic>(observed)
    };
    match read.await {
        Ok(observed) => (observed.unwrap_or_default(), said),
        Err(error) => {
            said.push(error);
            (state.clone(), said)
        }
    }
}

/// The read at the end of another operation, of whose fault points only the agent's are passed.
pub async fn read_after(
    api: &Api,
    state: &Value,
    operation: &str,
    said: &mut Vec<Diagnostic>,
) -> Result<Value, Diagnostic> {
    let observed = observe(api, state, operation, said).await?;
    observed.ok_or_else(|| {
        let id = state.text("id").unwrap_or_default();
        Diagnostic::error(format!("VM {id} is in no list of the cluster's resources"))
    })
}

/// The state an import of `node/vmid` starts from; the refresh that follows fills it.
pub fn import(id: &str) -> Result<Value, Diagnostic> {
    let parts = id.split_once('/').and_then(|(node, vmid)| Some((node, vmid.parse::<i64>().ok()?)));
    let Some((node, vmid)) = parts.filter(|(node, _)| !node.is_empty()) else {
        return Err(Diagnostic::error(format!("unexpected format of ID ({id}), expected node_name/vm_id")));
    };
    let mut state = Value::Object(BTreeMap::new());
    state.set("node_name", node);
    state.set("vm_id", vmid);
    state.set("id", vmid.to_string());
    Ok(state)
}

async fn observe(
    api: &Api,
    state: &Value,
    operation: &str,
    said: &mut Vec<Diagnostic>,
) -> Result<Option<Value>, Diagnostic> {
    let id = state.text("id").and_then(|id| id.parse().ok()).or(state.int("vm_id")).unwrap_or(0);
    let failed = |error: ApiError| Diagnostic::error(format!("error retrieving VM {id}: {error}"));
    let resources = api.get("/cluster/resources?type=vm").await.and_then(list).map_err(|error| {
        Diagnostic::error(format!("failed to get resources list of type (\"vm\") for cluster: {error}"))
    })?;
    let Some(resource) = resources.iter().find(|resource| int(resource, "vmid") == Some(id)) else {
        return Ok(None);
    };
    let vm = Vm { api, node: text(resource, "node").to_string(), id };
    let config = match vm.config().await {
        Err(error) if error.is_missing(api.version) => return Ok(None),
        other => other.map_err(failed)?,
    };
    let status = match vm.status().await {
        Err(error) if error.is_missing(api.version) => return Ok(None),
        other => other.map_err(failed)?,
    };
    let formats = disk_formats(&vm, &config).await?;
    let pool = pool(&vm).await.map_err(|error| {
        Diagnostic::error(format!("failed to determine pool for VM {id}: error listing pools: {error}"))
    })?;
    let running = text(&status, "status") == "running";
    let network = if running && agent_enabled(&config) {
        match agent::network(&vm, state, operation).await {
            Ok(network) => network,
            Err(error) if error.warning => {
                said.push(error);
                Network::default()
            }
            Err(error) => return Err(error),
        }
    } else {
        Network::of_config(network_devices(&config).into_iter().map(|device| device.mac).collect())
    };

    let mut new = state.clone();
    new.set("id", id.to_string());
    new.set("vm_id", id);
    new.set("node_name", vm.node.clone());
    new.set("started", running);
    if let Some(pool) = pool {
        new.set("pool_id", pool);
    }
    network.write(&mut new);
    plain(&config, &mut new);
    blocks(&config, id, &formats, &mut new);
    new.settle();
    Ok(Some(new))
}

/// The format of each disk: the volume's extension tells, else the storage is asked. A volume that is gone keeps 0.93.0
/// from reading the VM at all.
async fn disk_formats(vm: &Vm<'_>, config: &Json) -> Result<BTreeMap<String, String>, Diagnostic> {
    let mut formats = BTreeMap::new();
    for (interface, drive) in drive::drives(config).filter(|(_, drive)| drive.is_disk()) {
        let extension = drive.volume.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
        let format = if let Some((_, extension)) = extension {
            extension.to_string()
        } else {
            let (node, storage) = (segment(&vm.node), segment(drive.storage()));
            let volume = segment(&drive.volume);
            let path = format!("/nodes/{node}/storage/{storage}/content/{volume}");
            match vm.api.get(&path).await {
                Ok(found) => text(&found, "format").to_string(),
                Err(error) if vm.api.version >= LATER && error.is_missing(vm.api.version) => continue,
                Err(error) => {
                    let (volume, storage) = (&drive.volume, drive.storage());
                    let what = format!("error get file {volume} from datastore {storage}: {error}");
                    return Err(Diagnostic::error(what));
                }
            }
        };
        formats.insert(interface.to_string(), format);
    }
    Ok(formats)
}

/// The pool the VM is in. Every pool is asked.
async fn pool(vm: &Vm<'_>) -> Result<Option<String>, ApiError> {
    let mut found = None;
    for pool in list(vm.api.get("/pools").await?)? {
        let name = text(&pool, "poolid").to_string();
        let detail = if vm.api.version >= POOLS_BY_QUERY {
            let query: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
            list(vm.api.get(&format!("/pools?poolid={query}")).await?)?.into_iter().next().unwrap_or_default()
        } else {
            vm.api.get(&format!("/pools/{}", segment(&name))).await?
        };
        let members = detail.get("members").and_then(Json::as_array);
        if members.into_iter().flatten().any(|member| int(member, "vmid") == Some(vm.id)) {
            found = Some(name);
        }
    }
    Ok(found)
}

/// A network device of the configuration.
struct Device {
    model: String,
    mac: String,
    options: BTreeMap<String, String>,
}

/// `net0` to `net31`, as `virtio=MAC,bridge=vmbr0,…`.
fn network_devices(config: &Json) -> Vec<Device> {
    let texts = (0..32).map(|index| text(config, &format!("net{index}")));
    texts
        .filter(|text| !text.is_empty())
        .map(|text| {
            let mut pairs = text.split(',').filter_map(|part| part.split_once('='));
            let (model, mac) = pairs.next().unwrap_or_default();
            let options = pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect();
            Device { model: model.into(), mac: mac.into(), options }
        })
        .collect()
}

/// The attributes outside the blocks.
fn plain(config: &Json, state: &mut Value) {
    let cloned = state.block("clone").is_some();
    let mut observe = |key: &str, default: Value, seen: Value| {
        if !(cloned && same(state.get(key), &default)) {
            state.set(key, seen);
        }
    };
    let words = |key: &str, default: &str| match text(config, key) {
        "" => Value::from(default),
        text => Value::from(text.trim_end()),
    };
    let truths = |key: &str, default: bool| Value::Bool(truth(config, key).unwrap_or(default));
    for (name, key, default) in [
        ("name", "name", ""),
        ("description", "description", ""),
        ("bios", "bios", "seabios"),
        ("keyboard_layout", "keyboard", "en-us"),
        ("kvm_arguments", "args", ""),
        ("machine", "machine", ""),
        ("scsi_hardware", "scsihw", "virtio-scsi-pci"),
        ("hook_script_file_id", "hookscript", ""),
    ] {
        observe(name, default.into(), words(key, default));
    }
    for (name, key, default, absent) in [
        ("on_boot", "onboot", true, false),
        ("acpi", "acpi", true, true),
        ("tablet_device", "tablet", true, true),
        ("protection", "protection", false, false),
        ("template", "template", false, false),
    ] {
        observe(name, default.into(), truths(key, absent));
    }
    let tags: Vec<&str> = text(config, "tags").split([';', ',', ' ']).filter(|tag| !tag.is_empty()).collect();
    observe("tags", Value::List(Vec::new()), Value::texts(tags));
    if matches!(state.get("hotplug"), Value::Unknown | Value::Null) {
        state.set("hotplug", text(config, "hotplug"));
    }
    if matches!(state.get("boot_order"), Value::Unknown | Value::Null) {
        let order = text(config, "boot").strip_prefix("order=").unwrap_or_default();
        state.set("boot_order", Value::texts(order.split(';').filter(|device| !device.is_empty())));
    }
}

/// The blocks that the state has.
fn blocks(config: &Json, id: i64, formats: &BTreeMap<String, String>, state: &mut Value) {
    single(state, "cpu", |cpu| {
        let number = |key: &str, default| Value::Int(int(config, key).unwrap_or(default));
        cpu.set("cores", number("cores", 1));
        cpu.set("sockets", number("sockets", 1));
        cpu.set("hotplugged", number("vcpus", 0));
        cpu.set("units", number("cpuunits", 1024));
        cpu.set("numa", truth(config, "numa").unwrap_or(false));
        let limit = config.get("cpulimit").map(Value::from_json).unwrap_or_default();
        cpu.set(
            "limit",
            if let Value::Text(text) = &limit { Value::number(text.parse().unwrap_or(0.0)) } else { limit },
        );
        if cpu.get("limit").is_null() {
            cpu.set("limit", 0i64);
        }
        let mut parts = text(config, "cpu").split(',');
        let kind = parts.next().unwrap_or_default();
        let kind = kind.strip_prefix("cputype=").unwrap_or(kind);
        cpu.set("type", if kind.is_empty() { "qemu64" } else { kind });
        let flags = parts.find_map(|part| part.strip_prefix("flags="));
        if flags.is_some() || !cpu.list("flags").is_empty() {
            cpu.set(
                "flags",
                Value::texts(flags.unwrap_or_default().split(';').filter(|flag| !flag.is_empty())),
            );
        }
        cpu.set("affinity", text(config, "affinity"));
    });
    single(state, "memory", |memory| {
        memory.set("dedicated", int(config, "memory").unwrap_or(512));
        memory.set("floating", int(config, "balloon").unwrap_or(0));
    });
    single(state, "operating_system", |system| {
        let kind = text(config, "ostype");
        system.set("type", if kind.is_empty() { "other" } else { kind });
    });
    single(state, "agent", |agent| {
        let options = options(text(config, "agent"));
        agent.set("enabled", agent_enabled(config));
        agent.set("trim", options.get("fstrim_cloned_disks").is_some_and(|trim| *trim == "1"));
        agent.set("type", options.get("type").copied().unwrap_or("virtio"));
    });
    single(state, "smbios", |smbios| {
        let options = options(text(config, "smbios1"));
        let encoded = options.get("base64") == Some(&"1");
        smbios.set("uuid", options.get("uuid").copied().unwrap_or_default());
        for key in ["family", "manufacturer", "product", "serial", "sku", "version"] {
            let raw = options.get(key).copied().unwrap_or_default();
            let decoded = STANDARD.decode(raw).ok().filter(|_| encoded);
            let decoded = decoded.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            smbios.set(key, decoded.unwrap_or_else(|| raw.to_string()));
        }
    });
    single(state, "startup", |startup| {
        let options = options(text(config, "startup"));
        for (key, name) in [("order", "order"), ("up_delay", "up"), ("down_delay", "down")] {
            startup.set(key, options.get(name).and_then(|number| number.parse().ok()).unwrap_or(-1));
        }
    });
    if !state.list("serial_device").is_empty() {
        let ports =
            (0..4).map(|index| text(config, &format!("serial{index}"))).filter(|port| !port.is_empty());
        let ports =
            ports.map(|port| Value::Object([("device".to_string(), Value::from(port))].into())).collect();
        state.set("serial_device", Value::List(ports));
    }
    single(state, "initialization", |block| initialization(config, id, block));
    disks(config, formats, state);
    network(config, state);
}

fn single(state: &mut Value, name: &str, change: impl FnOnce(&mut Value)) {
    if let Some(block) = state.list_mut(name).and_then(|blocks| blocks.first_mut()) {
        change(block);
    }
}

/// `a=1,b=2` by key.
fn options(text: &str) -> BTreeMap<&str, &str> {
    text.split(',').filter_map(|part| part.split_once('=')).collect()
}

fn initialization(config: &Json, id: i64, block: &mut Value) {
    let interface = drive::cloud_init(config, id);
    if let Some(interface) = &interface {
        let storage = Drive::parse(text(config, interface)).storage().to_string();
        block.set("datastore_id", storage);
        if block.text("interface").is_some() {
            block.set("interface", interface.as_str());
        }
    }
    let custom = options(text(config, "cicustom"));
    for (key, name) in [
        ("meta_data_file_id", "meta"),
        ("network_data_file_id", "network"),
        ("user_data_file_id", "user"),
        ("vendor_data_file_id", "vendor"),
    ] {
        block.set(key, custom.get(name).copied().unwrap_or_default());
    }
    block.set("type", text(config, "citype"));
    if block.get("upgrade") == &Value::Unknown {
        block.set("upgrade", truth(config, "ciupgrade").unwrap_or(true));
    }
    single(block, "dns", |dns| {
        dns.set("servers", Value::texts(text(config, "nameserver").split_whitespace()));
        dns.set("domain", text(config, "searchdomain"));
    });
    for index in 0..block.list("ip_config").len() {
        let key = format!("ipconfig{index}");
        let seen = options(text(config, &key));
        let Some(entry) = block.list_mut("ip_config").and_then(|entries| entries.get_mut(index)) else {
            break;
        };
        for (family, address, gateway) in [("ipv4", "ip", "gw"), ("ipv6", "ip6", "gw6")] {
            single(entry, family, |entry| {
                entry.set("address", seen.get(address).copied().unwrap_or_default());
                entry.set("gateway", seen.get(gateway).copied().unwrap_or_default());
            });
        }
    }
    single(block, "user_account", |account| {
        // The password comes back masked: what the state has stays.
        account.set("username", text(config, "ciuser"));
        let keys = percent_decode_str(text(config, "sshkeys")).decode_utf8_lossy();
        account.set("keys", Value::texts(keys.lines().map(str::trim).filter(|key| !key.is_empty())));
    });
}

fn disks(config: &Json, formats: &BTreeMap<String, String>, state: &mut Value) {
    let Some(disks) = state.list_mut("disk") else {
        return;
    };
    disks.retain(|disk| !text(config, disk.text("interface").unwrap_or_default()).is_empty());
    for disk in disks {
        let interface = disk.text("interface").unwrap_or_default().to_string();
        let drive = Drive::parse(text(config, &interface));
        disk.set("datastore_id", drive.storage());
        disk.set("path_in_datastore", drive.volume.split_once(':').map_or("", |(_, path)| path));
        disk.set("size", Value::Int((drive.size() / GIB) as i64));
        if let Some(format) = formats.get(&interface) {
            disk.set("file_format", format.as_str());
        }
        let option =
            |key: &str, default: &str| Value::from(drive.options.get(key).map_or(default, String::as_str));
        disk.set("aio", option("aio", "io_uring"));
        disk.set("cache", option("cache", "none"));
        disk.set("discard", option("discard", "ignore"));
        disk.set("serial", option("serial", ""));
        for (key, default) in [("backup", true), ("replicate", true), ("iothread", false), ("ssd", false)] {
            disk.set(key, drive.options.get(key).map_or(default, |value| value == "1"));
        }
    }
}

/// Network devices: as blocks only when the state has them, as an attribute always.
fn network(config: &Json, state: &mut Value) {
    let before = state.get("network_device").clone();
    if before == Value::List(Vec::new()) {
        return;
    }
    let number = |device: &Device, key: &str| {
        Value::number(device.options.get(key).and_then(|text| text.parse().ok()).unwrap_or(0.0))
    };
    let word = |device: &Device, key: &str| {
        Value::from(device.options.get(key).map(String::as_str).unwrap_or_default())
    };
    let truth = |device: &Device, key: &str| Value::Bool(device.options.get(key).is_some_and(|v| v == "1"));
    let devices = network_devices(config).into_iter().map(|device| {
        let entries = [
            ("bridge", word(&device, "bridge")),
            ("disconnected", truth(&device, "link_down")),
            ("enabled", Value::Bool(true)),
            ("firewall", truth(&device, "firewall")),
            ("mac_address", device.mac.as_str().into()),
            ("model", device.model.as_str().into()),
            ("mtu", number(&device, "mtu")),
            ("queues", number(&device, "queues")),
            ("rate_limit", number(&device, "rate")),
            ("trunks", word(&device, "trunks")),
            ("vlan_id", number(&device, "tag")),
        ];
        Value::Object(entries.map(|(key, value)| (key.to_string(), value)).into())
    });
    let devices = Value::List(devices.collect());
    state.set("network_device", devices);
}
