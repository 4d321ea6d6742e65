//! Parameters of a request: from the query, and from a body that is form-encoded or JSON.

use serde_json::{Map, Value, json};

use crate::node::refusal::{Outcome, Refusal};

/// Names and values in order; a name may come more than once (arrays).
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    list: Vec<(String, String)>,
}

impl Params {
    /// From pairs.
    pub fn of(list: Vec<(String, String)>) -> Self {
        Self { list }
    }

    /// From a request.
    ///
    /// # Errors
    /// 400 for a body that is no JSON object.
    pub fn read(query: &str, body: &[u8], json: bool) -> Outcome<Self> {
        let mut list: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        if !json {
            list.extend(form_urlencoded::parse(body).into_owned());
            return Ok(Self { list });
        }
        if !body.is_empty() {
            let object: Map<String, Value> = serde_json::from_slice(body)
                .map_err(|error| Refusal::with_code(400, format!("malformed JSON string: {error}")))?;
            for (name, value) in object {
                match value {
                    Value::Array(values) => {
                        list.extend(values.iter().map(|value| (name.clone(), text(value))));
                    }
                    value => list.push((name, text(&value))),
                }
            }
        }
        Ok(Self { list })
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.list.iter().filter(|(own, _)| own == name).map(|(_, value)| value.clone()).collect()
    }

    pub fn list(&self) -> &[(String, String)] {
        &self.list
    }

    /// The value, which must be there.
    pub fn need(&self, name: &str) -> Outcome<&str> {
        self.get(name).ok_or_else(|| Refusal::parameter(name, "property is missing and it is not optional"))
    }

    /// A boolean; 1, on, yes, true.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "on" | "yes" | "true"))
    }

    /// An integer.
    pub fn number(&self, name: &str) -> Outcome<Option<u64>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Refusal::parameter(name, format!("type check ('integer') failed - got '{text}'"))
                })
            })
            .transpose()
    }

    /// Refuses every other name.
    pub fn only(&self, names: &[&str]) -> Outcome<()> {
        match self.list.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            Some((name, _)) => Err(Refusal::parameter(
                name,
                "property is not defined in schema and the schema does not allow additional properties",
            )),
            None => Ok(()),
        }
    }

    /// For the call log.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        for (name, value) in &self.list {
            match object.get_mut(name) {
                Some(Value::Array(values)) => values.push(json!(value)),
                Some(first) => *first = json!([first.clone(), value]),
                None => {
                    object.insert(name.clone(), json!(value));
                }
            }
        }
        Value::Object(object)
    }
}

/// A JSON value as the form would have it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "1".into(),
        Value::Bool(false) => "0".into(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A VMID from a path.
///
/// # Errors
/// 400 as Proxmox says it.
pub(crate) fn vmid(text: &str) -> Outcome<u32> {
    text.parse().ok().filter(|vmid| (100..=999_999_999).contains(vmid)).ok_or_else(|| {
        Refusal::parameter(
            "vmid",
            format!("invalid format - value does not look like a valid VM ID\n (got '{text}')"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_json_give_the_same() {
        let form = Params::read("", b"command=sh&command=-c&full=1&x=a%20b", false).unwrap();
        let json = Params::read("", br#"{"command":["sh","-c"],"full":true,"x":"a b"}"#, true).unwrap();
        for params in [form, json] {
            assert_eq!(params.all("command"), ["sh", "-c"]);
            assert!(params.flag("full"));
            assert_eq!(params.get("x"), Some("a b"));
        }
        assert_eq!(Params::read("", b"[", true).unwrap_err().code, 400);
    }

    #[test]
    fn vmids_have_a_range() {
        assert_eq!(vmid("100").unwrap(), 100);
        for wrong in ["99", "1000000000", "x", "-1", "1e3", ""] {
            assert_eq!(vmid(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }
}
