//! Restores records that an unlocked writer has dropped although their VM exists; whoever finds one does so (hazard
//! H55).
//!
//! A record is restored only if three things agree: the VM's own terraform directory names a VM, the node has that VM
//! with that UUID, and the database has neither a live record nor this VM's own tombstone. The directory of a destroyed
//! VM is gone, so nothing destroyed comes back. The record's content comes from its copy in the directory
//! ([`record_copy`]).

use super::locked_vm::LockedVm;
use super::{Context, recovery};
use crate::plan::vm_record::{self, NewVm};
use crate::store::record_copy::{self, Fields};
use crate::store::vm_database;
use crate::tool::terraform_files::{self, Described, TerraformFiles};
use crate::value::identity::Identity;
use crate::value::text::{OneLine, UserName};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::Status;
use crate::value::vm_state::VmState;
use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;
use uuid::Uuid;

/// Minimum time until a restored VM expires: the copy may be older than a renewal, and gc must not act on that.
const AT_LEAST: TimeDelta = TimeDelta::days(7);

/// Restores the records of all VMs that have lost theirs, except that of `not_this`, and returns their names. A failure
/// is only a warning: it must not stop whoever found it.
pub fn vanished(ctx: &Context<'_>, not_this: Option<&VmName>) -> Vec<VmName> {
    let mut all = Vec::new();
    for name in missing(ctx).into_iter().filter(|name| not_this != Some(name)) {
        // If it is locked, somebody is working on it or creating it right now.
        let restored = match ctx.try_lock_vm(&name, "restore") {
            Ok(None) => continue,
            Ok(Some(vm)) => match of_vm(&vm) {
                Ok(false) => {
                    vm.forget();
                    continue;
                }
                other => other,
            },
            Err(error) => Err(error),
        };
        match restored {
            Ok(_) => all.push(name),
            Err(error) => tracing::warn!(
                "VM {name}: its record is missing from {} and cannot be restored yet: {error:#}; its VMID and \
                 addresses stay reserved",
                ctx.database.path().display()
            ),
        }
    }
    all
}

/// Copies the records of live VMs into their terraform directories: of those that have no copy, or (`all`) of all.
pub fn keep_copies(ctx: &Context<'_>, all: bool) {
    let Ok(live) = live_names(ctx) else { return };
    for name in terraform_files::vm_folders(&ctx.settings) {
        if live.contains(name.as_str()) && (all || !record_copy::exists(&ctx.settings, &name)) {
            keep_copy(ctx, &name);
        }
    }
}

/// As [`keep_copies`], for one VM. A copy that cannot be written is no reason to fail what has been done.
pub fn keep_copy(ctx: &Context<'_>, name: &VmName) {
    if let Err(error) = record_copy::refresh(ctx.host, &ctx.settings, &ctx.database, name) {
        tracing::debug!("VM {name}: failed to copy its record beside its Terraform file: {error:#}");
    }
}

fn live_names(ctx: &Context<'_>) -> anyhow::Result<HashSet<String>> {
    let gathered = ctx.database.gather(vm_database::Fields::Holding, HashSet::new, |names, view| {
        // A damaged record counts as present: whoever repairs it knows better.
        if !view.is_destroyed() {
            names.insert(view.key.to_string());
        }
    })?;
    Ok(gathered)
}

/// Returns the VMs that have a directory but no live record.
fn missing(ctx: &Context<'_>) -> Vec<VmName> {
    match live_names(ctx) {
        Ok(live) => {
            let folders = terraform_files::vm_folders(&ctx.settings).into_iter();
            folders.filter(|name| !live.contains(name.as_str())).collect()
        }
        // Whoever needs the database reports the error.
        Err(error) => {
            tracing::debug!("{error:#}");
            Vec::new()
        }
    }
}

/// Restores the VM's record if it has vanished; returns whether it did.
pub fn of_vm(vm: &LockedVm<'_, '_>) -> anyhow::Result<bool> {
    let (ctx, name) = (vm.ctx(), vm.name());
    if let Some(entry) = vm.entry()? {
        // A VM in progress is not lost; a registered one has its record in the journal.
        recovery::put_record_back(vm, &entry)?;
        return Ok(false);
    }
    let Some(described) = described(ctx, name) else { return Ok(false) };
    let (Some(vmid), Some(uuid)) = (described.vmid, described.uuid) else { return Ok(false) };
    if !is_missing(ctx, name, uuid)? {
        return Ok(false);
    }
    let node = ctx.node_uninterrupted();
    let state = node
        .state(vmid, Some(&Identity::Uuid(uuid)), vm.host.deadline(Duration::from_secs(15)))
        .with_context(|| format!("VM {name} (VMID {vmid}): cannot query the node"))?;
    if !state.exists || !state.is(&Identity::Uuid(uuid), name) {
        tracing::debug!(
            "VM {name}: it has a directory but no record, and its VM (VMID {vmid}) no longer exists"
        );
        return Ok(false);
    }
    restore(vm, &described, uuid, &state)
}

fn described(ctx: &Context<'_>, name: &VmName) -> Option<Described> {
    TerraformFiles::of_vm(&ctx.settings, name).into_iter().find(|found| found.uuid.is_some())
}

/// Whether the database has neither a live or damaged record nor this very VM's tombstone.
fn is_missing(ctx: &Context<'_>, name: &VmName, uuid: Uuid) -> anyhow::Result<bool> {
    Ok(match ctx.database.record(name.as_str())? {
        None => true,
        Some(Err(_)) => false,
        Some(Ok(record)) => !record.is_live() && record.smbios_uuid != Some(uuid),
    })
}

fn restore(
    vm: &LockedVm<'_, '_>,
    described: &Described,
    uuid: Uuid,
    state: &VmState,
) -> anyhow::Result<bool> {
    let (ctx, name) = (vm.ctx(), vm.name());
    let now = vm.host.now();
    let copy = record_copy::read(&ctx.settings, name).unwrap_or_else(|error| {
        tracing::warn!("VM {name}: {error:#}");
        None
    });
    // The copy of an earlier VM of this name does not count.
    let is_its_own =
        |copy: &Fields| copy.get("smbios_uuid").and_then(Value::as_str) == Some(&uuid.to_string());
    let (mut fields, mut remarks) = match copy.filter(is_its_own) {
        Some(copy) => (copy, Vec::new()),
        None => (
            from_file(ctx, name, described, uuid, now)?,
            vec!["owner, wallet and expiry are unknown and must be entered manually".to_string()],
        ),
    };
    remarks.extend(give_time(ctx, &mut fields, state, now));
    let status =
        fields.get(&ctx.settings.fields.status).and_then(Value::as_str).unwrap_or_default().to_string();
    let put = ctx.database.update(|db| {
        // Checked again under the lock: somebody may have restored it by now.
        let there = match db.record(name.as_str()) {
            None => false,
            Some(Err(_)) => true,
            Some(Ok(record)) => record.is_live() || record.smbios_uuid == Some(uuid),
        };
        if there {
            return Ok(false);
        }
        for other in db.records().flatten().filter(|record| record.is_live()) {
            let ipv4 = other.ipv4.map(IpAddr::from);
            let ipv6 = other.ipv6.map(IpAddr::from);
            for address in &described.addresses {
                if [ipv4, ipv6].contains(&Some(*address)) {
                    remarks.push(format!(
                        "{address} was assigned to VM {} in the meantime: one of them must change",
                        other.name
                    ));
                }
            }
        }
        db.insert(name.as_str(), fields.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        for address in &described.addresses {
            let list = if address.is_ipv4() { "allocated_ips" } else { "allocated_ipv6" };
            db.hold(list, &address.to_string());
        }
        Ok(true)
    })?;
    if !put {
        return Ok(false);
    }
    let remarks = remarks.iter().map(|remark| format!("; {remark}")).collect::<String>();
    let vmid = described.vmid.map(|vmid| format!(" (VMID {vmid})")).unwrap_or_default();
    tracing::warn!(
        "VM {name}{vmid}: its record had vanished from {} although the VM exists; restored it{remarks}",
        ctx.database.path().display()
    );
    vm.audit("restore-record", described.vmid, [None, Status::parse(&status)], &format!("ok{remarks}"));
    keep_copy(ctx, name);
    Ok(true)
}

/// What is known of a VM that was made before copies were kept.
fn from_file(
    ctx: &Context<'_>,
    name: &VmName,
    described: &Described,
    uuid: Uuid,
    now: DateTime<Utc>,
) -> anyhow::Result<Fields> {
    let ipv4 = described.addresses.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
    let ipv6 = described.addresses.iter().find_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None });
    let vm = NewVm {
        name,
        allocation: crate::value::allocation::Allocation {
            vmid: described.vmid.context("its terraform file has no VMID")?,
            ipv4: ipv4.context("its terraform file has no IPv4 address")?,
            ipv6,
        },
        expiry_days: ctx.settings.default_expiry_days,
        owner: &OneLine::parse("unknown")?,
        purpose: &OneLine::parse("record restored")?,
        wallet: None,
        username: &UserName::parse("admin")?,
        network_mode: None,
        smbios_uuid: Some(uuid),
        nft_token_id: None,
        // It may have run with any address since it was made.
        anti_spoofing: false,
    };
    Ok(vm_record::fields(&vm, now, &ctx.settings.fields).into_iter().collect())
}

/// Extends the time in a restored record, as the copy may be older than a renewal or a resume: when in doubt the later
/// expiry counts, and the grace period starts over. Returns what was changed, for a person.
fn give_time(ctx: &Context<'_>, fields: &mut Fields, state: &VmState, now: DateTime<Utc>) -> Vec<String> {
    let names = &ctx.settings.fields;
    let mut remarks = Vec::new();
    let text = |fields: &Fields, key: &str| fields.get(key).and_then(Value::as_str).map(str::to_string);
    let status = text(fields, &names.status).and_then(|word| Status::parse(&word));
    let is_suspended = status == Some(Status::Suspended);
    if is_suspended && !state.running {
        fields.insert("suspended_at".into(), timestamp::to_text(now).into());
        remarks.push("it is suspended, and its grace period starts over".to_string());
    } else {
        if is_suspended {
            fields.remove("suspended_at");
            remarks.push("it is running, so it counts as active".to_string());
        }
        fields.insert(names.status.clone(), Status::Active.as_str().into());
        let ends = text(fields, &names.expires_at).and_then(|text| timestamp::from_text(&text));
        if ends.is_none_or(|ends| ends < now + TimeDelta::days(1)) {
            let ends = timestamp::to_text(now + AT_LEAST);
            remarks.push(format!("it expires on {ends}, unless a later date was paid for"));
            fields.insert(names.expires_at.clone(), ends.into());
        }
    }
    remarks
}
