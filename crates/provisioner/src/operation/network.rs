//! What a guest's network needs on the host: the IPv6 host route, its port isolated from other guests, its limits, and
//! rules that hold it to its own addresses (hazard H36: the tap is new every time).
//!
//! The root agent is told what a VM is to be held to ([`decision`]); from then on Proxmox carries it out at every start,
//! whoever starts the VM (`blockhost-provisioner-guard`). Our own start only looks whether it was, and sees to it that the
//! hook script is there before, for without it the VM would not start.
//!
//! A VM runs half a second to many seconds before its tap is a port of the bridge, and only a port can be isolated
//! (hazard H54). So we look when the port is there and the start has ended. An older root agent has no guard: then route
//! and isolation are set here, and the isolation is read back.

use super::Context;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::tool::guest_guard::Decision;
use crate::tool::node::Node;
use crate::value::identity::Identity;
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::VmState;
use crate::value::vmid::Vmid;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// First and longest pause between checks of a port that does not exist yet.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// Part of the caller's time kept for setting the route, in case the port does not appear.
const RESERVE: Duration = Duration::from_secs(2);

/// One try to connect a VM that runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Isolation {
    /// The guard has done everything.
    Guarded,
    /// Part of it: what is missing.
    PartlyGuarded(Vec<String>),
    /// By an older root agent: it is isolated.
    Done,
    /// Not yet, for this reason.
    NotYet(String),
    /// It failed for another reason; another start may help.
    Failed(String),
    /// It cannot be isolated with this VM and host as they are.
    Impossible(String),
}

/// What a VM of these addresses is held to. `wanted`: by its record, `None` where that does not say.
pub fn decision(
    ctx: &Context<'_>,
    (ipv4, ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
    wanted: Option<bool>,
) -> Decision {
    let anti_spoofing = ctx.settings.anti_spoofing && wanted == Some(true);
    Decision { ipv4, ipv6, anti_spoofing, enabled: true, limits: None }
}

/// What a VM is held to by its record.
pub fn decision_for(ctx: &Context<'_>, record: &VmRecord) -> Decision {
    decision(ctx, (record.ipv4, record.ipv6), record.anti_spoofing)
}

/// Sees to it that a VM that is off has its guard at the next start, whoever starts it: the hook script is put back where
/// it is gone. What fails here is said when the VM runs, or by its start.
pub fn prepare(node: &Node, (vmid, identity): (Vmid, &Identity), decision: &Decision, deadline: Deadline) {
    if let Err(error) = node.set_guard(vmid, identity, decision, deadline) {
        tracing::debug!("VMID {vmid}: {error}");
    }
}

/// Nothing is put back for a VM that is suspended, whoever starts it (hazard H51). An older root agent puts nothing back
/// by itself.
pub fn suspend(
    node: &Node,
    (vmid, identity): (Vmid, &Identity),
    record: &VmRecord,
    deadline: Deadline,
) -> Result<(), AgentError> {
    let (ipv4, ipv6, anti_spoofing) = (record.ipv4, record.ipv6, record.anti_spoofing == Some(true));
    let off = Decision { ipv4, ipv6, anti_spoofing, enabled: false, limits: None };
    match node.set_guard(vmid, identity, &off, deadline) {
        Err(error) if error.is_unknown_action() || error.code() == "missing" => Ok(()),
        answer => answer.map(drop),
    }
}

/// Connects a running VM within the deadline; what could not be set is returned as warnings, because the guest runs all
/// the same.
pub fn connect(
    ctx: &Context<'_>,
    node: &Node,
    (vmid, identity): (Vmid, &Identity),
    decision: &Decision,
    deadline: Deadline,
) -> Vec<String> {
    let isolating = deadline.at_most(deadline.left().saturating_sub(RESERVE));
    let mut pause = PAUSES.0;
    let isolation = loop {
        match connect_once(ctx, node, (vmid, identity), decision, isolating) {
            Isolation::NotYet(why) if isolating.left() <= pause => break Isolation::NotYet(why),
            Isolation::NotYet(why) => {
                tracing::debug!("VMID {vmid}: {why}; trying again");
                if let Err(signal) = node.pause(pause) {
                    break Isolation::Failed(format!("{why} ({signal})"));
                }
                pause = (pause * 2).min(PAUSES.1);
            }
            ended => break ended,
        }
    };
    finish(ctx, node, vmid, decision.ipv6, &isolation, deadline)
}

/// Sets the route, and returns warnings about what is missing.
pub fn finish(
    ctx: &Context<'_>,
    node: &Node,
    vmid: Vmid,
    ipv6: Option<Ipv6Addr>,
    isolation: &Isolation,
    deadline: Deadline,
) -> Vec<String> {
    const AGAIN: &str = "; to retry, run blockhost-vm-start";
    let mut warnings = Vec::new();
    match isolation {
        Isolation::Guarded => return warnings,
        Isolation::PartlyGuarded(missing) => {
            return missing.iter().map(|why| format!("{why}{AGAIN}")).collect();
        }
        _ => {}
    }
    let add_route =
        |address| -> anyhow::Result<()> { Ok(node.add_route(address, &ctx.bridge()?, deadline)?) };
    if let Some(address) = ipv6
        && let Err(error) = add_route(address)
    {
        warnings.push(format!(
            "failed to set the host route to {address}, so the guest is unreachable by IPv6: \
            {error:#}; to retry, run blockhost-vm-start"
        ));
    }
    let (why, advice) = match isolation {
        Isolation::Guarded | Isolation::PartlyGuarded(_) | Isolation::Done => return warnings,
        Isolation::NotYet(why) | Isolation::Failed(why) => (why, AGAIN),
        Isolation::Impossible(why) => (why, ""),
    };
    warnings.push(format!(
        "failed to isolate port tap{vmid}i0, so other guests on this bridge can reach it: {why}{advice}"
    ));
    warnings
}

/// Connects a running VM if its port is there.
pub fn connect_once(
    ctx: &Context<'_>,
    node: &Node,
    (vmid, identity): (Vmid, &Identity),
    decision: &Decision,
    deadline: Deadline,
) -> Isolation {
    let look = || node.state(vmid, Some(identity), deadline);
    let seen = look();
    if let Ok(state) = &seen
        && state.guard.is_some()
    {
        if let Some(answer) = not_yet(state) {
            return answer;
        }
        match node.set_guard(vmid, identity, decision, deadline) {
            // A VM of ours that an operator's new range leaves out.
            Err(error) if error.is_unknown_action() || error.code() == "range" => {}
            answer => return guarded(answer),
        }
    }
    if seen.is_ok() {
        ctx.warn_unguarded();
    }
    match seen {
        Ok(state) => match readiness(&state) {
            Some(answer) => answer,
            None => match node.isolate(vmid, deadline) {
                Ok(()) if state.connected.is_none() => Isolation::Done,
                Ok(()) => read_back(look(), state.isolated.is_some()),
                Err(error) => refused(&error, &state),
            },
        },
        Err(error @ AgentError::Said { .. }) if !error.outcome_unknown() => {
            Isolation::Failed(error.to_string())
        }
        Err(error) => Isolation::NotYet(error.to_string()),
    }
}

/// What the guard's answer means.
fn guarded(answer: Result<crate::tool::guest_guard::Guarded, AgentError>) -> Isolation {
    match answer {
        Ok(done) if done.applied && done.missing.is_empty() => Isolation::Guarded,
        // The port was there a moment ago: plugged anew.
        Ok(done) if done.missing.iter().any(|why| why.contains("is not a port of a bridge yet")) => {
            Isolation::NotYet(done.missing.join("; "))
        }
        Ok(done) if done.missing.is_empty() => Isolation::NotYet("the VM is no longer running".to_string()),
        Ok(done) => Isolation::PartlyGuarded(done.missing),
        Err(error) if error.outcome_unknown() => Isolation::NotYet(error.to_string()),
        Err(error) => Isolation::Failed(error.to_string()),
    }
}

/// Why nothing can be connected now, whoever does it.
fn not_yet(state: &VmState) -> Option<Isolation> {
    if !state.running {
        return Some(Isolation::Failed("the VM is no longer running".to_string()));
    }
    if state.starting {
        return Some(Isolation::NotYet("its start task has not finished".to_string()));
    }
    if state.no_card {
        return Some(Isolation::Impossible("the VM has no network card net0".to_string()));
    }
    (state.connected == Some(false))
        .then(|| Isolation::NotYet("its tap is not yet a port of the bridge".to_string()))
}

/// What the state says before any attempt; `None` if it is time to try, or an older plugin does not report it.
fn readiness(state: &VmState) -> Option<Isolation> {
    if let Some(answer) = not_yet(state) {
        return Some(answer);
    }
    if let Some(port) = &state.firewall_port {
        let isolated = state.isolated == Some(true);
        let why = format!(
            "Proxmox' firewall is on for this card (firewall=1), so its bridge port is {port}, which the root agent \
             does not isolate; set firewall=0 on net0"
        );
        return Some(if isolated { Isolation::Done } else { Isolation::Impossible(why) });
    }
    (state.connected == Some(true) && state.isolated == Some(true)).then_some(Isolation::Done)
}

/// Whether the kernel shows the port as isolated. If the bridge does not report it (`told` is false), success is
/// assumed.
fn read_back(state: Result<VmState, AgentError>, told: bool) -> Isolation {
    match state {
        Ok(state) if state.isolated == Some(true) || !told => Isolation::Done,
        Ok(_) => {
            Isolation::NotYet("the root agent reported success, but the port is not isolated".to_string())
        }
        Err(error) => Isolation::NotYet(format!("it was set, but cannot be read back: {error}")),
    }
}

/// Judges a refusal: whether only the port does not exist yet, by the messages of iproute2 and the kernel.
fn refused(error: &AgentError, state: &VmState) -> Isolation {
    const NOT_YET: [&str; 5] = [
        "Operation not supported",
        "Cannot find",
        "No such device",
        "Device or resource busy",
        "Resource temporarily unavailable",
    ];
    let words = error.to_string();
    if error.is_unknown_action() {
        return Isolation::Impossible(
            "the root agent of this host is too old to isolate ports; upgrade blockhost-common".to_string(),
        );
    }
    // An existing port without this attribute does not belong to a Linux bridge.
    if state.connected == Some(true) && state.isolated.is_none() && words.contains("Operation not supported")
    {
        return Isolation::Impossible(
            "its bridge is not a Linux bridge, and only those can isolate ports".to_string(),
        );
    }
    if NOT_YET.iter().any(|sign| words.contains(sign)) || error.outcome_unknown() {
        return Isolation::NotYet(words);
    }
    Isolation::Failed(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> VmState {
        VmState {
            exists: true,
            running: true,
            connected: Some(true),
            isolated: Some(false),
            ..VmState::default()
        }
    }

    fn said(error: &str) -> AgentError {
        AgentError::Said {
            action: "bridge-port-isolate".into(),
            error: error.into(),
            code: String::new(),
            unknown: false,
        }
    }

    #[test]
    fn h54_a_port_is_isolated_when_it_is_one_and_the_start_has_ended() {
        assert_eq!(readiness(&running()), None);
        let look = |change: fn(&mut VmState)| {
            let mut state = running();
            change(&mut state);
            readiness(&state)
        };
        assert!(matches!(look(|s| s.starting = true), Some(Isolation::NotYet(_))));
        assert!(matches!(look(|s| s.connected = Some(false)), Some(Isolation::NotYet(_))));
        assert!(matches!(look(|s| s.running = false), Some(Isolation::Failed(_))));
        assert!(matches!(
            look(|s| s.firewall_port = Some("fwpr100p0".into())),
            Some(Isolation::Impossible(_))
        ));
        assert!(matches!(look(|s| s.no_card = true), Some(Isolation::Impossible(_))));
        assert_eq!(look(|s| s.isolated = Some(true)), Some(Isolation::Done));
        assert_eq!(look(|s| s.connected = None), None, "an older plugin does not tell");
    }

    #[test]
    fn h54_not_a_port_yet_is_tried_again_and_other_refusals_are_final() {
        let state = running();
        assert!(matches!(
            refused(&said("RTNETLINK answers: Operation not supported"), &state),
            Isolation::NotYet(_)
        ));
        assert!(matches!(
            refused(&said("Cannot find bridge device \"tap100i0\""), &state),
            Isolation::NotYet(_)
        ));
        assert!(matches!(refused(&said("Invalid device: tap100i0"), &state), Isolation::Failed(_)));
        let old = refused(&said("Unknown action: bridge-port-isolate"), &state);
        assert!(matches!(old, Isolation::Impossible(why) if why.contains("too old")));
        let ovs = VmState { isolated: None, ..running() };
        assert!(matches!(
            refused(&said("RTNETLINK answers: Operation not supported"), &ovs),
            Isolation::Impossible(_)
        ));
        assert!(matches!(read_back(Ok(running()), true), Isolation::NotYet(_)), "set is not isolated");
    }
}
