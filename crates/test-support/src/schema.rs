//! JSON that a command prints against the schema that documents it (`facts/schema`).
//!
//! A small part of JSON Schema: what those files use. A keyword that is not known here fails the test, so that nothing in
//! a schema is there for show. A whole implementation would be fifty more crates to build.

use serde_json::{Map, Value};

/// What is wrong with `value`, each with its place; nothing where it is as `schema` says.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Judge { root: schema, found: &mut found }.check(schema, value, "$");
    found
}

struct Judge<'s, 'f> {
    root: &'s Value,
    found: &'f mut Vec<String>,
}

impl<'s> Judge<'s, '_> {
    fn check(&mut self, schema: &'s Value, value: &Value, at: &str) {
        let keywords =
            schema.as_object().unwrap_or_else(|| panic!("{at}: a schema that is no object: {schema}"));
        for (keyword, wanted) in keywords {
            self.keyword(keywords, keyword, wanted, value, at);
        }
    }

    fn keyword(
        &mut self,
        all: &'s Map<String, Value>,
        keyword: &str,
        wanted: &'s Value,
        value: &Value,
        at: &str,
    ) {
        let is_fine = match keyword {
            "$schema" | "$id" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let path = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                let target = self.root.pointer(path).unwrap_or_else(|| panic!("there is no {wanted}"));
                return self.check(target, value, at);
            }
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|one| is_type(one.as_str().unwrap(), value)),
                one => is_type(one.as_str().unwrap(), value),
            },
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap()),
            "format" => {
                assert_eq!(wanted, "date-time", "{at}: no other format is known");
                value.as_str().is_none_or(is_time)
            }
            "required" => {
                let names = wanted.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                value.as_object().is_none_or(|object| names.into_iter().all(|name| object.contains_key(name)))
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(wanted, item, &format!("{at}[{index}]"));
                }
                true
            }
            "properties" => {
                for (name, property) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        self.check(property, value, &format!("{at}.{name}"));
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = all.get("properties").and_then(Value::as_object);
                let others = value.as_object().into_iter().flatten();
                let others = others.filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)));
                for (name, value) in others {
                    match wanted {
                        Value::Bool(true) => {}
                        Value::Bool(false) => self.found.push(format!("{at}: {name:?} is not documented")),
                        schema => self.check(schema, value, &format!("{at}.{name}")),
                    }
                }
                true
            }
            other => panic!("{at}: the keyword {other:?} is not known to this test"),
        };
        if !is_fine {
            self.found.push(format!("{at}: {keyword} {wanted}, found {value}"));
        }
    }
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_number().is_some_and(|number| !number.to_string().contains(['.', 'e', 'E'])),
        other => panic!("there is no type {other:?}"),
    }
}

/// As the database writes times: UTC with six digits behind the second.
fn is_time(text: &str) -> bool {
    let form = "dddd-dd-ddTdd:dd:dd.dddddd+00:00";
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(c, f)| if f == b'd' { c.is_ascii_digit() } else { c == f })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_as_documented_is_found() {
        let schema = json!({
            "$defs": {"word": {"type": "string", "enum": ["a", "b"]}},
            "type": "array", "maxItems": 3,
            "items": {"type": "object", "required": ["w"], "additionalProperties": false, "properties": {
                "w": {"$ref": "#/$defs/word"}, "n": {"type": ["integer", "null"], "minimum": 0},
                "t": {"type": "string", "format": "date-time"}, "any": {}
            }}
        });
        let fine = json!([{"w": "a", "n": 3, "t": "2026-11-23T01:09:55.123456+00:00"}, {"w": "b", "n": null, "any": {}}]);
        assert_eq!(violations(&schema, &fine), Vec::<String>::new());
        for (wrong, words) in [
            (json!({}), "$: type"),
            (json!([{}]), "$[0]: required"),
            (json!([{"w": "c"}]), "$[0].w: enum"),
            (json!([{"w": "a", "n": -1}]), "$[0].n: minimum"),
            (json!([{"w": "a", "n": 1.5}]), "$[0].n: type"),
            (json!([{"w": "a", "t": "2026-11-23"}]), "$[0].t: format"),
            (json!([{"w": "a", "x": 1}]), "\"x\" is not documented"),
            (json!([{"w": "a"}, {"w": "a"}, {"w": "a"}, {"w": "a"}]), "$: maxItems"),
        ] {
            let found = violations(&schema, &wrong);
            assert!(found.iter().any(|one| one.contains(words)), "{wrong}: {found:?}");
        }
        assert!(std::panic::catch_unwind(|| violations(&json!({"pattern": "x"}), &json!("x"))).is_err());
    }
}
