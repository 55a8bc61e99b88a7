"""Attributes and filters."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.vector_stores.attributes import read_attributes, read_filter
from tests.helpers.check_cases import check_each

FILE = {"year": 2024, "name": "b", "draft": False, "score": 1.5}


def compare(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@check_each(
    ("condition", "matches"),
    [
        (compare("eq", "year", 2024), True),
        (compare("eq", "year", 2024.0), True),
        (compare("eq", "year", "2024"), False),
        (compare("eq", "draft", False), True),
        (compare("eq", "draft", 0), False),
        (compare("eq", "missing", "x"), False),
        (compare("ne", "year", 2023), True),
        (compare("ne", "year", 2024), False),
        (compare("ne", "missing", "x"), True),
        (compare("gt", "year", 2023), True),
        (compare("gt", "year", 2024), False),
        (compare("gte", "year", 2024), True),
        (compare("lt", "score", 2), True),
        (compare("lte", "score", 1.5), True),
        (compare("lt", "missing", 2), False),
        (compare("gt", "name", "a"), True),
        (compare("gt", "name", 1), False),
        (compare("gt", "draft", -1), False),
        (compare("in", "name", ["a", "b"]), True),
        (compare("in", "name", []), False),
        (compare("in", "year", ["2024", 2024]), True),
        (compare("in", "draft", [0]), False),
        (compare("nin", "name", ["a"]), True),
        (compare("nin", "name", ["b"]), False),
        (compare("nin", "missing", ["b"]), True),
        ({"type": "and", "filters": [compare("eq", "year", 2024), compare("eq", "name", "b")]},
         True),
        ({"type": "and", "filters": [compare("eq", "year", 2024), compare("eq", "name", "c")]},
         False),
        ({"type": "or", "filters": [compare("eq", "year", 1), compare("eq", "name", "b")]}, True),
        ({"type": "or", "filters": [{"type": "and", "filters": [compare("eq", "year", 1)]}]},
         False),
    ],
)  # fmt: skip
def test_filter(condition: dict[str, Any], matches: bool) -> None:
    accept = read_filter(condition, "filters")
    assert accept is not None
    assert accept(FILE) is matches


def test_no_filter() -> None:
    assert read_filter(None, "filters") is None


def nest(depth: int) -> dict[str, Any]:
    inner = compare("eq", "a", 1)
    for _ in range(depth - 1):
        inner = {"type": "and", "filters": [inner]}
    return inner


@check_each(
    ("condition", "param"),
    [
        ([], "filters"),
        ("x", "filters"),
        ({}, "filters.type"),
        ({"type": "like", "key": "a", "value": 1}, "filters.type"),
        ({"type": "eq", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a"}, "filters.value"),
        ({"type": "eq", "key": 1, "value": 1}, "filters.key"),
        (compare("eq", "a", [1]), "filters.value"),
        (compare("gt", "a", True), "filters.value"),
        (compare("in", "a", "b"), "filters.value"),
        (compare("in", "a", ["b", None]), "filters.value[1]"),
        (compare("in", "a", list(range(1001))), "filters.value"),
        ({"type": "and"}, "filters.filters"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "and", "filters": [1]}, "filters.filters[0]"),
        ({"type": "or", "filters": [nest(1), {"type": "eq"}]}, "filters.filters[1].key"),
        (nest(11), "filters"),
        ({"type": "or", "filters": [nest(1)] * 200}, "filters"),
    ],
)
def test_invalid_filter_is_refused(condition: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_filter(condition, "filters")
    assert caught.value.param == param


def test_deepest_and_largest_filters_are_accepted() -> None:
    assert read_filter(nest(10), "filters") is not None
    assert read_filter({"type": "or", "filters": [nest(1)] * 199}, "filters") is not None


def test_attributes() -> None:
    assert read_attributes(None, "attributes") == {}
    assert read_attributes(FILE, "attributes") == FILE


@check_each(
    ("value", "param"),
    [
        ([], "attributes"),
        ({"a": None}, "attributes.a"),
        ({"a": {}}, "attributes.a"),
        ({"a": "x" * 513}, "attributes.a"),
        ({"k" * 65: 1}, "attributes." + "k" * 64),
        ({str(n): n for n in range(17)}, "attributes"),
    ],
)
def test_invalid_attributes_are_refused(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_attributes(value, "attributes")
    assert caught.value.param == param
