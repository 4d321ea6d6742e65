//! The name of a Proxmox node.

use super::{Refused, checked_text};

/// A node name (pve-common JSONSchema `pve-node`): letters, digits, inner hyphens, at most 63.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(String);
checked_text!(NodeName);

impl NodeName {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if text.is_empty() || text.len() > 63 || !allowed || text.starts_with('-') || text.ends_with('-') {
            return Err(Refused::new("node name", text, "it must be letters, digits and inner hyphens"));
        }
        Ok(NodeName(text.to_string()))
    }
}
