//! The columns of a list: what each is called, what it shows to people and to programs, and how it is sorted.

use crate::terminal::{Cell, style_of};
use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeDelta, Utc};
use clap::ValueEnum;
use provisioner::operation::list::Row;
use provisioner::operation::node_facts::OnNode;
use provisioner::value::timestamp;
use serde_json::Value;
use std::cmp::Ordering;
use std::net::IpAddr;

/// A column; its name is what `--columns` and `--sort` take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names are those of the columns, which `describe` explains")]
pub enum Column {
    Name,
    Status,
    Ip,
    Created,
    Ipv6,
    Vmid,
    Wallet,
    Username,
    Expires,
    Suspended,
    Protected,
    Node,
    Live,
    Uptime,
    Cpu,
    Memory,
    Disk,
}

use Column::*;

impl Column {
    /// What is shown unless something else is asked for; other programs rely on it.
    pub const USUAL: [Column; 4] = [Name, Status, Ip, Created];
    /// What is shown with `--wide`.
    pub const WIDE: [Column; 12] =
        [Name, Status, Ip, Created, Vmid, Node, Wallet, Expires, Cpu, Memory, Disk, Live];

    /// Its heading.
    pub fn heading(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_ascii_uppercase()).unwrap_or_default()
    }

    /// Its key in JSON, CSV and YAML (`facts/schema/vm-list.json`): with its unit where it has one.
    pub fn key(self) -> &'static str {
        match self {
            Name => "name",
            Status => "status",
            Ip => "ip",
            Created => "created",
            Ipv6 => "ipv6",
            Vmid => "vmid",
            Wallet => "wallet",
            Username => "username",
            Expires => "expires_at",
            Suspended => "suspended_at",
            Protected => "protected",
            Node => "node",
            Live => "live",
            Uptime => "uptime_seconds",
            Cpu => "cpus",
            Memory => "memory_mb",
            Disk => "disk_gb",
        }
    }

    /// Whether the record has it among its usual fields.
    pub fn is_usual(self) -> bool {
        Column::USUAL.contains(&self)
    }

    /// Whether only the node knows it.
    pub fn is_of_node(self) -> bool {
        matches!(self, Node | Live | Uptime | Cpu | Memory | Disk)
    }

    /// What a row has there; `node` is what the node says of it, `live` a word where another source has one.
    pub fn found(self, row: &Row<'_>, node: Option<&OnNode>, live: Option<&'static str>) -> Found {
        let text = |text: &str| if text.is_empty() { Found::None } else { Found::Text(text.to_string()) };
        let view = row.view;
        let number = |number: Option<u64>| number.map_or(Found::None, Found::Number);
        match self {
            Name => Found::Text(row.name.to_string()),
            Status => Found::Text(row.status.to_string()),
            Ip => address(row.ip),
            Created => text(row.created),
            Ipv6 => address(&view.ipv6_text()),
            Vmid => number(view.vmid().map(|vmid| u64::from(vmid.get()))),
            Wallet => text(&view.wallet_text()),
            Username => text(&view.username_text()),
            Expires => view.expires_at().map_or(Found::None, Found::Time),
            Suspended => view.suspended_at().map_or(Found::None, Found::Time),
            Protected => Found::Flag(view.is_protected()),
            Node => node.map_or(Found::None, |node| text(&node.node)),
            Live => text(node.map(|node| node.state.as_str()).or(live).unwrap_or_default()),
            Uptime => number(node.map(|node| node.uptime_seconds)),
            Cpu => number(node.map(|node| node.cpus)),
            Memory => number(node.map(|node| node.memory_mb)),
            Disk => number(node.map(|node| node.disk_gb)),
        }
    }

    /// For a program. What a usual column lacks has always been an empty text.
    pub fn json(self, found: &Found) -> Value {
        match found {
            Found::None if self.is_usual() => "".into(),
            found => found.json(),
        }
    }

    /// For a person.
    pub fn cell(self, found: &Found, now: DateTime<Utc>) -> Cell {
        match (self, found) {
            (_, Found::None) => Cell::of(if self.is_usual() { "" } else { "-" }),
            (Status | Live, Found::Text(word)) => Cell::styled(word, style_of(word)),
            (Wallet, Found::Text(wallet)) => Cell::of(&shortened(wallet)),
            (Expires, Found::Time(end)) => Cell::styled(&distance(*end, now), urgency(*end, now)),
            (Memory, Found::Number(mb)) => Cell::of(&format!("{mb} MB")),
            (Disk, Found::Number(gb)) => Cell::of(&format!("{gb} GB")),
            (Uptime, Found::Number(seconds)) => Cell::of(&length(*seconds)),
            (_, Found::Text(text) | Found::Address(_, text)) => Cell::of(text),
            (_, Found::Number(number)) => Cell::of(&number.to_string()),
            (_, Found::Time(time)) => Cell::of(&time.format("%Y-%m-%d %H:%M UTC").to_string()),
            (_, Found::Flag(flag)) => Cell::of(if *flag { "yes" } else { "no" }),
        }
    }
}

fn address(text: &str) -> Found {
    match text.parse() {
        Ok(address) => Found::Address(address, text.to_string()),
        Err(_) if text.is_empty() => Found::None,
        Err(_) => Found::Text(text.to_string()),
    }
}

/// What stands in a column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or nobody knows.
    None,
    /// A number in the unit of the column's key.
    Number(u64),
    /// A moment.
    Time(DateTime<Utc>),
    /// Yes or no.
    Flag(bool),
    /// An address, as it is written in the record.
    Address(IpAddr, String),
    /// A text.
    Text(String),
}

impl Found {
    /// For a program.
    pub fn json(&self) -> Value {
        match self {
            Found::None => Value::Null,
            Found::Number(number) => (*number).into(),
            Found::Time(time) => timestamp::to_text(*time).into(),
            Found::Flag(flag) => (*flag).into(),
            Found::Address(_, text) | Found::Text(text) => text.as_str().into(),
        }
    }

    /// For a cell of CSV.
    pub fn plain(&self) -> String {
        match self.json() {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        }
    }

    /// The order of a list; what nobody knows comes last whichever way it is sorted.
    pub fn order(&self, other: &Found, descending: bool) -> Ordering {
        let known = match (self, other) {
            (Found::None, Found::None) => return Ordering::Equal,
            (Found::None, _) => return Ordering::Greater,
            (_, Found::None) => return Ordering::Less,
            (Found::Number(one), Found::Number(other)) => one.cmp(other),
            (Found::Time(one), Found::Time(other)) => one.cmp(other),
            (Found::Flag(one), Found::Flag(other)) => other.cmp(one),
            (Found::Address(one, _), Found::Address(other, _)) => one.cmp(other),
            // A record with something else than an address in its place.
            _ => self.plain().cmp(&other.plain()),
        };
        if descending { known.reverse() } else { known }
    }
}

/// `0xAb58…eC9B`: enough to tell one from another.
pub fn shortened(wallet: &str) -> String {
    let letters: Vec<char> = wallet.chars().collect();
    if letters.len() <= 13 {
        return wallet.to_string();
    }
    let (begin, end) = (&letters[..6], &letters[letters.len() - 4..]);
    begin.iter().chain(['…'].iter()).chain(end).collect()
}

/// `in 3 days`, `2 h ago`: one unit.
pub fn distance(end: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let left = (end - now).num_seconds();
    let words = length(left.unsigned_abs());
    if left < 0 { format!("{words} ago") } else { format!("in {words}") }
}

/// A length of time in one unit, rounded down.
pub fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Over, or over within a week.
fn urgency(end: DateTime<Utc>, now: DateTime<Utc>) -> Style {
    match end - now {
        left if left <= TimeDelta::zero() => AnsiColor::Red.on_default(),
        left if left <= TimeDelta::days(7) => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_comes_last_and_numbers_are_no_texts() {
        let mut found = vec![Found::Number(100), Found::None, Found::Number(9), Found::Number(10)];
        found.sort_by(|one, other| one.order(other, false));
        assert_eq!(found, [Found::Number(9), Found::Number(10), Found::Number(100), Found::None]);
        found.sort_by(|one, other| one.order(other, true));
        assert_eq!(found, [Found::Number(100), Found::Number(10), Found::Number(9), Found::None]);
        assert_eq!(address("10.0.0.10").order(&address("10.0.0.9"), false), Ordering::Greater);
        assert_eq!(address("x").order(&address("10.0.0.9"), false), Ordering::Greater);
    }

    #[test]
    fn words_for_people() {
        assert_eq!(shortened("0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B"), "0xAb58…eC9B");
        assert_eq!(shortened("bc1qshort"), "bc1qshort");
        let now = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let after = |seconds| distance(now + TimeDelta::seconds(seconds), now);
        assert_eq!(
            [after(3 * 86_400 + 5), after(7200), after(-90), after(0)],
            ["in 3 days", "in 2 h", "90 s ago", "in 0 s"]
        );
    }
}
