"""Images as base64 and as data URLs, for both directions."""

from __future__ import annotations

import re
from typing import Any

# What follows the subtype may be made of the same letters, and would be tried from each of them.
_DATA_URL = re.compile(r"data:(?:image/([\w.+-]+)(?![\w.+-]))?[^,]*;base64,", re.IGNORECASE)
_LINK = re.compile(r"(?:https?|data):", re.IGNORECASE)
_NAME = re.compile(r"[\w.+-]+", re.ASCII)

_HEADS = {"iVBOR": "png", "/9j/": "jpeg", "UklGR": "webp", "R0lGOD": "gif", "PHN2Z": "svg"}
"""How the base64 of an image begins -> its format."""

_FORMATS = {"jpg": "jpeg", "svg+xml": "svg"} | {f: f for f in _HEADS.values()}
"""A media subtype, or another name -> the format's own."""


def is_link(text: str) -> bool:
    """Is it a URL already, rather than base64?"""
    return _LINK.match(text) is not None


def data_url(data: str, image_format: Any = None) -> str:
    """The base64 of an image as a data URL; what is a URL already stays one."""
    if is_link(data):
        return data
    kind = format_of(data, image_format)
    return f"data:image/{'svg+xml' if kind == 'svg' else kind};base64,{data}"


def read(url: str) -> tuple[str, str] | None:
    """The base64 of a data URL and its format; ``None`` when it is no such URL."""
    head = _DATA_URL.match(url)
    if head is None:
        return None
    data = url[head.end() :]
    return data, format_of(data, head[1])


def format_of(data: str, named: Any = None) -> str:
    """As ``named``, if that is a known one, or else by how the base64 begins."""
    name = named.lower() if isinstance(named, str) and _NAME.fullmatch(named) else ""
    sniffed = (kind for head, kind in _HEADS.items() if data.startswith(head))
    return _FORMATS.get(name) or next(sniffed, name) or "png"
