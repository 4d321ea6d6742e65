//! The machine behind a record: its true VMID and the proof that it is ours (hazards H01, H02, H41, H47).

use super::Context;
use super::locked_vm::LockedVm;
use crate::host::clock::Deadline;
use crate::tool::node::Act;
use crate::value::identity::Identity;
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::VmState;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// How long one look at the node may take.
const LOOK: Duration = Duration::from_secs(45);
/// How long the API may take to say whether a machine is paused: nothing that it decides is worth a longer wait.
const PAUSED_LOOK: Duration = Duration::from_secs(3);

/// Between two looks at a start that is under way.
const SETTLING: Duration = Duration::from_millis(200);

/// A machine of ours, or the place where it was.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its record.
    pub record: VmRecord,
    /// Its VMID, corrected where an older record was wrong.
    pub vmid: Vmid,
    /// What proves it.
    pub identity: Identity,
}

impl Machine {
    /// An act on it that is waited for.
    pub fn act<'a>(&'a self, action: &'a str, deadline: Deadline) -> Act<'a> {
        Act { vmid: self.vmid, identity: &self.identity, action, deadline }
    }

    /// The words errors begin with.
    pub fn label(&self) -> String {
        format!("VM {} (VMID {})", self.record.name, self.vmid)
    }

    /// The state on the node; an error where the machine there is not ours, or on another node. A machine that is
    /// gone is no error.
    pub fn proven_state(&self, ctx: &Context<'_>, deadline: Deadline) -> anyhow::Result<VmState> {
        Ok(with_pause(ctx, self.vmid, self.state(ctx, deadline)?, deadline))
    }

    /// The same without asking the API whether it is paused.
    pub fn state(&self, ctx: &Context<'_>, deadline: Deadline) -> anyhow::Result<VmState> {
        let state = self.unproven_state(ctx, deadline)?;
        self.prove(&state)?;
        Ok(state)
    }

    /// The proven state, once a start is over whose command has died and which the node still works on: what looks switched off
    /// would run a moment later, and whoever asked for it to be off was told that it is (H57).
    pub fn settled_state(&self, ctx: &Context<'_>, deadline: Deadline) -> anyhow::Result<VmState> {
        loop {
            let state = self.proven_state(ctx, deadline)?;
            if state.running || !state.starting {
                return Ok(state);
            }
            anyhow::ensure!(
                !deadline.passed(),
                "{}: a start task for it on the node does not finish; check the node's task log, then try again",
                self.label()
            );
            ctx.node().pause(SETTLING)?;
        }
    }

    /// What is at its VMID, whosever it is.
    pub fn unproven_state(&self, ctx: &Context<'_>, deadline: Deadline) -> anyhow::Result<VmState> {
        let state = ctx.node().state(self.vmid, Some(&self.identity), deadline.at_most(LOOK));
        state.with_context(|| format!("{}: cannot query the node", self.label()))
    }

    /// Checks a state that was asked for.
    pub fn prove(&self, state: &VmState) -> anyhow::Result<()> {
        if !state.exists {
            return Ok(());
        }
        anyhow::ensure!(
            !state.elsewhere,
            "{}: it is on node {} now; run this there, or migrate it back",
            self.label(),
            state.node
        );
        anyhow::ensure!(
            state.is(&self.identity, &self.record.name) && !state.template,
            "{}: VMID {} now belongs to another guest: expected {}, found {}; nothing was done. If VM {} was deleted outside BlockHost, close its record with blockhost-vm-destroy {}",
            self.label(),
            self.vmid,
            self.identity,
            state.description(),
            self.record.name,
            self.record.name
        );
        Ok(())
    }
}

/// A guest's process runs while it is paused: where the root agent could not tell, the API is asked
/// (`qmpstatus`; `facts/proxmox.md`). No answer leaves it open.
pub fn with_pause(ctx: &Context<'_>, vmid: Vmid, mut state: VmState, deadline: Deadline) -> VmState {
    if !state.running || state.paused.is_some() {
        return state;
    }
    let ask = || -> anyhow::Result<bool> {
        let (access, api) = ctx.api()?;
        let node = if state.node.is_empty() { access.node.as_str() } else { &state.node };
        let current =
            api.get(&format!("/nodes/{node}/qemu/{vmid}/status/current"), deadline.at_most(PAUSED_LOOK))?;
        let word = current.get("qmpstatus").and_then(Value::as_str).context("no qmpstatus")?;
        // Off since the root agent looked is not paused.
        Ok(!matches!(word, "running" | "stopped"))
    };
    match ask() {
        Ok(paused) => state.paused = Some(paused),
        Err(error) => tracing::debug!("VMID {vmid}: cannot tell whether it is paused: {error:#}"),
    }
    state
}

/// The machine of a record, for a look at it.
pub fn seen(ctx: &Context<'_>, record: VmRecord, deadline: Deadline) -> anyhow::Result<Machine> {
    let place = locate(ctx, &record, deadline)?;
    Ok(Machine { vmid: place.vmid, identity: place.identity, record })
}

/// The machine of a record. A wrong VMID of an older record is corrected.
pub fn of_record(vm: &LockedVm<'_, '_>, record: VmRecord, deadline: Deadline) -> anyhow::Result<Machine> {
    let place = locate(vm, &record, deadline)?;
    if place.proven_elsewhere {
        tracing::warn!(
            "VM {}: its record says VMID {}, but the Terraform state and the node say {}; correcting the record",
            record.name,
            record.vmid,
            place.vmid
        );
        let corrected = vm.database.update(|db| {
            db.set_vmid(record.name.as_str(), place.vmid.get());
            Ok(())
        });
        let words = match &corrected {
            Ok(()) => format!("ok; it was {}", record.vmid),
            Err(error) => format!("{error:#}"),
        };
        vm.audit("correct-vmid", Some(place.vmid), [Some(record.status); 2], &words);
        corrected?;
    }
    Ok(Machine { vmid: place.vmid, identity: place.identity, record })
}

/// Where a record's machine is to be looked for.
pub struct Whereabouts {
    /// Its VMID.
    pub vmid: Vmid,
    /// What proves it.
    pub identity: Identity,
    /// The record says another VMID, and is wrong.
    proven_elsewhere: bool,
}

/// Finds the VMID of a record and changes nothing. Records of the older package may hold a wrong one: the shared
/// terraform state is right where the name on the node agrees (`facts/contract/legacy.md`).
pub fn locate(ctx: &Context<'_>, record: &VmRecord, deadline: Deadline) -> anyhow::Result<Whereabouts> {
    let as_recorded = |identity| Whereabouts { vmid: record.vmid, identity, proven_elsewhere: false };
    if let Some(uuid) = record.smbios_uuid {
        return Ok(as_recorded(Identity::Uuid(uuid)));
    }
    let identity = Identity::Name(record.name.clone());
    let legacy = ctx.legacy_folder_of(&record.name);
    let in_state = match legacy.vmid_in_state() {
        Ok(vmid) => vmid,
        Err(error) => {
            tracing::warn!("VM {}: {error:#}; the record's VMID {} is used", record.name, record.vmid);
            None
        }
    };
    let in_state = in_state.filter(|n| *n != record.vmid.get()).and_then(|n| Vmid::new(u64::from(n)).ok());
    let Some(other) = in_state else {
        return Ok(as_recorded(identity));
    };
    let look = |vmid| {
        ctx.node()
            .state(vmid, Some(&identity), deadline.at_most(LOOK))
            .with_context(|| format!("VM {}: cannot query the node", record.name))
    };
    let there = look(other)?;
    if there.exists && there.is(&identity, &record.name) {
        return Ok(Whereabouts { vmid: other, identity, proven_elsewhere: true });
    }
    let here = look(record.vmid)?;
    if here.exists && here.is(&identity, &record.name) {
        return Ok(as_recorded(identity));
    }
    let describe = |vmid: Vmid, state: &VmState| {
        if state.exists {
            format!("VMID {vmid} is {}", state.description())
        } else {
            format!("VMID {vmid} does not exist")
        }
    };
    anyhow::ensure!(
        !here.exists && !there.exists,
        "VM {}: its record says VMID {}, terraform's state says {other}, and neither is a VM of this name: {}, {}; \
         nothing was done",
        record.name,
        record.vmid,
        describe(record.vmid, &here),
        describe(other, &there)
    );
    // Gone under both numbers: the one terraform made is the one that counts.
    Ok(Whereabouts { vmid: other, identity, proven_elsewhere: false })
}
