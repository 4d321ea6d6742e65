"""The page in a real browser (Debian's package `chromium`), with and without JavaScript.

Pictures are kept in target/wizard-screenshots.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from app import create_app
from browser_checks import CHECKS, CONTRAST, chromium, is_left_out
from werkzeug.serving import make_server

from conftest import PAGE_FORM, ROOT, SetupCommand, found

PICTURES = ROOT / "target" / "wizard-screenshots"

pytestmark = pytest.mark.skipif(is_left_out(), reason="BLOCKHOST_NO_BROWSER=1")

class Host:
    """The host application on a port of its own, and its setup command."""

    def __init__(self, folder: Path) -> None:
        self.setup = SetupCommand(folder)
        self.server = make_server("127.0.0.1", 0, create_app(csrf=True), threaded=True)
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)


@pytest.fixture(scope="module")
def host():
    patch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory() as folder:
        patch.setattr("werkzeug.serving.WSGIRequestHandler.log_request", lambda *_, **__: None)
        host = Host(Path(folder))
        host.thread.start()
        yield host
        host.server.shutdown()
        host.thread.join(10)
        host.server.server_close()
    patch.undo()


@pytest.fixture(scope="module")
def browser():
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        yield browser


@pytest.fixture
def host_path(host, monkeypatch):
    """The server runs in this process: its search path is ours."""
    monkeypatch.setenv("PATH", str(host.setup.folder))
    host.setup.answers(found())
    return host


@pytest.fixture
def open_page(browser, host_path):
    """Opens a page at a width; fails the test afterwards where it complained."""
    contexts, complaints = [], []

    def new(width=1000, javascript=True, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            java_script_enabled=javascript,
            base_url=host_path.url,
            **options,
        )
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield new
    for context in contexts:
        context.close()
    assert complaints == []


def picture(page, name):
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def send(page):
    """Posts the form; the page that answers may have the same address."""
    with page.expect_navigation():
        page.get_by_role("button", name="Continue").click()


def follow(page, name):
    """Follows a link to another page, and waits until that page is there: a click alone does not wait for it."""
    with page.expect_navigation():
        page.get_by_role("link", name=name).click()


def values(page):
    return {name: page.locator(f"#{name}").input_value() for name in PAGE_FORM}


def sound(page):
    assert page.evaluate(CHECKS) == []
    assert page.evaluate(CONTRAST) == []


def test_from_the_page_to_the_summary(open_page):
    page = open_page()
    page.goto("/wizard/proxmox")
    assert values(page) == PAGE_FORM
    sound(page)
    picture(page, "1-page")
    # The folded part opens, although the host's style sheet hides it until a script comes.
    assert not page.locator("#pve_user").is_visible()
    page.get_by_text("Advanced").click()
    assert page.locator("#pve_user").is_visible()
    page.select_option("#pve_storage", label="tank (zfspool, 1800 of 2000 GiB free)")
    page.select_option("#pve_bridge", "vmbr2")
    page.get_by_label("Gateway").fill("192.168.1.1")
    page.get_by_label("Proxmox API user").fill("root@pam")
    page.get_by_label("Grace period").fill("")
    send(page)

    assert page.url.endswith("/wizard/proxmox") and page.title() == "Please check: Proxmox VE"
    sound(page)
    picture(page, "2-mistakes")
    assert page.locator("#proxmox-mistakes li").count() == 3
    assert page.evaluate("document.activeElement.id") == "proxmox-mistakes"
    assert page.locator("#pve_user").is_visible()  # open, because there is a mistake in it
    wanted = {
        "pve_storage": "tank",
        "pve_bridge": "vmbr2",
        "gateway": "192.168.1.1",
        "pve_user": "root@pam",
    }
    assert values(page) == {**PAGE_FORM, **wanted, "gc_grace_days": ""}
    assert page.get_by_label("Gateway").get_attribute("aria-invalid") == "true"
    page.get_by_role("link", name="Gateway").click()
    assert page.evaluate("document.activeElement.id") == "gateway"
    page.keyboard.press("Control+A")
    page.keyboard.type("192.168.122.1")
    page.get_by_label("Proxmox API user").fill("svc@pve")
    page.get_by_label("Grace period").fill("14")
    with page.expect_navigation():
        page.keyboard.press("Enter")

    page.wait_for_url("**/wizard/connectivity*")
    assert page.locator("#management_url").inner_text() == "https://203.0.113.5:8006"
    # Back: what was chosen is there. One more change.
    follow(page, "Back")
    assert values(page) == {
        **PAGE_FORM,
        **wanted,
        "gateway": "192.168.122.1",
        "pve_user": "svc@pve",
        "gc_grace_days": "14",
    }
    page.get_by_label("First address").fill("210")
    send(page)
    follow(page, "Continue")
    sound(page)
    picture(page, "3-summary")
    text = page.locator("main").inner_text()
    for shown in (
        "tank",
        "vmbr2",
        "192.168.122.210 to 192.168.122.250",
        "14 days",
        "svc@pve",
        "VM 9001",
    ):
        assert shown in text
    follow(page, "Change the Proxmox settings")
    assert values(page)["ip_start"] == "192.168.122.210"
    follow(page, "Back")
    assert page.locator("h1").inner_text() == "Welcome"


def test_the_room_for_vms_is_told_while_it_is_typed_as_the_server_counts(open_page):
    page = open_page()
    page.goto("/wizard/proxmox")
    room = page.locator("#proxmox-room")

    def told():
        return room.inner_text().strip()

    served = told()
    assert served.startswith("Room for 51 VMs at a time: 51 addresses, 898 free VM IDs. local-lvm has 420")
    page.locator("#ip_start").fill("200")
    assert told() == served
    page.locator("#vmid_end").fill("110")
    assert told().startswith("Room for 9 VMs at a time: 51 addresses, 9 free VM IDs.")
    page.select_option("#pve_storage", "tank")
    assert told().endswith("tank has 1800 GiB free, enough for 90 disks of 20 GiB.")
    # Each form is counted by the server, too, which shows the page again for the user's sake.
    page.get_by_text("Advanced").click()
    for fields in (
        {"ip_network": "10.0.0.0/8", "ip_start": "10.0.0.9", "ip_end": "10.1.0.9", "gateway": "10.0.0.10"},
        {"ip_network": "192.168.122.0/30", "ip_start": "1", "ip_end": "2", "gateway": "192.168.122.1"},
        {"ip_start": "251"},
        {"vmid_end": "999999999"},
        {"vmid_start": "x"},
        {"ip_network": "192.168.122.1/24"},
        {"gateway": "192.168.123.1"},
        {"ip_end": "255"},
        {"gateway": "192.168.122.01"},
    ):
        for name, text in {**PAGE_FORM, **fields, "pve_user": "nobody"}.items():
            if name not in ("pve_node", "pve_storage", "pve_bridge"):
                page.locator(f"#{name}").fill(text)
        live = told() if room.is_visible() else ""
        send(page)
        assert (told() if room.is_visible() else "") == live, fields
        assert (live != "") == (len(fields) == 4), (fields, live)


def test_without_javascript(open_page):
    page = open_page(javascript=False)
    page.goto("/wizard/proxmox")
    assert not page.locator("#pve_user").is_visible()
    page.locator("summary").click()
    assert page.locator("#pve_user").is_visible()
    page.locator("#ip_end").fill("\"><script>document.title='no'</script>")
    page.locator("#pve_node").focus()
    send(page)
    assert page.locator("#proxmox-mistakes li").count() == 1
    assert page.locator("#ip_end").input_value() == "\"><script>document.title='no'</script>"
    picture(page, "4-without-javascript")
    page.locator("#ip_end").fill("192.168.122.220")
    send(page)
    page.wait_for_url("**/wizard/connectivity*")
    page.goto("/wizard/summary")
    assert "192.168.122.200 to 192.168.122.220" in page.locator("main").inner_text()


def test_typed_script_is_not_run(open_page):
    page = open_page()
    page.goto("/wizard/proxmox")
    for name in PAGE_FORM:
        if page.locator(f"#{name}").evaluate("e => e.tagName") == "INPUT":
            page.evaluate(
                "([n, v]) => { document.getElementById(n).value = v }",
                [name, '"><img src=x onerror=hit=1><script>hit=1</script>'],
            )
    send(page)
    assert page.locator("#proxmox-mistakes li").count() == 9
    assert page.evaluate("typeof hit") == "undefined" and page.locator("main img").count() == 0


def test_a_host_that_says_nothing(open_page, host_path):
    host_path.setup.path.unlink()
    page = open_page()
    page.goto("/wizard/proxmox")
    sound(page)
    picture(page, "5-nothing-found")
    assert page.locator("select").count() == 0
    assert "is not installed" in page.locator("#proxmox-problem").inner_text()
    page.locator("#pve_node").fill("pve")
    send(page)
    page.wait_for_url("**/wizard/connectivity*")


@pytest.mark.parametrize("width", [400, 320])
def test_on_a_narrow_window(open_page, host_path, width):
    long = {
        "name": "a-storage-with-a-very-long-name-of-somebody",
        "type": "dir",
        "total_gib": 9,
        "free_gib": 1,
        "images": True,
    }
    host_path.setup.answers(found(storages=[long], used_vmids=list(range(100, 200))))
    page = open_page(width=width)
    page.goto("/wizard/proxmox")
    sound(page)
    picture(page, f"6-narrow-{width}")
    page.get_by_label("IPv4 network").fill("x" * 255)
    page.get_by_label("Proxmox node").focus()
    send(page)
    sound(page)
    picture(page, f"7-narrow-{width}-mistakes")
    page.get_by_label("IPv4 network").fill("192.168.122.0/24")
    send(page)
    page.goto("/wizard/summary")
    sound(page)
    picture(page, f"8-narrow-{width}-summary")


def test_by_keyboard_alone(open_page):
    page = open_page()
    page.goto("/wizard/proxmox")
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if seen[-1] == "BUTTON":
            break
    fields = [name for name in PAGE_FORM if name != "pve_user"]
    assert sorted(seen) == sorted([*fields, "SUMMARY", "A", "BUTTON"])
    order = (
        "pve_node pve_storage template_vmid vmid_start vmid_end pve_bridge ip_network ip_start"
        " ip_end"
    )
    assert [name for name in seen if name in fields] == [*order.split(), "gateway", "gc_grace_days"]
    page.keyboard.press("Enter")
    page.wait_for_url("**/wizard/connectivity*")
