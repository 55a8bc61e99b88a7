"""Shortened tool names and call ids."""

from __future__ import annotations

import copy
import re
import sys
from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.providers import Profile
from forwarder.providers.name_shortening import fit_names, map_long_names, restore_names
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

LONG = "a_tool_with_a_name_of_more_than_twenty_characters"


def make_function(name: str, **more: Any) -> Json:
    return {"type": "function", "function": {"name": name, **more}}


def make_conversation(name: str, call_id: str) -> Json:
    call = {"id": call_id, **make_function(name, arguments=f'{{"name": "{name}"}}')}
    return {
        "tools": [make_function(name, parameters={"properties": {"name": {}}, "name": name})],
        "tool_choice": make_function(name),
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "name": name, "content": "a"},
        ],
    }


def fit_body(body: Json, **fields: Any) -> Json:
    adapted = copy.copy(body)
    before = copy.deepcopy(body)
    fit_names(adapted, Profile("some", **fields), LossReport())
    assert body == before
    return adapted


def test_fitting_names_are_unchanged() -> None:
    body = make_conversation("look", "call_1")
    assert fit_body(body) == body
    assert map_long_names(body, 64) == {}
    assert fit_body(make_conversation(LONG, "x" * 99), tool_name_limit=0, call_id_limit=0) == (
        make_conversation(LONG, "x" * 99)
    )


@check_each("name", [LONG, "files.read", "näme"])
def test_long_name_is_shortened_everywhere(name: str) -> None:
    body = make_conversation(name, "call_1")
    ((short, long),) = map_long_names(body, 20).items()
    assert long == name
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,20}", short)
    adapted = fit_body(body, tool_name_limit=20)
    assert adapted["tools"] == [
        make_function(short, parameters={"properties": {"name": {}}, "name": name})
    ]
    assert adapted["tool_choice"] == make_function(short)
    (call,) = adapted["messages"][0]["tool_calls"]
    assert call == {"id": "call_1", **make_function(short, arguments=f'{{"name": "{name}"}}')}
    assert adapted["messages"][1]["name"] == short


def test_shortened_names_are_unique() -> None:
    body = {
        "tools": [make_function(LONG + "a"), make_function(LONG + "b"), make_function("files.read")]
    }
    assert len(map_long_names(body, 20)) == 3


def test_names_of_clients_are_not_cached() -> None:
    name = "name " * 100
    count_before = sys.getrefcount(name)

    assert map_long_names({"tools": [make_function(name)]}, 20)
    assert sys.getrefcount(name) == count_before


def test_names_of_earlier_calls_are_shortened() -> None:
    body = {**make_conversation(LONG, "call_1"), "tools": []}
    assert map_long_names(body, 20) == {}
    call, result = fit_body(body, tool_name_limit=20)["messages"]
    assert call["tool_calls"][0]["function"]["name"] == result["name"] != LONG


@check_each(
    ("fields", "pattern"),
    [
        ({"call_id_limit": 40}, r"call_[0-9a-f]{35}"),
        ({"call_id_limit": 9, "call_id_exact": True}, r"[A-Za-z0-9]{9}"),
    ],
)
def test_long_id_is_replaced_in_call_and_result(fields: Json, pattern: str) -> None:
    for call_id in ("x" * 41, "y" * 41):
        call, result = fit_body(make_conversation("look", call_id), **fields)["messages"]
        assert re.fullmatch(pattern, result["tool_call_id"])
        assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    first_messages, second_messages = (
        fit_body(make_conversation("look", i * 41), **fields)["messages"] for i in "xy"
    )
    assert first_messages != second_messages


def test_call_id_exact() -> None:
    for call_id, is_unchanged in (("abc123XYZ", True), ("abc", False), ("call_1234", False)):
        adapted = fit_body(make_conversation("look", call_id), call_id_limit=9, call_id_exact=True)
        assert (adapted["messages"][1]["tool_call_id"] == call_id) is is_unchanged


@check_each("malformed", ["x", 3, [3], {"a": 1}, [{"function": "f"}], [{"id": [1]}]])
def test_malformed_values_are_unchanged(malformed: Any) -> None:
    body = {
        "tools": malformed,
        "messages": [
            {"role": "assistant", "tool_calls": malformed},
            {"role": "tool", "name": malformed},
        ],
    }
    assert fit_body(body, tool_name_limit=1, call_id_limit=1) == body


@check_each("key", ["delta", "message"])
def test_restore_names(key: str) -> None:
    names = {"short": LONG}
    call = make_function("short", arguments="")
    event = {"choices": [{"index": 0, key: {"tool_calls": [{"index": 0, **call}]}}]}
    (choice,) = restore_names(event, names)["choices"]
    assert choice[key]["tool_calls"] == [{"index": 0, **make_function(LONG, arguments="")}]
    for unchanged_event in (
        {"choices": []},
        {"choices": [{"delta": {"content": "short"}}]},
        {"error": {}},
    ):
        assert restore_names(unchanged_event, names) is unchanged_event
