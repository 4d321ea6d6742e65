"""A small host in network namespaces: a bridge, guests behind their taps, and somebody outside.

The test's own process is moved into a fresh namespace, the host; each guest and the outside is a
namespace of its own at the other end of a veth pair.  A guest's end of the pair that Proxmox would
call tapVMIDi0 is the `tap`.  Packets are real, and so are bridge, nftables, qdiscs and routes.
"""

import ctypes
import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("LAB_TARGET") or ROOT / "target" / "debug") / "blockhost-provisioner-guard"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
ETH_P_ALL = 3
_libc = ctypes.CDLL(None, use_errno=True)


PHASES = ("pre-start", "post-start", "pre-stop", "post-stop")


def hook_script(folder):
    """The script that the root agent's plugin writes; where the node is comes from the environment here."""
    plugin = (ROOT / "root-agent-actions/qm.py").read_text()
    text = plugin.split('HOOK = """\\\n', 1)[1].split('"""', 1)[0]
    return text.replace("@ENVIRONMENT@", "").replace("@CONFIG@", str(folder / "etc/blockhost/db.yaml"))


def _checked(result):
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def run(*words, **more):
    return subprocess.run(words, check=True, capture_output=True, text=True, **more).stdout


class Place:
    """A network namespace, by a descriptor of it."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self):
        self.outer = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _checked(_libc.setns(self.fd, CLONE_NEWNET))

    def __exit__(self, *_):
        _checked(_libc.setns(self.outer, CLONE_NEWNET))
        os.close(self.outer)

    def raw(self, device="eth0"):
        """A socket for whole frames on a device of this namespace."""
        with self:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            # More than a burst of a whole test.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.bind((device, ETH_P_ALL))
            sock.settimeout(0)
        return sock

    def run(self, *words):
        with self:
            return run(*words)

    def socket(self, target, kind):
        with self:
            return socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, kind)

    def reaches(self, target, seconds=0.7):
        """Whether the other side answers, if only that nobody listens there."""
        with self.socket(target, socket.SOCK_STREAM) as sock:
            sock.settimeout(seconds)
            try:
                sock.connect((target, 9))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
            return True


class World:
    """The host. `own_namespace` has been called for this process."""

    def __init__(self, folder):
        self.root = folder
        for name in ("var/lib/blockhost-guard", "etc/pve/qemu-server", "etc/blockhost", "run", "sys"):
            (folder / name).mkdir(parents=True)
        # A kernel's view of the network belongs to the namespace in which it was mounted.
        run("mount", "-t", "sysfs", "sysfs", str(folder / "sys"))
        self.places = {}
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "vmbr0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "link", "set", "vmbr0", "address", "02:00:00:00:00:01", "up")
        run("ip", "address", "add", "192.168.122.1/24", "dev", "vmbr0")
        run("ip", "address", "add", "fd00::1/64", "dev", "vmbr0", "nodad")
        self.plug("outside", "eno1", "02:00:00:00:00:0f", "192.168.122.15", "fd00::f")
        (folder / "etc/blockhost/db.yaml").write_text("bridge: vmbr0\n")
        self.script = folder / "blockhost-guard.sh"
        self.script.write_text(hook_script(folder))
        self.script.chmod(0o755)

    def plug(self, name, port, mac, ipv4, ipv6):
        """A namespace whose eth0 is the other end of a port of the bridge."""
        with subprocess.Popen(["unshare", "-n", "sleep", "60"]) as holder:
            own = os.readlink("/proc/self/ns/net")
            while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
                time.sleep(0.001)
            place = Place(f"/proc/{holder.pid}/ns/net")
            run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", str(holder.pid))
            holder.kill()
        run("ip", "link", "set", port, "master", "vmbr0", "up")
        place.run("ip", "link", "set", "lo", "up")
        place.run("ip", "link", "set", "eth0", "up")
        place.run("ip", "address", "add", f"{ipv4}/24", "dev", "eth0")
        place.run("ip", "address", "add", f"{ipv6}/64", "dev", "eth0", "nodad")
        self.places[name] = place
        return place

    def configure(self, vmid, mac, uuid, extra=""):
        """The VM's configuration as Proxmox has it."""
        (self.root / f"etc/pve/qemu-server/{vmid}.conf").write_text(
            f"name: vm-{vmid}\nnet0: virtio={mac.upper()},bridge=vmbr0\nsmbios1: uuid={uuid}\n{extra}"
        )

    def decide(self, vmid, uuid, ipv4, ipv6, **more):
        """The guard's file as the root agent writes it."""
        limits = {"bandwidth_in_kbps": more.pop("receive", 0), "bandwidth_out_kbps": more.pop("send", 0)}
        decided = {"vmid": vmid, "uuid": uuid, "name": f"vm-{vmid}", "ipv4": ipv4, "ipv6": ipv6, "anti_spoofing": True,
                   "isolate": True, "enabled": True, "limits": limits, **more}
        (self.root / f"var/lib/blockhost-guard/{vmid}.json").write_text(json.dumps(decided))

    def guard(self, vmid, phase, path="/usr/sbin:/usr/bin:/sbin:/bin"):
        """Proxmox' phases by way of the hook script, as Proxmox runs it; those of the root agent directly."""
        environment = {
            "PATH": f"{path}:{PROGRAM.parent}",
            "BLOCKHOST_NODE_ROOT": str(self.root),
            "BLOCKHOST_CONFIG_DIR": str(self.root / "etc/blockhost"),
        }
        program = self.script if phase in PHASES else PROGRAM
        return subprocess.run([program, str(vmid), phase], env=environment, cwd="/", capture_output=True, text=True, check=False)

    def state(self, vmid):
        path = self.root / f"run/blockhost-guard/{vmid}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def chains(self):
        """Chains and entries of our table that belong to a VM."""
        text = subprocess.run(["nft", "list", "table", "bridge", "blockhost"], capture_output=True, text=True, check=False).stdout
        return [line.strip() for line in text.splitlines() if "tap" in line]

    def isolated(self, port):
        return (self.root / f"sys/class/net/{port}/brport/isolated").read_text().strip() == "1"

    def routes(self):
        return [line for line in run("ip", "-6", "route").splitlines() if line.startswith("fd00::") and "/64" not in line]


def own_namespace():
    """This process has a network and mounts of its own from now on."""
    _checked(_libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
    run("mount", "--make-rprivate", "/")


# --- packets ---------------------------------------------------------------------------


def mac_bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(source, to, kind, payload):
    return mac_bytes(to) + mac_bytes(source) + struct.pack(">H", kind) + payload


BROADCAST = "ff:ff:ff:ff:ff:ff"


def arp(mac, operation, sender_mac, sender_ip, target_ip):
    words = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + mac_bytes(sender_mac) + socket.inet_aton(sender_ip)
    return ethernet(mac, BROADCAST, 0x0806, words + bytes(6) + socket.inet_aton(target_ip))


def udp(sport, dport, data):
    return struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data


def ipv4(mac, source, target, payload, protocol=17, to=BROADCAST):
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return ethernet(mac, to, 0x0800, head + payload)


def ipv6(mac, source, target, payload, kind, hop_limit=255, to="33:33:00:00:00:01"):
    head = struct.pack(">IHBB", 6 << 28, len(payload), kind, hop_limit)
    head += socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    return ethernet(mac, to, 0x86DD, head + payload)


def icmpv6(source, target, kind, body):
    """A message with its checksum."""
    data = struct.pack(">BBH", kind, 0, 0) + body
    pseudo = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    pseudo += struct.pack(">II", len(data), 58)
    return data[:2] + struct.pack(">H", checksum(pseudo + data)) + data[4:]


def neighbour(mac, source, kind, about, target="ff02::1"):
    """Neighbour solicitation (135) or advertisement (136) about an address."""
    option = struct.pack(">BB", 1 if kind == 135 else 2, 1) + mac_bytes(mac)
    body = struct.pack(">I", 0x20000000 if kind == 136 else 0) + socket.inet_pton(socket.AF_INET6, about)
    # Whoever has no address yet gives none of a card.
    body += option if source != "::" else b""
    return ipv6(mac, source, target, icmpv6(source, target, kind, body), 58)


def drain(sock, seconds=0.0):
    """Frames that have arrived, and do within `seconds`."""
    found, end = [], time.monotonic() + seconds
    while True:
        try:
            frame, address = sock.recvfrom(65536)
            # Not what we sent ourselves.
            if address[2] != socket.PACKET_OUTGOING:
                found.append(frame)
        except BlockingIOError:
            if time.monotonic() >= end:
                return found
            time.sleep(0.002)
