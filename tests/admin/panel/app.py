"""A small admin panel: a login for every page, and perhaps a layout; no more than is needed of one.

`python tests/admin/panel/app.py` shows the page at http://127.0.0.1:5000/admin/proxmox by hand,
with what the commands on PATH say.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flask import Flask, redirect, session

HERE = Path(__file__).resolve().parent
# As strict as a panel can be.
POLICY = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'"


def create_app(layout: str | None = "templates", prefix: str | None = None) -> Flask:
    """The panel; `layout` is the folder with its templates, None one without."""
    from blockhost.provisioner_proxmox import admin

    app = Flask("panel", root_path=str(HERE), template_folder=layout or "no-templates")
    app.secret_key = "for tests"

    @app.before_request
    def login():
        return None if session.get("user") or app.config.get("OPEN") else redirect("/login")

    @app.after_request
    def policy(response):
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.route("/")
    def index():
        return "machines"

    app.register_blueprint(admin.blueprint, **({"url_prefix": prefix} if prefix else {}))
    return app


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2] / "python"))
    shown = create_app()
    shown.config["OPEN"] = True
    shown.run()
