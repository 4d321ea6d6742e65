//! What the node knows of all VMs, for a list: one request to the API and one to the root agent, however many there are
//! (hazards H02, H41). Nothing is told of a machine that is not proven to be the record's: its figures would stand under
//! the name of somebody else's VM.

use super::Context;
use super::machine::{Machine, locate};
use super::metrics::lines_of;
use crate::host::clock::Deadline;
use crate::plan::metrics::{RunState, figures, whole};
use crate::tool::node::Ours;
use crate::value::identity::Identity;
use crate::value::vm_record::VmRecord;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The admin panel waits 15 s for a list.
const LIMIT: Duration = Duration::from_secs(10);

/// What the node says of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnNode {
    /// The node that has the VMID.
    pub node: String,
    /// What its CPUs do.
    pub state: RunState,
    /// How many it has.
    pub cpus: u64,
    /// Its memory in MiB.
    pub memory_mb: u64,
    /// Its first disk in GiB.
    pub disk_gb: u64,
    /// Seconds since its start; 0 while it is off.
    pub uptime_seconds: u64,
}

/// The answers of the node about all VMs.
pub struct NodeFacts<'c, 'h> {
    ctx: &'c Context<'h>,
    lines: BTreeMap<u32, Line>,
    ours: BTreeMap<u32, Ours>,
    deadline: Deadline,
}

struct Line {
    name: String,
    on_node: OnNode,
}

impl<'c, 'h> NodeFacts<'c, 'h> {
    /// Asks; the reasons of what could not be asked are returned beside what is known.
    pub fn ask(ctx: &'c Context<'h>) -> (NodeFacts<'c, 'h>, Vec<String>) {
        let deadline = ctx.host.deadline(LIMIT);
        let node = ctx.node();
        let (lines, guests) = std::thread::scope(|scope| {
            let guests = scope.spawn(|| node.guests(deadline));
            let lines = ctx.api().and_then(|(_, api)| Ok(api.get("/cluster/resources?type=vm", deadline)?));
            // A thread that panicked has returned nothing.
            (lines, guests.join().unwrap_or(Ok(None)))
        });
        let mut missing = Vec::new();
        let lines = lines.unwrap_or_else(|error| {
            missing.push(format!("cannot query the node, so what it knows of the VMs is missing: {error:#}"));
            Value::Null
        });
        let ours = guests.unwrap_or_else(|error| {
            missing.push(format!("cannot tell which VMs on the node are ours: {error}"));
            None
        });
        let lines = lines_of(&lines).map(|(vmid, line)| (vmid, Line::of(line))).collect();
        let ours = ours.unwrap_or_default().ours.into_iter().map(|one| (one.vmid, one)).collect();
        (NodeFacts { ctx, lines, ours, deadline }, missing)
    }

    /// What the node says of a record's machine; `None` where it does not list it, or it is not proven to be ours.
    pub fn of(&self, record: &VmRecord) -> Option<&OnNode> {
        if !record.is_live() || self.lines.is_empty() {
            return None;
        }
        let place = locate(self.ctx, record, self.deadline).ok()?;
        let line = self.lines.get(&place.vmid.get())?;
        let name = record.name.as_str();
        let is_proven = match &place.identity {
            Identity::Uuid(uuid) => {
                self.ours.get(&place.vmid.get()).is_some_and(|one| one.uuid == *uuid && one.name == name)
            }
            Identity::Name(_) => line.name == name,
        };
        if !is_proven {
            // Its description may have been changed: then its configuration tells. A stranger's name is another.
            if line.name != name || self.deadline.passed() {
                return None;
            }
            let machine = Machine { record: record.clone(), vmid: place.vmid, identity: place.identity };
            machine.state(self.ctx, self.deadline).ok().filter(|state| state.exists)?;
        }
        Some(&line.on_node)
    }
}

impl Line {
    fn of(line: &Value) -> Line {
        let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let state = RunState::of_qmp(&text("status"));
        let measured = figures(line, state);
        let on_node = OnNode {
            node: text("node"),
            state,
            cpus: whole(line, "maxcpu"),
            memory_mb: u64::try_from(measured.memory_total_mb).unwrap_or_default(),
            disk_gb: whole(line, "maxdisk") >> 30,
            uptime_seconds: u64::try_from(measured.uptime_seconds).unwrap_or_default(),
        };
        Line { name: text("name"), on_node }
    }
}
