"""What is there after each phase, and what is left after the last."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import IPV6, MAC, UUID
from namespaces import PROGRAM, run

ROUTE = {vmid: f"{IPV6[vmid]} dev vmbr0 metric 1024 pref medium" for vmid in MAC}


def chain(world, vmid):
    return [line for line in world.chains() if f"tap{vmid}i0" in line]


def nothing_left(world, vmid):
    return chain(world, vmid) == [] and ROUTE[vmid] not in world.routes() and world.state(vmid) is None


def test_h36_after_a_start_everything_is_there_and_after_the_stop_nothing(world):
    for vmid in (100, 101):
        world.decide_for(vmid, receive=1_000)
        world.start(vmid)
    for vmid in (100, 101):
        assert world.isolated(f"tap{vmid}i0") and chain(world, vmid) and ROUTE[vmid] in world.routes()
        assert "tbf b10c:" in run("tc", "qdisc", "show", "dev", f"tap{vmid}i0")
        state = world.state(vmid)
        assert (state["phase"], state["applied"], state["missing"]) == ("post-start", True, [])
    world.stop(100)
    assert nothing_left(world, 100)
    assert chain(world, 101) and ROUTE[101] in world.routes() and world.isolated("tap101i0"), "the other is as it was"
    world.start(100)
    assert world.isolated("tap100i0") and chain(world, 100) and ROUTE[100] in world.routes()


def test_a_guest_that_ends_by_itself_has_the_last_phase_alone(world):
    world.decide_for(100)
    world.start(100)
    run("ip", "link", "del", "tap100i0")
    world.quiet(100, "post-stop")
    assert nothing_left(world, 100)


def test_the_last_phase_does_not_touch_a_vm_that_is_on_again(world):
    """It comes two seconds after the end."""
    world.decide_for(100)
    world.start(100)
    run("ip", "link", "del", "tap100i0")
    world.start(100)
    world.quiet(100, "post-stop")
    assert world.isolated("tap100i0") and chain(world, 100) and ROUTE[100] in world.routes()
    assert world.state(100)["applied"]


def test_phases_can_come_twice(world):
    world.decide_for(100, send=1_000)
    world.start(100)
    before = world.chains(), world.routes(), run("nft", "list", "ruleset")
    for phase in ("post-start", "apply", "pre-start", "pre-stop", "apply"):
        world.quiet(100, phase)
        assert (world.chains(), world.routes(), run("nft", "list", "ruleset")) == before, phase
    world.stop(100)
    for phase in ("post-stop", "off", "off"):
        world.quiet(100, phase)
    assert nothing_left(world, 100)


def test_h01_a_stranger_with_the_vmid_is_left_alone(world):
    """The VM of the file is gone, and its number is another's now, who has a hook script from a clone."""
    world.decide_for(100)
    world.configure(100, MAC[101], UUID[101])
    done = world.guard(100, "pre-start")
    assert done.returncode == 0 and "is for VM vm-100, and this is VM vm-100, which is left alone" in done.stderr
    world.plug(100, "tap100i0", MAC[101], "192.168.122.77", "fd00::77")
    assert world.guard(100, "post-start").returncode == 1
    assert chain(world, 100) == [] and world.routes() == [] and not world.isolated("tap100i0")
    (world.root / "var/lib/blockhost-guard/100.json").unlink()
    (world.root / "run/blockhost-guard/100.json").unlink()
    for phase in ("pre-start", "post-start", "post-stop"):
        world.quiet(100, phase)
    assert chain(world, 100) == [] and world.state(100) is None


def test_h01_rules_of_a_vm_that_went_without_a_last_phase_do_not_hold_a_stranger(world):
    """Stopped and deleted by hand at once: Proxmox has no configuration left by which to run the last phase."""
    world.decide_for(100)
    world.start(100)
    run("ip", "link", "del", "tap100i0")
    world.configure(100, MAC[101], UUID[101])
    assert chain(world, 100)
    assert world.guard(100, "pre-start").returncode == 0
    assert chain(world, 100) == []


def test_h51_a_suspended_vm_gets_nothing_whoever_starts_it(world):
    world.decide_for(100, enabled=False, receive=1_000)
    world.start(100)
    assert nothing_left(world, 100) and not world.isolated("tap100i0")
    assert "tbf" not in run("tc", "qdisc", "show", "dev", "tap100i0")


def test_h51_off_takes_everything_from_a_vm_that_runs(world):
    world.decide_for(100, receive=1_000, send=1_000)
    world.start(100)
    # What the last run did is not known any more, nor what the VM is.
    (world.root / "run/blockhost-guard/100.json").unlink()
    world.quiet(100, "off")
    assert nothing_left(world, 100)
    assert "tbf" not in run("tc", "qdisc", "show", "dev", "tap100i0")


def test_a_vm_that_is_gone_leaves_nothing(world):
    world.decide_for(100)
    world.start(100)
    run("ip", "link", "del", "tap100i0")
    (world.root / "etc/pve/qemu-server/100.conf").unlink()
    world.quiet(100, "off")
    assert nothing_left(world, 100)


def test_an_address_that_changed_leaves_no_route(world):
    world.decide_for(100)
    world.start(100)
    world.decide(100, UUID[100], "192.168.122.200", "fd00::abcd")
    world.quiet(100, "apply")
    assert ROUTE[100] not in world.routes() and any(line.startswith("fd00::abcd ") for line in world.routes())
    world.stop(100)
    assert world.routes() == []


def without(world, program):
    """A PATH on which this program fails."""
    folder = world.root / "bin"
    folder.mkdir(exist_ok=True)
    (folder / program).write_text(f"#!/bin/sh\necho 'no {program} today' >&2\nexit 1\n")
    (folder / program).chmod(0o755)
    return {"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"}


def spied(world, program, runs=True):
    """Puts a stand-in first on the PATH of `without`; what it was called with since the last call of the answer."""
    folder, log = world.root / "bin", world.root / f"{program}.log"
    folder.mkdir(exist_ok=True)
    real = f'exec {shutil.which(program)} "$@"' if runs else "exit 0"
    (folder / program).write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\n{real}\n')
    (folder / program).chmod(0o755)

    def called():
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return called


def guard(world, vmid, phase, **environment):
    own = {"BLOCKHOST_NODE_ROOT": str(world.root), "BLOCKHOST_CONFIG_DIR": str(world.root / "etc/blockhost")}
    return subprocess.run([PROGRAM, str(vmid), phase], env={**own, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "program, words",
    [
        ("nft", "anti-spoofing is not in force: nft -f - failed (exit code 1): no nft today"),
        ("bridge", "failed to isolate port tap100i0, so other guests on this bridge can reach it: bridge link set"),
        ("ip", "failed to set the host route to fd00::c8, so the guest is unreachable by IPv6: ip -6 route replace"),
        ("tc", "the limit of what it receives is not in force: tc qdisc replace"),
    ],
)
def test_what_fails_is_said_and_noted_and_the_rest_is_done(world, program, words):
    world.decide_for(100, receive=1_000)
    path = without(world, program)
    journal = spied(world, "logger", runs=False)
    before = guard(world, 100, "pre-start", **path)
    assert before.returncode == 0, "the VM starts all the same"
    assert (program == "nft") == (words in before.stderr)
    world.plug(100, "tap100i0", MAC[100], "192.168.122.200", "fd00::c8")
    after = guard(world, 100, "post-start", **path)
    assert after.returncode == 1 and words in after.stderr
    state = world.state(100)
    assert not state["applied"] and len(state["missing"]) == 1 and state["missing"][0].startswith(words)
    # Whoever reads the host's journal learns of it, too, once for each phase.
    phases = (["pre-start"] if program == "nft" else []) + ["post-start"]
    said = [f"-t blockhost-guard -p daemon.err -- VMID 100, {phase}: {words}" for phase in phases]
    assert [line[: len(text)] for line, text in zip(journal(), said, strict=True)] == said
    there = {
        "nft": bool(chain(world, 100)),
        "bridge": world.isolated("tap100i0"),
        "ip": ROUTE[100] in world.routes(),
        "tc": "tbf" in run("tc", "qdisc", "show", "dev", "tap100i0"),
    }
    assert there == {name: name != program for name in there}
    # The next run repairs it, and has nothing to say.
    world.quiet(100, "apply")
    assert world.state(100)["applied"] and world.state(100)["missing"] == []


def test_where_the_guard_is_required_a_vm_stays_off_without_it(world):
    world.decide_for(100)
    (world.root / "etc/blockhost/db.yaml").write_text("bridge: vmbr0\nguard_required: true\n")
    world.quiet(100, "pre-start")
    path = without(world, "nft")
    done = guard(world, 100, "pre-start", **path)
    assert done.returncode == 1 and "guard_required: true" in done.stderr
    (world.root / "var/lib/blockhost-guard/100.json").write_text("{")
    done = world.guard(100, "pre-start")
    assert done.returncode == 1 and "blockhost-guard/100.json" in done.stderr
    # A VM that is none of ours is not concerned.
    assert guard(world, 101, "pre-start", **path).returncode == 0


def test_only_root_and_only_what_it_knows(world):
    world.decide_for(100)
    world.quiet(100, "pre-migrate")
    # Nobody cannot reach the test's own folders, so the program is handed over open.
    with PROGRAM.open("rb") as program:
        words = ["setpriv", "--reuid=65534", "--clear-groups", f"/proc/self/fd/{program.fileno()}", "100", "apply"]
        done = subprocess.run(words, pass_fds=[program.fileno()], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "only root" in done.stderr, done
    assert world.guard("1x", "apply").returncode == 2


def test_its_files_are_roots_alone(world):
    world.decide_for(100)
    world.start(100)
    folder = world.root / "run/blockhost-guard"
    assert (folder.stat().st_mode & 0o777, (folder / "100.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert os.listdir(folder) == ["100.json"]
    assert json.loads((folder / "100.json").read_text())["taps"] == ["tap100i0"]


def test_h23_a_start_waits_for_no_more_programs_than_there_are_things_to_set(world):
    """The start waits for its hooks under the VM's lock; each program costs milliseconds. `cargo xtask bench` measures them."""
    world.decide_for(100, receive=1_000, send=1_000)
    called = {name: spied(world, name) for name in ("nft", "bridge", "tc", "ip", "logger", "setpriv")}

    def count(vmid, phase):
        done = world.guard(vmid, phase, path=f"{world.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
        return {name: len(lines) for name, spy in called.items() if name != "setpriv" and (lines := spy())}

    assert count(100, "pre-start") == {"nft": 1}
    world.plug(100, "tap100i0", MAC[100], "192.168.122.200", "fd00::c8")
    assert count(100, "post-start") == {"nft": 1, "bridge": 1, "tc": 1, "ip": 1}
    assert world.state(100)["applied"]
    assert count(100, "pre-stop") == {}
    run("ip", "link", "del", "tap100i0")
    called["ip"]()
    assert count(100, "post-stop") == {"nft": 1, "ip": 1}
    # A VM that is none of ours, and one that is suspended, wait for nothing.
    for phase in ("pre-start", "post-start", "pre-stop", "post-stop"):
        assert count(101, phase) == {}
    world.decide_for(100, enabled=False)
    assert count(100, "pre-start") == {}
