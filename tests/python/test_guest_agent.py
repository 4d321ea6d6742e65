"""ping, exec, exec-status, usermod: through qm, whose exit code says nothing about the guest's."""

import base64
import json
import pytest

import qm
from node import UUID


def pve_json(value):
    """As qm prints it: the bytes of the guest's UTF-8 taken for Latin-1."""
    for key in ("out-data", "err-data"):
        if key in value:
            value[key] = value[key].encode("utf-8").decode("latin-1")
    return json.dumps(value, indent=3, separators=(",", " : "), ensure_ascii=False)


@pytest.fixture
def agent(node, ask):
    """VM 100 runs and its agent answers: exec gives PID 4242, exec-status what the test says."""
    node.start(100)
    node.reply("qm guest exec", stdout='{\n   "pid" : 4242\n}')

    def status(**kwargs):
        node.reply(
            "qm guest exec-status", stdout=pve_json({key.replace("_", "-"): v for key, v in kwargs.items()})
        )

    node.status = status
    return lambda action, **params: ask(action, vmid=100, uuid=UUID, **params)


def test_ping(node, agent):
    assert agent("qm-guest-ping") == {"ok": True}
    assert node.lines() == ["qm guest cmd 100 ping"]


@pytest.mark.parametrize("wait, longest", [(None, 4.1), (0, 0.1), (5, 5.1)])
def test_h20_a_slow_qm_is_the_nodes_and_its_ping_is_asked_about_again(node, agent, wait, longest):
    node.reply("qm guest cmd", slow=True)
    before = node.clock.now
    answer = agent("qm-guest-ping", wait=wait)
    assert answer["ok"] is False and answer["unknown"] and "the node is busy: qm did not answer" in answer["error"]
    assert node.clock.now - before < longest
    node.jobs[0].end()
    assert agent("qm-guest-ping") == {"ok": True} and len(node.calls) == 1, "the same qm"
    node.reply("qm guest cmd", code=255, stderr="QEMU guest agent is not running")
    assert agent("qm-guest-ping")["error"] == "QEMU guest agent is not running"


def test_h32_ping_with_an_error_inside_is_no_answer(node, agent):
    node.reply("qm guest cmd", stdout='{"error":{"class":"GenericError","desc":"no"}}')
    assert agent("qm-guest-ping")["ok"] is False


def test_ping_of_a_guest_that_is_off(node, ask):
    answer = ask("qm-guest-ping", vmid=100, uuid=UUID)
    assert answer["ok"] is False and "not running" in answer["error"] and node.calls == []


@pytest.mark.parametrize(
    "words", ["No QEMU guest agent configured", "VM 100 is not running", "QEMU guest agent is not running"]
)
def test_agent_errors_are_passed_on(node, agent, words):
    node.reply("qm guest", code=255, stderr=words)
    assert words in agent("qm-guest-ping")["error"]
    assert words in agent("qm-guest-exec", command="true")["error"]


def test_exec_that_ends_in_time(node, agent):
    node.status(exited=1, exitcode=3, out_data="grün €\n", err_data="Föhler\n")
    answer = agent("qm-guest-exec", command="echo 'a b'; exit 3")
    assert answer == {
        "ok": True, "exited": True, "exitcode": 3, "stdout": "grün €\n", "stderr": "Föhler\n",
        "out_truncated": False, "err_truncated": False,
    }  # fmt: skip
    assert node.calls == [
        ["qm", "guest", "exec", "100", "--synchronous", "0", "--", "/bin/sh", "-c", "echo 'a b'; exit 3"],
        ["qm", "guest", "exec-status", "100", "4242"],
    ]


def test_exec_without_output(node, agent):
    node.status(exited=1, exitcode=0)
    answer = agent("qm-guest-exec", command="true")
    assert (answer["exitcode"], answer["stdout"], answer["stderr"]) == (0, "", "")


def test_h25_killed_by_a_signal(node, agent):
    node.status(exited=1, signal=9, out_data="x")
    answer = agent("qm-guest-exec", command="kill -9 $$")
    assert answer["signal"] == 9 and "exitcode" not in answer and answer["stdout"] == "x"


def test_h25_one_that_goes_on_gives_its_pid_and_no_exit_code(node, agent):
    node.status(exited=0)
    before = node.clock.now
    assert agent("qm-guest-exec", command="sleep 60") == {"ok": True, "exited": False, "pid": 4242}
    assert 1.9 < node.clock.now - before < 3


@pytest.mark.parametrize("wait, longest", [(0, 0.1), (0.5, 1), (5, 5.5), (None, 2.5)])
def test_h20_wait_is_kept(node, agent, wait, longest):
    node.status(exited=0)
    before = node.clock.now
    answer = agent("qm-guest-exec", command="sleep 60", wait=wait)
    assert answer["pid"] == 4242 and node.clock.now - before <= longest
    if wait == 0:
        assert len(node.calls) == 1


@pytest.mark.parametrize("wait", [-1, 5.1, 300, "2", True, float("nan"), float("inf"), [1]])
def test_h28_wait_out_of_range(node, agent, wait):
    assert agent("qm-guest-exec", command="true", wait=wait)["ok"] is False and node.calls == []


@pytest.mark.parametrize(
    "status", ["", "null", "[]", '{"exited":', '{"exited":1}', '{"exited":1,"exitcode":"0"}']
)
def test_h25_an_unreadable_status_is_no_success(node, agent, status):
    node.reply("qm guest exec-status", stdout=status)
    answer = agent("qm-guest-exec", command="true")
    assert answer == {"ok": True, "exited": False, "pid": 4242}
    assert agent("qm-guest-exec-status", pid=4242)["ok"] is False


def test_a_busy_guest_that_misses_a_ping_keeps_its_pid(node, agent):
    node.reply("qm guest exec-status", code=255, stderr="QEMU guest agent is not running")
    assert agent("qm-guest-exec", command="true") == {"ok": True, "exited": False, "pid": 4242}


@pytest.mark.parametrize("text", ["", "null", "{}", '{"pid":"7"}', '{"pid":0}', '{"pid":true}', "pid: 7"])
def test_exec_without_a_pid_is_an_error(node, agent, text):
    node.reply("qm guest exec", stdout=text)
    answer = agent("qm-guest-exec", command="true")
    assert answer["ok"] is False and answer["code"] == "failed"


def test_h48_a_slow_qm_goes_on_and_is_asked_about(node, agent):
    node.reply("qm guest exec 100", stdout='{"pid":4242}', slow=True)
    begun = node.clock.now
    job = agent("qm-guest-exec", command="true")
    assert job == {"ok": True, "exited": False, "job": 1} and node.clock.now - begun < 4.1
    assert agent("qm-guest-exec-status", job=1) == {"ok": True, "exited": False, "job": 1}
    node.jobs[0].end()
    assert agent("qm-guest-exec-status", job=1) == {"ok": True, "exited": False, "pid": 4242}
    # The end is told once, so a look that takes long is not lost either.
    node.reply("qm guest exec-status", stdout='{"exited":1,"exitcode":7}', slow=True)
    assert agent("qm-guest-exec-status", pid=4242) == {"ok": True, "exited": False, "pid": 4242, "job": 2}
    node.jobs[1].end()
    assert agent("qm-guest-exec-status", job=2)["exitcode"] == 7
    answer = agent("qm-guest-exec-status", job=2)
    assert answer["ok"] is False and answer["unknown"] is True


def test_h02_another_vms_job_is_not_told(node, ask):
    node.add_ours(101, "web-2", "22222222-2222-4333-8444-555555555555")
    node.start(100)
    node.start(101, pid=4712)
    node.reply("qm guest exec 100", stdout='{"pid":4242}', slow=True)
    ask("qm-guest-exec", vmid=100, uuid=UUID, command="true")
    node.jobs[0].end()
    answer = ask("qm-guest-exec-status", vmid=101, uuid="22222222-2222-4333-8444-555555555555", job=1)
    assert answer["ok"] is False
    for job in (0, -1, "1", True, 2**60):
        assert ask("qm-guest-exec-status", vmid=100, uuid=UUID, job=job)["ok"] is False


def test_h28_jobs_are_bounded(node, agent):
    node.reply("qm guest exec 100", stdout='{"pid":4242}', slow=True)
    for _ in range(qm.JOBS_MAX):
        assert "job" in agent("qm-guest-exec", command="true", wait=0)
    refused = agent("qm-guest-exec", command="true", wait=0)
    assert refused["ok"] is False and "the node is busy" in refused["error"]
    node.jobs[3].end()
    assert "job" in agent("qm-guest-exec", command="true", wait=0)
    assert agent("qm-guest-exec-status", job=4)["ok"] is False, "ended and forgotten for it"
    node.clock.now += qm.JOB_LIFE + 1
    assert agent("qm-guest-exec", command="true", wait=0)["job"] and len(qm._asked) == 1
    assert sum(job.killed for job in node.jobs) == qm.JOBS_MAX


@pytest.mark.parametrize("command", ["echo ü", "echo €", "\U0001f600", "x\x80", "echo é"])
def test_h53_nothing_beyond_ascii_reaches_qm_guest(node, agent, command):
    answer = agent("qm-guest-exec", command=command)
    assert answer["ok"] is False and "beyond ASCII" in answer["error"] and node.calls == []


def test_status(node, agent):
    node.status(exited=0)
    assert agent("qm-guest-exec-status", pid=4242) == {"ok": True, "exited": False}
    node.status(exited=1, exitcode=0, out_data="x", out_truncated=1)
    answer = agent("qm-guest-exec-status", pid=4242)
    assert answer["exited"] and answer["out_truncated"] is True and answer["err_truncated"] is False


@pytest.mark.parametrize("pid", [0, -1, "7", 2**31, 1.0, True, None, [7]])
def test_h28_guest_pid(node, agent, pid):
    assert agent("qm-guest-exec-status", pid=pid)["ok"] is False and node.calls == []


def test_h28_output_is_bounded(node, agent):
    node.status(exited=1, exitcode=0, out_data="x" * 3_000_000, err_data="ü" * 2_000_000)
    answer = agent("qm-guest-exec", command="yes")
    assert len(answer["stdout"]) == 1024 * 1024 and answer["out_truncated"] is True
    assert answer["stderr"] == "ü" * (512 * 1024) and answer["err_truncated"] is True


@pytest.mark.parametrize("unit", ["\x00", "\xff", "ü", "\U0001f600", "\x1b", '"', "x"])
def test_h28_the_largest_output_of_both_streams_fits_into_a_frame(node, agent, unit):
    raw = unit.encode() if unit != "\xff" else b"\xff"
    text = (raw * (2 * 1024 * 1024 // len(raw))).decode("latin-1")
    node.reply(
        "qm guest exec-status",
        stdout=json.dumps({"exited": 1, "exitcode": 0, "out-data": text, "err-data": text}),
    )
    answer = agent("qm-guest-exec", command="cat /dev/zero")
    assert answer["out_truncated"] and len(json.dumps(answer)) < 10 * 1024 * 1024
    if unit in ("\x00", "\xff", "\x1b"):
        assert base64.b64decode(answer["stdout_base64"]) == raw * (1024 * 1024)
        assert len(answer["stdout"]) <= 2000
    else:
        assert answer["stdout"] == unit * (1024 * 1024 // len(raw)) and "stdout_base64" not in answer


def test_output_that_is_no_text_arrives_byte_for_byte(node, agent):
    raw = bytes(range(256))
    text = raw.decode("latin-1")
    node.reply("qm guest exec-status", stdout=json.dumps({"exited": 1, "exitcode": 0, "out-data": text}))
    answer = agent("qm-guest-exec", command="cat")
    assert base64.b64decode(answer["stdout_base64"]) == raw and answer["stderr"] == ""


@pytest.mark.parametrize("text", ["\xff\xfe", "\u20ac already right", "a\x00b"])
def test_undecodable_output_is_no_error(node, agent, text):
    node.reply("qm guest exec-status", stdout=json.dumps({"exited": 1, "exitcode": 0, "out-data": text}))
    answer = agent("qm-guest-exec", command="true")
    assert answer["ok"] and isinstance(answer["stdout"], str)
    json.dumps(answer).encode()


@pytest.mark.parametrize("command", ["", "  ", "a\0b", "x" * 65537, "ü" * 32769, "\ud800", None, 5, ["ls"]])
def test_h28_commands(node, agent, command):
    assert agent("qm-guest-exec", command=command)["ok"] is False and node.calls == []


@pytest.mark.parametrize("command", ["--help", "$(reboot)", "; rm -rf /", "a\nb", "'\"`", "--", "x" * 65536])
def test_h27_a_command_is_one_word_behind_the_double_dash(node, agent, command):
    node.status(exited=1, exitcode=0)
    assert agent("qm-guest-exec", command=command)["ok"]
    assert node.calls[0][4:] == ["--synchronous", "0", "--", "/bin/sh", "-c", command]


GECOS = "wallet=0x" + "ab" * 20 + ",nft=17"


def test_gecos(node, agent):
    node.status(exited=1, exitcode=0)
    assert agent("qm-update-gecos", username="admin", gecos=GECOS)["ok"]
    assert node.calls[0][4:] == ["--synchronous", "0", "--", "usermod", "-c", GECOS, "admin"]


def test_gecos_that_usermod_refuses(node, agent):
    node.status(exited=1, exitcode=6, err_data="usermod: user 'nobody2' does not exist\n")
    answer = agent("qm-update-gecos", username="nobody2", gecos=GECOS)
    assert answer["ok"] is False and answer["exitcode"] == 6 and "does not exist" in answer["error"]
    node.status(exited=1, signal=9)
    assert "signal 9" in agent("qm-update-gecos", username="admin", gecos=GECOS)["error"]


def test_gecos_of_a_slow_guest_gives_a_pid(node, agent):
    node.status(exited=0)
    assert agent("qm-update-gecos", username="admin", gecos=GECOS) == {
        "ok": True,
        "exited": False,
        "pid": 4242,
    }


@pytest.mark.parametrize(
    "gecos",
    [
        "wallet=addr_test1qz,nft=ABCDEF0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789",
        "wallet=bc1qar0,nft=115792089237316195423570985008687907853269984665640564039457584007913129639935",
    ],
)
def test_gecos_of_any_chain(node, agent, gecos):
    node.status(exited=1, exitcode=0)
    assert agent("qm-update-gecos", username="admin", gecos=gecos)["ok"]


@pytest.mark.parametrize(
    "gecos",
    [
        "",
        "-L",
        "wallet=,nft=1",
        "wallet=a,nft=",
        "wallet=a:b,nft=1",
        "wallet=a,b,nft=1",
        "wallet=a,nft=1\n",
        "wallet=a,nft=0x1",
        "wallet=a,nft=" + "f" * 65,
        "wallet=" + "a" * 129 + ",nft=1",
        "wallet=$(id),nft=1",
        "wallet=a b,nft=1",
        None,
        5,
    ],
)
def test_h28_gecos(node, agent, gecos):
    assert agent("qm-update-gecos", username="admin", gecos=gecos)["ok"] is False and node.calls == []


@pytest.mark.parametrize(
    "username", ["", "-l", "Admin", "a b", "root:x", "a" * 33, "../x", "a\n", None, 5, "ä"]
)
def test_h28_username(node, agent, username):
    assert agent("qm-update-gecos", username=username, gecos=GECOS)["ok"] is False and node.calls == []
