//! Finds what an interface would lose when it becomes the port of a bridge. Proxmox moves one IPv4 and one IPv6 address
//! with their routers; everything else is detected and named beforehand, and nothing is changed (H59).

use super::connectivity::{Inventory, key};
use super::interfaces_file::{MAIN_FILE, Stanza};
use crate::value::host_network::Address;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::Path;

/// Options that stay with the interface or that Proxmox moves.
const CARRIED: [&str; 9] = [
    "address",
    "netmask",
    "broadcast",
    "network",
    "gateway",
    "mtu",
    "hwaddress",
    "link-speed",
    "link-duplex",
];
const CARRIED_KINDS: [&str; 5] = ["dns-", "bond-", "vlan-", "ethernet-", "offload-"];
/// Options that run a command.
const COMMANDS: [&str; 6] = ["up", "post-up", "pre-up", "down", "post-down", "pre-down"];

/// What moves to the bridge.
pub struct Moving<'a> {
    /// The interface.
    pub device: &'a str,
    /// The addresses that move to the bridge.
    pub addresses: Vec<Address>,
    /// The routers that move to the bridge.
    pub routers: Vec<IpAddr>,
}

/// Lists the configuration, addresses, routes and rules that would be lost, for a person.
pub fn losses(moving: &Moving<'_>, stanzas: &[Stanza], now: &Inventory) -> Vec<String> {
    let mut found = of_configuration(moving, stanzas);
    found.extend(of_addresses(moving, now));
    found.extend(of_routes(moving, now));
    found
}

fn of_configuration(moving: &Moving<'_>, stanzas: &[Stanza]) -> Vec<String> {
    let mut found = Vec::new();
    let own: Vec<&Stanza> = stanzas.iter().filter(|stanza| stanza.name == moving.device).collect();
    for stanza in &own {
        let shown = format!("\"iface {} {} {}\"", stanza.name, stanza.family, stanza.method);
        if stanza.file != Path::new(MAIN_FILE) {
            found.push(format!("{shown} of {}", stanza.file.display()));
        }
        match (stanza.family.as_str(), stanza.method.as_str()) {
            ("inet" | "inet6", "static" | "manual") | ("", "") => {}
            (_, "dhcp") => found.push(format!("{shown}: an address by DHCP would become a fixed one")),
            _ => found.push(shown.clone()),
        }
        for option in &stanza.options {
            let word = option.split(' ').next().unwrap_or_default();
            let carried = CARRIED.contains(&word) || CARRIED_KINDS.iter().any(|kind| word.starts_with(kind));
            let again = ["address", "gateway"].contains(&word)
                && stanza.options.iter().filter(|other| other.split(' ').next() == Some(word)).count() > 1;
            if !carried || again {
                found.push(format!("\"{option}\""));
            }
        }
    }
    for family in ["inet", "inet6"] {
        if own.iter().filter(|stanza| stanza.family == family && stanza.method != "manual").count() > 1 {
            found.push(format!("several paragraphs \"iface {} {family}\"", moving.device));
        }
    }
    let alias = format!("{}:", moving.device);
    for stanza in stanzas.iter().filter(|stanza| stanza.name != moving.device) {
        if stanza.name.starts_with(&alias) {
            found.push(format!("\"iface {}\"", stanza.name));
        }
        for option in &stanza.options {
            let mut words = option.split(' ');
            let is_command = words.next().is_some_and(|word| COMMANDS.contains(&word));
            if is_command && words.any(|word| word == moving.device) {
                found.push(format!("\"{option}\" of {}", stanza.name));
            }
        }
    }
    found
}

fn of_addresses(moving: &Moving<'_>, now: &Inventory) -> Vec<String> {
    let own = now.addresses.iter().filter(|held| held.device == moving.device);
    own.filter_map(|held| {
        if held.dynamic {
            Some(format!("the address {} (of DHCP or a router advertisement)", held.address))
        } else if !moving.addresses.contains(&held.address) {
            Some(format!("the address {}", held.address))
        } else {
            None
        }
    })
    .collect()
}

fn of_routes(moving: &Moving<'_>, now: &Inventory) -> Vec<String> {
    let mut found = Vec::new();
    for line in &now.routes {
        let words: Vec<&str> = line.text.split(' ').collect();
        let names = |word: &str| words.windows(2).any(|pair| pair == [word, moving.device]);
        if !names("dev") {
            continue;
        }
        let proto = words.windows(2).find(|pair| pair[0] == "proto").map(|pair| pair[1]);
        let connected = proto == Some("kernel") && !words.contains(&"via") && !words.contains(&"table");
        let said = key(&line.text, None);
        let ends = ["", " metric 1024"];
        let moves = moving.routers.iter().any(|router| {
            ends.iter().any(|end| said == format!("default via {router} dev {}{end}", moving.device))
        });
        if !connected && (!moves || matches!(proto, Some("ra" | "dhcp"))) {
            found.push(format!("the route \"{}\"", line.text));
        }
    }
    for line in &now.rules {
        let words: Vec<&str> = line.text.split(' ').collect();
        if words.windows(2).any(|pair| ["iif", "oif"].contains(&pair[0]) && pair[1] == moving.device) {
            found.push(format!("the rule \"{}\"", line.text));
        }
    }
    // A router outside the interface's networks needs a route of its own, which nothing would set again.
    for router in &moving.routers {
        let near = moving.addresses.iter().any(|address| contains(address, *router))
            || matches!(router, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if !near {
            found.push(format!("the router {router}, which is in no network of {}", moving.device));
        }
    }
    found
}

fn contains(network: &Address, ip: IpAddr) -> bool {
    match (network.ip, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix)).unwrap_or(0);
            u32::from(own) & mask == u32::from(ip) & mask
        }
        (IpAddr::V6(own), IpAddr::V6(ip)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(network.prefix)).unwrap_or(0);
            u128::from(own) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}

#[derive(Deserialize)]
struct Link {
    ifname: Option<String>,
    link: Option<String>,
    master: Option<String>,
    linkinfo: Option<LinkInfo>,
}

#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
}

/// Lists the links that would be lost. `printed` is the output of `ip -j -d link show`.
///
/// # Errors
/// The output is not a JSON list.
pub fn losses_of_links(device: &str, printed: &str) -> Result<Vec<String>, serde_json::Error> {
    let mut found = Vec::new();
    let rows: Vec<Link> = if printed.trim().is_empty() { vec![] } else { serde_json::from_str(printed)? };
    for row in &rows {
        let kind = row.linkinfo.as_ref().and_then(|info| info.info_kind.as_deref()).unwrap_or_default();
        let name = row.ifname.as_deref().unwrap_or_default();
        if name == device
            && let Some(master) = &row.master
        {
            found.push(format!("{device} is part of {master}"));
        }
        // Two of these cannot share one interface's packets.
        if row.link.as_deref() == Some(device) && ["macvlan", "macvtap", "ipvlan", "ipvtap"].contains(&kind) {
            found.push(format!("{name} ({kind}) works on {device}"));
        }
    }
    Ok(found)
}

/// A kernel setting of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// The key, for example `proxy_arp`.
    pub name: &'static str,
    /// Default values, which are not worth reporting; one character each.
    plain: &'static str,
}

/// The settings that a bridge would not take over.
pub const SETTINGS: [Setting; 4] = [
    Setting { family: "ipv4", name: "proxy_arp", plain: "0" },
    Setting { family: "ipv6", name: "proxy_ndp", plain: "0" },
    Setting { family: "ipv6", name: "accept_ra", plain: "01" },
    Setting { family: "ipv4", name: "arp_ignore", plain: "0" },
];

/// Returns the setting that would be lost, if any. `own` is the interface's value, `usual` that of new interfaces.
pub fn loss_of_setting(device: &str, setting: &Setting, own: &str, usual: &str) -> Option<String> {
    let Setting { family, name, plain } = setting;
    let own = own.trim();
    let special = !own.is_empty() && !plain.contains(own) && own != usual.trim();
    special.then(|| format!("the setting net.{family}.conf.{device}.{name} = {own}"))
}

#[cfg(test)]
mod tests {
    use super::super::connectivity::{Held, Line};
    use super::*;

    fn address(text: &str) -> Address {
        let (ip, prefix) = text.split_once('/').unwrap();
        Address { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    fn moving() -> Moving<'static> {
        Moving {
            device: "eno1",
            addresses: vec![address("192.0.2.7/24"), address("2001:db8::7/64")],
            routers: vec!["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        }
    }

    fn stanza(method: &str, options: &[&str]) -> Stanza {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (family, method) = method.split_once(' ').unwrap();
        Stanza {
            file: MAIN_FILE.into(),
            name: "eno1".into(),
            family: family.into(),
            method: method.into(),
            options,
        }
    }

    #[test]
    fn h59_what_a_configuration_says_beyond_an_address_is_named() {
        let plain = stanza(
            "inet static",
            &["address 192.0.2.7/24", "gateway 192.0.2.1", "mtu 9000", "dns-nameservers 9.9.9.9"],
        );
        assert_eq!(
            of_configuration(&moving(), &[plain, stanza("inet6 static", &["address 2001:db8::7/64"])]),
            [""; 0]
        );
        for (stanza, word) in [
            (stanza("inet dhcp", &[]), "DHCP"),
            (stanza("inet6 auto", &[]), "inet6 auto"),
            (stanza("inet static", &["up ip route add 10.0.0.0/8 dev eno1"]), "up ip route add"),
            (stanza("inet static", &["metric 5"]), "metric 5"),
            (stanza("inet6 static", &["accept_ra 2"]), "accept_ra"),
            (stanza("inet static", &["address 192.0.2.7/24", "address 192.0.2.8/24"]), "192.0.2.8"),
            (Stanza { name: "eno1:0".into(), ..stanza("inet static", &["address 192.0.2.8/24"]) }, "eno1:0"),
            (
                Stanza {
                    name: "lo".into(),
                    ..stanza("inet loopback", &["post-up ip rule add iif eno1 lookup 7"])
                },
                "ip rule",
            ),
            (
                Stanza { file: "/etc/network/interfaces.d/x".into(), ..stanza("inet static", &[]) },
                "interfaces.d/x",
            ),
        ] {
            let found = of_configuration(&moving(), std::slice::from_ref(&stanza)).join(", ");
            assert!(found.contains(word), "{stanza:?}: {found}");
        }
    }

    #[test]
    fn h59_addresses_and_routes_that_would_not_move_are_named() {
        let held = |text: &str, dynamic| Held { device: "eno1".into(), address: address(text), dynamic };
        let mut now = Inventory { addresses: vec![held("192.0.2.7/24", false)], ..Inventory::default() };
        assert_eq!(of_addresses(&moving(), &now), [""; 0]);
        now.addresses =
            vec![held("192.0.2.7/24", true), held("192.0.2.8/24", false), held("2001:db8::9/64", true)];
        assert_eq!(of_addresses(&moving(), &now).len(), 3);

        let line = |text: &str| Line { family: "-4".into(), text: text.into() };
        now.routes = [
            "192.0.2.0/24 dev eno1 proto kernel scope link src 192.0.2.7",
            "default via 192.0.2.1 dev eno1 proto kernel onlink",
            "default via fe80::1 dev eno1 metric 1024 pref medium",
            "default via 198.51.100.1 dev eno2",
        ]
        .map(line)
        .to_vec();
        assert_eq!(of_routes(&moving(), &now), [""; 0]);
        for route in [
            "10.0.0.0/8 via 192.0.2.9 dev eno1",
            "default via 192.0.2.1 dev eno1 metric 100",
            "default via 192.0.2.1 dev eno1 src 192.0.2.8",
            "default via 192.0.2.2 dev eno1",
            "default via 192.0.2.1 dev eno1 table 100",
            "default via fe80::1 dev eno1 proto ra metric 1024 pref medium",
            "192.0.2.1 dev eno1 scope link",
        ] {
            now.routes = vec![line(route)];
            assert_eq!(of_routes(&moving(), &now), [format!("the route \"{route}\"")]);
        }
        now.routes.clear();
        now.rules = vec![line("99: from all iif eno1 lookup 7")];
        assert!(of_routes(&moving(), &now)[0].contains("iif eno1"));
        now.rules.clear();
        let far = Moving { routers: vec!["198.51.100.1".parse().unwrap()], ..moving() };
        assert!(of_routes(&far, &now)[0].contains("in no network"));
    }

    #[test]
    fn h59_what_works_on_an_interface_or_is_set_for_it_is_named() {
        let links = r#"[{"ifname": "eno1", "master": "bond0"}, {"ifname": "eno1.5", "link": "eno1",
            "linkinfo": {"info_kind": "vlan"}}, {"ifname": "mv0", "link": "eno1", "linkinfo": {"info_kind": "macvtap"}},
            {"ifname": "mv1", "link": "eno2", "linkinfo": {"info_kind": "macvlan"}}, {}]"#;
        let found = losses_of_links("eno1", links).unwrap();
        assert_eq!(found, ["eno1 is part of bond0", "mv0 (macvtap) works on eno1"]);
        assert!(losses_of_links("eno3", links).unwrap().is_empty());
        assert!(losses_of_links("eno1", " \n").unwrap().is_empty());
        assert!(losses_of_links("eno1", "nonsense").is_err());

        let [proxy_arp, _, accept_ra, _] = &SETTINGS;
        let set = "the setting net.ipv4.conf.eno1.proxy_arp = 1";
        assert_eq!(loss_of_setting("eno1", proxy_arp, "1\n", "0\n").as_deref(), Some(set));
        for (setting, own, usual) in
            [(proxy_arp, "0", "1"), (proxy_arp, "1\n", "1"), (proxy_arp, "", "0"), (accept_ra, "1", "0")]
        {
            assert_eq!(loss_of_setting("eno1", setting, own, usual), None, "{own} {usual}");
        }
        assert!(loss_of_setting("eno1", accept_ra, "2", "1").is_some());
    }
}
