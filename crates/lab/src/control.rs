//! The node's control socket `D/run/node.sock`: one JSON request per line, one JSON answer per line.
//!
//! The tools on the lab's PATH, the root agent and the tests use it. `fault-check` is answered as it stands in the
//! lab's specification (`{"action": …}`), everything else with `{"ok": …}` or `{"error": …}`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::api;
use crate::model::{AgentMode, FaultAction, GuestChange, NewGuest, Power, Timing};
use crate::node::power;
use crate::node::refusal::{Outcome, Refusal};
use crate::node::{Peer, Shared};
use crate::tool::{self, ToolCall};

/// What can be asked on the socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// What happens at a point; the asker obeys.
    FaultCheck {
        point: String,
    },
    /// The root agent tells what it did.
    Log {
        kind: String,
        action: String,
        #[serde(default)]
        params: Value,
    },
    /// A tool of the lab's PATH.
    Tool(ToolCall),
    Snapshot,
    Fault {
        point: String,
        fault: FaultAction,
        times: u32,
    },
    ClearFaults,
    Release,
    Faults,
    Points,
    Calls {
        since: u64,
    },
    AddGuests {
        guests: Vec<NewGuest>,
    },
    RemoveGuest {
        vmid: u32,
    },
    /// Sets or deletes a configuration key, as if the file had been edited.
    Set {
        vmid: u32,
        key: String,
        value: Option<String>,
    },
    Power {
        vmid: u32,
        power: Power,
    },
    Guest {
        vmid: u32,
        change: GuestChange,
    },
    Pool {
        vmid: u32,
        pool: Option<String>,
    },
    Migrate {
        vmid: u32,
        node: String,
    },
    RebootNode,
    Mount {
        mounted: bool,
    },
    GetTiming,
    SetTiming {
        timing: Timing,
    },
    /// Starts the root agent anew with this latency; `None` = leaves it stopped.
    RootAgent {
        latency_ms: Option<u64>,
    },
    Grant {
        path: String,
        subject: String,
        role: String,
    },
    /// The host's name server changes.
    Resolver {
        address: String,
    },
    /// The node's clock is so many seconds ahead of this machine's (negative: behind).
    Clock {
        ahead_s: i64,
    },
    /// A backup job names this VMID from now on.
    BackupJob {
        vmid: u32,
    },
    /// These volumes cannot be freed from now on.
    Stick {
        volumes: Vec<String>,
    },
    /// Somebody on the local network answers for this address from now on; without a hardware address nobody does.
    Neighbour {
        address: String,
        lladdr: Option<String>,
        state: Option<String>,
    },
    /// There is a ZFS pool for disks from now on.
    Zfs {
        storage: String,
    },
    /// A storage is full, disabled, or as before.
    Storage {
        storage: String,
        total: Option<u64>,
        enabled: Option<bool>,
    },
    /// A node of the cluster, this one or another, is on or off, and has so much memory in bytes.
    Peer {
        node: String,
        online: bool,
        memory: u64,
    },
    Down,
}

/// Serves the socket until the program ends.
pub(crate) async fn serve(node: Shared, socket: &Path, root_agent: RootAgentDoor) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (node, root_agent) = (node.clone(), root_agent.clone());
            tokio::spawn(async move {
                // A client that goes away in the middle has what it wanted.
                let _ = connection(node, root_agent, stream).await;
            });
        }
    });
    Ok(())
}

/// Asks the daemon for another root agent: the latency in milliseconds, or none; the answer says whether it came up.
pub(crate) type RootAgentDoor =
    tokio::sync::mpsc::Sender<(Option<u64>, tokio::sync::oneshot::Sender<Result<(), String>>)>;

async fn connection(node: Shared, root_agent: RootAgentDoor, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        // By way of a value: with exact numbers, tagged enums cannot be read from text directly.
        let request = serde_json::from_str::<Value>(&line).and_then(serde_json::from_value::<Request>);
        // In a task of its own: what was asked for is carried out also when the asker is killed.
        let answer = match request {
            Ok(request) => {
                let (node, root_agent) = (node.clone(), root_agent.clone());
                let work = tokio::spawn(async move { answer(&node, &root_agent, request).await });
                work.await.unwrap_or_else(|error| json!({"error": error.to_string()}))
            }
            Err(error) => json!({"error": format!("not a request: {error}")}),
        };
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn answer(node: &Shared, root_agent: &RootAgentDoor, request: Request) -> Value {
    match request {
        Request::FaultCheck { point } => api::fault(node, &point),
        Request::Tool(call) => json!({"ok": tool::run(node, call).await}),
        Request::RootAgent { latency_ms } => {
            let (tell, told) = tokio::sync::oneshot::channel();
            if root_agent.send((latency_ms, tell)).await.is_err() {
                return json!({"error": "the daemon is ending"});
            }
            match told.await {
                Ok(Ok(())) => json!({"ok": null}),
                Ok(Err(why)) => json!({"error": why}),
                Err(_) => json!({"error": "the daemon is ending"}),
            }
        }
        request => match act(node, request) {
            Ok(value) => json!({"ok": value}),
            Err(refusal) => json!({"error": refusal.message}),
        },
    }
}

fn act(node: &Shared, request: Request) -> Outcome<Value> {
    let value =
        |result: Result<Value, serde_json::Error>| result.map_err(|error| Refusal::die(error.to_string()));
    match request {
        Request::Log { kind, action, params } => node.log.add(&kind, action, None, params),
        Request::Snapshot => return value(serde_json::to_value(node.snapshot())),
        Request::Fault { point, fault, times } => node.faults.set(&point, fault, times),
        Request::Release => node.faults.release(),
        Request::ClearFaults => node.faults.clear(),
        Request::Faults => return value(serde_json::to_value(node.faults.all())),
        Request::Points => return Ok(json!(node.faults.points())),
        Request::Calls { since } => return value(serde_json::to_value(node.log.since(since))),
        Request::AddGuests { guests } => add_guests(node, &guests)?,
        Request::RemoveGuest { vmid } => remove_guest(node, vmid)?,
        Request::Power { vmid, power } => set_power(node, vmid, power)?,
        Request::RebootNode => power::reboot_node(node),
        Request::GetTiming => return value(serde_json::to_value(node.timing())),
        Request::SetTiming { timing } => node.set_timing(timing),
        Request::Down => node.ending.notify_one(),
        other => change_state(node, other)?,
    }
    Ok(Value::Null)
}

/// What changes a detail of the state and nothing else.
fn change_state(node: &Shared, request: Request) -> Outcome<()> {
    let mut state = node.state();
    let missing = |vmid: u32| Refusal::die(format!("there is no guest {vmid}"));
    match request {
        Request::Set { vmid, key, value } => {
            let guest = state.guests.get_mut(&vmid).ok_or_else(|| missing(vmid))?;
            match value {
                Some(value) => guest.config.insert(key, value),
                None => guest.config.remove(&key),
            };
            state.changed(vmid);
        }
        Request::Guest { vmid, change } => {
            let guest = state.guests.get_mut(&vmid).ok_or_else(|| missing(vmid))?;
            // Told to be on, it is started anew.
            if let (Some(AgentMode::On), Some(run)) = (change.agent, &mut guest.run) {
                run.agent_stuck = false;
            }
            let behaviour = &mut guest.behaviour;
            behaviour.agent = change.agent.unwrap_or(behaviour.agent);
            behaviour.boot_ms = change.boot_ms.or(behaviour.boot_ms);
            behaviour.shutdown_ms = change.shutdown_ms.or(behaviour.shutdown_ms);
            behaviour.ignore_shutdown = change.ignore_shutdown.unwrap_or(behaviour.ignore_shutdown);
            behaviour.figures = change.figures.unwrap_or(behaviour.figures);
        }
        Request::Pool { vmid, pool } => {
            if let Some(pool) = &pool {
                state.pools.entry(pool.clone()).or_default();
            }
            state.guests.get_mut(&vmid).ok_or_else(|| missing(vmid))?.pool = pool;
        }
        Request::Migrate { vmid, node } => {
            state.guests.get_mut(&vmid).ok_or_else(|| missing(vmid))?.node = node;
            state.changed(vmid);
            state.list_changed();
        }
        Request::Mount { mounted } => {
            state.files.set_mounted(mounted);
            if mounted {
                for vmid in state.guests.keys() {
                    state.changed(*vmid);
                }
                state.list_changed();
            }
        }
        Request::Grant { path, subject, role } => state.access.grant(&path, &subject, &role, true),
        Request::Resolver { address } => state.resolver = address,
        Request::Clock { ahead_s } => state.clock_ahead_s = ahead_s,
        Request::BackupJob { vmid } => {
            state.backup_jobs.insert(vmid);
        }
        Request::Stick { volumes } => state.storages.stuck = volumes,
        Request::Neighbour { address, lladdr, state: entry } => {
            let entry = entry.unwrap_or_else(|| "REACHABLE".into());
            match lladdr {
                Some(lladdr) => drop(state.network.neighbours.insert(address, (lladdr, entry))),
                None => drop(state.network.neighbours.remove(&address)),
            }
        }
        Request::Peer { node, online, memory } => {
            state.peers.insert(node, Peer { online, memory });
        }
        Request::Zfs { storage } => {
            state.storages.add_zfs(&storage);
            let user =
                state.access.users.keys().find(|user| *user != "root@pam").cloned().unwrap_or_default();
            state.access.grant(&format!("/storage/{storage}"), &user, "BlockHostStorage", true);
        }
        Request::Storage { storage, total, enabled } => {
            let storage = state
                .storages
                .storages
                .get_mut(&storage)
                .ok_or_else(|| Refusal::die(format!("storage '{storage}' does not exist")))?;
            storage.total = total.unwrap_or(storage.total);
            storage.enabled = enabled.unwrap_or(storage.enabled);
        }
        other => return Err(Refusal::die(format!("not a change of the state: {other:?}"))),
    }
    Ok(())
}

fn add_guests(node: &Shared, guests: &[NewGuest]) -> Outcome<()> {
    let mut state = node.state();
    let all = guests.iter().try_for_each(|guest| state.add_stranger(guest, &node.options));
    // Once for all: a thousand guests would write the list a thousand times.
    state.list_changed();
    drop(state);
    all?;
    for guest in guests.iter().filter(|guest| guest.running && !guest.container) {
        let on = if guest.node.is_empty() { &node.options.node } else { &guest.node };
        power::start_now(node, on, guest.vmid)?;
    }
    Ok(())
}

fn remove_guest(node: &Shared, vmid: u32) -> Outcome<()> {
    power::power_off(node, vmid);
    let mut state = node.state();
    if state.containers.remove(&vmid).is_some() {
        state.list_changed();
        return Ok(());
    }
    state.remove(vmid).ok_or_else(|| Refusal::die(format!("there is no guest {vmid}")))?;
    for volume in state.storages.of_guest(vmid) {
        state.storages.free(&volume)?;
    }
    Ok(())
}

fn set_power(node: &Shared, vmid: u32, wanted: Power) -> Outcome<()> {
    let (on, now) = {
        let state = node.state();
        let guest =
            state.guests.get(&vmid).ok_or_else(|| Refusal::die(format!("there is no guest {vmid}")))?;
        (guest.node.clone(), guest.power())
    };
    if wanted == Power::Stopped {
        power::power_off(node, vmid);
        return Ok(());
    }
    if now == Power::Stopped {
        power::start_now(node, &on, vmid)?;
    }
    let mut state = node.state();
    if let Some(run) = state.guests.get_mut(&vmid).and_then(|guest| guest.run.as_mut()) {
        run.paused = wanted == Power::Paused;
    }
    state.changed(vmid);
    Ok(())
}
