//! The whole database in memory, for a change: every value we do not touch keeps its exact text.

use super::record::{Status, VmRecord};
use super::scan::{Fields, NUMBER, RecordView, Text, place_of};
use crate::plan::allocation::Held;
use crate::value::field_names::FieldNames;
use crate::value::vmid::Vmid;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// One field of a record: its name and its JSON text.
type Field<'a> = (Cow<'a, str>, Cow<'a, str>);

struct Record<'a> {
    key: Cow<'a, str>,
    /// The fields; or the bare JSON text of a record that is no object.
    body: Result<Vec<Field<'a>>, Cow<'a, str>>,
}

enum Top<'a> {
    Vms,
    Other(Cow<'a, str>),
}

/// The database, read whole.
pub struct Contents<'a> {
    names: FieldNames,
    top: Vec<(Cow<'a, str>, Top<'a>)>,
    records: Vec<Record<'a>>,
    ends_with_newline: bool,
    /// Length of the text that was read, for the room the new one needs.
    text_length: usize,
    changed: bool,
}

/// A record to be inserted: field names in file order with their values.
pub type NewRecord = Vec<(String, Value)>;

impl<'a> Contents<'a> {
    /// Parses the text; the error says what is wrong and at which byte.
    pub(super) fn parse(text: &'a str, names: &FieldNames) -> Result<Contents<'a>, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let root = Root::deserialize(&mut reader);
        let root = root.and_then(|r| reader.end().map(|()| r)).map_err(|error| place_of(text, &error))?;
        let contents = Contents {
            names: names.clone(),
            top: root.top,
            records: root.records,
            ends_with_newline: text.ends_with('\n'),
            text_length: text.len(),
            changed: false,
        };
        contents.list("allocated_ips")?;
        contents.list("allocated_ipv6")?;
        contents.next_vmid()?;
        Ok(contents)
    }

    /// Whether anything was changed.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Every record, checked: an error describes one bad record and says nothing about the others.
    pub fn records(&self) -> impl Iterator<Item = Result<VmRecord, String>> + '_ {
        self.records.iter().map(|record| self.checked(record))
    }

    /// The record of `name`.
    pub fn record(&self, name: &str) -> Option<Result<VmRecord, String>> {
        self.records.iter().rev().find(|r| r.key == name).map(|record| self.checked(record))
    }

    fn checked(&self, record: &Record<'_>) -> Result<VmRecord, String> {
        self.view(record).to_record()
    }

    fn view<'r>(&'r self, record: &'r Record<'_>) -> RecordView<'r> {
        let mut view = RecordView { key: Cow::Borrowed(record.key.as_ref()), ..RecordView::default() };
        if let Ok(fields) = &record.body {
            for (name, json) in fields {
                if let Some(slot) = view.slot(name, &self.names, Fields::All) {
                    *slot = Some(json);
                }
            }
        }
        view
    }

    /// Replaces the record of `name` whole, or adds it at the end: nothing of a tombstone carries over.
    pub fn insert(&mut self, name: &str, fields: NewRecord) {
        let body = fields.into_iter().map(|(k, v)| (Cow::Owned(k), Cow::Owned(v.to_string()))).collect();
        let record = Record { key: Cow::Owned(name.to_string()), body: Ok(body) };
        self.records.retain(|r| r.key != name);
        self.records.push(record);
        self.changed = true;
    }

    /// Sets one field of a record; its place among the others is kept.
    pub fn set(&mut self, name: &str, field: &str, value: &Value) {
        let json = value.to_string();
        if let Some(Ok(fields)) = self.records.iter_mut().rev().find(|r| r.key == name).map(|r| &mut r.body) {
            match fields.iter_mut().find(|(k, _)| k == field) {
                Some((_, old)) => *old = Cow::Owned(json),
                None => fields.push((Cow::Owned(field.to_string()), Cow::Owned(json))),
            }
            self.changed = true;
        }
    }

    /// Removes one field of a record.
    pub fn remove(&mut self, name: &str, field: &str) {
        if let Some(Ok(fields)) = self.records.iter_mut().rev().find(|r| r.key == name).map(|r| &mut r.body) {
            fields.retain(|(k, _)| k != field);
            self.changed = true;
        }
    }

    /// Sets the status (by the name db.yaml gives that field).
    pub fn set_status(&mut self, name: &str, status: Status) {
        let field = self.names.status.clone();
        self.set(name, &field, &Value::from(status.as_str()));
    }

    /// Sets the end of what was paid for (by the name db.yaml gives that field).
    pub fn set_expires_at(&mut self, name: &str, time: &str) {
        let field = self.names.expires_at.clone();
        self.set(name, &field, &Value::from(time));
    }

    /// Corrects the VMID of an older record.
    pub fn set_vmid(&mut self, name: &str, vmid: u32) {
        let field = self.names.vmid.clone();
        self.set(name, &field, &Value::from(vmid));
    }

    /// What live records and the two lists hold; `skipped` hears of each bad record. Reads four fields of each
    /// record and no more: with ten thousand VMs this is most of what an allocation costs.
    pub fn held(&self, skipped: &mut dyn FnMut(String)) -> Result<Held, String> {
        let room = self.records.len();
        let mut held = Held {
            vmids: HashSet::with_capacity(room),
            ipv4: HashSet::with_capacity(room),
            ipv6: HashSet::with_capacity(room),
            ..Held::default()
        };
        for record in &self.records {
            let mut view = RecordView { key: Cow::Borrowed(record.key.as_ref()), ..RecordView::default() };
            for (name, json) in record.body.as_deref().unwrap_or_default() {
                if let Some(slot) = view.slot(name, &self.names, Fields::Holding) {
                    *slot = Some(json);
                }
            }
            match (view.status_text().as_ref(), view.vmid()) {
                ("destroyed", _) => continue,
                ("active" | "suspended", Some(vmid)) => drop(held.vmids.insert(vmid.get())),
                // What can be read of a bad record is held: there may be a machine behind it.
                (_, vmid) => {
                    held.vmids.extend(vmid.map(Vmid::get));
                    skipped(self.checked(record).err().unwrap_or_default());
                }
            }
            held.ipv4.extend(view.ip_text().parse::<Ipv4Addr>().ok());
            held.ipv6.extend(view.ipv6_text().parse::<Ipv6Addr>().ok());
        }
        held.ipv4.extend(self.list("allocated_ips")?.iter().filter_map(|a| a.parse::<Ipv4Addr>().ok()));
        held.ipv6.extend(self.list("allocated_ipv6")?.iter().filter_map(|a| a.parse::<Ipv6Addr>().ok()));
        Ok(held)
    }

    /// The next VMID to try; `None` where the file does not say.
    pub fn next_vmid(&self) -> Result<Option<u32>, String> {
        match self.other("next_vmid") {
            None | Some("null") => Ok(None),
            Some(json) => serde_json::from_str(json)
                .map(Some)
                .map_err(|_| format!("next_vmid: expected a number, found {json}")),
        }
    }

    /// Sets the next VMID to try.
    pub fn set_next_vmid(&mut self, vmid: u32) {
        self.set_other("next_vmid", vmid.to_string());
    }

    /// The addresses of a list (`allocated_ips`, `allocated_ipv6`); empty where an unlocked writer dropped it.
    pub fn list(&self, key: &str) -> Result<Vec<Cow<'_, str>>, String> {
        match self.other(key) {
            None | Some("null") => Ok(Vec::new()),
            Some(json) => {
                let list: Result<Vec<Text<'_>>, _> = serde_json::from_str(json);
                list.map(|l| l.into_iter().map(|t| t.0).collect())
                    .map_err(|_| format!("{key}: expected a list of texts"))
            }
        }
    }

    /// Adds an address to a list.
    pub fn hold(&mut self, key: &str, address: &str) {
        let mut list: Vec<String> =
            self.list(key).unwrap_or_default().into_iter().map(Cow::into_owned).collect();
        if !list.iter().any(|a| a == address) {
            list.push(address.to_string());
            self.set_list(key, &list);
        }
    }

    /// Takes an address from a list.
    pub fn release(&mut self, key: &str, address: &str) {
        let list: Vec<String> = self.list(key).unwrap_or_default().into_iter().map(Cow::into_owned).collect();
        let left: Vec<String> = list.iter().filter(|a| *a != address).cloned().collect();
        if left.len() != list.len() {
            self.set_list(key, &left);
        }
    }

    fn set_list(&mut self, key: &str, list: &[String]) {
        if list.is_empty() {
            return self.set_other(key, "[]".to_string());
        }
        let items: Vec<String> = list.iter().map(|a| format!("    {}", Value::from(a.as_str()))).collect();
        self.set_other(key, format!("[\n{}\n  ]", items.join(",\n")));
    }

    fn other(&self, key: &str) -> Option<&str> {
        self.top.iter().rev().find_map(|(k, top)| match top {
            Top::Other(json) if k == key => Some(json.as_ref()),
            _ => None,
        })
    }

    fn set_other(&mut self, key: &str, json: String) {
        self.changed = true;
        match self.top.iter_mut().rev().find(|(k, top)| k == key && matches!(top, Top::Other(_))) {
            Some((_, top)) => *top = Top::Other(Cow::Owned(json)),
            None => self.top.push((Cow::Owned(key.to_string()), Top::Other(Cow::Owned(json)))),
        }
    }

    /// The text to be written: two-space indent, keys in their order, ASCII with `\u` escapes.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::with_capacity(self.text_length + 4096);
        out.push('{');
        for (index, (key, top)) in self.top.iter().enumerate() {
            out.push_str(if index == 0 { "\n  " } else { ",\n  " });
            push_key(&mut out, key);
            match top {
                Top::Other(json) => out.push_str(json),
                Top::Vms => self.push_records(&mut out),
            }
        }
        out.push_str("\n}");
        if self.ends_with_newline {
            out.push('\n');
        }
        if out.is_ascii() { out } else { escaped(&out) }
    }

    fn push_records(&self, out: &mut String) {
        if self.records.is_empty() {
            return out.push_str("{}");
        }
        for (index, record) in self.records.iter().enumerate() {
            out.push_str(if index == 0 { "{\n    " } else { ",\n    " });
            push_key(out, &record.key);
            match &record.body {
                Err(json) => out.push_str(json),
                Ok(fields) if fields.is_empty() => out.push_str("{}"),
                Ok(fields) => {
                    for (index, (name, json)) in fields.iter().enumerate() {
                        out.push_str(if index == 0 { "{\n      " } else { ",\n      " });
                        push_key(out, name);
                        out.push_str(json);
                    }
                    out.push_str("\n    }");
                }
            }
        }
        out.push_str("\n  }");
    }
}

#[allow(clippy::ptr_arg, reason = "whether the key is borrowed from the file is what counts")]
fn push_key(out: &mut String, key: &Cow<'_, str>) {
    // A borrowed key stood in the file without escapes, so it needs none.
    let plain =
        |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\' || b == b' ');
    if matches!(key, Cow::Borrowed(_)) || plain(key) {
        out.push('"');
        out.push_str(key);
        out.push('"');
    } else {
        out.push_str(&Value::from(key.as_ref()).to_string());
    }
    out.push_str(": ");
}

/// Other characters than ASCII stand only inside JSON texts, where `\u` escapes mean the same.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

struct Root<'a> {
    top: Vec<(Cow<'a, str>, Top<'a>)>,
    records: Vec<Record<'a>>,
}

impl<'de> Deserialize<'de> for Root<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Root<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object with the key \"vms\"")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Root<'de>, A::Error> {
                let mut root = Root { top: Vec::new(), records: Vec::new() };
                let mut seen = false;
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    if key.0 != "vms" {
                        let raw: &RawValue = map.next_value()?;
                        root.top.push((key.0, Top::Other(Cow::Borrowed(raw.get()))));
                        continue;
                    }
                    if seen {
                        return Err(A::Error::custom("the key \"vms\" appears twice"));
                    }
                    seen = true;
                    root.records = map.next_value::<Records<'de>>()?.0;
                    root.top.push((key.0, Top::Vms));
                }
                if seen { Ok(root) } else { Err(A::Error::custom("the key \"vms\" is missing")) }
            }
        }
        deserializer.deserialize_map(V)
    }
}

struct Records<'a>(Vec<Record<'a>>);

impl<'de> Deserialize<'de> for Records<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Records<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of VM records under \"vms\"")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Records<'de>, A::Error> {
                let mut records = Vec::new();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    let body = map.next_value::<Body<'de>>()?.0;
                    records.push(Record { key: key.0, body });
                }
                Ok(Records(records))
            }
        }
        deserializer.deserialize_map(V)
    }
}

struct Body<'a>(Result<Vec<Field<'a>>, Cow<'a, str>>);

/// One pass: the fields of a record, or the JSON text of one that is no object.
impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        fn bare<'de, E>(value: Value) -> Result<Body<'de>, E> {
            Ok(Body(Err(Cow::Owned(value.to_string()))))
        }
        impl<'de> Visitor<'de> for V {
            type Value = Body<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VM record")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body<'de>, A::Error> {
                let mut fields = Vec::with_capacity(16);
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    if key.0 == NUMBER {
                        return Ok(Body(Err(Cow::Owned(map.next_value::<String>()?))));
                    }
                    let raw: &RawValue = map.next_value()?;
                    fields.push((key.0, Cow::Borrowed(raw.get())));
                }
                Ok(Body(Ok(fields)))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Body<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<&RawValue>()? {
                    items.push(item.get());
                }
                Ok(Body(Err(Cow::Owned(format!("[{}]", items.join(", "))))))
            }
            fn visit_unit<E>(self) -> Result<Body<'de>, E> {
                bare(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Body<'de>, E> {
                bare(value.into())
            }
            fn visit_str<E>(self, value: &str) -> Result<Body<'de>, E> {
                bare(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Body<'de>, E> {
                bare(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Body<'de>, E> {
                bare(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> Result<Body<'de>, E> {
                bare(value.into())
            }
        }
        deserializer.deserialize_any(V)
    }
}
