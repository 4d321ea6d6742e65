//! Files of a lab, with errors that name them.

use serde_json::Value;
use std::path::Path;

/// A file's text.
#[track_caller]
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes a file.
#[track_caller]
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Replaces a text in a file, which must be there.
#[track_caller]
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = read(path);
    assert!(text.contains(from), "{from:?} is not in {}: {text}", path.display());
    write(path, &text.replace(from, to));
}

/// A JSON file.
#[track_caller]
pub fn json(path: &Path) -> Value {
    let text = read(path);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}: {text}", path.display()))
}
