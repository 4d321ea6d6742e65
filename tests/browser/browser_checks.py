"""What tests of pages in a real browser (Debian's package `chromium`) share.

BLOCKHOST_NO_BROWSER=1 leaves these tests out; a machine without the browser fails them, so that
nobody takes them for passed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"


def is_left_out() -> bool:
    """Whether somebody does without the browser."""
    return os.environ.get("BLOCKHOST_NO_BROWSER") == "1"


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, without a window."""
    if not os.access(CHROMIUM, os.X_OK):
        pytest.fail(
            f"{CHROMIUM} is missing: apt-get install chromium (or BLOCKHOST_NO_BROWSER=1 to do"
            " without)"
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is missing: pip install -r tests/wizard/requirements.txt")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


# What a browser knows better than a parser: names of fields as they are read out, what is
# visible, and whether something is wider than the window.
CHECKS = """() => {
  const bad = [];
  for (const field of document.querySelectorAll("main input:not([type=hidden]), main select")) {
    if (!field.labels.length || !field.labels[0].textContent.trim())
      bad.push("no label: " + field.outerHTML);
    for (const id of (field.getAttribute("aria-describedby") || "").split(" ").filter(Boolean))
      if (!document.getElementById(id)) bad.push("describedby nothing: " + id);
    if (field.getAttribute("aria-invalid") === "true" && !field.getAttribute("aria-describedby"))
      bad.push("invalid without a reason: " + field.id);
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) bad.push("ids twice: " + ids);
  for (const link of document.querySelectorAll("a[href^='#']"))
    if (!document.getElementById(link.getAttribute("href").slice(1)))
      bad.push("link to nothing: " + link.outerHTML);
  for (const e of document.querySelectorAll("a, button, summary"))
    if (!e.textContent.trim()) bad.push("no name: " + e.outerHTML);
  let level = 0;
  for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
    const n = Number(h.tagName[1]);
    if (n > level + 1 && level) bad.push("heading left out before: " + h.textContent);
    level = n;
  }
  if (document.querySelectorAll("h1").length !== 1) bad.push("not one h1");
  if (!document.documentElement.lang || !document.title) bad.push("no language or title");
  for (const e of document.querySelectorAll("*"))
    for (const a of e.attributes)
      if (a.name.startsWith("on")) bad.push("inline handler: " + e.outerHTML);
  if (document.documentElement.scrollWidth > window.innerWidth) bad.push("wider than the window");
  return bad;
}"""

# Contrast of text and background by the formula of WCAG 2; 4.5 is its level AA.
CONTRAST = """() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const clear = (c) => c.length === 4 && c[3] === 0;
  const bad = [];
  for (const e of document.querySelectorAll("main *")) {
    if (["OPTION", "STYLE", "SCRIPT"].includes(e.tagName) || !e.checkVisibility()) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    let back = [0, 0, 0, 0];
    for (let up = e; up && clear(back); up = up.parentElement)
      back = rgb(getComputedStyle(up).backgroundColor);
    const a = light(rgb(getComputedStyle(e).color)), b = light(back);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${e.tagName} ${ratio.toFixed(2)} ${e.textContent.trim()}`);
  }
  return bad;
}"""
