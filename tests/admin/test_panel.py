"""The page in the panel: who may see it, in which layout, under which path; and that it changes nothing."""

from __future__ import annotations

import json

import pytest
from app import POLICY, create_app
from blockhost.provisioner_proxmox import admin, wizard
from flask import Blueprint, Flask

from conftest import COMMANDS, DOCTOR, PAGE, ROOT


def called(commands) -> bool:
    return any(commands.calls(name) for name in COMMANDS)


def test_the_manifest_names_the_module():
    manifest = json.loads((ROOT / "provisioner.json").read_text())
    assert manifest["admin"] == {"module": admin.__name__}


def test_a_page_that_nothing_guards_is_not_shown(commands):
    app = Flask("open")
    app.register_blueprint(admin.blueprint)
    answer = app.test_client().get(PAGE)
    assert answer.status_code == 403 and "checks nobody" in answer.text
    assert not called(commands)


def test_who_is_not_logged_in_sees_nothing(app, commands):
    answer = app.test_client().get(PAGE)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login")
    assert not called(commands)


def test_the_panel_may_guard_the_view_or_the_blueprint(commands):
    app = Flask("wrapped")
    app.register_blueprint(admin.blueprint)
    view = f"{admin.blueprint.name}.admin_proxmox"
    inner = app.view_functions[view]
    app.view_functions[view] = lambda: inner()
    assert app.test_client().get(PAGE).status_code == 200
    app = Flask("before")
    app.before_request_funcs[admin.blueprint.name] = [lambda: None]
    app.register_blueprint(admin.blueprint)
    assert app.test_client().get(PAGE).status_code == 200
    app = Flask("nested")
    parent = Blueprint("parent", "nested", url_prefix="/provisioner")
    parent.before_request(lambda: None)
    parent.register_blueprint(admin.blueprint)
    app.register_blueprint(parent)
    answer = app.test_client().get(f"/provisioner{PAGE}")
    assert answer.status_code == 200 and f'href="/provisioner{PAGE}/static/admin.css"' in answer.text


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_nothing_can_be_sent(client, commands, method):
    assert getattr(client, method)(PAGE).status_code == 405
    assert not called(commands)
    page = client.get(PAGE).text
    assert not [tag for tag in ("<form", "<button", "<input", "<script", "<style") if tag in page]


def test_in_the_panels_layout_and_under_its_policy(client, commands):
    answer = client.get(PAGE)
    assert '<nav><a href="/">Machines</a></nav>' in answer.text and "<title>Proxmox VE</title>" in answer.text
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["Cache-Control"] == "no-store"


def test_in_a_layout_of_its_own_where_the_panel_has_none_that_fits(commands, tmp_path):
    layouts = {
        "none": None,
        "other blocks": "<body>{% block body %}{% endblock %}",
        "broken": "{% block content %}",
        "wants more": "{{ nobody.knows }}{% block content %}{% endblock %}",
    }
    for name, text in layouts.items():
        folder = tmp_path / name
        folder.mkdir()
        if text is not None:
            (folder / "base.html").write_text(text)
        app = Flask(name, template_folder=str(folder))
        app.before_request(lambda: None)
        app.register_blueprint(admin.blueprint)
        answer = app.test_client().get(PAGE)
        assert answer.status_code == 200 and answer.text.startswith("<!doctype html>"), name
        assert "route-missing" in answer.text and "style-src 'self'" in answer.headers["Content-Security-Policy"]


def test_the_style_sheet_is_served_with_a_prefix_too(commands):
    for prefix in (None, "/proxmox"):
        app = create_app(prefix=prefix)
        app.config["OPEN"] = True
        client = app.test_client()
        page = client.get((prefix or "") + PAGE)
        path = f"{prefix or ''}{PAGE}/static/admin.css"
        assert page.status_code == 200 and f'href="{path}"' in page.text
        sheet = client.get(path)
        assert (sheet.status_code, sheet.mimetype) == (200, "text/css")
        # Nothing from elsewhere.
        assert "url(" not in sheet.text and "@import" not in sheet.text


def test_beside_the_wizard(commands):
    app = Flask("both")
    app.before_request(lambda: None)
    app.register_blueprint(wizard.blueprint)
    app.register_blueprint(admin.blueprint)
    assert app.test_client().get(PAGE).status_code == 200
    assert len(commands.calls(DOCTOR)) == 1


def test_head_is_answered(client, commands):
    answer = client.head(PAGE)
    assert answer.status_code == 200 and answer.data == b""
