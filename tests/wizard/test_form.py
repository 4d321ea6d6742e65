"""Each field of the form by itself, and what the fields are to each other."""

from __future__ import annotations

import pytest
from blockhost.provisioner_proxmox import form

from conftest import PAGE_FORM, STORED

DEFAULTS = dict(form.BUILT_IN)
KEY_OF = {form.field_name(key): key for key in form.KEYS}


def submit(**fields):
    """The page as it is posted, with some fields changed."""
    return form.submitted({**{k: [v] for k, v in PAGE_FORM.items()}, **listed(fields)}, DEFAULTS)


def automated(**fields):
    """An automated install, which posts what it likes."""
    return form.submitted(listed(fields), DEFAULTS)


def listed(fields):
    return {name: value if isinstance(value, list) else [value] for name, value in fields.items()}


LONG = "a" * 10_000

GOOD = [
    ("pve_node", "pve", "pve"),
    ("pve_node", "  n-1 \t", "n-1"),
    ("pve_node", "7", "7"),
    ("pve_storage", "local-lvm", "local-lvm"),
    ("pve_storage", "Tank_1.x9", "Tank_1.x9"),
    ("pve_storage", "aa", "aa"),
    ("pve_bridge", "vmbr0", "vmbr0"),
    ("pve_bridge", "br_a.100-x", "br_a.100-x"),
    ("pve_bridge", "a" * 15, "a" * 15),
    ("pve_user", "blockhost@pve", "blockhost@pve"),
    ("pve_user", "root@pve", "root@pve"),
    ("pve_user", "a.b_c-d@ldap-1", "a.b_c-d@ldap-1"),
    ("template_vmid", "1000", 1000),
    ("template_vmid", "999999999", 999_999_999),
    ("vmid_start", "101", 101),
    ("vmid_start", "0100", 100),
    ("vmid_end", "101", 101),
    ("vmid_end", "9000", 9000),
    ("gc_grace_days", "0", 0),
    ("gc_grace_days", "36500", 36500),
    ("ip_start", "200", "192.168.122.200"),
    ("ip_start", "1", "192.168.122.1"),
    ("ip_end", " 254 ", "192.168.122.254"),
    ("ip_end", "192.168.122.200", "192.168.122.200"),
    ("gateway", "192.168.122.254", "192.168.122.254"),
    ("gateway", "192.168.122.210", "192.168.122.210"),
    ("terraform_dir", "/srv/terraform", "/srv/terraform"),
    ("terraform_dir", "/var/lib//blockhost/tf/", "/var/lib/blockhost/tf"),
]

# fmt: off
BAD = {
    "pve_node": ["-a", "a-", "a.b", "a_b", "a b", "a\nb", "ä", "п", "a" * 64, "../x", LONG],
    "pve_storage": ["a", "1a", "a-", "a.", "-a", "a b", "a/b", "a,b", "ä1", "a\0b", "a" * 65, LONG],
    "pve_bridge": [".", "..", ".x", "-vmbr0", "a" * 16, "br 0", "br/0", "br:0", "brü", "br\0",
                   LONG],
    "pve_user": ["a", "@pve", "a@", "a b@pve", "a:b@pve", "a/b@pve", "a@p/ve", "a!t@pve", "a=b@pve",
                 "a@1pve", "a@pve@x", "-a@pve", ".a@pve", "a\u00a0b@pve", "a" * 61 + "@pve", LONG],
    "template_vmid": ["99", "0", "-1", "+9001", "9e3", "1000000000", "0x99", "9001.0", "9_001",
                      "9 001", "٩٠٠١", "９００１", "9" * 5000, "nan", "None", LONG,
                      "100", "999", "500"],  # in the range of the customers' VMs
    "vmid_start": ["99", "1000000", "-100", "x", "1e3", "²00"],
    "vmid_end": ["100", "99", "1000000", "9001", "999999", "1.5"],
    "gc_grace_days": ["-1", "36501", "7.0", "seven", "٧"],
    "ip_network": ["192.168.122.0", "192.168.122.0/7", "192.168.122.0/31", "192.168.122.1/24",
                   "192.168.122.0/255.255.255.0", "192.168.122.0/ 24", "192.168.122/24", "x/24",
                   "192.168.122.0/٢٤", "192.168.122.256/24", "fd00::/64", "192.168.0122.0/24",
                   "127.0.0.0/8", "224.0.0.0/8", "0.0.0.0/8", "10.0.0.0/24", LONG],
    "ip_start": ["0", "256", "255", "-1", "192.168.123.200", "192.168.122.0", "1.2.3", "200x",
                 "251", "192.168.122.255", "192.168.122.200/24", "²00", "::1", LONG],
    "ip_end": ["199", "0", "255", "192.168.121.250", "192.168.122.250 250", "1000"],
    "gateway": ["1", "192.168.122.0", "192.168.122.255", "192.168.121.1", "192.168.122.01", "1.1",
                "192.168.122.1.", "gw.example", "192.168.122.1\0", "", LONG],
    "terraform_dir": ["var/lib/x", "/", "/var/lib/../x", "/var/lib/blockhost/./tf", "/srv/a b",
                      "~/tf", "/etc/blockhost", "/usr/share/x", "/var", "/var/lib", "/srv",
                      "//etc/x", "/root/tf", "/srv/x\0y", "/srv/ü", "/srv/${x}", "/srv/" + LONG],
}
# fmt: on

# Right by themselves, and wrong for another field.
ELSEWHERE = {
    ("vmid_end", "9001"): {"template_vmid"},
    ("vmid_end", "999999"): {"template_vmid"},
    ("ip_network", "10.0.0.0/24"): {"ip_start", "ip_end", "gateway"},
    ("ip_start", "251"): {"ip_end"},
}


def test_the_proposal_is_accepted_and_stored_in_one_form():
    result = submit()
    assert (result.values, result.errors) == (STORED, {})
    assert list(result.values) == list(form.KEYS)


@pytest.mark.parametrize(("name", "text", "wanted"), GOOD)
def test_a_good_value(name, text, wanted):
    key = KEY_OF[name]
    result = submit(**{name: text})
    assert result.errors == {}
    assert result.values == {**STORED, key: wanted}
    assert type(result.values[key]) is type(wanted)


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts]
)
def test_h28_a_bad_value_is_refused_at_its_field(name, text):
    key = KEY_OF[name]
    result = submit(**{name: text})
    assert set(result.errors) == ELSEWHERE.get((name, text), {key})
    assert all(0 < len(why) < 300 and why.isprintable() for why in result.errors.values())
    assert result.typed[key] == form.shown(text.strip())


@pytest.mark.parametrize("name", [name for name in PAGE_FORM])
def test_an_emptied_field_of_the_page_is_asked_for(name):
    for empty in ("", "  \t\n"):
        result = submit(**{name: empty})
        assert list(result.errors) == [KEY_OF[name]] and result.errors[KEY_OF[name]].startswith("Enter ")


@pytest.mark.parametrize("user", ["root@pam", " root@pam ", "Root@pam", "root@PAM"])
def test_h29_the_user_is_never_root(user):
    why = submit(pve_user=user).errors["user"]
    assert "root@pam is not possible" in why and "blockhost@pve" in why


@pytest.mark.parametrize(
    "folder",
    [
        "/etc/terraform",
        "/usr/lib/tf",
        "/root/tf",
        "/boot/x",
        "/proc/x",
        "/dev/shm",
        "/run/x",
        "/lib64/x",
        "/var/lib",
    ],
)
def test_h29_no_folder_of_the_system_is_given_away(folder):
    assert "folder of the system" in automated(terraform_dir=folder).errors["terraform_dir"]


@pytest.mark.parametrize("folder", ["/home/x/tf", "/tmp/tf", "/var/tmp/tf", "//home//x"])
def test_no_folder_that_the_services_cannot_see(folder):
    why = automated(terraform_dir=folder).errors["terraform_dir"]
    assert "services cannot see these" in why and "/var/lib/blockhost/terraform" in why
    for near in ("/homes/x", "/var/tmpfiles/tf", "/srv/home/tf", "/srv/tmp"):
        assert automated(terraform_dir=near).errors == {}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"vmid_start": "500", "vmid_end": "500"}, {"vmid_end"}),
        ({"vmid_start": "600", "vmid_end": "500"}, {"vmid_end"}),
        ({"vmid_start": "9001", "vmid_end": "9999"}, {"template_vmid"}),
        ({"vmid_start": "8000", "vmid_end": "9001"}, {"template_vmid"}),
        ({"vmid_start": "9002", "vmid_end": "9999"}, set()),
        ({"vmid_start": "8000", "vmid_end": "9000"}, set()),
        ({"ip_start": "250", "ip_end": "200"}, {"ip_end"}),
        ({"ip_start": "1", "ip_end": "1"}, {"ip_end"}),  # only the gateway
        ({"ip_start": "1", "ip_end": "2"}, set()),
        ({"ip_start": "200", "ip_end": "200"}, set()),
        ({"ip_network": "10.0.0.0/8"}, {"ip_start", "ip_end", "gateway"}),
        (
            {
                "ip_network": "10.0.0.0/8",
                "ip_start": "10.0.0.5",
                "ip_end": "10.9.9.9",
                "gateway": "10.255.0.1",
            },
            set(),
        ),
        ({"ip_network": "192.168.122.192/26", "gateway": "192.168.122.193"}, set()),
        ({"ip_network": "192.168.122.0/25"}, {"ip_start", "ip_end"}),
        (
            {"ip_network": "10.1.2.0/30", "gateway": "10.1.2.1", "ip_start": "2", "ip_end": "2"},
            set(),
        ),
        (
            {"ip_network": "10.1.2.0/30", "gateway": "10.1.2.1", "ip_start": "2", "ip_end": "3"},
            {"ip_end"},
        ),
    ],
)
def test_relations(fields, wrong):
    assert set(submit(**fields).errors) == wrong


def test_last_octets_are_of_the_network_that_was_posted():
    result = submit(
        ip_network="10.20.0.0/16", gateway="10.20.0.1", ip_start="20", ip_end="10.20.3.7"
    )
    assert result.errors == {}
    assert (result.values["ip_start"], result.values["ip_end"]) == ("10.20.0.20", "10.20.3.7")


def test_a_network_with_host_bits_is_answered_with_the_right_one():
    assert "192.168.122.0/24" in submit(ip_network="192.168.122.77/24").errors["ip_network"]


def test_an_automated_install_posts_the_plain_names():
    result = automated(
        node="n1",
        storage="tank",
        bridge="vmbr5",
        user="svc@pve",
        terraform_dir="/srv/blockhost/terraform",
        template_vmid="9100",
        vmid_start="1000",
        vmid_end="1999",
        ip_network="10.7.0.0/24",
        ip_start="200",
        ip_end="250",
        gateway="10.7.0.1",
        gc_grace_days="14",
    )
    assert result.errors == {}
    assert result.values == {
        "node": "n1",
        "storage": "tank",
        "bridge": "vmbr5",
        "user": "svc@pve",
        "template_vmid": 9100,
        "vmid_start": 1000,
        "vmid_end": 1999,
        "ip_network": "10.7.0.0/24",
        "ip_start": "10.7.0.200",
        "ip_end": "10.7.0.250",
        "gateway": "10.7.0.1",
        "gc_grace_days": 14,
        "terraform_dir": "/srv/blockhost/terraform",
    }


def test_what_an_automated_install_leaves_out_or_empty_takes_the_proposal():
    result = automated(storage="tank", gateway="", ip_start=" ")
    assert (result.values, result.errors) == ({**STORED, "storage": "tank"}, {})


def test_h29_root_of_an_old_automated_install_becomes_the_proposed_user():
    assert automated(user="root@pam").values["user"] == "blockhost@pve"
    assert automated(user="ROOT@pam").errors["user"].startswith("root@pam is not possible")
    assert form.submitted({"user": ["root@pam"]}, {**DEFAULTS, "user": "root@pam"}).errors["user"]


def test_one_field_posted_twice():
    assert submit(gateway=["192.168.122.1", " 192.168.122.1"]).errors == {}
    assert "more than once" in submit(gateway=["192.168.122.1", "192.168.122.2"]).errors["gateway"]
    assert "more than once" in submit(node="other").errors["node"]
    assert submit(node="pve").errors == {}


def test_whether_a_proposal_is_needed():
    page = listed(PAGE_FORM)
    assert not form.incomplete(page)
    assert form.incomplete({**page, "gateway": [" "]})
    assert form.incomplete({name: value for name, value in page.items() if name != "pve_user"})
    assert not form.incomplete({KEY_OF[name]: value for name, value in page.items()})


@pytest.mark.parametrize(
    "value", [None, 1.5, True, [], {}, b"pve", object(), pytest.param(10**5000, id="huge")]
)
def test_stored_values_of_other_types_are_refused(value):
    _, errors = form.checked({**STORED, "node": value})
    assert set(errors) == {"node"}


def test_what_is_shown_again_is_short_and_printable():
    assert form.shown("a\0b\n\x1b[31m\u202ec\ud800d") == "ab[31mcd"
    assert len(form.shown("x" * 100_000)) == 255
