"""start, stop, shutdown, resume, destroy: what is called, and what each end of it is answered with."""

import os
import signal
import subprocess
import sys
import time

import pytest

import _common
import qm
from node import UUID

NO_FILE = "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist"
NO_VM = "unable to find configuration file for VM 100 on node 'pve'"
LOCK_FILE = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout"


def test_start(node, ask):
    assert ask("qm-start", vmid=100) == {"ok": True}
    assert node.lines() == ["qm start 100"] and node.detached


def test_h32_start_of_a_running_guest_is_ok(node, ask):
    node.start(100)
    assert ask("qm-start", vmid=100)["ok"] and node.calls == []
    node.stop(100)
    node.reply("qm start", code=255, stderr="VM 100 already running")
    assert ask("qm-start", vmid=100)["ok"]


@pytest.mark.parametrize("code", [1, 2, 4, 11, 255, -9])
def test_h32_any_exit_code_but_zero_is_a_failure(node, ask, code):
    node.reply("qm start", code=code, stdout="start failed: QEMU exited with code 1", stderr="")
    answer = ask("qm-start", vmid=100)
    assert (answer["ok"], answer["code"]) == (False, "failed")
    assert "start failed: QEMU exited" in answer["error"]


@pytest.mark.parametrize("action", ["qm-start", "qm-stop", "qm-resume", "qm-destroy"])
@pytest.mark.parametrize("words", [NO_FILE, NO_VM])
def test_h33_both_wordings_of_no_such_vm(node, ask, action, words):
    if action in ("qm-stop", "qm-resume"):
        node.start(100)
    node.reply("qm", code=255, stderr=words, effect=lambda: node.remove(100))
    answer = ask(action, vmid=100, uuid=UUID)
    if action == "qm-destroy":
        assert answer == {"ok": True, "gone": True}
    else:
        assert (answer["ok"], answer["code"]) == (False, "missing") and words in answer["error"]


def test_h22_lock_of_the_configuration_is_named(node, ask):
    node.start(100)
    node.reply("qm stop", code=255, stdout="trying to acquire lock...", stderr="VM is locked (backup)")
    answer = ask("qm-stop", vmid=100, uuid=UUID)
    assert (answer["code"], answer["lock"]) == ("locked", "backup")


def test_h22_busy_lock_file_says_so(node, ask):
    node.start(100)
    node.reply("qm stop", code=255, stderr=f"trying to acquire lock...\n{LOCK_FILE}")
    answer = ask("qm-stop", vmid=100, uuid=UUID)
    assert answer["code"] == "failed" and LOCK_FILE in answer["error"]


def test_stop_overrules_a_shutdown(node, ask):
    node.start(100)
    assert ask("qm-stop", vmid=100, uuid=UUID)["ok"]
    assert node.lines() == ["qm stop 100 --timeout 10 --overrule-shutdown 1"]


def test_stop_of_an_old_version_without_the_option(node, ask):
    node.start(100)
    node.reply(
        "qm stop 100 --timeout 7 --overrule-shutdown",
        code=255,
        stderr="Unknown option: overrule-shutdown\n400 unable to parse option",
    )
    assert ask("qm-stop", vmid=100, uuid=UUID, timeout=7) == {"ok": True}
    assert node.lines()[1:] == ["qm stop 100 --timeout 7"]


def test_stop_tries_again_for_that_reason_only(node, ask):
    node.start(100)
    node.reply("qm stop", code=255, stderr="VM quit/powerdown failed")
    assert ask("qm-stop", vmid=100, uuid=UUID)["ok"] is False
    assert len(node.calls) == 1


@pytest.mark.parametrize("action", ["qm-stop", "qm-shutdown"])
def test_stopped_already_is_ok_without_a_process(node, ask, action):
    assert ask(action, vmid=100, uuid=UUID)["ok"] and node.calls == []


@pytest.mark.parametrize("action", ["qm-stop", "qm-shutdown"])
@pytest.mark.parametrize("timeout", [0, -1, 10**6, "10", 1.5, True, [10]])
def test_h28_timeouts(node, ask, action, timeout):
    node.start(100)
    assert ask(action, vmid=100, uuid=UUID, timeout=timeout)["ok"] is False and node.calls == []


def test_h20_shutdown_returns_at_once(node, ask):
    node.start(100)
    node.reply("qm shutdown", slow=True)
    before = node.clock.now
    assert ask("qm-shutdown", vmid=100, uuid=UUID, timeout=60) == {"ok": True, "pending": True}
    assert node.clock.now - before < 0.1
    assert node.lines() == ["qm shutdown 100 --timeout 60"] and node.detached == node.calls


def test_h20_fifty_shutdowns(node, ask):
    node.reply("qm shutdown", slow=True)
    for vmid in range(100, 150):
        node.add_ours(vmid)
        node.start(vmid, pid=5000 + vmid)
        assert ask("qm-shutdown", vmid=vmid, uuid=UUID)["pending"]
    assert len(node.detached) == 50 and node.clock.now < 1001


@pytest.mark.parametrize("action", ["qm-start", "qm-stop", "qm-resume", "qm-destroy", "qm-template"])
def test_h20_what_is_slow_goes_on_without_the_lane(node, ask, action):
    if action in ("qm-stop", "qm-resume"):
        node.start(100)
    node.reply("qm", slow=True)
    before = node.clock.now
    assert ask(action, vmid=100, uuid=UUID) == {"ok": True, "pending": True}
    assert node.clock.now - before <= 5
    # Asked again meanwhile: the same task, no second process.
    assert ask(action, vmid=100, uuid=UUID)["pending"] and len(node.calls) == 1
    assert ask("vm-state", vmid=100)["task"] == {"action": action, "running": True}
    node.jobs[0].end()
    node.jobs[0].result = (255, "", "it did not work")
    task = ask("vm-state", vmid=100)["task"]
    assert (task["running"], task["exit"], task["error"]) == (False, 255, "it did not work")
    node.reply("qm", code=0, slow=True)
    assert ask(action, vmid=100, uuid=UUID)["pending"] and len(node.calls) == 2


def test_a_stop_while_a_shutdown_runs_keeps_both(node, ask):
    node.start(100)
    node.reply("qm shutdown", slow=True)
    ask("qm-shutdown", vmid=100, uuid=UUID)
    assert ask("qm-stop", vmid=100, uuid=UUID)["ok"] and len(qm._tasks) == 2
    assert ask("vm-state", vmid=100)["task"]["action"] == "qm-stop"
    node.jobs[0].end()
    ask("vm-state", vmid=100)
    assert [task.action for task in qm._tasks] == ["qm-stop"]


def test_tasks_are_forgotten(node, ask):
    node.db("vmid_range: {start: 100, end: 9000}\n")
    for vmid in range(100, 500):
        node.add_ours(vmid)
        assert ask("qm-start", vmid=vmid)["ok"]
    assert len(qm._tasks) <= 257


def test_resume(node, ask):
    assert ask("qm-resume", vmid=100, uuid=UUID)["ok"] is False and node.calls == []
    node.start(100)
    assert ask("qm-resume", vmid=100, uuid=UUID) == {"ok": True}
    assert node.lines() == ["qm resume 100"]
    node.stop(100)
    node.edit(100, lambda text: text + "lock: suspended\n")
    assert ask("qm-resume", vmid=100, uuid=UUID) == {"ok": True}


def test_destroy(node, ask):
    node.reply("qm destroy", effect=lambda: node.remove(100))
    assert ask("qm-destroy", vmid=100, uuid=UUID) == {"ok": True, "gone": True}
    assert node.lines() == ["qm destroy 100 --purge 1 --destroy-unreferenced-disks 1"]


def test_destroy_refuses_a_running_guest(node, ask):
    node.start(100)
    answer = ask("qm-destroy", vmid=100, uuid=UUID)
    assert answer["code"] == "failed" and "running" in answer["error"] and node.calls == []


def test_h32_destroy_believes_the_node_not_the_exit_code(node, ask):
    node.reply("qm destroy", code=0)
    answer = ask("qm-destroy", vmid=100, uuid=UUID)
    assert answer["ok"] is False and "still there" in answer["error"]
    node.reply("qm destroy", code=255, stderr=NO_FILE)
    assert ask("qm-destroy", vmid=100, uuid=UUID)["ok"] is False


# Version 9; 8 says it without the first word, and has no warning of the task.
WARNING = (
    "WARN: Could not remove disk 'local-lvm:vm-100-disk-0', check manually: lvremove failed\n"
    "purging VM 100 from related configurations.."
)


@pytest.mark.parametrize("words", [WARNING, WARNING.removeprefix("WARN: ")])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_h32_disks_that_could_not_be_freed_are_reported(node, ask, stream, words):
    node.reply("qm destroy", effect=lambda: node.remove(100), **{stream: words})
    answer = ask("qm-destroy", vmid=100, uuid=UUID)
    assert answer["ok"] and answer["gone"] and answer["leftovers"] == ["local-lvm:vm-100-disk-0"]
    assert "lvremove failed" in answer["warnings"][0]


def test_h32_leftovers_of_a_slow_destroy_are_in_the_state(node, ask):
    node.reply("qm destroy", stdout=WARNING, slow=True)
    assert ask("qm-destroy", vmid=100, uuid=UUID)["pending"]
    node.jobs[0].end()
    node.remove(100)
    answer = ask("vm-state", vmid=100)
    assert answer["exists"] is False and answer["task"]["leftovers"] == ["local-lvm:vm-100-disk-0"]


def test_a_tool_that_cannot_be_started(node, ask, monkeypatch):
    def broken(argv):
        raise FileNotFoundError(2, "No such file or directory", "qm")

    monkeypatch.setattr(qm, "_spawn_detached", broken)
    answer = ask("qm-start", vmid=100)
    assert answer["code"] == "failed" and "qm could not be run" in answer["error"]


# --- the second door itself, with real processes


@pytest.fixture
def real(node, monkeypatch):
    monkeypatch.setattr(qm, "time", time)
    monkeypatch.setattr(qm, "_spawn_detached", lambda argv: qm.Job([sys.executable, "-c", *argv]))


def test_job_ends_in_time(real):
    job = qm._spawn_detached(
        ["import sys; print('ü' * 100000 + 'end'); sys.stderr.write('err'); sys.exit(3)"]
    )
    assert job.wait(10) == 3
    stdout, stderr = job.output()
    assert stdout.endswith("end") and len(stdout) < 70000 and stderr == "err"


def test_h20_job_outlives_the_wait_in_a_session_of_its_own(real):
    job = qm._spawn_detached(
        ["import os, time; print(os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"]
    )
    started = time.monotonic()
    assert job.wait(0.3) is None and 0.2 < time.monotonic() - started < 3
    assert job.wait(0) is None
    os.kill(job._process.pid, signal.SIGKILL)
    assert job.wait(10) == -9
    assert job.output()[0] == "True"


def test_jobs_leave_no_zombie_and_no_descriptor(real):
    before = len(os.listdir("/proc/self/fd"))
    keep = os.open("/dev/null", os.O_RDONLY)
    task = qm.Task("qm-importdisk", 100, ["pass"], keep)
    assert task.wait(10) == (0, "", "")
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ProcessLookupError):
        os.kill(task.job._process.pid, 0)


def test_a_job_that_cannot_start_leaves_no_descriptor(real):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        qm.Job(["/nonexistent/tool"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_h48_a_timeout_in_the_lane_is_unknown(node, ask, monkeypatch):
    node.reply("tc qdisc", slow=True)
    answer = ask("tc-rate-limit", dev="tap100i0", uuid=UUID, direction="in", rate_kbps=5)
    assert answer["ok"] is False and answer["unknown"] is True
    assert "the node is busy: tc qdisc did not answer within 5 s" in answer["error"]


def test_a_slow_set_goes_on_and_is_told_of(node, ask):
    node.reply("qm set", code=255, stderr="no", slow=True)
    begun = node.clock.now
    assert ask("qm-set", vmid=100, uuid=UUID, config={"onboot": 0}) == {"ok": True, "pending": True}
    assert node.clock.now - begun < 3.1
    assert ask("qm-set", vmid=100, uuid=UUID, config={"onboot": 1})["code"] == "locked", "one at a time"
    node.jobs[0].end()
    assert ask("vm-state", vmid=100)["task"] == {"action": "qm-set", "running": False, "exit": 255, "error": "no"}


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ValueError("embedded null byte"),
    ],
)
def test_h28_what_the_daemon_raises_is_answered(node, ask, error):
    node.reply("qm set", raises=error)
    answer = ask("qm-set", vmid=100, uuid=UUID, config={"onboot": 0})
    assert answer["ok"] is False and answer["code"] == "failed"


def test_unforeseen_exceptions_are_answered_with_a_code(node, ask, monkeypatch):
    monkeypatch.setattr(_common, "validate_vmid", lambda vmid: 1 / 0)
    answer = ask("vm-state", vmid=100)
    assert (answer["ok"], answer["code"]) == (False, "failed") and "ZeroDivisionError" in answer["error"]


def test_h28_a_tool_cannot_write_to_the_terminal(node, ask):
    node.reply("qm start", code=255, stderr="\x1b[2Jred\x07 \udcff\u202e\n" + "x" * 100_000 + "\nlast words")
    error = ask("qm-start", vmid=100)["error"]
    assert error.endswith("last words") and len(error) <= 2000
    node.reply("qm start", code=255, stderr="\x1b[2Jred\x07 \udcff\u202e")
    assert ask("qm-start", vmid=100)["error"].endswith("?[2Jred? ??")
