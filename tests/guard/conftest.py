"""Each test has a host of its own, in namespaces of its own: as root, and nothing of it outlives the test."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import namespaces  # noqa: E402

MAC = {vmid: f"bc:24:11:00:00:{vmid - 99:02x}" for vmid in (100, 101, 102)}
UUID = {vmid: f"3f2b6a0e-0d6c-4b7e-9d55-0a4f6f3f1c{vmid - 83}" for vmid in MAC}
IPV4 = {vmid: f"192.168.122.{vmid + 100}" for vmid in MAC}
IPV6 = {vmid: f"fd00::{vmid + 100:x}" for vmid in MAC}


class Guests(namespaces.World):
    """The host with our VMs."""

    def decide_for(self, vmid, **more):
        self.decide(vmid, UUID[vmid], IPV4[vmid], IPV6[vmid], **more)

    def quiet(self, vmid, phase):
        """A phase that succeeds, and says nothing."""
        done = self.guard(vmid, phase)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done

    def start(self, vmid):
        """What Proxmox does: hook, tap, port of the bridge, hook."""
        self.quiet(vmid, "pre-start")
        place = self.plug(vmid, f"tap{vmid}i0", MAC[vmid], IPV4[vmid], IPV6[vmid])
        self.quiet(vmid, "post-start")
        return place

    def stop(self, vmid):
        self.quiet(vmid, "pre-stop")
        namespaces.run("ip", "link", "del", f"tap{vmid}i0")
        self.quiet(vmid, "post-stop")


@pytest.fixture
def world(tmp_path):
    assert os.geteuid() == 0, "namespaces need root"
    assert namespaces.PROGRAM.exists(), f"{namespaces.PROGRAM} is missing: run `cargo build --workspace` first"
    namespaces.own_namespace()
    world = Guests(tmp_path)
    for vmid in MAC:
        world.configure(vmid, MAC[vmid], UUID[vmid])
    yield world
    for place in world.places.values():
        os.close(place.fd)
    namespaces.run("umount", str(tmp_path / "sys"))
