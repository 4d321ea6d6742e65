"""snippet-put and snippet-delete: whole files of root's, in root's folder, through no link."""

import os
import stat

import pytest

import qm
from node import tree

TEXT = "#cloud-config\nhostname: grün\n"


@pytest.fixture
def folder(node):
    return node.root / "var/lib/vz/snippets"


def test_put_and_delete(node, ask, folder):
    answer = ask("snippet-put", name="web-1", kind="user", text=TEXT)
    assert answer == {"ok": True, "volid": "local:snippets/blockhost-web-1-user.yaml"}
    path = folder / "blockhost-web-1-user.yaml"
    assert path.read_text() == TEXT and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ask("snippet-put", name="web-1", kind="user", text="new")["ok"] and path.read_text() == "new"
    assert ask("snippet-put", name="web-1", kind="meta", text="m")["ok"]
    assert sorted(os.listdir(folder)) == ["blockhost-web-1-meta.yaml", "blockhost-web-1-user.yaml"]
    assert ask("snippet-delete", name="web-1", kind="user") == {"ok": True}
    assert ask("snippet-delete", name="web-1", kind="user") == {"ok": True, "already": True}
    assert os.listdir(folder) == ["blockhost-web-1-meta.yaml"] and node.calls == []


@pytest.mark.parametrize("umask", [0, 0o777])
def test_h15_mode_whatever_the_umask(node, ask, folder, umask):
    old = os.umask(umask)
    try:
        assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"]
    finally:
        os.umask(old)
    info = (folder / "blockhost-web-1-user.yaml").stat()
    assert stat.S_IMODE(info.st_mode) == 0o600 and info.st_uid == os.getuid()


def test_h29_a_link_is_replaced_not_followed(node, ask, folder, tmp_path):
    target = tmp_path / "shadow"
    target.write_text("secret")
    for name in ("blockhost-web-1-user.yaml", ".blockhost-web-1-user.yaml.new"):
        (folder / name).symlink_to(target)
    assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"]
    assert target.read_text() == "secret"
    path = folder / "blockhost-web-1-user.yaml"
    assert not path.is_symlink() and path.read_text() == TEXT and os.listdir(folder) == [path.name]
    path.unlink()
    path.symlink_to(target)
    assert ask("snippet-delete", name="web-1", kind="user")["ok"]
    assert not path.is_symlink() and target.read_text() == "secret"


def test_h29_the_folder_is_no_link(node, ask, folder, tmp_path):
    folder.rmdir()
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"] is False
    (tmp_path / "theirs" / "blockhost-web-1-user.yaml").write_text("x")
    assert ask("snippet-delete", name="web-1", kind="user")["ok"] is False
    assert os.listdir(tmp_path / "theirs") == ["blockhost-web-1-user.yaml"]


def test_h29_the_folder_is_roots_alone(node, ask, folder, monkeypatch):
    for mode in (0o775, 0o757, 0o777):
        folder.chmod(mode)
        assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"] is False
    folder.chmod(0o755)
    monkeypatch.setattr(qm, "ROOT_UID", os.getuid() + 1)
    assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"] is False
    assert os.listdir(folder) == []


def test_a_missing_folder_is_made(node, ask, folder):
    folder.rmdir()
    assert ask("snippet-delete", name="web-1", kind="user") == {"ok": True, "already": True}
    assert not folder.exists()
    assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"]
    assert stat.S_IMODE(folder.stat().st_mode) & 0o022 == 0


def test_h14_a_failed_write_leaves_the_old_file(node, ask, folder, monkeypatch):
    assert ask("snippet-put", name="web-1", kind="user", text="old")["ok"]

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = ask("snippet-put", name="web-1", kind="user", text="new")
    assert answer["ok"] is False and "No space left" in answer["error"]
    assert tree(folder) == {str(folder / "blockhost-web-1-user.yaml"): b"old"}


def test_h14_an_unfinished_file_of_a_killed_daemon_is_replaced(node, ask, folder):
    (folder / ".blockhost-web-1-user.yaml.new").write_text("half")
    assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"]
    assert os.listdir(folder) == ["blockhost-web-1-user.yaml"]


def test_h30_the_text_is_in_no_error(node, ask, folder):
    folder.chmod(0o777)
    answer = ask("snippet-put", name="web-1", kind="user", text="password: hunter2")
    assert answer["ok"] is False and "hunter2" not in str(answer)
    answer = ask("snippet-put", name="web-1", kind="user", text="password: hunter2 \ud800")
    assert answer["ok"] is False and "hunter2" not in str(answer)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a_b",
        "-x",
        "x-",
        "a..b",
        ".a",
        "a" * 64,
        "a\n",
        "a\0",
        "ä",
        None,
        5,
        ["a"],
    ],
)
@pytest.mark.parametrize("action", ["snippet-put", "snippet-delete"])
def test_h04_names(node, ask, folder, action, name):
    before = tree(node.root)
    assert ask(action, name=name, kind="user", text=TEXT)["ok"] is False
    assert tree(node.root) == before


@pytest.mark.parametrize("kind", ["", "vendor", "users", "user\n", "../user", None, 1, True])
@pytest.mark.parametrize("action", ["snippet-put", "snippet-delete"])
def test_h28_kinds(node, ask, folder, action, kind):
    assert ask(action, name="web-1", kind=kind, text=TEXT)["ok"] is False and os.listdir(folder) == []


def test_h28_text_is_bounded(node, ask, folder):
    for text in ("x" * (1024 * 1024 + 1), "ü" * (512 * 1024 + 1), None, 5, ["x"], b"x"):
        assert ask("snippet-put", name="web-1", kind="user", text=text)["ok"] is False
    assert ask("snippet-put", name="a.b-c.d", kind="user", text="x" * 1024 * 1024)["ok"]
    assert os.listdir(folder) == ["blockhost-a.b-c.d-user.yaml"]


def storage(node, db, config):
    node.db(f"vmid_range: {{start: 100, end: 999}}\n{db}")
    (node.root / "etc/pve/storage.cfg").write_text(config)


STORAGES = """dir: local
\tpath /srv/vz
\tcontent iso,snippets

lvmthin: local-lvm
\tvgname pve

nfs: shared
\texport /x
\tserver 10.0.0.1

dir: odd
\tpath /srv/odd
\tcontent-dirs images=i,snippets=custom/sn

dir: evil
\tpath /srv/../etc
"""


@pytest.mark.parametrize(
    "db, expected, volid",
    [
        ("", "srv/vz/snippets", "local:"),
        ("snippet_storage: shared\n", "mnt/pve/shared/snippets", "shared:"),
        ("snippet_storage: 'odd'  # c\n", "srv/odd/custom/sn", "odd:"),
    ],
)
def test_the_configured_storage(node, ask, db, expected, volid):
    storage(node, db, STORAGES)
    (node.root / expected).parent.mkdir(parents=True)
    answer = ask("snippet-put", name="web-1", kind="user", text=TEXT)
    assert answer["ok"] and answer["volid"] == f"{volid}snippets/blockhost-web-1-user.yaml"
    assert (node.root / expected / "blockhost-web-1-user.yaml").read_text() == TEXT


@pytest.mark.parametrize("name", ["local-lvm", "evil", "none"])
def test_storages_without_a_folder(node, ask, name):
    storage(node, f"snippet_storage: {name}\n", STORAGES)
    before = tree(node.root)
    assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"] is False
    assert ask("snippet-delete", name="web-1", kind="user")["ok"] is False
    assert tree(node.root) == before


def test_number_and_size_of_all_snippets_are_bounded(node, ask, folder, monkeypatch):
    monkeypatch.setattr(qm, "SNIPPETS_MAX", 2)
    (folder / "of-somebody.yaml").write_text("x" * 100)
    assert ask("snippet-put", name="web-1", kind="user", text=TEXT)["ok"]
    assert ask("snippet-put", name="web-1", kind="meta", text=TEXT)["ok"]
    refused = ask("snippet-put", name="web-2", kind="user", text=TEXT)
    assert not refused["ok"] and "too many" in refused["error"] and len(os.listdir(folder)) == 3
    assert ask("snippet-put", name="web-1", kind="user", text="again")["ok"], "replacing one needs no room"
    monkeypatch.setattr(qm, "SNIPPETS_MAX", 99)
    monkeypatch.setattr(qm, "SNIPPETS_SIZE_MAX", 60)
    assert not ask("snippet-put", name="web-2", kind="user", text="x" * 61)["ok"]
