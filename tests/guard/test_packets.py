"""What a guest may send, with real packets through a real bridge."""

import socket

import pytest
from conftest import IPV4, IPV6, MAC
from namespaces import (
    BROADCAST,
    arp,
    drain,
    ethernet,
    icmpv6,
    ipv4,
    ipv6,
    neighbour,
    udp,
)

OWN, OTHER = MAC[100], MAC[101]
LINK_LOCAL, STRANGER = "fe80::be24:11ff:fe00:1", "fe80::be24:11ff:fe00:2"
IP, IP6 = IPV4[100], IPV6[100]
OUTSIDE = "192.168.122.15"
RA = bytes([64, 0, 0, 0]) + bytes(8)


def frag(payload, next_kind, offset, more):
    """A fragment header before a piece."""
    return bytes([next_kind, 0]) + (offset | more).to_bytes(2, "big") + b"\0\0\0\7" + payload


def tagged(frame):
    """The same frame in VLAN 5."""
    return frame[:12] + bytes.fromhex("81000005") + frame[12:]


def options(next_kind):
    """A header of destination options with nothing but padding."""
    return bytes([next_kind, 0, 1, 4, 0, 0, 0, 0])


def router_advert(source=LINK_LOCAL):
    return icmpv6(source, "ff02::1", 134, RA)


SPOOFED = {
    "mac": ipv4(OTHER, IP, OUTSIDE, udp(1000, 1000, b"x")),
    "ipv4": ipv4(OWN, IPV4[101], OUTSIDE, udp(1000, 1000, b"x")),
    "ipv4 of the host": ipv4(OWN, "192.168.122.1", OUTSIDE, udp(1000, 1000, b"x")),
    "unspecified ipv4": ipv4(OWN, "0.0.0.0", "255.255.255.255", udp(1000, 1000, b"x")),
    "arp reply": arp(OWN, 2, OWN, "192.168.122.1", OUTSIDE),
    "arp request": arp(OWN, 1, OWN, IPV4[101], OUTSIDE),
    "arp reply of nobody": arp(OWN, 2, OWN, "0.0.0.0", OUTSIDE),
    "arp with the mac of another": arp(OWN, 2, OTHER, IP, OUTSIDE),
    "arp for another kind of network": arp(OWN, 2, OWN, IP, OUTSIDE).replace(b"\x08\x06\x00\x01", b"\x08\x06\x00\x06"),
    "gratuitous arp": arp(OWN, 1, OWN, "192.168.122.1", "192.168.122.1"),
    "dhcp server": ipv4(OWN, IP, "255.255.255.255", udp(67, 68, b"offer")),
    "dhcp server with another port": ipv4(OWN, IP, "255.255.255.255", udp(4711, 68, b"offer")),
    "ipv6": ipv6(OWN, IPV6[101], "fd00::f", udp(1000, 1000, b"x"), 17),
    "link-local of another": ipv6(OWN, STRANGER, "ff02::1", udp(1000, 1000, b"x"), 17),
    "unspecified ipv6": ipv6(OWN, "::", "ff02::1", udp(1000, 1000, b"x"), 17),
    "router advertisement": ipv6(OWN, LINK_LOCAL, "ff02::1", router_advert(), 58),
    "router advertisement behind options": ipv6(OWN, LINK_LOCAL, "ff02::1", options(58) + router_advert(), 60),
    "router advertisement in a fragment": ipv6(OWN, LINK_LOCAL, "ff02::1", frag(router_advert(), 58, 0, 0), 44),
    "router advertisement in the second fragment": ipv6(
        OWN, LINK_LOCAL, "ff02::1", frag(router_advert(), 60, 8, 0), 44
    ),
    "options in the first fragment": ipv6(OWN, LINK_LOCAL, "ff02::1", frag(options(58), 60, 0, 1), 44),
    "redirect": ipv6(OWN, LINK_LOCAL, "ff02::1", icmpv6(LINK_LOCAL, "ff02::1", 137, bytes(36)), 58),
    "neighbour advertisement for the gateway": neighbour(OWN, IP6, 136, "fd00::1"),
    "neighbour advertisement for another": neighbour(OWN, LINK_LOCAL, 136, IPV6[101]),
    "neighbour solicitation of another": neighbour(OWN, IPV6[101], 135, "fd00::1"),
    "a claim to the address of another": neighbour(OWN, "::", 135, IPV6[101]),
    "dhcpv6 server": ipv6(OWN, LINK_LOCAL, "ff02::1", udp(547, 546, b"reply"), 17),
    "tagged": tagged(ipv4(OWN, IP, OUTSIDE, udp(1000, 1000, b"x"))),
    "tagged spoof": tagged(ipv4(OWN, IPV4[101], OUTSIDE, udp(1000, 1000, b"x"))),
    "tagged twice": tagged(tagged(ipv4(OWN, IPV4[101], OUTSIDE, udp(1000, 1000, b"x")))),
    "another protocol": ethernet(OWN, BROADCAST, 0x88B5, b"x" * 46),
    "bpdu": ethernet(OWN, "01:80:c2:00:00:00", 38, b"\x42\x42\x03" + bytes(35)),
}

HONEST = {
    "ipv4": ipv4(OWN, IP, OUTSIDE, udp(1000, 1000, b"x")),
    "arp request": arp(OWN, 1, OWN, IP, OUTSIDE),
    "arp reply": arp(OWN, 2, OWN, IP, OUTSIDE),
    "arp probe": arp(OWN, 1, OWN, "0.0.0.0", IP),
    "dhcp client": ipv4(OWN, "0.0.0.0", "255.255.255.255", udp(68, 67, b"discover")),
    "dhcp renewal": ipv4(OWN, IP, OUTSIDE, udp(68, 67, b"request")),
    "ipv6": ipv6(OWN, IP6, "fd00::f", udp(1000, 1000, b"x"), 17, 64),
    "link-local": ipv6(OWN, LINK_LOCAL, "ff02::1", udp(1000, 1000, b"x"), 17),
    "large ping in pieces": ipv6(OWN, IP6, "ff02::1", frag(b"\x80" + bytes(63), 58, 0, 1), 44, 64),
    "neighbour solicitation": neighbour(OWN, IP6, 135, "fd00::1"),
    "neighbour advertisement": neighbour(OWN, IP6, 136, IP6),
    "neighbour advertisement of the link-local address": neighbour(OWN, LINK_LOCAL, 136, LINK_LOCAL),
    "is the global address free": neighbour(OWN, "::", 135, IP6),
    "is the link-local address free": neighbour(OWN, "::", 135, LINK_LOCAL),
    "router solicitation": ipv6(OWN, LINK_LOCAL, "ff02::2", icmpv6(LINK_LOCAL, "ff02::2", 133, bytes(4)), 58),
    "router solicitation of nobody": ipv6(OWN, "::", "ff02::2", icmpv6("::", "ff02::2", 133, bytes(4)), 58),
    "groups": ipv6(OWN, "::", "ff02::16", bytes([58, 0, 5, 2, 0, 0, 1, 0]) + icmpv6("::", "ff02::16", 143, bytes(4)), 0, 1),
    "dhcpv6 client": ipv6(OWN, LINK_LOCAL, "ff02::1:2", udp(546, 547, b"solicit"), 17),
}
MARK = ipv4(OWN, IP, OUTSIDE, udp(9, 9, b"mark"))


def seen_outside(world, guest, frames, mark=MARK):
    """Which of the frames arrive outside, by name. The mark comes behind them, so what has not come by then is lost."""
    outside, sender = world.places["outside"].raw(), guest.raw()
    for frame in [*frames.values(), mark]:
        sender.send(frame)
    heard = []
    for _ in range(500):
        heard += drain(outside, 0.01)
        if mark in heard:
            break
    assert mark in heard, "the path itself is closed"
    # A frame with a tag is shown without, as the kernel keeps it aside.
    plain = {name: frame[:12] + frame[16:] if frame[12:14] == b"\x81\x00" else frame for name, frame in frames.items()}
    outside.close()
    sender.close()
    return {name for name, frame in plain.items() if frame in heard or frames[name] in heard}


def test_h36_what_is_not_its_own_does_not_leave_a_guest(world):
    world.decide_for(100)
    assert seen_outside(world, world.start(100), SPOOFED) == set()


def test_everything_honest_leaves_a_guest(world):
    world.decide_for(100)
    assert seen_outside(world, world.start(100), HONEST) == set(HONEST)


def test_without_anti_spoofing_all_of_it_leaves_the_guest(world):
    """The other tests' frames are such that a bridge passes them on: what stops them is the guard."""
    world.decide_for(100, anti_spoofing=False)
    kept_by_the_bridge = {"bpdu"}
    seen = seen_outside(world, world.start(100), {**SPOOFED, **{f"honest {k}": v for k, v in HONEST.items()}})
    assert set(SPOOFED) - seen <= kept_by_the_bridge
    assert world.chains() == []


def test_rules_are_there_before_the_tap(world):
    """No moment in which a guest is up and its rules are not."""
    world.decide_for(100)
    world.quiet(100, "pre-start")
    guest = world.plug(100, "tap100i0", OWN, IP, IP6)
    assert seen_outside(world, guest, SPOOFED) == set()


def test_guests_do_not_reach_each_other_and_everybody_else_does(world):
    for vmid in (100, 101):
        world.decide_for(vmid)
    first, second = world.start(100), world.start(101)
    outside = world.places["outside"]
    for place, target in [(first, OUTSIDE), (first, "192.168.122.1"), (first, "fd00::f"), (first, "fd00::1"),
                          (outside, IPV4[100]), (outside, IPV6[101]), (outside, IPV4[101])]:
        assert place.reaches(target), target
    assert not first.reaches(IPV4[101])
    assert not second.reaches(IPV6[100])
    # From the host, on its own routes to the guests.
    for vmid in (100, 101):
        assert f"{IPV6[vmid]} dev vmbr0 metric 1024 pref medium" in world.routes()
    # The same two without isolation.
    for vmid in (100, 101):
        world.decide_for(vmid, isolate=False)
        world.quiet(vmid, "apply")
    assert first.reaches(IPV4[101]) and second.reaches(IPV6[100])


def test_large_datagrams_of_an_honest_guest_pass(world):
    """In fragments, of which only the first has a port."""
    world.decide_for(100)
    guest, outside = world.start(100), world.places["outside"]
    for target in (OUTSIDE, "fd00::f"):
        with outside.socket(target, socket.SOCK_DGRAM) as there, guest.socket(target, socket.SOCK_DGRAM) as here:
            there.bind((target, 4711))
            there.settimeout(3)
            here.sendto(b"x" * 4000, (target, 4711))
            assert len(there.recv(65536)) == 4000, target


@pytest.mark.parametrize("port", ["tap100i0", "fwpr100p0"])
def test_h36_with_proxmox_firewall_between_them_the_port_is_another(world, port):
    """firewall=1: the tap is a port of a bridge of its own, which is a port of the guests' bridge by a veth pair."""
    from namespaces import run

    world.decide_for(100)
    world.quiet(100, "pre-start")
    guest = world.plug(100, "tap100i0", OWN, IP, IP6)
    if port != "tap100i0":
        run("ip", "link", "add", "fwbr100i0", "type", "bridge")
        run("ip", "link", "add", "fwln100i0", "type", "veth", "peer", "name", port)
        for device, master in (("fwln100i0", "fwbr100i0"), (port, "vmbr0"), ("tap100i0", "fwbr100i0")):
            run("ip", "link", "set", device, "master", master, "up")
        run("ip", "link", "set", "fwbr100i0", "up")
    world.quiet(100, "post-start")
    assert world.isolated(port)
    assert seen_outside(world, guest, SPOOFED) == set()
    assert seen_outside(world, guest, HONEST) == set(HONEST)
