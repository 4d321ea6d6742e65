//! Time that passes in a lab: its stamps move instead of the clock, so the products' commands need no flag for it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// The stamps of a record.
const STAMPS: [&str; 4] = ["created_at", "expires_at", "suspended_at", "destroyed_at"];

/// Lets so many days pass (negative: the clock is set back) for the lab's database and the note of the last gc.
///
/// # Errors
/// There is no database, or a file is not what it should be; then nothing is changed.
pub(crate) fn pass(dir: &Path, days: i64) -> anyhow::Result<()> {
    let delta = TimeDelta::try_days(days).filter(|_| days.abs() <= 36_500).context("at most 36500 days")?;
    let (database, note) = (dir.join("var/vms.json"), dir.join("var/gc-last-run.json"));
    let lock = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("var/vms.json.lock"))
        .context("failed to open the database's lock")?;
    lock.lock()?;
    let mut all = read(&database)?;
    let records = all.get_mut("vms").and_then(Value::as_object_mut).context("the database has no vms")?;
    for record in records.values_mut() {
        for key in STAMPS {
            shift(record, key, delta)?;
        }
    }
    let last = note.exists().then(|| read(&note)).transpose()?;
    if let Some(mut last) = last {
        shift(&mut last, "at", delta)?;
        fs::write(&note, last.to_string())?;
    }
    // In place: owner and mode stay, and readers of the product look again when they see half a file.
    fs::write(&database, format!("{all:#}\n"))?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// What was at a time is now so much longer ago.
fn shift(object: &mut Value, key: &str, delta: TimeDelta) -> anyhow::Result<()> {
    let Some(stamp) = object.get_mut(key).filter(|stamp| !stamp.is_null()) else { return Ok(()) };
    let text = stamp.as_str().with_context(|| format!("{key} is no text"))?;
    let at = DateTime::parse_from_rfc3339(text).with_context(|| format!("{key}: '{text}' is no time"))?;
    let at = at.with_timezone(&Utc).checked_sub_signed(delta);
    ensure!(at.is_some(), "{key}: there is no such day");
    *stamp = at.map(|at| at.format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()).into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stamp_moves_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("var")).unwrap();
        let (database, note) = (dir.path().join("var/vms.json"), dir.path().join("var/gc-last-run.json"));
        let id = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        let text = format!(
            r#"{{"vms": {{"a": {{"expires_at": "2026-03-05T01:02:03.000004+00:00", "suspended_at": null, "nft_token_id": {id}, "x": "2026-03-05"}}}}}}"#
        );
        fs::write(&database, &text).unwrap();
        fs::write(&note, r#"{"at": "2026-03-05T01:02:03Z"}"#).unwrap();
        pass(dir.path(), 5).unwrap();
        let moved: Value = serde_json::from_str(&fs::read_to_string(&database).unwrap()).unwrap();
        let expected = text.replace("2026-03-05T01", "2026-02-28T01");
        assert_eq!(moved, serde_json::from_str::<Value>(&expected).unwrap());
        assert_eq!(fs::read_to_string(&note).unwrap(), r#"{"at":"2026-02-28T01:02:03.000000+00:00"}"#);
        pass(dir.path(), -5).unwrap();
        let back: Value = serde_json::from_str(&fs::read_to_string(&database).unwrap()).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(&text).unwrap());
        assert!(pass(dir.path(), i64::MAX).is_err());
        fs::write(&note, r#"{"at": "yesterday"}"#).unwrap();
        let before = fs::read(&database).unwrap();
        assert!(pass(dir.path(), 1).is_err());
        assert_eq!(fs::read(&database).unwrap(), before);
    }
}
