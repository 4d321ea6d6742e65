//! Reads the database file in one pass through a small buffer: `list`, `status` and gc read ten thousand records in
//! milliseconds, and a hundred thousand with the same memory.

use super::record_view::{Fields, RecordView, Wanted};
use crate::value::field_names::FieldNames;
use crate::value::json_text::{Cursor, NOT_UTF_8, Nesting, Stop};
use std::io::{self, Read, Seek, SeekFrom};

/// Size of the buffer in bytes. A record is about 600 bytes; the buffer grows only for a record that is larger.
const BUFFER: usize = 64 * 1024;

/// What the error says is expected instead of the root object.
pub(super) const ROOT: &str = "a JSON object with the key \"vms\"";
/// What the error says is expected instead of the records.
pub(super) const RECORDS: &str = "an object of VM records under \"vms\"";

/// Why a text is not a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The text ends too early.
    CutOff,
    /// This byte is not valid here; what was expected.
    Unexpected(u64, &'static str),
    /// Something follows the root object.
    Trailing(u64),
    /// The key `vms` is missing.
    NoRecords,
    /// The key `vms` appears twice; where the second one begins.
    RecordsTwice(u64),
}

impl Fault {
    /// Returns the fault of a step that began `before` bytes after the start of the file.
    pub(super) fn of(stop: Stop, before: u64) -> Fault {
        match stop {
            Stop::End => Fault::CutOff,
            Stop::Bad(at, expected) => Fault::Unexpected(before + at as u64, expected),
        }
    }

    /// Describes what is wrong and where, for a person. `text` is read again to find the line and column.
    pub(super) fn described(self, mut text: impl Read) -> io::Result<String> {
        let wanted = match self {
            Fault::CutOff => u64::MAX,
            Fault::Unexpected(at, _) | Fault::Trailing(at) | Fault::RecordsTwice(at) => at,
            Fault::NoRecords => 0,
        };
        let (mut length, mut line, mut column, mut is_blank) = (0u64, 1u64, 0u64, true);
        let mut part = vec![0; BUFFER];
        loop {
            let count = match text.read(&mut part) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for byte in &part[..count] {
                is_blank &= byte.is_ascii_whitespace();
                if length <= wanted {
                    (line, column) =
                        if *byte == b'\n' && length < wanted { (line + 1, 0) } else { (line, column + 1) };
                }
                length += 1;
            }
        }
        let byte = wanted.saturating_add(1).min(length);
        let place = format!("at line {line} column {column} (byte {byte} of {length})");
        Ok(match self {
            _ if is_blank => "it is empty".to_string(),
            Fault::CutOff => format!("the file ends too early {place}"),
            Fault::Unexpected(at, NOT_UTF_8) => format!("byte {at} is not UTF-8"),
            Fault::Trailing(_) => format!("trailing characters {place}"),
            Fault::Unexpected(_, expected) => format!("expected {expected} {place}"),
            Fault::NoRecords => "the key \"vms\" is missing".to_string(),
            Fault::RecordsTwice(_) => format!("the key \"vms\" appears twice {place}"),
        })
    }
}

/// What a pass looks for.
pub(super) struct Query<'n> {
    /// The only record to visit; `None` for all of them.
    only: Option<&'n str>,
    wanted: Wanted<'n>,
}

impl<'n> Query<'n> {
    /// These fields of every record.
    pub(super) fn at_all(names: &'n FieldNames, fields: Fields) -> Query<'n> {
        Query { only: None, wanted: Wanted::new(names, fields) }
    }

    /// All known fields of the record of this name.
    pub(super) fn at(names: &'n FieldNames, name: &'n str) -> Query<'n> {
        Query { only: Some(name), wanted: Wanted::new(names, Fields::All) }
    }
}

/// Calls `visit` with every record that `look` selects, in file order. The whole file is checked; if there is an error,
/// discard what was visited before it. The outer error is about reading, the inner one about the text.
pub(super) fn records(
    file: impl Read + Seek,
    look: &Query<'_>,
    visit: &mut dyn FnMut(&RecordView<'_>),
) -> io::Result<Result<(), String>> {
    let mut pass = Pass { window: Window::new(file), look, visit };
    let ended = pass.whole()?;
    pass.window.described(ended)
}

/// Returns the JSON text of a top-level value; meant for values of a few digits.
pub(super) fn top_level(file: impl Read + Seek, key: &str) -> io::Result<Result<Option<String>, String>> {
    let mut found = None;
    let mut window = Window::new(file);
    let ended = entries(&mut window, |window, name| {
        if name == key {
            return window.step(|cursor| cursor.value().map(|json| found = Some(json.to_string())));
        }
        window.pass_over()
    })?;
    Ok(window.described(ended)?.map(|()| found))
}

/// Walks over the entries of the root object; `entry` steps over each value.
fn entries<R: Read + Seek>(
    window: &mut Window<R>,
    mut entry: impl FnMut(&mut Window<R>, &str) -> io::Result<Result<(), Fault>>,
) -> io::Result<Result<(), Fault>> {
    if let Err(fault) = window.step(|cursor| cursor.expect(b'{', ROOT))? {
        return Ok(Err(fault));
    }
    let mut is_first = true;
    loop {
        let mut key = None;
        let step = window.step(|cursor| {
            key = cursor.next_key(is_first)?.map(|key| key.meaning().into_owned());
            Ok(())
        })?;
        let done = match (step, key) {
            (Err(fault), _) => Err(fault),
            (Ok(()), Some(key)) => entry(window, &key)?,
            (Ok(()), None) => return window.end(),
        };
        if done.is_err() {
            return Ok(done);
        }
        is_first = false;
    }
}

struct Pass<'l, 'n, 'v, R> {
    window: Window<R>,
    look: &'l Query<'n>,
    visit: &'v mut dyn FnMut(&RecordView<'_>),
}

impl<R: Read + Seek> Pass<'_, '_, '_, R> {
    fn whole(&mut self) -> io::Result<Result<(), Fault>> {
        let Pass { window, look, visit } = self;
        let mut seen = false;
        let done = entries(window, |window, key| {
            if key != "vms" {
                return window.pass_over();
            }
            if seen {
                return Ok(Err(Fault::RecordsTwice(window.at())));
            }
            seen = true;
            each_record(window, look, visit)
        })?;
        Ok(done.and(if seen { Ok(()) } else { Err(Fault::NoRecords) }))
    }
}

fn each_record<R: Read + Seek>(
    window: &mut Window<R>,
    look: &Query<'_>,
    visit: &mut dyn FnMut(&RecordView<'_>),
) -> io::Result<Result<(), Fault>> {
    if let Err(fault) = window.step(|cursor| cursor.expect(b'{', RECORDS))? {
        return Ok(Err(fault));
    }
    let (mut is_first, mut is_last) = (true, false);
    while !is_last {
        // A step starts over if the buffer ends inside it, so `visit` is called last.
        let step = window.step(|cursor| {
            let Some(key) = cursor.next_key(is_first)? else {
                is_last = true;
                return Ok(());
            };
            if look.only.is_some_and(|only| !key.is(only)) {
                return skip_record(cursor);
            }
            let mut view = RecordView::of(key.meaning());
            fields(cursor, &look.wanted, &mut view)?;
            visit(&view);
            Ok(())
        })?;
        if step.is_err() {
            return Ok(step);
        }
        is_first = false;
    }
    Ok(Ok(()))
}

/// Skips a record that is not wanted, but checks it like the others.
fn skip_record(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    if cursor.peek()? != b'{' {
        return cursor.skip_value();
    }
    cursor.expect(b'{', "a VM record")?;
    let mut is_first = true;
    while cursor.next_key(is_first)?.is_some() {
        cursor.skip_value()?;
        cursor.usual_entries(|_, _| {});
        is_first = false;
    }
    Ok(())
}

/// Reads the wanted fields of one record. A record that is not an object (a number, a list) is one bad record, not a
/// corrupt file: its view stays empty.
fn fields<'t>(cursor: &mut Cursor<'t>, wanted: &Wanted<'_>, view: &mut RecordView<'t>) -> Result<(), Stop> {
    if cursor.peek()? != b'{' {
        return cursor.skip_value();
    }
    cursor.expect(b'{', "a VM record")?;
    let mut is_first = true;
    while let Some(name) = cursor.next_key(is_first)? {
        match wanted.field(name) {
            Some(field) => view.set(field, cursor.value()?),
            None => cursor.skip_value()?,
        }
        cursor.usual_entries(|name, json| {
            if let Some(field) = wanted.field(name) {
                view.set(field, std::str::from_utf8(json).unwrap_or_default());
            }
        });
        is_first = false;
    }
    Ok(())
}

/// A part of the file, and how much of it has been stepped over.
struct Window<R> {
    file: R,
    buffer: Vec<u8>,
    /// The part of the buffer that has not been stepped over yet.
    start: usize,
    end: usize,
    /// Bytes of the file before the buffer.
    before: u64,
    is_whole: bool,
}

impl<R: Read + Seek> Window<R> {
    fn new(file: R) -> Window<R> {
        Window::of_size(file, BUFFER)
    }

    fn of_size(file: R, size: usize) -> Window<R> {
        Window { file, buffer: vec![0; size], start: 0, end: 0, before: 0, is_whole: false }
    }

    /// How many bytes of the file have been stepped over.
    fn at(&self) -> u64 {
        self.before + self.start as u64
    }

    /// Makes a step; if the buffer ends too early, reads more of the file and tries again.
    fn step(
        &mut self,
        mut step: impl FnMut(&mut Cursor<'_>) -> Result<(), Stop>,
    ) -> io::Result<Result<(), Fault>> {
        loop {
            let mut cursor = Cursor::new(&self.buffer[self.start..self.end]);
            match step(&mut cursor) {
                Ok(()) => {
                    self.start += cursor.at();
                    return Ok(Ok(()));
                }
                Err(Stop::End) if !self.is_whole => self.more()?,
                Err(stop) => return Ok(Err(Fault::of(stop, self.at()))),
            }
        }
    }

    /// Steps over a value of any size.
    fn pass_over(&mut self) -> io::Result<Result<(), Fault>> {
        let mut nesting = Nesting::default();
        loop {
            let mut cursor = Cursor::new(&self.buffer[self.start..self.end]);
            let ended = nesting.skip(&mut cursor);
            let at = self.at();
            self.start += cursor.at();
            match ended {
                Ok(()) => return Ok(Ok(())),
                Err(Stop::End) if !self.is_whole => self.more()?,
                Err(stop) => return Ok(Err(Fault::of(stop, at))),
            }
        }
    }

    /// Fails unless only white space follows.
    fn end(&mut self) -> io::Result<Result<(), Fault>> {
        loop {
            let mut cursor = Cursor::new(&self.buffer[self.start..self.end]);
            if !cursor.is_at_end() {
                return Ok(Err(Fault::Trailing(self.at() + cursor.at() as u64)));
            }
            if self.is_whole {
                return Ok(Ok(()));
            }
            self.start += cursor.at();
            self.more()?;
        }
    }

    /// Reads more of the file; what was not stepped over moves to the front of the buffer.
    fn more(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.before += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.file.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.is_whole = count == 0;
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Describes a fault.
    fn described(mut self, ended: Result<(), Fault>) -> io::Result<Result<(), String>> {
        let Err(fault) = ended else { return Ok(Ok(())) };
        self.file.seek(SeekFrom::Start(0))?;
        fault.described(self.file).map(Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor as Memory;

    /// Returns what a pass with a buffer of this size sees, or why the text is not a database.
    fn seen(text: &[u8], size: usize, look: &Query<'_>) -> Result<Vec<(String, String, String)>, String> {
        let mut seen = Vec::new();
        let mut visit = |view: &RecordView<'_>| {
            let vmid = view.vmid().map(|vmid| vmid.to_string()).unwrap_or_default();
            seen.push((view.key.to_string(), view.status_text().into_owned(), vmid));
        };
        let window = Window::of_size(Memory::new(text), size);
        let mut pass = Pass { window, look, visit: &mut visit };
        let ended = pass.whole().unwrap();
        pass.window.described(ended).unwrap().map(|()| seen)
    }

    const SMALL: &str = r#"{ "next_vmid": 102, "ids": [1, [2, {"a": [3]}], "x"],
  "vms": {
    "a": {
      "vm_name": "a",
      "vmid": 100,
      "purpose": "caf\u00e9 \ud800 \"quoted\"",
      "deep": {"x": [1, 2, {"y": null}]},
      "status": "active"
    },
    "caf\u00e9": 7,
    "b": {"status": "destroyed", "vmid": 101, "text": "Ünï 😀"}
  },
  "allocated_ips": [
    "10.0.0.1",
    "10.0.0.2"
  ]
}
"#;

    #[test]
    fn a_record_may_lie_across_the_buffers_end_anywhere() {
        let names = FieldNames::default();
        let record = |name: &str, status: &str, vmid: &str| (name.into(), status.into(), vmid.into());
        let all = vec![record("a", "active", "100"), record("café", "", ""), record("b", "destroyed", "101")];
        for size in 1..SMALL.len() + 2 {
            let look = Query::at_all(&names, Fields::All);
            assert_eq!(seen(SMALL.as_bytes(), size, &look), Ok(all.clone()), "{size}");
            assert_eq!(
                seen(SMALL.as_bytes(), size, &Query::at(&names, "café")),
                Ok(all[1..2].to_vec()),
                "{size}"
            );
        }
        let next = top_level(Memory::new(SMALL), "next_vmid").unwrap();
        assert_eq!(next, Ok(Some("102".to_string())));
    }

    #[test]
    fn h17_every_beginning_of_a_database_is_cut_off_for_every_look() {
        let names = FieldNames::default();
        let text = SMALL.trim_end();
        for end in 1..text.len() {
            for look in [Query::at_all(&names, Fields::Listed), Query::at(&names, "nobody")] {
                let part = &text.as_bytes()[..end];
                let error = seen(part, 16, &look).unwrap_err();
                if !part.iter().all(u8::is_ascii_whitespace) {
                    assert!(
                        error.contains("ends too early")
                            && error.ends_with(&format!("(byte {end} of {end})")),
                        "{error}"
                    );
                }
            }
        }
    }

    #[test]
    fn h17_the_place_of_a_fault_is_told() {
        let names = FieldNames::default();
        let look = Query::at(&names, "nobody");
        for (text, words) in [
            (
                "{\n  \"vms\": {\n    \"a\": {\"vmid\": 01}\n  }\n}",
                "expected `,` or `}` at line 3 column 20 (byte 33 of 40)",
            ),
            ("{\"vms\": {}, \"vms\": {}}", "appears twice at line 1 column 19 (byte 19 of 22)"),
            (
                "{\"vms\": {\"a\": \"\u{1}\"}}",
                "no control character in a string at line 1 column 16 (byte 16 of 19)",
            ),
        ] {
            let error = seen(text.as_bytes(), 4, &look).unwrap_err();
            assert!(error.ends_with(words), "{error}");
        }
        let error = seen(b"{\"vms\": {\"a\": \"\xff\"}}", 4, &look).unwrap_err();
        assert!(error.contains("byte 15 is not UTF-8"), "{error}");
    }

    proptest! {
        /// With one byte of a database changed, every reader accepts and refuses the same texts as serde_json.
        #[test]
        fn a_damaged_file_is_judged_as_serde_json_judges_it(at in 0..SMALL.len(), byte in any::<u8>(), size in 1usize..200) {
            let mut text = SMALL.as_bytes().to_vec();
            text[at] = byte;
            let theirs = serde_json::from_slice::<std::collections::BTreeMap<String, &serde_json::value::RawValue>>(&text)
                .is_ok_and(|root| root.get("vms").is_some_and(|vms| vms.get().starts_with('{')));
            let names = FieldNames::default();
            for look in [Query::at_all(&names, Fields::Due), Query::at(&names, "nobody")] {
                prop_assert_eq!(seen(&text, size, &look).is_ok(), theirs, "{}", text.escape_ascii());
            }
        }
    }
}
