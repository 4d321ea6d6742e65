"""vm-adopt: a VM of the older package gets an identity, in the same request that proves it (H02, H28, H37, H47)."""

import os
import stat

import pytest

import qm
from node import OTHER_UUID, UUID

NEW = "aaaaaaaa-1b2c-4d5e-8f90-0123456789ab"
OWN = "bbbbbbbb-1b2c-4d5e-8f90-0123456789ab"
OLD = "web-001-cloud-config.yaml"
ASKED = {"vmid": 110, "name": "web-001", "new_uuid": NEW, "address": "192.168.122.201"}
OLDER = (
    f"name: web-001\nsmbios1: uuid={OWN}\nipconfig0: gw=192.168.122.1,ip=192.168.122.201/24\n"
    f"cicustom: user=local:snippets/{OLD}\n"
)


@pytest.fixture
def older(node):
    node.add(110, OLDER)
    snippets(node).joinpath(OLD).write_text("#cloud-config\n")
    node.reply("qm set 110", effect=lambda: carry_out(node, node.calls[-1]))
    node.reply("env LC_ALL=C.UTF-8 qm set 110", effect=lambda: carry_out(node, node.calls[-1][2:]))
    return node


def snippets(node):
    return node.root / "var/lib/vz/snippets"


def carry_out(node, argv):
    """`qm set` does what it says; a guest that runs gets another SMBIOS at its next start."""
    pairs = dict(zip(argv[3::2], argv[4::2]))
    text = (node.qemu / "110.conf").read_text()
    current, rest, pending = text.partition("\n[PENDING]\n")
    lines = current.splitlines()
    for key, value in pairs.items():
        key = key[2:]
        if key == "description":
            lines = ["#" + line for line in value.split("\n")] + [line for line in lines if line[:1] != "#"]
        elif key == "smbios1" and qm._running(110):
            rest, pending = "\n[PENDING]\n", f"smbios1: {value}\n"
        elif key != "digest":
            lines = [line for line in lines if not line.startswith(f"{key}:")] + [f"{key}: {value}"]
    (node.qemu / "110.conf").write_text("\n".join(lines) + "\n" + (rest + pending))


def config(node):
    return (node.qemu / "110.conf").read_text()


def refused(answer, code, words):
    assert not answer["ok"] and answer["code"] == code and words in answer["error"], answer


def test_the_vm_is_marked_with_the_uuid_it_has(older, ask):
    older.start(110)
    answer = ask("vm-adopt", **ASKED)
    assert answer == {
        "ok": True, "uuid": OWN, "running": True, "node": "pve", "snippet": "moved",
        "changes": ["cicustom", "description"], "uuid_pending": False,
    }  # fmt: skip
    assert config(older).startswith(f"#BlockHost VM web-001 {OWN}\n")
    assert "cicustom: user=local:snippets/blockhost-web-001-user.yaml" in config(older)
    moved = snippets(older) / "blockhost-web-001-user.yaml"
    assert moved.read_text() == "#cloud-config\n" and stat.S_IMODE(moved.stat().st_mode) == 0o600
    assert not (snippets(older) / OLD).exists()
    assert len(older.calls) == 1 and "--digest" in older.calls[0], "proof and act are one"
    again = ask("vm-adopt", **ASKED)
    assert again["ok"] and again["changes"] == [] and again["snippet"] == "ours" and len(older.calls) == 1


def test_h42_a_check_changes_nothing(older, ask):
    before = config(older)
    answer = ask("vm-adopt", **ASKED, check=True)
    assert answer["ok"] and answer["uuid"] == OWN and answer["changes"] == ["cicustom", "description"]
    assert config(older) == before and not older.calls and os.listdir(snippets(older)) == [OLD]


def test_h02_more_than_the_name_must_agree(older, ask):
    refused(ask("vm-adopt", **{**ASKED, "address": "192.168.122.202"}), "identity", "192.168.122.201")
    refused(ask("vm-adopt", **{**ASKED, "name": "web-002"}), "identity", "another guest")
    refused(ask("vm-adopt", **{**ASKED, "vmid": 111}), "missing", "does not exist")
    older.add(120, "name: web-001\n")
    refused(ask("vm-adopt", **ASKED), "collision", "VMID 120")
    older.remove(120)
    older.edit(110, lambda text: f"#BlockHost VM web-7 {OTHER_UUID}\n{text}")
    refused(ask("vm-adopt", **ASKED), "identity", "web-7")
    older.edit(110, lambda text: text.replace("web-7", "web-001"))
    refused(ask("vm-adopt", **ASKED, uuid=UUID), "identity", "marked as another VM")
    assert ask("vm-adopt", **ASKED, uuid=OTHER_UUID, check=True)["uuid"] == OTHER_UUID
    assert not older.calls


def test_h47_only_vms_of_the_range_that_are_whole(older, ask):
    older.add(1000, OLDER.replace("web-001", "far"))
    refused(ask("vm-adopt", **{**ASKED, "vmid": 1000, "name": "far"}), "range", "outside")
    for more, code in [("template: 1\n", "range"), ("lock: clone\n", "locked")]:
        older.edit(110, lambda text: OLDER + more)
        refused(ask("vm-adopt", **ASKED), code, "110")
    older.add(110, "", node="pve2", here=False)
    (older.qemu / "110.conf").unlink()
    refused(ask("vm-adopt", **ASKED), "elsewhere", "pve2")
    assert not older.calls


@pytest.mark.parametrize("copy", [f"smbios1: uuid={OWN}\n", f"#was {OWN.upper()}\n", f"[snap]\nsmbios1: uuid={OWN}\n"])
def test_a_uuid_that_another_guest_has_is_replaced(older, ask, copy):
    older.add(120, f"name: copy\n{copy}")
    older.start(110)
    answer = ask("vm-adopt", **ASKED)
    assert answer["ok"] and answer["uuid"] == NEW and answer["uuid_pending"], answer
    assert f"smbios1: uuid={OWN}" in config(older) and f"[PENDING]\nsmbios1: uuid={NEW}" in config(older)
    # Asked again, it waits already.
    calls = len(older.calls)
    assert ask("vm-adopt", **ASKED)["uuid"] == NEW and len(older.calls) == calls
    # It is off: at once, and what else SMBIOS says stays.
    older.stop(110)
    older.edit(110, lambda text: OLDER.replace(f"uuid={OWN}", f"base64=1,uuid={OWN},serial=QQ=="))
    answer = ask("vm-adopt", **ASKED)
    assert not answer["uuid_pending"] and f"smbios1: uuid={NEW},base64=1,serial=QQ==" in config(older)


def test_notes_stay_below_the_mark(older, ask):
    older.edit(110, lambda text: "#ask Bob%3A Gr%C3%BC%C3%9Fe\n#\n#second\n" + text)
    assert ask("vm-adopt", **ASKED)["ok"]
    assert older.calls[0][:3] == ["env", "LC_ALL=C.UTF-8", "qm"], "else Proxmox would spoil what is not ASCII"
    assert older.calls[0][older.calls[0].index("--description") + 1] == (
        f"BlockHost VM web-001 {OWN}\nask Bob: Grüße\n\nsecond"
    )
    older.edit(110, lambda text: "".join(f"#{'x' * 99}\n" for _ in range(90)) + OLDER)
    refused(ask("vm-adopt", **ASKED), "failed", "notes are too long")


def test_h37_the_old_snippet_stays_while_something_names_it(older, ask):
    older.add(120, f"name: copy\ncicustom: user=local:snippets/{OLD}\n")
    assert ask("vm-adopt", **ASKED)["ok"]
    assert (snippets(older) / OLD).exists()
    older.remove(120)
    assert ask("vm-adopt", **ASKED)["snippet"] == "ours" and not (snippets(older) / OLD).exists()


@pytest.mark.parametrize("text, found", [
    ("", "none"), ("cicustom: vendor=local:snippets/v.yaml\n", "none"),
    ("cicustom: user=local:snippets/mine.yaml\n", "foreign"), ("cicustom: user=nfs:snippets/web-001-cloud-config.yaml\n", "foreign"),
    ("cicustom: user=local:snippets/../web-001-cloud-config.yaml\n", "foreign"),
    ("cicustom: user=local:snippets/web-002-cloud-config.yaml\n", "foreign"),
])  # fmt: skip
def test_h28_only_the_file_that_the_older_package_made_is_moved(older, ask, text, found):
    (snippets(older) / "web-002-cloud-config.yaml").write_text("another's")
    older.edit(110, lambda old: old.replace(f"cicustom: user=local:snippets/{OLD}\n", text))
    answer = ask("vm-adopt", **ASKED)
    assert answer["ok"] and answer["snippet"] == found
    assert text in config(older) and sorted(os.listdir(snippets(older))) == [OLD, "web-002-cloud-config.yaml"]


def test_h29_a_link_in_the_files_place_is_not_followed(older, ask):
    secret = older.root / "secret"
    secret.write_text("root's")
    (snippets(older) / OLD).unlink()
    (snippets(older) / OLD).symlink_to(secret)
    answer = ask("vm-adopt", **ASKED)
    assert not answer["ok"] and "root's" not in str(answer) and not older.calls
    assert not (snippets(older) / "blockhost-web-001-user.yaml").exists()


def test_h37_a_file_that_is_missing_is_told_and_nothing_else_is_lost(older, ask):
    (snippets(older) / OLD).unlink()
    answer = ask("vm-adopt", **ASKED)
    assert answer["ok"] and answer["snippet"] == "missing" and "cicustom" not in answer["changes"]
    # It was put there by `snippet-put`: now the VM gets it.
    assert ask("snippet-put", name="web-001", kind="user", text="#cloud-config\n")["ok"]
    assert ask("vm-adopt", **ASKED)["snippet"] == "moved"
    assert "user=local:snippets/blockhost-web-001-user.yaml" in config(older)


def test_h22_h32_what_qm_says_counts_and_is_read_back(older, ask):
    older.reply("qm set 110", code=255, stderr="VM is locked (backup)")
    refused(ask("vm-adopt", **ASKED), "locked", "backup")
    older.reply("qm set 110", code=255, stderr="detected modified configuration - file changed by other user? Try again.")
    refused(ask("vm-adopt", **ASKED), "locked", "changed meanwhile")
    # It says that it did it, and did not.
    older.reply("qm set 110", code=0)
    refused(ask("vm-adopt", **ASKED), "failed", "does not show it")
    assert (snippets(older) / OLD).exists()


def test_h20_a_slow_qm_is_not_waited_for(older, ask):
    older.reply("qm set 110", slow=True)
    assert ask("vm-adopt", **ASKED) == {"ok": True, "pending": True}
    assert ask("vm-adopt", **ASKED) == {"ok": True, "pending": True}
    assert len(older.calls) == 1, "not begun twice"
    carry_out(older, older.calls[0])
    older.jobs[0].end()
    answer = ask("vm-adopt", **ASKED)
    assert answer["ok"] and answer["uuid"] == OWN and not (snippets(older) / OLD).exists()


@pytest.mark.parametrize("params", [
    {"new_uuid": None}, {"new_uuid": "x"}, {"name": None}, {"name": "../x"}, {"address": "x"}, {"uuid": "x"}, {"check": 1}, {"vmid": "110"},
])  # fmt: skip
def test_h28_hostile_parameters(older, ask, params):
    assert ask("vm-adopt", **{**ASKED, **params})["code"] == "failed"
    assert not older.calls


def test_h64_without_quorum_nothing_is_known(older, ask):
    (older.root / "etc/pve/.members").write_text('{"cluster": {"quorate": 0}}')
    refused(ask("vm-adopt", **ASKED, check=True), "failed", "no quorum")


def test_h32_a_mark_that_was_not_set_is_seen(older, ask):
    older.edit(110, lambda text: text.replace(f"cicustom: user=local:snippets/{OLD}\n", ""))
    older.reply("qm set 110", code=0)
    refused(ask("vm-adopt", **ASKED), "failed", "description was set")


def test_h20_what_a_qm_under_way_has_set_already_is_not_taken_for_its_end(older, ask):
    older.reply("qm set 110", slow=True)
    assert ask("vm-adopt", **ASKED)["pending"]
    # All is in the configuration, and `qm` may still take it back.
    carry_out(older, older.calls[0])
    assert ask("vm-adopt", **ASKED) == {"ok": True, "pending": True}
    assert (snippets(older) / OLD).exists()
