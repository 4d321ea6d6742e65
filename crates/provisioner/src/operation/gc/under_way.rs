//! A note of the VMs that gc is about to shut down (hazard H10): an interrupted run leaves guests that shut down by
//! themselves. If one of them is renewed before the next run, its record says active and nobody would start it; the
//! next run reads this note and does.

use crate::host::Host;
use crate::host::read_file::text_for_people;
use crate::host::replace_file::{self, SHARED};
use crate::value::vm_name::VmName;
use serde_json::{Value, json};
use std::path::PathBuf;

fn path(host: &Host) -> PathBuf {
    host.state_dir.join("gc-under-way.json")
}

/// Reads the VMs that an interrupted run was shutting down. An unreadable note is an error and is left as it is.
pub fn read(host: &Host) -> anyhow::Result<Vec<VmName>> {
    let path = path(host);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = text_for_people(&path)?;
    let bad = |why: String| anyhow::anyhow!("{}: {why}; remove the file to continue", path.display());
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    let list = value.get("suspending").and_then(Value::as_array);
    let list = list.ok_or_else(|| bad("suspending: expected a list of names".to_string()))?;
    list.iter()
        .map(|name| {
            let name =
                name.as_str().ok_or_else(|| bad("suspending: expected a list of names".to_string()))?;
            VmName::parse(name).map_err(|e| bad(e.to_string()))
        })
        .collect()
}

/// Writes the note; removes it if there are no names.
pub fn write(host: &Host, names: &[VmName]) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(replace_file::remove(&path(host))?);
    }
    let names: Vec<&str> = names.iter().map(VmName::as_str).collect();
    let text = json!({ "suspending": names }).to_string();
    Ok(replace_file::replace(host.doors, &path(host), text.as_bytes(), SHARED, "gc-under-way")?)
}
