"""The admin page in a small panel, with stand-ins for our commands.

The stand-ins are shell scripts in a folder of the test's own that is all of PATH: what is
tested is the real way to the commands, a search by name and a process.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
sys.path.insert(0, str(ROOT / "tests" / "admin" / "panel"))
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from app import create_app  # noqa: E402
from blockhost.provisioner_proxmox import admin, node_report  # noqa: E402

PAGE = "/admin/proxmox"
DOCTOR = "blockhost-provisioner-doctor"
CAPACITY = "blockhost-provisioner-capacity"
LIST = "blockhost-vm-list"
AUDIT = "blockhost-vm-audit"
COMMANDS = (DOCTOR, CAPACITY, LIST, AUDIT)


def moment(**away) -> str:
    """A time as our commands print it."""
    return (datetime.now(timezone.utc) + timedelta(**away)).isoformat(timespec="microseconds")


def doctor(**changes) -> dict:
    """What doctor finds on a host with some trouble."""
    findings = [
        {
            "severity": "error", "code": "route-missing", "vm": "web-1", "where": "VM web-1 (VMID 100)",
            "what": "there is no host route to 2a11:6c7:f04:276::2", "why": "the VM cannot be reached by IPv6",
            "mend": "blockhost-vm-start web-1", "fixable": True, "left": [],
        },
        {
            "severity": "warning", "code": "gc-overdue", "vm": None,
            "where": "/var/lib/blockhost/gc-last-run.json", "what": "gc last ran at 2026-11-20T02:11:09.000000+00:00",
            "why": "expired VMs go on running", "fixable": False,
            "mend": "systemctl enable --now blockhost-gc.timer; see journalctl -u blockhost-gc",
            "left": ["file /run/blockhost/creates/7", "address 192.168.122.203"],
        },
        {
            "severity": "note", "code": "vm-off", "vm": "web-2", "where": "VM web-2 (VMID 101)",
            "what": "it is active, but off", "why": "its customer may have shut it down, or waits for it",
            "mend": "blockhost-vm-start web-2", "fixable": False, "left": [],
        },
    ]
    return {
        "version": "0.3.0", "vms": 7, "counts": {"error": 1, "warning": 1, "note": 1},
        "creates": [
            {"vm": "web-8", "pid": 4711, "state": "running", "since": moment(seconds=-40)},
            {"vm": "web-9", "pid": 4712, "state": "waiting", "since": moment(seconds=-5)},
        ],
        "findings": findings, **changes,
    }


def expiring() -> list:
    """VMs that expired or will soon."""
    return [
        {"name": "web-4", "status": "suspended", "ip": "192.168.122.203", "protected": False,
         "wallet": "0x71C7656EC7ab88b098defB751B7401B5f6d8976F", "expires_at": moment(hours=-25)},
        {"name": "web-1", "status": "active", "ip": "192.168.122.200", "protected": True,
         "wallet": None, "expires_at": moment(days=3, hours=1)},
        {"name": "web-5", "status": "active", "ip": "", "protected": False,
         "wallet": "addr_test1vz" + "9ux7" * 24, "expires_at": None},
    ]


def audit() -> list:
    """Lines of the trail."""
    line = {"uid": 998, "sudo_user": None, "caller": "python3", "vmid": 100, "before": "active", "after": "active",
            "result": "ok", "duration_ms": 1234}
    return [
        {**line, "time": moment(minutes=-3), "verb": "destroy", "vm": "web-3", "sudo_user": "alice", "uid": 0,
         "caller": "bash", "result": "VM web-3 is protected; use --force"},
        {**line, "time": moment(minutes=-50), "verb": "create", "vm": "web-1", "before": None},
        {**line, "time": moment(days=-4), "verb": "throttle", "vm": "web-2", "result": "ok; cpu-quota=50"},
    ]


def capacity(**changes) -> dict:
    """How much room there is."""
    gib = 1 << 30
    return {
        "version": "0.3.0", "size": {"cpus": 1, "memory_mb": 2048, "disk_gb": 20},
        "more_vms": None, "more_vms_at_most": 12, "runs_out_first": ["ipv4"],
        "vmids": {"pool": "100 to 999", "total": 900, "free": 893, "limit": "known", "more_vms": 893},
        "ipv4": {"pool": "192.168.122.200 to 192.168.122.250", "total": 51, "free": 12, "limit": "known", "more_vms": 12},
        "ipv6": {"pool": None, "total": None, "free": None, "limit": "none", "more_vms": None},
        "memory": {"node": "pve", "total_bytes": 64 * gib, "used_bytes": 9 * gib, "promised_bytes": 14 * gib,
                   "vms_not_measured": 0, "refuses": False, "limit": "known", "more_vms": 25},
        "storages": [
            {"storage": "local-lvm", "purposes": ["disks"], "type": "lvmthin", "total_bytes": 500 * gib,
             "used_bytes": 80 * gib, "free_bytes": 420 * gib, "reserve_bytes": 0, "bytes_per_vm": None,
             "limit": "unknown", "more_vms": None, "more_vms_if_disks_fill": 21},
        ],
        "nodes": [{"node": "pve", "status": "online", "memory_bytes": 64 * gib},
                  {"node": "pve2", "status": "offline", "memory_bytes": None}],
        "not_known": ["the size of the template: the API did not answer"], **changes,
    }


class Commands:
    """Stand-ins for our commands in `folder`; each notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def script(self, name: str, text: str) -> None:
        """Shell text that is run in place of a command."""
        # Written aside first: a process that another thread forks meanwhile may hold it open.
        new = self.folder / "new"
        noted = shlex.quote(str(self.folder / f"{name}.calls"))
        new.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "$*" >>{noted}\n{text}\n')
        new.chmod(0o755)
        os.replace(new, self.folder / name)

    def prints(self, name: str, output: bytes, code: int = 0, stderr: bytes = b"") -> None:
        """It prints these bytes."""
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        out.write_bytes(output)
        err.write_bytes(stderr)
        self.script(name, f"cat {shlex.quote(str(out))}; cat {shlex.quote(str(err))} >&2; exit {code}")

    def answers(self, name: str, answer: object, code: int = 0, stderr: str = "") -> None:
        """It prints JSON."""
        self.prints(name, json.dumps(answer).encode(), code, stderr.encode())

    def all_answer(self) -> None:
        """A host on which everything can be told."""
        self.answers(DOCTOR, doctor(), code=2)
        self.answers(CAPACITY, capacity())
        self.answers(LIST, expiring())
        self.answers(AUDIT, audit())

    def calls(self, name: str) -> list[str]:
        """The arguments of each call."""
        noted = self.folder / f"{name}.calls"
        return noted.read_text().splitlines() if noted.exists() else []


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is kept of the test before."""
    monkeypatch.setattr(admin, "reporter", node_report.Reporter())


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """PATH is one folder; in it are our commands, and all of them answer."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    commands = Commands(folder)
    commands.all_answer()
    return commands


@pytest.fixture(scope="session")
def app():
    return create_app()


@pytest.fixture
def client(app):
    with app.test_client() as client:
        with client.session_transaction() as session:
            session["user"] = "alice"
        yield client
