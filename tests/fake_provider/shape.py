"""Checks JSON against the SDK's request types, and words violations as OpenAI does."""

from __future__ import annotations

import functools
import types
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
)

from typing_extensions import get_type_hints, is_typeddict

NAMES: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
"""Type of a JSON value -> its name in OpenAI's messages."""

UNIONS: tuple[Any, ...] = (Union, types.UnionType)

TAGS = ("type", "role")
"""The fields that select the member of a union for a JSON object."""


class Violation(str):
    """A strict provider's message about a wrong request, with its ``param``."""

    param: str | None
    code: str | None

    def __new__(cls, message: str, param: str | None = None, code: str | None = None) -> Violation:
        violation = super().__new__(cls, message)
        violation.param, violation.code = param, code
        return violation


class Field(NamedTuple):
    """A key of a TypedDict."""

    type: Any
    required: bool


def check(value: Any, kind: Any, path: str) -> list[Violation]:
    """Return the differences between ``value`` at ``path`` and the type ``kind``."""
    kind = strip_qualifiers(kind)
    origin = _get_origin(kind)
    if kind is Any or kind is object:
        return []
    if origin in UNIONS:
        return _check_union(value, list_members(kind), path)
    if not _fits(value, kind):
        return [make_type_error(value, [kind], path)]
    if origin is Literal:
        return _check_literal(value, get_args(kind), path)
    if is_typeddict(kind):
        if not _has_matching_tags(value, kind):
            return [_explain_wrong_tag(value, [kind], path)]
        return list(_check_object(value, list_fields(kind), path))
    return list(_check_members(value, get_args(kind), path))


@functools.cache
def list_fields(kind: Any) -> dict[str, Field]:
    """Return the keys of a TypedDict."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: Field(hint, _get_origin(hint) is Required) for name, hint in hints.items()}


def make_missing_error(path: str) -> Violation:
    """Return the violation for a missing required parameter."""
    return Violation(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")


def make_unknown_error(path: str) -> Violation:
    """Return the violation for an unknown parameter."""
    return Violation(f"Unknown parameter: '{path}'.", path, "unknown_parameter")


def make_invalid_error(value: object, allowed: Iterable[object], path: str) -> Violation:
    """Return the violation for a value outside an enumeration."""
    names = ", ".join(f"'{name}'" for name in allowed)
    message = f"Invalid value: '{value}'. Supported values are: {names}."
    return Violation(message, path, "invalid_value")


def make_type_error(value: object, expected: Iterable[Any], path: str) -> Violation:
    """Return the violation for a value of another JSON type."""
    names = dict.fromkeys(NAMES[_json_type(kind)] for kind in expected if kind is not type(None))
    text = f"expected {' or '.join(names)}, but got {NAMES[type(value)]} instead."
    return Violation(f"Invalid type for '{path}': {text}", path, "invalid_type")


def drop_accepted(
    violations: Sequence[Violation], names: Collection[str], under: str = ""
) -> list[Violation]:
    """Return the violations without unknown parameters of these names below ``under``."""

    def is_accepted(violation: Violation) -> bool:
        path = violation.param or ""
        is_below = path.startswith(under) and path.rpartition(".")[2] in names
        return is_below and violation.code == "unknown_parameter"

    return [violation for violation in violations if not is_accepted(violation)]


def _get_origin(kind: Any) -> Any:
    return get_origin(kind)


def strip_qualifiers(kind: Any) -> Any:
    """Return the type without ``Annotated``, ``Required`` and ``NotRequired``."""
    while _get_origin(kind) in (Annotated, Required, NotRequired):
        kind = get_args(kind)[0]
    return kind


def list_members(kind: Any) -> list[Any]:
    """Return the members of a union, including those of nested unions."""
    inner = [strip_qualifiers(member) for member in get_args(kind)]
    return [n for m in inner for n in (list_members(m) if _get_origin(m) in UNIONS else [m])]


def _json_type(kind: Any) -> Any:
    origin = _get_origin(kind) or kind
    if origin is Literal:
        return type(get_args(kind)[0])
    if is_typeddict(origin) or origin is dict:
        return dict
    return origin if origin in NAMES else list


def _fits(value: Any, kind: Any) -> bool:
    expected = _json_type(kind)
    if expected is float:
        return type(value) in (int, float)
    return type(value) is expected


def _check_union(value: Any, members: Sequence[Any], path: str) -> list[Violation]:
    fitting_members = [member for member in members if member is object or _fits(value, member)]
    if not fitting_members:
        return [make_type_error(value, members, path)]
    objects = [member for member in fitting_members if is_typeddict(member)]
    tagged_members = [member for member in objects if _has_matching_tags(value, member)]
    if objects == fitting_members and not tagged_members:
        return [_explain_wrong_tag(value, fitting_members, path)]
    literals = [member for member in fitting_members if _get_origin(member) is Literal]
    if len(literals) == len(fitting_members):
        return _check_literal(value, [name for m in literals for name in get_args(m)], path)
    return min(
        (check(value, member, path) for member in tagged_members or fitting_members), key=len
    )


def _has_matching_tags(value: dict[str, Any], kind: Any) -> bool:
    """Return whether the tags of an object are those of the TypedDict."""
    return all(
        value.get(tag) in _list_tag_values(kind, tag) for tag in TAGS if _list_tag_values(kind, tag)
    )


@functools.cache
def _list_tag_values(kind: Any, tag: str) -> tuple[Any, ...]:
    """Return the values of a tag, including None if it may be absent."""
    field = list_fields(kind).get(tag)
    inner = strip_qualifiers(field.type) if field else None
    options = list_members(inner) if _get_origin(inner) in UNIONS else [inner]
    values = tuple(v for o in options if _get_origin(o) is Literal for v in get_args(o))
    return (*values, None) if values and field and not field.required else values


def _explain_wrong_tag(value: dict[str, Any], members: Iterable[Any], path: str) -> Violation:
    members = list(members)
    for tag in TAGS:
        # a list, because looked-up values may be unhashable
        allowed = list(
            dict.fromkeys(n for member in members for n in _list_tag_values(member, tag))
        )
        if tag not in value and allowed and None not in allowed:
            return make_missing_error(f"{path}.{tag}")
        if allowed and value.get(tag) not in allowed:
            return make_invalid_error(
                value.get(tag), [name for name in allowed if name], f"{path}.{tag}"
            )
    return Violation(f"Invalid value for '{path}'.", path, "invalid_value")


def _check_literal(value: Any, allowed: Sequence[Any], path: str) -> list[Violation]:
    return [] if value in allowed else [make_invalid_error(value, allowed, path)]


def _check_object(
    value: dict[str, Any], fields: dict[str, Field], path: str
) -> Iterator[Violation]:
    prefix = f"{path}." if path else ""
    for name in value.keys() - fields.keys():
        yield make_unknown_error(prefix + name)
    for name, field in fields.items():
        if name in value:
            yield from check(value[name], field.type, prefix + name)
        elif field.required:
            yield make_missing_error(prefix + name)


def _check_members(value: Any, arguments: Sequence[Any], path: str) -> Iterator[Violation]:
    if isinstance(value, list) and arguments:
        for number, member in enumerate(value):
            yield from check(member, arguments[0], f"{path}[{number}]")
    if isinstance(value, dict) and arguments:
        for name, member in value.items():
            yield from check(member, arguments[1], f"{path}.{name}")
