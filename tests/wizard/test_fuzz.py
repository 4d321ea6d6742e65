"""Anything posted gives the page or the next one, and what is stored is right (H28).

What is right is written here a second time, in other words than the product's, on purpose.

BLOCKHOST_FUZZ_CASES sets the number of cases, shared with the tests of the root agent's
plugin, where one case costs far less.
"""

from __future__ import annotations

import os
import string

import pytest
from app import create_app
from blockhost.provisioner_proxmox import form, host_resources, setup_command, wizard
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from conftest import PAGE_FORM, RESOURCES, STORED

CASES = int(os.environ.get("BLOCKHOST_FUZZ_CASES", "9000"))
PLAIN = {"pve_node": "node", "pve_storage": "storage", "pve_bridge": "bridge", "pve_user": "user"}
COMMON = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "database": None,
}
ALNUM = string.ascii_letters + string.digits


def octets(text):
    """The number of an address; an assertion where it is none."""
    parts = text.split(".")
    assert len(parts) == 4
    number = 0
    for part in parts:
        assert part == str(int(part)) and 0 <= int(part) <= 255
        number = number * 256 + int(part)
    return number


def assert_right(settings):
    """The stored settings, judged by `facts/contract/installer.md`."""
    assert set(settings) == set(STORED)
    assert all(type(settings[key]) is type(value) for key, value in STORED.items())
    assert all(
        ord(c) in range(33, 127) for value in settings.values() if type(value) is str for c in value
    )
    node, storage, bridge = settings["node"], settings["storage"], settings["bridge"]
    assert node and set(node) <= set(ALNUM + "-") and node[0] != "-" != node[-1]
    assert len(storage) > 1 and set(storage) <= set(ALNUM + "-_.")
    assert storage[0] in string.ascii_letters and storage[-1] in ALNUM
    assert 0 < len(bridge) < 16 and set(bridge) <= set(ALNUM + "-_.") and bridge[0] not in "-."
    name, realm = settings["user"].split("@")
    assert (
        name
        and realm
        and settings["user"].lower() != "root@pam"
        and not set(settings["user"]) & set(":/!= ")
    )
    assert 100 <= settings["vmid_start"] < settings["vmid_end"] <= 999_999
    assert 100 <= settings["template_vmid"] <= 999_999_999
    assert settings["template_vmid"] not in range(settings["vmid_start"], settings["vmid_end"] + 1)
    assert 0 <= settings["gc_grace_days"] <= 36_500
    first, length = settings["ip_network"].split("/")
    assert length == str(int(length)) and 8 <= int(length) <= 30
    low, size = octets(first), 2 ** (32 - int(length))
    assert low % size == 0
    usable = range(low + 1, low + size - 1)
    start, end, gateway = (octets(settings[key]) for key in ("ip_start", "ip_end", "gateway"))
    assert start in usable and end in usable and gateway in usable and start <= end
    assert end - start + 1 - (start <= gateway <= end) > 0
    path = settings["terraform_dir"]
    assert path[0] == "/" and path.count("/") > 1 and not {"", ".", ".."} & set(path[1:].split("/"))
    assert path.split("/")[1] not in (
        "etc",
        "usr",
        "root",
        "boot",
        "proc",
        "sys",
        "dev",
        "bin",
        "sbin",
    )


NEAR = {
    "pve_node": ["n1", "a-b", "-", "a.b", "pve\n"],
    "pve_storage": ["tank", "l_1", "a", "a b"],
    "pve_bridge": ["vmbr7", ".", "..", "...", "br-x", "-x", "a" * 16],
    "pve_user": ["root@pam", "root@pam ", "a@b", "a@b@c", "a:b@c", "ROOT@PAM", "root@pam\0"],
    "template_vmid": ["99", "100", "500", "999999999", "1000000000", "٩٠٠١"],
    "vmid_start": ["99", "100", "9001", "9002", "999998", "1e3"],
    "vmid_end": ["100", "101", "9001", "999999", "1000000"],
    "ip_network": [
        "10.0.0.0/8",
        "10.0.0.0/30",
        "192.168.122.192/26",
        "192.168.122.1/24",
        "0.0.0.0/8",
        "10.0.0.0/31",
    ],
    "ip_start": ["0", "1", "2", "200", "255", "10.0.0.1", "10.0.0.2", "192.168.122.255", "²00"],
    "ip_end": ["0", "1", "2", "250", "256", "10.0.0.2", "10.255.255.254", "192.168.122.193"],
    "gateway": ["10.0.0.1", "10.0.0.2", "192.168.122.193", "192.168.122.200", "1"],
    "gc_grace_days": ["0", "36500", "36501", "-0", "1.0"],
    "terraform_dir": ["/srv/tf", "/", "/etc/x", "/a/../b", "//", "/srv//tf/", "x"],
}
ODD = st.text(max_size=40) | st.sampled_from(
    ["", " ", "\0", "'\"><b>", "\u202e", "%00", "9" * 5000, "../../x", "${x}", "{{7}}"]
)


@st.composite
def posts(draw):
    """A form: mostly right, so that the relations are reached too; sometimes nothing of that."""
    if draw(st.integers(0, 9)) == 0:
        names = st.sampled_from([*PAGE_FORM, *PLAIN.values(), "terraform_dir"]) | st.text(
            max_size=10
        )
        return draw(st.dictionaries(names, st.lists(ODD, max_size=3), max_size=15))
    posted = {}
    automated = draw(st.booleans())
    good = {**PAGE_FORM, "terraform_dir": STORED["terraform_dir"]}
    touched = draw(st.sets(st.sampled_from(sorted(good)), max_size=4))
    for name, value in good.items():
        if name in touched:
            kind = draw(st.integers(0, 9))
            if kind == 0:
                continue
            value = draw(ODD) if kind < 3 else draw(st.sampled_from(NEAR[name]))
        key = PLAIN.get(name, name) if automated else name
        posted[key] = [value] if draw(st.integers(0, 30)) else [value, draw(ODD)]
    return posted


@settings(max_examples=max(100, CASES // 20), **COMMON)
@given(
    posts(),
    st.sampled_from(
        [form.BUILT_IN, {}, {"node": "\0", "ip_network": "10.0.0.0/8", "vmid_start": None}]
    ),
)
def test_h28_a_submission_is_right_or_has_errors(posted, proposal):
    result = form.submitted(posted, proposal)
    assert set(result.typed) == set(form.KEYS)
    assert all(len(text) <= 255 and text.isprintable() for text in result.typed.values())
    if result.errors:
        assert set(result.errors) <= set(form.KEYS)
        assert all(type(why) is str and why and why.isprintable() for why in result.errors.values())
    else:
        assert_right(result.values)


@pytest.fixture(scope="module")
def host():
    app = create_app()
    app.testing = True  # an exception reaches the test
    return app


SEEN = {"page": 0, "next": 0}


@settings(max_examples=max(50, CASES // 60), **COMMON)
@example(PAGE_FORM, True)
@given(posts(), st.booleans())
def test_h28_a_post_gives_this_page_or_the_next(host, posted, detected):
    answer = {"resources": RESOURCES} if detected else {}
    client = host.test_client()
    patch = pytest.MonkeyPatch()
    patch.setattr(
        setup_command, "ask", lambda step, config: (answer, None if detected else "no answer")
    )
    try:
        response = client.post("/wizard/proxmox", data=posted)
    finally:
        patch.undo()
    with client.session_transaction() as session:
        settings = session.get(wizard.SESSION_KEY)
    if response.status_code == 302:
        SEEN["next"] += 1
        assert response.location == "/wizard/connectivity"
        assert_right(settings)
    else:
        SEEN["page"] += 1
        assert response.status_code == 200 and settings is None
        assert 'role="alert"' in response.text and "'\"><b>" not in response.text


def test_both_ends_were_reached():
    assert SEEN["page"] > 10 and SEEN["next"] > 10, SEEN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
PARTS = {
    "storages": st.lists(
        st.fixed_dictionaries(
            {}, optional={key: JSON for key in ("name", "type", "total_gib", "free_gib", "images")}
        )
    ),
    "bridges": st.lists(st.fixed_dictionaries({}, optional={"name": JSON, "address": JSON})),
    "template": st.fixed_dictionaries(
        {}, optional={"vmid": JSON, "name": JSON, "is_template": JSON}
    ),
    "network": st.fixed_dictionaries(
        {},
        optional={
            key: JSON | st.sampled_from(NEAR[key])
            for key in ("ip_network", "gateway", "ip_start", "ip_end")
        },
    ),
    "used_vmids": st.lists(JSON),
    "node": JSON,
    "wan_address": JSON,
}


@settings(max_examples=max(50, CASES // 60), **COMMON)
@given(st.fixed_dictionaries({}, optional={key: JSON | part for key, part in PARTS.items()}))
def test_h28_whatever_is_found_makes_a_proposal_that_is_right(resources):
    found = host_resources.understood(resources)
    values, errors = form.checked(host_resources.defaults(found))
    assert errors == {}
    assert_right(values)


@settings(max_examples=max(50, CASES // 60), **COMMON)
@given(JSON | st.binary() | st.dictionaries(st.integers() | st.text(), JSON))
def test_what_is_copied_for_a_step_is_json_for_every_reader(value):
    try:
        copy = setup_command.plain_copy(value)
    except ValueError as why:
        assert str(why).startswith(("is ", "has "))
        return
    import json

    text = json.dumps(copy, allow_nan=False, ensure_ascii=False).encode("utf-8")
    assert json.loads(text) == copy == value or isinstance(value, tuple)
