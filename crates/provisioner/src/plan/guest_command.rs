//! The text sent into a guest to run a command: ASCII only (hazard H53).
//!
//! Proxmox' multiplexer counts characters where it sends bytes. A request with two or more bytes beyond ASCII loses
//! that many at its end; the guest agent waits for the rest, and from then on it answers nobody (`facts/proxmox.md`,
//! section 1). So such a command is sent as a small program that prints it byte for byte and then becomes the intended
//! shell.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Maximum length in bytes of a command for the root agent (Linux allows 128 KiB per argument).
const LIMIT: usize = 64 * 1024;

/// The command is too long to send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the command has characters beyond ASCII and is {size} bytes long in the form in which it can be sent; the limit is {LIMIT}"
)]
pub struct TooLong {
    size: usize,
}

/// Returns the text for `/bin/sh -c` in the guest that does there what `command` does.
///
/// # Errors
/// The command has characters beyond ASCII, each byte of which takes four, and is therefore too long.
pub fn for_guest(command: &str) -> Result<Cow<'_, str>, TooLong> {
    // `sh -c` takes a text that begins with `-` or `+` for an option; a leading blank prevents that and changes nothing
    // else.
    let blank = if command.starts_with(['-', '+']) { " " } else { "" };
    if command.is_ascii() {
        let plain = if blank.is_empty() { command.into() } else { format!("{blank}{command}").into() };
        return Ok(plain);
    }
    // `$(…)` strips trailing newlines, so a dot is appended to the text and removed again; in no encoding is it part of
    // a multi-byte character. The variable is not exported, and `exec` keeps the PID, input and output.
    let text = format!("_c=$(printf '{blank}{}.');exec /bin/sh -c \"${{_c%.}}\"", format_of(command));
    if text.len() > LIMIT {
        return Err(TooLong { size: text.len() });
    }
    Ok(text.into())
}

/// Returns a printf(1) format that prints this text and can be put between single quotes.
fn format_of(text: &str) -> String {
    let mut format = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'\\' => format.push_str("\\\\"),
            b'%' => format.push_str("%%"),
            b'\n' | b' '..=b'~' if byte != b'\'' => format.push(byte.into()),
            // Always three digits, because the text may continue with a digit.
            _ => {
                let written = write!(format, "\\{byte:03o}");
                debug_assert!(written.is_ok(), "a String takes everything");
            }
        }
    }
    format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h53_what_is_ascii_stays_as_it_is() {
        for text in ["echo hi", "", "printf '%s\\n' \"a\"\n\n", "\u{1b}\u{7f}"] {
            assert_eq!(for_guest(text).unwrap(), text);
        }
        assert_eq!(for_guest("-x").unwrap(), " -x");
    }

    #[test]
    fn h53_what_is_not_is_encoded() {
        let sent = for_guest("echo '100 % ü\\n'4\n").unwrap();
        assert_eq!(
            sent,
            "_c=$(printf 'echo \\047100 %% \\303\\274\\\\n\\0474\n.');exec /bin/sh -c \"${_c%.}\""
        );
        assert!(sent.is_ascii());
    }

    #[test]
    fn h53_what_grows_too_long_is_refused() {
        assert!(for_guest(&"ü".repeat(8_000)).is_ok());
        let error = for_guest(&"ü".repeat(8_200)).unwrap_err();
        assert!(error.to_string().contains("beyond ASCII"), "{error}");
    }
}
