//! `blockhost-vm-audit`: its flags and what it prints.

use crate::expiry::parse_moment;
use crate::list::length;
use crate::terminal::{escaped_data, one_line, width};
use crate::{Common, on_terminal, warn};
use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Parser, ValueEnum};
use provisioner::host::Host;
use provisioner::host::doors::Doors;
use provisioner::host::pager::Pager;
use provisioner::store::audit_trail::{AuditLine, AuditTrail, Wanted};
use provisioner::value::vm_name::VmName;
use serde_json::Value;
use std::io::{self, ErrorKind, Write};

/// How the trail is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line for each change, separated by tabs; columns on a terminal
    Table,
    /// One JSON array
    Json,
}

/// Show who changed which VM, newest first
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-audit",
    version,
    styles = crate::STYLES,
    after_help = "On a terminal the output goes through $PAGER, or less; where root runs it, through less alone.\n\n\
        Examples:\n  blockhost-vm-audit\n  blockhost-vm-audit web-1 --since 7d\n  \
        blockhost-vm-audit --verb destroy,gc-destroy --since 2026-11-01 --format json"
)]
pub struct AuditCommand {
    /// Show only changes of this VM
    #[arg(value_name = "NAME", value_parser = crate::parse_name)]
    name: Option<VmName>,
    /// Show only changes since TIME: a date (UTC), a time with its zone, or how long ago (90min, 12h, 7d)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    /// Show only changes by these verbs, separated by commas
    #[arg(long, value_name = "VERB", value_delimiter = ',', num_args = 1)]
    verb: Vec<String>,
    /// Show only the newest N of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print a table or JSON
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Do not use a pager
    #[arg(long)]
    no_pager: bool,
    #[command(flatten)]
    common: Common,
}

/// A moment, or how long ago.
fn parse_since(text: &str) -> Result<DateTime<Utc>, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return parse_moment(text).map_err(|why| format!("{why}, or how long ago, such as 12h or 7d")),
    };
    let seconds = number.parse().ok().and_then(|number: i64| number.checked_mul(seconds));
    let ago =
        seconds.and_then(TimeDelta::try_seconds).and_then(|ago| Doors::real().now().checked_sub_signed(ago));
    ago.ok_or_else(|| "that is too long ago".to_string())
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: AuditCommand = crate::parse();
    crate::run(&command.common.clone(), false, |host| command.run(host))
}

impl AuditCommand {
    fn run(self, host: &Host) -> anyhow::Result<()> {
        let vm = self.name.as_ref().map(ToString::to_string);
        let mut trail = AuditTrail::open(host, Wanted { vm, verbs: self.verb, since: self.since })?;
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let shown = Shown { format: self.format, limit };
        let terminal = on_terminal();
        let pager = if terminal && !self.no_pager { Pager::start(host) } else { None };
        let written = match pager {
            Some(mut pager) => {
                let written = shown.print(host, &mut trail, terminal, &mut io::BufWriter::new(&mut pager));
                pager.finish().and(written)
            }
            None => shown.print(host, &mut trail, terminal, &mut io::BufWriter::new(io::stdout().lock())),
        };
        match written {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("cannot write to stdout")?,
        }
        trail.warnings().iter().for_each(|why| warn(why));
        host.interrupt.check()
    }
}

const HEADER: [&str; 8] = ["TIME", "VM", "VMID", "VERB", "STATUS", "BY", "TOOK", "RESULT"];
/// How wide the columns are on a terminal: lines are printed as they are read, so nobody knows the widest. The last has no
/// end.
const WIDTHS: [usize; 7] = [19, 16, 5, 12, 19, 16, 7];

/// How lines are printed, and how many.
#[derive(Clone, Copy)]
struct Shown {
    format: Format,
    limit: usize,
}

impl Shown {
    /// Prints line by line until there is none, or somebody wants no more.
    fn print(
        self,
        host: &Host,
        trail: &mut AuditTrail,
        terminal: bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let lines = trail.take(self.limit).take_while(|_| host.interrupt.check().is_ok());
        if self.format == Format::Table {
            write_row(out, &HEADER.map(str::to_string), terminal)?;
            for line in lines {
                write_row(out, &cells(&line), terminal)?;
            }
            return out.flush();
        }
        out.write_all(b"[")?;
        for (index, line) in lines.enumerate() {
            let json = Value::Object(line.fields).to_string();
            let json = if terminal { escaped_data(&json) } else { json };
            out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
            out.write_all(json.as_bytes())?;
        }
        out.write_all(b"\n]\n")?;
        out.flush()
    }
}

/// What a person reads of a line. Each is one line, whatever stands in the trail.
pub fn cells(line: &AuditLine) -> [String; 8] {
    let field = |key: &str| line.fields.get(key);
    let number = |key: &str| field(key).and_then(Value::as_u64);
    let status = match (line.text("before"), line.text("after")) {
        (before, after) if before == after => after.to_string(),
        (before, after) => {
            let word = |word: &str| if word.is_empty() { "none".to_string() } else { word.to_string() };
            format!("{} > {}", word(before), word(after))
        }
    };
    let user = match (line.text("sudo_user"), number("uid")) {
        ("", Some(uid)) => format!("uid {uid}"),
        ("", None) => String::new(),
        (user, _) => user.to_string(),
    };
    let by = [user, line.text("caller").to_string()];
    let by: Vec<String> = by.into_iter().filter(|word| !word.is_empty()).collect();
    let took = number("duration_ms").map(|ms| match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        ms => length(ms / 1000),
    });
    [
        line.time.format("%Y-%m-%d %H:%M:%S").to_string(),
        line.text("vm").to_string(),
        number("vmid").map(|vmid| vmid.to_string()).unwrap_or_default(),
        line.text("verb").to_string(),
        status,
        by.join(", "),
        took.unwrap_or_default(),
        line.text("result").to_string(),
    ]
    .map(|cell| one_line(&cell))
}

fn write_row(out: &mut dyn Write, cells: &[String], terminal: bool) -> io::Result<()> {
    for (index, cell) in cells.iter().enumerate() {
        out.write_all(cell.as_bytes())?;
        if index + 1 == cells.len() {
            break;
        }
        match WIDTHS.get(index).filter(|_| terminal) {
            Some(room) => write!(out, "{:1$}", "", room.saturating_sub(width(cell)) + 2)?,
            None => out.write_all(b"\t")?,
        }
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_may_be_told_as_how_long_ago() {
        let now = Doors::real().now();
        for (text, seconds) in
            [("90min", 5400), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("30s", 30)]
        {
            let found = (now - parse_since(text).unwrap()).num_seconds();
            assert!((seconds - 5..=seconds).contains(&found), "{text}: {found}");
        }
        assert_eq!(parse_since("2026-11-01").unwrap().to_string(), "2026-11-01 00:00:00 UTC");
        for wrong in
            ["", "7", "d", "7 d", "-7d", "7m", "yesterday", "99999999999999999999d", "9999999999999d"]
        {
            assert!(parse_since(wrong).is_err(), "{wrong:?}");
        }
    }
}
