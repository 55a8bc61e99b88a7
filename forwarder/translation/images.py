"""Conversion of images between bare base64 and data URLs, for all translations."""

from __future__ import annotations

import re
from typing import Any

from forwarder.core.base64_text import MAX_HEAD_LENGTH

# The lookahead prevents backtracking into the subtype: other parameters may use the same letters.
_DATA_URL = re.compile(r"data:(?:image/([\w.+-]+)(?![\w.+-]))?[^,]*;base64,", re.IGNORECASE)
_URL = re.compile(r"(?:https?|data):", re.IGNORECASE)
_FORMAT_NAME = re.compile(r"[\w.+-]+", re.ASCII)

_BASE64_PREFIXES = {
    "iVBOR": "png",
    "/9j/": "jpeg",
    "UklGR": "webp",
    "R0lGOD": "gif",
    "PHN2Z": "svg",
}
"""The first characters of an image's base64 -> its format."""

_FORMAT_ALIASES = {"jpg": "jpeg", "svg+xml": "svg"} | {f: f for f in _BASE64_PREFIXES.values()}
"""A media subtype or another name of a format -> its name here."""


def is_url(text: str) -> bool:
    """Whether ``text`` is a URL rather than base64."""
    return _URL.match(text) is not None


def make_data_url(data: str, image_format: Any = None) -> str:
    """Return a data URL for the base64 of an image; a URL is returned unchanged."""
    if is_url(data):
        return data
    kind = detect_format(data, image_format)
    return f"data:image/{'svg+xml' if kind == 'svg' else kind};base64,{data}"


def parse_data_url(url: str) -> tuple[str, str] | None:
    """Return the base64 and the format of a data URL, ``None`` for any other text."""
    head = _DATA_URL.match(url, 0, MAX_HEAD_LENGTH)
    if head is None:
        return None
    data = url[head.end() :]
    return data, detect_format(data, head[1])


def detect_format(data: str, hint: Any = None) -> str:
    """Return the format that ``hint`` names, else the format that the first characters show.

    Falls back to an unknown but well-formed ``hint``, then to ``png``.
    """
    name = hint.lower() if isinstance(hint, str) and _FORMAT_NAME.fullmatch(hint) else ""
    sniffed = (kind for head, kind in _BASE64_PREFIXES.items() if data.startswith(head))
    return _FORMAT_ALIASES.get(name) or next(sniffed, name) or "png"
