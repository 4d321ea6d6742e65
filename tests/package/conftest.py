"""Debian hosts for the package: roots made by mmdebstrap, each test in a copy of its own (an overlay in memory), in
namespaces of its own for mounts, processes and network. dpkg, apt, python3 and the helpers of systemd's packages are the
real ones; systemctl and what blockhost-common brings are stand-ins, described where they are made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "blockhost-provisioner-proxmox"
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
COMMANDS = sorted(path.stem for path in (ROOT / "crates/commands/src/bin").glob("*.rs"))
# What a host has beside Debian's minimum: the package's own Depends, and what shows its man pages and completions.
INCLUDED = "python3,man-db,bash-completion,zsh,fish"
SUITES = ["bookworm", "trixie"]


def run(*words, **more) -> subprocess.CompletedProcess:
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, **more)


def checked(*words, **more) -> str:
    done = run(*words, **more)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package: the one of this tree, built where it is not there. `cargo xtask test` builds it before."""
    found = list((ROOT / "build").glob(f"{PACKAGE}_*.deb"))
    if len(found) != 1:
        checked(ROOT / "build-deb.sh")
        found = list((ROOT / "build").glob(f"{PACKAGE}_*.deb"))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="session")
def executable(deb, tmp_path_factory) -> Path:
    """The program in the package, so that other builds of these tests need not compile it again."""
    into = tmp_path_factory.mktemp("executable")
    checked("dpkg-deb", "-x", deb, into)
    return into / "usr/bin" / COMMANDS[0]


def base(suite: str) -> Path:
    """`target/package-roots/SUITE`, made once: half a minute each."""
    place = ROOT / "target/package-roots" / suite
    stamp = place.with_suffix(".included")
    if stamp.exists() and stamp.read_text() == INCLUDED:
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    for old in place.parent.glob(f"{suite}*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    making = place.with_suffix(".making")
    try:
        checked(
            "mmdebstrap", "--variant=minbase", f"--include={INCLUDED}", "--aptopt=Acquire::Retries \"3\"",
            # Documentation of others, which no test reads.
            "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*/*.gz",
            f"--dpkgopt=path-include=/usr/share/doc/{PACKAGE}/*",
            "--customize-hook=chroot \"$1\" apt-get clean", suite, making,
        )
        making.rename(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    stamp.write_text(INCLUDED)
    return place


# Answers what maintainer scripts ask; what it was asked to do is in its log.
SYSTEMCTL = r"""#!/bin/sh
echo "$*" >>/var/log/systemctl.log
case "$*" in
*is-active*blockhost-root-agent*) cat /etc/test-agent-state 2>/dev/null || echo inactive ;;
*ControlGroup*) echo /system.slice/blockhost-root-agent.service ;;
*MainPID*) echo 4242 ;;
*preset*)
    for unit; do :; done
    for target in $(sed -n 's/^WantedBy=//p' "/usr/lib/systemd/system/$unit"); do
        mkdir -p "/etc/systemd/system/$target.wants"
        ln -sf "/usr/lib/systemd/system/$unit" "/etc/systemd/system/$target.wants/$unit"
    done
    ;;
*is-enabled*) for unit; do :; done; [ -n "$(find /etc/systemd/system -name "$unit")" ] && echo enabled ;;
esac
"""

# The user, the directories and the Python namespace that blockhost-common brings.
COMMON_POSTINST = """#!/bin/sh
set -e
getent group blockhost >/dev/null || groupadd --system blockhost
getent passwd blockhost >/dev/null || useradd --system --gid blockhost --home-dir /var/lib/blockhost --no-create-home blockhost
install -d -o root -g blockhost -m 0750 /etc/blockhost
install -d -o blockhost -g blockhost -m 0750 /var/lib/blockhost
"""


def make_deb(into: Path, name: str, version: str, files: dict, scripts: dict = {}, fields: str = "") -> Path:
    """A package of these files: path to text, or text and mode."""
    tree = into / f"{name}-{version}"
    for path, text in files.items():
        text, mode = text if isinstance(text, tuple) else (text, 0o644)
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@test.invalid>\n{fields}Description: a test\n"
    (tree / "DEBIAN/control").write_text(control)
    for script, text in scripts.items():
        (tree / "DEBIAN" / script).write_text(text)
        (tree / "DEBIAN" / script).chmod(0o755)
    package = into / f"{name}_{version}_all.deb"
    checked("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, package)
    return package


# The files of version 0.2.0 that matter: programs, units, plugin, manifest, wizard; its prerm switches the timer off.
def older_package(into: Path) -> Path:
    script = "#!/usr/bin/python3\nimport sys, time\ntime.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)\n"
    files = {f"usr/bin/{name}": (script, 0o755) for name in COMMANDS if name.startswith("blockhost-vm-")}
    wizard = "usr/lib/python3/dist-packages/blockhost/provisioner_proxmox"
    files |= {
        "usr/bin/blockhost-vm-of-old": (script, 0o755),
        f"{wizard}/__init__.py": "",
        f"{wizard}/wizard.py": "",
        f"{wizard}/of_old.py": "",
        "usr/share/blockhost/provisioner.json": '{"name": "proxmox", "version": "0.2.0"}',
        "usr/share/blockhost/root-agent-actions/qm.py": "ACTIONS = {}\n",
        "usr/share/blockhost/provisioner-hooks/first-boot.sh": ("#!/bin/sh\n", 0o755),
        "usr/lib/systemd/system/blockhost-gc.service": "[Service]\nType=oneshot\nExecStart=/usr/bin/blockhost-vm-gc --execute\n",
        "usr/lib/systemd/system/blockhost-gc.timer": "[Timer]\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n",
    }
    link = "/etc/systemd/system/timers.target.wants/blockhost-gc.timer"
    scripts = {
        "postinst": f"#!/bin/sh\nset -e\nmkdir -p {link.rsplit('/', 1)[0]}\nln -sf /usr/lib/systemd/system/blockhost-gc.timer {link}\n",
        "prerm": f"#!/bin/sh\nset -e\nsystemctl stop blockhost-gc.timer\nrm -f {link}\n",
    }
    return make_deb(into, PACKAGE, "0.2.0", files, scripts, "Provides: blockhost-provisioner\nConflicts: blockhost-provisioner\n")


def of_version(deb: Path, version: str, into: Path) -> Path:
    """The package with another version number."""
    tree = into / f"of-{version}"
    checked("dpkg-deb", "-R", deb, tree)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*", f"Version: {version}", control.read_text(), flags=re.M))
    # Only scripts, units and a file are of interest here.
    made = into / f"{PACKAGE}_{version}_amd64.deb"
    checked("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made)
    return made


class Host:
    """A Debian host without a kernel of its own."""

    def __init__(self, suite: str, place: Path):
        self.suite, self.place, self.tree = suite, place, place / "root"
        script = (
            'mount -t tmpfs -o mode=0755 tmpfs "$2"; mkdir "$2/up" "$2/work" "$2/root";'
            'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/up,workdir=$2/work" "$2/root"; cd "$2/root";'
            "mount -t proc proc proc; mount -t tmpfs -o mode=0755 tmpfs dev; mount -t tmpfs -o mode=0755 tmpfs run;"
            "mknod -m 666 dev/null c 1 3; mknod -m 666 dev/zero c 1 5; mknod -m 666 dev/urandom c 1 9;"
            "mknod -m 666 dev/tty c 5 0; mkdir dev/pts; ln -s /proc/self/fd dev/fd; echo ready; exec sleep infinity"
        )
        self.keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--net", "sh", "-ec", script, "sh", base(suite), place],
            stdout=subprocess.PIPE, text=True,
        )
        assert self.keeper.stdout.readline() == "ready\n"
        self.pid = int(Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text())
        self.tree = Path(f"/proc/{self.pid}/root") / place.relative_to("/") / "root"
        self.write("usr/bin/systemctl", SYSTEMCTL, 0o755)
        self.write("etc/apt/apt.conf.d/99test", 'APT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n')

    def close(self):
        self.keeper.kill()
        self.keeper.wait()

    def path(self, path: str) -> Path:
        return self.tree / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644):
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def words(self, words) -> list[str]:
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-n", "chroot", str(self.place / "root")]
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                 "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "TERM=dumb"]
        return [*enter, *clean, *map(str, words)]

    def run(self, *words, **more) -> subprocess.CompletedProcess:
        return subprocess.run(self.words(words), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240, **more)

    def ok(self, *words) -> str:
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, *words) -> subprocess.Popen:
        return subprocess.Popen(self.words(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def carry(self, package: Path) -> str:
        self.path("tmp").mkdir(exist_ok=True)
        shutil.copy(package, self.path("tmp"))
        return f"/tmp/{package.name}"

    def apt(self, *packages: Path) -> str:
        """apt itself, without the network; what it and the maintainer scripts printed."""
        return self.ok("apt-get", "install", "-y", "-q", "--allow-downgrades", *[self.carry(p) for p in packages])

    def dpkg(self, *packages: Path) -> subprocess.CompletedProcess:
        return self.run("dpkg", "-i", *[self.carry(p) for p in packages])

    def systemctl(self) -> list[str]:
        """What systemctl was asked since the last time, questions left out."""
        log = self.path("var/log/systemctl.log")
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        lines = [line.removeprefix("--quiet ").removeprefix("--system ") for line in lines]
        return [line for line in lines if not re.search(r"is-active|is-enabled|preset|--property|daemon-reload", line)]

    def with_systemd(self):
        self.path("run/systemd/system").mkdir(parents=True)

    def is_enabled(self, unit: str) -> bool:
        wants = self.path("etc/systemd/system").glob("*.wants")
        return any(unit in os.listdir(directory) for directory in wants)

    def snapshot(self) -> dict:
        """Every file with type, mode, owner and contents; without what changes by itself and dpkg's own."""
        skipped = ("proc", "dev", "run", "tmp", "var/lib/dpkg", "var/cache", "var/log", "var/lib/apt")
        found = {}
        for directory, names, files in os.walk(self.tree):
            here = os.path.relpath(directory, self.tree)
            names[:] = [n for n in names if os.path.normpath(os.path.join(here, n)) not in skipped]
            for name in names + files:
                path = Path(directory, name)
                data = path.lstat()
                kind = stat.filemode(data.st_mode)
                if path.is_symlink():
                    content = os.readlink(path)
                else:
                    content = sha256(path) if stat.S_ISREG(data.st_mode) else ""
                found[os.path.normpath(os.path.join(here, name))] = (kind, data.st_uid, data.st_gid, content)
        return found

    def database(self, vms: dict):
        self.write("var/lib/blockhost/vms.json", json.dumps({"vms": vms}), 0o660)
        self.ok("chown", "blockhost:blockhost", "/var/lib/blockhost/vms.json")

    def wait_until(self, condition, what: str):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, f"never: {what}"
            time.sleep(0.05)


def changes(before: dict, after: dict) -> dict:
    """Paths that differ, with what they were and are."""
    return {p: (before.get(p), after.get(p)) for p in sorted(before.keys() | after.keys()) if before.get(p) != after.get(p)}


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> dict:
    """Stand-ins of other packages, and the older one."""
    into = tmp_path_factory.mktemp("packages")
    namespace = {"usr/lib/python3/dist-packages/blockhost/__init__.py": ""}
    return {
        "common": make_deb(into, "blockhost-common", "0.2.0", namespace, {"postinst": COMMON_POSTINST}),
        "older": older_package(into),
    }


@contextlib.contextmanager
def a_host(suite: str, place: Path):
    host = Host(suite, place)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture(params=SUITES)
def each_host(request, tmp_path):
    """A bare host of each supported release."""
    with a_host(request.param, tmp_path) as host:
        yield host


@pytest.fixture
def host(tmp_path, packages):
    """A Debian 12 host with blockhost-common and a systemd to talk to."""
    with a_host("bookworm", tmp_path) as host:
        host.apt(packages["common"])
        host.with_systemd()
        yield host


if __name__ == "__main__":
    for one in SUITES:
        base(one)
