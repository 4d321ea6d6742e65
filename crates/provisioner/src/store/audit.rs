//! The audit trail: one JSON line for each change of a VM, in the append-only file
//! `<state>/audit/<year>-<month>.jsonl`. It contains no secrets and no text of guest commands. A line that cannot be
//! written causes a warning.

use crate::host::Host;
use crate::host::{self, replace_file};
use crate::value::timestamp;
use serde_json::json;

/// What is recorded about one change.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The verb: `create`, `destroy`, `suspend`, …
    pub verb: &'a str,
    /// The VM.
    pub vm: &'a str,
    /// Its VMID, if known.
    pub vmid: Option<u32>,
    /// Its status before, from the record.
    pub before: Option<&'a str>,
    /// Its status after.
    pub after: Option<&'a str>,
    /// `ok`, or why it failed; for commands in a guest, how they ended.
    pub result: &'a str,
    /// How long it took.
    pub duration: std::time::Duration,
}

/// Appends a line to the audit trail; a failure is only a warning.
pub fn write(host: &Host, change: &Change<'_>) {
    let now = host.now();
    let line = json!({
        "time": timestamp::to_text(now),
        "uid": host.brought.as_ref().map_or_else(|| rustix::process::getuid().as_raw(), |brought| brought.uid),
        "sudo_user": host::variable("SUDO_USER").map(|name| name.chars().take(64).collect::<String>()),
        "caller": caller(),
        "verb": change.verb,
        "vm": change.vm,
        "vmid": change.vmid,
        "before": change.before,
        "after": change.after,
        "result": change.result.chars().take(500).collect::<String>(),
        "duration_ms": u64::try_from(change.duration.as_millis()).unwrap_or(u64::MAX),
    });
    let folder = host.state_dir.join("audit");
    let path = folder.join(format!("{}.jsonl", now.format("%Y-%m")));
    let written = replace_file::make_folder(host.doors, &folder, 0o770)
        .and_then(|()| replace_file::append_line(host.doors, &path, &line.to_string()));
    if let Err(error) = written {
        tracing::warn!("failed to record this change in the audit trail: {error}");
    }
}

/// The program that ran this command, by name only: its arguments are not ours to keep.
fn caller() -> Option<String> {
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let name = crate::host::read_file::text(format!("/proc/{parent}/comm")).ok()?;
    Some(name.trim().to_string())
}
