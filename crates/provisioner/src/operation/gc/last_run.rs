//! When gc last ran, and when its clock was last known to be right, for gc's brakes (hazards H11, H62).

use crate::host::Host;
use crate::host::read_file::text_for_people;
use crate::host::replace_file::{self, SHARED};
use crate::plan::garbage_collection::BelievedClock;
use crate::store::document::describe;
use crate::value::timestamp;
use crate::value::uptime::Uptime;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What a run records for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    /// When it ran.
    pub at: DateTime<Utc>,
    /// The last time at which wall clock and uptime agreed; `None` in notes of older versions.
    pub believed: Option<BelievedClock>,
}

fn path(host: &Host) -> PathBuf {
    host.state_dir.join("gc-last-run.json")
}

/// Reads the last run's note; `None` if it does not exist. An unreadable note is an error: a brake that fails open is
/// no brake.
pub fn read(host: &Host) -> anyhow::Result<Option<LastRun>> {
    let path = path(host);
    if !path.exists() {
        return Ok(None);
    }
    let text = text_for_people(&path)?;
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        anyhow::anyhow!("{}: not valid JSON: {error}; remove the file to continue", path.display())
    })?;
    let at = value.get("at").unwrap_or(&Value::Null);
    let time = at.as_str().and_then(timestamp::from_text);
    let at = time.ok_or_else(|| {
        anyhow::anyhow!(
            "{}: at: expected a time, found {}; remove the file to continue",
            path.display(),
            describe(at)
        )
    })?;
    Ok(Some(LastRun { at, believed: value.get("believed").and_then(believed) }))
}

fn believed(value: &Value) -> Option<BelievedClock> {
    let at = value.get("at")?.as_str().and_then(timestamp::from_text)?;
    let boot_id = value.get("boot_id")?.as_str()?.to_string();
    Some(BelievedClock { at, uptime: Uptime { boot_id, seconds: value.get("uptime_seconds")?.as_i64()? } })
}

/// Writes the note of a run.
pub fn write(host: &Host, run: &LastRun) -> anyhow::Result<()> {
    let mut note = json!({ "at": timestamp::to_text(run.at) });
    if let Some(BelievedClock { at, uptime }) = &run.believed {
        note["believed"] = json!({
            "at": timestamp::to_text(*at), "boot_id": uptime.boot_id, "uptime_seconds": uptime.seconds
        });
    }
    Ok(replace_file::replace(host.doors, &path(host), note.to_string().as_bytes(), SHARED, "gc-last-run")?)
}
