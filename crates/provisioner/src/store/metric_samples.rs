//! What `blockhost-vm-metrics` remembers from one call to the next, in `<state>/metrics`.
//!
//! A file per VM, `<name>.json`; two more, whose names no VM can have: `@all.json` with the looks of `--all`, which come
//! from another source and never mix with the others, and `@cpu.json` with the CPU shares of all VMs, so that a monitor
//! that starts a process for each VM asks the node once for all of them. Each is replaced whole and none is locked: of two
//! callers at once the later one's file stays, and either is right. A file that cannot be read is a missing one.

use crate::host::replace_file::{self, PRIVATE};
use crate::host::{Host, read_file};
use crate::plan::metrics::{Rates, Reading, Readings};
use crate::value::vm_name::VmName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is known of one VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Its VMID. A later VM of the same name has another one, or another identity.
    pub vmid: u32,
    /// What proved it.
    pub identity: String,
    /// The QEMU that was proven to be its.
    pub proof: Option<Proof>,
    /// The last looks at its counters.
    pub looks: Readings,
    /// What its guest agent said.
    pub agent: Option<AgentLook>,
}

/// A QEMU that was proven to be the VM's: as long as the process runs it is the same VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Its process on the node.
    pub pid: u64,
    /// How long it had been running, in seconds.
    pub uptime: u64,
}

/// The last time the guest agent was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLook {
    /// When, in milliseconds since 1970.
    pub asked_ms: i64,
    /// The VM's uptime then, in seconds: after a restart it is asked anew.
    pub uptime: u64,
    /// So many times in a row it did not answer.
    pub misses: u32,
    /// MiB used in the guest, where it has told.
    pub used_mb: Option<i64>,
    /// When it last answered, in milliseconds since 1970.
    pub answered_ms: Option<i64>,
}

/// The looks of `--all`, by VM.
pub type AllSamples = BTreeMap<String, AllSample>;

/// One VM's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllSample {
    /// Its VMID.
    pub vmid: u32,
    /// What proved it.
    pub identity: String,
    /// The look.
    pub look: Reading,
    /// The rates that were told then: they stay until the node has new figures.
    pub rates: Rates,
}

/// What share of its CPUs each VM uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuShares {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// By VMID: the share, and the VM's uptime then, in seconds.
    pub shares: BTreeMap<u32, (f64, u64)>,
}

/// The folder of all that.
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

    /// What cannot be written is missing next time: no reason to keep an answer back.
    fn write(&self, path: PathBuf, what: &impl Serialize) {
        let write = || -> anyhow::Result<()> {
            replace_file::make_folder(&self.folder(), 0o770)?;
            Ok(replace_file::replace_unsynced(&path, &serde_json::to_vec(what)?, PRIVATE, "metrics")?)
        };
        if let Err(error) = write() {
            tracing::warn!("the next rates will be 0, because this sample could not be saved: {error:#}");
        }
    }

    /// What is known of a VM; nothing where the file is about another VM.
    pub fn sample(&self, name: &VmName, vmid: u32, identity: &str) -> Sample {
        let found: Sample = self.read(self.of(name));
        if found.vmid == vmid && found.identity == identity {
            return found;
        }
        Sample { vmid, identity: identity.to_string(), ..Sample::default() }
    }

    /// Remembers it.
    pub fn note(&self, name: &VmName, sample: &Sample) {
        self.write(self.of(name), sample);
    }

    /// Forgets a VM that is gone.
    pub fn forget(&self, name: &VmName) {
        if let Err(error) = replace_file::remove(&self.of(name)) {
            tracing::debug!("{error}");
        }
    }

    /// The looks of `--all`.
    pub fn all(&self) -> AllSamples {
        self.read(self.all_path())
    }

    /// Remembers them.
    pub fn note_all(&self, all: &AllSamples) {
        self.write(self.all_path(), all);
    }

    /// The CPU shares that were last read from the node, by whomever.
    pub fn cpu_shares(&self) -> CpuShares {
        self.read(self.cpu_path())
    }

    /// Remembers them.
    pub fn note_cpu_shares(&self, shares: &CpuShares) {
        self.write(self.cpu_path(), shares);
    }
}
