#!/usr/bin/env python3
"""`pvesh` for the network alone, on real interfaces: pending changes are written to interfaces.new, and applied by `ip`.

As Proxmox does it: a second default gateway and a port that has an address are refused, applying is a task whose
failure does not reach the exit code. What goes wrong stands in the file `fault` beside /etc/network/interfaces.
"""

import json
import os
import subprocess
import sys
import time

FOLDER = "/etc/network"
NOW, NEW = f"{FOLDER}/interfaces", f"{FOLDER}/interfaces.new"


def fault():
    try:
        with open(f"{FOLDER}/fault", encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def read():
    """Stanzas by interface: method, auto, options."""
    found = {}
    path = NEW if os.path.exists(NEW) else NOW
    autos, current = set(), None
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("auto", "allow-hotplug"):
                autos.update(words[1:])
            elif words[0] == "iface":
                current = found.setdefault(words[1], {"method": words[3]})
            elif current is not None:
                current[words[0]] = " ".join(words[1:])
    for name in autos:
        found.setdefault(name, {"method": "manual"})["autostart"] = 1
    return found


def write(stanzas):
    lines = []
    for name, stanza in stanzas.items():
        if stanza.get("autostart"):
            lines.append(f"auto {name}")
        lines.append(f"iface {name} inet {stanza['method']}")
        lines += [f"\t{key} {value}" for key, value in stanza.items() if key not in ("method", "autostart")]
        lines.append("")
    with open(NEW, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))


def refuse(why):
    sys.stderr.write(f"400 Parameter verification failed.\n{why}\n")
    sys.exit(255)


def ip(*words):
    return subprocess.run(["ip", *words], check=False, capture_output=True, text=True)


def rows():
    found = read()
    names = {row["ifname"] for row in json.loads(ip("-j", "link").stdout)} - {"lo"}
    result = []
    for name in sorted(names | set(found) - {"lo"}):
        stanza = found.get(name, {"method": "manual"})
        row = {"iface": name, "method": stanza["method"], "active": int(name in names)}
        row["type"] = "bridge" if "bridge-ports" in stanza else "eth"
        if stanza.get("autostart"):
            row["autostart"] = 1
        if "address" in stanza:
            row["cidr"] = stanza["address"]
            row["address"] = stanza["address"].split("/")[0]
        if "gateway" in stanza:
            row["gateway"] = stanza["gateway"]
        result.append(row)
    return result


def apply():
    what = fault()
    if what == "apply-fails":
        print("UPID:pve:0000:srvreload")
        sys.stderr.write("command 'ifreload -a' failed: exit code 1\n")
        return
    if os.path.exists(NEW):
        os.rename(NEW, NOW)
    stanzas = read()
    if what == "apply-slow":
        time.sleep(3)
    for name, stanza in stanzas.items():
        if name == "lo":
            continue
        if "bridge-ports" in stanza:
            ip("link", "add", name, "type", "bridge")
            ip("link", "set", name, "up")
        ip("address", "flush", "dev", name)
        for port in stanza.get("bridge-ports", "none").split():
            if port != "none":
                ip("address", "flush", "dev", port)
                ip("link", "set", port, "master", name)
        if what == "apply-half" and "bridge-ports" in stanza:
            sys.stderr.write("error: bridge: cannot be configured\n")
            return
        if what == "apply-hangs" and "bridge-ports" in stanza:
            time.sleep(600)
        if "address" in stanza:
            ip("address", "add", stanza["address"], "dev", name)
        if "gateway" in stanza:
            ip("route", "replace", "default", "via", stanza["gateway"], "dev", name)


def main():
    act, path, *rest = sys.argv[1:]
    options = {key.removeprefix("--"): value for key, value in zip(rest[::2], rest[1::2])}
    with open(f"{FOLDER}/calls", "a", encoding="utf-8") as file:
        file.write(" ".join(sys.argv[1:]) + "\n")
    if act == "get" and path == "/cluster/status":
        print(json.dumps([{"type": "node", "name": "pve", "local": 1}]))
    elif act == "get" and path == "/nodes/pve/network":
        print(json.dumps(rows()))
    elif act == "create" and path == "/nodes/pve/network":
        stanzas = read()
        name = options["iface"]
        if name in stanzas:
            refuse("iface: interface already exists")
        if "gateway" in options and any("gateway" in stanza for stanza in stanzas.values()):
            refuse("gateway: Default gateway already exists on interface")
        ports = options.get("bridge_ports", "none")
        if any("address" in stanzas.get(port, {}) for port in ports.split()):
            refuse("bridge_ports: the port has an address")
        stanza = {"method": "static" if "cidr" in options else "manual"}
        stanza["autostart"] = int(options.get("autostart", 0))
        if "cidr" in options:
            stanza["address"] = options["cidr"]
        if "gateway" in options:
            stanza["gateway"] = options["gateway"]
        stanza |= {"bridge-ports": ports, "bridge-stp": "off", "bridge-fd": "0"}
        if fault() == "plan-is-wrong":
            stanza["address"] = "198.51.100.1/24"
        write(stanzas | {name: stanza})
    elif act == "set" and path.startswith("/nodes/pve/network/"):
        stanzas = read()
        name = path.rsplit("/", 1)[1]
        if name not in stanzas:
            refuse("iface: interface does not exist")
        stanza = stanzas[name]
        for key in options.get("delete", "").split(","):
            stanza.pop({"cidr": "address"}.get(key, key), None)
        stanza["method"] = "static" if "address" in stanza else "manual"
        stanza["autostart"] = int(options.get("autostart", 0))
        write(stanzas)
    elif act == "delete" and path == "/nodes/pve/network":
        if os.path.exists(NEW):
            os.unlink(NEW)
    elif act == "set" and path == "/nodes/pve/network":
        apply()
    else:
        sys.stderr.write(f"No '{act}' handler defined for '{path}'\n")
        sys.exit(255)


main()
