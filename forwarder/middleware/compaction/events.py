"""The streams of compacted conversations, made of those in which the model sums them up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from forwarder.core.errors import ForwarderError
from forwarder.core.ids import IdSource
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.compaction import summary
from forwarder.protocols.fold import fold_responses
from forwarder.protocols.mappings import TERMINAL_EVENTS, to_upstream_error

_START_EVENTS = ("response.created", "response.queued", "response.in_progress")

CompactionItemFactory = Callable[[str], Json]
"""A summary -> its compaction item."""


def stream_compaction_item(
    stream: EventStream, make_item: CompactionItemFactory, id_source: IdSource
) -> EventStream:
    """A response whose whole output is the compaction item, out of the summary's own stream."""
    numbers = itertools.count()
    place = {"item_id": id_source.new_id("cmp"), "output_index": 0}
    announced = False
    for batch in stream:
        events: Batch = []
        for event in batch:
            kind = event.get("type")
            if kind in _START_EVENTS:
                events.append(event)
            elif kind in TERMINAL_EVENTS:
                item = {**make_finished_item(event, make_item), "id": place["item_id"]}
                events += [] if announced else [make_added_event(item, 0)]
                events += [make_done_event(item, 0), make_completed_event(event, [item])]
            elif kind == "error":
                raise to_upstream_error(event.get("error") or event)
        if not events and batch:
            events = [] if announced else [make_added_event(_unwritten(place), 0)]
            events.append({"type": "response.compaction.compacting", **place})
            announced = True
        yield [{**event, "sequence_number": next(numbers)} for event in events]


def make_finished_item(event: Event, make_item: CompactionItemFactory) -> Json:
    response = event.get("response") or {}
    if event["type"] == "response.failed":
        raise to_upstream_error(response.get("error"))
    return make_item(summary.read_summary(response))


def _unwritten(place: Json) -> Json:
    return {"id": place["item_id"], "type": "compaction", "encrypted_content": ""}


def make_added_event(item: Json, index: int) -> Event:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def make_done_event(item: Json, index: int) -> Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def make_completed_event(event: Event, output: list[Json]) -> Event:
    """A summary that was cut off is one all the same."""
    response = {**event["response"], "status": "completed", "incomplete_details": None}
    return {"type": "response.completed", "response": {**response, "output": output}}


def stream_compact_answer(
    stream: EventStream, messages: list[Json], id_source: IdSource
) -> EventStream:
    """The one event that answers ``/responses/compact``: the messages that stay, and the item."""
    response = fold_responses(iter((yield from collect_batches(stream))))
    yield [
        {
            "id": response.get("id") or id_source.new_id("resp"),
            "object": "response.compaction",
            "created_at": response.get("created_at") or id_source.now(),
            "output": [*messages, *response["output"]],
            "usage": response.get("usage") or _NO_USAGE,
        }
    ]


_NO_USAGE: Json = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}
"""Where the upstream told none; the field has to be there."""


def collect_batches(stream: EventStream) -> Any:
    """Gives all batches of a stream back; yields an empty one for each meanwhile."""
    held: list[Batch] = []
    for batch in stream:
        held.append(batch)
        yield []
    return held


ContinuationFactory = Callable[[str], tuple[Json, Json]]
"""A summary -> its compaction item, and the request to go on with."""


def stream_continuation(
    stream: EventStream, make_continuation: ContinuationFactory, whole: Json, handler: Handler
) -> EventStream:
    """The answer to the shortened request, the compaction item before it.

    Without a summary the ``whole`` request is made after all.
    """
    try:
        response = fold_responses(iter((yield from collect_batches(stream))))
        item, shorter = make_continuation(summary.read_summary(response))
    except ForwarderError:
        yield from handler(whole)
        return
    yield from prepend_item(handler(shorter), item, response.get("usage"))


def prepend_item(stream: EventStream, item: Json, usage: Json | None) -> EventStream:
    """A stream of events with one more item at the head of its output."""
    shift = 0
    for batch in stream:
        moved: Batch = []
        for event in batch:
            if not shift and event.get("type") not in _START_EVENTS:
                shift = 2
                first = event.get("sequence_number") or 0
                moved += number_events((make_added_event(item, 0), make_done_event(item, 0)), first)
            moved.append(shift_event(event, shift, item, usage))
        yield moved


def number_events(events: tuple[Event, ...], first: int) -> Iterator[Event]:
    return ({**event, "sequence_number": first + i} for i, event in enumerate(events))


def shift_event(event: Event, shift: int, item: Json, usage: Json | None) -> Event:
    event = {**event, "sequence_number": (event.get("sequence_number") or 0) + shift}
    if "output_index" in event:
        event["output_index"] += 1
    if event.get("type") in TERMINAL_EVENTS:
        response = event["response"]
        output = [item, *(response.get("output") or ())]
        both = add_usages(response.get("usage"), usage)
        event["response"] = {**response, "output": output, "usage": both}
    return event


def add_usages(one: Any, other: Any) -> Any:
    """Two usages, which are both paid for, as one."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: add_usages(one.get(name), other.get(name)) for name in {**one, **other}}
    numbers = [count for count in (one, other) if type(count) is int]
    return sum(numbers) if numbers else one or other
