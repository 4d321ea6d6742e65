"""vm-state, and how the node's files are read."""

import ast
import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import _common
import qm
from node import OTHER_UUID, UUID

STATE_KEYS = {
    "exists",
    "node",
    "running",
    "paused",
    "name",
    "uuid",
    "description",
    "lock",
    "onboot",
    "template",
}


def test_the_plugin_is_python_3_10():
    source = Path(qm.__file__).read_text()
    ast.parse(source, feature_version=(3, 10))


def test_the_plugin_imports_the_standard_library_and_common_only():
    tree = ast.parse(Path(qm.__file__).read_text())
    names = set()
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            names |= {alias.name.split(".")[0] for alias in item.names}
        elif isinstance(item, ast.ImportFrom):
            names.add(item.module.split(".")[0])
    assert names <= set(sys.stdlib_module_names) | {"_common"}


def test_the_actions_are_those_of_the_contract():
    assert set(qm.ACTIONS) == {
        "vm-state", "vm-find", "vm-adopt", "guest-list", "host-inventory", "volume-list", "volume-free", "qm-start", "qm-stop", "qm-shutdown", "qm-resume", "qm-destroy", "qm-create", "qm-set",
        "qm-importdisk", "qm-template", "qm-guest-ping", "qm-guest-exec", "qm-guest-exec-status",
        "qm-update-gecos", "guest-route-add", "guest-route-del", "snippet-put", "snippet-delete", "pve-set-throttle",
        "tc-rate-limit", "guard-set", "guard-clear", "guard-remove",
    }  # fmt: skip


def test_state_of_a_stopped_guest(node, ask):
    node.edit(100, lambda text: text + "onboot: 1\nlock: backup\n")
    assert ask("vm-state", vmid=100)["protection"] is False
    node.edit(100, lambda text: text + "protection: 1\n")
    answer = ask("vm-state", vmid=100)
    assert answer["protection"] is True
    assert STATE_KEYS <= set(answer)
    assert answer["ok"] and answer["exists"] and answer["node"] == "pve"
    assert answer["running"] is False and answer["paused"] is False
    assert (answer["name"], answer["uuid"], answer["lock"]) == ("web-1", UUID, "backup")
    assert answer["description"] == f"BlockHost VM web-1 {UUID}"
    assert answer["onboot"] is True and answer["template"] is False
    assert node.calls == []


def test_state_of_a_running_guest_starts_no_process(node, ask):
    node.start(100)
    answer = ask("vm-state", vmid=100)
    assert answer["running"] is True and answer["paused"] is None
    assert node.calls == []


@pytest.fixture
def short_root(node, monkeypatch):
    """The node's folder under a name short enough for a socket's (108 bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "n"
        link.symlink_to(node.root)
        monkeypatch.setattr(_common, "NODE_ROOT", str(link))
        yield link


def monitor(root, vmid, lines):
    """QEMU's monitor for one client: the greeting, then the next of `lines` for each line it reads."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(root / f"run/qemu-server/{vmid}.qmp"))
    listener.listen(1)

    def serve():
        client, _ = listener.accept()
        with contextlib.suppress(OSError), client, client.makefile("rb") as reader:
            client.sendall(b'{"QMP": {}}\r\n')
            for line in lines:
                if not reader.readline():
                    return
                client.sendall(line)
            reader.readline()
        listener.close()

    threading.Thread(target=serve, daemon=True).start()


@pytest.mark.parametrize(
    ("status", "paused"), [("running", False), ("paused", True), ("io-error", True), ("prelaunch", True)]
)
def test_qemu_itself_says_whether_a_guest_is_paused(node, ask, short_root, status, paused):
    node.start(100)
    event = b'{"event": "RTC_CHANGE", "data": {}}\r\n'
    monitor(short_root, 100, [b'{"return": {}}\r\n' + event, b'{"return": {"status": "%s"}}\r\n' % status.encode()])
    answer = ask("vm-state", vmid=100)
    assert answer["running"] is True and answer["paused"] is paused
    assert node.calls == []


@pytest.mark.parametrize("lines", [[], [b"rubbish\n"], [b'{"return": {}}\n', b'{"return": 7}\n'], [b"[" * 70000]])
def test_h23_a_monitor_that_is_silent_or_talks_rubbish_is_not_waited_for(node, ask, short_root, monkeypatch, lines):
    monkeypatch.setattr(qm, "time", time)
    monkeypatch.setattr(qm, "QMP_PATIENCE", 0.05)
    node.start(100)
    monitor(short_root, 100, lines)
    answer = ask("vm-state", vmid=100)
    assert answer["running"] is True and answer["paused"] is None


def test_state_of_a_missing_guest(node, ask):
    answer = ask("vm-state", vmid=101)
    assert answer["ok"] and answer["exists"] is False and answer["running"] is False
    assert STATE_KEYS <= set(answer)


@pytest.mark.parametrize(
    "pid, command",
    [
        (4711, "/usr/bin/kvm\0-id\0" + "1001\0"),
        (4711, "/usr/bin/kvm\0-id\0" + "10\0"),
        (4711, "/usr/bin/sleep\0" + "100\0"),
        (4711, ""),
        (4711, "\0"),
    ],
)
def test_a_pid_of_another_process_is_not_the_guest(node, ask, pid, command):
    node.start(100, pid, command or "\0")
    assert ask("vm-state", vmid=100)["running"] is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "1/../4711",
        "99999999999",
        "x",
        "4711 4711",
        "\udc80".encode("utf-8", "surrogateescape"),
    ],
)
def test_a_broken_pid_file_is_no_guest(node, ask, text):
    node.start(100)
    path = node.root / "run/qemu-server/100.pid"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert ask("vm-state", vmid=100)["running"] is False


def test_description_is_decoded_and_smbios_is_read_around_base64(node, ask):
    node.add(
        102,
        "#first%3A line%0Aof gr%C3%BCn\n#second\nname: a\n"
        f"smbios1: base64=1,manufacturer=Zm9v,uuid={OTHER_UUID.upper()}\nonboot: 0\n",
    )
    answer = ask("vm-state", vmid=102, uuid=OTHER_UUID)
    assert answer["description"] == "", "notes of other people are not told"
    assert answer["uuid"] == OTHER_UUID
    assert answer["onboot"] is False


def test_a_snapshot_is_not_the_configuration(node, ask):
    node.edit(
        100,
        lambda text: (
            text + f"\n[before-upgrade]\n#old\nname: old\nsmbios1: uuid={OTHER_UUID}\nlock: x\ntemplate: 1\n"
        ),
    )
    answer = ask("vm-state", vmid=100)
    assert (answer["name"], answer["uuid"], answer["lock"], answer["template"]) == (
        "web-1",
        UUID,
        None,
        False,
    )
    assert "old" not in answer["description"]


def test_a_guest_of_another_node(node, ask):
    node.add(103, "", node="pve2", here=False)
    folder = node.root / "etc/pve/nodes/pve2/qemu-server"
    folder.mkdir(parents=True)
    (folder / "103.conf").write_text("name: far\n")
    answer = ask("vm-state", vmid=103)
    assert answer["ok"] and answer["exists"] and answer["node"] == "pve2" and answer["here"] is False
    assert answer["running"] is None and answer["name"] == "far"


def test_a_container_takes_the_vmid(node, ask):
    node.add(104, "", kind="lxc", here=False)
    answer = ask("vm-state", vmid=104)
    assert answer["exists"] and answer["type"] == "lxc"


def test_h49_an_unmounted_etc_pve_is_an_error(node, ask):
    for path in (node.root / "etc/pve").rglob("*"):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
    node.qemu.rmdir()
    answer = ask("vm-state", vmid=100)
    assert answer["ok"] is False and answer["code"] == "failed" and "not mounted" in answer["error"]
    (node.root / "etc/pve").rmdir()
    answer = ask("vm-state", vmid=100)
    assert answer["ok"] is False and "not mounted" in answer["error"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "null",
        '{"version":1}',
        '{"ids":[]}',
        '{"ids":null}',
        '{"ids":{"100":7}}',
        '{"ids":{"100":{}}}',
        '{"ids":{"100":{"node":5}}}',
        "\xff",
        "[" * 100000,
    ],
)
def test_h49_a_broken_list_is_an_error_not_an_absence(node, ask, text):
    path = node.root / "etc/pve/.vmlist"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode("latin-1"))
    answer = ask("vm-state", vmid=100)
    assert answer["ok"] is False and answer["code"] == "failed"
    assert "exists" not in answer


def test_h49_listed_here_without_a_configuration_is_an_error(node, ask):
    (node.qemu / "100.conf").unlink()
    answer = ask("vm-state", vmid=100)
    assert answer["ok"] is False and answer["code"] == "failed"


def test_h49_a_configuration_that_no_list_names_exists(node, ask):
    (node.qemu / "150.conf").write_text("name: new\n")
    answer = ask("vm-state", vmid=150)
    assert answer["exists"] is True and answer["name"] == "new"


def test_h28_configuration_links_are_not_followed(node, ask, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("name: stolen\n")
    (node.qemu / "100.conf").unlink()
    os.symlink(secret, node.qemu / "100.conf")
    answer = ask("vm-state", vmid=100)
    assert answer["ok"] is False and "stolen" not in json.dumps(answer)


@pytest.mark.parametrize(
    "vmid", [None, "100", 100.0, True, 99, 0, -100, 1000000, 10**30, [100], {"vmid": 100}]
)
@pytest.mark.parametrize(
    "action", sorted(
        set(qm.ACTIONS)
        - {"guest-list", "vm-find", "snippet-put", "snippet-delete", "tc-rate-limit", "guard-remove"}
        - {"host-inventory", "volume-list", "volume-free"}
    )
)
def test_h28_a_vmid_is_an_integer_in_range(node, ask, action, vmid):
    answer = ask(action, vmid=vmid, uuid=UUID, timeout=5, anti_spoofing=True, isolate=True)
    assert answer["ok"] is False and answer["code"] == "failed"
    assert node.calls == []


@pytest.mark.parametrize("params", [None, [], "vmid", 5])
@pytest.mark.parametrize("action", sorted(qm.ACTIONS))
def test_h28_parameters_are_an_object(node, action, params):
    answer = qm.ACTIONS[action](params)
    assert answer["ok"] is False and node.calls == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("vmid_range:\n  start: 100\n  end: 999\n", (100, 999)),
        ("---\n# c\nvmid_range:   # ours\n    end: '300' # x\n\n    start: 200\nother: 1\n", (200, 300)),
        ("vmid_pool: {start: 100, end: 200}\n", (100, 200)),
        ('"vmid_range": {"start": 100, "end": 200,}\n', (100, 200)),
        ("vmid_range: {start: 100,\n   end: 200}\n", (100, 200)),
        ("fields:\n  vmid_range: {start: 1, end: 2}\nvmid_range: {start: 100, end: 200}\n", (100, 200)),
        ("vmid_pool: {start: 500, end: 600}\nvmid_range: {start: 100, end: 200}\n", (100, 200)),
        ("\ufeffvmid_range:\r\n  start: 100\r\n  end: 999\r\n", (100, 999)),
    ],
)
def test_db_yaml_forms(node, text, expected):
    node.db(text)
    settings = qm._settings()
    assert (settings.get("vmid_range") or settings["vmid_pool"]) == expected


def test_vmid_range_comes_before_vmid_pool(node, ask):
    node.db("vmid_pool: {start: 500, end: 600}\nvmid_range: {start: 100, end: 200}\n")
    assert ask("qm-start", vmid=100)["ok"]
    assert ask("qm-start", vmid=500)["code"] == "range"


def test_h28_text_that_is_no_unicode(node, ask):
    answer = ask("qm-start", vmid=100, name="web\ud800")
    assert answer["ok"] is False and answer["error"] == "name is not valid Unicode text"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vmid_range:\n",
        "vmid_range: null\n",
        "vmid_range: 100-999\n",
        "vmid_range: {start: 0100, end: 999}\n",
        "vmid_range: {start: 100, end: lots}\n",
        "vmid_range: {start: 999, end: 100}\n",
        "vmid_range: {start: 100}\n",
        "vmid_range: &a {start: 100, end: 999}\n",
        "vmid_range: [100, 999]\n",
        " vmid_range: {start: 100, end: 999}\n",
        "template_vmid: many\nvmid_range: {start: 100, end: 999}\n",
        "snippet_storage: ../x\nvmid_range: {start: 100, end: 999}\n",
        None,
        "\x00\xff",
    ],
)
def test_h47_without_a_certain_range_nothing_is_ours(node, ask, text):
    if text is None:
        (node.config_dir / "db.yaml").unlink()
    else:
        (node.config_dir / "db.yaml").write_bytes(text.encode("latin-1"))
    answer = ask("qm-destroy", vmid=100, uuid=UUID)
    assert answer["ok"] is False and answer["code"] in ("range", "failed") and node.calls == []


def _port(node, dev, master, isolated=None):
    folder = node.root / "sys/class/net" / dev
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "master").unlink(missing_ok=True)
    if master:
        (folder / "master").symlink_to(f"../{master}")
    if isolated is not None:
        (folder / "brport").mkdir(exist_ok=True)
        (folder / "brport/isolated").write_text(f"{isolated}\n")


def test_h54_the_port_is_told_as_the_kernel_has_it(node, ask):
    def port():
        answer = ask("vm-state", vmid=100)
        return answer["connected"], answer["isolated"], answer["port"]

    node.add_ours(more="net0: virtio=BC:24:11:00:00:01,bridge=vmbr0\n")
    assert "connected" not in ask("vm-state", vmid=100), "off"
    node.start(100)
    assert port() == (False, None, None), "no tap yet"
    _port(node, "tap100i0", None)
    assert port() == (False, None, None), "a tap that is no port yet"
    _port(node, "tap100i0", "vmbr0", 0)
    assert port() == (True, False, "tap100i0")
    _port(node, "tap100i0", "vmbr0", 1)
    assert port() == (True, True, "tap100i0")
    # Between tap and bridge: the firewall's own bridge.
    _port(node, "tap100i0", "fwbr100i0", 1)
    assert port() == (False, None, None)
    _port(node, "fwpr100p0", "vmbr0", 0)
    assert port() == (True, False, "fwpr100p0")
    node.edit(100, lambda text: "\n".join(line for line in text.split("\n") if not line.startswith("net0")))
    assert port() == (None, None, None), "no card"
    assert node.calls == []


def test_h54_a_bridge_that_is_none_of_the_kernels_does_not_tell(node, ask):
    node.add_ours(more="net0: virtio=BC:24:11:00:00:01,bridge=ovs0\n")
    node.start(100)
    _port(node, "tap100i0", "ovs-system")
    answer = ask("vm-state", vmid=100)
    assert (answer["connected"], answer["isolated"]) == (True, None)


def test_h55_the_list_of_guests_tells_who_holds_what_and_no_secret_of_strangers(node, ask):
    """What a create must not hand out, and no UUID by which a stranger's VM could be acted on."""
    node.edit(100, lambda text: f"{text}ipconfig0: ip=10.0.0.7/24,gw=10.0.0.1,ip6=fd00::7/64\n")
    node.add(101, f"name: theirs\nsmbios1: uuid={OTHER_UUID}\nipconfig1: gw=10.0.0.1,ip=10.0.0.8/24\nipconfig2: ip=dhcp,ip6=auto\n")
    nodes = Path(_common.NODE_ROOT) / "etc/pve/nodes"
    node.add(5000, "", node="other", here=False)
    (nodes / "other/qemu-server").mkdir(parents=True, exist_ok=True)
    (nodes / "other/qemu-server/5000.conf").write_text(
        "name: far\nipconfig0: ip=10.0.0.9/24\n[PENDING]\nipconfig0: ip=10.0.0.10/24\n[old]\nipconfig0: ip=10.0.0.11/24\n"
    )
    node.add(5001, "", kind="lxc", here=False)
    lxc = Path(_common.NODE_ROOT) / "etc/pve/lxc"
    lxc.mkdir(exist_ok=True)
    (lxc / "5001.conf").write_text(
        "hostname: ct\nnet0: name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.12/24,type=veth\n"
    )
    (Path(_common.NODE_ROOT) / "etc/pve/.members").write_text(
        json.dumps({"nodename": "pve", "nodelist": {"pve": {"id": 1, "online": 1, "ip": "10.0.0.2"}}})
    )
    answer = ask("guest-list")
    assert answer["ok"] is True
    assert [(g["vmid"], g["name"], g["uuid"]) for g in answer["guests"]] == [(100, "web-1", UUID.lower()), (101, None, None)]
    assert set(answer["addresses"]) == {
        "10.0.0.2", "10.0.0.7", "fd00::7", "10.0.0.8", "10.0.0.9", "10.0.0.10", "10.0.0.12",
    }  # fmt: skip
    assert OTHER_UUID not in json.dumps(answer) and "theirs" not in json.dumps(answer)


def test_h49_the_list_of_guests_of_an_unmounted_node_is_an_error(node, ask):
    (Path(_common.NODE_ROOT) / "etc/pve/.vmlist").unlink()
    assert ask("guest-list")["ok"] is False


def test_notes_of_other_guests_are_not_told(node, ask):
    mark = f"BlockHost VM web-1 {UUID}"
    for vmid, notes in enumerate(["root password: x", "BlockHost VM web-1", f"{mark} x", f"x%0A{mark}"], 110):
        node.add(vmid, f"#{notes}\nname: a\n")
        assert ask("vm-state", vmid=vmid)["description"] == "", notes
    node.add(120, f"#{mark}%0Aand a password\nname: a\n")
    assert ask("vm-state", vmid=120)["description"] == mark
