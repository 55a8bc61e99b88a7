"""Enforces ``parallel_tool_calls: false`` for Chat upstreams that ignore it.

Only the first call is kept. The model repeats the others after it has seen the first result.
"""

from __future__ import annotations

from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.protocols.tool_call_index import ToolCallIndex


def with_single_chat_tool_call(handler: Handler) -> Handler:
    """Wrap a chat handler to keep one tool call per choice if the request forbids parallel ones."""

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
    filtered = (
        keep_first_call(c, indexes.setdefault(c.get("index") or 0, ToolCallIndex()))
        for c in choices
    )
    remaining = [choice for choice in filtered if choice is not None]
    return [{**chunk, "choices": remaining}] if remaining or chunk.get("usage") else []


def read_calls(choice: Json) -> list[Json]:
    return (choice.get("message") or choice.get("delta") or {}).get("tool_calls") or []


def keep_first_call(choice: Json, index: ToolCallIndex) -> Json | None:
    """Return the choice with only its first call; ``None`` if nothing else remains in it."""
    calls = read_calls(choice)
    form = "message" if choice.get("message") else "delta"
    if not calls:
        return choice
    first = calls[:1] if form == "message" else [c for c in calls if index.find(c) == 0]
    body = {k: v for k, v in choice[form].items() if k != "tool_calls"}
    if first:
        body["tool_calls"] = first
    is_empty = not any(v for k, v in body.items() if k != "role")
    return None if is_empty and not choice.get("finish_reason") else {**choice, form: body}
