//! `blockhost-vm-list`: a table or JSON.

use crate::{Common, answer, complain, on_terminal};
use clap::{Parser, ValueEnum};
use provisioner::host::Host;
use provisioner::operation::list::{Row, list};
use provisioner::operation::status::{self, LiveWord};
use provisioner::operation::{Context, mock};
use provisioner::value::vm_record::VmRecord;

/// How the list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// NAME, STATUS, IP, CREATED, separated by tabs; columns on a terminal
    Table,
    /// One JSON array
    Json,
}

/// List all VMs, destroyed ones too
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-list",
    version,
    styles = crate::STYLES,
    after_help = "Always exits 0. If the database cannot be read, the list is empty and stderr has the reason.\n\n\
        Examples:\n  blockhost-vm-list\n  blockhost-vm-list --format json\n  blockhost-vm-list --status suspended"
)]
pub struct ListCommand {
    /// Print a table or JSON
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    /// Show only VMs with this status ("unknown" requires --live)
    #[arg(long, value_name = "S", value_parser = ["active", "suspended", "destroyed", "unknown"])]
    status: Option<String>,
    /// Query the node for each VM instead of trusting the database
    #[arg(long)]
    live: bool,
    /// Use the mock database
    #[arg(long)]
    pub mock: bool,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

impl ListCommand {
    /// Runs the command.
    pub fn run(self, host: &Host) -> anyhow::Result<()> {
        let json = self.json || self.format == Format::Json;
        let only = self.status.as_deref();
        let new = || Printer::new(json, on_terminal());
        let result = Context::open(host, self.mock).and_then(|ctx| {
            let on_node = status::on_node(&ctx);
            let in_mock = |record: &VmRecord| (mock::shown(&ctx, record), None);
            let live: Option<LiveWord<'_>> = match (self.live, self.mock) {
                (false, _) => None,
                (true, false) => Some(&on_node),
                (true, true) => Some(&in_mock),
            };
            Ok(list(&ctx, only, live, new, |printer, row| printer.add(&row))?)
        });
        let printer = result.unwrap_or_else(|error| {
            complain(&format!("{error:#}"));
            new()
        });
        answer(&printer.finish())
    }
}

struct Printer {
    json: bool,
    aligned: bool,
    out: String,
    rows: Vec<[String; 4]>,
    empty: bool,
}

/// Python's spacing, which the reader's tests compare.
const KEYS: [&str; 4] = ["\"name\": ", ", \"status\": ", ", \"ip\": ", ", \"created\": "];
const HEADER: [&str; 4] = ["NAME", "STATUS", "IP", "CREATED"];

impl Printer {
    fn new(json: bool, terminal: bool) -> Printer {
        let out = if json { String::from("[") } else { String::new() };
        Printer { json, aligned: terminal, out, rows: Vec::new(), empty: true }
    }

    fn add(&mut self, row: &Row<'_>) {
        let cells = [row.name, row.status, row.ip, row.created];
        if self.json {
            self.out.push_str(if self.empty { "{" } else { ", {" });
            for (key, cell) in KEYS.iter().zip(cells) {
                self.out.push_str(key);
                push_json(&mut self.out, cell);
            }
            self.out.push('}');
        } else if self.aligned {
            self.rows.push(cells.map(str::to_string));
        } else {
            if self.empty {
                push_line(&mut self.out, &HEADER);
            }
            push_line(&mut self.out, &cells.map(one_cell));
        }
        self.empty = false;
    }

    fn finish(mut self) -> String {
        if self.json {
            self.out.push_str("]\n");
            return self.out;
        }
        if self.aligned {
            let mut widths = HEADER.map(str::len);
            for row in &self.rows {
                for (width, cell) in widths.iter_mut().zip(row) {
                    *width = (*width).max(cell.chars().count());
                }
            }
            let header = HEADER.map(str::to_string);
            for row in std::iter::once(&header).chain(&self.rows) {
                let cells: Vec<String> =
                    row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                self.out.push_str(cells.join("  ").trim_end());
                self.out.push('\n');
            }
        } else if self.empty {
            push_line(&mut self.out, &HEADER);
        }
        self.out
    }
}

fn push_line<T: AsRef<str>>(out: &mut String, cells: &[T]) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            out.push('\t');
        }
        out.push_str(cell.as_ref());
    }
    out.push('\n');
}

/// A cell cannot break the table, whatever stands in the database.
fn one_cell(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn push_json(out: &mut String, text: &str) {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\' || b == b' ');
    if plain {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// The whole command.
pub fn main() -> std::process::ExitCode {
    let command: ListCommand = crate::parse();
    crate::run(&command.common.clone(), command.mock, |host| command.run(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: bool, terminal: bool) -> String {
        let mut printer = Printer::new(json, terminal);
        printer.add(&Row { name: "a", status: "active", ip: "10.0.0.2", created: "2026-11-23" });
        printer.add(&Row { name: "longer-name", status: "destroyed", ip: "", created: "x\ty\"" });
        printer.finish()
    }

    #[test]
    fn the_three_forms() {
        assert_eq!(
            printed(false, false),
            "NAME\tSTATUS\tIP\tCREATED\na\tactive\t10.0.0.2\t2026-11-23\nlonger-name\tdestroyed\t\tx y\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&printed(true, false)).unwrap();
        assert_eq!(
            json[1],
            serde_json::json!({"name": "longer-name", "status": "destroyed", "ip": "", "created": "x\ty\""})
        );
        let table = printed(false, true);
        assert!(
            table.starts_with(
                "NAME         STATUS     IP        CREATED\na            active     10.0.0.2  2026-11-23\n"
            ),
            "{table}"
        );
        assert_eq!(Printer::new(true, false).finish(), "[]\n");
        assert_eq!(Printer::new(false, false).finish(), "NAME\tSTATUS\tIP\tCREATED\n");
    }
}
