//! What a guest needs on the host after each start: the IPv6 host route, and its port isolated from other guests
//! (hazard H36: the tap is new every time).
//!
//! A VM runs half a second to many seconds before its tap is a port of the bridge, and only a port can be isolated
//! (hazard H54). So both are set when the port is there and the start has ended, and the isolation is read back.

use super::Context;
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::tool::node::Node;
use crate::value::identity::Identity;
use crate::value::vm_state::VmState;
use crate::value::vmid::Vmid;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Pauses between looks at a port that is not there yet.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// What is kept of the caller's time for setting the route of a VM whose port does not come.
const RESERVE: Duration = Duration::from_secs(2);

/// One try to isolate a port.
#[derive(Debug, PartialEq, Eq)]
pub enum Isolation {
    /// It is isolated.
    Done,
    /// Not yet: why.
    NotYet(String),
    /// It failed otherwise; another start may help.
    Failed(String),
    /// It cannot be isolated as this VM and this host are.
    Impossible(String),
}

/// Sets both within the deadline; what could not be set is returned as warnings, because the guest runs all the same.
pub fn connect(
    ctx: &Context<'_>,
    node: &Node,
    (vmid, identity): (Vmid, &Identity),
    ipv6: Option<Ipv6Addr>,
    deadline: Deadline,
) -> Vec<String> {
    let isolating = deadline.at_most(deadline.left().saturating_sub(RESERVE));
    let mut pause = PAUSES.0;
    let isolation = loop {
        match isolate_once(node, (vmid, identity), isolating) {
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
    finish(ctx, node, vmid, ipv6, &isolation, deadline)
}

/// The route, and the words for what is missing.
pub fn finish(
    ctx: &Context<'_>,
    node: &Node,
    vmid: Vmid,
    ipv6: Option<Ipv6Addr>,
    isolation: &Isolation,
    deadline: Deadline,
) -> Vec<String> {
    let mut warnings = Vec::new();
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
        Isolation::Done => return warnings,
        Isolation::NotYet(why) | Isolation::Failed(why) => (why, "; blockhost-vm-start sets it again"),
        Isolation::Impossible(why) => (why, ""),
    };
    warnings.push(format!(
        "failed to isolate port tap{vmid}i0, so other guests on this bridge can reach it: {why}{advice}"
    ));
    warnings
}

/// Isolates the port of a running VM if it is there, and reads that back.
pub fn isolate_once(node: &Node, (vmid, identity): (Vmid, &Identity), deadline: Deadline) -> Isolation {
    let look = || node.state(vmid, Some(identity), deadline);
    match look() {
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

/// What a look says before anything is tried; `None`: the time has come, or an older plugin does not tell.
fn readiness(state: &VmState) -> Option<Isolation> {
    if !state.running {
        return Some(Isolation::Failed("the VM is no longer running".to_string()));
    }
    if state.starting {
        return Some(Isolation::NotYet("its start task has not finished".to_string()));
    }
    if let Some(port) = &state.firewall_port {
        let isolated = state.isolated == Some(true);
        let why = format!(
            "Proxmox' firewall is on for this card (firewall=1), so its bridge port is {port}, which the root agent \
             does not isolate; set firewall=0 on net0"
        );
        return Some(if isolated { Isolation::Done } else { Isolation::Impossible(why) });
    }
    if state.no_card {
        return Some(Isolation::Impossible("the VM has no network card net0".to_string()));
    }
    match (state.connected, state.isolated) {
        (Some(false), _) => Some(Isolation::NotYet("its tap is not yet a port of the bridge".to_string())),
        (Some(true), Some(true)) => Some(Isolation::Done),
        _ => None,
    }
}

/// Whether the kernel agrees. A bridge that does not tell (`told` false) is believed.
fn read_back(state: Result<VmState, AgentError>, told: bool) -> Isolation {
    match state {
        Ok(state) if state.isolated == Some(true) || !told => Isolation::Done,
        Ok(_) => {
            Isolation::NotYet("the root agent reported success, but the port is not isolated".to_string())
        }
        Err(error) => Isolation::NotYet(format!("it was set, but cannot be read back: {error}")),
    }
}

/// A refusal: whether the port is only not there yet, in the words of iproute2 and the kernel.
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
    // A port that is there and has no such attribute is none of the kernel's own bridge.
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
