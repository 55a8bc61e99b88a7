"""Base URLs as people configure them, all leading to the same routes.

Clients append ``/chat/completions`` to a base URL that may already end with a slash or lack one,
have ``/v1`` twice, or begin with ``/openai`` as Azure's and others' do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_SLASHES = re.compile("/{2,}")
_BASE = re.compile(r"((/openai)?/v1)+(?=/|\Z)")


class PathAliases:
    """WSGI middleware that gives ``app`` every path in its one normal form."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        environ["PATH_INFO"] = normalize_path(environ.get("PATH_INFO", ""))
        return self._app(environ, start_response)


def normalize_path(path: str) -> str:
    """The path without doubled and trailing slashes, below ``/v1`` or below no base at all."""
    path = _SLASHES.sub("/", path)
    base = _BASE.match(path)
    if base is not None:
        path = "/v1" + path[base.end() :]
    return path.rstrip("/") or "/"
