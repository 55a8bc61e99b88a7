"""Path normalization for the base URLs that users configure in clients.

Clients append ``/chat/completions`` to a base URL that may end with a slash, contain ``/v1`` twice
or start with ``/openai``, as for Azure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_SLASHES = re.compile("/{2,}")
_BASE = re.compile(r"((/openai)?/v1)+(?=/|\Z)")


class PathAliases:
    """WSGI middleware that normalizes the request path for ``app``."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        environ["PATH_INFO"] = normalize_path(environ.get("PATH_INFO", ""))
        return self._app(environ, start_response)


def normalize_path(path: str) -> str:
    """Return ``path`` without repeated or trailing slashes, with at most one ``/v1`` base."""
    path = _SLASHES.sub("/", path)
    base = _BASE.match(path)
    if base is not None:
        path = "/v1" + path[base.end() :]
    return path.rstrip("/") or "/"
