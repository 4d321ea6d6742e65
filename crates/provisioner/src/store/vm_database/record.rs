//! A record, checked.

use super::record_view::{Field, RecordView};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
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
}

impl VmRecord {
    pub(super) fn from_view(view: &RecordView<'_>) -> Result<VmRecord, String> {
        let key = &view.key;
        let name = VmName::parse(key).map_err(|e| format!("record {key:?}: {e}"))?;
        let wrong = |field: &str, raw: Field| {
            let found: String = view.raw(raw).unwrap_or("nothing").chars().take(60).collect();
            format!("record {key:?}: field {field}: found {found}")
        };
        let status = view
            .text(Field::Status)
            .and_then(|t| Status::parse(&t))
            .ok_or_else(|| wrong("status", Field::Status))?;
        let vmid = view.vmid().ok_or_else(|| wrong("vmid", Field::Vmid))?;
        let time = |field| view.text(field).and_then(|t| timestamp::from_text(&t));
        let text = |field| view.text(field).map(|t| t.into_owned()).filter(|t| !t.is_empty());
        // Another type than text, or an empty one, is a damaged record: taken for none, it would weaken the proof of
        // identity to the name alone (H02).
        let smbios_uuid = match view.raw(Field::SmbiosUuid) {
            None | Some("null") => None,
            Some(_) => {
                let uuid = view.text(Field::SmbiosUuid).and_then(|text| Uuid::parse_str(&text).ok());
                Some(uuid.ok_or_else(|| wrong("smbios_uuid", Field::SmbiosUuid))?)
            }
        };
        Ok(VmRecord {
            name,
            vmid,
            status,
            ipv4: text(Field::IpAddress).and_then(|t| t.parse().ok()),
            ipv6: text(Field::Ipv6Address).and_then(|t| t.parse().ok()),
            expires_at: time(Field::ExpiresAt),
            suspended_at: time(Field::SuspendedAt),
            wallet_address: text(Field::WalletAddress).or_else(|| text(Field::OwnerWallet)),
            username: text(Field::Username),
            smbios_uuid,
            nft_token_id: view.raw(Field::NftTokenId).and_then(|raw| serde_json::from_str(raw).ok()),
            protected: view.raw(Field::Protected).is_some_and(|raw| !matches!(raw, "false" | "null")),
        })
    }

    /// Whether the machine behind the record exists for us.
    pub fn is_live(&self) -> bool {
        self.status != Status::Destroyed
    }
}
