from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.translation.chat_over_responses.tools import (
    check_tool_choice,
    convert_function_call,
    convert_functions,
    convert_tool_choice,
    convert_tools,
)
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

EMPTY = {"type": "object", "properties": {}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

TOOLS: list[tuple[Json, Json]] = [
    (
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "name": "f", "parameters": EMPTY, "strict": False},
    ),
    (
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}},
        {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True},
    ),
    (
        {"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": None}},
        {"type": "function", "name": "f", "parameters": EMPTY, "strict": False},
    ),
    ({"type": "custom", "custom": {"name": "c", "description": None}}, {"type": "custom", "name": "c"}),
    (
        {"type": "custom", "custom": {"name": "c", "description": "d", "format": {"type": "text"}}},
        {"type": "custom", "name": "c", "description": "d", "format": {"type": "text"}},
    ),
    (
        {"type": "custom", "custom": {"name": "c", "format": {
            "type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}}},
        {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    ),
]  # fmt: skip


@check_each(("nested", "flat"), TOOLS)
def test_tool_is_flattened(nested: Json, flat: Json) -> None:
    assert convert_tools([nested]) == [flat]
    if nested["type"] == "function":
        assert convert_functions([nested["function"]]) == [flat]


CHOICES: list[tuple[Any, Any]] = [
    ("none", "none"),
    ("auto", "auto"),
    ("required", "required"),
    ({"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "f"}),
    ({"type": "custom", "custom": {"name": "c"}}, {"type": "custom", "name": "c"}),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
            {"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "c"}}]}},
        {"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "function", "name": "f"}, {"type": "custom", "name": "c"}]},
    ),
]  # fmt: skip


@check_each(("nested", "flat"), CHOICES)
def test_tool_choice_is_flattened(nested: Any, flat: Any) -> None:
    assert convert_tool_choice(nested) == flat


@check_each(
    ("old", "new"),
    [("none", "none"), ("auto", "auto"), ({"name": "f"}, {"type": "function", "name": "f"})],
)
def test_legacy_function_call_is_converted(old: Any, new: Any) -> None:
    assert convert_function_call(old) == new


REFUSED: list[tuple[Any, Any, str]] = [
    (convert_tools, ["f"], "tools[0]"),
    (convert_tools, [{}], "tools[0].type"),
    (convert_tools, [{"type": "web_search"}], "tools[0].type"),
    (convert_tools, [{"type": "function"}], "tools[0].function"),
    (convert_tools, [{"type": "function", "function": {}}], "tools[0].function.name"),
    (convert_tools, [{"type": "custom", "custom": {}}], "tools[0].custom.name"),
    (
        convert_tools,
        [{"type": "function", "function": {"name": "f", "parameters": "x"}}],
        "tools[0].function.parameters",
    ),
    (
        convert_tools,
        [
            {
                "type": "custom",
                "custom": {"name": "c", "format": {"type": "grammar", "grammar": "x"}},
            }
        ],
        "tools[0].custom.format.grammar",
    ),
    (convert_functions, [{}], "functions[0].name"),
    (convert_tool_choice, "always", "tool_choice"),
    (convert_tool_choice, {"type": "telepathy"}, "tool_choice.type"),
    (convert_tool_choice, {"type": "function", "function": {}}, "tool_choice.function.name"),
    (convert_tool_choice, {"type": "allowed_tools"}, "tool_choice.allowed_tools"),
    (convert_function_call, "required", "function_call"),
    (convert_function_call, {}, "function_call.name"),
]


@check_each(("read", "value", "param"), REFUSED)
def test_malformed_tool_error_names_the_path(read: Any, value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(value)
    assert caught.value.param == param


OFFERED = [{"type": "function", "name": "f"}, {"type": "web_search"}]


@check_each(
    ("choice", "tools", "is_offered"),
    [
        ("auto", [], True),
        ("none", [], True),
        ("required", [], False),
        ({"type": "function", "name": "f"}, [], False),
        ({"type": "function", "name": "f"}, OFFERED, True),
        ({"type": "function", "name": "g"}, OFFERED, False),
        ("required", OFFERED, True),
    ],
)
def test_tool_choice_must_name_an_offered_tool(
    choice: Any, tools: list[Json], is_offered: bool
) -> None:
    if is_offered:
        check_tool_choice(choice, tools)
        return
    with pytest.raises(InvalidRequest) as caught:
        check_tool_choice(choice, tools)
    assert caught.value.param == "tool_choice"
