//! What gc and reapply see to of the guard of VMs' networks, beside each VM's own: the hook script, without which no VM
//! that names it starts, and what VMs that are gone have left.
//!
//! Our own starts put the script back first; Proxmox' page, HA and the end of a backup do not. A VM that is stopped and
//! deleted by hand within two seconds has no last phase, because Proxmox has no configuration left by which to run its
//! hook script: rules, route and files stay then.
//!
//! The disaster would be to take a VM's guard for a leftover. So a VM is gone only when its VMID is in no node's list,
//! the name in the guard's file is locked meanwhile, and the root agent compares the file once more.

use super::{Context, network};
use crate::store::vm_database::Fields;
use crate::tool::node::Node;
use crate::value::host_inventory::Inventory;
use crate::value::identity::Identity;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use std::collections::HashSet;
use std::time::Duration;

/// Time limit for what concerns one VM.
const ONE: Duration = Duration::from_secs(15);
/// How many VMs are tried until the script is there: the first is enough, unless it is locked.
const TRIES: usize = 5;

/// What was done, and what failed: one line each.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// What was put back or removed.
    pub done: Vec<String>,
    /// What was not.
    pub failures: Vec<String>,
}

/// Puts the hook script back if it is gone, and clears what VMs that are gone have left. An older root agent has no guard.
pub fn look_after(ctx: &Context<'_>) -> Upkeep {
    let mut upkeep = Upkeep::default();
    let node = ctx.node();
    let inventory = match node.inventory(ctx.host.deadline(ONE)) {
        Ok(Some(inventory)) => inventory,
        Ok(None) => return upkeep,
        Err(error) => {
            tracing::warn!("cannot check the guard of VMs' networks: {error}");
            return upkeep;
        }
    };
    if inventory.guards.is_empty() {
        return upkeep;
    }
    if !inventory.hook {
        put_script_back(ctx, &node, &inventory, &mut upkeep);
    }
    clear_leftovers(ctx, &node, &inventory, &mut upkeep);
    upkeep
}

/// One VM is enough: all share the script.
fn put_script_back(ctx: &Context<'_>, node: &Node, inventory: &Inventory, upkeep: &mut Upkeep) {
    let guarded: HashSet<u32> = inventory.guards.iter().map(|(vmid, _)| *vmid).collect();
    let read = ctx.database.gather(Fields::All, Vec::new, |found, view| {
        found.extend(view.to_record().ok().filter(|record| record.is_live()));
    });
    let mut records: Vec<VmRecord> = match read {
        Ok(records) => records,
        Err(error) => return upkeep.failures.push(format!("the hook script of VMs is missing: {error}")),
    };
    records.retain(|record| guarded.contains(&record.vmid.get()));
    records.sort_by_key(|record| record.status != Status::Active);
    let (mut tries, mut why) = (0, None);
    for record in &records {
        match by_way_of(ctx, node, record) {
            Ok(None) => continue,
            Ok(Some(())) => {
                let name = &record.name;
                return upkeep.done.push(format!("the hook script of VMs was missing: put back (VM {name})"));
            }
            Err(error) => why = Some(error),
        }
        tries += 1;
        if tries == TRIES {
            break;
        }
    }
    if let Some(why) = why {
        upkeep.failures.push(format!(
            "the hook script of VMs is missing, so none of them starts: {why:#}; run blockhost-provisioner-reapply"
        ));
    }
}

/// Puts the script back by deciding once more what this VM is held to; `None` if the VM does not name the script.
fn by_way_of(ctx: &Context<'_>, node: &Node, record: &VmRecord) -> anyhow::Result<Option<()>> {
    let (name, deadline) = (&record.name, ctx.host.deadline(ONE));
    let identity = record.smbios_uuid.map_or_else(|| Identity::Name(name.clone()), Identity::Uuid);
    let state = node.state(record.vmid, Some(&identity), deadline)?;
    if !state.guard.is_some_and(|guard| guard.hook) {
        return Ok(None);
    }
    let vm = ctx.try_lock_vm(name, "gc")?;
    let vm = vm.with_context(|| format!("VM {name}: another operation works on it"))?;
    let record = vm.live_record_now()?;
    let mut decision = network::decision_for(ctx, &record);
    decision.enabled = record.status == Status::Active;
    let set = node.set_guard(record.vmid, &identity, &decision, deadline);
    set.with_context(|| format!("VM {name} (VMID {})", record.vmid))?;
    let is_there = node.inventory(deadline)?.is_some_and(|inventory| inventory.hook);
    anyhow::ensure!(is_there, "VM {name}: the root agent reported success, but the script is still missing");
    vm.audit("guard-script", Some(record.vmid), [None, None], "ok");
    Ok(Some(()))
}

fn clear_leftovers(ctx: &Context<'_>, node: &Node, inventory: &Inventory, upkeep: &mut Upkeep) {
    let guests = match node.guests(ctx.host.deadline(ONE)) {
        Ok(Some(guests)) => guests,
        Ok(None) => return,
        Err(error) => return tracing::warn!("cannot tell which guards are of VMs that are gone: {error}"),
    };
    let taken: HashSet<u32> = guests.vmids.iter().copied().collect();
    for (vmid, name) in &inventory.guards {
        // A file that cannot be read does not say whose it is: doctor names it.
        let Some(name) = name.as_deref().and_then(|name| VmName::parse(name).ok()) else { continue };
        let Ok(vmid) = Vmid::new(u64::from(*vmid)) else { continue };
        if taken.contains(&vmid.get()) || ctx.host.interrupt.requested() {
            continue;
        }
        match clear(ctx, vmid, &name) {
            Ok(true) => upkeep.done.push(format!(
                "VM {name} (VMID {vmid}): removed what was left of its network guard, because the VM is gone"
            )),
            Ok(false) => {}
            Err(error) => upkeep.failures.push(format!("{error:#}")),
        }
    }
}

/// Clears what is left of the guard of a VM that is gone; false if it is not, or if somebody is at work on it.
pub fn clear(ctx: &Context<'_>, vmid: Vmid, name: &VmName) -> anyhow::Result<bool> {
    let label = format!("VM {name} (VMID {vmid})");
    let Some(vm) = ctx.try_lock_vm(name, "gc")? else { return Ok(false) };
    // A create or destroy that died: whoever ends it clears the guard.
    if vm.entry()?.is_some() {
        return Ok(false);
    }
    let (node, deadline) = (ctx.node_uninterrupted(), ctx.host.deadline(ONE));
    let identity = Identity::Name(name.clone());
    let state = node.state(vmid, Some(&identity), deadline);
    if state.with_context(|| format!("{label}: cannot query the node"))?.exists {
        return Ok(false);
    }
    let cleared = node.clear_guard(vmid, &identity, deadline);
    let cleared = cleared.with_context(|| format!("{label}: failed to remove its network guard"));
    vm.audit("clear-guard", Some(vmid), [None, None], &super::locked_vm::in_words(&cleared));
    cleared.map(|()| true)
}
