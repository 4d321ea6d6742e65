//! Step bridge: the guests' bridge exists and survives a reboot, and the host never loses its address on the way.
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
//! The guard is a process of its own that outlives us: whoever is logged in over the address that moves may lose the
//! connection, and with it this command, in the worst moment.

use super::carry::{self, Moving};
use super::interfaces_file::{self, Stanza};
use super::network_guard::{Goal, INTERFACES, Snapshot};
use super::network_inventory::Inventory;
use super::{Setup, network_guard};
use crate::host::clock::Deadline;
use crate::host::failpoint;
use crate::host::replace_file::{self, PRIVATE};
use crate::tool::ip;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::host_network::{Address, ConfiguredInterface, Interface, Network};
use crate::value::node_name::NodeName;
use anyhow::Context as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
/// How long an applied configuration may take to become what the kernel has.
const SETTLE: Duration = Duration::from_secs(45);
const LOOK: Duration = Duration::from_secs(10);

/// What is to become of the bridge.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing to do.
    Done,
    /// In the configuration, not in the kernel, or the other way round with nothing of the host's on it.
    Apply,
    /// A bridge with these settings.
    Make(Make),
}

#[derive(Debug, PartialEq, Eq)]
struct Make {
    address: Address,
    /// The default router, where the bridge takes it over.
    gateway: Option<IpAddr>,
    /// The interface that becomes its port and gives up address and route.
    uplink: Option<String>,
}

pub(super) fn run(setup: &Setup<'_>) -> anyhow::Result<()> {
    let cli = ProxmoxCli::here(setup.host, Deadline::after(LIMIT));
    let node = match &setup.choices.node {
        Some(node) => node.to_string(),
        None => cli.node_name()?,
    };
    let node = NodeName::parse(&node)?;
    let bridge = setup.choices.bridge.as_str();
    let network = ip::network(Deadline::after(LOOK))?;
    let rows = cli.interfaces(&node)?;
    let under_way = UnderWay(setup.configuration_file("bridge-under-way"));
    let (pending, ours) = (network_guard::pending_file(), under_way.0.exists());
    let rows = if ours && pending.exists() {
        cli.revert_network(&node)?;
        cli.interfaces(&node)?
    } else {
        rows
    };
    let stanzas = interfaces_file::read(Path::new(INTERFACES));
    if elsewhere(bridge, &network, &rows, &stanzas)? {
        return under_way.end();
    }
    let plan = plan(bridge, &network, &rows, setup.choices.pool.as_ref());
    if matches!(plan, Ok(Plan::Done)) {
        return under_way.end();
    }
    anyhow::ensure!(
        !pending.exists(),
        "the node has network changes that were not applied ({}): apply or revert them first, they would be applied with ours",
        pending.display()
    );
    let plan = plan?;
    let mut before = Inventory::take(Deadline::after(LOOK))?;
    if let Plan::Make(make) = &plan {
        check_losses(bridge, make, &network, &rows, &stanzas, &before)?;
    }
    before.prove(Deadline::after(LOOK));
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
    let snapshot = Snapshot::take(&network, before, goal)?;
    let applied = apply(setup, &cli, &node, &snapshot);
    // Good or put back: nothing of ours is pending.
    under_way.end()?;
    applied
}

/// A mark that pending changes are ours: those of a run that was killed are reverted by the next, an administrator's
/// are not touched.
struct UnderWay(PathBuf);

impl UnderWay {
    fn begin(&self) -> anyhow::Result<()> {
        replace_file::make_folder(self.0.parent().unwrap_or(Path::new("/")), 0o755)?;
        Ok(replace_file::replace(&self.0, b"", PRIVATE, "bridge-under-way")?)
    }

    fn end(&self) -> anyhow::Result<()> {
        Ok(replace_file::remove(&self.0)?)
    }
}

fn plan(
    bridge: &str,
    network: &Network,
    rows: &[ConfiguredInterface],
    pool: Option<&crate::value::address::Ipv4Pool>,
) -> anyhow::Result<Plan> {
    let configured = ConfiguredInterface::find(bridge, rows);
    let configured = configured.filter(|row| row.kind().to_lowercase().ends_with("bridge"));
    let kept = configured.is_some_and(|row| row.starts_with_node)
        // Made at boot by the package that they belong to.
        || ["virbr", "docker"].iter().any(|prefix| bridge.starts_with(prefix));
    match network.interface(bridge) {
        Some(found) if !found.is_bridge => {
            anyhow::bail!("{bridge} exists and is no bridge; choose another name")
        }
        Some(_) if kept => return Ok(Plan::Done),
        Some(found) => {
            anyhow::ensure!(
                configured.is_none(),
                "bridge {bridge} is configured, but not started with the node: set its autostart (web interface, node, Network)"
            );
            return existing(found, network);
        }
        None if configured.is_some() => return Ok(Plan::Apply),
        None => {}
    }
    let uplink = network.uplink();
    let inside = |interface: &Interface| {
        let addresses = interface.addresses.iter();
        addresses.copied().find(|address| match (address.ip, pool) {
            (IpAddr::V4(ip), Some(pool)) => pool.network.contains(ip),
            (IpAddr::V4(_), None) => true,
            _ => false,
        })
    };
    match (uplink, pool) {
        (Some((uplink, route)), _) if inside(uplink).is_some() => {
            let address = inside(uplink).context("the uplink has no IPv4 address")?;
            anyhow::ensure!(
                !uplink.is_bridge,
                "the guests' network is that of {}, which is a bridge already: choose it instead of {bridge}",
                uplink.name
            );
            check_uplink(uplink, rows)?;
            let (gateway, name) = (Some(route.gateway), Some(uplink.name.clone()));
            Ok(Plan::Make(Make { address, gateway, uplink: name }))
        }
        (_, Some(pool)) => {
            if let Some(other) = network.interfaces.iter().find(|interface| inside(interface).is_some()) {
                anyhow::bail!(
                    "the guests' network {} is that of {}, which is not the way outside: make {bridge} by hand",
                    pool.network,
                    other.name
                );
            }
            let address = Address { ip: pool.gateway.into(), prefix: pool.network.prefix() };
            Ok(Plan::Make(Make { address, gateway: None, uplink: None }))
        }
        (_, None) => anyhow::bail!(
            "neither an interface with a default route nor the guests' network are known: {bridge} cannot be made"
        ),
    }
}

/// A bridge that another file than Proxmox' own configures (a VNet of its SDN, a file of `interfaces.d`) is taken as it
/// is: written into `interfaces`, it would be configured twice. One of Open vSwitch cannot be used.
fn elsewhere(
    bridge: &str,
    network: &Network,
    rows: &[ConfiguredInterface],
    stanzas: &[Stanza],
) -> anyhow::Result<bool> {
    let row = ConfiguredInterface::find(bridge, rows);
    let is_ovs = row.is_some_and(|row| row.kind().starts_with("OVS"))
        || Path::new("/sys/class/net").join(bridge).join("upper_ovs-system").exists();
    anyhow::ensure!(
        !is_ovs,
        "{bridge} is a bridge of Open vSwitch, on which VMs cannot be isolated from each other; choose a Linux bridge"
    );
    let Some(stanza) =
        stanzas.iter().find(|stanza| stanza.name == bridge && stanza.file != Path::new(INTERFACES))
    else {
        return Ok(false);
    };
    let file = stanza.file.display();
    let found = network.interface(bridge).with_context(|| {
        format!("{bridge} is configured in {file}, but does not exist; apply that first (Datacenter, SDN, Apply; or ifreload -a)")
    })?;
    anyhow::ensure!(
        found.is_bridge,
        "{bridge} is configured in {file}, but is not a bridge; choose another name"
    );
    tracing::info!("{bridge} is configured in {file}; it is used as it is");
    Ok(true)
}

/// Refuses beforehand what would be lost on the way.
fn check_losses(
    bridge: &str,
    make: &Make,
    network: &Network,
    rows: &[ConfiguredInterface],
    stanzas: &[Stanza],
    now: &Inventory,
) -> anyhow::Result<()> {
    // One that was made by hand is written down as it is now: what the new configuration lacks would be lost, too.
    let by_hand = network.interface(bridge).is_some();
    let device = if by_hand { bridge } else { make.uplink.as_deref().unwrap_or_default() };
    if device.is_empty() {
        return Ok(());
    }
    let row = ConfiguredInterface::find(device, rows);
    let mut moving =
        Moving { device, addresses: vec![make.address], routers: make.gateway.into_iter().collect() };
    if let Some((ip, prefix)) = row.and_then(|row| row.cidr6.as_deref()?.split_once('/'))
        && let (Ok(ip), Ok(prefix)) = (ip.parse(), prefix.parse())
    {
        moving.addresses.push(Address { ip, prefix });
    }
    moving.routers.extend(row.and_then(|row| row.gateway6.as_deref()?.parse::<IpAddr>().ok()));
    let losses = carry::losses(&moving, stanzas, now)?;
    anyhow::ensure!(
        losses.is_empty(),
        "{bridge} was not made, because it could not take over all that {device} has: {}; nothing was changed. Make {bridge} on the node with these settings (web interface, node, Network), or choose a network of the VMs' own, whose bridge leaves {device} alone",
        losses.join(", ")
    );
    Ok(())
}

/// A bridge that somebody made by hand gets a configuration of just what it is now.
fn existing(found: &Interface, network: &Network) -> anyhow::Result<Plan> {
    let address = found.addresses.iter().copied().find(|address| address.ip.is_ipv4());
    let address = address.with_context(|| {
        format!("bridge {} was made by hand and has no IPv4 address: configure it on the node", found.name)
    })?;
    let ports = network.ports_of(&found.name);
    anyhow::ensure!(
        ports.len() <= 1,
        "bridge {} was made by hand and has several ports ({}): configure it on the node",
        found.name,
        ports.join(", ")
    );
    let route = network.default_routes.iter().find(|route| route.device == found.name);
    Ok(Plan::Make(Make {
        address,
        gateway: route.map(|route| route.gateway),
        uplink: ports.first().map(|port| (*port).to_owned()),
    }))
}

/// An interface whose address Proxmox does not know is configured by somebody else (netplan, a file below
/// `interfaces.d`), who would give it back its address.
fn check_uplink(uplink: &Interface, rows: &[ConfiguredInterface]) -> anyhow::Result<()> {
    let row = ConfiguredInterface::find(&uplink.name, rows);
    let known = row.is_some_and(|row| {
        row.address.as_deref().is_some_and(|address| !address.is_empty())
            || row.method.as_deref() == Some("dhcp")
    });
    anyhow::ensure!(
        known,
        "the address of {} is not configured in /etc/network/interfaces, so it cannot be moved to a bridge safely: move it there first (for cloud images: switch off cloud-init's network configuration)",
        uplink.name
    );
    let kind = row.map(ConfiguredInterface::kind).unwrap_or_default();
    anyhow::ensure!(
        ["eth", "bond", "vlan"].contains(&kind),
        "{} is of type {kind:?}, which cannot be the port of a bridge here: make the bridge by hand",
        uplink.name
    );
    Ok(())
}

/// Writes the pending configuration and reads it back; nothing is applied.
fn write_plan(
    setup: &Setup<'_>,
    cli: &ProxmoxCli,
    node: &NodeName,
    bridge: &str,
    make: &Make,
) -> anyhow::Result<()> {
    let rows = cli.interfaces(node)?;
    let address = make.address.to_string();
    let gateway = make.gateway.map(|gateway| gateway.to_string());
    let mut create = vec![("iface", bridge), ("type", "bridge"), ("autostart", "1"), ("cidr", &address)];
    let uplink = make.uplink.as_deref().map(|name| (name, ConfiguredInterface::find(name, &rows)));
    if let Some((name, row)) = uplink {
        create.push(("bridge_ports", name));
        let kind = row.map(ConfiguredInterface::kind).filter(|kind| !kind.is_empty()).unwrap_or("eth");
        // It gives up what the bridge gets, or Proxmox refuses the second default route.
        let held = row.map(ConfiguredInterface::held).unwrap_or_default().join(",");
        let mut set = vec![("type", kind), ("autostart", "1")];
        if !held.is_empty() {
            set.push(("delete", &held));
        }
        cli.change_interface(node, name, &set)?;
    }
    if let Some(gateway) = &gateway {
        create.push(("gateway", gateway));
    }
    if let Some((_, Some(row))) = uplink {
        for (key, value) in [("cidr6", &row.cidr6), ("gateway6", &row.gateway6)] {
            let value = value.as_deref().filter(|value| !value.is_empty());
            create.extend(value.map(|value| (key, value)));
        }
    }
    cli.add_interface(node, &create)?;
    setup.host.step("setup.bridge.planned")?;
    let pending = network_guard::pending_file();
    let written = crate::host::read_file::text(&pending)
        .with_context(|| format!("pvesh made no pending configuration ({})", pending.display()))?;
    let ip = make.address.ip.to_string();
    anyhow::ensure!(
        written.contains(&format!("iface {bridge} ")) && written.contains(&ip),
        "the pending configuration {} has no {bridge} with {ip}",
        pending.display()
    );
    Ok(())
}

fn revert(cli: &ProxmoxCli, node: &NodeName, error: anyhow::Error) -> anyhow::Error {
    match cli.undoing(Duration::from_secs(30)).revert_network(node) {
        Ok(()) => error,
        Err(second) => error.context(format!("and the pending changes could not be reverted ({second})")),
    }
}

/// Applies what is pending, under the eyes of the guard. `pvesh` says nothing about the end of its task (H32): the
/// kernel is asked.
fn apply(setup: &Setup<'_>, cli: &ProxmoxCli, node: &NodeName, snapshot: &Snapshot) -> anyhow::Result<()> {
    let settle = failpoint::limit("setup-settle", SETTLE);
    let guard = network_guard::start(snapshot).map_err(|error| revert(cli, node, error))?;
    let applied = setup
        .host
        .step("setup.bridge.guarded")
        .and_then(|()| Ok(cli.apply_network(node)?))
        .and_then(|()| setup.host.step("setup.bridge.applied"))
        .and_then(|()| snapshot.settled(Deadline::after(settle), &setup.host.interrupt));
    match applied {
        Ok(()) => guard.dismiss(),
        Err(error) => match guard.put_back(snapshot) {
            Ok(()) => Err(error.context("the network is as it was before")),
            Err(second) => {
                Err(error.context(format!("AND THE FORMER NETWORK COULD NOT BE PUT BACK WHOLLY: {second:#}")))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::address::{Ipv4Network, Ipv4Pool};
    use crate::value::host_network::DefaultRoute;
    use serde_json::{Value, json};

    fn interface(name: &str, is_bridge: bool, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| {
            let (ip, prefix) = text.split_once('/').unwrap();
            Address { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() }
        });
        Interface { name: name.into(), master: None, is_bridge, is_up: true, addresses: addresses.collect() }
    }

    fn host(interfaces: Vec<Interface>) -> Network {
        let route =
            DefaultRoute { gateway: "192.0.2.1".parse().unwrap(), device: interfaces[0].name.clone() };
        Network { interfaces, default_routes: vec![route] }
    }

    fn pool(network: &str, gateway: &str) -> Ipv4Pool {
        let network = Ipv4Network::parse(network).unwrap();
        let at = |text: &str| network.pool_end(text).unwrap();
        Ipv4Pool { network, start: at("200"), end: at("250"), gateway: at(gateway) }
    }

    fn planned(network: &Network, rows: Value, pool: &Ipv4Pool) -> Result<Plan, String> {
        let rows: Vec<ConfiguredInterface> = serde_json::from_value(rows).unwrap();
        plan("vmbr0", network, &rows, Some(pool)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bridge_that_is_there_and_starts_with_the_node_is_left_alone() {
        let network = host(vec![interface("vmbr0", true, &["192.0.2.7/24"])]);
        let rows = json!([{"iface": "vmbr0", "type": "bridge", "autostart": 1}]);
        assert_eq!(planned(&network, rows, &pool("192.0.2.0/24", "1")), Ok(Plan::Done));
        let rows = json!([{"iface": "vmbr0", "type": "OVSBridge", "autostart": "1"}]);
        assert_eq!(planned(&network, rows, &pool("192.0.2.0/24", "1")), Ok(Plan::Done));
        let rows = json!([{"iface": "vmbr0", "type": "bridge"}]);
        assert!(planned(&network, rows, &pool("192.0.2.0/24", "1")).unwrap_err().contains("autostart"));
    }

    #[test]
    fn the_uplink_is_taken_over_where_the_guests_share_its_network() {
        let network = host(vec![interface("eno1", false, &["2001:db8::7/64", "192.0.2.7/24"])]);
        let rows = json!([{"iface": "eno1", "type": "eth", "address": "192.0.2.7", "method": "static"}]);
        let Ok(Plan::Make(make)) = planned(&network, rows, &pool("192.0.2.0/24", "1")) else { panic!() };
        assert_eq!(make.address.to_string(), "192.0.2.7/24");
        assert_eq!(make.gateway.unwrap().to_string(), "192.0.2.1");
        assert_eq!(make.uplink.as_deref(), Some("eno1"));
    }

    #[test]
    fn guests_with_a_network_of_their_own_get_a_bridge_without_the_uplink() {
        let network = host(vec![interface("eno1", false, &["192.0.2.7/24"])]);
        let Ok(Plan::Make(make)) = planned(&network, json!([]), &pool("10.1.0.0/24", "1")) else { panic!() };
        assert_eq!(
            (make.address.to_string().as_str(), make.gateway, make.uplink),
            ("10.1.0.1/24", None, None)
        );
    }

    #[test]
    fn what_cannot_be_done_safely_is_refused_with_the_reason() {
        let shared = pool("192.0.2.0/24", "1");
        let eno1 = || interface("eno1", false, &["192.0.2.7/24"]);
        for (network, rows, word) in [
            (host(vec![eno1()]), json!([{"iface": "eno1", "type": "eth", "method": "manual"}]), "cloud-init"),
            (
                host(vec![eno1()]),
                json!([{"iface": "eno1", "type": "unknown", "address": "192.0.2.7"}]),
                "port",
            ),
            (host(vec![interface("br7", true, &["192.0.2.7/24"])]), json!([]), "choose it instead"),
            (host(vec![interface("vmbr0", false, &[])]), json!([]), "no bridge"),
            (
                host(vec![
                    interface("wan", false, &["203.0.113.9/24"]),
                    interface("lan", false, &["192.0.2.7/24"]),
                ]),
                json!([]),
                "by hand",
            ),
        ] {
            let error = planned(&network, rows, &shared).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn a_bridge_made_by_hand_is_written_down_as_it_is() {
        let mut port = interface("eno1", false, &[]);
        port.master = Some("vmbr0".into());
        let network = host(vec![interface("vmbr0", true, &["192.0.2.7/24"]), port]);
        let Ok(Plan::Make(make)) = planned(&network, json!([]), &pool("192.0.2.0/24", "1")) else { panic!() };
        assert_eq!(
            (make.address.to_string().as_str(), make.uplink.as_deref()),
            ("192.0.2.7/24", Some("eno1"))
        );
        assert!(make.gateway.is_some());
    }

    #[test]
    fn configured_and_not_there_is_applied() {
        let network = host(vec![interface("eno1", false, &["192.0.2.7/24"])]);
        let rows = json!([{"iface": "vmbr0", "type": "bridge", "autostart": 1}]);
        assert_eq!(planned(&network, rows, &pool("192.0.2.0/24", "1")), Ok(Plan::Apply));
    }
}
