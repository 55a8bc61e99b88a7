"""The streams of compacted conversations, made of those in which the model sums them up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from forwarder.core.errors import ForwarderError
from forwarder.core.ids import Mint
from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.middleware.compaction import summary
from forwarder.protocols.fold import fold_responses
from forwarder.protocols.mappings import TERMINALS, failure

_BEGINNINGS = ("response.created", "response.queued", "response.in_progress")

Made = Callable[[str], Json]
"""A summary -> its compaction item."""


def triggered(stream: Stream, made: Made, mint: Mint) -> Stream:
    """A response whose whole output is the compaction item, out of the summary's own stream."""
    numbers = itertools.count()
    place = {"item_id": mint.id("cmp"), "output_index": 0}
    announced = False
    for batch in stream:
        events: Batch = []
        for event in batch:
            kind = event.get("type")
            if kind in _BEGINNINGS:
                events.append(event)
            elif kind in TERMINALS:
                item = {**_done(event, made), "id": place["item_id"]}
                events += [] if announced else [_added(item, 0)]
                events += [_finished(item, 0), _completed(event, [item])]
            elif kind == "error":
                raise failure(event.get("error") or event)
        if not events and batch:
            events = [] if announced else [_added(_unwritten(place), 0)]
            events.append({"type": "response.compaction.compacting", **place})
            announced = True
        yield [{**event, "sequence_number": next(numbers)} for event in events]


def _done(event: Event, made: Made) -> Json:
    response = event.get("response") or {}
    if event["type"] == "response.failed":
        raise failure(response.get("error"))
    return made(summary.text_of(response))


def _unwritten(place: Json) -> Json:
    return {"id": place["item_id"], "type": "compaction", "encrypted_content": ""}


def _added(item: Json, index: int) -> Event:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _finished(item: Json, index: int) -> Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def _completed(event: Event, output: list[Json]) -> Event:
    """A summary that was cut off is one all the same."""
    response = {**event["response"], "status": "completed", "incomplete_details": None}
    return {"type": "response.completed", "response": {**response, "output": output}}


def compacted(stream: Stream, messages: list[Json], mint: Mint) -> Stream:
    """The one event that answers ``/responses/compact``: the messages that stay, and the item."""
    response = fold_responses(iter((yield from _held(stream))))
    yield [
        {
            "id": response.get("id") or mint.id("resp"),
            "object": "response.compaction",
            "created_at": response.get("created_at") or mint.now(),
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


def _held(stream: Stream) -> Any:
    """Gives all batches of a stream back; yields an empty one for each meanwhile."""
    held: list[Batch] = []
    for batch in stream:
        held.append(batch)
        yield []
    return held


Continued = Callable[[str], tuple[Json, Json]]
"""A summary -> its compaction item, and the request to go on with."""


def continued(stream: Stream, made: Continued, whole: Json, call: Call) -> Stream:
    """The answer to the shortened request, the compaction item before it.

    Without a summary the ``whole`` request is made after all.
    """
    try:
        response = fold_responses(iter((yield from _held(stream))))
        item, shorter = made(summary.text_of(response))
    except ForwarderError:
        yield from call(whole)
        return
    yield from _behind(call(shorter), item, response.get("usage"))


def _behind(stream: Stream, item: Json, usage: Json | None) -> Stream:
    """A stream of events with one more item at the head of its output."""
    shift = 0
    for batch in stream:
        moved: Batch = []
        for event in batch:
            if not shift and event.get("type") not in _BEGINNINGS:
                shift = 2
                first = event.get("sequence_number") or 0
                moved += _numbered((_added(item, 0), _finished(item, 0)), first)
            moved.append(_moved(event, shift, item, usage))
        yield moved


def _numbered(events: tuple[Event, ...], first: int) -> Iterator[Event]:
    return ({**event, "sequence_number": first + i} for i, event in enumerate(events))


def _moved(event: Event, shift: int, item: Json, usage: Json | None) -> Event:
    event = {**event, "sequence_number": (event.get("sequence_number") or 0) + shift}
    if "output_index" in event:
        event["output_index"] += 1
    if event.get("type") in TERMINALS:
        response = event["response"]
        output = [item, *(response.get("output") or ())]
        both = _added_up(response.get("usage"), usage)
        event["response"] = {**response, "output": output, "usage": both}
    return event


def _added_up(one: Any, other: Any) -> Any:
    """Two usages, which are both paid for, as one."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _added_up(one.get(name), other.get(name)) for name in {**one, **other}}
    numbers = [count for count in (one, other) if type(count) is int]
    return sum(numbers) if numbers else one or other
