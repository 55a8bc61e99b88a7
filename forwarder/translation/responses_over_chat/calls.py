"""Streamed chat tool calls -> Responses items.

The name of a call may arrive first, late, in pieces or repeatedly.  An item is opened once its
name is known to be complete.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.ids import IdSource
from forwarder.core.types import Batch, Json
from forwarder.protocols.signatures import SignatureCollector
from forwarder.protocols.tool_call_index import ToolCallIndex, read_call_deltas, stringify_arguments
from forwarder.translation.responses_over_chat.items import OutputItem, ToolCallItem
from forwarder.translation.responses_over_chat.tools import Toolbox

CALL_DELTA_FIELDS = ("tool_calls", "function_call")
"""The fields of a delta that hold tool calls; the second is the legacy one."""

ItemFactory = Callable[[str, str, bool], ToolCallItem | None]
"""``(name, call id, is_complete)`` -> the item of a call.

Returns ``None`` if the item can be made only when the call is complete.
"""


class PendingCall:
    """A call while it streams in; its item is made once the name is known to be complete."""

    def __init__(self) -> None:
        self._id = ""
        self._name = ""
        self._early: list[str] = []  # arguments that arrived before the item was made
        self._item: ToolCallItem | None = None

    @property
    def call_id(self) -> str:
        """The client's id of the call, valid once the call is closed."""
        return str(self._item.final_item["call_id"]) if self._item else self._id

    def add_delta(self, delta: Json, make_item: ItemFactory) -> Batch:
        """Return the events for one delta of this call."""
        body = delta.get("function") or delta.get("custom") or {}
        self._id = self._id or str(delta.get("id") or "")
        arguments = stringify_arguments(body.get("arguments") or body.get("input"))
        if self._item is not None:
            return self._item.append_arguments(arguments) if arguments else []
        name = body.get("name") or ""
        if name != self._name:  # some vendors repeat the whole name in every delta
            self._name += name
        self._early.append(arguments)
        # A name may arrive in pieces; only arguments prove that it is complete.
        return self.open_item(make_item) if arguments else []

    def open_item(self, make_item: ItemFactory, is_complete: bool = False) -> Batch:
        """Return the opening events, unless the item is open already or the name is unknown."""
        if self._item is not None or not self._name:
            return []
        self._item = item = make_item(self._name, self._id, is_complete)
        if item is None:
            return []
        early = "".join(self._early)
        return [*item.open(), *(item.append_arguments(early) if early else [])]

    def close(self, status: str, make_item: ItemFactory) -> Batch:
        """Return the closing events, preceded by the opening ones if they are still missing."""
        opening = self.open_item(make_item, is_complete=True)
        if self._item is None:
            raise UpstreamProtocolError("The upstream sent a tool call without a name.")
        return [*opening, *self._item.close(status)]


class ToolCallItemWriter:
    """Writes the items of all calls of one answer.

    It appends them to ``items``.  Calls may interleave, so all stay open until the answer ends.
    """

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
        """The client's id of a call -> the signatures of the call."""
        signatures = self._signatures.read_calls()
        return {self._calls[number].call_id: fields for number, fields in signatures.items()}

    def add_delta(self, delta: Json) -> Batch:
        """Return the events for the ``tool_calls`` or legacy ``function_call`` of a delta."""
        events: Batch = []
        for call in read_call_deltas(delta):
            number = self._call_index.find(call)
            if number == len(self._calls):
                # A further call proves that the names of all earlier calls are complete.
                for earlier in self._calls:
                    events += earlier.open_item(self._make_item)
                self._calls.append(PendingCall())
            self._signatures.add_call(number, call)
            events += self._calls[number].add_delta(call, self._make_item)
        return events

    def close(self, status: str, is_last: bool) -> Batch:
        """Close all calls as completed.

        If ``is_last``, the last call is the last item of the answer and gets ``status`` instead.
        """
        last = self._calls[-1] if self._calls and is_last else None
        events: Batch = []
        for call in self._calls:
            events += call.close(status if call is last else "completed", self._make_item)
        return events

    def _make_item(self, name: str, call_id: str, is_complete: bool) -> ToolCallItem | None:
        tool = self._toolbox.find(name)
        if not (tool.kind.streams_input or is_complete):
            return None
        item_id = self._id_source.new_id(tool.kind.id_prefix)
        native = self._toolbox.is_native(tool.kind)
        if not call_id or call_id in self._ids:  # clients distinguish calls by their ids
            call_id = self._id_source.new_id("call")
        self._ids.add(call_id)
        item = ToolCallItem(item_id, len(self._items), call_id, tool, native)
        self._items.append(item)
        return item
