//! A VM's record, as operations know it (`facts/contract/database.md`).

use super::vm_name::VmName;
use super::vmid::Vmid;
use chrono::{DateTime, Utc};
use std::net::{Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// Where a VM stands in its life. Nothing else may appear in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Paid for.
    Active,
    /// Its subscription ended; switched off until resumed or destroyed.
    Suspended,
    /// Gone; the record is a tombstone and its VMID may be somebody else's (hazard H41).
    Destroyed,
}

impl Status {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Suspended => "suspended",
            Status::Destroyed => "destroyed",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Status> {
        [Status::Active, Status::Suspended, Status::Destroyed].into_iter().find(|s| s.as_str() == text)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What our operations need of a record. Fields of others are not here and stay in the file untouched.
#[derive(Debug, Clone, PartialEq)]
pub struct VmRecord {
    /// Its key.
    pub name: VmName,
    /// Its number on the node; of older records it may be wrong (`facts/contract/legacy.md`).
    pub vmid: Vmid,
    /// Its state.
    pub status: Status,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// When what was paid for ends; `None` where the field is missing or has no time zone.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was suspended.
    pub suspended_at: Option<DateTime<Utc>>,
    /// The wallet of its owner.
    pub wallet_address: Option<String>,
    /// The guest's user.
    pub username: Option<String>,
    /// The identity given at creation; older records have none.
    pub smbios_uuid: Option<Uuid>,
    /// The token, as it stands.
    pub nft_token_id: Option<serde_json::Value>,
    /// `protected: true`: destroyed only by force (H11). Whatever else an operator has written there, but for `false` and
    /// `null`, counts as protection too.
    pub protected: bool,
    /// Whether it may send from its own addresses alone; older records do not say, and such a VM is not held to it.
    pub anti_spoofing: Option<bool>,
}

impl VmRecord {
    /// Whether the machine behind the record exists for us.
    pub fn is_live(&self) -> bool {
        self.status != Status::Destroyed
    }
}

/// Whether what was paid for until `end` is over: the one rule, for whoever reads a record closely or in passing.
pub fn is_over(end: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    end < now
}
