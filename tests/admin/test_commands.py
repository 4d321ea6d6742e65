"""The page with our real commands, on a lab (`cargo build --workspace` makes both)."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from blockhost.provisioner_proxmox import admin, node_report

from conftest import PAGE, ROOT
from test_page import shown

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
WALLET = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B"
SOON = 60


class Lab:
    """A Proxmox node without Proxmox, and its environment in this process."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        self.run("lab", "up", "--dir", str(folder))
        for line in self.run("lab", "env", "--dir", str(folder)).splitlines():
            name, _, value = shlex.split(line.removeprefix("export "))[0].partition("=")
            monkeypatch.setenv(name, value)

    def run(self, program: str, *arguments: str) -> str:
        """Runs a program that must succeed."""
        done = subprocess.run([TARGET / program, *arguments], capture_output=True, text=True, timeout=SOON)
        assert done.returncode == 0, (program, arguments, done.stdout, done.stderr)
        return done.stdout

    def create(self, name: str, *arguments: str) -> list[str]:
        """The arguments of a create."""
        return [f"{TARGET}/blockhost-vm-create", name, "--owner-wallet", WALLET, "--apply", *arguments]


@pytest.fixture
def lab(monkeypatch):
    if not (TARGET / "lab").exists():
        pytest.fail(f"{TARGET}/lab is missing: cargo build --workspace")
    # Not tmp_path: sockets are in it, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        lab = Lab(Path(folder) / "lab", monkeypatch)
        yield lab
        lab.run("lab", "down", "--dir", str(lab.folder))


def page_with(client, *words: tuple[str, str]):
    """The page, once these words stand in these sections."""
    end = time.monotonic() + SOON
    while True:
        admin.reporter = node_report.Reporter()
        page = shown(client)
        missing = [(section, word) for section, word in words if word not in page.text(section)]
        if not missing:
            return page
        assert time.monotonic() < end, (missing, page.sections)


def test_what_the_real_commands_print_is_understood(client, lab):
    page = page_with(client)
    assert "Nothing: database, node and files agree." in page.text("findings")
    assert "VMs checked 0 Creates under way 0 Expired or expiring 0" in page.text("")
    lab.run("blockhost-vm-create", "web-1", "--owner-wallet", WALLET, "--expiry-days", "3", "--apply")
    lab.run("blockhost-vm-stop", "web-1")
    # Another program writes what it likes.
    database = lab.folder / "var" / "vms.json"
    records = json.loads(database.read_text())
    records["vms"]["web-1"].update(owner_wallet="<img src=x onerror=hit=1>", wallet_address="<img src=x onerror=hit=1>")
    database.write_text(json.dumps(records))
    settings = lab.folder / "etc" / "blockhost" / "db.yaml"
    settings.write_text(settings.read_text() + "\nmax_parallel_creates: 1\n")
    lab.run("lab", "ctl", "timing", "boot", "60000")
    creates = []
    try:
        for name in ("web-2", "web-3"):
            creates.append(subprocess.Popen(lab.create(name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            page = page_with(client, ("creates", name))
        page = page_with(client, ("findings", "vm-off"), ("findings", "operation-running"))
        assert "VM web-1 (VMID 100) : " in page.text("findings") and "blockhost-vm-start web-1" in page.text("findings")
        for name, state, create in (("web-2", "running", creates[0]), ("web-3", "waiting", creates[1])):
            words = page.text("creates").split(f"{name} {state} ", 1)[1].split()
            assert words[2] == "ago" and str(create.pid) in words[:7], page.text("creates")
        assert "web-1 in 2 days" in page.text("expiring") and "active 192.168.122." in page.text("expiring")
        assert "<img src=x onerror=hit=1>" in page.text("expiring")
        changes = page.text("changes")
        assert changes.index("web-1 stop active") < changes.index("web-1 create none → active"), changes
        assert not [text for text in page.sections.values() if "Not known: blockhost" in text]
        room = page.text("capacity")
        assert "Counted in VMs with 1 vCPU, 2048 MB memory and 20 GB disk. Runs out first: " in room, room
        for supply in ("VMIDs", "IPv4 addresses", "IPv6 addresses", "Memory promised on", "Storage local-lvm"):
            assert supply in room, (supply, room)
        assert "the command's answer" not in room
    finally:
        for create in reversed(creates):
            create.send_signal(signal.SIGTERM)
        for create in reversed(creates):
            create.wait(SOON)
    page = page_with(client, ("creates", "None runs, none waits."))
    # A database that cannot be read is said, and the trail is still there.
    database.write_text("{")
    page = page_with(client, ("expiring", "vms.json"), ("findings", "database-unreadable"))
    assert "No VM." not in page.text("expiring") and "web-1 stop active" in page.text("changes")
