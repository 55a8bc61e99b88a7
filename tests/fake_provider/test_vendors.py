"""Refusals of vendors, switched on by name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_provider.answers import Json, Protocol
from tests.fake_provider.vendors import PARAMETERS, REFUSAL_RULES, check_rule_names, list_refusals
from tests.helpers.check_cases import check_each

USER: Json = {"role": "user", "content": "hi"}
CALLING: Json = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
FUNCTION: Json = {"type": "function", "function": {"name": "f", "strict": False}}
PLAIN: Json = {"type": "function", "function": {"name": "f"}}


def chat(*messages: Json, **more: Any) -> Json:
    """A chat request."""
    return {"messages": list(messages) or [USER], **more}


def with_schema(inner: Json) -> Json:
    """A function whose one argument is of this kind."""
    schema = {"type": "object", "properties": {"a": {"items": inner}}}
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


CASES: dict[str, tuple[Json, Json]] = {
    "developer_role": (
        chat({"role": "developer", "content": "a"}),
        chat({"role": "system", "content": "a"}),
    ),
    "later_system": (
        chat(USER, {"role": "system", "content": "a"}),
        chat({"role": "system", "content": "a"}, USER),
    ),
    "same_role_twice": (chat(USER, USER), chat(USER, {"role": "assistant", "content": "a"}, USER)),
    "forced_tool_choice": (chat(tool_choice="required"), chat(tool_choice="auto")),
    "whole_answers": (chat(stream=False), chat(stream=True)),
    "json_schema": (
        chat(response_format={"type": "json_schema"}),
        chat(response_format={"type": "json_object"}),
    ),
    "message_extra_fields": (
        chat({**CALLING, "reasoning_content": "a"}),
        chat({**CALLING, "name": "a"}),
    ),
    "reasoning_missing": (chat(CALLING), chat({**CALLING, "reasoning_content": "a"})),
    "content_parts": (chat({"role": "user", "content": []}), chat(USER)),
    "content_null": (chat(CALLING), chat({**CALLING, "content": ""})),
    "strict_functions": (chat(tools=[FUNCTION]), chat(tools=[PLAIN])),
    "custom_tools": (chat(tools=[{"type": "custom", "custom": {}}]), chat(tools=[PLAIN])),
    "same_tool_twice": (chat(tools=[PLAIN, FUNCTION]), chat(tools=[PLAIN])),
    "moonshot_schemas": (
        chat(tools=[with_schema({"$ref": "#/$defs/a", "description": "a"})]),
        chat(tools=[with_schema({"$ref": "#/$defs/a"})]),
    ),
    "gemini_schemas": (
        chat(tools=[with_schema({"const": 1})]),
        chat(tools=[with_schema({"enum": ["1"]})]),
    ),
    "mistral_schemas": (
        chat(tools=[with_schema({"additionalProperties": False})]),
        chat(tools=[with_schema({"type": "object"})]),
    ),
    "long_call_ids": (
        chat({"role": "tool", "tool_call_id": "call_00001", "content": "a"}),
        chat({"role": "tool", "tool_call_id": "call00001", "content": "a"}),
    ),
    **{name: (chat(**{name: 1}), chat()) for name in PARAMETERS},
}
"""Rule -> a request that it refuses, and one that it lets pass."""


def test_every_refusal_option_has_a_case() -> None:
    assert CASES.keys() == REFUSAL_RULES.keys()


def test_fields_of_answers_are_refused_in_requests() -> None:
    """Some vendors refuse these fields of OpenAI's answers in a history."""
    body = chat({"role": "assistant", "content": "a", "annotations": []})

    assert len(list_refusals("chat", body, {"message_extra_fields"})) == 1


@check_each("name", CASES)
def test_refusal_option_rejects_its_parameter(name: str) -> None:
    refused_body, accepted_body = CASES[name]

    assert len(list_refusals("chat", refused_body, {name})) == 1
    assert list_refusals("chat", accepted_body, {name}) == []
    assert list_refusals("chat", refused_body, ()) == []


@check_each(
    ("name", "body"),
    [
        ("developer_role", {"input": [{"role": "developer", "content": "a"}]}),
        ("later_system", {"input": [USER, {"role": "system", "content": "a"}]}),
        ("forced_tool_choice", {"input": "a", "tool_choice": {"type": "function", "name": "f"}}),
        ("whole_answers", {"input": "a"}),
        ("json_schema", {"input": "a", "text": {"format": {"type": "json_schema"}}}),
        ("custom_tools", {"input": "a", "tools": [{"type": "custom", "name": "c"}]}),
        ("same_tool_twice", {"tools": [{"type": "function", "name": "f"}] * 2}),
        ("max_output_tokens", {"input": "a", "max_output_tokens": 16}),
    ],
)
def test_vendors_refuse_on_the_responses_api_too(name: str, body: Json) -> None:
    protocol: Protocol = "responses"

    assert len(list_refusals(protocol, body, {name})) == 1


def test_names_are_checked() -> None:
    """A rule with a misspelt name would refuse nothing."""
    assert check_rule_names({"stop"}) == {"stop"}
    with pytest.raises(ValueError, match="no such rules: \\['halt'\\]"):
        check_rule_names({"halt"})
