//! JSON as Perl prints it: keys sorted, three blanks a level, a blank on both sides of the colon.

use serde_json::Value;

/// Pretty JSON with a line end.
pub(crate) fn print(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text.push('\n');
    text
}

fn write(value: &Value, level: usize, text: &mut String) {
    let indent = |level: usize| "   ".repeat(level);
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            text.push_str("{\n");
            for (index, key) in keys.iter().enumerate() {
                text.push_str(&format!("{}{} : ", indent(level + 1), Value::from(key.as_str())));
                write(&map[key.as_str()], level + 1, text);
                text.push_str(if index + 1 < keys.len() { ",\n" } else { "\n" });
            }
            text.push_str(&format!("{}}}", indent(level)));
        }
        Value::Array(list) if !list.is_empty() => {
            text.push_str("[\n");
            for (index, item) in list.iter().enumerate() {
                text.push_str(&indent(level + 1));
                write(item, level + 1, text);
                text.push_str(if index + 1 < list.len() { ",\n" } else { "\n" });
            }
            text.push_str(&format!("{}]", indent(level)));
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn as_perl_prints_it() {
        let value = json!({"exited": 1, "exitcode": 0, "out-data": "a\n"});
        assert_eq!(
            super::print(&value),
            "{\n   \"exitcode\" : 0,\n   \"exited\" : 1,\n   \"out-data\" : \"a\\n\"\n}\n"
        );
        assert_eq!(super::print(&json!([1, {}])), "[\n   1,\n   {}\n]\n");
    }
}
