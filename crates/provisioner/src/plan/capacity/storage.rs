//! A storage against the disks that are to be made there (hazard H32 has what a full one does).
//!
//! A thin storage may promise more than it has, which is what it is for: there only what a create writes at once counts,
//! not the size of the disk. `more_vms_if_disks_fill` says what is left if that promise were kept.

use super::{GIB, Room};
use crate::value::cluster_rows::NodeStorage;
use serde::Serialize;

/// What a new VM takes of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Size of the full volume in bytes.
    pub disk: u64,
    /// Bytes written at creation; `None`: not known, as the template's size is not.
    pub at_once: Option<u64>,
}

impl Need {
    /// A cloud-init drive: 4 MiB, all of it written.
    pub const CLOUD_INIT: Need = Need { disk: 4 << 20, at_once: Some(4 << 20) };

    /// A VM's disk. A linked clone shares the template's data; a full clone writes all of it at once.
    pub fn of_disk(disk_gb: u32, full_clone: bool, template: Option<u64>) -> Need {
        Need { disk: u64::from(disk_gb) * GIB, at_once: if full_clone { template } else { Some(0) } }
    }

    /// Bytes that creating it takes of a storage of this type: LVM allocates the whole disk.
    fn taken(self, kind: Option<&str>) -> Option<u64> {
        if kind == Some("lvm") { Some(self.disk) } else { self.at_once }
    }
}

/// Why create refuses this on a storage, after what names the storage. A figure that is not known refuses nothing.
pub fn refuses(row: &NodeStorage, need: Need, reserve_percent: u32) -> Option<String> {
    let in_gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB as f64);
    // A storage of unknown size reports 0.
    let total = row.total.filter(|total| *total > 0)?;
    if total < need.disk {
        return Some(format!(
            "is too small: it holds {}, the disk needs {}; choose another one (pvesm status) or a smaller --disk",
            in_gib(total),
            in_gib(need.disk)
        ));
    }
    let free = row.available?;
    let at_once = need.taken(row.kind.as_deref()).unwrap_or_default();
    if free == 0 || free < at_once {
        return Some(format!(
            "is full: {} of {} are free, {} are needed immediately; free up space there or choose another one (pvesm \
             status)",
            in_gib(free),
            in_gib(total),
            in_gib(at_once)
        ));
    }
    let reserve = reserve(total, reserve_percent);
    (free - at_once < reserve).then(|| {
        format!(
            "is nearly full: {} of {} are free, {} are needed immediately, and {} are to stay free \
             (storage_reserve_percent {reserve_percent} of db.yaml); free up space there, choose another one (pvesm \
             status), or lower storage_reserve_percent",
            in_gib(free),
            in_gib(total),
            in_gib(at_once),
            in_gib(reserve)
        )
    })
}

fn reserve(total: u64, percent: u32) -> u64 {
    u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(total)
}

/// A storage, and how many more VMs it has room for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// Its name.
    pub name: String,
    /// What is made there: `disks`, `cloud-init drives`.
    pub purposes: Vec<&'static str>,
    /// What the API says of it; all unknown where it said nothing or the storage is not active.
    pub row: Known,
    /// Bytes that create leaves free; `None` while the size is unknown.
    pub reserve: Option<u64>,
    /// Bytes that one more VM takes when it is created.
    pub taken: Option<u64>,
    room: Option<u64>,
    is_endless: bool,
    if_filled: Option<u64>,
}

/// What is known of a storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// `lvmthin`, `dir` …
    pub kind: Option<String>,
    /// Size in bytes.
    pub total: Option<u64>,
    /// In use, in bytes; of a thin pool what was written.
    pub used: Option<u64>,
    /// Free bytes.
    pub free: Option<u64>,
}

impl Storage {
    /// The storage `name`; `row`: what the API says, `None` where it said nothing. One that is not active has figures that
    /// mean nothing (0).
    pub fn of(
        name: &str,
        purposes: Vec<&'static str>,
        row: Option<&NodeStorage>,
        need: Need,
        reserve_percent: u32,
    ) -> Storage {
        let mut storage = Storage { name: name.to_string(), purposes, ..Storage::default() };
        let Some(row) = row else { return storage };
        storage.row.kind.clone_from(&row.kind);
        storage.taken = need.taken(row.kind.as_deref());
        let Some(total) = row.total.filter(|total| *total > 0 && row.is_active) else { return storage };
        let Some(free) = row.available else { return storage };
        storage.row = Known { kind: row.kind.clone(), total: Some(total), used: row.used, free: Some(free) };
        let kept = reserve(total, reserve_percent);
        storage.reserve = Some(kept);
        storage.if_filled = Some(free.saturating_sub(kept) / need.disk.max(1));
        match storage.taken {
            _ if refuses(row, need, reserve_percent).is_some() => storage.room = Some(0),
            Some(0) => storage.is_endless = true,
            Some(taken) => storage.room = Some(free.saturating_sub(kept) / taken),
            None => {}
        }
        storage
    }

    /// How many more VMs create would make there.
    pub fn room(&self) -> Room {
        match self.room {
            Some(vms) => Room::Vms(vms),
            None if self.is_endless => Room::Endless,
            None => Room::Unknown,
        }
    }

    /// How many more VMs there is room for if each of them fills its disk.
    pub fn room_if_disks_fill(&self) -> Option<u64> {
        self.if_filled
    }
}

impl Serialize for Storage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let room = self.room();
        let whole = serde_json::json!({
            "storage": self.name, "purposes": self.purposes, "type": self.row.kind, "total_bytes": self.row.total,
            "used_bytes": self.row.used, "free_bytes": self.row.free, "reserve_bytes": self.reserve,
            "bytes_per_vm": self.taken, "limit": room.word(), "more_vms": room.vms(),
            "more_vms_if_disks_fill": self.if_filled,
        });
        whole.serialize(serializer)
    }
}
