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
