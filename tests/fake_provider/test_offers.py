"""The tools of a request, and calls of them."""

from __future__ import annotations

from typing import Any

from tests.fake_provider.answers import Json, ModelRequest
from tests.fake_provider.offers import Tool, list_offered_tools, make_sample
from tests.helpers.check_cases import check_each

SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}}

FLAT: list[Json] = [
    {"type": "function", "name": "f", "parameters": SCHEMA},
    {"type": "custom", "name": "c"},
    {"type": "web_search"},
    {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "inner"}]},
]

NESTED: list[Json] = [
    {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
    {"type": "custom", "custom": {"name": "c"}},
]


def test_tools_are_found_in_both_protocols() -> None:
    """They are flat or nested, and in Responses also within namespaces."""
    f, c = Tool("f", schema=SCHEMA), Tool("c", "custom")

    assert list_offered_tools(ModelRequest("chat", {"tools": NESTED})) == [f, c]
    assert list_offered_tools(ModelRequest("responses", {"tools": FLAT})) == [
        f,
        c,
        Tool("inner", namespace="ns"),
    ]


def test_tools_are_found_among_the_items() -> None:
    items = [{"type": "additional_tools", "role": "developer", "tools": FLAT[:1]}]

    assert [
        tool.name for tool in list_offered_tools(ModelRequest("responses", {"input": items}))
    ] == ["f"]


def test_a_call_has_samples_for_missing_arguments() -> None:
    tool = Tool("f", schema=SCHEMA, namespace="ns")

    assert tool.make_call().text == '{"city": "Zürich 🏔"}'
    assert tool.make_call(city="Bern").text == '{"city": "Bern"}'
    assert tool.make_call().namespace == "ns"


def test_free_text_fits_a_custom_tool_and_a_function_in_its_place() -> None:
    emulated = Tool("x__c", schema={"properties": {"patch": {"type": "string"}}})

    assert Tool("c", "custom").with_input("a").text == "a"
    assert emulated.with_input("a").text == '{"patch": "a"}'
    assert emulated.bare == "c"


@check_each(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": ["integer", "null"]}, 7),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 3}, 3),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"type": "array", "items": {"type": "number"}}, [1.5]),
        ({"type": "object", "properties": {"age": {"type": "number"}}}, {"age": 36}),
        ({"type": "object", "properties": {"city": {"type": "integer"}}}, {"city": 7}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, None),
        ({}, {}),
    ],
)
def test_samples_follow_their_schema(schema: Json, value: Any) -> None:
    assert make_sample(schema) == value
