//! All access to the host goes through these modules. A command creates one [`Host`] and passes it by reference.
//!
//! Three files contain the effects that a reviewer watches: [`run_process`], [`root_agent`], [`replace_file`].

pub mod accounts;
mod child_output;
pub mod clock;
pub mod doors;
pub mod failpoint;
pub mod http_download;
pub mod interrupt;
pub mod large_file;
pub mod lifeline;
pub mod lock_file;
pub mod pager;
pub mod patience;
pub mod probe;
pub mod probe_address;
pub mod progress;
pub mod proxmox_api;
pub mod read_file;
pub mod replace_file;
pub mod rights;
pub mod root_agent;
pub mod run_process;
pub mod simulated;

use chrono::{DateTime, Utc};
use clock::{Deadline, Stopwatch};
use doors::Doors;
use interrupt::Interrupt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whether this is a test build: only such a build has fail points ([`failpoint`]) and simulated hosts ([`simulated`]).
/// The installed package is a release build, from which the compiler drops all code that checks for them.
const FOR_TESTS: bool = cfg!(debug_assertions);

/// Where things are on this host, and the caller's environment.
#[derive(Debug, Clone)]
pub struct Host {
    /// Directories searched for configuration, the first match wins: `/etc/blockhost`, then `./config` with
    /// `BLOCKHOST_DEV`.
    pub config_dirs: Vec<PathBuf>,
    /// Persistent state: `/var/lib/blockhost`.
    pub state_dir: PathBuf,
    /// What may be lost in a reboot, and the root agent's socket: `/run/blockhost`.
    pub run_dir: PathBuf,
    /// Files shipped by packages: `/usr/share/blockhost`.
    pub share_dir: PathBuf,
    /// `BLOCKHOST_DEV` is set: templates in the current directory may be used.
    pub dev: bool,
    /// The caller's home directory, for ssh public keys and for terraform.
    pub home: Option<PathBuf>,
    /// The mock database (`BLOCKHOST_MOCK_DB`, default `accounting/mock-db.json` below the working directory).
    pub mock_database: PathBuf,
    /// Root's own downloads and work files: `/var/cache/blockhost-provisioner`.
    pub cache_dir: PathBuf,
    /// SIGTERM and SIGINT.
    pub interrupt: Interrupt,
    /// The machine that all effects are on.
    pub doors: Doors,
    /// How many threads an operation may use in addition to its own.
    pub more_threads: usize,
    /// What root read before it became user blockhost; `None` if root privileges were not dropped.
    pub brought: Option<rights::Brought>,
}

impl Host {
    /// The host as described by the environment and defaults (`facts/contract/configuration.md`).
    pub fn from_environment(interrupt: Interrupt) -> Host {
        let dir = |variable: &str, default: &str| {
            std::env::var_os(variable)
                .filter(|v| !v.is_empty())
                .map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        let dev = std::env::var_os("BLOCKHOST_DEV").is_some_and(|v| !v.is_empty());
        let mut config_dirs = vec![dir("BLOCKHOST_CONFIG_DIR", "/etc/blockhost")];
        if dev {
            config_dirs.push(PathBuf::from("config"));
        }
        Host {
            config_dirs,
            state_dir: dir("BLOCKHOST_STATE_DIR", "/var/lib/blockhost"),
            run_dir: dir("BLOCKHOST_RUN_DIR", "/run/blockhost"),
            share_dir: dir("BLOCKHOST_SHARE_DIR", "/usr/share/blockhost"),
            dev,
            home: std::env::var_os("HOME").filter(|v| !v.is_empty()).map(PathBuf::from),
            cache_dir: dir("BLOCKHOST_CACHE_DIR", "/var/cache/blockhost-provisioner"),
            mock_database: dir("BLOCKHOST_MOCK_DB", "accounting/mock-db.json"),
            interrupt,
            doors: Doors::real(),
            more_threads: usize::MAX,
            brought: None,
        }
    }

    /// The root agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("root-agent.sock")
    }

    /// Directory of other programs' configuration: the parent of ours, `/etc`. In a lab it is below the lab's own root.
    pub fn etc(&self) -> PathBuf {
        let ours = self.config_dirs.first().map(PathBuf::as_path).and_then(Path::parent);
        ours.map_or_else(|| PathBuf::from("/etc"), Path::to_path_buf)
    }

    /// The common parent of configuration and state: `/`, or in a lab its own directory.
    pub fn root(&self) -> PathBuf {
        let ours = self.config_dirs.first().map_or(Path::new("/"), PathBuf::as_path);
        let common = ours.components().zip(self.state_dir.components()).take_while(|(a, b)| a == b);
        common.map(|(part, _)| part).collect()
    }

    /// The first existing configuration file of this name, or the path where it is expected.
    pub fn config_file(&self, name: &str) -> PathBuf {
        let candidates = self.config_dirs.iter().map(|dir| dir.join(name));
        candidates
            .clone()
            .find(|path| path.exists())
            .or_else(|| candidates.clone().next())
            .unwrap_or_else(|| name.into())
    }

    /// Passes a named point of an operation, at which tests kill the process and SIGTERM is noticed.
    pub fn step(&self, name: &str) -> anyhow::Result<()> {
        tracing::debug!("reached {name}");
        self.reached(name)?;
        self.interrupt.check()
    }

    /// Passes a named point at which no signal is heard.
    pub fn reached(&self, name: &str) -> io::Result<()> {
        self.doors.reached(name)
    }

    /// A time limit of an operation, which tests may make shorter.
    pub fn limit(&self, name: &str, usual: Duration) -> Duration {
        self.doors.limit(name, usual)
    }

    /// Returns the wall-clock time.
    pub fn now(&self) -> DateTime<Utc> {
        self.doors.now()
    }

    /// The point in time that is `limit` from now.
    pub fn deadline(&self, limit: Duration) -> Deadline {
        self.doors.deadline(limit)
    }

    /// The end of a time limit that tests may make shorter.
    pub fn deadline_of(&self, name: &str, usual: Duration) -> Deadline {
        self.doors.deadline_of(name, usual)
    }

    /// Counts time from now on.
    pub fn stopwatch(&self) -> Stopwatch {
        self.doors.stopwatch()
    }

    /// Lets time pass, but wakes within 20 ms of a signal.
    pub fn sleep(&self, time: Duration) {
        self.interrupt.sleep(self.doors, time);
    }
}

/// Returns an environment variable, if it is valid text.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Free space of the file system of `folder` for an ordinary user, in KiB; `None` if it cannot be determined.
pub fn free_kib(folder: &Path) -> Option<u64> {
    let figures = rustix::fs::statvfs(folder).ok()?;
    Some(figures.f_bavail.saturating_mul(figures.f_frsize) / 1024)
}

/// Whether `path` exists; a dangling link counts.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
