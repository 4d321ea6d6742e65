//! The pages of `doc/` as man pages: headings, paragraphs, lists, tables and blocks of code, no more than the pages use.

use std::fmt::Write as _;

/// A line's text for roff: escaped, `code` and **bold** in bold, links as their text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut bold = false;
    while let Some(c) = rest.chars().next() {
        let marked = rest.strip_prefix("**").or_else(|| rest.strip_prefix('`'));
        if let Some(behind) = marked {
            bold = !bold;
            out.push_str(if bold { "\\fB" } else { "\\fR" });
            rest = behind;
            continue;
        }
        // `[text](target)`; a bracket in code is a bracket.
        if !bold
            && let Some((label, behind)) = rest.strip_prefix('[').and_then(|r| r.split_once("]("))
            && let Some((_, behind)) = behind.split_once(')')
        {
            out.push_str(&inline(label));
            rest = behind;
            continue;
        }
        out.push_str(&escaped(c));
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn escaped(c: char) -> String {
    match c {
        '\\' => "\\e".into(),
        '-' => "\\-".into(),
        '\'' => "\\(aq".into(),
        '^' => "\\(ha".into(),
        '~' => "\\(ti".into(),
        '`' => "\\(ga".into(),
        '…' => "...".into(),
        c if c.is_ascii() => c.into(),
        c => format!("\\[u{:04X}]", u32::from(c)),
    }
}

/// A line of text cannot begin a request.
fn line(text: &str) -> String {
    let text = inline(text.trim());
    if text.starts_with('.') { format!("\\&{text}\n") } else { format!("{text}\n") }
}

/// The cells of a table's row.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|').replace(r"\|", "\u{0}");
    row.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

/// A row as an entry: the first cell is its term, the second last and named ones are in brackets before the last.
fn entry(headings: &[String], row: &[String]) -> String {
    let Some((term, others)) = row.split_first() else { return String::new() };
    let mut text = String::new();
    for (heading, cell) in headings.iter().skip(1).zip(others).filter(|(_, cell)| !cell.is_empty()) {
        let said = if ["what", "meaning", "effect"].contains(&heading.as_str()) || headings.len() == 2 {
            cell.clone()
        } else {
            format!("{heading}: {cell}")
        };
        text.push_str(if text.is_empty() { "" } else { "; " });
        text.push_str(&said);
    }
    format!(".TP\n{}{}", line(&format!("**{}**", term.replace('`', ""))), line(&text))
}

/// A part of a page, its headings below `##` as sections of the man page.
pub fn page(markdown: &str) -> String {
    let mut out = String::new();
    let mut code = false;
    let mut headings: Option<Vec<String>> = None;
    // A paragraph or the text of a list's item goes on in the next line.
    let mut open = false;
    for text in markdown.lines() {
        if text.starts_with("```") {
            code = !code;
            out.push_str(if code { ".PP\n.RS 4\n.nf\n" } else { ".fi\n.RE\n" });
            open = false;
            continue;
        }
        if code {
            let text: String = text.chars().map(escaped).collect();
            let guard = if text.starts_with('.') { "\\&" } else { "" };
            let _ = writeln!(out, "{guard}{text}");
            continue;
        }
        if let Some(row) = text.strip_prefix('|') {
            match &headings {
                None => headings = Some(cells(row)),
                Some(_) if row.starts_with("--") => {}
                Some(names) => out.push_str(&entry(names, &cells(row))),
            }
            open = false;
            continue;
        }
        headings = None;
        if let Some(title) = text.strip_prefix("### ") {
            let _ = write!(out, ".SS {}", line(title));
            open = false;
        } else if let Some(title) = text.strip_prefix("## ") {
            let _ = write!(out, ".SH {}", line(&title.to_uppercase()));
            open = false;
        } else if text.is_empty() {
            open = false;
        } else if let Some(item) = text.strip_prefix("- ") {
            let _ = write!(out, ".IP \\(bu 2\n{}", line(item));
            open = true;
        } else {
            if !open && !text.starts_with(' ') {
                out.push_str(".PP\n");
            }
            out.push_str(&line(text));
            open = true;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pages_use_becomes_roff() {
        let text = "One `--flag` of\n[db.yaml](configuration.md#x), a \\ and 'quotes'.\n\n- an item\n  goes on\n\n| key | default | meaning |\n|---|---|---|\n| `a`, `b` | `1` | what |\n\n## More\n```\n.code -x\n```\n";
        assert_eq!(
            page(text),
            ".PP\nOne \\fB\\-\\-flag\\fR of\ndb.yaml, a \\e and \\(aqquotes\\(aq.\n.IP \\(bu 2\nan item\ngoes on\n.TP\n\\fBa, b\\fR\ndefault: \\fB1\\fR; what\n.SH MORE\n.PP\n.RS 4\n.nf\n\\&.code \\-x\n.fi\n.RE\n"
        );
    }
}
