//! A VM's record, as the operations use it (`facts/contract/database.md`).

use super::vm_name::VmName;
use super::vmid::Vmid;
use chrono::{DateTime, Utc};
use std::net::{Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// The state of a VM's subscription. The file may contain no other value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Paid for.
    Active,
    /// The subscription has ended; the VM is switched off until it is resumed or destroyed.
    Suspended,
    /// The VM is gone. The record is a tombstone, and its VMID may belong to somebody else (hazard H41).
    Destroyed,
}

impl Status {
    /// Returns the word used in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Suspended => "suspended",
            Status::Destroyed => "destroyed",
        }
    }

    /// Parses the word used in the file.
    pub fn parse(text: &str) -> Option<Status> {
        [Status::Active, Status::Suspended, Status::Destroyed].into_iter().find(|s| s.as_str() == text)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The fields of a record that our operations need. Fields of other programs are not here and stay unchanged in the
/// file.
#[derive(Debug, Clone, PartialEq)]
pub struct VmRecord {
    /// Its key.
    pub name: VmName,
    /// Its VMID on the node; in an older record it may be wrong (`facts/contract/legacy.md`).
    pub vmid: Vmid,
    /// Its state.
    pub status: Status,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// When the paid time ends; `None` if the field is missing or has no time zone.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was suspended.
    pub suspended_at: Option<DateTime<Utc>>,
    /// The wallet of its owner.
    pub wallet_address: Option<String>,
    /// The guest's user.
    pub username: Option<String>,
    /// The identity assigned at creation; older records have none.
    pub smbios_uuid: Option<Uuid>,
    /// The token, as it is in the file.
    pub nft_token_id: Option<serde_json::Value>,
    /// `protected: true`: destroyed only by force (H11). Any other value an operator has written there, except `false`
    /// and `null`, counts as protected, too.
    pub protected: bool,
    /// Whether it may send from its own addresses alone; older records do not say, and such a VM is not held to it.
    pub anti_spoofing: Option<bool>,
}

impl VmRecord {
    /// Whether the VM of the record exists as far as we are concerned.
    pub fn is_live(&self) -> bool {
        self.status != Status::Destroyed
    }
}

/// Whether the paid time until `end` is over: the one rule for all readers of a record.
pub fn is_over(end: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    end < now
}
