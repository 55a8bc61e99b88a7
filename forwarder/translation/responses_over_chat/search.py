"""The web search tool over models that search themselves: its options, in chat's shape."""

from __future__ import annotations

from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.core.validate import DICT, STR, optional

SEARCHES = frozenset(
    {
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""Every type that the tool has had."""

_PLACE = ("city", "country", "region", "timezone")
_CARRIED = ("type", "search_context_size", "user_location")


def options(tool: Json, path: str, ledger: Ledger) -> Json:
    """``web_search_options`` for a search tool; what has no place there goes into the ledger."""
    size = optional(tool, "search_context_size", STR, f"{path}.search_context_size")
    where = optional(tool, "user_location", DICT, f"{path}.user_location")
    for name in sorted(tool.keys() - set(_CARRIED)):
        if tool[name] is not None:
            ledger.drop(f"tools.{tool['type']}.{name}", "Chat Completions has no such setting")
    return {
        **({"search_context_size": size} if size else {}),
        **({"user_location": _location(where, f"{path}.user_location")} if where else {}),
    }


def _location(where: Json, path: str) -> Json:
    place = {name: optional(where, name, STR, f"{path}.{name}") for name in _PLACE}
    return {"type": "approximate", "approximate": {k: v for k, v in place.items() if v}}
