//! The guard of a VM's network: what it may send, how fast, and in which words the kernel is told.
//!
//! The rules are a table of our own in nftables' `bridge` family, which sees a frame before Proxmox' firewall does, and
//! whether that is on or not. A map leads from the card's tap to a chain of its own; a chain is replaced whole, in one
//! transaction with its entry in the map, so there is no moment with half of it. The name of the tap is enough: rules are
//! there before the tap is, and a VM that starts has no unguarded moment.
//!
//! What a VM sends is limited in the same chain and what it receives by a qdisc of its tap (hazard H35): a kernel without
//! tc classifiers has neither `police` nor `mirred` (`facts/proxmox.md`).

use crate::value::mac::Mac;
use crate::value::vmid::Vmid;
use serde::Deserialize;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// What the guard is to do for a VM: the file that root alone writes (`facts/contract/root-agent.md`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Guarded {
    /// SMBIOS UUID of the VM that is meant.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// Its name; what proves a VM of an older record, which has no UUID.
    #[serde(default)]
    pub name: Option<String>,
    /// The IPv4 address it may use.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// The global IPv6 address it may use; the host has a route to it while the VM runs.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Whether it may send from these addresses alone.
    pub anti_spoofing: bool,
    /// Whether its ports are isolated from those of other guests.
    pub isolate: bool,
    /// Whether anything is done at all: a suspended VM gets nothing (hazard H51).
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Bandwidth.
    #[serde(default)]
    pub limits: Limits,
}

fn yes() -> bool {
    true
}

/// Bandwidth in kilobits per second; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Limits {
    /// What the guest receives.
    #[serde(default)]
    pub bandwidth_in_kbps: u32,
    /// What it sends.
    #[serde(default)]
    pub bandwidth_out_kbps: u32,
}

/// A network card of a VM as its configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its device on the host, `tap100i0`.
    pub tap: String,
    /// The port of the guests' bridge where Proxmox' firewall is between them, `fwpr100p0`.
    pub firewall_port: String,
    /// Its address.
    pub mac: Mac,
    /// Its bridge.
    pub bridge: String,
}

/// The part of a VM's configuration that counts here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestNetwork {
    /// SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Name.
    pub name: Option<String>,
    /// `net0` and the other cards on its bridge. A card on another bridge is none of ours.
    pub cards: Vec<Card>,
}

impl GuestNetwork {
    /// Reads `/etc/pve/qemu-server/VMID.conf`: lines `key: value` up to the first section.
    pub fn parse(vmid: Vmid, text: &str) -> GuestNetwork {
        let mut found = GuestNetwork::default();
        let mut cards: Vec<(u32, Card)> = Vec::new();
        let lines = text.lines().take_while(|line| !line.starts_with('['));
        for (key, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key {
                "name" => found.name = Some(value.to_owned()),
                "smbios1" => {
                    let uuid = value.split(',').find_map(|part| part.trim().strip_prefix("uuid="));
                    found.uuid = uuid.and_then(|uuid| Uuid::parse_str(uuid).ok());
                }
                _ => {
                    let number = key.strip_prefix("net").and_then(|number| number.parse().ok());
                    cards.extend(number.and_then(|number| Some((number, card(vmid, number, value)?))));
                }
            }
        }
        cards.sort_by_key(|(number, _)| *number);
        let first = cards.iter().find(|(number, _)| *number == 0).map(|(_, card)| card.bridge.clone());
        let ours = cards.into_iter().map(|(_, card)| card);
        found.cards = ours.filter(|card| first.as_ref() == Some(&card.bridge)).collect();
        found
    }

    /// Whether this is the VM that the guard's file is for.
    pub fn is(&self, guarded: &Guarded) -> bool {
        match (guarded.uuid, &guarded.name) {
            (Some(uuid), _) => self.uuid == Some(uuid),
            (None, Some(name)) => self.name.as_ref() == Some(name),
            (None, None) => false,
        }
    }
}

/// `virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1`; the address may also stand under `macaddr`.
fn card(vmid: Vmid, number: u32, value: &str) -> Option<Card> {
    let pairs = || value.split(',').filter_map(|part| part.trim().split_once('='));
    let mac = pairs().find_map(|(_, value)| Mac::parse(value))?;
    let bridge = pairs().find(|(key, _)| *key == "bridge").map(|(_, bridge)| bridge.to_owned())?;
    let (tap, firewall_port) = (tap(vmid, number), format!("fwpr{vmid}p{number}"));
    Some(Card { tap, firewall_port, mac, bridge })
}

/// The device of a VM's card on the host.
pub fn tap(vmid: Vmid, number: u32) -> String {
    format!("tap{vmid}i{number}")
}

/// Bytes of the largest packet that a guest hands over at once, 64 KiB, with its headers.
const LARGEST: u64 = 66 << 10;
/// Bytes that a qdisc of a fast card lets through at once, at most.
const BURST_MAX: u64 = 16 << 20;
/// The handle by which the qdisc of a limit is known as ours, and not as that of `rate=` in the VM's configuration.
pub const HANDLE: &str = "b10c:";

/// The words for `tc qdisc replace dev TAP root` that limit what a guest receives: 50 ms of the rate at once, one of the
/// largest packets at least; what waits is 400 ms of the rate, four of those packets at least. With less room a slow
/// connection loses whole packets of 64 KiB and reaches two thirds of its rate.
pub fn receive_limit(kbps: u32) -> Vec<String> {
    let bytes_a_second = u64::from(kbps) * 125;
    let burst = (bytes_a_second / 20).clamp(LARGEST, BURST_MAX);
    let queue = burst + (bytes_a_second * 2 / 5).max(4 * LARGEST);
    let words = format!("handle {HANDLE} tbf rate {kbps}kbit burst {burst} limit {queue}");
    words.split(' ').map(str::to_owned).collect()
}

/// What is there whether a VM is or not. Adding what exists changes nothing.
const FRAME: &str = "\
add table bridge blockhost
add map bridge blockhost cards { type ifname : verdict ; }
add chain bridge blockhost incoming { type filter hook prerouting priority -350 ; policy accept ; }
flush chain bridge blockhost incoming
add rule bridge blockhost incoming iifname vmap @cards
";

/// The transaction after which the cards have the rules of `guarded` and no others.
pub fn rules(cards: &[Card], guarded: &Guarded) -> String {
    let mut text = String::from(FRAME);
    for card in cards {
        let rules = card_rules(card, guarded);
        if rules.is_empty() {
            remove(&mut text, &card.tap);
            continue;
        }
        let tap = &card.tap;
        let _ = writeln!(text, "add chain bridge blockhost {tap}\nflush chain bridge blockhost {tap}");
        for rule in rules {
            let _ = writeln!(text, "add rule bridge blockhost {tap} {rule}");
        }
        let _ = writeln!(text, "add element bridge blockhost cards {{ \"{tap}\" : goto {tap} }}");
    }
    text
}

/// The transaction after which these taps have no rules.
pub fn no_rules<'a>(taps: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::from(FRAME);
    taps.for_each(|tap| remove(&mut text, tap));
    text
}

/// Deleting what is not there is an error, and adding what is there is none: so it is added first.
fn remove(text: &mut String, tap: &str) {
    let entry = format!("element bridge blockhost cards {{ \"{tap}\" : goto {tap} }}");
    let chain = format!("chain bridge blockhost {tap}");
    let _ = write!(text, "add {chain}\nadd {entry}\ndelete {entry}\nflush {chain}\ndelete {chain}\n");
}

/// The rules of one card's chain, in order; none: it needs no chain.
fn card_rules(card: &Card, guarded: &Guarded) -> Vec<String> {
    let mut rules = Vec::new();
    let rate = guarded.limits.bandwidth_out_kbps;
    if rate > 0 {
        // The kernel adds what one second brings to the burst, so that much goes through at once after a silence.
        let bytes = u64::from(rate) * 125;
        rules.push(format!("limit rate over {bytes} bytes/second burst {LARGEST} bytes drop"));
    }
    if guarded.anti_spoofing {
        own_addresses_only(&mut rules, card.mac, guarded);
    }
    rules
}

fn own_addresses_only(rules: &mut Vec<String>, mac: Mac, guarded: &Guarded) {
    let mut rule = |text: String| rules.push(text);
    rule(format!("ether saddr != {mac} drop"));
    let arp = format!("ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac}");
    // Whoever looks whether an address is free, asks without one.
    rule(format!("{arp} arp operation request arp saddr ip 0.0.0.0 accept"));
    if let Some(own) = guarded.ipv4 {
        rule(format!("{arp} arp operation {{ request, reply }} arp saddr ip {own} accept"));
    }
    // What is sent to the port of DHCP clients is a server's answer, wherever it claims to come from.
    rule("ether type ip udp dport 68 drop".to_owned());
    if let Some(own) = guarded.ipv4 {
        rule(format!("ether type ip ip saddr {own} accept"));
    }
    rule(
        "ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept".to_owned(),
    );
    // Frames with a tag of a VLAN have another type, whatever is in them.
    rule("ether type != ip6 drop".to_owned());
    // Neighbour discovery has this hop limit and is never in fragments (RFC 6980): in those, its kind could not be told.
    rule("ip6 hoplimit 255 exthdr frag exists drop".to_owned());
    rule("udp dport 546 drop".to_owned());
    rule("icmpv6 type { nd-router-advert, nd-redirect } drop".to_owned());
    let own: Vec<Ipv6Addr> = [Some(mac.link_local()), guarded.ipv6].into_iter().flatten().collect();
    let listed = |texts: Vec<String>| format!("{{ {} }}", texts.join(", "));
    let addresses = listed(own.iter().map(ToString::to_string).collect());
    // The address that a neighbour message is about: the sixteen bytes behind its first eight.
    let targets = listed(own.iter().map(|address| format!("{:#034x}", address.to_bits())).collect());
    rule(format!("icmpv6 type nd-neighbor-advert @th,64,128 != {targets} drop"));
    rule(format!("ip6 saddr {addresses} accept"));
    // A guest that has no address yet: whether its own is free, where routers are, which groups it listens to.
    rule(format!("ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 {targets} accept"));
    rule(
        "ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } accept"
            .to_owned(),
    );
    rule("drop".to_owned());
}

#[cfg(test)]
mod tests;
