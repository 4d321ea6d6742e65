"""Importing: what the installer does first, with nothing but ImportError caught."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys

import flask
import pytest

from conftest import ROOT

PACKAGE = ROOT / "python" / "blockhost" / "provisioner_proxmox"
WIZARD = "blockhost.provisioner_proxmox.wizard"
# Imported by the admin panel, of which nobody knows what it catches.
ADMIN = "blockhost.provisioner_proxmox.admin"
BOTH = pytest.mark.parametrize("module", [WIZARD, ADMIN])


def python(code, *path, **env):
    """A fresh interpreter; `path` is all it can import from besides its own library."""
    return subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-B",
            "-c",
            f"import sys\nsys.path[:0] = {[str(p) for p in path]!r}\n{code}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
    )


def site_packages():
    return next(p for p in map(str, sys.path) if (ROOT / p / "flask").is_dir() or _has_flask(p))


def _has_flask(path):
    from pathlib import Path

    return Path(path, "flask", "__init__.py").is_file()


@BOTH
def test_without_flask_it_is_an_import_error(module):
    done = python(
        f"try:\n import {module}\nexcept ImportError as e:\n print('ImportError', e.name)",
        ROOT / "python",
    )
    assert (done.stdout, done.stderr) == ("ImportError flask\n", "")


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            WIZARD,
            [
                "blueprint",
                "get_finalization_steps",
                "get_summary_data",
                "get_summary_template",
                "get_ui_params",
            ],
        ),
        (ADMIN, ["blueprint"]),
    ],
)
def test_it_does_nothing_that_can_fail(module, names):
    # Audit events tell of every process, socket, write and host name; reading modules is allowed.
    code = f"""
import json
import flask, logging, selectors, subprocess, ipaddress, math, signal
seen = []
def hook(event, args):
    if event.startswith(("subprocess", "os.", "socket", "shutil", "ctypes")):
        seen.append(event)
    if event == "open" and (args[1] or "r")[0] not in "r":
        seen.append(f"open {{args[0]}} {{args[1]}}")
sys.addaudithook(hook)
import {module} as module
seen = [e for e in seen if e not in ("os.listdir", "os.scandir")]
print(json.dumps([seen, sorted(n for n in dir(module) if n.startswith(("get_", "blueprint")))]))
"""
    done = python(code, ROOT / "python", site_packages())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], names]


@pytest.mark.parametrize(
    ("module", "name"), [(WIZARD, "provisioner_proxmox"), (ADMIN, "provisioner_proxmox_admin")]
)
def test_in_an_empty_environment_twice_and_in_a_folder_that_is_gone(tmp_path, module, name):
    gone = tmp_path / "gone"
    code = f"""
import os, importlib
os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})
module = importlib.import_module({module!r})
first = module.blueprint
assert importlib.import_module({module!r}).blueprint is first
print(importlib.reload(module).blueprint.name)
"""
    done = python(code, ROOT / "python", site_packages())
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


@pytest.mark.parametrize("regular", [True, False])
def test_beside_the_other_package(tmp_path, regular):
    # blockhost is also blockhost-common's, with an __init__.py of its own or without.
    assert not (ROOT / "python" / "blockhost" / "__init__.py").exists()
    shutil.copytree(PACKAGE, tmp_path / "blockhost" / "provisioner_proxmox")
    if regular:
        (tmp_path / "blockhost" / "__init__.py").write_text("COMMON = True\n")
    (tmp_path / "blockhost" / "config.py").write_text("")
    done = python(f"import blockhost.config, {WIZARD}, {ADMIN}\nprint('both')", tmp_path, site_packages())
    assert (done.stdout, done.stderr) == ("both\n", "")


def test_it_has_no_syntax_newer_than_3_10():
    files = sorted(PACKAGE.glob("*.py"))
    assert len(files) > 3
    for file in files:
        tree = ast.parse(file.read_text(), feature_version=(3, 10))
        assert not [node for node in ast.walk(tree) if type(node).__name__ == "TryStar"], file
        imported = {
            name.partition(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom) and node.level == 0
                    else []
                )
            )
        }
        assert imported - {"flask"} <= set(sys.stdlib_module_names), file


def test_the_blueprint(app):
    from blockhost.provisioner_proxmox import wizard

    assert isinstance(wizard.blueprint, flask.Blueprint)
    assert (wizard.blueprint.name, wizard.blueprint.template_folder) == (
        "provisioner_proxmox",
        "templates",
    )
    rule = next(r for r in app.url_map.iter_rules() if r.rule == "/wizard/proxmox")
    assert rule.endpoint == "provisioner_proxmox.wizard_proxmox" and {"GET", "POST"} <= rule.methods
    assert wizard.get_summary_template() == "provisioner_proxmox/summary_section.html"
    for name in ("proxmox.html", "summary_section.html"):
        assert (PACKAGE / "templates" / "provisioner_proxmox" / name).is_file()


def test_no_template_switches_escaping_off():
    for file in (PACKAGE / "templates").rglob("*.html"):
        text = file.read_text()
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text.replace(
            "autoescape stays on", ""
        )
