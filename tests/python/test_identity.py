"""Whose machine it is, before anything is done to it: one table for every forceful action."""

import pytest

from node import OTHER_UUID, TEMPLATE, UUID

# What makes each action complete, apart from vmid and identity.
FORCEFUL = {
    "qm-stop": {"timeout": 10},
    "qm-shutdown": {"timeout": 30},
    "qm-resume": {},
    "qm-destroy": {},
    "qm-set": {"config": {"onboot": 0}},
    "qm-guest-ping": {},
    "qm-guest-exec": {"command": "true"},
    "qm-guest-exec-status": {"pid": 7},
    "qm-update-gecos": {"username": "admin", "gecos": "wallet=0xAB,nft=1"},
    "pve-set-throttle": {"limits": {"cpulimit": 1}},
    "tc-rate-limit": {"dev": "tap100i0", "direction": "in", "rate_kbps": 1000},
    "qm-importdisk": {"image_path": "/tmp/x", "storage": "local"},
    "qm-template": {},
    "guard-set": {"anti_spoofing": True, "isolate": True},
    "guard-clear": {},
}
forceful = pytest.mark.parametrize("action", sorted(FORCEFUL))


def call(ask, action, vmid=100, **identity):
    more = dict(FORCEFUL.get(action, {}))
    if action == "tc-rate-limit":
        more["dev"] = f"tap{vmid}i0"
    return ask(action, vmid=vmid, **more, **identity)


@forceful
def test_h02_no_identity_is_refused(node, ask, action):
    node.start(100)
    answer = call(ask, action)
    assert (answer["ok"], answer["code"]) == (False, "identity") and node.calls == []
    answer = call(ask, action, uuid=None, name=None)
    assert (answer["ok"], answer["code"]) == (False, "identity") and node.calls == []


@forceful
@pytest.mark.parametrize(
    "identity", [{"uuid": OTHER_UUID}, {"name": "web-2"}, {"uuid": OTHER_UUID, "name": "web-1"}]
)
def test_h02_another_guest_is_refused_and_named(node, ask, action, identity):
    node.start(100)
    answer = call(ask, action, **identity)
    assert (answer["ok"], answer["code"]) == (False, "identity")
    assert answer["found"] == {"name": "web-1", "uuid": UUID}
    assert "web-1" in answer["error"] and node.calls == []


@forceful
@pytest.mark.parametrize("bad", ["", "x", UUID + " ", UUID[:-1], f"{UUID}\n", 5, [UUID], {"a": 1}, True])
def test_h28_malformed_identity(node, ask, action, bad):
    node.start(100)
    assert call(ask, action, uuid=bad)["ok"] is False
    for name in ("-x", "a b", "web-1\n", "../x", "a" * 64, 7, ["web-1"]):
        assert call(ask, action, name=name)["ok"] is False
    assert node.calls == []


@forceful
def test_h02_uuid_in_any_case_is_accepted(node, ask, action):
    node.start(100)
    answer = call(ask, action, uuid=UUID.upper())
    assert answer.get("code") not in ("identity", "range", "missing")


@forceful
def test_h02_description_counts_until_the_uuid_is_set(node, ask, action):
    node.add(100, f"#BlockHost VM web-1 {UUID}\nname: web-1\nsmbios1: uuid={OTHER_UUID}\n")
    node.start(100)
    assert call(ask, action, uuid=UUID).get("code") != "identity"
    assert call(ask, action, uuid=UUID, name="web-1").get("code") != "identity"
    assert call(ask, action, uuid=UUID, name="web-2")["code"] == "identity"


@pytest.mark.parametrize(
    "line",
    [
        f"BlockHost VM web-1 {UUID} ",
        f" BlockHost VM web-1 {UUID}",
        f"BlockHost VM  {UUID}",
        f"Copy of BlockHost VM web-1 {UUID}",
        f"BlockHost VM web_1 {UUID}",
        f"note%0ABlockHost VM web-1 {UUID}",
        f"BlockHost VM web-1 {UUID}x",
    ],
)
def test_h02_only_the_exact_first_line_counts(node, ask, line):
    node.add(100, f"#{line}\nname: web-1\nsmbios1: uuid={OTHER_UUID}\n")
    assert ask("qm-destroy", vmid=100, uuid=UUID)["code"] == "identity"
    assert node.calls == []


@forceful
def test_h02_a_uuid_in_a_snapshot_does_not_count(node, ask, action):
    node.add(
        100,
        f"name: web-9\nsmbios1: uuid={OTHER_UUID}\n[snap]\n#BlockHost VM web-1 {UUID}\nname: web-1\nsmbios1: uuid={UUID}\n",
    )
    node.start(100)
    assert call(ask, action, uuid=UUID)["code"] == "identity"
    assert call(ask, action, name="web-1")["code"] == "identity"


# What is left of a VM that is gone, or elsewhere by now, can be cleared here.
@pytest.mark.parametrize("action", sorted(set(FORCEFUL) - {"guard-clear"}))
def test_missing_and_elsewhere(node, ask, action):
    answer = call(ask, action, vmid=200, uuid=UUID)
    assert (answer["ok"], answer["code"]) == (False, "missing")
    node.add(201, "", node="pve2", here=False)
    answer = call(ask, action, vmid=201, uuid=UUID)
    assert (answer["ok"], answer["code"], answer["node"]) == (False, "elsewhere", "pve2")
    node.add(202, "", kind="lxc", here=False)
    assert call(ask, action, vmid=202, uuid=UUID)["code"] == "identity"
    assert node.calls == []


@forceful
def test_h49_unmounted_is_no_absence(node, ask, action):
    (node.root / "etc/pve/.vmlist").unlink()
    assert call(ask, action, uuid=UUID)["code"] == "failed"
    assert node.calls == []


@forceful
@pytest.mark.parametrize("vmid", [1000, 99999])
def test_h47_outside_our_range(node, ask, action, vmid):
    node.add_ours(vmid)
    node.start(vmid)
    answer = call(ask, action, vmid=vmid, uuid=UUID)
    assert (answer["ok"], answer["code"]) == (False, "range") and node.calls == []


@forceful
def test_h47_a_template_in_our_range(node, ask, action):
    node.add_ours(300, more="template: 1\n")
    answer = call(ask, action, vmid=300, uuid=UUID)
    assert (answer["ok"], answer["code"]) == (False, "range") and node.calls == []


@pytest.mark.parametrize("action", sorted(set(FORCEFUL) - {"qm-importdisk", "qm-template"}))
def test_h47_the_configured_template_is_not_for_these(node, ask, action):
    node.add_ours(TEMPLATE, name="tpl")
    node.start(TEMPLATE)
    assert call(ask, action, vmid=TEMPLATE, uuid=UUID)["code"] == "range"
    node.db("vmid_range: {start: 100, end: 99999}\n")
    node.edit(TEMPLATE, lambda text: text + "template: 1\n")
    assert call(ask, action, vmid=TEMPLATE, uuid=UUID)["code"] == "range"
    assert node.calls == []


def test_h47_terraform_variables_do_not_choose_the_template(node, ask):
    """They lie in a folder of user blockhost."""
    (node.config_dir / "terraform.tfvars").write_text('template_vmid = "5000"\n')
    node.add(5000, "name: theirs\n")
    assert ask("qm-template", vmid=5000)["code"] == "range" and node.calls == []


def test_start_needs_no_identity_but_checks_one(node, ask):
    assert ask("qm-start", vmid=100, uuid=OTHER_UUID)["code"] == "identity"
    assert ask("qm-start", vmid=1000)["code"] == "range"
    assert ask("qm-start", vmid=200)["code"] == "missing"
    node.add_ours(300, more="template: 1\n")
    assert ask("qm-start", vmid=300)["code"] == "range"
    assert node.calls == []
    assert ask("qm-start", vmid=100)["ok"]


@pytest.mark.parametrize("lock", ["clone", "create"])
@pytest.mark.parametrize(
    "action",
    [
        "qm-start",
        *sorted(
            set(FORCEFUL)
            - {"qm-guest-ping", "qm-guest-exec", "qm-guest-exec-status", "qm-update-gecos", "tc-rate-limit"}
        ),
    ],
)
def test_h22_a_half_made_guest_is_locked(node, ask, action, lock):
    node.edit(100, lambda text: text + f"lock: {lock}\n")
    answer = call(ask, action, uuid=UUID)
    assert (answer["ok"], answer["code"], answer["lock"]) == (False, "locked", lock) and node.calls == []
