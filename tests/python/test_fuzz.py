"""Every parameter of every action, hostile (H28, H47).

Whatever arrives: an answer and no exception, no process but those written down below, none
for a guest that was not proven to be meant, no file but a snippet, a guard's file and its script.  What is permitted is
written here a second time, in other words than the plugin's, on purpose.

BLOCKHOST_FUZZ_CASES sets the number of cases of all actions together (CI: 100000).
"""

import json
import os
import re
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import qm
from conftest import make_node
from node import OTHER_UUID, TEMPLATE, UUID, tree

CASES = int(os.environ.get("BLOCKHOST_FUZZ_CASES", "9000"))
ADOPTED = "dddddddd-0000-4000-8000-000000000001"
COUNT = {"cases": 0, "processes": 0, "ok": 0}
ACTED = set()

# VMID: uuid and name of the guests in range and on this node that are no templates. Who knows
# either (the uuid, where one is given) may act; 105 is not ours, but only our records know that.
OURS = {
    100: (UUID, "web-1"),
    101: ("aaaaaaaa-0000-4000-8000-000000000101", "web-2"),
    102: ("aaaaaaaa-0000-4000-8000-000000000102", "web-3"),
    103: ("", "old.one"),
    104: ("aaaaaaaa-0000-4000-8000-000000000104", "half"),
    105: ("bbbbbbbb-0000-4000-8000-000000000105", "stranger"),
}
SNIPPET_RE = re.compile(r"blockhost-([A-Za-z0-9][A-Za-z0-9.-]*-(user|meta)\.yaml|guard\.sh)|old\.one-cloud-config\.yaml")


def build(folder, monkeypatch):
    node = make_node(folder, monkeypatch)
    node.add_ours(100)
    for vmid in (101, 104):
        node.add_ours(vmid, OURS[vmid][1], OURS[vmid][0], "lock: clone\n" if vmid == 104 else "onboot: 1\n")
    node.add(
        102,
        f"#BlockHost VM web-3 {OURS[102][0]}\nname: web-3\nsmbios1: uuid=cccccccc-0000-4000-8000-000000000102\nscsi0: l:vm-102-disk-0\n",
    )
    node.add(103, "name: old.one\nscsi0: local:103/vm-103-disk-0.qcow2,iops=5,size=9G\n")
    (node.root / "var/lib/vz/snippets/old.one-cloud-config.yaml").write_text("#cloud-config\n")
    node.edit(103, lambda text: text + "cicustom: user=local:snippets/old.one-cloud-config.yaml\n")
    node.add(105, f"name: stranger\nsmbios1: uuid={OURS[105][0]}\n")
    node.add(300, f"name: tpl\ntemplate: 1\nsmbios1: uuid={OTHER_UUID}\n")
    node.add(301, "", node="pve2", here=False)
    node.add(302, "", kind="lxc", here=False)
    node.add(1000, f"name: web-1\nsmbios1: uuid={UUID}\n")
    node.add(TEMPLATE, "name: debian-12-web3-template\nscsi0: l:vm-9001-disk-0\n")
    node.db(
        "vmid_range: {start: 100, end: 999}\n"
        "ip_pool: {network: 192.168.122.0/24, start: 200, end: 250, gateway: 192.168.122.1}\n"
    )
    for vmid in (101, 102, 103, 105, 1000):
        node.start(vmid, pid=40000 + vmid)
    return node


# --- what may be run

N = r"[1-9][0-9]*"
TOKEN = {
    "vmid": r"[1-9][0-9]{2,5}",
    "tap": r"tap[1-9][0-9]{2,5}i[0-9]{1,2}",
    "n": N,
    "cpu": r"[0-9]{1,3}(\.[0-9]{1,3})?",
    "drop": r"cpulimit|cpuunits|cpulimit,cpuunits",
    "bit": r"[01]",
    "storage": r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]",
    "fd": r"/proc/[0-9]+/fd/[0-9]+",
    "loose": r"[A-Za-z0-9._-]+:([A-Za-z0-9._-]+/)*vm-(40[0-9]|99[0-9])-(disk-[0-9]+|cloudinit)(\.[a-z0-9]+)?",
    "any": r"[\s\S]+",
    "gecos": r"wallet=[A-Za-z0-9_]+,nft=[0-9A-Fa-f]+",
    "user": r"[a-z_][a-z0-9_-]*",
}
FORMS = {
    "vm-state": [],
    "qm-start": ["qm start <vmid>"],
    "qm-stop": ["qm stop <vmid> --timeout <n>", "qm stop <vmid> --timeout <n> --overrule-shutdown 1"],
    "qm-shutdown": ["qm shutdown <vmid> --timeout <n>"],
    "qm-resume": ["qm resume <vmid>"],
    "qm-destroy": ["qm destroy <vmid> --purge 1 --destroy-unreferenced-disks 1"],
    "qm-importdisk": [
        "qm importdisk <vmid> <fd> <storage>",
        "qm importdisk <vmid> <fd> <storage> --target-disk scsi0",
    ],
    "qm-template": ["qm template <vmid>"],
    "qm-guest-ping": ["qm guest cmd <vmid> ping"],
    "qm-guest-exec": [
        "qm guest exec <vmid> --synchronous 0 -- /bin/sh -c <any>",
        "qm guest exec-status <vmid> <n>",
    ],
    "qm-guest-exec-status": ["qm guest exec-status <vmid> <n>"],
    "qm-update-gecos": [
        "qm guest exec <vmid> --synchronous 0 -- usermod -c <gecos> <user>",
        "qm guest exec-status <vmid> <n>",
    ],
    "host-inventory": [],
    "volume-list": ["pvesm list <storage> --content images"],
    # A disk of our range that no guest has: the form holds that.
    "volume-free": ["pvesm free <loose>"],
    "snippet-put": [],
    "snippet-delete": [],
    "tc-rate-limit": [
        "tc qdisc replace dev <tap> root tbf rate <n>kbit burst <n> latency 400ms",
        "tc qdisc del dev <tap> root",
        "tc qdisc del dev <tap> ingress",
        "tc qdisc add dev <tap> handle ffff: ingress",
        "tc filter add dev <tap> parent ffff: prio 50 basic police rate <n>kbit burst <n> mtu 64kb drop",
    ],
    "guard-set": [
        "qm set <vmid> --hookscript local:snippets/blockhost-guard.sh",
        "env BLOCKHOST_NODE_ROOT=<any> BLOCKHOST_CONFIG_DIR=<any> blockhost-provisioner-guard <vmid> apply",
        "env BLOCKHOST_NODE_ROOT=<any> BLOCKHOST_CONFIG_DIR=<any> blockhost-provisioner-guard <vmid> off",
    ],
    "guard-clear": [
        "qm set <vmid> --delete hookscript",
        "env BLOCKHOST_NODE_ROOT=<any> BLOCKHOST_CONFIG_DIR=<any> blockhost-provisioner-guard <vmid> off",
    ],
}
FORMS = {
    action: [
        [re.compile(re.sub(r"<(\w+)>", lambda m: f"(?:{TOKEN[m.group(1)]})", word)) for word in form.split()] for form in forms
    ]
    for action, forms in FORMS.items()
}  # fmt: skip
OPTIONS = {
    "vm-adopt": {
        "digest": "[0-9a-f]{40}",
        "description": r"BlockHost VM [A-Za-z0-9.-]+ [0-9a-f-]{36}(\n[\s\S]*)?",
        "smbios1": r"uuid=[0-9a-f-]{36}(,[^,]+)*",
        "cicustom": r"user=local:snippets/blockhost-[A-Za-z0-9.-]+-user\.yaml",
    },
    "qm-set": {"onboot": TOKEN["bit"], "cpulimit": TOKEN["cpu"], "cpuunits": N, "delete": TOKEN["drop"]},
    "pve-set-throttle": {
        "digest": "[0-9a-f]{40}",
        "revert": r"(?:cpulimit|cpuunits|(?:scsi|virtio|sata|ide)\d{1,2})(?:,(?:cpulimit|cpuunits|(?:scsi|virtio|sata|ide)\d{1,2}))*",
        "cpulimit": TOKEN["cpu"], "cpuunits": N, "delete": TOKEN["drop"],
        "scsi0": r"[a-z-]+:([0-9]+/)?vm-[0-9]+-disk-0[.a-z0-9]*(,[a-z_]+=[A-Za-z0-9]+)*",
    },
    "qm-create": {
        "name": r"[A-Za-z0-9][A-Za-z0-9.-]*", "memory": N, "cores": N, "sockets": N, "cpu": r"[A-Za-z0-9][A-Za-z0-9._=-]*",
        "scsihw": r"virtio-scsi-(pci|single)", "net0": r"(virtio|e1000)[A-Za-z0-9:=,._-]*", "ostype": r"[a-z0-9]+",
        "agent": r"[a-z=_,01]+", "ide2": r"[A-Za-z0-9._-]+:cloudinit(,media=cdrom)?", "boot": r"c|order=[a-z0-9;]+", "bootdisk": "scsi0",
        "serial0": "socket", "vga": "[a-z0-9]+", "scsi0": r"[A-Za-z0-9._-]+:[0-9]*(/?vm-[0-9]+-disk-[0-9]+)?[A-Za-z0-9=,.]*",
        "onboot": TOKEN["bit"], "tablet": TOKEN["bit"], "description": r"[A-Za-z0-9][A-Za-z0-9 ._:,/()-]*",
        "pool": r"[A-Za-z0-9][A-Za-z0-9._-]*",
    },
}  # fmt: skip


def permitted(action, argv):
    if action in OPTIONS:
        verb = "create" if action == "qm-create" else "set"
        if argv[:2] != ["qm", verb] or not re.fullmatch(TOKEN["vmid"], argv[2]) or len(argv) % 2 == 0:
            return False
        pairs = list(zip(argv[3::2], argv[4::2]))
        return len(dict(pairs)) == len(pairs) and all(
            key[:2] == "--" and key[2:] in OPTIONS[action] and re.fullmatch(OPTIONS[action][key[2:]], value)
            for key, value in pairs
        )
    return any(
        len(form) == len(argv) and all(pattern.fullmatch(word) for pattern, word in zip(form, argv))
        for form in FORMS[action]
    )


def target(argv):
    if argv[0] == "tc":
        return int(re.match(r"tap(\d+)i", argv[4]).group(1))
    if argv[0] == "env":
        return int(argv[4])
    return int(argv[3 if argv[1] == "guest" else 2])


def entitled(action, params, vmid):
    """Whether these parameters may do something to this VMID."""
    if action == "qm-create":
        return vmid == TEMPLATE or (100 <= vmid <= 999 and vmid not in (*OURS, 300, 301, 302))
    if vmid == TEMPLATE:
        return action in ("qm-importdisk", "qm-template")
    uuid, name = params.get("uuid"), params.get("name")
    if action == "qm-start" and uuid is None and name is None:
        return vmid in OURS
    if action == "vm-adopt":
        # By the name, whatever UUID is asked for.
        uuid = None
    if vmid not in OURS:
        return False
    if uuid is not None:
        return uuid.lower() == OURS[vmid][0]
    return name == OURS[vmid][1]


# --- what arrives

NASTY = st.sampled_from([
    "", " ", "-", "--", "-x", "--purge=1", "\0", "a\0b", "\n", "a\nb", "..", "../..", "/", "/etc/shadow", "$(id)", "`id`", "; id", "| id",
    "${x}", "%00", "%2e%2e", "100", "100 101", "101;102", "\ud800", "\u202e", "ü", "x" * 300, "a" * 70000, "true", "null", "0x64", "1e3",
])  # fmt: skip
JUNK = st.one_of(
    NASTY,
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([[], {}, [[]], [None], {"": None}, {"vmid": 100}, [100], ["-x"]]),
)


def some(*good):
    """What is right or nearly so."""
    return st.sampled_from(good)


# Guest and identity that belong together, and every way in which they do not.
RIGHT = [
    *({"vmid": vmid, "uuid": uuid} for vmid, (uuid, _) in OURS.items() if uuid and vmid != 104),
    {"vmid": 101, "uuid": OURS[101][0].upper(), "name": "web-9"},
    {"vmid": 101, "name": "web-2"},
    {"vmid": 102, "uuid": OURS[102][0], "name": "web-3"},
    {"vmid": 103, "name": "old.one", "uuid": None},
]
WRONG = [
    {"vmid": 104, "uuid": OURS[104][0]},
    {"vmid": 1000, "uuid": UUID},
    {"vmid": 300, "name": "tpl"},
    *(
        {"vmid": vmid, "uuid": UUID, "name": "web-1"}
        for vmid in (101, 102, 105, 200, 300, 301, 302, TEMPLATE)
    ),
    *({"vmid": vmid} for vmid in (100, 101, 105, 200, 300, TEMPLATE)),
]
WHO = {
    "qm-create": [{"vmid": 200}, {"vmid": 201}, {"vmid": 8000}, *WRONG],
    "qm-importdisk": [{"vmid": TEMPLATE}, {"vmid": TEMPLATE, "name": "debian-12-web3-template"}],
    "qm-template": [{"vmid": TEMPLATE}, {"vmid": TEMPLATE, "name": "debian-12-web3-template"}],
    # By the name alone; web-1 has a namesake, and is never adopted.
    "vm-adopt": [{"vmid": vmid, "name": name} for vmid, (_, name) in OURS.items()],
    "tc-rate-limit": [{**who, "dev": f"tap{who['vmid']}i0"} for who in RIGHT],
}


def who(action):
    right, wrong = st.sampled_from(WHO.get(action, RIGHT)), st.sampled_from(RIGHT + WRONG)
    return st.one_of(right, right, right, wrong)


# For parameters to be replaced by: anything, or what is right elsewhere.
OTHER = st.one_of(
    JUNK,
    st.sampled_from(
        [
            100,
            101,
            105,
            300,
            301,
            302,
            1000,
            TEMPLATE,
            UUID,
            OTHER_UUID,
            OURS[101][0],
            "web-1",
            "web-2",
            "stranger",
            "tpl",
        ]
    ),
)
TAP = some("tap100i0", "tap101i0", "tap102i1", "tap105i0", "tap1000i0", "tap9001i0", "vmbr0", "tap100i0 root")
CONFIG_VALUE = st.one_of(
    some(0, 1), some(0, 1), some(True, False, 2, 1.5, 128, 50, None), JUNK.map(lambda value: value)
)
WRONG_KEYS = ["reset", "iops", "bps_rd", "--scsi0", "scsi0", "args", ""]
SET_KEYS = st.sampled_from(["onboot", "cpulimit", "cpuunits"] * 4 + WRONG_KEYS + ["iops_rd"])
LIMIT_KEYS = st.sampled_from(["cpulimit", "cpuunits", "iops_rd", "iops_wr"] * 4 + WRONG_KEYS + ["onboot"])
GOOD_OPTIONS = [
    ["name", "web-9"], ["--memory", 512], ["--cores", "1"], ["scsihw", "virtio-scsi-pci"], ["--net0", "virtio,bridge=vmbr0"],
    ["--ostype", "l26"], ["agent", "enabled=1,fstrim_cloned_disks=1"], ["ide2", "local:cloudinit"], ["boot", "order=scsi0"],
    ["serial0", "socket"], ["vga", "serial0"], ["scsi0", "local:10"], ["scsi0", "local-lvm:vm-9001-disk-0"], ["cpu", "host"],
]  # fmt: skip
BAD_OPTIONS = [
    ["scsi0", "local-lvm:vm-100-disk-0"], ["scsi0", "local:0,import-from=/etc/shadow"], ["scsi0", "/dev/sda"], ["args", "-x"],
    ["hookscript", "local:snippets/x"], ["name", "a b"], ["net0", "virtio,bridge=vmbr0,script=x"], ["--start", "1"], ["name"],
]  # fmt: skip
CREATE = st.one_of(
    st.sampled_from(GOOD_OPTIONS),
    st.sampled_from(GOOD_OPTIONS),
    st.sampled_from(GOOD_OPTIONS + BAD_OPTIONS),
    st.tuples(st.sampled_from(GOOD_OPTIONS).map(lambda pair: pair[0]), JUNK).map(list),
)
PARAMS = {
    "vm-state": {},
    "qm-start": {},
    "qm-stop": {"timeout": some(1, 10, 300, 0)},
    "qm-shutdown": {"timeout": some(1, 60, 3600, 0)},
    "qm-resume": {},
    "qm-destroy": {},
    "qm-create": {"args": st.lists(CREATE, max_size=4)},
    "qm-set": {"config": st.dictionaries(SET_KEYS, CONFIG_VALUE, min_size=1, max_size=2)},
    "qm-importdisk": {
        "image_path": some(
            "IMAGE",
            "IMAGE",
            "IMAGE",
            "/tmp/none",
            "/etc/passwd",
            "/tmp/../etc/passwd",
            "/var/lib/blockhost/x",
            "/dev/null",
            "/proc/self/mem",
        ),
        "storage": some("local", "local-lvm", "-x"),
        "target_disk": some(None, None, "scsi0", "scsi1"),
    },
    "qm-template": {},
    "qm-guest-ping": {},
    "qm-guest-exec": {"command": some("true", "--help", "echo $(id); x"), "wait": some(0, 2, 5, 0.5)},
    "qm-guest-exec-status": {"pid": some(1, 4242, 2**31 - 1, 0)},
    "qm-update-gecos": {
        "username": some("admin", "admin", "_x-1", "_x-1", "-l", "root:x"),
        "gecos": some(
            "wallet=0xAB,nft=17",
            "wallet=a,nft=ff",
            "wallet=a,nft=1",
            "wallet=a,nft=2",
            "wallet=a:b,nft=1",
            "-L",
        ),
    },
    "snippet-put": {
        "name": some("web-1", "a.b", "a" * 63, "a" * 64, "../x", "a/b"),
        "kind": some("user", "meta", "vendor"),
        "text": some("#cloud-config\n", "", "ü" * 100),
    },
    "host-inventory": {},
    "volume-list": {"storages": some(["local-lvm"], ["local-lvm", "tank"], ["-x"], [], "local", ["a b"], [7])},
    "volume-free": {
        "volid": some(
            "local-lvm:vm-400-disk-0",
            "tank:base-9001-disk-0/vm-401-cloudinit",
            "local-lvm:vm-100-disk-0",
            "local-lvm:vm-5000-disk-0",
            "local:../vm-400-disk-0",
            "-x:vm-400-disk-0",
            "local-lvm:base-400-disk-0",
        )
    },
    "snippet-delete": {"name": some("web-1", "a.b", "../x", "."), "kind": some("user", "meta", "../meta")},
    "pve-set-throttle": {"limits": st.dictionaries(LIMIT_KEYS, CONFIG_VALUE, min_size=1, max_size=2)},
    "tc-rate-limit": {
        "dev": TAP,
        "direction": some("in", "out", "both"),
        "rate_kbps": some(1, 2000, 100_000_000, 0, None, -1),
        "remove": some(None, None, True, False),
    },
    "guard-set": {
        "ipv4": some("192.168.122.200", "192.168.122.200", "192.168.122.1", "10.0.0.1", None),
        "ipv6": some(None, "2001:db8::2", "::/0"),
        "anti_spoofing": some(True, True, False),
        "isolate": some(True, True, False),
        "enabled": some(True, True, False),
        "limits": some(None, {}, {"bandwidth_in_kbps": 5}, {"bandwidth_out_kbps": -1}, {"x": 1}),
    },
    "guard-clear": {},
    "vm-adopt": {
        "new_uuid": some(ADOPTED, ADOPTED, "x", OTHER_UUID),
        "address": some(None, None, "192.168.122.200", "10.0.0.1;id"),
        "check": some(True, True, False, False, 1),
    },
}
# What the tools answer to the request at hand: code, stdout, stderr, or an exception, or nothing in time.
ANSWERS = st.sampled_from([
    (0, "", ""), (0, "", ""), (0, '{"pid" : 4242}', ""), (0, '{"pid" : 4242}', ""), (0, '{"exited":1,"exitcode":0,"out-data":"\u00c3\u00bc"}', ""),
    (0, '{"exited":0}', ""), (0, '{"exited":1,"signal":9}', ""), (0, "[[", "x"), (0, "null", ""), (0, "\x00\x1b[2J\ud800", "\udcff"),
    (255, "", "VM is locked (backup)"), (2, "", "Configuration file 'x' does not exist"), (255, "", ""), (255, "x" * 100000, "y" * 100000),
    (2, "", "Error: Invalid handle."), (255, "", "Unknown option: overrule-shutdown"),
    (0, "unused0: successfully imported disk 'l:vm-9001-disk-0'", ""),
    FileNotFoundError(2, "x"), PermissionError(13, "x"), ValueError("embedded null byte"), subprocess.TimeoutExpired("qm", 4),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "slow",
])  # fmt: skip
# What lets a request succeed.
FINE = {
    "qm-guest-exec": [(0, '{"pid" : 4242}', ""), (0, '{"exited":1,"exitcode":0}', "")],
    "qm-update-gecos": [(0, '{"pid" : 4242}', ""), (0, '{"exited":1,"exitcode":0}', "")],
    "qm-guest-exec-status": [(0, '{"exited":1,"exitcode":0}', "")],
}
CODES = {"identity", "missing", "elsewhere", "locked", "range", "failed", "collision"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        node = build(tmp_path_factory.mktemp("fuzz") / "node", monkeypatch)
        image = node.root.parent / "image.raw"
        image.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * 3584)
        image.chmod(0o644)
        node.image = str(image)
        yield node


def outside(node):
    ours = tuple(f"{node.root / folder}" for folder in ("var/lib/vz/snippets/", "var/lib/blockhost-guard"))
    return {path: content for path, content in tree(node.root).items() if not f"{path}/".startswith(ours)}


@pytest.mark.parametrize("action", sorted(PARAMS))
def test_h28_h47_any_parameters(world, action):
    before = outside(world)
    started = COUNT["cases"]
    base = st.tuples(who(action), st.fixed_dictionaries(PARAMS[action])).map(
        lambda pair: {**pair[1], **pair[0]}
    )
    keys = ["vmid", "uuid", "name", "skiplock", *PARAMS[action]]

    # One example is a request that makes sense, and that request with one parameter, then
    # with all of some, replaced by anything, and with one left out.
    @settings(
        max_examples=max(1, -(-CASES // len(PARAMS) // 5)),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        params=base,
        first=st.tuples(st.sampled_from(keys), OTHER),
        second=st.tuples(st.sampled_from(keys), OTHER),
        left_out=st.sampled_from(keys),
        answers=st.one_of(
            st.lists(ANSWERS, min_size=1, max_size=3), st.just(FINE.get(action, [(0, "", "")]))
        ),
    )
    def case(params, first, second, left_out, answers):
        one(world, action, params, answers)
        one(world, action, params | dict([first]), answers)
        one(world, action, params | dict([second]), answers)
        one(world, action, params | dict([first, second]), answers)
        one(world, action, {key: value for key, value in params.items() if key != left_out}, answers)

    case()
    assert COUNT["cases"] - started >= CASES // len(PARAMS)
    assert outside(world) == before
    for name in os.listdir(world.root / "var/lib/vz/snippets"):
        assert SNIPPET_RE.fullmatch(name), name
    folder = world.root / "var/lib/blockhost-guard"
    for name in os.listdir(folder) if folder.exists() else ():
        decided = json.loads((folder / name).read_text())
        assert int(name.removesuffix(".json")) == decided["vmid"] in OURS
        assert decided["ipv4"] in (None, "192.168.122.200") and decided["ipv6"] is None


def one(node, action, params, answers):
    if params.get("image_path") == "IMAGE":
        params = {**params, "image_path": node.image}
    qm._tasks.clear()
    node.calls.clear()
    node.rules.clear()
    turn = iter(answers * 200)

    def answer(argv):
        node.calls.append(argv)
        reply = next(turn)
        if isinstance(reply, Exception):
            raise reply
        return ((0, "", ""), True) if reply == "slow" else (reply, False)

    node._answer = answer
    started = node.clock.now
    response = qm.ACTIONS[action](params)
    COUNT["cases"] += 1
    COUNT["processes"] += len(node.calls)
    COUNT["ok"] += response["ok"]
    if response["ok"] and (node.calls or not FORMS.get(action, True)):
        ACTED.add(action)

    assert type(response["ok"]) is bool
    text = json.dumps(response)
    assert json.loads(text) == response and len(text) < 4_000_000
    if not response["ok"]:
        assert (
            response["code"] in CODES
            and isinstance(response["error"], str)
            and 0 < len(response["error"]) <= 2000
        )
        assert not any(ord(c) < 32 and c != "\n" or ord(c) == 127 for c in response["error"])
    assert node.clock.now - started <= 14, "the lane is held too long"
    for argv in node.calls:
        assert all(type(word) is str and "\0" not in word for word in argv)
        assert permitted(action, argv), argv
        assert argv[0] == "pvesm" or entitled(action, params, target(argv)), (argv, params)


def test_h28_the_cases_were_enough(world):
    """Runs last: most cases must reach a decision, not the first type check."""
    if COUNT["cases"] == 0:
        pytest.skip("run without the cases")
    print(COUNT)
    assert COUNT["cases"] >= CASES
    assert COUNT["processes"] >= CASES / 15 and COUNT["ok"] >= CASES / 15
    if CASES >= 50000:
        # The others are read back, and this node never changes.
        assert ACTED >= set(PARAMS) - {"vm-adopt", "qm-destroy", "qm-create", "qm-importdisk", "qm-template"}


FILES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(["name: x", "#a%ff%00", "smbios1: uuid=", "[snap]", "[PENDING]", "template: 1", "lock: clone", "onboot: 1", ": x", "a", "#", "",
                         "vmid_range:", "  start: 1", "  end: 9", "vmid_range: {start: 1, end: 9}", "snippet_storage: x", "{", '{"ids":{"100":{}}}',
                         '{"ids":{"100":{"node":"a/b","type":"qemu"}}}', "dir: local", "\tpath /x", "\tcontent-dirs snippets=../..", "-id\x00100\x00"]),
        max_size=8,
    ).map(lambda lines: "\n".join(lines).encode()),
)  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "etc/pve/.vmlist",
        "etc/pve/qemu-server/100.conf",
        "etc/pve/storage.cfg",
        "db",
        "run/qemu-server/100.pid",
        "proc/4711/cmdline",
    ],
)
def test_h17_any_file_of_the_node(tmp_path, monkeypatch, path):
    """Files of root, so broken rather than hostile: an answer all the same, and no process on a guess."""
    node = build(tmp_path / "node", monkeypatch)
    node.start(100)
    file = node.config_dir / "db.yaml" if path == "db" else node.root / path
    asked = [
        ("vm-state", {"vmid": 100}),
        ("qm-destroy", {"vmid": 100, "uuid": OTHER_UUID}),
        ("qm-set", {"vmid": 1000, "uuid": UUID, "config": {"onboot": 1}}),
        ("snippet-put", {"name": "web-1", "kind": "user", "text": "x"}),
    ]

    @settings(
        max_examples=max(20, CASES // 200),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=FILES)
    def case(content):
        file.write_bytes(content)
        for action, params in asked:
            response = qm.ACTIONS[action](params)
            json.dumps(response)
            assert response["ok"] or response["code"] in CODES
            if action == "snippet-put" and response["ok"]:
                assert list((node.root / "var/lib/vz/snippets").iterdir()) or path == "etc/pve/storage.cfg"
        assert node.calls == []

    case()
    assert not list(tmp_path.glob("*.yaml")) and not list(node.root.glob("*.yaml"))
