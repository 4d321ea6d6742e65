//! Options as PVE's command line reads them: anywhere, with one or two hyphens, abbreviated, and with booleans whose
//! value is optional and therefore eats the next word.

use crate::node::refusal::{Outcome, Refusal};

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// A value, always.
    Value,
    /// A boolean: the next word is its value unless it starts with a hyphen.
    Flag,
}

/// The words that are no options, and the options with their values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub words: Vec<String>,
    pub options: Vec<(String, String)>,
}

impl Parsed {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("" | "1" | "on" | "yes" | "true"))
    }

    /// An integer option.
    pub fn number(&self, name: &str) -> Outcome<Option<u64>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Refusal::parameter(name, format!("type check ('integer') failed - got '{text}'"))
                })
            })
            .transpose()
    }

    /// Exactly so many words.
    pub fn expect(&self, count: usize) -> Outcome<()> {
        match self.words.len() {
            few if few < count => Err(usage("not enough arguments")),
            many if many > count => Err(usage("too many arguments")),
            _ => Ok(()),
        }
    }
}

fn usage(why: &str) -> Refusal {
    Refusal::with_code(400, format!("400 {why}"))
}

/// Reads a command's arguments.
///
/// # Errors
/// An unknown or ambiguous option, a missing value.
pub(crate) fn parse(argv: &[String], known: &[(&str, Takes)]) -> Outcome<Parsed> {
    let mut parsed = Parsed::default();
    let mut words = argv.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.words.extend(words.by_ref().cloned());
            break;
        }
        let Some(option) =
            word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|name| !name.is_empty())
        else {
            parsed.words.push(word.clone());
            continue;
        };
        let (name, given) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let (name, takes) = find(name, known)?;
        let value = match (given, takes) {
            (Some(value), _) => value,
            (None, Takes::Value) => words.next().cloned().ok_or_else(|| {
                Refusal::with_code(
                    400,
                    format!("Option {name} requires an argument\n400 unable to parse option"),
                )
            })?,
            (None, Takes::Flag) => {
                let mut ahead = words.clone();
                match ahead.next().filter(|next| !next.starts_with('-')) {
                    Some(value) => {
                        words = ahead;
                        value.clone()
                    }
                    None => String::new(),
                }
            }
        };
        parsed.options.push((name.to_owned(), value));
    }
    Ok(parsed)
}

fn find<'a>(name: &str, known: &[(&'a str, Takes)]) -> Outcome<(&'a str, Takes)> {
    if let Some(found) = known.iter().find(|(own, _)| *own == name) {
        return Ok(*found);
    }
    let lower = name.to_ascii_lowercase();
    let begun: Vec<&(&str, Takes)> =
        known.iter().filter(|(own, _)| own.to_ascii_lowercase().starts_with(&lower)).collect();
    match begun.as_slice() {
        [one] => Ok(**one),
        [] => Err(Refusal::with_code(400, format!("Unknown option: {name}\n400 unable to parse option"))),
        _ => Err(Refusal::with_code(400, format!("Option {name} is ambiguous\n400 unable to parse option"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Outcome<Parsed> {
        let argv: Vec<String> = line.split(' ').map(String::from).collect();
        parse(
            &argv,
            &[
                ("purge", Takes::Flag),
                ("timeout", Takes::Value),
                ("name", Takes::Value),
                ("nameserver", Takes::Value),
            ],
        )
    }

    #[test]
    fn a_bare_boolean_eats_the_vmid() {
        let eaten = read("--purge 100").unwrap();
        assert!(eaten.words.is_empty());
        assert_eq!(eaten.get("purge"), Some("100"));
        for right in ["100 --purge", "--purge=1 100", "--purge 1 100", "100 --purge --timeout 3"] {
            let parsed = read(right).unwrap();
            assert_eq!(parsed.words, ["100"], "{right}");
            assert!(parsed.flag("purge"), "{right}");
        }
    }

    #[test]
    fn options_are_abbreviated_and_refused() {
        assert_eq!(read("-time 3").unwrap().get("timeout"), Some("3"));
        assert_eq!(read("--name a").unwrap().get("name"), Some("a"));
        assert!(read("--na a").unwrap_err().message.contains("ambiguous"));
        assert!(
            read("--foo 1")
                .unwrap_err()
                .message
                .starts_with("Unknown option: foo\n400 unable to parse option")
        );
        assert!(read("--timeout").is_err());
        assert_eq!(read("a -- --purge").unwrap().words, ["a", "--purge"]);
    }
}
