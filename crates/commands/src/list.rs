//! `blockhost-vm-list`: a table or JSON.

use crate::{Common, answer_bytes, complain, on_terminal, spaced_json};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use provisioner::host::Host;
use provisioner::operation::list::{Row, list};
use provisioner::operation::status::{self, LiveWord, Shown};
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
    #[arg(long, value_name = "S", value_parser = status_word())]
    status: Option<Shown>,
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
        let only = self.status;
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
        answer_bytes(&printer.finish())
    }
}

/// One of the words that a list shows.
fn status_word() -> impl TypedValueParser<Value = Shown> {
    let words = PossibleValuesParser::new(Shown::ALL.map(Shown::as_str));
    words.map(|word| Shown::ALL.into_iter().find(|shown| shown.as_str() == word).unwrap_or(Shown::Unknown))
}

struct Printer {
    json: bool,
    aligned: bool,
    out: Vec<u8>,
    rows: Vec<[String; 4]>,
    empty: bool,
}

const HEADER: [&str; 4] = ["NAME", "STATUS", "IP", "CREATED"];

impl Printer {
    fn new(json: bool, terminal: bool) -> Printer {
        let out = if json { vec![b'['] } else { Vec::new() };
        Printer { json, aligned: terminal, out, rows: Vec::new(), empty: true }
    }

    fn add(&mut self, row: &Row<'_>) {
        let cells = [row.name, row.status, row.ip, row.created];
        if self.json {
            if !self.empty {
                self.out.extend_from_slice(b", ");
            }
            // Four texts into memory: nothing can go wrong.
            spaced_json::append(&mut self.out, row).unwrap_or_else(|error| tracing::error!("{error}"));
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

    fn finish(mut self) -> Vec<u8> {
        if self.json {
            self.out.extend_from_slice(b"]\n");
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
                self.out.extend_from_slice(cells.join("  ").trim_end().as_bytes());
                self.out.push(b'\n');
            }
        } else if self.empty {
            push_line(&mut self.out, &HEADER);
        }
        self.out
    }
}

fn push_line<T: AsRef<str>>(out: &mut Vec<u8>, cells: &[T]) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        out.extend_from_slice(cell.as_ref().as_bytes());
    }
    out.push(b'\n');
}

/// A cell cannot break the table, whatever stands in the database.
fn one_cell(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
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
        String::from_utf8(printer.finish()).unwrap()
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
        assert_eq!(Printer::new(true, false).finish(), b"[]\n");
        assert_eq!(Printer::new(false, false).finish(), b"NAME\tSTATUS\tIP\tCREATED\n");
    }
}
