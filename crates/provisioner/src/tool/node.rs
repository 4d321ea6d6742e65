//! Actions and queries on the node through the root agent (`facts/contract/root-agent.md`). Actions start something and
//! return; waiting is done here by polling the state, because the agent serves one request at a time (hazard H20).

use super::vm_state::state_in;
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::doors::Doors;
use crate::host::interrupt::Interrupt;
use crate::host::patience::Patience;
use crate::host::root_agent::{self, AgentError};
use crate::value::identity::Identity;
use crate::value::text::UserName;
use crate::value::vm_name::VmName;
use crate::value::vm_state::{VmState, is_busy};
use crate::value::vmid::Vmid;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Time limit for one action, including the wait behind others: another package's action can occupy the agent's single
/// lane for up to 30 s. Callers' own limits are shorter.
const ACTION: Duration = Duration::from_secs(60);
/// How long an unanswered request may take to show in the state before it is repeated.
const UNANSWERED: Duration = Duration::from_secs(3);
/// How often the state is polled while waiting.
const POLL: Duration = Duration::from_millis(250);
/// An act is not repeated if less time than this is left: its answer, and with it the reason of a failure, would come
/// too late.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Adds the VM's proof of identity to a request's parameters.
pub(super) fn put(identity: &Identity, params: &mut Map<String, Value>) {
    match identity {
        Identity::Uuid(uuid) => params.insert("uuid".into(), uuid.to_string().into()),
        Identity::Name(name) => params.insert("name".into(), name.as_str().into()),
    };
}

/// What to query in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A process, by its PID in the guest.
    Process(u64),
    /// A `qm` of the root agent that had not answered in time.
    Job(u64),
}

/// What the configurations of the cluster's guests hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guests {
    /// VMIDs of our range that are in use by anybody.
    pub vmids: Vec<u32>,
    /// Static addresses of all guests and of the cluster's nodes.
    pub addresses: Vec<IpAddr>,
    /// VMs that are ours according to the mark in their description.
    pub ours: Vec<Ours>,
    /// How many configurations could not be read: what they hold is not among these.
    pub unread: u64,
}

/// A VM that is ours according to its mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// Its VMID.
    pub vmid: u32,
    /// The name it was created with.
    pub name: String,
    /// The identity it was created with.
    pub uuid: Uuid,
}

impl Guests {
    fn from_answer(answer: &Map<String, Value>) -> Guests {
        let list = |key: &str| answer.get(key).and_then(Value::as_array).into_iter().flatten();
        let vmids = list("guests").filter_map(|guest| guest.get("vmid")?.as_u64()?.try_into().ok());
        let addresses = list("addresses").filter_map(|address| address.as_str()?.parse().ok());
        let ours = list("guests").filter_map(|guest| {
            let text = |key: &str| guest.get(key).and_then(Value::as_str);
            let vmid = guest.get("vmid")?.as_u64()?.try_into().ok()?;
            Some(Ours { vmid, name: text("name")?.to_string(), uuid: Uuid::parse_str(text("uuid")?).ok()? })
        });
        let unread = answer.get("unread").and_then(Value::as_u64).unwrap_or_default();
        Guests { vmids: vmids.collect(), addresses: addresses.collect(), ours: ours.collect(), unread }
    }
}

/// The node, accessed through the root agent.
#[derive(Debug, Clone)]
pub struct Node {
    socket: PathBuf,
    pub(super) doors: Doors,
    interrupt: Interrupt,
    patient: bool,
}

impl Node {
    /// The node of this host. `interrupt` ends waits; undo passes one that never comes.
    pub fn new(host: &Host, interrupt: Interrupt) -> Node {
        Node { socket: host.agent_socket(), doors: host.doors, interrupt, patient: true }
    }

    /// The same, but a busy VM is refused at once: for callers that have other VMs to handle meanwhile.
    pub fn impatient(mut self) -> Node {
        self.patient = false;
        self
    }

    /// Returns the state that the node reports for `vmid`, without starting a process there. For a guest that is not
    /// the one of `identity` it reports little, and nothing if the VMID cannot be ours.
    pub fn state(
        &self,
        vmid: Vmid,
        identity: Option<&Identity>,
        deadline: Deadline,
    ) -> Result<VmState, AgentError> {
        let mut params = Map::new();
        params.insert("vmid".into(), vmid.get().into());
        if let Some(identity) = identity {
            put(identity, &mut params);
        }
        let answer = self.act("vm-state", Value::Object(params), deadline)?;
        state_in(&answer).ok_or_else(|| AgentError::NotJson("vm-state".to_string()))
    }

    /// Describes the VMs in the whole cluster that have or may have this identity (`address`: or that have this address
    /// in their configuration). An error means that it cannot be determined.
    pub fn find(
        &self,
        identity: &Identity,
        address: Option<Ipv4Addr>,
        deadline: Deadline,
    ) -> Result<Vec<String>, AgentError> {
        let mut params = Map::new();
        put(identity, &mut params);
        if let Some(address) = address {
            params.insert("address".into(), address.to_string().into());
        }
        let answer = self.act("vm-find", Value::Object(params), deadline)?;
        let found = answer.get("found").and_then(Value::as_array);
        let found = found.ok_or_else(|| AgentError::NotJson("vm-find".to_string()))?;
        let text = |guest: &Value, key: &str| {
            guest
                .get(key)
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string))
                .unwrap_or_default()
        };
        Ok(found
            .iter()
            .map(|g| format!("VMID {} ({}) on node {}", text(g, "vmid"), text(g, "name"), text(g, "node")))
            .collect())
    }

    /// Returns what the guests of the whole cluster hold of the VMIDs and addresses that we allocate; `None` if the
    /// root agent cannot tell (its plugin is older than this command).
    pub fn guests(&self, deadline: Deadline) -> Result<Option<Guests>, AgentError> {
        match self.act("guest-list", json!({}), deadline) {
            Ok(answer) => Ok(Some(Guests::from_answer(&answer))),
            Err(error) if error.is_unknown_action() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts the VM.
    pub fn start(&self, vmid: Vmid, identity: &Identity, deadline: Deadline) -> Result<(), AgentError> {
        self.forceful("qm-start", vmid, identity, json!({}), deadline).map(drop)
    }

    /// Switches the VM off at once.
    pub fn stop(&self, vmid: Vmid, identity: &Identity, deadline: Deadline) -> Result<(), AgentError> {
        self.forceful("qm-stop", vmid, identity, json!({ "timeout": 10 }), deadline).map(drop)
    }

    /// Tells the guest to shut down within `limit`; returns at once.
    pub fn shutdown(
        &self,
        vmid: Vmid,
        identity: &Identity,
        limit: Duration,
        deadline: Deadline,
    ) -> Result<(), AgentError> {
        self.forceful("qm-shutdown", vmid, identity, json!({ "timeout": limit.as_secs() }), deadline)
            .map(drop)
    }

    /// Resumes a paused guest.
    pub fn resume(&self, vmid: Vmid, identity: &Identity, deadline: Deadline) -> Result<(), AgentError> {
        self.forceful("qm-resume", vmid, identity, json!({}), deadline).map(drop)
    }

    /// Deletes a stopped VM with its disks and waits until it is gone. Also returns the disks that could not be freed,
    /// which `qm` treats as a success (H32).
    pub fn destroy(
        &self,
        vmid: Vmid,
        identity: &Identity,
        deadline: Deadline,
    ) -> anyhow::Result<(Waited, Vec<String>)> {
        let destroy = || self.forceful("qm-destroy", vmid, identity, json!({}), deadline).map(drop);
        let act = Act { vmid, identity, action: "qm-destroy", deadline };
        let waited = self.act_and_wait(act, destroy, |s| !s.exists)?;
        let leftovers = match &waited {
            Waited::Done(state) => state.leftovers.clone(),
            _ => Vec::new(),
        };
        Ok((waited, leftovers))
    }

    /// The same with a single request, for callers that check again before they repeat it.
    pub fn destroy_once(
        &self,
        vmid: Vmid,
        identity: &Identity,
        deadline: Deadline,
    ) -> anyhow::Result<Attempt> {
        let destroy = || self.forceful("qm-destroy", vmid, identity, json!({}), deadline).map(drop);
        self.act_once(Act { vmid, identity, action: "qm-destroy", deadline }, destroy, |s| !s.exists)
    }

    /// Sets whether the node starts the VM when the node boots.
    pub fn set_onboot(
        &self,
        vmid: Vmid,
        identity: &Identity,
        on: bool,
        deadline: Deadline,
    ) -> Result<(), AgentError> {
        const SET: &str = "qm-set";
        let config = json!({ "config": { "onboot": u8::from(on) } });
        let answer = self.forceful(SET, vmid, identity, config, deadline)?;
        if answer.get("pending") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        // On a busy node, one `qm` can take longer than the root agent waits for it.
        let said = |words: &str, unknown: bool| AgentError::Said {
            action: SET.to_string(),
            error: words.to_string(),
            code: "failed".to_string(),
            unknown,
        };
        let failure = |state: &VmState| state.failed.clone().filter(|failed| failed.action == SET);
        let waited = self.wait_for(vmid, identity, deadline, |s| s.onboot == on || failure(s).is_some());
        match waited {
            Ok(Waited::Done(state)) if state.onboot == on => Ok(()),
            Ok(Waited::Done(state)) => {
                Err(said(&failure(&state).map(|failed| failed.words).unwrap_or_default(), false))
            }
            Ok(_) => Err(said("the node is busy: qm set did not finish in time", true)),
            Err(error) => Err(said(&format!("{error:#}"), true)),
        }
    }

    /// Fails unless the guest agent answers.
    pub fn guest_ping(&self, vmid: Vmid, identity: &Identity, deadline: Deadline) -> Result<(), AgentError> {
        self.forceful("qm-guest-ping", vmid, identity, json!({}), deadline).map(drop)
    }

    /// Runs `command` with the guest's `/bin/sh -c` and waits `wait` seconds for its end; the answer has `pid` if the
    /// command is still running.
    pub fn guest_exec(
        &self,
        vmid: Vmid,
        identity: &Identity,
        command: &str,
        wait: f64,
        deadline: Deadline,
    ) -> Result<Map<String, Value>, AgentError> {
        self.forceful("qm-guest-exec", vmid, identity, json!({ "command": command, "wait": wait }), deadline)
    }

    /// Queries a process of the guest. Its end is reported only once.
    pub fn guest_exec_status(
        &self,
        vmid: Vmid,
        identity: &Identity,
        asked: Asked,
        deadline: Deadline,
    ) -> Result<Map<String, Value>, AgentError> {
        let about = match asked {
            Asked::Process(pid) => json!({ "pid": pid }),
            Asked::Job(job) => json!({ "job": job }),
        };
        self.forceful("qm-guest-exec-status", vmid, identity, about, deadline)
    }

    /// Sets a guest user's GECOS; the answer is like that of [`Node::guest_exec`].
    pub fn update_gecos(
        &self,
        vmid: Vmid,
        identity: &Identity,
        user: &UserName,
        gecos: &str,
        deadline: Deadline,
    ) -> Result<Map<String, Value>, AgentError> {
        self.forceful(
            "qm-update-gecos",
            vmid,
            identity,
            json!({ "username": user.as_str(), "gecos": gecos }),
            deadline,
        )
    }

    /// Writes a snippet of the VM (`user` or `meta`).
    pub fn put_snippet(
        &self,
        name: &VmName,
        kind: &str,
        text: &str,
        deadline: Deadline,
    ) -> Result<(), AgentError> {
        let params = json!({ "name": name.as_str(), "kind": kind, "text": text });
        self.act("snippet-put", params, deadline).map(drop).map_err(|error| match error {
            // The agent answers with the text of an exception, which may repeat the snippet (H30).
            AgentError::Said { action, error, code, unknown } => {
                let lines = text.lines().map(str::trim).filter(|line| line.len() >= 8);
                let error = lines.fold(error, |words, line| words.replace(line, "[secret]"));
                AgentError::Said { action, error, code, unknown }
            }
            other => other,
        })
    }

    /// Removes a snippet; it is not an error if it is already gone.
    pub fn delete_snippet(&self, name: &VmName, kind: &str, deadline: Deadline) -> Result<(), AgentError> {
        self.act("snippet-delete", json!({ "name": name.as_str(), "kind": kind }), deadline).map(drop)
    }

    pub(super) fn forceful(
        &self,
        action: &str,
        vmid: Vmid,
        identity: &Identity,
        more: Value,
        deadline: Deadline,
    ) -> Result<Map<String, Value>, AgentError> {
        let mut params = Map::new();
        params.insert("vmid".into(), vmid.get().into());
        put(identity, &mut params);
        if let Value::Object(more) = more {
            params.extend(more);
        }
        self.act(action, Value::Object(params), deadline)
    }

    /// Runs one action; repeats it with growing pauses while the VM is busy (H22), within the deadline.
    pub(super) fn act(
        &self,
        action: &str,
        params: Value,
        deadline: Deadline,
    ) -> Result<Map<String, Value>, AgentError> {
        let mut pause = Duration::from_millis(200);
        loop {
            let result = root_agent::call(
                self.doors,
                &self.socket,
                action,
                params.clone(),
                deadline.at_most(self.doors.limit("agent-action", ACTION)),
            );
            match &result {
                Err(error)
                    if self.patient
                        && error.is_busy()
                        && deadline.left() > pause + LAST_CALL
                        && !self.interrupt.requested() =>
                {
                    tracing::debug!("{error}; trying again");
                    self.interrupt.sleep(self.doors, pause);
                    pause = (pause * 2).min(Duration::from_secs(3));
                }
                _ => return result,
            }
        }
    }

    /// Requests an act (`action`, by calling `ask`) and waits until `done`. The root agent answers before a slow act
    /// has ended. An act that fails later because the VM was busy is requested again (H22); any other failure ends the
    /// wait with the tool's output. Whether an unanswered request was carried out is unknown; the state shows it (H48).
    pub fn act_and_wait(
        &self,
        act: Act<'_>,
        ask: impl Fn() -> Result<(), AgentError>,
        mut done: impl FnMut(&VmState) -> bool,
    ) -> anyhow::Result<Waited> {
        let Act { vmid, deadline, .. } = act;
        let mut pause = Duration::from_millis(500);
        loop {
            match self.act_once(act, &ask, &mut done)? {
                Attempt::Done(state) => return Ok(Waited::Done(state)),
                Attempt::Failed(words) => return Ok(Waited::Failed(words)),
                Attempt::TimedOut(state) => return Ok(Waited::TimedOut(state)),
                // Each of these acts can safely be requested twice.
                Attempt::Lost => {}
                Attempt::Busy(words) if !self.patient || deadline.left() < pause + LAST_CALL => {
                    return Ok(Waited::Failed(words));
                }
                Attempt::Busy(words) => {
                    tracing::debug!("VMID {vmid}: {words}; trying again");
                    self.pause(pause)?;
                    pause = (pause * 2).min(Duration::from_secs(3));
                }
            }
        }
    }

    /// Requests an act once and waits until `done`, or until it is known to have failed.
    fn act_once(
        &self,
        act: Act<'_>,
        ask: impl Fn() -> Result<(), AgentError>,
        mut done: impl FnMut(&VmState) -> bool,
    ) -> anyhow::Result<Attempt> {
        let Act { vmid, identity, action, deadline } = act;
        let mut until = deadline;
        match ask() {
            Err(error) if error.outcome_unknown() => {
                tracing::warn!("VMID {vmid}: {error}; asking for its state");
                until = deadline.at_most(UNANSWERED);
            }
            Err(error) if error.code() == "missing" => {
                tracing::warn!("VMID {vmid}: {error}; asking for its state");
            }
            Err(error) if error.is_busy() => return Ok(Attempt::Busy(error.to_string())),
            Err(error) => return Ok(Attempt::Failed(error.to_string())),
            Ok(()) => {}
        }
        let failure = |state: &VmState| state.failed.clone().filter(|failed| failed.action == action);
        let state = match self.wait_for(vmid, identity, until, |s| done(s) || failure(s).is_some())? {
            Waited::Done(state) => state,
            Waited::TimedOut(_) if !deadline.passed() => return Ok(Attempt::Lost),
            Waited::TimedOut(state) => return Ok(Attempt::TimedOut(state)),
            Waited::Failed(words) => return Ok(Attempt::Failed(words)),
        };
        if done(&state) {
            return Ok(Attempt::Done(state));
        }
        let words = failure(&state).map(|failed| failed.words).unwrap_or_default();
        Ok(if is_busy(&words) { Attempt::Busy(words) } else { Attempt::Failed(words) })
    }

    /// Sleeps; fails if a signal arrives.
    pub fn pause(&self, time: Duration) -> anyhow::Result<()> {
        self.interrupt.sleep(self.doors, time);
        self.interrupt.check()
    }

    /// Polls the state until `done` returns true. Returns the last state seen, or the error that prevented reading it.
    pub fn wait_for(
        &self,
        vmid: Vmid,
        identity: &Identity,
        deadline: Deadline,
        mut done: impl FnMut(&VmState) -> bool,
    ) -> anyhow::Result<Waited> {
        let mut last_seen = None;
        let mut patience = Patience::new(self.doors);
        loop {
            let seen =
                self.state(vmid, Some(identity), deadline.at_most(self.doors.limit("agent-action", ACTION)));
            match &seen {
                Ok(state) if done(state) => return Ok(Waited::Done(state.clone())),
                Ok(state) => last_seen = Some(state.clone()),
                Err(_) => {}
            }
            if deadline.passed() {
                // The last poll often ends with the deadline itself; the state seen before it is the better answer.
                return match (last_seen, seen) {
                    (Some(state), _) | (None, Ok(state)) => Ok(Waited::TimedOut(state)),
                    (None, Err(error)) => Err(error.into()),
                };
            }
            patience.still(|| {
                format!("VMID {vmid}: still waiting, at most {} s more", deadline.left().as_secs())
            });
            self.interrupt.check()?;
            deadline.sleep_unless(&self.interrupt, POLL);
        }
    }
}

/// An act on a VM whose end is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// The VM.
    pub vmid: Vmid,
    /// The UUID or name that identifies it.
    pub identity: &'a Identity,
    /// The root agent's action; a failure reported after its answer is matched to this act by it.
    pub action: &'a str,
    /// When the wait ends.
    pub deadline: Deadline,
}

/// The result of requesting an act once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The wanted state was reached.
    Done(VmState),
    /// The act failed, with the tool's output.
    Failed(String),
    /// The act failed because the VM was busy, with the tool's output; can be tried again.
    Busy(String),
    /// There was no answer, and the state does not show the act; can be tried again.
    Lost,
    /// The deadline passed; the last state before it.
    TimedOut(VmState),
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// The state that was waited for.
    Done(VmState),
    /// The deadline passed; the last state before it.
    TimedOut(VmState),
    /// The act that should have led to the state failed, with the tool's output.
    Failed(String),
}

impl AgentError {
    /// Whether the cause is PVE's own lock on a VM's configuration, held by a backup or a task that ends soon.
    pub fn is_busy(&self) -> bool {
        matches!(self, AgentError::Said { error, code, .. } if code == "locked" || is_busy(error))
    }
}
