//! What `blockhost-vm-metrics` keeps from one call to the next, in `<state>/metrics`.
//!
//! There is one file per VM, `<name>.json`, and two more whose names no VM can have: `@all.json` with the readings of
//! `--all`, which come from another source and never mix with the others, and `@cpu.json` with the CPU shares of all
//! VMs, so that a monitor that starts a process for each VM queries the node only once. Each file is replaced as a
//! whole and none is locked: of two concurrent callers the later one's file stays, and either is right. An unreadable
//! file counts as missing.

use crate::host::replace_file::{self, PRIVATE};
use crate::host::{Host, read_file};
use crate::plan::metrics::{Rates, Reading, Readings};
use crate::value::vm_name::VmName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is kept about one VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Its VMID. A later VM of the same name has a different VMID or identity.
    pub vmid: u32,
    /// The identity that was proven.
    pub identity: String,
    /// The QEMU process that was proven to be the VM's.
    pub proof: Option<Proof>,
    /// The last readings of its counters.
    pub looks: Readings,
    /// The last answer of its guest agent.
    pub agent: Option<AgentLook>,
}

/// A QEMU process that was proven to be the VM's; while the process is running, it is the same VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// PID of the QEMU process on the node.
    pub pid: u64,
    /// Its uptime then, in seconds.
    pub uptime: u64,
}

/// The last query of the guest agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLook {
    /// When, in milliseconds since 1970.
    pub asked_ms: i64,
    /// The VM's uptime then, in seconds; after a restart the agent is queried again.
    pub uptime: u64,
    /// How many times in a row it has not answered.
    pub misses: u32,
    /// MiB used in the guest; `None` until the agent has reported it.
    pub used_mb: Option<i64>,
    /// When it last answered, in milliseconds since 1970.
    pub answered_ms: Option<i64>,
}

/// The readings of `--all`, by VM name.
pub type AllSamples = BTreeMap<String, AllSample>;

/// The last reading of one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllSample {
    /// Its VMID.
    pub vmid: u32,
    /// The identity that was proven.
    pub identity: String,
    /// The reading.
    pub look: Reading,
    /// The rates that were reported then; they are repeated until the node has new figures.
    pub rates: Rates,
}

/// The share of its CPUs that each VM uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuShares {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// By VMID: the share (0 to 1), and the VM's uptime then, in seconds.
    pub shares: BTreeMap<u32, (f64, u64)>,
}

/// The directory of these files.
pub struct MetricSamples<'h> {
    host: &'h Host,
}

impl<'h> MetricSamples<'h> {
    /// Those of this host.
    pub fn new(host: &'h Host) -> MetricSamples<'h> {
        MetricSamples { host }
    }

    fn folder(&self) -> PathBuf {
        self.host.state_dir.join("metrics")
    }

    fn of(&self, name: &VmName) -> PathBuf {
        self.folder().join(format!("{name}.json"))
    }

    fn all_path(&self) -> PathBuf {
        self.folder().join("@all.json")
    }

    fn cpu_path(&self) -> PathBuf {
        self.folder().join("@cpu.json")
    }

    fn read<T: DeserializeOwned + Default>(&self, path: PathBuf) -> T {
        let bytes = read_file::bytes(&path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// A failure to write only means that the data is missing next time, which is no reason to withhold an answer.
    fn write(&self, path: PathBuf, what: &impl Serialize) {
        let write = || -> anyhow::Result<()> {
            replace_file::make_folder(self.host.doors, &self.folder(), 0o770)?;
            Ok(replace_file::replace_unsynced(
                self.host.doors,
                &path,
                &serde_json::to_vec(what)?,
                PRIVATE,
                "metrics",
            )?)
        };
        if let Err(error) = write() {
            tracing::warn!("the next rates will be 0, because this sample could not be saved: {error:#}");
        }
    }

    /// Returns what is kept about a VM; an empty sample if the file is about another VM.
    pub fn sample(&self, name: &VmName, vmid: u32, identity: &str) -> Sample {
        let found: Sample = self.read(self.of(name));
        if found.vmid == vmid && found.identity == identity {
            return found;
        }
        Sample { vmid, identity: identity.to_string(), ..Sample::default() }
    }

    /// Saves the sample of a VM.
    pub fn note(&self, name: &VmName, sample: &Sample) {
        self.write(self.of(name), sample);
    }

    /// Removes the sample of a VM that is gone.
    pub fn forget(&self, name: &VmName) {
        if let Err(error) = replace_file::remove(&self.of(name)) {
            tracing::debug!("{error}");
        }
    }

    /// Returns the readings of `--all`.
    pub fn all(&self) -> AllSamples {
        self.read(self.all_path())
    }

    /// Remembers them.
    pub fn note_all(&self, all: &AllSamples) {
        self.write(self.all_path(), all);
    }

    /// Returns the CPU shares last read from the node, by any caller.
    pub fn cpu_shares(&self) -> CpuShares {
        self.read(self.cpu_path())
    }

    /// Remembers them.
    pub fn note_cpu_shares(&self, shares: &CpuShares) {
        self.write(self.cpu_path(), shares);
    }
}
