"""Truncates request bodies that are too large to capture, by omitting long strings."""

from __future__ import annotations

from typing import Any

import orjson

MIN_DROPPED_TEXT_LENGTH = 1000
"""Strings of at least this many characters are omitted; images and files are far longer."""


def truncate_body(data: bytes) -> bytes | None:
    """Return a JSON body without its long strings, or ``None`` if it is not valid JSON.

    A long string is omitted entirely, because a partial one could end in half a secret, which
    redaction would not find.
    """
    try:
        return orjson.dumps(truncate_value(orjson.loads(data)))
    except (ValueError, TypeError, RecursionError):
        return None


def truncate_value(value: Any) -> Any:
    if type(value) is str:
        return value if len(value) < MIN_DROPPED_TEXT_LENGTH else describe_omission(value)
    if type(value) is list:
        return [truncate_value(inner) for inner in value]
    if type(value) is dict:
        return {name: truncate_value(inner) for name, inner in value.items()}
    return value


def describe_omission(text: str) -> str:
    """Return the placeholder of an omitted string; it keeps the media type of a data URL."""
    head, comma, _ = text[:100].partition(",")
    kind = head + comma if text.startswith("data:") and comma else ""
    return f"{kind}[{len(text) - len(kind)} characters left out]"
