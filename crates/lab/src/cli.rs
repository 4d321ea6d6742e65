//! `lab` on the command line: labs by hand.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::harness::setup::{Setup, environment, quoted};
use crate::harness::{Control, Lifeline, days, launch, target_dir};
use crate::model::{AgentMode, FaultAction, Figures, GuestChange, NewGuest, Power, Timing};
use crate::{daemon, tool};

#[derive(Debug, Parser)]
#[command(name = "lab", version, about = "A Proxmox node without Proxmox", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  lab up                              start a lab in the background, print its folder
  eval \"$(lab env)\"                   every blockhost-vm-* command of this shell now works against it
  lab status                          what is on the node
  lab ctl guest 100 --agent off       the agent of VM 100 falls silent
  lab ctl fault qm.destroy error 'disk is stuck'
  lab down                            end it and remove its folder

Without --dir the lab lies in $LAB_DIR, else in $XDG_RUNTIME_DIR/blockhost-lab, else in the temporary folder.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a lab in the background and print its folder
    Up(Up),
    /// Print `export` lines for `eval "$(lab env)"`
    Env(Where),
    /// Show the node's guests, disks, routes and tasks
    Status(Where),
    /// Change the node as an operator, a fault or a stranger would
    #[command(after_help = CTL_EXAMPLES)]
    Ctl {
        #[command(flatten)]
        place: Where,
        #[command(subcommand)]
        act: Ctl,
    },
    /// End the lab and remove its folder
    Down {
        #[command(flatten)]
        place: Where,
        /// Leave the folder
        #[arg(long)]
        keep: bool,
    },
    /// The node itself (started by `up` and by tests)
    #[command(hide = true)]
    Node {
        #[arg(long)]
        dir: PathBuf,
        /// End when standard input ends
        #[arg(long)]
        lifeline: bool,
    },
}

const CTL_EXAMPLES: &str = "Examples:
  lab ctl fault 'api.POST /nodes/*/qemu/*/clone' error 'storage is full' --times 2
  lab ctl fault task.qmclone.half kill
  lab ctl clear
  lab ctl guest 100 --agent never --power off --lock backup
  lab ctl stranger 105 --name somebody --running
  lab ctl timing plug 5000            a tap is a port of its bridge 5 s after QEMU runs
  lab ctl days-pass 31                what was to expire within a month has expired
  lab ctl calls | tail";

#[derive(Debug, clap::Args)]
struct Where {
    /// The lab's folder
    #[arg(long, env = "LAB_DIR")]
    dir: Option<PathBuf>,
}

impl Where {
    fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| {
            let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
            base.join("blockhost-lab")
        })
    }
}

#[derive(Debug, clap::Args)]
struct Up {
    #[command(flatten)]
    place: Where,
    /// Let things take the time they take on a small real host
    #[arg(long)]
    real_time: bool,
    /// How long guests boot, in milliseconds
    #[arg(long)]
    boot_ms: Option<u64>,
    /// Proxmox VE's major version
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(8..=9))]
    pve: u32,
    /// Version of the terraform provider, 0.93.0 or 0.111.1
    #[arg(long, default_value = "0.93.0", value_parser = ["0.93.0", "0.111.1"])]
    provider: String,
    /// No template on the node
    #[arg(long)]
    no_template: bool,
    /// No IPv6 allocation
    #[arg(long)]
    no_ipv6: bool,
    /// No initialised terraform folder; then no provider is needed
    #[arg(long)]
    no_terraform: bool,
}

#[derive(Debug, Subcommand)]
enum Ctl {
    /// Set a fault: error MESSAGE, hang, slow MS, kill, warnings N, garbage, huge
    Fault {
        /// Where, `*` for any text: `qm.start`, `api.GET /cluster/*`, `task.qmclone.after`, `provider.create.clone`
        point: String,
        /// What happens
        action: String,
        /// Message, milliseconds or count
        value: Option<String>,
        /// How often
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// Forget all faults and let go whoever hangs
    Clear,
    /// Show the faults and how often each has fired
    Faults,
    /// Change a guest
    Guest {
        /// VMID
        vmid: u32,
        /// on, off, never
        #[arg(long)]
        agent: Option<String>,
        /// on, off, paused
        #[arg(long)]
        power: Option<String>,
        /// A configuration lock; `none` takes it away
        #[arg(long)]
        lock: Option<String>,
        /// Another name
        #[arg(long)]
        name: Option<String>,
        /// Ignore shutdown requests
        #[arg(long)]
        ignore_shutdown: Option<bool>,
    },
    /// Set what a running guest uses; what is not named goes back to its default
    Figures {
        /// VMID
        vmid: u32,
        /// cpu (share of its CPUs), mem and fs_used (bytes); netin, netout, diskread, diskwrite, read_ops, write_ops (a
        /// second, since its start)
        #[arg(value_name = "NAME=VALUE", required = true)]
        figures: Vec<String>,
    },
    /// Add somebody else's VM
    Stranger {
        /// VMID
        vmid: u32,
        /// Name
        #[arg(long, default_value = "stranger")]
        name: String,
        /// Start it
        #[arg(long)]
        running: bool,
    },
    /// Take a guest away
    Remove {
        /// VMID
        vmid: u32,
    },
    /// Reboot the node
    RebootNode,
    /// Change a duration of the node: tool, clone, start, plug, stop, destroy, boot …
    Timing {
        name: String,
        /// Milliseconds
        ms: u64,
    },
    /// Let days pass: moves all stamps of the VM database and of gc's last run
    DaysPass {
        /// How many; negative: the clock is set back
        #[arg(allow_negative_numbers = true)]
        days: i64,
    },
    /// Set the node's clock apart from this machine's
    NodeClock {
        /// Days ahead; negative: behind
        #[arg(allow_negative_numbers = true)]
        days: i64,
    },
    /// Print everything as JSON
    Snapshot,
    /// Print what was asked of the node, one JSON object a line
    Calls,
}

/// A line on stdout. Whoever reads it may go away (`lab status | head`): that is an end, not a failure.
macro_rules! out {
    ($($text:tt)*) => { writeln!(std::io::stdout(), $($text)*)? };
}

/// The program. Tools come first: their arguments are their own.
pub fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["tool", "--dir", dir, name, ..] => tool::client::run(Path::new(dir), name, argv[4..].to_vec()),
        ["in-guest", ..] => tool::client::become_guest_command(&argv[1..]),
        ["guest-tool", name, ..] => tool::guest::run(name, &argv[2..]),
        _ => run(Cli::parse().command).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        {
            return ExitCode::SUCCESS;
        }
        eprintln!("lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(wanted) => up(&wanted),
        Command::Env(place) => env(&place.dir()),
        Command::Status(place) => status(&place.dir()),
        Command::Ctl { place, act } => ctl(&Control::new(place.dir()), act),
        Command::Down { place, keep } => down(&place.dir(), keep),
        Command::Node { dir, lifeline } => daemon::run(&dir, lifeline),
    }
}

fn up(wanted: &Up) -> anyhow::Result<()> {
    let dir = std::path::absolute(wanted.place.dir())?;
    if Control::new(&dir).snapshot().is_ok() {
        bail!("a lab runs in {} already; `lab down` ends it", dir.display());
    }
    if dir.exists() {
        let ours = dir.join("run/setup.json").is_file() || std::fs::read_dir(&dir)?.next().is_none();
        ensure!(ours, "{} is not a lab's folder and not empty", dir.display());
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let mut setup = Setup {
        provider: wanted.provider.clone(),
        broker: !wanted.no_ipv6,
        terraform: !wanted.no_terraform,
        ..Setup::default()
    };
    setup.node.pve = wanted.pve;
    if wanted.real_time {
        setup.node.timing = Timing::real();
    }
    if let Some(ms) = wanted.boot_ms {
        setup.node.timing.boot = ms;
    }
    if wanted.no_template {
        setup.node.template = None;
    }
    let program = std::env::current_exe()?;
    launch(&dir, &setup, &target_dir()?, &program, Lifeline::None)?;
    out!("{}", dir.display());
    Ok(())
}

fn read_setup(dir: &Path) -> anyhow::Result<Setup> {
    let path = dir.join("run/setup.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("there is no lab in {}; `lab up` starts one", dir.display()))?;
    serde_json::from_str(&text).with_context(|| format!("failed to read {}", path.display()))
}

fn env(dir: &Path) -> anyhow::Result<()> {
    let dir = std::path::absolute(dir)?;
    let setup = read_setup(&dir)?;
    for (name, value) in environment(&dir, &target_dir()?, &setup) {
        out!("export {name}={}", quoted(Path::new(&value)));
    }
    Ok(())
}

fn status(dir: &Path) -> anyhow::Result<()> {
    let snapshot = Control::new(dir).snapshot()?;
    out!("{:<10} {:<28} {:<9} {:<10} {:<6} POOL", "VMID", "NAME", "STATUS", "LOCK", "AGENT");
    for (vmid, guest) in &snapshot.guests {
        let status = if guest.template { "template" } else { guest.power.word() };
        let agent = format!("{:?}", guest.agent).to_lowercase();
        out!(
            "{vmid:<10} {:<28} {status:<9} {:<10} {agent:<6} {}",
            guest.name,
            guest.lock.as_deref().unwrap_or("-"),
            guest.pool.as_deref().unwrap_or("-")
        );
    }
    for volume in snapshot.volumes.values() {
        out!("disk   {} {} MiB", volume.volid, volume.size >> 20);
    }
    for (name, port) in &snapshot.ports {
        let isolated = if port.isolated { ", isolated" } else { "" };
        out!("port   {name} on {}{isolated}", port.bridge);
    }
    for route in &snapshot.routes {
        out!("route  {} dev {}", route.dst, route.dev);
    }
    for name in snapshot.snippets.keys() {
        out!("snippet {name}");
    }
    for task in &snapshot.tasks_running {
        out!("task   {task}");
    }
    Ok(())
}

fn down(dir: &Path, keep: bool) -> anyhow::Result<()> {
    let control = Control::new(dir);
    if !dir.exists() {
        let ended = end_processes_of(dir)?;
        ensure!(ended > 0, "there is no lab in {}; `lab up` starts one", dir.display());
        return Ok(());
    }
    read_setup(dir)?;
    if control.down().is_ok() {
        let deadline = Instant::now() + Duration::from_secs(5);
        while control.snapshot().is_ok() {
            ensure!(Instant::now() < deadline, "the lab in {} does not end", dir.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if !keep {
        std::fs::remove_dir_all(dir).with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    Ok(())
}

/// Ends what still runs of a lab whose directory is gone: its node, with the root agent, by their command lines.
fn end_processes_of(dir: &Path) -> anyhow::Result<usize> {
    let dir = std::path::absolute(dir)?;
    let mut ended = 0;
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let of_the_lab =
            words.windows(2).any(|pair| pair[0] == b"--dir" && pair[1] == dir.as_os_str().as_encoded_bytes());
        let is_node = words.get(1) == Some(&b"node".as_slice())
            || words.get(1).is_some_and(|word| word.ends_with(b"/agent.py"));
        if of_the_lab
            && is_node
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// The beginnings of all points at which a fault can be set.
const POINTS: [&str; 12] = [
    "qm.",
    "pvesh.",
    "pvesm.",
    "pveum.",
    "ip.",
    "bridge.",
    "tc.",
    "api.",
    "task.",
    "agent.",
    "provider.",
    "virt-customize.",
];

/// A mistyped point would never be reached, and a test with it never fail.
fn checked_point(point: &str) -> anyhow::Result<&str> {
    let known = point.starts_with('*') || POINTS.iter().any(|beginning| point.starts_with(beginning));
    ensure!(known, "there is no point '{point}'; points begin with {}", POINTS.join(" "));
    Ok(point)
}

fn fault(action: &str, value: Option<String>) -> anyhow::Result<FaultAction> {
    let number = |value: Option<String>| -> anyhow::Result<u64> {
        value.context("a number is missing")?.parse().context("not a number")
    };
    Ok(match action {
        "error" => FaultAction::error(value.unwrap_or_else(|| "set by `lab ctl fault`".into())),
        "hang" => FaultAction::Hang,
        "slow" => FaultAction::Slow { ms: number(value)? },
        "kill" => FaultAction::Kill,
        "warnings" => FaultAction::Warnings { count: u32::try_from(number(value)?)? },
        "garbage" => FaultAction::Garbage,
        "huge" => FaultAction::Huge,
        other => bail!("no such action '{other}': error, hang, slow, kill, warnings, garbage, huge"),
    })
}

fn ctl(control: &Control, act: Ctl) -> anyhow::Result<()> {
    match act {
        Ctl::Fault { point, action, value, times } => {
            control.fault(checked_point(&point)?, fault(&action, value)?, times)
        }
        Ctl::Clear => control.clear_faults(),
        Ctl::Faults => {
            for fault in control.faults()? {
                out!("{}", serde_json::to_string(&fault)?);
            }
            Ok(())
        }
        Ctl::Guest { vmid, agent, power, lock, name, ignore_shutdown } => {
            let agent = match agent.as_deref() {
                None => None,
                Some("on") => Some(AgentMode::On),
                Some("off") => Some(AgentMode::Off),
                Some("never") => Some(AgentMode::Never),
                Some(other) => bail!("--agent is on, off or never, not '{other}'"),
            };
            control.guest(vmid, GuestChange { agent, ignore_shutdown, ..GuestChange::default() })?;
            if let Some(name) = name {
                control.rename(vmid, &name)?;
            }
            if let Some(lock) = lock {
                control.set_lock(vmid, Some(lock.as_str()).filter(|lock| *lock != "none"))?;
            }
            match power.as_deref() {
                None => Ok(()),
                Some("on") => control.power(vmid, Power::Running),
                Some("off") => control.power(vmid, Power::Stopped),
                Some("paused") => control.power(vmid, Power::Paused),
                Some(other) => bail!("--power is on, off or paused, not '{other}'"),
            }
        }
        Ctl::Figures { vmid, figures } => {
            let mut all = serde_json::to_value(Figures::default())?;
            for pair in &figures {
                let named = pair.split_once('=').and_then(|(name, value)| {
                    *all.get_mut(name)? = serde_json::from_str(value).ok()?;
                    Some(())
                });
                anyhow::ensure!(named.is_some(), "not a figure and a number: {pair}");
            }
            control.figures(vmid, serde_json::from_value(all)?)
        }
        Ctl::Stranger { vmid, name, running } => {
            control.add_guest(NewGuest { vmid, name, running, disk_gib: 8, ..NewGuest::default() })
        }
        Ctl::Remove { vmid } => control.remove_guest(vmid),
        Ctl::RebootNode => control.reboot_node(),
        Ctl::Timing { name, ms } => {
            let mut timing = Value::Null;
            control.timing(|all| {
                timing = serde_json::to_value(*all).unwrap_or_default();
                if let Some(entry) = timing.get_mut(&name) {
                    *entry = ms.into();
                    if let Ok(changed) = serde_json::from_value(timing.clone()) {
                        *all = changed;
                    }
                }
            })?;
            let names = timing.as_object().map(|all| all.keys().cloned().collect::<Vec<_>>().join(", "));
            ensure!(timing.get(&name).is_some(), "no such duration '{name}': {}", names.unwrap_or_default());
            Ok(())
        }
        Ctl::DaysPass { days } => days::pass(control.dir(), days),
        Ctl::NodeClock { days } => control.set_clock_ahead(days.saturating_mul(86_400)),
        Ctl::Snapshot => {
            out!("{}", serde_json::to_string_pretty(&control.snapshot()?)?);
            Ok(())
        }
        Ctl::Calls => {
            for call in control.calls(0)? {
                out!("{}", serde_json::to_string(&call)?);
            }
            Ok(())
        }
    }
}
