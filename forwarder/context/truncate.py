"""Requests that are too large to be kept whole: the same without their longest texts."""

from __future__ import annotations

from typing import Any

import orjson

MIN_DROPPED_TEXT_LENGTH = 1000
"""Characters from which on a text is left out; images and files are far longer."""


def truncate_body(data: bytes) -> bytes | None:
    """A JSON body without its long texts; ``None`` for what is no JSON.

    Nothing of a text that is left out stays, or half a secret might stand at the cut.
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
    """What is said of a text; of a data URL its type too."""
    head, comma, _ = text[:100].partition(",")
    kind = head + comma if text.startswith("data:") and comma else ""
    return f"{kind}[{len(text) - len(kind)} characters left out]"
