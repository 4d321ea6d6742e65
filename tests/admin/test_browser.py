"""The page in a real browser: at every width from a phone to a wide screen, in two layouts.

Pictures are kept in target/admin-screenshots.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from app import create_app
from blockhost.provisioner_proxmox import admin, node_report
from browser_checks import CHECKS, CONTRAST, chromium, is_left_out
from werkzeug.serving import make_server

from conftest import AUDIT, CAPACITY, DOCTOR, LIST, PAGE, ROOT, audit, capacity, doctor, expiring

PICTURES = ROOT / "target" / "admin-screenshots"
WIDTHS = [320, 375, 768, 1024, 1600]

pytestmark = pytest.mark.skipif(is_left_out(), reason="BLOCKHOST_NO_BROWSER=1")

# No text is outside of the window or of the box that it is in, and none is under another.
CUT = """() => {
  const bad = [], seen = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (!node.textContent.trim() || node.parentElement.closest("thead, title")) continue;
    if (!node.parentElement.checkVisibility()) { bad.push("not visible: " + node.textContent); continue; }
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = node.parentElement.closest("td, li, section, .proxmox-admin-tile, body").getBoundingClientRect();
    for (const r of range.getClientRects()) {
      if (r.left < 0 || r.right > window.innerWidth + 0.5) bad.push("outside the window: " + node.textContent);
      if (r.left < box.left - 0.5 || r.right > box.right + 0.5 || r.bottom > box.bottom + 2)
        bad.push("outside its box: " + node.textContent);
      for (const [o, text] of seen) {
        const wide = Math.min(r.right, o.right) - Math.max(r.left, o.left);
        const high = Math.min(r.bottom, o.bottom) - Math.max(r.top, o.top);
        if (wide > 1 && high > Math.min(r.height, o.height) / 2)
          bad.push("one over the other: " + text + " / " + node.textContent);
      }
      seen.push([r, node.textContent]);
    }
  }
  for (const e of document.querySelectorAll(".proxmox-admin *"))
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).overflowX !== "visible" && !e.closest("thead"))
      bad.push("scrolls or is cut: " + e.className);
  return bad;
}"""


# Words and addresses of usual length stand on one line.
BROKEN = """() => [...document.querySelectorAll("td")]
  .filter((cell) => ["State", "Record", "Address", "Verb", "Process", "Total", "In use", "Free", "More VMs"].includes(cell.dataset.label))
  .filter((cell) => cell.firstElementChild.getBoundingClientRect().height > 30)
  .map((cell) => cell.textContent)"""


class Panel:
    """Two panels on ports of their own: one with a layout, one without."""

    def __init__(self) -> None:
        self.servers = []
        for layout in ("templates", None):
            app = create_app(layout)
            app.config["OPEN"] = True
            self.servers.append(make_server("127.0.0.1", 0, app, threaded=True))
        self.urls = dict(zip(("panel", "own"), (f"http://127.0.0.1:{server.port}{PAGE}" for server in self.servers)))
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def panel():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("werkzeug.serving.WSGIRequestHandler.log_request", lambda *_, **__: None)
        panel = Panel()
        yield panel
        for server in panel.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module")
def browser():
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, panel, commands):
    """Opens the page in a layout at a width; fails the test afterwards where the browser complained."""
    contexts, complaints = [], []

    def new(layout="own", width=1024, javascript=True):
        context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=javascript)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(panel.urls[layout])
        # Nothing is fetched but from the panel; a policy that refused something would be a complaint.
        assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {panel.urls[layout].split("/")[2]}
        return page

    yield new
    for context in contexts:
        context.close()
    assert complaints == []


def sound(page, name: str) -> None:
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
    assert page.evaluate(CHECKS) == []
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(CUT) == []


def long_answers(commands) -> None:
    """What is there to be shown has no place to break at."""
    token = "x" * 180
    found = doctor()
    found["findings"][0].update({"where": token, "what": token, "mend": f"blockhost-vm-start {token}", "code": token})
    commands.answers(DOCTOR, {**found, "creates": [{**one, "vm": token} for one in found["creates"]]}, stderr=token)
    commands.answers(CAPACITY, capacity(not_known=[token], storages=[{**capacity()["storages"][0], "storage": token}]))
    commands.answers(LIST, [{**vm, "name": token[:63], "status": token, "ip": token, "wallet": token} for vm in expiring()])
    commands.answers(AUDIT, [{**line, "vm": token, "verb": token, "caller": token, "result": token} for line in audit()])


@pytest.mark.parametrize("layout", ["own", "panel"])
def test_at_every_width(open_page, commands, layout):
    page = open_page(layout)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        sound(page, f"{layout}-{width}")
        assert page.evaluate(BROKEN) == []
    long_answers(commands)
    admin.reporter = node_report.Reporter()
    page.reload()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        sound(page, f"{layout}-{width}-long")


def test_with_nothing_known_and_with_nothing_to_tell(open_page, commands):
    commands.answers(DOCTOR, doctor(findings=[], creates=[], counts={"error": 0, "warning": 0, "note": 0}))
    commands.answers(LIST, [])
    commands.answers(AUDIT, [])
    sound(open_page(width=768), "own-768-well")
    for name in (DOCTOR, LIST, AUDIT, CAPACITY):
        (commands.folder / name).unlink(missing_ok=True)
    admin.reporter = node_report.Reporter()
    sound(open_page(width=375), "own-375-nothing-known")


def test_without_javascript_and_by_keyboard(open_page, commands):
    page = open_page(javascript=False)
    assert page.locator("section").count() == 5 and page.get_by_text("route-missing").is_visible()
    commands.answers(DOCTOR, doctor(findings=[]))
    admin.reporter = node_report.Reporter()
    with page.expect_navigation():
        page.get_by_role("link", name="Reload").click()
    assert page.get_by_text("Nothing: database, node and files agree.").is_visible()
    for layout in ("own", "panel"):
        page = open_page(layout)
        for _ in range(3):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Reload":
                break
        outline = page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement); return [document.activeElement.textContent,"
            " s.outlineStyle, parseFloat(s.outlineWidth), s.outlineColor]; })()"
        )
        assert outline[:2] == ["Reload", "solid"] and outline[2] >= 2 and outline[3] == "rgb(10, 79, 150)", outline


def test_tables_are_tables_for_a_screen_reader_at_any_width(open_page):
    for width in (320, 1600):
        page = open_page(width=width)
        table = page.get_by_role("table", name="Last changes")
        assert table.get_by_role("row").count() == 4 and table.get_by_role("columnheader").count() == 6
        assert page.get_by_role("region", name="What doctor finds").get_by_role("listitem").count() == 3


def test_h27_markup_does_nothing(open_page, commands):
    from test_page import HOSTILE, everywhere

    for name, answer in ((DOCTOR, doctor()), (LIST, expiring()), (AUDIT, audit())):
        commands.answers(name, everywhere(answer, HOSTILE))
    page = open_page(width=375)
    assert page.evaluate("typeof hit") == "undefined" and page.locator("img, script").count() == 0
    sound(page, "own-375-hostile")


def test_pictures_are_where_readme_says():
    assert Path(os.path.relpath(PICTURES, ROOT)) == Path("target/admin-screenshots")
    assert "target/admin-screenshots/" in (ROOT / "README.md").read_text()
