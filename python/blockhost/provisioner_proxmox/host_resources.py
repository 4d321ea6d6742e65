"""What the setup command found on this host, as the page offers it.

The answer of `detect-resources` is taken for what it is worth: every part is checked by
itself, and a part that is missing or not understood only means that the page asks for it
with an empty or built-in proposal.  Nothing here can make the page fail.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import form, setup_command


class Choice(NamedTuple):
    """An entry of a select box."""

    value: str
    label: str


class Template(NamedTuple):
    """The VM that has the template's number or name; it may be none of ours, and no template."""

    vmid: int
    name: str
    is_template: bool


class Resources(NamedTuple):
    """What was found; `problem` says why if that is nothing."""

    node: str = ""
    storages: tuple[Choice, ...] = ()
    bridges: tuple[Choice, ...] = ()
    wan_address: str = ""
    template: Template | None = None
    network: dict[str, str] = {}
    network_note: str = ""
    used_vmids: tuple[int, ...] = ()
    free_gib: dict[str, int] = {}
    problem: str | None = None


def detect(chosen: Mapping[str, Any]) -> Resources:
    """Asks the setup command, which looks for what was `chosen` before; takes seconds."""
    config = {"provisioner": dict(chosen)} if chosen else {}
    answer, problem = setup_command.ask("detect-resources", config)
    if problem is not None:
        return Resources(problem=problem)
    resources = answer.get("resources")
    if not isinstance(resources, dict):
        return Resources(problem=f"{setup_command.COMMAND} named no resources")
    return understood(resources)


def understood(resources: dict[str, Any]) -> Resources:
    """The parts of `resources` that are what they should be."""
    return Resources(
        node=_name("node", resources.get("node")),
        storages=tuple(_storages(resources.get("storages"))),
        bridges=tuple(_bridges(resources.get("bridges"))),
        wan_address=address(resources.get("wan_address")),
        template=_template(resources.get("template")),
        network=_network(resources.get("network")),
        network_note=_note(resources.get("network")),
        free_gib=_free(resources.get("storages")),
        used_vmids=tuple(sorted(set(filter(None, map(_vmid, _list(resources.get("used_vmids"))))))),
    )


def defaults(found: Resources) -> dict[str, str | int]:
    """A proposal for every field, from what was found or else built in."""
    values: dict[str, str | int] = dict(form.BUILT_IN)
    own_name = os.uname().nodename.partition(".")[0]
    values["node"] = found.node or _name("node", own_name) or values["node"]
    values["storage"] = _preferred(found.storages, values["storage"])
    values["bridge"] = _preferred(found.bridges, values["bridge"])
    values.update(found.network)
    if found.template and found.template.is_template:
        vmid = values["template_vmid"] = found.template.vmid
        if values["vmid_start"] <= vmid <= values["vmid_end"]:
            size = values["vmid_end"] - values["vmid_start"]
            values["vmid_start"], values["vmid_end"] = vmid + 1, vmid + 1 + size
    return values


def address(value: Any) -> str:
    """`value` if it is the text of an IP address, else nothing."""
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""


def _preferred(choices: tuple[Choice, ...], built_in: str | int) -> str | int:
    values = [choice.value for choice in choices]
    return values[0] if values and built_in not in values else built_in


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _name(key: str, value: Any) -> str:
    """`value` if the form would take it for the field `key`, else nothing."""
    if not isinstance(value, str):
        return ""
    checked = form.value(key, value)
    return checked if isinstance(checked, str) else ""


def _vmid(value: Any) -> int | None:
    return value if type(value) is int and 100 <= value <= form.HIGHEST_VMID else None


def _gib(value: Any) -> str:
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        return "?"
    return f"{value:.0f}"


def _storages(value: Any) -> list[Choice]:
    """Only those that can hold disk images: on any other the first create would fail."""
    choices = {}
    for item in _objects(value):
        name = _name("storage", item.get("name"))
        if name and item.get("images") is True:
            kind = item.get("type")
            kind = (
                f"{setup_command.one_line(kind)[:20]}, " if isinstance(kind, str) and kind else ""
            )
            size = f"{_gib(item.get('free_gib'))} of {_gib(item.get('total_gib'))} GiB free"
            choices.setdefault(name, Choice(name, f"{name} ({kind}{size})"))
    return list(choices.values())


def _free(value: Any) -> dict[str, int]:
    """Whole GiB that are free, by storage; one of which that is not known is left out."""
    free = {}
    for item in _objects(value):
        name, size = _name("storage", item.get("name")), item.get("free_gib")
        if name and type(size) in (int, float) and 0 <= size < 1e9:
            free.setdefault(name, int(size))
    return free


def _bridges(value: Any) -> list[Choice]:
    choices = {}
    for item in _objects(value):
        name = _name("bridge", item.get("name"))
        text = item.get("address")
        try:
            shown = str(ipaddress.ip_interface(text)) if isinstance(text, str) else "no address"
        except ValueError:
            shown = "no address"
        if name:
            choices.setdefault(name, Choice(name, f"{name} ({shown})"))
    return list(choices.values())


def _template(value: Any) -> Template | None:
    if not isinstance(value, dict) or (vmid := _vmid(value.get("vmid"))) is None:
        return None
    name = value.get("name")
    name = setup_command.one_line(name)[:64] if isinstance(name, str) else ""
    return Template(vmid, name, value.get("is_template") is True)


def _network(value: Any) -> dict[str, str]:
    """A proposal is taken whole or not at all: halves of two networks make none."""
    if not isinstance(value, dict):
        return {}
    texts = {key: value.get(key) for key in ("ip_network", "gateway", "ip_start", "ip_end")}
    if not all(isinstance(text, str) for text in texts.values()):
        return {}
    if isinstance(value.get("bridge"), str):  # the bridge that this network is or will be on
        texts["bridge"] = value["bridge"]
    values, errors = form.checked({**form.BUILT_IN, **texts})
    return {} if errors else {key: str(values[key]) for key in texts}


def _note(value: Any) -> str:
    """What the operator has to know about the proposed network."""
    note = value.get("note") if isinstance(value, dict) else None
    return setup_command.one_line(note)[:600] if isinstance(note, str) else ""
