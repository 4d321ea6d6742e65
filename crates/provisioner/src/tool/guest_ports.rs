//! What root sets on the host for guests' network cards: rules (`nft`), the isolation of a bridge's port (`bridge`),
//! the qdisc of a tap (`tc`) and the host route to a guest (`ip`). Each call succeeds if the setting is already there.

use crate::host::Host;
use crate::host::run_process::{self, Ended, Input, Program, RunError};
use crate::plan::guard::{HANDLE, receive_limit};
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

/// Limit of each call. They take milliseconds, but the start of a VM waits for them, under its lock (hazard H23).
const LIMIT: Duration = Duration::from_secs(3);

/// Runs the four programs.
#[derive(Debug)]
pub struct GuestPorts<'a> {
    /// Where they are run.
    pub host: &'a Host,
}

impl GuestPorts<'_> {
    fn run(&self, name: &str, words: &[&str], input: Input) -> Result<Ended, RunError> {
        let arguments = words.iter().map(Into::into).collect();
        let program = Program {
            name,
            arguments,
            folder: Path::new("/"),
            environment: vec![],
            without: &["LC_", "LANG"],
        };
        run_process::run(self.host.doors, &program, input, LIMIT, &self.host.interrupt, |_, _| {})?
            .successful(&program)
    }

    fn done(&self, name: &str, words: &[&str]) -> Result<(), RunError> {
        self.run(name, words, Input::Nothing).map(drop)
    }

    /// Loads one transaction of rules into the kernel: all of it or nothing.
    pub fn load_rules(&self, transaction: String) -> Result<(), RunError> {
        self.run("nft", &["-f", "-"], Input::Text(transaction)).map(drop)
    }

    /// Sets whether a port is isolated from other isolated ports.
    pub fn isolate(&self, port: &str, isolated: bool) -> Result<(), RunError> {
        let word = if isolated { "on" } else { "off" };
        self.done("bridge", &["link", "set", "dev", port, "isolated", word])
    }

    /// Limits the traffic that leaves the host through this tap, which is what its guest receives.
    pub fn limit_received(&self, tap: &str, kbps: u32) -> Result<(), RunError> {
        let limit = receive_limit(kbps);
        let mut words = vec!["qdisc", "replace", "dev", tap, "root"];
        words.extend(limit.iter().map(String::as_str));
        self.done("tc", &words)
    }

    /// Removes our limit; a qdisc of anybody else is left alone.
    pub fn unlimit_received(&self, tap: &str) -> Result<(), RunError> {
        let shown = self.run("tc", &["qdisc", "show", "dev", tap], Input::Nothing)?;
        let ours = shown.stdout.lines().any(|line| line.split(' ').any(|word| word == HANDLE));
        if ours { self.done("tc", &["qdisc", "del", "dev", tap, "root"]) } else { Ok(()) }
    }

    /// Removes the limits that an older root agent has set with `tc` alone: beside ours they would still hold. Its
    /// policer is the one that Proxmox sets for `rate=` of a card, so this is only for a card without that; filters and
    /// qdiscs of anybody else are left alone.
    pub fn remove_older_limits(&self, tap: &str) -> Result<(), RunError> {
        let shown = self.run("tc", &["qdisc", "show", "dev", tap], Input::Nothing)?;
        let has = |text: &str, all: &[&str]| {
            text.lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                all.iter().all(|word| words.contains(word)) && !words.contains(&HANDLE)
            })
        };
        if has(&shown.stdout, &["tbf", "root", "lat", "400ms"]) {
            self.done("tc", &["qdisc", "del", "dev", tap, "root"])?;
        }
        if !has(&shown.stdout, &["ingress", "ffff:"]) {
            return Ok(());
        }
        let filters = self.run("tc", &["filter", "show", "dev", tap, "parent", "ffff:"], Input::Nothing)?;
        let is_its = has(&filters.stdout, &["pref", "50", "basic"]);
        if is_its { self.done("tc", &["qdisc", "del", "dev", tap, "ingress"]) } else { Ok(()) }
    }

    /// Sets the host's route to a guest.
    pub fn add_route(&self, address: Ipv6Addr, bridge: &str) -> Result<(), RunError> {
        self.done("ip", &["-6", "route", "replace", &format!("{address}/128"), "dev", bridge])
    }

    /// Removes the route to a guest. A route that is already gone, perhaps with its bridge, is not an error.
    pub fn remove_route(&self, address: Ipv6Addr, bridge: &str) -> Result<(), RunError> {
        match self.done("ip", &["-6", "route", "del", &format!("{address}/128"), "dev", bridge]) {
            Err(RunError::Failed { last_words, .. })
                if ["No such process", "Cannot find device"].iter().any(|gone| last_words.contains(gone)) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Writes a line to the system log, in addition to the output that whatever starts the VM reads. A host without a
    /// system log is not an error.
    pub fn log(&self, text: &str) {
        let _ = self.done("logger", &["-t", "blockhost-guard", "-p", "daemon.err", "--", text]);
    }
}
