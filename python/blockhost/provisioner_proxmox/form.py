"""What was typed into the Proxmox page, checked; nothing of Flask in here.

Everything that arrives is hostile: any text of any length, any field missing or posted
twice.  What leaves is a dictionary with the stored keys, whose values are of one form
each, or a message per field that says what is wrong and what would be right.

These values steer programs that run as root.  The setup command checks them again; here
a person is told while they can still be put right.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

HIGHEST_VMID = 999_999_999
# What is kept of a value that is shown again; the longest right one is far shorter.
LONGEST = 255

BUILT_IN: dict[str, str | int] = {
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
# The stored keys, in the order of the page.
KEYS = tuple(BUILT_IN)

# Four fields have another name on the page than in the session; automated installs post
# the stored names.
PAGE_NAMES = {key: f"pve_{key}" for key in ("node", "storage", "bridge", "user")}

# What the number of VMs depends on.
ROOM_KEYS = ("vmid_start", "vmid_end", "ip_network", "ip_start", "ip_end", "gateway")

# Proxmox' own grammars (pve-common, JSONSchema.pm), in ASCII: the values end up in files
# and commands of programs that know nothing else.
NODE_RE = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?")
STORAGE_RE = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]")
# One word of an interface name: no `.` or `..`, nothing that could be an option.
BRIDGE_RE = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,14}")
# Narrower than Proxmox, which takes nearly anything for a name: a `!` or `=` in it could
# not be told from the rest of `user@realm!token=secret`.
USER_RE = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9_.-]*)@([a-zA-Z][a-zA-Z0-9_.-]+)")
PATH_RE = re.compile(r"/[a-zA-Z0-9_.+@/-]+")
NUMBER_RE = re.compile(r"[0-9]{1,10}")
OCTET_RE = re.compile(r"[0-9]{1,3}")
ADDRESS_RE = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
NETWORK_RE = re.compile(r"([0-9.]{7,15})/([0-9]{1,2})")

# Setting up gives the terraform folder to user blockhost: none of these may become his.
SYSTEM_FOLDERS = frozenset(
    "bin boot dev etc lib lib32 lib64 libx32 proc root run sbin sys usr".split()
)
# The services of the systemd units see nothing of these, whoever they belong to (ProtectHome,
# PrivateTmp): the nightly cleanup would fail every time.
HIDDEN_FOLDERS = (("home",), ("tmp",), ("var", "tmp"))


class Refused(ValueError):
    """One line for the person who typed the value."""


class Submission(NamedTuple):
    """`values` are complete where there are no `errors`; `typed` is what to show again."""

    values: dict[str, str | int]
    typed: dict[str, str]
    errors: dict[str, str]


def field_name(key: str) -> str:
    """The field's name on the page."""
    return PAGE_NAMES.get(key, key)


def incomplete(posted: Mapping[str, Sequence[str]]) -> bool:
    """Whether a field is missing or empty, so that a proposal may be needed."""
    return any(
        not any(text.strip() for name in {field_name(key), key} for text in posted.get(name, ()))
        for key in KEYS
        if key != "terraform_dir"  # never on the page, and nothing is found out for it
    )


def submitted(posted: Mapping[str, Sequence[str]], proposal: Mapping[str, Any]) -> Submission:
    """Reads a posted form, of the page or of an automated install.

    A field that is absent takes its `proposal`.  An empty one does so too in an automated
    install, which cannot answer questions; a person who emptied a field is asked.
    """
    by_hand = any(name in posted for name in PAGE_NAMES.values())
    raw: dict[str, Any] = {}
    typed: dict[str, str] = {}
    errors: dict[str, str] = {}
    for key in KEYS:
        given = [text for name in {field_name(key), key} for text in posted.get(name, ())]
        texts = sorted({text.strip() for text in given} - {""})
        if len(texts) > 1:
            errors[key] = "This was posted more than once, with different values."
        if key == "user" and not by_hand and texts == ["root@pam"]:
            # The user of automated installs of former days. Nobody is there to choose another,
            # so it becomes the one that a person would be proposed.
            log.warning("user root@pam is not possible and replaced by the default")
            texts = given = []
        if texts or (given and by_hand):
            raw[key] = texts[0] if texts else ""
        else:
            raw[key] = proposal.get(key, BUILT_IN[key])
        typed[key] = shown(raw[key])
    values, refused = checked(raw)
    return Submission(values, typed, {**refused, **errors})


def shown(value: Any) -> str:
    """`value` as it can be put back into a field: no control characters, not endless."""
    return "".join(c for c in str(value)[: LONGEST * 4] if c.isprintable())[:LONGEST]


def checked(raw: Mapping[str, Any]) -> tuple[dict[str, str | int], dict[str, str]]:
    """Each field, then what they are to each other: the stored values, and errors by key."""
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for key in KEYS:
        try:
            values[key] = _parsed(key, raw.get(key, ""))
        except Refused as why:
            errors[key] = str(why)
    for relation in (_vmids, _gateway, _pool):
        try:
            for key, why in relation(values):
                errors.setdefault(key, why)
        except KeyError:
            continue  # one of its fields is wrong by itself, which was said
    return {key: item if type(item) is int else str(item) for key, item in values.items()}, errors


def room(raw: Mapping[str, Any], used: Sequence[int]) -> tuple[int, int] | None:
    """How many addresses and how many VM IDs VMs can have; None while a field of these is wrong.

    `used` are numbers that other machines of the host have.
    """
    values, errors = checked({**BUILT_IN, **{key: raw.get(key, "") for key in ROOM_KEYS}})
    if not errors.keys().isdisjoint(ROOM_KEYS):
        return None
    start, end, gateway = (
        int(ipaddress.IPv4Address(values[key])) for key in ("ip_start", "ip_end", "gateway")
    )
    first, last = int(values["vmid_start"]), int(values["vmid_end"])
    addresses = end - start + 1 - (start <= gateway <= end)
    return addresses, last - first + 1 - sum(first <= vmid <= last for vmid in set(used))


def value(key: str, text: Any) -> str | int | None:
    """One field by itself: the value to store, None where it is refused."""
    try:
        parsed = _parsed(key, text)
    except Refused:
        return None
    return parsed if type(parsed) is int else str(parsed)


def _parsed(key: str, raw: Any) -> Any:
    if type(raw) is int and raw.bit_length() < 64:
        raw = str(raw)
    if not isinstance(raw, str):
        raise Refused("This is neither text nor a number.")
    text = raw.strip()
    if not text:
        raise Refused(_EMPTY.get(key, "Enter a value."))
    if len(text) > LONGEST:
        raise Refused(f"This is longer than {LONGEST} characters.")
    return _PARSERS[key](text)


_EMPTY = {
    "node": "Enter the name of this node, for example pve.",
    "storage": "Enter the name of a storage, for example local-lvm.",
    "bridge": "Enter the name of a bridge, for example vmbr0.",
    "user": "Enter a Proxmox user, for example blockhost@pve.",
    "template_vmid": f"Enter a VM ID, 100 to {HIGHEST_VMID}.",
    "vmid_start": "Enter a VM ID, 100 to 999999.",
    "vmid_end": "Enter a VM ID, 100 to 999999.",
    "ip_network": "Enter a network, for example 192.168.122.0/24.",
    "ip_start": "Enter an address, for example 192.168.122.200.",
    "ip_end": "Enter an address, for example 192.168.122.250.",
    "gateway": "Enter an address, for example 192.168.122.1.",
    "gc_grace_days": "Enter a number of days, 0 to 36500.",
    "terraform_dir": "Enter an absolute path.",
}


def _node(text: str) -> str:
    if len(text) > 63 or not NODE_RE.fullmatch(text):
        raise Refused(
            "A node name has letters, digits and hyphens, begins and ends with a letter or digit,"
            " and has no domain: for example pve."
        )
    return text


def _storage(text: str) -> str:
    if len(text) > 64 or not STORAGE_RE.fullmatch(text):
        raise Refused(
            "A storage name begins with a letter, ends with a letter or digit, and has letters,"
            " digits, hyphens, underscores and dots between: for example local-lvm."
        )
    return text


def _bridge(text: str) -> str:
    if not BRIDGE_RE.fullmatch(text):
        raise Refused(
            "A bridge name has at most 15 letters, digits, underscores, dots and hyphens: for"
            " example vmbr0."
        )
    return text


def _user(text: str) -> str:
    match = USER_RE.fullmatch(text)
    if not match or len(text) > 64:
        raise Refused(
            "A Proxmox user is written name@realm, with letters, digits, dots, hyphens and"
            " underscores: for example blockhost@pve."
        )
    if match[1].lower() == "root" and match[2].lower() == "pam":
        raise Refused(
            "root@pam is not possible: its API token would make the unprivileged system user"
            " blockhost root on this host. Use blockhost@pve; it is made during setup and may only"
            " do what is needed."
        )
    return text


def _terraform_dir(text: str) -> str:
    if not PATH_RE.fullmatch(text):
        raise Refused(
            "The terraform folder is an absolute path of letters, digits and _ . + @ - /: for"
            f" example {BUILT_IN['terraform_dir']}."
        )
    parts = text.strip("/").split("/")
    if ".." in parts or "." in parts:
        raise Refused("The path of the terraform folder must not have . or .. in it.")
    parts = [part for part in parts if part]
    deep_enough = 3 if parts[:1] == ["var"] else 2
    if len(parts) < deep_enough or parts[0] in SYSTEM_FOLDERS:
        raise Refused(
            "The terraform folder will belong to user blockhost, so it must not be a folder of the"
            f" system: use one like {BUILT_IN['terraform_dir']}."
        )
    if any(tuple(parts[: len(hidden)]) == hidden for hidden in HIDDEN_FOLDERS):
        raise Refused(
            "The terraform folder must not lie below /home, /tmp or /var/tmp: BlockHost's services"
            f" cannot see these, and the nightly cleanup would fail. Use one like"
            f" {BUILT_IN['terraform_dir']}."
        )
    return "/" + "/".join(parts)


def _number(text: str, low: int, high: int, what: str) -> int:
    if not NUMBER_RE.fullmatch(text) or not low <= int(text) <= high:
        raise Refused(f"{what} is a whole number from {low} to {high}.")
    return int(text)


def _template_vmid(text: str) -> int:
    return _number(text, 100, HIGHEST_VMID, "The template's VM ID")


def _vmid(text: str) -> int:
    return _number(text, 100, 999_999, "A VM ID of the range")


def _days(text: str) -> int:
    return _number(text, 0, 36_500, "The number of days")


def _network(text: str) -> ipaddress.IPv4Network:
    match = NETWORK_RE.fullmatch(text)
    try:
        address = ipaddress.IPv4Address(match[1] if match else "")
    except ValueError:
        raise Refused(
            "A network is written as its first address and a prefix length: for example"
            " 192.168.122.0/24."
        ) from None
    assert match is not None
    prefix = int(match[2])
    if not 8 <= prefix <= 30:
        raise Refused("The prefix length must be between 8 and 30: for example 192.168.122.0/24.")
    network = ipaddress.IPv4Network((int(address), prefix), strict=False)
    if network.network_address != address:
        raise Refused(
            f"{address} is an address within a network, not the network itself: did you mean"
            f" {network}?"
        )
    first = int(network.network_address) >> 24
    if first in (0, 127) or first >= 224:
        raise Refused("This network cannot be used for VMs: for example 192.168.122.0/24 can.")
    return network


def _address(text: str) -> ipaddress.IPv4Address:
    try:
        if ADDRESS_RE.fullmatch(text):
            return ipaddress.IPv4Address(text)
    except ValueError:
        pass
    raise Refused(
        "An address is four numbers from 0 to 255 with dots between: for example 192.168.122.1."
    )


def _pool_end(text: str) -> ipaddress.IPv4Address | int:
    """A full address, or a last octet that becomes one as soon as the network is known."""
    if OCTET_RE.fullmatch(text) and int(text) <= 255:
        return int(text)
    try:
        return _address(text)
    except Refused:
        raise Refused(
            "Write the address, for example 192.168.122.200, or only its last number, 200."
        ) from None


_PARSERS = {
    "node": _node,
    "storage": _storage,
    "bridge": _bridge,
    "user": _user,
    "template_vmid": _template_vmid,
    "vmid_start": _vmid,
    "vmid_end": _vmid,
    "ip_network": _network,
    "ip_start": _pool_end,
    "ip_end": _pool_end,
    "gateway": _address,
    "gc_grace_days": _days,
    "terraform_dir": _terraform_dir,
}


def _vmids(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    start, end = values["vmid_start"], values["vmid_end"]
    if start >= end:
        yield "vmid_end", "The last VM ID must be higher than the first."
    # Inside, the template could be handed to a customer, or be taken for a customer's machine.
    elif start <= values["template_vmid"] <= end:
        yield (
            "template_vmid",
            f"The template must lie outside the range of the customers' VMs, {start} to {end}.",
        )


def _gateway(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _within(values, "gateway", "The gateway")


def _pool(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The pool; last octets become the full addresses that are stored.

    Full addresses, although readers of db.yaml take both forms: they stay what was meant when
    somebody edits the network, and cannot be taken for a number of addresses.
    """
    base = int(values["ip_network"].network_address) & 0xFFFFFF00
    for key in ("ip_start", "ip_end"):
        if type(values[key]) is int:
            values[key] = ipaddress.IPv4Address(base | values[key])
    wrong = [
        *_within(values, "ip_start", "The first address"),
        *_within(values, "ip_end", "The last address"),
    ]
    yield from wrong
    if wrong:
        return
    start, end = values["ip_start"], values["ip_end"]
    if start > end:
        yield "ip_end", "The last address must not be lower than the first."
    elif start == end == values["gateway"]:
        yield "ip_end", "The only address of this pool is the gateway's, which no VM can have."


def _within(values: dict[str, Any], key: str, what: str) -> Iterator[tuple[str, str]]:
    network, address = values["ip_network"], values[key]
    if address not in network:
        yield key, f"{what}, {address}, is not in the network {network}."
    elif address == network.network_address:
        yield key, f"{address} is the network itself, which no VM can have."
    elif address == network.broadcast_address:
        yield key, f"{address} is the network's broadcast address, which no VM can have."
