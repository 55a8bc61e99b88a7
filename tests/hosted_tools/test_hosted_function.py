"""Ids and arguments of hosted calls."""

from __future__ import annotations

from forwarder.core.ids import generate_id
from forwarder.hosted_tools.hosted_function import (
    make_function_tool,
    make_item_id,
    make_token,
    parse_arguments,
    parse_item_id,
)
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_counting_id_source


@check_each("call_id", ["call_1", "toolu_01AB-cd", "x" * 48])
def test_item_id_contains_round_and_call_id(call_id: str) -> None:
    token = make_token(generate_id)
    item_id = make_item_id("mcp", token, call_id, generate_id)
    assert parse_item_id(item_id) == (token, call_id)
    assert item_id != make_item_id("mcp", token, call_id, generate_id)
    assert len(item_id) <= 72


@check_each("call_id", ["", "a b", "functions.web_search:0", "x" * 49, "ä"])
def test_item_id_holds_the_round_of_other_call_ids(call_id: str) -> None:
    item_id = make_item_id("mcp", "00000001", call_id, make_counting_id_source().new_id)
    assert parse_item_id(item_id) == ("00000001", item_id)
    assert parse_item_id(make_item_id("mcp", "00000002", item_id, generate_id)) == (
        "00000002",
        item_id,
    )


def test_foreign_item_ids_are_used_as_call_ids() -> None:
    assert parse_item_id("mcp_682d4379df088191") == (None, "mcp_682d4379df088191")


@check_each(
    ("text", "arguments"),
    [('{"a":1}', {"a": 1}), ("", {}), ("[1]", None), ("{", None), ("1", None)],
)
def test_arguments_must_be_an_object(text: str, arguments: object) -> None:
    assert parse_arguments(text) == arguments


def test_function_tool_is_not_strict() -> None:
    tool = make_function_tool("f", None, {"type": "object"}, defer_loading=True)
    assert (tool["strict"], tool["description"], tool["defer_loading"]) == (False, "", True)
