"""Lists in pages, as the API has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.core.validate import check_enum
from forwarder.storage.db.ids import is_valid_id

MAX_PAGE_SIZE = 100


class PageRequest(NamedTuple):
    """Which part of a list is wanted: so many, behind the one with this id, in this order."""

    limit: int
    after: str | None
    is_descending: bool


def read_page(given: Mapping[str, str], order: str) -> PageRequest:
    """The page that a query asks for; ``order`` is what holds unless it says another."""
    text = given.get("limit", "20")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PAGE_SIZE:
        raise InvalidRequest(
            f"Invalid value for 'limit': expected an integer from 1 to {MAX_PAGE_SIZE}.",
            param="limit",
            code="invalid_value",
        )
    asked = check_enum(given.get("order", order), ("asc", "desc"), "order")
    return PageRequest(int(text), given.get("after") or None, asked == "desc")


def make_page(found: Sequence[Json], page: PageRequest) -> Json:
    """A page of all that there is, which is in rising order."""
    ordered = list(reversed(found)) if page.is_descending else list(found)
    if page.after is not None:
        names = [entry["id"] for entry in ordered]
        if page.after not in names:
            raise unknown_cursor(page.after)
        ordered = ordered[names.index(page.after) + 1 :]
    return make_list(ordered, page.limit)


def find_page_start(page: PageRequest, place: Callable[[str], int | None]) -> int | None:
    """The place behind which a page is, in a list that the store pages."""
    if page.after is None:
        return None
    found = place(page.after) if is_valid_id(page.after) else None
    if found is None:
        raise unknown_cursor(page.after)
    return found


def unknown_cursor(after: str) -> InvalidRequest:
    return InvalidRequest(
        f"There is no '{after[:64]}' in this list.", param="after", code="invalid_value"
    )


def make_list(entries: Sequence[Json], limit: int) -> Json:
    """The first entries as a list object, which says whether there are more."""
    data = list(entries[:limit])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(entries) > limit,
    }


def read_metadata(
    body: Json, check: Callable[[Any, tuple[type, ...], str], Any], required: bool = False
) -> Json:
    """The metadata in a body: texts by name, of which there may not be too many."""
    given = body.get("metadata")
    if given is None and not required:
        return {}
    metadata: Json = check(given, (dict,), "metadata")
    if len(metadata) > 16:
        raise InvalidRequest(
            "'metadata' may hold 16 pairs.", param="metadata", code="object_above_max_properties"
        )
    for name, value in metadata.items():
        path = f"metadata.{name[:64]}"
        check(value, (str,), path)
        if len(name) > 64 or len(value) > 512:
            raise InvalidRequest(
                "Names in 'metadata' have up to 64 characters, values up to 512.",
                param=path,
                code="string_above_max_length",
            )
    return metadata
