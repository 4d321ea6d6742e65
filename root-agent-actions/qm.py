"""Actions of the root agent for the VMs of the Proxmox provisioner.

The root agent of blockhost-common imports this file, merges ``ACTIONS`` and
calls one handler at a time, as root, inside its event loop.  Four rules follow
from that and hold for everything below:

1.  **One lane.**  A handler that waits stops every other VM operation of the
    host, and each ``qm`` starts Perl (about 0.6 s).  So a handler triggers and
    returns; whoever asked polls ``vm-state``, which starts no process at all.
    What may take long runs detached: ended within ``PATIENCE`` it is answered
    with its result, else with ``"pending": true``, and ``vm-state`` tells under
    ``task`` how it ended.
2.  **Hostile parameters.**  The asker is user blockhost, not root.  Types,
    ranges and allow-lists are checked before anything is done; no shell on the
    host; no value can become an option; no path leaves its folder.
3.  **Only ours.**  VMIDs of ``vmid_range`` (db.yaml) that are no templates, and
    the guest behind the VMID proves in the same request that it is the one that
    is meant (SMBIOS UUID, our description, or for old records the name).
4.  **Never an exception.**  Refusals are ``{"ok": false, "code", "error"}`` with
    code identity, missing, elsewhere, locked, range or failed.

There are two doors to other processes, ``_common.run`` and ``_spawn_detached``;
nothing else here starts one.  Node files are read below ``_common.NODE_ROOT``
and db.yaml in ``_common.CONFIG_DIR`` where the daemon sets these (tests and the
lab do), else below ``/`` and in ``/etc/blockhost``.

Facts about qm come from PVE's own source, versions 8 and 9: only zero or
non-zero of its exit code means anything, and for some subcommands not even that.

Python 3.10 or newer, standard library and ``_common`` only.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
import json
import os
import re
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import _common

# Seconds that a detached tool is waited for before the answer is "pending".
PATIENCE = 3.0
# Seconds that a tool may take which is run in the lane (one `qm` took up to 4.6 s on a busy node).
LANE = 5.0
# Seconds of the lane that one request to a guest's agent takes while `qm` is slow; what has not
# answered by then goes on, and is asked about as a `job`.
AGENT_LANE = 4.0
# `qm guest` that go on or were not asked about, and the seconds after which one is given up.
JOBS_MAX = 16
JOB_LIFE = 120.0
# What the daemon's frame, a person and a log can bear of a tool's words.
ERROR_MAX = 2000
# Seconds that QEMU may take to say whether a guest is paused.
QMP_PATIENCE = 0.2
# Bytes of a guest command's stdout, and of its stderr, that are passed on.
OUTPUT_MAX = 1024 * 1024
# Bytes of JSON that each of them may become: both and the rest fit into a frame of 10 MiB.
OUTPUT_JSON_MAX = 4 * 1024 * 1024
# Bytes of a command for the guest's shell (Linux takes 128 KiB per argument).
COMMAND_MAX = 64 * 1024
# Bytes of a snippet; Proxmox reads no more of one.
SNIPPET_MAX = 1024 * 1024
# Snippets of ours in all, two of each VM, and their bytes.
SNIPPETS_MAX = 20_000
SNIPPETS_SIZE_MAX = 512 * 1024 * 1024
# Owner of files that are trusted.
ROOT_UID = 0
# The guests' bridge where db.yaml does not set `bridge`.
GUEST_BRIDGE = "vmbr0"
# VMID of the template where db.yaml does not set `template_vmid`.
TEMPLATE_VMID = 9001


# --- refusing -----------------------------------------------------------------


class Refusal(Exception):
    """An answer `{"ok": false}`; `fields` are added to it."""

    def __init__(self, code: str, error: str, **fields: Any) -> None:
        super().__init__(error)
        self.code = code
        self.fields = fields


def _printable(text: object, limit: int = ERROR_MAX) -> str:
    """At most `limit` characters, none that could move a terminal's cursor or break an encoding."""
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text)[:limit])
    return shown.strip()


def _handler(function):
    """Turns a function that returns fields or raises into a handler that always answers."""

    @functools.wraps(function)
    def answer(params: Any) -> dict:
        try:
            if not isinstance(params, dict):
                raise Refusal("failed", "the parameters are not an object")
            _reap()
            return {"ok": True, **function(params)}
        except Refusal as refusal:
            return {
                "ok": False,
                "code": refusal.code,
                "error": _printable(refusal),
                **refusal.fields,
            }
        except Exception as error:  # an exception would be answered without a code
            _common.log.exception("%s failed", function.__name__)
            text = f"{type(error).__name__}: {error}"
            return {"ok": False, "code": "failed", "error": _printable(text)}

    return answer


# --- parameters -----------------------------------------------------------------

UUID_RE = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
NAME_RE = re.compile(rf"(?=.{{1,63}}\Z){LABEL}(?:\.{LABEL})*")
STORAGE = r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]"
STORAGE_RE = re.compile(rf"(?=.{{2,100}}\Z){STORAGE}")
ADDRESS_RE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
BRIDGE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"
TAP_RE = re.compile(r"tap([1-9][0-9]{2,5})i([0-9]|[12][0-9]|3[01])")
USER_RE = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
GECOS_RE = re.compile(r"wallet=[A-Za-z0-9_]{1,128},nft=(?:[0-9]{1,78}|[0-9A-Fa-f]{1,64})")


def _text(params: dict, key: str, pattern: re.Pattern | None = None) -> str:
    """A string that matches `pattern` whole."""
    value = params.get(key)
    if not isinstance(value, str):
        raise Refusal("failed", f"{key} must be a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal("failed", f"{key} is not valid Unicode text") from None
    if pattern is not None and not pattern.fullmatch(value):
        raise Refusal("failed", f"{key} {_shown(value)} is not allowed")
    return value


def _shown(value: Any) -> str:
    """A refused value for the error, short."""
    if isinstance(value, str):
        return _printable(repr(value[:60]))
    return str(value) if type(value) is int and abs(value) < 10**12 else f"a {type(value).__name__}"


def _integer(params: dict, key: str, low: int, high: int, default: int | None = None) -> int:
    """An integer from `low` to `high`; booleans and digit strings are none."""
    value = params.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise Refusal("failed", f"{key} must be an integer from {low} to {high}, not {_shown(value)}")
    return value


def _vmid(params: dict) -> int:
    vmid = _integer(params, "vmid", 100, 999999)
    _common.validate_vmid(vmid)
    return vmid


def _flag(value: Any, key: str) -> str:
    """Proxmox' `0` or `1` of a JSON boolean or of the numbers 0 and 1."""
    if isinstance(value, (bool, int)) and value in (0, 1):
        return str(int(value))
    raise Refusal("failed", f"{key} must be true or false")


def _number(value: Any, key: str, low: float, high: float) -> float:
    # NaN is not between anything.
    if type(value) not in (int, float) or not low <= value <= high:
        raise Refusal("failed", f"{key} must be a number from {low:g} to {high:g}")
    return float(value)


# --- files of the node --------------------------------------------------------------


def _node_path(path: str) -> Path:
    return Path(getattr(_common, "NODE_ROOT", "/")) / path.lstrip("/")


def _read(path: Path, limit: int, follow: bool = False) -> bytes:
    """A regular file of at most `limit` bytes; OSError where there is none."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} is larger than {limit} bytes")
    return content


def _settings() -> dict[str, Any]:
    """The keys of db.yaml that are needed here: `vmid_range`, `vmid_pool`, `template_vmid`, `snippet_storage`, `bridge`, `ip_pool`.

    PyYAML is no dependency of the daemon, so this understands only what those keys
    look like: a scalar, a block mapping, a flow mapping.  Anything else of one of
    these keys is an error, as is a file that cannot be read: then nothing is ours.
    """
    path = Path(getattr(_common, "CONFIG_DIR", "/etc/blockhost")) / "db.yaml"
    try:
        lines = _read(path, 1024 * 1024, follow=True).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal("failed", f"{path} cannot be read: {error}") from None
    return _parse_settings(lines, str(path))


def _parse_settings(lines: list[str], path: str) -> dict[str, Any]:
    wanted = ("vmid_range", "vmid_pool", "template_vmid", "snippet_storage", "bridge", "ip_pool")
    found: dict[str, str] = {}
    key = None
    for line in lines:
        bare = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if not bare.strip():
            continue
        if not bare[0].isspace():
            match = re.fullmatch(r"""(["']?)([A-Za-z_][A-Za-z0-9_]*)\1\s*:(?:\s+(.*))?""", bare)
            key = match.group(2) if match else None
            if match and key in wanted:
                found[key] = match.group(3) or ""
        elif key in wanted:
            found[key] += "\n" + bare.strip()
    result: dict[str, Any] = {}
    for key, text in found.items():
        if text.strip() in ("", "~", "null"):
            continue
        if key in ("vmid_range", "vmid_pool"):
            result[key] = _yaml_bounds(text)
        elif key == "ip_pool":
            # Only a guard needs it: what is not understood is said there.
            result[key] = _yaml_pairs(text) or {}
        elif key == "template_vmid":
            result[key] = _yaml_integer(text)
        elif key == "bridge":
            result[key] = text.strip().strip("\"'")
            if not re.fullmatch(BRIDGE, result[key]):
                raise Refusal("failed", f"{path}: {key} is not a network device: {_shown(text)}")
        else:
            result[key] = text.strip().strip("\"'")
            if not STORAGE_RE.fullmatch(result[key]):
                raise Refusal("failed", f"{path}: {key} is not a storage: {_shown(text)}")
        if result[key] is None:
            raise Refusal("range", f"{path}: {key} is not understood: {_shown(text)}")
    return result


def _yaml_bounds(text: str) -> tuple[int, int] | None:
    """`start` and `end` of a flow or block mapping; None where that is not certain."""
    pairs = _yaml_pairs(text)
    if pairs is None:
        return None
    start, end = (_yaml_integer(pairs.get(key, "")) for key in ("start", "end"))
    return (start, end) if start is not None and end is not None and start <= end else None


def _yaml_pairs(text: str) -> dict[str, str] | None:
    """Keys and the text of their values of a flow or block mapping of one level; None where that is not certain."""
    flow = re.fullmatch(r"\s*\{(.*?),?\s*\}\s*", text, re.DOTALL)
    pairs = {}
    for pair in flow.group(1).split(",") if flow else text.strip().split("\n"):
        match = re.fullmatch(r"""\s*["']?(\w+)["']?\s*:(?:\s+(.*?))?\s*""", pair, re.DOTALL)
        if match is None:
            return None
        pairs[match.group(1)] = match.group(2) or ""
    return pairs


def _yaml_integer(text: str) -> int | None:
    """YAML 1.1 reads a leading zero as octal: such a number is not guessed at."""
    match = re.fullmatch(r"""\s*(["']?)([1-9][0-9]{0,8})\1\s*""", text)
    return int(match.group(2)) if match else None


# --- guests -------------------------------------------------------------------------


def _smbios_uuid(smbios: str) -> str | None:
    """The UUID in `smbios1`, lower case. `base64=1` concerns the other fields only."""
    for part in smbios.split(","):
        key, _, value = part.strip().partition("=")
        if key == "uuid" and UUID_RE.fullmatch(value):
            return value.lower()
    return None


class Guest(NamedTuple):
    """A VMID that is in use in the cluster."""

    vmid: int
    # Its node, None where a configuration exists that no list names yet.
    node: str | None
    # Its configuration lies on this node.
    here: bool
    # `qemu` or `lxc`.
    kind: str
    # `key: value` of the part that counts, and of `[PENDING]`.
    config: dict[str, str]
    pending: dict[str, str]
    description: str

    @property
    def uuid(self) -> str | None:
        """SMBIOS UUID, lower case."""
        return _smbios_uuid(self.config.get("smbios1", ""))

    @property
    def name(self) -> str | None:
        return self.config.get("name")

    @property
    def template(self) -> bool:
        return self.config.get("template", "0") == "1"

    @property
    def lock(self) -> str | None:
        return self.config.get("lock")

    @property
    def mark(self) -> str:
        """Our own line of a description, by which a VM is known whose create was killed; nothing of anybody else's notes.

        Notes hold what people write there, passwords too, and user blockhost may ask about guests of others.
        """
        line = self.description.split("\n")[0]
        words = line.split(" ")
        ours = len(words) == 4 and words[:2] == ["BlockHost", "VM"]
        ours = ours and bool(NAME_RE.fullmatch(words[2]) and UUID_RE.fullmatch(words[3]))
        return line if ours and self.kind == "qemu" else ""

    @property
    def told_uuid(self) -> str | None:
        """Its UUID where its mark tells it already. Another's is the key to act on it, and is not told."""
        return self.uuid if self.mark and self.mark.split(" ")[3].lower() == self.uuid else None

    def found(self) -> dict:
        """What is told of a guest that is not the one that was meant."""
        return {"name": self.name, "uuid": self.told_uuid}


def _parse_config(text: str) -> tuple[dict[str, str], dict[str, str], str]:
    """The current part, the pending part and the description of a guest's configuration."""
    sections: dict[str, dict[str, str]] = {"": {}}
    section, description = "", []
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip()
            sections.setdefault(section, {})
        elif line.startswith("#"):
            if section == "":
                description.append(unquote(line[1:], errors="replace"))
        elif match := re.fullmatch(r"([a-z][a-z0-9_-]*):\s*(.*?)\s*", line):
            sections[section][match.group(1)] = match.group(2)
    current = sections[""]
    if not description and "description" in current:
        description.append(unquote(current["description"], errors="replace"))
    return current, sections.get("[PENDING]", {}), "\n".join(description).rstrip("\n")


def _vmlist() -> dict[str, Any]:
    """`ids` of the cluster's list. An empty /etc/pve is a node that cannot be asked, not an empty node."""
    pve = _node_path("/etc/pve")
    try:
        if not os.listdir(pve):
            raise Refusal("failed", f"{pve} is not mounted")
    except FileNotFoundError:
        raise Refusal("failed", f"{pve} is not mounted") from None
    except OSError as error:
        raise Refusal("failed", f"{pve} cannot be read: {error}") from None
    path = pve / ".vmlist"
    try:
        ids = json.loads(_read(path, 16 * 1024 * 1024))["ids"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal("failed", f"{path} cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(ids, dict) or not all(isinstance(entry, dict) for entry in ids.values()):
        raise Refusal("failed", f"{path} has no list of guests")
    return ids


def _guest(vmid: int) -> Guest | None:
    """What the cluster has at this VMID; None when it is in no node's list."""
    entry = _vmlist().get(str(vmid))
    here = _read_config(_node_path(f"/etc/pve/qemu-server/{vmid}.conf"))
    if entry is None and here is None:
        return None
    node, kind = (entry or {}).get("node"), (entry or {}).get("type", "qemu")
    if entry is not None and not (isinstance(node, str) and isinstance(kind, str)):
        raise Refusal("failed", f"the cluster's list of guests names no node for VMID {vmid}")
    text = here
    if text is None and kind == "qemu":
        if node == _own_node():
            raise Refusal(
                "failed", f"VMID {vmid} is listed but has no configuration: it is being made or removed"
            )
        if re.fullmatch(LABEL, node):
            text = _read_config(_node_path(f"/etc/pve/nodes/{node}/qemu-server/{vmid}.conf"))
    config, pending, description = _parse_config(text or "")
    return Guest(vmid, node, here is not None, kind, config, pending, description)


def _read_config(path: Path) -> str | None:
    try:
        return _read(path, 1024 * 1024).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refusal("failed", f"{path} cannot be read: {error}") from None


def _own_node() -> str | None:
    try:
        return os.path.basename(os.readlink(_node_path("/etc/pve/local")))
    except OSError:
        return None


def _running(vmid: int) -> bool:
    """The PID of the PID file is alive and its command line is that of this VMID (PIDs are used again)."""
    try:
        pid = _read(_node_path(f"/run/qemu-server/{vmid}.pid"), 64).decode("ascii").strip()
        if not re.fullmatch(r"[1-9][0-9]{0,9}", pid):
            return False
        words = _read(_node_path(f"/proc/{pid}/cmdline"), 1024 * 1024).split(b"\0")
    except (OSError, UnicodeDecodeError):
        return False
    return (b"-id", str(vmid).encode()) in zip(words, words[1:])


def _port(guest: Guest) -> dict[str, Any]:
    """Whether the first card is a port of its bridge yet, and isolated there, as the kernel's own files say.

    QEMU runs half a second to many seconds before its tap is a port, and a tap that is plugged
    again has lost its isolation.  With the firewall's bridge between them the port is another
    device.  None: there is no card, or the bridge is none of the kernel's.
    """
    nothing = {"connected": None, "isolated": None, "port": None}
    net0 = guest.config.get("net0")
    if net0 is None:
        return nothing
    for dev in (f"fwpr{guest.vmid}p0", f"tap{guest.vmid}i0"):
        folder = _node_path(f"/sys/class/net/{dev}")
        try:
            master = os.path.basename(os.readlink(folder / "master"))
        except OSError:
            continue
        if master.startswith("fwbr"):
            break
        try:
            # sysfs shows values through files that are no links; the folder itself is one.
            isolated = _read(folder / "brport" / "isolated", 64).strip() == b"1"
        except OSError:
            isolated = None
        return {"connected": True, "isolated": isolated, "port": dev}
    return {**nothing, "connected": False}


def _paused(vmid: int) -> bool | None:
    """Whether a running guest's CPUs stand still, as QEMU itself says; None where it does not answer at once.

    Its monitor (QMP) serves one client at a time and Proxmox opens it for each command of
    its own, so it is held for a moment only, and a busy one is not waited for.
    """
    path = str(_node_path(f"/run/qemu-server/{vmid}.qmp"))
    end = time.monotonic() + QMP_PATIENCE
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
            monitor.settimeout(QMP_PATIENCE)
            monitor.connect(path)
            _qmp_answer(monitor, b"", "QMP", end)
            _qmp_answer(monitor, b'{"execute": "qmp_capabilities"}\n', "return", end)
            status = _qmp_answer(monitor, b'{"execute": "query-status"}\n', "return", end).get("status")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return status != "running" if isinstance(status, str) else None


def _qmp_answer(monitor: socket.socket, request: bytes, key: str, end: float) -> dict:
    """The object under `key` of the next line that has it; events in between are passed over."""
    if request:
        monitor.sendall(request)
    text = b""
    while len(text) <= 64 * 1024:
        *lines, text = text.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if key in message:
                return message[key]
        left = end - time.monotonic()
        if left <= 0:
            break
        monitor.settimeout(left)
        chunk = monitor.recv(4096)
        if not chunk:
            break
        text += chunk
    raise OSError("no answer")


def _is_template_vmid(vmid: int, settings: dict) -> bool:
    """Whether this is the configured template.

    Only db.yaml is asked (root's own): terraform's variables name it too, but lie in
    a folder of user blockhost, who could make any VM of the host "the template".
    """
    return vmid == settings.get("template_vmid", TEMPLATE_VMID)


def _check_range(vmid: int, settings: dict) -> None:
    bounds = settings.get("vmid_range") or settings.get("vmid_pool")
    if bounds is None:
        raise Refusal("range", "db.yaml sets no vmid_range: no VMID is ours")
    if not bounds[0] <= vmid <= bounds[1]:
        raise Refusal("range", f"VMID {vmid} is outside vmid_range {bounds[0]}-{bounds[1]}")


def _is_meant(guest: Guest, params: dict) -> bool | None:
    """Whether the guest is the one that the record means; None where the request does not say which.

    A VM whose create was killed between the clone and its configuration has no UUID
    of ours yet, but the description went with the clone call: that counts as well.
    """
    uuid, name = params.get("uuid"), params.get("name")
    if uuid is not None:
        uuid = _text(params, "uuid", UUID_RE).lower()
    if name is not None:
        name = _text(params, "name", NAME_RE)
    if uuid is None and name is None:
        return None
    if guest.kind != "qemu":
        return False
    if uuid is None:
        return guest.name == name
    words = guest.mark.split(" ")
    by_mark = len(words) == 4 and words[3].lower() == uuid and name in (None, words[2])
    return guest.uuid == uuid or by_mark


def _identify(guest: Guest, params: dict, required: bool = True) -> None:
    """Refuses unless the guest is the one that the record means."""
    meant = _is_meant(guest, params)
    if meant is None and required:
        raise Refusal("identity", "neither uuid nor name was given", found=guest.found())
    if meant is False:
        raise Refusal(
            "identity",
            f"VMID {guest.vmid} is another guest: asked for {params.get('uuid') or params.get('name')}, "
            f"found {guest.kind} {guest.name}",
            found=guest.found(),
        )


def _here(vmid: int) -> Guest:
    guest = _guest(vmid)
    if guest is None:
        raise Refusal("missing", f"VMID {vmid} does not exist in the cluster")
    if not guest.here and guest.kind == "qemu":
        raise Refusal("elsewhere", f"VMID {vmid} is on node {guest.node}", node=guest.node)
    return guest


def _ours(params: dict, vmid: int | None = None, required: bool = True) -> Guest:
    """The guest that the parameters name: in our range, on this node, no template, and proven to be meant."""
    vmid = _vmid(params) if vmid is None else vmid
    _check_range(vmid, _settings())
    guest = _here(vmid)
    if guest.template:
        raise Refusal("range", f"VMID {vmid} is a template")
    if guest.kind != "qemu":
        raise Refusal("identity", f"VMID {vmid} is a container", found=guest.found())
    _identify(guest, params, required)
    return guest


def _unlocked(guest: Guest) -> Guest:
    """Refuses a guest that is only half there: qm would refuse it as well, or worse, wait."""
    if guest.lock in ("clone", "create"):
        raise Refusal("locked", f"VMID {guest.vmid} is locked ({guest.lock})", lock=guest.lock)
    return guest


# --- tools ----------------------------------------------------------------------------

MISSING_RE = re.compile(
    r"Configuration file '[^'\n]*' does not exist|unable to find configuration file for VM \d+"
)
DIGEST_RE = re.compile("detected modified configuration")
LOCKED_RE = re.compile(r"VM is locked \(([a-z-]{1,40})\)")


def _last_words(stdout: str, stderr: str) -> str:
    """The end of what a tool said: of stderr, and where that is empty of stdout (tasks merge both there)."""
    for text in (stderr, stdout):
        lines = [line for line in text.splitlines() if line.strip() and "trying to acquire lock" not in line]
        if lines:
            # The end is what counts; what stands before it in an error must fit as well.
            return _printable("\n".join(lines[-5:])[-ERROR_MAX * 3 // 4 :])
    return "no output"


def _tool_refusal(argv: list[str], code: int, stdout: str, stderr: str) -> Refusal:
    words = _last_words(stdout, stderr)
    said = f"{stderr}\n{stdout}"
    if MISSING_RE.search(said):
        return Refusal("missing", words)
    if match := LOCKED_RE.search(said):
        return Refusal("locked", words, lock=match.group(1))
    # The exit code of `qm guest` says nothing, and its words are the agent's.
    start = "" if argv[:2] == ["qm", "guest"] else f"{' '.join(argv[:2])} ended with {code}: "
    return Refusal("failed", f"{start}{words}")


def _run(argv: list[str], timeout: float = LANE) -> tuple[int, str, str]:
    """A short tool, in the lane. Too slow means unknown, not failed: it may have acted."""
    try:
        return _common.run(argv, timeout=timeout)
    except subprocess.TimeoutExpired:
        text = (
            f"the node is busy: {' '.join(argv[:2])} did not answer within {timeout:g} s; "
            "whether it took effect is unknown"
        )
        raise Refusal("failed", text, unknown=True) from None
    except (OSError, ValueError) as error:
        raise Refusal("failed", f"{argv[0]} could not be run: {error}") from None


def _run_checked(argv: list[str], timeout: float = LANE) -> str:
    code, stdout, stderr = _run(argv, timeout)
    if code != 0:
        raise _tool_refusal(argv, code, stdout, stderr)
    return stdout


class Job:
    """A tool that may outlive the request. Its output goes to memory files: nobody has to read a pipe."""

    def __init__(self, argv: list[str]) -> None:
        self._files = [os.memfd_create(name) for name in ("stdout", "stderr")]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._files[0],
                stderr=self._files[1],
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            self._close()
            raise

    def wait(self, seconds: float) -> int | None:
        """Its exit code, None where it goes on after that time."""
        try:
            return self._process.wait(seconds) if seconds > 0 else self._process.poll()
        except subprocess.TimeoutExpired:
            return None

    def output(self, limit: int = 65536) -> tuple[str, str]:
        """The end of stdout and stderr, `limit` bytes of each. To be called once, after its end."""
        texts = []
        for fd in self._files:
            size = os.fstat(fd).st_size
            start = max(0, size - limit)
            with os.fdopen(os.dup(fd), "rb") as file:
                file.seek(start)
                texts.append(file.read(limit).decode("utf-8", "replace").strip())
        self._close()
        return texts[0], texts[1]

    def kill(self) -> None:
        """Ends it, for one that nobody will ask about any more."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for fd in self._files:
            os.close(fd)


def _spawn_detached(argv: list[str]) -> Job:
    """The second door: a process in a session of its own that is not waited for."""
    return Job(argv)


class Task:
    """A detached job of one action on one VMID, and what is told about it."""

    def __init__(self, action: str, vmid: int, argv: list[str], keep: int | None = None) -> None:
        self.action, self.vmid, self.argv = action, vmid, argv
        # A descriptor that must stay open while the job runs.
        self.keep = keep
        self.result: tuple[int, str, str] | None = None
        self.job = _spawn_detached(argv)

    def wait(self, seconds: float) -> tuple[int, str, str] | None:
        """(exit code, stdout, stderr), None while it runs."""
        if self.result is None and (code := self.job.wait(seconds)) is not None:
            self.result = (code, *self.job.output())
            if self.keep is not None:
                os.close(self.keep)
            if code != 0:
                _common.log.warning(
                    "%s %s ended with %s: %s", self.action, self.vmid, code, _last_words(*self.result[1:])
                )
        return self.result

    def report(self) -> dict:
        if self.result is None:
            return {"action": self.action, "running": True}
        code, stdout, stderr = self.result
        report = {"action": self.action, "running": False, "exit": code}
        if code != 0:
            report["error"] = _last_words(stdout, stderr)
        if self.action == "qm-destroy":
            report.update(_leftovers(stdout, stderr))
        if self.action == "qm-importdisk" and code == 0:
            report["disk"] = _imported(stdout)
        return report


# Tasks in the order of their start: all that run, and of each VMID the last.
_tasks: list[Task] = []


def _last_task(vmid: int) -> Task | None:
    return next((task for task in reversed(_tasks) if task.vmid == vmid), None)


def _reap() -> None:
    """Collects tasks that ended, and forgets what nobody will ask about."""
    last = {task.vmid: task for task in _tasks}
    ended = [task for task in _tasks if task.wait(0) is not None]
    old = ended[: max(0, len(ended) - 256)]
    _tasks[:] = [
        task for task in _tasks if task.result is None or (last[task.vmid] is task and task not in old)
    ]


def _detached(action: str, vmid: int, argv: list[str], patience: float, keep: int | None = None) -> Task:
    """Starts a tool and waits up to `patience`. The same action on the same VMID runs once at a time."""
    for task in _tasks:
        if (task.action, task.vmid) == (action, vmid) and task.wait(0) is None:
            if keep is not None:
                os.close(keep)
            return task
    try:
        task = Task(action, vmid, argv, keep)
    except (OSError, ValueError) as error:
        if keep is not None:
            os.close(keep)
        raise Refusal("failed", f"{argv[0]} could not be run: {error}") from None
    _tasks.append(task)
    task.wait(patience)
    return task


PENDING = {"pending": True}


class Asked:
    """One `qm guest` on its way: a busy node takes seconds for it, which the lane does not wait for."""

    def __init__(self, vmid: int, kind: str, pid: int | None, argv: list[str]) -> None:
        # kind: `exec`, `status` (of `pid` in the guest) or `ping`.
        self.vmid, self.kind, self.pid, self.argv = vmid, kind, pid, argv
        self.begun = time.monotonic()
        self.job = _spawn_detached(argv)

    def answer(self, seconds: float) -> str | None:
        """Its stdout; None where it goes on after that time. A refusal where it failed."""
        code = self.job.wait(seconds)
        if code is None:
            return None
        for number in [number for number, asked in _asked.items() if asked is self]:
            del _asked[number]
        # Both streams of a guest's command, each byte up to six characters of JSON.
        stdout, stderr = self.job.output(256 * 1024 * 1024)
        if code != 0:
            raise _tool_refusal(self.argv, code, stdout, stderr)
        return stdout


_asked: dict[int, Asked] = {}
_last_job = 0


def _ask_agent(vmid: int, kind: str, words: list[str], pid: int | None = None) -> tuple[int, Asked]:
    """Begins `qm guest WORDS`.

    Nothing beyond ASCII may go that way: Proxmox counts characters where it sends bytes,
    the guest's agent waits for the rest, and is dead for everybody from then on.
    """
    global _last_job
    if not all(word.isascii() for word in words):
        raise Refusal(
            "failed",
            "the text for the guest has characters beyond ASCII, which would break its agent; "
            "nothing was sent, encode them (blockhost-vm-guest-exec does)",
        )
    for number, asked in list(_asked.items()):
        if time.monotonic() - asked.begun > JOB_LIFE:
            del _asked[number]
            if asked.job.wait(0) is None:
                asked.job.kill()
            else:
                asked.job.output(0)
    if len(_asked) >= JOBS_MAX:
        ended = next((number for number, asked in _asked.items() if asked.job.wait(0) is not None), None)
        if ended is None:
            raise Refusal("failed", f"the node is busy: {JOBS_MAX} qm guest commands go on, try again later")
        _asked.pop(ended).job.output(0)
    try:
        asked = Asked(vmid, kind, pid, ["qm", "guest", *words])
    except (OSError, ValueError) as error:
        raise Refusal("failed", f"qm could not be run: {error}") from None
    _last_job += 1
    _asked[_last_job] = asked
    return _last_job, asked


# --- actions: state and power -----------------------------------------------------------


@_handler
def vm_state(params: dict) -> dict:
    """Everything that can be known without a process. `paused` is null where QEMU does not say at once.

    A guest that the request does not prove to be meant is told of only where its VMID could be
    ours, and without its UUID: that is the key to act on it, and the host has guests of others.
    """
    vmid = _vmid(params)
    guest = _guest(vmid)
    meant = _is_meant(guest, params) if guest is not None else None
    foreign = False
    if guest is not None and not meant:
        settings = _settings()
        try:
            if not _is_template_vmid(vmid, settings):
                _check_range(vmid, settings)
        except Refusal:
            if meant is None:
                raise
            # A record of ours has this VMID, and its VM is another one: that much it must know.
            foreign = True
    task = _last_task(vmid)
    answer: dict[str, Any] = {
        "exists": guest is not None,
        "node": guest.node if guest else None,
        "running": False,
        "paused": False,
        "name": None,
        "uuid": None,
        "description": None,
        "lock": None,
        "onboot": False,
        "template": False,
        "protection": False,
    }
    if task is not None:
        answer["task"] = task.report()
    if guest is None:
        return answer
    running = _running(vmid) if guest.here else None
    answer.update(
        here=guest.here,
        type=guest.kind,
        running=running,
        paused=_paused(vmid) if running else running,
        foreign=foreign,
        name=None if foreign else guest.name,
        uuid=guest.uuid if params.get("uuid") is not None and meant else guest.told_uuid,
        description="" if foreign else guest.mark,
        lock=guest.lock,
        onboot=guest.config.get("onboot") == "1",
        template=guest.template,
        protection=guest.config.get("protection") == "1",
        **(_port(guest) if running else {}),
    )
    if meant and guest.here:
        answer["guard"] = _guard_report(guest, params, bool(running))
    return answer


def _quorate() -> bool:
    """Whether the cluster's file system is the cluster's word: without quorum a node sees an old copy.

    A node that is in no cluster has no part `cluster` there.
    """
    path = _node_path("/etc/pve/.members")
    try:
        members = json.loads(_read(path, 1024 * 1024))
        cluster = members.get("cluster", {"quorate": 1})
        return cluster["quorate"] == 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refusal("failed", f"{path} cannot be read: {type(error).__name__}: {error}") from None


def _all_configs(ids: dict[str, Any]) -> dict[tuple[int, str], str]:
    """The configuration of every VM of the cluster by VMID and node; a refusal where one cannot be read."""
    own = _own_node()
    if own is None:
        raise Refusal("failed", "which node this is cannot be told: /etc/pve/local cannot be read")
    folders = {own: _node_path("/etc/pve/qemu-server")}
    nodes = _node_path("/etc/pve/nodes")
    configs: dict[tuple[int, str], str] = {}
    try:
        for node in os.listdir(nodes) if nodes.exists() else ():
            folders.setdefault(node, nodes / node / "qemu-server")
        for node, folder in folders.items():
            for file in os.listdir(folder) if folder.exists() else ():
                if re.fullmatch(r"[1-9][0-9]{2,8}\.conf", file):
                    text = _read(folder / file, 1024 * 1024).decode("utf-8", "replace")
                    configs[int(file[:-5]), node] = text
    except OSError as error:
        raise Refusal("failed", f"the cluster's configurations cannot all be read: {error}") from None
    for vmid, entry in ids.items():
        if entry.get("type") != "lxc" and (int(vmid), entry.get("node")) not in configs:
            raise Refusal("failed", f"VMID {vmid} is on node {entry.get('node')}, but its configuration is not there")
    return configs


@_handler
def vm_find(params: dict) -> dict:
    """The VMs of the cluster that are, or may be, the one with this UUID; without one, those of this name or address.

    An answer with none is the proof that it is gone, so what cannot be known is a refusal:
    no quorum, a configuration that cannot be read, a guest that moves meanwhile, one that is
    just being restored and does not say yet whose it is.
    """
    uuid = _text(params, "uuid", UUID_RE).lower() if params.get("uuid") is not None else None
    name = _text(params, "name", NAME_RE) if params.get("name") is not None else None
    address = _text(params, "address", ADDRESS_RE) if params.get("address") is not None else None
    if uuid is None and name is None:
        raise Refusal("failed", "neither uuid nor name was given")
    found = []
    for (vmid, node), text in sorted(_cluster().items()):
        config, _, description = _parse_config(text)
        if uuid is not None:
            # Wherever the text has it: in the settings, a description, a snapshot.
            fits = uuid in text.lower()
        else:
            words = description.split("\n")[0].split(" ")
            fits = config.get("name") == name or words[:3] == ["BlockHost", "VM", name]
            # A guest that was renamed is known by its address.
            fits = fits or (address is not None and re.search(rf"\bip={re.escape(address)}(?:/|,|$)", text, re.M))
        if fits:
            found.append({"vmid": vmid, "node": node, "name": config.get("name")})
    return {"found": found}


def _cluster() -> dict[tuple[int, str], str]:
    """The configuration of every VM of the cluster; a refusal where it cannot be known whether that is all."""
    before = _vmlist()
    if not _quorate():
        raise Refusal("failed", "the cluster has no quorum, so this node may not see all guests")
    configs = _all_configs(before)
    if _where(_vmlist()) != _where(before):
        raise Refusal("failed", "guests were made, moved or removed meanwhile; ask again")
    for (vmid, node), text in configs.items():
        config = _parse_config(text)[0]
        if config.get("lock") == "create" and "smbios1" not in config:
            raise Refusal("failed", f"VMID {vmid} on node {node} is being made, and does not say yet what it is")
    return configs


def _where(ids: dict[str, Any]) -> dict[str, Any]:
    return {vmid: (entry.get("node"), entry.get("type")) for vmid, entry in ids.items()}


# Seconds that reading all configurations of the cluster may take.
LISTING = 3.0
HELD_RE = re.compile(r"(?:^|,)ip6?=([0-9A-Fa-f:.]+)(?:/[0-9]{1,3})?(?=,|$)")


@_handler
def guest_list(params: dict) -> dict:
    """What guests of the whole cluster hold: the VMIDs of our range, and everybody's static addresses.

    Of a guest nothing else is told, but for those that are ours by their description: a
    foreign guest's UUID would be the key to act on it.
    """
    settings = _settings()
    low, high = settings.get("vmid_range") or settings.get("vmid_pool") or (0, -1)
    end = time.monotonic() + LISTING
    guests, addresses, unread, own = [], set(_node_addresses()), 0, _own_node()
    ids = {int(key): entry for key, entry in _vmlist().items() if re.fullmatch(r"[1-9][0-9]{0,9}", key)}
    for vmid in sorted(ids, key=lambda n: (not low <= n <= high, n)):
        node, kind = ids[vmid].get("node"), ids[vmid].get("type")
        config, pending, description = {}, {}, ""
        folder = {"qemu": "qemu-server", "lxc": "lxc"}.get(kind)
        is_place = folder is not None and isinstance(node, str) and re.fullmatch(LABEL, node)
        if is_place and time.monotonic() < end:
            place = "/etc/pve" if node == own else f"/etc/pve/nodes/{node}"
            try:
                text = _read_config(_node_path(f"{place}/{folder}/{vmid}.conf"))
            except Refusal:
                text = None
            unread += text is None
            config, pending, description = _parse_config(text or "")
        else:
            unread += 1
        for part in (config, pending):
            for key, value in part.items():
                if re.fullmatch(r"(ipconfig|net)[0-9]+", key):
                    addresses.update(HELD_RE.findall(value))
        if low <= vmid <= high:
            words = Guest(vmid, None, False, kind, config, pending, description).mark.split(" ")
            ours = len(words) == 4
            guests.append(
                {
                    "vmid": vmid,
                    "node": node if is_place else None,
                    "name": words[2] if ours else None,
                    "uuid": words[3].lower() if ours else None,
                }
            )
    return {"guests": guests, "addresses": sorted(addresses), "unread": unread}


def _node_addresses() -> list[str]:
    """The cluster's own nodes, of corosync's list; none on a node that is in no cluster."""
    try:
        nodes = json.loads(_read(_node_path("/etc/pve/.members"), 1024 * 1024))["nodelist"].values()
        return [node["ip"] for node in nodes if isinstance(node.get("ip"), str)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


@_handler
def qm_start(params: dict) -> dict:
    guest = _unlocked(_ours(params, required=False))
    if _running(guest.vmid):
        return {"already": True}
    argv = ["qm", "start", str(guest.vmid)]
    result = _detached("qm-start", guest.vmid, argv, PATIENCE).wait(0)
    if result is None:
        return PENDING
    # It may have been started by somebody else meanwhile.
    if result[0] != 0 and f"VM {guest.vmid} already running" not in f"{result[1]}\n{result[2]}":
        raise _tool_refusal(argv, *result)
    return {}


@_handler
def qm_stop(params: dict) -> dict:
    """Power off. qm holds the guest's lock file while a shutdown waits, so that one is overruled."""
    timeout = _integer(params, "timeout", 1, 300, default=10)
    guest = _unlocked(_ours(params))
    if not _running(guest.vmid):
        return {"already": True}
    plain = ["qm", "stop", str(guest.vmid), "--timeout", str(timeout)]
    end = time.monotonic() + PATIENCE
    # The option came with qemu-server 8.1.2; older ones know no way to overrule.
    for argv in ([*plain, "--overrule-shutdown", "1"], plain):
        result = _detached("qm-stop", guest.vmid, argv, end - time.monotonic()).wait(0)
        if result is None:
            return PENDING
        if result[0] == 0:
            return {}
        if "overrule-shutdown" not in f"{result[1]}\n{result[2]}":
            break
    raise _tool_refusal(argv, *result)


@_handler
def qm_shutdown(params: dict) -> dict:
    """Asks the guest to shut down and returns; qm itself waits for it up to `timeout`."""
    timeout = _integer(params, "timeout", 1, 3600, default=60)
    guest = _unlocked(_ours(params))
    if not _running(guest.vmid):
        return {"already": True}
    # Without a timeout qm waits up to ten minutes for a silent agent.
    _detached("qm-shutdown", guest.vmid, ["qm", "shutdown", str(guest.vmid), "--timeout", str(timeout)], 0)
    return PENDING


@_handler
def qm_resume(params: dict) -> dict:
    guest = _unlocked(_ours(params))
    # A guest that sleeps on disk has no process but can be resumed.
    if guest.lock != "suspended" and not _running(guest.vmid):
        raise Refusal("failed", f"VM {guest.vmid} is not running")
    argv = ["qm", "resume", str(guest.vmid)]
    result = _detached("qm-resume", guest.vmid, argv, PATIENCE).wait(0)
    if result is None:
        return PENDING
    if result[0] != 0:
        raise _tool_refusal(argv, *result)
    return {}


# --- actions: destroy, create, configure ---------------------------------------------------


def _leftovers(stdout: str, stderr: str) -> dict:
    """Disks that could not be freed: qm only warns and exits 0."""
    lines = [
        line.strip()
        for line in f"{stdout}\n{stderr}".splitlines()
        if re.search(r"could not remove|WARN", line, re.IGNORECASE)
    ]
    disks = []
    for line in lines:
        if re.search(r"could not remove", line, re.IGNORECASE):
            match = re.search(r"'([^']+)'", line)
            disks.append(_printable(match.group(1) if match else line, 200))
    answer: dict[str, Any] = {}
    if disks:
        answer["leftovers"] = disks[:20]
    if lines:
        answer["warnings"] = [_printable(line, 300) for line in lines[:20]]
    return answer


@_handler
def qm_destroy(params: dict) -> dict:
    guest = _unlocked(_ours(params))
    if _running(guest.vmid):
        raise Refusal("failed", f"VM {guest.vmid} is running: stop it first")
    # --purge: else a later guest of this VMID inherits backup jobs. The values are
    # given: a bare flag would take the next word as its value.
    argv = ["qm", "destroy", str(guest.vmid), "--purge", "1", "--destroy-unreferenced-disks", "1"]
    result = _detached("qm-destroy", guest.vmid, argv, PATIENCE).wait(0)
    if result is None:
        return PENDING
    code, stdout, stderr = result
    if code != 0 and not MISSING_RE.search(f"{stderr}\n{stdout}"):
        raise _tool_refusal(argv, *result)
    if _guest(guest.vmid) is not None:
        raise Refusal(
            "failed",
            f"qm destroy ended with {code}, but VMID {guest.vmid} is still there: "
            + _last_words(stdout, stderr),
        )
    return {"gone": True, **_leftovers(stdout, stderr)}


MAC = r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}"
NAT = r"(?:0|[1-9][0-9]{0,8})"


def _create_patterns(vmid: int) -> dict[str, str]:
    """Options of `qm create` that the template needs, each with what its value may be.

    A disk is a new one or one of this VMID's own: another guest's volume, a path of
    the host and `import-from` cannot be named.
    """
    nic = rf",(?:bridge={BRIDGE}|firewall=[01]|tag=[1-9][0-9]{{0,3}}|mtu={NAT}|macaddr={MAC})"
    disk = rf"(?:[1-9][0-9]{{0,4}}|(?:{vmid}/)?vm-{vmid}-disk-[0-9]{{1,3}}(?:\.(?:raw|qcow2))?)"
    return {
        "name": NAME_RE.pattern,
        "memory": r"(?:1[6-9]|[2-9][0-9]|[1-9][0-9]{2,6})",
        "cores": r"(?:[1-9]|[1-9][0-9]|1[01][0-9]|12[0-8])",
        "sockets": r"[1-4]",
        "cpu": r"(?:cputype=)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "scsihw": r"virtio-scsi-(?:pci|single)",
        "net0": rf"(?:virtio|e1000)(?:={MAC})?(?:{nic}){{0,6}}",
        "ostype": r"(?:l26|l24|other)",
        "agent": r"(?:enabled=)?[01](?:,fstrim_cloned_disks=[01])?",
        "ide2": rf"{STORAGE}:cloudinit(?:,media=cdrom)?",
        "boot": r"(?:c|order=(?:scsi0|ide2|net0)(?:;(?:scsi0|ide2|net0)){0,2})",
        "bootdisk": r"scsi0",
        "serial0": r"socket",
        "vga": r"(?:serial0|std|qxl|virtio)",
        "scsi0": rf"{STORAGE}:{disk}(?:,(?:discard=(?:on|ignore)|iothread=[01]|ssd=[01]|format=(?:raw|qcow2))){{0,4}}",
        "onboot": r"[01]",
        "tablet": r"[01]",
        "description": r"[A-Za-z0-9][A-Za-z0-9 ._:,/()-]{0,499}",
        "pool": r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    }


@_handler
def qm_create(params: dict) -> dict:
    vmid = _vmid(params)
    args = params.get("args")
    if not isinstance(args, list) or len(args) > 32:
        raise Refusal("failed", "args must be a list of [flag, value]")
    patterns = _create_patterns(vmid)
    argv, seen = ["qm", "create", str(vmid)], set()
    for pair in args:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise Refusal("failed", "args must be a list of [flag, value]")
        key = pair[0].removeprefix("--")
        value = str(pair[1]) if type(pair[1]) is int and abs(pair[1]) < 10**9 else pair[1]
        if key not in patterns or key in seen:
            raise Refusal("failed", f"option {_shown(key)} is not allowed")
        if not isinstance(value, str) or len(value) > 1024 or not re.fullmatch(patterns[key], value):
            raise Refusal("failed", f"value {_shown(value)} of option {key} is not allowed")
        seen.add(key)
        argv += [f"--{key}", value]
    settings = _settings()
    if not _is_template_vmid(vmid, settings):
        _check_range(vmid, settings)
    if (guest := _guest(vmid)) is not None:
        raise Refusal("failed", f"VMID {vmid} exists already on node {guest.node}", found=guest.found())
    result = _detached("qm-create", vmid, argv, PATIENCE).wait(0)
    if result is None:
        return PENDING
    if result[0] != 0:
        raise _tool_refusal(argv, *result)
    if _guest(vmid) is None:
        raise Refusal(
            "failed", f"qm create ended with 0, but VMID {vmid} is not there: {_last_words(*result[1:])}"
        )
    return {}


@_handler
def qm_set(params: dict) -> dict:
    """`onboot` (off while suspended), `cpulimit` and `cpuunits`; null deletes one of the last two."""
    config = params.get("config")
    if not isinstance(config, dict) or not 0 < len(config) <= 3:
        raise Refusal("failed", "config must be an object with at least one key")
    argv: list[str] = []
    delete = []
    for key, value in config.items():
        if key == "onboot":
            argv += ["--onboot", _flag(value, key)]
        elif key in ("cpulimit", "cpuunits"):
            text = _cpu_limit(key, value)
            argv += [f"--{key}", text] if text else []
            delete += [] if text else [key]
        else:
            raise Refusal("failed", f"key {_shown(key)} is not allowed")
    guest = _unlocked(_ours(params))
    if delete:
        argv += ["--delete", ",".join(sorted(delete))]
    argv = ["qm", "set", str(guest.vmid), *argv]
    task = _detached("qm-set", guest.vmid, argv, PATIENCE)
    if task.argv != argv:
        raise Refusal("locked", f"VM {guest.vmid}: another qm set goes on")
    result = task.wait(0)
    if result is None:
        return PENDING
    if result[0] != 0:
        raise _tool_refusal(argv, *result)
    return {}


# --- actions: template ----------------------------------------------------------------------


def _template_guest(params: dict) -> Guest:
    """The configured template's VM, finished or not; any other VM of ours proves its identity as usual."""
    vmid = _vmid(params)
    if not _is_template_vmid(vmid, _settings()):
        return _unlocked(_ours(params, vmid))
    guest = _unlocked(_here(vmid))
    if guest.kind != "qemu":
        raise Refusal("identity", f"VMID {vmid} is a container", found=guest.found())
    _identify(guest, params, required=False)
    return guest


def _open_image(path: str) -> int:
    """Opens a disk image for import, refusing every path that user blockhost could bend.

    /var/lib/blockhost and /tmp are writable for others, so a name proves nothing: each
    component is opened without following a link, the file must be root's and writable for
    root only, and what was opened is what is imported.
    """
    parts = path.split("/")[1:]
    top = (
        parts[:3] == ["var", "lib", "blockhost"] and len(parts) > 3 or parts[:1] == ["tmp"] and len(parts) > 1
    )
    if not path.startswith("/") or not top or len(path) > 1024 or "\0" in path:
        raise Refusal("failed", "image_path must be below /var/lib/blockhost/ or /tmp/")
    if any(part in ("", ".", "..") for part in parts):
        raise Refusal("failed", "image_path must be a plain path")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open("/", flags | os.O_DIRECTORY)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            inner = os.open(part, flags if last else flags | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise Refusal("failed", f"{path} is not a regular file")
        if info.st_uid != ROOT_UID or info.st_mode & 0o022:
            raise Refusal("failed", f"{path} must be owned by root and writable for root only")
        _check_image(os.pread(fd, 4096, 0), path)
    except (OSError, ValueError) as error:
        os.close(fd)
        raise Refusal("failed", f"image_path {path} cannot be opened: {error}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_image(head: bytes, path: str) -> None:
    """Accepts a qcow2 image without references to other files, or a raw disk.

    qemu-img guesses the format of a file, and several formats can name other files of
    the host, which would be read as root: only what cannot is let through.
    """
    if head[:4] == b"QFI\xfb" and len(head) >= 104:
        version, backing = struct.unpack(">IQ", head[4:16])
        # Bit 0 dirty, 1 corrupt, 2 external data file, 3 compression type, 4 extended L2.
        incompatible = struct.unpack(">Q", head[72:80])[0] if version == 3 else 0
        if version not in (2, 3):
            raise Refusal("failed", f"{path} is a qcow image of an unknown version")
        if backing != 0:
            raise Refusal("failed", f"{path} names a backing file")
        if incompatible & 0b100:
            raise Refusal("failed", f"{path} names a data file")
        if incompatible & ~0b11000:
            raise Refusal("failed", f"{path} is dirty, corrupt or of an unknown kind")
        return
    known = (
        b"QFI",
        b"QED",
        b"KDMV",
        b"COWD",
        b"# Disk",
        b"conectix",
        b"vhdxfile",
        b"LUKS",
        b"Withou",
        b"Bochs",
        b"<<<",
        b"#!",
        b"OOOO",
        b"koly",
    )
    # A VMDK may be a text alone: comments, blank lines, then `version=`; it names its parts by path.
    text = head.lstrip(b" \t\r\n").startswith((b"version", b"#")) or head[:1] in (b" ", b"\t", b"\r", b"\n")
    if text or head[510:512] != b"\x55\xaa" or head.startswith(known) or head[64:68] == b"\x7f\x10\xda\xbe":
        raise Refusal("failed", f"{path} is neither a qcow2 image nor a raw disk with a partition table")


def _imported(stdout: str) -> str | None:
    """The new volume, in the wording before and since qemu-server 8.2.7."""
    pattern = r"^(?:Successfully imported disk as '\w+:([^']+)'|\w+: successfully imported disk '([^',]+))"
    match = re.search(pattern, stdout, re.MULTILINE)
    return (match.group(1) or match.group(2)) if match else None


@_handler
def qm_importdisk(params: dict) -> dict:
    """Imports as `unusedN`, or with `target_disk: "scsi0"` (qemu-server 8.2.7 or newer) as that drive."""
    path = _text(params, "image_path")
    storage = _text(params, "storage", STORAGE_RE)
    drive = params.get("target_disk")
    if drive not in (None, "scsi0"):
        raise Refusal("failed", "target_disk can only be scsi0")
    guest = _template_guest(params)
    if guest.template:
        raise Refusal("range", f"VMID {guest.vmid} is a finished template")
    fd = _open_image(path)
    # qm opens its source by name, and a name can be changed behind our back; this one
    # leads to the file that was checked for as long as the descriptor is open.
    argv = ["qm", "importdisk", str(guest.vmid), f"/proc/{os.getpid()}/fd/{fd}", storage]
    argv += ["--target-disk", drive] if drive else []
    result = _detached("qm-importdisk", guest.vmid, argv, PATIENCE, keep=fd).wait(0)
    if result is None:
        return PENDING
    if result[0] != 0:
        raise _tool_refusal(argv, *result)
    disk = _imported(result[1])
    after = _guest(guest.vmid)
    if disk is None or after is None or not any(v.split(",")[0] == disk for v in after.config.values()):
        raise Refusal(
            "failed",
            f"qm importdisk ended with 0, but VMID {guest.vmid} has no new disk: " + _last_words(*result[1:]),
        )
    return {"disk": disk}


DRIVE_RE = re.compile(r"(?:scsi|virtio|sata|ide)[0-9]{1,2}")


def _disks(config: dict[str, str]) -> dict[str, str]:
    """Drives that hold data: no CD-ROM, no cloud-init drive."""
    return {
        key: value
        for key, value in config.items()
        if DRIVE_RE.fullmatch(key)
        and "media=cdrom" not in value
        and "cloudinit" not in value.split(",")[0]
        and not value.startswith("none")
    }


def _unconverted(guest: Guest) -> list[str]:
    """Disks whose volume is not a base image (yet). Some storages have no base images."""
    return [
        value.split(",")[0]
        for value in _disks(guest.config).values()
        if not re.search(r"[:/]base-\d+-", value.split(",")[0])
    ]


@_handler
def qm_template(params: dict) -> dict:
    guest = _template_guest(params)
    if guest.template and not _unconverted(guest):
        return {"already": True}
    if _running(guest.vmid):
        raise Refusal("failed", f"VM {guest.vmid} is running: stop it first")
    if not _disks(guest.config):
        raise Refusal("failed", f"VM {guest.vmid} has no disk to make a template of")
    argv = ["qm", "template", str(guest.vmid)]
    result = _detached("qm-template", guest.vmid, argv, PATIENCE).wait(0)
    if result is None:
        return PENDING
    # A failed conversion exits 0 as well, with `template: 1` already written: what
    # counts is what the configuration says now, and whether something was said.
    code, stdout, stderr = result
    after = _guest(guest.vmid)
    if code != 0 or after is None or not after.template:
        raise _tool_refusal(argv, *result)
    left = _unconverted(after)
    if left and stderr.strip():
        raise Refusal("failed", f"not converted: {', '.join(left[:5])}: {_last_words('', stderr)}")
    return {"unconverted": left} if left else {}


# --- actions: guest agent ---------------------------------------------------------------------


def _agent_guest(params: dict) -> Guest:
    guest = _ours(params)
    if not _running(guest.vmid):
        raise Refusal("failed", f"VM {guest.vmid} is not running")
    return guest


@_handler
def qm_guest_ping(params: dict) -> dict:
    guest = _agent_guest(params)
    wait = _number(4 if params.get("wait") is None else params["wait"], "wait", 0, 5)
    # The same question once at a time: one that is still on its way is this one's.
    asked = next((a for a in _asked.values() if (a.vmid, a.kind) == (guest.vmid, "ping")), None)
    if asked is None or (asked.job.wait(0) is not None and time.monotonic() - asked.begun > 10):
        _, asked = _ask_agent(guest.vmid, "ping", ["cmd", str(guest.vmid), "ping"])
    stdout = asked.answer(wait)
    if stdout is None:
        raise Refusal("failed", f"the node is busy: qm did not answer within {wait:g} s", unknown=True)
    # The agent's own error comes as JSON with exit 0; success is silent.
    if "error" in stdout:
        raise Refusal("failed", _last_words(stdout, ""))
    return {}


def _json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refusal("failed", f"qm answered no JSON object: {_printable(text, 200)}")
    return value


def _output(key: str, text: Any) -> tuple[dict[str, str], bool]:
    """A guest's output as fields of an answer, and whether it was cut.

    PVE takes its bytes for Latin-1 and encodes them once more.  What is no UTF-8, or
    would become too much JSON (NUL bytes grow sixfold), is passed on as base64, with a
    readable beginning in the text's place.
    """
    if not isinstance(text, str):
        return {key: ""}, False
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "replace")
    cut = len(raw) > OUTPUT_MAX
    raw = raw[:OUTPUT_MAX]
    try:
        plain = raw.decode("utf-8")
        if len(json.dumps(plain)) <= OUTPUT_JSON_MAX:
            return {key: plain}, cut
    except UnicodeDecodeError:
        pass
    beginning = raw[:ERROR_MAX].decode("utf-8", "replace")
    return {key: beginning, f"{key}_base64": base64.b64encode(raw).decode("ascii")}, cut


def _exec_result(status: dict) -> dict | None:
    """The end of a guest's process; None while it runs. By a signal: `signal`, no exit code."""
    if status.get("exited") not in (1, True):
        return None
    stdout, cut_out = _output("stdout", status.get("out-data"))
    stderr, cut_err = _output("stderr", status.get("err-data"))
    result: dict[str, Any] = {"exited": True, **stdout, **stderr}
    for key in ("exitcode", "signal"):
        if type(status.get(key)) is int:
            result[key] = status[key]
            break
    else:
        raise Refusal("failed", "the guest agent told neither exit code nor signal")
    result["out_truncated"] = cut_out or bool(status.get("out-truncated"))
    result["err_truncated"] = cut_err or bool(status.get("err-truncated"))
    return result


def _guest_pid(stdout: str) -> int:
    pid = _json_object(stdout).get("pid")
    if type(pid) is not int or pid < 1:
        raise Refusal("failed", "the guest agent told no PID")
    return pid


def _ask_status(vmid: int, pid: int) -> tuple[int, Asked]:
    return _ask_agent(vmid, "status", ["exec-status", str(vmid), str(pid)], pid)


def _guest_exec(vmid: int, words: list[str], wait: float) -> dict:
    """Runs a program in the guest, waiting `wait` seconds from now for its end.

    `--synchronous 0`: else qm waits itself, and a time-out looks like success. The end of
    a process is told once only, so a `qm` that has not answered in time stays a job.
    """
    begun = time.monotonic()
    end, lane = begun + wait, begun + max(wait, AGENT_LANE)
    job, asked = _ask_agent(vmid, "exec", ["exec", str(vmid), "--synchronous", "0", "--", *words])
    stdout = asked.answer(lane - begun)
    if stdout is None:
        return {"exited": False, "job": job}
    pid = _guest_pid(stdout)
    pause = 0.02
    while time.monotonic() < end:
        job, asked = _ask_status(vmid, pid)
        try:
            stdout = asked.answer(max(0.0, lane - time.monotonic()))
            if stdout is None:
                return {"exited": False, "pid": pid, "job": job}
            result = _exec_result(_json_object(stdout))
        except Refusal:
            # A busy guest misses the agent's ping while the command goes on.
            break
        if result is not None:
            return result
        time.sleep(max(0.0, min(pause, end - time.monotonic())))
        pause = min(pause * 2, 0.5)
    return {"exited": False, "pid": pid}


@_handler
def qm_guest_exec(params: dict) -> dict:
    command = _text(params, "command")
    if not command.strip() or "\0" in command or len(command.encode("utf-8")) > COMMAND_MAX:
        raise Refusal("failed", f"the command must have 1 to {COMMAND_MAX} bytes and no NUL")
    wait = _number(2 if params.get("wait") is None else params["wait"], "wait", 0, 5)
    guest = _agent_guest(params)
    return _guest_exec(guest.vmid, ["/bin/sh", "-c", command], wait)


@_handler
def qm_guest_exec_status(params: dict) -> dict:
    """Of a process (`pid`), or of a `qm` that had not answered yet (`job`)."""
    job = params.get("job")
    if job is None:
        pid = _integer(params, "pid", 1, 2**31 - 1)
        guest = _agent_guest(params)
        job, asked = _ask_status(guest.vmid, pid)
        patience = AGENT_LANE
    else:
        job = _integer(params, "job", 1, 2**53)
        guest = _agent_guest(params)
        asked, patience = _asked.get(job), 0.5
        if asked is None or asked.vmid != guest.vmid or asked.kind == "ping":
            raise Refusal("failed", f"no qm of VM {guest.vmid} is job {job} (any more)", unknown=True)
    stdout = asked.answer(patience)
    told = {"exited": False} if asked.pid is None else {"exited": False, "pid": asked.pid}
    if stdout is None:
        return {**told, "job": job}
    if asked.kind == "exec":
        return {"exited": False, "pid": _guest_pid(stdout)}
    return _exec_result(_json_object(stdout)) or {"exited": False}


@_handler
def qm_update_gecos(params: dict) -> dict:
    username = _text(params, "username", USER_RE)
    gecos = _text(params, "gecos", GECOS_RE)
    guest = _agent_guest(params)
    result = _guest_exec(guest.vmid, ["usermod", "-c", gecos, username], 3)
    if result["exited"] and result.get("exitcode") != 0:
        how = f"signal {result['signal']}" if "signal" in result else str(result.get("exitcode"))
        words = _last_words(result["stdout"], result["stderr"])
        raise Refusal("failed", f"usermod in the guest ended with {how}: {words}", **result)
    return result


# --- actions: snippets ------------------------------------------------------------------------


def _snippet_name(params: dict) -> str:
    name = _text(params, "name", NAME_RE)
    kind = _text(params, "kind", re.compile("user|meta"))
    return f"blockhost-{name}-{kind}.yaml"


def _snippet_folder() -> tuple[str, Path]:
    """The configured storage and its folder of snippets, as storage.cfg of the cluster says."""
    storage = _settings().get("snippet_storage", "local")
    options: dict[str, str] = {"path": "/var/lib/vz"} if storage == "local" else {}
    path = _node_path("/etc/pve/storage.cfg")
    try:
        lines = _read(path, 1024 * 1024).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise Refusal("failed", f"{path} cannot be read: {error}") from None
    section = None
    for line in lines:
        if match := re.fullmatch(r"([a-z]+):\s*(\S+)\s*", line):
            section = match.group(2)
            if section == storage and match.group(1) in ("nfs", "cifs", "cephfs", "glusterfs"):
                options.setdefault("path", f"/mnt/pve/{storage}")
        elif section == storage and (match := re.fullmatch(r"\s+(\S+)\s+(.*?)\s*", line)):
            options[match.group(1)] = match.group(2)
    base = options.get("path", "")
    folder = "snippets"
    for part in options.get("content-dirs", "").split(","):
        if part.startswith("snippets="):
            folder = part.partition("=")[2]
    full = f"{base}/{folder}"
    if not base.startswith("/") or ".." in full.split("/"):
        raise Refusal("failed", f"storage {storage} has no folder for snippets")
    return storage, _node_path(full)


def _open_roots_folder(folder: Path, mode: int, create: bool) -> int:
    """Opens a folder that must be root's and grant others no more than `mode`; -1 where there is none and none is made.

    A link that another user could put there would be read by root.
    """
    try:
        if create:
            try:
                os.mkdir(folder, mode)
            except FileExistsError:
                pass
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
    except FileNotFoundError:
        if not create:
            return -1
        raise Refusal("failed", f"{folder.parent} does not exist") from None
    except OSError as error:
        raise Refusal("failed", f"{folder} cannot be opened: {error.strerror or error}") from None
    info = os.fstat(fd)
    if info.st_uid != ROOT_UID or info.st_mode & 0o077 & ~mode:
        os.close(fd)
        raise Refusal("failed", f"{folder} must be owned by root, with mode {mode:04o}")
    return fd


def _open_snippets(folder: Path, create: bool) -> int:
    return _open_roots_folder(folder, 0o755, create)


def _check_room(folder: int, name: str, size: int) -> None:
    """Refuses what would let user blockhost fill root's disk: a bound on number and size of all our snippets."""
    number, total = 1, size
    try:
        for other in os.listdir(folder):
            if other.startswith("blockhost-") and other != name:
                number += 1
                total += os.stat(other, dir_fd=folder, follow_symlinks=False).st_size
    except OSError as error:
        raise Refusal("failed", f"the snippets cannot be counted: {error.strerror or error}") from None
    if number > SNIPPETS_MAX or total > SNIPPETS_SIZE_MAX:
        raise Refusal(
            "failed",
            f"there are too many snippets of ours ({number - 1}, {total >> 20} MiB): those of VMs that are gone "
            "must be removed first",
        )


def _write_whole(folder: int, name: str, content: bytes, mode: int) -> None:
    """Another name first, then rename, which replaces a link instead of following it.

    One handler runs at a time, so one name for the unfinished file is enough, and a
    killed daemon leaves no growing heap of them.
    """
    unfinished = f".{name}.new"
    _unlink(unfinished, folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(unfinished, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            if os.geteuid() == 0:
                os.fchown(fd, 0, 0)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _unlink(unfinished, folder)
        raise
    os.fsync(folder)


@_handler
def snippet_put(params: dict) -> dict:
    """Writes one snippet whole."""
    name = _snippet_name(params)
    text = _text(params, "text").encode("utf-8")
    if len(text) > SNIPPET_MAX:
        raise Refusal("failed", f"text is larger than {SNIPPET_MAX} bytes")
    storage, path = _snippet_folder()
    folder = _open_snippets(path, create=True)
    try:
        _check_room(folder, name, len(text))
    except BaseException:
        os.close(folder)
        raise
    try:
        _write_whole(folder, name, text, 0o600)
    except OSError as error:
        raise Refusal("failed", f"{path / name} cannot be written: {error.strerror or error}") from None
    finally:
        os.close(folder)
    return {"volid": f"{storage}:snippets/{name}"}


@_handler
def snippet_delete(params: dict) -> dict:
    name = _snippet_name(params)
    _, path = _snippet_folder()
    folder = _open_snippets(path, create=False)
    if folder < 0:
        return {"already": True}
    try:
        gone = not _unlink(name, folder)
        os.fsync(folder)
    except OSError as error:
        raise Refusal("failed", f"{path / name} cannot be removed: {error.strerror or error}") from None
    finally:
        os.close(folder)
    return {"already": True} if gone else {}


def _unlink(name: str, folder: int) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


# --- actions: VMs of the older package ---------------------------------------------------------


@_handler
def vm_adopt(params: dict) -> dict:
    """Gives a VM of the older package an identity: our mark, a UUID, its user-data among our snippets.

    A record of the older package has nothing but the name, so more must agree: no other guest
    of the cluster has the name, and the address that Proxmox configures is the record's.  The
    UUID is the one that the VM has had since its clone, which changes nothing in the guest.
    Where another guest has that too (a copy, a restored backup), or there is none, it is
    `new_uuid`; a guest that runs gets it at its next start, whoever starts it.  With `check`
    nothing is changed, and the answer is what would be.  It can be asked again at any time.
    """
    name = _text(params, "name", NAME_RE)
    given = _text(params, "uuid", UUID_RE).lower() if params.get("uuid") is not None else None
    new = _text(params, "new_uuid", UUID_RE).lower()
    address = _text(params, "address", ADDRESS_RE) if params.get("address") is not None else None
    check = _boolean(params, "check", False)
    guest = _unlocked(_ours({"vmid": params.get("vmid"), "name": name}))
    if any(task.action == "vm-adopt" and task.vmid == guest.vmid and task.wait(0) is None for task in _tasks):
        return PENDING
    others = {vmid: text for (vmid, _), text in _cluster().items() if vmid != guest.vmid}
    _prove_alone(guest, name, address, others)
    uuid = _adopted_uuid(guest, name, given, new, others)
    wanted, snippet = _adoption(guest, name, uuid)
    running = _running(guest.vmid)
    answer = {"uuid": uuid, "running": running, "node": guest.node, "snippet": snippet}
    if check:
        return {**answer, "changes": sorted(wanted), "uuid_pending": guest.uuid != uuid and running}
    if snippet == "moved":
        _copy_old_snippet(name)
    if wanted and not _change(guest, wanted):
        return PENDING
    after = _guest(guest.vmid)
    if after is None or after.mark != f"BlockHost VM {name} {uuid}":
        raise Refusal("failed", f"VM {guest.vmid}: its description was set, but Proxmox does not show it")
    if snippet in ("moved", "ours") and after.config.get("cicustom") != wanted.get("cicustom", guest.config.get("cicustom")):
        raise Refusal("failed", f"VM {guest.vmid}: its cicustom was set, but Proxmox does not show it")
    if snippet in ("moved", "ours"):
        _remove_old_snippet(name)
    return {**answer, "changes": sorted(wanted), "uuid_pending": after.uuid != uuid}


def _prove_alone(guest: Guest, name: str, address: str | None, others: dict[int, str]) -> None:
    """Refuses where another guest could be the VM, or this one is configured with another address."""
    namesakes = [vmid for vmid, text in others.items() if _parse_config(text)[0].get("name") == name]
    if namesakes:
        shown = ", ".join(str(vmid) for vmid in sorted(namesakes)[:5])
        raise Refusal("collision", f"the cluster has another guest of the name {name} (VMID {shown})")
    found = re.search(r"(?:^|,)ip=([0-9.]+)(?:/|,|$)", guest.config.get("ipconfig0", ""))
    if address is not None and found is not None and found.group(1) != address:
        raise Refusal(
            "identity",
            f"VMID {guest.vmid} has the name {name}, but Proxmox configures the address {found.group(1)} "
            f"and not {address}",
            found=guest.found(),
        )


def _adopted_uuid(guest: Guest, name: str, given: str | None, new: str, others: dict[int, str]) -> str:
    """The UUID by which the VM is known from now on: that of its record or mark, its own, or a new one."""
    words = guest.mark.split(" ")
    marked = words[3].lower() if len(words) == 4 else None
    if marked is not None and (words[2] != name or given not in (None, marked)):
        raise Refusal(
            "identity", f"VMID {guest.vmid} is marked as another VM of ours ({guest.mark})", found=guest.found()
        )
    own = _smbios_uuid(guest.pending.get("smbios1", "")) or guest.uuid
    # Wherever the text of another has it: in its settings, a description, a snapshot.
    shared = own is not None and any(own in text.lower() for text in others.values())
    return given or marked or (own if own is not None and not shared else new)


def _adoption(guest: Guest, name: str, uuid: str) -> tuple[dict[str, str], str]:
    """What is to be set, and what becomes of the user-data: `moved`, `ours` (it was before), `none`, `foreign`, `missing`."""
    wanted: dict[str, str] = {}
    mark = f"BlockHost VM {name} {uuid}"
    if guest.mark != mark:
        # What people have noted stays below our line.
        wanted["description"] = f"{mark}\n{guest.description}".rstrip("\n")
        if len(wanted["description"]) > 8000:
            raise Refusal("failed", f"VM {guest.vmid}: its notes are too long to put a line before them")
    smbios = guest.pending.get("smbios1", guest.config.get("smbios1", ""))
    if _smbios_uuid(smbios) != uuid:
        rest = [part for part in smbios.split(",") if part and not part.strip().startswith("uuid=")]
        wanted["smbios1"] = ",".join([f"uuid={uuid}", *rest])
    parts = dict(part.partition("=")[::2] for part in guest.config.get("cicustom", "").split(",") if part)
    user = parts.get("user")
    if user is None:
        return wanted, "none"
    storage, path = _snippet_folder()
    ours, old = f"{storage}:snippets/blockhost-{name}-user.yaml", f"{storage}:snippets/{name}-cloud-config.yaml"
    if user == ours:
        return wanted, "ours"
    if user != old or "cicustom" in _pending_keys(guest):
        return wanted, "foreign"
    if not any((path / volume.partition("/")[2]).is_file() for volume in (old, ours)):
        return wanted, "missing"
    wanted["cicustom"] = ",".join(f"{key}={ours if key == 'user' else value}" for key, value in parts.items())
    return wanted, "moved"


def _change(guest: Guest, wanted: dict[str, str]) -> bool:
    """`qm set`, if the configuration is still the one that was proven; whether it has ended."""
    argv = ["qm", "set", str(guest.vmid), "--digest", _digest(guest)]
    for key, text in wanted.items():
        argv += [f"--{key}", text]
    if not all(word.isascii() for word in argv):
        # Proxmox decodes its arguments by the locale, and would spoil notes that are kept.
        argv = ["env", "LC_ALL=C.UTF-8", *argv]
    result = _detached("vm-adopt", guest.vmid, argv, PATIENCE).wait(0)
    if result is None:
        return False
    if result[0] != 0:
        if DIGEST_RE.search(f"{result[1]}\n{result[2]}"):
            raise Refusal("locked", f"VM {guest.vmid}: its configuration was changed meanwhile", lock="changed")
        raise _tool_refusal(argv, *result)
    return True


def _copy_old_snippet(name: str) -> None:
    """The user-data that the older package uploaded, under our name. Its text is the same, and so is what the guest gets."""
    _, path = _snippet_folder()
    folder = _open_snippets(path, create=False)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(f"{name}-cloud-config.yaml", flags, dir_fd=folder)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Refusal("failed", f"{path}/{name}-cloud-config.yaml is no regular file")
            text = file.read(SNIPPET_MAX + 1)
        if len(text) > SNIPPET_MAX:
            raise Refusal("failed", f"{path}/{name}-cloud-config.yaml is larger than {SNIPPET_MAX} bytes")
        _check_room(folder, f"blockhost-{name}-user.yaml", len(text))
        _write_whole(folder, f"blockhost-{name}-user.yaml", text, 0o600)
    except FileNotFoundError:
        pass  # moved before, or put there by whoever asks
    except OSError as error:
        raise Refusal("failed", f"{path}/{name}-cloud-config.yaml cannot be copied: {error.strerror or error}") from None
    finally:
        if folder >= 0:
            os.close(folder)


def _remove_old_snippet(name: str) -> None:
    """Removes the older package's file, unless a configuration names it: a clone of the VM, or a snapshot of it."""
    storage, path = _snippet_folder()
    if any(f"{storage}:snippets/{name}-cloud-config.yaml" in text for text in _cluster().values()):
        return
    folder = _open_snippets(path, create=False)
    if folder < 0:
        return
    try:
        _unlink(f"{name}-cloud-config.yaml", folder)
    except OSError as error:
        raise Refusal("failed", f"{path}/{name}-cloud-config.yaml cannot be removed: {error}") from None
    finally:
        os.close(folder)


# --- actions: limits --------------------------------------------------------------------------


def _cpu_limit(key: str, value: Any) -> str | None:
    """The text for qm; None (from null or 0) where the limit is to go.

    Deleting is the only right reset: writing the old default 1024 of cpuunits would give
    ten times the weight under cgroup v2, whose default is 100.
    """
    if value is None or (type(value) in (int, float) and value == 0):
        return None
    if key == "cpulimit":
        return f"{_number(value, key, 0.01, 128):.3f}".rstrip("0").rstrip(".")
    return str(_integer({key: value}, key, 1, 10000))


IOPS_KEYS = ("iops_rd", "iops_wr")
THROTTLE_KEYS = ("cpulimit", "cpuunits", *IOPS_KEYS)


def _throttled(drive: str, iops: dict[str, int], reset: bool = False) -> str:
    """A drive string with other limits: volume and every other key stay as and where they are.

    Another key that differed would leave the whole change pending. `bps_*` is accepted by
    PVE and ignored; `iops` excludes `iops_rd` and `iops_wr`, and goes with a reset as well.
    """
    dropped = set()
    for key in iops:
        dropped |= {key, f"{key}_max", f"{key}_max_length"}
    if reset or any(iops.values()):
        dropped |= {"iops", "iops_max", "iops_max_length"}
    parts = [part for part in drive.split(",") if part.partition("=")[0] not in dropped]
    return ",".join(parts + [f"{key}={value}" for key, value in iops.items() if value])


def _limits(params: dict) -> tuple[dict[str, str | None], dict[str, int], bool]:
    """What is asked for: CPU limits in qm's form (None: to go), IOPS (0: to go), and whether all others go."""
    given = params.get("limits")
    if not isinstance(given, dict) or not given:
        raise Refusal("failed", "limits must be an object with at least one key")
    reset = given.get("reset", False)
    if "reset" in given and reset is not True:
        raise Refusal("failed", "reset must be true")
    limits = dict.fromkeys(THROTTLE_KEYS, 0) if reset else {}
    limits |= {key: value for key, value in given.items() if key != "reset"}
    cpu: dict[str, str | None] = {}
    iops: dict[str, int] = {}
    for key, value in limits.items():
        if key in ("cpulimit", "cpuunits"):
            cpu[key] = _cpu_limit(key, value)
        elif key in IOPS_KEYS:
            iops[key] = _integer(limits, key, 0, 10_000_000, default=0)
        else:
            raise Refusal("failed", f"limit {_shown(key)} is not known")
    return cpu, iops, reset


def _digest(guest: Guest) -> str:
    """Proxmox' digest of the configuration that this guest was read from: SHA-1 of the whole file."""
    changed = Refusal("locked", f"VM {guest.vmid}: its configuration was changed meanwhile", lock="changed")
    try:
        text = _read(_node_path(f"/etc/pve/qemu-server/{guest.vmid}.conf"), 1024 * 1024)
    except OSError:
        raise changed from None
    if _parse_config(text.decode("utf-8", "replace"))[:2] != (guest.config, guest.pending):
        raise changed
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


def _pending_keys(guest: Guest | None) -> set[str]:
    """Keys whose change or deletion waits for the guest's next start."""
    if guest is None:
        raise Refusal("missing", "the VM was deleted meanwhile")
    deleted = {key.lstrip("!") for key in re.split("[,; ]+", guest.pending.get("delete", "")) if key}
    return {key for key in guest.pending if key != "delete"} | deleted


@_handler
def pve_set_throttle(params: dict) -> dict:
    """`limits`: cpulimit, cpuunits, iops_rd, iops_wr; 0 or null removes one; `reset: true` removes all that is not named.

    `qm set` gets the digest of the configuration that the drives were read from: whatever
    somebody else changes in between would be undone by our drive string, or leave it pending.
    """
    cpu, iops, reset = _limits(params)
    guest = _unlocked(_ours(params))
    disks = _disks(guest.config)
    if any(iops.values()) and not disks:
        raise Refusal("failed", f"VM {guest.vmid} has no disk to limit")
    wanted: dict[str, str | None] = {key: text for key, text in cpu.items() if text != guest.config.get(key)}
    for key, drive in disks.items() if iops else ():
        text = _throttled(drive, iops, reset)
        if text != drive:
            wanted[key] = text
    waiting = _pending_keys(guest)
    if held := sorted(key for key in wanted if key in disks and key in waiting):
        # Ours would take its place, and the other change would be lost.
        raise Refusal(
            "failed",
            f"{', '.join(held)} of VM {guest.vmid} has another change that waits for its next start "
            "(see qm pending); stop and start the VM, or revert that change, and try again",
        )
    if not wanted:
        return {"changed": []}
    argv = ["qm", "set", str(guest.vmid), "--digest", _digest(guest)]
    for key, text in wanted.items():
        argv += [f"--{key}", text] if text is not None else []
    if delete := sorted(key for key, text in wanted.items() if text is None):
        argv += ["--delete", ",".join(delete)]
    task = _detached("pve-set-throttle", guest.vmid, argv, PATIENCE)
    if task.argv != argv:
        raise Refusal("locked", f"VM {guest.vmid}: another change of its limits goes on")
    result = task.wait(0)
    if result is None:
        return PENDING
    # A change that cannot be made on a running guest is left pending, exit 0 or not.
    after = _guest(guest.vmid)
    stuck = sorted(key for key in wanted if key in _pending_keys(after) - waiting)
    if stuck:
        # Else it would come into force some day, long after we said that it is not.
        _run(["qm", "set", str(guest.vmid), "--revert", ",".join(stuck)])
    if result[0] != 0:
        if DIGEST_RE.search(f"{result[1]}\n{result[2]}"):
            raise Refusal("locked", f"VM {guest.vmid}: its configuration was changed meanwhile", lock="changed")
        raise _tool_refusal(argv, *result)
    if stuck:
        raise Refusal(
            "failed",
            f"VM {guest.vmid}: {', '.join(stuck)} cannot be changed while it runs; it was left as it was",
        )
    return {"changed": sorted(wanted)}


# --- the host's routes to guests -----------------------------------------------------


def _guest_route(params: dict) -> tuple[ipaddress.IPv6Address, str]:
    """The guest's address and its bridge: ours of db.yaml, which is root's own, and no other device of the host."""
    address = ipaddress.IPv6Address(_common.validate_ipv6_128(_text(params, "address")).removesuffix("/128"))
    dev, bridge = _text(params, "dev", re.compile(BRIDGE)), _settings().get("bridge", GUEST_BRIDGE)
    if dev != bridge:
        raise Refusal("bridge", f"the guests' bridge of db.yaml is {bridge}, not {dev}")
    return address, bridge


def _guest_prefix() -> tuple[ipaddress.IPv6Network, set[ipaddress.IPv6Address]]:
    """The host's prefix for guests of broker-allocation.json, and what is no guest's within it."""
    path = Path(getattr(_common, "CONFIG_DIR", "/etc/blockhost")) / "broker-allocation.json"
    try:
        allocation = json.loads(_read(path, 1024 * 1024, follow=True))
        prefix = ipaddress.IPv6Network(allocation["prefix"], strict=False)
        gateway = allocation.get("gateway")
        taken = {prefix[0], prefix[1]} | ({ipaddress.IPv6Address(gateway)} if gateway else set())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        text = f"{path} does not say which addresses are the guests': {type(error).__name__}: {error}"
        raise Refusal("prefix", text) from None
    return prefix, taken


@_handler
def guest_route_add(params: dict) -> dict:
    """The host route to a guest's IPv6 address. One that is there is replaced, so it can be asked for again.

    The daemon's own action accepts five bridges by name; this one the guests' bridge, whatever its name.
    """
    address, bridge = _guest_route(params)
    prefix, taken = _guest_prefix()
    if address not in prefix or address in taken:
        raise Refusal("prefix", f"{address} is no guest's address of {prefix}")
    _run_checked(["ip", "-6", "route", "replace", f"{address}/128", "dev", bridge])
    return {}


@_handler
def guest_route_del(params: dict) -> dict:
    """Removes it; gone already is what was wanted. The prefix may be another one than when the route was made."""
    address, bridge = _guest_route(params)
    if address.is_link_local or address.is_multicast or address.is_loopback or address.is_unspecified:
        raise Refusal("failed", f"{address} is no guest's address")
    argv = ["ip", "-6", "route", "del", f"{address}/128", "dev", bridge]
    code, stdout, stderr = _run(argv)
    gone = code != 0 and re.search("No such process|Cannot find device", stderr)
    if code != 0 and not gone:
        raise _tool_refusal(argv, code, stdout, stderr)
    return {"already": True} if gone else {}


# What tc says where there is nothing to delete; the texts differ by kernel and iproute2.
NO_QDISC_RE = re.compile(
    r"handle of zero|Invalid handle|Cannot find specified qdisc|No such file or directory|Invalid argument"
)


def _no_qdisc(dev: str, where: str) -> None:
    argv = ["tc", "qdisc", "del", "dev", dev, where]
    code, stdout, stderr = _run(argv)
    if code != 0 and not NO_QDISC_RE.search(stderr):
        raise _tool_refusal(argv, code, stdout, stderr)


@_handler
def tc_rate_limit(params: dict) -> dict:
    """`direction` is the guest's: `in` is what it receives. `rate_kbps` is kilobits per second.

    What a guest receives leaves the host by its tap's root qdisc; what it sends arrives at
    the tap's ingress, where it can only be policed. Guests send packets of up to 64 KiB:
    without `mtu` a policer drops all above 2 KiB, and none larger than `burst` ever passes.
    """
    dev = _text(params, "dev", TAP_RE)
    _common.validate_dev(dev)
    direction = _text(params, "direction", re.compile("in|out"))
    remove = params.get("remove")
    if not isinstance(remove, (bool, type(None))) or (remove and params.get("rate_kbps") is not None):
        raise Refusal("failed", "either rate_kbps or remove: true")
    rate = 0 if remove else _integer(params, "rate_kbps", 0, 100_000_000)
    vmid = int(TAP_RE.fullmatch(dev).group(1))
    if params.get("vmid") is not None and _vmid(params) != vmid:
        raise Refusal("identity", f"{dev} is not a device of VMID {params['vmid']}")
    _ours(params, vmid)
    # 50 ms of the rate, but two of the largest packets at least.
    burst = str(min(max(131072, rate * 1000 // 8 // 20), 16 * 1024 * 1024))
    if direction == "in":
        if rate == 0:
            _no_qdisc(dev, "root")
        else:
            _run_checked(
                [
                    "tc",
                    "qdisc",
                    "replace",
                    "dev",
                    dev,
                    "root",
                    "tbf",
                    "rate",
                    f"{rate}kbit",
                    "burst",
                    burst,
                    "latency",
                    "400ms",
                ]
            )
        return {}
    _no_qdisc(dev, "ingress")
    if rate:
        _run_checked(["tc", "qdisc", "add", "dev", dev, "handle", "ffff:", "ingress"])
        try:
            _run_checked(
                [
                    "tc",
                    "filter",
                    "add",
                    "dev",
                    dev,
                    "parent",
                    "ffff:",
                    "prio",
                    "50",
                    "basic",
                    "police",
                    "rate",
                    f"{rate}kbit",
                    "burst",
                    burst,
                    "mtu",
                    "64kb",
                    "drop",
                ]
            )
        except Refusal:
            _no_qdisc(dev, "ingress")
            raise
    return {}


# --- the guard of guests' networks --------------------------------------------------------

# What the guard is to do for a VM, a file each, and what its last run did. Root's alone: not below a folder of user blockhost.
GUARD_FILES = "/var/lib/blockhost-guard"
GUARD_STATES = "/run/blockhost-guard"
HOOK_FILE = "blockhost-guard.sh"
GUARD_PROGRAM = "blockhost-provisioner-guard"
# Kilobits per second that a limit may have.
KBPS_MAX = 100_000_000
LIMIT_KEYS = ("bandwidth_in_kbps", "bandwidth_out_kbps")

HOOK = """\
#!/bin/sh
# Proxmox runs this before and after a VM's start and stop (hookscript). Written by the root agent for the package
# blockhost-provisioner-proxmox. A VM whose hookscript is missing does not start: before this file is removed,
# `blockhost-provisioner-reapply --remove-guard` takes it out of all VMs.
PATH="${PATH:+$PATH:}/usr/sbin:/usr/bin:/sbin:/bin"
export PATH@ENVIRONMENT@
if command -v blockhost-provisioner-guard >/dev/null 2>&1; then
    exec blockhost-provisioner-guard "$@"
fi
# The package is gone. Its VMs go on to start, unless the site wants none of them without their guard.
if [ "$2" = pre-start ] && grep -Eiqs '^guard_required:[[:space:]]*true([[:space:]]|$)' '@CONFIG@'; then
    echo "blockhost-provisioner-guard is not installed, and db.yaml says guard_required: true" >&2
    exit 1
fi
exit 0
"""


def _guard_environment() -> dict[str, str]:
    """What the program must know where the node is not this host: in tests and in the lab."""
    if not hasattr(_common, "NODE_ROOT"):
        return {}
    config = str(getattr(_common, "CONFIG_DIR", "/etc/blockhost"))
    return {"BLOCKHOST_NODE_ROOT": str(_common.NODE_ROOT), "BLOCKHOST_CONFIG_DIR": config}


def _hook_text() -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("'", "'\\''") + "'"

    environment = "".join(f"\nexport {key}={quoted(value)}" for key, value in _guard_environment().items())
    config = Path(getattr(_common, "CONFIG_DIR", "/etc/blockhost")) / "db.yaml"
    return HOOK.replace("@ENVIRONMENT@", environment).replace("'@CONFIG@'", quoted(str(config)))


def _put_hook() -> str:
    """The script on the snippet storage, put back where it is gone or another; its volume."""
    storage, path = _snippet_folder()
    folder = _open_snippets(path, create=True)
    content = _hook_text().encode("utf-8")
    try:
        try:
            fd = os.open(HOOK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            with os.fdopen(fd, "rb") as file:
                info = os.fstat(fd)
                is_right = (info.st_uid, stat.S_IMODE(info.st_mode)) == (ROOT_UID, 0o755)
                is_right = is_right and stat.S_ISREG(info.st_mode) and file.read(len(content) + 1) == content
        except OSError:
            is_right = False
        if not is_right:
            _write_whole(folder, HOOK_FILE, content, 0o755)
    except OSError as error:
        raise Refusal("failed", f"{path / HOOK_FILE} cannot be written: {error.strerror or error}") from None
    finally:
        os.close(folder)
    return f"{storage}:snippets/{HOOK_FILE}"


def _is_our_hook(volume: str | None) -> bool:
    return volume is not None and volume.endswith(f":snippets/{HOOK_FILE}")


def _open_guard(create: bool) -> int:
    """The folder of the guard's files; -1 where there is none."""
    return _open_roots_folder(_node_path(GUARD_FILES), 0o700, create)


def _guard_file(vmid: int) -> dict | None:
    """What the guard is to do for this VMID; None where that is nothing. One that cannot be read is as good as none."""
    return _json_file(_node_path(f"{GUARD_FILES}/{vmid}.json"))


def _guard_state(vmid: int) -> dict | None:
    return _json_file(_node_path(f"{GUARD_STATES}/{vmid}.json"))


def _json_file(path: Path) -> dict | None:
    try:
        value = json.loads(_read(path, 65536))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_of(file: dict | None, params: dict) -> bool:
    """Whether a guard's file is that of the VM that the request means."""
    uuid, name = params.get("uuid"), params.get("name")
    if file is None or (uuid is None and name is None):
        return False
    if uuid is not None:
        return file.get("uuid") == _text(params, "uuid", UUID_RE).lower()
    # A record of the older package has no UUID, and its VM may have one.
    return file.get("name") == _text(params, "name", NAME_RE)


def _sentences(value: Any) -> list[str]:
    return [_printable(text, 300) for text in value[:20] if isinstance(text, str)] if isinstance(value, list) else []


def _guard_report(guest: Guest, params: dict, running: bool) -> dict:
    """What `vm-state` tells: whether there is a decision, whether the hook runs it, and what the last run could not do."""
    file, state = _guard_file(guest.vmid), _guard_state(guest.vmid) or {}
    is_set = _is_of(file, params)
    return {
        "set": is_set,
        "hook": _is_our_hook(guest.config.get("hookscript")),
        "enabled": is_set and file.get("enabled") is not False,
        "anti_spoofing": is_set and file.get("anti_spoofing") is True,
        "limits": file.get("limits", {}) if is_set else {},
        "applied": running and is_set and state.get("applied") is True,
        "missing": _sentences(state.get("missing")) if is_set else [],
    }


def _run_guard(vmid: int, phase: str) -> list[str]:
    """Runs the program; what it could not do, in sentences."""
    words = [GUARD_PROGRAM, str(vmid), phase]
    if environment := _guard_environment():
        words = ["env", *(f"{key}={value}" for key, value in environment.items()), *words]
    try:
        code, stdout, stderr = _run(words)
    except Refusal as refusal:
        return [_printable(refusal, 300)]
    if code == 0:
        return []
    missing = _sentences((_guard_state(vmid) or {}).get("missing"))
    return missing or [f"{GUARD_PROGRAM} ended with {code}: {_last_words(stdout, stderr)}"]


def _guard_ipv4(params: dict, settings: dict) -> str | None:
    """An address of ip_pool's network that can be a guest's. ValueError says why it is none."""
    if params.get("ipv4") is None:
        return None
    address = ipaddress.IPv4Address(_text(params, "ipv4", ADDRESS_RE))
    pool = {key: text.strip().strip("\"'") for key, text in settings.get("ip_pool", {}).items()}
    network = ipaddress.IPv4Network(pool.get("network", ""), strict=False)
    gateway = pool.get("gateway", "")
    # `gateway: 1` is the network's first address, as `start` and `end` may be numbers.
    taken = {network[int(gateway)] if gateway.isdigit() else ipaddress.IPv4Address(gateway)} if gateway else set()
    if address not in network or address in taken | {network[0], network[-1]}:
        raise ValueError(f"{address} is no guest's address of {network} (ip_pool of db.yaml)")
    return str(address)


def _guard_ipv6(params: dict) -> str | None:
    if params.get("ipv6") is None:
        return None
    address = ipaddress.IPv6Address(_text(params, "ipv6", re.compile(r"[0-9A-Fa-f:.]{2,45}")))
    prefix, taken = _guest_prefix()
    if address not in prefix or address in taken:
        raise ValueError(f"{address} is no guest's address of {prefix}")
    return str(address)


def _other_holder(folder: int, vmid: int, address: str) -> int | None:
    """The VMID of another guest, still there, whose guard lets it use this address."""
    ids = _vmlist()
    wanted = f'"{address}"'.encode()
    for name in os.listdir(folder):
        other = name.removesuffix(".json")
        if other == str(vmid) or other not in ids or not name.endswith(".json"):
            continue
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        with os.fdopen(fd, "rb") as file:
            if wanted in file.read(65536):
                return int(other)
    return None


def _guard_addresses(params: dict, old: dict, folder: int, vmid: int) -> tuple[dict[str, str | None], list[str]]:
    """The addresses that the VM may use, and why not those that were asked for."""
    found: dict[str, str | None] = {"ipv4": None, "ipv6": None}
    missing = []
    settings = _settings()
    for key, check in (("ipv4", lambda: _guard_ipv4(params, settings)), ("ipv6", lambda: _guard_ipv6(params))):
        try:
            address = check()
            if address is not None and address != old.get(key):
                holder = _other_holder(folder, vmid, address)
                if holder is not None:
                    raise ValueError(f"{address} is the address of VMID {holder}")
            found[key] = address
        except (ValueError, IndexError, Refusal, OSError) as error:
            what = "anti-spoofing is off" if key == "ipv4" else "it cannot use its IPv6 address"
            missing.append(f"{what}: {_printable(error, 250)}")
    return found, missing


def _guard_limits(params: dict, old: dict) -> dict[str, int]:
    """Those that were asked for; without any, those that are there."""
    limits = params.get("limits")
    if limits is None:
        kept = old.get("limits")
        limits = kept if isinstance(kept, dict) else {}
    if not isinstance(limits, dict) or not set(limits) <= set(LIMIT_KEYS):
        raise Refusal("failed", f"limits must be an object with {' and '.join(LIMIT_KEYS)}")
    return {key: _integer(limits, key, 0, KBPS_MAX, default=0) for key in LIMIT_KEYS}


def _boolean(params: dict, key: str, default: bool | None = None) -> bool:
    value = params.get(key, default)
    if not isinstance(value, bool):
        raise Refusal("failed", f"{key} must be true or false")
    return value


@_handler
def guard_set(params: dict) -> dict:
    """Decides what the guard does for a VM, from its next start on, and at once where it runs.

    `anti_spoofing`, `isolate`; `enabled` false (a suspended VM) is nothing at all; `limits` in
    kilobits per second, absent: as they are. Cards and their addresses are not asked for: the
    program reads them in the VM's configuration. A hook script that is not ours is left.
    """
    anti_spoofing, isolate = _boolean(params, "anti_spoofing"), _boolean(params, "isolate")
    enabled = _boolean(params, "enabled", True)
    guest = _unlocked(_ours(params))
    vmid = guest.vmid
    folder = _open_guard(create=True)
    try:
        old = _guard_file(vmid)
        old = old if old is not None and _is_of(old, {"uuid": guest.uuid, "name": guest.name}) else {}
        limits = _guard_limits(params, old)
        addresses, missing = _guard_addresses(params, old, folder, vmid)
        if anti_spoofing and addresses["ipv4"] is None:
            anti_spoofing = False
            missing = missing or ["anti-spoofing is off: no IPv4 address was given"]
        decided = {
            "vmid": vmid,
            "uuid": guest.uuid,
            "name": guest.name,
            **addresses,
            "anti_spoofing": anti_spoofing,
            "isolate": isolate,
            "enabled": enabled,
            "limits": limits,
        }
        if decided != old:
            _write_whole(folder, f"{vmid}.json", (json.dumps(decided) + "\n").encode("ascii"), 0o600)
    except OSError as error:
        raise Refusal("failed", f"the guard's file of VMID {vmid} cannot be written: {error}") from None
    finally:
        os.close(folder)
    running = _running(vmid)
    there = guest.config.get("hookscript")
    if not enabled and not _is_our_hook(there):
        # Nothing was guarded and nothing is to be: gc suspends many VMs, and each `qm set` takes its time.
        hook = "none" if there is None else "foreign"
        return {"running": running, "applied": False, "hook": hook, "missing": missing + _off_if_on(vmid)}
    hook, why = _set_hook(guest, _put_hook())
    missing += why
    applied = False
    if not enabled:
        missing += _off_if_on(vmid)
    elif running:
        failed = _run_guard(vmid, "apply")
        missing += failed
        applied = not failed
    return {"running": running, "applied": applied, "hook": hook, "missing": missing}


def _off_if_on(vmid: int) -> list[str]:
    """Takes away what the last run left, if it left anything."""
    return _run_guard(vmid, "off") if _guard_state(vmid) is not None else []


def _set_hook(guest: Guest, volume: str) -> tuple[str, list[str]]:
    """Makes the guard's script the VM's hook script: `ours`, `pending`, `foreign` or `failed`, and what is to be said."""
    there = guest.config.get("hookscript")
    if there == volume:
        return "ours", []
    if there is not None and not _is_our_hook(there):
        shown = _printable(there, 200)
        return "foreign", [f"VM {guest.vmid} has a hook script of its own ({shown}), so nothing is guarded at its starts"]
    argv = ["qm", "set", str(guest.vmid), "--hookscript", volume]
    try:
        result = _detached("guard-set", guest.vmid, argv, PATIENCE).wait(0)
    except Refusal as refusal:
        return "failed", [f"nothing is guarded at its next start by somebody else: {refusal}"]
    if result is None:
        return "pending", []
    if result[0] != 0:
        words = _tool_refusal(argv, *result)
        return "failed", [f"nothing is guarded at its next start by somebody else: {_printable(words, 250)}"]
    return "ours", []


@_handler
def guard_clear(params: dict) -> dict:
    """Nothing is guarded any more: rules, limits and route off, hook script out of the VM, file gone.

    Also for a VM that is gone: then the file alone says whose it is. A guest that has its VMID
    now is not touched.
    """
    vmid = _vmid(params)
    guest, file = _guest(vmid), _guard_file(vmid)
    is_its_file = _is_of(file, params)
    meant = guest is not None and _is_meant(guest, params)
    if params.get("uuid") is None and params.get("name") is None:
        raise Refusal("identity", "neither uuid nor name was given")
    if guest is not None and not meant and not is_its_file:
        _identify(guest, params)
    here = meant and guest.here
    if here:
        guest = _unlocked(_ours(params, vmid))
    missing = []
    if is_its_file or (here and _guard_state(vmid) is not None):
        missing = _run_guard(vmid, "off")
    if here and _is_our_hook(guest.config.get("hookscript")):
        _without_hook(guest)
    if missing:
        raise Refusal("failed", f"VMID {vmid}: {'; '.join(missing)}")
    if not is_its_file:
        return {"already": True}
    folder = _open_guard(create=False)
    try:
        if folder >= 0:
            _unlink(f"{vmid}.json", folder)
            os.fsync(folder)
    except OSError as error:
        raise Refusal("failed", f"the guard's file of VMID {vmid} cannot be removed: {error}") from None
    finally:
        if folder >= 0:
            os.close(folder)
    return {}


def _without_hook(guest: Guest) -> bool:
    """Takes our hook script out of a VM; False where `qm` still goes on."""
    argv = ["qm", "set", str(guest.vmid), "--delete", "hookscript"]
    result = _detached("guard-clear", guest.vmid, argv, PATIENCE).wait(0)
    if result is not None and result[0] != 0:
        raise _tool_refusal(argv, *result)
    return result is not None


@_handler
def guard_remove(params: dict) -> dict:
    """Takes the guard's hook script out of one VM of this node, and when none has it any more, removes the script.

    To be called until `left` is 0: before the package goes, since a VM whose script is missing
    does not start. It asks for no identity, because it changes nothing but our own entry, and a
    VM that has left our range has it too.
    """
    with_hook = []
    for (vmid, node), text in sorted(_all_configs(_vmlist()).items()):
        config, _, _ = _parse_config(text)
        if _is_our_hook(config.get("hookscript")):
            with_hook.append((vmid, node))
    here = [vmid for vmid, node in with_hook if node == _own_node()]
    if here:
        guest = _guest(here[0])
        if guest is not None and _is_our_hook(guest.config.get("hookscript")):
            _without_hook(_unlocked(guest))
            # What it is guarded by now goes with its next stop, or at once where it is off.
            _run_guard(here[0], "off")
        return {"left": len(here)}
    if with_hook:
        shown = ", ".join(f"{vmid} on {node}" for vmid, node in with_hook[:10])
        raise Refusal("elsewhere", f"VMs of other nodes still have the hook script: {shown}")
    _, path = _snippet_folder()
    folder = _open_snippets(path, create=False)
    try:
        if folder >= 0:
            _unlink(HOOK_FILE, folder)
            os.fsync(folder)
    except OSError as error:
        raise Refusal("failed", f"{path / HOOK_FILE} cannot be removed: {error.strerror or error}") from None
    finally:
        if folder >= 0:
            os.close(folder)
    _run(["nft", "delete", "table", "bridge", "blockhost"])
    return {"left": 0}


# --- actions: what doctor compares ------------------------------------------------------------

# The package's version: a daemon that was not restarted after an upgrade still has the old one.
VERSION = "0.3.0"
SNIPPET_RE = re.compile(r"blockhost-(.+)-(user|meta)\.yaml")
VOLUME_RE = re.compile(r"vm-([1-9][0-9]{2,5})-(?:disk-[0-9]{1,4}|cloudinit)(?:\.[a-z0-9]{1,8})?")


@_handler
def host_inventory(params: dict) -> dict:
    """What lies in root's own directories and is ours: cloud-init snippets, the hook script, guard files. Reads only.

    Names alone: what is in them is the guests' business, and the UUID in a guard file is a key.
    """
    _, path = _snippet_folder()
    snippets, hook = [], False
    folder = _open_snippets(path, create=False)
    try:
        for file in sorted(os.listdir(folder)) if folder >= 0 else ():
            match = SNIPPET_RE.fullmatch(file)
            if match and NAME_RE.fullmatch(match.group(1)):
                snippets.append({"name": match.group(1), "kind": match.group(2)})
            if file == HOOK_FILE:
                info = os.stat(file, dir_fd=folder, follow_symlinks=False)
                # Proxmox refuses to start a VM whose hook script it cannot run.
                hook = stat.S_ISREG(info.st_mode) and bool(info.st_mode & 0o100)
    except OSError as error:
        raise Refusal("failed", f"{path} cannot be read: {error.strerror or error}") from None
    finally:
        if folder >= 0:
            os.close(folder)
    guards = []
    folder = _open_guard(create=False)
    try:
        for file in sorted(os.listdir(folder)) if folder >= 0 else ():
            if match := re.fullmatch(r"([1-9][0-9]{2,5})\.json", file):
                vmid = int(match.group(1))
                name = (_guard_file(vmid) or {}).get("name")
                guards.append({"vmid": vmid, "name": _printable(name, 63) if isinstance(name, str) else None})
    finally:
        if folder >= 0:
            os.close(folder)
    return {"version": VERSION, "folder": str(path), "snippets": snippets, "hook": hook, "guards": guards}


def _our_volume(volid: str, low: int, high: int) -> int | None:
    """The VMID in the name of a disk that a VM of our range has or had; None for every other volume."""
    match = VOLUME_RE.fullmatch(volid.partition(":")[2].rpartition("/")[2])
    vmid = int(match.group(1)) if match else 0
    return vmid if match and low <= vmid <= high else None


@_handler
def volume_list(params: dict) -> dict:
    """Disks on these storages that carry a VMID of our range which no guest of the cluster has."""
    storages = params.get("storages")
    if not isinstance(storages, list) or not 1 <= len(storages) <= 4:
        raise Refusal("failed", "storages must be a list of 1 to 4 names")
    names = [_text({"storages": name}, "storages", STORAGE_RE) for name in storages]
    settings = _settings()
    low, high = settings.get("vmid_range") or settings.get("vmid_pool") or (0, -1)
    taken = set(_vmlist()) | {str(settings.get("template_vmid", TEMPLATE_VMID))}
    found = []
    for name in dict.fromkeys(names):
        lines = _run_checked(["pvesm", "list", name, "--content", "images"]).splitlines()
        for line in lines:
            volid = line.split(" ")[0]
            vmid = _our_volume(volid, low, high) if volid.startswith(f"{name}:") else None
            if vmid is not None and str(vmid) not in taken:
                found.append({"volid": volid, "vmid": vmid})
    # A guest that was made meanwhile has its disks by right.
    taken = set(_vmlist())
    return {"volumes": [one for one in found if str(one["vmid"]) not in taken]}


@_handler
def volume_free(params: dict) -> dict:
    """Frees a disk that was left over: its VMID is of our range, no guest of the cluster has it, none names the disk.

    Whether it was ever one of ours is the caller's to know; that nobody's VM loses a disk is looked at here.
    """
    volid = _text(params, "volid", re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[A-Za-z0-9][A-Za-z0-9._/-]{0,199}"))
    if ".." in volid.split(":")[1].split("/"):
        raise Refusal("failed", f"volid {_shown(volid)} is not allowed")
    settings = _settings()
    low, high = settings.get("vmid_range") or settings.get("vmid_pool") or (0, -1)
    vmid = _our_volume(volid, low, high)
    if vmid is None or _is_template_vmid(vmid, settings):
        raise Refusal("range", f"{volid} is no disk of a VM of our range")
    before = _vmlist()
    if not _quorate():
        raise Refusal("failed", "the cluster has no quorum, so this node may not see all guests")
    if str(vmid) in before:
        raise Refusal("failed", f"{volid} is kept: node {before[str(vmid)].get('node')} has a guest with VMID {vmid}")
    own = volid.partition(":")[2]
    for (other, node), text in sorted(_all_configs(before).items()):
        if volid in text or re.search(rf":(?:\S*/)?{re.escape(own)}(?![A-Za-z0-9._-])", text):
            raise Refusal("failed", f"{volid} is kept: the configuration of VMID {other} on node {node} names it")
    if (vmid, _own_node()) in _all_configs(before) or str(vmid) in _vmlist():
        raise Refusal("failed", f"{volid} is kept: a guest with VMID {vmid} has just been made")
    _run_checked(["pvesm", "free", volid])
    return {}


ACTIONS = {
    "vm-state": vm_state,
    "vm-find": vm_find,
    "vm-adopt": vm_adopt,
    "guest-list": guest_list,
    "host-inventory": host_inventory,
    "volume-list": volume_list,
    "volume-free": volume_free,
    "qm-start": qm_start,
    "qm-stop": qm_stop,
    "qm-shutdown": qm_shutdown,
    "qm-resume": qm_resume,
    "qm-destroy": qm_destroy,
    "qm-create": qm_create,
    "qm-set": qm_set,
    "qm-importdisk": qm_importdisk,
    "qm-template": qm_template,
    "qm-guest-ping": qm_guest_ping,
    "qm-guest-exec": qm_guest_exec,
    "qm-guest-exec-status": qm_guest_exec_status,
    "qm-update-gecos": qm_update_gecos,
    "guest-route-add": guest_route_add,
    "guest-route-del": guest_route_del,
    "snippet-put": snippet_put,
    "snippet-delete": snippet_delete,
    "pve-set-throttle": pve_set_throttle,
    "tc-rate-limit": tc_rate_limit,
    "guard-set": guard_set,
    "guard-clear": guard_clear,
    "guard-remove": guard_remove,
}
