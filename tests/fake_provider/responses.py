"""Renders an answer as the Responses API does: a list of events, or one response object.

The finished items are made first; the events are derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .answers import CREATED, Answer, Ask, Call, Json, make_obfuscation, seal

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


def make_events(answer: Answer, ask: Ask) -> list[Json]:
    """Return the numbered events of a stream; the last one is the terminal event."""
    items = make_output(answer, ask)
    opening = _make_response(ask, "in_progress", [])
    events = [
        {"type": "response.created", "response": opening},
        {"type": "response.in_progress", "response": opening},
    ]
    for index, item in enumerate(items):
        events += ITEM_EVENTS[item["type"]](answer, item, index)
    whole = make_response(answer, ask)
    events.append({"type": f"response.{whole['status']}", "response": whole})
    if ask.option("include_obfuscation", default=True):
        events = [_obfuscate_event(event) for event in events]
    return number_events(events)


def make_response(answer: Answer, ask: Ask) -> Json:
    """Return the answer as one object."""
    status, reason = ENDINGS.get(answer.finish or "", ("completed", None))
    whole = _make_response(ask, status, make_output(answer, ask))
    whole["usage"] = answer.usage.responses() if answer.usage else None
    if status == "completed":
        whole["completed_at"] = CREATED + 1
    if status == "failed":
        whole["error"] = {"code": "server_error", "message": "The scripted model broke down."}
    if reason:
        whole["incomplete_details"] = {"reason": reason}
    return whole


def make_output(answer: Answer, ask: Ask) -> list[Json]:
    """Return the finished items. The last item of an incomplete answer is incomplete."""
    items = [*_make_reasoning(answer, ask), *_make_message(answer, ask)]
    items += [_make_call(call, ask, i) for i, call in enumerate(answer.calls)]
    if items and answer.finish in ENDINGS and "status" in items[-1]:
        items[-1]["status"] = "incomplete"
    return items


def number_events(events: list[Json]) -> list[Json]:
    """Return the events with their ``sequence_number``."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _make_response(ask: Ask, status: str, items: list[Json]) -> Json:
    given = {name: ask.body[name] for name in ECHOED if ask.body.get(name) is not None}
    return {
        "id": ask.id("resp_"),
        "object": "response",
        "created_at": CREATED,
        "completed_at": None,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": ask.model,
        "output": items,
        "reasoning": {"effort": None, "summary": None, **(ask.body.get("reasoning") or {})},
        "usage": None,
        **ECHOED,
        **given,
    }


def _make_reasoning(answer: Answer, ask: Ask) -> Iterator[Json]:
    if answer.reasoning is None:
        return
    item: Json = {"type": "reasoning", "id": ask.id("rs_"), "summary": []}
    if answer.reasoning_form != "text":
        parts = answer.reasoning.split("\n\n")
        item["summary"] = [{"type": "summary_text", "text": text} for text in parts]
    if answer.reasoning_form != "summary":
        item["content"] = [{"type": "reasoning_text", "text": answer.reasoning}]
    if "reasoning.encrypted_content" in (ask.body.get("include") or ()):
        item["encrypted_content"] = seal(answer.reasoning)
    yield item


def _make_message(answer: Answer, ask: Ask) -> Iterator[Json]:
    content: list[Json] = []
    if answer.text is not None:
        content.append(
            {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        )
    if answer.refusal is not None:
        content.append({"type": "refusal", "refusal": answer.refusal})
    if content:
        yield {"type": "message", "id": ask.id("msg_"), "role": "assistant",
               "status": "completed", "content": content}  # fmt: skip


def _make_call(call: Call, ask: Ask, number: int) -> Json:
    custom = call.kind == "custom"
    item: Json = {
        "type": "custom_tool_call" if custom else "function_call",
        "id": ask.id("ctc_" if custom else "fc_", number),
        "call_id": ask.call_id(call, number),
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
    opened = {key: value for key, value in item.items() if key != "encrypted_content"}
    yield _make_added_event(
        opened, index, summary=[], **({"content": []} if "content" in item else {})
    )
    for number, part in enumerate(item["summary"]):
        yield from _summary_events(answer, item, index, number, part)
    yield from _content_events(answer, item, index)
    yield _make_done_event(item, index)


def _summary_events(
    answer: Answer, item: Json, index: int, number: int, part: Json
) -> Iterator[Json]:
    where = {"item_id": item["id"], "output_index": index, "summary_index": number}
    name = "response.reasoning_summary"
    yield {"type": f"{name}_part.added", **where, "part": {**part, "text": ""}}
    for piece in answer.cut_text(part["text"]):
        yield {"type": f"{name}_text.delta", **where, "delta": piece}
    yield {"type": f"{name}_text.done", **where, "text": part["text"]}
    yield {"type": f"{name}_part.done", **where, "part": part}


def _content_events(answer: Answer, item: Json, index: int) -> Iterator[Json]:
    for number, part in enumerate(item.get("content", ())):
        name, field, more = PARTS[part["type"]]
        where = {"item_id": item["id"], "output_index": index, "content_index": number}
        yield {"type": "response.content_part.added", **where, "part": {**part, field: ""}}
        for piece in answer.cut_text(part[field]):
            yield {"type": f"{name}.delta", **where, "delta": piece, **more}
        yield {"type": f"{name}.done", **where, field: part[field], **more}
        yield {"type": "response.content_part.done", **where, "part": part}


def _call_events(answer: Answer, item: Json, index: int) -> Iterator[Json]:
    custom = item["type"] == "custom_tool_call"
    field = "input" if custom else "arguments"
    name = "response.custom_tool_call_input" if custom else "response.function_call_arguments"
    where = {"item_id": item["id"], "output_index": index}
    yield _make_added_event(item, index, **{field: ""})
    for piece in answer.cut_text(item[field]):
        yield {"type": f"{name}.delta", **where, "delta": piece}
    named = {} if custom else {"name": item["name"]}
    yield {"type": f"{name}.done", **where, field: item[field], **named}
    yield _make_done_event(item, index)


def _make_added_event(item: Json, index: int, **empty: object) -> Json:
    status = {"status": "in_progress"} if "status" in item else {}
    opened = {**item, **status, **empty}
    return {"type": "response.output_item.added", "output_index": index, "item": opened}


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
