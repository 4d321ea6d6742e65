//! Reads `schema.txt`; the form of its lines is told at its head.

use super::{Attribute, Block, Check, Nested, Schema};
use crate::{value::Value, version::Version};
use serde_json::{Value as Json, json};

/// The lines that hold for `version`, as blocks; an error names the line.
pub fn schema(text: &str, version: Version) -> Result<Schema, String> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [first, ..] = words.as_slice()
            && !first.starts_with('#')
        {
            let depth = (line.len() - line.trim_start().len()) / 2;
            lines.push(Line { number: index + 1, depth, words });
        }
    }
    let mut schema = Schema { provider: Block::default(), resources: Vec::new() };
    let mut rest = lines.as_slice();
    while let Some((head, tail)) = rest.split_first() {
        let (body, after) = content(tail, 0);
        rest = after;
        let block = read_block(body, version)?;
        match head.words.as_slice() {
            ["provider"] => schema.provider = block,
            ["resource", name] => schema.resources.push(((*name).to_string(), block)),
            _ => return Err(head.wrong("neither provider nor resource")),
        }
    }
    Ok(schema)
}

struct Line<'a> {
    number: usize,
    depth: usize,
    words: Vec<&'a str>,
}

impl Line<'_> {
    fn wrong(&self, what: &str) -> String {
        format!("schema.txt, line {}: {what}", self.number)
    }
}

/// The lines deeper than `depth` at the front, and what follows them.
fn content<'a, 'b>(lines: &'b [Line<'a>], depth: usize) -> (&'b [Line<'a>], &'b [Line<'a>]) {
    let end = lines.iter().position(|line| line.depth <= depth).unwrap_or(lines.len());
    lines.split_at(end)
}

fn read_block(lines: &[Line], version: Version) -> Result<Block, String> {
    let mut block = Block::default();
    let mut rest = lines;
    while let Some((line, tail)) = rest.split_first() {
        rest = tail;
        let (words, flags) = match line.words.as_slice() {
            ["block", name, flags @ ..] => (["block", name, ""], flags),
            [name, kind, mode, flags @ ..] => ([*name, *kind, *mode], flags),
            _ => return Err(line.wrong("too few words")),
        };
        let flags = Flags::read(line, flags)?;
        let holds = flags.since.is_none_or(|since| version >= since)
            && flags.before.is_none_or(|before| version < before);
        if words[0] == "block" {
            let (body, after) = content(tail, line.depth);
            rest = after;
            if holds {
                block.blocks.push(Nested {
                    name: words[1].into(),
                    block: read_block(body, version)?,
                    max: flags.max,
                    replace: flags.replace,
                    as_attribute: flags.attribute_since.is_some_and(|since| version >= since),
                });
            }
        } else if holds {
            block.attributes.push(attribute(line, words, flags)?);
        }
    }
    Ok(block)
}

fn attribute(line: &Line, [name, kind, mode]: [&str; 3], flags: Flags) -> Result<Attribute, String> {
    let kind = match kind {
        "string" | "number" | "bool" => json!(kind),
        "list(string)" => json!(["list", "string"]),
        "list(list(string))" => json!(["list", ["list", "string"]]),
        _ => return Err(line.wrong("unknown type")),
    };
    let (required, optional, computed) = match mode {
        "req" => (true, false, false),
        "opt" => (false, true, false),
        "comp" => (false, false, true),
        "optcomp" => (false, true, true),
        _ => return Err(line.wrong("unknown mode")),
    };
    Ok(Attribute {
        name: name.into(),
        kind,
        required,
        optional,
        computed,
        sensitive: flags.sensitive,
        deprecated: flags.deprecated,
        default: flags.default,
        replace: flags.replace,
        checks: flags.checks,
    })
}

#[derive(Default)]
struct Flags {
    default: Option<Value>,
    replace: bool,
    sensitive: bool,
    deprecated: bool,
    since: Option<Version>,
    before: Option<Version>,
    attribute_since: Option<Version>,
    max: i64,
    checks: Vec<Check>,
}

impl Flags {
    fn read(line: &Line, words: &[&str]) -> Result<Self, String> {
        let mut flags = Self::default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let version = || Version::parse(value).ok_or_else(|| line.wrong("not a version"));
            match key {
                "replace" => flags.replace = true,
                "sensitive" => flags.sensitive = true,
                "deprecated" => flags.deprecated = true,
                "since" => flags.since = Some(version()?),
                "before" => flags.before = Some(version()?),
                "attribute_since" => flags.attribute_since = Some(version()?),
                "max" => flags.max = value.parse().map_err(|_| line.wrong("not a number"))?,
                "default" => {
                    let json: Json =
                        serde_json::from_str(value).map_err(|_| line.wrong("default is not JSON"))?;
                    flags.default = Some(Value::from_json(&json));
                }
                "range" => flags.checks.push(range(value).ok_or_else(|| line.wrong("not a range"))?),
                "oneof" => flags.checks.push(Check::OneOf(value.split('|').map(Into::into).collect())),
                "check" => flags.checks.push(Check::Named(value.into())),
                _ => return Err(line.wrong("unknown flag")),
            }
        }
        Ok(flags)
    }
}

fn range(text: &str) -> Option<Check> {
    let (low, high) = text.split_once("..")?;
    let high = if high.is_empty() { i64::MAX } else { high.parse().ok()? };
    Some(Check::Range(low.parse().ok()?, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_differ_where_they_should() {
        let old = Schema::of(Version(0, 93, 0)).unwrap();
        let new = Schema::of(Version(0, 111, 1)).unwrap();
        let nic = |schema: &Schema| {
            let vm = schema.resource(super::super::VM).unwrap();
            vm.blocks.iter().find(|b| b.name == "network_device").unwrap().as_attribute
        };
        assert_eq!((nic(&old), nic(&new)), (false, true));
    }

    #[test]
    fn mistakes_name_their_line() {
        let of = |text| schema(text, Version(0, 93, 0)).err().unwrap();
        assert_eq!(of("provider\n  a string opt colour=red"), "schema.txt, line 2: unknown flag");
        assert_eq!(of("# head\n\nprovider\n  a text opt"), "schema.txt, line 4: unknown type");
        assert_eq!(of("data x"), "schema.txt, line 1: neither provider nor resource");
    }
}
