//! A record as it is in the file: the JSON text of the known fields, unchecked.

use super::record::record_of;
use crate::value::field_names::FieldNames;
use crate::value::json_text::{RawText, text_of};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord, is_over};
use crate::value::vmid::Vmid;
use chrono::{DateTime, Utc};
use std::borrow::Cow;

/// A known field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Vmid,
    IpAddress,
    Ipv6Address,
    Status,
    CreatedAt,
    ExpiresAt,
    SuspendedAt,
    WalletAddress,
    OwnerWallet,
    Username,
    SmbiosUuid,
    NftTokenId,
    Protected,
    AntiSpoofing,
}

/// The number of known fields.
const FIELDS: usize = Field::AntiSpoofing as usize + 1;

/// Which fields a reader needs; the others are skipped, which is what makes reading ten thousand records fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// All known fields.
    All,
    /// The fields that a list shows: status, IPv4 address, time of creation.
    Listed,
    /// The fields that decide whether a VM has expired: VMID, status, `expires_at`, `suspended_at`, `protected`.
    Due,
    /// What a record holds: VMID, status, addresses.
    Holding,
}

/// The names of the wanted fields in the file.
pub(super) struct Wanted<'n>(Vec<(&'n str, Field)>);

impl<'n> Wanted<'n> {
    /// Returns the names of `fields` as set in db.yaml.
    pub(super) fn new(names: &'n FieldNames, fields: Fields) -> Wanted<'n> {
        use Fields::{Due, Holding, Listed};
        // A name of ours takes precedence over one that db.yaml gives to another field.
        let all: [(&'n str, Field, &[Fields]); FIELDS] = [
            ("ipv6_address", Field::Ipv6Address, &[Holding]),
            ("suspended_at", Field::SuspendedAt, &[Due]),
            ("protected", Field::Protected, &[Due]),
            ("wallet_address", Field::WalletAddress, &[]),
            ("owner_wallet", Field::OwnerWallet, &[]),
            ("username", Field::Username, &[]),
            ("smbios_uuid", Field::SmbiosUuid, &[]),
            ("nft_token_id", Field::NftTokenId, &[]),
            ("anti_spoofing", Field::AntiSpoofing, &[]),
            (&names.vmid, Field::Vmid, &[Due, Holding]),
            (&names.ip_address, Field::IpAddress, &[Listed, Holding]),
            (&names.status, Field::Status, &[Listed, Due, Holding]),
            (&names.created_at, Field::CreatedAt, &[Listed]),
            (&names.expires_at, Field::ExpiresAt, &[Due]),
        ];
        let wanted = all.iter().filter(|(_, _, looks)| fields == Fields::All || looks.contains(&fields));
        Wanted(wanted.map(|(name, field, _)| (*name, *field)).collect())
    }

    /// Returns the field of this name if it is wanted.
    #[inline]
    pub(super) fn field(&self, name: RawText<'_>) -> Option<Field> {
        self.0.iter().find(|(wanted, _)| name.is(wanted)).map(|(_, field)| *field)
    }
}

/// The known fields of a record, with their JSON text as it is in the file.
#[derive(Default)]
pub struct RecordView<'a> {
    /// The key of the record.
    pub key: Cow<'a, str>,
    raw: [Option<&'a str>; FIELDS],
}

impl<'a> RecordView<'a> {
    /// A record without any fields yet.
    pub(super) fn of(key: Cow<'a, str>) -> RecordView<'a> {
        RecordView { key, ..RecordView::default() }
    }

    /// Returns the JSON text of a field; `None` if it is missing or not wanted.
    pub(super) fn raw(&self, field: Field) -> Option<&'a str> {
        self.raw[field as usize]
    }

    /// Stores the JSON text of a field.
    pub(super) fn set(&mut self, field: Field, json: &'a str) {
        self.raw[field as usize] = Some(json);
    }

    /// Returns a field's string; `None` if it is missing or not a string.
    pub(super) fn text(&self, field: Field) -> Option<Cow<'a, str>> {
        text_of(self.raw(field)?)
    }

    /// Returns the status as it is in the file (empty if it is missing or not a string).
    pub fn status_text(&self) -> Cow<'a, str> {
        self.text(Field::Status).unwrap_or_default()
    }

    /// Returns the status; `None` if it is not one of ours.
    pub fn status(&self) -> Option<Status> {
        Status::parse(&self.status_text())
    }

    /// Whether the record is a tombstone; not if its status cannot be read.
    pub fn is_destroyed(&self) -> bool {
        self.status() == Some(Status::Destroyed)
    }

    /// Returns the IPv4 address as it is in the file.
    pub fn ip_text(&self) -> Cow<'a, str> {
        self.text(Field::IpAddress).unwrap_or_default()
    }

    /// Returns the IPv6 address as it is in the file.
    pub fn ipv6_text(&self) -> Cow<'a, str> {
        self.text(Field::Ipv6Address).unwrap_or_default()
    }

    /// The guest's user as it stands.
    pub fn username_text(&self) -> Cow<'a, str> {
        self.text(Field::Username).unwrap_or_default()
    }

    /// The owner's wallet as it stands, under either of its names.
    pub fn wallet_text(&self) -> Cow<'a, str> {
        let wallets =
            [Field::WalletAddress, Field::OwnerWallet].into_iter().filter_map(|field| self.text(field));
        wallets.into_iter().find(|wallet| !wallet.is_empty()).unwrap_or_default()
    }

    /// When its time ends; `None` where that cannot be read.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.text(Field::ExpiresAt).and_then(|text| timestamp::from_text(&text))
    }

    /// When it was suspended; `None` where that cannot be read.
    pub fn suspended_at(&self) -> Option<DateTime<Utc>> {
        self.text(Field::SuspendedAt).and_then(|text| timestamp::from_text(&text))
    }

    /// Whatever stands there, but for `false` and `null`, protects the VM.
    pub fn is_protected(&self) -> bool {
        self.raw(Field::Protected).is_some_and(|raw| !matches!(raw, "false" | "null"))
    }

    /// Returns the VMID if it is valid.
    pub fn vmid(&self) -> Option<Vmid> {
        self.raw(Field::Vmid).and_then(|json| json.parse().ok())
    }

    /// Returns the date part of the time of creation.
    pub fn created_date(&self) -> Cow<'a, str> {
        match self.text(Field::CreatedAt).unwrap_or_default() {
            Cow::Borrowed(text) => Cow::Borrowed(text.split(['T', ' ']).next().unwrap_or_default()),
            Cow::Owned(text) => Cow::Owned(text.split(['T', ' ']).next().unwrap_or_default().to_string()),
        }
    }

    /// Whether the VM is active and has not expired; gc needs nothing else of such a record. False if the record cannot
    /// be read.
    pub fn is_paid_for(&self, now: DateTime<Utc>) -> bool {
        self.status() == Some(Status::Active)
            && self.vmid().is_some()
            && VmName::check(&self.key).is_ok()
            && self.expires_at().is_some_and(|end| !is_over(end, now))
    }

    /// Checks the record; an error names the field.
    pub fn to_record(&self) -> Result<VmRecord, String> {
        record_of(self)
    }
}
