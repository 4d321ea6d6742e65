"""The guard of a VM's network: what root decides, where it stands, and who can change it."""

import json
import os
import stat
import subprocess

import pytest

import qm
from node import OTHER_UUID, UUID

POOL = "vmid_range: {start: 100, end: 999}\nip_pool:\n  network: 192.168.122.0/24\n  start: 200\n  end: 250\n  gateway: 192.168.122.1\n"
IPV4, IPV6 = "192.168.122.200", "2001:db8:1::2"
HOOK = "local:snippets/blockhost-guard.sh"
ASKED = {"vmid": 100, "uuid": UUID, "ipv4": IPV4, "ipv6": IPV6, "anti_spoofing": True, "isolate": True}


@pytest.fixture
def host(node):
    node.db(POOL)
    (node.config_dir / "broker-allocation.json").write_text(
        '{"prefix": "2001:db8:1::/120", "gateway": "2001:db8:1::1"}'
    )
    hooks(node, 100)
    return node


def hooks(node, vmid):
    """`qm set` does what it says."""

    def edit(change):
        return lambda: node.edit(vmid, change)

    node.reply(f"qm set {vmid} --hookscript {HOOK}", effect=edit(lambda text: text + f"hookscript: {HOOK}\n"))
    node.reply(
        f"qm set {vmid} --delete hookscript", effect=edit(lambda text: text.replace(f"hookscript: {HOOK}\n", ""))
    )


def decided(node, vmid=100):
    path = node.root / f"var/lib/blockhost-guard/{vmid}.json"
    return json.loads(path.read_text()) if path.exists() else None


def left(node, vmid, applied, *missing):
    """What the program notes."""
    folder = node.root / "run/blockhost-guard"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{vmid}.json").write_text(json.dumps({"applied": applied, "missing": list(missing)}))


def guards(node):
    return [argv[-2:] for argv in node.calls if "blockhost-provisioner-guard" in argv]


def script(node):
    return node.root / "var/lib/vz/snippets/blockhost-guard.sh"


def test_h56_a_decision_is_roots_file_and_the_vm_has_the_hook(host, ask):
    assert ask("guard-set", **ASKED) == {"ok": True, "running": False, "applied": False, "hook": "ours", "missing": []}
    assert decided(host) == {
        "vmid": 100, "uuid": UUID, "name": "web-1", "ipv4": IPV4, "ipv6": IPV6, "anti_spoofing": True, "isolate": True,
        "enabled": True, "limits": {"bandwidth_in_kbps": 0, "bandwidth_out_kbps": 0},
    }  # fmt: skip
    folder = host.root / "var/lib/blockhost-guard"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "100.json").stat().st_mode) == 0o600
    assert os.listdir(folder) == ["100.json"]
    assert host.lines() == [f"qm set 100 --hookscript {HOOK}"]
    assert stat.S_IMODE(script(host).stat().st_mode) == 0o755


def test_a_vm_that_runs_is_guarded_at_once(host, ask):
    host.start(100)
    assert ask("guard-set", **ASKED)["applied"] is True
    assert guards(host) == [["100", "apply"]]
    left(host, 100, False, "port tap100i0 was not isolated")
    host.reply("env", code=1, stderr="warning: x")
    answer = ask("guard-set", **ASKED)
    assert (answer["applied"], answer["missing"]) == (False, ["port tap100i0 was not isolated"])
    host.reply("env", raises=subprocess.TimeoutExpired("x", 5))
    assert "did not answer" in ask("guard-set", **ASKED)["missing"][0]
    host.reply("env", code=127, stderr="env: 'blockhost-provisioner-guard': No such file or directory")
    (host.root / "run/blockhost-guard/100.json").unlink()
    assert "No such file" in ask("guard-set", **ASKED)["missing"][0]


def test_the_second_time_costs_no_process(host, ask):
    ask("guard-set", **ASKED)
    host.calls.clear()
    before = (host.root / "var/lib/blockhost-guard/100.json").stat().st_ino, script(host).stat().st_ino
    assert ask("guard-set", **ASKED)["hook"] == "ours"
    assert host.calls == []
    assert before == ((host.root / "var/lib/blockhost-guard/100.json").stat().st_ino, script(host).stat().st_ino)


def test_limits_that_are_not_named_stay(host, ask):
    ask("guard-set", **ASKED, limits={"bandwidth_in_kbps": 1000})
    ask("guard-set", **ASKED)
    assert decided(host)["limits"] == {"bandwidth_in_kbps": 1000, "bandwidth_out_kbps": 0}
    ask("guard-set", **ASKED, limits={"bandwidth_out_kbps": 5})
    assert decided(host)["limits"] == {"bandwidth_in_kbps": 0, "bandwidth_out_kbps": 5}
    # Those of another VM that had this VMID are nobody's.
    host.add_ours(100, "web-2", OTHER_UUID)
    ask("guard-set", **{**ASKED, "uuid": OTHER_UUID})
    assert decided(host)["limits"] == {"bandwidth_in_kbps": 0, "bandwidth_out_kbps": 0}


@pytest.mark.parametrize(
    "limits", [5, [], "x", {"x": 1}, {"bandwidth_in_kbps": -1}, {"bandwidth_in_kbps": True}, {"bandwidth_out_kbps": 1.5},
               {"bandwidth_out_kbps": "5"}, {"bandwidth_out_kbps": 10**9}],
)  # fmt: skip
def test_h28_limits_are_checked(host, ask, limits):
    assert ask("guard-set", **ASKED, limits=limits)["ok"] is False
    assert decided(host) is None and host.calls == []


@pytest.mark.parametrize("key", ["anti_spoofing", "isolate", "enabled"])
@pytest.mark.parametrize("value", [None, 1, 0, "true", []])
def test_h28_decisions_are_booleans(host, ask, key, value):
    answer = ask("guard-set", **{**ASKED, key: value})
    if (key, value) != ("enabled", None):
        assert answer["ok"] is False and key in answer["error"] and decided(host) is None


@pytest.mark.parametrize(
    "ipv4", ["192.168.122.1", "192.168.122.0", "192.168.122.255", "192.168.123.5", "127.0.0.1", "0.0.0.0", "192.168.122.999",
             "192.168.122.2 accept", "::1", "", 5, ["192.168.122.200"]],
)  # fmt: skip
def test_h28_only_an_address_of_the_pool_is_let_through(host, ask, ipv4):
    """A VM that may use the gateway's address could take the place of the gateway."""
    answer = ask("guard-set", **{**ASKED, "ipv4": ipv4})
    assert decided(host)["ipv4"] is None and decided(host)["anti_spoofing"] is False
    assert answer["missing"][0].startswith("anti-spoofing is off: ")
    assert decided(host)["isolate"] is True


@pytest.mark.parametrize(
    "ipv6", ["2001:db8:1::", "2001:db8:1::1", "2001:db8:2::2", "::", "::1", "fe80::1", "2001:db8:1::2/128", "x", 5]
)
def test_h28_only_an_address_of_the_guests_prefix_is_routed(host, ask, ipv6):
    answer = ask("guard-set", **{**ASKED, "ipv6": ipv6})
    assert decided(host)["ipv6"] is None and decided(host)["ipv4"] == IPV4
    assert answer["missing"][0].startswith("it cannot use its IPv6 address: ")


def test_h01_the_address_of_another_vm_is_its_own(host, ask):
    ask("guard-set", **ASKED)
    host.add_ours(101, "web-2", OTHER_UUID)
    hooks(host, 101)
    answer = ask("guard-set", **{**ASKED, "vmid": 101, "uuid": OTHER_UUID})
    assert "192.168.122.200 is the address of VMID 100" in answer["missing"][0]
    assert (decided(host, 101)["ipv4"], decided(host, 101)["ipv6"]) == (None, None)
    # A file that its VM left behind holds nothing.
    host.remove(100)
    assert ask("guard-set", **{**ASKED, "vmid": 101, "uuid": OTHER_UUID})["missing"] == []
    assert decided(host, 101)["ipv4"] == IPV4


def test_without_a_pool_anti_spoofing_is_off_and_the_rest_stands(host, ask):
    host.db("vmid_range: {start: 100, end: 999}\n")
    assert "anti-spoofing is off" in ask("guard-set", **ASKED)["missing"][0]
    assert decided(host)["isolate"] is True
    host.db(POOL.replace("gateway: 192.168.122.1", "gateway: 1"))
    assert ask("guard-set", **ASKED)["missing"] == []
    assert "is no guest's" in ask("guard-set", **{**ASKED, "ipv4": "192.168.122.1"})["missing"][0]


def test_a_hook_script_of_somebody_else_stays(host, ask):
    host.edit(100, lambda text: text + "hookscript: local:snippets/theirs.pl\n")
    answer = ask("guard-set", **ASKED)
    assert answer["hook"] == "foreign" and "local:snippets/theirs.pl" in answer["missing"][0]
    assert host.calls == [] and decided(host) is not None
    assert ask("guard-clear", vmid=100, uuid=UUID)["ok"]
    assert [line for line in host.lines() if line.startswith("qm")] == []


def test_a_hook_that_cannot_be_set_is_said_and_a_vm_that_runs_is_guarded(host, ask):
    host.start(100)
    host.reply("qm set", code=255, stderr="VM is locked (backup)")
    answer = ask("guard-set", **ASKED)
    assert (answer["hook"], answer["applied"]) == ("failed", True)
    assert "VM is locked (backup)" in answer["missing"][0]
    host.reply("qm set", slow=True)
    assert ask("guard-set", **ASKED)["hook"] == "pending"


def test_h51_a_suspended_vm_has_nothing_but_its_limits_are_kept(host, ask):
    host.start(100)
    ask("guard-set", **ASKED, limits={"bandwidth_in_kbps": 7})
    host.calls.clear()
    left(host, 100, True)
    assert ask("guard-set", **ASKED, enabled=False) == {"ok": True, "running": True, "applied": False, "hook": "ours", "missing": []}
    assert guards(host) == [["100", "off"]]
    assert decided(host)["enabled"] is False and decided(host)["limits"]["bandwidth_in_kbps"] == 7


def test_h20_a_vm_that_never_had_a_guard_is_suspended_without_a_process(host, ask):
    """gc suspends many at once, in one lane."""
    assert ask("guard-set", **ASKED, enabled=False)["hook"] == "none"
    assert host.calls == [] and not script(host).exists() and decided(host)["enabled"] is False


def test_cleared_nothing_is_left(host, ask):
    ask("guard-set", **ASKED)
    host.calls.clear()
    assert ask("guard-clear", vmid=100, uuid=UUID) == {"ok": True}
    assert guards(host) == [["100", "off"]] and host.lines()[-1] == "qm set 100 --delete hookscript"
    assert decided(host) is None
    assert ask("guard-clear", vmid=100, uuid=UUID) == {"ok": True, "already": True}


def test_h08_of_a_vm_that_is_gone_the_file_says_whose_it_is(host, ask):
    ask("guard-set", **ASKED)
    host.remove(100)
    host.calls.clear()
    assert ask("guard-clear", vmid=100, uuid=OTHER_UUID) == {"ok": True, "already": True}
    assert decided(host) is not None and host.calls == []
    assert ask("guard-clear", vmid=100, uuid=UUID) == {"ok": True}
    assert guards(host) == [["100", "off"]] and decided(host) is None


def test_h01_a_stranger_in_its_place_keeps_what_he_has(host, ask):
    ask("guard-set", **ASKED)
    host.add(100, f"name: stranger\nsmbios1: uuid={OTHER_UUID}\nhookscript: {HOOK}\n")
    host.calls.clear()
    assert ask("guard-clear", vmid=100, uuid=UUID) == {"ok": True}
    assert not any(line.startswith("qm") for line in host.lines()) and decided(host) is None
    assert ask("guard-clear", vmid=100, uuid=UUID)["code"] == "identity"


def test_h07_what_could_not_be_taken_off_keeps_its_file(host, ask):
    ask("guard-set", **ASKED)
    left(host, 100, False, "its rules are still there: x")
    host.reply("env", code=1)
    answer = ask("guard-clear", vmid=100, uuid=UUID)
    assert answer["ok"] is False and "its rules are still there: x" in answer["error"]
    assert decided(host) is not None


def test_a_record_without_a_uuid_goes_by_the_name(host, ask):
    asked = {key: value for key, value in ASKED.items() if key != "uuid"}
    assert ask("guard-set", **asked, name="web-1")["missing"] == []
    assert ask("vm-state", vmid=100, name="web-1")["guard"]["set"] is True
    assert ask("guard-clear", vmid=100, name="web-1") == {"ok": True}


def test_the_state_tells_of_the_guard_to_whom_it_concerns(host, ask):
    assert ask("vm-state", vmid=100, uuid=UUID)["guard"] == {
        "set": False, "hook": False, "enabled": False, "anti_spoofing": False, "limits": {}, "applied": False, "missing": [],
    }  # fmt: skip
    ask("guard-set", **ASKED, limits={"bandwidth_in_kbps": 7})
    host.start(100)
    left(host, 100, True)
    assert ask("vm-state", vmid=100, uuid=UUID)["guard"] == {
        "set": True, "hook": True, "enabled": True, "anti_spoofing": True,
        "limits": {"bandwidth_in_kbps": 7, "bandwidth_out_kbps": 0}, "applied": True, "missing": [],
    }  # fmt: skip
    assert "guard" not in ask("vm-state", vmid=100) and "guard" not in ask("vm-state", vmid=100, uuid=OTHER_UUID)
    left(host, 100, False, "x" * 9000, 5, "\x1b[2J")
    assert ask("vm-state", vmid=100, uuid=UUID)["guard"]["missing"] == ["x" * 300, "?[2J"]
    host.stop(100)
    left(host, 100, True)
    assert ask("vm-state", vmid=100, uuid=UUID)["guard"]["applied"] is False, "a VM that is off has nothing"


def test_the_script_is_put_back_when_it_is_gone_or_another(host, ask):
    ask("guard-set", **ASKED)
    text = script(host).read_text()
    for spoil in (lambda: script(host).unlink(), lambda: script(host).write_text("x"), lambda: script(host).chmod(0o644)):
        spoil()
        ask("guard-set", **ASKED)
        assert script(host).read_text() == text and stat.S_IMODE(script(host).stat().st_mode) == 0o755
    script(host).unlink()
    script(host).symlink_to("/etc/passwd")
    ask("guard-set", **ASKED)
    assert not script(host).is_symlink() and script(host).read_text() == text


def run_script(host, phase, program=None):
    folder = host.root / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "blockhost-provisioner-guard").unlink(missing_ok=True)
    if program:
        (folder / "blockhost-provisioner-guard").write_text(program)
        (folder / "blockhost-provisioner-guard").chmod(0o755)
    return subprocess.run(
        [script(host), "100", phase], env={"PATH": str(folder)}, capture_output=True, text=True, check=False
    )


def test_the_script_becomes_the_program_and_does_without_it(host, ask):
    ask("guard-set", **ASKED)
    done = run_script(host, "pre-start", '#!/bin/sh\necho "$0 $* $BLOCKHOST_NODE_ROOT"\nexit 7\n')
    assert (done.returncode, done.stdout.split()[1:]) == (7, ["100", "pre-start", str(host.root)])
    for phase in ("pre-start", "post-start", "pre-stop", "post-stop"):
        done = run_script(host, phase)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for value, code in [("true  # all", 1), ("True", 1), ("false", 0), ("truest", 0)]:
        host.db(POOL + f"guard_required: {value}\n")
        assert run_script(host, "pre-start").returncode == code, value
        assert run_script(host, "post-start").returncode == 0
    host.db(POOL + "# guard_required: true\n")
    assert run_script(host, "pre-start").returncode == 0


def test_before_the_package_goes_no_vm_has_the_hook(host, ask):
    host.add_ours(101, "web-2", OTHER_UUID)
    host.add_ours(2000, "outside", OTHER_UUID, more=f"hookscript: {HOOK}\n")
    hooks(host, 101)
    hooks(host, 2000)
    ask("guard-set", **ASKED)
    ask("guard-set", **{**ASKED, "vmid": 101, "uuid": OTHER_UUID, "ipv4": "192.168.122.201", "ipv6": None})
    host.add(105, "name: x\nhookscript: local:snippets/theirs.pl\n")
    assert [ask("guard-remove")["left"] for _ in range(4)] == [3, 2, 1, 0]
    assert not script(host).exists()
    texts = "".join(path.read_text() for path in host.qemu.iterdir())
    assert HOOK not in texts and "theirs.pl" in texts
    assert host.lines()[-1] == "nft delete table bridge blockhost"
    assert ask("guard-remove") == {"ok": True, "left": 0}


def test_the_script_stays_while_a_vm_of_another_node_has_it(host, ask):
    folder = host.root / "etc/pve/nodes/pve2/qemu-server"
    folder.mkdir(parents=True)
    (folder / "300.conf").write_text(f"name: x\nhookscript: {HOOK}\n")
    host.add(300, "", node="pve2", here=False)
    ask("guard-set", **ASKED)
    assert ask("guard-remove")["left"] == 1
    answer = ask("guard-remove")
    assert (answer["ok"], answer["code"]) == (False, "elsewhere") and "300 on pve2" in answer["error"]
    assert script(host).exists()


def test_h56_a_folder_that_is_not_roots_alone_is_not_used(host, ask, monkeypatch):
    folder = host.root / "var/lib/blockhost-guard"
    folder.mkdir(mode=0o755)
    assert "0700" in ask("guard-set", **ASKED)["error"]
    folder.chmod(0o700)
    monkeypatch.setattr(qm, "ROOT_UID", os.getuid() + 1)
    assert ask("guard-set", **ASKED)["ok"] is False
    monkeypatch.setattr(qm, "ROOT_UID", os.getuid())
    folder.rmdir()
    folder.symlink_to(host.root)
    assert ask("guard-set", **ASKED)["ok"] is False
    assert host.calls == []
