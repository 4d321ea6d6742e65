"""vm-find: an empty answer is the proof that a VM is gone from the whole cluster, so doubt is a refusal (H64)."""

import json

import pytest
from node import OTHER_UUID, UUID

GONE = "9d5c2f60-1b2c-4d5e-8f90-0123456789ab"


def elsewhere(node, vmid, text, where="pve2"):
    node.add(vmid, "", node=where, here=False)
    folder = node.root / f"etc/pve/nodes/{where}/qemu-server"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{vmid}.conf").write_text(text)


def vmids(answer):
    assert answer["ok"], answer
    return [guest["vmid"] for guest in answer["found"]]


def refused(answer, words):
    assert not answer["ok"] and words in answer["error"], answer


def test_h64_a_uuid_that_no_guest_has(node, ask):
    node.add(103, f"name: somebody\nsmbios1: uuid={OTHER_UUID}\n")
    elsewhere(node, 200, "name: far\n")
    node.add(201, "", kind="lxc", node="pve2", here=False)
    assert vmids(ask("vm-find", uuid=GONE)) == []
    assert vmids(ask("vm-find", uuid=UUID.upper())) == [100]
    assert not node.calls, "no process is started"


@pytest.mark.parametrize(
    "text",
    [
        f"name: x\nsmbios1: uuid={GONE}\n",
        f"name: x\nsmbios1: base64=1,uuid={GONE.upper()},serial=QQ==\n",
        f"#BlockHost VM web-1 {GONE}\nname: x\n",
        f"name: x\n\n[before]\nname: x\nsmbios1: uuid={GONE}\n",
    ],
)
def test_h64_a_uuid_anywhere_in_the_cluster(node, ask, text):
    elsewhere(node, 205, text)
    assert ask("vm-find", uuid=GONE)["found"] == [{"vmid": 205, "node": "pve2", "name": "x"}]


def test_h64_a_name_for_records_without_uuid(node, ask):
    elsewhere(node, 205, "name: web-9\n")
    elsewhere(node, 206, f"#BlockHost VM web-8 {OTHER_UUID}\nname: renamed\n")
    assert vmids(ask("vm-find", name="web-9")) == [205]
    assert vmids(ask("vm-find", name="web-8")) == [206]
    assert vmids(ask("vm-find", name="web-7")) == []
    elsewhere(node, 207, "name: renamed\nipconfig0: gw=192.168.122.1,ip=192.168.122.20/24\n")
    assert vmids(ask("vm-find", name="web-7", address="192.168.122.20")) == [207]
    assert vmids(ask("vm-find", name="web-7", address="192.168.122.2")) == []
    assert not ask("vm-find", name="web-7", address=".*")["ok"]
    assert vmids(ask("vm-find", name="web-7", uuid=UUID)) == [100], "the UUID decides"


def test_h64_without_quorum_nothing_is_known(node, ask):
    members = node.root / "etc/pve/.members"
    cluster = {"name": "c", "version": 2, "nodes": 3, "quorate": 0}
    members.write_text(json.dumps({"nodename": "pve", "version": 5, "cluster": cluster, "nodelist": {}}))
    refused(ask("vm-find", uuid=GONE), "no quorum")
    cluster["quorate"] = 1
    members.write_text(json.dumps({"nodename": "pve", "version": 5, "cluster": cluster, "nodelist": {}}))
    assert vmids(ask("vm-find", uuid=GONE)) == []
    for text in ("", "[]", '{"cluster": {}}', '{"cluster": 7}'):
        members.write_text(text)
        refused(ask("vm-find", uuid=GONE), ".members")
    members.unlink()
    refused(ask("vm-find", uuid=GONE), ".members")


def test_h64_what_cannot_be_read_is_a_refusal(node, ask):
    node.add(300, "", node="pve3", here=False)
    refused(ask("vm-find", uuid=GONE), "VMID 300")
    node.remove(300)
    (node.root / "etc/pve/qemu-server/104.conf").mkdir()
    refused(ask("vm-find", uuid=GONE), "cannot all be read")
    (node.root / "etc/pve/qemu-server/104.conf").rmdir()
    node.add(105, "lock: create\nname: restored\n")
    refused(ask("vm-find", uuid=GONE), "VMID 105")
    node.remove(105)
    assert vmids(ask("vm-find", uuid=GONE)) == []
    (node.root / "etc/pve/.vmlist").unlink()
    refused(ask("vm-find", uuid=GONE), ".vmlist")


def test_h64_a_guest_that_moves_while_it_is_looked_for(node, ask, monkeypatch):
    import qm

    read = qm._all_configs

    def moved(ids):
        configs = read(ids)
        node.ids["100"]["node"] = "pve2"
        node.write_list()
        return configs

    monkeypatch.setattr(qm, "_all_configs", moved)
    refused(ask("vm-find", uuid=GONE), "ask again")


@pytest.mark.parametrize("params", [{}, {"uuid": "x"}, {"uuid": 7}, {"name": "-x"}, {"name": ["web-1"]}])
def test_parameters_are_checked(ask, params):
    assert not ask("vm-find", **params)["ok"]
