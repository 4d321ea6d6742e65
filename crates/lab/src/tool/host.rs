//! `ip` and `bridge`: the host's IPv6 routes and the ports' isolation. Wordings and codes as iproute2 6.1 gave them.

use std::net::Ipv6Addr;

use serde_json::{Value, json};

use super::ToolOutput;
use crate::model::Route;
use crate::node::network::{Device, Network};
use crate::node::{Shared, State};

/// The host's way outside, in the form of `ip -j -4 route show default`.
const DEFAULT_ROUTE: &str = "[{\"dst\":\"default\",\"gateway\":\"192.168.122.254\",\"dev\":\"vmbr0\",\"protocol\":\"kernel\",\"flags\":[\"onlink\"]}]\n";

/// `ip -j -d address show`.
fn addresses(network: &Network) -> String {
    let mut devices: Vec<(&String, &Device)> = network.devices().collect();
    devices.sort_by_key(|(_, device)| device.index);
    let rows: Vec<Value> = devices
        .into_iter()
        .map(|(name, device)| {
            let mut row = json!({"ifindex": device.index, "ifname": name, "flags": ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"],
                "mtu": 1500, "operstate": "UP", "link_type": "ether", "addr_info": []});
            if let Some(master) = &device.master {
                row["master"] = json!(master);
            }
            if device.bridge {
                row["linkinfo"] = json!({"info_kind": "bridge", "info_data": {}});
            }
            if let Some((ip, prefix)) = device.address.as_ref().and_then(|cidr| cidr.split_once('/')) {
                row["addr_info"] = json!([{"family": "inet", "local": ip, "prefixlen": prefix.parse::<u8>().unwrap_or(32),
                    "scope": "global", "label": name, "valid_life_time": u32::MAX, "preferred_life_time": u32::MAX}]);
            }
            row
        })
        .collect();
    format!("{}\n", Value::Array(rows))
}

/// `ip -j neigh show to ADDRESS`: whoever was asked for and answers on the bridge.
fn neighbours(network: &Network, to: Option<&str>) -> String {
    let wanted = network.neighbours.iter().filter(|(address, _)| to.is_none_or(|to| to == address.as_str()));
    let rows: Vec<Value> = wanted
        .map(|(address, (lladdr, state))| json!({"dst": address, "dev": "vmbr0", "lladdr": lladdr, "state": [state]}))
        .collect();
    format!("{}\n", Value::Array(rows))
}

/// The words without iproute2's own options (`-6`, `-o`, `-d` …).
fn plain(argv: &[String]) -> Vec<&str> {
    argv.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect()
}

fn after<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1).copied())
}

/// Runs `ip`.
pub(crate) fn ip(node: &Shared, argv: &[String]) -> ToolOutput {
    let words = plain(argv);
    let json = argv.iter().any(|word| word == "-j" || word == "-json");
    let mut state = node.state();
    match words.as_slice() {
        ["address" | "addr" | "a", "show"] if json => ToolOutput::text(addresses(&state.network)),
        ["route" | "r", "show", "default"] if json => ToolOutput::text(DEFAULT_ROUTE),
        ["neigh" | "neighbour" | "n", "show", rest @ ..] if json => {
            ToolOutput::text(neighbours(&state.network, after(rest, "to")))
        }
        ["route" | "r" | "ro", rest @ ..] => route(&mut state.network, rest),
        ["link" | "l", "show" | "list" | "ls", rest @ ..] => link(&state.network, rest),
        ["link" | "l"] => link(&state.network, &[]),
        [object, ..] => ToolOutput::failure(1, format!("Object \"{object}\" is unknown, try \"ip help\".\n")),
        [] => ToolOutput::failure(255, "Usage: ip [ OPTIONS ] OBJECT { COMMAND | help }\n"),
    }
}

/// A destination as the kernel shows it: a /128 without its length.
fn destination(text: &str) -> Option<String> {
    let (address, length) = text.split_once('/').unwrap_or((text, "128"));
    let length: u8 = length.parse().ok().filter(|length| *length <= 128)?;
    let address: Ipv6Addr = address.parse().ok()?;
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    let network = Ipv6Addr::from(u128::from(address) & mask);
    Some(if length == 128 { network.to_string() } else { format!("{network}/{length}") })
}

fn route(network: &mut Network, words: &[&str]) -> ToolOutput {
    let (act, rest) = words.split_first().unwrap_or((&"show", &[]));
    match *act {
        "add" | "replace" | "append" | "del" | "delete" => change_route(network, act, rest),
        "show" | "list" | "ls" => show_routes(network, rest),
        other => {
            ToolOutput::failure(255, format!("Command \"{other}\" is unknown, try \"ip route help\".\n"))
        }
    }
}

fn change_route(network: &mut Network, act: &str, words: &[&str]) -> ToolOutput {
    let Some(text) = words.first() else {
        return ToolOutput::failure(255, "RTNETLINK answers: Invalid argument\n");
    };
    let Some(dst) = destination(text) else {
        return ToolOutput::failure(1, format!("Error: inet6 prefix is expected rather than \"{text}\".\n"));
    };
    let dev = after(words, "dev").or_else(|| after(words, "oif"));
    let device = match dev {
        Some(dev) => match network.get(dev) {
            Some(device) => Some(device),
            None => return ToolOutput::failure(1, format!("Cannot find device \"{dev}\"\n")),
        },
        None => None,
    };
    if act.starts_with("del") {
        let found = network
            .routes
            .iter()
            .find(|route| route.dst == dst && dev.is_none_or(|dev| route.dev == dev))
            .cloned();
        return match found {
            Some(route) => {
                network.routes.remove(&route);
                ToolOutput::default()
            }
            None => ToolOutput::failure(2, "RTNETLINK answers: No such process\n"),
        };
    }
    let Some((device, dev)) = device.zip(dev) else {
        return ToolOutput::failure(2, "RTNETLINK answers: No such device\n");
    };
    if device.no_ipv6 {
        return ToolOutput::failure(2, "Error: IPv6 is disabled on nexthop device.\n");
    }
    let known = network.routes.iter().any(|route| route.dst == dst);
    if known && act == "add" {
        return ToolOutput::failure(2, "RTNETLINK answers: File exists\n");
    }
    if act == "replace" {
        network.routes.retain(|route| route.dst != dst);
    }
    network.routes.insert(Route { dst, dev: dev.into() });
    ToolOutput::default()
}

fn show_routes(network: &Network, words: &[&str]) -> ToolOutput {
    let dev = after(words, "dev");
    if let Some(dev) = dev.filter(|dev| network.get(dev).is_none()) {
        return ToolOutput::failure(1, format!("Cannot find device \"{dev}\"\n"));
    }
    let wanted = words.iter().find_map(|word| destination(word).filter(|_| word.contains(':')));
    let text = network
        .routes
        .iter()
        .filter(|route| {
            dev.is_none_or(|dev| route.dev == dev) && wanted.as_ref().is_none_or(|dst| *dst == route.dst)
        })
        .map(|route| match dev {
            Some(_) => format!("{} metric 1024 pref medium\n", route.dst),
            None => format!("{} dev {} metric 1024 pref medium\n", route.dst, route.dev),
        })
        .collect::<String>();
    ToolOutput::text(text)
}

fn link(network: &Network, words: &[&str]) -> ToolOutput {
    let name = after(words, "dev").or_else(|| words.first().copied().filter(|word| *word != "master"));
    let master = after(words, "master");
    if let Some(name) = name
        && network.get(name).is_none()
    {
        return ToolOutput::failure(1, format!("Device \"{name}\" does not exist.\n"));
    }
    let mut devices: Vec<(&String, &Device)> = network.devices().collect();
    devices.sort_by_key(|(_, device)| device.index);
    let text = devices
        .into_iter()
        .filter(|(own, _)| name.is_none_or(|name| name == *own))
        .filter(|(_, device)| master.is_none_or(|master| device.master.as_deref() == Some(master)))
        .map(|(own, device)| {
            let master = device.master.as_ref().map(|master| format!("master {master} ")).unwrap_or_default();
            format!(
                "{}: {own}: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue {master}state UP mode DEFAULT \
                 group default qlen 1000\n    link/ether bc:24:11:ff:00:{:02x} brd ff:ff:ff:ff:ff:ff\n",
                device.index,
                device.index & 0xff
            )
        })
        .collect::<String>();
    ToolOutput::text(text)
}

/// Runs `bridge`.
pub(crate) fn bridge(node: &Shared, argv: &[String]) -> ToolOutput {
    let words = plain(argv);
    let details = argv.iter().any(|word| matches!(word.as_str(), "-d" | "-details" | "--details"));
    let mut state = node.state();
    match words.as_slice() {
        ["link", "set", rest @ ..] => set_port(&mut state, rest),
        ["link", "show" | "list", rest @ ..] => show_ports(&state.network, rest, details),
        ["link"] => show_ports(&state.network, &[], details),
        [object, ..] => {
            ToolOutput::failure(255, format!("Object \"{object}\" is unknown, try \"bridge help\".\n"))
        }
        [] => ToolOutput::failure(255, "Usage: bridge [ OPTIONS ] OBJECT { COMMAND | help }\n"),
    }
}

fn set_port(state: &mut State, words: &[&str]) -> ToolOutput {
    let State { network, files, .. } = state;
    let Some(dev) = after(words, "dev") else {
        return ToolOutput::failure(255, "Device is a required argument.\n");
    };
    if network.get(dev).is_none() {
        return ToolOutput::failure(255, format!("Cannot find bridge device \"{dev}\"\n"));
    }
    let isolated = match after(words, "isolated") {
        Some("on") => true,
        Some("off") => false,
        Some(other) => {
            return ToolOutput::failure(
                255,
                format!("Error: argument of \"isolated\" must be one of \"on off\", not \"{other}\"\n"),
            );
        }
        None => return ToolOutput::default(),
    };
    if !network.isolate(files, dev, isolated) {
        return ToolOutput::failure(255, "RTNETLINK answers: Operation not supported\n");
    }
    ToolOutput::default()
}

fn show_ports(network: &Network, words: &[&str], details: bool) -> ToolOutput {
    let dev = after(words, "dev");
    if let Some(dev) = dev.filter(|dev| network.get(dev).is_none()) {
        return ToolOutput::failure(255, format!("Cannot find device \"{dev}\"\n"));
    }
    let on = |set: bool| if set { "on" } else { "off" };
    let mut text = String::new();
    for (name, device) in network.devices().filter(|(name, _)| dev.is_none_or(|dev| dev == *name)) {
        let Some(master) = &device.master else { continue };
        text.push_str(&format!(
            "{}: {name}: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 master {master} state forwarding priority 32 cost 2 \n",
            device.index
        ));
        if details {
            text.push_str(&format!(
                "    hairpin off guard off root_block off fastleave off learning on flood on mcast_flood on bcast_flood \
                 on mcast_router 1 mcast_to_unicast off neigh_suppress off vlan_tunnel off isolated {} locked off \n",
                on(device.isolated)
            ));
        }
    }
    ToolOutput::text(text)
}

#[cfg(test)]
mod tests {
    use super::destination;

    #[test]
    fn destinations_are_the_kernels() {
        assert_eq!(destination("2A11:0::5/128").as_deref(), Some("2a11::5"));
        assert_eq!(destination("2a11::5/64").as_deref(), Some("2a11::/64"));
        assert_eq!(destination("::/0").as_deref(), Some("::/0"));
        assert_eq!(destination("2a11::zz/128"), None);
        assert_eq!(destination("::1/129"), None);
    }
}
