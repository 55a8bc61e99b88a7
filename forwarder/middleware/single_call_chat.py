"""``parallel_tool_calls: false`` for upstreams that call in parallel all the same.

The first call is kept; the model makes the others again when it has seen the first one's result.
"""

from __future__ import annotations

from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.protocols.tool_call_index import ToolCallIndex


def with_single_chat_call(handler: Handler) -> Handler:
    """Wrap a chat call so that no choice makes more than one call where the request forbids it."""

    def handle_request(request: Json) -> EventStream:
        stream = handler(request)
        return filter_stream(stream) if request.get("parallel_tool_calls") is False else stream

    return handle_request


def filter_stream(stream: EventStream) -> EventStream:
    indexes: dict[int, ToolCallIndex] = {}
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            out += filter_chunk(chunk, indexes)
        if out or not batch:
            yield out


def filter_chunk(chunk: Event, indexes: dict[int, ToolCallIndex]) -> Batch:
    choices = chunk.get("choices") or ()
    if not any(map(read_calls, choices)):
        return [chunk]
    kept = (
        keep_first_call(c, indexes.setdefault(c.get("index") or 0, ToolCallIndex()))
        for c in choices
    )
    says = [choice for choice in kept if choice is not None]
    return [{**chunk, "choices": says}] if says or chunk.get("usage") else []


def read_calls(choice: Json) -> list[Json]:
    return (choice.get("message") or choice.get("delta") or {}).get("tool_calls") or []


def keep_first_call(choice: Json, index: ToolCallIndex) -> Json | None:
    """The choice with its first call alone; ``None`` when that leaves nothing to say."""
    calls = read_calls(choice)
    form = "message" if choice.get("message") else "delta"
    if not calls:
        return choice
    first = calls[:1] if form == "message" else [c for c in calls if index.find(c) == 0]
    said = {k: v for k, v in choice[form].items() if k != "tool_calls"}
    if first:
        said["tool_calls"] = first
    silent = not any(v for k, v in said.items() if k != "role") and not choice.get("finish_reason")
    return None if silent else {**choice, form: said}
