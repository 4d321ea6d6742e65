"""The wizard in a small host application, with stand-ins for the setup command.

The stand-ins are shell scripts in a folder of the test's own that is all of PATH: what is
tested is the real way to the command, a search by name and a process.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
sys.path.insert(0, str(ROOT / "tests" / "wizard" / "host"))
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from app import create_app  # noqa: E402

RESOURCES = {
    "node": "pve",
    "storages": [
        {"name": "local-lvm", "type": "lvmthin", "total_gib": 500, "free_gib": 420, "images": True},
        {"name": "tank", "type": "zfspool", "total_gib": 2000, "free_gib": 1800, "images": True},
        {"name": "local", "type": "dir", "total_gib": 90, "free_gib": 60, "images": False},
    ],
    "bridges": [
        {"name": "vmbr0", "address": "192.168.122.1/24"},
        {"name": "vmbr1", "address": None},
    ],
    "wan_address": "203.0.113.5",
    "template": {"vmid": 9001, "name": "debian-12-web3-template", "is_template": True},
    "network": {
        "ip_network": "192.168.122.0/24",
        "gateway": "192.168.122.1",
        "ip_start": "192.168.122.200",
        "ip_end": "192.168.122.250",
    },
    "used_vmids": [100, 101],
}

# What the page posts when nothing is changed on it.
PAGE_FORM = {
    "pve_node": "pve",
    "pve_storage": "local-lvm",
    "pve_bridge": "vmbr0",
    "pve_user": "blockhost@pve",
    "template_vmid": "9001",
    "vmid_start": "100",
    "vmid_end": "999",
    "ip_network": "192.168.122.0/24",
    "ip_start": "192.168.122.200",
    "ip_end": "192.168.122.250",
    "gateway": "192.168.122.1",
    "gc_grace_days": "7",
}

STORED = {
    "node": "pve",
    "storage": "local-lvm",
    "bridge": "vmbr0",
    "user": "blockhost@pve",
    "template_vmid": 9001,
    "vmid_start": 100,
    "vmid_end": 999,
    "ip_network": "192.168.122.0/24",
    "ip_start": "192.168.122.200",
    "ip_end": "192.168.122.250",
    "gateway": "192.168.122.1",
    "gc_grace_days": 7,
    "terraform_dir": "/var/lib/blockhost/terraform",
}


def found(**changes) -> dict:
    """The answer of detect-resources, with some resources changed."""
    return {"ok": True, "error": None, "resources": {**RESOURCES, **changes}}


class SetupCommand:
    """A stand-in for blockhost-provisioner-setup in `folder`; it notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "blockhost-provisioner-setup"

    def script(self, text: str) -> None:
        """Shell text that is run in its place."""
        # Written aside first: a process that another thread forks meanwhile may hold it open.
        new = self.folder / "new"
        new.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
        new.chmod(0o755)
        os.replace(new, self.path)

    def answers(self, answer: object, code: int = 0, stderr: str = "") -> None:
        """Reads stdin, answers with one line of JSON."""
        self.script(
            f"cat >{shlex.quote(str(self.folder / 'stdin'))}\n"
            f"printf '%s\\n' \"$@\" >>{shlex.quote(str(self.folder / 'calls'))}\n"
            f"tr '\\0' ' ' </proc/$$/cmdline >{shlex.quote(str(self.folder / 'argv'))}\n"
            f"printf '%s\\n' {shlex.quote(stderr)} >&2\n"
            f"printf '%s\\n' {shlex.quote(json.dumps(answer))}\nexit {code}"
        )

    def calls(self) -> list[str]:
        """The steps it was asked for."""
        noted = self.folder / "calls"
        return noted.read_text().splitlines() if noted.exists() else []

    def stdin(self) -> object:
        """What it was given last."""
        return json.loads((self.folder / "stdin").read_text())


@pytest.fixture
def setup_command(tmp_path, monkeypatch):
    """PATH is one folder; nothing is in it before the test puts it there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return SetupCommand(folder)


@pytest.fixture(scope="session")
def app():
    return create_app()


@pytest.fixture
def client(app):
    with app.test_client() as client:
        yield client


def stored(client) -> object:
    """What the page has put into the session."""
    with client.session_transaction() as session:
        return session.get("proxmox")
