from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.demo.options import AnswerFormat, OfferedTool, choose_tool, read_format
from tests.helpers.check_cases import check_each

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
SEARCH = ("tools[0]", {"type": "web_search"})
ADD = ("tools[1]", {"type": "function", "name": "add", "parameters": SCHEMA})
PATCH = ("tools[2]", {"type": "custom", "name": "patch"})
CRM = ("tools[3]", {"type": "namespace", "name": "crm", "tools": [{**ADD[1], "name": "find"}]})
OFFERS: list[Any] = [SEARCH, ADD, PATCH, CRM]
ONLY = {"type": "allowed_tools", "mode": "auto"}


@check_each(
    ("choice", "name"),
    [
        (None, "add"),
        ("auto", "add"),
        ("required", "add"),
        ({"type": "function", "name": "find"}, "find"),
        ({"type": "custom", "name": "patch"}, "patch"),
        ({**ONLY, "tools": [{"type": "custom", "name": "patch"}]}, "patch"),
    ],
)
def test_the_first_tool_that_the_choice_allows_is_called(choice: Any, name: str) -> None:
    tool = choose_tool(OFFERS, choice)
    assert tool
    assert tool.name == name


@check_each("choice", ["none", {"type": "web_search"}, {**ONLY, "tools": [{"type": "web_search"}]}])
def test_a_choice_may_leave_no_tool_to_call(choice: Any) -> None:
    assert choose_tool(OFFERS, choice) is None


def test_hosted_tools_alone_are_not_called() -> None:
    assert choose_tool([SEARCH], "auto") is None


def test_a_tool_keeps_its_namespace_and_its_place() -> None:
    assert choose_tool([CRM], None) == OfferedTool(
        "function", "find", SCHEMA, "tools[3].tools[0].parameters", "crm"
    )


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    tool = choose_tool([("tools[0]", {"type": "function", "name": "f"})], None)
    assert tool
    assert tool.schema == {"type": "object"}


@check_each(
    ("spec", "param"),
    [
        ({}, "tools[0].type"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "function", "name": "a.b"}, "tools[0].name"),
        ({"type": "custom", "name": ""}, "tools[0].name"),
        ({"type": "function", "name": "f", "parameters": []}, "tools[0].parameters"),
        ({"type": "namespace", "name": "n", "tools": [{}]}, "tools[0].tools[0].type"),
    ],
)
def test_a_malformed_tool_is_refused_even_when_it_would_not_be_called(
    spec: Any, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_tool([("tools[0]", spec)], "none")
    assert caught.value.param == param


@check_each(
    ("choice", "param"),
    [
        ("always", "tool_choice"),
        ({"type": "function", "name": "patch"}, "tool_choice"),
        ({"type": "function"}, "tool_choice.name"),
        ({"name": "add"}, "tool_choice.type"),
        ({"type": "allowed_tools", "tools": []}, "tool_choice.mode"),
        ({**ONLY, "tools": [{"type": "function", "name": "nobody"}]}, "tool_choice"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(choice: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_tool(OFFERS, choice)
    assert caught.value.param == param


EMPTY_SCHEMA = {"type": "object", "properties": {}}
BODY = {"name": "n", "schema": EMPTY_SCHEMA}


@check_each("spec", [None, {"type": "text"}])
def test_text_needs_no_format(spec: Any) -> None:
    assert read_format(spec, "f.", "hi", nested=True) is None


def test_json_object_contains_the_prompt() -> None:
    schema = {"const": {"demo": True, "you_said": "hi"}}
    assert read_format({"type": "json_object"}, "f.", "hi", nested=False) == AnswerFormat(
        schema, "f"
    )


def test_a_schema_is_found_in_both_forms() -> None:
    flat = read_format({"type": "json_schema", **BODY}, "f.", "", nested=False)
    nested = read_format({"type": "json_schema", "json_schema": BODY}, "f.", "", nested=True)
    assert flat == AnswerFormat(EMPTY_SCHEMA, "f.schema")
    assert nested == AnswerFormat(EMPTY_SCHEMA, "f.json_schema.schema")


@check_each(
    ("spec", "nested", "param"),
    [
        ({}, True, "f.type"),
        ({"type": "yaml"}, True, "f.type"),
        ({"type": "json_schema", **BODY}, True, "f.json_schema"),
        ({"type": "json_schema", "json_schema": BODY}, False, "f.name"),
        ({"type": "json_schema", "name": "n", "schema": "s"}, False, "f.schema"),
    ],
)
def test_a_malformed_format_is_refused(spec: Any, nested: bool, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_format(spec, "f.", "", nested=nested)
    assert caught.value.param == param
