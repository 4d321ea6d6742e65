//! Everything that makes this host reachable, as seen by the kernel and on the network ([`crate::plan::connectivity`]),
//! and how to restore it in the kernel.

use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::probe;
use crate::plan::connectivity::{Inventory, Router};
use crate::tool::ip::ip;
use anyhow::Context as _;
use std::path::Path;
use std::time::Duration;

/// Port of the Proxmox API.
const API_PORT: u16 = 8006;
const CONNECT: Duration = Duration::from_millis(500);
/// Time for a router to answer, three times.
const ANSWER: Duration = Duration::from_millis(300);
const FAMILIES: [&str; 2] = ["-4", "-6"];

/// Queries the kernel; [`prove`] queries the network itself.
pub(super) fn read(host: &Host, deadline: Deadline) -> anyhow::Result<Inventory> {
    let mut found = Inventory::default();
    let addresses = ip(host, &["-j", "-d", "address", "show"], deadline)?;
    found.add_addresses(&addresses).context("ip did not print a JSON list")?;
    for family in FAMILIES {
        if family == "-6" && !Path::new("/proc/sys/net/ipv6").exists() {
            continue;
        }
        let routes = ip(host, &["-o", family, "route", "show", "table", "all"], deadline)?;
        let rules = ip(host, &[family, "rule", "show"], deadline)?;
        found.add_routes(family, &routes, &rules);
    }
    Ok(found)
}

/// Probes the routers and the API, so that a later comparison knows what worked.
pub(super) fn prove(host: &Host, inventory: &mut Inventory, deadline: Deadline) {
    let routers = inventory.routers();
    inventory.reachable = routers.into_iter().filter(|router| answers(host, router, deadline)).collect();
    let own = inventory.addresses.iter().map(|held| held.address.ip);
    inventory.api = own.filter(|ip| probe::listens(*ip, API_PORT, CONNECT)).collect();
}

/// Returns what answered before but does not any more. Takes a second or more, so it is only for when nothing is
/// [`Inventory::lost`].
pub(super) fn silent(
    host: &Host,
    before: &Inventory,
    moved: Option<(&str, &str)>,
    deadline: Deadline,
) -> Option<String> {
    for router in &before.reachable {
        let device = match moved {
            Some((from, to)) if from == router.device => to,
            _ => &router.device,
        };
        if !answers(host, &Router { address: router.address, device: device.to_owned() }, deadline) {
            return Some(format!("the router {} no longer answers through {device}", router.address));
        }
    }
    let api = before.api.iter().find(|ip| !probe::listens(**ip, API_PORT, CONNECT))?;
    Some(format!("the Proxmox API is no longer reachable at {api}, port {API_PORT}"))
}

/// Restores in the kernel what is missing. A step that fails does not keep the next from being tried.
pub(super) fn put_back(host: &Host, before: &Inventory, deadline: impl Fn() -> Deadline) {
    let run = |words: &[&str]| {
        if let Err(error) = ip(host, words, deadline()) {
            tracing::debug!("{error:#}");
        }
    };
    for held in &before.addresses {
        run(&["link", "set", "dev", &held.device, "up"]);
        let address = held.address.to_string();
        let mut words = vec!["address", "replace", &address, "dev", &held.device];
        if held.address.ip.is_ipv6() {
            words.push("nodad");
        }
        run(&words);
    }
    let now = read(host, deadline()).unwrap_or_default();
    for line in before.missing_routes(&now) {
        let words = [line.family.as_str(), "route", "replace"].into_iter().chain(line.text.split(' '));
        run(&words.collect::<Vec<_>>());
    }
    for words in before.missing_rules(&now) {
        run(&words);
    }
}

fn answers(host: &Host, router: &Router, deadline: Deadline) -> bool {
    let address = router.address.to_string();
    let index = crate::host::read_file::text(format!("/sys/class/net/{}/ifindex", router.device));
    let index = index.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    // A cached entry proves nothing; one that was set by hand is not flushed.
    let _ = ip(host, &["neigh", "flush", "to", &address, "dev", &router.device], deadline);
    (0..3).any(|_| {
        probe::nudge(router.address, index);
        host.doors.sleep(ANSWER);
        let table =
            ip(host, &["neigh", "show", "to", &address, "dev", &router.device], deadline).unwrap_or_default();
        table.contains("lladdr") && !table.contains("FAILED")
    })
}
