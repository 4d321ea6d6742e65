//! VMs and storages as listed by Proxmox. A field that is missing, or of a different type than in PVE 8 and 9, counts
//! as missing ([`super::lenient`]).

use super::lenient;
use serde::Deserialize;

/// A VM or container, from `pvesh get /cluster/resources --type vm`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterGuest {
    /// Its number.
    #[serde(deserialize_with = "lenient::number")]
    pub vmid: Option<u64>,
    /// Its name.
    #[serde(deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Whether it is marked as a template; its disks may say otherwise (H32).
    #[serde(rename = "template", deserialize_with = "lenient::is_one")]
    pub is_template: bool,
    /// The pool that it is in.
    #[serde(deserialize_with = "lenient::text")]
    pub pool: Option<String>,
}

/// A line of `GET /cluster/resources`, of whatever type: the one request that tells of all nodes and all guests. Which
/// fields it has depends on its type; a node or VM that nobody has measured yet has no figures.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterResource {
    /// `node`, `qemu`, `lxc`, `storage`, `pool` …
    #[serde(rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// The node that it is, or that has it.
    #[serde(deserialize_with = "lenient::text")]
    pub node: Option<String>,
    /// A guest's VMID.
    #[serde(deserialize_with = "lenient::number")]
    pub vmid: Option<u64>,
    /// Whether a VM is marked as a template; its disks may say otherwise (H32).
    #[serde(rename = "template", deserialize_with = "lenient::is_one")]
    pub is_template: bool,
    /// The pool that a guest is in.
    #[serde(deserialize_with = "lenient::text")]
    pub pool: Option<String>,
    /// `online`, `offline` or `unknown` of a node.
    #[serde(deserialize_with = "lenient::text")]
    pub status: Option<String>,
    /// Memory of a node or guest in bytes.
    #[serde(rename = "maxmem", deserialize_with = "lenient::number")]
    pub memory: Option<u64>,
    /// Memory that a node uses, in bytes.
    #[serde(rename = "mem", deserialize_with = "lenient::number")]
    pub memory_used: Option<u64>,
    /// Size of a VM's first disk in bytes.
    #[serde(rename = "maxdisk", deserialize_with = "lenient::number")]
    pub disk: Option<u64>,
}

/// A storage, from `pvesh get /nodes/NODE/storage`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStorage {
    /// Its name.
    #[serde(rename = "storage", deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// `lvmthin`, `dir` …
    #[serde(rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// The content it accepts, separated by commas: `images`, `iso` …
    #[serde(deserialize_with = "lenient::text")]
    pub content: Option<String>,
    /// Whether it can be reached.
    #[serde(rename = "active", deserialize_with = "lenient::is_one")]
    pub is_active: bool,
    /// Its size in bytes.
    #[serde(deserialize_with = "lenient::number")]
    pub total: Option<u64>,
    /// Bytes in use; of a thin pool those that were written.
    #[serde(deserialize_with = "lenient::number")]
    pub used: Option<u64>,
    /// Free space in bytes.
    #[serde(rename = "avail", deserialize_with = "lenient::number")]
    pub available: Option<u64>,
}

impl NodeStorage {
    /// Whether it takes disks.
    pub fn takes_images(&self) -> bool {
        let content = self.content.as_deref().unwrap_or_default();
        content.split(',').any(|content| content.trim() == "images")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_either_release_prints_them() {
        let text = r#"[{"vmid": 9001, "name": "t", "template": 1, "type": "qemu"},
            {"vmid": "100", "template": "0", "pool": "blockhost"}, {"id": "odd", "vmid": {}, "name": 7}]"#;
        let guests: Vec<ClusterGuest> = serde_json::from_str(text).unwrap();
        assert_eq!(guests.iter().map(|row| row.vmid).collect::<Vec<_>>(), [Some(9001), Some(100), None]);
        assert_eq!(guests.iter().map(|row| row.is_template).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(guests[1].pool.as_deref(), Some("blockhost"));

        let text =
            r#"{"storage": "a", "type": "dir", "content": "iso, images", "active": "1", "avail": "5"}"#;
        let storage: NodeStorage = serde_json::from_str(text).unwrap();
        assert!(storage.takes_images() && storage.is_active && storage.available == Some(5));
        let storage: NodeStorage =
            serde_json::from_str(r#"{"storage": "a", "content": "vmimages"}"#).unwrap();
        assert!(!storage.takes_images() && !storage.is_active);
    }
}
