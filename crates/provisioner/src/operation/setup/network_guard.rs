//! The guard of a network change: a process of its own that puts the former network back when the change does not end
//! well. It reads the snapshot from its standard input, then one word: `done`, and it goes. An end of input without
//! that word means that whoever made the change has died or failed.
//!
//! Putting back: the former `/etc/network/interfaces`, `ifreload -a`, and where addresses, routes and rules are still not
//! what they were ([`Inventory`]), by `ip` itself.

use super::network_inventory;
use crate::host::Host;
use crate::host::clock::{self, Deadline};
use crate::host::failpoint;
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

/// How long the change may take in all, beyond the limits of its parts.
const PATIENCE: Duration = Duration::from_secs(300);
/// What Proxmox' own task, which goes on without us, gets to finish.
const TASK: Duration = Duration::from_secs(20);
const RELOAD: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(10);

/// Changes that Proxmox has written and not applied.
pub(super) fn pending_file() -> PathBuf {
    PathBuf::from(format!("{INTERFACES}.new"))
}

/// What the network was, and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// `/etc/network/interfaces`; `None`: there was none.
    interfaces: Option<String>,
    /// What the host had.
    before: Inventory,
    /// The bridge was there before.
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

    /// Waits until the kernel has what was planned; an error says what is missing.
    pub fn settled(&self, deadline: Deadline, interrupt: &Interrupt) -> anyhow::Result<()> {
        loop {
            let missing = self.missing().unwrap_or_else(|error| Some(format!("{error:#}")));
            match missing {
                None => return Ok(()),
                Some(what) if deadline.passed() => anyhow::bail!("the network was applied, but {what}"),
                Some(_) => interrupt.check()?,
            }
            deadline.sleep_unless(interrupt, Duration::from_millis(200));
        }
    }

    /// What is not as planned, or was lost on the way: nothing that the host had may be missing.
    fn missing(&self) -> anyhow::Result<Option<String>> {
        if let Some(missing) = self.goal.missing(&ip::network(Deadline::after(LOOK))?) {
            return Ok(Some(missing));
        }
        let port = self.goal.port.as_deref().filter(|_| !self.bridge_existed);
        let moved = port.map(|port| (port, self.goal.bridge.as_str()));
        let now = network_inventory::read(Deadline::after(LOOK))?;
        Ok(self
            .before
            .lost(&now, moved)
            .or_else(|| network_inventory::silent(&self.before, moved, Deadline::after(LOOK))))
    }

    /// Puts back what was, and looks whether it is.
    pub fn put_back(&self) -> anyhow::Result<()> {
        replace_file::remove(&pending_file())?;
        let now = crate::host::read_file::text(INTERFACES).ok();
        if now != self.interfaces {
            match &self.interfaces {
                Some(text) => {
                    replace_file::replace(Path::new(INTERFACES), text.as_bytes(), 0o644, "interfaces")?;
                }
                None => replace_file::remove(Path::new(INTERFACES))?,
            }
        }
        if self.as_before().is_ok() {
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
            // Its word counts as little as that of pvesh: the kernel is asked.
            let _ = run_process::run(&program, Input::Nothing, RELOAD, &Interrupt::never(), |_, _| {});
        }
        if let Err(missing) = self.as_before() {
            tracing::warn!("{missing:#}; restoring it directly");
            self.by_hand();
        }
        self.as_before()
    }

    fn as_before(&self) -> anyhow::Result<()> {
        match self.before.lost(&network_inventory::read(Deadline::after(LOOK))?, None) {
            None => Ok(()),
            Some(what) => anyhow::bail!("{what}"),
        }
    }

    /// Step by step; one that fails does not keep the next from being tried, and the look afterwards tells.
    fn by_hand(&self) {
        let run = |words: &[&str]| {
            if let Err(error) = ip(words, Deadline::after(LOOK)) {
                tracing::debug!("{error:#}");
            }
        };
        if !self.bridge_existed {
            run(&["link", "delete", "dev", &self.goal.bridge]);
        }
        if let Some(port) = self.goal.port.as_ref().filter(|_| !self.bridge_existed) {
            run(&["link", "set", "dev", port, "nomaster"]);
        }
        network_inventory::put_back(&self.before, || Deadline::after(LOOK));
    }
}

/// The guard at work, seen from whoever makes the change.
pub(super) struct Guard(Lifeline);

/// Starts the guard.
pub(super) fn start(snapshot: &Snapshot) -> anyhow::Result<Guard> {
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
    Ok(Guard(lifeline))
}

impl Guard {
    /// All is well: the guard goes.
    pub fn dismiss(mut self) -> anyhow::Result<()> {
        self.0.say("done").context("the guard of the network has ended early")?;
        self.0.wait(Deadline::after(LOOK)).map(drop)
    }

    /// Lets the guard put the network back; where it is gone, we do.
    pub fn put_back(mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let told = self.0.say("back").is_ok();
        let ended = self.0.wait(Deadline::after(TASK + RELOAD + RELOAD));
        if told && ended.is_ok_and(|status| status.success()) {
            snapshot.as_before()
        } else {
            snapshot.put_back()
        }
    }
}

/// The hidden step: the guard itself. Signals do not end it.
pub fn run(_host: &Host) -> anyhow::Result<()> {
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
        // Proxmox' task may still be at work, and end well: nobody has said that it failed.
        Err(_) => {
            let task = failpoint::limit("setup-task", TASK);
            if snapshot.settled(Deadline::after(task), &Interrupt::never()).is_ok() {
                return Ok(());
            }
        }
    }
    // Others may be writing at this moment: what they leave is looked at once more.
    snapshot.put_back()?;
    clock::sleep(Duration::from_secs(1));
    snapshot.put_back()
}
