//! Decides what to do about the guests' bridge: nothing, apply a pending configuration, or create a bridge with the
//! given settings. `crates/provisioner/src/operation/setup/bridge.rs` carries it out.

use super::bridge_losses::Moving;
use super::interfaces_file::{MAIN_FILE, Stanza};
use crate::value::address::Ipv4Pool;
use crate::value::host_network::{Address, ConfiguredInterface, Interface, Network};
use anyhow::Context as _;
use std::net::IpAddr;
use std::path::Path;

/// What to do about the bridge.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing to do.
    Done,
    /// The bridge is configured but does not exist in the kernel: apply the configuration.
    Apply,
    /// Create a bridge with these settings.
    Make(Make),
}

/// A bridge to create.
#[derive(Debug, PartialEq, Eq)]
pub struct Make {
    /// Its address.
    pub address: Address,
    /// The default router, if the bridge takes it over.
    pub gateway: Option<IpAddr>,
    /// The interface that becomes its port and gives up its address and route.
    pub uplink: Option<String>,
}

/// Plans what to do about `bridge`. `rows`: what Proxmox has configured; `pool`: the guests' addresses.
///
/// # Errors
/// Says why the bridge cannot be created safely, and what to do instead.
pub fn plan(
    bridge: &str,
    network: &Network,
    rows: &[ConfiguredInterface],
    pool: Option<&Ipv4Pool>,
) -> anyhow::Result<Plan> {
    let configured = ConfiguredInterface::find(bridge, rows);
    let configured = configured.filter(|row| row.kind().to_lowercase().ends_with("bridge"));
    let kept = configured.is_some_and(|row| row.starts_with_node)
        // Created at boot by the package that they belong to.
        || ["virbr", "docker"].iter().any(|prefix| bridge.starts_with(prefix));
    match network.interface(bridge) {
        Some(found) if !found.is_bridge => {
            anyhow::bail!("{bridge} exists and is not a bridge; choose another name")
        }
        Some(_) if kept => return Ok(Plan::Done),
        Some(found) => {
            anyhow::ensure!(
                configured.is_none(),
                "bridge {bridge} is configured, but does not start with the node; set its autostart (web interface, \
                 node, Network)"
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
                "the guest network is already on {}, which is a bridge; choose it instead of {bridge}",
                uplink.name
            );
            check_uplink(uplink, rows)?;
            let (gateway, name) = (Some(route.gateway), Some(uplink.name.clone()));
            Ok(Plan::Make(Make { address, gateway, uplink: name }))
        }
        (_, Some(pool)) => {
            if let Some(other) = network.interfaces.iter().find(|interface| inside(interface).is_some()) {
                anyhow::bail!(
                    "guest network {} is already on {}, which does not carry the default route; create bridge \
                     {bridge} manually",
                    pool.network,
                    other.name
                );
            }
            let address = Address { ip: pool.gateway.into(), prefix: pool.network.prefix() };
            Ok(Plan::Make(Make { address, gateway: None, uplink: None }))
        }
        (_, None) => anyhow::bail!(
            "cannot create {bridge}: neither an interface with a default route nor the guest network is known"
        ),
    }
}

/// A bridge that is configured in a file other than Proxmox' own (a VNet of its SDN, a file of `interfaces.d`) is used
/// as it is: writing it into `interfaces` would configure it twice. A bridge of Open vSwitch cannot be used.
///
/// `is_ovs`: the kernel reports it as a bridge of Open vSwitch. Returns the file; `None` if the bridge is configured in
/// Proxmox' own file or nowhere.
pub fn configured_elsewhere<'s>(
    bridge: &str,
    network: &Network,
    rows: &[ConfiguredInterface],
    is_ovs: bool,
    stanzas: &'s [Stanza],
) -> anyhow::Result<Option<&'s Path>> {
    let row = ConfiguredInterface::find(bridge, rows);
    anyhow::ensure!(
        !is_ovs && !row.is_some_and(|row| row.kind().starts_with("OVS")),
        "{bridge} is a bridge of Open vSwitch, on which VMs cannot be isolated from each other; choose a Linux bridge"
    );
    let Some(stanza) =
        stanzas.iter().find(|stanza| stanza.name == bridge && stanza.file != Path::new(MAIN_FILE))
    else {
        return Ok(None);
    };
    let file = stanza.file.display();
    let found = network.interface(bridge).with_context(|| {
        format!("{bridge} is configured in {file}, but does not exist; apply that first (Datacenter, SDN, Apply; or ifreload -a)")
    })?;
    anyhow::ensure!(
        found.is_bridge,
        "{bridge} is configured in {file}, but is not a bridge; choose another name"
    );
    Ok(Some(&stanza.file))
}

/// Returns what moves to a bridge that is being created: the addresses and routers of its port, or its own if it was
/// created manually; `None` if nothing of the host's moves.
pub fn moving<'m>(
    bridge: &'m str,
    make: &'m Make,
    network: &Network,
    rows: &[ConfiguredInterface],
) -> Option<Moving<'m>> {
    // A bridge that was created manually is configured as it is now; anything missing in the new configuration would be
    // lost, too.
    let by_hand = network.interface(bridge).is_some();
    let device = if by_hand { bridge } else { make.uplink.as_deref()? };
    let row = ConfiguredInterface::find(device, rows);
    let mut moving =
        Moving { device, addresses: vec![make.address], routers: make.gateway.into_iter().collect() };
    if let Some((ip, prefix)) = row.and_then(|row| row.cidr6.as_deref()?.split_once('/'))
        && let (Ok(ip), Ok(prefix)) = (ip.parse(), prefix.parse())
    {
        moving.addresses.push(Address { ip, prefix });
    }
    moving.routers.extend(row.and_then(|row| row.gateway6.as_deref()?.parse::<IpAddr>().ok()));
    Some(moving)
}

/// Fails if any settings would be lost.
pub fn refuse_losses(bridge: &str, device: &str, losses: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        losses.is_empty(),
        "{bridge} was not created, because it cannot take over all settings of {device}: {}; nothing was changed. \
         Create {bridge} on the node with these settings (web interface, node, Network), or choose a separate \
         network for the VMs, whose bridge leaves {device} alone",
        losses.join(", ")
    );
    Ok(())
}

/// A bridge that somebody created manually gets a configuration that matches its current state.
fn existing(found: &Interface, network: &Network) -> anyhow::Result<Plan> {
    let address = found.addresses.iter().copied().find(|address| address.ip.is_ipv4());
    let address = address.with_context(|| {
        format!(
            "bridge {} was created manually and has no IPv4 address; configure it on the node",
            found.name
        )
    })?;
    let ports = network.ports_of(&found.name);
    anyhow::ensure!(
        ports.len() <= 1,
        "bridge {} was created manually and has several ports ({}); configure it on the node",
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

/// An interface whose address Proxmox does not know is configured by something else (netplan, a file below
/// `interfaces.d`), which would assign the address to it again.
fn check_uplink(uplink: &Interface, rows: &[ConfiguredInterface]) -> anyhow::Result<()> {
    let row = ConfiguredInterface::find(&uplink.name, rows);
    let known = row.is_some_and(|row| {
        row.address.as_deref().is_some_and(|address| !address.is_empty())
            || row.method.as_deref() == Some("dhcp")
    });
    anyhow::ensure!(
        known,
        "the address of {} is not configured in /etc/network/interfaces, so it cannot be moved to a bridge safely; \
         configure it there first (for cloud images: disable cloud-init's network configuration)",
        uplink.name
    );
    let kind = row.map(ConfiguredInterface::kind).unwrap_or_default();
    anyhow::ensure!(
        ["eth", "bond", "vlan"].contains(&kind),
        "{} is of type {kind:?}, which cannot be a bridge port here; create the bridge manually",
        uplink.name
    );
    Ok(())
}

/// Options of `pvesh` for the bridge and, if it has one, for its port, as pairs of name and value.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Options of the new bridge.
    pub bridge: Vec<(&'static str, String)>,
    /// The port that gives up its addresses, and its options.
    pub port: Option<(String, Vec<(&'static str, String)>)>,
}

/// Returns the options that configure a bridge in Proxmox.
pub fn options(bridge: &str, make: &Make, rows: &[ConfiguredInterface]) -> Options {
    let mut create = vec![
        ("iface", bridge.to_owned()),
        ("type", "bridge".to_owned()),
        ("autostart", "1".to_owned()),
        ("cidr", make.address.to_string()),
    ];
    let row = make.uplink.as_deref().and_then(|name| ConfiguredInterface::find(name, rows));
    let port = make.uplink.as_ref().map(|name| {
        create.push(("bridge_ports", name.clone()));
        let kind = row.map(ConfiguredInterface::kind).filter(|kind| !kind.is_empty()).unwrap_or("eth");
        let mut set = vec![("type", kind.to_owned()), ("autostart", "1".to_owned())];
        // The port gives up what the bridge gets; otherwise Proxmox refuses the second default route.
        let held = row.map(ConfiguredInterface::held).unwrap_or_default();
        if !held.is_empty() {
            set.push(("delete", held.join(",")));
        }
        (name.clone(), set)
    });
    create.extend(make.gateway.map(|gateway| ("gateway", gateway.to_string())));
    for (key, value) in row.into_iter().flat_map(|row| [("cidr6", &row.cidr6), ("gateway6", &row.gateway6)]) {
        create.extend(value.clone().filter(|value| !value.is_empty()).map(|value| (key, value)));
    }
    Options { bridge: create, port }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::address::Ipv4Network;
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
            (host(vec![interface("vmbr0", false, &[])]), json!([]), "not a bridge"),
            (
                host(vec![
                    interface("wan", false, &["203.0.113.9/24"]),
                    interface("lan", false, &["192.0.2.7/24"]),
                ]),
                json!([]),
                "manually",
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

    fn stanza(name: &str, file: &str) -> Stanza {
        let (family, method) = ("inet".into(), "static".into());
        Stanza { file: file.into(), name: name.into(), family, method, options: vec![] }
    }

    #[test]
    fn a_bridge_of_another_file_is_taken_as_it_is_and_one_of_open_vswitch_not_at_all() {
        let there = host(vec![interface("vmbr0", true, &["192.0.2.7/24"])]);
        let device = host(vec![interface("vmbr0", false, &[])]);
        let missing = host(vec![interface("eno1", false, &[])]);
        let other = [stanza("vmbr0", "/etc/network/interfaces.d/sdn")];
        let own = [stanza("vmbr0", MAIN_FILE), stanza("vnet1", "/etc/network/interfaces.d/sdn")];
        let ask = |network: &Network, is_ovs, stanzas: &[Stanza]| {
            let found = configured_elsewhere("vmbr0", network, &[], is_ovs, stanzas);
            found.map(|file| file.map(|path| path.display().to_string())).map_err(|error| error.to_string())
        };
        assert_eq!(ask(&there, false, &other), Ok(Some("/etc/network/interfaces.d/sdn".into())));
        assert_eq!(ask(&there, false, &own), Ok(None));
        assert_eq!(ask(&missing, false, &[]), Ok(None));
        assert!(ask(&missing, false, &other).unwrap_err().contains("does not exist"));
        assert!(ask(&device, false, &other).unwrap_err().contains("is not a bridge"));
        assert!(ask(&there, true, &own).unwrap_err().contains("Open vSwitch"));
        let rows =
            serde_json::from_value::<Vec<_>>(json!([{"iface": "vmbr0", "type": "OVSBridge"}])).unwrap();
        assert!(configured_elsewhere("vmbr0", &there, &rows, false, &own).is_err());
    }

    fn make(gateway: Option<&str>, uplink: Option<&str>) -> Make {
        Make {
            address: Address { ip: "192.0.2.7".parse().unwrap(), prefix: 24 },
            gateway: gateway.map(|text| text.parse().unwrap()),
            uplink: uplink.map(str::to_owned),
        }
    }

    #[test]
    fn the_port_gives_up_what_the_bridge_gets() {
        let rows = json!([{"iface": "eno1", "type": "bond", "cidr": "192.0.2.7/24", "address": "192.0.2.7",
            "netmask": "24", "gateway": "192.0.2.1", "cidr6": "2001:db8::7/64", "gateway6": "fe80::1"}]);
        let rows: Vec<ConfiguredInterface> = serde_json::from_value(rows).unwrap();
        let show = |options: &[(&str, String)]| {
            options.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        };
        let found = options("vmbr0", &make(Some("192.0.2.1"), Some("eno1")), &rows);
        assert_eq!(
            show(&found.bridge),
            "iface=vmbr0 type=bridge autostart=1 cidr=192.0.2.7/24 bridge_ports=eno1 gateway=192.0.2.1 \
             cidr6=2001:db8::7/64 gateway6=fe80::1"
        );
        let (name, port) = found.port.unwrap();
        let delete = "delete=cidr,address,netmask,gateway,cidr6,gateway6";
        assert_eq!((name.as_str(), show(&port)), ("eno1", format!("type=bond autostart=1 {delete}")));
        // An interface that Proxmox does not know is of the usual type and has no addresses.
        let found = options("vmbr0", &make(None, Some("eno2")), &rows);
        assert_eq!(show(&found.port.unwrap().1), "type=eth autostart=1");
        let found = options("vmbr1", &make(None, None), &rows);
        assert_eq!(show(&found.bridge), "iface=vmbr1 type=bridge autostart=1 cidr=192.0.2.7/24");
        assert_eq!(found.port, None);
    }

    #[test]
    fn h59_what_moves_is_of_the_port_or_of_a_bridge_that_was_made_by_hand() {
        let rows =
            json!([{"iface": "eno1", "cidr6": "2001:db8::7/64", "gateway6": "fe80::1"}, {"iface": "vmbr0"}]);
        let rows: Vec<ConfiguredInterface> = serde_json::from_value(rows).unwrap();
        let made = make(Some("192.0.2.1"), Some("eno1"));
        let show = |moving: Option<Moving<'_>>| {
            moving.map(|moving| {
                let addresses: Vec<String> = moving.addresses.iter().map(ToString::to_string).collect();
                let routers: Vec<String> = moving.routers.iter().map(ToString::to_string).collect();
                format!("{} {} {}", moving.device, addresses.join(","), routers.join(","))
            })
        };
        let plain = host(vec![interface("eno1", false, &[])]);
        let all = "eno1 192.0.2.7/24,2001:db8::7/64 192.0.2.1,fe80::1";
        assert_eq!(show(moving("vmbr0", &made, &plain, &rows)).as_deref(), Some(all));
        let by_hand = host(vec![interface("vmbr0", true, &[])]);
        let own = "vmbr0 192.0.2.7/24 192.0.2.1";
        assert_eq!(show(moving("vmbr0", &made, &by_hand, &rows)).as_deref(), Some(own));
        assert_eq!(show(moving("vmbr0", &make(None, None), &plain, &rows)), None);
        assert!(refuse_losses("vmbr0", "eno1", &["a route".into()]).is_err());
        assert!(refuse_losses("vmbr0", "eno1", &[]).is_ok());
    }
}
