"""The finalization steps, and everything a setup command can do wrong."""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from blockhost.provisioner_proxmox import child_process
from blockhost.provisioner_proxmox import setup_command as door
from blockhost.provisioner_proxmox import wizard

from conftest import ROOT, STORED

CONFIG = {
    "provisioner": STORED,
    "admin": {"password": "s3cret-of-the-session"},
    "ports": [22, 8006],
}
STEPS = ["token", "terraform", "db_config", "bridge", "template"]


def step(name):
    return next(entry[2] for entry in wizard.get_finalization_steps() if entry[0] == name)


def test_they_are_the_manifests_in_its_order():
    manifest = json.loads((ROOT / "provisioner.json").read_text())["setup"]
    steps = wizard.get_finalization_steps()
    assert [entry[0] for entry in steps] == manifest["finalization_steps"] == STEPS
    assert manifest["wizard_module"] == wizard.__name__
    for id, label, function, hint in steps:
        assert label and hint and isinstance(label, str) and isinstance(hint, str)
        assert callable(function) and id in function.__name__


@pytest.mark.parametrize("name", STEPS)
def test_success_and_failure_are_the_commands(setup_command, name):
    setup_command.answers({"ok": True, "error": None}, stderr="working")
    assert step(name)(CONFIG) == (True, None)
    assert setup_command.calls() == [name]
    assert setup_command.stdin() == CONFIG
    setup_command.answers({"ok": False, "error": "the storage tank is full"}, code=1)
    assert step(name)(CONFIG) == (False, "the storage tank is full")
    setup_command.answers({"ok": True, "error": None})
    assert step(name)(CONFIG) == (True, None)  # again, after a failure


def test_h30_secrets_are_not_in_argv(setup_command):
    setup_command.answers({"ok": True, "error": None})
    step("token")(CONFIG)
    argv = (setup_command.folder / "argv").read_text()
    assert argv.split()[-1] == "token" and "s3cret" not in argv
    assert "s3cret" in (setup_command.folder / "stdin").read_text()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo '{\"ok\": false}'; exit 1", "failed and did not say why"),
        (
            'echo \'{"ok": false, "error": 7}\'; echo the disk >&2; exit 1',
            "did not say why: the disk",
        ),
        ('printf %s \'{"ok": false, "error": "a\\nb\\u0000\\u001b[31m"}\'; exit 1', "a b [31m"),
        (
            'echo \'{"ok": true, "error": null}\'; echo late >&2; exit 3',
            "reported success, but ended with code 3: late",
        ),
        ('echo \'{"ok": "yes"}\'', "gave no answer that can be read"),
        ("echo '{\"ok\": true}'; echo '{\"ok\": true}'", "gave no answer that can be read"),
        ("echo '{\"ok\": true'", "gave no answer that can be read"),
        ("printf '\\377\\376'", "gave no answer that can be read"),
        ("head -c 300000 /dev/zero | tr '\\0' '['", "gave no answer that can be read"),
        ("true", "gave no answer that can be read"),
        ("echo one >&2; printf 'two\\n\\n' >&2; exit 101", "failed with exit code 101: two"),
        ("kill -SEGV $$", "was ended by signal 11"),
        ("exec /nonexistent", "failed with exit code 127"),
        (
            "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done",
            "answered without end",
        ),
        ("head -c 3000000 /dev/zero", "answered without end"),
    ],
)
def test_a_broken_command_is_a_reason(setup_command, script, reason):
    setup_command.script(script)
    done, why = step("bridge")(CONFIG)
    assert done is False and reason in why
    assert why.isprintable() and len(why) <= 500


def test_a_command_that_is_not_there(setup_command):
    assert step("token")(CONFIG) == (False, "blockhost-provisioner-setup is not installed")
    setup_command.path.write_bytes(b"\x7fELF but not really")
    setup_command.path.chmod(0o755)
    done, why = step("token")(CONFIG)
    assert done is False and "cannot be started: Exec format error" in why


def test_a_long_reason_is_cut(setup_command):
    setup_command.answers({"ok": False, "error": "x" * 5000}, code=1)
    _, why = step("token")(CONFIG)
    assert len(why) == 500 and why.endswith("…")


def test_much_on_stderr_and_a_stdin_nobody_reads(setup_command):
    setup_command.script(
        "head -c 5000000 /dev/zero | tr '\\0' 'x' >&2\necho '{\"ok\": true, \"error\": null}'"
    )
    assert step("token")({**CONFIG, "large": "y" * 3_000_000}) == (True, None)


def test_a_large_session_arrives_whole(setup_command):
    setup_command.answers({"ok": True, "error": None})
    config = {**CONFIG, "large": "ü" * 500_000}
    assert step("token")(config) == (True, None)
    assert setup_command.stdin() == config


def test_h23_a_command_that_hangs_is_ended_with_its_children(setup_command, monkeypatch):
    monkeypatch.setattr(door, "LIMIT", 0.5)
    monkeypatch.setattr(door, "GRACE", 0.5)
    pids = setup_command.folder / "pids"
    setup_command.script(
        f"trap '' TERM\nsleep 60 &\necho $! $$ >{shlex.quote(str(pids))}\necho step 3 of 5"
        " >&2\nwait; wait; sleep 60"
    )
    begun = time.monotonic()
    done, why = step("terraform")(CONFIG)
    assert done is False
    assert (
        why
        == "blockhost-provisioner-setup terraform took longer than 0.5 seconds and was ended: step"
        " 3 of 5"
    )
    assert time.monotonic() - begun < 5
    for pid in pids.read_text().split():
        gone(int(pid))


def test_h23_children_that_outlive_the_ended_command_are_ended(setup_command, monkeypatch):
    monkeypatch.setattr(door, "LIMIT", 0.4)
    pid = setup_command.folder / "pid"
    setup_command.script(
        f"sh -c 'trap \"\" TERM; sleep 60; sleep 60' &\necho $! >{shlex.quote(str(pid))}\nsleep 60"
    )
    assert step("terraform")(CONFIG)[0] is False
    gone(int(pid.read_text()))


def gone(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs")


def test_h23_it_may_undo_its_work_when_its_time_is_over(setup_command, monkeypatch):
    monkeypatch.setattr(door, "LIMIT", 0.4)
    undone = setup_command.folder / "undone"
    # It logs more than a pipe holds while it does so.
    undo = f"head -c 300000 /dev/zero >&2; touch {shlex.quote(str(undone))}; exit 1"
    setup_command.script(f"trap '{undo}' TERM\nwhile :; do sleep 0.05; done")
    done, why = step("terraform")(CONFIG)
    assert done is False and "took longer" in why
    assert undone.exists()


def test_h23_a_grandchild_with_the_pipes_open_is_not_waited_for(setup_command):
    pid = setup_command.folder / "pid"
    setup_command.script(
        f'sleep 60 &\necho $! >{shlex.quote(str(pid))}\necho \'{{"ok": true, "error": null}}\''
    )
    begun = time.monotonic()
    try:
        assert step("token")(CONFIG) == (True, None)
        assert time.monotonic() - begun < 5
    finally:
        os.kill(int(pid.read_text()), 9)


def test_h23_the_limits():
    assert door.LIMITS == {"detect-resources": 15.0, "template": 1800.0} and door.LIMIT == 300.0


@pytest.mark.parametrize(
    "config", [None, [], "x", {}, {"provisioner": None}, {"provisioner": [1]}, {"proxmox": STORED}]
)
def test_without_our_settings_nothing_is_run(setup_command, config):
    setup_command.answers({"ok": True, "error": None})
    done, why = step("token")(config)
    assert done is False and why and setup_command.calls() == []


LOOP: dict = {}
LOOP["self"] = LOOP
# Readers elsewhere give up at 128 levels.
NESTED: list = []
for _ in range(120):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"x",
        float("nan"),
        float("inf"),
        pytest.param(10**5000, id="huge"),
        {1: 2},
        {"a": [{"b": Path("/x")}]},
        "\ud800",
        {"\udc00": 1},
        LOOP,
        NESTED,
    ],
)
def test_what_is_not_json_is_left_out_or_said(setup_command, value, caplog):
    setup_command.answers({"ok": True, "error": None})
    assert step("token")({**CONFIG, "other": value}) == (True, None)
    assert setup_command.stdin() == CONFIG
    assert "other" in caplog.text
    done, why = step("token")({**CONFIG, "provisioner": {**STORED, "node": value}})
    assert done is False and "settings of the Proxmox page" in why
    assert setup_command.calls() == ["token"]


def test_keys_that_are_no_text_are_left_out(setup_command):
    setup_command.answers({"ok": True, "error": None})
    assert step("token")({**CONFIG, 7: "x", None: 1, "\ud800": 1}) == (True, None)
    assert setup_command.stdin() == CONFIG


def test_the_copy_is_deep_and_plain():
    class Text(str):
        pass

    class Number(int):
        pass

    config = {"provisioner": {"a": [Text("x"), (Number(1), True)]}}
    copy, problem = door.session_config(config)
    config["provisioner"]["a"][0] = "changed"
    assert problem is None and copy == {"provisioner": {"a": ["x", [1, True]]}}
    assert [type(x) for x in (copy["provisioner"]["a"][0], *copy["provisioner"]["a"][1])] == [
        str,
        int,
        bool,
    ]


def test_steps_run_in_threads_side_by_side(setup_command):
    setup_command.script(
        'read -r line\nsleep 0.2\nprintf \'{"ok": false, "error": "%s"}\' "$1"; exit 1'
    )
    results = {}
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: step(name)(CONFIG)}))
        for name in STEPS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {name: (False, name) for name in STEPS}


def test_its_log_lines_are_passed_on(setup_command, caplog):
    caplog.set_level("INFO")
    setup_command.answers({"ok": True, "error": None}, stderr="terraform: Installing provider")
    step("terraform")(CONFIG)
    assert "terraform: terraform: Installing provider" in caplog.text


def test_an_interrupt_ends_the_command(setup_command, monkeypatch):
    pid = setup_command.folder / "pid"
    setup_command.script(f"echo $$ >{shlex.quote(str(pid))}\nexec sleep 60")

    def interrupted():
        if pid.exists() and pid.read_text().strip():
            raise KeyboardInterrupt
        return time.monotonic()

    monkeypatch.setattr(child_process, "time", SimpleNamespace(monotonic=interrupted, sleep=time.sleep))
    with pytest.raises(KeyboardInterrupt):
        step("token")(CONFIG)
    gone(int(pid.read_text()))
