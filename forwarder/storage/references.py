"""The items that a request refers to by their ids, wherever the client was told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.db.ids import split_batches
from forwarder.storage.items import parse_derived_id


def list_references(items: Any) -> list[str]:
    """The ids that items refer to; none when they are no list."""
    if type(items) is not list:
        return []
    return [item["id"] for item in items if is_reference(item)]


def is_reference(item: Any) -> bool:
    """Does an item stand for another?  What refers to nothing is not for here to refuse."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return False
    return item.get("type") == "item_reference" or not (item.get("type") or "role" in item)


def find_items(
    connection: sa.Connection, owner: str, names: list[str], spend: SpendCallback | None = None
) -> dict[str, Json]:
    """The items of these ids, as far as there are any: of responses, or of conversations."""
    there: dict[str, Json] = {}
    left: list[str] = []
    for some in split_batches(names):  # each name once, however often it is referred to
        there |= responses.find_items_by_id(connection, owner, some, spend)
        missing = [name for name in some if name not in there]
        if missing:
            there |= conversations.find_items_by_id(connection, owner, missing, spend)
            left += [name for name in missing if name not in there]
    if left:
        there |= find_derived_items(connection, owner, left, spend)
    return {name: item for name, item in there.items() if not is_reference(item)}


def find_derived_items(
    connection: sa.Connection, owner: str, names: list[str], spend: SpendCallback | None
) -> dict[str, Json]:
    """The items of ids that they were given because they came without.

    Every response that holds some of them is loaded once.
    """
    places: dict[str, list[tuple[str, int]]] = {}  # holder -> the ids in it, and their places
    for name in names:
        holders, place = parse_derived_id(name)
        for holder in holders:
            places.setdefault(holder, []).append((name, place))
    there: dict[str, Json] = {}
    for kept in responses.find_all(connection, owner, places):
        held = [*kept.input, *(kept.body.get("output") or ())]
        fresh = {name: held[place] for name, place in places[kept.id] if place < len(held)}
        if spend is not None:
            for item in fresh.values():
                spend(orjson.dumps(item))
        there |= fresh
    return there


def replace_references(items: list[Any], there: Mapping[str, Json]) -> list[Any]:
    """The items with those that they refer to; what is not found stays as it is."""
    return [there.get(item["id"], item) if is_reference(item) else item for item in items]
