"""``GET /openapi.json``, the OpenAPI document of all routes, and ``/docs/api``, which shows it.

Neither requires a client key, since they contain no data of this installation. The document is
built at the first request. The page works without the documentation site and without other servers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib import resources
from threading import Lock
from typing import NamedTuple

from flask import Blueprint, Flask, Response, current_app, send_from_directory

from forwarder.core.errors import NotFound
from forwarder.server import request_hooks
from forwarder.server.extension import get_extension

blueprint = Blueprint("openapi", __name__)

_NAME = "forwarder.openapi"
_VIEWER = "forwarder.openapi"
PAGE = "index.html"
ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "start.js")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_MAX_AGE = 3600
"""Seconds for which browsers keep the files of the viewer."""

_CONSOLE = "console."
"""Prefix of the endpoints of the console's pages, which the document leaves out."""

_CONVERTER = re.compile(r"<(?:\w+:)?(\w+)>")


class DocumentRoute(NamedTuple):
    """A method of a path, such as ``/v1/models/{model}``, and the docstring of its view.

    ``endpoint`` is ``blueprint.view``.
    """

    path: str
    method: str
    endpoint: str
    docstring: str


Encode = Callable[[list[DocumentRoute], str], bytes]
"""Encodes the OpenAPI document of the routes, for a server with the base URL."""


class CachedDocument:
    """The encoded document of one application, which is built once."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._lock = Lock()
        self._encoded: bytes | None = None

    def read(self, app: Flask) -> bytes:
        """Return the document; concurrent first requests wait for one build."""
        with self._lock:
            if self._encoded is None:
                base_url = (get_extension(app).settings.public_url or "").rstrip("/")
                self._encoded = self._encode(list_routes(app), base_url)
            return self._encoded


def install_document(app: Flask, encode: Encode) -> None:
    """Make ``encode`` the function that builds the document of ``app``."""
    app.extensions[_NAME] = CachedDocument(encode)


def read_document(app: Flask) -> bytes:
    """Return the OpenAPI document of ``app``."""
    cached: CachedDocument = app.extensions[_NAME]
    return cached.read(app)


def list_routes(app: Flask) -> list[DocumentRoute]:
    """Return the routes of the API: without HEAD, OPTIONS, WebSockets and the console's pages."""
    routes = []
    for rule in app.url_map.iter_rules():
        if rule.websocket or rule.endpoint.startswith(_CONSOLE):
            continue
        docstring = app.view_functions[rule.endpoint].__doc__ or ""
        methods = set(rule.methods or ()) - {"OPTIONS"}
        if "GET" in methods:
            methods.discard("HEAD")  # added by Flask
        path = _CONVERTER.sub(r"{\1}", rule.rule)
        routes += [DocumentRoute(path, each, rule.endpoint, docstring) for each in methods]
    return routes


@blueprint.before_request
def log_at_debug_level() -> None:
    """Log at DEBUG: the page consists of several files, each with its own log record."""
    request_hooks.current_context().log_level = logging.DEBUG


@blueprint.get("/openapi.json")
def show_document() -> Response:
    """Return the OpenAPI document of all routes."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return Response(read_document(app), mimetype="application/json")


@blueprint.get("/docs/api")
def show_page() -> Response:
    """Return a page that shows the OpenAPI document."""
    return send_viewer_file(PAGE)


@blueprint.get("/docs/api/<name>")
def send_asset(name: str) -> Response:
    """Return a script or a style sheet of the page."""
    if name not in ASSETS:
        raise NotFound(f"The page has no file '{name[:64]}'.")
    return send_viewer_file(name)


def send_viewer_file(name: str) -> Response:
    with resources.as_file(resources.files(_VIEWER) / "viewer") as folder:
        response = send_from_directory(folder, name, max_age=_MAX_AGE)
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
