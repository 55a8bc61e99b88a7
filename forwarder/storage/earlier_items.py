"""Prepend earlier items to a request's input, and correct errors that refer to them.

Error messages must use positions in the input that the client sent, without the earlier items.
Errors about earlier items say so. An image or file of an earlier turn that is no longer available
does not fail the request; a text note replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from forwarder.core.errors import ForwarderError, MediaUnavailable
from forwarder.core.types import EventStream, Handler, Json

LossCallback = Callable[[str, str], None]
"""Reports a loss as (parameter, reason); raises in strict mode."""

MEDIA_GONE_REASON = "media from an earlier turn is no longer available"
MEDIA_PARTS = {"input_image": ("image_url", "image"), "input_file": ("file_url", "file")}
"""Part type -> the field with its URL, and its name in the replacement note."""

INPUT_PLACE = re.compile(r"\binput\[(\d{1,9})\]")
ITEM_PLACE = r"item[\1]"


class EarlierItems(NamedTuple):
    """The items of earlier turns, and the parameter that refers to them."""

    items: list[Any]
    param: str


def call_with_earlier_items(
    handler: Handler, request: Json, earlier: EarlierItems, drop: LossCallback
) -> EventStream:
    """Call ``handler`` with the earlier items in front of the request's ``input``, which is a list.

    Retries without earlier media that turn out to be unavailable, and reports each as a loss.
    """
    own, items = request["input"], earlier.items
    lost: set[str] = set()
    while True:
        try:
            stream = handler({**request, "input": [*items, *own]})
        except ForwarderError as error:
            names = (
                error.names - set(iterate_media_names(own))
                if isinstance(error, MediaUnavailable)
                else frozenset()
            )
            gone = set(find_media_types(items, names))
            if not gone:
                rewrite_error_place(error, len(items), earlier.param)
                raise
        else:
            break
        lost |= {f"{earlier.param}.{kind}" for kind in gone}
        report_losses(lost, drop)
        items = [replace_media(item, names) for item in items]
    report_losses(lost, drop)  # again, because a retry starts a new loss report
    return stream


def report_losses(lost: Collection[str], drop: LossCallback) -> None:
    for name in sorted(lost):
        drop(name, MEDIA_GONE_REASON)


# -- places ---------------------------------------------------------------------------------------


def rewrite_error_place(error: ForwarderError, offset: int, param: str) -> None:
    """Change an error to the position in the client's input, or to the parameter of the history."""
    named = f"{error.param} {error.message}"
    if any(int(place) < offset for place in INPUT_PLACE.findall(named)):
        error.message = f"In the history of '{param}': {INPUT_PLACE.sub(ITEM_PLACE, error.message)}"
        error.param = param
        return
    error.message = shift_places(error.message, offset)
    error.param = shift_places(error.param, offset) if error.param else error.param


def shift_places(text: str, offset: int) -> str:
    return INPUT_PLACE.sub(lambda match: f"input[{int(match[1]) - offset}]", text)


# -- media ----------------------------------------------------------------------------------------


def iterate_parts(item: Any) -> Iterator[Json]:
    """Yield the parts of a message or of a tool result."""
    for name in ("content", "output"):
        parts = item.get(name) if isinstance(item, dict) else None
        if isinstance(parts, list):
            yield from (part for part in parts if isinstance(part, dict))


def read_media_name(part: Any) -> tuple[str, str] | None:
    """Return the type of a media part and its URL or file id, or None for other parts."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in MEDIA_PARTS:
        return None
    name = part.get(MEDIA_PARTS[kind][0]) or part.get("file_id")
    return (kind, name) if isinstance(name, str) else None


def iterate_media_names(items: list[Any]) -> Iterator[str]:
    yield from (
        media[1]
        for item in items
        for part in iterate_parts(item)
        if (media := read_media_name(part))
    )


def find_media_types(items: list[Any], names: Collection[str]) -> Iterator[str]:
    """Yield the types of the parts that refer to one of ``names``."""
    for item in items:
        media = filter(None, map(read_media_name, iterate_parts(item)))
        yield from (kind for kind, name in media if name in names)


def replace_media(item: Any, names: Collection[str]) -> Any:
    """Return an item with a text note in place of each part that refers to one of ``names``."""
    if not isinstance(item, dict) or not any(find_media_types([item], names)):
        return item
    lists = {n: item[n] for n in ("content", "output") if isinstance(item.get(n), list)}
    return {
        **item,
        **{n: [replace_media_part(p, names) for p in parts] for n, parts in lists.items()},
    }


def replace_media_part(part: Any, names: Collection[str]) -> Any:
    media = read_media_name(part)
    if media is None or media[1] not in names:
        return part
    return {"type": "input_text", "text": f"[{MEDIA_PARTS[media[0]][1]} no longer available]"}
