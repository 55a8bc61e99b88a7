"""For tests of Messages clients: checks by Anthropic's SDK, and the content of an answer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.helpers.translating import AnswerContent, join_paragraphs

Json = dict[str, Any]

REQUEST: Json = {
    "model": "claude-x",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "Hello"}],
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "stream": True,
}
"""A request that wants to see thinking."""


def event_mistakes(event: Json) -> list[str]:
    """Return the mistakes of an event, by the SDK's model for its type."""
    pytest.importorskip("anthropic")
    model = _event_models().get(event.get("type", ""))
    return _list_mistakes(model, event) if model else [f"no such event: {event.get('type')}"]


def message_mistakes(message: Json) -> list[str]:
    """Return the mistakes of a whole message."""
    anthropic_types = pytest.importorskip("anthropic.types")
    return _list_mistakes(anthropic_types.Message, message)


def rebuild_message(events: list[Json]) -> Json:
    """Return the message that ``client.messages.stream()`` accumulates from the events."""
    streaming = pytest.importorskip("anthropic.lib.streaming._messages")
    snapshot: Any = None
    json_bufs: dict[int, bytes] = {}
    for event in events:
        typed_event = _event_models()[event["type"]].model_validate(event)
        snapshot = streaming.accumulate_event(
            event=typed_event, current_snapshot=snapshot, json_bufs=json_bufs
        )
    message: Json = snapshot.to_dict(mode="json")
    return message


@functools.cache
def _event_models() -> dict[str, Any]:
    from anthropic.types import RawMessageStreamEvent

    union = get_args(RawMessageStreamEvent)[0]
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}


@functools.cache
def _make_adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _list_mistakes(model: Any, value: Json) -> list[str]:
    try:
        model_value = _make_adapter(model).validate_python(value, strict=True)
    except ValidationError as error:
        return [f"{each['loc']}: {each['msg']}" for each in error.errors()]
    return [f"{path}: unknown field" for path in _list_extras(model_value, "")]


def _list_extras(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _list_extras(entry, f"{path}[{i}]")
    for name in getattr(value, "model_extra", None) or ():
        yield f"{path}.{name}"
    for name in getattr(type(value), "model_fields", ()):
        yield from _list_extras(getattr(value, name), f"{path}.{name}")


def read_message_content(message: Json) -> AnswerContent:
    """Return the content of a message, as `read_response_content` does for a response."""
    blocks = message["content"]
    refusal = message["stop_reason"] == "refusal" and (message.get("stop_details") or {}).get(
        "explanation"
    )
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    endings = {"max_tokens": "max_output_tokens", "model_context_window_exceeded": "max_output_tokens",
              "refusal": "content_filter"}  # fmt: skip
    return AnswerContent(
        text=text.removesuffix(refusal or ""),
        refusal=refusal or "",
        reasoning=join_paragraphs(*(b["thinking"] for b in blocks if b["type"] == "thinking")),
        calls=[(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"],
        ending="completed" if refusal else endings.get(message["stop_reason"], "completed"),
    )
