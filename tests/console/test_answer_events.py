"""Events of answers as the console shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.console import answer_events
from forwarder.console.answer_events import (
    EventSplitter,
    Part,
    collect_parts,
    read_parts,
    shorten_strings,
)
from tests.helpers.check_cases import check_each

SSE = b'event: a\r\ndata: {"n": 1}\r\n\r\n: keep-alive\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'


@check_each("media_type", ["text/event-stream; charset=utf-8", "text/plain", ""])
@check_each("size", [1, 2, 3, 7, 1000])
def test_events_are_split_independently_of_chunk_boundaries(size: int, media_type: str) -> None:
    splitter = EventSplitter(media_type)
    events = [
        event for at in range(0, len(SSE), size) for event in splitter.feed(SSE[at : at + size])
    ]

    assert [*events, *splitter.flush()] == [
        {"event": "a", "data": {"n": 1}},
        {"text": ": keep-alive"},
        {"data": {"n": 2}},
        {"text": "data: [DONE]"},
    ]


def test_lines_and_whole_answers_are_events() -> None:
    lines = EventSplitter("application/x-ndjson")
    assert lines.feed(b'{"a": 1}\n {"b"') == [{"data": {"a": 1}}]
    assert lines.feed(b": 2}") == []
    assert lines.flush() == [{"data": {"b": 2}}]

    splitter = EventSplitter("application/json")
    assert splitter.feed(b'{"a":\n\n') == []
    assert splitter.feed(b"1}") == []
    assert splitter.flush() == [{"data": {"a": 1}}]
    assert splitter.flush() == []

    page = EventSplitter("text/html")
    page.feed(b"<html>\xff")
    assert page.flush() == [{"text": "<html>\ufffd"}]


def test_an_unfinished_event_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    splitter = EventSplitter("text/event-stream")
    splitter.feed(b"data: {")
    assert splitter.flush() == [{"text": "data: {"}]

    monkeypatch.setattr(answer_events, "MAX_EVENT_BYTES", 10)
    assert splitter.feed(b"data: " + b"x" * 20) == [{"text": "[26 bytes left out]"}]
    assert splitter.flush() == []


def test_long_strings_are_shortened() -> None:
    blob, text = "A" * 2000, "word " * 300
    assert shorten_strings({"a": [blob, text]}) == {
        "a": ["A" * 500 + "[1500 characters left out]", text]
    }


def test_control_characters_are_visible() -> None:
    assert shorten_strings({"a\u202eb": ["x\u202e\x00\x1b", "a\r\n\tb", "é\U0001f600"]}) == {
        "a\\u202eb": ["x\\u202e\\x00\\x1b", "a\\r\n\tb", "é\U0001f600"]
    }


CHUNK: dict[str, Any] = {"object": "chat.completion.chunk"}


def make_chunk(**delta: Any) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

PARTS: list[tuple[str, Any, list[Part]]] = [
    ("chat", make_chunk(content="hi"), [Part("text", "hi")]),
    ("chat", make_chunk(reasoning_content="hm"), [Part("reasoning", "hm")]),
    ("chat", make_chunk(refusal="no"), [Part("refusal", "no")]),
    (
        "chat",
        make_chunk(content=[{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hi"}]),
        [Part("reasoning", "hm"), Part("text", "hi")],
    ),
    ("chat", make_chunk(tool_calls=[{"index": 1, **CALL}]), [Part("call", "{}", "/1", "f")]),
    (
        "chat",
        {
            "choices": [
                {"index": 1, "message": {"content": "hi"}, "finish_reason": "stop"},
            ],
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        },
        [
            Part("text", "hi", "1"),
            Part("finish", "stop", "1"),
            Part("usage", "3 in, 5 out, 2 of them reasoning"),
        ],
    ),
    ("chat", {"error": {"message": "no", "code": "x"}}, [Part("error", "no")]),
    (
        "responses",
        {"type": "response.output_text.delta", "output_index": 1, "delta": "hi"},
        [Part("text", "hi", "1")],
    ),
    (
        "responses",
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
        [],
    ),
    (
        "responses",
        {
            "type": "response.output_item.added",
            "output_index": 2,
            "item": {"type": "function_call", "name": "f", "arguments": ""},
        },
        [Part("call", "", "2", "f")],
    ),
    (
        "responses",
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"type": "web_search_call", "action": {"query": "q"}},
        },
        [Part("call", '{"query":"q"}', "", "web_search")],
    ),
    (
        "responses",
        {"type": "response.created", "response": {"status": "in_progress", "usage": None}},
        [],
    ),
    (
        "responses",
        {
            "type": "response.incomplete",
            "response": {
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "usage": {"input_tokens": 1, "output_tokens": 2},
            },
        },
        [Part("finish", "incomplete: max_output_tokens"), Part("usage", "1 in, 2 out")],
    ),
    (
        "responses",
        {"type": "response.failed", "response": {"status": "failed", "error": {"message": "no"}}},
        [Part("finish", "failed"), Part("error", "no")],
    ),
    ("responses", {"type": "error", "message": "no"}, [Part("error", "no")]),
    (
        "responses",
        {
            "object": "response",
            "status": "completed",
            "output": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
                {"type": "function_call", "name": "f", "arguments": "{}"},
            ],
        },
        [
            Part("reasoning", "hm"),
            Part("text", "hi", "1"),
            Part("call", "{}", "2", "f"),
            Part("finish", "completed"),
        ],
    ),
    (
        "ollama",
        {
            "message": {
                "content": "hi",
                "thinking": "hm",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
            },
            "done": True,
            "done_reason": "stop",
            "eval_count": 2,
        },
        [
            Part("reasoning", "hm"),
            Part("text", "hi"),
            Part("call", '{"a":1}', "0", "f"),
            Part("finish", "stop"),
            Part("usage", "? in, 2 out"),
        ],
    ),
    ("ollama_generate", {"response": "hi", "done": False}, [Part("text", "hi")]),
    (
        "messages",
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "name": "f", "input": {}},
        },
        [Part("call", "", "1", "f")],
    ),
    (
        "messages",
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": "{}"}},
        [Part("call", "{}", "1")],
    ),
    (
        "messages",
        {"type": "content_block_delta", "index": 0, "delta": {"thinking": "so"}},
        [Part("reasoning", "so", "0")],
    ),
    (
        "messages",
        {
            "type": "message",
            "content": [{"type": "text", "text": "hi"}, {"type": "image"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 2},
        },
        [Part("text", "hi", "0"), Part("finish", "end_turn"), Part("usage", "1 in, 2 out")],
    ),
    (
        "messages",
        {"type": "error", "error": {"type": "api_error", "message": "no"}},
        [Part("error", "no")],
    ),
    ("ollama", {"error": "no"}, [Part("error", "no")]),
    ("embeddings", {"data": []}, []),
    ("embeddings", {"error": {"message": "no"}}, [Part("error", "no")]),
]  # fmt: skip


@check_each(("protocol", "value", "parts"), PARTS)
def test_parts_are_read_from_events(protocol: str, value: Any, parts: list[Part]) -> None:
    assert read_parts(protocol, value) == parts


def replace_each(value: Any, other: Any) -> list[Any]:
    """Return copies of a JSON value in each of which one inner value is replaced."""
    copies = [other]
    if isinstance(value, dict):
        for name, inner in value.items():
            copies += [{**value, name: each} for each in replace_each(inner, other)]
    if isinstance(value, list):
        for i, inner in enumerate(value):
            copies += [[*value[:i], each, *value[i + 1 :]] for each in replace_each(inner, other)]
    return copies


@check_each("other", [None, 7, "x", [], {}, [None], [7], {"a": []}, True])
def test_events_of_any_shape_are_read(other: Any) -> None:
    for protocol, value, _ in PARTS:
        for event in replace_each(value, other):
            for part in read_parts(protocol, event):
                json.dumps(part.to_json())
                assert all(type(each) is str for each in part)


def test_parts_of_a_stream_are_joined() -> None:
    events = [
        make_chunk(reasoning_content="h"),
        make_chunk(reasoning_content="m"),
        make_chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{"}}]),
        make_chunk(tool_calls=[{"index": 0, "function": {"arguments": "}"}}]),
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    ]

    assert collect_parts("chat", events) == [
        Part("reasoning", "hm"),
        Part("call", "{}", "/0", "f"),
        Part("usage", "1 in, 2 out"),
    ]


def test_repeated_error_of_a_stream_is_one_part() -> None:
    events = [
        {"type": "error", "message": "it broke"},
        {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"message": "it broke"}},
        },
    ]

    assert [part for part in collect_parts("responses", events) if part.kind == "error"] == [
        Part("error", "it broke")
    ]
