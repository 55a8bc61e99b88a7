"""Is the client's JSON of the type that its protocol says?  Errors name the parameter's path."""

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
    """Give ``value`` back when it is of one of ``types`` (no types: anything goes)."""
    kind = type(value)
    if not types or kind in types:
        return value
    wanted = " or ".join(dict.fromkeys(_TYPE_NAMES[t] for t in types))
    found = "null" if value is None else _TYPE_NAMES.get(kind, kind.__name__)
    raise InvalidRequest(
        f"Invalid type for '{param}': expected {wanted}, but got {found} instead.",
        param=param,
        code="invalid_type",
    )


def require_field(holder: dict[str, Any], key: str, types: JsonTypes, param: str) -> Any:
    """The value of a key that must be there."""
    value = holder.get(key)
    if value is None:
        raise missing_parameter(param)
    return check_type(value, types, param)


def missing_parameter(param: str) -> InvalidRequest:
    """The error for a parameter that must be there and is not."""
    return InvalidRequest(
        f"Missing required parameter: '{param}'.",
        param=param,
        code="missing_required_parameter",
    )


def read_field(holder: dict[str, Any], key: str, types: JsonTypes, param: str) -> Any:
    """The value of a key that may be absent or null (``None`` then)."""
    value = holder.get(key)
    return None if value is None else check_type(value, types, param)


def check_enum(value: Any, allowed: tuple[str, ...], param: str) -> Any:
    """Give ``value`` back when it is one of ``allowed``."""
    if value in allowed:
        return value
    names = ", ".join(f"'{name}'" for name in allowed)
    raise InvalidRequest(
        f"Invalid value for '{param}': {shorten_value(repr(value))}. "
        f"Supported values are: {names}.",
        param=param,
        code="invalid_value",
    )
