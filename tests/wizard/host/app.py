"""A small installer: what the wizard page relies on of a host application, and no more.

`python tests/wizard/host/app.py` shows the page at http://127.0.0.1:5000/ by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

from flask import Flask, render_template, request, session

PAGES = [
    ("welcome", "Welcome"),
    ("proxmox", "Virtual machines"),
    ("connectivity", "Network"),
    ("summary", "Summary"),
]
ENDPOINTS = {
    "welcome": "wizard_welcome",
    "proxmox": "provisioner_proxmox.wizard_proxmox",
    "connectivity": "wizard_connectivity",
    "summary": "wizard_summary",
}


def wizard_nav(step: str) -> SimpleNamespace:
    """The endpoints before and after a step."""
    names = [name for name, _ in PAGES]
    at = names.index(step)
    before, after = names[max(0, at - 1) : at], names[at + 1 : at + 2]
    return SimpleNamespace(
        prev=ENDPOINTS[before[0]] if before else None, next=ENDPOINTS[after[0]] if after else None
    )


def create_app(csrf: bool = False) -> Flask:
    """The installer with the wizard's blueprint; with `csrf` posts need the token."""
    from blockhost.provisioner_proxmox import wizard

    app = Flask(__name__)
    app.secret_key = "for tests"
    app.register_blueprint(wizard.blueprint)
    app.jinja_env.globals.update(wizard_nav=wizard_nav, wizard_pages=PAGES)
    if csrf:
        app.jinja_env.globals["csrf_token"] = lambda: "token-of-the-host"

        @app.before_request
        def check_token():
            if request.method == "POST" and request.form.get("csrf_token") != "token-of-the-host":
                return "no token", 400
            return None

    @app.route("/")
    def wizard_welcome():
        return render_template("page.html", step="welcome", title="Welcome")

    @app.route("/wizard/connectivity")
    def wizard_connectivity():
        return render_template(
            "page.html", step="connectivity", title="Network", params=wizard.get_ui_params(session)
        )

    @app.route("/wizard/summary")
    def wizard_summary():
        return render_template(
            "summary.html",
            provisioner_template=wizard.get_summary_template(),
            provisioner_summary=wizard.get_summary_data(session),
        )

    return app


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "python"))
    create_app(csrf=True).run()
