"""The calls of a Responses answer as the deltas of chat's ``tool_calls``, numbered from zero.

Calls may interleave, so what has been sent is kept for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.types import Event, Json
from forwarder.protocols.tool_call_index import stringify_arguments

CALL_SHAPES = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
"""Item type of a call -> its shape in chat, and the field that holds what the model wrote."""


class ToolCallDeltaWriter:
    """The calls of one answer; ``uses_function_call`` spells the one that there is ``function_call``.

    Calls whose ids begin with one of ``server_calls`` are the provider's own work.
    """

    def __init__(self, uses_function_call: bool, server_calls: Iterable[str] = ()) -> None:
        self._uses_function_call = uses_function_call
        self._server_calls = tuple(server_calls)
        self._numbers: dict[Any, int] = {}  # output index -> dense number of the call
        self._sent: dict[Any, int] = {}  # output index -> characters sent

    @property
    def output_indexes(self) -> set[Any]:
        """The output indexes of the calls that were opened."""
        return set(self._numbers)

    @property
    def finish_reason(self) -> str:
        """Why an answer with these calls has ended."""
        if not self._numbers:
            return "stop"
        return "function_call" if self._uses_function_call else "tool_calls"

    def is_client_call(self, item: Json) -> bool:
        """Is this item a call that the client has to answer?"""
        call_id = str(item.get("call_id"))
        return item.get("type") in CALL_SHAPES and not call_id.startswith(self._server_calls)

    def open_call(self, index: Any, item: Json) -> list[Json]:
        """The delta that begins a call; none when it has begun."""
        if index in self._numbers:
            return []
        number = self._numbers[index] = len(self._numbers)
        shape, key = CALL_SHAPES[item["type"]]
        name = str(item.get("name") or "")
        if item.get("namespace"):
            name = f"{item['namespace']}__{name}"
        if self._uses_function_call:
            return [{"function_call": {"name": name, "arguments": ""}}]
        call_id = str(item.get("call_id") or item.get("id") or f"call_{number}")
        call = {"index": number, "id": call_id}
        return [{"tool_calls": [{**call, "type": shape, shape: {"name": name, key: ""}}]}]

    def append_input(self, event: Event) -> list[Json]:
        """The delta for what the model has written of a call."""
        index, delta = event.get("output_index"), stringify_arguments(event.get("delta"))
        if index not in self._numbers:
            return []  # the item was never announced; its done event has the whole
        kind = "custom_tool_call" if "custom" in event["type"] else "function_call"
        return self._write_delta(index, kind, delta)

    def finish_call(self, index: Any, item: Json) -> list[Json]:
        """The deltas for what of a finished call has not been sent."""
        kind = item["type"]
        opened = self.open_call(index, item)
        rest = stringify_arguments(item.get(CALL_SHAPES[kind][1]))[self._sent.get(index, 0) :]
        return [*opened, *self._write_delta(index, kind, rest)]

    def _write_delta(self, index: Any, kind: str, text: str) -> list[Json]:
        if not text:
            return []
        self._sent[index] = self._sent.get(index, 0) + len(text)
        if self._uses_function_call:
            return [{"function_call": {"arguments": text}}]
        shape, key = CALL_SHAPES[kind]
        return [{"tool_calls": [{"index": self._numbers[index], shape: {key: text}}]}]
