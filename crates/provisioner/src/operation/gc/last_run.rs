//! When gc last ran, for its brake (hazard H11).

use crate::host::Host;
use crate::host::replace_file::{self, SHARED};
use crate::store::document::{describe, read_text};
use crate::value::timestamp;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::path::PathBuf;

fn path(host: &Host) -> PathBuf {
    host.state_dir.join("gc-last-run.json")
}

/// The note of the last run; `None` where there is none. A note that cannot be read is an error: a brake that
/// fails open is none.
pub fn read(host: &Host) -> anyhow::Result<Option<DateTime<Utc>>> {
    let path = path(host);
    if !path.exists() {
        return Ok(None);
    }
    let text = read_text(&path)?;
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        anyhow::anyhow!("{}: not valid JSON: {error}; remove it to go on", path.display())
    })?;
    let at = value.get("at").unwrap_or(&Value::Null);
    let time = at.as_str().and_then(timestamp::from_text);
    time.map(Some).ok_or_else(|| {
        anyhow::anyhow!(
            "{}: at: expected a time, found {}; remove the file to go on",
            path.display(),
            describe(at)
        )
    })
}

/// Notes a run.
pub fn write(host: &Host, now: DateTime<Utc>) -> anyhow::Result<()> {
    let text = json!({ "at": timestamp::to_text(now) }).to_string();
    Ok(replace_file::replace(&path(host), text.as_bytes(), SHARED, "gc-last-run")?)
}
