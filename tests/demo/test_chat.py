from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from forwarder.core.errors import InvalidRequest
from forwarder.demo import chat
from forwarder.demo.answer import DemoAnswer, DemoPrompt, make_answer
from forwarder.demo.chat import PART_TYPES_BY_ROLE, read_prompt
from forwarder.demo.options import OfferedTool
from tests.helpers.check_cases import check_each

USER = {"role": "user", "content": "hi there"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "four"}
FIRST = "messages[0]."


def make_request(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": list(messages) or [USER], **more}


def test_prompt_is_the_last_user_message() -> None:
    prompt = read_prompt(
        make_request(USER, {"role": "assistant", "content": "ok"}, {**USER, "content": "bye"})
    )
    assert prompt.user_text == "bye"
    assert prompt.word_count == 4
    assert prompt.tool_results == ()


def test_parts_are_read_in_their_order() -> None:
    parts = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": "data:"}},
    ]
    assert (
        read_prompt(make_request({"role": "user", "content": parts})).user_text
        == "what is [image_url]"
    )


def test_every_role_is_understood() -> None:
    others = [{"role": role, "content": "x"} for role in PART_TYPES_BY_ROLE if role != "tool"]
    assert read_prompt(make_request(*others, USER)).user_text == "hi there"


def test_the_results_at_the_end_are_read_in_order() -> None:
    calling = {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "c2"}]}
    second = {**RESULT, "tool_call_id": "c2", "content": [{"type": "text", "text": "five"}]}
    prompt = read_prompt(make_request(USER, calling, RESULT, second))
    assert prompt.tool_results == ("four", "five")


def test_results_before_a_new_user_message_are_history() -> None:
    assert read_prompt(make_request(USER, CALLING, RESULT, USER)).tool_results == ()


def test_tools_and_choices_are_read_in_their_nested_form() -> None:
    patch = {"type": "custom", "custom": {"name": "patch"}}
    tools = [TOOL, patch]
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [patch]},
    }
    for choice, name in [("auto", "add"), (patch, "patch"), (TOOL, "add"), (allowed, "patch")]:
        tool = read_prompt(make_request(tools=tools, tool_choice=choice)).tool
        assert tool
        assert tool.name == name


@check_each("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_are_known(name: str) -> None:
    assert read_prompt(make_request(**{name: 3})).limit == 3
    assert read_prompt(make_request()).limit is None


def test_effort_none_disables_reasoning() -> None:
    assert not read_prompt(make_request(reasoning_effort="none")).includes_reasoning
    assert read_prompt(make_request(reasoning_effort="low")).includes_reasoning


def test_the_format_is_read_in_its_nested_form() -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 1}}}
    form = read_prompt(make_request(response_format=response_format)).format
    assert form
    assert form.schema == {"const": 1}


def test_null_and_unknown_parameters_are_let_through() -> None:
    assert (
        read_prompt(make_request(temperature=None, tools=None, enable_thinking=True)).user_text
        == "hi there"
    )


@check_each(
    ("body", "param"),
    [
        ({"messages": [USER]}, "model"),
        ({"model": "demo"}, "messages"),
        ({"model": "demo", "messages": []}, "messages"),
        ({"model": "demo", "messages": "hi"}, "messages"),
        ({"model": 3, "messages": [USER]}, "model"),
        (make_request("hi"), "messages[0]"),
        (make_request({"content": "hi"}), FIRST + "role"),
        (make_request({"role": "critic", "content": "hi"}), FIRST + "role"),
        (make_request({"role": "user"}), FIRST + "content"),
        (make_request({"role": "user", "content": 3}), FIRST + "content"),
        (make_request({"role": "assistant", "content": None}), FIRST + "content"),
        (make_request({**USER, "content": [{"type": "input_text"}]}), FIRST + "content[0].type"),
        (make_request({**USER, "content": [{"type": "text"}]}), FIRST + "content[0].text"),
        (
            make_request({"role": "assistant", "tool_calls": [{"id": "x"}]}),
            FIRST + "tool_calls[0].type",
        ),
        (
            make_request(
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f"}}]}
            ),
            FIRST + "tool_calls[0].function.arguments",
        ),
        (make_request({"role": "tool", "content": "x"}), FIRST + "tool_call_id"),
        (make_request(RESULT), FIRST + "tool_call_id"),
        (make_request(USER, CALLING, RESULT, RESULT), "messages[3].tool_call_id"),
        (make_request(USER, CALLING), "messages"),
        (make_request(USER, CALLING, USER, RESULT), "messages"),
        (make_request(temperature="hot"), "temperature"),
        (make_request(stream="yes"), "stream"),
        (make_request(max_tokens=0), "max_tokens"),
        (make_request(n=2), "n"),
        (make_request(tool_choice="auto"), "tool_choice"),
        (make_request(parallel_tool_calls=True), "parallel_tool_calls"),
        (make_request(stream_options={"include_usage": True}), "stream_options"),
        (make_request(tools=[{"type": "web_search"}]), "tools[0].type"),
        (make_request(tools=[{"type": "function", "name": "flat"}]), "tools[0].function"),
        (
            make_request(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
        ),
        (
            make_request(tools=[TOOL], tool_choice={"type": "function", "name": "add"}),
            "tool_choice.function",
        ),
        (make_request(response_format={"type": "json_schema"}), "response_format.json_schema"),
    ],
)
def test_invalid_request_names_the_parameter(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_prompt(body)
    assert caught.value.param == param


ADD = OfferedTool("function", "add", {"properties": {"n": {"const": "a b"}}, "required": ["n"]}, "")
PATCH = OfferedTool("custom", "patch", {}, "")
REQUEST: dict[str, Any] = {"model": "any"}
COUNTED = {**REQUEST, "stream_options": {"include_usage": True}}
CHUNK = TypeAdapter(ChatCompletionChunk)
COMPLETION = TypeAdapter(ChatCompletion)
ANSWERS = {
    "text": make_answer(DemoPrompt("hello  you\n", 2)),
    "thoughtless": make_answer(DemoPrompt("hello", 1, includes_reasoning=False)),
    "function": make_answer(DemoPrompt("hello", 1, tool=ADD)),
    "custom": make_answer(DemoPrompt("hello", 1, tool=PATCH)),
    "cut in the reasoning": make_answer(DemoPrompt("hello", 1, limit=3)),
    "cut in the text": make_answer(DemoPrompt("hello", 1, limit=9)),
    "cut in the arguments": make_answer(DemoPrompt("hello", 1, tool=ADD, limit=8)),
}
every_answer = check_each("answer", ANSWERS.values(), ids=ANSWERS)


def list_chunks(answer: DemoAnswer, request: dict[str, Any] = COUNTED) -> list[dict[str, Any]]:
    return list(chat.iter_chunks(request, answer, "k", 7))


def fold(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Fold the deltas into a message."""
    message: dict[str, Any] = {}
    for part in parts:
        for choice in part["choices"]:
            _add_delta(message, choice["delta"])
    for call in message.get("tool_calls", ()):
        del call["index"]
    return message


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            _add_delta(message.setdefault(name, [{}])[0], value[0])
        elif isinstance(value, dict):
            _add_delta(message.setdefault(name, {}), value)
        elif isinstance(value, str) and isinstance(message.get(name), str):
            message[name] += value
        else:
            message[name] = value


@every_answer
def test_folded_stream_equals_the_completion(answer: DemoAnswer) -> None:
    parts, completion = list_chunks(answer), chat.build_completion(REQUEST, answer, "k", 7)
    assert fold(parts) == completion["choices"][0]["message"]
    assert parts[-2]["choices"][0]["finish_reason"] == completion["choices"][0]["finish_reason"]
    assert parts[-1]["usage"] == completion["usage"]
    assert all(
        part[name] == completion[name] for part in parts for name in ("id", "created", "model")
    )


@check_each("name", sorted(ANSWERS.keys() - {"custom"}))
def test_chunks_have_the_sdk_type(name: str) -> None:
    for part in list_chunks(ANSWERS[name]):
        chunk = CHUNK.validate_python(part, strict=True)
        assert not chunk.model_extra
        for choice in chunk.choices:
            assert set(choice.delta.model_extra or ()) <= {"reasoning_content"}


def test_a_custom_call_streams_although_the_chunk_type_of_the_sdk_lacks_it() -> None:
    calls = [
        call
        for part in list_chunks(ANSWERS["custom"])
        for choice in part["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    opening = {"name": "patch", "input": ""}
    assert calls[0] == {"index": 0, "id": "call_k", "type": "custom", "custom": opening}
    assert calls[1] == {"index": 0, "custom": {"input": "[demo"}}


@every_answer
def test_completion_has_the_sdk_type(answer: DemoAnswer) -> None:
    completion = COMPLETION.validate_python(
        chat.build_completion(REQUEST, answer, "k", 7), strict=True
    )
    assert not completion.model_extra
    assert set(completion.choices[0].message.model_extra or ()) <= {"reasoning_content"}


@every_answer
def test_role_is_in_the_first_chunk_and_finish_reason_in_the_last(answer: DemoAnswer) -> None:
    choices = [part["choices"][0] for part in list_chunks(answer, REQUEST)]
    assert ["role" in choice["delta"] for choice in choices] == [True] + [False] * (
        len(choices) - 1
    )
    assert [choice["finish_reason"] is None for choice in choices] == [True] * (
        len(choices) - 1
    ) + [False]
    assert choices[-1]["delta"] == {}


@check_each(
    ("name", "finish", "content"),
    [
        ("text", "stop", "[demo upstream] You said: hello  you\n"),
        ("function", "tool_calls", None),
        ("custom", "tool_calls", None),
        ("cut in the reasoning", "length", ""),
        ("cut in the text", "length", "[demo upstream]"),
        ("cut in the arguments", "length", None),
    ],
)
def test_finish_reason_follows_the_end_of_the_answer(
    name: str, finish: str, content: str | None
) -> None:
    choice = chat.build_completion(REQUEST, ANSWERS[name], "k", 7)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == (finish, content)
    assert choice["message"]["refusal"] is None


def test_text_comes_word_by_word() -> None:
    deltas = [part["choices"][0]["delta"] for part in list_chunks(ANSWERS["text"], REQUEST)]
    words = [delta["content"] for delta in deltas if delta.get("content")]
    assert words == ["[demo", " upstream]", " You", " said:", " hello", "  you", "\n"]


def test_usage_comes_in_a_last_chunk_without_choices_when_asked() -> None:
    parts = list_chunks(ANSWERS["text"])
    assert parts[-1]["choices"] == []
    assert all(part["usage"] is None for part in parts[:-1])


@check_each("options", [None, {}, {"include_usage": False}])
def test_usage_is_omitted_by_default(options: Any) -> None:
    parts = list_chunks(ANSWERS["text"], {**REQUEST, "stream_options": options})
    assert not any("usage" in part for part in parts)
    assert all(part["choices"] for part in parts)


def test_usage_counts_words() -> None:
    usage = chat.build_completion(REQUEST, ANSWERS["cut in the text"], "k", 7)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1, 9, 10)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 7
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
