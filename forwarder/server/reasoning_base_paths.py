"""Base paths that choose the reasoning style, for clients that cannot send headers.

``/think/v1/chat/completions`` is ``/v1/chat/completions`` in the style ``think``.  Every route is
served below such a base path; a style of the other API has no effect on a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Request

from forwarder.protocols.client_reasoning_style import ALL_STYLES, HEADER, STYLES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_STYLE = "forwarder.reasoning_style"
"""The name of the style in the environment of a request."""


def install_base_paths(app: Flask) -> None:
    """Have a style at the head of a request's path taken for its mount point."""
    inner = app.wsgi_app

    def set_base_path(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        style, slash, rest = environ["PATH_INFO"].lstrip("/").partition("/")
        if slash and style in ALL_STYLES:
            environ[_STYLE] = style
            environ["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}/{style}"
            environ["PATH_INFO"] = f"/{rest}"
        return inner(environ, start_response)

    app.wsgi_app = set_base_path  # type: ignore[method-assign]


def get_base_path(asked: Request) -> str:
    """The base path of a request, or ``""``."""
    style = asked.environ.get(_STYLE)
    return f"/{style}" if style else ""


def get_requested_style(asked: Request, api: str) -> str | None:
    """The style that a request asks for: by its header, or else by its base path."""
    style: str | None = asked.environ.get(_STYLE)
    return asked.headers.get(HEADER) or (style if style in STYLES.get(api, ()) else None)
