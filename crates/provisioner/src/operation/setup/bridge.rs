//! Step bridge: makes sure that the guests' bridge exists and survives a reboot, without the host ever losing its
//! address.
//!
//! ```text
//! look ── bridge there and configured ──────────────────────────────► done
//!   │
//!   ├─ uplink's address lies in the guests' network: the bridge takes over uplink, address and default route
//!   ├─ it does not: a bridge of its own with the guests' gateway as address
//!   ▼
//! plan (pvesh writes interfaces.new) ─► read back ─► guard starts ─► apply ─► look until it is as planned ─► done
//!        └── wrong: pending changes reverted            │                              │
//!                                                       └── we die, or time is over: the guard puts it back
//! ```
//!
//! The guard is a separate process that outlives us: whoever is logged in over the address being moved may lose the
//! connection, and with it this command, at the worst moment.

use super::network_guard::Snapshot;
use super::{Setup, carry, interfaces_file, network_guard, network_inventory};
use crate::host::doors::Doors;
use crate::host::replace_file::{self, PRIVATE};
use crate::plan::bridge_goal::Goal;
use crate::plan::guest_bridge::{self, Make, Plan};
use crate::plan::interfaces_file::{MAIN_FILE, Stanza};
use crate::tool::ip;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::host_network::{ConfiguredInterface, Network};
use crate::value::node_name::NodeName;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
/// How long the kernel may take to reach the applied configuration.
const SETTLE: Duration = Duration::from_secs(45);
const LOOK: Duration = Duration::from_secs(10);

pub(super) fn run(setup: &Setup<'_>) -> anyhow::Result<()> {
    let cli = ProxmoxCli::here(setup.host, setup.host.deadline(LIMIT));
    let node = match &setup.choices.node {
        Some(node) => node.to_string(),
        None => cli.node_name()?,
    };
    let node = NodeName::parse(&node)?;
    let bridge = setup.choices.bridge.as_str();
    let network = ip::network(setup.host, setup.host.deadline(LOOK))?;
    let rows = cli.interfaces(&node)?;
    let under_way = UnderWay { doors: setup.host.doors, path: setup.configuration_file("bridge-under-way") };
    let (pending, ours) = (network_guard::pending_file(), under_way.path.exists());
    let rows = if ours && pending.exists() {
        cli.revert_network(&node)?;
        cli.interfaces(&node)?
    } else {
        rows
    };
    let stanzas = interfaces_file::read(Path::new(MAIN_FILE));
    if elsewhere(bridge, &network, &rows, &stanzas)? {
        return under_way.end();
    }
    let plan = guest_bridge::plan(bridge, &network, &rows, setup.choices.pool.as_ref());
    if matches!(plan, Ok(Plan::Done)) {
        return under_way.end();
    }
    anyhow::ensure!(
        !pending.exists(),
        "the node has network changes that are not applied yet ({}), and they would be applied with ours; apply or \
         revert them first",
        pending.display()
    );
    let plan = plan?;
    let mut before = network_inventory::read(setup.host, setup.host.deadline(LOOK))?;
    if let Plan::Make(make) = &plan
        && let Some(moving) = guest_bridge::moving(bridge, make, &network, &rows)
    {
        let losses = carry::losses(setup.host, &moving, &stanzas, &before)?;
        guest_bridge::refuse_losses(bridge, moving.device, &losses)?;
    }
    network_inventory::prove(setup.host, &mut before, setup.host.deadline(LOOK));
    under_way.begin()?;
    let mut goal = Goal { bridge: bridge.to_owned(), port: None, address: None, gateway: None };
    if let Plan::Make(make) = &plan {
        goal.address = Some(make.address);
        goal.gateway = make.gateway;
        goal.port = make.uplink.clone();
        write_plan(setup, &cli, &node, bridge, make).or_else(|error| {
            let error = revert(&cli, &node, error);
            under_way.end()?;
            Err(error)
        })?;
    }
    let snapshot = Snapshot::of(&network, before, goal)?;
    let applied = apply(setup, &cli, &node, &snapshot);
    // Whether it succeeded or was reverted: no change of ours is pending any more.
    under_way.end()?;
    applied
}

/// Marks pending changes as ours: those of a killed run are reverted by the next; an administrator's are not touched.
struct UnderWay {
    doors: Doors,
    path: PathBuf,
}

impl UnderWay {
    fn begin(&self) -> anyhow::Result<()> {
        replace_file::make_folder(self.doors, self.path.parent().unwrap_or(Path::new("/")), 0o755)?;
        Ok(replace_file::replace(self.doors, &self.path, b"", PRIVATE, "bridge-under-way")?)
    }

    fn end(&self) -> anyhow::Result<()> {
        Ok(replace_file::remove(&self.path)?)
    }
}

/// Whether a file other than Proxmox' own configures the bridge; then the bridge is used as it is.
fn elsewhere(
    bridge: &str,
    network: &Network,
    rows: &[ConfiguredInterface],
    stanzas: &[Stanza],
) -> anyhow::Result<bool> {
    let is_ovs = Path::new("/sys/class/net").join(bridge).join("upper_ovs-system").exists();
    let file = guest_bridge::configured_elsewhere(bridge, network, rows, is_ovs, stanzas)?;
    if let Some(file) = file {
        tracing::info!("{bridge} is configured in {}; it is used as it is", file.display());
    }
    Ok(file.is_some())
}

/// Writes the pending configuration and verifies it; applies nothing.
fn write_plan(
    setup: &Setup<'_>,
    cli: &ProxmoxCli,
    node: &NodeName,
    bridge: &str,
    make: &Make,
) -> anyhow::Result<()> {
    let options = guest_bridge::options(bridge, make, &cli.interfaces(node)?);
    if let Some((port, changes)) = &options.port {
        cli.change_interface(node, port, changes)?;
    }
    cli.add_interface(node, &options.bridge)?;
    setup.host.step("setup.bridge.planned")?;
    let pending = network_guard::pending_file();
    let written = crate::host::read_file::text(&pending)
        .with_context(|| format!("pvesh created no pending configuration ({})", pending.display()))?;
    let ip = make.address.ip.to_string();
    anyhow::ensure!(
        written.contains(&format!("iface {bridge} ")) && written.contains(&ip),
        "the pending configuration {} lacks {bridge} with {ip}",
        pending.display()
    );
    Ok(())
}

fn revert(cli: &ProxmoxCli, node: &NodeName, error: anyhow::Error) -> anyhow::Error {
    match cli.undoing(Duration::from_secs(30)).revert_network(node) {
        Ok(()) => error,
        Err(second) => error.context(format!("and reverting the pending changes failed ({second})")),
    }
}

/// Applies the pending changes, watched by the guard. `pvesh` does not report how its task ends (H32), so the kernel is
/// checked.
fn apply(setup: &Setup<'_>, cli: &ProxmoxCli, node: &NodeName, snapshot: &Snapshot) -> anyhow::Result<()> {
    let settle = setup.host.limit("setup-settle", SETTLE);
    let guard = network_guard::start(setup.host, snapshot).map_err(|error| revert(cli, node, error))?;
    let applied = setup
        .host
        .step("setup.bridge.guarded")
        .and_then(|()| Ok(cli.apply_network(node)?))
        .and_then(|()| setup.host.step("setup.bridge.applied"))
        .and_then(|()| snapshot.settled(setup.host, setup.host.deadline(settle), &setup.host.interrupt));
    match applied {
        Ok(()) => guard.dismiss(),
        Err(error) => {
            match guard.put_back(snapshot) {
                Ok(()) => Err(error.context("the network is as it was before")),
                Err(second) => Err(error
                    .context(format!("AND RESTORING THE PREVIOUS NETWORK CONFIGURATION FAILED: {second:#}"))),
            }
        }
    }
}
