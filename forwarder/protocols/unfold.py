"""Converts a complete answer to a stream of its protocol's events.

For a request without streaming, the stream has one event.  If the client streams but the provider
cannot, the stream has the events that would have carried the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.chat_responses_mappings import find_error, to_upstream_error
from forwarder.protocols.types import make_item_added, make_item_done


def unfold_answer(endpoint: str, body: Json, streamed: bool) -> Batch:
    """Return the batch of events for a complete answer of an upstream's ``endpoint``.

    Raises UpstreamError if the body holds an error or is not an answer of this endpoint.
    """
    error = find_error(body)
    if error and body.get("object") != "response":
        raise to_upstream_error(error)
    return _UNFOLDERS[endpoint](body, streamed)


def unfold_chat(body: Json, streamed: bool) -> Batch:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UpstreamProtocolError("The upstream's answer has no choices.")
    if not all(choice.get("finish_reason") for choice in choices):
        choices = [with_finish_reason(choice) for choice in choices]
        body = {**body, "choices": choices}
    return [to_chunk(body, choices)] if streamed else [body]


def with_finish_reason(choice: Json) -> Json:
    """Add the finish reason to a choice of a complete answer if the vendor left it out."""
    if choice.get("finish_reason"):
        return choice
    message = choice.get("message") or choice.get("delta") or {}
    if choice.get("error"):
        reason = "error"
    else:
        reason = "tool_calls" if message.get("tool_calls") else "stop"
    return {**choice, "finish_reason": reason}


def to_chunk(body: Json, choices: list[Json]) -> Event:
    chunk = {**body, "object": "chat.completion.chunk", "choices": []}
    for choice in choices:
        delta = to_delta(choice.get("message") or choice.get("delta") or {})
        rest = {k: v for k, v in choice.items() if k != "message"}
        chunk["choices"].append({**rest, "delta": delta})
    return chunk


def to_delta(message: Json) -> Json:
    """Convert a message to the only delta of its choice: calls get their position as index."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [{**call, "index": i} for i, call in enumerate(calls)]}


def is_embedding(entry: Any) -> bool:
    """Return True if an entry holds a vector, as numbers or in Base64, and a valid index."""
    if not isinstance(entry, dict) or type(entry.get("index") or 0) is not int:
        return False
    vector = entry.get("embedding")
    if isinstance(vector, str):
        return vector != ""
    return isinstance(vector, list) and bool(vector) and set(map(type, vector)) <= {int, float}


def unfold_response(body: Json, streamed: bool) -> Batch:
    if body.get("object") != "response":
        raise UpstreamProtocolError("The upstream's answer is not a response.")
    status = body.get("status")
    last = status if status in ("incomplete", "failed") else "completed"
    terminal = {"type": f"response.{last}", "response": body}
    if not streamed:
        return [terminal]
    initial = {**body, "status": "in_progress", "output": []}
    events: Batch = [
        {"type": "response.created", "response": initial},
        {"type": "response.in_progress", "response": initial},
    ]
    for i, item in enumerate(body.get("output") or ()):
        events += unfold_item(i, item)
    return number_events([*events, terminal])


def unfold_item(index: int, item: Json) -> Batch:
    """Return the events of a complete item; clients require announcements of a message's parts."""
    parts = item.get("content") if item.get("type") == "message" else None
    location = {"item_id": item.get("id"), "output_index": index}
    events = [make_item_added({**item, "content": []} if parts else item, index)]
    for i, part in enumerate(parts or ()):
        events += unfold_part({**location, "content_index": i}, part)
    return [*events, make_item_done(item, index)]


def unfold_part(location: Json, part: Json) -> Batch:
    key = "refusal" if part.get("type") == "refusal" else "text"
    stem = "response.refusal" if key == "refusal" else "response.output_text"
    text = part.get(key) or ""
    more: Json = {} if key == "refusal" else {"logprobs": part.get("logprobs") or []}
    blank = {k: [] if k in _SIDE_FIELDS else v for k, v in part.items()}
    return [
        {"type": "response.content_part.added", **location, "part": {**blank, key: ""}},
        {"type": f"{stem}.delta", **location, "delta": text, **more},
        *(
            {"type": f"{stem}.annotation.added", **location, "annotation_index": i, "annotation": a}
            for i, a in enumerate(part.get("annotations") or ())
        ),
        {"type": f"{stem}.done", **location, key: text, **more},
        {"type": "response.content_part.done", **location, "part": part},
    ]


_SIDE_FIELDS = ("annotations", "logprobs")
"""Fields of a part that, like its text, are empty when the part is announced."""


def number_events(batch: Batch) -> Batch:
    return [{**event, "sequence_number": i} for i, event in enumerate(batch)]


def unfold_compaction(body: Json, streamed: bool) -> Batch:
    if not isinstance(body.get("output"), list):
        raise UpstreamProtocolError("The upstream's answer is not a compacted conversation.")
    return [body]


def unfold_embeddings(body: Json, streamed: bool) -> Batch:
    data = body.get("data")
    if not isinstance(data, list) or not all(map(is_embedding, data)):
        raise UpstreamProtocolError("The upstream's answer contains no valid embeddings.")
    return [body]


_UNFOLDERS: dict[str, Callable[[Json, bool], Batch]] = {
    "chat": unfold_chat,
    "responses": unfold_response,
    "compact": unfold_compaction,
    "embeddings": unfold_embeddings,
}
"""An upstream's endpoint -> the function that converts its whole answers."""
