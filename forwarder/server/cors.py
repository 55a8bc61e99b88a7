"""CORS middleware: lets web pages of configured origins use the forwarder from a browser.

``FORWARDER_CORS_ORIGINS`` lists the origins, or ``*`` for all; by default it is empty. The
middleware answers preflights before authentication, and they appear in neither log nor metrics. It
never allows credentials: clients send their key in a header, not in a cookie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from forwarder.server.base_paths import WsgiApp

ANY = "*"

_METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
_MAX_AGE = "600"
"""Seconds for which browsers may cache a preflight response."""

_HEADER_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, -]{1,4096}", re.ASCII)

_ALWAYS_EXPOSED = (
    "X-Request-Id",
    "X-Forwarder-Upstream",
    "X-Forwarder-Dropped",
    "X-Forwarder-Estimated",
)
_ALWAYS_READABLE = frozenset(
    {"cache-control", "content-language", "content-length", "content-type", "vary"}
)
"""Response headers that pages can always read or do not need."""

Headers = list[tuple[str, str]]


def allows_origin(origins: tuple[str, ...], origin: str) -> bool:
    """Return whether ``origins`` contains ``origin``, which has the form browsers send."""
    return ANY in origins or origin.lower() in origins


class CrossOrigin:
    """WSGI middleware that lets pages of ``origins`` read the responses of ``app``."""

    def __init__(self, app: WsgiApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._origins = origins

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN", "")
        is_allowed = bool(origin) and allows_origin(self._origins, origin)
        added = self._list_headers(origin if is_allowed else None)
        if is_allowed and environ["REQUEST_METHOD"] == "OPTIONS" and _WANTED_METHOD in environ:
            start_response("204 No Content", added + answer_preflight(environ))
            return []

        def start_with_headers(status: str, headers: Headers, *rest: Any) -> Any:
            exposed = [("Access-Control-Expose-Headers", list_exposed_headers(headers))]
            return start_response(status, headers + added + (exposed if is_allowed else []), *rest)

        return self._app(environ, start_with_headers)

    def _list_headers(self, allowed: str | None) -> Headers:
        """Return the headers of every response; ``allowed`` is the request's origin or None."""
        if ANY in self._origins:
            return [("Access-Control-Allow-Origin", ANY)] if allowed else []
        # Without Vary, a cache could serve a page a response that lacks these headers.
        vary = [("Vary", "Origin")]
        return [("Access-Control-Allow-Origin", allowed), *vary] if allowed else vary


_WANTED_METHOD = "HTTP_ACCESS_CONTROL_REQUEST_METHOD"
_WANTED_HEADERS = "HTTP_ACCESS_CONTROL_REQUEST_HEADERS"
_WANTED_NETWORK = "HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK"


def answer_preflight(environ: dict[str, Any]) -> Headers:
    headers = [
        ("Access-Control-Allow-Methods", _METHODS),
        ("Access-Control-Max-Age", _MAX_AGE),
    ]
    names = environ.get(_WANTED_HEADERS, "")
    if _HEADER_NAMES.fullmatch(names):  # a "*" would not include Authorization
        headers.append(("Access-Control-Allow-Headers", names))
    if environ.get(_WANTED_NETWORK) == "true":
        headers.append(("Access-Control-Allow-Private-Network", "true"))
    return headers


def list_exposed_headers(headers: Headers) -> str:
    known = {name.lower() for name in _ALWAYS_EXPOSED}
    others = {name.lower() for name, _ in headers} - known - _ALWAYS_READABLE
    return ", ".join([*_ALWAYS_EXPOSED, *sorted(others)])
