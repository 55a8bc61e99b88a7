"""Assigns streamed deltas to tool calls.

Some vendors send an index for each call, some none, some the same index for several calls.  A new
id always starts a new call, even under a known index.
"""

from __future__ import annotations

import json
from typing import Any

from forwarder.core.types import Json


class ToolCallIndex:
    """Numbers the calls of one answer, from 0 in the order in which they begin."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._by_index: dict[Any, int] = {}
        self._last: int | None = None

    def find(self, delta: Json) -> int:
        """Return the number of the call that this delta starts or continues."""
        index, call_id = delta.get("index"), delta.get("id") or ""
        number = self._last if index is None else self._by_index.get(index)
        if number is None or (call_id and self._ids[number] not in ("", call_id)):
            number = len(self._ids)
            self._ids.append("")
        self._ids[number] = self._ids[number] or call_id
        self._last = number
        if index is not None:
            self._by_index[index] = number
        return number


def read_call_deltas(delta: Json) -> list[Json]:
    """Return the tool calls of a message or delta; a legacy ``function_call`` is the only one."""
    calls = delta.get("tool_calls")
    if not calls and delta.get("function_call"):
        return [{"index": 0, "function": delta["function_call"]}]
    return list(calls or ())


def stringify_arguments(arguments: Any) -> str:
    """Return arguments as text; some vendors send an object."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
