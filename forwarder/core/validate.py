"""Checks the types of a client's JSON values; errors name the path of the parameter."""

from __future__ import annotations

from typing import Any, TypeAlias

from forwarder.core.errors import InvalidRequest, shorten_value

JsonTypes: TypeAlias = tuple[type, ...]

STR: JsonTypes = (str,)
INT: JsonTypes = (int,)
NUMBER: JsonTypes = (int, float)
BOOL: JsonTypes = (bool,)
LIST: JsonTypes = (list,)
DICT: JsonTypes = (dict,)
ANY: JsonTypes = ()

_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "a boolean",
          list: "an array", dict: "an object"}  # fmt: skip


def check_type(value: Any, types: JsonTypes, param: str) -> Any:
    """Return ``value`` if it has one of ``types`` (empty: any type).  Raises InvalidRequest."""
    kind = type(value)
    if not types or kind in types:
        return value
    expected = " or ".join(dict.fromkeys(_TYPE_NAMES[t] for t in types))
    actual = "null" if value is None else _TYPE_NAMES.get(kind, kind.__name__)
    raise InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {actual} instead.",
        param=param,
        code="invalid_type",
    )


def require_field(holder: dict[str, Any], key: str, types: JsonTypes, param: str) -> Any:
    """Return the value of a required key.  Raises InvalidRequest if it is missing or mistyped."""
    value = holder.get(key)
    if value is None:
        raise make_missing_parameter_error(param)
    return check_type(value, types, param)


def make_missing_parameter_error(param: str) -> InvalidRequest:
    """Create the error for a missing required parameter."""
    return InvalidRequest(
        f"Missing required parameter: '{param}'.",
        param=param,
        code="missing_required_parameter",
    )


def read_field(holder: dict[str, Any], key: str, types: JsonTypes, param: str) -> Any:
    """Return the value of an optional key; ``None`` if it is absent or null."""
    value = holder.get(key)
    return None if value is None else check_type(value, types, param)


def check_enum(value: Any, allowed: tuple[str, ...], param: str) -> Any:
    """Return ``value`` if it is one of ``allowed``.  Raises InvalidRequest."""
    if value in allowed:
        return value
    names = ", ".join(f"'{name}'" for name in allowed)
    raise InvalidRequest(
        f"Invalid value for '{param}': {shorten_value(repr(value))}. "
        f"Supported values are: {names}.",
        param=param,
        code="invalid_value",
    )
