//! `blockhost-vm-metrics`: its flags and what it prints.

use crate::{Common, about, answer};
use clap::{Parser, ValueEnum};
use provisioner::operation::metrics::{all_metrics, metrics, open};
use provisioner::operation::mock;
use provisioner::plan::metrics::{Named, prometheus};
use provisioner::value::vm_name::VmName;

/// How metrics are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object; with --all one for each VM and line
    Json,
    /// Prometheus' text exposition format
    Prometheus,
}

/// Print what a VM uses: CPU, memory, disk, network
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-metrics",
    version,
    styles = crate::STYLES,
    after_help = "Rates are per second since the previous call and 0 at the first. -1 means unknown. Answers within 400 ms.\n\n\
        Examples:\n  blockhost-vm-metrics web-1\n  blockhost-vm-metrics --all --format prometheus"
)]
pub struct MetricsCommand {
    /// The VM's name
    #[arg(value_name = "NAME", value_parser = crate::parse_name, required_unless_present = "all")]
    name: Option<VmName>,
    /// Print all active and suspended VMs, from one request to the node
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Print JSON or Prometheus' text format
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Use the mock database (accounting/mock-db.json or $BLOCKHOST_MOCK_DB); the host is not touched
    #[arg(long, display_order = 900)]
    mock: bool,
    #[command(flatten)]
    common: Common,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: MetricsCommand = crate::parse();
    let common = command.common.clone();
    crate::run(&common, command.mock, |host| match &command.name {
        Some(name) => {
            let ask = if command.mock { mock::metrics } else { metrics };
            let found = about(name, open(host, command.mock).and_then(|ctx| ask(&ctx, name)))?;
            match command.format {
                // Readers of the JSON know the keys of the contract and no others.
                Format::Json => answer(&format!("{}\n", serde_json::to_string(&found.metrics)?)),
                Format::Prometheus => answer(&prometheus(&[found])),
            }
        }
        None => {
            let ask = if command.mock { mock::all_metrics } else { all_metrics };
            let found = ask(&open(host, command.mock)?)?;
            match command.format {
                Format::Json => answer(&json_lines(&found)?),
                Format::Prometheus => answer(&prometheus(&found)),
            }
        }
    })
}

fn json_lines(vms: &[Named]) -> anyhow::Result<String> {
    let mut text = String::new();
    for vm in vms {
        text.push_str(&serde_json::to_string(vm)?);
        text.push('\n');
    }
    Ok(text)
}
