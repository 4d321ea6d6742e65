//! `blockhost-provisioner-doctor`: compares everything that should agree, and says what mends what does not.
//!
//! Facts are gathered here, side by side and each within a time of its own; what they mean is in
//! `crates/provisioner/src/plan/doctor/mod.rs`. A root agent that is silent, or an API that is slow, is a finding like any
//! other. Nothing is changed: what tidies up by itself elsewhere (the queue, withheld VMIDs) is only looked at. What
//! `--fix` does is in [`fix`].
//!
//! ```text
//!   configuration ──▶ database, journal, directories ──┬─▶ root agent   (thread)   guests, VM by VM, snippets, disks
//!                                                      ├─▶ API          (thread)   token, template, storages, pool
//!                                                      └─▶ this host               routes, owners, units, versions
//!                                                                 └────▶ comparison
//! ```

mod agent;
mod api;
mod configuration;
mod database;
mod directories;
pub mod fix;
mod host_tools;
mod journal;
mod owners;
mod supplies;

use self::host_tools::FromHost;
use super::capacity::supplies::{count, held};
use super::{Context, WrongUsage};
use crate::host::Host;
use crate::plan::capacity::Memory;
use crate::plan::doctor::leftovers::{self, Everything};
use crate::plan::doctor::{Finding, addresses, sorted, storage, vm};
use crate::store::provisioning_queue::{self, QueuedCreate};
use crate::tool::node::Guests;
use crate::value::cluster_rows::ClusterResource;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use std::collections::HashSet;
use std::time::Duration;

/// How long all questions to the root agent may take, and all to the API.
const LIMIT: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// How many VMs were looked at.
    pub vms: usize,
    /// The creates that run or wait for their turn.
    pub creates: Vec<QueuedCreate>,
}

/// Looks at everything; with `names` only what is about these VMs is told. An error: a name that nobody knows.
pub fn examine(host: &Host, names: &[VmName]) -> anyhow::Result<Examined> {
    let (settings, mut findings) = configuration::read(host);
    findings.extend(host_tools::units(host));
    let (mut vms, mut creates) = (0, Vec::new());
    match settings {
        Some(settings) => {
            // Without usable settings there is no create.
            creates = provisioning_queue::creates(host, settings.max_parallel_creates);
            let ctx = Context::to_look(host, settings);
            let looked = look(&ctx, names)?;
            vms = looked.vms;
            findings.extend(looked.findings);
        }
        None => findings.extend(owners::findings(host, None)),
    }
    if !names.is_empty() {
        findings.retain(|finding| names.iter().any(|name| finding.vm.as_deref() == Some(name.as_str())));
        creates.retain(|create| names.iter().any(|name| create.vm == name.as_str()));
    }
    Ok(Examined { findings: sorted(findings), vms, creates })
}

fn look(ctx: &Context<'_>, names: &[VmName]) -> anyhow::Result<Examined> {
    let mut findings = Vec::new();
    let database = database::read(ctx);
    findings.extend(database.findings);
    let journal = journal::read(ctx);
    findings.extend(journal.findings);
    let directories = directories::read(ctx, &database.live, &journal.works);
    findings.extend(directories.findings);
    for name in names {
        let is_known = database.holders.contains_key(name.as_str())
            || journal.works.iter().any(|work| work.name == name.as_str())
            || directories.directories.iter().any(|directory| directory.name == name.as_str());
        if !is_known {
            return Err(WrongUsage::new(format!("VM {name} is unknown: {}", ctx.no_record(name))).into());
        }
    }
    // Whoever works on a VM changes it meanwhile; one whose create or destroy died is judged as a whole.
    let is_at_work: HashSet<&str> = journal
        .works
        .iter()
        .filter(|work| work.is_judged_as_a_whole())
        .map(|work| work.name.as_str())
        .collect();
    let checked: Vec<&VmRecord> = database
        .live
        .iter()
        .filter(|record| names.is_empty() || names.contains(&record.name))
        .filter(|record| !is_at_work.contains(record.name.as_str()) && !journal.locked.contains(&record.name))
        .collect();
    let limit = || ctx.host.deadline(ctx.host.limit("doctor", LIMIT));
    let (from_agent, from_api, mut from_host) = std::thread::scope(|scope| {
        let agent = scope.spawn(|| agent::ask(ctx, &checked, limit()));
        let api = scope.spawn(|| api::ask(ctx, limit()));
        let host = host_tools::look(ctx);
        (agent.join().unwrap_or_default(), api.join().unwrap_or_default(), host)
    });
    let marked = from_agent.marked();
    findings.extend(from_agent.findings);
    findings.extend(from_api.findings);
    findings.extend(std::mem::take(&mut from_host.findings));
    findings.extend(owners::findings(ctx.host, Some(&ctx.settings)));

    let pool = ctx.settings.pve_pool.as_ref();
    let around = vm::Surroundings {
        routes: from_host.routes.as_ref(),
        bridge: from_host.bridge.as_deref(),
        pool: pool.map(|pool| pool.as_str()).zip(from_api.members.as_ref()),
        lacks_hook_script: from_agent.inventory.as_ref().is_some_and(|inventory| !inventory.hook),
    };
    for record in &checked {
        if let Some(state) = from_agent.states.get(record.name.as_str()) {
            findings.extend(vm::findings(record, state, &around));
        }
    }
    let prefix = ctx.settings.broker(ctx.host).ok().flatten().map(|broker| broker.pool.prefix);
    let routes = from_host.routes.iter().flatten();
    let ours = routes.filter(|(address, _)| prefix.is_some_and(|prefix| prefix.contains(**address)));
    let on_bridge =
        ours.flat_map(|(address, devices)| devices.iter().map(|device| (*address, device.clone())));
    let on_bridge = on_bridge.filter(|(_, device)| from_host.bridge.as_ref() == Some(device)).collect();
    findings.extend(addresses::of_host(&database.live, &from_host.own));
    let vms = checked.len();
    findings.extend(left(ctx, &from_agent.guests, from_api.rows.as_deref(), &from_host));
    let everything = Everything {
        records: database.holders,
        is_blind: database.is_blind,
        works: journal.works,
        directories: directories.directories,
        temporary: directories.temporary,
        vmids: from_agent.guests.as_ref().map(|guests| guests.vmids.iter().copied().collect()),
        marked,
        inventory: from_agent.inventory,
        volumes: from_agent.volumes,
        noted_volumes: journal.noted_volumes,
        routes: on_bridge,
        listed: database.listed,
        late: journal.late,
        database: ctx.database.path().display().to_string(),
    };
    findings.extend(leftovers::findings(&everything));
    Ok(Examined { findings, vms, ..Examined::default() })
}

/// What is used up, or nearly: numbers, addresses, memory.
fn left(
    ctx: &Context<'_>,
    guests: &Option<Guests>,
    rows: Option<&[ClusterResource]>,
    host: &FromHost,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Nothing where the database cannot be read, which is said elsewhere.
    if let Ok(held) = held(ctx, guests, &host.own) {
        let left = count(ctx, &held, &mut Vec::new());
        findings.extend(supplies::findings(ctx, &held, &left, &host.neighbours));
    }
    if let Ok((access, _)) = ctx.api() {
        let memory = Memory::of(access.node.as_str(), rows, ctx.settings.overcommit_memory);
        findings.extend(storage::memory(&memory));
    }
    findings
}
