"""Pagination of lists as the OpenAI API defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.core.validate import DICT, STR, check_enum, check_type
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.tables import is_valid_id

MAX_PAGE_SIZE = 100


class PageRequest(NamedTuple):
    """A requested page: up to ``limit`` entries after the id ``after``, in the given order."""

    limit: int
    after: str | None
    is_descending: bool


def read_page(
    query: Mapping[str, str], order: str, default_size: int = 20, max_size: int = MAX_PAGE_SIZE
) -> PageRequest:
    """Parse pagination parameters; ``order`` is the default order. Raises InvalidRequest."""
    text = query.get("limit", str(default_size))
    if not text.isdecimal() or not 1 <= int(text) <= max_size:
        raise InvalidRequest(
            f"Invalid value for 'limit': expected an integer from 1 to {max_size}.",
            param="limit",
            code="invalid_value",
        )
    direction = check_enum(query.get("order", order), ("asc", "desc"), "order")
    return PageRequest(int(text), query.get("after") or None, direction == "desc")


def make_page(entries: Sequence[Json], page: PageRequest) -> Json:
    """Return a page of ``entries``, the complete list in ascending order. Raises InvalidRequest."""
    ordered = list(reversed(entries)) if page.is_descending else list(entries)
    if page.after is not None:
        names = [entry["id"] for entry in ordered]
        if page.after not in names:
            raise unknown_cursor(page.after)
        ordered = ordered[names.index(page.after) + 1 :]
    return make_list(ordered, page.limit)


def find_page_start(page: PageRequest, find_position: Callable[[str], int | None]) -> int | None:
    """Return the position after which a page starts, for a list that the database pages."""
    return find_cursor(page.after, "after", find_position)


def find_numbered_page(
    page: PageRequest, before: str | None, find_position: Callable[[str], int | None]
) -> NumberedPage:
    """Return the page of a list that the database pages in both directions."""
    after = find_cursor(page.after, "after", find_position)
    before_position = find_cursor(before or None, "before", find_position)
    return NumberedPage(page.limit, after, before_position, page.is_descending)


def find_cursor(
    name: str | None, param: str, find_position: Callable[[str], int | None]
) -> int | None:
    if name is None:
        return None
    position = find_position(name) if is_valid_id(name) else None
    if position is None:
        raise unknown_cursor(name, param)
    return position


def unknown_cursor(name: str, param: str = "after") -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{param}': '{name[:64]}' is not in this list.",
        param=param,
        code="invalid_value",
    )


def make_list(entries: Sequence[Json], limit: int) -> Json:
    """Return the first ``limit`` entries as a list object, which also says if there are more."""
    return make_list_object(list(entries[:limit]), len(entries) > limit)


def make_list_object(data: list[Json], has_more: bool) -> Json:
    """Return the list object of a page."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def read_metadata(body: Json, required: bool = False) -> Json:
    """Return the validated ``metadata`` of a body: up to 16 strings by name."""
    raw = body.get("metadata")
    if raw is None and not required:
        return {}
    metadata: Json = check_type(raw, DICT, "metadata")
    if len(metadata) > 16:
        raise InvalidRequest(
            "'metadata' must have at most 16 pairs.",
            param="metadata",
            code="object_above_max_properties",
        )
    for name, value in metadata.items():
        path = f"metadata.{name[:64]}"
        check_type(value, STR, path)
        if len(name) > 64 or len(value) > 512:
            raise InvalidRequest(
                "Keys in 'metadata' must have at most 64 characters, values at most 512.",
                param=path,
                code="string_above_max_length",
            )
    return metadata
