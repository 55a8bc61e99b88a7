"""Valid and refused Chat Completions requests."""

from __future__ import annotations

from typing import Any

from tests.fake_provider import check_chat
from tests.fake_provider.answers import Json
from tests.helpers.check_cases import check_each

USER: Json = {"role": "user", "content": "hi"}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CUSTOM: Json = {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}
IMAGE: Json = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}


def make_call_message(*ids: str) -> Json:
    """An assistant message with calls of these ids."""
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": id_, "type": "function", "function": function} for id_ in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def make_tool_message(id_: str) -> Json:
    """A tool message."""
    return {"role": "tool", "tool_call_id": id_, "content": "1"}


def make_message(role: str, content: Any, **more: Any) -> Json:
    """A message."""
    return {"role": role, "content": content, **more}


def make_request(*messages: Json) -> Json:
    """A request with these messages."""
    return {"model": "m", "messages": list(messages)}


def hello(**parameters: Any) -> Json:
    """A request with one message and these parameters."""
    return {**make_request(USER), **parameters}


@check_each(
    "body",
    [
        hello(),
        hello(temperature=1, top_p=0.5, n=2, stop=["a"], seed=1, logit_bias={"1": 2}),
        hello(temperature=None, stop=None, stream=None, metadata=None),
        hello(stream=True, stream_options={"include_usage": True}),
        hello(tools=[TOOL, CUSTOM], tool_choice="required", parallel_tool_calls=False),
        hello(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}),
        hello(tools=[CUSTOM], tool_choice={"type": "custom", "custom": {"name": "c"}}),
        hello(tools=[{"type": "function", "function": {"name": "f"}}]),
        hello(max_completion_tokens=5, reasoning_effort="low", verbosity="low"),
        hello(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        make_request(
            make_message("system", "a"),
            make_message("developer", "b"),
            USER,
            make_message("assistant", "c"),
        ),
        make_request(make_message("user", [{"type": "text", "text": "a"}, IMAGE], name="Ada")),
        make_request(make_message("assistant", [{"type": "refusal", "refusal": "no"}]), USER),
        make_request(make_message("assistant", None, refusal="no"), USER),
        make_request(
            USER, make_call_message("a", "b"), make_tool_message("b"), make_tool_message("a"), USER
        ),
        make_request(
            USER, {**make_call_message("a"), "reasoning_content": "hm"}, make_tool_message("a")
        ),
        make_request(
            make_message("assistant", "a", refusal=None, annotations=[], parsed=None), USER
        ),
        make_request(
            USER,
            make_call_message("a"),
            make_message("tool", [{"type": "text", "text": "1"}], tool_call_id="a"),
        ),
    ],
    ids=lambda body: str(body)[:40],
)
def test_right_requests_pass(body: Json) -> None:
    assert check_chat(body) == []


@check_each(
    ("body", "message", "param"),
    [
        ({"messages": [USER]}, "Missing required parameter", "model"),
        ({"model": "m"}, "Missing required parameter", "messages"),
        (make_request(), "empty array", "messages"),
        (hello(input="x"), "Unknown parameter", "input"),
        (hello(max_output_tokens=50), "Unknown parameter", "max_output_tokens"),
        (hello(temperature="hot"), "Invalid type", "temperature"),
        (hello(temperature=3), "above maximum", "temperature"),
        (hello(max_tokens=0), "below minimum", "max_tokens"),
        (hello(tools=None), "Invalid type", "tools"),
        (hello(user=None), "Invalid type", "user"),
        (hello(n=2.5), "Invalid type", "n"),
        (hello(parallel_tool_calls=True), "only allowed when 'tools'", "parallel_tool_calls"),
        (hello(tool_choice="auto"), "only allowed when 'tools'", "tool_choice"),
        (hello(max_tokens=5, max_completion_tokens=5), "at the same time", "max_tokens"),
        (hello(stream_options={"include_usage": True}), "only allowed when", "stream_options"),
        (hello(top_logprobs=2), "'logprobs' must be set", "top_logprobs"),
        (hello(response_format={"type": "json_object"}), "the word 'json'", "messages"),
        (hello(reasoning_effort="extreme"), "Supported values", "reasoning_effort"),
    ],
)
def test_wrong_parameters_are_named(body: Json, message: str, param: str) -> None:
    violations = check_chat(body)

    assert [violation.param for violation in violations] == [param]
    assert message in violations[0]


@check_each(
    ("message", "param"),
    [
        (make_message("critic", "a"), "messages[0].role"),
        (make_message("user", None), "messages[0].content"),
        (make_message("user", []), "messages[0].content"),
        (
            make_message("user", [{"type": "input_text", "text": "a"}]),
            "messages[0].content[0].type",
        ),
        (make_message("system", [IMAGE]), "messages[0].content[0].type"),
        (make_message("assistant", [IMAGE]), "messages[0].content[0].type"),
        (
            make_message("assistant", [{"type": "output_text", "text": "a"}]),
            "messages[0].content[0].type",
        ),
        (make_message("assistant", None), "messages[0].content"),
        (make_message("assistant", "a", tool_calls=[]), "messages[0].tool_calls"),
        (make_message("assistant", "a", tool_calls=None), "messages[0].tool_calls"),
        (make_message("user", "a", id="msg_1"), "messages[0].id"),
        (make_message("assistant", "a", phase="final_answer"), "messages[0].phase"),
        ({"role": "tool", "content": "1"}, "messages[0].tool_call_id"),
    ],
)
def test_wrong_messages_are_named(message: Json, param: str) -> None:
    assert [violation.param for violation in check_chat(make_request(message))] == [param]


@check_each(
    "messages",
    [
        (USER, make_call_message("a")),
        (USER, make_call_message("a"), USER, make_tool_message("a")),
        (USER, make_call_message("a", "b"), make_tool_message("a"), USER),
        (
            USER,
            make_call_message("a", "b"),
            make_tool_message("a"),
            make_call_message("c"),
            make_tool_message("b"),
            make_tool_message("c"),
        ),
        (USER, make_call_message("a"), make_tool_message("a"), make_tool_message("a")),
        (USER, make_call_message("a"), make_tool_message("b")),
        (USER, make_tool_message("a")),
        (USER, make_call_message("a"), make_tool_message("a"), USER, make_tool_message("a")),
    ],
    ids=lambda messages: "-".join(message["role"] for message in messages),
)
def test_tool_messages_answer_the_calls_right_before_them(messages: tuple[Json, ...]) -> None:
    violations = check_chat(make_request(*messages))

    assert violations
    assert all("tool" in violation for violation in violations)


def test_ids_and_names_of_calls_have_limits() -> None:
    long_name = "a" * 41
    dotted = make_call_message("a")
    dotted["tool_calls"][0]["function"]["name"] = "mcp.find"

    assert (
        "too long"
        in check_chat(
            make_request(USER, make_call_message(long_name), make_tool_message(long_name))
        )[0]
    )
    assert "pattern" in check_chat(make_request(USER, dotted, make_tool_message("a")))[0]


@check_each(
    ("tools", "param"),
    [
        ([], "tools"),
        ([TOOL] * 129, "tools"),
        ([{"type": "function", "name": "f"}], "tools[0].function"),
        ([{"type": "web_search"}], "tools[0].type"),
        ([{**TOOL, "function": {"name": "a b"}}], "tools[0].function.name"),
        ([{**TOOL, "function": {"name": "f", "parameters": {}}}], "tools[0].function.parameters"),
        ([{**TOOL, "function": {"name": "f", "parameters": None}}], "tools[0].function.parameters"),
        ([{"type": "custom", "custom": {"name": ""}}], "tools[0].custom.name"),
        (
            [{"type": "custom", "custom": {"name": "c", "format": {"type": "grammar"}}}],
            "tools[0].custom.format.grammar",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_tools_are_named(tools: list[Json], param: str) -> None:
    assert param in [violation.param for violation in check_chat(hello(tools=tools))]


@check_each(
    "choice",
    [
        "any",
        {"type": "function", "name": "f"},
        {"type": "function", "function": {"name": "g"}},
        {"type": "custom", "custom": {"name": "f"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "auto",
                "tools": [{"type": "function", "function": {"name": "g"}}],
            },
        },
    ],
    ids=str,
)
def test_a_choice_must_be_one_of_the_tools(choice: Any) -> None:
    violations = check_chat(hello(tools=[TOOL], tool_choice=choice))

    assert str(violations[0].param).startswith("tool_choice")


def test_additional_vendor_parameters_are_accepted() -> None:
    body = {**make_request(make_message("user", "hi", partial=True)), "enable_thinking": True}

    assert len(check_chat(body)) == 2
    assert check_chat(body, {"enable_thinking", "partial"}) == []
