"""Stand-in for the root agent of blockhost-common: its protocol, its one lane, the real plugins.

    python3 agent.py --dir D --actions DIR [--latency-ms N] [--stay]

Listens on D/run/root-agent.sock (0660).  One request per connection, frames both ways:
four bytes of length (big-endian), then that many bytes of UTF-8 JSON, 10 MiB at most; a
client that has not sent its request within 10 s is dropped.  Handlers run inside the event
loop, one at a time: one that waits makes all others wait, as on a real host.

Actions are those of every DIR/*.py that does not start with `_`, and the daemon's own
ip6-route-add, ip6-route-del and bridge-port-isolate.  Tools are looked for in D/bin first.

Faults: before and after each action the node's control socket D/run/node.sock is asked for
the points `agent.<action>.before` and `agent.<action>.after`; without that socket there are
none.  What the action of a fault means here:

    error    answered with its message (before: nothing was done)
    hang     sleeps, with the lane, until the faults are cleared
    slow     sleeps `ms`, with the lane
    kill     the connection is closed without an answer
    garbage  a frame that is no JSON
    huge     a frame that says it is 20 MiB

A fault set for one of the daemon's own route actions meets the plugin's as well, which does the
same work.

Ends on SIGTERM, and when its standard input closes (the harness holds the other end, so no
agent outlives its test); `--stay` leaves the input alone.
"""

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import _common

FRAME_MAX = 10 * 1024 * 1024
REQUEST_SECONDS = 10


# --- the daemon's own actions ------------------------------------------------------


def _tool(cmd):
    code, _, stderr = _common.run(cmd, timeout=10)
    return {"ok": True} if code == 0 else {"ok": False, "error": stderr or f"{cmd[0]} ended with {code}"}


def ip6_route_add(params):
    """Replaces, so that it can be repeated."""
    address, dev = _common.validate_ipv6_128(params["address"]), _common.validate_dev(params["dev"])
    return _tool(["ip", "-6", "route", "replace", address, "dev", dev])


def ip6_route_del(params):
    address, dev = _common.validate_ipv6_128(params["address"]), _common.validate_dev(params["dev"])
    return _tool(["ip", "-6", "route", "del", address, "dev", dev])


def bridge_port_isolate(params):
    dev = _common.validate_dev(params["dev"])
    return _tool(["bridge", "link", "set", "dev", dev, "isolated", "on"])


OWN_ACTIONS = {
    "ip6-route-add": ip6_route_add,
    "ip6-route-del": ip6_route_del,
    "bridge-port-isolate": bridge_port_isolate,
}


# The daemon's action whose faults an action of the plugin meets as well.
SAME_WORK = {"guest-route-add": "ip6-route-add", "guest-route-del": "ip6-route-del"}


def load_actions(folder):
    """The actions of all plugins. One that cannot be imported is lost whole, the others stay."""
    sys.path.insert(0, str(folder))
    actions = dict(OWN_ACTIONS)
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith("_"):
            continue
        try:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            actions.update(module.ACTIONS)
        except Exception:
            _common.log.exception("cannot import %s", path)
    return actions


# --- the node's control socket --------------------------------------------------------


class Control:
    """Newline-delimited JSON; silent where nobody listens."""

    def __init__(self, path):
        self.path = str(path)

    def ask(self, request):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(5)
                client.connect(self.path)
                client.sendall(json.dumps(request).encode() + b"\n")
                with client.makefile("rb") as answer:
                    value = json.loads(answer.readline() or b"{}")
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def hangs(self):
        """Whether a fault that hangs is still set: `lab ctl clear` lets go. A node that is gone lets nobody go."""
        faults = self.ask({"op": "faults"}).get("ok")
        return not isinstance(faults, list) or any('"hang"' in json.dumps(fault) for fault in faults)

    def fault(self, point):
        """The fault that is due at this point; hang and slow have been slept already."""
        fault = self.ask({"op": "fault-check", "point": point})
        action = fault.get("action")
        if action == "hang":
            while self.hangs():
                time.sleep(0.2)
            return {}
        if action == "slow":
            time.sleep(fault.get("ms", 0) / 1000)
            return {}
        return fault


# --- one request ------------------------------------------------------------------------


def frame(value):
    content = json.dumps(value).encode()
    return struct.pack(">I", len(content)) + content


def faulty_answer(fault):
    """The bytes that a fault puts in place of the answer; None where there is no such fault."""
    action = fault.get("action")
    if action == "error":
        return frame({"ok": False, "error": str(fault.get("message") or "injected fault")})
    if action == "kill":
        return b""
    if action == "garbage":
        return struct.pack(">I", 9) + b"no { json"
    if action == "huge":
        return struct.pack(">I", 20 * 1024 * 1024) + b"x" * 4096
    return None


class Agent:
    def __init__(self, actions, control, latency):
        self.actions, self.control, self.latency = actions, control, latency

    def answer(self, content):
        """The bytes of the answer. Runs without giving the event loop a chance: that is the lane."""
        try:
            request = json.loads(content)
            action, params = request["action"], request.get("params") or {}
            handler = self.actions.get(action)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return frame({"ok": False, "error": f"Invalid request: {error}"})
        if handler is None:
            return frame({"ok": False, "error": f"Unknown action: {action}"})
        self.control.ask({"op": "log", "kind": "agent", "action": action, "params": params})
        time.sleep(self.latency)
        before = self.fault(action, "before")
        if before is not None:
            return before
        try:
            response = frame(handler(params))
        except Exception as error:
            _common.log.exception("action %s", action)
            response = frame({"ok": False, "error": str(error)})
        after = self.fault(action, "after")
        return response if after is None else after

    def fault(self, action, when):
        """The bytes of a fault in place of the answer, None where there is none."""
        for name in filter(None, (action, SAME_WORK.get(action))):
            answer = faulty_answer(self.control.fault(f"agent.{name}.{when}"))
            if answer is not None:
                return answer
        return None

    async def serve(self, reader, writer):
        try:
            content = await asyncio.wait_for(self.receive(reader), REQUEST_SECONDS)
            writer.write(self.answer(content))
            await writer.drain()
        except TooLarge as error:
            writer.write(frame({"ok": False, "error": str(error)}))
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def receive(reader):
        (size,) = struct.unpack(">I", await reader.readexactly(4))
        if size > FRAME_MAX:
            raise TooLarge(f"Message too large: {size} bytes")
        return await reader.readexactly(size)


class TooLarge(Exception):
    pass


# --- process -----------------------------------------------------------------------------


def end(path):
    """At once, also out of a handler that hangs."""
    try:
        os.unlink(path)
    except OSError:
        pass
    os._exit(0)


def watch_input(path):
    """Ends the process when the other end of standard input is closed."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    end(path)


async def listen(agent, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    old = os.umask(0o117)
    try:
        server = await asyncio.start_unix_server(agent.serve, path=str(path), limit=FRAME_MAX, backlog=128)
    finally:
        os.umask(old)
    os.chmod(path, 0o660)
    async with server:
        await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description="The lab's root agent.")
    parser.add_argument("--dir", required=True, type=Path, help="folder of the lab")
    parser.add_argument("--actions", required=True, type=Path, help="folder of the plugins")
    parser.add_argument("--latency-ms", type=float, default=0, help="what each action costs besides")
    parser.add_argument("--stay", action="store_true", help="go on when standard input closes")
    args = parser.parse_args()
    lab = args.dir.resolve()
    logging.basicConfig(level=logging.INFO, format="root-agent: %(message)s")
    _common.NODE_ROOT = str(lab / "node")
    _common.CONFIG_DIR = str(lab / "etc" / "blockhost")
    os.environ["PATH"] = f"{lab / 'bin'}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    path = lab / "run" / "root-agent.sock"
    signal.signal(signal.SIGTERM, lambda *_: end(path))
    signal.signal(signal.SIGINT, lambda *_: end(path))
    if not args.stay:
        threading.Thread(target=watch_input, args=(path,), daemon=True).start()
    agent = Agent(
        load_actions(args.actions.resolve()), Control(lab / "run" / "node.sock"), args.latency_ms / 1000
    )
    asyncio.run(listen(agent, path))


if __name__ == "__main__":
    main()
