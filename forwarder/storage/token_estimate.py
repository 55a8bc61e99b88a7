"""Estimate the number of input tokens of a request. It is an estimate, because tokenizers differ.

Current models average about four characters of English text per token, and one to two characters of
Chinese or Japanese. Images and files count as the API documentation states for average ones.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from forwarder.core.types import Json

CHARACTERS_PER_TOKEN = 4.0
"""ASCII characters per token."""

WIDE_CHARACTERS_PER_TOKEN = 1.5
"""Non-ASCII characters per token."""

TOKENS_PER_ITEM = 4
"""Overhead of each item, in tokens."""

IMAGE_TOKENS = {"low": 85, "high": 765, "auto": 765, "original": 1105}
FILE_TOKENS = 1000
"""Assumed tokens of a file, whose content is not inspected."""


def estimate_input_tokens(request: Json, items: list[Any]) -> int:
    """Return the tokens of a request's instructions, tools, text format and ``items``."""
    beside = [request.get(name) for name in ("instructions", "tools", "text")]
    return sum(map(estimate_text, filter(None, beside))) + sum(
        TOKENS_PER_ITEM + estimate_item(item) for item in items
    )


def estimate_item(item: Any) -> int:
    if not isinstance(item, dict):
        return estimate_text(item)
    rest = {k: v for k, v in item.items() if k not in ("content", "output", "id", "type", "status")}
    return estimate_text(rest) + sum(
        estimate_content(item.get(name)) for name in ("content", "output")
    )


def estimate_content(content: Any) -> int:
    return sum(map(estimate_part, content)) if isinstance(content, list) else estimate_text(content)


def estimate_part(part: Any) -> int:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        return IMAGE_TOKENS.get(str(part.get("detail") or "auto"), IMAGE_TOKENS["auto"])
    if kind == "input_file":
        return FILE_TOKENS
    text = part.get("text", part.get("refusal")) if isinstance(part, dict) else part
    return estimate_text(text)


def estimate_text(value: Any) -> int:
    """Return the tokens of a string, or of any other value as JSON."""
    if not value:
        return 0
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    plain = sum(map(str.isascii, text))
    return math.ceil(plain / CHARACTERS_PER_TOKEN + (len(text) - plain) / WIDE_CHARACTERS_PER_TOKEN)
