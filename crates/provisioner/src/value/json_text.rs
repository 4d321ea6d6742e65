//! JSON as text: checked and taken apart without building a tree.
//!
//! Ten commands read the VM database within two seconds, and of its thousands of records one is wanted. A tree of
//! values, or a general reader that takes one byte at a time, costs more than everything else a command does. A
//! [`Cursor`] walks over a slice, checks all of it (RFC 8259), and returns pieces of the text unchanged, so that
//! numbers beyond 64 bits and lone surrogates written by other programs survive a rewrite.
//!
//! A slice may be the beginning of a longer text: [`Stop::End`] then asks for more, and the same step can be repeated
//! without loss.

use std::borrow::Cow;
use wide::u8x16;

/// Why a cursor cannot continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The text ends inside a value. Every text read here is an object, so even a number at the end is incomplete.
    End,
    /// This byte (counted from the start of the slice) is not valid here; what was expected.
    Bad(usize, &'static str),
}

/// What [`Stop::Bad`] expects in place of bytes that are not UTF-8.
pub const NOT_UTF_8: &str = "UTF-8";

/// A JSON string as it is in the text, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawText<'t> {
    written: &'t [u8],
    has_escapes: bool,
}

impl<'t> RawText<'t> {
    /// From a string that a cursor has already checked.
    pub fn checked(written: &'t str) -> RawText<'t> {
        RawText { written: written.as_bytes(), has_escapes: written.contains('\\') }
    }

    /// Returns the text between the quotes.
    pub fn as_written(self) -> &'t str {
        // The cursor has checked that it is UTF-8.
        std::str::from_utf8(self.written).unwrap_or_default()
    }

    /// Returns the decoded string. A lone surrogate, which a Rust string cannot contain, becomes U+FFFD: good enough
    /// for reading, not for writing.
    pub fn meaning(self) -> Cow<'t, str> {
        let written = self.as_written();
        if self.has_escapes { Cow::Owned(unescaped(written)) } else { Cow::Borrowed(written) }
    }

    /// Whether the decoded string is `text`.
    #[inline]
    pub fn is(self, text: &str) -> bool {
        if self.has_escapes { self.meaning() == text } else { self.written == text.as_bytes() }
    }
}

/// Decodes a JSON string, quotes included, that a cursor has checked; `None` for any other value.
pub fn text_of(json: &str) -> Option<Cow<'_, str>> {
    let written = json.strip_prefix('"')?.strip_suffix('"')?;
    let has_escapes = written.as_bytes().contains(&b'\\');
    Some(if has_escapes { Cow::Owned(unescaped(written)) } else { Cow::Borrowed(written) })
}

/// Returns a whole number from JSON that a cursor has checked. It may be written as a string: an engine's setup writes
/// `"next_vmid": "100"`.
pub fn whole_number(json: &str) -> Option<u32> {
    match text_of(json) {
        Some(text) => text.trim().parse().ok(),
        None => json.parse().ok(),
    }
}

/// Decodes a checked JSON string with escapes.
fn unescaped(written: &str) -> String {
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    while let Some((before, escape)) = rest.split_once('\\') {
        text.push_str(before);
        let code = |hex: &str| hex.get(..4).and_then(|h| u32::from_str_radix(h, 16).ok());
        let (meaning, length) = match escape.as_bytes().first() {
            Some(b'u') => {
                let first = code(&escape[1..]).unwrap_or(0xFFFD);
                let second = escape.get(5..).and_then(|r| r.strip_prefix("\\u")).and_then(code);
                match (first, second) {
                    (0xD800..=0xDBFF, Some(low @ 0xDC00..=0xDFFF)) => {
                        (char::from_u32(0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00)), 11)
                    }
                    _ => (char::from_u32(first), 5),
                }
            }
            Some(b'b') => (Some('\u{8}'), 1),
            Some(b'f') => (Some('\u{c}'), 1),
            Some(b'n') => (Some('\n'), 1),
            Some(b'r') => (Some('\r'), 1),
            Some(b't') => (Some('\t'), 1),
            other => (other.map(|b| char::from(*b)), 1),
        };
        text.push(meaning.unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = escape.get(length..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

/// A position in a JSON text.
#[derive(Debug, Clone)]
pub struct Cursor<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl<'t> Cursor<'t> {
    /// Starts at the beginning of a text.
    pub fn new(bytes: &'t [u8]) -> Cursor<'t> {
        Cursor { bytes, at: 0 }
    }

    /// Returns how many bytes have been stepped over.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Returns the next byte that is not white space, without stepping over it.
    #[inline]
    pub fn peek(&mut self) -> Result<u8, Stop> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte > b' ' => Ok(*byte),
            Some(_) => self.peek_behind_space(),
            None => Err(Stop::End),
        }
    }

    fn peek_behind_space(&mut self) -> Result<u8, Stop> {
        // The indentation of a record's fields, which is the same for all writers of the file.
        if let Some(indentation) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>())
            && indentation == b"\n      \""
        {
            self.at += 7;
            return Ok(b'"');
        }
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return Err(Stop::End),
            }
        }
    }

    /// Whether only white space is left.
    pub fn is_at_end(&mut self) -> bool {
        matches!(self.peek(), Err(Stop::End))
    }

    /// Steps over `byte`.
    #[inline]
    pub fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), Stop> {
        if self.peek()? != byte {
            return Err(self.bad(expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Returns the key of the next entry of an object whose opening brace was stepped over; `None` after the last
    /// entry. The cursor is then before the value, which must be stepped over before the next call.
    #[inline]
    pub fn next_key(&mut self, is_first: bool) -> Result<Option<RawText<'t>>, Stop> {
        match self.peek()? {
            b'}' => {
                self.at += 1;
                return Ok(None);
            }
            b',' if !is_first => {
                self.at += 1;
                self.peek()?;
            }
            b'"' if is_first => {}
            _ => return Err(self.bad(if is_first { "a key or `}`" } else { "`,` or `}`" })),
        }
        let key = self.string()?;
        self.expect(b':', "`:`")?;
        Ok(Some(key))
    }

    /// Whether a list whose opening bracket was stepped over has another element. The cursor is then before that
    /// element, or after the list.
    pub fn next_item(&mut self, is_first: bool) -> Result<bool, Stop> {
        match self.peek()? {
            b']' => {
                self.at += 1;
                return Ok(false);
            }
            b',' if !is_first => self.at += 1,
            _ if is_first => {}
            _ => return Err(self.bad("`,` or `]`")),
        }
        Ok(true)
    }

    /// Steps over a string and returns it.
    #[inline]
    pub fn string(&mut self) -> Result<RawText<'t>, Stop> {
        if self.peek()? != b'"' {
            return Err(self.bad("a string"));
        }
        let begin = self.at + 1;
        let (end, has_escapes) = end_of_string(self.bytes, begin)?;
        self.at = end + 1;
        Ok(RawText { written: &self.bytes[begin..end], has_escapes })
    }

    /// Steps over a value and returns its text.
    pub fn value(&mut self) -> Result<&'t str, Stop> {
        self.peek()?;
        let begin = self.at;
        self.skip_value()?;
        std::str::from_utf8(&self.bytes[begin..self.at]).map_err(|_| Stop::Bad(begin, NOT_UTF_8))
    }

    /// Steps over a value.
    #[inline]
    pub fn skip_value(&mut self) -> Result<(), Stop> {
        match self.peek()? {
            b'"' => {
                self.at = end_of_string(self.bytes, self.at + 1)?.0 + 1;
                Ok(())
            }
            b'{' | b'[' => Nesting::default().skip(self),
            _ => self.skip_word(),
        }
    }

    /// After a value in an object: steps over the following entries that are in the usual layout of the file's writers,
    /// and passes them to `visit`. The rest of the object is left to [`Cursor::next_key`].
    #[inline]
    pub fn usual_entries(&mut self, mut visit: impl FnMut(RawText<'t>, &'t [u8])) {
        let mut rest = self.bytes.get(self.at..).unwrap_or_default();
        while let Some((key, value, behind)) = usual_entry(rest) {
            visit(RawText { written: key, has_escapes: false }, value);
            rest = behind;
        }
        self.at = self.bytes.len() - rest.len();
    }

    /// Steps over a number, `true`, `false` or `null`.
    fn skip_word(&mut self) -> Result<(), Stop> {
        let rest = &self.bytes[self.at..];
        for word in [b"true".as_slice(), b"false", b"null"] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
            if word.starts_with(rest) {
                return Err(Stop::End);
            }
        }
        self.skip_number()
    }

    fn skip_number(&mut self) -> Result<(), Stop> {
        let mut at = self.at;
        let byte = |at: usize| self.bytes.get(at).copied().ok_or(Stop::End);
        let digits = |mut at: usize| {
            if !byte(at)?.is_ascii_digit() {
                return Err(Stop::Bad(at, "a value"));
            }
            while byte(at)?.is_ascii_digit() {
                at += 1;
            }
            Ok(at)
        };
        if byte(at)? == b'-' {
            at += 1;
        }
        at = if byte(at)? == b'0' { at + 1 } else { digits(at)? };
        if byte(at)? == b'.' {
            at = digits(at + 1)?;
        }
        if matches!(byte(at)?, b'e' | b'E') {
            at += 1;
            if matches!(byte(at)?, b'+' | b'-') {
                at += 1;
            }
            at = digits(at)?;
        }
        self.at = at;
        Ok(())
    }

    /// The error for a byte that is not valid here.
    pub fn bad(&self, expected: &'static str) -> Stop {
        Stop::Bad(self.at, expected)
    }
}

/// The nesting of a value that is being walked over, and what may come next. The walk can stop at a [`Stop::End`] and
/// continue in a longer slice, so a list of a hundred thousand addresses does not need a buffer of its size.
#[derive(Debug, Clone, Default)]
pub struct Nesting {
    /// Open brackets, innermost last; true for an object.
    open: Vec<bool>,
    /// Whether the cursor is after a value, not before one.
    is_behind: bool,
    /// Whether nothing has followed the innermost opening bracket yet.
    is_fresh: bool,
}

impl Nesting {
    /// Continues to the end of the value. At [`Stop::End`] the cursor is after the last complete token.
    pub fn skip(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        loop {
            if self.is_behind && self.open == [false] {
                cursor.at = behind_usual_items(cursor.bytes, cursor.at);
            }
            let before = cursor.at;
            match self.token(cursor) {
                Ok(()) if self.open.is_empty() => return Ok(()),
                Ok(()) => {}
                Err(stop) => {
                    cursor.at = before;
                    return Err(stop);
                }
            }
        }
    }

    #[inline]
    fn token(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        let next = cursor.peek()?;
        let in_object = self.open.last().copied();
        if (self.is_behind || self.is_fresh) && next == if in_object == Some(true) { b'}' } else { b']' } {
            cursor.at += 1;
            self.open.pop();
            (self.is_behind, self.is_fresh) = (true, false);
            return Ok(());
        }
        if self.is_behind {
            if next != b',' {
                return Err(cursor.bad(if in_object == Some(true) { "`,` or `}`" } else { "`,` or `]`" }));
            }
            cursor.at += 1;
        }
        if in_object == Some(true) {
            cursor.string()?;
            cursor.expect(b':', "`:`")?;
        }
        match cursor.peek()? {
            bracket @ (b'{' | b'[') => {
                cursor.at += 1;
                self.open.push(bracket == b'{');
                (self.is_behind, self.is_fresh) = (false, true);
            }
            _ => {
                cursor.skip_value()?;
                (self.is_behind, self.is_fresh) = (true, false);
            }
        }
        Ok(())
    }
}

/// Returns the position after the items `,\n    "text"` of a top-level list, which is the usual layout of the lists of
/// addresses.
fn behind_usual_items(bytes: &[u8], from: usize) -> usize {
    let mut rest = bytes.get(from..).unwrap_or_default();
    while let Some((b",\n    \"", text)) = rest.split_first_chunk::<7>()
        && let Some(after) = behind_plain_text(text)
    {
        rest = after;
    }
    bytes.len() - rest.len()
}

/// Returns what follows the closing quote of an ASCII string without escapes; `None` for any other string.
#[inline(always)]
fn behind_plain_text(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (sixteen, behind) = rest.split_first_chunk::<16>()?;
        let special = special_bytes(sixteen);
        if special == 0 {
            rest = behind;
            continue;
        }
        let (first, behind) = rest.get((special.trailing_zeros()) as usize..)?.split_first()?;
        return (*first == b'"').then_some(behind);
    }
}

/// Returns the entry that follows if it has exactly the layout `,\n      "key": "text"` or `,\n      "key": 123`, which
/// nearly everything in the file has: its key, its value, and the rest. Comparing the layout as a whole is what makes a
/// pass over ten thousand records cheap. Anything else, valid or not, is left to [`Cursor::next_key`] and
/// [`Cursor::skip_value`].
#[inline(always)]
fn usual_entry(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (b",\n      \"", key) = rest.split_first_chunk::<9>()? else { return None };
    let end = behind_plain_text(key)?;
    let (b": ", value) = end.split_first_chunk::<2>()? else { return None };
    let behind = match value.split_first()? {
        (b'"', text) => behind_plain_text(text)?,
        (b'1'..=b'9', digits) => {
            let behind = &digits[digits.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
            // Any other byte could continue the number.
            behind.starts_with(b",").then_some(behind)?
        }
        _ => return None,
    };
    Some((&key[..key.len() - end.len() - 1], &value[..value.len() - behind.len()], behind))
}

/// Returns where the string that begins at `at` (after its opening quote) ends: the position of its closing quote, and
/// whether it has escapes.
#[inline]
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<(usize, bool), Stop> {
    let mut has_escapes = false;
    loop {
        // Takes sixteen bytes at once while none of them is a quote, a backslash, a control character or non-ASCII.
        let mut rest = bytes.get(at..).unwrap_or_default();
        while let Some((sixteen, behind)) = rest.split_first_chunk::<16>() {
            let special = special_bytes(sixteen);
            if special != 0 {
                at += (special.trailing_zeros()) as usize;
                break;
            }
            at += 16;
            rest = behind;
        }
        match bytes.get(at).ok_or(Stop::End)? {
            b'"' => return Ok((at, has_escapes)),
            b'\\' => (at, has_escapes) = (end_of_escape(bytes, at)?, true),
            0..0x20 => return Err(Stop::Bad(at, "no control character in a string")),
            0x80.. => at = end_of_character(bytes, at)?,
            _ => at += 1,
        }
    }
}

/// Returns a bit for each byte that needs a closer check: a quote, a backslash, a control character, or non-ASCII.
#[inline(always)]
fn special_bytes(sixteen: &[u8; 16]) -> u32 {
    let bytes = u8x16::new(*sixteen);
    let special = bytes.simd_eq(u8x16::splat(b'"'))
        | bytes.simd_eq(u8x16::splat(b'\\'))
        | bytes.simd_eq(bytes.min(u8x16::splat(0x1f)))
        // Only the highest bit of each byte counts, and non-ASCII bytes have it set.
        | bytes;
    special.to_bitmask()
}

fn end_of_escape(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    match bytes.get(at + 1).ok_or(Stop::End)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
        b'u' => {
            for digit in at + 2..at + 6 {
                if !bytes.get(digit).ok_or(Stop::End)?.is_ascii_hexdigit() {
                    return Err(Stop::Bad(digit, "four hexadecimal digits"));
                }
            }
            Ok(at + 6)
        }
        _ => Err(Stop::Bad(at + 1, "an escape sequence")),
    }
}

fn end_of_character(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    let length = match bytes[at] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return Err(Stop::Bad(at, NOT_UTF_8)),
    };
    let there = &bytes[at..bytes.len().min(at + length)];
    match std::str::from_utf8(there) {
        Ok(_) => Ok(at + length),
        Err(error) if error.error_len().is_none() => Err(Stop::End),
        Err(_) => Err(Stop::Bad(at, NOT_UTF_8)),
    }
}

#[cfg(test)]
mod tests;
