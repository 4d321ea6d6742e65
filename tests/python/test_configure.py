"""create, set, importdisk, template: allow-lists, and what is read back."""

import os
import struct

import pytest

import qm
from node import TEMPLATE, UUID

BUILD = [
    ["--name", "debian-12-web3-template"], ["memory", 512], ["--cores", "1"], ["--scsihw", "virtio-scsi-pci"],
    ["--net0", "virtio,bridge=vmbr0"], ["--ostype", "l26"], ["--agent", "enabled=1"], ["--serial0", "socket"],
    ["--vga", "serial0"], ["--ide2", "local-lvm:cloudinit"], ["--boot", "order=scsi0"],
    ["--cpu", "x86-64-v2-AES"], ["--description", "BlockHost template"],
]  # fmt: skip


# --- create


def made(node, vmid, text="name: t\n"):
    return lambda: node.add(vmid, text)


def test_create_the_template(node, ask):
    node.reply("qm create", effect=made(node, TEMPLATE))
    assert ask("qm-create", vmid=TEMPLATE, args=BUILD) == {"ok": True}
    (argv,) = node.calls
    assert argv[:5] == ["qm", "create", "9001", "--name", "debian-12-web3-template"]
    assert argv[5:7] == ["--memory", "512"] and len(argv) == 3 + 2 * len(BUILD)


def test_create_of_another_configured_template(node, ask):
    node.db("template_vmid: 8000\nvmid_range: {start: 100, end: 999}\n")
    node.reply("qm create", effect=made(node, 8000))
    assert ask("qm-create", vmid=8000, args=[])["ok"]
    assert ask("qm-create", vmid=TEMPLATE, args=[])["code"] == "range"


def test_create_in_our_range(node, ask):
    node.reply("qm create", effect=made(node, 200))
    assert ask("qm-create", vmid=200, args=[])["ok"]
    assert ask("qm-create", vmid=1000, args=[])["code"] == "range"


def test_h01_create_never_takes_a_vmid_that_is_in_use(node, ask):
    node.add(300, "", node="pve2", here=False)
    node.add(301, "", kind="lxc", here=False)
    for vmid in (100, 300, 301):
        answer = ask("qm-create", vmid=vmid, args=[])
        assert answer["ok"] is False and "exists already" in answer["error"]
    assert node.calls == []


def test_h32_create_is_read_back(node, ask):
    assert ask("qm-create", vmid=200, args=[])["ok"] is False
    node.reply("qm create", slow=True)
    assert ask("qm-create", vmid=201, args=[])["pending"]


@pytest.mark.parametrize(
    "pair",
    [
        ["--args", "-device x"], ["--hookscript", "local:snippets/x.sh"], ["--import-from", "x"], ["--template", "1"],
        ["--cicustom", "user=local:snippets/x"], ["--skiplock", "1"], ["--archive", "x"], ["--start", "1"],
        ["-name", "x"], ["---name", "x"], ["--nam", "x"], ["--name=x", "y"], ["", "x"], ["--", "x"],
        ["--name", "-x"], ["--name", "a b"], ["--name", "a\n"], ["--name", "a" * 64], ["--name", None],
        ["--memory", "0"], ["--memory", -5], ["--memory", True], ["--memory", 1.5], ["--memory", 10**30],
        ["--scsi0", "/dev/sda"], ["--scsi0", "local:0,import-from=/etc/shadow"], ["--scsi0", "local-lvm:vm-101-disk-0"],
        ["--scsi0", "local:9001/../101/vm-9001-disk-0.raw"], ["--scsi0", "local:10,file=/etc/shadow"],
        ["--scsi0", "local-lvm:8,import-from=local:101/x.qcow2"],
        ["--ide2", "/dev/cdrom,media=cdrom"], ["--ide2", "local:iso/x.iso"], ["--net0", "virtio,bridge=vmbr0,script=x"],
        ["--serial0", "/dev/ttyS0"], ["--vga", "x"], ["--boot", "order=scsi0;usb0"], ["--cpu", "host,flags=+x;-y"],
        ["--description", "$(x)"], ["--agent", "2"], ["--pool", "../x"], ["name"], ["name", "a", "b"], "name", {"name": "a"}, 5,
    ],
)  # fmt: skip
def test_h28_create_options(node, ask, pair):
    assert ask("qm-create", vmid=200, args=[pair])["ok"] is False and node.calls == []


@pytest.mark.parametrize(
    "args", [None, {}, "x", [["name", "a"], ["--name", "b"]], [["onboot", "1"]] * 40, [[]]]
)
def test_h28_create_args(node, ask, args):
    assert ask("qm-create", vmid=200, args=args)["ok"] is False and node.calls == []


def test_create_with_a_disk_of_its_own(node, ask):
    for value in (
        "local-lvm:10",
        "local-lvm:vm-200-disk-0,discard=on,ssd=1",
        "local:200/vm-200-disk-0.qcow2",
    ):
        node.remove(200)
        node.reply("qm create", effect=made(node, 200))
        assert ask("qm-create", vmid=200, args=[["scsi0", value]])["ok"], value


# --- set


@pytest.mark.parametrize(
    "config, words",
    [
        ({"onboot": True}, "--onboot 1"),
        ({"onboot": 0}, "--onboot 0"),
        ({"cpulimit": 1.5, "cpuunits": 50}, "--cpulimit 1.5 --cpuunits 50"),
        ({"onboot": 1, "cpuunits": None, "cpulimit": 0}, "--onboot 1 --delete cpulimit,cpuunits"),
    ],
)
def test_set(node, ask, config, words):
    assert ask("qm-set", vmid=100, uuid=UUID, config=config) == {"ok": True}
    assert node.lines() == [f"qm set 100 {words}"]


@pytest.mark.parametrize(
    "config",
    [None, [], {}, "onboot", {"onboot": 2}, {"onboot": "1"}, {"onboot": None}, {"onboot": 1.0}, {"hookscript": "x"}, {"args": "x"},
     {"name": "x"}, {"--onboot": 1}, {"onboot": 1, "scsi0": "x"}, {"cpulimit": 129}, {"cpulimit": "1"}, {"cpulimit": float("nan")},
     {"cpuunits": 10001}, {"cpuunits": 1.5}, {"cpuunits": True}],
)  # fmt: skip
def test_h28_set(node, ask, config):
    assert ask("qm-set", vmid=100, uuid=UUID, config=config)["ok"] is False and node.calls == []


# --- importdisk


def qcow2(version=3, backing=0, incompatible=0):
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 0, 16, 1 << 30, 0, 1, 196608, 65536, 1, 0, 0
    )
    return (head + struct.pack(">QQQII", incompatible, 0, 0, 4, 112)).ljust(4096, b"\0")


RAW = b"\0" * 510 + b"\x55\xaa" + b"\0" * 3584


@pytest.fixture
def image(node, tmp_path, monkeypatch):
    """A good image, and a template VM that is not finished; `qm importdisk` works."""
    if not str(tmp_path).startswith("/tmp/"):
        pytest.skip("the temporary folder is not below /tmp/")
    node.add(TEMPLATE, "name: debian-12-web3-template\n")
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2())
    path.chmod(0o644)
    volume = "local-lvm:vm-9001-disk-0"
    node.reply(
        "qm importdisk",
        stdout=f"importing disk\ntransferred 1.0 GiB of 1.0 GiB (100.00%)\nunused0: successfully imported disk '{volume}'",
        effect=lambda: node.edit(TEMPLATE, lambda text: text + f"unused0: {volume}\n"),
    )
    return path


def give(ask, path, storage="local-lvm"):
    return ask("qm-importdisk", vmid=TEMPLATE, image_path=str(path), storage=storage)


@pytest.mark.parametrize(
    "words",
    [
        "unused0: successfully imported disk 'local-lvm:vm-9001-disk-0'",
        "Successfully imported disk as 'unused0:local-lvm:vm-9001-disk-0'",
    ],
)
def test_h40_import_in_both_wordings(node, ask, image, words):
    node.rules[0] = (node.rules[0][0], (0, words, ""), *node.rules[0][2:])
    assert give(ask, image) == {"ok": True, "disk": "local-lvm:vm-9001-disk-0"}
    (argv,) = node.calls
    assert argv[:3] == ["qm", "importdisk", "9001"] and argv[4:] == ["local-lvm"]


def test_h28_qm_gets_the_file_that_was_checked(node, ask, image, tmp_path):
    """The name may be changed between check and use; the descriptor cannot."""
    seen = []
    effect = node.rules[0][2]

    def swap():
        image.unlink()
        image.symlink_to("/etc/shadow")
        path = node.calls[-1][3]
        assert path.startswith(f"/proc/{os.getpid()}/fd/") and os.path.isfile(path)
        with open(path, "rb") as file:
            seen.append(file.read(4))
        effect()

    node.reply(
        "qm importdisk", stdout="unused0: successfully imported disk 'local-lvm:vm-9001-disk-0'", effect=swap
    )
    before = len(os.listdir("/proc/self/fd"))
    assert give(ask, image)["ok"] and seen == [b"QFI\xfb"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_h20_a_long_import_keeps_its_file_open_until_it_ends(node, ask, image):
    before = len(os.listdir("/proc/self/fd"))
    node.reply(
        "qm importdisk", slow=True, stdout="unused0: successfully imported disk 'local-lvm:vm-9001-disk-0'"
    )
    assert give(ask, image) == {"ok": True, "pending": True}
    assert os.path.isfile(node.calls[0][3])
    assert give(ask, image)["pending"] and len(node.calls) == 1
    node.jobs[0].end()
    task = ask("vm-state", vmid=TEMPLATE)["task"]
    assert task == {
        "action": "qm-importdisk",
        "running": False,
        "exit": 0,
        "disk": "local-lvm:vm-9001-disk-0",
    }
    assert len(os.listdir("/proc/self/fd")) == before


def test_h32_import_is_read_back(node, ask, image):
    node.reply("qm importdisk", stdout="unused0: successfully imported disk 'local-lvm:vm-9001-disk-0'")
    assert give(ask, image)["ok"] is False
    node.reply("qm importdisk", stdout="")
    assert give(ask, image)["ok"] is False


@pytest.mark.parametrize(
    "content",
    [
        qcow2(backing=200), qcow2(version=2, backing=1), qcow2(incompatible=4), qcow2(incompatible=1), qcow2(incompatible=1 << 40),
        qcow2(version=4), qcow2(version=1), b"QFI\xfb", b"", b"x" * 4096, b"#" + RAW[1:], b"root:x:0:0:root:/root:/bin/bash\n" * 200,
        b"# Disk DescriptorFile\n".ljust(510, b"\n") + RAW[510:], b"version=1\n".ljust(510, b"\n") + RAW[510:],
        b"\n \n# x\nversion=1\n".ljust(510, b"\n") + RAW[510:], b"KDMV" + RAW[4:], b"QED\0" + RAW[4:], b"conectix" + RAW[8:],
        b"LUKS\xba\xbe" + RAW[6:], b"vhdxfile" + RAW[8:], RAW[:64] + b"\x7f\x10\xda\xbe" + RAW[68:],
    ],
)  # fmt: skip
def test_h28_images_that_could_name_other_files(node, ask, image, content):
    if content == b"#" + RAW[1:]:
        content = b"#!" + RAW[2:]
    image.write_bytes(content)
    answer = give(ask, image)
    assert answer["ok"] is False and answer["code"] == "failed" and node.calls == []


@pytest.mark.parametrize(
    "content, words", [(qcow2(backing=200), "backing file"), (qcow2(incompatible=4), "data file")]
)
def test_h28_the_reason_is_named(node, ask, image, content, words):
    image.write_bytes(content)
    assert words in give(ask, image)["error"]


@pytest.mark.parametrize(
    "content", [qcow2(), qcow2(version=2), qcow2(incompatible=8), qcow2(incompatible=16), RAW]
)
def test_images_that_are_fine(node, ask, image, content):
    image.write_bytes(content)
    assert give(ask, image)["ok"]


def test_h28_image_paths(node, ask, image, tmp_path):
    (tmp_path / "link").symlink_to(image)
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "real").mkdir()
    os.mkfifo(tmp_path / "fifo")
    bad = [
        tmp_path / "link", tmp_path / "folder" / "disk.qcow2", tmp_path / "real" / ".." / "disk.qcow2", tmp_path / "fifo",
        tmp_path, tmp_path / "none", "/etc/passwd", "/tmp", "/tmp/", "/var/lib/blockhost", "/var/lib/blockhost/", "/tmp/../etc/passwd",
        f"/{image}", f"{tmp_path}//disk.qcow2", "disk.qcow2", "", "-x", "/tmp/a\0b", "/tmp/" + "a" * 2000, "/tmpx/a", "/var/lib/blockhostx/a",
    ]  # fmt: skip
    for path in bad:
        assert give(ask, path)["ok"] is False, path
    for path in (None, 5, ["/tmp/x"]):
        assert ask("qm-importdisk", vmid=TEMPLATE, image_path=path, storage="local")["ok"] is False
    for storage in ("", "-x", "a b", "l", "a/b", "x;y", "local\n", None, 7):
        assert give(ask, image, storage)["ok"] is False
    assert node.calls == []
    assert give(ask, image)["ok"]


def test_h28_image_owner_and_mode(node, ask, image, monkeypatch):
    for mode in (0o664, 0o646, 0o666):
        image.chmod(mode)
        assert "owned by root" in give(ask, image)["error"]
    image.chmod(0o644)
    monkeypatch.setattr(qm, "ROOT_UID", os.getuid() + 1)
    assert "owned by root" in give(ask, image)["error"]
    assert node.calls == []


@pytest.mark.parametrize("size", ["", ",size=3G"])
def test_import_as_the_boot_disk(node, ask, image, size):
    volume = "local:9001/vm-9001-disk-0.qcow2"
    # A real node wrote no size.
    node.reply(
        "qm importdisk",
        stdout=f"scsi0: successfully imported disk '{volume}{size}'",
        effect=lambda: node.edit(TEMPLATE, lambda text: text + f"scsi0: {volume}{size}\n"),
    )
    answer = ask(
        "qm-importdisk", vmid=TEMPLATE, image_path=str(image), storage="local-lvm", target_disk="scsi0"
    )
    assert answer == {"ok": True, "disk": volume}
    assert node.calls[0][4:] == ["local-lvm", "--target-disk", "scsi0"]
    for drive in ("scsi1", "", "-x", 5, ["scsi0"], True, {}):
        assert (
            ask(
                "qm-importdisk", vmid=TEMPLATE, image_path=str(image), storage="local-lvm", target_disk=drive
            )["ok"]
            is False
        )
    assert len(node.calls) == 1


def test_h47_import_into_another_guest_needs_identity(node, ask, image):
    assert ask("qm-importdisk", vmid=100, image_path=str(image), storage="local")["code"] == "identity"
    assert ask("qm-importdisk", vmid=5000, image_path=str(image), storage="local")["code"] == "range"
    node.edit(TEMPLATE, lambda text: text + "template: 1\n")
    assert give(ask, image)["code"] == "range"
    assert node.calls == []


# --- template

DRIVE = "scsi0: local-lvm:vm-9001-disk-0,size=3G\nide2: local-lvm:vm-9001-cloudinit,media=cdrom\n"


def finished(text):
    return text.replace("vm-9001-disk", "base-9001-disk") + "template: 1\n"


def test_template(node, ask):
    node.add(TEMPLATE, f"name: t\n{DRIVE}")
    node.reply("qm template", effect=lambda: node.edit(TEMPLATE, finished))
    assert ask("qm-template", vmid=TEMPLATE) == {"ok": True}
    assert ask("qm-template", vmid=TEMPLATE) == {"ok": True, "already": True}
    assert node.lines() == ["qm template 9001"]


def test_h32_exit_0_of_template_proves_nothing(node, ask):
    node.add(TEMPLATE, f"name: t\n{DRIVE}")
    node.reply("qm template", code=0, stderr="unable to create base volume")
    answer = ask("qm-template", vmid=TEMPLATE)
    assert answer["ok"] is False and "unable to create base volume" in answer["error"]
    # The flag is written before the disks are converted.
    node.reply(
        "qm template",
        code=0,
        stderr="lvcreate failed",
        effect=lambda: node.edit(TEMPLATE, lambda t: t + "template: 1\n"),
    )
    answer = ask("qm-template", vmid=TEMPLATE)
    assert answer["ok"] is False and "local-lvm:vm-9001-disk-0" in answer["error"]


def test_template_on_a_storage_without_base_images(node, ask):
    node.add(TEMPLATE, f"name: t\n{DRIVE}")
    node.reply("qm template", effect=lambda: node.edit(TEMPLATE, lambda text: text + "template: 1\n"))
    assert ask("qm-template", vmid=TEMPLATE) == {"ok": True, "unconverted": ["local-lvm:vm-9001-disk-0"]}


def test_h32_template_without_a_word_and_without_the_flag(node, ask):
    node.add(TEMPLATE, f"name: t\n{DRIVE}")
    assert ask("qm-template", vmid=TEMPLATE)["ok"] is False
    node.edit(TEMPLATE, lambda text: text.replace("vm-9001-disk", "base-9001-disk"))
    assert ask("qm-template", vmid=TEMPLATE)["ok"] is False
    assert len(node.calls) == 2


def test_template_without_a_disk(node, ask):
    node.add(
        TEMPLATE,
        "name: t\nunused0: local-lvm:vm-9001-disk-0\nide2: local-lvm:vm-9001-cloudinit,media=cdrom\n",
    )
    answer = ask("qm-template", vmid=TEMPLATE)
    assert answer["ok"] is False and "no disk" in answer["error"] and node.calls == []


def test_template_of_a_running_guest(node, ask):
    node.add(TEMPLATE, f"name: t\n{DRIVE}")
    node.start(TEMPLATE)
    assert "running" in ask("qm-template", vmid=TEMPLATE)["error"] and node.calls == []


def test_h47_template_of_another_guest(node, ask):
    assert ask("qm-template", vmid=100)["code"] == "identity"
    node.add(5000, "name: theirs\n")
    assert ask("qm-template", vmid=5000, name="theirs")["code"] == "range"
    assert ask("qm-template", vmid=TEMPLATE)["code"] == "missing"
    assert node.calls == []
