//! A snapshot of everything that makes a host reachable: addresses, the routes and rules of both families in all
//! tables, which of its routers answer, and whether its API listens. Taken before a change and compared after it (H59).
//!
//! Routes and rules are kept as lines of `ip` output: they are compared by their meaning, and can be passed to `ip`
//! again.

use crate::value::host_network::Address;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The interface.
    pub device: String,
    /// The address; always of global scope.
    pub address: Address,
    /// Whether it has a lifetime, that is, comes from DHCP or a router advertisement.
    pub dynamic: bool,
}

/// A route or rule as printed by `ip`, with its family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The family as an option of `ip`: `-4` or `-6`.
    pub family: String,
    /// The text on one line with single spaces, without the parts that change by themselves.
    pub text: String,
}

/// A router and the interface through which it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// Its address.
    pub address: IpAddr,
    /// The interface.
    pub device: String,
}

/// The host's connectivity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Addresses of global scope, except temporary ones, those that failed duplicate address detection, and those of
    /// loopback.
    pub addresses: Vec<Held>,
    /// Routes that somebody configured or that belong to an address; not the kernel's own.
    pub routes: Vec<Line>,
    /// Policy routing rules, which choose a routing table.
    pub rules: Vec<Line>,
    /// Interfaces and their MTU in bytes.
    pub mtus: Vec<(String, u64)>,
    /// Default routers that answered.
    pub reachable: Vec<Router>,
    /// The host's own addresses at which the API accepted a connection.
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
    /// Adds the output of `ip -j -d address show`.
    ///
    /// # Errors
    /// The output is not a JSON list.
    pub fn add_addresses(&mut self, printed: &str) -> Result<(), serde_json::Error> {
        let rows: Vec<Row> = serde_json::from_str(printed)?;
        for row in rows {
            let Some(device) = row.ifname else { continue };
            if let Some(mtu) = row.mtu {
                self.mtus.push((device.clone(), mtu));
            }
            for info in row.addr_info {
                let lasting = !info.temporary && !info.dadfailed && device != "lo";
                let is_global = !["link", "host"].contains(&info.scope.as_deref().unwrap_or_default());
                if let (Some(ip), Some(prefix), true) = (info.local, info.prefixlen, lasting && is_global) {
                    let address = Address { ip, prefix };
                    self.addresses.push(Held { device: device.clone(), address, dynamic: info.dynamic });
                }
            }
        }
        Ok(())
    }

    /// Adds the output of `ip -o FAMILY route show table all` and `ip FAMILY rule show`.
    pub fn add_routes(&mut self, family: &str, routes: &str, rules: &str) {
        let line = |text: &str| Line { family: family.into(), text: plain(text) };
        self.routes.extend(routes.lines().filter(|text| is_somebodys(text)).map(line));
        self.rules.extend(rules.lines().map(line));
    }

    /// Returns the routers of all default routes.
    pub fn routers(&self) -> Vec<Router> {
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

    /// Describes the first thing that was there before and is missing now. `moved`: the interface whose settings moved,
    /// and the one they moved to.
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
                return Some(format!("the host has a new default route (ip {} route): {}", route.0, route.1));
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
            return Some(format!("{to} does not have the MTU of {from}"));
        }
        None
    }

    /// Returns the routes of this earlier inventory that are missing now, in the order in which they can be set again:
    /// those without a router first, since the routers are reached through them.
    pub fn missing_routes(&self, now: &Inventory) -> Vec<&Line> {
        let (through, direct): (Vec<&Line>, Vec<&Line>) =
            self.routes.iter().partition(|line| line.text.contains(" via "));
        let is_there = |line: &&Line| {
            let said = key(&line.text, None);
            now.routes.iter().any(|one| one.family == line.family && key(&one.text, None) == said)
        };
        direct.into_iter().chain(through).filter(|line| !is_there(line)).collect()
    }

    /// Returns the rules of this earlier inventory that are missing now, as arguments of `ip`.
    pub fn missing_rules(&self, now: &Inventory) -> Vec<Vec<&str>> {
        let missing = self.rules.iter().filter(|line| !now.rules.contains(line));
        missing
            .filter_map(|line| {
                let (priority, rule) = line.text.split_once(": ")?;
                let words = rule.split(' ').filter(|word| !word.starts_with('['));
                Some(
                    [line.family.as_str(), "rule", "add", "pref", priority]
                        .into_iter()
                        .chain(words)
                        .collect(),
                )
            })
            .collect()
    }
}

/// Whether somebody configured the route or it belongs to an address; false for the kernel's own routes.
fn is_somebodys(line: &str) -> bool {
    let own = ["local ", "broadcast ", "multicast ", "anycast ", "fe80::", "ff00::/8", "none "];
    !own.iter().any(|start| line.starts_with(start)) && !line.contains(" table local")
}

/// Returns the text on one line, without the parts that change by themselves.
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

/// Returns what a route does, regardless of who set it. `moved` replaces one interface's name by another.
pub fn key(line: &str, moved: Option<(&str, &str)>) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h59_an_inventory_has_what_somebody_has_set_and_not_what_the_kernel_has_for_itself() {
        let mut found = Inventory::default();
        let printed = r#"[{"ifname":"lo","mtu":65536,"addr_info":[{"local":"127.0.0.1","prefixlen":8,"scope":"host"}]}, {},
            {"ifname":"eno1","mtu":1500,"addr_info":[
                {"local":"192.0.2.7","prefixlen":24,"scope":"global"},
                {"local":"2001:db8::7","prefixlen":64,"scope":"global","dynamic":true},
                {"local":"2001:db8::8","prefixlen":64,"scope":"global","temporary":true},
                {"local":"2001:db8::9","prefixlen":64,"scope":"global","dadfailed":true},
                {"local":"fe80::1","prefixlen":64,"scope":"link"}]}]"#;
        found.add_addresses(printed).unwrap();
        let shown = |held: &Held| format!("{} {} {}", held.address, held.device, held.dynamic);
        let addresses: Vec<String> = found.addresses.iter().map(shown).collect();
        assert_eq!(addresses, ["192.0.2.7/24 eno1 false", "2001:db8::7/64 eno1 true"]);
        assert_eq!(found.mtus, [("lo".into(), 65_536), ("eno1".into(), 1500)]);
        assert!(found.add_addresses("nonsense").is_err());

        let routes_ = "default via 192.0.2.1 dev eno1\n192.0.2.0/24 dev eno1 proto kernel linkdown\n\
            local 192.0.2.7 dev eno1 table local\nbroadcast 192.0.2.255 dev eno1 table local\n\
            10.0.0.0/8 dev eno1 table local\nfe80::/64 dev eno1\n";
        found.add_routes("-4", routes_, "0:\tfrom all lookup local\n99:\tfrom all iif eno1 lookup 7\n");
        let routes: Vec<&str> = found.routes.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(routes, ["default via 192.0.2.1 dev eno1", "192.0.2.0/24 dev eno1 proto kernel"]);
        assert_eq!(found.rules[1].text, "99: from all iif eno1 lookup 7");
    }

    #[test]
    fn h59_what_is_missing_is_set_again_in_an_order_that_works() {
        let before = routes(&["default via 192.0.2.1 dev eno1", "192.0.2.0/24 dev eno1 proto kernel"]);
        let shown = |now: &Inventory| {
            before.missing_routes(now).iter().map(|line| line.text.clone()).collect::<Vec<_>>()
        };
        let both = ["192.0.2.0/24 dev eno1 proto kernel", "default via 192.0.2.1 dev eno1"];
        assert_eq!(shown(&Inventory::default()), both);
        assert_eq!(shown(&routes(&["192.0.2.0/24 dev eno1 proto static"])), both[1..]);
        assert_eq!(shown(&before), [""; 0]);

        let mut before = Inventory::default();
        before.add_routes(
            "-6",
            "",
            "0:\tfrom all lookup local\n99:\tfrom all iif eno1 [detached] lookup 7\n",
        );
        let mut now = Inventory::default();
        now.add_routes("-6", "", "0:\tfrom all lookup local\n");
        let words = "-6 rule add pref 99 from all iif eno1 lookup 7";
        assert_eq!(before.missing_rules(&now), [words.split(' ').collect::<Vec<_>>()]);
        assert!(before.missing_rules(&before).is_empty());
    }

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
        assert!(before.lost(&routes(&after), moved).unwrap().contains("has a new default route"));
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
