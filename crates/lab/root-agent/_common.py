"""Stand-in for the `_common` module of the root agent (package blockhost-common).

Same names and rules as the real one, for the lab and for tests: a plugin imports it and
cannot tell the difference.  `agent.py` sets NODE_ROOT and CONFIG_DIR to the lab's folder;
on a real host neither exists and a plugin uses `/` and `/etc/blockhost`.
"""

import ipaddress
import logging
import re
import subprocess

log = logging.getLogger("blockhost-root-agent")

# Below this a plugin finds the node's files (/etc/pve, /run/qemu-server, /proc, ...).
NODE_ROOT = "/"
# The folder of db.yaml and its neighbours.
CONFIG_DIR = "/etc/blockhost"

STORAGE_RE = re.compile(r"^[a-z0-9-]+$")

_BRIDGES = {"vmbr0", "virbr0", "br0", "br-ext", "docker0"}
_TAP_RE = re.compile(r"^tap\d+i\d+$")


def run(cmd, timeout=120):
    """(exit code, stdout, stderr), both stripped; raises subprocess.TimeoutExpired, the child killed."""
    done = subprocess.run(cmd, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def validate_vmid(vmid):
    """The VMID, 100 to 999999; else ValueError."""
    if isinstance(vmid, bool) or not isinstance(vmid, int) or not 100 <= vmid <= 999999:
        raise ValueError(f"Invalid VMID: {vmid!r}")
    return vmid


def validate_dev(dev):
    """A bridge that is known by name, or a tap; else ValueError."""
    if not isinstance(dev, str) or not (dev in _BRIDGES or _TAP_RE.fullmatch(dev)):
        raise ValueError(f"Invalid device: {dev!r}")
    return dev


def validate_ipv6_128(address):
    """One IPv6 address with /128; else ValueError."""
    if not isinstance(address, str) or not address.endswith("/128"):
        raise ValueError(f"Invalid IPv6 /128 address: {address!r}")
    ipaddress.IPv6Address(address[: -len("/128")])
    return address
