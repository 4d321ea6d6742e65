//! Reads the audit trail, newest line first, however long it is: each file backwards through one buffer.
//!
//! A line is stamped and its month chosen by one look at the clock (`audit.rs`), so a month's file holds that month's
//! lines alone, also one that somebody's logrotate has renamed (`2026-11.jsonl.1`, `2026-11.jsonl-20261128`). Compressed
//! ones are told and not read: nothing of this package compresses them.

use crate::host::{Host, read_file};
use crate::value::timestamp;
use anyhow::Context as _;
use chrono::{DateTime, Datelike, Utc};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes that are read at once.
const BLOCK: usize = 64 * 1024;
/// Bytes that a line may have; ours have less than 2 KiB.
const LINE: usize = 64 * 1024;

/// A line of the trail.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditLine {
    /// When it was written.
    pub time: DateTime<Utc>,
    /// Everything in it, in its order.
    pub fields: Map<String, Value>,
}

impl AuditLine {
    fn of(line: &[u8]) -> Option<AuditLine> {
        let fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        let time = timestamp::from_text(text("time")?)?;
        let (Some(_), Some(_)) = (text("verb"), text("vm")) else { return None };
        Some(AuditLine { time, fields })
    }

    /// A field's text; empty where it is missing or no text.
    pub fn text(&self, key: &str) -> &str {
        self.fields.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Those of this VM.
    pub vm: Option<String>,
    /// Those with one of these verbs; all where there is none.
    pub verbs: Vec<String>,
    /// Those of this moment and later.
    pub since: Option<DateTime<Utc>>,
}

impl Wanted {
    fn takes(&self, line: &AuditLine) -> bool {
        self.vm.as_ref().is_none_or(|vm| line.text("vm") == vm)
            && (self.verbs.is_empty() || self.verbs.iter().any(|verb| line.text("verb") == verb))
            && self.since.is_none_or(|since| line.time >= since)
    }
}

/// The trail, from its newest line on.
pub struct AuditTrail {
    wanted: Wanted,
    /// Files that are not begun, the newest last.
    files: Vec<PathBuf>,
    current: Option<(PathBuf, Backwards<File>)>,
    /// What could not be read, one sentence each.
    pub missing: Vec<String>,
    /// Lines that are none.
    damaged: usize,
}

impl AuditTrail {
    /// The trail of this host. Where there is none, nothing was changed yet.
    pub fn open(host: &Host, wanted: Wanted) -> anyhow::Result<AuditTrail> {
        let folder = host.state_dir.join("audit");
        let mut trail =
            AuditTrail { wanted, files: Vec::new(), current: None, missing: Vec::new(), damaged: 0 };
        let listing = match std::fs::read_dir(&folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(trail),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the audit trail {}", folder.display()));
            }
        };
        let mut files = Vec::new();
        for entry in listing {
            let path = entry?.path();
            let Some((month, is_compressed)) = month_of(&path) else { continue };
            if trail.wanted.since.is_some_and(|since| month < (since.year(), since.month())) {
                continue;
            }
            if is_compressed {
                trail
                    .missing
                    .push(format!("{} is compressed and was not read; decompress it", path.display()));
                continue;
            }
            files.push((month, newest_in(&path), path));
        }
        files.sort();
        trail.files = files.into_iter().map(|(_, _, path)| path).collect();
        Ok(trail)
    }

    /// What was passed over, for a person; complete once there is no line left.
    pub fn warnings(&self) -> Vec<String> {
        let damaged = match self.damaged {
            0 => None,
            1 => Some("1 line of the audit trail cannot be read; skipped".to_string()),
            count => Some(format!("{count} lines of the audit trail cannot be read; skipped")),
        };
        self.missing.iter().cloned().chain(damaged).collect()
    }

    /// The next line of the current file; `None` at its beginning.
    fn line(&mut self) -> Option<Option<AuditLine>> {
        let (path, file) = self.current.as_mut()?;
        match file.line() {
            Ok(Some(line)) if line.iter().all(u8::is_ascii_whitespace) => Some(None),
            Ok(Some(line)) => {
                let line = AuditLine::of(&line);
                self.damaged += usize::from(line.is_none());
                Some(line)
            }
            Ok(None) => None,
            Err(error) => {
                self.missing.push(format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }
}

impl Iterator for AuditTrail {
    type Item = AuditLine;

    fn next(&mut self) -> Option<AuditLine> {
        loop {
            match self.line() {
                Some(Some(line)) if self.wanted.takes(&line) => return Some(line),
                Some(_) => continue,
                None => {}
            }
            let path = self.files.pop()?;
            match read_file::open(&path).and_then(Backwards::new) {
                Ok(file) => self.current = Some((path, file)),
                Err(error) => self.missing.push(format!("cannot read {}: {error}", path.display())),
            }
        }
    }
}

/// Year and month of a file of the trail, and whether it is compressed; `None` of another file.
fn month_of(path: &Path) -> Option<((i32, u32), bool)> {
    let name = path.file_name()?.to_str()?;
    let (month, rest) = name.split_once(".jsonl")?;
    let (year, month) = month.split_once('-')?;
    let is_number = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(year, 4) || !is_number(month, 2) || !(rest.is_empty() || rest.starts_with(['.', '-'])) {
        return None;
    }
    let is_compressed = [".gz", ".xz", ".bz2", ".zst"].iter().any(|end| rest.ends_with(end));
    Some(((year.parse().ok()?, month.parse().ok()?), is_compressed))
}

/// The time of a file's last line; `None` where there is none, or it cannot be read.
fn newest_in(path: &Path) -> Option<DateTime<Utc>> {
    let mut file = read_file::open(path).and_then(Backwards::new).ok()?;
    // A line that is being written, or was cut off, is the last: a few more tell.
    for _ in 0..8 {
        if let Some(line) = AuditLine::of(&file.line().ok()??) {
            return Some(line.time);
        }
    }
    None
}

/// The lines of a file, the last first.
struct Backwards<F> {
    file: F,
    /// Where the buffer begins in the file.
    at: u64,
    /// What is not handed out yet, to the end of a line.
    buffer: Vec<u8>,
    /// Nothing was handed out yet.
    is_fresh: bool,
    is_done: bool,
}

impl<F: Read + Seek> Backwards<F> {
    fn new(mut file: F) -> io::Result<Backwards<F>> {
        let at = file.seek(SeekFrom::End(0))?;
        Ok(Backwards { file, at, buffer: Vec::new(), is_fresh: true, is_done: false })
    }

    /// The line before; of one that is too long only its beginning. `None` at the beginning of the file.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = self.buffer.len();
        while !self.is_done {
            let found = self.buffer[..searched].iter().rposition(|byte| *byte == b'\n');
            match found {
                // The line break at the end of the file begins no line.
                Some(at) if self.is_fresh && at + 1 == self.buffer.len() => self.buffer.truncate(at),
                Some(at) => {
                    let line = self.buffer.split_off(at + 1);
                    self.buffer.truncate(at);
                    self.is_fresh = false;
                    return Ok(Some(line));
                }
                None if self.at == 0 => {
                    self.is_done = true;
                    return Ok(Some(std::mem::take(&mut self.buffer)).filter(|line| !line.is_empty()));
                }
                None => {
                    // What is longer than any line of ours is none, and is not gathered.
                    self.buffer.truncate(LINE);
                    searched = self.more()?;
                    continue;
                }
            }
            self.is_fresh = false;
            searched = self.buffer.len();
        }
        Ok(None)
    }

    /// Puts the block before in front; how long it is.
    fn more(&mut self) -> io::Result<usize> {
        let length = usize::try_from(self.at).unwrap_or(BLOCK).min(BLOCK);
        self.at -= length as u64;
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut block = vec![0; length];
        self.file.read_exact(&mut block)?;
        block.append(&mut self.buffer);
        self.buffer = block;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backwards(text: &[u8]) -> Vec<Vec<u8>> {
        let mut file = Backwards::new(io::Cursor::new(text)).unwrap();
        std::iter::from_fn(|| file.line().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn a_file_has_the_same_lines_backwards(lines in proptest::collection::vec("[a-z]{0,40000}", 0..6), ends in any::<bool>()) {
            let mut text = lines.join("\n");
            text.push_str(if ends && !text.is_empty() { "\n" } else { "" });
            let mut expected: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            expected.reverse();
            // The first line of a file may be empty, which nobody misses.
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(backwards(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_line_without_end_is_no_reason_to_gather_it() {
        let mut text = b"first\n".to_vec();
        text.extend(vec![b'x'; 10 * LINE]);
        text.extend(b"\nlast");
        let lines = backwards(&text);
        assert_eq!((lines.len(), lines[0].as_slice(), lines[2].as_slice()), (3, &b"last"[..], &b"first"[..]));
        assert!(lines[1].len() <= LINE + BLOCK, "{}", lines[1].len());
    }

    #[test]
    fn files_are_known_by_their_months() {
        let month = |name: &str| month_of(Path::new(name));
        assert_eq!(month("/a/2026-11.jsonl"), Some(((2026, 11), false)));
        assert_eq!(month("2026-11.jsonl.1"), Some(((2026, 11), false)));
        assert_eq!(month("2026-11.jsonl-20261128"), Some(((2026, 11), false)));
        assert_eq!(month("2026-11.jsonl.2.gz"), Some(((2026, 11), true)));
        for other in ["2026-11.jsonlx", "2026-11.json", "x.jsonl", "20261-1.jsonl", "2026-11", ".jsonl"] {
            assert_eq!(month(other), None, "{other}");
        }
    }
}
