"""Builds the streams of compaction from the streams in which the model writes summaries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from forwarder.core.errors import ForwarderError
from forwarder.core.ids import IdSource
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.compaction import summary
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS, to_upstream_error
from forwarder.protocols.fold import fold_responses
from forwarder.protocols.types import (
    ResponsesUsage,
    make_empty_usage,
    make_item_added,
    make_item_done,
)

_START_EVENTS = ("response.created", "response.queued", "response.in_progress")

CompactionItemFactory = Callable[[str], Json]
"""Returns the compaction item of a summary."""


def stream_compaction_item(
    stream: EventStream, make_item: CompactionItemFactory, id_source: IdSource
) -> EventStream:
    """Convert the stream of a summary to a response with the compaction item as its only output.

    Raises the upstream's error if the summary fails.
    """
    numbers = itertools.count()
    item_id = id_source.new_id("cmp")
    is_announced = False
    for batch in stream:
        events: Batch = []
        for event in batch:
            kind = event.get("type")
            if kind in _START_EVENTS:
                events.append(event)
            elif kind in TERMINAL_EVENTS:
                item = {**make_finished_item(event, make_item), "id": item_id}
                events += [] if is_announced else [make_item_added(item, 0)]
                events += [make_item_done(item, 0), make_completed_event(event, [item])]
            elif kind == "error":
                raise to_upstream_error(event.get("error") or event)
        if not events and batch:
            if not is_announced:
                empty = {"id": item_id, "type": "compaction", "encrypted_content": ""}
                events.append(make_item_added(empty, 0))
                is_announced = True
            progress = {"item_id": item_id, "output_index": 0}
            events.append({"type": "response.compaction.compacting", **progress})
        yield [{**event, "sequence_number": next(numbers)} for event in events]


def make_finished_item(event: Event, make_item: CompactionItemFactory) -> Json:
    response = event.get("response") or {}
    if event["type"] == "response.failed":
        raise to_upstream_error(response.get("error"))
    return make_item(summary.read_summary(response))


def make_completed_event(event: Event, output: list[Json]) -> Event:
    """Build the terminal event; a truncated summary still counts as completed."""
    response = {**event["response"], "status": "completed", "incomplete_details": None}
    return {"type": "response.completed", "response": {**response, "output": output}}


def stream_compact_answer(
    stream: EventStream, messages: list[Json], id_source: IdSource
) -> EventStream:
    """Yield the answer to ``/responses/compact``: the kept messages and the compaction item."""
    response = fold_responses(iter((yield from collect_batches(stream))))
    yield [
        {
            "id": response.get("id") or id_source.new_id("resp"),
            "object": "response.compaction",
            "created_at": response.get("created_at") or id_source.now(),
            "output": [*messages, *response["output"]],
            "usage": response.get("usage") or make_empty_usage(),  # required
        }
    ]


def collect_batches(stream: EventStream) -> Any:
    """Return all batches of a stream; yield an empty batch (a heartbeat) for each of them."""
    batches: list[Batch] = []
    for batch in stream:
        batches.append(batch)
        yield []
    return batches


ContinuationFactory = Callable[[str], tuple[Json, Json]]
"""Returns the compaction item of a summary, and the shortened request."""


def stream_continuation(
    stream: EventStream, make_continuation: ContinuationFactory, whole: Json, handler: Handler
) -> EventStream:
    """Stream the answer to the shortened request, preceded by the compaction item.

    If the summary fails, the ``whole`` request is sent instead.
    """
    try:
        response = fold_responses(iter((yield from collect_batches(stream))))
        item, shorter = make_continuation(summary.read_summary(response))
    except ForwarderError:
        yield from handler(whole)
        return
    yield from prepend_item(handler(shorter), item, response.get("usage"))


def prepend_item(stream: EventStream, item: Json, usage: ResponsesUsage | None) -> EventStream:
    """Insert an item at the start of a response's output, and add ``usage`` to its usage."""
    shift = 0
    for batch in stream:
        out: Batch = []
        for event in batch:
            if not shift and event.get("type") not in _START_EVENTS:
                shift = 2
                first = event.get("sequence_number") or 0
                out.append({**make_item_added(item, 0), "sequence_number": first})
                out.append({**make_item_done(item, 0), "sequence_number": first + 1})
            out.append(shift_event(event, shift, item, usage))
        yield out


def shift_event(event: Event, shift: int, item: Json, usage: ResponsesUsage | None) -> Event:
    event = {**event, "sequence_number": (event.get("sequence_number") or 0) + shift}
    if "output_index" in event:
        event["output_index"] += 1
    if event.get("type") in TERMINAL_EVENTS:
        response = event["response"]
        output = [item, *(response.get("output") or ())]
        total = add_usages(response.get("usage"), usage)
        event["response"] = {**response, "output": output, "usage": total}
    return event


def add_usages(one: Any, other: Any) -> Any:
    """Add up two usage objects field by field; either may be ``None``."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: add_usages(one.get(name), other.get(name)) for name in {**one, **other}}
    numbers = [count for count in (one, other) if type(count) is int]
    return sum(numbers) if numbers else one or other
