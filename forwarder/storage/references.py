"""Resolve item references of a request, to items of responses or of conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.db.tables import split_batches
from forwarder.storage.items import parse_derived_id


def list_references(items: Any) -> list[str]:
    """Return the ids of all item references; empty if ``items`` is not a list."""
    if type(items) is not list:
        return []
    return [item["id"] for item in items if is_reference(item)]


def is_reference(item: Any) -> bool:
    """Whether an item is a reference. Malformed references are rejected elsewhere."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return False
    return item.get("type") == "item_reference" or not (item.get("type") or "role" in item)


def find_items(
    connection: sa.Connection, owner: str, names: list[str], spend: SpendCallback | None = None
) -> dict[str, Json]:
    """Return the existing items with these ids, by id, from responses or conversations."""
    found_items: dict[str, Json] = {}
    unresolved: list[str] = []
    for batch in split_batches(names):  # removes duplicates
        found_items |= responses.find_items_by_id(connection, owner, batch, spend)
        missing = [name for name in batch if name not in found_items]
        if missing:
            found_items |= conversations.find_items_by_id(connection, owner, missing, spend)
            unresolved += [name for name in missing if name not in found_items]
    if unresolved:
        found_items |= find_derived_items(connection, owner, unresolved, spend)
    return {name: item for name, item in found_items.items() if not is_reference(item)}


def find_derived_items(
    connection: sa.Connection, owner: str, names: list[str], spend: SpendCallback | None
) -> dict[str, Json]:
    """Return items by derived ids. Each response that contains some of them is loaded once."""
    places: dict[str, list[tuple[str, int]]] = {}  # holder -> the ids in it, and their places
    for name in names:
        holders, place = parse_derived_id(name)
        for holder in holders:
            places.setdefault(holder, []).append((name, place))
    found_items: dict[str, Json] = {}
    for response in responses.find_all(connection, owner, places):
        all_items = [*response.input, *(response.body.get("output") or ())]
        matches = {
            name: all_items[place] for name, place in places[response.id] if place < len(all_items)
        }
        if spend is not None:
            for item in matches.values():
                spend(orjson.dumps(item))
        found_items |= matches
    return found_items


def replace_references(items: list[Any], found_items: Mapping[str, Json]) -> list[Any]:
    """Return the items with references replaced; references that were not found stay."""
    return [found_items.get(item["id"], item) if is_reference(item) else item for item in items]
