"""The calls of an answer.  Is enough of one known to show it?

Names come first, late, in pieces or again.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.errors import UpstreamBroken
from forwarder.core.ids import Mint
from forwarder.core.types import Batch, Json
from forwarder.protocols.signatures import SignatureCollector
from forwarder.protocols.tool_call_index import CallKeys, argument_text
from forwarder.translation.responses_over_chat.items import Item, ToolCall
from forwarder.translation.responses_over_chat.toolbox import Toolbox

CALLS = ("tool_calls", "function_call")
"""The fields of a delta in which a model calls; the second is the legacy one."""

MakeCall = Callable[[str, str, bool], ToolCall | None]
"""Makes the item of a call from its name and id, and whether it is whole; some wait for that."""


class PendingCall:
    """A call on its way: its item is made as soon as its name is known to be whole."""

    def __init__(self) -> None:
        self._id = ""
        self._name = ""
        self._early: list[str] = []  # arguments that came before the item was made
        self._item: ToolCall | None = None

    @property
    def call_id(self) -> str:
        """The id under which the client knows the call, once it is shown."""
        return str(self._item.done["call_id"]) if self._item else self._id

    def take(self, delta: Json, make: MakeCall) -> Batch:
        """The events that one delta of this call causes."""
        body = delta.get("function") or delta.get("custom") or {}
        self._id = self._id or str(delta.get("id") or "")
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


class Calls:
    """The calls of one answer; they put their items among ``items``, and stay open to the end."""

    def __init__(
        self, items: list[Item], toolbox: Toolbox, mint: Mint, signatures: SignatureCollector
    ) -> None:
        self._items = items
        self._toolbox = toolbox
        self._mint = mint
        self._signatures = signatures
        self._calls: list[PendingCall] = []
        self._ids: set[str] = set()
        self._keys = CallKeys()

    @property
    def begun(self) -> bool:
        return bool(self._calls)

    @property
    def signatures(self) -> dict[str, Json]:
        """Call id, as the client knows it -> the signatures of the call."""
        found = self._signatures.read_calls()
        return {self._calls[number].call_id: fields for number, fields in found.items()}

    def take(self, delta: Json) -> Batch:
        """The events that the ``tool_calls`` of a delta cause, or its legacy ``function_call``."""
        events: Batch = []
        for call in _calls_of(delta):
            number = self._keys.find(call)
            if number == len(self._calls):
                events += self._begin()
            self._signatures.take_call(number, call)
            events += self._calls[number].take(call, self._make)
        return events

    def close(self, status: str, is_last: bool) -> Batch:
        """Close them all; only the last was cut off, if it is the last item of the answer."""
        last = self._calls[-1] if self._calls and is_last else None
        events: Batch = []
        for call in self._calls:
            events += call.close(status if call is last else "completed", self._make)
        return events

    def _begin(self) -> Batch:
        """A further call says that the names of those before it are whole."""
        events = [event for call in self._calls for event in call.show(self._make)]
        self._calls.append(PendingCall())
        return events

    def _make(self, name: str, call_id: str, whole: bool) -> ToolCall | None:
        tool = self._toolbox.find(name)
        if not (tool.kind.streams or whole):
            return None
        item_id = self._mint.id(tool.kind.id_prefix)
        native = self._toolbox.is_native(tool.kind)
        if not call_id or call_id in self._ids:  # clients tell calls apart by their ids
            call_id = self._mint.id("call")
        self._ids.add(call_id)
        item = ToolCall(item_id, len(self._items), call_id, tool, native)
        self._items.append(item)
        return item


def _calls_of(delta: Json) -> list[Json]:
    calls = delta.get("tool_calls")
    return list(calls) if calls else [{"index": 0, "function": delta["function_call"]}]
