"""How reasoning is shown to a client: what it asks for, what its key has, what it can render.

The precedence is the header ``X-Forwarder-Reasoning``, the base path
(`server/reasoning_base_paths.py`), the client's key, the setting.  The style ``auto`` is resolved
here: a chat client that is known to render a field of its own gets that field, every other one the
``[thinking]`` blocks; a Responses client gets a summary if it asked for one, else the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from forwarder.core.types import Json
from forwarder.core.validate import check_enum
from forwarder.protocols import chat_reasoning

HEADER = "X-Forwarder-Reasoning"
AUTO = "auto"

CHAT_REASONING_STYLES = ("thinking", "think", "reasoning_content", "reasoning", "parts", "none")
"""The spellings of reasoning that a chat client can choose from."""

STYLES: Mapping[str, tuple[str, ...]] = {
    "chat": (AUTO, *CHAT_REASONING_STYLES),
    "responses": (AUTO, "summary", "text", "both"),
}
"""Client API -> the styles that its clients can choose from."""

ALL_STYLES = tuple(dict.fromkeys(style for styles in STYLES.values() for style in styles))


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
    # Whole answers are asked for without the provider's name.
    KnownClient("AI SDK, generateText", "User-Agent", r"^ai/\d"),
    KnownClient("pydantic-ai", "User-Agent", r"\bpydantic-ai/"),
    KnownClient("LiteLLM", "User-Agent", r"\blitellm/"),
    KnownClient("Cherry Studio", "User-Agent", r"\bCherryStudio/"),
    KnownClient("Cherry Studio", "X-Title", r"^Cherry Studio$"),
    # Open WebUI has no name of its own there, and X-OpenWebUI-… headers only if switched on.
    KnownClient("Open WebUI", "User-Agent", r"^Python/[\d.]+ aiohttp/"),
    KnownClient("Open WebUI", "X-OpenWebUI-User-Id", r""),
    KnownClient("Open WebUI", "X-OpenWebUI-Chat-Id", r""),
)
"""Chat clients that are known to render reasoning."""

_PATTERNS = {
    header: [
        (re.compile(client.pattern, re.IGNORECASE), client.field)
        for client in KNOWN_CLIENTS
        if client.header == header
    ]
    for header in dict.fromkeys(client.header for client in KNOWN_CLIENTS)
}

CLIENT_HEADERS = tuple(_PATTERNS)
"""The headers by which a client is identified."""


def find_rendered_field(header: Callable[[str], str | None]) -> str | None:
    """The field from which a chat client renders reasoning, if its headers identify it."""
    for name, patterns in _PATTERNS.items():
        value = header(name)
        if value is not None:
            for pattern, field in patterns:
                if pattern.search(value):
                    return field
    return None


def select_style(api: str, requested: str | None, of_key: Sequence[str], of_setting: str) -> str:
    """The style for a client of ``api``.

    A key may have a style for each API.  Raises InvalidRequest if ``requested`` is no style of it.
    """
    if requested:
        return str(check_enum(requested, STYLES[api], HEADER))
    return next((style for style in of_key if style in STYLES[api]), of_setting)


def resolve_chat_style(style: str, request: Json, rendered_field: str | None) -> str:
    """The style that ``auto`` stands for: a field of the client's history, or one it renders."""
    if style != AUTO:
        return style
    return (
        chat_reasoning.find_reasoning_field(request.get("messages")) or rendered_field or "thinking"
    )


def resolve_responses_style(style: str, request: Json) -> str:
    """The form that ``auto`` stands for: a summary if the request asks for one."""
    if style != AUTO:
        return style
    asked = request.get("reasoning")
    given = asked if isinstance(asked, dict) else {}
    summary = given.get("summary") or given.get("generate_summary")
    return "text" if summary in (None, "none") else "summary"
