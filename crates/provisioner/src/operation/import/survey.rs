//! Which VMs there are of the older package: by database, shared directory and shared state. Reads files alone.

use super::Row;
use crate::operation::{Context, unfinished};
use crate::plan::import::{Claim, Finding, claim};
use crate::store::vm_database::{DatabaseError, Fields};
use crate::tool::legacy_state::SharedFolder;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A VM that may be moved.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its record.
    pub record: VmRecord,
    /// What the shared directory says.
    pub claim: Claim,
    /// The UUID of its record or of its own directory, where it has one by now.
    pub uuid: Option<Uuid>,
    /// What is known of it so far.
    pub row: Row,
}

/// One VM.
pub enum Known {
    /// There is nothing more to find out.
    Settled(Row),
    /// The node is to be asked.
    Candidate(Box<Candidate>),
    /// A VM of today's form.
    Ours(Box<VmRecord>),
}

/// What the database has under a name.
struct Recorded {
    status: Option<Status>,
    vmid: Option<u32>,
    record: Result<VmRecord, String>,
}

/// All VMs, by name.
pub fn all(ctx: &Context<'_>, shared: &SharedFolder) -> anyhow::Result<Vec<Known>> {
    let gathered = ctx.database.gather(Fields::All, BTreeMap::new, |found, view| {
        let vmid = view.vmid().map(|vmid| vmid.get());
        let recorded = Recorded { status: view.status(), vmid, record: view.to_record() };
        found.insert(view.key.to_string(), recorded);
    });
    let records = match gathered {
        // A host without any VM yet has nothing to import.
        Err(DatabaseError::Missing(_)) if shared.files.is_empty() && shared.state.vms().is_empty() => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let state_names =
        shared.state.vms().into_iter().map(|vm| if vm.name.is_empty() { vm.label } else { vm.name });
    let mut names: BTreeSet<String> = shared.files.keys().cloned().chain(state_names).collect();
    names.extend(records.keys().cloned());
    Ok(names.iter().filter_map(|name| one(ctx, shared, name, records.get(name))).collect())
}

/// `None`: nothing of the older package, or a tombstone.
fn one(ctx: &Context<'_>, shared: &SharedFolder, name: &str, recorded: Option<&Recorded>) -> Option<Known> {
    let mut row = Row::new(name);
    let in_state = shared.state.vms().into_iter().find(|vm| vm.name == name);
    row.state_vmid = in_state.as_ref().and_then(|vm| vm.vmid);
    let is_shared = shared.files.contains_key(name) || in_state.is_some();
    let live = recorded.filter(|recorded| recorded.status != Some(Status::Destroyed));
    let Some(live) = live else {
        // A tombstone alone, or a resource of a label that a live VM's claim is judged by.
        if !is_shared {
            return None;
        }
        let what =
            if recorded.is_some() { "its record says destroyed" } else { "the database has no such VM" };
        row.status = recorded.and_then(|recorded| recorded.status);
        row.refuse(
            Finding::NoRecord,
            format!(
                "{what}, but the shared Terraform directory still has it; restore its record, or remove it from there \
                 manually"
            ),
        );
        return Some(Known::Settled(row));
    };
    (row.status, row.record_vmid) = (live.status, live.vmid);
    if let Err(refused) = VmName::check(name) {
        row.refuse(
            Finding::InvalidName,
            format!("{refused}; no command can handle it: rename it in {}", ctx.database.path().display()),
        );
        return Some(Known::Settled(row));
    }
    match &live.record {
        // What is no VM of the older package is none of ours to judge.
        Err(_) if !is_shared => None,
        Err(why) => {
            row.refuse(Finding::BadRecord, why.clone());
            Some(Known::Settled(row))
        }
        Ok(record) if record.smbios_uuid.is_some() && !leftovers(ctx, shared, &record.name) => {
            Some(Known::Ours(Box::new(record.clone())))
        }
        Ok(record) => Some(candidate(ctx, shared, record, row)),
    }
}

/// Whether something of the older form is left of a VM that has a UUID.
fn leftovers(ctx: &Context<'_>, shared: &SharedFolder, name: &VmName) -> bool {
    let resource = shared.state.vms().iter().any(|vm| vm.name == name.as_str());
    resource || ctx.legacy_folder_of(name).has_leftovers()
}

/// What is known of one VM that is there.
fn candidate(ctx: &Context<'_>, shared: &SharedFolder, record: &VmRecord, mut row: Row) -> Known {
    let name = &record.name;
    match record.smbios_uuid {
        Some(_) => row.find(Finding::Unfinished),
        None => row.find(Finding::NoUuid),
    }
    // Only what is dead or at work has an entry; a registered create has a UUID, and is told likewise.
    match ctx.journal().read(name) {
        Ok(None) => {}
        Ok(Some(_)) => {
            let what = unfinished::of_name(ctx, name).unwrap_or_default();
            row.refuse(Finding::UnderWay, what);
            return Known::Settled(row);
        }
        Err(error) => {
            row.refuse(Finding::UnderWay, format!("{error:#}"));
            return Known::Settled(row);
        }
    }
    let claim = match claim(name, &shared.state, shared.files.get(name.as_str())) {
        Ok(claim) => claim,
        Err((finding, why)) => {
            row.refuse(finding, why);
            return Known::Settled(row);
        }
    };
    let own = match ctx.folder_of(name).machine() {
        Ok(own) => own,
        Err(error) => {
            row.refuse(Finding::OtherDirectory, format!("{error:#}"));
            return Known::Settled(row);
        }
    };
    let in_directory = own.map(|(_, uuid)| uuid);
    if let (Some(recorded), Some(found)) = (record.smbios_uuid, in_directory)
        && recorded != found
    {
        row.refuse(
            Finding::OtherDirectory,
            format!("its record has UUID {recorded}, its Terraform directory UUID {found}"),
        );
        return Known::Settled(row);
    }
    let is_older = record.smbios_uuid.is_none() && in_directory.is_none();
    if is_older && claim.state.is_none() {
        row.find(Finding::MissingState);
    }
    if is_older && claim.file.is_none() {
        row.find(Finding::MissingFile);
    }
    let uuid = record.smbios_uuid.or(in_directory);
    Known::Candidate(Box::new(Candidate { record: record.clone(), claim, uuid, row }))
}

/// The same VM, seen again under its lock; `None` where there is nothing to move any more.
pub fn again(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Option<Known>> {
    let shared = SharedFolder::read(&ctx.settings)?;
    let record = ctx.record(name)?;
    let recorded = record.map(|record| Recorded {
        status: Some(record.status),
        vmid: Some(record.vmid.get()),
        record: Ok(record),
    });
    Ok(one(ctx, &shared, name.as_str(), recorded.as_ref()))
}
