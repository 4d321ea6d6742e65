//! What a monitor is told about a VM: figures from two readings of its counters, as the monitor's strictly typed JSON
//! or in Prometheus' text format (`facts/contract/commands.md#metrics`; hazard H38).
//!
//! Counters start again from zero whenever the VM starts, and clocks get set: a rate is reported only if both readings
//! are certainly of the same run of the VM and the time between them is known. A wrong rate is worse than 0, because
//! the monitor throttles VMs by it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes in the contract's megabyte.
const MIB: u64 = 1 << 20;
/// By how many milliseconds the wall clock and the VM's uptime may disagree about the time between two readings: uptime
/// counts whole seconds, and each reading takes a moment.
const DISAGREEMENT_MS: i64 = 2500;
/// Readings that lie closer together say nothing: counters move in bursts.
pub const CLOSEST_MS: i64 = 1000;

/// The state of a VM, as the contract defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// The CPUs are running.
    Running,
    /// QEMU is running, but the CPUs are halted.
    Paused,
    /// Switched off.
    Stopped,
    /// QEMU reports a problem, or the state cannot be determined.
    Unknown,
}

impl RunState {
    const ALL: [RunState; 4] = [RunState::Running, RunState::Paused, RunState::Stopped, RunState::Unknown];

    /// Translates a state reported by QEMU, as in `qmpstatus`.
    pub fn of_qmp(word: &str) -> RunState {
        match word {
            "running" => RunState::Running,
            "stopped" | "shutdown" => RunState::Stopped,
            "paused" | "suspended" | "prelaunch" | "inmigrate" | "postmigrate" | "finish-migrate"
            | "save-vm" | "restore-vm" | "colo" => RunState::Paused,
            _ => RunState::Unknown,
        }
    }

    /// Whether a QEMU process exists.
    pub fn is_up(self) -> bool {
        self != RunState::Stopped
    }

    /// The word printed.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Stopped => "stopped",
            RunState::Unknown => "unknown",
        }
    }
}

/// Counters since the VM's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Bytes the guest received.
    pub net_rx: u64,
    /// Bytes the guest sent.
    pub net_tx: u64,
    /// Bytes read from all disks; `None` if the node could not query QEMU, which looks like 0 but is not.
    pub disk_read: Option<u64>,
    /// Bytes written to all disks.
    pub disk_written: Option<u64>,
    /// Read operations; `None` also if the source does not count them.
    pub reads: Option<u64>,
    /// Write operations.
    pub writes: Option<u64>,
}

/// One reading of a VM's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The VM's uptime then, in seconds.
    pub uptime: u64,
    /// The counters.
    pub counters: Counters,
}

/// Rates per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Bytes that the guest receives.
    pub net_rx: i64,
    /// Bytes that the guest sends.
    pub net_tx: i64,
    /// Bytes read; -1 if unknown.
    pub disk_read: i64,
    /// Bytes written; -1 if unknown.
    pub disk_written: i64,
    /// Read operations; -1 if unknown.
    pub reads: i64,
    /// Write operations; -1 if unknown.
    pub writes: i64,
}

/// How the time between two readings is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// By our clock: the counters are those at the moment of the reading.
    Clock,
    /// By the VM's uptime: the node took the counters together with it, some time before the reading.
    Uptime,
}

/// Returns the rates between two readings; 0 without a first reading, after a restart of the VM and after a jump of the
/// clock.
pub fn rates(before: Option<&Reading>, now: &Reading, by: Between) -> Rates {
    let none = |counter: Option<u64>| if counter.is_some() { 0 } else { -1 };
    let disks = |c: &Counters| [c.disk_read, c.disk_written, c.reads, c.writes];
    let new = &now.counters;
    let [disk_read, disk_written, reads, writes] = disks(new).map(none);
    let zero = Rates { disk_read, disk_written, reads, writes, ..Rates::default() };
    let Some((before, ms)) = before.and_then(|before| Some((before, span(before, now, by)?))) else {
        return zero;
    };
    let old = &before.counters;
    let disk_went_back = disks(old).into_iter().zip(disks(new)).any(|(old, new)| new.is_some() && new < old);
    if disk_went_back || new.net_rx < old.net_rx || new.net_tx < old.net_tx {
        return zero;
    }
    let rate = |old: u64, new: u64| {
        // Round to the nearest: two reads per second must not become one because a reading came a millisecond late.
        let rate = (u128::from(new - old) * 1000 + u128::from(ms / 2)) / u128::from(ms);
        i64::try_from(rate).unwrap_or(i64::MAX)
    };
    let of_disk = |old: Option<u64>, new: Option<u64>| match (old, new) {
        (Some(old), Some(new)) => rate(old, new),
        _ => none(new),
    };
    Rates {
        net_rx: rate(old.net_rx, new.net_rx),
        net_tx: rate(old.net_tx, new.net_tx),
        disk_read: of_disk(old.disk_read, new.disk_read),
        disk_written: of_disk(old.disk_written, new.disk_written),
        reads: of_disk(old.reads, new.reads),
        writes: of_disk(old.writes, new.writes),
    }
}

/// Returns the milliseconds between two readings of the same run of a VM; `None` if they are not of the same run, or it
/// cannot be determined.
fn span(before: &Reading, now: &Reading, by: Between) -> Option<u64> {
    let up = now.uptime.checked_sub(before.uptime)?;
    let up_ms = i64::try_from(up).ok()?.checked_mul(1000)?;
    let clock_ms = now.at_ms.checked_sub(before.at_ms)?;
    let ms = match by {
        Between::Uptime => up_ms,
        // If the VM was restarted or the clock was set, uptime and clock no longer agree.
        Between::Clock if (clock_ms - up_ms).abs() > DISAGREEMENT_MS => return None,
        Between::Clock => clock_ms,
    };
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

/// The last readings of a VM. Two are kept, so that a second caller right after the first still has an older one to
/// compare with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings(Vec<Reading>);

impl Readings {
    /// Returns the rates up to `now`, and whether `now` was kept. A reading right after the last one is not kept;
    /// otherwise many callers at once would leave none old enough to compare with.
    pub fn add(&mut self, now: Reading) -> (Rates, bool) {
        let is_close = |look: &Reading| (0..CLOSEST_MS).contains(&(now.at_ms - look.at_ms));
        let found = rates(self.0.iter().rev().find(|look| !is_close(look)), &now, Between::Clock);
        if self.0.last().is_some_and(|last| is_close(last) && last.uptime <= now.uptime) {
            return (found, false);
        }
        self.0.push(now);
        let surplus = self.0.len().saturating_sub(2);
        self.0.drain(..surplus);
        (found, true)
    }
}

/// One VM's figures, in the contract's order and types: integers except for `cpu_percent`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// 0 to 100 for each CPU of the VM: at most 100 times `cpu_count`.
    pub cpu_percent: f64,
    /// The VM's CPUs.
    pub cpu_count: i64,
    /// MiB.
    pub memory_used_mb: i64,
    /// MiB.
    pub memory_total_mb: i64,
    /// MiB in the guest's file systems; -1 unless the guest agent reported it.
    pub disk_used_mb: i64,
    /// Size of the boot disk in MiB.
    pub disk_total_mb: i64,
    /// Reads per second; -1 if unknown.
    pub disk_read_iops: i64,
    /// Writes per second; -1 if unknown.
    pub disk_write_iops: i64,
    /// Bytes per second; -1 if unknown.
    pub disk_read_bytes_sec: i64,
    /// Bytes per second; -1 if unknown.
    pub disk_write_bytes_sec: i64,
    /// Bytes per second that the guest receives.
    pub net_rx_bytes_sec: i64,
    /// Bytes per second that the guest sends.
    pub net_tx_bytes_sec: i64,
    /// Always -1, because only the guest knows.
    pub net_connections: i64,
    /// Whether the guest agent answered the last query.
    pub guest_agent_responsive: bool,
    /// Seconds since the VM's start; 0 while it is off.
    pub uptime_seconds: i64,
    /// One word: the name of the state.
    pub state: RunState,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            cpu_percent: 0.0,
            cpu_count: 0,
            memory_used_mb: 0,
            memory_total_mb: 0,
            disk_used_mb: -1,
            disk_total_mb: 0,
            disk_read_iops: 0,
            disk_write_iops: 0,
            disk_read_bytes_sec: 0,
            disk_write_bytes_sec: 0,
            net_rx_bytes_sec: 0,
            net_tx_bytes_sec: 0,
            net_connections: -1,
            guest_agent_responsive: false,
            uptime_seconds: 0,
            state: RunState::Unknown,
        }
    }
}

impl Metrics {
    /// Returns the figures with these rates.
    pub fn with_rates(mut self, rates: &Rates) -> Metrics {
        self.disk_read_iops = rates.reads;
        self.disk_write_iops = rates.writes;
        self.disk_read_bytes_sec = rates.disk_read;
        self.disk_write_bytes_sec = rates.disk_written;
        self.net_rx_bytes_sec = rates.net_rx;
        self.net_tx_bytes_sec = rates.net_tx;
        self
    }

    /// Returns the figures with the CPU usage `share`, a share (0 to 1) of all the VM's CPUs.
    pub fn with_cpu(mut self, share: f64) -> Metrics {
        let most = 100.0 * self.cpu_count as f64;
        let percent = if share.is_finite() { share * most } else { 0.0 };
        self.cpu_percent = (percent.clamp(0.0, most) * 100.0).round() / 100.0;
        self
    }
}

/// A VM in an answer about several VMs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its VMID.
    pub vmid: u32,
    /// Its figures, as far as known.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Its counters; `None` if nothing is known about the VM.
    #[serde(skip)]
    pub counters: Option<Counters>,
    /// Whether the guest agent was ever queried.
    #[serde(skip)]
    pub agent_asked: bool,
}

/// Returns a figure from the node's JSON as a whole number, 0 if it is missing: some figures are strings, some have a
/// fraction.
pub fn whole(value: &Value, key: &str) -> u64 {
    let Some(found) = value.get(key) else { return 0 };
    let text = || found.as_str().and_then(|text| text.parse().ok());
    // `as` saturates at the limits of the type.
    found.as_u64().or_else(text).unwrap_or_else(|| found.as_f64().map_or(0, |f| f as u64))
}

fn mib(bytes: u64) -> i64 {
    signed(bytes / MIB)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the figures that `status/current` and an entry of `cluster/resources` have in common. The number of CPUs is
/// `cpus` in the former and `maxcpu` in the latter.
pub fn figures(line: &Value, state: RunState) -> Metrics {
    let cpus = whole(line, "cpus").max(whole(line, "maxcpu"));
    let while_up = |n: i64| if state.is_up() { n } else { 0 };
    Metrics {
        cpu_count: signed(cpus),
        memory_used_mb: while_up(mib(whole(line, "mem"))),
        memory_total_mb: mib(whole(line, "maxmem")),
        disk_total_mb: mib(whole(line, "maxdisk")),
        uptime_seconds: while_up(signed(whole(line, "uptime"))),
        state,
        ..Metrics::default()
    }
}

/// Returns the counters of `status/current`, with QEMU's own counters for each drive under `blockstat`. If QEMU did not
/// answer the node, `blockstat` is missing and `diskread` is 0.
pub fn live_counters(status: &Value) -> Counters {
    let drives = status.get("blockstat").and_then(Value::as_object);
    let sum = |key: &str| {
        drives.map(|drives| drives.values().fold(0_u64, |sum, drive| sum.saturating_add(whole(drive, key))))
    };
    Counters {
        net_rx: whole(status, "netin"),
        net_tx: whole(status, "netout"),
        disk_read: sum("rd_bytes"),
        disk_written: sum("wr_bytes"),
        reads: sum("rd_operations"),
        writes: sum("wr_operations"),
    }
}

/// Returns the counters of an entry of `cluster/resources`, which has no operation counts. No VM runs without having
/// read its disk: two zeros mean that QEMU did not answer, and counted as values they would make the next rate
/// enormous.
pub fn listed_counters(line: &Value) -> Counters {
    let (read, written) = (whole(line, "diskread"), whole(line, "diskwrite"));
    let is_known = read > 0 || written > 0;
    Counters {
        net_rx: whole(line, "netin"),
        net_tx: whole(line, "netout"),
        disk_read: is_known.then_some(read),
        disk_written: is_known.then_some(written),
        reads: None,
        writes: None,
    }
}

/// Returns the MiB used in the guest, from the data of `get-fsinfo` (under `result`). Each file system counts once,
/// however often it is mounted; read-only images do not count.
pub fn disk_used_mb(data: &Value) -> Option<i64> {
    let list = data.get("result").and_then(Value::as_array)?;
    let mut seen: Vec<&str> = Vec::new();
    let mut bytes = 0_u64;
    let mut known = false;
    for one in list {
        let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = text("name");
        let is_image = matches!(text("type"), "squashfs" | "iso9660" | "udf" | "erofs" | "cramfs");
        if is_image || one.get("used-bytes").is_none() || (!name.is_empty() && seen.contains(&name)) {
            continue;
        }
        seen.push(name);
        known = true;
        bytes = bytes.saturating_add(whole(one, "used-bytes"));
    }
    known.then(|| mib(bytes))
}

/// A metric of the text format.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Named) -> Option<String>,
}

/// For a VM that is not proven to be ours, only `blockhost_vm_state` is reported.
const FAMILIES: &[Family] = &[
    Family {
        name: "blockhost_vm_cpu_usage_ratio",
        kind: "gauge",
        help: "CPU time used, as a share of all CPUs of the VM.",
        value: |vm| {
            let cpus = vm.counters.and(Some(vm.metrics.cpu_count)).filter(|cpus| *cpus > 0)?;
            Some(format!("{:.4}", vm.metrics.cpu_percent / 100.0 / cpus as f64))
        },
    },
    Family {
        name: "blockhost_vm_cpus",
        kind: "gauge",
        help: "CPUs of the VM.",
        value: |vm| known(vm, vm.metrics.cpu_count),
    },
    Family {
        name: "blockhost_vm_memory_used_bytes",
        kind: "gauge",
        help: "Memory in use.",
        value: |vm| known(vm, vm.metrics.memory_used_mb.saturating_mul(MIB as i64)),
    },
    Family {
        name: "blockhost_vm_memory_size_bytes",
        kind: "gauge",
        help: "Memory of the VM.",
        value: |vm| known(vm, vm.metrics.memory_total_mb.saturating_mul(MIB as i64)),
    },
    Family {
        name: "blockhost_vm_filesystem_used_bytes",
        kind: "gauge",
        help: "Bytes used in the guest's file systems, as last told by its agent.",
        value: |vm| known(vm, vm.metrics.disk_used_mb.saturating_mul(MIB as i64)),
    },
    Family {
        name: "blockhost_vm_disk_size_bytes",
        kind: "gauge",
        help: "Size of the boot disk.",
        value: |vm| known(vm, vm.metrics.disk_total_mb.saturating_mul(MIB as i64)),
    },
    Family {
        name: "blockhost_vm_uptime_seconds",
        kind: "gauge",
        help: "Time since the start of the VM.",
        value: |vm| known(vm, vm.metrics.uptime_seconds),
    },
    Family {
        name: "blockhost_vm_guest_agent_responsive",
        kind: "gauge",
        help: "Whether the guest agent answered when it was last asked.",
        value: |vm| known(vm, i64::from(vm.metrics.guest_agent_responsive)).filter(|_| vm.agent_asked),
    },
    Family {
        name: "blockhost_vm_disk_read_bytes_total",
        kind: "counter",
        help: "Bytes read from the disks since the start of the VM.",
        value: |vm| Some(vm.counters?.disk_read?.to_string()),
    },
    Family {
        name: "blockhost_vm_disk_written_bytes_total",
        kind: "counter",
        help: "Bytes written to the disks since the start of the VM.",
        value: |vm| Some(vm.counters?.disk_written?.to_string()),
    },
    Family {
        name: "blockhost_vm_disk_reads_total",
        kind: "counter",
        help: "Read operations on the disks since the start of the VM.",
        value: |vm| Some(vm.counters?.reads?.to_string()),
    },
    Family {
        name: "blockhost_vm_disk_writes_total",
        kind: "counter",
        help: "Write operations on the disks since the start of the VM.",
        value: |vm| Some(vm.counters?.writes?.to_string()),
    },
    Family {
        name: "blockhost_vm_network_receive_bytes_total",
        kind: "counter",
        help: "Bytes the guest received since the start of the VM.",
        value: |vm| Some(vm.counters?.net_rx.to_string()),
    },
    Family {
        name: "blockhost_vm_network_transmit_bytes_total",
        kind: "counter",
        help: "Bytes the guest sent since the start of the VM.",
        value: |vm| Some(vm.counters?.net_tx.to_string()),
    },
];

/// Returns a figure of a VM that is proven to be ours; a negative figure is unknown.
fn known(vm: &Named, figure: i64) -> Option<String> {
    (vm.counters.is_some() && figure >= 0).then(|| figure.to_string())
}

/// Returns Prometheus' text exposition format. Unknown values have no sample. Names need no escaping, because a VM name
/// contains neither quotes nor backslashes.
pub fn prometheus(vms: &[Named]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let head = |text: &mut String, name: &str, help: &str, kind: &str| {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    };
    const STATE: &str = "blockhost_vm_state";
    head(&mut text, STATE, "State of the VM: 1 for the state it is in, 0 for the others.", "gauge");
    for vm in vms {
        for state in RunState::ALL {
            let (word, value) = (state.as_str(), u8::from(vm.metrics.state == state));
            let Named { name, vmid, .. } = vm;
            let _ = writeln!(text, "{STATE}{{vm=\"{name}\",vmid=\"{vmid}\",state=\"{word}\"}} {value}");
        }
    }
    for family in FAMILIES {
        let mut samples = String::new();
        for vm in vms {
            if let Some(value) = (family.value)(vm) {
                let _ =
                    writeln!(samples, "{}{{vm=\"{}\",vmid=\"{}\"}} {value}", family.name, vm.name, vm.vmid);
            }
        }
        if !samples.is_empty() {
            head(&mut text, family.name, family.help, family.kind);
            text.push_str(&samples);
        }
    }
    text
}

#[cfg(test)]
mod tests;
