"""Merges the rounds of a response: each round is a request to the upstream and its answer.

The merger renumbers all events and items, and shows calls of hosted functions as items of their own
kind. It sends the opening events of the first round and the terminal event of the last round only.
While a hosted call waits to be run, the events of later items are held back, so that each call is
done before the next item begins, as at OpenAI.

If the client does not stream, each round has only its terminal event, and so has the response.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from forwarder.core.ids import IdSource
from forwarder.core.types import Batch, Event, EventStream, Json
from forwarder.hosted_tools.citations import annotate_event, annotate_item
from forwarder.hosted_tools.hosted_function import (
    CallOutcome,
    HostedFunction,
    make_item_id,
    make_token,
)
from forwarder.middleware.compaction.events import add_usages
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.protocols.input_items import CLIENT_CALLS
from forwarder.protocols.unfold import unfold_item

START_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress"})
_ARGUMENT_DELTA = "response.function_call_arguments.delta"
_ARGUMENT_DONE = "response.function_call_arguments.done"

_FIRST_ROUND_FIELDS = ("id", "created_at", "max_output_tokens", "tool_choice")
"""Fields of the response that come from the first round; later rounds change the last two."""


@dataclass(eq=False)
class HostedCall:
    """The model's call of a hosted function.

    ``mode`` is ``run``, ``ask`` (the client has to approve it first), ``skip`` (the limit of calls
    is reached) or ``cut`` (the model has not finished it). ``index`` is its place in the
    output; ``item`` its item for the client.
    """

    function: HostedFunction
    call_id: str
    mode: str
    item_id: str = ""
    arguments: str = ""
    index: int | None = None
    item: Json = field(default_factory=dict)
    is_begun: bool = False
    has_sent_arguments: bool = False


@dataclass
class AnnouncedItem:
    """An item that events have announced: a hosted call, or another item and its index."""

    call: HostedCall | None
    index: int | None = None
    is_done: bool = False


@dataclass
class Round:
    """The result of one round: its items for the next request, and its hosted calls.

    ``terminal`` is the round's last event. ``announced_items`` are the items that events have
    announced, by their index or id. ``has_unnumbered_events`` is true if events of items had
    neither; they were passed on, so the items have no further events at the end.
    """

    token: str
    items: list[Json] = field(default_factory=list)
    calls: list[HostedCall] = field(default_factory=list)
    has_client_calls: bool = False
    terminal: Event = field(default_factory=dict)
    announced_items: dict[Any, AnnouncedItem] = field(default_factory=dict)
    has_unnumbered_events: bool = False

    @property
    def is_complete(self) -> bool:
        return self.terminal.get("type") == "response.completed"


class ResponseMerger:
    """The state of one response.

    ``find_function`` returns the hosted function of a name. ``shown`` are fields of the client's
    request that every response object shows instead of the upstream's. ``sources`` are the pages
    that the model has seen so far, which it may cite.
    """

    def __init__(
        self,
        find_function: Callable[[str], HostedFunction | None],
        id_source: IdSource,
        shown: Json,
        max_calls: int | None,
        hides_encrypted: bool,
        sources: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.usage: Json | None = None
        self.output: list[Json] = []
        self.call_count = 0
        self.is_streamed = False
        self._find_function = find_function
        self._id_source = id_source
        self._shown = shown
        self._max_calls = max_calls
        self._hides_encrypted = hides_encrypted
        self._sources = sources
        self._numbers = itertools.count()
        self._next_index = 0
        self._first: Json = {}
        self._prelude: list[tuple[Json, tuple[str, ...]]] = []
        self._held: list[Event | HostedCall] | None = None
        self._ready: Batch = []  # events to send before the held ones

    @property
    def is_limit_reached(self) -> bool:
        return self._max_calls is not None and self.call_count >= self._max_calls

    @property
    def has_prelude(self) -> bool:
        """Whether there are items that come before the model's."""
        return bool(self._prelude)

    def add_prelude(self, item: Json, events: tuple[str, ...]) -> None:
        """Add an item that comes before the model's; ``events`` are between its begin and end."""
        self._prelude.append((item, events))

    # -- reading a round ------------------------------------------------------------------------

    def read_round(self, stream: EventStream, round_: Round) -> EventStream:
        """Yield the client's events of a round, up to the first hosted call that has to be run.

        Later events are held back until `take_held`. Fills ``round_``.
        """
        self._held = None
        try:
            for batch in stream:
                out: Batch = []
                for event in batch:
                    out += self._read_event(event, round_)
                yield out
                if round_.terminal:
                    break
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def _read_event(self, event: Event, round_: Round) -> Batch:
        kind = event.get("type")
        if kind in TERMINAL_EVENTS:
            return self._read_terminal(event, round_)
        if kind in START_EVENTS:
            return self._read_start(event)
        out = self._begin_stream()
        if kind == "error":
            return [*out, *self._emit([event])]
        return [*out, *self._emit(self._read_item_event(event, round_))]

    def _read_start(self, event: Event) -> Batch:
        if self._first and self._first.get("id") != (event.get("response") or {}).get("id"):
            return []  # a later round
        self._first = event.get("response") or {}
        self.is_streamed = True
        return self._emit([{**event, "response": self._patch_response(self._first)}])

    def _begin_stream(self) -> Batch:
        """Return the events of the prelude before the first event of the model's output."""
        self.is_streamed = True
        prelude, self._prelude = self._prelude, []
        return [each for item, kinds in prelude for each in self._show_item(item, kinds)]

    def _show_item(self, item: Json, kinds: tuple[str, ...]) -> Batch:
        index = self._allocate_index()
        begun = {**item, "tools": []} if "tools" in item else item
        place = {"item_id": item["id"], "output_index": index}
        self._set_output(index, item)
        return self.number_events(
            [
                {"type": "response.output_item.added", "output_index": index, "item": begun},
                *({"type": kind, **place} for kind in kinds),
                {"type": "response.output_item.done", "output_index": index, "item": item},
            ]
        )

    def _read_terminal(self, event: Event, round_: Round) -> Batch:
        response = event.get("response") or {}
        round_.terminal = event
        self.usage = add_usages(self.usage, response.get("usage"))
        if not self._first:
            self._first = response
        out: Batch = []
        is_announced = bool(round_.announced_items)
        for index, item in enumerate(response.get("output") or ()):
            if not is_announced:
                out += self._read_whole_item(index, item, round_)
            elif index in round_.announced_items and not round_.announced_items[index].is_done:
                done = {"type": "response.output_item.done", "output_index": index, "item": item}
                out += self._emit(self._read_item_event(done, round_))
        for announced in round_.announced_items.values():
            if announced.call is not None and not announced.is_done:
                announced.is_done, announced.call.mode = True, "cut"
                out += self._emit(self._finish_arguments(announced.call, {}, round_))
        return out

    def _read_whole_item(self, index: int, item: Json, round_: Round) -> Batch:
        """Read an item of a whole answer, without earlier events that name the item."""
        if self.is_streamed and not round_.has_unnumbered_events:
            out = self._begin_stream()
            for event in unfold_item(index, item):
                out += self._emit(self._read_item_event(event, round_))
            return out
        self._add_prelude_items()
        call = self._make_call(item, round_)
        if call is None:
            add_client_item(item, round_)
            self._set_output(self._allocate_index(), self._clean_item(item))
        else:
            self._finish_arguments(call, item, round_)
        return []

    def _add_prelude_items(self) -> None:
        prelude, self._prelude = self._prelude, []
        for item, _ in prelude:
            self._set_output(self._allocate_index(), item)

    def _read_item_event(self, event: Event, round_: Round) -> list[Event | HostedCall]:
        """Convert an event of an item."""
        kind, item = event.get("type"), event.get("item")
        key = read_item_key(event)
        if key is None:  # OpenAI's ``keepalive``, or an upstream that numbers no items
            round_.has_unnumbered_events |= str(kind).startswith("response.")
            return [{**event}]
        announced = round_.announced_items.get(key)
        if announced is None:
            is_added = kind == "response.output_item.added" and isinstance(item, dict)
            announced = AnnouncedItem(self._make_call(item, round_) if is_added and item else None)
            round_.announced_items[key] = announced
            if announced.call is None:
                announced.index = self._allocate_index()
            elif announced.call.mode == "run":
                announced.call.index = self._allocate_index()
                # Without events for its arguments, the call is held until it is complete.
                shows_arguments = bool(announced.call.function.argument_events)
                return [*self._begin_call(announced.call)] if shows_arguments else [announced.call]
            else:
                return []
        announced.is_done = kind == "response.output_item.done"
        if announced.call is not None:
            return self._read_call_event(event, announced.call, round_)
        converted = {**event}
        if "output_index" in event:
            converted["output_index"] = announced.index
        if isinstance(item, dict):
            converted["item"] = self._clean_item(item)
            if announced.is_done:
                add_client_item(item, round_)
                self._set_output(announced.index or 0, converted["item"])
            return [converted]
        return [*annotate_event(converted, self._sources)]

    # -- hosted calls ---------------------------------------------------------------------------

    def _make_call(self, item: Json, round_: Round) -> HostedCall | None:
        """Return the call if an item is one of a hosted function."""
        if item.get("type") != "function_call" or item.get("namespace"):
            return None
        function = self._find_function(str(item.get("name")))
        if function is None:
            return None
        call_id = str(item.get("call_id") or item.get("id") or "")
        mode = "ask" if function.needs_approval else "run"
        if self.is_limit_reached:
            mode = "skip"
        else:
            self.call_count += 1
        prefix = "mcpr" if mode == "ask" else function.id_prefix
        item_id = make_item_id(prefix, round_.token, call_id, self._id_source.new_id)
        return HostedCall(function, call_id, mode, item_id)

    def _begin_call(self, call: HostedCall) -> Iterator[Event]:
        """Yield the events at the beginning of a call's item."""
        call.is_begun = True
        call.item = call.function.make_item(call.item_id, call.arguments)
        yield {
            "type": "response.output_item.added",
            "output_index": call.index,
            "item": call.item,
        }
        place = {"item_id": call.item_id, "output_index": call.index}
        for kind in call.function.start_events:
            yield {"type": kind, **place}
        for event in call.function.make_detail_events(call.item):
            yield {**event, **place}

    def _read_call_event(
        self, event: Event, call: HostedCall, round_: Round
    ) -> list[Event | HostedCall]:
        kind = event.get("type")
        if kind == "response.output_item.done":
            return self._finish_arguments(call, event.get("item") or {}, round_)
        if not call.is_begun or kind not in (_ARGUMENT_DELTA, _ARGUMENT_DONE):
            return []
        place = {"item_id": call.item_id, "output_index": call.index}
        stem = call.function.argument_events
        if kind == _ARGUMENT_DELTA:
            return [{"type": f"{stem}.delta", **place, "delta": event.get("delta") or ""}]
        call.has_sent_arguments = True
        return [{"type": f"{stem}.done", **place, "arguments": event.get("arguments") or ""}]

    def _finish_arguments(
        self, call: HostedCall, item: Json, round_: Round
    ) -> list[Event | HostedCall]:
        """Show the rest of a call that the model has finished, and hold the call."""
        if item:
            round_.items.append(item)
        call.arguments = str(item.get("arguments") or "{}")
        round_.calls.append(call)
        if call.mode == "skip" or (call.mode == "cut" and call.index is None):
            return []
        out: list[Event | HostedCall] = []
        if call.mode == "ask":
            call.index = self._allocate_index()
            request = call.function.make_approval_request(call.item_id, call.arguments)
            self._set_output(call.index, request)
            place = {"output_index": call.index, "item": request}
            out += [
                {"type": "response.output_item.added", **place},
                {"type": "response.output_item.done", **place},
            ]
            return out if self.is_streamed else []
        if call.index is None:
            call.index = self._allocate_index()
        if not call.is_begun:
            out += self._begin_call(call)
        call.item = call.function.make_item(call.item_id, call.arguments)
        self._set_output(call.index, call.item)
        stem = call.function.argument_events
        if stem and not call.has_sent_arguments:
            place = {"item_id": call.item_id, "output_index": call.index}
            out.append({"type": f"{stem}.done", **place, "arguments": call.arguments})
        if not self.is_streamed:
            return []
        return self._begin_held(call, out) if self._held and call in self._held else [*out, call]

    def _begin_held(
        self, call: HostedCall, events: list[Event | HostedCall]
    ) -> list[Event | HostedCall]:
        """Insert the first events of a held call before it."""
        held = self._held or []
        place = held.index(call)
        if place == 0:
            self._ready += [event for event in events if not isinstance(event, HostedCall)]
        else:
            held[place:place] = events
        return []

    def take_held(self) -> list[Event | HostedCall]:
        """Return the held events and calls, in the client's order; nothing is held afterwards."""
        held, self._held = self._held or [], None
        return held

    def show_progress(self, call: HostedCall, events: list[Event]) -> Batch:
        """Return events of a running call, numbered for the client."""
        if not self.is_streamed:
            return []
        place = {"item_id": call.item_id, "output_index": call.index}
        return self.number_events([{**event, **place} for event in events])

    def finish_call(self, call: HostedCall, outcome: CallOutcome) -> Batch:
        """Return the events at the end of a call's item."""
        return self._end_call(call, outcome.item, outcome.events)

    def cut_call(self, call: HostedCall) -> Batch:
        """Return the events at the end of a call that is not run."""
        return self._end_call(call, call.function.cut_item(call.item), ())

    def postpone_call(self, call: HostedCall) -> Batch:
        """Return the events at the end of a call that the model is to repeat in the next turn.

        Its status is ``incomplete`` for all kinds, so that translations can leave it out.
        """
        return self._end_call(call, {**call.item, "status": "incomplete"}, ())

    def _end_call(self, call: HostedCall, item: Json, kinds: tuple[str, ...]) -> Batch:
        index = call.index or 0
        self._set_output(index, item)
        if not self.is_streamed:
            return []
        place = {"item_id": call.item_id, "output_index": index}
        return self.number_events(
            [
                *({"type": kind, **place} for kind in kinds),
                {"type": "response.output_item.done", "output_index": index, "item": item},
            ]
        )

    # -- the end --------------------------------------------------------------------------------

    def make_terminal(self, round_: Round, incomplete: str | None = None) -> Batch:
        """Return the events that end the response, as the last round ended.

        ``incomplete`` is the reason of an early end.
        """
        out = self._begin_stream() if self.is_streamed else []
        if not self.is_streamed:
            self._add_prelude_items()
        event = round_.terminal
        response = self._patch_response(event.get("response") or {})
        response |= {"output": [*filter(None, self.output)], "usage": self.usage}
        if incomplete is not None:
            details = {"status": "incomplete", "incomplete_details": {"reason": incomplete}}
            event = {"type": "response.incomplete"}
            response |= details
        return [*out, *self.number_events([{**event, "response": response}])]

    # -- helpers --------------------------------------------------------------------------------

    def _emit(self, things: list[Event | HostedCall] | Batch) -> Batch:
        """Return the events to send now; hold the rest back from the first hosted call on."""
        out, self._ready = self._ready, []
        for thing in things:
            if self._held is None and isinstance(thing, HostedCall):
                self._held = []
            if self._held is not None:
                self._held.append(thing)
            elif not isinstance(thing, HostedCall):
                out.append(thing)
        return self.number_events(out)

    def number_events(self, events: Batch) -> Batch:
        """Return events with the next sequence numbers."""
        return [{**event, "sequence_number": next(self._numbers)} for event in events]

    def _allocate_index(self) -> int:
        self._next_index += 1
        return self._next_index - 1

    def _set_output(self, index: int, item: Json) -> None:
        self.output += [{}] * (index + 1 - len(self.output))
        self.output[index] = item

    def _clean_item(self, item: Json) -> Json:
        if item.get("type") == "message":
            return annotate_item(item, self._sources)
        if not self._hides_encrypted or item.get("type") != "reasoning":
            return item
        return {name: value for name, value in item.items() if name != "encrypted_content"}

    def _patch_response(self, response: Json) -> Json:
        first = self._first
        same: Json = {name: first[name] for name in _FIRST_ROUND_FIELDS if name in first}
        return {**response, **same, **self._shown}


def read_item_key(event: Event) -> Any:
    """Return the index or id of the item of an event."""
    index = event.get("output_index")
    if index is not None:
        return index
    item = event.get("item")
    return event.get("item_id") or (item.get("id") if isinstance(item, dict) else None)


def add_client_item(item: Json, round_: Round) -> None:
    """Add an item, other than a hosted call, to the next request to the upstream."""
    round_.items.append(item)
    round_.has_client_calls = round_.has_client_calls or item.get("type") in CLIENT_CALLS


def make_round(id_source: IdSource) -> Round:
    return Round(make_token(id_source.new_id))
