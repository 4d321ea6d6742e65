//! What the node, its tools and the tests say to each other: options, faults, snapshots, the call log.
//!
//! Everything here is plain data with serde on both sides, so that a test can compare two snapshots with `==`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How long the node's acts take, in milliseconds.
///
/// [`Timing::instant`] is what tests use unless they ask for another; [`Timing::real`] is near a small real host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Cost of each `qm`, `pvesm`, `pvesh`, `pveum` call before it does anything (Perl's start, 0.6 s).
    pub tool: u64,
    /// A full clone, from the task's start to its end.
    pub clone: u64,
    /// A start task before QEMU runs; the guest's file lock is held for all of it.
    pub start: u64,
    /// From the PID file until the tap is a port of its bridge, which ends the start task (0.5 s on an idle real node,
    /// many seconds on a busy one). The tap itself is there with the PID file.
    #[serde(default)]
    pub plug: u64,
    /// A hard stop.
    pub stop: u64,
    /// From QEMU's end until a hook script's last phase (2 s on a real node).
    #[serde(default)]
    pub cleanup: u64,
    /// A destroy task.
    pub destroy: u64,
    /// A resize, move or import of a disk.
    pub disk: u64,
    /// A synchronous configuration change.
    pub config: u64,
    /// From start until the guest agent answers, unless the guest has its own.
    pub boot: u64,
    /// From the shutdown request until the guest is off, unless the guest has its own.
    pub guest_shutdown: u64,
    /// How long a ping of a silent guest agent takes to fail (3 s on a real node).
    pub agent_ping: u64,
    /// How long the answer to a bad token is held back (3 s on a real node).
    pub auth_delay: u64,
    /// How long a guest's file lock is waited for before "got timeout" (10 s on a real node).
    pub lock_wait: u64,
    /// Poll interval of `qm guest exec` (1 s on a real node).
    pub exec_poll: u64,
}

impl Timing {
    /// Nothing takes time, except where a client's own deadline is the subject: locks are waited for 10 s.
    pub const fn instant() -> Self {
        Self {
            tool: 0,
            clone: 0,
            start: 0,
            plug: 0,
            stop: 0,
            cleanup: 0,
            destroy: 0,
            disk: 0,
            config: 0,
            boot: 0,
            guest_shutdown: 0,
            agent_ping: 100,
            auth_delay: 3_000,
            lock_wait: 10_000,
            exec_poll: 0,
        }
    }

    /// About what a small real host needs.
    pub const fn real() -> Self {
        Self {
            tool: 600,
            clone: 1_500,
            start: 500,
            plug: 500,
            stop: 500,
            cleanup: 2_000,
            destroy: 500,
            disk: 300,
            config: 40,
            boot: 5_000,
            guest_shutdown: 3_000,
            agent_ping: 3_000,
            auth_delay: 3_000,
            lock_wait: 10_000,
            exec_poll: 1_000,
        }
    }
}

/// What the node is when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOptions {
    /// The node's name in the cluster.
    pub node: String,
    /// Proxmox VE's major version, 8 or 9: privileges, wordings and a few keys differ.
    pub pve: u32,
    /// VMID of the template that exists at the start; `None` for a node without one.
    pub template: Option<u32>,
    /// Durations.
    pub timing: Timing,
    /// What the agent of a new guest does.
    pub agent: AgentMode,
    /// Whether new guests ignore ACPI and the agent's shutdown request.
    pub ignore_shutdown: bool,
    /// The API token's id, `user@realm!name`.
    pub token_id: String,
    /// The API token's secret.
    pub token_secret: String,
    /// Give the token every privilege on `/` instead of the least that the installer grants.
    pub token_may_all: bool,
    /// For how long `/cluster/resources` lacks name, status and figures of a brand-new VM, in milliseconds (up to
    /// 20 s on a real node); 0 = never.
    pub resources_lag: u64,
    /// How long the root agent is made to wait around every one of its runs, in milliseconds.
    pub agent_latency: u64,
    /// Whether the daemon starts a root agent beside the node.
    pub root_agent: bool,
    /// Remove the lab's folder when the process that started it is gone.
    pub remove_dir: bool,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            node: "pve".into(),
            pve: 9,
            template: Some(9001),
            timing: Timing::instant(),
            agent: AgentMode::On,
            ignore_shutdown: false,
            token_id: "blockhost@pve!tf".into(),
            token_secret: "3f1f6f0c-1b1e-4d0e-9c55-6d2f1c0a7b11".into(),
            token_may_all: false,
            resources_lag: 0,
            agent_latency: 0,
            root_agent: true,
            remove_dir: false,
        }
    }
}

/// What a guest's agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// Answers once the guest has booted.
    On,
    /// The guest has booted and has no agent running; ACPI works.
    Off,
    /// The guest never comes up: no agent, no ACPI, no cloud-init.
    Never,
}

/// A guest's power as the node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// No QEMU process.
    Stopped,
    /// QEMU runs.
    Running,
    /// QEMU runs, its CPUs are halted.
    Paused,
}

impl Power {
    /// QEMU's own word for it (`qmpstatus`).
    pub fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// What a fault does to whoever reaches its point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum FaultAction {
    /// The act fails with this message; `code` is the HTTP status (500) or the exit code (255).
    Error {
        /// What is said.
        message: String,
        /// HTTP status or exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
    },
    /// The act is done and ends with this many warnings (tasks only).
    Warnings {
        /// The `n` of `WARNINGS: n`.
        count: u32,
    },
    /// Sleeps until the faults are cleared, then goes on.
    Hang,
    /// Sleeps first.
    Slow {
        /// Milliseconds.
        ms: u64,
    },
    /// The asker kills itself with SIGKILL; an API request is cut off unanswered.
    Kill,
    /// The root agent answers bytes that are no JSON.
    Garbage,
    /// The root agent declares a frame larger than allowed.
    Huge,
}

impl FaultAction {
    /// Fails with this message and the default code.
    pub fn error(message: impl Into<String>) -> Self {
        Self::Error { message: message.into(), code: None }
    }
}

/// A fault as set, with what has become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Point, with `*` for any text; `{name}` in a path pattern is the same as `*`.
    pub point: String,
    /// What happens there.
    #[serde(flatten)]
    pub action: FaultAction,
    /// How often it still fires.
    pub left: u32,
    /// How often it has fired.
    pub hits: u32,
}

/// One thing that was asked of the node or of the root agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Counts up from 1 over the life of the lab.
    pub seq: u64,
    /// `api`, `qm` (also `pvesm`, `pvesh`, `pveum`, `ip`, `bridge`, `tc`), `agent`, `guest`.
    pub kind: String,
    /// `POST /nodes/pve/qemu/9001/clone`, `qm stop 100`, `qm-stop`.
    pub what: String,
    /// HTTP status or exit code; none where it is not known.
    pub code: Option<i32>,
    /// Parameters, body or answer as far as they are of interest.
    pub detail: serde_json::Value,
}

/// One disk or cloud-init drive on a storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `local-lvm:vm-100-disk-0`.
    pub volid: String,
    /// The guest it belongs to by its name.
    pub vmid: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that were written: what it takes on thin storage.
    pub data: u64,
    /// `raw`, `qcow2` …
    pub format: String,
}

/// A port that a running guest has on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The bridge it is a port of.
    pub bridge: String,
    /// `isolated on`.
    pub isolated: bool,
    /// Traffic control as it was set, one line per qdisc, class and filter, in order.
    pub tc: Vec<String>,
}

/// One host route for IPv6.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// `2001:db8::2` (a /128) or a network.
    pub dst: String,
    /// Device.
    pub dev: String,
}

/// A guest as the node and its own system see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSnapshot {
    /// The node that has it.
    pub node: String,
    /// From its configuration; empty when it has none.
    pub name: String,
    /// Power.
    pub power: Power,
    /// Configuration lock (`clone`, `backup` …).
    pub lock: Option<String>,
    /// Pool.
    pub pool: Option<String>,
    /// Decoded description.
    pub description: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// Starts with the node.
    pub onboot: bool,
    /// Protected against removal.
    pub protection: bool,
    /// Template.
    pub template: bool,
    /// Tags as stored, `a;b`.
    pub tags: String,
    /// Everything in the configuration that counts now.
    pub config: BTreeMap<String, String>,
    /// Changes that wait for the next start; `None` = will be deleted.
    pub pending: BTreeMap<String, Option<String>>,
    /// Agent.
    pub agent: AgentMode,
    /// How often it was started.
    pub starts: u32,
    /// What cloud-init saw last; empty before the first start.
    pub instance_id: String,
    /// How often cloud-init did its per-instance work.
    pub cloud_init_runs: u32,
    /// The guest's host name.
    pub hostname: String,
    /// The guest's passwd file.
    pub passwd: String,
}

/// The whole node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Guests by VMID, all nodes.
    pub guests: BTreeMap<u32, GuestSnapshot>,
    /// Volumes, by volume id.
    pub volumes: BTreeMap<String, Volume>,
    /// Snippets of storage `local`: file name and text. Hook scripts are none.
    pub snippets: BTreeMap<String, String>,
    /// Devices of running guests, by name.
    pub ports: BTreeMap<String, Port>,
    /// IPv6 host routes.
    pub routes: Vec<Route>,
    /// nftables: devices that lead to a chain, and its rules.
    #[serde(default)]
    pub rules: BTreeMap<String, Vec<String>>,
    /// Files below `/var/lib/blockhost-guard`: name and text.
    #[serde(default)]
    pub guards: BTreeMap<String, String>,
    /// Pools and their members.
    pub pools: BTreeMap<String, Vec<u32>>,
    /// VMIDs that backup jobs name; they stay when a guest is destroyed without `--purge`.
    pub backup_jobs: BTreeSet<u32>,
    /// Tasks that are not over.
    pub tasks_running: Vec<String>,
    /// Whether `/etc/pve` is there.
    pub pve_mounted: bool,
}

/// How a stranger's guest looks that a test adds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGuest {
    /// VMID.
    pub vmid: u32,
    /// Name; empty = nameless.
    pub name: String,
    /// Where it lives; empty = this node.
    #[serde(default)]
    pub node: String,
    /// A container instead of a VM: its VMID is taken, everything else is not ours.
    #[serde(default)]
    pub container: bool,
    /// Started at once.
    #[serde(default)]
    pub running: bool,
    /// Configuration keys beside the usual ones.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Disk in GiB; 0 = no disk.
    #[serde(default)]
    pub disk_gib: u64,
    /// Pool.
    #[serde(default)]
    pub pool: Option<String>,
}

/// What a test changes about a guest's behaviour; `None` leaves it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestChange {
    /// Agent.
    #[serde(default)]
    pub agent: Option<AgentMode>,
    /// Boot time in milliseconds, from the next start on.
    #[serde(default)]
    pub boot_ms: Option<u64>,
    /// From the shutdown request until it is off, in milliseconds.
    #[serde(default)]
    pub shutdown_ms: Option<u64>,
    /// Never heeds a shutdown request.
    #[serde(default)]
    pub ignore_shutdown: Option<bool>,
    /// What it uses.
    #[serde(default)]
    pub figures: Option<Figures>,
}

/// What a running guest uses; the counters are rates times uptime.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Share of the guest's own CPUs, 1.0 = all busy.
    pub cpu: f64,
    /// Used memory in bytes.
    pub mem: u64,
    /// Bytes per second the guest receives.
    pub netin: u64,
    /// Bytes per second the guest sends.
    pub netout: u64,
    /// Bytes per second read.
    pub diskread: u64,
    /// Bytes per second written.
    pub diskwrite: u64,
    /// Reads per second.
    pub read_ops: u64,
    /// Writes per second.
    pub write_ops: u64,
    /// Used bytes of the root file system.
    pub fs_used: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            cpu: 0.05,
            mem: 256 << 20,
            netin: 2_000,
            netout: 1_000,
            diskread: 4_096,
            diskwrite: 8_192,
            read_ops: 2,
            write_ops: 4,
            fs_used: 1_500 << 20,
        }
    }
}
