"""What stands on the admin page: answers of our commands in, texts out.

Names, wallets, messages and whole answers may come from anybody.  Every part is checked by
itself: what is not of its kind is left out, a list of which a part is not understood says so,
and no text has control characters or is endless.  Nothing here can make the page fail; what a
browser could misread is escaped by the templates.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from .child_process import one_line
from .node_report import Answer, Report

# So many of a kind are shown; the command shows all.
SHOWN = 50
# Nothing of ours counts further.
LARGEST = 10**18

SEVERITIES = {"error": "Error", "warning": "Warning", "note": "Note"}


class Finding(NamedTuple):
    """Something that doctor found."""

    severity: str
    word: str
    code: str
    place: str
    what: str
    why: str
    mend: str
    # Whether `mend` is a command alone.
    is_command: bool
    left: str
    fixable: bool


class Moment(NamedTuple):
    """A time as it is shown: for machines, for people, and how far it is away."""

    iso: str
    text: str
    distance: str


class Create(NamedTuple):
    """A create that is under way."""

    vm: str
    state: str
    pid: str
    since: Moment | None


class Vm(NamedTuple):
    """A VM that expires soon or has expired."""

    name: str
    status: str
    address: str
    wallet: str
    expires: Moment | None
    is_over: bool
    protected: bool


class Change(NamedTuple):
    """A line of the audit trail."""

    time: Moment | None
    vm: str
    verb: str
    status: str
    by: str
    result: str
    is_ok: bool


class Supply(NamedTuple):
    """Something that VMs need, and how much of it there is."""

    name: str
    total: str
    used: str
    free: str
    more: str


class Part(NamedTuple):
    """A part of the page: what it shows, and why that is not all."""

    rows: tuple[Any, ...] = ()
    # There is nothing to show, and this is why.
    problem: str | None = None
    # What the command said beside its answer.
    remarks: tuple[str, ...] = ()
    # So many more than are shown.
    more: int = 0

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.rows) + self.more


class Page(NamedTuple):
    """All that the template shows."""

    at: Moment
    version: str
    vms: int | None
    counts: dict[str, int]
    findings: Part
    creates: Part
    capacity: Part
    expiring: Part
    changes: Part
    # How many more VMs fit; None where that is not known.
    room: str | None
    # What that is counted in, and what runs out first.
    verdict: str


def page(report: Report) -> Page:
    """The answers as the page shows them."""
    now = report.at
    doctor = report.answers["doctor"]
    told = doctor.value if isinstance(doctor.value, dict) else {}
    findings = _part(doctor, told.get("findings"), _finding)
    return Page(
        at=_moment(now, now),
        version=_text(told.get("version")),
        vms=_number(told.get("vms")),
        counts=_counts(told.get("counts")),
        findings=findings,
        # The reason stands with the findings already.
        creates=_part(
            doctor._replace(remarks=()), told.get("creates"), lambda item: _create(item, now)
        ),
        capacity=_capacity(report.answers["capacity"]),
        expiring=_listed(report.answers["expiring"], lambda item: _vm(item, now)),
        changes=_listed(report.answers["audit"], lambda item: _change(item, now)),
        room=_room(report.answers["capacity"]),
        verdict=_verdict(report.answers["capacity"]),
    )


def _listed(answer: Answer, row: Any) -> Part:
    return _part(answer, answer.value, row)


def _part(answer: Answer, items: Any, row: Any) -> Part:
    """The rows of a list; what is not understood is counted among the remarks."""
    if answer.problem is not None:
        return Part(problem=answer.problem, remarks=answer.remarks)
    if not isinstance(items, list):
        return Part(problem="the command's answer is not as expected", remarks=answer.remarks)
    rows = []
    strange = 0
    for item in items[:SHOWN]:
        understood = row(item) if isinstance(item, dict) else None
        if understood is None:
            strange += 1
        else:
            rows.append(understood)
    remarks = answer.remarks
    if strange:
        remarks += (f"{strange} of the entries cannot be read and are left out",)
    return Part(tuple(rows), None, remarks, max(0, len(items) - SHOWN))


def _finding(item: dict[str, Any]) -> Finding | None:
    what, place = _text(item.get("what")), _text(item.get("where"))
    if not what:
        return None
    severity = item.get("severity")
    # One that is not known may be a bad one.
    severity = severity if isinstance(severity, str) and severity in SEVERITIES else "error"
    left = item.get("left")
    left = [_text(name) for name in left[:SHOWN]] if isinstance(left, list) else []
    mend = _text(item.get("mend"))
    return Finding(
        severity=severity,
        word=SEVERITIES[severity],
        code=_text(item.get("code")),
        place=place,
        what=what,
        why=_text(item.get("why")),
        mend=mend,
        is_command=mend.startswith("blockhost-") and not set(mend) & set(",;:"),
        left=one_line(", ".join(filter(None, left))),
        fixable=item.get("fixable") is True,
    )


def _counts(value: Any) -> dict[str, int]:
    counts = {}
    for severity in SEVERITIES:
        number = _number(value.get(severity)) if isinstance(value, dict) else None
        if number is not None:
            counts[severity] = number
    return counts


def _create(item: dict[str, Any], now: datetime) -> Create | None:
    vm, state = _text(item.get("vm")), item.get("state")
    if not vm or state not in ("running", "waiting"):
        return None
    pid = _number(item.get("pid"))
    return Create(vm, state, "" if pid is None else str(pid), _time(item.get("since"), now))


def _vm(item: dict[str, Any], now: datetime) -> Vm | None:
    name = _text(item.get("name"))
    if not name:
        return None
    wallet, expires = _text(item.get("wallet")), _time(item.get("expires_at"), now)
    return Vm(
        name=name,
        status=_text(item.get("status")),
        address=_text(item.get("ip")),
        wallet=wallet,
        expires=expires,
        is_over=expires is not None and expires.distance.endswith("ago"),
        protected=item.get("protected") is True,
    )


def _change(item: dict[str, Any], now: datetime) -> Change | None:
    vm, verb = _text(item.get("vm")), _text(item.get("verb"))
    if not vm and not verb:
        return None
    before, after = _text(item.get("before")), _text(item.get("after"))
    uid = _number(item.get("uid"))
    user = _text(item.get("sudo_user")) or ("" if uid is None else f"uid {uid}")
    result = _text(item.get("result"))
    return Change(
        time=_time(item.get("time"), now),
        vm=vm,
        verb=verb,
        status=after if before == after else f"{before or 'none'} → {after or 'none'}",
        by=", ".join(filter(None, (user, _text(item.get("caller"))))),
        result=result,
        # As the trail has it: ok, and what was set.
        is_ok=result == "ok" or result.startswith("ok;"),
    )


def _capacity(answer: Answer) -> Part:
    """What there is of all that VMs need; what capacity itself could not find out is among the remarks."""
    told = answer.value
    supplies = _supplies(told) if answer.problem is None and isinstance(told, dict) else []
    part = _part(answer, [], None)
    if part.problem is not None:
        return part
    if not supplies:
        return part._replace(problem="the command's answer is not as expected")
    not_known = (f"Not known: {why}" for why in map(_text, _list(told.get("not_known"))) if why)
    offline = (
        f"node {name} is {status}"
        for node in map(_dict, _list(told.get("nodes")))
        if (name := _text(node.get("node"))) and (status := _text(node.get("status"))) != "online"
    )
    return part._replace(
        rows=tuple(supplies[:SHOWN]),
        remarks=(*part.remarks, *not_known, *offline),
        more=max(0, len(supplies) - SHOWN),
    )


def _supplies(told: dict[str, Any]) -> list[Supply]:
    supplies = []
    for key, name in (("vmids", "VMIDs"), ("ipv4", "IPv4 addresses"), ("ipv6", "IPv6 addresses")):
        if numbers := _dict(told.get(key)):
            pool = _text(numbers.get("pool"))
            total, free = _number(numbers.get("total")), _number(numbers.get("free"))
            used = None if total is None or free is None else max(0, total - free)
            shown = ("not known" if number is None else str(number) for number in (total, used, free))
            if numbers.get("limit") == "none":
                shown = iter(("none", "–", "–"))
            supplies.append(Supply(f"{name} {pool}".strip(), *shown, _more(numbers)))
    if memory := _dict(told.get("memory")):
        total, promised = _number(memory.get("total_bytes")), _number(memory.get("promised_bytes"))
        is_whole = memory.get("vms_not_measured") == 0
        free = None if total is None or promised is None or not is_whole else max(0, total - promised)
        used = _gib(promised) + ("" if is_whole or promised is None else " or more")
        node = _text(memory.get("node"))
        name = f"Memory promised on {node}" if node else "Memory promised"
        supplies.append(Supply(name, _gib(total), used, _gib(free), _more(memory)))
    for storage in map(_dict, _list(told.get("storages"))):
        if name := _text(storage.get("storage")):
            sizes = (_gib(_number(storage.get(f"{key}_bytes"))) for key in ("total", "used", "free"))
            kind = _text(storage.get("type"))
            name = f"Storage {name} ({kind})" if kind else f"Storage {name}"
            supplies.append(Supply(name, *sizes, _more(storage)))
    return supplies


def _more(supply: dict[str, Any]) -> str:
    more = _number(supply.get("more_vms"))
    if more is not None:
        return str(more)
    return "no limit" if supply.get("limit") == "none" else "not known"


def _room(answer: Answer) -> str | None:
    """How many more VMs fit, as far as that is known."""
    told = _dict(answer.value)
    more, most = _number(told.get("more_vms")), _number(told.get("more_vms_at_most"))
    if more is None and most is not None:
        return f"≤ {most}"
    return None if more is None else str(more)


def _verdict(answer: Answer) -> str:
    """What the numbers count in, and what runs out first."""
    told = _dict(answer.value)
    size = _dict(told.get("size"))
    cpus, memory, disk = (_number(size.get(key)) for key in ("cpus", "memory_mb", "disk_gb"))
    words = []
    if None not in (cpus, memory, disk):
        words.append(f"Counted in VMs with {cpus} vCPU, {memory} MB memory and {disk} GB disk.")
    first = ", ".join(filter(None, map(_text, _list(told.get("runs_out_first")))))
    if first:
        words.append(f"Runs out first: {first}.")
    return one_line(" ".join(words))


def _gib(number: int | None) -> str:
    return "not known" if number is None else f"{number / (1 << 30):.1f} GiB"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value[: 2 * SHOWN] if isinstance(value, list) else []


def _text(value: Any) -> str:
    """A text in one line; nothing else is one."""
    return one_line(value) if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    """A whole number that can be one of ours; true is none."""
    return value if type(value) is int and 0 <= value < LARGEST else None


def _time(value: Any, now: datetime) -> Moment | None:
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        # Python 3.10 does not know the Z.
        moment = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return _moment(moment.astimezone(timezone.utc), now)
    except (ValueError, OverflowError):
        return None


def _moment(moment: datetime, now: datetime) -> Moment:
    return Moment(
        moment.isoformat(timespec="seconds"),
        # Not strftime: its years below 1000 differ between systems.
        f"{moment.date().isoformat()} {moment.time().isoformat(timespec='minutes')} UTC",
        _distance(moment - now),
    )


def _distance(away: timedelta) -> str:
    """`in 3 days`, `12 min ago`, in the words of the commands."""
    seconds = int(abs(away.total_seconds()))
    if seconds < 120:
        length = f"{seconds} s"
    elif seconds < 7200:
        length = f"{seconds // 60} min"
    elif seconds < 172_800:
        length = f"{seconds // 3600} h"
    else:
        length = f"{seconds // 86_400} days"
    return f"in {length}" if away > timedelta(0) else f"{length} ago"
