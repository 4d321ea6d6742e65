//! The guard of a network change: a separate process that restores the previous network if the change does not end
//! well. From its standard input it reads the snapshot, then one word: on `done` it exits. If the input ends without
//! that word, whoever made the change has died or failed.
//!
//! Restoring: the previous `/etc/network/interfaces`, `ifreload -a`, and if addresses, routes and rules are still not
//! what they were ([`Inventory`]), `ip` itself.

use super::network_inventory;
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::interrupt::Interrupt;
use crate::host::lifeline::Lifeline;
use crate::host::replace_file;
use crate::host::run_process::{self, Input, Program};
use crate::plan::bridge_goal::Goal;
use crate::plan::connectivity::Inventory;
use crate::plan::interfaces_file::MAIN_FILE as INTERFACES;
use crate::tool::ip::{self, ip};
use crate::value::host_network::Network;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hidden step's name.
pub const STEP: &str = "network-guard";

/// How long the whole change may take, beyond the limits of its parts.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time for Proxmox' own task, which continues without us, to finish.
const TASK: Duration = Duration::from_secs(20);
const RELOAD: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(10);

/// The file of changes that Proxmox has written but not applied.
pub(super) fn pending_file() -> PathBuf {
    PathBuf::from(format!("{INTERFACES}.new"))
}

/// The network before the change, and the goal of the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Content of `/etc/network/interfaces`; `None` if it did not exist.
    interfaces: Option<String>,
    /// The host's addresses, routes and rules before.
    before: Inventory,
    /// The bridge existed before.
    bridge_existed: bool,
    goal: Goal,
}

impl Snapshot {
    pub fn of(network: &Network, before: Inventory, goal: Goal) -> anyhow::Result<Snapshot> {
        let interfaces = match crate::host::read_file::text(INTERFACES) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {INTERFACES}")),
        };
        Ok(Snapshot { interfaces, before, bridge_existed: network.interface(&goal.bridge).is_some(), goal })
    }

    /// Waits until the kernel has what was planned; the error says what is missing.
    pub fn settled(&self, host: &Host, deadline: Deadline, interrupt: &Interrupt) -> anyhow::Result<()> {
        loop {
            let missing = self.missing(host).unwrap_or_else(|error| Some(format!("{error:#}")));
            match missing {
                None => return Ok(()),
                Some(what) if deadline.passed() => anyhow::bail!("the network was applied, but {what}"),
                Some(_) => interrupt.check()?,
            }
            deadline.sleep_unless(interrupt, Duration::from_millis(200));
        }
    }

    /// Returns what is not as planned or was lost on the way: nothing that the host had may be missing.
    fn missing(&self, host: &Host) -> anyhow::Result<Option<String>> {
        if let Some(missing) = self.goal.missing(&ip::network(host, host.deadline(LOOK))?) {
            return Ok(Some(missing));
        }
        let port = self.goal.port.as_deref().filter(|_| !self.bridge_existed);
        let moved = port.map(|port| (port, self.goal.bridge.as_str()));
        let now = network_inventory::read(host, host.deadline(LOOK))?;
        Ok(self
            .before
            .lost(&now, moved)
            .or_else(|| network_inventory::silent(host, &self.before, moved, host.deadline(LOOK))))
    }

    /// Restores the previous network, and verifies that it is restored.
    pub fn put_back(&self, host: &Host) -> anyhow::Result<()> {
        replace_file::remove(&pending_file())?;
        let now = crate::host::read_file::text(INTERFACES).ok();
        if now != self.interfaces {
            match &self.interfaces {
                Some(text) => {
                    replace_file::replace(
                        host.doors,
                        Path::new(INTERFACES),
                        text.as_bytes(),
                        0o644,
                        "interfaces",
                    )?;
                }
                None => replace_file::remove(Path::new(INTERFACES))?,
            }
        }
        if self.as_before(host).is_ok() {
            return Ok(());
        }
        if run_process::find("ifreload").is_some() {
            let program = Program {
                name: "ifreload",
                arguments: vec!["-a".into()],
                folder: Path::new("/"),
                environment: vec![],
                without: &[],
            };
            // Its exit code means as little as that of pvesh, so the kernel is checked.
            let _ = run_process::run(
                host.doors,
                &program,
                Input::Nothing,
                RELOAD,
                &Interrupt::never(),
                |_, _| {},
            );
        }
        if let Err(missing) = self.as_before(host) {
            tracing::warn!("{missing:#}; restoring it directly");
            self.by_hand(host);
        }
        self.as_before(host)
    }

    fn as_before(&self, host: &Host) -> anyhow::Result<()> {
        match self.before.lost(&network_inventory::read(host, host.deadline(LOOK))?, None) {
            None => Ok(()),
            Some(what) => anyhow::bail!("{what}"),
        }
    }

    /// Restores it step by step. A step that fails does not keep the next from being tried; the check afterwards shows
    /// the result.
    fn by_hand(&self, host: &Host) {
        let run = |words: &[&str]| {
            if let Err(error) = ip(host, words, host.deadline(LOOK)) {
                tracing::debug!("{error:#}");
            }
        };
        if !self.bridge_existed {
            run(&["link", "delete", "dev", &self.goal.bridge]);
        }
        if let Some(port) = self.goal.port.as_ref().filter(|_| !self.bridge_existed) {
            run(&["link", "set", "dev", port, "nomaster"]);
        }
        network_inventory::put_back(host, &self.before, || host.deadline(LOOK));
    }
}

/// The running guard, as seen by whoever makes the change.
pub(super) struct Guard<'h> {
    host: &'h Host,
    lifeline: Lifeline,
}

/// Starts the guard.
pub(super) fn start<'h>(host: &'h Host, snapshot: &Snapshot) -> anyhow::Result<Guard<'h>> {
    let own = run_process::own_program()?;
    let name = own.to_str().context("the path of this program is not valid UTF-8")?;
    let program = Program {
        name,
        arguments: vec![STEP.into()],
        folder: Path::new("/"),
        environment: vec![],
        without: &[],
    };
    let mut lifeline = Lifeline::start(&program).context("cannot start the guard of the network")?;
    lifeline.say(&serde_json::to_string(snapshot)?).context("the guard of the network does not listen")?;
    Ok(Guard { host, lifeline })
}

impl Guard<'_> {
    /// Ends the guard after success.
    pub fn dismiss(mut self) -> anyhow::Result<()> {
        self.lifeline.say("done").context("the guard of the network has ended early")?;
        self.lifeline.wait(self.host.deadline(LOOK)).map(drop)
    }

    /// Lets the guard restore the network; does so itself if the guard is gone.
    pub fn put_back(mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let told = self.lifeline.say("back").is_ok();
        let ended = self.lifeline.wait(self.host.deadline(TASK + RELOAD + RELOAD));
        if told && ended.is_ok_and(|status| status.success()) {
            snapshot.as_before(self.host)
        } else {
            snapshot.put_back(self.host)
        }
    }
}

/// The hidden step: the guard itself. Signals do not end it.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let (told, words) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in run_process::lines_of_input() {
            if told.send(line).is_err() {
                return;
            }
        }
    });
    let snapshot =
        words.recv_timeout(LOOK).context("(internal) no network settings were given to the guard")?;
    let snapshot: Snapshot = serde_json::from_str(&snapshot)
        .context("(internal) the network settings for the guard are not JSON")?;
    match words.recv_timeout(PATIENCE).as_deref() {
        Ok("done") => return Ok(()),
        Ok(_) => {}
        // Proxmox' task may still be running and end well, as nobody has reported a failure.
        Err(_) => {
            let task = host.limit("setup-task", TASK);
            if snapshot.settled(host, host.deadline(task), &Interrupt::never()).is_ok() {
                return Ok(());
            }
        }
    }
    // Others may be writing at this moment, so what they leave is checked once more.
    snapshot.put_back(host)?;
    host.doors.sleep(Duration::from_secs(1));
    snapshot.put_back(host)
}
