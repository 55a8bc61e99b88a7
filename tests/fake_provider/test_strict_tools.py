"""Rules of tools and schemas, also in strict mode."""

from __future__ import annotations

from tests.fake_provider.answers import Json
from tests.fake_provider.strict_tools import (
    check_choice,
    check_format,
    check_function,
    check_name,
    check_tool_list,
    find_strict_problems,
)
from tests.helpers.check_cases import check_each

CLOSED: Json = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}


@check_each("name", ["f", "mcp__find-it", "a" * 64])
def test_names_are_letters_digits_and_dashes(name: str) -> None:
    assert not list(check_name(name, "x"))


@check_each("name", ["", "a b", "ns.f", "é", "a" * 65])
def test_other_names_are_refused(name: str) -> None:
    assert [violation.param for violation in check_name(name, "x")] == ["x"]


def test_a_strict_function_needs_a_closed_schema() -> None:
    """A function that is not strict needs none."""
    open_function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}

    assert not list(check_function(open_function, "x"))
    assert not list(check_function({**open_function, "strict": True, "parameters": CLOSED}, "x"))
    violations = list(check_function({**open_function, "strict": True}, "x"))
    assert {violation.code for violation in violations} == {"invalid_function_parameters"}


def test_strict_format_needs_a_closed_schema() -> None:
    assert not list(check_format({"name": "x", "strict": True, "schema": CLOSED}, "p"))
    assert list(check_format({"name": "x", "strict": True, "schema": {"type": "object"}}, "p"))
    assert list(check_format({"name": "a b"}, "p"))


@check_each(
    "schema",
    [
        {**CLOSED, "additionalProperties": True},
        {**CLOSED, "required": []},
        {**CLOSED, "properties": {"a": {"type": "object"}}},
        {**CLOSED, "$defs": {"b": {"type": "object"}}},
        {**CLOSED, "properties": {"a": {"type": "array", "items": {"type": "object"}}}},
        {**CLOSED, "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "object"}]}}},
    ],
)
def test_nested_open_schema_is_a_violation(schema: Json) -> None:
    assert list(find_strict_problems(CLOSED)) == []
    assert len(list(find_strict_problems(schema))) == 1


def test_lists_of_tools_have_limits() -> None:
    assert not list(check_tool_list([{}]))
    assert list(check_tool_list([]))
    assert list(check_tool_list([{}] * 129))


def test_tool_choice_must_be_an_offered_tool() -> None:
    assert not list(check_choice("f", ["f"], "function"))
    assert list(check_choice("g", ["f"], "function"))


@check_each(
    "parameters",
    [
        [],
        {"type": "object", "properties": [], "required": None},
        {"type": "object", "properties": {"a": 1}, "required": 5},
        {"type": "object", "anyOf": 1, "items": [], "$defs": []},
    ],
)
def test_invalid_schema_of_a_strict_function_is_a_violation(parameters: object) -> None:
    function = {"name": "f", "parameters": parameters, "strict": True}

    assert [v.code for v in check_function(function, "f")] == ["invalid_function_parameters"]
