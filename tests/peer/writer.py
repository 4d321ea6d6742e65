"""Another program that shares the VM database, for tests: takes the lock, reads, changes, replaces the file.

    python3 writer.py DATABASE NAME COUNT [--unlocked | --in-place PAUSE_MS]

COUNT times, under an exclusive flock on DATABASE.lock: adds a record NAME-<i> with a VMID and an IPv4
address of its own (the allocation rules: next_vmid upward, the lowest free address of 192.168.122.200
to 250), fields nobody else knows, an entry of the top-level list reserved_nft_tokens beyond 64 bits,
and a field seen_by_NAME on one record of somebody else.  Prints, as JSON, what it has added.

--unlocked   without the lock (still temporary file and rename)
--in-place   without the lock and without rename: half of the text, PAUSE_MS, the other half
"""

import argparse
import fcntl
import json
import os
import tempfile
import time

POOL = [f"192.168.122.{octet}" for octet in range(200, 251)]


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def replace(path, text):
    folder = os.path.dirname(os.path.abspath(path))
    old = os.stat(path)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".writer-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), old.st_mode & 0o777)
        os.fsync(file.fileno())
    os.rename(temporary, path)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_in_place(path, text, pause):
    half = len(text) // 2
    with open(path, "w", encoding="utf-8") as file:
        file.write(text[:half])
        file.flush()
        time.sleep(pause)
        file.write(text[half:])


def live(database):
    return [record for record in database["vms"].values() if record.get("status") != "destroyed"]


def add(database, name, number, added):
    key = f"{name}-{number}"
    held = {record.get("vmid") for record in live(database)}
    vmid = database["next_vmid"]
    while vmid in held:
        vmid += 1
    taken = set(database["allocated_ips"]) | {record.get("ip_address") for record in live(database)}
    address = next(a for a in POOL if a not in taken)
    token = 2**80 + number
    database["vms"][key] = {
        "vm_name": key,
        "vmid": vmid,
        "ip_address": address,
        "ipv6_address": None,
        "expires_at": "2036-12-23T01:09:55.123456+00:00",
        "owner": "söme\u2028one",
        "status": "active",
        "created_at": "2026-11-23T01:09:55Z",
        "purpose": "",
        "wallet_address": None,
        "beacon_name": f"beacon of {key}",
        "box_id": {"nested": [1, 2**70, None, True]},
        "nft_token_id": token,
    }
    database["next_vmid"] = vmid + 1
    database["allocated_ips"].append(address)
    database.setdefault("reserved_nft_tokens", []).append(f"{name}:{token}")
    added["records"].append(key)
    added["tokens"].append(f"{name}:{token}")
    mark = f"seen_by_{name}"
    for other, record in database["vms"].items():
        if other not in added["records"] and mark not in record:
            record[mark] = number
            added["marks"].append([other, mark, number])
            break


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("name")
    parser.add_argument("count", type=int)
    parser.add_argument("--unlocked", action="store_true")
    parser.add_argument("--in-place", type=int, metavar="PAUSE_MS")
    arguments = parser.parse_args()
    locked = not arguments.unlocked and arguments.in_place is None
    added = {"records": [], "tokens": [], "marks": []}
    for number in range(arguments.count):
        lock = os.open(arguments.database + ".lock", os.O_RDWR | os.O_CREAT, 0o660)
        try:
            if locked:
                fcntl.flock(lock, fcntl.LOCK_EX)
            database = read(arguments.database)
            add(database, arguments.name, number, added)
            text = json.dumps(database, indent=2)
            if arguments.in_place is None:
                replace(arguments.database, text)
            else:
                write_in_place(arguments.database, text, arguments.in_place / 1000)
        finally:
            os.close(lock)
    print(json.dumps(added))


if __name__ == "__main__":
    main()
