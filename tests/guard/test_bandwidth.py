"""Limits with real TCP: three guests at once, one for each rate.

Measured is what arrives within 3 s, from 2 s after the first byte on: until then what a bucket had
saved is used up.  The kernel's `limit` adds what one second brings to its burst; the qdisc's burst
is that of the largest packet.
"""

import socket
import threading
import time

import pytest
from conftest import IPV4

KBPS = {100: 1_000, 101: 10_000, 102: 100_000}
OUTSIDE = "192.168.122.15"
SETTLE, MEASURE = 2.0, 3.0


def stream(sender, receiver, address, port):
    """A connection between two places: the sending and the receiving socket."""
    with receiver.socket(address, socket.SOCK_STREAM) as listener:
        listener.bind((address, port))
        listener.listen()
        source = sender.socket(address, socket.SOCK_STREAM)
        # Like a guest's: a queue of its own that is not endless, so that what is dropped is not a whole second.
        source.connect((address, port))
        return source, listener.accept()[0]


def measured(connections):
    """Kilobits per second of each connection, all at once."""
    rates, end = {}, time.monotonic() + SETTLE + MEASURE

    def send(source):
        source.settimeout(0.2)
        chunk = b"x" * 65536
        while time.monotonic() < end:
            try:
                source.send(chunk)
            except TimeoutError:
                pass

    def receive(name, target):
        target.settimeout(0.1)
        begin, count = end - MEASURE, 0
        while (now := time.monotonic()) < end:
            try:
                got = len(target.recv(1 << 20))
            except TimeoutError:
                got = 0
            if now >= begin:
                count += got
        rates[name] = count * 8 / 1000 / MEASURE

    threads = [threading.Thread(target=send, args=(source,)) for source, _ in connections.values()]
    threads += [threading.Thread(target=receive, args=(name, target)) for name, (_, target) in connections.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair in connections.values():
        for sock in pair:
            sock.close()
    return rates


@pytest.mark.parametrize("direction", ["send", "receive"])
def test_h35_a_limit_is_kept_within_15_percent(world, direction):
    outside, connections = world.places["outside"], {}
    for vmid, kbps in KBPS.items():
        world.decide_for(vmid, **{direction: kbps})
        guest = world.start(vmid)
        ways = (guest, outside, OUTSIDE) if direction == "send" else (outside, guest, IPV4[vmid])
        connections[vmid] = stream(*ways, 5000 + vmid)
    for vmid, rate in measured(connections).items():
        # Headers are part of the limit and not of what a program receives.
        assert 0.85 * KBPS[vmid] <= rate <= 1.15 * KBPS[vmid], (direction, KBPS[vmid], rate)
        print(direction, KBPS[vmid], round(rate))


def test_h35_the_other_direction_is_not_limited(world):
    world.decide_for(100, receive=1_000)
    guest, outside = world.start(100), world.places["outside"]
    rate = measured({100: stream(guest, outside, OUTSIDE, 5100)})[100]
    assert rate > 20_000, rate


def test_a_limit_that_is_taken_back_is_gone(world):
    """And a qdisc that is not ours stays: Proxmox makes one for `rate=` of the card."""
    from namespaces import run

    def qdisc(vmid):
        return run("tc", "qdisc", "show", "dev", f"tap{vmid}i0", "root")

    world.decide_for(100, receive=1_000, send=1_000, anti_spoofing=False)
    world.start(100)
    assert "tbf b10c: " in qdisc(100) and len(world.chains()) > 0
    world.decide_for(100, receive=10_000, anti_spoofing=False)
    world.quiet(100, "apply")
    assert "rate 10Mbit" in qdisc(100) and world.chains() == []
    world.decide_for(100, anti_spoofing=False)
    world.quiet(100, "apply")
    assert "tbf" not in qdisc(100)
    world.decide_for(101)
    world.start(101)
    run("tc", "qdisc", "add", "dev", "tap101i0", "root", "handle", "1:", "htb", "default", "1")
    world.quiet(101, "apply")
    assert "htb 1: " in qdisc(101)
    world.quiet(101, "off")
    assert "htb 1: " in qdisc(101)
