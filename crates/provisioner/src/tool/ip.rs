//! `ip` of iproute2: the host's interfaces, addresses and default routes. Anybody may read them;
//! [`crate::operation::setup`] changes them.

use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::interrupt::Interrupt;
use crate::host::run_process::{self, Input, Program};
use crate::value::host_network::{Address, DefaultRoute, Interface, Network};
use anyhow::Context as _;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// Queries the kernel for the host's interfaces and default routes.
pub fn network(host: &Host, deadline: Deadline) -> anyhow::Result<Network> {
    let addresses = ip(host, &["-j", "-d", "address", "show"], deadline)?;
    let routes = ip(host, &["-j", "-4", "route", "show", "default"], deadline)?;
    parse(&addresses, &routes)
}

/// Returns every address that this host itself has or needs, of both families: those on its interfaces, whatever their
/// scope, and its routers'. None of them may be assigned to a guest (H55).
pub fn host_addresses(host: &Host, deadline: Deadline) -> anyhow::Result<Vec<IpAddr>> {
    let interfaces = rows::<AddressRow>(&ip(host, &["-j", "-d", "address", "show"], deadline)?)?;
    let infos = interfaces.into_iter().flat_map(|row| row.addr_info);
    let mut found: Vec<IpAddr> = infos.filter_map(|info| info.local).collect();
    for family in ["-4", "-6"] {
        // A host without this family has no such route, and some kernels do not support it.
        let routes = ip(host, &["-j", family, "route", "show", "default"], deadline).unwrap_or_default();
        found.extend(rows::<RouteRow>(&routes).unwrap_or_default().into_iter().filter_map(|row| row.gateway));
    }
    Ok(found)
}

/// An entry of the kernel's neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The hardware address that answered or was set manually.
    pub lladdr: Option<String>,
    /// `REACHABLE`, `STALE`, `FAILED` …
    pub states: Vec<String>,
}

impl Neighbour {
    /// Whether the entry is in one of these states.
    pub fn is(&self, states: &[&str]) -> bool {
        self.states.iter().any(|state| states.contains(&state.as_str()))
    }
}

/// Returns the neighbour table's entry of an address; `None` if the address is not on one of our links, or nobody has
/// asked for it.
pub fn neighbour(host: &Host, address: IpAddr, deadline: Deadline) -> anyhow::Result<Option<Neighbour>> {
    let entries =
        rows::<NeighbourRow>(&ip(host, &["-j", "neigh", "show", "to", &address.to_string()], deadline)?)?;
    let row = entries.into_iter().find(|row| row.dst == Some(address));
    Ok(row.map(|row| Neighbour { lladdr: row.lladdr, states: row.state }))
}

/// The host routes to single IPv6 addresses, with the devices that they lead to.
pub fn host_routes(host: &Host, deadline: Deadline) -> anyhow::Result<HashMap<Ipv6Addr, Vec<String>>> {
    Ok(host_routes_in(&ip(host, &["-6", "route", "show"], deadline)?))
}

/// Lines `2001:db8::2 dev vmbr0 metric 1024 …`; a network has its length behind it.
fn host_routes_in(text: &str) -> HashMap<Ipv6Addr, Vec<String>> {
    let mut routes: HashMap<Ipv6Addr, Vec<String>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        let device = words.skip_while(|word| *word != "dev").nth(1).unwrap_or_default();
        routes.entry(address).or_default().push(device.to_owned());
    }
    routes
}

/// The neighbours that answered just now, or were set by hand: address and hardware address.
pub fn neighbours(host: &Host, deadline: Deadline) -> anyhow::Result<Vec<(IpAddr, String)>> {
    let entries = rows::<NeighbourRow>(&ip(host, &["-j", "neigh", "show"], deadline)?)?;
    let answering = entries.into_iter().filter(|row| {
        row.state.iter().any(|state| matches!(state.as_str(), "REACHABLE" | "PERMANENT" | "NOARP"))
    });
    Ok(answering.filter_map(|row| Some((row.dst?, row.lladdr?))).collect())
}

/// Runs `ip` and returns its standard output.
pub fn ip(host: &Host, arguments: &[&str], deadline: Deadline) -> anyhow::Result<String> {
    let program = Program {
        name: "ip",
        arguments: arguments.iter().map(Into::into).collect(),
        folder: Path::new("/"),
        environment: vec![],
        without: &[],
    };
    // Never interrupted: it is short, and restoring a network must not be interrupted.
    let ended = run_process::run(
        host.doors,
        &program,
        Input::Nothing,
        deadline.left(),
        &Interrupt::never(),
        |_, _| {},
    )?;
    Ok(ended.successful(&program)?.stdout)
}

#[derive(Deserialize)]
struct AddressRow {
    ifname: Option<String>,
    master: Option<String>,
    #[serde(default)]
    flags: Vec<String>,
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    addr_info: Vec<AddressInfo>,
}

#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
}

#[derive(Deserialize)]
struct AddressInfo {
    local: Option<IpAddr>,
    prefixlen: Option<u8>,
    scope: Option<String>,
}

#[derive(Deserialize)]
struct RouteRow {
    gateway: Option<IpAddr>,
    dev: Option<String>,
    #[serde(default)]
    metric: u32,
}

#[derive(Deserialize)]
struct NeighbourRow {
    dst: Option<IpAddr>,
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

/// `ip -j` prints nothing at all if there is nothing to report, and mixes in empty objects.
fn rows<T: for<'a> Deserialize<'a>>(text: &str) -> anyhow::Result<Vec<T>> {
    let text = text.trim();
    if text.is_empty() {
        Ok(vec![])
    } else {
        serde_json::from_str(text).context("ip did not print a JSON list")
    }
}

fn parse(addresses: &str, routes: &str) -> anyhow::Result<Network> {
    let interfaces = rows::<AddressRow>(addresses)?.into_iter().filter_map(|row| {
        let addresses = row.addr_info.into_iter().filter(|info| info.scope.as_deref() == Some("global"));
        Some(Interface {
            // `eth0@if7` appears in JSON as `eth0` with a separate link.
            name: row.ifname?,
            master: row.master,
            is_bridge: row.linkinfo.and_then(|info| info.info_kind).as_deref() == Some("bridge"),
            is_up: row.flags.iter().any(|flag| flag == "UP"),
            addresses: addresses
                .filter_map(|info| Some(Address { ip: info.local?, prefix: info.prefixlen? }))
                .collect(),
        })
    });
    let interfaces = interfaces.collect();
    let mut routes: Vec<RouteRow> = rows(routes)?;
    routes.sort_by_key(|route| route.metric);
    let routes = routes.into_iter();
    let default_routes =
        routes.filter_map(|row| Some(DefaultRoute { gateway: row.gateway?, device: row.dev? })).collect();
    Ok(Network { interfaces, default_routes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_routes_are_told_from_networks() {
        let text = "2001:db8::2 dev vmbr0 metric 1024 pref medium\nfe80::/64 dev vmbr0 proto kernel\n\
                    default via fe80::1 dev vmbr0\n2001:db8::2 dev eth1 metric 2048\n";
        let routes = host_routes_in(text);
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[&"2001:db8::2".parse().unwrap()], ["vmbr0", "eth1"]);
    }

    #[test]
    fn what_iproute2_prints_is_understood() {
        let addresses = r#"[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP"],"addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"}]},
            {},{"ifindex":2,"ifname":"eno1","flags":["BROADCAST","UP"],"master":"vmbr0","addr_info":[]},
            {"ifname":"tap100i0","flags":[],"master":"vmbr0","addr_info":[]},
            {"ifindex":3,"ifname":"vmbr0","flags":["UP"],"linkinfo":{"info_kind":"bridge","info_data":{}},"addr_info":[
              {"family":"inet","local":"192.0.2.7","prefixlen":24,"scope":"global"},{"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]}]"#;
        let routes = r#"[{"dst":"default","gateway":"192.0.2.254","dev":"wlan0","metric":600,"flags":[]},
            {"dst":"default","gateway":"192.0.2.1","dev":"vmbr0","protocol":"kernel","flags":["onlink"]}]"#;
        let network = parse(addresses, routes).unwrap();
        let (uplink, route) = network.uplink().unwrap();
        assert_eq!((uplink.name.as_str(), route.gateway.to_string()), ("vmbr0", "192.0.2.1".into()));
        assert!(uplink.is_bridge && uplink.is_up && uplink.addresses[0].to_string() == "192.0.2.7/24");
        assert_eq!(uplink.addresses.len(), 1);
        assert_eq!(network.ports_of("vmbr0"), ["eno1"]);
        assert_eq!(parse("", "").unwrap().uplink(), None);
        assert!(parse("nonsense", "").is_err());
    }
}
