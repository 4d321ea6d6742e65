//! `nft` as far as a guard of guests' cards uses it: one table of family `bridge`, a map from devices to chains, chains and
//! their rules. A file is one transaction: all of it, or nothing. Rules are kept as they were given, not understood;
//! wordings and codes as nftables 1.0.6 gave them.

use std::collections::BTreeMap;

use super::ToolOutput;
use crate::node::Shared;

/// A table: its chains with their rules, and the map's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub chains: BTreeMap<String, Vec<String>>,
    /// Device → chain.
    pub entries: BTreeMap<String, String>,
}

/// All tables, by family and name.
pub(crate) type Tables = BTreeMap<String, Table>;

const NO_SUCH: &str = "No such file or directory";

/// Runs `nft`.
pub(crate) fn run(node: &Shared, argv: &[String], stdin: &str) -> ToolOutput {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut state = node.state();
    let tables = &mut state.network.tables;
    match words.as_slice() {
        ["-f", "-"] => transaction(tables, stdin.lines()),
        ["list", "ruleset"] => {
            ToolOutput::text(tables.iter().map(|(name, table)| shown(name, table)).collect::<String>())
        }
        ["list", "table", family, name] => match tables.get(&format!("{family} {name}")) {
            Some(table) => ToolOutput::text(shown(&format!("{family} {name}"), table)),
            None => failure(NO_SUCH, &words.join(" ")),
        },
        _ => transaction(tables, std::iter::once(words.join(" ").as_str())),
    }
}

fn failure(why: &str, line: &str) -> ToolOutput {
    ToolOutput::failure(1, format!("Error: Could not process rule: {why}\n{line}\n^^^^^^\n"))
}

fn transaction<'a>(tables: &mut Tables, lines: impl Iterator<Item = &'a str>) -> ToolOutput {
    let mut after = tables.clone();
    for line in lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Err(why) = command(&mut after, line) {
            return failure(&why, line);
        }
    }
    *tables = after;
    ToolOutput::default()
}

fn command(tables: &mut Tables, line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [act, object, family, table, rest @ ..] = words.as_slice() else {
        return Err("syntax error, unexpected newline".into());
    };
    let name = format!("{family} {table}");
    match (*act, *object) {
        ("add", "table") => {
            tables.entry(name).or_default();
            return Ok(());
        }
        ("delete", "table") => return tables.remove(&name).map(drop).ok_or_else(|| NO_SUCH.to_owned()),
        _ => {}
    }
    let table = tables.get_mut(&name).ok_or(NO_SUCH)?;
    let chain = rest.first().copied().unwrap_or_default();
    match (*act, *object) {
        ("add", "map") => {}
        ("add", "chain") => drop(table.chains.entry(chain.to_owned()).or_default()),
        ("flush", "chain") => table.chains.get_mut(chain).ok_or(NO_SUCH)?.clear(),
        ("add", "rule") => {
            let rule = rest.iter().skip(1).copied().collect::<Vec<_>>().join(" ");
            table.chains.get_mut(chain).ok_or(NO_SUCH)?.push(rule);
        }
        ("delete", "chain") => {
            let used = table.entries.values().any(|to| to == chain);
            let has_rules = table.chains.get(chain).ok_or(NO_SUCH)?.iter().any(|_| true);
            if used || has_rules {
                return Err("Device or resource busy".into());
            }
            table.chains.remove(chain);
        }
        ("add" | "delete", "element") => {
            let [_, "{", device, ":", "goto", to, "}"] = rest else {
                return Err("syntax error, unexpected string".into());
            };
            let device = device.trim_matches('"').to_owned();
            let there = table.entries.get(&device).map(String::as_str);
            match *act {
                "add" if !table.chains.contains_key(*to) => return Err(NO_SUCH.into()),
                "add" if there.is_some_and(|there| there != *to) => return Err("File exists".into()),
                "add" => drop(table.entries.insert(device, (*to).to_owned())),
                _ if there.is_none() => return Err(NO_SUCH.into()),
                _ => drop(table.entries.remove(&device)),
            }
        }
        _ => return Err("Operation not supported".into()),
    }
    Ok(())
}

fn shown(name: &str, table: &Table) -> String {
    let mut text = format!("table {name} {{\n");
    for (device, chain) in &table.entries {
        text.push_str(&format!("\t\"{device}\" : goto {chain}\n"));
    }
    for (chain, rules) in &table.chains {
        text.push_str(&format!("\tchain {chain} {{\n"));
        rules.iter().for_each(|rule| text.push_str(&format!("\t\t{rule}\n")));
        text.push_str("\t}\n");
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_transaction() {
        let mut tables = Tables::new();
        let mut done = |text: &str| transaction(&mut tables, text.lines()).code;
        let table = "add table bridge t\nadd chain bridge t a\nadd rule bridge t a drop\n";
        assert_eq!(done(table), 0);
        let element = "element bridge t m { \"tap1\" : goto a }";
        assert_eq!(done(&format!("add {element}\nadd {element}")), 0);
        // Rules, an entry that leads there: it cannot go, and so nothing of the file happens.
        assert_eq!(done("add chain bridge t b\ndelete chain bridge t a"), 1);
        assert_eq!(done("flush chain bridge t b"), 1);
        assert_eq!(done("flush chain bridge t a\ndelete chain bridge t a"), 1);
        assert_eq!(done(&format!("delete {element}\nflush chain bridge t a\ndelete chain bridge t a")), 0);
        assert_eq!(done(&format!("delete {element}")), 1);
        assert_eq!(done("delete table bridge t"), 0);
        assert_eq!(done("delete table bridge t"), 1);
        assert!(tables.is_empty());
    }
}
