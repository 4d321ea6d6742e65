#!/usr/bin/env python3
"""`pvesh` for the network alone, on real interfaces: pending changes are written to interfaces.new, and applied by `ip`.

As Proxmox does it: a second default gateway and a port that has an address are refused, applying is a task whose
failure does not reach the exit code. What goes wrong stands in the file `fault` beside /etc/network/interfaces.
"""

import json
import os
import signal
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


SIX = {"address": "address6", "gateway": "gateway6"}


def read():
    """Stanzas by interface: method and method6, auto, options; of inet6 as address6 and gateway6. All other lines of an
    interface stay with it, those of included files are not read: as Proxmox does it."""
    found = {}
    path = NEW if os.path.exists(NEW) else NOW
    autos, current, six = set(), None, False
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("auto", "allow-hotplug"):
                autos.update(words[1:])
            elif words[0] == "source":
                found.setdefault("", {"sources": []})["sources"].append(line.strip())
                current = None
            elif words[0] == "iface":
                current = found.setdefault(words[1], {"method": "manual", "more": []})
                six = words[2:3] == ["inet6"]
                current["method6" if six else "method"] = words[3] if len(words) > 3 else "manual"
            elif current is not None and words[0] in ("address", "gateway", "bridge-ports", "bridge-stp", "bridge-fd", "mtu"):
                current[SIX.get(words[0], words[0]) if six else words[0]] = " ".join(words[1:])
            elif current is not None:
                current["more"].append(line.strip())
    for name in autos:
        found.setdefault(name, {"method": "manual", "more": []})["autostart"] = 1
    return found


def write(stanzas):
    lines = []
    for name, stanza in stanzas.items():
        if not name:
            continue
        if stanza.get("autostart"):
            lines.append(f"auto {name}")
        lines.append(f"iface {name} inet {stanza['method']}")
        hidden = ("method", "method6", "autostart", "more", "address6", "gateway6")
        lines += [f"\t{key} {value}" for key, value in stanza.items() if key not in hidden]
        lines += [f"\t{line}" for line in stanza.get("more", [])]
        lines.append("")
        if stanza.get("method6", "manual") != "manual":
            lines.append(f"iface {name} inet6 {stanza['method6']}")
            lines += [f"\t{key} {stanza[name6]}" for key, name6 in SIX.items() if name6 in stanza]
            lines.append("")
    lines += stanzas.get("", {}).get("sources", [])
    with open(NEW, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def refuse(why):
    sys.stderr.write(f"400 Parameter verification failed.\n{why}\n")
    sys.exit(255)


def ip(*words):
    return subprocess.run(["ip", *words], check=False, capture_output=True, text=True)


def rows():
    found = read()
    names = {row["ifname"] for row in json.loads(ip("-j", "link").stdout)} - {"lo"}
    result = []
    for name in sorted(names | set(found) - {"lo", ""}):
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
        if "address6" in stanza:
            row["cidr6"] = stanza["address6"]
            row["address6"], row["netmask6"] = stanza["address6"].split("/")
            row["method6"] = stanza["method6"]
        if "gateway6" in stanza:
            row["gateway6"] = stanza["gateway6"]
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
    if what.startswith("api-is-lost "):
        os.kill(int(what.split()[1]), signal.SIGKILL)
    if what == "apply-slow":
        time.sleep(3)
    for name, stanza in stanzas.items():
        if name in ("lo", ""):
            continue
        if "bridge-ports" in stanza:
            ip("link", "add", name, "type", "bridge")
            ip("link", "set", name, "up")
        if "bridge-ports" in stanza or "address" not in stanza:
            ip("address", "flush", "dev", name, "scope", "global")
        for port in stanza.get("bridge-ports", "none").split():
            if port != "none":
                ip("address", "flush", "dev", port, "scope", "global")
                ip("link", "set", port, "master", name)
        if what == "apply-half" and "bridge-ports" in stanza:
            sys.stderr.write("error: bridge: cannot be configured\n")
            return
        if what == "apply-hangs" and "bridge-ports" in stanza:
            time.sleep(600)
        if "address" in stanza:
            ip("address", "add", stanza["address"], "dev", name)
        # An interface that stays as it is is not touched.
        if "gateway" in stanza and f"via {stanza['gateway']} dev {name}" not in ip("route").stdout:
            ip("route", "replace", "default", "via", stanza["gateway"], "dev", name, "proto", "kernel", "onlink")
        if "address6" in stanza:
            ip("-6", "address", "add", stanza["address6"], "dev", name)
        if "gateway6" in stanza and what != "six-is-lost":
            ip("-6", "route", "replace", "default", "via", stanza["gateway6"], "dev", name, "metric", "1024", "onlink")
        if what == "route-is-lost" and "bridge-ports" in stanza:
            ip("route", "del", "10.99.0.0/16")
        if what == "rule-is-lost" and "bridge-ports" in stanza:
            ip("rule", "del", "pref", "99")


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
        if any({"address", "address6"} & set(stanzas.get(port, {})) for port in ports.split()):
            refuse("bridge_ports: the port has an address")
        stanza = {"method": "static" if "cidr" in options else "manual"}
        stanza["autostart"] = int(options.get("autostart", 0))
        if "cidr" in options:
            stanza["address"] = options["cidr"]
        if "gateway" in options:
            stanza["gateway"] = options["gateway"]
        if "cidr6" in options:
            stanza["method6"], stanza["address6"] = "static", options["cidr6"]
        if "gateway6" in options:
            stanza["gateway6"] = options["gateway6"]
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
            stanza.pop({"cidr": "address", "cidr6": "address6"}.get(key, key), None)
        if "address6" not in stanza:
            stanza.pop("method6", None)
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
