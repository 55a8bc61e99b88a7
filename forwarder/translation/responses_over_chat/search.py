"""The web search tool over models that search themselves: its options, in chat's shape."""

from __future__ import annotations

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import DICT, STR, read_field

WEB_SEARCH_TYPES = frozenset(
    {
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""Every type that the tool has had."""

_LOCATION_FIELDS = ("city", "country", "region", "timezone")
_CARRIED_FIELDS = ("type", "search_context_size", "user_location")


def make_search_options(tool: Json, path: str, loss_report: LossReport) -> Json:
    """``web_search_options`` for a search tool; what has no place there goes into the ledger."""
    size = read_field(tool, "search_context_size", STR, f"{path}.search_context_size")
    where = read_field(tool, "user_location", DICT, f"{path}.user_location")
    for name in sorted(tool.keys() - set(_CARRIED_FIELDS)):
        if tool[name] is not None:
            loss_report.drop(f"tools.{tool['type']}.{name}", "Chat Completions has no such setting")
    return {
        **({"search_context_size": size} if size else {}),
        **({"user_location": convert_location(where, f"{path}.user_location")} if where else {}),
    }


def convert_location(where: Json, path: str) -> Json:
    place = {name: read_field(where, name, STR, f"{path}.{name}") for name in _LOCATION_FIELDS}
    return {"type": "approximate", "approximate": {k: v for k, v in place.items() if v}}
