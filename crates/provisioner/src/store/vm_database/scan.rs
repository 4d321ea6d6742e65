//! One pass over the database text, borrowing from it: `list` and `status` read ten thousand records in
//! milliseconds and without copies.

use super::record::VmRecord;
use crate::value::field_names::FieldNames;
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use chrono::{DateTime, Utc};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A key or text of the file, borrowed where it has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_string())))
            }
        }
        deserializer.deserialize_str(V)
    }
}

/// The fields of a record that we know, as the JSON text stands in the file; nothing is judged yet.
#[derive(Default)]
pub struct RecordView<'a> {
    /// The key of the record.
    pub key: Cow<'a, str>,
    pub(super) vmid: Option<&'a str>,
    pub(super) ip_address: Option<&'a str>,
    pub(super) ipv6_address: Option<&'a str>,
    pub(super) status: Option<&'a str>,
    pub(super) created_at: Option<&'a str>,
    pub(super) expires_at: Option<&'a str>,
    pub(super) suspended_at: Option<&'a str>,
    pub(super) wallet_address: Option<&'a str>,
    pub(super) owner_wallet: Option<&'a str>,
    pub(super) username: Option<&'a str>,
    pub(super) smbios_uuid: Option<&'a str>,
    pub(super) nft_token_id: Option<&'a str>,
    pub(super) protected: Option<&'a str>,
}

/// Which fields a look needs: the others are passed over, which is what makes a look at ten thousand records quick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// All that we know.
    All,
    /// What a list shows: status, IPv4 address, time of creation.
    Listed,
    /// What says whether a VM's time is over: VMID, status, `expires_at`, `suspended_at`, `protected`.
    Due,
    /// What a record holds: VMID, status, addresses.
    Holding,
}

impl<'a> RecordView<'a> {
    /// Where a field belongs; `None` for others' fields, and for those that are not wanted.
    pub(super) fn slot(
        &mut self,
        field: &str,
        names: &FieldNames,
        wanted: Fields,
    ) -> Option<&mut Option<&'a str>> {
        use Fields::{All, Due, Holding, Listed};
        let (slot, looks): (_, &[Fields]) = match field {
            "ipv6_address" => (&mut self.ipv6_address, &[Holding]),
            "suspended_at" => (&mut self.suspended_at, &[Due]),
            "protected" => (&mut self.protected, &[Due]),
            "wallet_address" => (&mut self.wallet_address, &[]),
            "owner_wallet" => (&mut self.owner_wallet, &[]),
            "username" => (&mut self.username, &[]),
            "smbios_uuid" => (&mut self.smbios_uuid, &[]),
            "nft_token_id" => (&mut self.nft_token_id, &[]),
            f if f == names.vmid => (&mut self.vmid, &[Due, Holding]),
            f if f == names.ip_address => (&mut self.ip_address, &[Listed, Holding]),
            f if f == names.status => (&mut self.status, &[Listed, Due, Holding]),
            f if f == names.created_at => (&mut self.created_at, &[Listed]),
            f if f == names.expires_at => (&mut self.expires_at, &[Due]),
            _ => return None,
        };
        (wanted == All || looks.contains(&wanted)).then_some(slot)
    }

    /// The status as it stands (empty where it is missing or no text).
    pub fn status_text(&self) -> Cow<'a, str> {
        text_of(self.status).unwrap_or_default()
    }

    /// The IPv4 address as it stands.
    pub fn ip_text(&self) -> Cow<'a, str> {
        text_of(self.ip_address).unwrap_or_default()
    }

    /// The IPv6 address as it stands.
    pub fn ipv6_text(&self) -> Cow<'a, str> {
        text_of(self.ipv6_address).unwrap_or_default()
    }

    /// The VMID, if it is one.
    pub fn vmid(&self) -> Option<Vmid> {
        self.vmid.and_then(|json| json.parse().ok())
    }

    /// The date part of the time of creation.
    pub fn created_date(&self) -> Cow<'a, str> {
        match text_of(self.created_at).unwrap_or_default() {
            Cow::Borrowed(text) => Cow::Borrowed(text.split(['T', ' ']).next().unwrap_or_default()),
            Cow::Owned(text) => Cow::Owned(text.split(['T', ' ']).next().unwrap_or_default().to_string()),
        }
    }

    /// Active, and its time is not over: nothing else of such a record matters to gc. One that cannot be read is not.
    pub fn is_paid_for(&self, now: DateTime<Utc>) -> bool {
        self.status_text() == "active"
            && self.vmid().is_some()
            && VmName::parse(&self.key).is_ok()
            && text_of(self.expires_at)
                .and_then(|text| timestamp::from_text(&text))
                .is_some_and(|end| end >= now)
    }

    /// The record, checked; the error names the field.
    pub fn to_record(&self) -> Result<VmRecord, String> {
        VmRecord::from_view(self)
    }
}

/// A JSON text, or `None` for anything else.
pub(super) fn text_of(raw: Option<&str>) -> Option<Cow<'_, str>> {
    let json = raw?;
    json.starts_with('"').then(|| serde_json::from_str::<Text<'_>>(json).ok()).flatten().map(|t| t.0)
}

/// Calls `visit` with every record. The whole text is checked: an error means it is not a database.
pub(super) fn records<'a>(
    text: &'a str,
    names: &FieldNames,
    fields: Fields,
    visit: &mut dyn FnMut(RecordView<'a>),
) -> Result<(), String> {
    scan(text, Look { names, fields, wanted: None }, visit)
}

/// The same for the record called `wanted` alone.
pub(super) fn records_named<'a>(
    text: &'a str,
    names: &FieldNames,
    wanted: Option<&str>,
    visit: &mut dyn FnMut(RecordView<'a>),
) -> Result<(), String> {
    scan(text, Look { names, fields: Fields::All, wanted }, visit)
}

fn scan<'a>(text: &'a str, look: Look<'_>, visit: &mut dyn FnMut(RecordView<'a>)) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = Root { look, visit };
    seed.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| place_of(text, &error))
}

/// The top-level `next_vmid`, where it is a number.
pub(super) fn next_vmid(text: &str) -> Result<Option<u32>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Top<'a> {
        #[serde(borrow)]
        next_vmid: Option<&'a RawValue>,
    }
    let top: Top<'_> = serde_json::from_str(text)?;
    Ok(top.next_vmid.and_then(|raw| raw.get().parse().ok()))
}

/// serde_json's words with the byte instead of line and column alone.
pub(super) fn place_of(text: &str, error: &serde_json::Error) -> String {
    if text.trim().is_empty() {
        return "it is empty".to_string();
    }
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let byte = (before + error.column()).min(text.len());
    format!("{error} (byte {byte} of {})", text.len())
}

/// How serde_json shows a number to a visitor that takes anything (its feature `arbitrary_precision`).
pub(super) const NUMBER: &str = "$serde_json::private::Number";

/// What is looked for.
#[derive(Clone, Copy)]
struct Look<'n> {
    names: &'n FieldNames,
    fields: Fields,
    /// The only record of interest.
    wanted: Option<&'n str>,
}

struct Root<'n, 'v, 'a> {
    look: Look<'n>,
    visit: &'v mut dyn FnMut(RecordView<'a>),
}

impl<'de> DeserializeSeed<'de> for Root<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Root<'_, '_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object with the key \"vms\"")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if key.0 == "vms" {
                if seen {
                    return Err(A::Error::custom("the key \"vms\" appears twice"));
                }
                seen = true;
                map.next_value_seed(Vms { look: self.look, visit: &mut *self.visit })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if seen { Ok(()) } else { Err(A::Error::custom("the key \"vms\" is missing")) }
    }
}

struct Vms<'n, 'v, 'a> {
    look: Look<'n>,
    visit: &'v mut dyn FnMut(RecordView<'a>),
}

impl<'de> DeserializeSeed<'de> for Vms<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Vms<'_, '_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of VM records under \"vms\"")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if self.look.wanted.is_some_and(|wanted| wanted != key.0) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw = map.next_value_seed(Record { look: self.look, key: key.0 })?;
            (self.visit)(raw);
        }
        Ok(())
    }
}

struct Record<'n, 'a> {
    look: Look<'n>,
    key: Cow<'a, str>,
}

impl<'de> DeserializeSeed<'de> for Record<'_, 'de> {
    type Value = RecordView<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RecordView<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A record that is no object (a number, a list) is one bad record, not a corrupt file: it gets a view without fields.
impl<'de> Visitor<'de> for Record<'_, 'de> {
    type Value = RecordView<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a VM record")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RecordView<'de>, A::Error> {
        let mut view = RecordView { key: self.key, ..RecordView::default() };
        while let Some(field) = map.next_key::<Text<'de>>()? {
            if field.0 == NUMBER {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match view.slot(&field.0, self.look.names, self.look.fields) {
                Some(slot) => *slot = Some(map.next_value::<&RawValue>()?.get()),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(view)
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<RecordView<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(RecordView { key: self.key, ..RecordView::default() })
    }
    fn visit_unit<E>(self) -> Result<RecordView<'de>, E> {
        Ok(RecordView { key: self.key, ..RecordView::default() })
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<RecordView<'de>, E> {
        self.visit_unit()
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<RecordView<'de>, E> {
        self.visit_unit()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<RecordView<'de>, E> {
        self.visit_unit()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<RecordView<'de>, E> {
        self.visit_unit()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<RecordView<'de>, E> {
        self.visit_unit()
    }
}
