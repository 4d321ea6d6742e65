//! `--mock`: the mock database serves as both database and node, and nothing on the host is touched. Each command
//! chooses once between the functions here and the real ones; mock VMs have no lock and leave no audit trail.
//!
//! A field of the record says whether a mock VM is on, so that the commands are consistent with one another.

use super::Context;
use super::bandwidth::recorded;
use super::create::facts::Surroundings;
use super::create::first_boot::{self, NoTemplate};
use super::create::holders::Holders;
use super::create::{Created, OnResult, Request, VmResult, allocate, check, preview};
use super::destroy::{Destroyed, mark_destroyed};
use super::expire::{Expires, record_end};
use super::gc::{self, Options, Report};
use super::metrics::live_records;
use super::protect::{Protected, record_protection};
use super::resume::{Expiry, Resumed, record_expiry};
use super::show::{self, Live, Page};
use super::start::{Started, activate, becomes_active};
use super::status::Shown;
use super::throttle::{self, Throttled, record_limits, runs_for_us};
use crate::host::replace_file;
use crate::plan::create_vm::{self, Drawn, Facts, UserData};
use crate::plan::garbage_collection::{self, is_due_for_destruction, is_due_for_suspension};
use crate::plan::metrics::{Counters, Metrics, Named, RunState};
use crate::plan::throttle::LimitRequest;
use crate::plan::vm_record;
use crate::store::settings::Broker;
use crate::store::side_files;
use crate::value::address::{Ipv6Pool, Ipv6Prefix};
use crate::value::limits::Limit;
use crate::value::node_name::NodeName;
use crate::value::text::StorageId;
use crate::value::timestamp;
use crate::value::token::Secret;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::wallet::{NftTokenId, WalletAddress};
use anyhow::Context as _;
use chrono::TimeDelta;
use serde_json::Value;
use uuid::Uuid;

/// The field that says whether a mock VM is on.
const POWER: &str = "mock_power";

/// See [`super::create::create`]: the request is checked in the same way, but of the host only its cloud-init templates
/// are used.
pub fn create(ctx: &Context<'_>, request: &Request, report: OnResult<'_>) -> anyhow::Result<Created> {
    let facts = facts(ctx, request)?;
    let mut nobody = Holders::default();
    if !request.apply {
        return Ok(Created::Planned(preview::describe(ctx, request, &facts, &mut nobody)?));
    }
    let range = ctx.settings.vmid_range()?;
    if let Some(folder) = ctx.database.path().parent().filter(|f| !f.as_os_str().is_empty()) {
        replace_file::make_folder(ctx.host.doors, folder, 0o770)?;
    }
    ctx.database.make_if_missing(range.start.get(), || Ok(None))?;
    let allocation = ctx.database.update(|db| {
        let allocation = allocate::choose(ctx, request, &facts, db, &[], &[], &mut nobody)?;
        allocate::hold(db, allocation, range);
        // There is no guest that could sign anything.
        let drawn = Drawn { allocation, smbios_uuid: Uuid::new_v4(), secret_key: Secret::new("") };
        let record = create_vm::record(request, &facts, &drawn);
        db.insert(request.name.as_str(), vm_record::fields(&record, ctx.host.now(), &ctx.settings.fields));
        Ok(allocation)
    })?;
    report(&VmResult::new(request, allocation))?;
    Ok(Created::Reported(Vec::new()))
}

/// What the checks of a real create find out, for a node that does not exist.
fn facts(ctx: &Context<'_>, request: &Request) -> anyhow::Result<Facts> {
    check::arguments(request)?;
    if ctx.database.path().exists() {
        check::no_vm_has(ctx, &request.name)?;
    }
    let prefix = Ipv6Prefix::parse("fd00::/120")?;
    let pool = Ipv6Pool { prefix, start: 2, end: 254, gateway: prefix.at(1).context("fd00::1")? };
    let broker = Some(Broker { pool, dns_zone: None });
    check::wishes(ctx, request, broker.as_ref())?;
    let user_data = first_boot::user_data(ctx.host, request).or_else(|error| {
        let NoTemplate { name, .. } = error.downcast()?;
        tracing::warn!("no cloud-init template {name}; the mock VM gets none");
        anyhow::Ok(UserData::Proxmox)
    })?;
    let surroundings = Surroundings {
        node: NodeName::parse("mock")?,
        disk_datastore: StorageId::parse("local")?,
        cloudinit_datastore: StorageId::parse("local")?,
        bridge: None,
        broker,
        network_mode: side_files::network_mode(ctx.host, request.network_mode.as_ref()).unwrap_or_default(),
        dns_servers: Vec::new(),
        user_data,
        ssh_keys: first_boot::ssh_keys(ctx.host),
        one_time_password: (6, 300),
    };
    let known = surroundings.with(ctx, request)?;
    if let Err(unusable) = create_vm::check(request, &known, ctx.settings.vmid_range()?.start) {
        tracing::warn!("cloud-init template {} cannot be used: {}", unusable.template, unusable.why);
    }
    Ok(known)
}

/// Whether the VM is on; a suspended one is off.
fn is_on(ctx: &Context<'_>, record: &VmRecord) -> bool {
    let fields = ctx.database.inspect(|db| Ok(db.fields(record.name.as_str())));
    let is_off = fields.is_ok_and(|fields| fields.is_some_and(|f| f.get(POWER) == Some(&Value::from("off"))));
    record.status == Status::Active && !is_off
}

/// Switches the VM on or off; returns whether it was on before.
fn switch(ctx: &Context<'_>, record: &VmRecord, on: bool) -> anyhow::Result<bool> {
    let was_on = is_on(ctx, record);
    let name = record.name.as_str();
    ctx.database.update(|db| {
        match on {
            true => db.remove(name, POWER),
            false => db.set(name, POWER, &"off".into()),
        }
        Ok(())
    })?;
    Ok(was_on)
}

/// See [`super::start::start`].
pub fn start(ctx: &Context<'_>, name: &VmName, force: bool) -> anyhow::Result<Started> {
    let record = ctx.live_record(name)?;
    let resumed = becomes_active(&record, force, ctx.host.now())?;
    if resumed {
        activate(ctx, name)?;
    }
    let was_running = switch(ctx, &record, true)?;
    Ok(Started { was_running, resumed, warnings: Vec::new() })
}

/// See [`super::stop::stop`] and [`super::kill::kill`].
pub fn switch_off(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<bool> {
    switch(ctx, &ctx.live_record(name)?, false)
}

/// See [`super::resume::resume`].
pub fn resume(ctx: &Context<'_>, name: &VmName, expiry: Expiry) -> anyhow::Result<Resumed> {
    let record = ctx.live_record(name)?;
    expiry.of(&record, ctx.settings.default_expiry_days, ctx.host.now())?;
    let was_running = switch(ctx, &record, true)?;
    let [expires_at, expired_before] = record_expiry(ctx, name, expiry)?;
    let was_suspended = record.status == Status::Suspended;
    Ok(Resumed { was_suspended, was_running, expires_at, expired_before, warnings: Vec::new() })
}

/// See [`super::protect::protect`].
pub fn protect(ctx: &Context<'_>, name: &VmName, on: bool) -> anyhow::Result<Protected> {
    ctx.live_record(name)?;
    record_protection(ctx, name, on)
}

/// See [`super::expire::expire`].
pub fn expire(ctx: &Context<'_>, name: &VmName, expiry: Expiry) -> anyhow::Result<Expires> {
    ctx.live_record(name)?;
    record_end(ctx, name, expiry)
}

/// See [`super::update_gecos::update_gecos`].
pub fn update_gecos(
    ctx: &Context<'_>,
    name: &VmName,
    wallet: &WalletAddress,
    token: &NftTokenId,
) -> anyhow::Result<String> {
    ctx.live_record(name)?;
    Ok(format!("wallet={wallet},nft={token}"))
}

/// See [`super::status::status`].
pub fn status(ctx: &Context<'_>, name: &VmName) -> (Shown, Option<String>) {
    match ctx.record(name) {
        Ok(Some(record)) => (shown(ctx, &record), None),
        Ok(None) => (Shown::Unknown, Some(format!("VM {name}: {}", ctx.no_record(name)))),
        Err(error) => (Shown::Unknown, Some(format!("VM {name}: {error:#}"))),
    }
}

/// The status shown for a record.
pub fn shown(ctx: &Context<'_>, record: &VmRecord) -> Shown {
    match record.status {
        Status::Active if is_on(ctx, record) => Shown::Active,
        Status::Active | Status::Suspended => Shown::Suspended,
        Status::Destroyed => Shown::Destroyed,
    }
}

/// See [`super::show::show`]: record and state; there are no files, no addresses on a bridge and no trail.
pub fn show(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Page> {
    let record = ctx.database.inspect(|db| Ok(db.fields(name.as_str())))?;
    anyhow::ensure!(record.is_some(), "VM {name} is unknown: {}", ctx.no_record(name));
    let mut page = Page { name: name.to_string(), record, ..Page::default() };
    let record = show::note_record(ctx, name, &mut page).filter(VmRecord::is_live);
    page.live = record.map(|record| Live {
        node: "mock".to_string(),
        state: if is_on(ctx, &record) { "running" } else { "stopped" },
        ..Live::default()
    });
    Ok(page)
}

/// See [`super::metrics::metrics`].
pub fn metrics(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Named> {
    Ok(used(ctx, &ctx.live_record(name)?))
}

/// See [`super::metrics::all_metrics`].
pub fn all_metrics(ctx: &Context<'_>) -> anyhow::Result<Vec<Named>> {
    Ok(live_records(ctx)?.iter().map(|record| used(ctx, record)).collect())
}

/// Metrics of a VM that does nothing.
fn used(ctx: &Context<'_>, record: &VmRecord) -> Named {
    let state = if is_on(ctx, record) { RunState::Running } else { RunState::Stopped };
    Named {
        name: record.name.to_string(),
        vmid: record.vmid.get(),
        metrics: Metrics { cpu_count: 1, state, ..Metrics::default() },
        counters: Some(Counters::default()),
        agent_asked: false,
    }
}

/// See [`super::throttle::throttle`].
pub fn throttle(ctx: &Context<'_>, name: &VmName, request: &LimitRequest) -> anyhow::Result<Throttled> {
    let record = ctx.live_record(name)?;
    runs_for_us(&record)?;
    anyhow::ensure!(
        is_on(ctx, &record),
        "VM {name} is not running, and limits are set on running VMs only; start it with blockhost-vm-start {name}"
    );
    let before = recorded(ctx, name)?;
    let mut after = before;
    request.changes().for_each(|(limit, value)| after.set(limit, value));
    record_limits(ctx, name, &after)?;
    let lines = throttle::confirmations(name, request, |limit| {
        [&before, &after].map(|limits| limit.in_words(limits.get(limit)))
    });
    Ok(Throttled { lines, warnings: Vec::new() })
}

/// See [`super::throttle::show`].
pub fn throttle_shown(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<throttle::Shown> {
    let record = ctx.live_record(name)?;
    let limits = recorded(ctx, name)?;
    Ok(throttle::Shown {
        vmid: record.vmid.get(),
        is_running: is_on(ctx, &record),
        limits,
        words: Limit::ALL.into_iter().map(|limit| (limit, limit.in_words(limits.get(limit)))).collect(),
        differences: Vec::new(),
    })
}

/// See [`super::destroy::destroy`]; `--forget` does the same here.
pub fn destroy(ctx: &Context<'_>, name: &VmName, force: bool) -> anyhow::Result<Destroyed> {
    destroy_if(ctx, name, force, &|_| true)
}

fn destroy_if(
    ctx: &Context<'_>,
    name: &VmName,
    force: bool,
    due: &dyn Fn(&VmRecord) -> bool,
) -> anyhow::Result<Destroyed> {
    match ctx.record(name)? {
        None => Ok(Destroyed::Unknown),
        Some(record) if !record.is_live() => Ok(Destroyed::Already),
        Some(record) if !due(&record) => Ok(Destroyed::NotDue),
        Some(record) => {
            anyhow::ensure!(
                !record.protected || force,
                "VM {name} is protected; use --force to destroy it anyway"
            );
            mark_destroyed(ctx, &record)?;
            Ok(Destroyed::Gone)
        }
    }
}

/// See [`super::gc::gc`]. There is no note of earlier runs and no second clock, so the share is the only brake.
pub fn gc(ctx: &Context<'_>, options: Options) -> anyhow::Result<Report> {
    let grace = TimeDelta::days(i64::from(options.grace_days.unwrap_or(ctx.settings.gc_grace_days)));
    let now = ctx.host.now();
    let mut report = Report { candidates: gc::candidates(ctx, options, grace)?, ..Report::default() };
    report.notes.extend(report.candidates.left_alone.iter().cloned());
    let limits = gc::limits(ctx, options);
    report.suspend_brake = garbage_collection::suspend_brake(&report.candidates, limits, None);
    report.brake = garbage_collection::brake(&report.candidates, Ok(None), now, limits, None);
    if !options.execute {
        return Ok(report);
    }
    if report.suspend_brake.is_none() {
        report.suspended = suspend(ctx, &report.candidates.suspend)?;
    }
    if report.brake.is_none() {
        for name in report.candidates.destroy.clone() {
            let due = |record: &VmRecord| is_due_for_destruction(record, now, grace);
            match destroy_if(ctx, &name, false, &due) {
                Ok(Destroyed::NotDue) => {
                    report.notes.push(format!("VM {name}: renewed or changed in the meantime; left alone"))
                }
                Ok(_) => report.destroyed.push(name),
                Err(error) => report.failures.push(format!("{error:#}")),
            }
        }
    }
    Ok(report)
}

fn suspend(ctx: &Context<'_>, names: &[VmName]) -> anyhow::Result<Vec<VmName>> {
    let now = ctx.host.now();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    ctx.database.update(|db| {
        let mut done = Vec::new();
        for name in names {
            if db.record(name.as_str()).and_then(Result::ok).is_some_and(|r| is_due_for_suspension(&r, now)) {
                db.set_status(name.as_str(), Status::Suspended);
                db.set(name.as_str(), "suspended_at", &timestamp::to_text(now).into());
                done.push(name.clone());
            }
        }
        Ok(done)
    })
}
