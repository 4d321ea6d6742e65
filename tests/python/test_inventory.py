"""host-inventory, volume-list, volume-free: what doctor compares, and the one thing that it takes away."""

import json
from pathlib import Path

import pytest

import qm

ROOT = Path(__file__).resolve().parents[2]
LIST = "Volid Format Type Size VMID\n"


def listing(*volids):
    return LIST + "".join(f"{volid} raw images 1073741824 100\n" for volid in volids)


def test_the_version_is_the_packages():
    assert f'version = "{qm.VERSION}"' in (ROOT / "Cargo.toml").read_text()


def test_names_of_what_is_ours_and_nothing_of_what_is_in_it(node, ask):
    folder = node.root / "var/lib/vz/snippets"
    for file in ("blockhost-web-1-user.yaml", "blockhost-web-1-meta.yaml", "other.yaml", "blockhost-a b-user.yaml"):
        (folder / file).write_text("secret")
    (folder / qm.HOOK_FILE).write_text("#!/bin/sh\n")
    (folder / qm.HOOK_FILE).chmod(0o755)
    guards = node.root / "var/lib/blockhost-guard"
    guards.mkdir(mode=0o700)
    (guards / "100.json").write_text(json.dumps({"name": "web-1", "uuid": "3d5c2f60-1b2c-4d5e-8f90-0123456789ab"}))
    (guards / "101.json").write_text("[1]")
    answer = ask("host-inventory")
    assert answer["ok"] and answer["hook"] and answer["version"] == qm.VERSION
    assert answer["snippets"] == [{"name": "web-1", "kind": kind} for kind in ("meta", "user")]
    assert answer["guards"] == [{"vmid": 100, "name": "web-1"}, {"vmid": 101, "name": None}]
    assert "3d5c2f60" not in json.dumps(answer) and "secret" not in json.dumps(answer) and node.calls == []


def test_h36_a_hook_script_that_proxmox_cannot_run_is_as_good_as_none(node, ask):
    script = node.root / "var/lib/vz/snippets" / qm.HOOK_FILE
    script.write_text("#!/bin/sh\n")
    script.chmod(0o644)
    assert ask("host-inventory")["hook"] is False
    script.unlink()
    script.symlink_to("/bin/sh")
    assert ask("host-inventory")["hook"] is False
    script.unlink()
    script.mkdir(mode=0o755)
    assert ask("host-inventory")["hook"] is False


def test_nothing_is_there_before_the_first_vm(node, ask):
    answer = ask("host-inventory")
    assert (answer["snippets"], answer["hook"], answer["guards"]) == ([], False, [])


def test_disks_of_vms_that_are_gone_are_listed_and_no_others(node, ask):
    volids = ["local-lvm:vm-100-disk-0", "local-lvm:vm-101-disk-0", "local-lvm:vm-101-cloudinit",
              "local-lvm:vm-5000-disk-0", "local-lvm:base-102-disk-0", "local-lvm:vm-103-state-x"]
    node.reply("pvesm list local-lvm", stdout=listing(*volids))
    node.reply("pvesm list tank", stdout=listing("tank:base-9001-disk-0/vm-104-disk-1"))
    answer = ask("volume-list", storages=["local-lvm", "tank"])
    assert [one["volid"] for one in answer["volumes"]] == [
        "local-lvm:vm-101-disk-0", "local-lvm:vm-101-cloudinit", "tank:base-9001-disk-0/vm-104-disk-1"]
    assert [one["vmid"] for one in answer["volumes"]] == [101, 101, 104]
    node.reply("pvesm list local-lvm", code=2, stderr="storage 'local-lvm' does not exist")
    assert "does not exist" in ask("volume-list", storages=["local-lvm"])["error"]


@pytest.mark.parametrize("storages", [None, [], "local", ["-x"], [1], ["a b"], ["a"] * 5])
def test_h28_storages_are_names(node, ask, storages):
    assert not ask("volume-list", storages=storages)["ok"] and node.calls == []


def test_a_disk_of_nobody_is_freed(node, ask):
    for volid in ("local-lvm:vm-101-disk-0", "local-lvm:vm-101-cloudinit", "tank:base-9001-disk-0/vm-101-disk-0",
                  "local:101/vm-101-disk-0.qcow2"):
        assert ask("volume-free", volid=volid) == {"ok": True}
        assert node.lines()[-1] == f"pvesm free {volid}"
    node.reply("pvesm free", code=5, stderr="volume is busy")
    assert "volume is busy" in ask("volume-free", volid="local-lvm:vm-101-disk-0")["error"]


@pytest.mark.parametrize("volid", [
    None, 7, "", "local-lvm", "-x:vm-101-disk-0", "local-lvm:vm-101-disk-0 --x", "local-lvm:base-101-disk-0",
    "local-lvm:vm-5000-disk-0", "local-lvm:vm-101-state-a", "local:101/../102/vm-101-disk-0.raw", "local:iso/x.iso",
    "local-lvm:vm-9001-disk-0", "local-lvm:vm-101-disk-0\n", "local:101/vm-101-disk-0.qcow2;id",
])
def test_h28_what_is_no_disk_of_our_range_is_kept(node, ask, volid):
    assert not ask("volume-free", volid=volid)["ok"] and node.calls == []


def test_h02_a_disk_that_a_guest_may_need_is_kept(node, ask):
    def kept(volid, words):
        answer = ask("volume-free", volid=volid)
        assert not answer["ok"] and words in answer["error"] and node.calls == [], answer

    kept("local-lvm:vm-100-disk-0", "has a guest with VMID 100")
    node.add(101, "", node="pve2", here=False)
    kept("local-lvm:vm-101-disk-0", "node pve2 has a guest")
    node.remove(101)
    # Moved to another VM, and still called by its old number.
    node.add(700, "name: other\nscsi1: local-lvm:vm-101-disk-0,size=3G\n")
    kept("local-lvm:vm-101-disk-0", "VMID 700")
    node.edit(700, lambda text: text.replace("local-lvm:vm-101-disk-0", "tank:base-9001-disk-0/vm-101-disk-0"))
    kept("local-lvm:vm-101-disk-0", "VMID 700")
    node.edit(700, lambda text: text.replace("vm-101-disk-0", "vm-101-disk-01"))
    assert ask("volume-free", volid="local-lvm:vm-101-disk-0")["ok"]
    node.calls.clear()
    (node.root / "etc/pve/.members").write_text('{"nodename": "pve", "cluster": {"quorate": 0}}')
    kept("local-lvm:vm-101-disk-0", "no quorum")
    (node.root / "etc/pve/.vmlist").unlink()
    kept("local-lvm:vm-101-disk-0", "")


def test_h02_a_guest_that_is_made_meanwhile_keeps_its_disk(node, ask, monkeypatch):
    real = qm._all_configs

    def late(ids):
        configs = real(ids)
        if "101" not in ids:
            node.add(101, "name: new\n")
        return configs

    monkeypatch.setattr(qm, "_all_configs", late)
    answer = ask("volume-free", volid="local-lvm:vm-101-disk-0")
    assert not answer["ok"] and "just been made" in answer["error"] and node.calls == []
