"""Names and ids that do not fit."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from forwarder.core.translation_context import LossReport
from forwarder.providers import Profile
from forwarder.providers.names import fit_names, map_long_names, restore_names

Json = dict[str, Any]

LONG = "a_tool_with_a_name_of_more_than_twenty_characters"


def function(name: str, **more: Any) -> Json:
    return {"type": "function", "function": {"name": name, **more}}


def conversation(name: str, call_id: str) -> Json:
    call = {"id": call_id, **function(name, arguments=f'{{"name": "{name}"}}')}
    return {
        "tools": [function(name, parameters={"properties": {"name": {}}, "name": name})],
        "tool_choice": function(name),
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "name": name, "content": "a"},
        ],
    }


def fitted(body: Json, **knobs: Any) -> Json:
    made = copy.copy(body)
    before = copy.deepcopy(body)
    fit_names(made, Profile("some", **knobs), LossReport())
    assert body == before
    return made


def test_what_fits_stays() -> None:
    body = conversation("look", "call_1")
    assert fitted(body) == body
    assert map_long_names(body, 64) == {}
    assert fitted(conversation(LONG, "x" * 99), tool_name_limit=0, call_id_limit=0) == (
        conversation(LONG, "x" * 99)
    )


@pytest.mark.parametrize("name", [LONG, "files.read", "näme"])
def test_a_name_that_does_not_fit_has_the_same_short_form_wherever_it_stands(name: str) -> None:
    body = conversation(name, "call_1")
    ((short, long),) = map_long_names(body, 20).items()
    assert long == name
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,20}", short)
    made = fitted(body, tool_name_limit=20)
    assert made["tools"] == [function(short, parameters={"properties": {"name": {}}, "name": name})]
    assert made["tool_choice"] == function(short)
    (call,) = made["messages"][0]["tool_calls"]
    assert call == {"id": "call_1", **function(short, arguments=f'{{"name": "{name}"}}')}
    assert made["messages"][1]["name"] == short


def test_names_that_begin_alike_stay_apart() -> None:
    body = {"tools": [function(LONG + "a"), function(LONG + "b"), function("files.read")]}
    assert len(map_long_names(body, 20)) == 3


def test_a_tool_that_is_only_remembered_is_renamed_too() -> None:
    body = {**conversation(LONG, "call_1"), "tools": []}
    assert map_long_names(body, 20) == {}
    call, result = fitted(body, tool_name_limit=20)["messages"]
    assert call["tool_calls"][0]["function"]["name"] == result["name"] != LONG


@pytest.mark.parametrize(
    ("knobs", "form"),
    [
        ({"call_id_limit": 40}, r"call_[0-9a-f]{35}"),
        ({"call_id_limit": 9, "call_id_exact": True}, r"[A-Za-z0-9]{9}"),
    ],
)
def test_an_id_that_does_not_fit_is_replaced_on_both_sides(knobs: Json, form: str) -> None:
    for call_id in ("x" * 41, "y" * 41):
        call, result = fitted(conversation("look", call_id), **knobs)["messages"]
        assert re.fullmatch(form, result["tool_call_id"])
        assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    one, other = (fitted(conversation("look", i * 41), **knobs)["messages"] for i in "xy")
    assert one != other


def test_ids_of_an_exact_length_are_neither_longer_nor_shorter() -> None:
    for call_id, stays in (("abc123XYZ", True), ("abc", False), ("call_1234", False)):
        made = fitted(conversation("look", call_id), call_id_limit=9, call_id_exact=True)
        assert (made["messages"][1]["tool_call_id"] == call_id) is stays


@pytest.mark.parametrize("odd", ["x", 3, [3], {"a": 1}, [{"function": "f"}], [{"id": [1]}]])
def test_what_is_not_of_its_shape_is_left_alone(odd: Any) -> None:
    body = {
        "tools": odd,
        "messages": [{"role": "assistant", "tool_calls": odd}, {"role": "tool", "name": odd}],
    }
    assert fitted(body, tool_name_limit=1, call_id_limit=1) == body


@pytest.mark.parametrize("key", ["delta", "message"])
def test_calls_in_answers_have_the_clients_names_again(key: str) -> None:
    names = {"short": LONG}
    call = function("short", arguments="")
    event = {"choices": [{"index": 0, key: {"tool_calls": [{"index": 0, **call}]}}]}
    (choice,) = restore_names(event, names)["choices"]
    assert choice[key]["tool_calls"] == [{"index": 0, **function(LONG, arguments="")}]
    for other in ({"choices": []}, {"choices": [{"delta": {"content": "short"}}]}, {"error": {}}):
        assert restore_names(other, names) is other
