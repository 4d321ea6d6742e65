//! A copy of each VM's record beside its terraform file: `<terraform_dir>/vms/<name>/record.json` (hazard H55).
//!
//! An engine writes the database without its lock and can drop a record at any time; this copy it cannot drop. It is
//! written before the record is registered, after each change of ours, and by gc for what others have changed. It goes
//! with the directory, so a destroyed VM has none.

use super::settings::Settings;
use super::vm_database::VmDatabase;
use crate::host::read_file::text_for_people;
use crate::host::replace_file::{self, PRIVATE};
use crate::value::vm_name::VmName;
use anyhow::Context as _;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// A record's fields in their order.
pub type Fields = Map<String, Value>;

fn path(settings: &Settings, name: &VmName) -> PathBuf {
    settings.terraform_dir.join("vms").join(name.as_str()).join("record.json")
}

/// Whether there is a copy.
pub fn exists(settings: &Settings, name: &VmName) -> bool {
    path(settings, name).exists()
}

/// The copy; `None` where there is none.
pub fn read(settings: &Settings, name: &VmName) -> anyhow::Result<Option<Fields>> {
    let path = path(settings, name);
    if !path.exists() {
        return Ok(None);
    }
    let copy = serde_json::from_str(&text_for_people(&path)?);
    copy.map(Some).with_context(|| format!("{} is not a copy of a record", path.display()))
}

/// Writes the copy, whole, where it differs. The VM's directory must be there: a copy never makes one.
pub fn write(settings: &Settings, name: &VmName, record: &Fields) -> anyhow::Result<()> {
    let path = path(settings, name);
    let text = serde_json::to_string_pretty(record)? + "\n";
    if crate::host::read_file::text(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    Ok(replace_file::replace(&path, text.as_bytes(), PRIVATE, "record-copy")?)
}

/// Writes what the database has now, of a VM that is live and has a directory of its own.
pub fn refresh(settings: &Settings, database: &VmDatabase, name: &VmName) -> anyhow::Result<()> {
    if !path(settings, name).parent().is_some_and(|folder| folder.is_dir()) {
        return Ok(());
    }
    let live = database.inspect(|db| {
        let is_live = matches!(db.record(name.as_str()), Some(Ok(record)) if record.is_live());
        Ok(db.fields(name.as_str()).filter(|_| is_live))
    })?;
    live.map_or(Ok(()), |record| write(settings, name, &record))
}
