"""Enforces ``parallel_tool_calls: false`` for Responses upstreams that ignore it.

Only the first call is kept; the model repeats the others later. Items and events after a dropped
call are renumbered without gaps.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.translation.chat_over_responses.calls import CALL_SHAPES

_CALL_INPUT_EVENTS = ("response.function_call_arguments.", "response.custom_tool_call_input.")
"""Prefixes of the events that carry the arguments of a call."""


def with_single_responses_tool_call(handler: Handler) -> Handler:
    """Wrap a Responses handler to keep one tool call if the request forbids parallel ones.

    Calls of the provider's hosted tools are not limited.
    """

    def handle_request(request: Json) -> EventStream:
        stream = handler(request)
        return filter_stream(stream) if request.get("parallel_tool_calls") is False else stream

    return handle_request


def filter_stream(stream: EventStream) -> EventStream:
    answer = ParallelCallFilter()
    for batch in stream:
        out = [new for event in batch if (new := answer.filter_event(event)) is not None]
        if out or not batch:
            yield out


class ParallelCallFilter:
    """Filters the events of one response; tracks the first call and the dropped ones."""

    def __init__(self) -> None:
        self._first: Any = None
        self._dropped_places: set[Any] = set()
        self._dropped_count = 0

    def filter_event(self, event: Event) -> Event | None:
        """Return the event without calls after the first; ``None`` if it belongs to such a call."""
        place = read_place(event)
        if is_call_event(event):
            self._first = place if self._first is None else self._first
            if place != self._first:
                self._dropped_places.add(place)
        if place in self._dropped_places:
            self._dropped_count += 1
            return None
        response = event.get("response")
        if isinstance(response, dict) and isinstance(response.get("output"), list):
            event = {
                **event,
                "response": {**response, "output": keep_first_call(response["output"])},
            }
        return self._renumber(event) if self._dropped_count else event

    def _renumber(self, event: Event) -> Event:
        moved = dict(event)
        if type(number := event.get("sequence_number")) is int:
            moved["sequence_number"] = number - self._dropped_count
        if type(index := event.get("output_index")) is int:
            before = (lost for lost in self._dropped_places if type(lost) is int and lost < index)
            moved["output_index"] = index - sum(1 for _ in before)
        return moved


def read_place(event: Event) -> Any:
    """Return the index or id of the item of an event; ``None`` if it belongs to no item."""
    index = event.get("output_index")
    if index is not None:
        return index
    item = event.get("item")
    return event.get("item_id") or (item.get("id") if isinstance(item, dict) else None)


def is_call_event(event: Event) -> bool:
    item = event.get("item")
    if isinstance(item, dict):
        return item.get("type") in CALL_SHAPES
    return str(event.get("type")).startswith(_CALL_INPUT_EVENTS)


def keep_first_call(output: Batch) -> Batch:
    """Return the items without calls after the first."""
    calls = [item for item in output if isinstance(item, dict) and item.get("type") in CALL_SHAPES]
    return [item for item in output if not any(item is lost for lost in calls[1:])]
