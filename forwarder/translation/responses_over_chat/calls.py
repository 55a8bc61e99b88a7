"""The calls of an answer.  Is enough of one known to show it?

Names come first, late, in pieces or again.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.ids import IdSource
from forwarder.core.types import Batch, Json
from forwarder.protocols.signatures import SignatureCollector
from forwarder.protocols.tool_call_index import ToolCallIndex, stringify_arguments
from forwarder.translation.responses_over_chat.items import OutputItem, ToolCallItem
from forwarder.translation.responses_over_chat.toolbox import Toolbox

CALL_DELTA_FIELDS = ("tool_calls", "function_call")
"""The fields of a delta in which a model calls; the second is the legacy one."""

ItemFactory = Callable[[str, str, bool], ToolCallItem | None]
"""Makes the item of a call from its name and id, and whether it is whole; some wait for that."""


class PendingCall:
    """A call on its way: its item is made as soon as its name is known to be whole."""

    def __init__(self) -> None:
        self._id = ""
        self._name = ""
        self._early: list[str] = []  # arguments that came before the item was made
        self._item: ToolCallItem | None = None

    @property
    def call_id(self) -> str:
        """The id under which the client knows the call, once it is shown."""
        return str(self._item.final_item["call_id"]) if self._item else self._id

    def add_delta(self, delta: Json, make_item: ItemFactory) -> Batch:
        """The events that one delta of this call causes."""
        body = delta.get("function") or delta.get("custom") or {}
        self._id = self._id or str(delta.get("id") or "")
        arguments = stringify_arguments(body.get("arguments") or body.get("input"))
        if self._item is not None:
            return self._item.append_arguments(arguments) if arguments else []
        name = body.get("name") or ""
        if name != self._name:  # or it is only said again
            self._name += name
        self._early.append(arguments)
        # A name may come in pieces; only arguments say that it is whole.
        return self.open_item(make_item) if arguments else []

    def open_item(self, make_item: ItemFactory, is_complete: bool = False) -> Batch:
        """The opening events, if they are still due and the name is known."""
        if self._item is not None or not self._name:
            return []
        self._item = item = make_item(self._name, self._id, is_complete)
        if item is None:
            return []
        early = "".join(self._early)
        return [*item.open(), *(item.append_arguments(early) if early else [])]

    def close(self, status: str, make_item: ItemFactory) -> Batch:
        """The closing events, and the opening ones if nothing was shown yet."""
        opening = self.open_item(make_item, is_complete=True)
        if self._item is None:
            raise UpstreamProtocolError("The upstream called a tool without naming it.")
        return [*opening, *self._item.close(status)]


class ToolCallItemWriter:
    """The calls of one answer; they put their items among ``items``, and stay open to the end."""

    def __init__(
        self,
        items: list[OutputItem],
        toolbox: Toolbox,
        id_source: IdSource,
        signatures: SignatureCollector,
    ) -> None:
        self._items = items
        self._toolbox = toolbox
        self._id_source = id_source
        self._signatures = signatures
        self._calls: list[PendingCall] = []
        self._ids: set[str] = set()
        self._call_index = ToolCallIndex()

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    @property
    def signatures(self) -> dict[str, Json]:
        """Call id, as the client knows it -> the signatures of the call."""
        found = self._signatures.read_calls()
        return {self._calls[number].call_id: fields for number, fields in found.items()}

    def add_delta(self, delta: Json) -> Batch:
        """The events that the ``tool_calls`` of a delta cause, or its legacy ``function_call``."""
        events: Batch = []
        for call in read_call_deltas(delta):
            number = self._call_index.find(call)
            if number == len(self._calls):
                events += self._start_call()
            self._signatures.add_call(number, call)
            events += self._calls[number].add_delta(call, self._make_item)
        return events

    def close(self, status: str, is_last: bool) -> Batch:
        """Close them all; only the last was cut off, if it is the last item of the answer."""
        last = self._calls[-1] if self._calls and is_last else None
        events: Batch = []
        for call in self._calls:
            events += call.close(status if call is last else "completed", self._make_item)
        return events

    def _start_call(self) -> Batch:
        """A further call says that the names of those before it are whole."""
        events = [event for call in self._calls for event in call.open_item(self._make_item)]
        self._calls.append(PendingCall())
        return events

    def _make_item(self, name: str, call_id: str, is_complete: bool) -> ToolCallItem | None:
        tool = self._toolbox.find(name)
        if not (tool.kind.streams_input or is_complete):
            return None
        item_id = self._id_source.new_id(tool.kind.id_prefix)
        native = self._toolbox.is_native(tool.kind)
        if not call_id or call_id in self._ids:  # clients tell calls apart by their ids
            call_id = self._id_source.new_id("call")
        self._ids.add(call_id)
        item = ToolCallItem(item_id, len(self._items), call_id, tool, native)
        self._items.append(item)
        return item


def read_call_deltas(delta: Json) -> list[Json]:
    calls = delta.get("tool_calls")
    return list(calls) if calls else [{"index": 0, "function": delta["function_call"]}]
