"""Where the images and files of a request stand, in either protocol, and how to replace them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from forwarder.core.pacing import iter_paced
from forwarder.core.types import Json


@dataclass(frozen=True)
class MediaLocation:
    """One image or file: ``value`` is the object that has the ``url``, ``file_data`` and so on.

    ``steps`` lead to ``value`` from the request: keys and indexes.
    """

    kind: str
    """``image`` or ``file``."""
    value: Json
    steps: tuple[str | int, ...]
    url_key: str
    in_result: bool
    """It is part of a tool's result."""

    @property
    def path(self) -> str:
        """As errors write it: ``messages[3].content[1].image_url``."""
        shown = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps)
        return shown.removeprefix(".")

    @property
    def entry_index(self) -> int:
        """Which message or item it is in."""
        return int(self.steps[1])

    @property
    def url(self) -> str:
        """Its URL, ``""`` when it has none."""
        url = self.value.get(self.url_key)
        return url if isinstance(url, str) else ""

    @property
    def url_path(self) -> str:
        return f"{self.path}.{self.url_key}"


_KINDS = {
    "image_url": "image",
    "input_image": "image",
    "computer_screenshot": "image",
    "file": "file",
    "input_file": "file",
}
_NESTED = ("image_url", "file")
"""Chat's parts, which hold what they are about in an object under their own name."""

_ENTRIES = {
    "chat": ("messages", ("content", "images")),
    "responses": ("input", ("content", "output")),
}

_CONTAINERS = (list, dict)


def find_media(request: Json, client: str) -> Iterator[MediaLocation]:
    """The images and files in a request of the ``client`` protocol; ill-formed ones are left."""
    root, fields = _ENTRIES[client]
    entries = request.get(root)
    for i, entry in enumerate(iter_paced(entries if isinstance(entries, list) else ())):
        if isinstance(entry, dict):
            for field in fields:
                parts = entry.get(field)
                if isinstance(parts, _CONTAINERS):
                    result = field == "output" or entry.get("role") == "tool"
                    yield from find_in_parts(parts, (root, i, field), result)


def find_in_parts(
    parts: list[Any] | Json, steps: tuple[str | int, ...], result: bool
) -> Iterator[MediaLocation]:
    if isinstance(parts, dict):  # a screenshot stands alone
        yield from find_in_part(parts, steps, result)
        return
    for i, part in enumerate(iter_paced(parts)):
        if isinstance(part, dict):
            yield from find_in_part(part, (*steps, i), result)


def find_in_part(part: Json, steps: tuple[str | int, ...], result: bool) -> Iterator[MediaLocation]:
    name = part.get("type")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        return
    inner = part.get(name) if name in _NESTED else None
    if isinstance(inner, dict):
        url_key = "url" if kind == "image" else "file_url"
        yield MediaLocation(kind, inner, (*steps, str(name)), url_key, result)
    else:
        yield MediaLocation(kind, part, steps, f"{kind}_url", result)


def replace_media(request: Json, changes: list[tuple[MediaLocation, Json]]) -> Json:
    """The request with another value in each of these places; what is not on the way is shared.

    Every list and object on the way is copied once, however many of the places are in it.
    """
    root = request.copy()
    copies: dict[int, Any] = {}  # by their ids
    for place, value in iter_paced(changes):
        *way, last = place.steps
        inside: Any = root
        for step in way:
            inner = inside[step]
            if id(inner) not in copies:
                inner = inside[step] = inner.copy()
                copies[id(inner)] = inner
            inside = inner
        inside[last] = value
    return root
