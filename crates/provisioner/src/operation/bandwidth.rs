//! A VM's bandwidth limits on its network card (`facts/proxmox.md` sections 2 and 3; hazards H35, H36, H51).
//!
//! Proxmox keeps none of them: a tap is new at every start and whatever was set on it is gone. So the record says what is to
//! be, and the guard's file on the node, by which the hook script sets it at every start. throttle writes both; start,
//! resume and reapply put right what differs. With an older root agent, these four set it once, by `tc`.

use super::locked_vm::LockedVm;
use super::machine::Machine;
use super::{Context, network};
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::tool::guest_guard::Guarded;
use crate::value::limits::{FIELD, Limit, Limits};
use crate::value::vm_name::VmName;
use crate::value::vm_record::Status;

/// Both directions.
pub const BOTH: [Limit; 2] = [Limit::BandwidthIn, Limit::BandwidthOut];

/// What the guard says of the limits (`operation/guard.rs`).
const RECEIVES: &str = "the limit of what it receives";
const SENDS: &str = "the limit of what it sends";
/// What it says of everything else, and the root agent of addresses and hook script.
const ELSE: [&str; 6] = [
    "the host route to",
    "failed to isolate port",
    "is still isolated",
    "anti-spoofing is ",
    "it cannot use its IPv6 address",
    "at its starts",
];

/// Returns the limits in a VM's record as it is now.
pub fn recorded(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Limits> {
    let fields = ctx.database.inspect(|db| Ok(db.fields(name.as_str())))?;
    let limits = Limits::from_record(fields.as_ref().and_then(|fields| fields.get(FIELD)));
    limits.map_err(|why| {
        anyhow::anyhow!(
            "VM {name}: its record cannot be used: {why}; correct or remove its key {FIELD} in {}",
            ctx.database.path().display()
        )
    })
}

/// Sets these directions of a running VM: by its guard, which holds at every start, whoever does it, or as long as it runs
/// where an older root agent has none. What failed, and the directions that are not set because of it.
pub fn set(
    vm: &LockedVm<'_, '_>,
    machine: &Machine,
    limits: &[(Limit, u32)],
    deadline: Deadline,
) -> Result<(), (AgentError, Vec<Limit>)> {
    if limits.is_empty() {
        return Ok(());
    }
    let node = vm.node();
    let all = || limits.iter().map(|(limit, _)| *limit).collect::<Vec<_>>();
    let state =
        node.state(machine.vmid, Some(&machine.identity), deadline).map_err(|error| (error, all()))?;
    if let Some(report) = &state.guard {
        let mut wanted = report.limits;
        limits.iter().for_each(|(limit, kbps)| wanted.set(*limit, *kbps));
        let mut decision = network::decision_for(vm, &machine.record);
        decision.limits = Some(wanted);
        match node.set_guard(machine.vmid, &machine.identity, &decision, deadline) {
            // A VM of ours that an operator's new range leaves out.
            Err(error) if error.is_unknown_action() || error.code() == "range" => {}
            Err(error) => return Err((error, all())),
            Ok(done) => return in_force(&done, limits),
        }
    }
    vm.warn_unguarded();
    for (index, (limit, kbps)) in limits.iter().enumerate() {
        if let Err(error) = node.limit_rate(machine.vmid, &machine.identity, *limit, *kbps, deadline) {
            return Err((error, limits[index..].iter().map(|(limit, _)| *limit).collect()));
        }
    }
    Ok(())
}

/// Which of these directions the guard could not set, by its own sentences. One that is not known to be about something
/// else counts for both: a limit is never said to be in force because a sentence was new.
fn in_force(done: &Guarded, limits: &[(Limit, u32)]) -> Result<(), (AgentError, Vec<Limit>)> {
    let is_about = |why: &str, limit: Limit| match why {
        why if ELSE.iter().any(|other| why.contains(other)) => false,
        why if why.contains(RECEIVES) => limit == Limit::BandwidthIn,
        why if why.contains(SENDS) => limit == Limit::BandwidthOut,
        _ => true,
    };
    let of = |limit: Limit| match done.missing.iter().find(|why| is_about(why, limit)) {
        None if !done.applied && done.missing.is_empty() => Some("the VM is no longer running".to_owned()),
        why => why.cloned(),
    };
    let missing: Vec<_> =
        limits.iter().map(|(limit, _)| *limit).filter(|limit| of(*limit).is_some()).collect();
    let Some(error) = missing.first().and_then(|limit| of(*limit)) else { return Ok(()) };
    Err((
        AgentError::Said { action: "guard-set".into(), error, code: String::new(), unknown: false },
        missing,
    ))
}

/// Sets the limits in the record of a VM that has just been started or was found running; none if it is suspended or
/// destroyed (H51). What could not be set is returned as warnings, because the guest is running all the same.
pub fn put_back(vm: &LockedVm<'_, '_>, machine: &Machine, deadline: Deadline) -> Vec<String> {
    let name = vm.name();
    let look = || -> anyhow::Result<Limits> {
        let is_active = vm.record_now()?.is_some_and(|record| record.status == Status::Active);
        if is_active { recorded(vm, name) } else { Ok(Limits::default()) }
    };
    let limits = match look() {
        Ok(limits) => limits,
        Err(error) => return vec![format!("its bandwidth limits were not restored: {error:#}")],
    };
    // What the guard has is set by it, or said by it.
    let seen = vm.node().state(machine.vmid, Some(&machine.identity), deadline).ok();
    let guarded = seen.and_then(|state| state.guard?.bandwidth());
    let is_missing = |limit: Limit| match guarded {
        Some(guarded) => guarded.get(limit) != limits.get(limit),
        None => limits.get(limit) > 0,
    };
    let missing = BOTH.into_iter().filter(|limit| is_missing(*limit));
    let wanted: Vec<_> = missing.map(|limit| (limit, limits.get(limit))).collect();
    match set(vm, machine, &wanted, deadline) {
        Ok(()) => Vec::new(),
        Err((error, missing)) => {
            let missing: Vec<_> = missing.into_iter().map(Limit::name).collect();
            vec![format!(
                "{} not restored: {error}; blockhost-vm-start {name} sets it again",
                if missing.len() == 1 {
                    format!("{} was", missing[0])
                } else {
                    format!("{} were", missing.join(" and "))
                }
            )]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h35_a_limit_is_in_force_only_where_the_guard_says_nothing_of_it() {
        let both = [(Limit::BandwidthIn, 1), (Limit::BandwidthOut, 2)];
        let missing = |applied: bool, missing: &[&str]| {
            let missing = missing.iter().map(|why| (*why).to_owned()).collect();
            in_force(&Guarded { applied, missing }, &both).err().map(|(_, limits)| limits)
        };
        assert_eq!(missing(true, &[]), None);
        assert_eq!(
            missing(false, &["anti-spoofing is not in force: no", "failed to isolate port tap1i0, so"]),
            None
        );
        let of = |direction: &str| format!("the limit of what it {direction} is not in force: no");
        assert_eq!(missing(false, &[&of("sends")]), Some(vec![Limit::BandwidthOut]));
        assert_eq!(
            missing(false, &["anti-spoofing is off: x", &of("receives")]),
            Some(vec![Limit::BandwidthIn])
        );
        assert_eq!(missing(false, &["something new"]), Some(BOTH.to_vec()));
        assert_eq!(missing(false, &[]), Some(BOTH.to_vec()), "it went off meanwhile");
    }
}
