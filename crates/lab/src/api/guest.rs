//! Everything below `/nodes/{node}/qemu`. Privileges are looked at before existence.

use serde_json::{Value, json};

use super::figures;
use super::params::{Params, vmid as parse_vmid};
use super::routes::upid;
use crate::node::Shared;
use crate::node::access::Caller;
use crate::node::change::{self, Change};
use crate::node::clone::{self, CloneRequest};
use crate::node::existence::{self, Destroy};
use crate::node::power::{self, Shutdown};
use crate::node::refusal::{Outcome, Refusal};
use crate::node::{disks, guest_agent, tasks};

/// A request that concerns one guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub node: &'a Shared,
    pub caller: &'a Caller,
    /// The node named in the path.
    pub on: &'a str,
    pub vmid: u32,
    pub params: &'a Params,
}

impl Request<'_> {
    fn may(&self, privilege: &str) -> Outcome<()> {
        let state = self.node.state();
        let path = format!("/vms/{}", self.vmid);
        if state.access.may(self.caller, &path, state.pool_of(self.vmid).as_deref(), privilege) {
            return Ok(());
        }
        Err(Refusal::forbidden(&path, privilege))
    }

    /// The agent's privileges changed their names with version 9.
    fn may_agent(&self, nine: &str) -> Outcome<()> {
        self.may(if self.node.options.pve >= 9 { nine } else { "VM.Monitor" })
    }

    /// Parameters that only `root@pam` itself may use.
    fn no_root_options(&self) -> Outcome<()> {
        if *self.caller == Caller::Root {
            return Ok(());
        }
        match ["skiplock", "keepActive"].into_iter().find(|name| self.params.flag(name)) {
            Some(name) => Err(Refusal::parameter(name, "Only root may use this option.")),
            None => Ok(()),
        }
    }
}

/// The acts on one guest; `None` for a path there is not.
pub(crate) async fn act(request: &Request<'_>, method: &str, act: &[&str]) -> Option<Outcome<Value>> {
    Some(match (method, act) {
        ("GET", ["config"]) => config(request),
        ("PUT", ["config"]) => change_config(request).await,
        ("POST", ["config"]) => change_config_task(request).await,
        ("GET", ["pending"]) => pending(request),
        ("GET", ["status", "current"]) => status(request),
        ("POST", ["status", word]) => return change_power(request, word).await,
        ("GET", ["rrddata"]) => rrddata(request),
        ("POST", ["clone"]) => clone_guest(request).await,
        ("PUT", ["resize"]) => resize(request).await,
        ("POST", ["move_disk"]) => move_disk(request).await,
        ("POST", ["template"]) => template(request).await,
        ("GET", ["snapshot"]) => request.may("VM.Audit").and_then(|()| {
            request.node.state().guest(request.on, request.vmid)?;
            Ok(json!([{"name": "current", "description": "You are here!", "running": 0}]))
        }),
        ("POST", ["agent", "ping"]) => ping(request).await,
        ("GET", ["agent", "network-get-interfaces"]) => interfaces(request).await,
        ("GET", ["agent", "get-fsinfo"]) => file_systems(request).await,
        ("POST", ["agent", "exec"]) => exec(request).await,
        ("GET", ["agent", "exec-status"]) => exec_status(request).await,
        _ => return None,
    })
}

/// `GET /nodes/{n}/qemu`: what the caller may see.
pub(crate) fn list(node: &Shared, caller: &Caller, on: &str) -> Value {
    let state = node.state();
    state
        .guests
        .values()
        .filter(|guest| guest.node == on)
        .filter(|guest| {
            state.access.may(caller, &format!("/vms/{}", guest.vmid), guest.pool.as_deref(), "VM.Audit")
        })
        .map(figures::list_entry)
        .collect()
}

/// `POST /nodes/{n}/qemu`.
pub(crate) async fn create(node: &Shared, caller: &Caller, on: &str, params: &Params) -> Outcome<Value> {
    let vmid = parse_vmid(params.need("vmid")?)?;
    let options = params
        .list()
        .iter()
        .filter(|(name, _)| !["vmid", "start", "storage", "force", "unique"].contains(&name.as_str()))
        .cloned()
        .collect();
    existence::create(node, caller, on, vmid, options, params.flag("start")).await.map(upid)
}

/// `DELETE /nodes/{n}/qemu/{id}`.
pub(crate) async fn destroy(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    params: &Params,
) -> Outcome<Value> {
    let request = Request { node, caller, on, vmid, params };
    request.may("VM.Allocate")?;
    params.only(&["purge", "destroy-unreferenced-disks", "skiplock"])?;
    request.no_root_options()?;
    let how = Destroy {
        purge: params.flag("purge"),
        unreferenced: params.flag("destroy-unreferenced-disks"),
        skip_lock: params.flag("skiplock"),
    };
    existence::destroy(node, caller, on, vmid, how).await.map(upid)
}

fn config(request: &Request<'_>) -> Outcome<Value> {
    request.may("VM.Audit")?;
    request.params.only(&["current", "snapshot"])?;
    let state = request.node.state();
    let guest = state.guest(request.on, request.vmid)?;
    let mut map = match request.params.flag("current") {
        true => figures::config_json(&guest.config),
        false => figures::config_json(&guest.merged()),
    };
    map.insert("digest".into(), json!(guest.digest()));
    Ok(Value::Object(map))
}

fn pending(request: &Request<'_>) -> Outcome<Value> {
    request.may("VM.Audit")?;
    let state = request.node.state();
    let guest = state.guest(request.on, request.vmid)?;
    let keys = guest.config.keys().chain(guest.pending.keys()).collect::<std::collections::BTreeSet<_>>();
    Ok(keys
        .into_iter()
        .map(|key| {
            let mut entry = json!({"key": key});
            if let Some(value) = guest.config.get(key) {
                entry["value"] = json!(value);
            }
            match guest.pending.get(key) {
                Some(Some(value)) => entry["pending"] = json!(value),
                Some(None) => entry["delete"] = json!(1),
                None => {}
            }
            entry
        })
        .collect())
}

fn requested_change(params: &Params) -> Change {
    let mut change = Change::default();
    for (name, value) in params.list() {
        match name.as_str() {
            "delete" => change.delete.extend(split_list(value)),
            "digest" => change.digest = Some(value.clone()),
            "skiplock" => change.skip_lock = matches!(value.as_str(), "1" | "on" | "yes" | "true"),
            "revert" => change.revert.extend(split_list(value)),
            "force" | "background_delay" => {}
            _ => change.set.push((name.clone(), value.clone())),
        }
    }
    change
}

/// A list parameter: split at commas, semicolons, blanks.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    text.split([',', ';', ' ', '\0']).filter(|part| !part.is_empty()).map(String::from).collect()
}

/// `VM.Audit` is not needed, but some right to configure is: without any the answer is 403 whatever was asked.
fn may_configure(request: &Request<'_>) -> Outcome<()> {
    const ANY: &[&str] = &[
        "VM.Config.Disk",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.HWType",
        "VM.Config.Options",
        "VM.Config.Cloudinit",
    ];
    if ANY.iter().any(|privilege| request.may(privilege).is_ok()) {
        return Ok(());
    }
    Err(Refusal::forbidden(&format!("/vms/{}", request.vmid), &ANY.join("|")))
}

async fn change_config(request: &Request<'_>) -> Outcome<Value> {
    may_configure(request)?;
    let change = requested_change(request.params);
    change::change(request.node, request.caller, request.on, request.vmid, change).await?;
    Ok(Value::Null)
}

async fn change_config_task(request: &Request<'_>) -> Outcome<Value> {
    may_configure(request)?;
    let change = requested_change(request.params).checked(request.node, request.caller, request.vmid)?;
    request.node.state().guest(request.on, request.vmid)?;
    let (node, caller, on, vmid) =
        (request.node.clone(), request.caller.clone(), request.on.to_owned(), request.vmid);
    let id = tasks::spawn(request.node, request.caller, "qmconfig", vmid, move |worker| async move {
        for warning in change::change(&node, &caller, &on, vmid, change).await? {
            worker.line(warning);
        }
        Ok(())
    })
    .await;
    Ok(upid(id))
}

fn status(request: &Request<'_>) -> Outcome<Value> {
    request.may("VM.Audit")?;
    let state = request.node.state();
    let guest = state.guest(request.on, request.vmid)?;
    Ok(figures::status_current(guest, request.node.options.pve))
}

fn rrddata(request: &Request<'_>) -> Outcome<Value> {
    request.may("VM.Audit")?;
    request.params.only(&["timeframe", "cf"])?;
    let timeframe = request.params.need("timeframe")?;
    let state = request.node.state();
    let guest = state.guest(request.on, request.vmid)?;
    Ok(figures::rrddata(guest, timeframe, request.node.options.pve))
}

async fn change_power(request: &Request<'_>, word: &str) -> Option<Outcome<Value>> {
    if !["start", "stop", "shutdown", "reboot", "suspend", "resume", "reset"].contains(&word) {
        return None;
    }
    Some(power_task(request, word).await.map(upid))
}

async fn power_task(request: &Request<'_>, word: &str) -> Outcome<String> {
    request.may("VM.PowerMgmt")?;
    request.params.only(&[
        "timeout",
        "skiplock",
        "keepActive",
        "forceStop",
        "overrule-shutdown",
        "todisk",
        "nocheck",
        "machine",
    ])?;
    request.no_root_options()?;
    let timeout = request.params.number("timeout")?;
    let Request { node, caller, on, vmid, params } = *request;
    match word {
        "start" => Ok(power::start(node, caller, on, vmid).await),
        "stop" => {
            Ok(power::stop(node, caller, on, vmid, params.flag("overrule-shutdown"), params.flag("skiplock"))
                .await)
        }
        "shutdown" => {
            let how = Shutdown { timeout, force_stop: params.flag("forceStop") };
            power::shutdown(node, caller, on, vmid, how).await
        }
        "suspend" => Ok(power::suspend(node, caller, on, vmid, params.flag("todisk")).await),
        "resume" => Ok(power::resume(node, caller, on, vmid).await),
        _ => power::reboot(node, caller, on, vmid, timeout).await,
    }
}

async fn clone_guest(request: &Request<'_>) -> Outcome<Value> {
    let params = request.params;
    params.only(&[
        "newid",
        "name",
        "description",
        "pool",
        "storage",
        "full",
        "format",
        "snapname",
        "target",
        "bwlimit",
    ])?;
    let wanted = CloneRequest {
        newid: parse_vmid(params.need("newid")?)?,
        name: params.get("name").map(String::from),
        description: params.get("description").map(String::from),
        pool: params.get("pool").map(String::from),
        storage: params.get("storage").map(String::from),
        full: params.flag("full"),
    };
    clone::clone(request.node, request.caller, request.on, request.vmid, wanted).await.map(upid)
}

async fn resize(request: &Request<'_>) -> Outcome<Value> {
    request.may("VM.Config.Disk")?;
    request.params.only(&["disk", "size", "digest", "skiplock"])?;
    request.no_root_options()?;
    let (disk, size) = (request.params.need("disk")?, request.params.need("size")?);
    Ok(upid(disks::resize(request.node, request.caller, request.on, request.vmid, disk, size).await))
}

async fn move_disk(request: &Request<'_>) -> Outcome<Value> {
    request.may("VM.Config.Disk")?;
    let params = request.params;
    params.only(&["disk", "storage", "delete", "format", "digest", "bwlimit"])?;
    let (disk, storage) = (params.need("disk")?, params.need("storage")?);
    let Request { node, caller, on, vmid, .. } = *request;
    disks::move_disk(node, caller, on, vmid, disk, storage, params.flag("delete")).await.map(upid)
}

async fn template(request: &Request<'_>) -> Outcome<Value> {
    request.may("VM.Allocate")?;
    existence::template(request.node, request.caller, request.on, request.vmid).await.map(upid)
}

async fn ping(request: &Request<'_>) -> Outcome<Value> {
    request.may_agent("VM.GuestAgent.Audit")?;
    guest_agent::check(request.node, request.on, request.vmid).await?;
    Ok(json!({"result": {}}))
}

async fn interfaces(request: &Request<'_>) -> Outcome<Value> {
    request.may_agent("VM.GuestAgent.Audit")?;
    guest_agent::interfaces(request.node, request.on, request.vmid).await
}

async fn file_systems(request: &Request<'_>) -> Outcome<Value> {
    request.may_agent("VM.GuestAgent.Audit")?;
    guest_agent::file_systems(request.node, request.on, request.vmid).await
}

async fn exec(request: &Request<'_>) -> Outcome<Value> {
    request.may_agent("VM.GuestAgent.Unrestricted")?;
    request.params.only(&["command", "input-data"])?;
    let command = request.params.all("command");
    let input = request.params.get("input-data").unwrap_or("").as_bytes().to_vec();
    if input.len() > 64 << 10 {
        return Err(Refusal::parameter("input-data", "value may only be 65536 characters long"));
    }
    let pid = guest_agent::exec(request.node, request.on, request.vmid, &command, input).await?;
    Ok(json!({"pid": pid}))
}

async fn exec_status(request: &Request<'_>) -> Outcome<Value> {
    request.may_agent("VM.GuestAgent.Unrestricted")?;
    request.params.only(&["pid"])?;
    let pid = request.params.number("pid")?.unwrap_or(0);
    let pid = u32::try_from(pid).unwrap_or(0);
    guest_agent::exec_status(request.node, request.on, request.vmid, pid).await
}
