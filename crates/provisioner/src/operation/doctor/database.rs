//! The VM database: its live records, what they hold, and the lists of addresses.

use crate::operation::Context;
use crate::operation::create::traces_of_vms;
use crate::plan::doctor::Finding;
use crate::plan::doctor::kinds::*;
use crate::plan::doctor::leftovers::Holder;
use crate::plan::doctor::records;
use crate::store::vm_database::{DatabaseError, Fields, RecordView};
use crate::value::vm_record::VmRecord;
use std::collections::HashMap;
use std::net::IpAddr;

/// What it holds.
#[derive(Debug, Default)]
pub struct Database {
    /// Records of VMs that are not destroyed, in file order.
    pub live: Vec<VmRecord>,
    /// All records by name, readable or not.
    pub holders: HashMap<String, Holder>,
    /// The addresses of the lists, with the list's key.
    pub listed: Vec<(&'static str, IpAddr)>,
    /// It cannot be read.
    pub is_blind: bool,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

#[derive(Default)]
struct Gathered {
    live: Vec<VmRecord>,
    unreadable: Vec<(String, String)>,
    holders: HashMap<String, Holder>,
}

impl Gathered {
    fn add(&mut self, view: &RecordView<'_>) {
        let addresses =
            [view.ip_text(), view.ipv6_text()].into_iter().filter_map(|text| text.parse().ok()).collect();
        let is_destroyed = view.is_destroyed();
        let record = view.to_record();
        let uuid = record.as_ref().ok().and_then(|record| record.smbios_uuid);
        let vmid = view.vmid().map_or(0, |vmid| vmid.get());
        self.holders.insert(view.key.to_string(), Holder { is_destroyed, vmid, uuid, addresses });
        match record {
            Ok(record) if record.is_live() => self.live.push(record),
            Ok(_) => {}
            Err(why) => self.unreadable.push((view.key.to_string(), why)),
        }
    }
}

/// Reads it once.
pub fn read(ctx: &Context<'_>) -> Database {
    let path = ctx.database.path().display().to_string();
    let gathered = match ctx.database.gather(Fields::All, Gathered::default, Gathered::add) {
        Ok(gathered) => gathered,
        Err(error) => {
            let findings = failure(ctx, &path, &error);
            return Database { is_blind: !findings.is_empty(), findings, ..Database::default() };
        }
    };
    let range = ctx.settings.vmid_range().ok();
    let mut findings = records::findings(&path, &gathered.live, &gathered.unreadable, range);
    let listed = match ctx.database.inspect(|db| {
        let mut listed = Vec::new();
        for key in ["allocated_ips", "allocated_ipv6"] {
            let list = db.list(key).map_err(anyhow::Error::msg)?;
            listed.extend(list.iter().filter_map(|text| Some((key, text.parse().ok()?))));
        }
        Ok(listed)
    }) {
        Ok(listed) => listed,
        Err(error) => {
            let mend = format!("correct {path}, under its lock: flock {path}.lock …");
            findings.push(Finding::new(&DATABASE_UNREADABLE, &path, format!("{error:#}"), mend));
            Vec::new()
        }
    };
    Database { live: gathered.live, holders: gathered.holders, listed, is_blind: false, findings }
}

fn failure(ctx: &Context<'_>, path: &str, error: &DatabaseError) -> Vec<Finding> {
    let restore = "restore it from a backup; doc/recovery.md has the order";
    match error {
        // A host that has never had a VM has none.
        DatabaseError::Missing(_) => match traces_of_vms(ctx) {
            Ok(None) => Vec::new(),
            Ok(Some(why)) => {
                let what = format!("it does not exist although {why}");
                vec![Finding::new(&DATABASE_MISSING, path, what, restore)]
            }
            Err(why) => vec![Finding::new(&DATABASE_MISSING, path, format!("{why:#}"), restore)],
        },
        other => vec![Finding::new(&DATABASE_UNREADABLE, path, other, restore)],
    }
}
