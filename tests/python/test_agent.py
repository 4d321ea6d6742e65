"""The lab's stand-in for the root agent: the daemon's protocol, one lane, and the faults."""

import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "crates" / "lab" / "root-agent" / "agent.py"

PLUGIN = """
import time
import _common
from _common import log, run, validate_vmid, validate_dev, validate_ipv6_128, STORAGE_RE

def echo(params):
    return {"ok": True, "params": params, "root": _common.NODE_ROOT, "config": _common.CONFIG_DIR}

def sleep(params):
    time.sleep(params["s"])
    open(params["mark"], "a").write("x") if "mark" in params else None
    return {"ok": True}

def fail(params):
    raise RuntimeError("it broke")

ACTIONS = {"echo": echo, "sleep": sleep, "fail": fail}
"""


class Lab:
    def __init__(self, folder):
        self.dir = folder
        for name in ("bin", "run", "plugins", "node", "etc/blockhost"):
            (folder / name).mkdir(parents=True)
        (folder / "plugins/good.py").write_text(PLUGIN)
        (folder / "plugins/broken.py").write_text("raise RuntimeError('no')\n")
        (folder / "plugins/_private.py").write_text(
            f"open({str(folder / 'imported')!r}, 'w')\nACTIONS = {{}}\n"
        )
        for tool in ("ip", "bridge"):
            path = folder / "bin" / tool
            path.write_text(
                f'#!/bin/sh\necho "{tool} $*" >> {folder}/calls\ncat {folder}/{tool}.err >&2 2>/dev/null && exit 2\nexit 0\n'
            )
            path.chmod(0o755)
        self.path = folder / "run" / "root-agent.sock"
        self.process = None

    def start(self, *more, code=None):
        command = [sys.executable, str(AGENT)] if code is None else [sys.executable, "-c", code]
        self.process = subprocess.Popen(
            [*command, "--dir", str(self.dir), "--actions", str(self.dir / "plugins"), *more],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(AGENT.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        deadline = time.monotonic() + 20
        while not self.path.exists() or not self.answers():
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.02)

    def answers(self):
        try:
            return self.ask("echo")["ok"]
        except OSError:
            return False

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(str(self.path))
        return client

    def raw(self, content, size=None):
        """The bytes that come back for a frame; empty when the connection is closed without any."""
        with self.connect() as client:
            client.sendall(struct.pack(">I", len(content) if size is None else size) + content)
            with client.makefile("rb") as answer:
                return answer.read()

    def ask(self, action, **params):
        frame = self.raw(json.dumps({"action": action, "params": params}).encode())
        (size,) = struct.unpack(">I", frame[:4])
        assert size == len(frame) - 4
        return json.loads(frame[4:])

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()


class FakeNode(threading.Thread):
    """The node's control socket: faults by point, and what was logged."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.faults, self.requests = {}, []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(16)

    def run(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            with client, client.makefile("rwb") as stream:
                request = json.loads(stream.readline())
                self.requests.append(request)
                answer = self.faults.get(request.get("point"), {"action": None})
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()


@pytest.fixture
def lab(tmp_path):
    # A socket's path is short: 107 bytes.
    lab = Lab(tmp_path / "l")
    yield lab
    lab.end()


@pytest.fixture
def faulty(lab):
    """An agent with a node that can be told to make faults."""
    node = FakeNode(lab.dir / "run/node.sock")
    node.start()
    lab.start()
    node.requests.clear()
    yield node
    node.server.shutdown(socket.SHUT_RDWR)
    node.server.close()


def test_protocol(lab):
    lab.start()
    assert not (lab.dir / "imported").exists()
    assert stat.S_IMODE(lab.path.stat().st_mode) == 0o660
    answer = lab.ask("echo", vmid=100, text="grün\n")
    assert answer["params"] == {"vmid": 100, "text": "grün\n"}
    assert answer["root"] == str(lab.dir / "node") and answer["config"] == str(lab.dir / "etc/blockhost")
    assert lab.ask("fail") == {"ok": False, "error": "it broke"}
    assert lab.ask("nothing") == {"ok": False, "error": "Unknown action: nothing"}
    for content in (b"", b"{", b"[]", b"null", b'{"params":{}}', b'{"action":[]}', b"\xff\xfe"):
        assert json.loads(lab.raw(content)[4:])["ok"] is False, content


def test_large_requests(lab):
    lab.start()
    assert lab.ask("echo", text="x" * 9_000_000)["ok"]
    assert b"too large" in lab.raw(b"", size=10 * 1024 * 1024 + 1)
    assert lab.ask("echo")["ok"]


def test_a_request_that_does_not_arrive_is_dropped(lab):
    lab.start(code="import agent; agent.REQUEST_SECONDS = 0.3; agent.main()")
    started = time.monotonic()
    assert lab.raw(b"{", size=100) == b""
    assert 0.2 < time.monotonic() - started < 5


def test_the_time_for_a_request_is_ten_seconds():
    assert "\nREQUEST_SECONDS = 10\n" in AGENT.read_text()


def test_one_lane(lab):
    lab.start()
    started = time.monotonic()
    threads = [threading.Thread(target=lab.ask, args=("sleep",), kwargs={"s": 0.3}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 1.2


def test_latency(lab):
    lab.start("--latency-ms", "200")
    started = time.monotonic()
    lab.ask("echo")
    assert time.monotonic() - started >= 0.2


def test_a_caller_that_gave_up_is_served_all_the_same(lab):
    lab.start()
    mark = lab.dir / "mark"
    content = json.dumps({"action": "sleep", "params": {"s": 0.2, "mark": str(mark)}}).encode()
    with lab.connect() as client:
        client.sendall(struct.pack(">I", len(content)) + content)
    assert lab.ask("echo")["ok"]
    assert mark.read_text() == "x"


def test_own_actions(lab):
    lab.start()
    assert lab.ask("ip6-route-add", address="fd00::2/128", dev="vmbr0") == {"ok": True}
    assert lab.ask("ip6-route-del", address="fd00::2/128", dev="virbr0") == {"ok": True}
    assert lab.ask("bridge-port-isolate", dev="tap100i0") == {"ok": True}
    assert (lab.dir / "calls").read_text().splitlines() == [
        "ip -6 route replace fd00::2/128 dev vmbr0",
        "ip -6 route del fd00::2/128 dev virbr0",
        "bridge link set dev tap100i0 isolated on",
    ]
    for params in ({"address": "fd00::2/64", "dev": "vmbr0"}, {"address": "fd00::2/128", "dev": "vmbr1"}, {"address": "x/128", "dev": "br0"},
                   {"address": "10.0.0.1/128", "dev": "br0"}, {"address": 5, "dev": "br0"}, {"dev": "br0"}, {"address": "fd00::2/128", "dev": "br0; x"}):  # fmt: skip
        for action in ("ip6-route-add", "ip6-route-del"):
            assert lab.ask(action, **params)["ok"] is False
    for dev in ("eth0", "tap100", "tap1i1x", "-x", "", None, "tap100i0\n"):
        assert lab.ask("bridge-port-isolate", dev=dev)["ok"] is False
    assert len((lab.dir / "calls").read_text().splitlines()) == 3
    (lab.dir / "ip.err").write_text("RTNETLINK answers: No such process\n")
    assert lab.ask("ip6-route-del", address="fd00::2/128", dev="br0") == {
        "ok": False,
        "error": "RTNETLINK answers: No such process",
    }


def test_the_real_plugin_is_loaded(lab):
    lab.start(
        "--actions",
        str(ROOT / "root-agent-actions"),
        code="import sys; import agent; agent.OWN_ACTIONS['echo'] = lambda p: {'ok': True}; agent.main()",
    )
    answer = lab.ask("vm-state", vmid=100)
    assert (
        answer["ok"] is False
        and answer["code"] == "failed"
        and str(lab.dir / "node/etc/pve") in answer["error"]
    )


@pytest.mark.parametrize("how", ["input", "term"])
@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_its_harness(lab, how, busy):
    lab.start()
    if busy:
        content = json.dumps({"action": "sleep", "params": {"s": 60}}).encode()
        client = lab.connect()
        client.sendall(struct.pack(">I", len(content)) + content)
        time.sleep(0.2)
    if how == "input":
        lab.process.stdin.close()
    else:
        lab.process.send_signal(signal.SIGTERM)
    assert lab.process.wait(5) == 0
    assert not lab.path.exists()


def test_stay(lab):
    lab.start("--stay")
    lab.process.stdin.close()
    time.sleep(0.2)
    assert lab.process.poll() is None and lab.ask("echo")["ok"]


# --- faults


def test_actions_are_logged_and_asked_about(lab, faulty):
    lab.ask("echo", vmid=100)
    assert faulty.requests == [
        {"op": "log", "kind": "agent", "action": "echo", "params": {"vmid": 100}},
        {"op": "fault-check", "point": "agent.echo.before"},
        {"op": "fault-check", "point": "agent.echo.after"},
    ]


@pytest.mark.parametrize("when, done", [("before", False), ("after", True)])
@pytest.mark.parametrize("action", ["error", "kill", "garbage", "huge", "slow"])
def test_faults(lab, faulty, action, when, done):
    mark = lab.dir / "mark"
    faulty.faults[f"agent.sleep.{when}"] = {"action": action, "message": "disk on fire", "ms": 300}
    content = json.dumps({"action": "sleep", "params": {"s": 0, "mark": str(mark)}}).encode()
    started = time.monotonic()
    answer = lab.raw(content)
    if action == "error":
        assert json.loads(answer[4:]) == {"ok": False, "error": "disk on fire"}
    elif action == "kill":
        assert answer == b""
    elif action == "garbage":
        (size,) = struct.unpack(">I", answer[:4])
        assert size == len(answer) - 4
        with pytest.raises(ValueError):
            json.loads(answer[4:])
    elif action == "huge":
        assert struct.unpack(">I", answer[:4]) == (20 * 1024 * 1024,)
    else:
        assert json.loads(answer[4:]) == {"ok": True} and time.monotonic() - started >= 0.3
    assert mark.exists() == (done or action == "slow")
    assert lab.ask("echo")["ok"]


def test_hang_holds_the_lane(lab, faulty):
    faulty.faults["agent.sleep.before"] = {"action": "hang"}
    content = json.dumps({"action": "sleep", "params": {"s": 0}}).encode()
    with lab.connect() as first, lab.connect() as second:
        first.sendall(struct.pack(">I", len(content)) + content)
        time.sleep(0.2)
        second.sendall(struct.pack(">I", len(content)) + content)
        second.settimeout(0.5)
        with pytest.raises(TimeoutError if sys.version_info >= (3, 10) else socket.timeout):
            second.recv(4)
    lab.process.send_signal(signal.SIGTERM)
    assert lab.process.wait(5) == 0
