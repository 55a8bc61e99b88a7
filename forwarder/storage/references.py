"""Item references: find them in a list of items, and replace them by the items they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forwarder.core.types import Json


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


def replace_references(items: list[Any], found_items: Mapping[str, Json]) -> list[Any]:
    """Return the items with references replaced; references that were not found stay."""
    return [found_items.get(item["id"], item) if is_reference(item) else item for item in items]
