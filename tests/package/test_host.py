"""The package on hosts: installed, upgraded over the older scripts and over itself, downgraded, removed, purged."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest
from conftest import COMMANDS, PACKAGE, VERSION, changes, of_version

STATE = "/var/lib/blockhost"
TERRAFORM = f"{STATE}/terraform"


def warnings(text: str) -> list[str]:
    """What the maintainer scripts and dpkg had to say."""
    return [line for line in text.splitlines() if line.startswith((PACKAGE, "dpkg: warning", "dpkg: error")) or "Traceback" in line]


def test_the_whole_life_on_a_bare_host(each_host, deb, packages):
    host = each_host
    host.apt(packages["common"])
    before = host.snapshot()
    # The first boot: dpkg alone, no systemd, nothing else there.
    done = host.dpkg(deb)
    assert done.returncode == 0 and warnings(done.stdout + done.stderr) == [], done.stdout + done.stderr
    assert host.is_enabled("blockhost-gc.timer") and host.is_enabled("blockhost-reapply.service")
    for name in COMMANDS:
        shown = host.ok(f"/usr/bin/{name}", "--version")
        assert shown == f"{name} {VERSION}\n"
        assert host.run(name, "--no-such-flag").returncode == 2
    as_blockhost = ["setpriv", "--reuid=blockhost", "--regid=blockhost", "--clear-groups"]
    assert host.ok(*as_blockhost, "blockhost-vm-list", "--format", "json").splitlines()[0] == "[]"
    assert host.run("blockhost-provisioner-detect").returncode == 1
    # Importable but for Flask, which the installer brings.
    for module in ["wizard", "admin"]:
        imported = host.run("python3", "-B", "-c", f"import blockhost.provisioner_proxmox.{module}")
        assert re.fullmatch(r"ModuleNotFoundError: No module named 'flask'", imported.stderr.splitlines()[-1]), imported.stderr
    added = {path for path, (was, _) in changes(before, host.snapshot()).items() if was is None}
    outside = {p for p in added if not p.startswith(("usr/bin/blockhost-", "usr/share/", "usr/lib/python3/dist-packages/blockhost", "usr/lib/systemd/system/blockhost-", "etc/systemd/system/", "var/lib/systemd"))}
    assert outside == set()
    # Once more, and once more by apt: nothing changes.
    installed = host.snapshot()
    assert host.dpkg(deb).returncode == 0
    host.ok("apt-get", "install", "-y", "--reinstall", f"/tmp/{deb.name}")
    assert changes(installed, host.snapshot()) == {}
    # What a host has.
    host.database({"web-1": {"status": "destroyed"}})
    host.write("etc/blockhost/db.yaml", f"db_file: {STATE}/vms.json\n", 0o640)
    kept = host.snapshot()
    said = host.ok("apt-get", "remove", "-y", PACKAGE)
    assert warnings(said) == []
    removed = changes(before, host.snapshot())
    assert set(removed) <= {"var/lib/blockhost/vms.json", "etc/blockhost/db.yaml"}, removed
    for path in removed:
        assert host.snapshot()[path] == kept[path]
    said = host.ok("apt-get", "purge", "-y", PACKAGE)
    assert [line.split(": ", 1)[1].split(":")[0] for line in warnings(said)] == ["kept"]
    assert set(changes(before, host.snapshot())) <= set(removed)
    host.ok("dpkg", "--audit")


def test_a_host_with_systemd_gets_its_timer_and_a_fresh_agent(host, deb):
    host.write("etc/test-agent-state", "active\n")
    said = host.apt(deb)
    assert warnings(said) == []
    assert host.systemctl() == ["start blockhost-gc.timer", "try-restart blockhost-root-agent.service"]
    host.apt(of_version(deb, "0.3.1", host.place))
    # The same again, and no stop between.
    assert host.systemctl() == ["start blockhost-gc.timer", "try-restart blockhost-root-agent.service"]
    assert host.is_enabled("blockhost-gc.timer")
    # An administrator's choice is kept.
    host.path("etc/systemd/system/timers.target.wants/blockhost-gc.timer").unlink()
    host.apt(of_version(deb, "0.3.2", host.place))
    assert not host.is_enabled("blockhost-gc.timer") and host.is_enabled("blockhost-reapply.service")
    assert "start blockhost-gc.timer" not in host.systemctl()
    host.ok("apt-get", "remove", "-y", PACKAGE)
    assert host.systemctl() == ["stop blockhost-gc.timer", "stop blockhost-gc.service blockhost-reapply.service"]
    assert not host.is_enabled("blockhost-gc.timer") and not host.is_enabled("blockhost-reapply.service")
    # A later installation begins anew.
    host.apt(of_version(deb, "0.3.3", host.place))
    assert host.is_enabled("blockhost-gc.timer")


def older_host(host, packages):
    """A host of the Python package, as its VMs and its setup leave it."""
    host.apt(packages["older"])
    host.systemctl()
    # A note of debhelper's that the timer was on, beside a timer that is off.
    host.write("var/lib/systemd/deb-systemd-helper-enabled/timers.target.wants/blockhost-gc.timer", "")
    host.database({"web-001": {"status": "active", "vmid": 100}})
    machine = {"resource": {"proxmox_virtual_environment_vm": {"web_001": {"name": "web-001"}}}}
    for name, text in {
        "provider.tf.json": "{}", "terraform.tfvars": 'proxmox_node = "pve"\n', "terraform.tfstate": '{"version": 4}',
        "web-001.tf.json": json.dumps(machine), "web-001-cloud-config.yaml": "#cloud-config\n",
    }.items():
        host.write(f"{TERRAFORM}/{name}", text, 0o640)
    # As user blockhost may have left it: a hard link, a link, a file that is its own.
    host.ok("ln", "-s", "/etc/shadow", f"{TERRAFORM}/link")
    host.ok("sh", "-c", f"echo secret >/etc/secret; ln /etc/secret {TERRAFORM}/hard")
    host.write("etc/blockhost/db.yaml", f"terraform_dir: '{TERRAFORM}'  # where\ndb_file: {STATE}/vms.json\n")


def test_an_upgrade_from_the_scripts(each_host, deb, packages):
    host = each_host
    host.apt(packages["common"])
    host.with_systemd()
    host.write("etc/test-agent-state", "active\n")
    older_host(host, packages)
    data = {p: v for p, v in host.snapshot().items() if p.startswith(("var/lib/blockhost", "etc/blockhost"))}
    # A node, and setup steps of which one fails.
    host.write("usr/local/sbin/pvesh", "#!/bin/sh\n", 0o755)
    steps = '#!/bin/sh\necho "$*" >>/var/log/steps\n[ "$1" != token ] || { echo \'{"ok":false,"error":"pveum: no quorum"}\'; exit 1; }\necho \'{"ok":true,"error":null}\'\n'
    host.write("usr/local/sbin/blockhost-provisioner-setup", steps, 0o755)
    begun = time.monotonic()
    # apt has a search path of its own, without the stand-ins.
    done = host.dpkg(deb)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert time.monotonic() - begun < 60
    assert [line.removeprefix(f"{PACKAGE}: ") for line in warnings(said)] == [
        "setup step token failed: pveum: no quorum",
        "the upgrade goes on; repair it and run 'blockhost-provisioner-setup token </dev/null'",
        "setup steps done: terraform db_config",
    ]
    assert host.path("var/log/steps").read_text().split() == ["token", "terraform", "db_config"]
    # Not again where nothing is newer.
    assert host.dpkg(deb).returncode == 0
    assert host.path("var/log/steps").read_text().split() == ["token", "terraform", "db_config"]
    again = ["start blockhost-gc.timer", "try-restart blockhost-root-agent.service"]
    assert host.systemctl() == ["stop blockhost-gc.timer", *again, *again]
    assert host.is_enabled("blockhost-gc.timer") and host.is_enabled("blockhost-reapply.service")
    # Its files are replaced or gone, its data is as it was, with the owner that terraform has now.
    assert not host.path("usr/bin/blockhost-vm-of-old").exists()
    assert not host.path("usr/lib/python3/dist-packages/blockhost/provisioner_proxmox/of_old.py").exists()
    assert host.ok("blockhost-vm-list", "--version") == f"blockhost-vm-list {VERSION}\n"
    after = host.snapshot()
    user = int(host.ok("id", "-u", "blockhost"))
    for path, (mode, owner, group, content) in data.items():
        assert after[path][0] == mode and after[path][3] == content, path
        expected = user if path.startswith("var/lib/blockhost/terraform") and not path.endswith(("/link", "/hard")) else owner
        assert after[path][1] == expected, path
    assert host.path("etc/secret").stat().st_uid == 0
    # And as user blockhost would see it.
    listed = host.ok("blockhost-vm-list")
    assert "web-001\tactive" in listed


def test_a_node_that_nobody_has_set_up_is_left_to_the_installer(host, deb):
    host.write("usr/local/sbin/pvesh", "#!/bin/sh\n", 0o755)
    host.write("usr/local/sbin/blockhost-provisioner-setup", "#!/bin/sh\necho \"$*\" >>/var/log/steps\n", 0o755)
    assert host.dpkg(deb).returncode == 0
    assert not host.path("var/log/steps").exists()


def test_a_create_of_the_scripts_in_flight_is_waited_for(host, deb, packages):
    older_host(host, packages)
    create = host.start("/usr/bin/blockhost-vm-create", "4")
    host.wait_until(lambda: "blockhost-vm-create" in host.ok("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "the create runs")
    said = host.apt(deb)
    # It had ended before anything was unpacked.
    assert create.poll() == 0
    assert re.search(r"waiting for blockhost-vm-create \(PID \d+\) to end", said), said
    assert host.ok("dpkg-query", "-W", "-f", "${Version}", PACKAGE) == VERSION


def test_a_create_of_the_scripts_that_does_not_end_is_not_broken(host, deb, packages):
    older_host(host, packages)
    create = host.start("/usr/bin/blockhost-vm-create", "300")
    # Fifteen minutes at once.
    host.write("usr/local/sbin/sleep", "#!/bin/sh\n", 0o755)
    files = {p: v for p, v in host.snapshot().items() if p.startswith("usr/")}
    done = host.dpkg(deb)
    assert done.returncode != 0
    assert re.search(r"blockhost-vm-create \(PID \d+\) of version 0.2.0 is still running after 15 minutes; not upgraded", done.stderr)
    assert create.poll() is None
    assert {p: v for p, v in host.snapshot().items() if p.startswith("usr/")} == files
    assert host.ok("dpkg-query", "-W", "-f", "${Status} ${Version}", PACKAGE) == "install ok installed 0.2.0"
    # Its postinst, run by dpkg for the upgrade that was called off, has the timer back.
    assert host.is_enabled("blockhost-gc.timer")
    create.kill()


def test_our_own_create_in_flight_does_not_hold_up_an_upgrade(host, deb):
    host.apt(deb)
    host.write("usr/local/bin/blockhost-vm-create", "#!/bin/sh\n/bin/sleep \"$1\"\n", 0o755)
    running = host.start("/usr/local/bin/blockhost-vm-create", "300")
    # Who waits has waited fifteen minutes at once, and refuses.
    host.write("usr/local/sbin/sleep", "#!/bin/sh\n", 0o755)
    host.apt(of_version(deb, "0.3.1", host.place))
    assert running.poll() is None
    running.kill()


def test_a_downgrade_is_refused_in_each_direction(host, deb, packages):
    host.apt(deb)
    host.apt(of_version(deb, "0.4.0", host.place))
    before = host.snapshot()
    for package in (deb, packages["older"]):
        done = host.dpkg(package)
        shown = done.stdout + done.stderr
        assert done.returncode != 0, shown
        assert "0.4.0 cannot be downgraded to" in shown and "To go back, remove" in shown, shown
        assert host.ok("dpkg-query", "-W", "-f", "${Status} ${Version}", PACKAGE) == "install ok installed 0.4.0"
        assert changes(before, host.snapshot()) == {}
        host.ok("dpkg", "--audit")
    # Also where the scripts of the version that is installed allow it.
    kept = {}
    for script in ("prerm", "postrm"):
        path = f"var/lib/dpkg/info/{PACKAGE}.{script}"
        kept[path] = host.path(path).read_text()
        host.write(path, "#!/bin/sh\n", 0o755)
    done = host.dpkg(deb)
    assert done.returncode != 0 and "0.4.0 cannot be downgraded to" in done.stdout + done.stderr, done
    assert host.ok("dpkg-query", "-W", "-f", "${Status} ${Version}", PACKAGE) == "install ok installed 0.4.0"
    for path, text in kept.items():
        host.write(path, text, 0o755)
    # The way back that the message names.
    host.ok("dpkg", "--remove", PACKAGE)
    host.apt(packages["older"])


AGENT = """
import os, socket, sys, time
path = "/run/blockhost/root-agent.sock"
os.makedirs("/run/blockhost", exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(path)
if sys.argv[2] == "accepted":
    peer, _ = server.accept()
    # The caller has given up; what it asked for is still being done.
    client.close()
else:
    peer = client
print("busy", flush=True)
time.sleep(float(sys.argv[1]))
peer.close()
time.sleep(60)
"""


@pytest.mark.parametrize("request_is", ["accepted", "waiting"])
def test_the_agent_is_not_restarted_in_the_middle_of_a_request(host, deb, request_is):
    host.write("etc/test-agent-state", "active\n")
    host.write("root/agent.py", AGENT)
    agent = host.start("python3", "/root/agent.py", "8", request_is)
    host.wait_until(lambda: host.path("run/blockhost/root-agent.sock").exists(), "the socket")
    begun = time.monotonic()
    installing = subprocess.Popen(host.words(["dpkg", "-i", host.carry(deb)]), stderr=subprocess.PIPE, text=True)
    log = host.path("var/log/systemctl.log")
    host.wait_until(lambda: log.exists() and "start blockhost-gc.timer" in log.read_text(), "the units")
    assert "try-restart" not in log.read_text()
    errors = installing.communicate()[1]
    assert installing.returncode == 0 and "waiting for the root agent to finish its request" in errors, errors
    assert time.monotonic() - begun > 6
    assert "try-restart blockhost-root-agent.service" in host.systemctl()
    agent.kill()


def test_the_agent_is_not_restarted_while_a_tool_of_it_works_and_that_is_said(host, deb):
    host.write("etc/test-agent-state", "active\n")
    procs = "sys/fs/cgroup/system.slice/blockhost-root-agent.service/cgroup.procs"
    host.write(procs, "4242\n4343\n")
    host.write("usr/local/sbin/sleep", "#!/bin/sh\n", 0o755)
    said = host.dpkg(deb).stderr
    assert "has been busy for 5 minutes and was not restarted" in said
    assert "try-restart blockhost-root-agent.service" not in host.systemctl()
    host.write(procs, "4242\n")
    host.apt(of_version(deb, "0.3.1", host.place))
    assert "try-restart blockhost-root-agent.service" in host.systemctl()


def test_removal_takes_the_guard_out_of_the_vms_first(host, deb):
    host.apt(deb)
    host.write("usr/local/sbin/qm", "#!/bin/sh\n", 0o755)
    reapply = '#!/bin/sh\necho "$*" >>/var/log/reapply\n[ "$1" != --help ] || { echo "  --remove-guard"; exit 0; }\n[ ! -e /root/fails ] || { echo "error: no quorum" >&2; exit 1; }\n'
    host.write("usr/local/sbin/blockhost-provisioner-reapply", reapply, 0o755)
    host.write("root/fails", "")
    done = host.run("dpkg", "--remove", PACKAGE)
    assert done.returncode != 0 and "would not start without it; not removed" in done.stderr and "no quorum" in done.stderr
    assert host.path("usr/bin/blockhost-vm-list").exists() and host.is_enabled("blockhost-gc.timer")
    host.path("root/fails").unlink()
    host.ok("dpkg", "--remove", PACKAGE)
    assert host.path("var/log/reapply").read_text().splitlines()[-1] == "--quiet --remove-guard"
    assert not host.path("usr/bin/blockhost-vm-list").exists()


@pytest.mark.parametrize("command", ["blockhost-vm-destroy", "blockhost-vm-start", "blockhost-provisioner-import"])
def test_removal_waits_for_a_command_that_changes_a_vm(host, deb, command):
    host.apt(deb)
    host.write(f"usr/local/bin/{command}", "#!/bin/sh\n/bin/sleep \"$1\"\n", 0o755)
    running = host.start(f"/usr/local/bin/{command}", "300")
    host.write("usr/local/sbin/sleep", "#!/bin/sh\n", 0o755)
    done = host.run("dpkg", "--remove", PACKAGE)
    assert done.returncode != 0 and "is still running after 15 minutes; not removed" in done.stderr, done.stderr
    assert host.path("usr/bin/blockhost-vm-list").exists()
    running.kill()


OURS = {
    f"{STATE}/journal/web-1.lock": 0o660, f"{STATE}/failed/web-1-1.log": 0o640, f"{STATE}/metrics/@all.json": 0o640,
    f"{STATE}/gc-last-run.json": 0o660, f"{TERRAFORM}/provider.tf.json": 0o640, f"{TERRAFORM}/terraform.tfvars": 0o640,
    f"{TERRAFORM}/.terraform/providers/x": 0o755,
}
OF_ROOT = ["/etc/blockhost/pve-token", "/etc/blockhost/terraform_ssh_key", "/var/cache/blockhost-provisioner/images/a"]
OTHERS = [f"{STATE}/vms.json", f"{STATE}/audit/2026-11.jsonl", f"{STATE}/template-packages/a.deb", "/etc/blockhost/db.yaml", f"{STATE}/.step-proxmox"]


def used_host(host, deb, vms):
    """A host that was in use; removed, not purged."""
    host.apt(deb)
    for path in [*OURS, *OF_ROOT, *OTHERS]:
        host.write(path, "x")
    host.write("etc/blockhost/db.yaml", "bridge: vmbr0\n")
    host.write("etc/systemd/system/blockhost-gc.service.d/blockhost-paths.conf", "[Service]\n")
    host.ok("chown", "-R", "blockhost:blockhost", STATE)
    if vms is not None:
        host.database(vms)
    host.ok("dpkg", "--remove", PACKAGE)


def test_purge_without_a_live_vm_removes_what_is_ours_alone(host, deb):
    used_host(host, deb, {"web-1": {"status": "destroyed"}})
    said = host.ok("dpkg", "--purge", PACKAGE)
    assert "kept: the VM database with its records" in said
    for path in [*OURS, *OF_ROOT, "/etc/systemd/system/blockhost-gc.service.d", TERRAFORM]:
        assert not host.path(path).exists(), path
    for path in OTHERS:
        assert host.path(path).exists(), path


@pytest.mark.parametrize("vms", [
    {"web-1": {"status": "active"}},
    {"web-1": {"status": "destroyed"}, "web-2": {"status": "suspended"}},
    {"web-1": {}},
    {"web-1": "damaged"},
    "damaged",
])
def test_purge_with_a_live_vm_keeps_the_state(host, deb, vms):
    used_host(host, deb, vms)
    before = host.snapshot()
    said = host.ok("dpkg", "--purge", PACKAGE)
    assert "are kept: " in said and f"{STATE}/vms.json" in said, said
    assert set(changes(before, host.snapshot())) <= {p.lstrip("/") for p in ["/var/cache/blockhost-provisioner"]}


@pytest.mark.parametrize("left", [f"{STATE}/journal/web-1.json", f"{TERRAFORM}/vms/web-1/terraform.tfstate", f"{TERRAFORM}/web-1.tf.json", f"{STATE}/withheld/100.json"])
def test_purge_with_something_unfinished_keeps_the_state(host, deb, left):
    used_host(host, deb, {})
    host.write(left, "{}")
    said = host.ok("dpkg", "--purge", PACKAGE)
    assert "are kept: " in said
    assert all(host.path(path).exists() for path in [*OURS, left, "/etc/blockhost/pve-token"])


def test_h56_purge_follows_no_link_of_user_blockhost(host, deb):
    used_host(host, deb, {})
    host.write("etc/target/terraform.tfvars", "of root")
    host.write("etc/target/provider.tf.json", "of root")
    host.ok("rm", "-rf", TERRAFORM)
    host.ok("ln", "-s", "/etc/target", TERRAFORM)
    host.ok("ln", "-sfn", "/etc/target", f"{STATE}/metrics")
    host.ok("dpkg", "--purge", PACKAGE)
    for name in ("terraform.tfvars", "provider.tf.json"):
        assert host.path(f"etc/target/{name}").read_text() == "of root"
