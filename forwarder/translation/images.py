"""Images as base64 and as data URLs, for both directions."""

from __future__ import annotations

import re
from typing import Any

# What follows the subtype may be made of the same letters, and would be tried from each of them.
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
"""How the base64 of an image begins -> its format."""

_FORMAT_ALIASES = {"jpg": "jpeg", "svg+xml": "svg"} | {f: f for f in _BASE64_PREFIXES.values()}
"""A media subtype, or another name -> the format's own."""


def is_url(text: str) -> bool:
    """Is it a URL already, rather than base64?"""
    return _URL.match(text) is not None


def make_data_url(data: str, image_format: Any = None) -> str:
    """The base64 of an image as a data URL; what is a URL already stays one."""
    if is_url(data):
        return data
    kind = detect_format(data, image_format)
    return f"data:image/{'svg+xml' if kind == 'svg' else kind};base64,{data}"


def parse_data_url(url: str) -> tuple[str, str] | None:
    """The base64 of a data URL and its format; ``None`` when it is no such URL."""
    head = _DATA_URL.match(url)
    if head is None:
        return None
    data = url[head.end() :]
    return data, detect_format(data, head[1])


def detect_format(data: str, hint: Any = None) -> str:
    """As ``hint``, if that is a known one, or else by how the base64 begins."""
    name = hint.lower() if isinstance(hint, str) and _FORMAT_NAME.fullmatch(hint) else ""
    sniffed = (kind for head, kind in _BASE64_PREFIXES.items() if data.startswith(head))
    return _FORMAT_ALIASES.get(name) or next(sniffed, name) or "png"
