"""The calls of an answer, gathered: Ollama tells each of them whole, its arguments as an object."""

from __future__ import annotations

import json
from typing import Any

from forwarder.core.errors import UpstreamBroken
from forwarder.core.types import Json
from forwarder.protocols.tool_call_index import CallKeys, argument_text


class Calls:
    """The calls that have begun, in their order."""

    def __init__(self) -> None:
        self._keys = CallKeys()
        self._calls: list[_Call] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, delta: Json) -> None:
        """Begin a call, or go on with one."""
        number = self._keys.find(delta)
        if number == len(self._calls):
            self._calls.append(_Call())
        self._calls[number].add(delta)

    def whole(self, is_cut: bool) -> list[Json]:
        """All of them; raises UpstreamBroken for arguments that are no object.

        Of an answer that ``is_cut`` those are left out that did not come to their end.
        """
        told: list[Json] = []
        for i, call in enumerate(self._calls):
            arguments = None if is_cut and call.is_empty else call.arguments()
            if arguments is not None:
                told.append(call.told(i, arguments))
            elif not is_cut:
                raise UpstreamBroken(
                    f"The model called '{call.name}' with arguments that are no JSON object."
                )
        return told


class _Call:
    """One call in the making."""

    def __init__(self) -> None:
        self.name = ""
        self._id: str | None = None
        self._text = ""

    def add(self, delta: Json) -> None:
        function = delta.get("function") or {}
        self._id = self._id or delta.get("id")
        name = function.get("name") or ""
        if name != self.name:  # or it is only said again
            self.name += name
        self._text += argument_text(function.get("arguments"))

    @property
    def is_empty(self) -> bool:
        return not self._text

    def arguments(self) -> Json | None:
        """What they say, ``None`` for anything but an object; no arguments are an empty one."""
        try:
            value: Any = json.loads(self._text.strip() or "{}", strict=False)
        except (ValueError, RecursionError):
            return None
        return {} if value is None else value if isinstance(value, dict) else None

    def told(self, index: int, arguments: Json) -> Json:
        function = {"index": index, "name": self.name, "arguments": arguments}
        return {"id": self._id, "function": function} if self._id else {"function": function}
