"""``parallel_tool_calls: false`` for Responses upstreams that call in parallel all the same.

As over Chat, the first call is kept, and the model makes the others again.  What comes behind a
call that falls away moves up: items and events are numbered without gaps.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.translation.chat_over_responses.calls import CALL_SHAPES

_CALL_INPUT_EVENTS = ("response.function_call_arguments.", "response.custom_tool_call_input.")
"""The events that say what the model writes of a call."""


def with_single_responses_call(handler: Handler) -> Handler:
    """Wrap a Responses call so that no answer makes two calls where the request forbids it.

    What the provider's own tools do is no call of the client's.
    """

    def handle_request(request: Json) -> EventStream:
        stream = handler(request)
        return filter_stream(stream) if request.get("parallel_tool_calls") is False else stream

    return handle_request


def filter_stream(stream: EventStream) -> EventStream:
    answer = ParallelCallFilter()
    for batch in stream:
        out = [kept for event in batch if (kept := answer.filter_event(event)) is not None]
        if out or not batch:
            yield out


class ParallelCallFilter:
    """One response on its way to the client: which calls were made, and which of them fell away."""

    def __init__(self) -> None:
        self._first: Any = None
        self._dropped_places: set[Any] = set()
        self._dropped_count = 0

    def filter_event(self, event: Event) -> Event | None:
        """The event as it is without all calls but the first; ``None`` when it is about another."""
        place = read_place(event)
        if place in self._dropped_places or (is_call_event(event) and self._is_other_call(place)):
            self._dropped_count += 1
            return None
        response = event.get("response")
        if isinstance(response, dict) and isinstance(response.get("output"), list):
            event = {
                **event,
                "response": {**response, "output": keep_first_call(response["output"])},
            }
        return self._renumber(event) if self._dropped_count else event

    def _is_other_call(self, place: Any) -> bool:
        self._first = place if self._first is None else self._first
        if place == self._first:
            return False
        self._dropped_places.add(place)
        return True

    def _renumber(self, event: Event) -> Event:
        moved = dict(event)
        if type(number := event.get("sequence_number")) is int:
            moved["sequence_number"] = number - self._dropped_count
        if type(index := event.get("output_index")) is int:
            before = (lost for lost in self._dropped_places if type(lost) is int and lost < index)
            moved["output_index"] = index - sum(1 for _ in before)
        return moved


def read_place(event: Event) -> Any:
    """Which item an event is about; ``None`` when it is about none."""
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
    """The items without all calls but the first."""
    calls = [item for item in output if isinstance(item, dict) and item.get("type") in CALL_SHAPES]
    return [item for item in output if not any(item is lost for lost in calls[1:])]
