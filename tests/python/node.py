"""A fake node for the plugin's tests: a folder with the node's files, and a recorder in place of its two doors."""

import json
import os
import subprocess
from pathlib import Path

UUID = "3d5c2f60-1b2c-4d5e-8f90-0123456789ab"
OTHER_UUID = "11111111-2222-4333-8444-555555555555"
TEMPLATE = 9001


class Clock:
    """In place of module `time`: sleeping costs nothing."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert 0 <= seconds <= 5
        self.now += seconds + 1e-6


class FakeJob:
    """A detached process that ended already, or goes on until `end` is called."""

    def __init__(self, clock, result, slow):
        self.clock, self.result, self.slow, self.killed = clock, result, slow, False

    def end(self):
        self.slow = False

    def wait(self, seconds):
        if self.slow:
            self.clock.sleep(max(0, seconds))
            return None
        return self.result[0]

    def output(self, limit=65536):
        return tuple(text[len(text) - min(len(text), limit) :] for text in self.result[1:])

    def kill(self):
        assert self.slow
        self.killed = True


class Node:
    """Guests as files below `root`, and what the tools were asked and answer."""

    def __init__(self, root: Path):
        self.root = root
        self.config_dir = root / "etc-blockhost"
        self.qemu = root / "etc/pve/qemu-server"
        self.clock = Clock()
        self.calls = []  # argv of every process, in order
        self.detached = []  # those that went through the second door
        self.timeouts = []  # of the calls through the first door
        self.jobs = []
        self.rules = []
        self.ids = {}
        for folder in ("etc/pve/qemu-server", "run/qemu-server", "proc", "var/lib/vz/snippets"):
            (root / folder).mkdir(parents=True)
        self.config_dir.mkdir()
        (root / "etc/pve/local").symlink_to("nodes/pve")
        self.db("vmid_range:\n  start: 100\n  end: 999\n")
        (root / "etc/pve/.members").write_text('{"nodename": "pve", "version": 3}')
        self.write_list()

    # --- files

    def db(self, text):
        (self.config_dir / "db.yaml").write_text(text)

    def write_list(self):
        text = json.dumps({"version": 3, "ids": self.ids})
        (self.root / "etc/pve/.vmlist").write_text(text)

    def add(self, vmid, text, node="pve", kind="qemu", here=True):
        self.ids[str(vmid)] = {"node": node, "type": kind, "version": 1}
        self.write_list()
        if here:
            (self.qemu / f"{vmid}.conf").write_text(text)

    def add_ours(self, vmid=100, name="web-1", uuid=UUID, more=""):
        self.add(
            vmid,
            f"#BlockHost VM {name} {uuid}\nname: {name}\nsmbios1: uuid={uuid}\n"
            f"scsi0: local-lvm:vm-{vmid}-disk-0,discard=on,iothread=1,size=20G\n"
            f"ide2: local-lvm:vm-{vmid}-cloudinit,media=cdrom\n{more}",
        )

    def remove(self, vmid):
        self.ids.pop(str(vmid), None)
        self.write_list()
        (self.qemu / f"{vmid}.conf").unlink(missing_ok=True)

    def edit(self, vmid, change):
        path = self.qemu / f"{vmid}.conf"
        path.write_text(change(path.read_text()))

    def start(self, vmid, pid=4711, command=None):
        (self.root / f"run/qemu-server/{vmid}.pid").write_text(f"{pid}\n")
        (self.root / f"proc/{pid}").mkdir(exist_ok=True)
        command = command or f"/usr/bin/kvm\0-id\0{vmid}\0-name\0x\0"
        (self.root / f"proc/{pid}/cmdline").write_text(command)

    def stop(self, vmid):
        (self.root / f"run/qemu-server/{vmid}.pid").unlink(missing_ok=True)

    # --- tools

    def reply(self, start, code=0, stdout="", stderr="", effect=None, raises=None, slow=False):
        """What a command whose words begin with `start` answers; the latest rule that fits counts."""
        self.rules.insert(0, (start.split(), (code, stdout, stderr), effect, raises, slow))

    def _answer(self, argv):
        assert isinstance(argv, list) and all(isinstance(word, str) for word in argv), argv
        self.calls.append(argv)
        for start, result, effect, raises, slow in self.rules:
            if argv[: len(start)] == start:
                if raises:
                    raise raises
                if effect:
                    effect()
                return result, slow
        return (0, "", ""), False

    def run(self, argv, timeout=120):
        assert 0 < timeout <= 5, "one lane"
        self.timeouts.append(timeout)
        self.clock.now += 0.01
        result, slow = self._answer(argv)
        if slow:
            self.clock.now += timeout
            raise subprocess.TimeoutExpired(argv, timeout)
        return result

    def spawn_detached(self, argv):
        self.detached.append(argv)
        result, slow = self._answer(argv)
        self.jobs.append(FakeJob(self.clock, result, slow))
        return self.jobs[-1]

    def lines(self):
        return [" ".join(argv) for argv in self.calls]


def tree(folder):
    """Every path below a folder with its content (or link target)."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            full = Path(path) / name
            if full.is_symlink():
                found[str(full)] = os.readlink(full)
            else:
                found[str(full)] = full.read_bytes() if full.is_file() else None
    return found
