"""Which call does a streamed delta belong to?

Vendors number calls as they like: with an index, without one, with one index for several calls.
A new id is a new call whatever its index says.
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
        """The number of the call that this delta begins or goes on with."""
        index, call_id = delta.get("index"), delta.get("id") or ""
        number = self._last if index is None else self._by_index.get(index)
        if number is None or self._is_other(number, call_id):
            number = len(self._ids)
            self._ids.append("")
        self._ids[number] = self._ids[number] or call_id
        self._last = number
        if index is not None:
            self._by_index[index] = number
        return number

    def _is_other(self, number: int, call_id: str) -> bool:
        known = self._ids[number]
        return bool(call_id and known and known != call_id)


def stringify_arguments(arguments: Any) -> str:
    """Arguments as text; some vendors send them as an object."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
