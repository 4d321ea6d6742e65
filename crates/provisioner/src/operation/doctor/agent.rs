//! What the root agent tells: the guests of the cluster, each VM of ours, root's own files, disks of nobody.
//!
//! It has one lane (hazard H20): each question is short, and they end with the time that all of them have.

use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::operation::Context;
use crate::operation::machine::locate;
use crate::plan::doctor::Finding;
use crate::plan::doctor::kinds::*;
use crate::plan::doctor::leftovers::Marked;
use crate::plan::doctor::vm::label;
use crate::tool::node::{Guests, Node};
use crate::value::host_inventory::{Inventory, LooseVolume};
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::VmState;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The first answer tells whether there is anybody: another package's action may hold the lane for a while.
const FIRST: Duration = Duration::from_secs(5);
/// One look at a VM.
const ONE: Duration = Duration::from_secs(3);
/// A listing of disks starts a tool of Proxmox' for each storage.
const DISKS: Duration = Duration::from_secs(6);

const STATUS: &str = "systemctl status blockhost-root-agent";

/// What it told.
#[derive(Debug, Default)]
pub struct FromAgent {
    /// The guests; `None`: they could not all be seen.
    pub guests: Option<Guests>,
    /// What it says of each VM that was asked about, by name.
    pub states: HashMap<String, VmState>,
    /// Root's own files.
    pub inventory: Option<Inventory>,
    /// Disks of nobody.
    pub volumes: Option<Vec<LooseVolume>>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

impl FromAgent {
    /// The VMs with our mark.
    pub fn marked(&self) -> Vec<Marked> {
        let ours = self.guests.iter().flat_map(|guests| &guests.ours);
        ours.map(|one| Marked { vmid: one.vmid, name: one.name.clone(), uuid: one.uuid }).collect()
    }
}

/// Asks; ends by `deadline`.
pub fn ask(ctx: &Context<'_>, records: &[&VmRecord], deadline: Deadline) -> FromAgent {
    let node = ctx.node().impatient();
    let mut told = FromAgent::default();
    match node.guests(deadline.at_most(FIRST)) {
        Ok(Some(guests)) if guests.unread == 0 => told.guests = Some(guests),
        Ok(Some(guests)) => {
            let what = format!("the configurations of {} guests could not be read", guests.unread);
            told.findings.push(Finding::new(
                &GUESTS_UNREADABLE,
                "root agent",
                what,
                "pvecm status; pvesh get /cluster/resources",
            ));
        }
        Ok(None) => told.findings.push(outdated("it cannot list the guests of the cluster (guest-list)")),
        Err(error) => {
            let is_answer = matches!(error, AgentError::Said { .. });
            told.findings.push(failure(&error));
            if !is_answer {
                return told;
            }
        }
    }
    inventory(&node, deadline, &mut told);
    if told.findings.iter().any(|finding| finding.kind == &ROOT_AGENT_DOWN) {
        return told;
    }
    states(ctx, &node, records, deadline, &mut told);
    volumes(ctx, &node, deadline, &mut told);
    told
}

fn outdated(what: &str) -> Finding {
    let mend = "systemctl restart blockhost-root-agent; if that does not do, upgrade the package";
    Finding::new(&PLUGIN_OUTDATED, "root agent", what, mend)
}

fn failure(error: &AgentError) -> Finding {
    match error {
        AgentError::Said { .. } => {
            let mend =
                "journalctl -u blockhost-root-agent; is /etc/pve mounted (systemctl status pve-cluster)?";
            Finding::new(&ROOT_AGENT_FAILS, "root agent", error, mend)
        }
        _ => Finding::new(&ROOT_AGENT_DOWN, "root agent", error, STATUS),
    }
}

fn inventory(node: &Node, deadline: Deadline, told: &mut FromAgent) {
    match node.inventory(deadline.at_most(ONE)) {
        Ok(Some(inventory)) => {
            let own = env!("CARGO_PKG_VERSION");
            if inventory.version != own {
                let what = format!("its plugin is version {}, the commands are {own}", inventory.version);
                told.findings.push(outdated(&what));
            }
            told.inventory = Some(inventory);
        }
        Ok(None) => told.findings.push(outdated("it cannot list the cloud-init snippets (host-inventory)")),
        Err(error @ AgentError::Said { .. }) => {
            let mend = "as root: chown root:root on that directory, and chmod 0755";
            told.findings.push(Finding::new(&SNIPPETS_UNREADABLE, "snippets directory", error, mend));
        }
        Err(error) => told.findings.push(failure(&error)),
    }
}

/// VM by VM. One whose VMID no guest of the cluster has needs no question.
fn states(ctx: &Context<'_>, node: &Node, records: &[&VmRecord], deadline: Deadline, told: &mut FromAgent) {
    let range = ctx.settings.vmid_range().ok();
    let taken: Option<HashSet<u32>> =
        told.guests.as_ref().map(|guests| guests.vmids.iter().copied().collect());
    let is_gone = |record: &VmRecord| {
        let in_range = range.is_some_and(|range| range.contains(record.vmid));
        in_range
            && record.smbios_uuid.is_some()
            && taken.as_ref().is_some_and(|taken| !taken.contains(&record.vmid.get()))
    };
    let mut missed = 0;
    for record in records {
        if is_gone(record) {
            told.states.insert(record.name.to_string(), VmState::default());
            continue;
        }
        if deadline.passed() || ctx.host.interrupt.requested() {
            missed += 1;
            continue;
        }
        let one = deadline.at_most(ONE);
        let looked = locate(ctx, record, one)
            .and_then(|place| Ok(node.state(place.vmid, Some(&place.identity), one)?));
        match looked {
            Ok(state) => drop(told.states.insert(record.name.to_string(), state)),
            Err(error) => {
                let agent = error.downcast_ref::<AgentError>();
                if agent.is_some_and(|error| !matches!(error, AgentError::Said { .. })) {
                    told.findings.extend(agent.map(failure));
                    return;
                }
                if agent.is_none_or(|error| error.code() != "range") {
                    let mend = format!("blockhost-vm-status {}", record.name);
                    let finding = Finding::new(&VM_NOT_CHECKED, label(record), format!("{error:#}"), mend);
                    told.findings.push(finding.of(&record.name));
                }
            }
        }
    }
    if missed > 0 {
        let what = format!("{missed} VMs were not checked: the root agent is busy");
        told.findings.push(Finding::new(&VM_NOT_CHECKED, "root agent", what, "try again later"));
    }
}

fn volumes(ctx: &Context<'_>, node: &Node, deadline: Deadline, told: &mut FromAgent) {
    // Whose settings are unusable is said elsewhere.
    let Ok((access, _)) = ctx.api() else { return };
    let mut storages = vec![&access.disk_datastore];
    storages.extend(Some(&access.cloudinit_datastore).filter(|other| **other != access.disk_datastore));
    match node.loose_volumes(&storages, deadline.at_most(DISKS)) {
        Ok(volumes) => told.volumes = Some(volumes),
        Err(error) => {
            let mend = format!("pvesm list {}", access.disk_datastore);
            told.findings.push(Finding::new(&VOLUMES_UNREADABLE, "root agent", error, mend));
        }
    }
}
