"""Tools and forced tool choices."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.providers.tools import is_tool_forced
from tests.helpers.check_cases import check_each
from tests.providers.adapting import Json, adapt


def test_strict_is_removed() -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "strict": True}},
        {"type": "custom", "custom": {"name": "c"}},
    ]
    assert adapt({"tools": tools})["tools"] == tools
    assert adapt({"tools": tools}, strict_tools=False)["tools"] == [
        {"type": "function", "function": {"name": "f"}},
        tools[1],
    ]


def test_keep_allowed_tools() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "fgh"]
    choice = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [tools[2], tools[0]]},
    }
    body = {"tools": tools, "tool_choice": choice}
    assert adapt(body, allowed_tools=True) == body
    assert adapt(body) == {"tools": [tools[0], tools[2]], "tool_choice": "required"}
    for other in ("auto", {"type": "function", "function": {"name": "f"}}):
        assert adapt({"tools": tools, "tool_choice": other})["tool_choice"] == other


FUNCTION = {"type": "function", "function": {"name": "f"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [FUNCTION]}}


@check_each(
    ("choice", "forced"),
    [
        ("required", True),
        (FUNCTION, True),
        (ALLOWED, True),
        ({**ALLOWED, "allowed_tools": {"mode": "auto"}}, False),
        ("auto", False),
        ("none", False),
        (None, False),
    ],
)
def test_is_tool_forced(choice: Any, forced: bool) -> None:
    assert is_tool_forced({"tool_choice": choice}) is forced


@check_each(
    ("forced_tool_choice", "choice", "expected"),
    [
        ("ok", "required", {"tool_choice": "required"}),
        ("auto", "required", {"tool_choice": "auto"}),
        ("auto", FUNCTION, {"tool_choice": "auto"}),
        ("auto", "none", {"tool_choice": "none"}),
        ("any", "required", {"tool_choice": "any"}),
        ("any", FUNCTION, {"tool_choice": FUNCTION}),
        ("disable_thinking", "required", {"tool_choice": "required", "enable_thinking": False}),
        ("disable_thinking", "auto", {"tool_choice": "auto"}),
    ],
)
def test_adapt_forced_choice(forced_tool_choice: str, choice: Any, expected: Json) -> None:
    body = {"tool_choice": choice}
    assert (
        adapt(body, forced_tool_choice=forced_tool_choice, thinking_switch="enable_thinking")
        == expected
    )


def test_dropped_tool_choice_is_reported() -> None:
    loss_report = LossReport()
    adapt({"tool_choice": "required"}, loss_report=loss_report, forced_tool_choice="auto")
    assert loss_report.losses.keys() == {"tool_choice"}
    with pytest.raises(Unsupported):
        adapt(
            {"tool_choice": "required"},
            loss_report=LossReport(strict=True),
            forced_tool_choice="auto",
        )


def test_disabled_thinking_is_reported() -> None:
    loss_report = LossReport()
    body = {"tool_choice": "required", "reasoning_effort": "high", "thinking": {"type": "enabled"}}
    adapted = adapt(
        body,
        loss_report=loss_report,
        forced_tool_choice="disable_thinking",
        thinking_switch="thinking",
    )
    assert adapted == {"tool_choice": "required", "thinking": {"type": "disabled"}}
    assert loss_report.losses.keys() == {"reasoning_effort"}


SCHEMA = {"type": "object", "properties": {}, "$schema": "x", "additionalProperties": False}


@check_each(
    ("dialect", "tool", "answer"),
    [
        ("openai", SCHEMA, SCHEMA),
        ("gemini", *[{"type": "object", "properties": {}}] * 2),
        ("mistral", {"type": "object", "properties": {}}, SCHEMA),
    ],
)
def test_adapt_schemas(dialect: str, tool: Json, answer: Json) -> None:
    chat = adapt(
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
            "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        },
        schema_dialect=dialect,
    )
    assert chat["tools"][0]["function"]["parameters"] == tool
    assert chat["response_format"]["json_schema"]["schema"] == answer
    responses = adapt(
        {
            "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}, {"type": "shell"}],
            "text": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
        "responses",
        schema_dialect=dialect,
    )
    assert responses["tools"] == [
        {"type": "function", "name": "f", "parameters": tool},
        {"type": "shell"},
    ]
    assert responses["text"]["format"]["schema"] == answer


def make_doubling_schema(levels: int) -> Json:
    """A small schema of 2 ** levels nodes without its references."""
    doubled = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**doubled, f"a{levels}": {"type": "null"}}}


@check_each("dialect", ["plain", "gemini"])
@check_each(
    ("protocol", "body", "path"),
    [
        (
            "chat",
            {"tools": [FUNCTION, {"type": "function", "function": {"name": "g", "parameters": make_doubling_schema(40)}}]},
            "tools[1].function.parameters",
        ),
        ("responses", {"tools": [{"type": "function", "parameters": make_doubling_schema(40)}]}, "tools[0].parameters"),
        (
            "chat",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": make_doubling_schema(40)}}},
            "response_format.json_schema.schema",
        ),
        ("responses", {"text": {"format": {"schema": make_doubling_schema(40)}}}, "text.format.schema"),
    ],
)  # fmt: skip
def test_unbounded_inlining_is_refused(protocol: str, body: Json, path: str, dialect: str) -> None:
    with pytest.raises(
        InvalidRequest, match="more than 1000 nodes.*FORWARDER_MAX_SCHEMA_NODES"
    ) as e:
        adapt(body, protocol, LossReport(max_schema_nodes=1000), schema_dialect=dialect)
    assert e.value.param == path
    adapt(body, protocol, LossReport(max_schema_nodes=1000), schema_dialect="mistral")
