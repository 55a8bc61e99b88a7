"""Selects the client's headers that the forwarder sends on to the upstream.

Headers with a meaning for providers (beta features, billing, the calling program) are always sent
on.  ``FORWARDER_CLIENT_HEADERS`` adds others by name or pattern.  Headers that belong to the
connection between client and forwarder are never sent on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase, translate
from functools import lru_cache

_MAX_CACHED_NAMES = 256
"""For how many names the selection is cached; clients send the same few names."""

IDEMPOTENCY_KEY = "Idempotency-Key"

ALWAYS_FORWARDED = (
    "openai-beta",
    "openai-organization",
    "openai-project",
    "idempotency-key",
    "http-referer",
    "x-title",
)

NEVER_FORWARDED = (
    *("authorization", "*api-key", "cookie", "proxy-*", "x-forwarder-*"),
    *("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
    *("content-*", "accept", "accept-*", "expect", "range", "if-*", "sec-*", "origin"),
    *("access-control-*", "forwarded", "x-forwarded-*", "x-real-ip", "via"),
)
"""Credentials for the forwarder, and headers that apply to one connection or one body only."""

_CONNECTION_HEADERS = frozenset(
    {
        *("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("content-length", "content-encoding", "content-type", "expect", "http2-settings"),
        *("accept-encoding", "range"),
    }
)
"""Headers that the HTTP library sets, or that change how it reads the response."""

_NEVER_FORWARDED_PATTERN = re.compile("|".join(map(translate, NEVER_FORWARDED)))
_VALUE_PATTERN = re.compile(r"[!-~]([ -~]*[!-~])?")
_WEBSOCKET_BETA = "responses_websockets"
"""Prefix of the ``OpenAI-Beta`` values that Codex sends for its WebSocket connection.

This connection ends at the forwarder, so upstreams do not get these values.
"""


def is_forbidden(name: str) -> bool:
    """Return whether the header ``name`` (lower case) is never sent on to an upstream."""
    return any(fnmatchcase(name, pattern) for pattern in NEVER_FORWARDED)


def is_connection_header(name: str) -> bool:
    """Return whether the header ``name`` (lower case) belongs to one connection or its framing."""
    return name in _CONNECTION_HEADERS or name.startswith("proxy-")


class HeaderSelection:
    """Selects the headers to send on: ``ALWAYS_FORWARDED``, and those that match ``patterns``."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._pattern = re.compile("|".join(map(translate, (*ALWAYS_FORWARDED, *patterns))))
        self._is_selected = lru_cache(_MAX_CACHED_NAMES)(self._match_name)

    def select(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Select from a request's headers; omit values that no HTTP library would send."""
        selected = {}
        for name, value in headers:
            if self._is_selected(name):
                value = drop_websocket_beta(value) if name.lower() == "openai-beta" else value
                if _VALUE_PATTERN.fullmatch(value):
                    selected[name] = value
        return selected

    def _match_name(self, name: str) -> bool:
        lower = name.lower()
        return bool(self._pattern.match(lower)) and not _NEVER_FORWARDED_PATTERN.match(lower)


def drop_websocket_beta(value: str) -> str:
    betas = [beta.strip() for beta in value.split(",")]
    return ", ".join(beta for beta in betas if not beta.startswith(_WEBSOCKET_BETA))
