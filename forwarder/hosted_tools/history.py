"""Converts hosted calls of earlier turns to function calls, which every upstream understands.

Calls that were parallel become parallel again: their outputs follow after the last of them. The
upstream then sees the conversation as it was when the calls were made, and its prompt cache
matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forwarder.core.types import Json
from forwarder.hosted_tools.hosted_function import parse_item_id
from forwarder.hosted_tools.tool_kind import HistoryCall, ToolSet
from forwarder.protocols.input_items import CLIENT_CALLS


class HistoryConverter:
    """Converts the items of one request's input.

    ``tool_sets`` are the tools that convert items, by item type; other items are left to the
    upstream.
    ``origins`` are the places in the input that the converted items come from.
    """

    def __init__(self, tool_sets: Mapping[str, ToolSet]) -> None:
        self._tool_sets = tool_sets
        self.origins: list[int] = []
        self._items: list[Any] = []
        self._outputs: list[tuple[int, Json]] = []
        self._round: str | None = None

    def convert_items(self, items: list[Any]) -> list[Any]:
        """Return the items for the upstream. Raises InvalidRequest for malformed hosted calls."""
        for index, item in enumerate(items):
            item_type = get_item_type(item)
            tool_set = self._tool_sets.get(item_type)
            if tool_set is not None and tool_set.owns_item(item):
                call = tool_set.convert_item(item, index)
                if call is not None:
                    self._add_call(index, call)
            else:
                if item_type not in CLIENT_CALLS:
                    self._end_round()
                self._add_item(index, item)
        self._end_round()
        return self._items

    def _add_item(self, index: int, item: Any) -> None:
        self._items.append(item)
        self.origins.append(index)

    def _end_round(self) -> None:
        for index, output in self._outputs:
            self._add_item(index, output)
        self._outputs = []
        self._round = None

    def _add_call(self, index: int, call: HistoryCall) -> None:
        parts = parse_item_id(call.item_id)
        if self._outputs and (parts.round_token is None or parts.round_token != self._round):
            self._end_round()
        self._round = parts.round_token
        self._add_item(index, make_function_call(parts.call_id, call.name, call.arguments))
        self._outputs.append((index, make_function_output(parts.call_id, call.output)))


def get_item_type(item: Any) -> str:
    """Return the type of an item; empty if it has none. The translation rejects malformed types."""
    item_type = item.get("type") if isinstance(item, dict) else None
    return item_type if isinstance(item_type, str) else ""


def make_function_call(call_id: str, name: str, arguments: str) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def make_function_output(call_id: str, output: str | list[Json]) -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": output}
