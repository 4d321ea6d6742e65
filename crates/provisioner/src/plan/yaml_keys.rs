//! Sets top-level keys of a YAML file that other programs and people also write. Every other line stays as it is,
//! including comments and spelling (`0123`, `yes`, dates); a parser that rewrote the file would change their types.

use serde_json::Value;

/// Why a text could not be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// Not YAML, or not a mapping.
    #[error("{0}")]
    NotReadable(String),
    /// The YAML is in a form that cannot be edited line by line.
    #[error(
        "the file's form does not allow changing one key without touching others ({0}); put each key on a line of its \
         own"
    )]
    Form(String),
}

/// Returns `text` with `keys` set, in order. An existing key keeps its place; others are appended.
///
/// The result is parsed and compared: the keys have their new values, and every other key has the value it had before.
pub fn set(text: &str, keys: &[(&str, Value)]) -> Result<String, EditError> {
    let before = parse(text)?;
    let mut lines: Vec<&str> = text.lines().collect();
    // The end of a document; anything after it would be another document.
    if let Some(end) = lines.iter().position(|line| matches!(line.trim_end(), "...")) {
        if lines[end + 1..].iter().any(|line| !is_nothing(line)) {
            return Err(EditError::Form("a second document".into()));
        }
        lines.truncate(end);
    }
    let mut result: Vec<String> = Vec::new();
    let mut waiting: Vec<&(&str, Value)> = keys.iter().collect();
    let mut at = 0;
    while at < lines.len() {
        let own =
            top_level_key(lines[at]).and_then(|found| waiting.iter().position(|(key, _)| *key == found));
        let Some(index) = own else {
            result.push(lines[at].to_owned());
            at += 1;
            continue;
        };
        let (key, value) = waiting.remove(index);
        if before.get(*key).is_some_and(|old| same(old, value)) {
            // Kept as it is, with its comment and spelling.
            let end = block_end(&lines, at);
            result.extend(lines[at..end].iter().map(|line| (*line).to_owned()));
            at = end;
            continue;
        }
        at = block_end(&lines, at);
        result.push(render(key, value));
    }
    result.extend(waiting.iter().map(|(key, value)| render(key, value)));
    let mut new = result.join("\n");
    if !new.is_empty() {
        new.push('\n');
    }
    check(&before, &parse(&new).map_err(|error| EditError::Form(error.to_string()))?, keys)?;
    Ok(new)
}

fn parse(text: &str) -> Result<serde_json::Map<String, Value>, EditError> {
    if text.lines().all(|line| is_nothing(line) || line.trim_end() == "---") {
        return Ok(serde_json::Map::new());
    }
    let unreadable = |error: String| {
        EditError::NotReadable(format!("not valid YAML: {}", error.lines().next().unwrap_or_default()))
    };
    match serde_yaml::from_str(text).map_err(|error| unreadable(error.to_string()))? {
        Value::Object(map) => Ok(map),
        _ => Err(EditError::NotReadable("expected keys and values".into())),
    }
}

fn check(
    before: &serde_json::Map<String, Value>,
    after: &serde_json::Map<String, Value>,
    keys: &[(&str, Value)],
) -> Result<(), EditError> {
    for (key, value) in keys {
        if !after.get(*key).is_some_and(|new| same(new, value)) {
            return Err(EditError::Form(format!("key {key}")));
        }
    }
    let ours = |key: &str| keys.iter().any(|(own, _)| *own == key);
    let others = |map: &serde_json::Map<String, Value>| map.keys().filter(|key| !ours(key)).count();
    let changed = before.iter().find(|(key, value)| !ours(key) && after.get(*key) != Some(value));
    match changed {
        Some((key, _)) => Err(EditError::Form(format!("key {key}"))),
        None if others(before) != others(after) => Err(EditError::Form("a key that was not there".into())),
        None => Ok(()),
    }
}

/// Whether our readers treat the two values as equal: `"200"` and `200` are the same.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        (Value::String(a), Value::Number(b)) | (Value::Number(b), Value::String(a)) => *a == b.to_string(),
        _ => one == other,
    }
}

fn is_nothing(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// Returns the key that begins on this line, if it begins in the first column.
fn top_level_key(line: &str) -> Option<&str> {
    let quote = line.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (key, rest) = match quote {
        Some(quote) => line[1..].split_once(quote)?,
        None => {
            if line.starts_with(|c: char| c.is_whitespace() || "#-{}[]!&*|>%@`?".contains(c)) {
                return None;
            }
            let at = line.find(':')?;
            (line[..at].trim_end(), &line[at..])
        }
    };
    let rest = rest.trim_start().strip_prefix(':')?;
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some(key)
}

/// Returns the end of the block that begins at `at`. Indented lines and list items in the first column belong to it;
/// trailing blank lines and comments do not.
fn block_end(lines: &[&str], at: usize) -> usize {
    let mut end = at + 1;
    for (index, line) in lines.iter().enumerate().skip(at + 1) {
        if is_nothing(line) {
            continue;
        }
        if line.starts_with([' ', '\t']) || line.starts_with("- ") || *line == "-" {
            end = index + 1;
        } else {
            break;
        }
    }
    end
}

/// Writes a key in simple YAML: the values are checked strings, numbers, and mappings of these. Strings are quoted, so
/// that no reader takes them for another type; JSON's quoting is valid YAML.
fn render(key: &str, value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let inner = map.iter().map(|(key, value)| format!("  {key}: {value}"));
            std::iter::once(format!("{key}:")).chain(inner).collect::<Vec<_>>().join("\n")
        }
        other => format!("{key}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn other_peoples_lines_stay_as_they_are() {
        let text = "# kept\nmode: 0123\nflag: yes\nday: 2026-01-02\ndb_file: /old.json  # gone\nlist:\n- a\n- b\n\n\
            ip_pool:\n  network: 10.0.0.0/24\n  # inside\n  start: 5\n\n# tail\nother: {a: [1, 2]}\n";
        let pool = json!({"network": "192.168.1.0/24", "start": "192.168.1.5"});
        let new =
            set(text, &[("db_file", json!("/new.json")), ("ip_pool", pool), ("gc_grace_days", json!(7))]);
        let expected = "# kept\nmode: 0123\nflag: yes\nday: 2026-01-02\ndb_file: \"/new.json\"\nlist:\n- a\n- b\n\n\
            ip_pool:\n  network: \"192.168.1.0/24\"\n  start: \"192.168.1.5\"\n\n# tail\nother: {a: [1, 2]}\n\
            gc_grace_days: 7\n";
        assert_eq!(new.unwrap(), expected);
    }

    #[test]
    fn a_key_that_has_its_value_keeps_its_spelling() {
        let text = "vmid_range: {start: 100, end: \"999\"} # ours\nbridge: 'vmbr0'\n";
        let keys = [("vmid_range", json!({"start": 100, "end": 999})), ("bridge", json!("vmbr0"))];
        assert_eq!(set(text, &keys).unwrap(), text);
    }

    #[test]
    fn an_empty_file_and_one_of_comments_are_filled() {
        for text in ["", "# nothing yet\n", "---\n"] {
            let new = set(text, &[("bridge", json!("vmbr0"))]).unwrap();
            assert_eq!(new, format!("{text}bridge: \"vmbr0\"\n"));
        }
        assert_eq!(set("\"bridge\": x\n", &[("bridge", json!("vmbr0"))]).unwrap(), "bridge: \"vmbr0\"\n");
    }

    #[test]
    fn h17_what_cannot_be_edited_by_lines_is_refused() {
        for text in [
            "{bridge: a, other: b}\n",
            "? bridge\n: a\n",
            "a: [\n",
            "- bridge\n",
            "just text\n",
            "text: \"begins\nbridge: still text\"\n",
            "a: 1\n...\nb: 2\n",
            "base: &b {x: 1}\nbridge: a\n<<: *b\nbroken: [\n",
        ] {
            let result = set(text, &[("bridge", json!("vmbr0"))]);
            assert!(result.is_err(), "{text}: {result:?}");
        }
    }

    proptest! {
        /// Whatever the other keys are, either they survive byte for byte or nothing is written.
        #[test]
        fn others_survive(lines in proptest::collection::vec("[a-z]{1,6}: [ -~]{0,20}|#[ -~]{0,10}|  [a-z]: [0-9]{1,4}|", 0..8)) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let keys = [("gc_grace_days", json!(7)), ("bridge", json!("vmbr0"))];
            if let Ok(new) = set(&text, &keys) {
                let mut rest: Vec<&str> = new.lines().collect();
                rest.retain(|line| !line.starts_with("gc_grace_days:") && !line.starts_with("bridge:"));
                let mut old: Vec<&str> = text.lines().collect();
                old.retain(|line| !line.starts_with("gc_grace_days:") && !line.starts_with("bridge:"));
                prop_assert_eq!(rest, old);
                prop_assert_eq!(set(&new, &keys), Ok(new));
            }
        }
    }
}
