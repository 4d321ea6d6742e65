//! Configuration files. Errors are written for a person: which file, which key, what was found, and what is allowed.

use crate::host::read_file::text_for_people;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A configuration file whose contents are a mapping.
#[derive(Debug, Clone)]
pub struct Document {
    path: PathBuf,
    root: Map<String, Value>,
}

impl Document {
    /// An empty mapping, for a file that may be missing.
    pub fn empty(path: &Path) -> Document {
        Document { path: path.to_path_buf(), root: Map::new() }
    }

    /// Reads a YAML mapping.
    pub fn read_yaml(path: &Path) -> anyhow::Result<Document> {
        let text = text_for_people(path)?;
        let value: Value = serde_yaml::from_str(&text).map_err(|error| {
            anyhow::anyhow!("{}: not valid YAML: {}", path.display(), first_line(&error.to_string()))
        })?;
        Document::mapping(path, value)
    }

    /// Reads a JSON object.
    pub fn read_json(path: &Path) -> anyhow::Result<Document> {
        let text = text_for_people(path)?;
        let value = serde_json::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{}: not valid JSON: {error}", path.display()))?;
        Document::mapping(path, value)
    }

    /// A document from a value; null gives an empty one. `path` names the source.
    pub fn of(path: &Path, value: Value) -> anyhow::Result<Document> {
        if value.is_null() { Ok(Document::empty(path)) } else { Document::mapping(path, value) }
    }

    fn mapping(path: &Path, value: Value) -> anyhow::Result<Document> {
        match value {
            Value::Object(root) => Ok(Document { path: path.to_path_buf(), root }),
            other => {
                anyhow::bail!("{}: expected keys and values, found {}", path.display(), describe(&other))
            }
        }
    }

    /// Returns the path of the file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    pub fn root(&self) -> &Map<String, Value> {
        &self.root
    }

    /// Returns the top-level keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.root.keys().map(String::as_str)
    }

    /// Returns the value at `key` (`a.b` looks into a mapping); `None` if it is missing or null.
    pub fn value(&self, key: &str) -> anyhow::Result<Option<&Value>> {
        let mut found: Option<&Value> = None;
        let mut table = Some(&self.root);
        let mut walked = String::new();
        for part in key.split('.') {
            let Some(here) = table else {
                return Err(self.wrong(&walked, "a mapping", found.unwrap_or(&Value::Null)));
            };
            if !walked.is_empty() {
                walked.push('.');
            }
            walked.push_str(part);
            found = here.get(part).filter(|v| !v.is_null());
            let Some(value) = found else { return Ok(None) };
            table = value.as_object();
        }
        Ok(found)
    }

    /// Returns a string. Numbers and booleans are not accepted as strings, because YAML would already have changed
    /// them.
    pub fn text(&self, key: &str) -> anyhow::Result<Option<String>> {
        self.value(key)?
            .map(|v| v.as_str().map(str::to_string).ok_or_else(|| self.wrong(key, "text", v)))
            .transpose()
    }

    /// Returns a string or a whole number, as a string: an address may be written `200`.
    pub fn text_or_number(&self, key: &str) -> anyhow::Result<Option<String>> {
        let Some(value) = self.value(key)? else {
            return Ok(None);
        };
        match value {
            Value::String(text) => Ok(Some(text.clone())),
            Value::Number(n) if n.as_u64().is_some() => Ok(Some(n.to_string())),
            other => Err(self.wrong(key, "text or a whole number", other)),
        }
    }

    /// Returns a whole number between `low` and `high`; it may also be written as a string of digits.
    pub fn integer(&self, key: &str, low: u64, high: u64) -> anyhow::Result<Option<u64>> {
        let Some(value) = self.value(key)? else {
            return Ok(None);
        };
        let number = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_u64(),
        };
        match number.filter(|n| (low..=high).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, &format!("a whole number from {low} to {high}"), value)),
        }
    }

    /// Returns a boolean.
    pub fn flag(&self, key: &str) -> anyhow::Result<Option<bool>> {
        match self.value(key)? {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// Returns a fraction from 0 to 1.
    pub fn share(&self, key: &str) -> anyhow::Result<Option<f64>> {
        self.number(key, 0.0, 1.0)
    }

    /// Returns a number between `low` and `high`, whole or not.
    pub fn number(&self, key: &str, low: f64, high: f64) -> anyhow::Result<Option<f64>> {
        let Some(value) = self.value(key)? else {
            return Ok(None);
        };
        match value.as_f64().filter(|n| (low..=high).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, &format!("a number from {low} to {high}"), value)),
        }
    }

    /// Returns a list of strings.
    pub fn texts(&self, key: &str) -> anyhow::Result<Option<Vec<String>>> {
        let Some(value) = self.value(key)? else {
            return Ok(None);
        };
        let list =
            value.as_array().map(|l| l.iter().map(|v| v.as_str().map(str::to_string)).collect::<Option<_>>());
        list.flatten().map(Some).ok_or_else(|| self.wrong(key, "a list of texts", value))
    }

    /// Returns the value of a key that must be present.
    pub fn require<T>(&self, key: &str, value: Option<T>) -> anyhow::Result<T> {
        value.ok_or_else(|| anyhow::anyhow!("{}: key {key} is missing", self.path.display()))
    }

    /// Checks a value with one of the types of [`crate::value`]; the error names the file and the key.
    pub fn checked<T, E: std::fmt::Display>(&self, key: &str, result: Result<T, E>) -> anyhow::Result<T> {
        result.map_err(|error| anyhow::anyhow!("{}: {key}: {error}", self.path.display()))
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> anyhow::Error {
        anyhow::anyhow!("{}: {key}: expected {expected}, found {}", self.path.display(), describe(found))
    }
}

/// Describes a value briefly, for a message.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a mapping".to_string(),
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        other => other.to_string(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
