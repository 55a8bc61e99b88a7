"""Rules of tools and schemas, also in strict mode."""

from __future__ import annotations

from tests.fake_provider.answers import Json
from tests.fake_provider.strict_tools import (
    choice_violations,
    format_violations,
    function_violations,
    list_violations,
    name_violations,
    strict_problems,
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
    """One to sixty-four."""
    assert not list(name_violations(name, "x"))


@check_each("name", ["", "a b", "ns.f", "é", "a" * 65])
def test_other_names_are_refused(name: str) -> None:
    """With the place that they stand in."""
    assert [violation.param for violation in name_violations(name, "x")] == ["x"]


def test_a_strict_function_needs_a_closed_schema() -> None:
    """One that is not strict does not."""
    loose = {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}

    assert not list(function_violations(loose, "x"))
    assert not list(function_violations({**loose, "strict": True, "parameters": CLOSED}, "x"))
    found = list(function_violations({**loose, "strict": True}, "x"))
    assert {violation.code for violation in found} == {"invalid_function_parameters"}


def test_strict_format_needs_a_closed_schema() -> None:
    """And a good name."""
    assert not list(format_violations({"name": "x", "strict": True, "schema": CLOSED}, "p"))
    assert list(format_violations({"name": "x", "strict": True, "schema": {"type": "object"}}, "p"))
    assert list(format_violations({"name": "a b"}, "p"))


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
    """However deep."""
    assert list(strict_problems(CLOSED)) == []
    assert len(list(strict_problems(schema))) == 1


def test_lists_of_tools_have_limits() -> None:
    """One to a hundred and twenty-eight."""
    assert not list(list_violations([{}]))
    assert list(list_violations([]))
    assert list(list_violations([{}] * 129))


def test_a_choice_is_on_offer_or_refused() -> None:
    """By name."""
    assert not list(choice_violations("f", ["f"], "function"))
    assert list(choice_violations("g", ["f"], "function"))


@check_each(
    "parameters",
    [
        [],
        {"type": "object", "properties": [], "required": None},
        {"type": "object", "properties": {"a": 1}, "required": 5},
        {"type": "object", "anyOf": 1, "items": [], "$defs": []},
    ],
)
def test_no_schema_is_a_violation_like_any_other(parameters: object) -> None:
    function = {"name": "f", "parameters": parameters, "strict": True}

    assert [v.code for v in function_violations(function, "f")] == ["invalid_function_parameters"]
