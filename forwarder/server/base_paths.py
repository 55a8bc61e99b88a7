"""Base URLs that users configure in clients: normalized paths, and paths that select a style.

Clients append ``/chat/completions`` to a base URL that may end with a slash, contain ``/v1`` twice
or start with ``/openai``, as for Azure. `PathAliases` normalizes such paths.

A base path can also select the reasoning style, for clients that cannot send headers.
``/think/v1/chat/completions`` is ``/v1/chat/completions`` with the style ``think``. All routes
accept such a base path. A style of the other API has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Request

from forwarder.protocols.client_reasoning_style import HEADER
from forwarder.protocols.registry import ALL_STYLES, CLIENT_PROTOCOLS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_STYLE = "forwarder.reasoning_style"
"""WSGI environment key of the style."""


def install_base_paths(app: Flask) -> None:
    """Treat a style at the start of the request path as the mount point of ``app``."""
    inner = app.wsgi_app

    def set_base_path(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        style, slash, rest = environ["PATH_INFO"].lstrip("/").partition("/")
        if slash and style in ALL_STYLES:
            environ[_STYLE] = style
            environ["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}/{style}"
            environ["PATH_INFO"] = f"/{rest}"
        return inner(environ, start_response)

    app.wsgi_app = set_base_path  # type: ignore[method-assign]


def get_base_path(flask_request: Request) -> str:
    """Return the base path of a request, or ``""``."""
    style = flask_request.environ.get(_STYLE)
    return f"/{style}" if style else ""


def get_requested_style(flask_request: Request, api: str) -> str | None:
    """Return the reasoning style from the header or, without one, from the base path."""
    style: str | None = flask_request.environ.get(_STYLE)
    styles = CLIENT_PROTOCOLS[api].reasoning_styles
    return flask_request.headers.get(HEADER) or (style if style in styles else None)


WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_SLASHES = re.compile("/{2,}")
_BASE = re.compile(r"((/openai)?/v1)+(?=/|\Z)")


class PathAliases:
    """WSGI middleware that normalizes the request path for ``app``.

    ``roots`` are the first segments of the paths below ``/v1``. Clients may omit ``/v1`` there.
    """

    def __init__(self, app: WsgiApp, roots: Container[str]) -> None:
        self._app = app
        self._roots = roots

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        environ["PATH_INFO"] = normalize_path(environ.get("PATH_INFO", ""), self._roots)
        return self._app(environ, start_response)


def normalize_path(path: str, roots: Container[str] = ()) -> str:
    """Return ``path`` without repeated or trailing slashes, with at most one ``/v1`` base."""
    path = _SLASHES.sub("/", path)
    base = _BASE.match(path)
    if base is not None:
        path = "/v1" + path[base.end() :]
    elif path.lstrip("/").partition("/")[0] in roots:
        path = "/v1" + path
    return path.rstrip("/") or "/"
