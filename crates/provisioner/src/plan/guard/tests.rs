use super::*;

const CONFIG: &str = "#BlockHost VM web-1\nboot: order=scsi0\nname: web-1\n\
    net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1\n\
    net10: e1000,macaddr=BC:24:11:00:00:0A,bridge=vmbr0\n\
    net1: virtio=BC:24:11:00:00:02,bridge=vmbr9\n\
    net2: virtio,bridge=vmbr0\n\
    smbios1: base64=1,uuid=3f2b6a0e-0d6c-4b7e-9d55-0a4f6f3f1c11\n\
    [snapshot]\nname: other\nnet3: virtio=BC:24:11:00:00:03,bridge=vmbr0\n";

fn vmid() -> Vmid {
    Vmid::new(100).unwrap()
}

fn guarded() -> Guarded {
    Guarded {
        uuid: Some(Uuid::parse_str("3f2b6a0e-0d6c-4b7e-9d55-0a4f6f3f1c11").unwrap()),
        name: Some("web-1".into()),
        ipv4: Some(Ipv4Addr::new(192, 168, 122, 200)),
        ipv6: Some("fd00::2".parse().unwrap()),
        anti_spoofing: true,
        isolate: true,
        enabled: true,
        limits: Limits::default(),
    }
}

fn cards() -> Vec<Card> {
    GuestNetwork::parse(vmid(), CONFIG).cards
}

#[test]
fn h36_cards_are_those_on_the_bridge_of_the_first() {
    let guest = GuestNetwork::parse(vmid(), CONFIG);
    let taps: Vec<_> = guest.cards.iter().map(|card| card.tap.as_str()).collect();
    // Not ours: a card on another bridge, one without an address, and one of a snapshot.
    assert_eq!(taps, ["tap100i0", "tap100i10"]);
    assert_eq!(guest.cards[0].firewall_port, "fwpr100p0");
    assert_eq!(guest.cards[1].mac.to_string(), "bc:24:11:00:00:0a");
    assert_eq!(guest.name.as_deref(), Some("web-1"));
    assert!(GuestNetwork::parse(vmid(), "net1: virtio=BC:24:11:00:00:02,bridge=vmbr9\n").cards.is_empty());
}

#[test]
fn h01_the_guards_file_is_for_one_vm_alone() {
    let guest = GuestNetwork::parse(vmid(), CONFIG);
    assert!(guest.is(&guarded()));
    let other = Guarded { uuid: Some(Uuid::nil()), ..guarded() };
    assert!(!guest.is(&other), "the name alone is no proof where there is a UUID");
    let old = |name: Option<&str>| Guarded { uuid: None, name: name.map(String::from), ..guarded() };
    assert!(guest.is(&old(Some("web-1"))));
    assert!(!guest.is(&old(Some("other"))) && !guest.is(&old(None)));
    assert!(!GuestNetwork::default().is(&old(None)));
}

#[test]
fn the_rules_of_a_card_are_these() {
    let text = rules(&cards()[..1], &guarded());
    let expected = "\
add table bridge blockhost
add map bridge blockhost cards { type ifname : verdict ; }
add chain bridge blockhost incoming { type filter hook prerouting priority -350 ; policy accept ; }
flush chain bridge blockhost incoming
add rule bridge blockhost incoming iifname vmap @cards
add chain bridge blockhost tap100i0
flush chain bridge blockhost tap100i0
add rule bridge blockhost tap100i0 ether saddr != bc:24:11:00:00:01 drop
add rule bridge blockhost tap100i0 ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether bc:24:11:00:00:01 arp operation request arp saddr ip 0.0.0.0 accept
add rule bridge blockhost tap100i0 ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether bc:24:11:00:00:01 arp operation { request, reply } arp saddr ip 192.168.122.200 accept
add rule bridge blockhost tap100i0 ether type ip udp dport 68 drop
add rule bridge blockhost tap100i0 ether type ip ip saddr 192.168.122.200 accept
add rule bridge blockhost tap100i0 ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
add rule bridge blockhost tap100i0 ether type != ip6 drop
add rule bridge blockhost tap100i0 ip6 hoplimit 255 exthdr frag exists drop
add rule bridge blockhost tap100i0 udp dport 546 drop
add rule bridge blockhost tap100i0 icmpv6 type { nd-router-advert, nd-redirect } drop
add rule bridge blockhost tap100i0 icmpv6 type nd-neighbor-advert @th,64,128 != { 0xfe80000000000000be2411fffe000001, 0xfd000000000000000000000000000002 } drop
add rule bridge blockhost tap100i0 ip6 saddr { fe80::be24:11ff:fe00:1, fd00::2 } accept
add rule bridge blockhost tap100i0 ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 { 0xfe80000000000000be2411fffe000001, 0xfd000000000000000000000000000002 } accept
add rule bridge blockhost tap100i0 ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } accept
add rule bridge blockhost tap100i0 drop
add element bridge blockhost cards { \"tap100i0\" : goto tap100i0 }
";
    assert_eq!(text, expected);
}

/// The rules of one card's chain, without the lines before and after them.
fn chain(guarded: &Guarded) -> Vec<String> {
    let text = rules(&cards()[..1], guarded);
    let rules = text.lines().filter_map(|line| line.strip_prefix("add rule bridge blockhost tap100i0 "));
    rules.map(str::to_owned).collect()
}

#[test]
fn h35_what_a_guest_sends_is_limited_before_it_is_judged() {
    let limits = Limits { bandwidth_in_kbps: 0, bandwidth_out_kbps: 10_000 };
    let limit = "limit rate over 1250000 bytes/second burst 67584 bytes drop";
    let rules = chain(&Guarded { limits, ..guarded() });
    assert_eq!((rules[0].as_str(), rules.last().unwrap().as_str()), (limit, "drop"));
    let alone = chain(&Guarded { limits, anti_spoofing: false, ..guarded() });
    assert_eq!(alone, [limit]);
}

#[test]
fn a_vm_without_an_address_sends_nothing_of_that_family() {
    let none = chain(&Guarded { ipv4: None, ipv6: None, ..guarded() });
    let accepted: Vec<_> = none.iter().filter(|rule| rule.ends_with("accept")).collect();
    assert!(accepted.iter().all(|rule| !rule.contains("arp operation {")), "{accepted:?}");
    assert!(none.contains(&"ip6 saddr { fe80::be24:11ff:fe00:1 } accept".to_owned()), "{none:?}");
    assert!(!none.iter().any(|rule| rule.starts_with("ether type ip ip saddr 192")), "{none:?}");
}

#[test]
fn h36_what_a_vm_does_not_need_is_taken_away_even_where_it_is_not() {
    let text = rules(&cards()[..1], &Guarded { anti_spoofing: false, ..guarded() });
    let entry = "element bridge blockhost cards { \"tap100i0\" : goto tap100i0 }";
    let expected = format!(
        "add chain bridge blockhost tap100i0\nadd {entry}\ndelete {entry}\n\
         flush chain bridge blockhost tap100i0\ndelete chain bridge blockhost tap100i0\n"
    );
    assert_eq!(text.strip_prefix(FRAME), Some(expected.as_str()));
    assert_eq!(no_rules(["tap100i0"].into_iter()), text);
}

#[test]
fn h35_the_qdisc_lets_the_largest_packet_through_at_once() {
    let words = |kbps| receive_limit(kbps).join(" ");
    assert_eq!(words(1_000), "handle b10c: tbf rate 1000kbit burst 67584 limit 337920");
    assert_eq!(words(100_000), "handle b10c: tbf rate 100000kbit burst 625000 limit 5625000");
    assert_eq!(words(100_000_000), "handle b10c: tbf rate 100000000kbit burst 16777216 limit 5016777216");
}

#[test]
fn the_file_is_read_as_the_root_agent_writes_it() {
    let text = r#"{"vmid": 100, "uuid": null, "name": "web-1", "ipv4": "192.168.122.200", "ipv6": null,
        "anti_spoofing": true, "isolate": true, "enabled": false, "limits": {"bandwidth_in_kbps": 5}}"#;
    let read: Guarded = serde_json::from_str(text).unwrap();
    assert!(!read.enabled && read.uuid.is_none());
    assert_eq!(read.limits, Limits { bandwidth_in_kbps: 5, bandwidth_out_kbps: 0 });
    assert!(serde_json::from_str::<Guarded>(r#"{"isolate": true}"#).is_err());
    let hostile = r#"{"ipv4": "1.2.3.4 accept", "anti_spoofing": true, "isolate": true}"#;
    assert!(serde_json::from_str::<Guarded>(hostile).is_err());
}
