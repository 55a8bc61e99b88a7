"""Is enough of a streamed call known to show it?  Names come first, late, in pieces or again."""

from __future__ import annotations

from collections.abc import Callable

from forwarder.errors import UpstreamBroken
from forwarder.translate.call import Batch, Json
from forwarder.translate.callkeys import argument_text
from forwarder.translate.responses_over_chat.items import ToolCall

MakeCall = Callable[[str, str, bool], ToolCall | None]
"""Makes the item of a call from its name and id, and whether it is whole; some wait for that."""


class PendingCall:
    """A call on its way: its item is made as soon as its name is known to be whole."""

    def __init__(self) -> None:
        self._id = ""
        self._name = ""
        self._early: list[str] = []  # arguments that came before the item was made
        self._item: ToolCall | None = None

    def take(self, delta: Json, make: MakeCall) -> Batch:
        """The events that one delta of this call causes."""
        body = delta.get("function") or delta.get("custom") or {}
        self._id = self._id or delta.get("id") or ""
        arguments = argument_text(body.get("arguments") or body.get("input"))
        if self._item is not None:
            return self._item.grow(arguments) if arguments else []
        name = body.get("name") or ""
        if name != self._name:  # or it is only said again
            self._name += name
        self._early.append(arguments)
        # A name may come in pieces; only arguments say that it is whole.
        return self.show(make) if arguments else []

    def show(self, make: MakeCall, whole: bool = False) -> Batch:
        """The opening events, if they are still due and the name is known."""
        if self._item is not None or not self._name:
            return []
        self._item = item = make(self._name, self._id, whole)
        if item is None:
            return []
        early = "".join(self._early)
        return [*item.open(), *(item.grow(early) if early else [])]

    def close(self, status: str, make: MakeCall) -> Batch:
        """The closing events, and the opening ones if nothing was shown yet."""
        opening = self.show(make, whole=True)
        if self._item is None:
            raise UpstreamBroken("The upstream called a tool without naming it.")
        return [*opening, *self._item.close(status)]
