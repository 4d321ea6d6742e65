"""The Proxmox page of the admin panel.

`blockhost.provisioner_proxmox.admin` is named by the manifest (`admin.module`).  The panel
registers its `blueprint`, with a prefix or without.  The page shows what doctor finds, how much
room there is, which creates are under way, which VMs expire soon and what was done last.  It
changes nothing: GET only, no form, no script, nothing from elsewhere.

It runs as the panel's user and asks our commands (`node_report`), which are the only ones to
read our files and the node.  Importing does nothing that can fail, as for `wizard`.

Who may see the page is the panel's business; a page that nothing guards is not shown at all
(`_is_guarded`): names, wallets and addresses of customers are on it.

Python 3.10 or newer, Flask 2 or 3, standard library.
"""

from __future__ import annotations

import logging
from typing import Any

from flask import Blueprint, Response, current_app, make_response, render_template, request

from . import admin_content, node_report

BASE = "base.html"
OWN_BASE = "provisioner_proxmox/admin_base.html"
# For our own layout: it has no script, no inline style, and nothing from elsewhere.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'"
)

log = logging.getLogger(__name__)

blueprint = Blueprint(
    "provisioner_proxmox_admin",
    __name__,
    template_folder="templates",
    static_folder="static",
    # A path of its own: where the panel gives no prefix, /static is the panel's.
    static_url_path="/admin/proxmox/static",
)
reporter = node_report.Reporter()


@blueprint.route("/admin/proxmox")
def admin_proxmox() -> Response:
    """The page."""
    if not _is_guarded():
        log.error("the admin page is not shown: the panel checks nobody's login for it")
        return _closed(
            make_response(render_template("provisioner_proxmox/admin_unguarded.html"), 403)
        )
    page = admin_content.page(reporter.report())
    base = _panel_base()
    if base is not None:
        try:
            return _headers(make_response(_rendered(page, base)))
        except Exception:  # whatever the panel's layout wants that is not there
            log.exception("the panel's %s cannot be used; the page is shown without it", BASE)
    return _closed(make_response(_rendered(page, current_app.jinja_env.get_template(OWN_BASE))))


def _rendered(page: admin_content.Page, base: Any) -> str:
    return render_template(
        "provisioner_proxmox/admin.html",
        page=page,
        base=base,
        days=node_report.EXPIRING_DAYS,
        kept=int(node_report.KEPT),
    )


def _panel_base() -> Any:
    """The template of the panel's layout, if there is one with a block `content`, as the installer's has."""
    try:
        base = current_app.jinja_env.get_template(BASE)
    except Exception:  # there is none, or none that can be read
        return None
    return base if "content" in base.blocks else None


def _is_guarded() -> bool:
    """Whether the panel has put anything before this page.

    That may be a function before all requests or before those of this blueprint, or something
    around the view itself.  What it checks cannot be seen from here; but a panel that protects
    its own views one by one, and forgets this one, has nothing of the kind.
    """
    before: dict[Any, Any] = current_app.before_request_funcs
    if before.get(None) or any(before.get(name) for name in request.blueprints):
        return True
    return current_app.view_functions.get(request.endpoint or "") is not admin_proxmox


def _headers(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    return response


def _closed(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    return _headers(response)
