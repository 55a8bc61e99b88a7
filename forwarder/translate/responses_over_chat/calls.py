"""Which call does a delta belong to, and is enough of it known to show it?

Vendors number calls as they like: with an index, without one, with one index for several calls.
A new id is a new call whatever its index says.  Names and ids come first, late, again or empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from forwarder.errors import UpstreamBroken
from forwarder.translate.call import Batch, Json
from forwarder.translate.responses_over_chat.items import ToolCall

MakeCall = Callable[[str, str], ToolCall]


class PendingCall:
    """A call on its way: its item is made as soon as its name is known to be whole."""

    def __init__(self) -> None:
        self.id = ""
        self._name = ""
        self._early: list[str] = []  # arguments that came before the name
        self._item: ToolCall | None = None

    def take(self, delta: Json, make: MakeCall) -> Batch:
        """The events that one delta of this call causes."""
        body = delta.get("function") or delta.get("custom") or {}
        self.id = self.id or delta.get("id") or ""
        arguments = _text(body.get("arguments") if "arguments" in body else body.get("input"))
        if self._item is not None:
            return self._item.grow(arguments) if arguments else []
        name = body.get("name") or ""
        if name != self._name:  # or it is only said again
            self._name += name
        self._early.append(arguments)
        # A name may come in pieces; only arguments say that it is whole.
        return self.show(make) if self._name and arguments else []

    def show(self, make: MakeCall) -> Batch:
        """The opening events, if they are still due and the name is known."""
        if self._item is not None or not self._name:
            return []
        self._item = make(self._name, self.id)
        early = "".join(self._early)
        return [*self._item.open(), *(self._item.grow(early) if early else [])]

    def close(self, status: str, make: MakeCall) -> Batch:
        """The closing events, and the opening ones if nothing was shown yet."""
        opening = self.show(make)
        if self._item is None:
            raise UpstreamBroken("The upstream called a tool without naming it.")
        return [*opening, *self._item.close(status)]


class CallKeys:
    """Finds the call of a delta by its index and id."""

    def __init__(self) -> None:
        self._by_index: dict[Any, PendingCall] = {}
        self._last: PendingCall | None = None

    def find(self, delta: Json) -> PendingCall:
        index, call_id = delta.get("index"), delta.get("id")
        call = self._last if index is None else self._by_index.get(index)
        if call is None or (call_id and call.id and call.id != call_id):
            call = PendingCall()
        self._last = call
        if index is not None:
            self._by_index[index] = call
        return call


def _text(arguments: Any) -> str:
    """Arguments as text; some vendors send them as an object."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
