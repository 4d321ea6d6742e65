//! The whole database in memory, for making changes: every value that is not changed keeps its exact text.

use super::record_view::{Fields, RecordView, Wanted};
use super::scan::{Fault, RECORDS, ROOT};
use crate::value::allocation::Held;
use crate::value::field_names::FieldNames;
use crate::value::json_text::{Cursor, RawText, Stop, text_of, whole_number};
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vmid::Vmid;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A key as it is in the file, without its quotes, so that rewriting the file does not change it.
struct Key<'a>(Cow<'a, str>);

impl<'a> Key<'a> {
    fn of(written: RawText<'a>) -> Key<'a> {
        Key(Cow::Borrowed(written.as_written()))
    }

    /// A key that we add.
    fn new(name: &str) -> Key<'a> {
        let json = Value::from(name).to_string();
        Key(Cow::Owned(json[1..json.len() - 1].to_string()))
    }

    fn meaning(&self) -> Cow<'_, str> {
        RawText::checked(&self.0).meaning()
    }

    fn is(&self, name: &str) -> bool {
        RawText::checked(&self.0).is(name)
    }

    fn push_to(&self, out: &mut String) {
        out.push('"');
        out.push_str(&self.0);
        out.push_str("\": ");
    }
}

/// One field of a record: its name and its JSON text.
type Field<'a> = (Key<'a>, Cow<'a, str>);

struct Record<'a> {
    key: Key<'a>,
    /// The fields, or the bare JSON text of a record that is not an object.
    body: Result<Vec<Field<'a>>, Cow<'a, str>>,
}

enum Top<'a> {
    Vms,
    Other(Cow<'a, str>),
}

/// The contents of the whole database.
pub struct Contents<'a> {
    names: FieldNames,
    top: Vec<(Key<'a>, Top<'a>)>,
    records: Vec<Record<'a>>,
    ends_with_newline: bool,
    /// Length of the text that was read, as an estimate of the length of the new text.
    text_length: usize,
    changed: bool,
}

/// A record to insert: field names in file order, with their values.
pub type NewRecord = Vec<(String, Value)>;

impl<'a> Contents<'a> {
    /// Parses the text; the error says what is wrong and at which byte.
    pub(super) fn parse(text: &'a str, names: &FieldNames) -> Result<Contents<'a>, String> {
        let root = root(text.as_bytes()).map_err(|fault| {
            // Reading from memory cannot fail.
            fault.described(text.as_bytes()).unwrap_or_default()
        })?;
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

    /// Returns every record, checked. An error describes one bad record and says nothing about the others.
    pub fn records(&self) -> impl Iterator<Item = Result<VmRecord, String>> + '_ {
        self.records.iter().map(|record| self.checked(record))
    }

    /// Returns the record of `name`, checked.
    pub fn record(&self, name: &str) -> Option<Result<VmRecord, String>> {
        self.records.iter().rev().find(|r| r.key.is(name)).map(|record| self.checked(record))
    }

    /// Returns every field of a record, including those of other programs.
    pub fn fields(&self, name: &str) -> Option<serde_json::Map<String, Value>> {
        let fields = self.records.iter().rev().find(|r| r.key.is(name))?.body.as_ref().ok()?;
        let value = |json: &str| serde_json::from_str(json).ok();
        fields.iter().map(|(key, json)| Some((key.meaning().into_owned(), value(json)?))).collect()
    }

    /// Returns a string field of a record under any name, including fields that have no other meaning to us.
    pub fn text_of_field(&self, name: &str, field: &str) -> Option<String> {
        let body = &self.records.iter().rev().find(|record| record.key.is(name))?.body;
        let (_, json) = body.as_ref().ok()?.iter().rev().find(|(key, _)| key.is(field))?;
        text_of(json).map(Cow::into_owned)
    }

    fn checked(&self, record: &Record<'_>) -> Result<VmRecord, String> {
        self.view(record).to_record()
    }

    fn view<'r>(&'r self, record: &'r Record<'_>) -> RecordView<'r> {
        view(record, &Wanted::new(&self.names, Fields::All))
    }

    /// Replaces the record of `name` as a whole, or adds it at the end. Nothing of a previous tombstone carries over.
    pub fn insert(&mut self, name: &str, fields: NewRecord) {
        let body = fields.into_iter().map(|(k, v)| (Key::new(&k), Cow::Owned(v.to_string()))).collect();
        let record = Record { key: Key::new(name), body: Ok(body) };
        self.records.retain(|r| !r.key.is(name));
        self.records.push(record);
        self.changed = true;
    }

    /// Sets one field of a record; an existing field keeps its position.
    pub fn set(&mut self, name: &str, field: &str, value: &Value) {
        let json = value.to_string();
        if let Some(Ok(fields)) = self.records.iter_mut().rev().find(|r| r.key.is(name)).map(|r| &mut r.body)
        {
            match fields.iter_mut().find(|(k, _)| k.is(field)) {
                Some((_, old)) => *old = Cow::Owned(json),
                None => fields.push((Key::new(field), Cow::Owned(json))),
            }
            self.changed = true;
        }
    }

    /// Removes one field of a record.
    pub fn remove(&mut self, name: &str, field: &str) {
        if let Some(Ok(fields)) = self.records.iter_mut().rev().find(|r| r.key.is(name)).map(|r| &mut r.body)
        {
            fields.retain(|(k, _)| !k.is(field));
            self.changed = true;
        }
    }

    /// Sets the status (under the name that db.yaml gives the field).
    pub fn set_status(&mut self, name: &str, status: Status) {
        let field = self.names.status.clone();
        self.set(name, &field, &Value::from(status.as_str()));
    }

    /// Sets the end of the paid time (under the name that db.yaml gives the field).
    pub fn set_expires_at(&mut self, name: &str, time: &str) {
        let field = self.names.expires_at.clone();
        self.set(name, &field, &Value::from(time));
    }

    /// Corrects the VMID of an older record.
    pub fn set_vmid(&mut self, name: &str, vmid: u32) {
        let field = self.names.vmid.clone();
        self.set(name, &field, &Value::from(vmid));
    }

    /// Returns the VMIDs and addresses held by live records and the two lists; `skipped` is called for each bad record.
    /// Reads only four fields of each record: with ten thousand VMs this is most of the cost of an allocation.
    pub fn held(&self, skipped: &mut dyn FnMut(String)) -> Result<Held, String> {
        let room = self.records.len();
        let mut held = Held {
            vmids: HashSet::with_capacity(room),
            ipv4: HashSet::with_capacity(room),
            ipv6: HashSet::with_capacity(room),
            ..Held::default()
        };
        let wanted = Wanted::new(&self.names, Fields::Holding);
        for record in &self.records {
            let view = view(record, &wanted);
            match (view.status(), view.vmid()) {
                (Some(Status::Destroyed), _) => continue,
                (Some(Status::Active | Status::Suspended), Some(vmid)) => drop(held.vmids.insert(vmid.get())),
                // Whatever can be read from a bad record counts as held: there may be a VM behind it.
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

    /// Returns the next VMID to try; `None` if the file has none.
    pub fn next_vmid(&self) -> Result<Option<u32>, String> {
        match self.other("next_vmid") {
            None | Some("null") => Ok(None),
            Some(json) => whole_number(json)
                .map(Some)
                .ok_or_else(|| format!("next_vmid: expected a number, found {json}")),
        }
    }

    /// Sets the next VMID to try.
    pub fn set_next_vmid(&mut self, vmid: u32) {
        self.set_other("next_vmid", vmid.to_string());
    }

    /// Returns the addresses of a list (`allocated_ips`, `allocated_ipv6`); empty if a program that writes without the
    /// lock has dropped it.
    pub fn list(&self, key: &str) -> Result<Vec<Cow<'_, str>>, String> {
        match self.other(key) {
            None | Some("null") => Ok(Vec::new()),
            Some(json) => texts(json).map_err(|_| format!("{key}: expected a list of texts")),
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

    /// Removes an address from a list.
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
            Top::Other(json) if k.is(key) => Some(json.as_ref()),
            _ => None,
        })
    }

    fn set_other(&mut self, key: &str, json: String) {
        self.changed = true;
        match self.top.iter_mut().rev().find(|(k, top)| k.is(key) && matches!(top, Top::Other(_))) {
            Some((_, top)) => *top = Top::Other(Cow::Owned(json)),
            None => self.top.push((Key::new(key), Top::Other(Cow::Owned(json)))),
        }
    }

    /// Returns the text to write: two-space indent, keys in their original order, ASCII with `\u` escapes.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::with_capacity(self.text_length + 4096);
        out.push('{');
        for (index, (key, top)) in self.top.iter().enumerate() {
            out.push_str(if index == 0 { "\n  " } else { ",\n  " });
            key.push_to(&mut out);
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
            record.key.push_to(out);
            match &record.body {
                Err(json) => out.push_str(json),
                Ok(fields) if fields.is_empty() => out.push_str("{}"),
                Ok(fields) => {
                    for (index, (name, json)) in fields.iter().enumerate() {
                        out.push_str(if index == 0 { "{\n      " } else { ",\n      " });
                        name.push_to(out);
                        out.push_str(json);
                    }
                    out.push_str("\n    }");
                }
            }
        }
        out.push_str("\n  }");
    }
}

/// Characters beyond ASCII occur only inside JSON strings, where `\u` escapes mean the same.
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
    top: Vec<(Key<'a>, Top<'a>)>,
    records: Vec<Record<'a>>,
}

fn root(text: &[u8]) -> Result<Root<'_>, Fault> {
    let at = |stop| Fault::of(stop, 0);
    let mut cursor = Cursor::new(text);
    cursor.expect(b'{', ROOT).map_err(at)?;
    let (mut top, mut found) = (Vec::new(), None);
    while let Some(key) = cursor.next_key(top.is_empty()).map_err(at)? {
        if !key.is("vms") {
            top.push((Key::of(key), Top::Other(Cow::Borrowed(cursor.value().map_err(at)?))));
            continue;
        }
        if found.is_some() {
            return Err(Fault::RecordsTwice(cursor.at() as u64));
        }
        found = Some(records(&mut cursor).map_err(at)?);
        top.push((Key::of(key), Top::Vms));
    }
    if !cursor.is_at_end() {
        return Err(Fault::Trailing(cursor.at() as u64));
    }
    Ok(Root { top, records: found.ok_or(Fault::NoRecords)? })
}

fn records<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Record<'a>>, Stop> {
    cursor.expect(b'{', RECORDS)?;
    let mut records = Vec::new();
    while let Some(key) = cursor.next_key(records.is_empty())? {
        let body =
            if cursor.peek()? == b'{' { Ok(fields(cursor)?) } else { Err(Cow::Borrowed(cursor.value()?)) };
        records.push(Record { key: Key::of(key), body });
    }
    Ok(records)
}

fn fields<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Field<'a>>, Stop> {
    cursor.expect(b'{', "a VM record")?;
    let mut fields = Vec::with_capacity(16);
    while let Some(name) = cursor.next_key(fields.is_empty())? {
        fields.push((Key::of(name), Cow::Borrowed(cursor.value()?)));
    }
    Ok(fields)
}

fn view<'r>(record: &'r Record<'_>, wanted: &Wanted<'_>) -> RecordView<'r> {
    let mut view = RecordView::of(record.key.meaning());
    for (name, json) in record.body.iter().flatten() {
        if let Some(field) = wanted.field(RawText::checked(&name.0)) {
            view.set(field, json);
        }
    }
    view
}

/// The strings of a list.
fn texts(json: &str) -> Result<Vec<Cow<'_, str>>, Stop> {
    let mut cursor = Cursor::new(json.as_bytes());
    cursor.expect(b'[', "a list")?;
    let mut texts = Vec::new();
    while cursor.next_item(texts.is_empty())? {
        texts.push(cursor.string()?.meaning());
    }
    Ok(texts)
}
