"""``parallel_tool_calls: false`` for upstreams that call in parallel all the same.

The first call is kept; the model makes the others again when it has seen the first one's result.
"""

from __future__ import annotations

from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.protocols.tool_call_index import CallKeys


def with_one_call(call: Call) -> Call:
    """Wrap a chat call so that no choice makes more than one call where the request forbids it."""

    def single(request: Json) -> Stream:
        stream = call(request)
        return _singled(stream) if request.get("parallel_tool_calls") is False else stream

    return single


def _singled(stream: Stream) -> Stream:
    keys: dict[int, CallKeys] = {}
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            out += _one(chunk, keys)
        if out or not batch:
            yield out


def _one(chunk: Event, keys: dict[int, CallKeys]) -> Batch:
    choices = chunk.get("choices") or ()
    if not any(map(_calls, choices)):
        return [chunk]
    kept = (_kept(c, keys.setdefault(c.get("index") or 0, CallKeys())) for c in choices)
    says = [choice for choice in kept if choice is not None]
    return [{**chunk, "choices": says}] if says or chunk.get("usage") else []


def _calls(choice: Json) -> list[Json]:
    return (choice.get("message") or choice.get("delta") or {}).get("tool_calls") or []


def _kept(choice: Json, keys: CallKeys) -> Json | None:
    """The choice with its first call alone; ``None`` when that leaves nothing to say."""
    calls = _calls(choice)
    form = "message" if choice.get("message") else "delta"
    if not calls:
        return choice
    first = calls[:1] if form == "message" else [c for c in calls if keys.find(c) == 0]
    said = {k: v for k, v in choice[form].items() if k != "tool_calls"}
    if first:
        said["tool_calls"] = first
    silent = not any(v for k, v in said.items() if k != "role") and not choice.get("finish_reason")
    return None if silent else {**choice, form: said}
