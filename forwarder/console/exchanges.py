"""The page of captured exchanges, and one exchange side by side."""

from __future__ import annotations

from flask import Response

from forwarder.console.blueprint import blueprint, render_page
from forwarder.server.extension import get_services

PAGE_SIZE = 50
"""Exchanges of one page."""


@blueprint.get("/exchanges")
def list_exchanges() -> Response:
    """Show the newest captured exchanges."""
    capture = get_services().capture
    found = [] if capture is None else capture.store.list_newest(PAGE_SIZE)
    return render_page("exchanges.html", is_capturing=capture is not None, exchanges=found)
