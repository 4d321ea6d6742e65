//! A copy of each VM's record beside its terraform file: `<terraform_dir>/vms/<name>/record.json` (hazard H55).
//!
//! An engine that writes the database without its lock can drop a record at any time, but it cannot drop this copy. The
//! copy is written before the record is registered, after each of our changes, and by gc for changes made by others. It
//! is removed with the directory, so a destroyed VM has none.

use super::settings::Settings;
use super::vm_database::VmDatabase;
use crate::host::Host;
use crate::host::read_file::text_for_people;
use crate::host::replace_file::{self, PRIVATE};
use crate::value::vm_name::VmName;
use anyhow::Context as _;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// A record's fields, in order.
pub type Fields = Map<String, Value>;

fn path(settings: &Settings, name: &VmName) -> PathBuf {
    settings.terraform_dir.join("vms").join(name.as_str()).join("record.json")
}

/// Whether the VM has a copy.
pub fn exists(settings: &Settings, name: &VmName) -> bool {
    path(settings, name).exists()
}

/// Returns the copy; `None` if there is none.
pub fn read(settings: &Settings, name: &VmName) -> anyhow::Result<Option<Fields>> {
    let path = path(settings, name);
    if !path.exists() {
        return Ok(None);
    }
    let copy = serde_json::from_str(&text_for_people(&path)?);
    copy.map(Some).with_context(|| format!("{} is not a copy of a record", path.display()))
}

/// Writes the copy as a whole if it differs. The VM's directory must exist; writing a copy never creates it.
pub fn write(host: &Host, settings: &Settings, name: &VmName, record: &Fields) -> anyhow::Result<()> {
    let path = path(settings, name);
    let text = serde_json::to_string_pretty(record)? + "\n";
    if crate::host::read_file::text(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    Ok(replace_file::replace(host.doors, &path, text.as_bytes(), PRIVATE, "record-copy")?)
}

/// Writes the database's current record of a VM that is live and has its own directory.
pub fn refresh(host: &Host, settings: &Settings, database: &VmDatabase, name: &VmName) -> anyhow::Result<()> {
    if !path(settings, name).parent().is_some_and(|folder| folder.is_dir()) {
        return Ok(());
    }
    let live = database.inspect(|db| {
        let is_live = matches!(db.record(name.as_str()), Some(Ok(record)) if record.is_live());
        Ok(db.fields(name.as_str()).filter(|_| is_live))
    })?;
    live.map_or(Ok(()), |record| write(host, settings, name, &record))
}
