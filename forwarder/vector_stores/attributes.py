"""Attributes of files, and filters that compare them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, STR, check_enum, check_type, require_field

Attributes = Mapping[str, Any]
Filter = Callable[[Attributes], bool]

MAX_ATTRIBUTES, MAX_KEY_LENGTH, MAX_VALUE_LENGTH = 16, 64, 512
MAX_FILTER_DEPTH = 10
MAX_FILTERS = 200
"""Comparisons and groups of one filter."""

MAX_FILTER_VALUES = 1000
"""Values of one ``in`` or ``nin``."""

SCALAR = (str, int, float, bool)
NUMBER_OR_TEXT = (str, int, float)

ORDER_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
OPERATORS = ("eq", "ne", *ORDER_OPERATORS, "in", "nin")
GROUPS = ("and", "or")


def read_attributes(value: Any, param: str) -> Json:
    """Return validated attributes; empty for null. Raises InvalidRequest."""
    if value is None:
        return {}
    attributes: Json = check_type(value, DICT, param)
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidRequest(
            f"'{param}' must have at most {MAX_ATTRIBUTES} pairs.",
            param=param,
            code="object_above_max_properties",
        )
    for name, inner in attributes.items():
        path = f"{param}.{name[:MAX_KEY_LENGTH]}"
        check_type(inner, SCALAR, path)
        is_long = isinstance(inner, str) and len(inner) > MAX_VALUE_LENGTH
        if len(name) > MAX_KEY_LENGTH or is_long:
            raise InvalidRequest(
                f"Keys in '{param}' must have at most {MAX_KEY_LENGTH} characters, texts at most "
                f"{MAX_VALUE_LENGTH}.",
                param=path,
                code="string_above_max_length",
            )
    return attributes


def read_filter(value: Any, param: str) -> Filter | None:
    """Return the filter of a request; None for null. Raises InvalidRequest."""
    if value is None:
        return None
    return FilterReader(param).read(check_type(value, DICT, param), param, 1)


class FilterReader:
    """Builds one filter and counts its parts."""

    def __init__(self, param: str) -> None:
        self._param = param
        self._count = 0

    def read(self, value: Json, path: str, depth: int) -> Filter:
        """Return the filter of a comparison or a group."""
        self._count += 1
        if depth > MAX_FILTER_DEPTH or self._count > MAX_FILTERS:
            raise InvalidRequest(
                f"'{self._param}' may have at most {MAX_FILTERS} comparisons and groups, nested at "
                f"most {MAX_FILTER_DEPTH} deep.",
                param=self._param,
                code="invalid_value",
            )
        kind = require_field(value, "type", STR, f"{path}.type")
        check_enum(kind, (*OPERATORS, *GROUPS), f"{path}.type")
        if kind in GROUPS:
            return self._read_group(value, kind, path, depth)
        return read_comparison(value, kind, path)

    def _read_group(self, value: Json, kind: str, path: str, depth: int) -> Filter:
        inner = require_field(value, "filters", LIST, f"{path}.filters")
        parts = [
            self.read(
                check_type(part, DICT, f"{path}.filters[{i}]"), f"{path}.filters[{i}]", depth + 1
            )
            for i, part in enumerate(inner)
        ]
        if not parts:
            raise InvalidRequest(
                f"'{path}.filters' must not be empty.",
                param=f"{path}.filters",
                code="invalid_value",
            )
        combine = all if kind == "and" else any
        return lambda attributes: combine(part(attributes) for part in parts)


def read_comparison(value: Json, kind: str, path: str) -> Filter:
    """Return the filter that compares one attribute.

    An attribute that is missing, or has another type, differs from every value.
    """
    key = require_field(value, "key", STR, f"{path}.key")
    if kind in ("in", "nin"):
        wanted = require_field(value, "value", LIST, f"{path}.value")
        if len(wanted) > MAX_FILTER_VALUES:
            raise InvalidRequest(
                f"'{path}.value' must have at most {MAX_FILTER_VALUES} values.",
                param=f"{path}.value",
                code="invalid_value",
            )
        for i, each in enumerate(wanted):
            check_type(each, SCALAR, f"{path}.value[{i}]")
        keys = {make_comparable(each) for each in wanted}
        return lambda attributes: (make_comparable(attributes.get(key)) in keys) == (kind == "in")
    types = NUMBER_OR_TEXT if kind in ORDER_OPERATORS else SCALAR
    operand = require_field(value, "value", types, f"{path}.value")
    comparable = make_comparable(operand)
    if kind in ("eq", "ne"):
        return lambda attributes: (
            (make_comparable(attributes.get(key)) == comparable) == (kind == "eq")
        )
    compare = ORDER_OPERATORS[kind]

    def compare_order(attributes: Attributes) -> bool:
        found_type, found = make_comparable(attributes.get(key))
        return found_type == comparable[0] and compare(found, operand)

    return compare_order


def make_comparable(value: Any) -> tuple[str, Any]:
    """Return a value with its JSON type, because in Python ``True`` equals 1."""
    if isinstance(value, bool):
        return "boolean", value
    return ("number" if isinstance(value, int | float) else type(value).__name__), value
