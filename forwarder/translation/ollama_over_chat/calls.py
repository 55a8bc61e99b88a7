"""The calls of an answer, gathered: Ollama tells each of them whole, its arguments as an object."""

from __future__ import annotations

import json
from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Json
from forwarder.protocols.tool_call_index import ToolCallIndex, stringify_arguments


class OllamaToolCallCollector:
    """The calls that have begun, in their order."""

    def __init__(self) -> None:
        self._call_index = ToolCallIndex()
        self._calls: list[OllamaToolCall] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add_delta(self, delta: Json) -> None:
        """Begin a call, or go on with one."""
        number = self._call_index.find(delta)
        if number == len(self._calls):
            self._calls.append(OllamaToolCall())
        self._calls[number].add_delta(delta)

    def build_calls(self, is_cut: bool) -> list[Json]:
        """All of them; raises UpstreamBroken for arguments that are no object.

        Of an answer that ``is_cut`` those are left out that did not come to their end.
        """
        told: list[Json] = []
        for i, call in enumerate(self._calls):
            arguments = None if is_cut and call.is_empty else call.parse_arguments()
            if arguments is not None:
                told.append(call.to_tool_call(i, arguments))
            elif not is_cut:
                raise UpstreamProtocolError(
                    f"The model called '{call.name}' with arguments that are no JSON object."
                )
        return told


class OllamaToolCall:
    """One call in the making."""

    def __init__(self) -> None:
        self.name = ""
        self._id: str | None = None
        self._text = ""

    def add_delta(self, delta: Json) -> None:
        function = delta.get("function") or {}
        self._id = self._id or delta.get("id")
        name = function.get("name") or ""
        if name != self.name:  # or it is only said again
            self.name += name
        self._text += stringify_arguments(function.get("arguments"))

    @property
    def is_empty(self) -> bool:
        return not self._text

    def parse_arguments(self) -> Json | None:
        """What they say, ``None`` for anything but an object; no arguments are an empty one."""
        try:
            value: Any = json.loads(self._text.strip() or "{}", strict=False)
        except (ValueError, RecursionError):
            return None
        return {} if value is None else value if isinstance(value, dict) else None

    def to_tool_call(self, index: int, arguments: Json) -> Json:
        function = {"index": index, "name": self.name, "arguments": arguments}
        return {"id": self._id, "function": function} if self._id else {"function": function}
