//! `blockhost-provisioner-capacity`: what is left, for a person, as JSON, or for Prometheus.

use crate::terminal::one_line;
use crate::{Common, answer, answer_data};
use clap::{Parser, ValueEnum};
use provisioner::operation::capacity::capacity;
use provisioner::plan::capacity::{Capacity, Numbers, Room, Storage, prometheus};
use std::fmt::Write as _;

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people
    Table,
    /// One JSON object
    Json,
    /// Prometheus' text exposition format
    Prometheus,
}

/// Show how many more VMs fit on this node, and what runs out first
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-capacity",
    version,
    styles = crate::STYLES,
    after_help = "Changes nothing. Exits 0 also if the node cannot be asked: what is not known is said.\n\n\
        Examples:\n  blockhost-provisioner-capacity\n  blockhost-provisioner-capacity --format json\n  \
        blockhost-provisioner-capacity --format prometheus"
)]
pub struct CapacityCommand {
    /// Print a table, JSON, or Prometheus' text format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    common: Common,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: CapacityCommand = crate::parse();
    let common = command.common.clone();
    crate::run(&common, false, |host| {
        let capacity = capacity(host)?;
        match command.format {
            Format::Table => answer(&table(&capacity)),
            Format::Json => answer_data((serde_json::to_string(&capacity)? + "\n").as_bytes()),
            Format::Prometheus => answer(&prometheus(&capacity)),
        }
    })
}

const HEADER: [&str; 5] = ["RESOURCE", "TOTAL", "IN USE", "FREE", "MORE VMS"];
const UNKNOWN: &str = "not known";

/// The table; whatever others wrote is one line each, without commands to a terminal.
fn table(capacity: &Capacity) -> String {
    let memory = &capacity.memory;
    let mut rows = vec![
        numbers("VMIDs", &capacity.vmids),
        numbers("IPv4 addresses", &capacity.ipv4),
        numbers("IPv6 addresses", &capacity.ipv6),
        [
            "memory promised".to_string(),
            bytes(memory.total),
            promised(capacity),
            bytes(
                memory
                    .total
                    .zip(memory.promised)
                    .filter(|_| memory.unmeasured == 0)
                    .map(|(a, b)| a.saturating_sub(b)),
            ),
            room(memory.room(capacity.size)),
        ],
    ];
    rows.extend(capacity.storages.iter().map(storage));
    let mut out = lines(&rows);
    out.push('\n');
    let _ = writeln!(out, "{}", verdict(capacity));
    for storage in &capacity.storages {
        if let (Some(vms), true) = (storage.room_if_disks_fill(), storage.purposes.contains(&"disks")) {
            let name = one_line(&storage.name);
            let _ = writeln!(out, "if new VMs fill their disks, storage {name} has room for {vms} of them");
        }
    }
    if memory.factor.is_none() {
        out.push_str("create does not look at memory: overcommit_memory is not set in db.yaml\n");
    }
    for node in capacity.nodes.iter().filter(|node| node.status != "online") {
        let _ = writeln!(out, "node {} is {}", one_line(&node.node), one_line(&node.status));
    }
    if !capacity.not_known.is_empty() {
        out.push_str("\nNot known:\n");
        for why in &capacity.not_known {
            let _ = writeln!(out, "  {}", one_line(why));
        }
    }
    out
}

/// A heading and rows with columns as wide as their widest; numbers stand to the right.
fn lines(rows: &[[String; 5]]) -> String {
    let all: Vec<[String; 5]> =
        std::iter::once(HEADER.map(str::to_string)).chain(rows.iter().cloned()).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut out = String::new();
    for row in &all {
        let _ = write!(out, "{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(out, "  {cell:>width$}");
        }
        out.push('\n');
    }
    out
}

fn numbers(name: &str, numbers: &Numbers) -> [String; 5] {
    let [total, used, free] = match numbers {
        Numbers::Counted(_, supply) => {
            [supply.total, supply.total - supply.free, supply.free].map(|n| n.to_string())
        }
        Numbers::None => ["none", "", ""].map(str::to_string),
        Numbers::Unknown => [UNKNOWN; 3].map(str::to_string),
    };
    [name.to_string(), total, used, free, room(numbers.room())]
}

/// Of VMs that nobody has measured only that there are more is known.
fn promised(capacity: &Capacity) -> String {
    let memory = &capacity.memory;
    match memory.promised {
        Some(_) if memory.unmeasured > 0 => format!("{} or more", bytes(memory.promised)),
        promised => bytes(promised),
    }
}

fn storage(storage: &Storage) -> [String; 5] {
    let known = &storage.row;
    let kind = known.kind.as_deref().map(|kind| format!(" ({})", one_line(kind))).unwrap_or_default();
    let name = format!("storage {}{kind}", one_line(&storage.name));
    [name, bytes(known.total), bytes(known.used), bytes(known.free), room(storage.room())]
}

fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| UNKNOWN.to_string(), |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)))
}

fn room(room: Room) -> String {
    match room {
        Room::Vms(vms) => vms.to_string(),
        Room::Endless => "no limit".to_string(),
        Room::Unknown => UNKNOWN.to_string(),
    }
}

/// The answer in a sentence.
fn verdict(capacity: &Capacity) -> String {
    let size = capacity.size;
    let size = format!("{} vCPU, {} MB memory, {} GB disk", size.cpus, size.memory_mb, size.disk_gb);
    let first = capacity.runs_out_first().iter().map(|name| one_line(name)).collect::<Vec<_>>().join(", ");
    let vms = |vms: u64| if vms == 1 { "VM" } else { "VMs" };
    match (capacity.room(), capacity.at_most()) {
        (Room::Vms(0), _) => format!("no more VMs of the usual size fit ({size}); used up: {first}"),
        (Room::Vms(n), _) => {
            format!("{n} more {} of the usual size fit ({size}); runs out first: {first}", vms(n))
        }
        (_, Some(n)) => {
            format!(
                "at most {n} more {} of the usual size fit ({size}); of what is known runs out first: {first}",
                vms(n)
            )
        }
        (_, None) => format!("how many more VMs of the usual size fit ({size}) is not known"),
    }
}
