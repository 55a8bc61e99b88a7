from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.validate import (
    ANY,
    BOOL,
    DICT,
    INT,
    LIST,
    NUMBER,
    STR,
    JsonTypes,
    check_enum,
    check_type,
    make_missing_parameter_error,
    read_field,
    require_field,
)
from tests.helpers.check_cases import check_each


@check_each(
    ("value", "types"),
    [("", STR), (1, INT), (1, NUMBER), (1.5, NUMBER), (False, BOOL), ([], LIST), ({}, DICT),
     (None, ANY), (object, ANY), ([], (str, list))],
)  # fmt: skip
def test_value_of_the_expected_type_is_returned(value: Any, types: JsonTypes) -> None:
    assert check_type(value, types, "x") is value


@check_each(
    ("value", "types", "message"),
    [
        (1, STR, "expected a string, but got an integer instead"),
        (True, INT, "expected an integer, but got a boolean instead"),
        (None, STR, "expected a string, but got null instead"),
        ("1", NUMBER, "expected an integer or a number, but got a string instead"),
        ({}, (str, list), "expected a string or an array, but got an object instead"),
        (1.0, INT, "expected an integer, but got a number instead"),
    ],
)
def test_type_error_names_both_types(value: Any, types: JsonTypes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        check_type(value, types, "a.b[0]")
    assert (caught.value.param, caught.value.code) == ("a.b[0]", "invalid_type")


@check_each("value", [{}, {"name": None}])
def test_required_field_must_be_present_and_not_null(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        require_field(value, "name", STR, "tools[0].name")
    assert caught.value.message == make_missing_parameter_error("tools[0].name").message
    assert caught.value.code == "missing_required_parameter"
    assert read_field(value, "name", STR, "tools[0].name") is None


@check_each("read", [require_field, read_field])
def test_optional_field_must_have_the_expected_type(read: Any) -> None:
    assert read({"name": "x"}, "name", STR, "name") == "x"
    with pytest.raises(InvalidRequest):
        read({"name": 1}, "name", STR, "name")


def test_enum_error_names_the_allowed_values() -> None:
    assert check_enum("auto", ("none", "auto"), "tool_choice") == "auto"
    with pytest.raises(InvalidRequest, match="Supported values are: 'none', 'auto'") as caught:
        check_enum("always", ("none", "auto"), "tool_choice")
    assert (caught.value.param, caught.value.code) == ("tool_choice", "invalid_value")
