//! `blockhost-provisioner-guard`: protects and connects a VM's network at every start, whoever starts it (hazards H36,
//! H51). Proxmox runs it as the VM's hook script, as root, under the VM's lock; the root agent runs it for a VM that is
//! already running.
//!
//! ```text
//!   pre-start    rules, before there is a tap: a failure keeps the VM off only where the site says `guard_required`
//!   post-start   rules again, isolation of the port, limits, host route: the tap is a port of the bridge now
//!   pre-stop     nothing: the guest still runs
//!   post-stop    everything off, unless the VM is on again already
//!   apply        as post-start, for a VM that runs; changed decisions, too
//!   off          everything off, whether it runs or not
//! ```
//!
//! It must be quick and silent. It must not touch somebody else's VM: the VMID in the file may belong to another VM by
//! now, so the VM's configuration has to contain the UUID in the file (hazard H01). Failures are written to a file that
//! the root agent reports, to stderr, which is the task's log, and to the system log.

use crate::host::Host;
use crate::host::replace_file;
use crate::host::run_process::RunError;
use crate::plan::guard::{self, Card, Guarded};
use crate::store::guard_files::{GuardFiles, GuardState};
use crate::store::settings::Settings;
use crate::tool::guest_ports::GuestPorts;
use crate::value::vmid::Vmid;
use std::time::Duration;

/// How long a tap may take to become a port of its bridge. At post-start it already is one.
const PORT: Duration = Duration::from_secs(1);
/// Pause between two checks of the port.
const LOOK: Duration = Duration::from_millis(20);

/// When, or for what, the guard is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before QEMU starts, so there is no tap yet.
    PreStart,
    /// QEMU has started.
    PostStart,
    /// Before the VM is stopped.
    PreStop,
    /// QEMU has ended.
    PostStop,
    /// Apply what is in the VM's file to a running VM.
    Apply,
    /// Remove everything of ours.
    Off,
}

impl Phase {
    /// Parses the word on the command line; `None` for a phase of some later Proxmox, which does not concern us.
    pub fn parse(word: &str) -> Option<Phase> {
        const ALL: [Phase; 6] =
            [Phase::PreStart, Phase::PostStart, Phase::PreStop, Phase::PostStop, Phase::Apply, Phase::Off];
        ALL.into_iter().find(|phase| phase.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Phase::PreStart => "pre-start",
            Phase::PostStart => "post-start",
            Phase::PreStop => "pre-stop",
            Phase::PostStop => "post-stop",
            Phase::Apply => "apply",
            Phase::Off => "off",
        }
    }
}

/// Result of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guarding {
    /// What is not in force, one sentence each.
    pub missing: Vec<String>,
    /// The VM must not start.
    pub refused: bool,
}

/// Does what the phase requires.
pub fn guard(host: &Host, vmid: Vmid, phase: Phase) -> anyhow::Result<Guarding> {
    anyhow::ensure!(replace_file::are_root(), "only root can guard a VM's network");
    let files = GuardFiles::of(vmid);
    let ports = GuestPorts { host };
    let mut work = Work { files: &files, ports: &ports, state: files.state(), missing: Vec::new() };
    match phase {
        Phase::PreStop => return Ok(Guarding::default()),
        Phase::PostStop | Phase::Off => work.off(vmid, phase)?,
        Phase::PreStart | Phase::PostStart | Phase::Apply => work.on(phase)?,
    }
    let missing = work.missing;
    if missing.is_empty() {
        return Ok(Guarding::default());
    }
    ports.log(&format!("VMID {vmid}, {}: {}", phase.word(), missing.join("; ")));
    // Read only where it matters; settings that cannot be read require nothing.
    let required = || Settings::read(host).is_ok_and(|settings| settings.guard_required);
    Ok(Guarding { missing, refused: phase == Phase::PreStart && required() })
}

struct Work<'a> {
    files: &'a GuardFiles,
    ports: &'a GuestPorts<'a>,
    state: GuardState,
    missing: Vec<String>,
}

impl Work<'_> {
    fn on(&mut self, phase: Phase) -> anyhow::Result<()> {
        let (guarded, cards) = match self.wanted() {
            Ok(Some(wanted)) => wanted,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.missing.push(format!("the network is not guarded: {error:#}"));
                self.free_a_stranger();
                return self.note(phase);
            }
        };
        self.rules(&cards, &guarded);
        if phase != Phase::PreStart {
            for card in &cards {
                self.connect(card, &guarded, phase);
            }
            self.route(&cards, &guarded);
        }
        self.note(phase)
    }

    /// Returns what to apply and to which cards; `None` if this is not a VM of ours, or nothing is to be applied.
    fn wanted(&self) -> anyhow::Result<Option<(Guarded, Vec<Card>)>> {
        let Some(guarded) = self.files.guarded()? else { return Ok(None) };
        let guest = self.files.guest()?;
        let guest = guest.ok_or_else(|| anyhow::anyhow!("the VM has no configuration on this node"))?;
        // A VM of somebody else may have the VMID of a deleted VM of ours; its network is not our business.
        anyhow::ensure!(
            guest.is(&guarded),
            "the guard's file is for VM {}, and this is VM {}, which is left alone",
            guarded.name.as_deref().unwrap_or("(no name)"),
            guest.name.as_deref().unwrap_or("(no name)"),
        );
        if !guarded.enabled {
            return Ok(None);
        }
        anyhow::ensure!(
            !guest.cards.is_empty(),
            "the VM has no network card net0 with an address and a bridge"
        );
        Ok(Some((guarded, guest.cards)))
    }

    /// Rules of a VM that went without a last phase must not hold whoever has its VMID now.
    fn free_a_stranger(&mut self) {
        let known = self.files.guarded().ok().flatten().zip(self.files.guest().ok().flatten());
        if self.state.taps.is_empty() || known.is_none_or(|(guarded, guest)| guest.is(&guarded)) {
            return;
        }
        match self.ports.load_rules(guard::no_rules(self.state.taps.iter().map(String::as_str))) {
            Ok(()) => self.state.taps.clear(),
            Err(error) => {
                self.missing.push(format!("rules of the VM that had this VMID are still there: {error}"))
            }
        }
    }

    fn rules(&mut self, cards: &[Card], guarded: &Guarded) {
        let needed = guarded.anti_spoofing || guarded.limits.bandwidth_out_kbps > 0;
        // A node without nft will do for a VM without rules.
        if !needed && self.state.taps.is_empty() {
            return;
        }
        match self.ports.load_rules(guard::rules(cards, guarded)) {
            Ok(()) if needed => self.state.taps = cards.iter().map(|card| card.tap.clone()).collect(),
            Ok(()) => self.state.taps.clear(),
            Err(error) => {
                if guarded.anti_spoofing {
                    self.missing.push(format!("anti-spoofing is not in force: {error}"));
                }
                if guarded.limits.bandwidth_out_kbps > 0 {
                    self.missing.push(format!("the limit of what it sends is not in force: {error}"));
                }
            }
        }
    }

    fn connect(&mut self, card: &Card, guarded: &Guarded, phase: Phase) {
        let port = match self.port(card) {
            Ok(port) => port,
            Err(why) => return self.missing.push(why),
        };
        if self.files.isolated(&port).is_none() {
            // nftables' family `bridge` does not see traffic on Open vSwitch.
            let needed = [guarded.anti_spoofing, guarded.limits.bandwidth_out_kbps > 0];
            for (what, _) in
                ["anti-spoofing", "the limit of what it sends"].iter().zip(needed).filter(|(_, n)| *n)
            {
                self.missing.push(format!("{what} is not in force: {port} is not a port of a Linux bridge"));
            }
        }
        self.isolation(&port, guarded, phase);
        // A new tap has none.
        if phase == Phase::Apply
            && !card.has_rate
            && let Err(error) = self.ports.remove_older_limits(&card.tap)
        {
            self.missing.push(format!("a former limit of {} is still there: {error}", card.tap));
        }
        let limited = match guarded.limits.bandwidth_in_kbps {
            0 if phase == Phase::PostStart => Ok(()), // a new tap has none
            0 => self.ports.unlimit_received(&card.tap),
            kbps => self.ports.limit_received(&card.tap, kbps),
        };
        if let Err(error) = limited {
            self.missing.push(format!("the limit of what it receives is not in force: {error}"));
        }
    }

    fn isolation(&mut self, port: &str, guarded: &Guarded, phase: Phase) {
        let is = self.files.isolated(port);
        if is == Some(guarded.isolate) || (!guarded.isolate && (is.is_none() || phase == Phase::PostStart)) {
            return;
        }
        let failed = match self.ports.isolate(port, guarded.isolate) {
            Err(error) => error.to_string(),
            Ok(()) if self.files.isolated(port).is_none_or(|is| is == guarded.isolate) => return,
            Ok(()) => "it was set, but the kernel does not show it".to_owned(),
        };
        self.missing.push(match guarded.isolate {
            true => format!(
                "failed to isolate port {port}, so other guests on this bridge can reach it: {failed}"
            ),
            false => format!("port {port} is still isolated: {failed}"),
        });
    }

    /// Returns the card's port on the guests' bridge, once it is one.
    fn port(&self, card: &Card) -> Result<String, String> {
        let deadline = self.ports.host.deadline(PORT);
        loop {
            let (tap, behind) = (&card.tap, &card.firewall_port);
            match self.files.master(tap) {
                Some(master) if !master.starts_with("fwbr") => return Ok(tap.clone()),
                Some(_) if self.files.master(behind).is_some() => return Ok(behind.clone()),
                _ if deadline.passed() => return Err(format!("{tap} is not a port of a bridge yet")),
                _ => deadline.sleep_unless(&self.ports.host.interrupt, LOOK),
            }
        }
    }

    fn route(&mut self, cards: &[Card], guarded: &Guarded) {
        let wanted = guarded.ipv6.zip(cards.first().map(|card| card.bridge.clone()));
        if let Some((address, bridge)) = self.state.route.clone().filter(|old| Some(old) != wanted.as_ref())
            && let Err(error) = self.ports.remove_route(address, &bridge)
        {
            self.missing.push(format!("the route to its former address {address} is still there: {error}"));
        }
        if let Some((address, bridge)) = &wanted
            && let Err(error) = self.ports.add_route(*address, bridge)
        {
            self.missing.push(format!(
                "failed to set the host route to {address}, so the guest is unreachable by IPv6: {error}"
            ));
        }
        self.state.route = wanted;
    }

    fn note(&mut self, phase: Phase) -> anyhow::Result<()> {
        self.state.phase = phase.word().to_owned();
        self.state.applied = phase != Phase::PreStart && self.missing.is_empty();
        self.state.missing = self.missing.clone();
        self.files.note(self.ports.host, &self.state)
    }

    fn off(&mut self, vmid: Vmid, phase: Phase) -> anyhow::Result<()> {
        let guarded = self.files.guarded().ok().flatten();
        let guest = self.files.guest().ok().flatten();
        let guest = guest.filter(|guest| guarded.as_ref().is_some_and(|guarded| guest.is(guarded)));
        let cards = guest.map(|guest| guest.cards).unwrap_or_default();
        let known = cards.iter().map(|card| card.tap.clone()).chain([guard::tap(vmid, 0)]);
        let mut taps: Vec<String> = known.chain(self.state.taps.clone()).collect();
        taps.sort();
        taps.dedup();
        // The VM has been started again meanwhile: the rules belong to the new start.
        if phase == Phase::PostStop && taps.iter().any(|tap| self.files.is_device(tap)) {
            return Ok(());
        }
        for tap in taps.iter().filter(|tap| self.files.is_device(tap)) {
            if let Err(error) = self.ports.unlimit_received(tap) {
                self.missing.push(format!("the limit of {tap} is still there: {error}"));
            }
        }
        if phase == Phase::Off || !self.state.taps.is_empty() {
            match self.ports.load_rules(guard::no_rules(taps.iter().map(String::as_str))) {
                // Without nft there are no rules.
                Ok(()) | Err(RunError::NotStarted { .. }) => self.state.taps.clear(),
                Err(error) => self.missing.push(format!("its rules are still there: {error}")),
            }
        }
        let bridge = cards.first().map(|card| card.bridge.clone());
        let from_file = guarded.and_then(|guarded| guarded.ipv6).zip(bridge);
        if let Some((address, bridge)) = self.state.route.clone().or(from_file) {
            match self.ports.remove_route(address, &bridge) {
                Ok(()) => self.state.route = None,
                Err(error) => self.missing.push(format!("the route to {address} is still there: {error}")),
            }
        }
        if self.missing.is_empty() { self.files.forget() } else { self.note(phase) }
    }
}
