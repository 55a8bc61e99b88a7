"""Makes untrusted text and JSON short and readable for the templates.

Templates escape HTML. This module handles the rest: control characters that reorder text on the
screen, and values that are too large for a page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json

MAX_STRING = 2_000
"""Characters of a string in shown JSON."""

MAX_FIRST, MAX_LAST = 20, 40
"""Entries of a list that are shown: its first and its last ones. The newest messages are last."""

MAX_LABEL = 200
"""Characters of a name, a header or a value in a table."""

MAX_BODY_TEXT = 20_000
"""Characters of a body that is not JSON."""

MAX_PAIRS = 80
"""Headers, dropped parameters and so on in a table."""

MAX_DEPTH = 24

MAX_DOCUMENT_VALUES, MAX_DOCUMENT_TEXT = 1_500, 60_000
"""Values of one shown JSON document, and characters of its strings."""

MAX_PAGE_VALUES, MAX_PAGE_TEXT = 8_000, 400_000
"""The same for all documents of a page."""

_DATA_URL = re.compile(r"data:[\w.+/-]{1,100}(;[\w.=-]{1,100}){0,4},")


def shorten_text(text: str, limit: int) -> str:
    """Return the start of a text, and how many characters follow."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit:,} more characters)"


class ReadableJsonFormatter:
    """Formats the JSON documents of a page, and shortens them so that the page stays small.

    Notes replace the rest of long strings and lists, deep values, and everything beyond the limits
    of a document or of the page.
    """

    def __init__(self) -> None:
        self._values, self._text = MAX_PAGE_VALUES, MAX_PAGE_TEXT
        self._floors = (0, 0)

    def format(self, value: Any) -> str:
        """Return a JSON value as indented text."""
        self._floors = (
            max(0, self._values - MAX_DOCUMENT_VALUES),
            max(0, self._text - MAX_DOCUMENT_TEXT),
        )
        shown = self._shorten(value, 0)
        return escape_control_characters(json.dumps(shown, ensure_ascii=False, indent=2))

    def _shorten(self, value: Any, depth: int) -> Any:
        self._values -= 1
        if isinstance(value, str):
            return self._shorten_string(value)
        if not isinstance(value, dict | list) or not value:
            return value
        if depth >= MAX_DEPTH or self._values <= self._floors[0]:
            return f"… ({len(value):,} more)"
        if isinstance(value, dict):
            return self._shorten_object(value, depth)
        if len(value) <= MAX_FIRST + MAX_LAST:
            return [self._shorten(each, depth + 1) for each in value]
        rest = len(value) - MAX_FIRST - MAX_LAST
        return [
            *(self._shorten(each, depth + 1) for each in value[:MAX_FIRST]),
            f"… ({rest:,} more)",
            *(self._shorten(each, depth + 1) for each in value[-MAX_LAST:]),
        ]

    def _shorten_object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for name, inner in value.items():
            if self._values <= self._floors[0]:
                return {**shown, "…": f"({len(value) - len(shown):,} more)"}
            shown[self._shorten_string(name)] = self._shorten(inner, depth + 1)
        return shown

    def _shorten_string(self, text: str) -> str:
        is_data = _DATA_URL.match(text)
        limit = is_data.end() if is_data else max(0, min(MAX_STRING, self._text - self._floors[1]))
        self._text -= min(len(text), limit)
        return shorten_text(text, limit)


# -- parts of records ------------------------------------------------------------------------------


def show_label(value: Any) -> str:
    """Return a value as a short text."""
    return escape_control_characters(shorten_text(str(value), MAX_LABEL))


def show_pairs(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Return the rows of a table with two columns."""
    return [(show_label(name), show_label(value)) for name, value in list(pairs)[:MAX_PAIRS]]


def show_headers(headers: Any) -> list[tuple[str, str]]:
    """Return the rows of a table of recorded headers."""
    pairs = headers if isinstance(headers, list) else []
    return show_pairs(
        (pair[0], pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2
    )


def show_body(part: Json, formatter: ReadableJsonFormatter) -> str:
    """Return the body of a request as text, or how much of it is left out."""
    if "body" in part:
        return formatter.format(part["body"])
    if isinstance(part.get("text"), str):
        return escape_control_characters(shorten_text(part["text"], MAX_BODY_TEXT))
    return describe_left_out(part)


def describe_left_out(part: Json) -> str:
    """Return a note if bytes of a body or an answer are left out."""
    count = part.get("left_out")
    return f"[{count:,} bytes are left out]" if type(count) is int else ""
