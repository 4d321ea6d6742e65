"""Limits: in the form Proxmox takes them, and on the right side of the tap."""

import hashlib

import pytest

from node import UUID

DRIVE = "local-lvm:vm-100-disk-0,discard=on,iothread=1,size=20G"


def sha1(node):
    return hashlib.sha1((node.qemu / "100.conf").read_bytes()).hexdigest()


def apply(node):
    """`qm set` as on a real node: it writes what it is given, if nobody else has written meanwhile."""
    argv = node.calls[-1]
    given = dict(zip(argv[3::2], argv[4::2]))
    assert given.pop("--digest") == sha1(node)
    drop = given.pop("--delete", "").split(",")

    def change(text):
        values = dict(line.split(": ", 1) for line in text.splitlines() if not line.startswith("#"))
        values.update({key[2:]: value for key, value in given.items()})
        return "".join(f"{key}: {value}\n" for key, value in values.items() if key not in drop)

    node.edit(100, change)


@pytest.fixture
def throttle(node, ask):
    node.reply("qm set", effect=lambda: apply(node))
    node.edit(100, lambda text: text.replace(f"#BlockHost VM web-1 {UUID}\n", ""))
    return lambda **limits: ask("pve-set-throttle", vmid=100, uuid=UUID, limits=limits)


def drive(node):
    return next(
        line for line in (node.qemu / "100.conf").read_text().splitlines() if line.startswith("scsi0: ")
    )[7:]


def sets(node):
    """What each `qm set` was given, without the digest."""
    return [argv[:3] + argv[5:] for argv in node.calls if argv[:2] == ["qm", "set"] and argv[3] == "--digest"]


def test_h34_limits_are_parts_of_the_drive(node, throttle):
    answer = throttle(cpulimit=1.5, cpuunits=50, iops_rd=500, iops_wr=300)
    assert answer == {"ok": True, "changed": ["cpulimit", "cpuunits", "scsi0"]}
    limits = ["--cpulimit", "1.5", "--cpuunits", "50", "--scsi0", f"{DRIVE},iops_rd=500,iops_wr=300"]
    assert sets(node) == [["qm", "set", "100", *limits]]
    assert node.calls == node.detached, "a slow qm does not hold the lane"


def test_h34_what_is_not_named_stays(node, throttle):
    throttle(iops_rd=500, cpulimit=2)
    assert throttle(iops_wr=300)["changed"] == ["scsi0"]
    assert drive(node) == f"{DRIVE},iops_rd=500,iops_wr=300"
    assert throttle(iops_rd=0)["ok"] and drive(node) == f"{DRIVE},iops_wr=300"
    assert "cpulimit: 2\n" in (node.qemu / "100.conf").read_text()


def test_h34_reset_deletes(node, throttle):
    throttle(cpulimit=1, cpuunits=50, iops_rd=5)
    assert throttle(reset=True)["ok"]
    assert sets(node)[-1] == ["qm", "set", "100", "--scsi0", DRIVE, "--delete", "cpulimit,cpuunits"]
    assert throttle(reset=True) == {"ok": True, "changed": []} and len(node.calls) == 2


def test_h34_other_keys_keep_their_place(node, throttle):
    node.edit(
        100,
        lambda text: text.replace(
            DRIVE,
            "local:100/vm-100-disk-0.qcow2,iops_rd=1,mbps_rd=7,iops_rd_max=9,iops_rd_max_length=2,ssd=1,size=1G",
        ),
    )
    throttle(iops_rd=5)
    assert drive(node) == "local:100/vm-100-disk-0.qcow2,mbps_rd=7,ssd=1,size=1G,iops_rd=5"


def test_h34_iops_excludes_iops_rd(node, throttle):
    node.edit(100, lambda text: text.replace(DRIVE, "s:vm-100-disk-0,iops=100,iops_max=200"))
    throttle(iops_wr=5)
    assert drive(node) == "s:vm-100-disk-0,iops_wr=5"


def test_every_data_disk_and_no_cd(node, throttle):
    node.edit(
        100,
        lambda text: (
            text
            + "virtio3: s:vm-100-disk-1\nsata0: none\nide0: local:iso/x.iso,media=cdrom\nide3: s:vm-100-cloudinit\nunused0: s:vm-100-disk-2\nscsihw: virtio-scsi-pci\n"
        ),
    )
    assert throttle(iops_rd=5)["changed"] == ["scsi0", "virtio3"]


def test_h34_reset_takes_iops_of_others_and_keeps_what_is_named(node, throttle):
    node.edit(100, lambda text: text.replace(DRIVE, "s:vm-100-disk-0,iops=100,iops_max=200,mbps_rd=7"))
    assert throttle(reset=True, iops_wr=5, cpuunits=50)["changed"] == ["cpuunits", "scsi0"]
    assert drive(node) == "s:vm-100-disk-0,mbps_rd=7,iops_wr=5"
    assert throttle(reset=True)["changed"] == ["cpuunits", "scsi0"]
    assert drive(node) == "s:vm-100-disk-0,mbps_rd=7"


def test_h34_a_reset_alone_takes_iops_of_others(node, throttle):
    """`--reset` removes every limit; what is no limit of IOPS stays."""
    node.edit(100, lambda text: text.replace(DRIVE, "s:vm-100-disk-0,iops=100,iops_max=200,iops_max_length=3,mbps_rd=7"))
    assert throttle(reset=True)["changed"] == ["scsi0"]
    assert drive(node) == "s:vm-100-disk-0,mbps_rd=7"


@pytest.mark.parametrize("limits", [{"cpulimit": 1}, {"iops_rd": 0}, {"iops_rd": 0, "iops_wr": 0}])
def test_h34_iops_of_others_stay_where_no_limit_excludes_them(node, throttle, limits):
    node.edit(100, lambda text: text.replace(DRIVE, "s:vm-100-disk-0,iops=100,iops_max=200"))
    assert throttle(**limits)["ok"] is True
    assert drive(node) == "s:vm-100-disk-0,iops=100,iops_max=200"


PENDING = "[PENDING]\nscsi0: x,iops_rd=5\n"


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("waits", [PENDING, "[PENDING]\ndelete: cpulimit,scsi0\n", "[PENDING]\ndelete: !scsi0\n"])
def test_h34_a_change_that_is_left_pending_is_a_failure_and_goes(node, ask, waits, code):
    effect = lambda: node.edit(100, lambda text: text + waits)  # noqa: E731
    node.reply("qm set", code=code, stderr="400 hotplug problem" if code else "", effect=effect)
    node.reply("qm set 100 --revert")
    answer = ask("pve-set-throttle", vmid=100, uuid=UUID, limits={"iops_rd": 5})
    assert answer["ok"] is False and ("hotplug problem" if code else "scsi0") in answer["error"]
    assert node.lines()[-1] == "qm set 100 --revert scsi0"


def test_h34_a_change_of_somebody_else_that_waits_is_not_lost(node, throttle):
    node.edit(100, lambda text: text + f"[PENDING]\nscsi0: {DRIVE},ssd=1\nmemory: 4096\n")
    answer = throttle(iops_rd=5, cpulimit=1)
    assert answer["ok"] is False and "scsi0" in answer["error"] and "qm pending" in answer["error"]
    assert node.calls == []
    node.reply("qm set")
    assert throttle(cpulimit=1)["changed"] == ["cpulimit"], "which is not in its way"


def test_h02_a_configuration_that_is_changed_in_between_is_left_alone(node, throttle):
    words = "detected modified configuration - file changed by other user? Try again."
    node.reply("qm set", code=255, stderr=words)
    answer = throttle(iops_rd=5)
    assert (answer["ok"], answer["code"], answer["lock"]) == (False, "locked", "changed")
    assert "changed meanwhile" in answer["error"] and len(node.calls) == 1


def test_h20_a_slow_qm_goes_on_without_the_lane(node, ask):
    node.reply("qm set", slow=True)
    begun = node.clock.now
    answer = ask("pve-set-throttle", vmid=100, uuid=UUID, limits={"cpulimit": 1})
    assert answer == {"ok": True, "pending": True} and node.clock.now - begun < 4
    assert ask("pve-set-throttle", vmid=100, uuid=UUID, limits={"cpulimit": 2})["code"] == "locked"
    node.jobs[-1].result = (255, "", "no such luck")
    node.jobs[-1].end()
    assert ask("vm-state", vmid=100, uuid=UUID)["task"]["error"] == "no such luck"


def test_no_disk(node, ask):
    node.add(100, f"name: a\nsmbios1: uuid={UUID}\n")
    assert ask("pve-set-throttle", vmid=100, uuid=UUID, limits={"iops_rd": 5})["ok"] is False
    assert ask("pve-set-throttle", vmid=100, uuid=UUID, limits={"iops_rd": 0}) == {"ok": True, "changed": []}


@pytest.mark.parametrize(
    "limits",
    [
        None, [], {}, "x", {"bps_rd": 5}, {"iops": 5}, {"--scsi0": "x"}, {"cpulimit": -1}, {"cpulimit": 129}, {"cpulimit": 0.001},
        {"cpulimit": "2"}, {"cpulimit": float("nan")}, {"cpulimit": float("inf")}, {"cpulimit": True}, {"cpuunits": 10001},
        {"cpuunits": 1.5}, {"cpuunits": -1}, {"iops_rd": -1}, {"iops_rd": 1.0}, {"iops_rd": "5"}, {"iops_wr": 10**9}, {"iops_rd": True},
        {"reset": False}, {"reset": True, "cpulimit": -1}, {"reset": 5}, {"reset": 1}, {"cpulimit": 10**400},
    ],
)  # fmt: skip
def test_h28_limits(node, ask, limits):
    assert ask("pve-set-throttle", vmid=100, uuid=UUID, limits=limits)["ok"] is False and node.calls == []


# --- tc


@pytest.fixture
def tc(ask):
    return lambda **params: ask("tc-rate-limit", **{"dev": "tap100i0", "uuid": UUID, **params})


def test_h35_in_is_what_the_guest_receives(node, tc):
    assert tc(direction="in", rate_kbps=2000) == {"ok": True}
    assert node.lines() == ["tc qdisc replace dev tap100i0 root tbf rate 2000kbit burst 131072 latency 400ms"]


def test_h35_out_is_policed_with_mtu_and_burst(node, tc):
    node.reply("tc qdisc del", code=2, stderr="Error: Cannot find specified qdisc on specified device.")
    assert tc(direction="out", rate_kbps=2000) == {"ok": True}
    assert node.lines() == [
        "tc qdisc del dev tap100i0 ingress",
        "tc qdisc add dev tap100i0 handle ffff: ingress",
        "tc filter add dev tap100i0 parent ffff: prio 50 basic police rate 2000kbit burst 131072 mtu 64kb drop",
    ]


@pytest.mark.parametrize(
    "rate, burst", [(1, 131072), (20_000, 131072), (1_000_000, 6_250_000), (100_000_000, 16777216)]
)
def test_h35_burst_holds_the_largest_packet(node, tc, rate, burst):
    for direction in ("in", "out"):
        tc(direction=direction, rate_kbps=rate)
        assert node.calls[-1][node.calls[-1].index("burst") + 1] == str(burst)


@pytest.mark.parametrize(
    "words",
    [
        "Error: Cannot delete qdisc with handle of zero.",
        "Error: Invalid handle.",
        "RTNETLINK answers: No such file or directory",
    ],
)
@pytest.mark.parametrize("how", [{"remove": True}, {"rate_kbps": 0}])
def test_removing_what_is_not_there_is_ok(node, tc, how, words):
    node.reply("tc", code=2, stderr=words)
    assert tc(direction="in", **how)["ok"] and tc(direction="out", **how)["ok"]
    assert node.lines() == ["tc qdisc del dev tap100i0 root", "tc qdisc del dev tap100i0 ingress"]


def test_a_missing_tap_is_an_error(node, tc):
    node.reply("tc", code=1, stderr='Cannot find device "tap100i0"')
    for how in ({"rate_kbps": 5}, {"remove": True}):
        for direction in ("in", "out"):
            answer = tc(direction=direction, **how)
            assert answer["ok"] is False and "Cannot find device" in answer["error"]


def test_a_failed_policer_leaves_no_half(node, tc):
    node.reply("tc filter", code=2, stderr="Error: TC classifier not found.")
    answer = tc(direction="out", rate_kbps=5)
    assert answer["ok"] is False and "classifier" in answer["error"]
    assert node.lines()[-1] == "tc qdisc del dev tap100i0 ingress"


def test_h47_the_tap_is_the_guests(node, tc):
    node.add_ours(101, name="web-2", uuid="22222222-2222-4222-8222-222222222222")
    assert tc(dev="tap101i0", direction="in", rate_kbps=5)["code"] == "identity"
    assert tc(dev="tap1001i0", direction="in", rate_kbps=5)["code"] == "range"
    assert tc(vmid=101, direction="in", rate_kbps=5)["code"] == "identity"
    assert node.calls == []


@pytest.mark.parametrize(
    "params",
    [
        {"dev": "vmbr0"}, {"dev": "eth0"}, {"dev": "tap100i0 root"}, {"dev": "-x"}, {"dev": "tap100i"}, {"dev": "tap0100i0"}, {"dev": "tap100i99"},
        {"dev": "tap100i0\n"}, {"dev": None}, {"dev": 5}, {"direction": "both"}, {"direction": None}, {"direction": ["in"]}, {"rate_kbps": -1},
        {"rate_kbps": "5"}, {"rate_kbps": 1.5}, {"rate_kbps": True}, {"rate_kbps": 10**12}, {"rate_kbps": None}, {"remove": True},
        {"remove": "yes"}, {"remove": 1}, {"remove": []}, {"vmid": "100"},
    ],
)  # fmt: skip
def test_h28_rate_limit(node, ask, params):
    answer = ask(
        "tc-rate-limit", **{"dev": "tap100i0", "uuid": UUID, "direction": "in", "rate_kbps": 5, **params}
    )
    assert answer["ok"] is False and node.calls == []
