//! One-line JSON with a blank after each `,` and `:`, as the older package's Python printed it: callers and their tests
//! compare the text (`facts/contract/commands.md`).

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io;

/// Python's separators.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Appends `value` to `out`.
pub fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Spaced))
}

/// Returns `value` as text.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<String> {
    let mut out = Vec::new();
    append(&mut out, value)?;
    Ok(String::from_utf8(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blanks_stand_between_values_and_nowhere_else() {
        let value =
            json!({"a,b": [1, "x:y, \"z\"\u{7}ü"], "none": null, "empty": {}, "list": [{"k": true}, []]});
        assert_eq!(
            to_string(&value).unwrap(),
            r#"{"a,b": [1, "x:y, \"z\"\u0007ü"], "none": null, "empty": {}, "list": [{"k": true}, []]}"#
        );
    }

    #[test]
    fn a_number_keeps_every_digit() {
        let digits = format!("1{}", "0".repeat(77));
        let value: serde_json::Value = serde_json::from_str(&format!("{{\"id\":{digits}}}")).unwrap();
        assert_eq!(to_string(&value).unwrap(), format!("{{\"id\": {digits}}}"));
    }
}
