"""How many tokens an input may have: an estimate, since every model has its own tokenizer.

A token of the models of today is some four characters of English text, and one or two of Chinese
or Japanese; images and files count as the APIs' documents say of average ones.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from forwarder.core.types import Json

_CHARACTERS = 4.0
"""Of plain text in a token."""

_WIDE = 1.5
"""Of other scripts in a token."""

_ITEM = 4
"""Tokens that go with each item."""

_IMAGE = {"low": 85, "high": 765, "auto": 765, "original": 1105}
_FILE = 1000
"""Tokens of a file that nobody has looked into."""


def estimate(request: Json, items: list[Any]) -> int:
    """Tokens of a request's instructions, tools and ``items``."""
    beside = [request.get(name) for name in ("instructions", "tools", "text")]
    return sum(map(_tokens, filter(None, beside))) + sum(_ITEM + _of_item(item) for item in items)


def _of_item(item: Any) -> int:
    if not isinstance(item, dict):
        return _tokens(item)
    rest = {k: v for k, v in item.items() if k not in ("content", "output", "id", "type", "status")}
    return _tokens(rest) + sum(_of_content(item.get(name)) for name in ("content", "output"))


def _of_content(content: Any) -> int:
    return sum(map(_of_part, content)) if isinstance(content, list) else _tokens(content)


def _of_part(part: Any) -> int:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        return _IMAGE.get(str(part.get("detail") or "auto"), _IMAGE["auto"])
    if kind == "input_file":
        return _FILE
    text = part.get("text", part.get("refusal")) if isinstance(part, dict) else part
    return _tokens(text)


def _tokens(value: Any) -> int:
    """Of a text, or of anything else as JSON."""
    if not value:
        return 0
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    plain = sum(map(str.isascii, text))
    return math.ceil(plain / _CHARACTERS + (len(text) - plain) / _WIDE)
