//! The network guard of a VM: what the VM may send, how fast, and the commands that tell the kernel.
//!
//! The rules are in a table of our own in nftables' `bridge` family, which sees a frame before Proxmox' firewall does,
//! whether or not that is enabled. A map leads from the network card's tap to a chain of its own. A chain and its entry
//! in the map are replaced in one transaction, so they are never half in place. The name of the tap is enough: the
//! rules exist before the tap does, so a starting VM is never unguarded.
//!
//! What a VM sends is limited in the same chain; what it receives is limited by a qdisc of its tap (hazard H35),
//! because a kernel without tc classifiers has neither `police` nor `mirred` (`facts/proxmox.md`).

use crate::value::mac::Mac;
use crate::value::vmid::Vmid;
use serde::Deserialize;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// What the guard has to do for a VM. Read from a file that only root writes (`facts/contract/root-agent.md`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Guarded {
    /// SMBIOS UUID of the VM.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// Its name; it identifies a VM of an older record, which has no UUID.
    #[serde(default)]
    pub name: Option<String>,
    /// The IPv4 address that the VM may use.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// The global IPv6 address that the VM may use; the host has a route to it while the VM is running.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Whether the VM may send from these addresses only.
    pub anti_spoofing: bool,
    /// Whether the VM's ports are isolated from those of other guests.
    pub isolate: bool,
    /// Whether the guard does anything at all: a suspended VM gets nothing (hazard H51).
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Bandwidth limits.
    #[serde(default)]
    pub limits: Limits,
}

fn yes() -> bool {
    true
}

/// Bandwidth in kilobits per second; 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Limits {
    /// What the guest receives.
    #[serde(default)]
    pub bandwidth_in_kbps: u32,
    /// What it sends.
    #[serde(default)]
    pub bandwidth_out_kbps: u32,
}

/// A network card of a VM, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its device on the host, `tap100i0`.
    pub tap: String,
    /// The card's port on the guests' bridge if Proxmox' firewall is in between, `fwpr100p0`.
    pub firewall_port: String,
    /// Its address.
    pub mac: Mac,
    /// Its bridge.
    pub bridge: String,
    /// Whether Proxmox itself limits it (`rate=`).
    pub has_rate: bool,
}

/// The part of a VM's configuration that the guard needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestNetwork {
    /// SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Name.
    pub name: Option<String>,
    /// `net0` and the other cards on the same bridge. Cards on another bridge are not guarded.
    pub cards: Vec<Card>,
}

impl GuestNetwork {
    /// Reads `/etc/pve/qemu-server/VMID.conf`: lines of `key: value` up to the first section.
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

    /// Whether this is the VM that the guard's file describes.
    pub fn is(&self, guarded: &Guarded) -> bool {
        match (guarded.uuid, &guarded.name) {
            (Some(uuid), _) => self.uuid == Some(uuid),
            (None, Some(name)) => self.name.as_ref() == Some(name),
            (None, None) => false,
        }
    }
}

/// Reads `virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1`; the address may also be given as `macaddr`.
fn card(vmid: Vmid, number: u32, value: &str) -> Option<Card> {
    let pairs = || value.split(',').filter_map(|part| part.trim().split_once('='));
    let mac = pairs().find_map(|(_, value)| Mac::parse(value))?;
    let bridge = pairs().find(|(key, _)| *key == "bridge").map(|(_, bridge)| bridge.to_owned())?;
    let (tap, firewall_port) = (tap(vmid, number), format!("fwpr{vmid}p{number}"));
    let has_rate = pairs().any(|(key, _)| key == "rate");
    Some(Card { tap, firewall_port, mac, bridge, has_rate })
}

/// Returns the host device of a VM's network card.
pub fn tap(vmid: Vmid, number: u32) -> String {
    format!("tap{vmid}i{number}")
}

/// Size in bytes of the largest packet that a guest hands over at once: 64 KiB and its headers.
const LARGEST: u64 = 66 << 10;
/// Maximum burst of a qdisc in bytes, reached with a fast card.
const BURST_MAX: u64 = 16 << 20;
/// The handle that marks a qdisc as ours, as opposed to the one of `rate=` in the VM's configuration.
pub const HANDLE: &str = "b10c:";

/// Returns the arguments that follow `tc qdisc replace dev TAP root` to limit what a guest receives. The burst is 50 ms
/// of the rate, but at least one packet of the largest size; the queue is 400 ms of the rate, but at least four such
/// packets. With less room, a slow connection loses whole packets of 64 KiB and reaches only two thirds of its rate.
pub fn receive_limit(kbps: u32) -> Vec<String> {
    let bytes_a_second = u64::from(kbps) * 125;
    let burst = (bytes_a_second / 20).clamp(LARGEST, BURST_MAX);
    let queue = burst + (bytes_a_second * 2 / 5).max(4 * LARGEST);
    let words = format!("handle {HANDLE} tbf rate {kbps}kbit burst {burst} limit {queue}");
    words.split(' ').map(str::to_owned).collect()
}

/// The part that exists independently of any VM. Adding what already exists changes nothing.
const FRAME: &str = "\
add table bridge blockhost
add map bridge blockhost cards { type ifname : verdict ; }
add chain bridge blockhost incoming { type filter hook prerouting priority -350 ; policy accept ; }
flush chain bridge blockhost incoming
add rule bridge blockhost incoming iifname vmap @cards
";

/// Returns the transaction that gives the cards the rules of `guarded` and no others.
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

/// Returns the transaction that removes all rules of these taps.
pub fn no_rules<'a>(taps: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::from(FRAME);
    taps.for_each(|tap| remove(&mut text, tap));
    text
}

/// Deleting what does not exist is an error, but adding what exists is not; so everything is added before it is
/// deleted.
fn remove(text: &mut String, tap: &str) {
    let entry = format!("element bridge blockhost cards {{ \"{tap}\" : goto {tap} }}");
    let chain = format!("chain bridge blockhost {tap}");
    let _ = write!(text, "add {chain}\nadd {entry}\ndelete {entry}\nflush {chain}\ndelete {chain}\n");
}

/// Returns the rules of one card's chain, in order; if empty, the card needs no chain.
fn card_rules(card: &Card, guarded: &Guarded) -> Vec<String> {
    let mut rules = Vec::new();
    let rate = guarded.limits.bandwidth_out_kbps;
    if rate > 0 {
        // The kernel adds one second of the rate to the burst, so that much passes at once after an idle time.
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
    // A guest that checks whether an address is free asks without an address of its own.
    rule(format!("{arp} arp operation request arp saddr ip 0.0.0.0 accept"));
    if let Some(own) = guarded.ipv4 {
        rule(format!("{arp} arp operation {{ request, reply }} arp saddr ip {own} accept"));
    }
    // A packet to the port of DHCP clients is a server's answer, whatever source it claims.
    rule("ether type ip udp dport 68 drop".to_owned());
    if let Some(own) = guarded.ipv4 {
        rule(format!("ether type ip ip saddr {own} accept"));
    }
    rule(
        "ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept".to_owned(),
    );
    // Frames with a VLAN tag have another type, whatever they contain.
    rule("ether type != ip6 drop".to_owned());
    // Neighbour discovery uses this hop limit and is never fragmented (RFC 6980); in a fragment, its type could not be
    // checked.
    rule("ip6 hoplimit 255 exthdr frag exists drop".to_owned());
    rule("udp dport 546 drop".to_owned());
    rule("icmpv6 type { nd-router-advert, nd-redirect } drop".to_owned());
    let own: Vec<Ipv6Addr> = [Some(mac.link_local()), guarded.ipv6].into_iter().flatten().collect();
    let listed = |texts: Vec<String>| format!("{{ {} }}", texts.join(", "));
    let addresses = listed(own.iter().map(ToString::to_string).collect());
    // The address that a neighbour message is about: the 16 bytes after the first 8.
    let targets = listed(own.iter().map(|address| format!("{:#034x}", address.to_bits())).collect());
    rule(format!("icmpv6 type nd-neighbor-advert @th,64,128 != {targets} drop"));
    rule(format!("ip6 saddr {addresses} accept"));
    // What a guest without an address may send: checks whether its own address is free, router solicitations, and
    // reports of the groups that it listens to.
    rule(format!("ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 {targets} accept"));
    rule(
        "ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } accept"
            .to_owned(),
    );
    rule("drop".to_owned());
}

#[cfg(test)]
mod tests;
