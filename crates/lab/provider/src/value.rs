//! Terraform's values and their msgpack form, which is what the protocol's `DynamicValue` carries.

use serde_json::Value as Json;
use std::collections::BTreeMap;

/// A value of terraform's type system, as far as the two resources need it.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// To be known after apply.
    Unknown,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list, set or tuple; list blocks too.
    List(Vec<Value>),
    /// An object or map.
    Object(BTreeMap<String, Value>),
}

static NULL: Value = Value::Null;

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl Value {
    /// A list of texts.
    pub fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Value {
        Value::List(items.into_iter().map(|item| Value::Text(item.into())).collect())
    }

    /// A number; a whole one becomes [`Value::Int`], so that equal numbers are equal values.
    pub fn number(number: f64) -> Value {
        if number.fract() == 0.0 && number.abs() < 9e15 {
            Value::Int(number as i64)
        } else {
            Value::Float(number)
        }
    }

    /// Whether there is no value.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether the value or something in it is unknown.
    pub fn has_unknown(&self) -> bool {
        match self {
            Value::Unknown => true,
            Value::List(items) => items.iter().any(Value::has_unknown),
            Value::Object(entries) => entries.values().any(Value::has_unknown),
            _ => false,
        }
    }

    /// An attribute; null when absent or when this is no object.
    pub fn get(&self, key: &str) -> &Value {
        match self {
            Value::Object(entries) => entries.get(key).unwrap_or(&NULL),
            _ => &NULL,
        }
    }

    /// The elements of a list attribute or block; none when absent.
    pub fn list(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The only element of a block of which at most one may be given.
    pub fn block(&self, key: &str) -> Option<&Value> {
        self.list(key).first()
    }

    /// The text of an attribute; none when absent, unknown or empty (the SDK behind the real provider
    /// does not tell an empty text from an absent one).
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The number of an attribute, cut to a whole one.
    pub fn int(&self, key: &str) -> Option<i64> {
        match self.get(key) {
            Value::Int(number) => Some(*number),
            Value::Float(number) => Some(*number as i64),
            _ => None,
        }
    }

    /// The truth value of an attribute.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// A number as Proxmox wants it written; none when it is no number.
    pub fn number_text(&self, key: &str) -> Option<String> {
        match self.get(key) {
            Value::Int(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The texts of a list attribute.
    pub fn text_list(&self, key: &str) -> Vec<&str> {
        let mut texts = Vec::new();
        for item in self.list(key) {
            if let Value::Text(text) = item {
                texts.push(text.as_str());
            }
        }
        texts
    }

    /// Sets an attribute of an object; on anything else it does nothing.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        if let Value::Object(entries) = self {
            entries.insert(key.into(), value.into());
        }
    }

    /// The elements of a list attribute, to be changed in place.
    pub fn list_mut(&mut self, key: &str) -> Option<&mut Vec<Value>> {
        let Value::Object(entries) = self else { return None };
        match entries.get_mut(key) {
            Some(Value::List(items)) => Some(items),
            _ => None,
        }
    }

    /// Turns what is still unknown into null: after apply nothing may be unknown.
    pub fn settle(&mut self) {
        match self {
            Value::Unknown => *self = Value::Null,
            Value::List(items) => items.iter_mut().for_each(Value::settle),
            Value::Object(entries) => entries.values_mut().for_each(Value::settle),
            _ => {}
        }
    }

    /// The value of a JSON text's value.
    pub fn from_json(json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(truth) => Value::Bool(*truth),
            Json::String(text) => Value::Text(text.clone()),
            Json::Number(n) => {
                n.as_i64().map_or_else(|| Value::number(n.as_f64().unwrap_or(0.0)), Value::Int)
            }
            Json::Array(items) => Value::List(items.iter().map(Value::from_json).collect()),
            Json::Object(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.clone(), Value::from_json(v))).collect())
            }
        }
    }

    /// The msgpack form.
    pub fn to_msgpack(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        // Sizes: one byte up to `short`, else two or four bytes after the marker.
        fn size(out: &mut Vec<u8>, length: usize, fix: u8, short: usize, marker: u8) {
            if length <= short {
                out.push(fix | length as u8);
            } else if let Ok(length) = u16::try_from(length) {
                out.push(marker);
                out.extend_from_slice(&length.to_be_bytes());
            } else {
                out.push(marker + 1);
                out.extend_from_slice(&(length as u32).to_be_bytes());
            }
        }
        match self {
            Value::Null => out.push(0xc0),
            Value::Unknown => out.extend_from_slice(&[0xd4, 0, 0]),
            Value::Bool(truth) => out.push(0xc2 + u8::from(*truth)),
            Value::Int(number @ 0..128) => out.push(*number as u8),
            Value::Int(number) => {
                out.push(0xd3);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Value::Float(number) => {
                out.push(0xcb);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Value::Text(text) => {
                size(out, text.len(), 0xa0, 31, 0xda);
                out.extend_from_slice(text.as_bytes());
            }
            Value::List(items) => {
                size(out, items.len(), 0x90, 15, 0xdc);
                items.iter().for_each(|item| item.write(out));
            }
            Value::Object(entries) => {
                size(out, entries.len(), 0x80, 15, 0xde);
                for (key, value) in entries {
                    Value::from(key.as_str()).write(out);
                    value.write(out);
                }
            }
        }
    }

    /// Reads one msgpack value off the front; none when the bytes are no such value.
    pub fn from_msgpack(rest: &mut &[u8]) -> Option<Value> {
        let marker = take(rest, 1)?[0];
        Some(match marker {
            0xc0 => Value::Null,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0x00..=0x7f => Value::Int(marker.into()),
            0xe0..=0xff => Value::Int((marker as i8).into()),
            0xcc..=0xcf => {
                let number = unsigned(rest, 1 << (marker - 0xcc))?;
                i64::try_from(number).map_or(Value::Float(number as f64), Value::Int)
            }
            0xd0 => Value::Int((unsigned(rest, 1)? as i8).into()),
            0xd1 => Value::Int((unsigned(rest, 2)? as i16).into()),
            0xd2 => Value::Int((unsigned(rest, 4)? as i32).into()),
            0xd3 => Value::Int(unsigned(rest, 8)? as i64),
            0xca => Value::number(f32::from_bits(unsigned(rest, 4)? as u32).into()),
            0xcb => Value::number(f64::from_bits(unsigned(rest, 8)?)),
            0xa0..=0xbf => text(rest, (marker & 31).into())?,
            0xd9..=0xdb => {
                let length = unsigned(rest, 1 << (marker - 0xd9))?;
                text(rest, length)?
            }
            0xc4..=0xc6 => {
                let length = unsigned(rest, 1 << (marker - 0xc4))?;
                text(rest, length)?
            }
            0x90..=0x9f => list(rest, (marker & 15).into())?,
            0xdc | 0xdd => {
                let length = unsigned(rest, 2 << (marker - 0xdc))?;
                list(rest, length)?
            }
            0x80..=0x8f => object(rest, (marker & 15).into())?,
            0xde | 0xdf => {
                let length = unsigned(rest, 2 << (marker - 0xde))?;
                object(rest, length)?
            }
            // Any extension means "unknown": 0 plain, 12 with refinements.
            0xd4..=0xd8 => {
                take(rest, 1 + (1 << (marker - 0xd4)))?;
                Value::Unknown
            }
            0xc7..=0xc9 => {
                let length = unsigned(rest, 1 << (marker - 0xc7))?;
                take(rest, usize::try_from(length).ok()? + 1)?;
                Value::Unknown
            }
            0xc1 => return None,
        })
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn unsigned(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    Some(take(rest, bytes)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn text(rest: &mut &[u8], length: u64) -> Option<Value> {
    let bytes = take(rest, usize::try_from(length).ok()?)?;
    Some(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
}

fn list(rest: &mut &[u8], length: u64) -> Option<Value> {
    (0..length).map(|_| Value::from_msgpack(rest)).collect::<Option<Vec<_>>>().map(Value::List)
}

fn object(rest: &mut &[u8], length: u64) -> Option<Value> {
    let mut entries = BTreeMap::new();
    for _ in 0..length {
        let Value::Text(key) = Value::from_msgpack(rest)? else {
            return None;
        };
        entries.insert(key, Value::from_msgpack(rest)?);
    }
    Some(Value::Object(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msgpack_round_trip() {
        let long = "x".repeat(70_000);
        let value = Value::Object(
            [
                ("null", Value::Null),
                ("unknown", Value::Unknown),
                ("small", Value::Int(127)),
                ("big", Value::Int(i64::MAX)),
                ("negative", Value::Int(-1)),
                ("half", Value::Float(1.5)),
                ("long", Value::Text(long)),
                ("list", Value::List((0..40).map(Value::Int).collect())),
                (
                    "blocks",
                    Value::List(vec![Value::Object(BTreeMap::from([("on".to_string(), true.into())]))]),
                ),
            ]
            .map(|(k, v)| (k.to_string(), v))
            .into(),
        );
        let bytes = value.to_msgpack();
        let mut rest = &bytes[..];
        assert_eq!(Value::from_msgpack(&mut rest), Some(value));
        assert!(rest.is_empty());
        assert_eq!(Value::from_msgpack(&mut &bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn numbers_have_one_form() {
        // terraform writes small numbers as the shortest integer and others as floats
        assert_eq!(Value::from_msgpack(&mut &[0xcd, 0x08, 0x00][..]), Some(Value::Int(2048)));
        let mut float = vec![0xcb];
        float.extend_from_slice(&2048f64.to_be_bytes());
        assert_eq!(Value::from_msgpack(&mut &float[..]), Some(Value::Int(2048)));
        assert_eq!(Value::from_json(&serde_json::json!(2048.0)), Value::Int(2048));
    }
}
