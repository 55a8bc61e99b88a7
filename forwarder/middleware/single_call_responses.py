"""``parallel_tool_calls: false`` for Responses upstreams that call in parallel all the same.

As over Chat, the first call is kept, and the model makes the others again.  What comes behind a
call that falls away moves up: items and events are numbered without gaps.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.translation.chat_over_responses.calls import KINDS

_WRITTEN = ("response.function_call_arguments.", "response.custom_tool_call_input.")
"""The events that say what the model writes of a call."""


def with_one_item(call: Call) -> Call:
    """Wrap a Responses call so that no answer makes two calls where the request forbids it.

    What the provider's own tools do is no call of the client's.
    """

    def single(request: Json) -> Stream:
        stream = call(request)
        return _singled(stream) if request.get("parallel_tool_calls") is False else stream

    return single


def _singled(stream: Stream) -> Stream:
    answer = _Answer()
    for batch in stream:
        out = [kept for event in batch if (kept := answer.take(event)) is not None]
        if out or not batch:
            yield out


class _Answer:
    """One response on its way to the client: which calls were made, and which of them fell away."""

    def __init__(self) -> None:
        self._first: Any = None
        self._lost: set[Any] = set()
        self._silenced = 0

    def take(self, event: Event) -> Event | None:
        """The event as it is without all calls but the first; ``None`` when it is about another."""
        place = _place(event)
        if place in self._lost or (_is_of_call(event) and self._is_another(place)):
            self._silenced += 1
            return None
        response = event.get("response")
        if isinstance(response, dict) and isinstance(response.get("output"), list):
            event = {**event, "response": {**response, "output": _single(response["output"])}}
        return self._moved_up(event) if self._silenced else event

    def _is_another(self, place: Any) -> bool:
        self._first = place if self._first is None else self._first
        if place == self._first:
            return False
        self._lost.add(place)
        return True

    def _moved_up(self, event: Event) -> Event:
        moved = dict(event)
        if type(number := event.get("sequence_number")) is int:
            moved["sequence_number"] = number - self._silenced
        if type(index := event.get("output_index")) is int:
            before = (lost for lost in self._lost if type(lost) is int and lost < index)
            moved["output_index"] = index - sum(1 for _ in before)
        return moved


def _place(event: Event) -> Any:
    """Which item an event is about; ``None`` when it is about none."""
    index = event.get("output_index")
    if index is not None:
        return index
    item = event.get("item")
    return event.get("item_id") or (item.get("id") if isinstance(item, dict) else None)


def _is_of_call(event: Event) -> bool:
    item = event.get("item")
    if isinstance(item, dict):
        return item.get("type") in KINDS
    return str(event.get("type")).startswith(_WRITTEN)


def _single(output: Batch) -> Batch:
    """The items without all calls but the first."""
    calls = [item for item in output if isinstance(item, dict) and item.get("type") in KINDS]
    return [item for item in output if not any(item is lost for lost in calls[1:])]
