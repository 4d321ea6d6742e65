"""The page in its host application: what is proposed, shown, kept, stored."""

from __future__ import annotations

import ipaddress
import re
from html.parser import HTMLParser

import pytest
from app import create_app
from blockhost.provisioner_proxmox import host_resources, wizard

from conftest import PAGE_FORM, RESOURCES, STORED, found, stored

URL = "/wizard/proxmox"


class Page(HTMLParser):
    """The parts of a page that matter, by id; entities are resolved by the parser."""

    VOID = {"input", "br", "meta", "link"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: dict[str, str] = {}
        self.options: dict[str, list[tuple[str, str, bool]]] = {}
        self._open: list[tuple[str, dict]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "option":
            select = next(a for t, a in reversed(self._open) if t == "select")
            entry = (attrs["value"], "", "selected" in attrs)
            self.options.setdefault(select["id"], []).append(entry)
        if tag not in self.VOID:
            self._open.append((tag, attrs))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, attrs in self._open:
            if "id" in attrs:
                self.text[attrs["id"]] = self.text.get(attrs["id"], "") + data
        if self._open and self._open[-1][0] == "option":
            select = next(a for t, a in reversed(self._open) if t == "select")
            value, text, selected = self.options[select["id"]][-1]
            self.options[select["id"]][-1] = (value, text + data, selected)

    def by_id(self, id):
        return next((tag, attrs) for tag, attrs in self.tags if attrs.get("id") == id)

    def value(self, id):
        tag, attrs = self.by_id(id)
        if tag == "select":
            return next(value for value, _, selected in self.options[id] if selected)
        return attrs["value"]

    def values(self):
        return {name: self.value(name) for name in PAGE_FORM}


def test_with_what_was_found(client, setup_command):
    setup_command.answers(found())
    answer = client.get(URL)
    page = Page(answer.text)
    assert answer.status_code == 200
    assert page.values() == PAGE_FORM
    assert setup_command.calls() == ["detect-resources"] and setup_command.stdin() == {}
    assert [value for value, *_ in page.options["pve_storage"]] == ["local-lvm", "tank"]
    assert page.options["pve_storage"][0][1] == "local-lvm (lvmthin, 420 of 500 GiB free)"
    assert [(value, text) for value, text, _ in page.options["pve_bridge"]] == [
        ("vmbr0", "vmbr0 (192.168.122.1/24)"),
        ("vmbr1", "vmbr1 (no address)"),
        ("vmbr2", "vmbr2 (new, will be created)"),
    ]
    assert page.by_id("pve_node")[0] == "select"
    assert "debian-12-web3-template (VM 9001)" in page.text["template_vmid-hint"]
    assert "100, 101" in page.text["vmid_start-hint"]
    assert "https://203.0.113.5:8006" in answer.text
    assert "proxmox-problem" not in page.text and "proxmox-mistakes" not in page.text
    assert page.by_id("proxmox-form")[1]["method"] == "post"


BROKEN = {
    "missing": None,
    "says no": '{"ok": false, "error": "pvesh does not answer"}',
    "not JSON": "hello",
    "a list": "[]",
    "no resources": '{"ok": true, "error": null}',
    "wrong resources": '{"ok": true, "error": null, "resources": 7}',
}


@pytest.mark.parametrize("how", BROKEN)
def test_without_an_answer_everything_can_be_typed(client, setup_command, how):
    if BROKEN[how] is not None:
        setup_command.script(f"echo '{BROKEN[how]}'")
    page = Page(client.get(URL).text)
    assert all(tag != "select" for tag, _ in page.tags)
    values = page.values()
    node = values.pop("pve_node")
    assert node and values == {
        name: value for name, value in PAGE_FORM.items() if name != "pve_node"
    }
    assert "could not be found out" in page.text["proxmox-problem"]
    reason = {"missing": "is not installed", "says no": "pvesh does not answer"}.get(
        how, "blockhost-provisioner-setup"
    )
    assert reason in page.text["proxmox-problem"]
    posted = client.post(URL, data={**values, "pve_node": "pve"})
    assert posted.status_code == 302 and stored(client) == STORED


HOSTILE = "\"><script>alert(1)</script>{{7*7}}${7*7}'"
NONSENSE = [
    None,
    7,
    1.5,
    True,
    "",
    HOSTILE,
    [],
    [HOSTILE],
    [None, 3],
    {},
    {"name": HOSTILE},
    {"vmid": HOSTILE},
]
NONSENSE += [
    {"vmid": 1},
    {"vmid": 9001, "name": 7, "is_template": 1},
    [{"name": "ok1", "images": True}],
    [[]],
    -1,
]


@pytest.mark.parametrize("part", RESOURCES)
def test_a_part_that_is_not_understood_is_left_out(client, setup_command, part):
    for nonsense in NONSENSE:
        resources = {**RESOURCES, part: nonsense}
        page_resources = host_resources.understood(resources)
        values = host_resources.defaults(page_resources)
        assert not wizard.form.checked(values)[1], nonsense
    setup_command.answers(found(**{part: [{"name": HOSTILE, "images": True, "vmid": HOSTILE}]}))
    answer = client.get(URL)
    assert answer.status_code == 200 and "alert(1)" not in answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"gateway": "10.0.0.1"},
        {"gateway": None},
        {"ip_network": "192.168.122.0/31"},
        {"ip_start": "192.168.122.251"},
        {"ip_end": "192.168.122.255"},
    ],
)
def test_a_network_is_proposed_whole_or_not_at_all(change):
    network = {**RESOURCES["network"], "ip_start": "192.168.122.100"}
    assert host_resources.understood({"network": network}).network == network
    assert host_resources.understood({"network": {**network, **change}}).network == {}


def test_h28_texts_of_the_host_are_escaped(client, setup_command):
    storages = [
        {"name": "aa", "type": HOSTILE, "total_gib": HOSTILE, "free_gib": 1, "images": True}
    ]
    template = {"vmid": 9001, "name": HOSTILE, "is_template": True}
    setup_command.answers(
        found(storages=storages, template=template, bridges=[{"name": "b", "address": HOSTILE}])
    )
    answer = client.get(URL)
    assert "<script>alert" not in answer.text
    page = Page(answer.text)
    assert HOSTILE in page.text["template_vmid-hint"]
    assert page.options["pve_bridge"][0][:2] == ("b", "b (no address)")
    setup_command.answers({"ok": False, "error": HOSTILE}, code=1)
    answer = client.get(URL)
    assert (
        "<script>alert" not in answer.text and HOSTILE in Page(answer.text).text["proxmox-problem"]
    )


def test_a_template_in_the_customers_range_moves_the_range(client, setup_command):
    setup_command.answers(
        found(template={"vmid": 300, "name": "debian-12-web3-template", "is_template": True})
    )
    values = Page(client.get(URL).text).values()
    assert (values["template_vmid"], values["vmid_start"], values["vmid_end"]) == (
        "300",
        "301",
        "1200",
    )


def test_a_vm_that_is_no_template_is_not_proposed(client, setup_command):
    setup_command.answers(found(template={"vmid": 9100, "name": "mail", "is_template": False}))
    page = Page(client.get(URL).text)
    assert page.value("template_vmid") == "9001"
    assert "mail (VM 9100) exists and is not a template: remove it" in page.text["template_vmid-hint"]


def test_a_host_without_a_storage_for_disks(client, setup_command):
    setup_command.answers(found(storages=[{**RESOURCES["storages"][2]}]))
    page = Page(client.get(URL).text)
    assert page.by_id("pve_storage")[0] == "input"
    assert "No storage for disk images was found" in page.text["pve_storage-hint"]


def test_the_host_is_asked_about_what_was_chosen_before(client, setup_command):
    client.post(URL, data={**PAGE_FORM, "template_vmid": "9100"})
    setup_command.answers(found())
    client.get(URL)
    assert setup_command.stdin() == {"provisioner": {**STORED, "template_vmid": 9100}}


def test_a_post_stores_and_goes_on(client, setup_command):
    setup_command.answers(found())
    answer = client.post(URL, data=PAGE_FORM)
    assert (answer.status_code, answer.location) == (302, "/wizard/connectivity")
    assert stored(client) == STORED
    assert setup_command.calls() == []  # nothing was missing: nobody waits for the host
    # Back again: what was chosen is shown, also where the host does not have it.
    other = {**PAGE_FORM, "pve_storage": "ceph-1", "pve_bridge": "br7", "pve_node": "n9"}
    client.post(URL, data={**other, "ip_start": "210"})
    page = Page(client.get(URL).text)
    assert page.values() == {**other, "ip_start": "192.168.122.210"}
    assert page.options["pve_storage"][0][1] == "ceph-1 (not found on this host)"
    assert page.options["pve_bridge"][0][1] == "br7 (new, will be created)"


def test_only_a_post_stores(client, setup_command):
    for method in (client.head, client.get):
        assert method(URL, query_string=PAGE_FORM).status_code == 200
    assert client.put(URL, data=PAGE_FORM).status_code == 405
    assert stored(client) is None


def test_an_automated_install_posts_and_goes_on(client, setup_command):
    setup_command.answers(found(node="n7"))
    answer = client.post(
        URL, data={"storage": "tank", "ip_start": "200", "ip_end": "220", "gc_grace_days": "3"}
    )
    assert (answer.status_code, answer.location) == (302, "/wizard/connectivity")
    assert stored(client) == {
        **STORED,
        "node": "n7",
        "storage": "tank",
        "ip_end": "192.168.122.220",
        "gc_grace_days": 3,
    }
    # All of them, so that nothing has to be found out.
    plain = {name.removeprefix("pve_"): value for name, value in PAGE_FORM.items()}
    setup_command.path.unlink()
    answer = client.post(URL, data={**plain, "terraform_dir": "/srv/blockhost/tf"})
    assert answer.status_code == 302 and stored(client) == {
        **STORED,
        "terraform_dir": "/srv/blockhost/tf",
    }


def test_a_mistake_is_shown_beside_its_field_and_what_was_typed_is_kept(client, setup_command):
    setup_command.answers(found())
    typed = {
        **PAGE_FORM,
        "gateway": "192.168.1.1",
        "vmid_end": "soon",
        "pve_storage": "tank",
        "gc_grace_days": "30",
    }
    answer = client.post(URL, data=typed)
    page = Page(answer.text)
    assert answer.status_code == 200 and stored(client) is None
    assert page.values() == typed
    for name in PAGE_FORM:
        _, attrs = page.by_id(name)
        described = attrs["aria-describedby"].split() if "aria-describedby" in attrs else []
        assert all(page.by_id(id) for id in described)
        if name in ("gateway", "vmid_end"):
            assert attrs["aria-invalid"] == "true" and described[0] == f"{name}-error"
            assert page.by_id(f"{name}-error")[1]["role"] == "alert"
            assert page.text[f"{name}-error"] in page.text["proxmox-mistakes"]
        else:
            assert "aria-invalid" not in attrs and f"{name}-error" not in page.text
    assert "is not in the network 192.168.122.0/24" in page.text["gateway-error"]
    links = [
        attrs["href"] for tag, attrs in page.tags if tag == "a" and attrs["href"].startswith("#")
    ]
    assert links == ["#vmid_end", "#gateway"]
    assert page.by_id("proxmox-mistakes")[1]["role"] == "alert"
    # Put right, it goes on.
    assert (
        client.post(URL, data={**typed, "gateway": "192.168.122.1", "vmid_end": "999"}).status_code
        == 302
    )
    assert stored(client) == {**STORED, "storage": "tank", "gc_grace_days": 30}


def test_a_mistake_does_not_touch_what_was_stored_before(client, setup_command):
    client.post(URL, data=PAGE_FORM)
    client.post(URL, data={**PAGE_FORM, "pve_node": "-"})
    assert stored(client) == STORED


def test_the_folded_part_is_open_where_something_in_it_is_wrong(client, setup_command):
    setup_command.answers(found())
    details = [attrs for tag, attrs in Page(client.get(URL).text).tags if tag == "details"]
    assert len(details) == 1 and "open" not in details[0]
    answer = client.post(URL, data={**PAGE_FORM, "pve_user": "root@pam"})
    details = [attrs for tag, attrs in Page(answer.text).tags if tag == "details"]
    assert "open" in details[0] and "root@pam is not possible" in answer.text


def test_a_mistake_in_a_field_that_the_page_does_not_have_is_said(client, setup_command):
    answer = client.post(URL, data={"terraform_dir": "/etc/x"})
    page = Page(answer.text)
    assert (
        "Terraform folder: The terraform folder will belong to user" in page.text[
            "proxmox-mistakes"
        ]
    )
    assert "#terraform_dir" not in answer.text


@pytest.mark.parametrize("name", PAGE_FORM)
def test_h28_what_was_typed_comes_back_escaped(client, setup_command, name):
    setup_command.answers(found())
    answer = client.post(URL, data={**PAGE_FORM, name: HOSTILE})
    assert answer.status_code == 200 and stored(client) is None
    assert "<script>alert" not in answer.text
    page = Page(answer.text)
    assert page.value(name) == HOSTILE
    # Nothing of it became a tag or an attribute.
    clean = Page(client.post(URL, data={**PAGE_FORM, name: "!"}).text)
    assert [(tag, sorted(attrs)) for tag, attrs in page.tags] == [
        (tag, sorted(attrs)) for tag, attrs in clean.tags
    ]


def test_every_field_has_a_label_and_no_handler_is_inline(client, setup_command):
    setup_command.answers(found())
    page = Page(client.post(URL, data={**PAGE_FORM, "gateway": "x"}).text)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    labels = {attrs["for"] for tag, attrs in page.tags if tag == "label"}
    assert labels == set(PAGE_FORM)
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    classes = {name for _, attrs in page.tags for name in attrs.get("class", "").split()}
    wanted = (
        "card form-section two-col form-group collapsible collapsible-header"
        " collapsible-content btn"
    )
    assert (
        set(f"{wanted} btn-primary btn-secondary text-muted flex justify-between".split())
        <= classes
    )
    assert [
        attrs["href"] for tag, attrs in page.tags if tag == "a" and "btn" in attrs.get("class", "")
    ] == ["/"]


def test_the_hosts_csrf_token_is_sent(setup_command):
    client = create_app(csrf=True).test_client()
    page = Page(client.get(URL).text)
    assert (
        "input",
        {"type": "hidden", "name": "csrf_token", "value": "token-of-the-host"},
    ) in page.tags
    assert client.post(URL, data=PAGE_FORM).status_code == 400
    assert (
        client.post(URL, data={**PAGE_FORM, "csrf_token": "token-of-the-host"}).status_code == 302
    )
    assert stored(client) == STORED


def test_without_a_csrf_token_of_the_host_there_is_no_field(client, setup_command):
    assert "csrf_token" not in client.get(URL).text


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        7,
        "x",
        [],
        {"node": None},
        {"node": [1], "vmid_start": 1.5},
        {7: 8},
        {"vmid_end": 10**5000},
    ],
)
def test_a_session_from_elsewhere(app, setup_command, garbage):
    with app.test_request_context():
        session = {"proxmox": garbage, "proxmox_wan_address": garbage}
        assert wizard.get_summary_data(session) == {}
        assert set(map(type, wizard.get_ui_params(session).values())) == {str}
    client = app.test_client()
    with client.session_transaction() as session:
        session["proxmox"] = {"node": HOSTILE, "gateway": 7, "vmid_start": [1]}
    answer = client.get(URL)
    assert answer.status_code == 200 and "<script>alert" not in answer.text
    assert Page(answer.text).value("pve_node") == HOSTILE


def test_ui_params(client, setup_command):
    setup_command.answers(found())
    client.get(URL)
    client.post(URL, data={**PAGE_FORM, "pve_storage": "tank"})
    with client.session_transaction() as session:
        params = wizard.get_ui_params(session)
    assert params["management_url"] == "https://203.0.113.5:8006"
    assert params["knock_ports_default"] == "22, 8006"
    assert "tank" in params["storage_hint"]
    assert set(params) == {
        "management_url",
        "management_label",
        "knock_ports_default",
        "knock_description",
        "storage_hint",
        "storage_extra_hint",
    }
    assert all(isinstance(text, str) and text for text in params.values())
    assert client.get("/wizard/connectivity").status_code == 200


def test_the_management_url_without_anything_known(monkeypatch):
    url = wizard.get_ui_params({})["management_url"]
    if url:
        ipaddress.IPv4Address(re.fullmatch(r"https://([0-9.]+):8006", url)[1])
    assert (
        wizard.get_ui_params({"proxmox_wan_address": "2001:db8::5"})["management_url"]
        == "https://[2001:db8::5]:8006"
    )
    monkeypatch.setattr(wizard.socket.socket, "connect", unreachable)
    assert wizard.get_ui_params({})["management_url"] == ""
    assert wizard.get_ui_params({"proxmox_wan_address": "evil.example/"})["management_url"] == ""


def unreachable(*_):
    raise OSError(101, "Network is unreachable")


def test_the_summary(client, setup_command):
    assert "Nothing has been chosen yet" in client.get("/wizard/summary").text
    client.post(URL, data=PAGE_FORM)
    with client.session_transaction() as session:
        data = wizard.get_summary_data(session)
    assert data == STORED and set(map(type, data.values())) == {str, int}
    text = " ".join(client.get("/wizard/summary").text.split())
    for shown in (
        "local-lvm",
        # What will be done to the host stands beside what was chosen.
        "VM 9001 – built if it does not exist (downloads a Debian image, up to 30 min)",
        "100 to 999",
        "192.168.122.200 to 192.168.122.250",
        "7 days",
    ):
        assert f">{shown}</strong>" in text, shown
    with client.session_transaction() as session:
        session["proxmox"] = {**STORED, "node": HOSTILE}
    assert "<script>alert" not in client.get("/wizard/summary").text


ROOM = (
    "Room for 51 VMs at a time: 51 addresses, 898 free VM IDs. local-lvm has 420 GiB free, enough for"
    " 21 disks of 20 GiB."
)


def test_the_page_tells_how_many_vms_there_is_room_for(client, setup_command):
    setup_command.answers(found())
    assert Page(client.get(URL).text).text["proxmox-room"].strip() == ROOM
    # As typed, where a mistake elsewhere shows the page again.
    typed = {**PAGE_FORM, "pve_user": "", "pve_storage": "tank", "ip_start": "1", "ip_end": "2"}
    shown = Page(client.post(URL, data=typed).text).text["proxmox-room"].strip()
    assert shown.startswith("Room for 1 VM at a time: 1 address, 898 free VM IDs. tank has 1800 GiB free")
    # Nothing is counted from what is wrong, and nothing is said of a storage that is not known.
    wrong = Page(client.post(URL, data={**PAGE_FORM, "ip_end": "soon"}).text).text
    assert wrong.get("proxmox-room", "").strip() == ""
    setup_command.answers(found(storages=[], used_vmids=[]))
    assert Page(client.get(URL).text).text["proxmox-room"].strip() == (
        "Room for 51 VMs at a time: 51 addresses, 900 free VM IDs."
    )
