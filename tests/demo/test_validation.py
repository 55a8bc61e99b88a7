from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.demo import validation
from tests.helpers.check_cases import check_each


@check_each(
    ("value", "kind"),
    [
        ("a", validation.TEXT),
        (1, validation.WHOLE),
        (1, validation.DECIMAL),
        (1.5, validation.DECIMAL),
        (True, validation.FLAG),
        ({}, validation.OBJECT),
        ([], validation.ARRAY),
    ],
)
def test_value_of_the_expected_type_is_returned(value: Any, kind: validation.JsonKind) -> None:
    assert validation.check_type(value, kind, "x") == value


@check_each(
    ("value", "kind", "message"),
    [
        (1, validation.TEXT, "expected a string, but got an integer instead"),
        (True, validation.WHOLE, "expected an integer, but got a boolean instead"),
        ("1", validation.DECIMAL, "expected a decimal, but got a string instead"),
        (1, validation.FLAG, "expected a boolean, but got an integer instead"),
        ([], (str, dict), "expected a string or an object, but got an array instead"),
        (None, validation.OBJECT, "expected an object, but got null instead"),
    ],
)
def test_value_of_another_type_is_refused(
    value: Any, kind: validation.JsonKind, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validation.check_type(value, kind, "x")
    assert message in caught.value.message
    assert (caught.value.param, caught.value.code) == ("x", "invalid_type")


def test_null_is_treated_as_absent() -> None:
    validation.check_parameters(
        {"a": "there", "b": None}, {"a": validation.TEXT, "b": validation.FLAG}, ["a"]
    )
    with pytest.raises(InvalidRequest) as caught:
        validation.check_parameters({"a": None}, {"a": validation.TEXT}, ["a"])
    assert (caught.value.param, caught.value.code) == ("a", "missing_required_parameter")


def test_a_value_outside_the_list_is_refused_with_the_list() -> None:
    with pytest.raises(InvalidRequest, match="Supported values are: 'a', 'b'") as caught:
        validation.check_enum("c", ("a", "b"), "x.y")
    assert caught.value.param == "x.y"


def test_objects_come_with_their_paths() -> None:
    assert validation.read_objects({"xs": [{"a": 1}]}, "xs", "top.") == [("top.xs[0]", {"a": 1})]
    assert validation.read_objects({}, "xs") == []
    with pytest.raises(InvalidRequest) as caught:
        validation.read_objects({"xs": [{}, 3]}, "xs")
    assert caught.value.param == "xs[1]"


def test_integer_below_the_minimum_is_refused() -> None:
    assert validation.read_integer({"n": 16}, "n", 16) == 16
    assert validation.read_integer({}, "n", 16) is None
    with pytest.raises(InvalidRequest) as caught:
        validation.read_integer({"n": 15}, "n", 16)
    assert caught.value.code == "integer_below_min_value"


@check_each(
    ("content", "text"),
    [
        (None, ""),
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}], "a [image_url]"),
        ([{"type": "text", "text": ""}], ""),
        ({"type": "computer_screenshot"}, "[computer_screenshot]"),
        (7, "7"),
    ],
)
def test_content_of_any_shape_has_a_text(content: Any, text: str) -> None:
    assert validation.join_text(content) == text


def test_words_are_those_of_the_texts_only() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "one two"}]},
        {"role": "assistant", "tool_calls": [{"id": "x", "function": {"arguments": '{"a": 1}'}}]},
        {"type": "function_call_output", "call_id": "x", "output": "five"},
    ]
    assert validation.count_words(messages) == 5
