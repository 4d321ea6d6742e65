"""What user blockhost is told of guests that are not ours: a UUID is the key to act on a guest."""

import json

import pytest

from node import OTHER_UUID, UUID

FOREIGN = f"#password: hunter2\nname: db-1\nsmbios1: uuid={OTHER_UUID}\n"


@pytest.fixture
def foreign(node):
    node.add(105, FOREIGN)
    node.add(5000, FOREIGN)
    return node


def test_of_a_foreign_guest_in_our_range_the_name_is_told(foreign, ask):
    answer = ask("vm-state", vmid=105)
    assert answer["ok"] and answer["exists"] and answer["name"] == "db-1" and answer["foreign"] is False
    assert OTHER_UUID not in json.dumps(answer) and "hunter2" not in json.dumps(answer)
    for wrong in ({"uuid": UUID}, {"name": "db-1"}, {"name": "web-1"}):
        assert ask("vm-state", vmid=105, **wrong)["uuid"] is None


def test_who_knows_it_is_told_everything(foreign, ask):
    assert ask("vm-state", vmid=105, uuid=OTHER_UUID)["uuid"] == OTHER_UUID
    assert ask("vm-state", vmid=100, uuid=UUID)["uuid"] == UUID
    assert ask("vm-state", vmid=100)["uuid"] == UUID, "our own mark tells it"


def test_outside_our_range_nothing_is_told_of_a_guest_that_is_not_proven(foreign, ask):
    answer = ask("vm-state", vmid=5000)
    assert answer == {"ok": False, "code": "range", "error": "VMID 5000 is outside vmid_range 100-999"}
    # Whose record has the number must learn that its VM is not there, or it could never be closed.
    for proof in ({"uuid": UUID}, {"name": "web-1"}):
        answer = ask("vm-state", vmid=5000, **proof)
        assert answer["ok"] and answer["exists"] and answer["foreign"]
        assert (answer["name"], answer["uuid"], answer["description"]) == (None, None, "")
    assert ask("vm-state", vmid=5000, uuid=OTHER_UUID)["name"] == "db-1", "a VM of ours after the range was changed"
    assert ask("vm-state", vmid=5001)["exists"] is False


def test_the_template_may_lie_outside_the_range(node, ask):
    node.add(9001, f"name: debian-12\ntemplate: 1\nsmbios1: uuid={OTHER_UUID}\n")
    answer = ask("vm-state", vmid=9001)
    assert answer["template"] and answer["uuid"] is None


@pytest.mark.parametrize("action", ["qm-stop", "qm-destroy", "qm-set", "qm-guest-exec", "qm-update-gecos"])
def test_a_refusal_does_not_tell_it_either(foreign, ask, action):
    for proof in ({"uuid": UUID}, {"name": "web-1"}, {}):
        answer = ask(action, vmid=105, config={"onboot": 0}, command="true", username="admin", gecos="wallet=0x1,nft=1", **proof)
        assert answer["code"] == "identity"
        assert OTHER_UUID not in json.dumps(answer)
        assert answer["found"] == {"name": "db-1", "uuid": None}
