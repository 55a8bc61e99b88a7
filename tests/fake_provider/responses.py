"""Renders an answer as the Responses API does: a list of events, or one response object.

The finished items are made first; the events are derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .answers import CREATED, Answer, Call, Json, ModelRequest, make_obfuscation, seal

ENDINGS = {
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    "failed": ("failed", None),
}
"""Finish reason -> status and reason of incompleteness. All others are completed."""

PARTS: dict[str, tuple[str, str, Json]] = {
    "output_text": ("response.output_text", "text", {"logprobs": []}),
    "refusal": ("response.refusal", "refusal", {}),
    "reasoning_text": ("response.reasoning_text", "text", {}),
}
"""Type of a content part -> prefix of its events, its text field, further fields of its events."""

ECHOED: Json = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Parameter that the response repeats -> its default value."""


def make_events(answer: Answer, request: ModelRequest) -> list[Json]:
    """Return the numbered events of a stream; the last one is the terminal event."""
    items = make_output(answer, request)
    open_response = _make_response(request, "in_progress", [])
    events = [
        {"type": "response.created", "response": open_response},
        {"type": "response.in_progress", "response": open_response},
    ]
    for index, item in enumerate(items):
        events += ITEM_EVENTS[item["type"]](answer, item, index)
    response = make_response(answer, request)
    events.append({"type": f"response.{response['status']}", "response": response})
    if request.option("include_obfuscation", default=True):
        events = [_obfuscate_event(event) for event in events]
    return number_events(events)


def make_response(answer: Answer, request: ModelRequest) -> Json:
    """Return the answer as one object."""
    status, reason = ENDINGS.get(answer.finish or "", ("completed", None))
    response = _make_response(request, status, make_output(answer, request))
    response["usage"] = answer.usage.responses() if answer.usage else None
    if status == "completed":
        response["completed_at"] = CREATED + 1
    if status == "failed":
        response["error"] = {"code": "server_error", "message": "The scripted model broke down."}
    if reason:
        response["incomplete_details"] = {"reason": reason}
    return response


def make_output(answer: Answer, request: ModelRequest) -> list[Json]:
    """Return the finished items. The last item of an incomplete answer is incomplete."""
    items = [*_make_reasoning(answer, request), *_make_message(answer, request)]
    items += [_make_call(call, request, i) for i, call in enumerate(answer.calls)]
    if items and answer.finish in ENDINGS and "status" in items[-1]:
        items[-1]["status"] = "incomplete"
    return items


def number_events(events: list[Json]) -> list[Json]:
    """Return the events with their ``sequence_number``."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _make_response(request: ModelRequest, status: str, items: list[Json]) -> Json:
    echoed = {name: request.body[name] for name in ECHOED if request.body.get(name) is not None}
    return {
        "id": request.id("resp_"),
        "object": "response",
        "created_at": CREATED,
        "completed_at": None,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": items,
        "reasoning": {"effort": None, "summary": None, **(request.body.get("reasoning") or {})},
        "usage": None,
        **ECHOED,
        **echoed,
    }


def _make_reasoning(answer: Answer, request: ModelRequest) -> Iterator[Json]:
    if answer.reasoning is None:
        return
    item: Json = {"type": "reasoning", "id": request.id("rs_"), "summary": []}
    if answer.reasoning_form != "text":
        parts = answer.reasoning.split("\n\n")
        item["summary"] = [{"type": "summary_text", "text": text} for text in parts]
    if answer.reasoning_form != "summary":
        item["content"] = [{"type": "reasoning_text", "text": answer.reasoning}]
    if "reasoning.encrypted_content" in (request.body.get("include") or ()):
        item["encrypted_content"] = seal(answer.reasoning)
    yield item


def _make_message(answer: Answer, request: ModelRequest) -> Iterator[Json]:
    content: list[Json] = []
    if answer.text is not None:
        content.append(
            {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        )
    if answer.refusal is not None:
        content.append({"type": "refusal", "refusal": answer.refusal})
    if content:
        yield {"type": "message", "id": request.id("msg_"), "role": "assistant",
               "status": "completed", "content": content}  # fmt: skip


def _make_call(call: Call, request: ModelRequest, number: int) -> Json:
    custom = call.kind == "custom"
    item: Json = {
        "type": "custom_tool_call" if custom else "function_call",
        "id": request.id("ctc_" if custom else "fc_", number),
        "call_id": request.call_id(call, number),
        "name": call.name,
        "input" if custom else "arguments": call.text,
        "status": "completed",
    }
    return {**item, "namespace": call.namespace} if call.namespace else item


def _message_events(answer: Answer, item: Json, index: int) -> Iterator[Json]:
    yield _make_added_event(item, index, content=[])
    yield from _content_events(answer, item, index)
    yield _make_done_event(item, index)


def _reasoning_events(answer: Answer, item: Json, index: int) -> Iterator[Json]:
    open_item = {key: value for key, value in item.items() if key != "encrypted_content"}
    yield _make_added_event(
        open_item, index, summary=[], **({"content": []} if "content" in item else {})
    )
    for number, part in enumerate(item["summary"]):
        yield from _summary_events(answer, item, index, number, part)
    yield from _content_events(answer, item, index)
    yield _make_done_event(item, index)


def _summary_events(
    answer: Answer, item: Json, index: int, number: int, part: Json
) -> Iterator[Json]:
    position = {"item_id": item["id"], "output_index": index, "summary_index": number}
    name = "response.reasoning_summary"
    yield {"type": f"{name}_part.added", **position, "part": {**part, "text": ""}}
    for piece in answer.cut_text(part["text"]):
        yield {"type": f"{name}_text.delta", **position, "delta": piece}
    yield {"type": f"{name}_text.done", **position, "text": part["text"]}
    yield {"type": f"{name}_part.done", **position, "part": part}


def _content_events(answer: Answer, item: Json, index: int) -> Iterator[Json]:
    for number, part in enumerate(item.get("content", ())):
        name, field, extra_fields = PARTS[part["type"]]
        position = {"item_id": item["id"], "output_index": index, "content_index": number}
        yield {"type": "response.content_part.added", **position, "part": {**part, field: ""}}
        for piece in answer.cut_text(part[field]):
            yield {"type": f"{name}.delta", **position, "delta": piece, **extra_fields}
        yield {"type": f"{name}.done", **position, field: part[field], **extra_fields}
        yield {"type": "response.content_part.done", **position, "part": part}


def _call_events(answer: Answer, item: Json, index: int) -> Iterator[Json]:
    custom = item["type"] == "custom_tool_call"
    field = "input" if custom else "arguments"
    name = "response.custom_tool_call_input" if custom else "response.function_call_arguments"
    position = {"item_id": item["id"], "output_index": index}
    yield _make_added_event(item, index, **{field: ""})
    for piece in answer.cut_text(item[field]):
        yield {"type": f"{name}.delta", **position, "delta": piece}
    name_field = {} if custom else {"name": item["name"]}
    yield {"type": f"{name}.done", **position, field: item[field], **name_field}
    yield _make_done_event(item, index)


def _make_added_event(item: Json, index: int, **empty: object) -> Json:
    status = {"status": "in_progress"} if "status" in item else {}
    open_item = {**item, **status, **empty}
    return {"type": "response.output_item.added", "output_index": index, "item": open_item}


def _make_done_event(item: Json, index: int) -> Json:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def _obfuscate_event(event: Json) -> Json:
    if not event["type"].endswith(".delta"):
        return event
    return {**event, "obfuscation": make_obfuscation(event["delta"])}


ITEM_EVENTS: dict[str, Callable[[Answer, Json, int], Iterator[Json]]] = {
    "message": _message_events,
    "reasoning": _reasoning_events,
    "function_call": _call_events,
    "custom_tool_call": _call_events,
}
"""Type of an item -> its events, from ``added`` to ``done``."""
