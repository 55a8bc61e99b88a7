from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.demo.chat_request import PART_TYPES_BY_ROLE, read_prompt

USER = {"role": "user", "content": "hi there"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "four"}
FIRST = "messages[0]."


def request(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": list(messages) or [USER], **more}


def test_the_last_user_message_is_what_was_said() -> None:
    prompt = read_prompt(
        request(USER, {"role": "assistant", "content": "ok"}, {**USER, "content": "bye"})
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
        read_prompt(request({"role": "user", "content": parts})).user_text == "what is [image_url]"
    )


def test_every_role_is_understood() -> None:
    others = [{"role": role, "content": "x"} for role in PART_TYPES_BY_ROLE if role != "tool"]
    assert read_prompt(request(*others, USER)).user_text == "hi there"


def test_the_results_at_the_end_are_read_in_order() -> None:
    calling = {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "c2"}]}
    second = {**RESULT, "tool_call_id": "c2", "content": [{"type": "text", "text": "five"}]}
    prompt = read_prompt(request(USER, calling, RESULT, second))
    assert prompt.tool_results == ("four", "five")


def test_results_before_a_new_user_message_are_history() -> None:
    assert read_prompt(request(USER, CALLING, RESULT, USER)).tool_results == ()


def test_tools_and_choices_are_read_in_their_nested_form() -> None:
    patch = {"type": "custom", "custom": {"name": "patch"}}
    tools = [TOOL, patch]
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [patch]},
    }
    for choice, name in [("auto", "add"), (patch, "patch"), (TOOL, "add"), (allowed, "patch")]:
        tool = read_prompt(request(tools=tools, tool_choice=choice)).tool
        assert tool
        assert tool.name == name


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_are_known(name: str) -> None:
    assert read_prompt(request(**{name: 3})).limit == 3
    assert read_prompt(request()).limit is None


def test_no_effort_is_no_thought() -> None:
    assert not read_prompt(request(reasoning_effort="none")).includes_reasoning
    assert read_prompt(request(reasoning_effort="low")).includes_reasoning


def test_the_format_is_read_in_its_nested_form() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 1}}}
    form = read_prompt(request(response_format=wanted)).format
    assert form
    assert form.schema == {"const": 1}


def test_null_and_unknown_parameters_are_let_through() -> None:
    assert (
        read_prompt(request(temperature=None, tools=None, enable_thinking=True)).user_text
        == "hi there"
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [USER]}, "model"),
        ({"model": "demo"}, "messages"),
        ({"model": "demo", "messages": []}, "messages"),
        ({"model": "demo", "messages": "hi"}, "messages"),
        ({"model": 3, "messages": [USER]}, "model"),
        (request("hi"), "messages[0]"),
        (request({"content": "hi"}), FIRST + "role"),
        (request({"role": "critic", "content": "hi"}), FIRST + "role"),
        (request({"role": "user"}), FIRST + "content"),
        (request({"role": "user", "content": 3}), FIRST + "content"),
        (request({"role": "assistant", "content": None}), FIRST + "content"),
        (request({**USER, "content": [{"type": "input_text"}]}), FIRST + "content[0].type"),
        (request({**USER, "content": [{"type": "text"}]}), FIRST + "content[0].text"),
        (
            request({"role": "assistant", "tool_calls": [{"id": "x"}]}),
            FIRST + "tool_calls[0].type",
        ),
        (
            request({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f"}}]}),
            FIRST + "tool_calls[0].function.arguments",
        ),
        (request({"role": "tool", "content": "x"}), FIRST + "tool_call_id"),
        (request(RESULT), FIRST + "tool_call_id"),
        (request(USER, CALLING, RESULT, RESULT), "messages[3].tool_call_id"),
        (request(USER, CALLING), "messages"),
        (request(USER, CALLING, USER, RESULT), "messages"),
        (request(temperature="hot"), "temperature"),
        (request(stream="yes"), "stream"),
        (request(max_tokens=0), "max_tokens"),
        (request(n=2), "n"),
        (request(tool_choice="auto"), "tool_choice"),
        (request(parallel_tool_calls=True), "parallel_tool_calls"),
        (request(stream_options={"include_usage": True}), "stream_options"),
        (request(tools=[{"type": "web_search"}]), "tools[0].type"),
        (request(tools=[{"type": "function", "name": "flat"}]), "tools[0].function"),
        (
            request(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
        ),
        (
            request(tools=[TOOL], tool_choice={"type": "function", "name": "add"}),
            "tool_choice.function",
        ),
        (request(response_format={"type": "json_schema"}), "response_format.json_schema"),
    ],
)
def test_a_bad_request_is_refused_by_its_place(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_prompt(body)
    assert caught.value.param == param
