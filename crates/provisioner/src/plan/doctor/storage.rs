//! Storages of disks and cloud-init drives, and the host's own disk.

use super::Finding;
use super::kinds::*;
use crate::plan::capacity::{self, Memory, Need, USUAL};
use crate::value::cluster_rows::NodeStorage;

/// With less than this share free a storage is nearly full.
const NEARLY: u64 = 10;
/// KiB that a file system has to have for our files: with less a command fails without losing anything.
const LEAST_KIB: u64 = 64 * 1024;

/// What is wrong with the storage `name`, of which `row` is the API's line; `None`: it has none. `need`: what a VM of the
/// usual size takes there, `reserve_percent` of it being kept free.
pub fn findings(
    name: &str,
    row: Option<&NodeStorage>,
    key: &str,
    need: Need,
    reserve_percent: u32,
) -> Vec<Finding> {
    let place = format!("storage {name}");
    let Some(row) = row else {
        let what = format!("{key} names it, but the node has no such storage, or the token no rights on it");
        let mend = "compare with pvesm status; for its rights: blockhost-provisioner-setup token";
        return vec![Finding::new(&STORAGE_MISSING, place, what, mend)];
    };
    if !row.is_active {
        let mend = format!("pvesm set {name} --disable 0, or see why it is offline: pvesm status");
        return vec![Finding::new(&STORAGE_OFF, place, "it is disabled or offline", mend)];
    }
    let mut found = Vec::new();
    if !row.takes_images() {
        let content = row.content.as_deref().unwrap_or_default();
        let mend = format!("pvesm set {name} --content {content},images");
        found.push(Finding::new(&STORAGE_WITHOUT_IMAGES, &place, format!("its content is {content}"), mend));
    }
    if let (Some(total), Some(free)) = (row.total.filter(|total| *total > 0), row.available) {
        let kind = match free {
            0 => Some(&STORAGE_FULL),
            _ if free.saturating_mul(100) / total < NEARLY => Some(&STORAGE_NEARLY_FULL),
            _ => None,
        };
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let what = format!("{:.1} of {:.1} GiB are free", gib(free), gib(total));
        let mend = "free up space there, or extend it";
        found.extend(kind.map(|kind| Finding::new(kind, &place, what, mend)));
        if free > 0
            && let Some(why) = capacity::storage::refuses(row, need, reserve_percent)
        {
            let what = format!("create refuses a VM of the usual size: it {why}");
            found.push(Finding::new(&STORAGE_EXHAUSTED, place, what, mend));
        }
    }
    found
}

/// The node's memory, where db.yaml says how much of it may be promised.
pub fn memory(memory: &Memory) -> Option<Finding> {
    let why = memory.refuses(USUAL.memory_mb)?;
    let what = format!("create refuses a VM of the usual size: {why}");
    let mend = "destroy VMs, or raise overcommit_memory in db.yaml";
    Some(Finding::new(&MEMORY_EXHAUSTED, format!("node {}", memory.node), what, mend))
}

/// The file system of our own files.
pub fn own_disk(path: &str, free_kib: Option<u64>) -> Option<Finding> {
    let free = free_kib.filter(|free| *free < LEAST_KIB)?;
    let what = format!("{} MiB are free", free / 1024);
    Some(Finding::new(&STATE_DISK_FULL, path, what, format!("free up space: du -xh {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(json: &str) -> Vec<&'static str> {
        let row: NodeStorage = serde_json::from_str(json).unwrap();
        let need = Need::of_disk(0, true, Some(9));
        findings("a", Some(&row), "proxmox_storage", need, 0).iter().map(|one| one.kind.code).collect()
    }

    #[test]
    fn storages_are_judged_by_what_they_say() {
        let good =
            r#"{"storage": "a", "content": "images,rootdir", "active": 1, "total": 1000, "avail": 100}"#;
        assert_eq!(codes(good), [""; 0]);
        for (old, new, code) in [
            ("\"avail\": 100", "\"avail\": 99", "storage-nearly-full"),
            ("\"avail\": 100", "\"avail\": 0", "storage-full"),
            ("images,rootdir", "iso", "storage-without-images"),
            ("\"active\": 1", "\"active\": 0", "storage-off"),
        ] {
            assert_eq!(codes(&good.replace(old, new)), [code]);
        }
        assert_eq!(codes(&good.replace("1000", "0")), [""; 0], "one that does not know its size");
        assert_eq!(findings("a", None, "x", Need::CLOUD_INIT, 0)[0].kind.code, "storage-missing");
        assert_eq!(own_disk("/x", Some(LEAST_KIB)), None);
        assert_eq!(own_disk("/x", Some(0)).unwrap().kind.code, "state-disk-full");
        assert_eq!(own_disk("/x", None), None);
    }
}
