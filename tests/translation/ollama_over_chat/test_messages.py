"""Ollama's messages as chat messages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.translation.ollama_over_chat.messages import (
    OllamaHistoryReader,
    make_content,
    serialize_arguments,
)

Json = dict[str, Any]

PNG = "iVBORw0KGgo="
JPEG = "/9j/4AAQ"


def read(*messages: Json, strict: bool = False) -> list[Json]:
    return OllamaHistoryReader(LossReport(strict=strict)).read_messages(list(messages))


def called(*names: str, **more: Any) -> Json:
    calls = [{"function": {"name": name, "arguments": {"n": i}}} for i, name in enumerate(names)]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


def result(text: str, **more: Any) -> Json:
    return {"role": "tool", "content": text, **more}


def ids(messages: list[Json]) -> list[str]:
    return [call["id"] for m in messages for call in m.get("tool_calls") or ()]


def answered(messages: list[Json]) -> dict[str, str]:
    return {m["content"]: m["tool_call_id"] for m in messages if m["role"] == "tool"}


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "User"])
def test_a_text_stays_what_it_is(role: str) -> None:
    [made] = read({"role": role, "content": "Grüezi"})
    assert made == {"role": role.lower(), "content": "Grüezi"}


def test_no_text_is_an_empty_one() -> None:
    assert read({"role": "user"}) == [{"role": "user", "content": ""}]


@pytest.mark.parametrize(("data", "kind"), [(PNG, "png"), (JPEG, "jpeg"), ("AAAA", "png")])
def test_an_image_becomes_a_part_behind_the_text(data: str, kind: str) -> None:
    [made] = read({"role": "user", "content": "What?", "images": [data]})
    shown = {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}
    assert made["content"] == [{"type": "text", "text": "What?"}, shown]


def test_an_image_may_stand_alone_and_be_a_url_already() -> None:
    url = "https://files.test/cat.png"
    assert make_content("", [url], "x") == [{"type": "image_url", "image_url": {"url": url}}]


@pytest.mark.parametrize("image", ["not base64!", "", 7, None])
def test_what_is_no_image_is_named(image: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"role": "user", "images": [PNG, image]})
    assert caught.value.param == "messages[0].images[1]"


def test_what_is_no_image_is_refused_at_once_however_long_it_is() -> None:
    began = time.process_time()

    with pytest.raises(InvalidRequest):
        read({"role": "user", "images": ["A" + " " * 50_000 + "!"]})

    assert time.process_time() - began < 1


@pytest.mark.parametrize("image", ["aGk=", "a Gk\n=\n", "aA==", "aA= =\n", "aGkh\n"])
def test_base64_may_be_broken_into_lines(image: str) -> None:
    assert make_content("", [image], "x")


def test_the_assistant_s_images_stay_images_of_the_message() -> None:
    [made] = read({"role": "assistant", "content": "Look.", "images": [PNG]})
    assert made["content"] == "Look."
    assert made["images"][0]["image_url"]["url"].endswith(PNG)


def test_thoughts_get_chat_s_field() -> None:
    [made] = read({"role": "assistant", "content": "4", "thinking": "2 + 2"})
    assert made == {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}


def test_a_call_gets_an_id_and_its_arguments_become_text() -> None:
    made, answer = read(called("add"), result("1"))
    function = {"name": "add", "arguments": '{"n":0}'}
    assert made["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    assert made["content"] is None
    assert answer == {"role": "tool", "tool_call_id": "call_1", "content": "1"}


@pytest.mark.parametrize(
    ("arguments", "text"), [({"a": "ü", "b": [1]}, '{"a":"ü","b":[1]}'), ('{"a": 1}', '{"a": 1}')]
)
def test_arguments_are_written_as_models_write_them(arguments: Any, text: str) -> None:
    assert serialize_arguments(arguments) == text


def test_a_conversation_that_has_grown_keeps_its_ids() -> None:
    first = [called("a", "b"), result("1"), result("2")]
    more = [*first, {"role": "user", "content": "on"}, called("a"), result("3")]
    assert ids(read(*first)) == ["call_1", "call_2"]
    assert ids(read(*more)) == ["call_1", "call_2", "call_3"]


def test_results_without_a_name_go_in_order() -> None:
    made = read(called("a", "b"), result("one"), result("two"))
    assert answered(made) == {"one": "call_1", "two": "call_2"}


@pytest.mark.parametrize("field", ["tool_name", "name"])
def test_results_with_a_name_find_their_tool(field: str) -> None:
    names = [
        result("b2", **{field: "b"}),
        result("a", **{field: "a"}),
        result("b4", **{field: "b"}),
    ]
    made = read(called("a", "b", "b"), *names)
    assert answered(made) == {"b2": "call_2", "a": "call_1", "b4": "call_3"}


def test_ids_of_the_client_s_stay_and_are_not_made_again() -> None:
    own = {"id": "call_1", "function": {"name": "a", "arguments": {}}}
    none = {"function": {"name": "b", "arguments": {}}}
    message = {"role": "assistant", "tool_calls": [none, own]}
    made = read(message, result("a", tool_call_id="call_1"), result("b", tool_call_id="unheard-of"))
    assert ids(made) == ["call_2", "call_1"]
    assert answered(made) == {"a": "call_1", "b": "call_2"}


@pytest.mark.parametrize(
    "messages",
    [
        [result("1")],
        [called("a"), result("1"), result("2")],
        [called("a"), result("1", tool_name="b")],
    ],
)
def test_a_result_without_its_call_is_refused(messages: list[Json]) -> None:
    with pytest.raises(InvalidRequest, match="no earlier call") as caught:
        read(*messages)
    assert caught.value.param == f"messages[{len(messages) - 1}]"


def test_a_result_may_be_seen() -> None:
    _, made = read(called("a"), result("Look.", images=[PNG]))
    assert [part["type"] for part in made["content"]] == ["text", "image_url"]


@pytest.mark.parametrize(
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
def test_what_is_malformed_is_named(message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(message)
    assert caught.value.param == param


def test_what_nobody_reads_is_named() -> None:
    ledger = LossReport()
    told = {"role": "user", "content": "x", "name": "Ann", "thinking": "", "images": []}
    OllamaHistoryReader(ledger).read_messages(
        [told, {"role": "system", "content": "x", "images": [PNG]}]
    )
    assert set(ledger.losses) == {"messages.name", "messages.images"}
