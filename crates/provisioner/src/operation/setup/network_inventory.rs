//! All that makes a host reachable, at one moment: addresses, routes and rules of both families in all tables, which of
//! its routers answer, whether its API listens. Taken before a change and compared after it (H59).
//!
//! Routes and rules are kept as the lines of `ip`: they are compared by what they say, and can be given back to it.

use crate::host::clock::{self, Deadline};
use crate::host::probe;
use crate::tool::ip::ip;
use crate::value::host_network::Address;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Where Proxmox' API listens.
const API_PORT: u16 = 8006;
const CONNECT: Duration = Duration::from_millis(500);
/// For a router to answer, three times.
const ANSWER: Duration = Duration::from_millis(300);
const FAMILIES: [&str; 2] = ["-4", "-6"];

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub device: String,
    pub address: Address,
    /// It has a lifetime: of DHCP or a router advertisement.
    pub dynamic: bool,
}

/// A route or rule as `ip` shows it, with its family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    pub family: String,
    pub text: String,
}

/// A router and the interface that it is reached by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Router {
    pub address: IpAddr,
    pub device: String,
}

/// The host's connectivity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inventory {
    pub addresses: Vec<Held>,
    pub routes: Vec<Line>,
    pub rules: Vec<Line>,
    pub mtus: Vec<(String, u64)>,
    /// Default routers that answered.
    pub reachable: Vec<Router>,
    /// Own addresses at which the API accepted a connection.
    pub api: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct Row {
    ifname: Option<String>,
    mtu: Option<u64>,
    #[serde(default)]
    addr_info: Vec<Info>,
}

#[derive(Deserialize)]
struct Info {
    local: Option<IpAddr>,
    prefixlen: Option<u8>,
    scope: Option<String>,
    #[serde(default)]
    dynamic: bool,
    #[serde(default)]
    temporary: bool,
    #[serde(default)]
    dadfailed: bool,
}

impl Inventory {
    /// Asks the kernel; the network itself is asked by [`Inventory::prove`].
    pub fn take(deadline: Deadline) -> anyhow::Result<Inventory> {
        let mut found = Inventory::default();
        let text = ip(&["-j", "-d", "address", "show"], deadline)?;
        let rows: Vec<Row> = serde_json::from_str(&text).context("ip printed no JSON list")?;
        for row in rows {
            let Some(device) = row.ifname else { continue };
            if let Some(mtu) = row.mtu {
                found.mtus.push((device.clone(), mtu));
            }
            for info in row.addr_info {
                let lasting = !info.temporary && !info.dadfailed && device != "lo";
                let is_global = !["link", "host"].contains(&info.scope.as_deref().unwrap_or_default());
                if let (Some(ip), Some(prefix), true) = (info.local, info.prefixlen, lasting && is_global) {
                    let address = Address { ip, prefix };
                    found.addresses.push(Held { device: device.clone(), address, dynamic: info.dynamic });
                }
            }
        }
        for family in FAMILIES {
            if family == "-6" && !Path::new("/proc/sys/net/ipv6").exists() {
                continue;
            }
            let line = |text: &str| Line { family: family.into(), text: plain(text) };
            let routes = ip(&["-o", family, "route", "show", "table", "all"], deadline)?;
            found.routes.extend(routes.lines().filter(|text| is_somebodys(text)).map(line));
            let rules = ip(&[family, "rule", "show"], deadline)?;
            found.rules.extend(rules.lines().map(line));
        }
        Ok(found)
    }

    /// Asks the routers and the API, so that a later comparison knows what worked.
    pub fn prove(&mut self, deadline: Deadline) {
        let routers = self.routers();
        self.reachable = routers.into_iter().filter(|router| answers(router, deadline)).collect();
        let own = self.addresses.iter().map(|held| held.address.ip);
        self.api = own.filter(|ip| probe::listens(*ip, API_PORT, CONNECT)).collect();
    }

    /// All routers of default routes.
    fn routers(&self) -> Vec<Router> {
        let mut found: Vec<Router> = Vec::new();
        for line in self.routes.iter().filter(|line| line.text.starts_with("default ")) {
            let words: Vec<&str> = line.text.split(' ').collect();
            for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "via") {
                // `via inet6 fe80::1` is an IPv6 router of an IPv4 route.
                let address = words.iter().skip(at + 1).take(2).find_map(|word| word.parse().ok());
                let device = words.iter().skip(at).skip_while(|word| **word != "dev").nth(1);
                if let (Some(address), Some(device)) = (address, device) {
                    found.push(Router { address, device: (*device).to_owned() });
                }
            }
        }
        found.dedup();
        found
    }

    /// What was there before and is not now, in words; `moved` says which interface's settings went to which.
    pub fn lost(&self, now: &Inventory, moved: Option<(&str, &str)>) -> Option<String> {
        let at = |device: &str| match moved {
            Some((from, to)) if from == device => to.to_owned(),
            _ => device.to_owned(),
        };
        for held in &self.addresses {
            let device = at(&held.device);
            if !now.addresses.iter().any(|one| one.device == device && one.address == held.address) {
                return Some(format!("the host has lost its address {} ({device})", held.address));
            }
        }
        let keys: Vec<(&str, String)> =
            now.routes.iter().map(|line| (line.family.as_str(), key(&line.text, None))).collect();
        let before: Vec<(&str, String)> =
            self.routes.iter().map(|line| (line.family.as_str(), key(&line.text, moved))).collect();
        if let Some((family, route)) = before.iter().find(|route| !keys.contains(route)) {
            return Some(format!("the host has lost a route (ip {family} route): {route}"));
        }
        let is_default = |route: &&(&str, String)| route.1.starts_with("default ");
        for route in keys.iter().filter(is_default) {
            let had_one = before.iter().filter(is_default).any(|other| other.0 == route.0);
            if had_one && !before.contains(route) {
                return Some(format!(
                    "there is a default route that was not there before (ip {} route): {}",
                    route.0, route.1
                ));
            }
        }
        if let Some(rule) = self.rules.iter().find(|rule| !now.rules.contains(rule)) {
            return Some(format!("the host has lost a rule (ip {} rule): {}", rule.family, rule.text));
        }
        let mtu = |of: &Inventory, device: &str| {
            of.mtus.iter().find(|(name, _)| name == device).map(|(_, mtu)| *mtu)
        };
        if let Some((from, to)) = moved
            && mtu(self, from) != mtu(now, to)
        {
            return Some(format!("{to} has not the MTU of {from}"));
        }
        None
    }

    /// What answered before and does not now. Takes a second and more: for when nothing is [`Inventory::lost`].
    pub fn silent(&self, moved: Option<(&str, &str)>, deadline: Deadline) -> Option<String> {
        for router in &self.reachable {
            let device = match moved {
                Some((from, to)) if from == router.device => to,
                _ => &router.device,
            };
            if !answers(&Router { address: router.address, device: device.to_owned() }, deadline) {
                return Some(format!(
                    "the router {} does not answer any more through {device}",
                    router.address
                ));
            }
        }
        let api = self.api.iter().find(|ip| !probe::listens(**ip, API_PORT, CONNECT))?;
        Some(format!("the Proxmox API cannot be reached any more at {api}, port {API_PORT}"))
    }

    /// Gives back to the kernel what is missing. One that fails does not keep the next from being tried.
    pub fn put_back(&self, deadline: impl Fn() -> Deadline) {
        let run = |words: &[&str]| {
            if let Err(error) = ip(words, deadline()) {
                tracing::debug!("{error:#}");
            }
        };
        for held in &self.addresses {
            run(&["link", "set", "dev", &held.device, "up"]);
            let address = held.address.to_string();
            let mut words = vec!["address", "replace", &address, "dev", &held.device];
            if held.address.ip.is_ipv6() {
                words.push("nodad");
            }
            run(&words);
        }
        let now = Inventory::take(deadline()).unwrap_or_default();
        // Those without a router first: the others are reached through them.
        let (through, direct): (Vec<&Line>, Vec<&Line>) =
            self.routes.iter().partition(|line| line.text.contains(" via "));
        for line in direct.into_iter().chain(through) {
            let there = now
                .routes
                .iter()
                .any(|one| one.family == line.family && key(&one.text, None) == key(&line.text, None));
            if !there {
                let mut words = vec![line.family.as_str(), "route", "replace"];
                words.extend(line.text.split(' '));
                run(&words);
            }
        }
        for line in self.rules.iter().filter(|line| !now.rules.contains(line)) {
            if let Some((priority, rule)) = line.text.split_once(": ") {
                let mut words = vec![line.family.as_str(), "rule", "add", "pref", priority];
                words.extend(rule.split(' ').filter(|word| !word.starts_with('[')));
                run(&words);
            }
        }
    }
}

/// Of routes those that somebody has set, or that stand for an address: not what the kernel has for itself.
fn is_somebodys(line: &str) -> bool {
    let own = ["local ", "broadcast ", "multicast ", "anycast ", "fe80::", "ff00::/8", "none "];
    !own.iter().any(|start| line.starts_with(start)) && !line.contains(" table local")
}

/// One line, without what changes by itself.
fn plain(line: &str) -> String {
    let words = line.replace('\\', " ");
    let mut kept: Vec<&str> = Vec::new();
    let mut words = words.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "linkdown" | "dead" | "offload" | "rt_offload" | "trap" | "rt_trap" => {}
            "expires" | "error" => drop(words.next()),
            _ => kept.push(word),
        }
    }
    kept.join(" ")
}

/// What a route says, whoever has set it.
pub(super) fn key(line: &str, moved: Option<(&str, &str)>) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut words = line.split(' ');
    while let Some(word) = words.next() {
        match (word, moved) {
            ("onlink", _) => {}
            ("proto" | "scope" | "pref", _) => drop(words.next()),
            ("dev", Some((from, to))) => {
                let device = words.next().unwrap_or_default();
                kept.extend(["dev", if device == from { to } else { device }]);
            }
            _ => kept.push(word),
        }
    }
    kept.join(" ")
}

fn answers(router: &Router, deadline: Deadline) -> bool {
    let address = router.address.to_string();
    let index = crate::host::read_file::text(format!("/sys/class/net/{}/ifindex", router.device));
    let index = index.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    // What is remembered proves nothing; an entry that was set by hand stays.
    let _ = ip(&["neigh", "flush", "to", &address, "dev", &router.device], deadline);
    (0..3).any(|_| {
        probe::nudge(router.address, index);
        clock::sleep(ANSWER);
        let table =
            ip(&["neigh", "show", "to", &address, "dev", &router.device], deadline).unwrap_or_default();
        table.contains("lladdr") && !table.contains("FAILED")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(lines: &[&str]) -> Inventory {
        let line = |text: &&str| Line { family: "-4".into(), text: plain(text) };
        Inventory { routes: lines.iter().map(line).collect(), ..Inventory::default() }
    }

    #[test]
    fn h59_routes_are_compared_by_what_they_say() {
        let moved = Some(("eno1", "vmbr0"));
        let before = routes(&[
            "default via 192.0.2.1 dev eno1",
            "10.99.0.0/16 via 192.0.2.254 dev eno1 table 100 metric 5",
            "192.0.2.0/24 dev eno1 proto kernel scope link src 192.0.2.7 linkdown",
            "default dev eno2 table 7\\ expires 12sec",
        ]);
        let mut after = vec![
            "default via 192.0.2.1 dev vmbr0 proto kernel onlink",
            "10.99.0.0/16 via 192.0.2.254 dev vmbr0 table 100 metric 5",
            "192.0.2.0/24 dev vmbr0 proto kernel scope link src 192.0.2.7",
            "default dev eno2 table 7",
        ];
        assert_eq!(before.lost(&routes(&after), moved), None);
        assert!(before.lost(&routes(&after), None).unwrap().contains("lost a route"));
        for at in 0..after.len() {
            let mut fewer = after.clone();
            fewer.remove(at);
            assert!(before.lost(&routes(&fewer), moved).unwrap().contains("lost a route"), "{at}");
        }
        after[1] = "10.99.0.0/16 via 192.0.2.254 dev vmbr0 table 100 metric 6";
        assert!(before.lost(&routes(&after), moved).unwrap().contains("metric 5"));
        after[1] = "10.99.0.0/16 via 192.0.2.254 dev vmbr0 table 100 metric 5";
        after.push("default via 192.0.2.9 dev eno3 metric 50");
        assert!(before.lost(&routes(&after), moved).unwrap().contains("was not there before"));
    }

    #[test]
    fn h59_routers_are_found_in_every_form_of_a_default_route() {
        let found = routes(&[
            "default via 192.0.2.1 dev eno1",
            "default proto static \\\tnexthop via 192.0.2.2 dev eno1 weight 1 \\\tnexthop via 192.0.2.3 dev eno2 weight 1",
            "default via inet6 fe80::1 dev eno3",
        ]);
        let show = |router: &Router| format!("{} {}", router.address, router.device);
        let found: Vec<String> = found.routers().iter().map(show).collect();
        assert_eq!(found, ["192.0.2.1 eno1", "192.0.2.2 eno1", "192.0.2.3 eno2", "fe80::1 eno3"]);
    }
}
