//! VMIDs that are not allocated for a while, one file each: `<state>/withheld/<vmid>.json`.
//!
//! There are two reasons. Either Proxmox says "exists" about the VMID (a leftover volume, a stuck lock: hazard H63),
//! and the next create would fail on it like the last one. Or a request of a create that died may still be on its way
//! to the node (hazard H57): a VM may appear there after the create was rolled back, and its VMID must not have been
//! given to another VM.

use crate::host::Host;
use crate::host::read_file::text_for_people;
use crate::host::replace_file::{self, PRIVATE};
use crate::value::vmid::Vmid;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// How long an unusable VMID is skipped: long enough for somebody to remove what blocks it.
const UNUSABLE: Duration = Duration::from_secs(24 * 3600);
/// How late a request may arrive: Proxmox' proxy gives its workers 30 s, and a task may wait behind locks for minutes.
const LATE: Duration = Duration::from_secs(600);

/// A withheld VMID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// The number.
    pub vmid: u32,
    /// The reason, for a person.
    pub reason: String,
    /// When the reason was last seen to hold.
    pub since: DateTime<Utc>,
    /// The create that died and whose VM may still appear.
    pub late: Option<Late>,
}

/// The VM that may appear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// The name of the VM that was being created.
    pub name: String,
    /// The identity that the VM was to get.
    pub smbios_uuid: Uuid,
}

impl Withheld {
    /// Whether the time is over. A time too far in the future was written with a wrong clock.
    pub fn is_over(&self, host: &Host) -> bool {
        let now = host.now();
        let limit = match self.late {
            Some(_) => host.limit("late-request", LATE),
            None => host.limit("withheld-vmid", UNUSABLE),
        };
        let limit = TimeDelta::from_std(limit).unwrap_or(TimeDelta::days(1));
        now - self.since > limit || self.since - now > limit
    }
}

/// The directory of withheld VMIDs.
pub struct WithheldVmids<'h> {
    host: &'h Host,
}

impl<'h> WithheldVmids<'h> {
    /// Those of this host.
    pub fn new(host: &'h Host) -> WithheldVmids<'h> {
        WithheldVmids { host }
    }

    fn folder(&self) -> PathBuf {
        self.host.state_dir.join("withheld")
    }

    fn path(&self, vmid: u32) -> PathBuf {
        self.folder().join(format!("{vmid}.json"))
    }

    /// Returns all of them in ascending order. Unusable VMIDs expire; watched ones are removed only by
    /// [`WithheldVmids::forget`]. An unreadable file withholds its VMID.
    pub fn all(&self) -> Vec<Withheld> {
        let files = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let vmids = names.filter_map(|name| name.strip_suffix(".json")?.parse::<u32>().ok());
        let mut all: Vec<Withheld> = vmids.filter_map(|vmid| self.read(vmid)).collect();
        all.sort_by_key(|one| one.vmid);
        all
    }

    /// All of them as they lie there, for who only looks: nothing is forgotten, and a file that cannot be read is an error.
    pub fn as_they_are(&self) -> Vec<(PathBuf, anyhow::Result<Withheld>)> {
        let files = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let paths =
            files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
        let read = |path: &PathBuf| Ok(serde_json::from_str(&text_for_people(path)?)?);
        let mut all: Vec<_> = paths.map(|path| (path.clone(), read(&path))).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn read(&self, vmid: u32) -> Option<Withheld> {
        let path = self.path(vmid);
        let now = self.host.now();
        let read = text_for_people(&path).and_then(|text| Ok(serde_json::from_str::<Withheld>(&text)?));
        let one = match read {
            Ok(one) => Withheld { vmid, ..one },
            Err(_) if !path.exists() => return None,
            Err(error) => {
                tracing::warn!("{error:#}; VMID {vmid} is not assigned until this file is removed");
                return Some(Withheld {
                    vmid,
                    reason: "its note is unreadable".into(),
                    since: now,
                    late: None,
                });
            }
        };
        if one.late.is_none() && one.is_over(self.host) {
            self.forget(vmid);
            return None;
        }
        Some(one)
    }

    /// Withholds a VMID from now on. A watched VMID stays watched.
    pub fn withhold(&self, vmid: Vmid, reason: &str, late: Option<Late>) -> anyhow::Result<()> {
        let watched = self.read(vmid.get()).and_then(|one| one.late);
        let reason: String = reason.chars().take(500).collect();
        let one = Withheld { vmid: vmid.get(), reason, since: self.host.now(), late: late.or(watched) };
        replace_file::make_folder(self.host.doors, &self.folder(), 0o770)?;
        let text = serde_json::to_string_pretty(&one)? + "\n";
        Ok(replace_file::replace(
            self.host.doors,
            &self.path(vmid.get()),
            text.as_bytes(),
            PRIVATE,
            "withheld",
        )?)
    }

    /// Makes a VMID available again.
    pub fn forget(&self, vmid: u32) {
        if let Err(error) = replace_file::remove(&self.path(vmid)) {
            tracing::warn!("VMID {vmid} stays withheld: {error}");
        }
    }
}
