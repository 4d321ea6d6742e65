"""What the page shows, whatever the commands say."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import pytest
from blockhost.provisioner_proxmox import admin_content, node_report

from conftest import AUDIT, CAPACITY, COMMANDS, DOCTOR, LIST, PAGE, ROOT, audit, capacity, doctor, expiring, moment

ALLOWED = set(
    "html head meta title link body nav main div header h1 h2 p a span strong code time dl dt dd section ul li"
    " table thead tbody tr th td".split()
)


class Reader(HTMLParser):
    """The page's text by section, and every element and attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.sections: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "section":
            self._section = dict(attrs)["aria-labelledby"]
            self.sections[self._section] = ""

    def handle_endtag(self, tag):
        if tag == "section":
            self._section = ""

    def handle_data(self, data):
        self.sections[self._section] += f"{data} "

    def text(self, section: str) -> str:
        return " ".join(self.sections[f"proxmox-{section}" if section else ""].split())


def shown(client) -> Reader:
    answer = client.get(PAGE)
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    read = Reader(answer.text)
    assert read.tags <= ALLOWED, read.tags - ALLOWED
    # Nothing that a strict policy would refuse, and nothing from elsewhere.
    assert {"style"}.isdisjoint(name for name, _ in read.attributes)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    links = {value for name, value in read.attributes if name in ("href", "src")}
    assert links <= {"data:,", "/", "/static/panel.css", "/admin/proxmox/static/admin.css", PAGE}, links
    assert len(answer.data) < 300_000
    return read


def test_everything_has_its_place(client, commands):
    page = shown(client)
    top = page.text("")
    assert "version 0.3.0" in top and re.search(r"Errors 1 Warnings 1 Notes 1 VMs checked 7", top)
    assert "Creates under way 2 Expired or expiring 3" in top
    findings = page.text("findings")
    assert findings.index("Error") < findings.index("Warning") < findings.index("Note")
    for words in (
        "VM web-1 (VMID 100) : there is no host route to 2a11:6c7:f04:276::2",
        "Why it matters the VM cannot be reached by IPv6",
        "What to do blockhost-vm-start web-1 (or blockhost-provisioner-doctor --fix )",
        "Code route-missing",
        "What is left file /run/blockhost/creates/7, address 192.168.122.203",
        "What to do systemctl enable --now blockhost-gc.timer; see journalctl -u blockhost-gc",
    ):
        assert words in findings, (words, findings)
    assert re.search(r"web-8 running \d+ s ago .* 4711 web-9 waiting \d s ago", page.text("creates"))
    assert "Room for more VMs ≤ 12" in top
    room = page.text("capacity")
    for words in (
        "Not known: the size of the template: the API did not answer node pve2 is offline",
        "Counted in VMs with 1 vCPU, 2048 MB memory and 20 GB disk. Runs out first: ipv4.",
        "VMIDs 100 to 999 900 7 893 893",
        "IPv4 addresses 192.168.122.200 to 192.168.122.250 51 39 12 12",
        "IPv6 addresses none – – no limit",
        "Memory promised on pve 64.0 GiB 14.0 GiB 50.0 GiB 25",
        "Storage local-lvm (lvmthin) 500.0 GiB 80.0 GiB 420.0 GiB not known",
    ):
        assert words in room, (words, room)
    assert commands.calls(CAPACITY) == ["--format json"]
    vms = page.text("expiring")
    assert re.search(r"web-4 25 h ago 20\S+ \S+ UTC suspended 192.168.122.203 0x71C7656EC7ab88b0", vms)
    assert re.search(r"web-1 \(protected\) in 3 days .* active 192.168.122.200 –", vms)
    assert "web-5 not known active – addr_test1vz9ux7" in vms
    changes = page.text("changes")
    assert re.search(r"3 min ago .* web-3 destroy active alice, bash VM web-3 is protected; use --force", changes)
    assert re.search(r"50 min ago .* web-1 create none → active uid 998, python3 ok", changes)
    assert commands.calls(DOCTOR) == ["--format json"]
    assert commands.calls(AUDIT) == ["--limit 15 --format json"]
    assert commands.calls(LIST) == [
        "--expiring 7 --sort expires --format json --columns name,status,ip,wallet,expires,protected"
    ]


def test_a_host_on_which_all_is_well(client, commands):
    commands.answers(DOCTOR, doctor(findings=[], creates=[], counts={"error": 0, "warning": 0, "note": 0}))
    commands.answers(LIST, [])
    commands.answers(AUDIT, [])
    page = shown(client)
    assert "Errors 0 Warnings 0 Notes 0" in page.text("") and "Creates under way 0" in page.text("")
    assert page.text("findings") == "What doctor finds Nothing: database, node and files agree."
    assert page.text("creates") == "Creates under way None runs, none waits."
    assert page.text("expiring") == "Expired, or within 7 days No VM."
    assert "Nothing has been done yet." in page.text("changes")


HOSTILE = "\"'><script>hit=1</script><img src=x onerror=hit=1></td></section>{{ 7*7 }}{% raw %}javascript:1&lt;"


def everywhere(value, text):
    """The same with this text in place of every text, but those that the page chooses by."""
    if isinstance(value, dict):
        kept = ("severity", "state", "limit", "since", "expires_at", "time")
        return {key: item if key in kept else everywhere(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [everywhere(item, text) for item in value]
    return text if isinstance(value, str) or value is None else value


def test_h27_markup_in_every_text_is_only_text(client, commands):
    for name, answer in ((DOCTOR, doctor()), (CAPACITY, capacity()), (LIST, expiring()), (AUDIT, audit())):
        commands.answers(name, everywhere(answer, HOSTILE), stderr=HOSTILE)
    page = shown(client)  # no script, no img, no handler, and every section still there
    assert set(page.sections) == {"", *(f"proxmox-{s}" for s in ("findings", "creates", "capacity", "expiring", "changes"))}
    for section, times in (("findings", 7), ("creates", 2), ("capacity", 8), ("expiring", 9), ("changes", 6)):
        assert page.text(section).count("{{ 7*7 }}") >= times, section
    assert HOSTILE in page.text("findings")


@pytest.mark.parametrize("name", [DOCTOR, CAPACITY, LIST, AUDIT])
def test_h26_control_characters_and_broken_text_are_not_passed_on(client, commands, name):
    text = "a\x00b\x1b[2Jc\u202ed\ud800e\nf\u2028g"
    commands.answers(name, everywhere({DOCTOR: doctor(), CAPACITY: capacity(), LIST: expiring(), AUDIT: audit()}[name], text))
    answer = client.get(PAGE)
    assert answer.status_code == 200 and "a b [2Jc d e f g" in answer.text
    assert not set(answer.text) & set("\x00\x1b\u202e\u2028")


DEEP = b"[" * 100_000 + b"]" * 100_000
STRANGE = [
    b"", b"nonsense", b"{", b"\xff\xfe[]", b'"\xc3"', DEEP, b'{"a":' * 50_000, b"9" * 5000, b"[" + b"9" * 5000 + b"]",
    b"1e999", b"NaN", b"null", b"true", b"3", b'"text"', b"[[]]", b"[null, 3, []]", b"[{}]", b"{}", b'{"findings": 3}',
    b'{"findings": [{"what": {"a": 1}}, {"what": 3}], "creates": [{"vm": [], "state": {}}], "counts": [1]}',
    b'{"findings": [{"what": "x", "severity": ["error"], "left": {"a": "b"}, "where": 1, "mend": []}], "creates": {}}',
    b'{"counts": {"error": -1, "warning": 1e99, "note": true}, "vms": "<b>", "version": 3, "findings": [], "creates": []}',
    b'[{"name": "x", "expires_at": "0001-01-01T00:00:00+23:59"}, {"name": "y", "expires_at": "9999-12-31T23:59:59-23:59"}]',
    b'[{"name": "x", "expires_at": "' + b"1" * 5000 + b'"}, {"name": "y", "expires_at": "2026-13-45"}]',
    b'[{"vm": "x", "uid": 99999999999999999999999999, "time": 5, "before": {}, "result": []}]',
    b'{"vmids": {"total": "<b>", "free": [], "limit": {}}, "memory": {"node": 3, "total_bytes": -5}, "storages": {}}',
    b'{"storages": [3, {}, {"storage": "x", "total_bytes": 1e99}], "nodes": [[]], "not_known": {"a": 1}, "size": 3}',
    b"\xef\xbb\xbf[]", b'{"a":' * 20 + b"1" + b"}" * 20, b'{"<b>": {"<i>": [1e999, -1, true, "x"]}}',
]


@pytest.mark.parametrize("name", [DOCTOR, CAPACITY, LIST, AUDIT])
@pytest.mark.parametrize("output", STRANGE, ids=lambda output: repr(output[:24]))
def test_h27_an_answer_of_another_kind_leaves_the_rest(client, commands, name, output):
    commands.prints(name, output)
    page = shown(client)
    assert ("web-8" in page.text("creates")) == (name != DOCTOR)
    assert ("local-lvm" in page.text("capacity")) == (name != CAPACITY)
    assert ("web-4" in page.text("expiring")) == (name != LIST)
    assert ("web-3" in page.text("changes")) == (name != AUDIT)
    assert not [text for text in page.sections.values() if "cannot be asked" in text]


def test_h27_a_number_without_end_costs_nothing_but_itself(client, commands):
    line = json.dumps(audit()[0]).replace('"uid": 0', f'"uid": {"9" * 5000}').replace('"sudo_user": "alice"', '"sudo_user": 1')
    commands.prints(AUDIT, f"[{line}]".encode())
    assert "web-3 destroy active bash VM web-3 is protected" in shown(client).text("changes")


def test_an_answer_without_end_is_ended(client, commands, monkeypatch):
    monkeypatch.setattr(node_report, "LARGEST_ANSWER", 1 << 16)
    patient = node_report.QUESTIONS["expiring"]._replace(limit=60.0)
    monkeypatch.setitem(node_report.QUESTIONS, "expiring", patient)
    begun = time.monotonic()
    commands.script(LIST, "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done")
    page = shown(client)
    assert page.text("expiring").endswith("Not known: blockhost-vm-list answered without end and was ended")
    assert time.monotonic() - begun < 30, "it is ended at once, not at its limit"
    assert "web-3" in page.text("changes") and "Expired or expiring ?" in page.text("")


@pytest.mark.parametrize("code", [0, 1, 2])
def test_exit_codes_of_doctor_are_findings(client, commands, code):
    commands.answers(DOCTOR, doctor(), code=code)
    assert "route-missing" in shown(client).text("findings")


@pytest.mark.parametrize(
    ("name", "section", "code", "why"),
    [
        (DOCTOR, "findings", 3, "blockhost-provisioner-doctor failed with exit code 3"),
        (DOCTOR, "findings", 2, "blockhost-provisioner-doctor gave no answer that can be read"),
        (LIST, "expiring", 1, "blockhost-vm-list failed with exit code 1"),
        (AUDIT, "changes", 2, "blockhost-vm-audit failed with exit code 2"),
        (CAPACITY, "capacity", 1, "blockhost-provisioner-capacity failed with exit code 1"),
    ],
)
def test_a_command_that_fails_is_a_reason(client, commands, name, section, code, why):
    commands.prints(name, b"", code, b"error: the database is\x1b[31m corrupt\n\nsee above\n")
    page = shown(client)
    assert f"Not known: {why} error: the database is [31m corrupt see above" in page.text(section)
    assert sum("the database is" in text for text in page.sections.values()) == 1


def test_a_command_that_is_killed_or_no_program_or_not_there(client, commands):
    commands.script(DOCTOR, "kill -SEGV $$")
    (commands.folder / LIST).write_bytes(b"\x7fELF but not really")
    (commands.folder / AUDIT).unlink()
    (commands.folder / CAPACITY).unlink()
    page = shown(client)
    assert "blockhost-provisioner-doctor was ended by signal 11" in page.text("findings")
    assert "blockhost-vm-list cannot be started: Exec format error" in page.text("expiring")
    assert "blockhost-vm-audit is not installed" in page.text("changes")
    assert "blockhost-provisioner-capacity is not installed" in page.text("capacity")
    assert "Errors ?" in page.text("") and "Creates under way ?" in page.text("")


def test_h34_an_empty_list_that_could_not_be_read_is_not_called_empty(client, commands):
    # As the command does: it always ends with 0.
    commands.answers(LIST, [], stderr="warning: /var/lib/blockhost/vms.json: corrupt at line 3\n")
    said = shown(client).text("expiring")
    assert said == "Expired, or within 7 days warning: /var/lib/blockhost/vms.json: corrupt at line 3"


def test_ten_thousand_are_not_all_shown(client, commands):
    finding, vm = doctor()["findings"][0], expiring()[0]
    commands.answers(DOCTOR, doctor(findings=[finding] * 10_000, counts={"error": 10_000, "warning": 0, "note": 0}), code=2)
    commands.answers(LIST, [vm] * 10_000)
    page = shown(client)
    assert page.text("findings").count("route-missing") == admin_content.SHOWN
    assert "And 9950 more: blockhost-provisioner-doctor" in page.text("findings")
    assert "And 9950 more: blockhost-vm-list --wide --expiring 7" in page.text("expiring")
    assert "Errors 10000" in page.text("") and "Expired or expiring 10000" in page.text("")


def test_entries_that_are_not_understood_are_counted(client, commands):
    commands.answers(LIST, [*expiring(), {"name": 3}, None])
    assert "2 of the entries cannot be read and are left out" in shown(client).text("expiring")


@pytest.mark.parametrize(
    ("away", "words"),
    [
        ({"seconds": 119.5}, "in 119 s"), ({"minutes": 3, "seconds": 1}, "in 3 min"), ({"hours": 5, "seconds": 1}, "in 5 h"),
        ({"days": 2, "seconds": 1}, "in 2 days"), ({"seconds": -1}, "s ago"), ({"days": -400}, "400 days ago"),
    ],
)
def test_how_far_a_time_is_away(client, commands, away, words):
    commands.answers(LIST, [{**expiring()[0], "expires_at": moment(**away)}])
    assert words in shown(client).text("expiring") or words.replace("119", "118") in shown(client).text("expiring")


def test_room_for_vms_that_is_known_or_not_and_memory_that_nobody_measured(client, commands):
    commands.answers(CAPACITY, capacity(more_vms=0, memory={**capacity()["memory"], "vms_not_measured": 2}))
    page = shown(client)
    assert "Room for more VMs 0" in page.text("")
    assert "Memory promised on pve 64.0 GiB 14.0 GiB or more not known 25" in page.text("capacity")


def test_room_for_vms_that_is_not_known(client, commands):
    commands.answers(CAPACITY, capacity(more_vms=None, more_vms_at_most=None, runs_out_first=[]))
    page = shown(client)
    assert "Room for more VMs ?" in page.text("") and "Runs out first" not in page.text("capacity")


def test_a_severity_of_a_later_version_is_not_taken_for_harmless(client, commands):
    finding = {**doctor()["findings"][2], "severity": "catastrophe"}
    commands.answers(DOCTOR, doctor(findings=[finding]))
    assert "Error VM web-2" in shown(client).text("findings")


def test_what_the_page_asks_for_is_what_the_schemas_have():
    schema = {name: json.loads((ROOT / "facts" / "schema" / f"{name}.json").read_text()) for name in ("doctor", "capacity", "vm-list", "vm-audit")}
    doctors = schema["doctor"]["properties"]
    assert doctor().keys() == doctors.keys()
    for of, one in (("findings", doctor()["findings"][0]), ("creates", doctor()["creates"][0])):
        assert one.keys() == doctors[of]["items"]["properties"].keys()
    capacities = schema["capacity"]["properties"]
    assert capacity().keys() == capacities.keys()
    for numbers in ("vmids", "ipv4", "ipv6"):
        assert capacity()[numbers].keys() == schema["capacity"]["$defs"]["numbers"]["properties"].keys()
    assert capacity()["size"].keys() == capacities["size"]["properties"].keys()
    assert capacity()["memory"].keys() == capacities["memory"]["properties"].keys() - {"overcommit_memory"}
    for of in ("storages", "nodes"):
        assert capacity()[of][0].keys() == capacities[of]["items"]["properties"].keys()
    assert expiring()[0].keys() <= schema["vm-list"]["items"]["properties"].keys()
    assert audit()[0].keys() == schema["vm-audit"]["items"]["properties"].keys()
    assert set(COMMANDS) == {question.argv[0] for question in node_report.QUESTIONS.values()}
