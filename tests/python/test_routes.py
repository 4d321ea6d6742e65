"""The host's routes to guests: our bridge and our prefix, and no other device or address of the host."""

import pytest

GUEST = "2001:db8:1::2/128"


@pytest.fixture
def host(node):
    node.db("vmid_range:\n  start: 100\n  end: 999\nbridge: 'vmbr5'  # behind the router\n")
    allocation(node, '{"prefix": "2001:db8:1::/120", "gateway": "2001:db8:1::1"}')
    return node


def allocation(node, text):
    (node.config_dir / "broker-allocation.json").write_text(text)


def test_a_route_goes_to_the_bridge_of_db_yaml_whatever_its_name(host, ask):
    assert ask("guest-route-add", address=GUEST, dev="vmbr5") == {"ok": True}
    assert ask("guest-route-del", address=GUEST, dev="vmbr5") == {"ok": True}
    assert host.calls == [
        ["ip", "-6", "route", "replace", GUEST, "dev", "vmbr5"],
        ["ip", "-6", "route", "del", GUEST, "dev", "vmbr5"],
    ]


def test_without_the_key_the_bridge_is_vmbr0(host, ask):
    host.db("vmid_range: {start: 100, end: 999}\n")
    assert ask("guest-route-add", address=GUEST, dev="vmbr0")["ok"]
    assert ask("guest-route-add", address=GUEST, dev="vmbr5")["code"] == "bridge"


@pytest.mark.parametrize("action", ["guest-route-add", "guest-route-del"])
@pytest.mark.parametrize("dev", ["vmbr0", "eth0", "lo", "tap100i0", "vmbr5; x", "-x", "", None, 5, "vmbr5\n"])
def test_no_other_device_of_the_host(host, ask, action, dev):
    answer = ask(action, address=GUEST, dev=dev)
    assert not answer["ok"]
    assert host.calls == []


@pytest.mark.parametrize(
    "address",
    ["2001:db8:1::/128", "2001:db8:1::1/128", "2001:db8:1::100/128", "2001:db8:2::2/128", "fe80::1/128", "::1/128", "2001:db8:1::2/120",
     "2001:db8:1::2", "10.0.0.1/128", "::/0", "default", "2001:db8:1::2/128 via ::1", 5, None],
)  # fmt: skip
def test_only_an_address_of_the_guests_prefix_is_routed(host, ask, address):
    assert not ask("guest-route-add", address=address, dev="vmbr5")["ok"]
    assert host.calls == []


@pytest.mark.parametrize("address", ["fe80::1/128", "::1/128", "ff02::1/128", "::/128", "::/0", "2001:db8:1::2/64", None])
def test_what_is_no_guests_address_is_not_removed(host, ask, address):
    assert not ask("guest-route-del", address=address, dev="vmbr5")["ok"]
    assert host.calls == []


def test_a_route_of_an_earlier_prefix_can_still_be_removed(host, ask):
    allocation(host, '{"prefix": "2001:db8:9::/120"}')
    assert not ask("guest-route-add", address=GUEST, dev="vmbr5")["ok"]
    assert ask("guest-route-del", address=GUEST, dev="vmbr5")["ok"]


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"prefix": 5}', '{"prefix": "x"}', '{"prefix": "2001:db8:1::/128"}', "[" * 100_000]
)
def test_a_host_that_does_not_say_its_prefix_sets_no_route(host, ask, text):
    (host.config_dir / "broker-allocation.json").unlink()
    if text is not None:
        allocation(host, text)
    answer = ask("guest-route-add", address=GUEST, dev="vmbr5")
    assert answer["code"] == "prefix" and "broker-allocation.json" in answer["error"]
    assert host.calls == []


def test_a_route_that_is_gone_already_is_what_was_wanted(host, ask):
    host.reply("ip -6 route del", code=2, stderr="RTNETLINK answers: No such process")
    assert ask("guest-route-del", address=GUEST, dev="vmbr5") == {"ok": True, "already": True}
    host.rules.clear()
    host.reply("ip -6 route", code=2, stderr="RTNETLINK answers: Operation not permitted")
    for action in ("guest-route-add", "guest-route-del"):
        answer = ask(action, address=GUEST, dev="vmbr5")
        assert not answer["ok"] and "Operation not permitted" in answer["error"]
