//! The VM that a record is about: its true VMID, and the proof that it is ours (hazards H01, H02, H41, H47).

use super::Context;
use super::locked_vm::LockedVm;
use crate::host::clock::Deadline;
use crate::tool::node::Act;
use crate::value::identity::Identity;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::VmState;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// Time limit of one query of the node.
const LOOK: Duration = Duration::from_secs(45);
/// How long the API may take to say whether a VM is paused: nothing that depends on it is worth a longer wait.
const PAUSED_LOOK: Duration = Duration::from_secs(3);

/// Pause between two checks of a start in progress.
const SETTLING: Duration = Duration::from_millis(200);

/// A VM of ours on the node, or where it used to be.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its record.
    pub record: VmRecord,
    /// Its VMID, corrected if an older record was wrong.
    pub vmid: Vmid,
    /// The UUID or name that identifies it.
    pub identity: Identity,
}

impl Machine {
    /// An action on it that will be waited for.
    pub fn act<'a>(&'a self, action: &'a str, deadline: Deadline) -> Act<'a> {
        Act { vmid: self.vmid, identity: &self.identity, action, deadline }
    }

    /// The prefix of error messages.
    pub fn label(&self) -> String {
        format!("VM {} (VMID {})", self.record.name, self.vmid)
    }

    /// Returns the state on the node; fails if the VM there is not ours or is on another node. A VM that is gone is not
    /// an error.
    pub fn proven_state(&self, ctx: &Context<'_>, deadline: Deadline) -> anyhow::Result<VmState> {
        Ok(with_pause(ctx, self.vmid, self.state(ctx, deadline)?, deadline))
    }

    /// As `proven_state`, without querying the API whether the VM is paused.
    pub fn state(&self, ctx: &Context<'_>, deadline: Deadline) -> anyhow::Result<VmState> {
        let state = self.unproven_state(ctx, deadline)?;
        self.prove(&state)?;
        Ok(state)
    }

    /// Returns the proven state, after waiting for a start that is still in progress on the node although its command
    /// has died: a VM that looks off would be running a moment later, after the caller has been told that it is off
    /// (H57).
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

    /// Checks that the VM still exists on the node.
    pub fn ensure_exists(&self, state: &VmState) -> anyhow::Result<()> {
        anyhow::ensure!(
            state.exists,
            "{}: the VM no longer exists on the node (deleted outside BlockHost?); restore it from a backup, or close \
             its record with blockhost-vm-destroy {}",
            self.label(),
            self.record.name
        );
        Ok(())
    }

    /// Returns the state of whatever is at its VMID.
    pub fn unproven_state(&self, ctx: &Context<'_>, deadline: Deadline) -> anyhow::Result<VmState> {
        let state = ctx.node().state(self.vmid, Some(&self.identity), deadline.at_most(LOOK));
        state.with_context(|| format!("{}: cannot query the node", self.label()))
    }

    /// Checks that a state is that of this VM.
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

/// Locks a VM for stop or kill, and returns it with its state if it is running; `None` if it is off.
pub fn lock_running<'c, 'h>(
    ctx: &'c Context<'h>,
    name: &VmName,
    verb: &str,
    deadline: Deadline,
) -> anyhow::Result<Option<(LockedVm<'c, 'h>, Machine, VmState)>> {
    ctx.live_record(name)?;
    let vm = ctx.lock_vm(name, verb, Duration::from_secs(30))?;
    let machine = of_record(&vm, vm.live_record_now()?, deadline)?;
    let state = machine.settled_state(&vm, deadline)?;
    machine.ensure_exists(&state)?;
    Ok(state.running.then_some((vm, machine, state)))
}

/// A paused guest still has a running process. If the root agent could not tell whether it is paused, queries the API
/// (`qmpstatus`; `facts/proxmox.md`). Without an answer it stays unknown.
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
        // A VM stopped since the root agent's check is not paused.
        Ok(!matches!(word, "running" | "stopped"))
    };
    match ask() {
        Ok(paused) => state.paused = Some(paused),
        Err(error) => tracing::debug!("VMID {vmid}: cannot tell whether it is paused: {error:#}"),
    }
    state
}

/// Finds the VM of a record without changing anything.
pub fn seen(ctx: &Context<'_>, record: VmRecord, deadline: Deadline) -> anyhow::Result<Machine> {
    let place = locate(ctx, &record, deadline)?;
    Ok(Machine { vmid: place.vmid, identity: place.identity, record })
}

/// Finds the VM of a record, and corrects a wrong VMID in an older record.
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

/// Where to look for a record's VM.
pub struct Whereabouts {
    /// Its VMID.
    pub vmid: Vmid,
    /// The UUID or name that identifies it.
    pub identity: Identity,
    /// The record has another VMID, which is wrong.
    proven_elsewhere: bool,
}

/// Finds the VMID of a record without changing anything. Records of the older package may contain a wrong one: the
/// shared terraform state is right if the VM's name on the node agrees (`facts/contract/legacy.md`).
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
    // Gone under both numbers; the VMID that terraform made counts.
    Ok(Whereabouts { vmid: other, identity, proven_elsewhere: false })
}
