"""Tool calls of a Responses answer -> deltas of chat's ``tool_calls``, numbered from zero.

Calls may interleave, so the writer counts the characters it has sent for each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.types import Event, Json
from forwarder.protocols.tool_call_index import stringify_arguments

CALL_SHAPES = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
"""Item type of a call -> its type in chat, and the field with the text that the model wrote."""


class ToolCallDeltaWriter:
    """Writes the deltas for the tool calls of one answer.

    ``uses_function_call`` selects the legacy ``function_call`` field, which has room for one call.
    Calls with ids that begin with one of ``server_calls`` are answered by the provider, not by the
    client.
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
        """The ``finish_reason`` of a completed answer with these calls."""
        if not self._numbers:
            return "stop"
        return "function_call" if self._uses_function_call else "tool_calls"

    def is_client_call(self, item: Json) -> bool:
        """Whether ``item`` is a call that the client must answer."""
        call_id = str(item.get("call_id"))
        return item.get("type") in CALL_SHAPES and not call_id.startswith(self._server_calls)

    def open_call(self, index: Any, item: Json) -> list[Json]:
        """Return the first delta of a call, nothing if the call is already open."""
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
        """Return the delta for an arguments or input event of a call."""
        index, delta = event.get("output_index"), stringify_arguments(event.get("delta"))
        if index not in self._numbers:
            return []  # the item was never announced; its done event has the whole input
        kind = "custom_tool_call" if "custom" in event["type"] else "function_call"
        return self._write_delta(index, kind, delta)

    def finish_call(self, index: Any, item: Json) -> list[Json]:
        """Return the deltas for the parts of a finished call that were not sent yet."""
        kind = item["type"]
        opening = self.open_call(index, item)
        rest = stringify_arguments(item.get(CALL_SHAPES[kind][1]))[self._sent.get(index, 0) :]
        return [*opening, *self._write_delta(index, kind, rest)]

    def _write_delta(self, index: Any, kind: str, text: str) -> list[Json]:
        if not text:
            return []
        self._sent[index] = self._sent.get(index, 0) + len(text)
        if self._uses_function_call:
            return [{"function_call": {"arguments": text}}]
        shape, key = CALL_SHAPES[kind]
        return [{"tool_calls": [{"index": self._numbers[index], shape: {key: text}}]}]
