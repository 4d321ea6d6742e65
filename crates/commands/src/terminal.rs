//! What goes to a terminal: nothing in names, wallets or errors of others may be a command to it; columns are as wide as
//! they look; colours only where somebody sees them.

use anstyle::{AnsiColor, Style};
use provisioner::host::variable;
use std::fmt::Write as _;
use unicode_width::UnicodeWidthStr as _;

/// Whether a terminal would obey this character, or turn the direction of writing.
pub fn is_command(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}

/// One cell or line of a person's text: every command by its number.
pub fn one_line(text: &str) -> String {
    if !text.contains(is_command) {
        return text.to_string();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_command(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// Data in which such characters stand inside of quoted texts alone; line breaks between its parts stay. What it means
/// does not change.
pub fn escaped_data(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) && c != '\n' {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// How many columns of a terminal a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Whether colours are wanted: on a terminal that has them, unless the user says no (<https://no-color.org>).
pub fn has_colours(terminal: bool) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    terminal && !refused && variable("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The colour of a word about a VM's state; none of others.
pub fn style_of(word: &str) -> Style {
    match word {
        "active" | "running" | "ok" => AnsiColor::Green.on_default(),
        "suspended" | "paused" => AnsiColor::Yellow.on_default(),
        "unknown" | "missing" => AnsiColor::Red.on_default(),
        "destroyed" | "stopped" => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// A cell with its style.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// What is shown; no commands in it.
    pub text: String,
    /// How.
    pub style: Style,
}

impl Cell {
    /// A text of whomever.
    pub fn of(text: &str) -> Cell {
        Cell { text: one_line(text), style: Style::new() }
    }

    /// With a style.
    pub fn styled(text: &str, style: Style) -> Cell {
        Cell { text: one_line(text), style }
    }
}

/// A table with aligned columns.
pub fn table(header: &[&str], rows: &[Vec<Cell>], colours: bool) -> String {
    let mut widths: Vec<usize> = header.iter().map(|text| width(text)).collect();
    for row in rows {
        for (known, cell) in widths.iter_mut().zip(row) {
            *known = (*known).max(width(&cell.text));
        }
    }
    let bold = Style::new().bold();
    let header: Vec<Cell> = header.iter().map(|text| Cell::styled(text, bold)).collect();
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        push_row(&mut out, row, &widths, colours);
    }
    out
}

/// One row; no blanks at its end.
fn push_row(out: &mut String, row: &[Cell], widths: &[usize], colours: bool) {
    let last = row.iter().rposition(|cell| !cell.text.is_empty());
    for (index, cell) in row.iter().take(last.map_or(0, |last| last + 1)).enumerate() {
        if index > 0 {
            out.push_str("  ");
        }
        let style = if colours { cell.style } else { Style::new() };
        let _ = write!(out, "{style}{}{style:#}", cell.text);
        if Some(index) != last {
            let room = widths.get(index).copied().unwrap_or_default();
            out.extend(std::iter::repeat_n(' ', room.saturating_sub(width(&cell.text))));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_reaches_a_terminal() {
        let hostile = "a\u{1b}[2J\u{9b}31m\u{7f}\r\n\t\u{202e}b\u{61c}";
        let shown = one_line(hostile);
        assert!(!shown.contains(is_command), "{shown:?}");
        assert_eq!(shown, "a\\u{1b}[2J\\u{9b}31m\\u{7f}\\u{d}\\u{a}\\u{9}\\u{202e}b\\u{61c}");
        assert_eq!(one_line("Ünï 😀"), "Ünï 😀");
        let json = serde_json::to_string(hostile).unwrap();
        let escaped = escaped_data(&json);
        assert!(!escaped.contains(is_command), "{escaped:?}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), hostile);
    }

    #[test]
    fn columns_are_as_wide_as_they_look() {
        let cell = |text: &str| Cell::styled(text, style_of(text));
        let rows = [
            vec![cell("日本"), cell("active")],
            vec![cell("a"), cell("")],
            vec![cell("e\u{301}"), cell("x")],
        ];
        assert_eq!(table(&["N", "STATUS"], &rows, false), "N     STATUS\n日本  active\na\ne\u{301}     x\n");
        let coloured = table(&["N", "STATUS"], &rows[..1], true);
        assert_eq!(
            coloured,
            "\u{1b}[1mN\u{1b}[0m     \u{1b}[1mSTATUS\u{1b}[0m\n日本  \u{1b}[32mactive\u{1b}[0m\n"
        );
    }
}
