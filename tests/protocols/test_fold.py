"""Folding of streams, beyond the properties that `test_laws.py` checks."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError, UpstreamRefused
from forwarder.protocols.fold import fold_chat, fold_responses
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def test_fold_chat_ignores_repeated_name() -> None:
    make_call_delta = {"index": 0, "id": "c", "type": "function"}
    calls = [
        {**make_call_delta, "function": {"name": "look", "arguments": piece}}
        for piece in ("{", "}")
    ]
    chunks = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [delta_call]}}]} for delta_call in calls
    ]

    answer = fold_chat(iter([chunks]))

    [tool_call] = answer["choices"][0]["message"]["tool_calls"]
    assert tool_call["function"] == {"name": "look", "arguments": "{}"}


def fold_message(*deltas: Json, **choice: Any) -> Json:
    """Fold deltas and return the message."""
    chunks = [{"id": "1", "choices": [{"index": 0, "delta": delta, **choice}]} for delta in deltas]
    message: Json = fold_chat(iter([chunks]))["choices"][0]["message"]
    return message


def make_message(**fields: Any) -> Json:
    return {"role": "assistant", "content": None, "refusal": None, **fields}


def make_call_delta(**fields: Any) -> Json:
    return {"tool_calls": [fields]}


THOUGHT = {"type": "thinking", "thinking": "Hm"}

MESSAGES = {
    "texts are joined": (
        [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": None}, {"content": "b"}],
        make_message(content="ab"),
    ),
    "an empty answer is empty": ([{"content": ""}], make_message(content="")),
    "a repeated image replaces the earlier one": (
        [{"images": [{"index": 0, "url": "a"}]}, {"images": [{"index": 1, "url": "b"}]},
         {"images": [{"index": 0, "url": "c"}]}, {"images": None}],
        make_message(images=[{"index": 0, "url": "c"}, {"index": 1, "url": "b"}]),
    ),
    "images without a number are all different": (
        [{"images": [{"url": "a"}]}, {"images": [{"url": "b"}]}],
        make_message(images=[{"url": "a"}, {"url": "b"}]),
    ),
    "malformed images and metadata do not fail": (
        [{"images": ["odd", {"index": 0}]}, {"images": [{"index": 0, "url": "a"}]}, {"metadata": "odd"},
         {"metadata": {"a": 1}}],
        make_message(images=["odd", {"index": 0, "url": "a"}], metadata={"a": 1}),
    ),
    "metadata is merged, without drafts of images": (
        [{"metadata": {"partial_images": [1]}}, {"metadata": {"a": 1}}, {"metadata": {"b": 2}}, {"metadata": None}],
        make_message(metadata={"a": 1, "b": 2}),
    ),
    "a refusal has no content": (
        [{"content": "", "refusal": None}, {"refusal": "N"}, {"refusal": "o"}],
        make_message(refusal="No"),
    ),
    "reasoning is joined": (
        [{"reasoning_content": "a"}, {"reasoning_content": "b"}, {"content": "c"}],
        make_message(reasoning_content="ab", content="c"),
    ),
    "content parts of one type are one part": (
        [{"content": [THOUGHT]}, {"content": [THOUGHT]}, {"content": "a"}, {"content": "b"}],
        make_message(content=[{"type": "thinking", "thinking": "HmHm"}, {"type": "text", "text": "ab"}]),
    ),
    "parts may hold lists of parts": (
        [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": t}]}]} for t in "ab"],
        make_message(content=[{"type": "thinking", "thinking": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]),
    ),
    "text after a part is a part": (
        [{"content": ""}, {"content": [THOUGHT]}, {"content": "a"}],
        make_message(content=[THOUGHT, {"type": "text", "text": "a"}]),
    ),
    "calls are joined by index": (
        [make_call_delta(index=0, id="a", type="function", function={"name": "f", "arguments": ""}),
         make_call_delta(index=1, id="b", type="custom", custom={"name": "g", "input": "x"}),
         make_call_delta(index=0, function={"arguments": "{}"}),
         make_call_delta(index=1, custom={"input": "y"})],
        make_message(tool_calls=[
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "custom", "custom": {"name": "g", "input": "xy"}}]),
    ),
    "calls without an index are distinguished by id": (
        [make_call_delta(id="a", type="function", function={"name": "f", "arguments": {"x": 1}}),
         make_call_delta(id="b", type="function", function={"name": "f", "arguments": None})],
        make_message(tool_calls=[
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "f", "arguments": ""}}]),
    ),
    "a vendor's extra fields of a call are preserved": (
        [make_call_delta(index=0, id="a", type="function", function={"name": "f", "arguments": "{}"},
              extra_content={"signature": "s"})],
        make_message(tool_calls=[{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"},
                             "extra_content": {"signature": "s"}}]),
    ),
    "pieces of signatures are joined": (
        [{"thinking_blocks": [{"type": "thinking", "thinking": "a"}]},
         {"thinking_blocks": [{"type": "thinking", "thinking": "b", "signature": "s"}]},
         make_call_delta(index=0, id="a", function={"name": "f", "provider_specific_fields": {"x": "s"}}),
         make_call_delta(index=0, function={"arguments": "{}"})],
        make_message(thinking_blocks=[{"type": "thinking", "thinking": "ab", "signature": "s"}],
                tool_calls=[{"id": "a", "type": "function", "function": {
                    "name": "f", "provider_specific_fields": {"x": "s"}, "arguments": "{}"}}]),
    ),
    "a legacy call is joined, and stands alone": (
        [{"content": "", "function_call": {"name": "f", "arguments": ""}},
         {"function_call": {"arguments": "{}"}}],
        make_message(function_call={"name": "f", "arguments": "{}"}),
    ),
    "annotations and details are collected": (
        [{"content": "a", "annotations": [1], "reasoning_details": [2]},
         {"annotations": [3], "reasoning_details": None}],
        make_message(content="a", annotations=[1, 3], reasoning_details=[2]),
    ),
    "other fields keep the last value": (
        [{"content": "a", "metadata": {"x": 1}}, {"metadata": None}],
        make_message(content="a", metadata={"x": 1}),
    ),
}  # fmt: skip


@check_each("name", MESSAGES)
def test_fold_chat_merges_deltas(name: str) -> None:
    deltas, whole_message = MESSAGES[name]
    assert fold_message(*deltas) == whole_message


def test_fold_chat_keeps_last_value_of_each_field() -> None:
    completion = fold_chat(
        iter(
            [
                [{"id": "1", "object": "chat.completion.chunk", "model": "m", "usage": None,
                  "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}],
                [],
                [{"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                 {"id": "1", "choices": [], "usage": {"total_tokens": 3}}],
            ]
        )
    )  # fmt: skip
    assert completion == {
        "id": "1",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "logprobs": None,
                "finish_reason": "stop",
                "message": make_message(content="a"),
            }
        ],
        "usage": {"total_tokens": 3},
    }


def test_fold_chat_separates_and_sorts_choices() -> None:
    chunks = [
        {"choices": [{"index": i, "delta": {"content": c}}]}
        for i, c in [(1, "b"), (0, "a"), (1, "c")]
    ]
    choices = fold_chat(iter([chunks]))["choices"]
    assert [(c["index"], c["message"]["content"]) for c in choices] == [(0, "a"), (1, "bc")]


def test_fold_chat_does_not_change_events() -> None:
    parts: list[Json] = [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]
    fold_message({"content": parts}, {"content": [{"type": "thinking", "thinking": [1]}]})
    assert parts == [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]


def test_fold_chat_returns_complete_answer_unchanged() -> None:
    completion = {"id": "1", "choices": [{"message": {"content": "a"}}], "vendor": {"x": 1}}
    assert fold_chat(iter([[], [completion]])) is completion


def test_fold_raises_error_in_stream() -> None:
    error = {"message": "Full.", "code": "rate_limit_exceeded"}
    for fold, event in (
        (fold_chat, {"error": error}),
        (fold_responses, {"type": "error", "error": error}),
        (fold_responses, {"type": "error", **error}),
    ):
        with pytest.raises(UpstreamRefused, match=r"Full\.") as caught:
            fold(iter([[event]]))
        assert caught.value.status == 429


@check_each("fold", [fold_chat, fold_responses])
def test_fold_raises_for_stream_without_answer(fold: Any) -> None:
    for stream in ([], [[]], [[{"type": "response.created", "response": {}}]]):
        with pytest.raises(UpstreamProtocolError):
            fold(iter(stream))


def test_fold_responses_returns_terminal_response() -> None:
    events = [
        {"type": "response.created", "response": {"status": "in_progress"}},
        {"type": "response.incomplete", "response": {"status": "incomplete"}},
    ]
    assert fold_responses(iter([events])) == {"status": "incomplete", "output": []}


def test_fold_responses_adds_missing_items() -> None:
    items = [{"id": "rs_1", "type": "reasoning"}, {"id": "msg_1", "type": "message"}]
    done = [{"type": "response.output_item.done", "item": item} for item in items]
    terminal_event = {"type": "response.completed", "response": {"output": []}}
    assert fold_responses(iter([[*done, terminal_event]]))["output"] == items


def test_fold_chat_ignores_nulls_in_delta() -> None:
    def make_chunk(delta: Json, finish: str | None = None) -> Json:
        nulls = {"function_call": None, "tool_calls": None, "refusal": None}
        return {"choices": [{"index": 0, "delta": {**nulls, **delta}, "finish_reason": finish}]}

    completion = fold_chat(
        iter([[make_chunk({"content": ""}), make_chunk({"tool_calls": []}, "stop")]])
    )
    message = {"role": "assistant", "content": "", "refusal": None}
    assert completion["choices"][0]["message"] == message


def test_fold_chat_adds_missing_call_type() -> None:
    make_call_delta = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    chunk = {
        "choices": [
            {"index": 0, "delta": {"tool_calls": [make_call_delta]}, "finish_reason": "stop"}
        ]
    }
    completion = fold_chat(iter([[chunk]]))
    assert completion["choices"][0]["message"]["tool_calls"][0]["type"] == "function"


def test_fold_chat_ignores_message_beside_delta() -> None:
    """Perplexity sends the message so far with each delta, Writer a null."""
    for message in (None, {"role": "assistant", "content": "Hello."}):
        pieces = [
            {"choices": [{"index": 0, "delta": {"content": text}, "message": message}]}
            for text in ("Hel", "lo.")
        ]
        completion = fold_chat(iter([pieces]))
        assert completion["choices"][0]["message"]["content"] == "Hello."


@check_each("place", ["x_groq", "choice"])
def test_fold_chat_reads_usage_from_each_place(place: str) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    choice: Json = {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}
    chunk: Json = {"choices": [choice]}
    if place == "choice":
        choice["usage"] = usage
    else:
        chunk["x_groq"] = {"usage": usage}
    completion = fold_chat(iter([[chunk]]))
    assert completion["usage"] == usage
    assert "usage" not in completion["choices"][0]


def test_fold_responses_raises_without_response() -> None:
    with pytest.raises(UpstreamProtocolError):
        fold_responses(iter([[{"type": "response.completed", "response": None}]]))


def test_fold_chat_merges_logprobs() -> None:
    def make_chunk(logprobs: Json | None, **delta: str) -> Json:
        return {"choices": [{"index": 0, "delta": delta, "logprobs": logprobs}]}

    chunks = [
        make_chunk(None, content="a"),
        make_chunk({"content": [1], "refusal": None}, content="b"),
        make_chunk({"content": [2], "refusal": [3]}),
        make_chunk({"content": None, "refusal": None}),
    ]
    assert fold_chat(iter([chunks]))["choices"][0]["logprobs"] == {
        "content": [1, 2],
        "refusal": [3],
    }
    assert chunks[1]["choices"][0]["logprobs"] == {"content": [1], "refusal": None}
