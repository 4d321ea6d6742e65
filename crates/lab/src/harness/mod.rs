//! Labs from a test: make one, run commands in it, look at the node, let it go.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::model::{AgentMode, NodeOptions, Timing};

mod control;
pub(crate) mod days;
mod outside;
mod provider;
pub(crate) mod setup;

pub use control::Control;
pub use outside::{Heard, Outside, Shown, in_own_network};
use setup::Setup;

/// A lab that is to be made. Every setting has a default; see the methods.
#[derive(Debug, Clone, Default)]
pub struct LabBuilder {
    dir: Option<PathBuf>,
    setup: Setup,
}

impl LabBuilder {
    /// In this folder instead of a temporary one; it must be empty or missing.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// All durations at once; default [`Timing::instant`].
    pub fn timing(mut self, timing: Timing) -> Self {
        self.setup.node.timing = timing;
        self
    }

    /// Durations of a small real host: `qm` 0.6 s, clone 1.5 s, start 0.5 s, boot 5 s.
    pub fn real_time(self) -> Self {
        self.timing(Timing::real())
    }

    /// How long guests boot, in milliseconds; default 0.
    pub fn boot_ms(mut self, ms: u64) -> Self {
        self.setup.node.timing.boot = ms;
        self
    }

    /// How long after QEMU's start a tap becomes a port of its bridge, in milliseconds; default 0.
    pub fn plug_ms(mut self, ms: u64) -> Self {
        self.setup.node.timing.plug = ms;
        self
    }

    /// What each call of `qm`, `pvesm`, `pvesh`, `pveum` costs, in milliseconds; default 0.
    pub fn qm_ms(mut self, ms: u64) -> Self {
        self.setup.node.timing.tool = ms;
        self
    }

    /// What the guests' agents do; default [`AgentMode::On`].
    pub fn agent(mut self, agent: AgentMode) -> Self {
        self.setup.node.agent = agent;
        self
    }

    /// Guests that never heed a shutdown request.
    pub fn ignore_shutdown(mut self) -> Self {
        self.setup.node.ignore_shutdown = true;
        self
    }

    /// Proxmox VE 8 or 9; default 9.
    pub fn pve(mut self, version: u32) -> Self {
        self.setup.node.pve = version;
        self
    }

    /// The stand-in provider's version, `0.93.0` (default) or `0.111.1`.
    pub fn provider(mut self, version: &str) -> Self {
        self.setup.provider = version.into();
        self
    }

    /// A node without a template.
    pub fn no_template(mut self) -> Self {
        self.setup.node.template = None;
        self
    }

    /// A host without a broker allocation: no IPv6.
    pub fn no_ipv6(mut self) -> Self {
        self.setup.broker = false;
        self
    }

    /// The enabled network modes; default one, `broker`. Empty: the folder is there and empty.
    pub fn network_modes(mut self, modes: &[&str]) -> Self {
        self.setup.network_modes = Some(modes.iter().map(|mode| (*mode).to_owned()).collect());
        self
    }

    /// An older host, without the folder of network modes.
    pub fn no_network_modes(mut self) -> Self {
        self.setup.network_modes = None;
        self
    }

    /// The last octets of 192.168.122.0/24 that are given out; default 200 to 250.
    pub fn ip_pool(mut self, start: u8, end: u8) -> Self {
        self.setup.ip_pool = (start, end);
        self
    }

    /// The VMIDs that are given out; default 100 to 999.
    pub fn vmid_range(mut self, start: u32, end: u32) -> Self {
        self.setup.vmid_range = (start, end);
        self
    }

    /// An `engine.json` with this pattern for wallets.
    pub fn wallet_pattern(mut self, pattern: &str) -> Self {
        self.setup.wallet_pattern = Some(pattern.into());
        self
    }

    /// More lines for db.yaml, as they stand.
    pub fn db_yaml(mut self, lines: &str) -> Self {
        self.setup.db_yaml = lines.into();
        self
    }

    /// A fresh host: no `vms.json` yet.
    pub fn no_database(mut self) -> Self {
        self.setup.database = false;
        self
    }

    /// Without terraform's initialised folder, for tests that do not run terraform. Then no provider is needed.
    pub fn no_terraform(mut self) -> Self {
        self.setup.terraform = false;
        self
    }

    /// Without a root agent.
    pub fn no_root_agent(mut self) -> Self {
        self.setup.node.root_agent = false;
        self
    }

    /// What the root agent adds to each of its runs, in milliseconds.
    pub fn agent_latency_ms(mut self, ms: u64) -> Self {
        self.setup.node.agent_latency = ms;
        self
    }

    /// For how long `/cluster/resources` knows nothing but the existence of a new VM, in milliseconds; default 0.
    pub fn resources_lag_ms(mut self, ms: u64) -> Self {
        self.setup.node.resources_lag = ms;
        self
    }

    /// Everything else about the node.
    pub fn node(mut self, change: impl FnOnce(&mut NodeOptions)) -> Self {
        change(&mut self.setup.node);
        self
    }

    /// Makes the folder and starts the processes; comes back when API and root agent answer.
    ///
    /// # Errors
    /// A binary of the workspace is missing (run `cargo build --workspace`), `terraform init` fails, a process does not
    /// come up.
    pub fn start(self) -> anyhow::Result<Lab> {
        let keep = std::env::var_os("LAB_KEEP").is_some_and(|keep| keep != "0");
        let target = target_dir()?;
        let mut setup = self.setup;
        let dir = match self.dir {
            Some(dir) => {
                std::fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
                std::path::absolute(dir)?
            }
            None => tempfile::Builder::new().prefix("lab-").tempdir()?.keep(),
        };
        setup.node.remove_dir = !keep;
        let program = program(&target, "lab")?;
        let (daemon, lifeline) = match launch(&dir, &setup, &target, &program, Lifeline::Stdin) {
            Ok(started) => started,
            Err(error) => {
                if !keep {
                    // The reason it failed is worth more than this one.
                    let _ = std::fs::remove_dir_all(&dir);
                }
                return Err(error);
            }
        };
        Ok(Lab { control: Control::new(&dir), dir, target, daemon, lifeline, keep, setup })
    }
}

/// How a daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifeline {
    /// With the process that started it.
    Stdin,
    /// When it is told to.
    None,
}

/// Writes the lab's files, starts the daemon and waits until it is ready.
pub(crate) fn launch(
    dir: &Path,
    setup: &Setup,
    target: &Path,
    program: &Path,
    lifeline: Lifeline,
) -> anyhow::Result<(Child, Option<ChildStdin>)> {
    setup.write(dir, target, program)?;
    let mut command = Command::new(program);
    command.arg("node").arg("--dir").arg(dir).stdout(Stdio::piped());
    if lifeline == Lifeline::Stdin {
        command.arg("--lifeline").stdin(Stdio::piped());
    } else {
        use std::os::unix::process::CommandExt as _;
        let log = std::fs::File::create(dir.join("node.log"))?;
        command.stdin(Stdio::null()).stderr(log).process_group(0);
    }
    let mut daemon = command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
    let stdin = daemon.stdin.take();
    match wait_ready(&mut daemon, dir, setup) {
        Ok(()) => Ok((daemon, stdin)),
        Err(error) => {
            // It is of no use; that it may have ended by itself is no matter.
            let _ = daemon.kill();
            let _ = daemon.wait();
            Err(error)
        }
    }
}

fn wait_ready(daemon: &mut Child, dir: &Path, setup: &Setup) -> anyhow::Result<()> {
    let stdout = daemon.stdout.take().context("the node has no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut line = || -> anyhow::Result<String> {
        match lines.next() {
            Some(line) => Ok(line?),
            None => bail!("the lab's node ended before it was ready; the reason stands above or in node.log"),
        }
    };
    let first: Value = serde_json::from_str(&line()?).context("the lab's node said nonsense")?;
    let endpoint = first["endpoint"].as_str().context("the lab's node did not tell its endpoint")?;
    setup.write_endpoint(dir, endpoint)?;
    let second = line()?;
    ensure!(second == "ready", "the lab's node said '{second}'");
    Ok(())
}

/// `target/<profile>`, where the workspace's binaries lie beside the running test; `LAB_TARGET` names another, so that
/// tests built for debugging can be run on the binaries that ship.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    if let Some(target) = std::env::var_os("LAB_TARGET").filter(|target| !target.is_empty()) {
        return Ok(target.into());
    }
    let own = std::env::current_exe().context("failed to find the running program")?;
    let folder = own.parent().context("the running program has no folder")?;
    let inner = ["deps", "examples"].iter().any(|name| folder.ends_with(name));
    Ok(if inner { folder.parent().unwrap_or(folder).to_owned() } else { folder.to_owned() })
}

/// A binary of the workspace.
pub(crate) fn program(target: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = target.join(name);
    ensure!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    Ok(path)
}

/// A running lab. Dropping it ends its processes and removes its folder (kept with `LAB_KEEP=1`); both happen also when
/// the test is killed.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    target: PathBuf,
    control: Control,
    daemon: Child,
    lifeline: Option<ChildStdin>,
    keep: bool,
    setup: Setup,
}

impl Lab {
    /// Settings for a new lab.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path below the lab's folder.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }

    /// The API's address, `https://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// The lab's files were changed.
    pub fn endpoint(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.dir.join("run/endpoint"))?)
    }

    /// The API token, `user@realm!name=secret`.
    pub fn token(&self) -> String {
        format!("{}={}", self.setup.node.token_id, self.setup.node.token_secret)
    }

    /// The tests' door to the node.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The whole environment of a command in this lab.
    pub fn env(&self) -> Vec<(String, String)> {
        setup::environment(&self.dir, &self.target, &self.setup)
    }

    /// A command of the workspace (`blockhost-vm-…`), with the lab's environment and nothing else, in `D/var`.
    ///
    /// # Panics
    /// When it was not built, with how to build it: a test without its command has nothing else to do.
    pub fn command(&self, name: &str) -> Command {
        let path = program(&self.target, name).unwrap_or_else(|error| panic!("{error:#}"));
        self.run(path)
    }

    /// Any other program in the lab: `qm`, `terraform`, `sh`, found on the lab's PATH.
    pub fn tool(&self, name: &str) -> Command {
        let own = self.dir.join("bin").join(name);
        self.run(if own.is_file() { own } else { PathBuf::from(name) })
    }

    fn run(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.env()).current_dir(self.dir.join("var"));
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its standard input ends, so it does, and takes the root agent and what runs in guests along.
        drop(self.lifeline.take());
        let deadline = Instant::now() + Duration::from_secs(3);
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.daemon.kill();
                let _ = self.daemon.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.keep {
            eprintln!("lab: kept {}", self.dir.display());
            return;
        }
        // A terraform that outlives its command may still be writing there.
        for _ in 0..5 {
            match std::fs::remove_dir_all(&self.dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => break,
            }
        }
    }
}
