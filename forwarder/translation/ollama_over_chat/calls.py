"""Collects streamed tool calls: Ollama sends each call whole, with its arguments as an object."""

from __future__ import annotations

import json
from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Json
from forwarder.protocols.tool_call_index import ToolCallIndex, stringify_arguments


class OllamaToolCallCollector:
    """The tool calls of one answer, in the order in which they started."""

    def __init__(self) -> None:
        self._call_index = ToolCallIndex()
        self._calls: list[OllamaToolCall] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add_delta(self, delta: Json) -> None:
        """Add a delta to its call, or start a new call."""
        number = self._call_index.find(delta)
        if number == len(self._calls):
            self._calls.append(OllamaToolCall())
        self._calls[number].add_delta(delta)

    def build_calls(self, is_cut: bool) -> list[Json]:
        """Return all calls as Ollama's ``tool_calls``.

        If the answer ``is_cut``, calls without a name and those with missing or incomplete
        arguments are omitted.  Otherwise a missing name, or arguments that are not a JSON object,
        raise UpstreamProtocolError.
        """
        tool_calls: list[Json] = []
        for i, call in enumerate(self._calls):
            arguments = None if is_cut and call.is_empty else call.parse_arguments()
            if call.name and arguments is not None:
                tool_calls.append(call.to_tool_call(i, arguments))
            elif not is_cut and not call.name:
                raise UpstreamProtocolError("The upstream sent a tool call without a name.")
            elif not is_cut:
                raise UpstreamProtocolError(
                    f"The arguments of the model's call of '{call.name}' are not a JSON object."
                )
        return tool_calls


class OllamaToolCall:
    """One tool call while its deltas arrive."""

    def __init__(self) -> None:
        self.name = ""
        self._id: str | None = None
        self._pieces: list[str] = []

    def add_delta(self, delta: Json) -> None:
        function = delta.get("function") or {}
        self._id = self._id or delta.get("id")
        name = function.get("name") or ""
        if name != self.name:  # some vendors repeat the whole name in every delta
            self.name += name
        self._pieces.append(stringify_arguments(function.get("arguments")))

    @property
    def is_empty(self) -> bool:
        return not any(self._pieces)

    def parse_arguments(self) -> Json | None:
        """Return the arguments; ``{}`` if they are empty, ``None`` if they are not an object."""
        try:
            value: Any = json.loads("".join(self._pieces).strip() or "{}", strict=False)
        except (ValueError, RecursionError):
            return None
        if value is None:
            return {}
        return value if isinstance(value, dict) else None

    def to_tool_call(self, index: int, arguments: Json) -> Json:
        function = {"index": index, "name": self.name, "arguments": arguments}
        return {"id": self._id, "function": function} if self._id else {"function": function}
