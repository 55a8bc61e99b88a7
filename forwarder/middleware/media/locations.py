"""Finds and replaces the images and files in a request of either protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from forwarder.core.paced_iteration import iter_paced
from forwarder.core.types import Json
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS


@dataclass(frozen=True)
class MediaLocation:
    """One image or file: ``value`` is the object with its URL, ``file_data`` or ``file_id``.

    ``steps`` are the keys and indexes that lead from the request to ``value``.
    """

    kind: str
    """``image`` or ``file``."""
    value: Json
    steps: tuple[str | int, ...]
    url_key: str
    in_result: bool
    """Whether it is part of a tool's result."""

    @property
    def path(self) -> str:
        """The path in error messages, such as ``messages[3].content[1].image_url``."""
        path = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps)
        return path.removeprefix(".")

    @property
    def entry_index(self) -> int:
        """The index of the message or item that contains it."""
        return int(self.steps[1])

    @property
    def url(self) -> str:
        """The URL, or ``""`` without one."""
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
"""Chat's parts, which wrap their value in an object under the name of their type."""

_CONTAINERS = (list, dict)


def find_media(request: Json, client: str) -> Iterator[MediaLocation]:
    """Yield the images and files in a request of the ``client`` protocol; skip malformed ones."""
    root, fields, _ = UPSTREAM_PROTOCOLS[client].conversation
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
    if isinstance(parts, dict):  # a screenshot is a single part without a list
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
    """Return a copy of the request with new values at these locations.

    Each list and object on the way to a location is copied once; all others are shared.
    """
    root = request.copy()
    copies: dict[int, Any] = {}  # by their ids
    for location, value in iter_paced(changes):
        *parents, last = location.steps
        container: Any = root
        for step in parents:
            inner = container[step]
            if id(inner) not in copies:
                inner = container[step] = inner.copy()
                copies[id(inner)] = inner
            container = inner
        container[last] = value
    return root
