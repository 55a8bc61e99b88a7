"""What stands in front of a request's own input, and what is said when something in it is wrong.

Errors name the place in what the client sent now, which has nothing in front of it; of what was
sent in earlier turns they say so.  An image of an earlier turn that cannot be had any more must
not end the conversation: a note stands in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from forwarder.core.errors import ForwarderError, MediaUnavailable
from forwarder.core.types import EventStream, Handler, Json

LossCallback = Callable[[str, str], None]
"""Notes that something does not reach the upstream, or refuses the request over it."""

MEDIA_GONE_REASON = "what an earlier turn named by its URL or id cannot be had any more"
MEDIA_PARTS = {"input_image": ("image_url", "image"), "input_file": ("file_url", "file")}
"""Type of a part -> where its URL is, unless it has an id, and what it is called."""

INPUT_PLACE = re.compile(r"\binput\[(\d{1,9})\]")


class EarlierItems(NamedTuple):
    """The items of earlier turns, and the parameter that brought them."""

    items: list[Any]
    param: str


def call_with_earlier_items(
    call: Handler, request: Json, earlier: EarlierItems, drop: LossCallback
) -> EventStream:
    """The answer to a request, whose ``input`` is a list, with what was earlier in front of it."""
    own, items = request["input"], earlier.items
    lost: set[str] = set()
    while True:
        try:
            stream = call({**request, "input": [*items, *own]})
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
    report_losses(lost, drop)  # whoever answers may have begun a list of its own
    return stream


def report_losses(lost: Collection[str], drop: LossCallback) -> None:
    for name in sorted(lost):
        drop(name, MEDIA_GONE_REASON)


# -- places ---------------------------------------------------------------------------------------


def rewrite_error_place(error: ForwarderError, by: int, param: str) -> None:
    """Have an error name the place in the client's own input, or what brought the earlier one."""
    named = f"{error.param} {error.message}"
    if any(int(place) < by for place in INPUT_PLACE.findall(named)):
        error.message = (
            f"In what '{param}' brings: {INPUT_PLACE.sub(format_item_place, error.message)}"
        )
        error.param = param
        return
    error.message = shift_places(error.message, by)
    error.param = shift_places(error.param, by) if error.param else error.param


def format_item_place(found: re.Match[str]) -> str:
    return f"item[{found[1]}]"


def shift_places(text: str, by: int) -> str:
    return INPUT_PLACE.sub(lambda found: f"input[{int(found[1]) - by}]", text)


# -- media ----------------------------------------------------------------------------------------


def iterate_parts(item: Any) -> Iterator[Json]:
    """The parts of a message or of a tool's result."""
    for name in ("content", "output"):
        parts = item.get(name) if isinstance(item, dict) else None
        yield from (p for p in parts if isinstance(p, dict)) if isinstance(parts, list) else ()


def read_media_name(part: Any) -> tuple[str, str] | None:
    """The kind of a part that names what it shows, and the URL or the id by which it does."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in MEDIA_PARTS:
        return None
    name = part.get(MEDIA_PARTS[kind][0]) or part.get("file_id")
    return (kind, name) if isinstance(name, str) else None


def iterate_media_names(items: list[Any]) -> Iterator[str]:
    yield from (
        found[1]
        for item in items
        for part in iterate_parts(item)
        if (found := read_media_name(part))
    )


def find_media_types(items: list[Any], names: Collection[str]) -> Iterator[str]:
    """What kinds of parts there are that name one of these."""
    for item in items:
        found = filter(None, map(read_media_name, iterate_parts(item)))
        yield from (kind for kind, name in found if name in names)


def replace_media(item: Any, names: Collection[str]) -> Any:
    """An item with a note in place of each part that names one of these."""
    if not isinstance(item, dict) or not any(find_media_types([item], names)):
        return item
    lists = {n: item[n] for n in ("content", "output") if isinstance(item.get(n), list)}
    return {
        **item,
        **{n: [replace_media_part(p, names) for p in parts] for n, parts in lists.items()},
    }


def replace_media_part(part: Any, names: Collection[str]) -> Any:
    found = read_media_name(part)
    if found is None or found[1] not in names:
        return part
    return {"type": "input_text", "text": f"[{MEDIA_PARTS[found[0]][1]} no longer available]"}
