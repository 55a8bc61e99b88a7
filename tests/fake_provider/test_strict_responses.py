"""Valid and refused Responses requests; ``test_strict_items`` has those with a history."""

from __future__ import annotations

from typing import Any

from tests.fake_provider import check_responses
from tests.fake_provider.answers import Json
from tests.helpers.check_cases import check_each

TOOL: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CUSTOM: Json = {"type": "custom", "name": "c"}
GRAMMAR: Json = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
NAMESPACE: Json = {"type": "namespace", "name": "ns", "description": "d", "tools": [TOOL]}


def hello(**parameters: Any) -> Json:
    """A request with these parameters."""
    return {"model": "m", "input": "hi", **parameters}


def make_message_request(role: str, *parts: Json, **more: Any) -> Json:
    """A request with one message."""
    return hello(input=[{"role": role, "content": list(parts), **more}])


def make_text_part(kind: str) -> Json:
    """A part of some type."""
    return {"type": kind, "text": "a"}


@check_each(
    "body",
    [
        hello(),
        hello(temperature=None, metadata={"a": "b"}, max_output_tokens=16, store=False),
        hello(stream=True, stream_options={"include_obfuscation": False}),
        hello(tools=[TOOL, {**CUSTOM, "format": GRAMMAR}, {"type": "web_search"}, NAMESPACE]),
        hello(tools=[{"type": "function", "name": "f"}], tool_choice="required"),
        hello(tools=[TOOL], tool_choice={"type": "function", "name": "f"}),
        hello(tools=[{"type": "web_search_preview"}], tool_choice={"type": "web_search_preview"}),
        hello(
            tools=[TOOL],
            tool_choice={
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}],
            },
        ),
        hello(tool_choice="auto", parallel_tool_calls=False),
        hello(text={"format": {"type": "json_schema", "name": "x", "schema": {}}}),
        hello(input="as json", text={"format": {"type": "json_object"}}),
        hello(input=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        make_message_request(
            "user",
            make_text_part("input_text"),
            {"type": "input_image", "image_url": "https://x/y.png"},
        ),
        make_message_request("developer", make_text_part("input_text"), type="message", id="msg_1"),
        make_message_request(
            "assistant", make_text_part("output_text"), {"type": "refusal", "refusal": "no"}
        ),
        make_message_request(
            "assistant", make_text_part("output_text"), status="completed", phase="commentary"
        ),
        hello(
            tool_choice="required",
            input=[
                {"type": "additional_tools", "role": "developer", "tools": [NAMESPACE]},
                {"role": "user", "content": "a"},
            ],
        ),
    ],
    ids=lambda body: str(body)[25:70],
)
def test_right_requests_pass(body: Json) -> None:
    assert check_responses(body) == []


@check_each(
    ("body", "message", "param"),
    [
        ({"input": "hi"}, "Missing required parameter", "model"),
        ({"model": "m"}, "must be provided", "input"),
        (hello(messages=[]), "Unknown parameter", "messages"),
        (hello(n=1), "Unknown parameter", "n"),
        (hello(stop="a"), "Unknown parameter", "stop"),
        (hello(max_tokens=50), "Unknown parameter", "max_tokens"),
        (hello(response_format={"type": "text"}), "Unknown parameter", "response_format"),
        (hello(max_output_tokens=15), "Expected a value >= 16", "max_output_tokens"),
        (hello(temperature=2.1), "above maximum", "temperature"),
        (hello(stream_options={"include_obfuscation": True}), "only allowed", "stream_options"),
        (
            hello(stream=True, stream_options={"include_usage": True}),
            "Unknown parameter",
            "stream_options.include_usage",
        ),
        (hello(tools=None), "Invalid type", "tools"),
        (hello(tools=[]), "empty array", "tools"),
        (hello(tool_choice="required"), "'tools' parameter", "tool_choice"),
        (hello(reasoning={"effort": "extreme"}), "Supported values", "reasoning.effort"),
        (hello(include=["everything"]), "Supported values", "include[0]"),
        (hello(text={"format": {"type": "json_object"}}), "the word 'json'", "input"),
        (hello(previous_response_id="resp_x"), "not found", "previous_response_id"),
    ],
)
def test_wrong_parameters_are_named(body: Json, message: str, param: str) -> None:
    violations = check_responses(body)

    assert [violation.param for violation in violations] == [param]
    assert message in violations[0]


@check_each(
    ("body", "param"),
    [
        (make_message_request("tool", make_text_part("input_text")), "input[0].role"),
        (make_message_request("user", make_text_part("text")), "input[0].content[0].type"),
        (make_message_request("user", make_text_part("output_text")), "input[0].content[0].type"),
        (
            make_message_request("assistant", make_text_part("input_text")),
            "input[0].content[0].type",
        ),
        (make_message_request("assistant", make_text_part("text")), "input[0].content[0].type"),
        (make_message_request("user", make_text_part("input_text"), name="Ada"), "input[0].name"),
        (
            make_message_request("assistant", make_text_part("output_text"), tool_calls=[]),
            "input[0].tool_calls",
        ),
        (hello(input=[{"role": "user"}]), "input[0].content"),
        (hello(input=[{"role": "user", "content": None}]), "input[0].content"),
        (hello(input=["hi"]), "input[0]"),
        (hello(input=[{"type": "nonsense"}]), "input[0].type"),
    ],
    ids=lambda value: str(value)[25:80],
)
def test_wrong_messages_are_named(body: Json, param: str) -> None:
    assert [violation.param for violation in check_responses(body)] == [param]


@check_each(
    ("tool", "param"),
    [
        ({"type": "function", "function": {"name": "f"}}, "tools[0].function"),
        ({**TOOL, "name": "a.b"}, "tools[0].name"),
        ({**TOOL, "parameters": {"type": "string"}}, "tools[0].parameters"),
        ({**TOOL, "strict": True}, "tools[0].parameters"),
        ({"type": "nonsense"}, "tools[0].type"),
        (
            {**CUSTOM, "format": {"type": "grammar", "grammar": {"syntax": "lark"}}},
            "tools[0].format.grammar",
        ),
        ({**NAMESPACE, "tools": [{**TOOL, "name": ""}]}, "tools[0].tools[0].name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_tools_are_named(tool: Json, param: str) -> None:
    assert param in [violation.param for violation in check_responses(hello(tools=[tool]))]


@check_each(
    "choice",
    [
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "name": "g"},
        {"type": "custom", "name": "f"},
        {"type": "web_search_preview"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]},
    ],
    ids=str,
)
def test_a_choice_must_be_one_of_the_tools(choice: Json) -> None:
    violations = check_responses(hello(tools=[TOOL], tool_choice=choice))

    assert str(violations[0].param).startswith("tool_choice")


def test_additional_vendor_parameters_are_accepted() -> None:
    body = hello(client_metadata={}, tools=[{"type": "web_search", "search_content_types": []}])

    assert len(check_responses(body)) == 2
    assert check_responses(body, {"client_metadata", "search_content_types"}) == []
