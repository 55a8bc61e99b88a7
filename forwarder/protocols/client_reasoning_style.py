"""Selects the style in which a client gets reasoning.

The style comes from the first of these that sets one: the header ``X-Forwarder-Reasoning``, the
base path (`server/base_paths.py`), the client's key, the setting.  This module also resolves the
style ``auto``: a chat client that is known to render a reasoning field gets that field, all others
get ``[thinking]`` blocks; a Responses client gets a summary if it requests one, else the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from forwarder.core.types import Json
from forwarder.core.validate import check_enum
from forwarder.protocols import chat_reasoning
from forwarder.protocols.protocol import AUTO_STYLE
from forwarder.protocols.registry import CLIENT_PROTOCOLS

HEADER = "X-Forwarder-Reasoning"


class KnownClient(NamedTuple):
    """A chat client that renders reasoning from ``field``, and the header that identifies it."""

    name: str
    header: str
    pattern: str
    field: str = "reasoning_content"


KNOWN_CLIENTS = (
    KnownClient("opencode", "User-Agent", r"\bopencode/"),
    KnownClient("Cline", "User-Agent", r"\bCline\b"),
    KnownClient("Cline", "X-Title", r"^Cline$"),
    KnownClient("Roo Code", "User-Agent", r"\bRooCode/"),
    KnownClient("Qwen Code", "User-Agent", r"\bQwenCode/"),
    KnownClient("AI SDK, OpenRouter", "User-Agent", r"\bai-sdk[/-]openrouter/", "reasoning"),
    KnownClient("AI SDK, openai-compatible", "User-Agent", r"\bai-sdk[/-]openai-compatible/"),
    # Requests without streaming do not name the provider.
    KnownClient("AI SDK, generateText", "User-Agent", r"^ai/\d"),
    KnownClient("pydantic-ai", "User-Agent", r"\bpydantic-ai/"),
    KnownClient("LiteLLM", "User-Agent", r"\blitellm/"),
    KnownClient("Cherry Studio", "User-Agent", r"\bCherryStudio/"),
    KnownClient("Cherry Studio", "X-Title", r"^Cherry Studio$"),
    # Open WebUI sends no name of its own, and X-OpenWebUI-… headers only if an option is on.
    KnownClient("Open WebUI", "User-Agent", r"^Python/[\d.]+ aiohttp/"),
    KnownClient("Open WebUI", "X-OpenWebUI-User-Id", r""),
    KnownClient("Open WebUI", "X-OpenWebUI-Chat-Id", r""),
)
"""Chat clients that render reasoning."""

_PATTERNS = {
    header: [
        (re.compile(client.pattern, re.IGNORECASE), client.field)
        for client in KNOWN_CLIENTS
        if client.header == header
    ]
    for header in dict.fromkeys(client.header for client in KNOWN_CLIENTS)
}

_MAX_CACHED_HEADERS = 256
"""Header values whose client is cached; most requests come from a few programs."""

CLIENT_HEADERS = tuple(_PATTERNS)
"""The headers by which a client is identified."""


def find_rendered_field(get_header: Callable[[str], str | None]) -> str | None:
    """Return the field from which a chat client renders reasoning, or None for unknown clients."""
    for name in CLIENT_HEADERS:
        value = get_header(name)
        field = None if value is None else find_field_of_client(name, value)
        if field is not None:
            return field
    return None


@lru_cache(maxsize=_MAX_CACHED_HEADERS)
def find_field_of_client(name: str, value: str) -> str | None:
    """Return the field that the client with this header renders, or None for unknown clients."""
    return next((field for pattern, field in _PATTERNS[name] if pattern.search(value)), None)


def select_style(
    api: str, requested: str | None, key_styles: Sequence[str], default_style: str
) -> str:
    """Return the style for a client of ``api``: the requested one, its key's, or the default.

    A key may have a style for each API.  Raises InvalidRequest if ``api`` has no style
    ``requested``.
    """
    if requested:
        return str(check_enum(requested, CLIENT_PROTOCOLS[api].reasoning_styles, HEADER))
    styles = CLIENT_PROTOCOLS[api].reasoning_styles
    return next((style for style in key_styles if style in styles), default_style)


def resolve_chat_style(style: str, request: Json, rendered_field: str | None) -> str:
    """Resolve ``auto``: the field in the client's history, else the field that it renders."""
    if style != AUTO_STYLE:
        return style
    return (
        chat_reasoning.find_reasoning_field(request.get("messages")) or rendered_field or "thinking"
    )


def resolve_responses_style(style: str, request: Json) -> str:
    """Resolve ``auto``: a summary if the request asks for one, else the text."""
    if style != AUTO_STYLE:
        return style
    value = request.get("reasoning")
    reasoning = value if isinstance(value, dict) else {}
    summary = reasoning.get("summary") or reasoning.get("generate_summary")
    return "text" if summary in (None, "none") else "summary"
