"""The Proxmox page of the BlockHost installer, and what the installer does afterwards.

`blockhost.provisioner_proxmox.wizard` is named by the manifest (`setup.wizard_module`) and
imported by the installer's web application, which uses five names: `blueprint`,
`get_ui_params`, `get_summary_data`, `get_summary_template` and `get_finalization_steps`.

The installer catches ImportError here and nothing else, so importing does nothing that
can fail: no process, no file, no host name.  And it is thin: what a step does is in the
command `blockhost-provisioner-setup`, what a field may hold is in `form`.

Python 3.10 or newer, Flask 2 or 3, standard library.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flask import Blueprint, redirect, render_template, request, session, url_for

from . import form, host_resources, setup_command
from .host_resources import Choice, Resources

SESSION_KEY = "proxmox"
# Beside the settings, not among them: it is no answer of the operator, and may change.
WAN_ADDRESS_KEY = "proxmox_wan_address"
PORT = 8006

blueprint = Blueprint("provisioner_proxmox", __name__, template_folder="templates")


class Field(NamedTuple):
    """A field as the template shows it."""

    id: str
    label: str
    value: str
    hint: str
    error: str
    choices: tuple[Choice, ...]
    numeric: bool


class Section(NamedTuple):
    """Fields under one heading."""

    title: str
    intro: str
    fields: tuple[Field, ...]


# Heading, introduction, keys of the fields in two columns.
SECTIONS = (
    (
        "Node and storage",
        "Where the virtual machines run, and where their disks are.",
        ("node", "storage"),
    ),
    (
        "Template",
        "Every virtual machine is cloned from one template.",
        ("template_vmid",),
    ),
    (
        "VM IDs",
        (
            "Proxmox knows a virtual machine by its number. Customer VMs get numbers from this range."
        ),
        ("vmid_start", "vmid_end"),
    ),
    (
        "Network",
        "Each VM gets an address from the pool. The gateway is never assigned.",
        ("bridge", "ip_network", "ip_start", "ip_end", "gateway"),
    ),
    (
        "Cleanup",
        "A virtual machine whose subscription has ended is suspended first and destroyed later.",
        ("gc_grace_days",),
    ),
)
ADVANCED = ("user",)

LABELS = {
    "node": "Proxmox node",
    "storage": "Storage for VM disks",
    "bridge": "Network bridge",
    "user": "Proxmox API user",
    "template_vmid": "VM ID of the template",
    "vmid_start": "First VM ID",
    "vmid_end": "Last VM ID",
    "ip_network": "IPv4 network",
    "ip_start": "First address of the pool",
    "ip_end": "Last address of the pool",
    "gateway": "Gateway",
    "gc_grace_days": "Grace period in days",
    "terraform_dir": "Terraform folder",
}

HINTS = {
    "node": "This machine's name in Proxmox.",
    "storage": (
        "Must accept disk images and have room for the template and all VMs."
    ),
    "bridge": (
        "A bridge that does not exist will be created. VMs are isolated from each other only on"
        " bridges named vmbr0, vmbr1, …"
    ),
    "user": "Created during setup with minimal privileges. root@pam is not allowed.",
    "vmid_start": "100 or higher.",
    "vmid_end": "There can be no more VMs at a time than VM IDs, and no more than addresses in the pool.",
    "ip_network": "The network behind this bridge, for example 192.168.122.0/24.",
    "ip_start": "A full address, or only its last number.",
    "ip_end": "A full address, or only its last number.",
    "gateway": "Default gateway of the VMs, usually this host's address on the bridge.",
    "gc_grace_days": (
        "Days between suspension and destruction, in which a customer can still renew; after them"
        " all data of the VM is lost. With 0 a VM is destroyed at the next nightly cleanup."
    ),
}

# What a VM's disk has where nobody asks for another size.
DISK_GIB = 20

# A bridge that is not there yet.
NEW = "new, will be created"

NUMERIC = frozenset({"template_vmid", "vmid_start", "vmid_end", "gc_grace_days"})

# Label, and what to expect while it runs. The ids and their order are the manifest's.
STEPS = {
    "token": ("Create Proxmox user and API token", "a role with the least rights, a pool, a token"),
    "terraform": ("Set up terraform", "fetches the Proxmox provider; needs the network"),
    "db_config": ("Write VM settings", "/etc/blockhost/db.yaml"),
    "bridge": ("Set up the network bridge", "the network may pause for some seconds"),
    "template": ("Build the VM template", "downloads an image; may take half an hour"),
}


@blueprint.route("/wizard/proxmox", methods=["GET", "POST"])
def wizard_proxmox() -> Any:
    """The page: shown with proposals; checked, stored and left when it is posted."""
    if request.method != "POST":  # GET, and HEAD, which must not store anything
        found = host_resources.detect(_stored(session))
        _remember(found)
        values = _proposal(found)
        return _page(found, {key: form.shown(value) for key, value in values.items()}, {})
    posted = request.form.to_dict(flat=False)
    found = None
    if form.incomplete(posted):
        # An automated install leaves to us what it does not care about. Otherwise the host need
        # not be asked, which takes seconds.
        found = host_resources.detect(_stored(session))
        _remember(found)
    result = form.submitted(posted, _proposal(found or Resources()))
    if result.errors:
        return _page(found or host_resources.detect(_stored(session)), result.typed, result.errors)
    session[SESSION_KEY] = result.values
    return redirect(url_for("wizard_connectivity"))


def get_ui_params(session: Mapping[str, Any]) -> dict[str, str]:
    """Texts that other pages of the installer show about this provisioner."""
    address = host_resources.address(session.get(WAN_ADDRESS_KEY)) or _outward_address()
    host = f"[{address}]" if ":" in address else address
    storage = _stored(session).get("storage")
    return {
        "management_url": f"https://{host}:{PORT}" if host else "",
        "management_label": "Proxmox VE web interface",
        "knock_ports_default": f"22, {PORT}",
        "knock_description": (
            "Ports that stay closed until somebody knocks: 22 is SSH to this host,"
            f" {PORT} the Proxmox VE web interface."
        ),
        "storage_hint": (
            f"Disks of virtual machines are on the Proxmox storage {storage}."
            if storage
            else "Disks of virtual machines are on the Proxmox storage chosen on the Proxmox page."
        ),
        "storage_extra_hint": (
            "Beside them it holds the template that every machine is cloned from, about 3 GB."
        ),
    }


def get_summary_data(session: Mapping[str, Any]) -> dict[str, str | int]:
    """What the summary shows, as plain text and numbers; empty before the page was left."""
    stored = _stored(session)
    return {key: stored[key] for key in form.KEYS if key in stored}


def get_summary_template() -> str:
    """The template for `get_summary_data`, included with it as `provisioner_summary`."""
    return "provisioner_proxmox/summary_section.html"


def get_finalization_steps() -> (
    list[tuple[str, str, Callable[[Any], tuple[bool, str | None]], str]]
):
    """`(id, label, function, hint)` in the order in which they have to be run."""
    return [(step, label, _step_function(step), hint) for step, (label, hint) in STEPS.items()]


def _step_function(step: str) -> Callable[[Any], tuple[bool, str | None]]:
    def run(config: Any) -> tuple[bool, str | None]:
        return setup_command.run_step(step, config)

    # A partial would have no name for the installer's log.
    run.__name__ = run.__qualname__ = f"finalize_{step}"
    run.__doc__ = STEPS[step][0]
    return run


def _stored(session: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings in a session, as far as they are plain; a session may come from anywhere."""
    stored = session.get(SESSION_KEY)
    if not isinstance(stored, dict):
        return {}
    return {
        key: value
        for key in form.KEYS
        if type(value := stored.get(key)) is str or (type(value) is int and value.bit_length() < 64)
    }


def _remember(found: Resources) -> None:
    if found.wan_address and session.get(WAN_ADDRESS_KEY) != found.wan_address:
        session[WAN_ADDRESS_KEY] = found.wan_address


def _proposal(found: Resources) -> dict[str, Any]:
    """What was answered before, else what was found, else what is built in."""
    return {**host_resources.defaults(found), **_stored(session)}


def _outward_address() -> str:
    """The address of this host that the way to the internet begins with; "" without one.

    The kernel is asked for the source address of a route; connecting a datagram socket sends
    nothing, and the address asked for is one of the documentation's.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("203.0.113.1", 9))
            address = probe.getsockname()[0]
    except OSError:
        return ""
    return "" if address in ("0.0.0.0", "127.0.0.1") else address


def _page(found: Resources, typed: dict[str, str], errors: dict[str, str]) -> str:
    def fields(keys: tuple[str, ...]) -> tuple[Field, ...]:
        return tuple(_field(key, found, typed[key], errors.get(key, "")) for key in keys)

    sections = [Section(title, intro, fields(keys)) for title, intro, keys in SECTIONS]
    advanced = fields(ADVANCED)
    return render_template(
        "provisioner_proxmox/proxmox.html",
        sections=sections,
        advanced=advanced,
        mistakes=[
            (form.field_name(key), LABELS[key], errors[key])
            for key in ("terraform_dir", *(key for *_, keys in SECTIONS for key in keys), *ADVANCED)
            if key in errors
        ],
        on_page={field.id for section in sections for field in section.fields}
        | {field.id for field in advanced},
        room=_room(found, typed),
        room_of={
            "used": " ".join(map(str, found.used_vmids)),
            "disk": DISK_GIB,
            "free": found.free_gib,
        },
        problem=found.problem,
        management_url=get_ui_params(session)["management_url"],
    )


def _field(key: str, found: Resources, value: str, error: str) -> Field:
    choices: tuple[Choice, ...] = ()
    if key == "node" and found.node:
        choices = (Choice(found.node, found.node),)
    elif key == "storage":
        choices = found.storages
    elif key == "bridge" and found.bridges:
        names = {choice.value for choice in found.bridges}
        unused = next(
            name for name in map("vmbr{}".format, range(len(names) + 1)) if name not in names
        )
        choices = (*found.bridges, Choice(unused, f"{unused} ({NEW})"))
    if choices and value not in (choice.value for choice in choices):
        # What was chosen before or posted stays chosen, whatever the host has by now.
        remark = NEW if key == "bridge" and not error else "not found on this host"
        choices = (Choice(value, f"{value} ({remark})" if value else ""), *choices)
    return Field(
        id=form.field_name(key),
        label=LABELS[key],
        value=value,
        hint=_hint(key, found),
        error=error,
        choices=choices,
        numeric=key in NUMERIC,
    )


def _room(found: Resources, typed: dict[str, str]) -> str:
    """How many VMs there can be, by what is typed; the page's script says the same in the same words."""
    room = form.room(typed, found.used_vmids)
    if room is None:
        return ""
    addresses, vmids = room
    most = min(room)
    text = (
        f"Room for {most} VM{'' if most == 1 else 's'} at a time: {_count(addresses, 'address', 'es')},"
        f" {_count(vmids, 'free VM ID', 's')}."
    )
    free = found.free_gib.get(typed["storage"])
    if free is not None:
        text += (
            f" {typed['storage']} has {free} GiB free, enough for"
            f" {_count(free // DISK_GIB, 'disk', 's')} of {DISK_GIB} GiB."
        )
    return text


def _count(number: int, one: str, plural: str) -> str:
    return f"{number} {one}{'' if number == 1 else plural}"


def _hint(key: str, found: Resources) -> str:
    if key == "template_vmid":
        if found.template is None:
            return (
                "Will be built during setup. The number must be outside the range of customer VMs."
            )
        name = f"{found.template.name} (VM {found.template.vmid})"
        if found.template.is_template:
            return (
                f"Found on this host: {name}. It will be used unchanged. Enter another number to build a"
                " new one."
            )
        return f"{name} exists and is not a template: remove it, or choose another number."
    if key == "storage" and not found.storages and found.problem is None:
        return "No storage for disk images was found on this host. Without one setup will fail."
    if key == "vmid_start" and found.used_vmids:
        shown = ", ".join(map(str, found.used_vmids[:8])) + (
            " …" if len(found.used_vmids) > 8 else ""
        )
        return f"100 or higher. Already in use, will be skipped: {shown}"
    if key == "ip_network" and found.network_note:
        return f"{HINTS[key]} {found.network_note}"
    return HINTS.get(key, "")
