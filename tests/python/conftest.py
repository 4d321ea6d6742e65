"""The plugin is loaded with the lab's stand-in for the daemon's `_common`."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "crates" / "lab" / "root-agent"))
sys.path.insert(0, str(ROOT / "root-agent-actions"))

import _common  # noqa: E402
import qm  # noqa: E402
from node import Node  # noqa: E402


def make_node(folder, monkeypatch):
    """A fake node in `folder`, with the plugin looking at it."""
    node = Node(folder)
    monkeypatch.setattr(_common, "NODE_ROOT", str(folder))
    monkeypatch.setattr(_common, "CONFIG_DIR", str(node.config_dir))
    monkeypatch.setattr(_common, "run", node.run)
    monkeypatch.setattr(qm, "_spawn_detached", node.spawn_detached)
    monkeypatch.setattr(qm, "_tasks", [])
    monkeypatch.setattr(qm, "_asked", {})
    monkeypatch.setattr(qm, "_last_job", 0)
    monkeypatch.setattr(qm, "time", node.clock)
    monkeypatch.setattr(qm, "ROOT_UID", os.getuid())
    return node


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with our VM 100 `web-1`, stopped."""
    node = make_node(tmp_path / "node", monkeypatch)
    node.add_ours()
    return node


@pytest.fixture
def ask(node):
    """Calls an action by name: ask("qm-start", vmid=100)."""
    return lambda action, **params: qm.ACTIONS[action](params)
