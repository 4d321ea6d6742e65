"""What the page costs: bounded in time, side by side, and not once for each tab."""

from __future__ import annotations

import os
import re
import shlex
import threading
import time
from pathlib import Path

import pytest
from blockhost.provisioner_proxmox import admin, child_process, node_report

from conftest import AUDIT, CAPACITY, COMMANDS, DOCTOR, LIST, PAGE

SOON = 20


def until(what: str, condition) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.fixture
def hurried(monkeypatch):
    """The questions' limits are short."""
    short = {name: question._replace(limit=0.5) for name, question in node_report.QUESTIONS.items()}
    monkeypatch.setattr(node_report, "QUESTIONS", short)
    monkeypatch.setattr(node_report, "GRACE", 0.2)


def test_h23_a_command_that_hangs_is_ended_with_its_children(client, commands, hurried):
    pids = commands.folder / "pids"
    commands.script(DOCTOR, f"trap '' TERM\nsleep 60 &\necho $! $$ >{shlex.quote(str(pids))}\necho slow node >&2\nwait; wait; sleep 60")
    page = client.get(PAGE).text
    assert "blockhost-provisioner-doctor took longer than 0.5 seconds and was ended" in page and "slow node" in page
    assert "web-4" in page and "web-3" in page
    for pid in map(int, pids.read_text().split()):
        until("it and its child have ended", lambda pid=pid: gone(pid))


def test_h23_children_of_a_command_that_ended_are_ended(client, commands):
    pid = commands.folder / "pid"
    commands.script(AUDIT, f"sleep 60 >/dev/null 2>&1 & echo $! >{shlex.quote(str(pid))}; echo '[]'")
    assert "Nothing has been done yet" in client.get(PAGE).text
    until("its child has ended", lambda: gone(int(pid.read_text())))


def test_the_commands_run_side_by_side(client, commands):
    # Each waits until all have begun: one after the other none would ever end.
    for name in COMMANDS:
        there = " && ".join(f"[ -e {shlex.quote(str(commands.folder / f'{other}.calls'))} ]" for other in COMMANDS)
        commands.script(name, f"until {there}; do sleep 0.02; done; echo '[]'")
    page = client.get(PAGE).text
    assert "took longer" not in page and "No VM." in page


def test_it_is_asked_once_for_many_tabs(app, commands, monkeypatch):
    monkeypatch.setattr(node_report, "KEPT", 0.0)
    go = commands.folder / "go"
    for name in (DOCTOR, LIST):
        out = shlex.quote(str(commands.folder / f"{name}.out"))
        commands.script(name, f"until [ -e {shlex.quote(str(go))} ]; do sleep 0.02; done; cat {out}")
    app.config["OPEN"] = True
    pages: list[str] = []
    tabs = [threading.Thread(target=lambda: pages.append(app.test_client().get(PAGE).text)) for _ in range(12)]
    try:
        for tab in tabs:
            tab.start()
        until("all but one wait", lambda: len(admin.reporter._changed._waiters) == 11)
        go.touch()
        for tab in tabs:
            tab.join(SOON)
    finally:
        app.config["OPEN"] = False
    assert [len(commands.calls(name)) for name in (DOCTOR, LIST, AUDIT)] == [1, 1, 1]
    assert len(pages) == 12 and all("route-missing" in page for page in pages)


def test_results_are_shown_again_for_some_seconds(client, commands, monkeypatch):
    first = client.get(PAGE).text
    commands.answers(LIST, [])
    assert client.get(PAGE).text.count("web-4") == first.count("web-4") == 1
    assert len(commands.calls(DOCTOR)) == 1
    now = time.monotonic()
    monkeypatch.setattr(node_report.time, "monotonic", lambda: now + node_report.KEPT + 1)
    assert "web-4" not in client.get(PAGE).text
    assert len(commands.calls(DOCTOR)) == 2


def test_h23_a_command_that_cannot_be_killed_is_left_alone(client, commands, hurried, monkeypatch):
    """As one does whose disk hangs: its process cannot be reaped."""
    hangs, real = threading.Event(), child_process.run
    begun: list[str] = []

    def run(argv, text, limits):
        begun.append(argv[0])
        if argv[0] == DOCTOR:
            hangs.wait(SOON)
        return real(argv, text, limits)

    monkeypatch.setattr(child_process, "run", run)
    monkeypatch.setattr(node_report, "MARGIN", 0.1)
    monkeypatch.setattr(node_report, "KEPT", 0.0)
    page = client.get(PAGE).text
    assert "blockhost-provisioner-doctor did not end when it was killed" in page and "web-4" in page
    for _ in range(3):
        assert "blockhost-provisioner-doctor of an earlier request has not ended" in client.get(PAGE).text
    assert begun.count(DOCTOR) == 1 and begun.count(LIST) == 4
    hangs.set()
    until("it is asked again", lambda: "route-missing" in client.get(PAGE).text)


def test_a_machine_that_starts_no_thread_and_a_door_that_breaks(client, commands, monkeypatch):
    def no_thread(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(node_report.threading.Thread, "start", no_thread)
        page = client.get(PAGE).text
    assert page.count("cannot be started: can&#39;t start new thread") == 5
    monkeypatch.setattr(admin, "reporter", node_report.Reporter())

    def broken(*_):
        raise LookupError("<b>")

    monkeypatch.setattr(child_process, "run", broken)
    assert "blockhost-vm-list cannot be asked: LookupError" in client.get(PAGE).text


def test_who_waits_for_another_does_not_wait_for_ever(client, commands, monkeypatch):
    monkeypatch.setattr(node_report, "MARGIN", 0.0)
    monkeypatch.setattr(node_report, "GRACE", 0.1)
    monkeypatch.setattr(node_report, "QUESTIONS", {
        name: question._replace(limit=0.1) for name, question in node_report.QUESTIONS.items()
    })
    admin.reporter._is_asking = True
    assert client.get(PAGE).text.count("the commands of another request have not ended") == 5


def test_a_run_that_raises_does_not_lock_the_page(client, commands, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(node_report.Reporter, "_ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.get(PAGE)
    assert "route-missing" in client.get(PAGE).text


def test_secrets_and_files_are_not_its_business(client, commands):
    """No file of ours is opened by this process, only by the commands."""
    opened: list[str] = []
    import sys

    watching = [True]

    def hook(event, arguments):
        if watching and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)
    client.get(PAGE)
    watching.clear()
    assert not [path for path in opened if re.search(r"blockhost(?!/provisioner_proxmox)|/etc/|vms\.json", path)
                and "provisioner_proxmox" not in path], opened
    assert CAPACITY in {question.argv[0] for question in node_report.QUESTIONS.values()}
