"""Requests that are too large to be kept whole: the same without their longest texts."""

from __future__ import annotations

from typing import Any

import orjson

_LONG = 1000
"""Characters from which on a text is left out; images and files are far longer."""


def abridged(data: bytes) -> bytes | None:
    """A JSON body without its long texts; ``None`` for what is no JSON.

    Nothing of a text that is left out stays, or half a secret might stand at the cut.
    """
    try:
        return orjson.dumps(_short(orjson.loads(data)))
    except (ValueError, TypeError, RecursionError):
        return None


def _short(value: Any) -> Any:
    if type(value) is str:
        return value if len(value) < _LONG else _left_out(value)
    if type(value) is list:
        return [_short(inner) for inner in value]
    if type(value) is dict:
        return {name: _short(inner) for name, inner in value.items()}
    return value


def _left_out(text: str) -> str:
    """What is said of a text; of a data URL its type too."""
    head, comma, _ = text[:100].partition(",")
    kind = head + comma if text.startswith("data:") and comma else ""
    return f"{kind}[{len(text) - len(kind)} characters left out]"
