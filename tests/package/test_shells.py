"""Man pages and completions on hosts: rendered without warnings, loaded by each shell, VM names from the database."""

from __future__ import annotations

import re

import pytest
from conftest import COMMANDS, PACKAGE, ROOT, a_host

PAGES = sorted(path.name for path in (ROOT / "debian/man").iterdir())
VMS = {"web-1": {"status": "active"}, "web-2": {"status": "suspended"}, "gone-1": {"status": "destroyed"}}


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def installed(request, tmp_path_factory, deb, packages):
    with a_host(request.param, tmp_path_factory.mktemp("shells")) as host:
        host.apt(packages["common"])
        host.apt(deb)
        host.write("etc/blockhost/db.yaml", "bridge: vmbr0\n")
        yield host


def test_every_command_has_a_page_and_every_page_renders_without_a_warning(installed):
    assert set(f"{name}.1" for name in COMMANDS) < set(PAGES)
    script = 'for page; do man --warnings -E UTF-8 -l -Tutf8 -Z "/usr/share/man/man${page##*.}/$page.gz" >/dev/null; done'
    assert installed.ok("sh", "-ec", script, "sh", *PAGES) == ""
    # It would warn.
    installed.write("tmp/bad.1", ".TH X 1\n.SH NAME\nx \\- y\n.nosuchrequest\n\\[nosuchglyph]\n")
    assert "warning" in installed.ok("sh", "-c", "man --warnings -E UTF-8 -l -Tutf8 -Z /tmp/bad.1 >/dev/null")


@pytest.mark.parametrize("page, words", [
    ("blockhost-vm-create", ["--owner-wallet <ADDR>", "EXAMPLES", "BLOCKHOST_RESULT"]),
    ("blockhost-vm-gc", ["--accept-gap", "SEE ALSO"]),
    ("blockhost-provisioner-setup", ["STEPS", "detect-resources"]),
    ("blockhost-db.yaml", ["gc_grace_days", "default: 7"]),
    ("blockhost-files", ["/var/lib/blockhost/vms.json", "mode: 0660"]),
    ("blockhost-provisioner", ["blockhost-vm-create(1)", "blockhost-gc.timer"]),
])
def test_a_page_says_what_is_looked_for(installed, page, words):
    text = re.sub(".\x08", "", installed.ok("env", "MANWIDTH=200", "MANPAGER=cat", "man", page)).replace("\u2010", "-")
    assert all(word in text for word in words), text


COMPLETE = """
. /usr/share/bash-completion/bash_completion
. "/usr/share/bash-completion/completions/$1"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def bash(host, *words: str) -> list[str]:
    host.write("tmp/complete.bash", COMPLETE)
    return host.ok("bash", "/tmp/complete.bash", *words).split()


def test_bash_completes_flags_and_the_names_of_vms(installed):
    installed.database(VMS)
    for name in COMMANDS:
        assert "--help" in bash(installed, name, "--h"), name
    assert bash(installed, "blockhost-vm-start", "") == ["web-1", "web-2"]
    assert bash(installed, "blockhost-vm-start", "--force", "web-2") == ["web-2"]
    assert bash(installed, "blockhost-vm-guest-exec", "--timeout", "") != ["web-1", "web-2"]
    # A name that does not exist yet.
    assert "web-1" not in bash(installed, "blockhost-vm-create", "")


def test_zsh_and_fish_complete_the_names_of_vms(installed):
    installed.database(VMS)
    for name in COMMANDS:
        installed.ok("zsh", "-n", f"/usr/share/zsh/vendor-completions/_{name}")
        installed.ok("fish", "--no-execute", f"/usr/share/fish/vendor_completions.d/{name}.fish")
    names = "autoload -U compinit; compinit -D -u; _blockhost-vm-start 2>/dev/null; compadd() { print -l $vms }; _blockhost_vms"
    assert installed.ok("zsh", "-c", names).split()[-2:] == ["web-1", "web-2"]
    shown = installed.ok("fish", "-c", "complete -C 'blockhost-vm-start web-'").split()
    assert shown == ["web-1", "web-2"]
    assert "--force" in installed.ok("fish", "-c", "complete -C 'blockhost-vm-start --f'")


@pytest.mark.parametrize("database", ["", "{", '{"vms": {"$(touch /tmp/broken)": {"status": "active"}, "`touch /tmp/broken`": {}}}'])
def test_a_completion_never_fails_and_never_runs_what_a_database_says(installed, database):
    installed.write("var/lib/blockhost/vms.json", database, 0o644)
    assert bash(installed, "blockhost-vm-stop", "") == []
    assert installed.ok("fish", "-c", "complete -C 'blockhost-vm-stop '").split() == []
    assert not installed.path("tmp/broken").exists()


def test_a_user_who_cannot_read_the_database_gets_no_names_and_no_errors(installed):
    installed.database(VMS)
    installed.write("tmp/complete.bash", COMPLETE)
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "bash", "/tmp/complete.bash"]
    assert installed.ok(*nobody, "blockhost-vm-start", "").split() == []
    assert "--help" in installed.ok(*nobody, "blockhost-vm-start", "--h")


def test_nothing_of_another_packages_is_hidden(installed):
    files = installed.ok("dpkg", "-L", PACKAGE).splitlines()
    assert f"/usr/share/bash-completion/completions/{COMMANDS[0]}" in files
    assert f"/usr/share/zsh/vendor-completions/_{COMMANDS[0]}" in files
    assert f"/usr/share/fish/vendor_completions.d/{COMMANDS[0]}.fish" in files
