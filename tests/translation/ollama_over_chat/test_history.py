"""Ollama messages as chat messages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.translation.ollama_over_chat.history import (
    NO_RESULT_NOTE,
    OllamaHistoryReader,
    make_content,
    serialize_arguments,
)
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

PNG = "iVBORw0KGgo="
JPEG = "/9j/4AAQ"


def read_history(*messages: Json, strict: bool = False) -> list[Json]:
    return OllamaHistoryReader(LossReport(strict=strict)).read_messages(list(messages))


def make_calls(*names: str, **more: Any) -> Json:
    calls = [{"function": {"name": name, "arguments": {"n": i}}} for i, name in enumerate(names)]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


def make_result(text: str, **more: Any) -> Json:
    return {"role": "tool", "content": text, **more}


def read_call_ids(messages: list[Json]) -> list[str]:
    return [call["id"] for m in messages for call in m.get("tool_calls") or ()]


def map_results(messages: list[Json]) -> dict[str, str]:
    return {m["content"]: m["tool_call_id"] for m in messages if m["role"] == "tool"}


@check_each("role", ["system", "developer", "user", "assistant", "User"])
def test_text_is_unchanged(role: str) -> None:
    [converted] = read_history({"role": role, "content": "Grüezi"})
    assert converted == {"role": role.lower(), "content": "Grüezi"}


def test_missing_text_is_empty() -> None:
    assert read_history({"role": "user"}) == [{"role": "user", "content": ""}]


@check_each(("data", "image_format"), [(PNG, "png"), (JPEG, "jpeg"), ("AAAA", "png")])
def test_image_becomes_a_part_after_the_text(data: str, image_format: str) -> None:
    [converted] = read_history({"role": "user", "content": "What?", "images": [data]})
    image_part = {
        "type": "image_url",
        "image_url": {"url": f"data:image/{image_format};base64,{data}"},
    }
    assert converted["content"] == [{"type": "text", "text": "What?"}, image_part]


def test_image_url_without_text_is_accepted() -> None:
    url = "https://files.test/cat.png"
    assert make_content("", [url], "x") == [{"type": "image_url", "image_url": {"url": url}}]


@check_each("image", ["not base64!", "", 7, None])
def test_invalid_image_error_names_the_path(image: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_history({"role": "user", "images": [PNG, image]})
    assert caught.value.param == "messages[0].images[1]"


def test_long_invalid_image_is_refused_quickly() -> None:
    started_at = time.process_time()

    with pytest.raises(InvalidRequest):
        read_history({"role": "user", "images": ["A" + " " * 50_000 + "!"]})

    assert time.process_time() - started_at < 1


@check_each("image", ["aGk=", "a Gk\n=\n", "aA==", "aA= =\n", "aGkh\n"])
def test_base64_with_line_breaks_is_accepted(image: str) -> None:
    assert make_content("", [image], "x")


def test_assistant_images_stay_in_the_message() -> None:
    [converted] = read_history({"role": "assistant", "content": "Look.", "images": [PNG]})
    assert converted["content"] == "Look."
    assert converted["images"][0]["image_url"]["url"].endswith(PNG)


def test_thinking_becomes_reasoning_content() -> None:
    [converted] = read_history({"role": "assistant", "content": "4", "thinking": "2 + 2"})
    assert converted == {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}


def test_call_gets_an_id_and_its_arguments_are_serialized() -> None:
    converted, answer = read_history(make_calls("add"), make_result("1"))
    function = {"name": "add", "arguments": '{"n":0}'}
    assert converted["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    assert converted["content"] is None
    assert answer == {"role": "tool", "tool_call_id": "call_1", "content": "1"}


@check_each(
    ("arguments", "text"), [({"a": "ü", "b": [1]}, '{"a":"ü","b":[1]}'), ('{"a": 1}', '{"a": 1}')]
)
def test_arguments_are_serialized_compactly(arguments: Any, text: str) -> None:
    assert serialize_arguments(arguments) == text


def test_result_after_an_answer_without_calls_is_that_of_the_earlier_call() -> None:
    converted = read_history(
        make_calls("weather"),
        {"role": "user", "content": "wait"},
        {"role": "assistant", "content": "ok"},
        make_result("sunny", tool_name="weather"),
    )
    assert map_results(converted) == {"sunny": "call_1"}


def test_generated_ids_are_stable_when_the_history_grows() -> None:
    history = [make_calls("a", "b"), make_result("1"), make_result("2")]
    longer_history = [
        *history,
        {"role": "user", "content": "on"},
        make_calls("a"),
        make_result("3"),
    ]
    assert read_call_ids(read_history(*history)) == ["call_1", "call_2"]
    assert read_call_ids(read_history(*longer_history)) == ["call_1", "call_2", "call_3"]


def test_unnamed_results_are_matched_in_order() -> None:
    converted = read_history(make_calls("a", "b"), make_result("one"), make_result("two"))
    assert map_results(converted) == {"one": "call_1", "two": "call_2"}


@check_each("field", ["tool_name", "name"])
def test_named_results_are_matched_by_tool(field: str) -> None:
    names = [
        make_result("b2", **{field: "b"}),
        make_result("a", **{field: "a"}),
        make_result("b4", **{field: "b"}),
    ]
    converted = read_history(make_calls("a", "b", "b"), *names)
    assert map_results(converted) == {"b2": "call_2", "a": "call_1", "b4": "call_3"}


def test_client_ids_are_kept_and_never_generated() -> None:
    call_with_id = {"id": "call_1", "function": {"name": "a", "arguments": {}}}
    call_without_id = {"function": {"name": "b", "arguments": {}}}
    message = {"role": "assistant", "tool_calls": [call_without_id, call_with_id]}
    converted = read_history(
        message,
        make_result("a", tool_call_id="call_1"),
        make_result("b", tool_call_id="unheard-of"),
    )
    assert read_call_ids(converted) == ["call_2", "call_1"]
    assert map_results(converted) == {"a": "call_1", "b": "call_2"}


@check_each(
    "messages",
    [
        [make_result("1")],
        [make_calls("a"), make_result("1"), make_result("2")],
        [make_calls("a"), make_result("1", tool_name="b")],
    ],
)
def test_result_without_a_call_is_refused(messages: list[Json]) -> None:
    with pytest.raises(InvalidRequest, match="no earlier call") as caught:
        read_history(*messages)
    assert caught.value.param == f"messages[{len(messages) - 1}]"


def test_many_client_ids_are_skipped() -> None:
    calls_with_ids = [{"id": f"call_{i}", "function": {"name": "f"}} for i in range(1, 3000)]
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}, *calls_with_ids]}
    assert read_call_ids(read_history(message))[0] == "call_3000"


USER = {"role": "user", "content": "go on"}
SYSTEM = {"role": "system", "content": "be brief"}


@check_each(
    ("messages", "expected"),
    [
        # Ollama accepts calls without a result, and Chat does not
        ([make_calls("a")], ["call_1", NO_RESULT_NOTE]),
        ([make_calls("a"), USER], ["call_1", NO_RESULT_NOTE, "go on"]),
        (
            [make_calls("a", "b"), make_result("B", tool_name="b"), USER],
            ["call_1 call_2", NO_RESULT_NOTE, "B", "go on"],
        ),
        # A result that comes later moves to its call
        ([make_calls("a"), SYSTEM, make_result("A")], ["call_1", "A", "be brief"]),
        (
            [make_calls("a"), make_calls("a"), make_result("A1"), make_result("A2")],
            ["call_1", "A1", "call_2", "A2"],
        ),
        (
            [make_calls("a", "b"), make_result("B", name="b"), make_result("A", name="a")],
            ["call_1 call_2", "A", "B"],
        ),
        # A result without an id belongs to the last turn with calls
        (
            [make_calls("a"), USER, make_calls("a"), make_result("A")],
            ["call_1", NO_RESULT_NOTE, "go on", "call_2", "A"],
        ),
        (
            [make_calls("a"), USER, make_calls("a"), make_result("A", tool_call_id="call_1")],
            ["call_1", "A", "go on", "call_2", NO_RESULT_NOTE],
        ),
    ],
)
def test_results_directly_follow_their_calls(messages: list[Json], expected: list[str]) -> None:
    converted = read_history(*messages)
    ids_and_texts = [
        " ".join(call["id"] for call in m["tool_calls"]) if "tool_calls" in m else m["content"]
        for m in converted
    ]
    assert ids_and_texts == expected
    result_ids = [m["tool_call_id"] for m in converted if m["role"] == "tool"]
    assert result_ids == read_call_ids(converted)


def test_result_may_have_images() -> None:
    _, converted = read_history(make_calls("a"), make_result("Look.", images=[PNG]))
    assert [part["type"] for part in converted["content"]] == ["text", "image_url"]


@check_each(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({"content": "hi"}, "messages[0].role"),
        ({"role": "narrator"}, "messages[0].role"),
        ({"role": "user", "content": [1]}, "messages[0].content"),
        ({"role": "user", "images": "x"}, "messages[0].images"),
        ({"role": "assistant", "thinking": 1}, "messages[0].thinking"),
        ({"role": "assistant", "tool_calls": {}}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [1]}, "messages[0].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
        (
            {"role": "assistant", "tool_calls": [{"function": {}}]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_malformed_message_error_names_the_path(message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_history(message)
    assert caught.value.param == param


def test_ignored_fields_are_reported() -> None:
    loss_report = LossReport()
    message = {"role": "user", "content": "x", "name": "Ann", "thinking": "", "images": []}
    OllamaHistoryReader(loss_report).read_messages(
        [message, {"role": "system", "content": "x", "images": [PNG]}]
    )
    assert set(loss_report.losses) == {"messages.name", "messages.images"}
