//! `blockhost-vm-list`: its flags, and which records and columns they mean.

mod columns;
mod printer;

pub use columns::{distance, length};

use crate::{Common, answer_bytes, answer_data, complain, on_terminal, warn};
use chrono::{DateTime, TimeDelta, Utc};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use columns::Column;
use printer::{Form, Printer};
use provisioner::host::Host;
use provisioner::operation::list::{Filter, Row, list};
use provisioner::operation::node_facts::NodeFacts;
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
    /// Comma-separated values with a header
    Csv,
    /// A YAML list
    Yaml,
}

/// List all VMs, destroyed ones too
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-list",
    version,
    styles = crate::STYLES,
    after_help = "Always exits 0. If the database cannot be read, the list is empty and stderr has the reason.\n\n\
        Examples:\n  blockhost-vm-list\n  blockhost-vm-list --format json\n  blockhost-vm-list --status suspended\n  \
        blockhost-vm-list --wide --sort expires\n  blockhost-vm-list --expiring 7 --columns name,expires,wallet"
)]
pub struct ListCommand {
    /// Print a table, JSON, CSV or YAML
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    /// Show only VMs with this status ("unknown" requires --live)
    #[arg(long, value_name = "S", value_parser = status_word())]
    status: Option<Shown>,
    /// Show only VMs that expire within DAYS days, those that have expired included, destroyed ones not
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36500))]
    expiring: Option<u32>,
    /// Show only VMs of this owner
    #[arg(long, value_name = "ADDR")]
    wallet: Option<String>,
    /// Show more columns; what only the node knows is asked of it once for all VMs
    #[arg(long, conflicts_with = "columns")]
    wide: bool,
    /// Show these columns, separated by commas
    #[arg(long, value_name = "COLUMNS", value_enum, value_delimiter = ',', num_args = 1)]
    columns: Vec<Column>,
    /// Sort by a column, -COLUMN the other way round
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true, value_parser = parse_sort)]
    sort: Option<(Column, bool)>,
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

/// A column's name, with a hyphen for the other way round.
fn parse_sort(text: &str) -> Result<(Column, bool), String> {
    let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
    let names = || {
        let names = Column::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        names.map(|value| value.get_name().to_string()).collect::<Vec<_>>().join(", ")
    };
    let column = Column::from_str(name, true).map_err(|_| format!("expected one of: {}", names()))?;
    Ok((column, descending))
}

impl ListCommand {
    fn form(&self, now: DateTime<Utc>) -> Form {
        let columns = match (self.wide, self.columns.is_empty()) {
            (true, _) => Column::WIDE.to_vec(),
            (false, true) => Column::USUAL.to_vec(),
            (false, false) => self.columns.clone(),
        };
        let format = if self.json { Format::Json } else { self.format };
        Form { format, terminal: on_terminal(), columns, sort: self.sort, now }
    }

    fn filter(&self, now: DateTime<Utc>) -> Filter {
        // So far away that nothing is left out.
        let days = |days: u32| now.checked_add_signed(TimeDelta::days(i64::from(days))).unwrap_or(now);
        Filter { status: self.status, wallet: self.wallet.clone(), expired_by: self.expiring.map(days) }
    }

    /// Runs the command.
    pub fn run(self, host: &Host) -> anyhow::Result<()> {
        let now = host.now();
        let form = self.form(now);
        let result = Context::open(host, self.mock).and_then(|ctx| self.listed(&ctx, &form, now));
        let printer = result.unwrap_or_else(|error| {
            complain(&format!("{error:#}"));
            Printer::new(&form)
        });
        let printed = printer.finish()?;
        // A table for a terminal has been made safe cell by cell, and its colours are commands.
        if form.format == Format::Table { answer_bytes(&printed) } else { answer_data(&printed) }
    }

    fn listed(&self, ctx: &Context<'_>, form: &Form, now: DateTime<Utc>) -> anyhow::Result<Printer> {
        let on_node = status::on_node(ctx);
        let in_mock = |record: &VmRecord| (mock::shown(ctx, record), None);
        let live: Option<LiveWord<'_>> = match (self.live, self.mock) {
            (false, _) => None,
            (true, false) => Some(&on_node),
            (true, true) => Some(&in_mock),
        };
        let shown = form.columns.iter().copied().chain(form.sort.map(|(column, _)| column));
        let (needs_more, needs_node) = shown.fold((false, false), |(more, node), column| {
            (more || !column.is_usual(), node || column.is_of_node())
        });
        let on_nodes = (needs_node && !self.mock).then(|| {
            let (known, missing) = NodeFacts::ask(ctx);
            missing.iter().for_each(|why| warn(why));
            known
        });
        let new = || Printer::new(form);
        let add = |printer: &mut Printer, row: Row<'_>| {
            if !needs_node {
                return printer.add(&row, None, None);
            }
            let record = row.view.to_record().ok();
            let node = on_nodes.as_ref().zip(record.as_ref()).and_then(|(all, record)| all.of(record));
            let word = record
                .as_ref()
                .filter(|record| self.mock && record.is_live())
                .map(|record| if mock::shown(ctx, record) == Shown::Active { "running" } else { "stopped" });
            printer.add(&row, node, word);
        };
        Ok(list(ctx, &self.filter(now), live, needs_more, new, add)?)
    }
}

/// Parses one of the status words that a list shows.
fn status_word() -> impl TypedValueParser<Value = Shown> {
    let words = PossibleValuesParser::new(Shown::ALL.map(Shown::as_str));
    words.map(|word| Shown::ALL.into_iter().find(|shown| shown.as_str() == word).unwrap_or(Shown::Unknown))
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ListCommand = crate::parse();
    crate::run(&command.common.clone(), command.mock, |host| command.run(host))
}
