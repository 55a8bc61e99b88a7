"""Is the client's JSON of the type that its protocol says?  Errors name the parameter's path."""

from __future__ import annotations

from typing import Any, TypeAlias

from forwarder.core.errors import InvalidRequest, shorten

Types: TypeAlias = tuple[type, ...]

STR: Types = (str,)
INT: Types = (int,)
NUMBER: Types = (int, float)
BOOL: Types = (bool,)
LIST: Types = (list,)
DICT: Types = (dict,)
ANY: Types = ()

_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "a boolean",
          list: "an array", dict: "an object"}  # fmt: skip


def expect(value: Any, types: Types, param: str) -> Any:
    """Give ``value`` back when it is of one of ``types`` (no types: anything goes)."""
    kind = type(value)
    if not types or kind in types:
        return value
    wanted = " or ".join(dict.fromkeys(_NAMES[t] for t in types))
    found = "null" if value is None else _NAMES.get(kind, kind.__name__)
    raise InvalidRequest(
        f"Invalid type for '{param}': expected {wanted}, but got {found} instead.",
        param=param,
        code="invalid_type",
    )


def require(holder: dict[str, Any], key: str, types: Types, param: str) -> Any:
    """The value of a key that must be there."""
    value = holder.get(key)
    if value is None:
        raise missing(param)
    return expect(value, types, param)


def missing(param: str) -> InvalidRequest:
    """The error for a parameter that must be there and is not."""
    return InvalidRequest(
        f"Missing required parameter: '{param}'.",
        param=param,
        code="missing_required_parameter",
    )


def optional(holder: dict[str, Any], key: str, types: Types, param: str) -> Any:
    """The value of a key that may be absent or null (``None`` then)."""
    value = holder.get(key)
    return None if value is None else expect(value, types, param)


def choose(value: Any, allowed: tuple[str, ...], param: str) -> Any:
    """Give ``value`` back when it is one of ``allowed``."""
    if value in allowed:
        return value
    names = ", ".join(f"'{name}'" for name in allowed)
    raise InvalidRequest(
        f"Invalid value for '{param}': {shorten(repr(value))}. Supported values are: {names}.",
        param=param,
        code="invalid_value",
    )
