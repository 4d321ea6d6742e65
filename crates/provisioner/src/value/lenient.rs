//! Fields of the JSON that Proxmox prints. Its Perl may write a number as a string or a string as a number, depending
//! on the version and on where the value comes from. A field of an unexpected type counts as missing, so that one odd
//! row does not hide all others.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Reads a string; a number or boolean is read as it is written.
pub fn text<'de, D: Deserializer<'de>>(field: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(field)? {
        Value::String(text) => Some(text),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        plain => Some(plain.to_string()),
    })
}

/// Reads a whole number, or a string that contains one.
pub fn number<'de, D: Deserializer<'de>>(field: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(field)?;
    Ok(value.as_u64().or_else(|| value.as_str()?.parse().ok()))
}

/// Reads a flag that is set if it is 1.
pub fn is_one<'de, D: Deserializer<'de>>(field: D) -> Result<bool, D::Error> {
    Ok(number(field)? == Some(1))
}

/// Reads a flag that is set unless it is 0 or false; a missing one is set, too ([`yes`]).
pub fn unless_off<'de, D: Deserializer<'de>>(field: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(field)?;
    Ok(value != Value::Bool(false) && value.as_u64() != Some(0) && value.as_str() != Some("0"))
}

/// The default for [`unless_off`] if the field is missing.
pub fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    #[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
    #[serde(default)]
    struct Row {
        #[serde(deserialize_with = "super::text")]
        text: Option<String>,
        #[serde(deserialize_with = "super::number")]
        number: Option<u64>,
        #[serde(deserialize_with = "super::is_one")]
        one: bool,
        #[serde(default = "super::yes", deserialize_with = "super::unless_off")]
        on: bool,
    }

    #[test]
    fn numbers_and_texts_are_taken_for_each_other_and_all_else_for_nothing() {
        for (row, text, number, one, on) in [
            (r#"{"text": "24", "number": "24", "one": "1", "on": "0"}"#, Some("24"), Some(24), true, false),
            (r#"{"text": 24, "number": 24, "one": 1, "on": 0}"#, Some("24"), Some(24), true, false),
            (r#"{"text": null, "number": null, "one": null, "on": null}"#, None, None, false, true),
            (r#"{"text": [], "number": {}, "one": 2, "on": false}"#, None, None, false, false),
            (r#"{"text": "", "number": "x", "one": true, "on": "1"}"#, Some(""), None, false, true),
            (r#"{"else": {"text": 1}}"#, None, None, false, true),
        ] {
            let wanted = Row { text: text.map(str::to_owned), number, one, on };
            assert_eq!(serde_json::from_str::<Row>(row).unwrap(), wanted, "{row}");
            let by_value: serde_json::Value = serde_json::from_str(row).unwrap();
            assert_eq!(serde_json::from_value::<Row>(by_value).unwrap(), wanted, "{row}");
        }
    }
}
