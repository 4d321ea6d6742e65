"""The package itself: contents, sizes, relations, lintian, and that each way of building it gives the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import COMMANDS, PACKAGE, ROOT, VERSION, checked, run, sha256

MIB = 1 << 20


@pytest.fixture(scope="session")
def unpacked(deb, tmp_path_factory) -> Path:
    into = tmp_path_factory.mktemp("unpacked")
    checked("dpkg-deb", "-x", deb, into)
    return into


def field(deb: Path, name: str) -> str:
    return checked("dpkg-deb", "-f", deb, name).strip()


def test_the_build_leaves_exactly_one_package(deb):
    assert [path.name for path in ROOT.glob("build/**/*")] == [f"{PACKAGE}_{VERSION}_amd64.deb"]
    assert deb.stat().st_size > 100_000


def test_version_and_relations(deb):
    assert field(deb, "Version") == VERSION
    assert json.loads((ROOT / "provisioner.json").read_text())["version"] == VERSION
    # Or apt keeps the older package.
    assert run("dpkg", "--compare-versions", VERSION, "gt", "0.2.0").returncode == 0
    assert field(deb, "Provides") == field(deb, "Conflicts") == "blockhost-provisioner"
    assert field(deb, "Recommends") == "libguestfs-tools, nftables, terraform"
    # Installed by dpkg -i when there is blockhost-common and nothing else.
    names = re.findall(r"([a-z0-9+-]+) ?(\([^)]*\))?", field(deb, "Depends"))
    assert [name for name, _ in names] == ["blockhost-common", "libc6", "libgcc-s1", "python3"]
    common = dict(names)["blockhost-common"].strip("()").split()
    # 0.1.0 writes the database without its lock.
    for version, fits in [("0.1.0", False), ("0.1.0-1", False), ("0.1.1", True), ("0.2.0", True)]:
        assert (run("dpkg", "--compare-versions", version, "ge", common[1]).returncode == 0) == fits, version


def test_files_owners_and_modes(deb):
    listed = {}
    for line in checked("dpkg-deb", "-c", deb).splitlines():
        mode, owner, _, _, _, path = line.split(maxsplit=5)
        listed[path.split(" link to ")[0].removeprefix("./").rstrip("/")] = mode
        assert owner == "root/root", line
    executable = {f"usr/bin/{name}" for name in COMMANDS} | {"usr/share/blockhost/provisioner-hooks/first-boot.sh"}
    wizard = "usr/lib/python3/dist-packages/blockhost/provisioner_proxmox"
    doc = f"usr/share/doc/{PACKAGE}"
    expected = executable | {
        "usr/share/blockhost/provisioner.json", "usr/share/blockhost/root-agent-actions/qm.py",
        f"{wizard}/wizard.py", f"{wizard}/templates/provisioner_proxmox/proxmox.html",
        f"{wizard}/admin.py", f"{wizard}/templates/provisioner_proxmox/admin.html", f"{wizard}/static/admin.css",
        *(f"usr/lib/systemd/system/blockhost-{unit}" for unit in ["gc.service", "gc.timer", "reapply.service"]),
        *(f"{doc}/{name}" for name in ["README.md", "PROJECT.yaml", "CHANGELOG.md", "copyright", "changelog.gz", "doc/upgrading.md", "doc/admin-page.md"]),
    }
    assert expected <= listed.keys(), expected - listed.keys()
    for path, mode in listed.items():
        wanted = "drwxr-xr-x" if mode[0] == "d" else "rwxr-xr-x" if path in executable else "-rw-r--r--"
        assert mode.endswith(wanted), f"{path} {mode}"
    # Another package owns these, and nothing is left of a test run.
    assert not {"usr/lib/python3/dist-packages/blockhost/__init__.py", "etc", "var"} & listed.keys()
    assert not [path for path in listed if "__pycache__" in path or path.startswith("usr/local")]
    assert {path.split("/")[1] for path in listed if path.count("/")} == {"bin", "lib", "share"}


def test_the_installers_own_file_checks(unpacked):
    manifest = json.loads((unpacked / "usr/share/blockhost/provisioner.json").read_text())
    for name in [*manifest["commands"].values(), manifest["setup"]["detect"]]:
        if name not in re.findall(r"^  - (blockhost-.*)$", (ROOT / "PROJECT.yaml").read_text(), re.M):
            assert os.access(unpacked / "usr/bin" / name, os.X_OK), name
    for path in [manifest["setup"]["first_boot_hook"], manifest["root_agent_actions"]]:
        assert (unpacked / path.lstrip("/")).is_file(), path
    assert os.access(unpacked / manifest["setup"]["first_boot_hook"].lstrip("/"), os.X_OK)
    for module in [manifest["setup"]["wizard_module"], manifest["admin"]["module"]]:
        assert (unpacked / "usr/lib/python3/dist-packages" / f"{module.replace('.', '/')}.py").is_file()


def test_all_executables_together_are_small(unpacked, deb):
    files = {path.stat().st_ino: path.stat().st_size for path in (unpacked / "usr/bin").iterdir()}
    assert sum(files.values()) < 30 * MIB
    assert int(field(deb, "Installed-Size")) < 30 * 1024


def test_the_program_starts_on_debian_12_and_names_no_path_of_this_machine(executable, deb):
    symbols = checked("objdump", "-T", executable)
    needed = {tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([0-9.]+)\)", symbols)}
    promised = re.search(r"libc6 \(>= ([0-9.]+)\)", field(deb, "Depends"))[1]
    assert needed and max(needed) <= tuple(map(int, promised.split("."))) <= (2, 36), max(needed)
    libraries = set(re.findall(r"NEEDED +(\S+)", checked("objdump", "-p", executable)))
    assert libraries <= {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "ld-linux-x86-64.so.2"}, libraries
    content = executable.read_bytes()
    home = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    for path in {str(ROOT), home}:
        assert path.encode() not in content, path
    assert b"/cargo/registry/" in content, "the test looks for what would be there"


def test_lintian_has_no_complaint(deb):
    done = run("lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0", deb)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def copy_of_the_tree(into: Path) -> Path:
    """What git has, with other times and modes."""
    listed = checked("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    tree = into / "elsewhere"
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if not source.is_file():
            continue
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o775 if os.access(source, os.X_OK) else 0o664)
        os.utime(target, (1_000_000_000, 1_000_000_000))
    return tree


def test_a_second_build_elsewhere_has_the_same_hash(deb, executable, tmp_path):
    tree = copy_of_the_tree(tmp_path)
    # What a test run leaves behind.
    (tree / "python/blockhost/provisioner_proxmox/__pycache__").mkdir()
    (tree / "python/blockhost/provisioner_proxmox/__pycache__/x.pyc").write_text("")
    # With nothing of Debian's but dpkg-deb, as on the machine that builds the installer's image.
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in "sh sed date rm mkdir dirname cp gzip basename find install chmod sort xargs md5sum awk dpkg-deb ln touch cat tar xz".split():
        (tools / tool).symlink_to(shutil.which(tool))
    environment = {"PATH": str(tools), "EXECUTABLE": str(executable), "TZ": "Asia/Tokyo"}
    done = subprocess.run(["/bin/sh", "-c", "umask 002; exec ./build-deb.sh"], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sha256(tree / done.stdout.strip()) == sha256(deb)


def test_debhelper_makes_the_same_package(deb, executable, tmp_path):
    tree = copy_of_the_tree(tmp_path)
    environment = {**os.environ, "EXECUTABLE": str(executable)}
    environment.pop("SOURCE_DATE_EPOCH", None)
    checked("dpkg-buildpackage", "--build=binary", "--no-sign", cwd=tree, env=environment)
    made = tmp_path / deb.name
    # What differs is shown, not only that something does.
    for shown in (["-c"], ["-f"], ["--ctrl-tarfile"]):
        assert run("sh", "-c", f'dpkg-deb {shown[0]} "$1" | cat -v', "sh", made).stdout == run("sh", "-c", f'dpkg-deb {shown[0]} "$1" | cat -v', "sh", deb).stdout
    assert sha256(made) == sha256(deb)
    assert not list(tmp_path.glob("*dbgsym*"))
