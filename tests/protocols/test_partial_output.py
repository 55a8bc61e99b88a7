"""Output of interrupted responses."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.partial_output import collect_output

MESSAGE: Json = {"type": "message", "id": "m", "role": "assistant", "content": []}
CALL: Json = {"type": "function_call", "id": "c", "name": "f", "arguments": ""}


def make_event(kind: str, output_index: int, **more: Any) -> Json:
    return {"type": f"response.{kind}", "output_index": output_index, **more}


def test_collect_output_keeps_finished_items() -> None:
    finished = {**CALL, "arguments": "{}"}
    events = [
        make_event("output_item.added", 0, item=CALL),
        make_event("function_call_arguments.delta", 0, delta="{}"),
        make_event("output_item.done", 0, item=finished),
    ]
    assert collect_output(events) == [finished]


def test_collect_output_partial_message() -> None:
    part = {"type": "output_text", "text": "", "annotations": []}
    events = [
        make_event("output_item.added", 0, item=MESSAGE),
        make_event("content_part.added", 0, content_index=0, part=part),
        make_event("output_text.delta", 0, content_index=0, delta="He"),
        make_event("output_text.delta", 0, content_index=0, delta="llo"),
        make_event("refusal.delta", 0, content_index=1, delta="No."),
    ]
    content = [{**part, "text": "Hello"}, {"type": "refusal", "refusal": "No."}]
    assert collect_output(events) == [{**MESSAGE, "status": "incomplete", "content": content}]


def test_collect_output_partial_reasoning() -> None:
    item: Json = {"type": "reasoning", "id": "r", "summary": []}
    events = [
        make_event("output_item.added", 0, item=item),
        make_event("reasoning_summary_text.delta", 0, summary_index=0, delta="Short."),
        make_event("reasoning_text.delta", 0, content_index=0, delta="Long."),
    ]
    (item,) = collect_output(events)
    assert item["summary"] == [{"type": "summary_text", "text": "Short."}]
    assert item["content"] == [{"type": "reasoning_text", "text": "Long."}]


def test_collect_output_skips_partial_calls_and_empty_items() -> None:
    events = [
        make_event("output_item.added", 0, item=MESSAGE),
        make_event("output_item.added", 1, item=CALL),
        make_event("function_call_arguments.delta", 1, delta='{"rm'),
    ]
    assert collect_output(events) == []


def test_items_are_ordered_by_output_index() -> None:
    first, second = ({**MESSAGE, "id": name} for name in "ab")
    events = [
        make_event("output_item.added", 0, item=first),
        make_event("output_item.done", 1, item=second),
        make_event("output_text.delta", 0, content_index=0, delta="x"),
    ]
    assert [item["id"] for item in collect_output(events)] == ["a", "b"]


def test_collect_output_items_without_index() -> None:
    events = [{"type": "response.output_item.done", "item": {"id": name}} for name in "ab"]
    assert [item["id"] for item in collect_output(events)] == ["a", "b"]
