//! `blockhost-vm-status`: always prints exactly one word.

use super::Context;
use super::machine::{locate, with_pause};
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::value::identity::Identity;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vm_state::{GuardReport, VmState};
use std::time::Duration;

/// The admin panel waits 15 s for a list.
const LIST_LIMIT: Duration = Duration::from_secs(12);
/// After this time the database's status is used.
const LIMIT: Duration = Duration::from_secs(2);

/// The status shown by `status` and `list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It is running.
    Active,
    /// It exists, but is off or paused.
    Suspended,
    /// It was destroyed.
    Destroyed,
    /// Nothing is known for certain.
    Unknown,
}

impl Shown {
    /// The word printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Shown::Active => "active",
            Shown::Suspended => "suspended",
            Shown::Destroyed => "destroyed",
            Shown::Unknown => "unknown",
        }
    }

    /// All of them, in the order shown in help texts.
    pub const ALL: [Shown; 4] = [Shown::Active, Shown::Suspended, Shown::Destroyed, Shown::Unknown];
}

impl From<Status> for Shown {
    fn from(status: Status) -> Shown {
        match status {
            Status::Active => Shown::Active,
            Status::Suspended => Shown::Suspended,
            Status::Destroyed => Shown::Destroyed,
        }
    }
}

/// Returns the status, and the reason if it needs one.
pub fn status(ctx: &Context<'_>, name: &VmName) -> (Shown, Option<String>) {
    match ctx.record(name) {
        Ok(Some(record)) => live_status(ctx, &record, ctx.host.deadline(LIMIT)),
        Ok(None) => (Shown::Unknown, Some(format!("VM {name}: {}", ctx.no_record(name)))),
        Err(error) => (Shown::Unknown, Some(format!("VM {name}: {error:#}"))),
    }
}

/// Determines the real status of a VM in a list.
pub type LiveWord<'a> = &'a dyn Fn(&VmRecord) -> (Shown, Option<String>);

/// For a list of VMs: returns each VM's status on the node, within the time limit of the whole list.
pub fn on_node<'c>(ctx: &'c Context<'_>) -> impl Fn(&VmRecord) -> (Shown, Option<String>) + 'c {
    let deadline = ctx.host.deadline(LIST_LIMIT);
    move |record| live_status(ctx, record, deadline.at_most(Duration::from_secs(2)))
}

/// Returns the status of a record's VM: as the node reports it, or as in the database if the node does not answer.
pub fn live_status(ctx: &Context<'_>, record: &VmRecord, deadline: Deadline) -> (Shown, Option<String>) {
    let by_database = match record.status {
        Status::Active => Shown::Active,
        Status::Suspended => Shown::Suspended,
        Status::Destroyed => Shown::Destroyed,
    };
    if by_database == Shown::Destroyed {
        return (by_database, None);
    }
    let no_answer = |label: &str, error: &AgentError| {
        (
            by_database,
            Some(format!("{label}: the node did not answer, so this is its last known state: {error}")),
        )
    };
    let place = match locate(ctx, record, deadline) {
        Ok(place) => place,
        Err(error) => {
            return match error.downcast_ref::<AgentError>() {
                Some(error) => no_answer(&format!("VM {}", record.name), error),
                None => (Shown::Unknown, Some(format!("{error:#}"))),
            };
        }
    };
    let label = format!("VM {} (VMID {})", record.name, place.vmid);
    match ctx.node().state(place.vmid, Some(&place.identity), deadline) {
        Ok(state) => {
            let state = with_pause(ctx, place.vmid, state, deadline);
            judge(&label, record, &place.identity, &state, by_database)
        }
        Err(error) => no_answer(&label, &error),
    }
}

fn judge(
    label: &str,
    record: &VmRecord,
    identity: &Identity,
    state: &VmState,
    by_database: Shown,
) -> (Shown, Option<String>) {
    if !state.exists {
        return (
            Shown::Unknown,
            Some(format!(
                "{label}: the node has no such VM; to close its record, run blockhost-vm-destroy {}",
                record.name
            )),
        );
    }
    if state.elsewhere {
        return (
            by_database,
            Some(format!("{label}: it is on node {}, so this is its last known state", state.node)),
        );
    }
    if !state.is(identity, &record.name) {
        return (
            Shown::Unknown,
            Some(format!(
                "{label}: VMID {} now belongs to another guest: expected {identity}, found {}",
                record.vmid,
                state.description()
            )),
        );
    }
    let up = state.running && state.paused != Some(true);
    let warning = state.guard.as_deref().filter(|_| up).and_then(GuardReport::warning);
    let warning =
        warning.map(|what| format!("{label}: {what}; blockhost-vm-start {} repairs it", record.name));
    (if up { Shown::Active } else { Shown::Suspended }, warning)
}
