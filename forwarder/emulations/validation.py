"""Is a text the JSON that a schema describes?

Schemas come from clients and texts from models, and either may be made to do harm: references are
never fetched, regular expressions are not run, every step counts against a budget, and no value is
compared with each of the others.  The dialect is Draft 2020-12 without ``pattern``,
``patternProperties`` and ``unevaluated…``.  (The ``jsonschema`` library cannot be bounded: a
``$schema`` inside of a schema selects another validator, one without a budget.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from forwarder.errors import InvalidRequest
from forwarder.translate.call import Json

MAX_STEPS = 50_000
"""The default budget: about as many pairs of a value and a schema are compared."""

_CHEAP = 16
"""List entries and characters that cost as much as one step."""

_STEPS_AT_ONCE = 5000
"""Steps, of some microseconds each, after which others have their turn."""

_TOLERANCE = 1e-9
"""For ``multipleOf``: 0.3 is a multiple of 0.1, whatever binary fractions say."""


class TooManySteps(Exception):
    """The budget ended before the check did."""


class _Place(NamedTuple):
    """A place in a value; texts are made of those alone that are reported."""

    parent: _Place | None
    step: str | int
    depth: int


class _Mistake(NamedTuple):
    """What is wrong, and where."""

    place: _Place | None
    message: str

    @property
    def depth(self) -> int:
        return self.place.depth if self.place else 0


def mistake(text: str, schema: Json, max_steps: int = MAX_STEPS) -> str | None:
    """What is wrong with ``text`` as JSON of this schema; ``None`` when nothing is.

    Raises TooManySteps if that takes more than ``max_steps``.
    """
    try:
        value = orjson.loads(text)
    except ValueError as error:
        return f"it is not valid JSON ({error})."
    try:
        found = _Validator(schema, max_steps).find_mistake(value, schema, None)
    except RecursionError:
        return None  # a reference that leads to itself is no mistake of the answer
    return _describe(found) if found else None


def _describe(found: _Mistake) -> str:
    """In words, with the place, and no longer than a model needs."""
    place = _write_path(found.place)
    return (f"at '{place}': {found.message}" if place else found.message)[:500]


def _write_path(place: _Place | None) -> str:
    steps: list[str] = []
    while place is not None:
        step = place.step
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
        place = place.parent
    return "".join(reversed(steps)).removeprefix(".")


class _Validator:
    """The check of one value against one schema."""

    def __init__(self, root: Json, budget: int) -> None:
        self._root = root
        self._budget = budget
        self._next_pause = max(budget - _STEPS_AT_ONCE, 0)
        self._sound: frozenset[int] | None = None  # ids of the schemas that `check` has seen
        self._targets: dict[str, Any] = {}  # reference -> the schema there
        self._anchors: dict[str, Any] | None = None  # name -> the schema that has it
        self._enums: dict[int, frozenset[Any]] = {}  # id of an enum -> its values

    def spend(self, steps: int) -> None:
        self._budget -= steps
        if self._budget < self._next_pause:
            self._pause()

    def _pause(self) -> None:
        """Let others have their turn, unless the budget is spent."""
        if self._budget < 0:
            raise TooManySteps
        self._next_pause = max(self._budget - _STEPS_AT_ONCE, 0)
        time.sleep(0)

    def find_mistake(self, value: Any, schema: Any, place: _Place | None) -> _Mistake | None:
        """The first mistake in a value; None where it fits the schema."""
        if schema is False:
            return _Mistake(place, "nothing is allowed here")
        if not isinstance(schema, dict):
            return None
        self.spend(1 + len(schema) // _CHEAP)
        for keyword, argument in schema.items():
            rule = _RULES.get(keyword)
            found = rule(self, value, argument, schema, place) if rule else None
            if found is not None:
                return found
        return None

    def fits(self, value: Any, schema: Any) -> bool:
        return self.find_mistake(value, schema, None) is None

    # -- any value ------------------------------------------------------------------------------

    def check_type(
        self, value: Any, kinds: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        listed = kinds if isinstance(kinds, list) else [kinds]
        if any(_is_type(value, kind) for kind in listed):
            return None
        names = ", ".join(f"'{kind}'" for kind in listed)
        return _Mistake(place, f"{_show(value)} is not of type {names}")

    def check_enum(
        self, value: Any, allowed: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if id(allowed) not in self._enums:
            self._enums[id(allowed)] = frozenset(map(self._key, allowed))
        if self._key(value) in self._enums[id(allowed)]:
            return None
        return _Mistake(place, f"{_show(value)} is not one of {_show_list(allowed)}")

    def check_const(
        self, value: Any, only: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if self._key(value) == self._key(only):
            return None
        return _Mistake(place, f"{_show(value)} is not {_show(only)}")

    def _key(self, value: Any) -> Any:
        """Equal for equal JSON values alone: 1 equals 1.0, and true does not equal 1."""
        self.spend(1)
        if isinstance(value, list):
            return ("array", *map(self._key, value))
        if isinstance(value, dict):
            return frozenset((name, self._key(inner)) for name, inner in value.items())
        if isinstance(value, str):
            self.spend(len(value) // (_CHEAP * _CHEAP))
        return (type(value), value) if isinstance(value, bool) else value

    # -- numbers and texts ----------------------------------------------------------------------

    def check_multiple_of(
        self, value: Any, of: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not _is_number(value) or not of:
            return None
        ratio = value / of
        if math.isinf(ratio) or abs(ratio - round(ratio)) <= _TOLERANCE * max(1.0, abs(ratio)):
            return None
        return _Mistake(place, f"{_show(value)} is not a multiple of {_show(of)}")

    # -- lists ----------------------------------------------------------------------------------

    def check_prefix_items(
        self, value: Any, heads: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        pairs = zip(value, heads, strict=False) if isinstance(value, list) else ()
        return self._first(
            self.find_mistake(inner, head, _below(place, i))
            for i, (inner, head) in enumerate(pairs)
        )

    def check_items(
        self, value: Any, each: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not isinstance(value, list):
            return None
        heads = schema.get("prefixItems")
        begun = len(heads) if isinstance(heads, list) else 0
        return self._first(
            self.find_mistake(value[i], each, _below(place, i)) for i in range(begun, len(value))
        )

    def check_contains(
        self, value: Any, one: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not isinstance(value, list):
            return None
        count = sum(self.fits(inner, one) for inner in value)
        least, most = schema.get("minContains", 1), schema.get("maxContains", len(value))
        if least <= count <= most:
            return None
        amount = "few" if count < least else "many"
        return _Mistake(place, f"{count} items fit 'contains', which is too {amount}")

    def check_unique_items(
        self, value: Any, wanted: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if wanted is not True or not isinstance(value, list):
            return None
        if len(set(map(self._key, value))) == len(value):
            return None
        return _Mistake(place, "the array has non-unique elements")

    # -- objects --------------------------------------------------------------------------------

    def check_properties(
        self, value: Any, of: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not isinstance(value, dict):
            return None
        self.spend(min(len(value), len(of)) // _CHEAP)
        few, many = (value, of) if len(value) < len(of) else (of, value)
        return self._first(
            self.find_mistake(value[name], of[name], _below(place, name))
            for name in few
            if name in many
        )

    def check_required(
        self, value: Any, names: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not isinstance(value, dict):
            return None
        self.spend(len(names) // _CHEAP)
        for name in names:
            if name not in value:
                return _Mistake(place, f"{_show(name)} is a required property")
        return None

    def check_additional_properties(
        self, value: Any, rest: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        """Unless it takes the expressions of ``patternProperties`` to tell which are additional."""
        if not isinstance(value, dict) or "patternProperties" in schema:
            return None
        self.spend(len(value) // _CHEAP)
        known = schema.get("properties")
        extra = [name for name in value if not isinstance(known, dict) or name not in known]
        if rest is False and extra:
            names = _show_list(extra)
            return _Mistake(place, f"Additional properties are not allowed ({names})")
        return self._first(
            self.find_mistake(value[name], rest, _below(place, name)) for name in extra
        )

    def check_property_names(
        self, value: Any, of: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        inside = value if isinstance(value, dict) else ()
        return self._first(self.find_mistake(name, of, place) for name in inside)

    def check_dependent_required(
        self, value: Any, by: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not isinstance(value, dict):
            return None
        self.spend(len(by) // _CHEAP)
        lists = (names for name, names in by.items() if name in value)
        return self._first(self.check_required(value, names, schema, place) for names in lists)

    def check_dependent_schemas(
        self, value: Any, on: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not isinstance(value, dict):
            return None
        self.spend(len(on) // _CHEAP)
        return self._first(
            self.find_mistake(value, on[name], place) for name in on if name in value
        )

    # -- schemas together -----------------------------------------------------------------------

    def check_all_of(
        self, value: Any, parts: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        return self._first(self.find_mistake(value, part, place) for part in parts)

    def check_any_of(
        self, value: Any, ways: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        deepest: _Mistake | None = None
        for way in ways:
            found = self.find_mistake(value, way, place)
            if found is None:
                return None
            if deepest is None or found.depth > deepest.depth:
                deepest = found
        if deepest is not None and deepest.depth > (place.depth if place else 0):
            return deepest  # the way that the value goes furthest
        return _Mistake(place, f"{_show(value)} fits none of the allowed schemas")

    def check_one_of(
        self, value: Any, ways: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        count = sum(self.fits(value, way) for way in ways)
        if count > 1:
            return _Mistake(place, f"{_show(value)} fits more than one of the allowed schemas")
        return self.check_any_of(value, ways, schema, place) if count == 0 else None

    def check_not(
        self, value: Any, banned: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not self.fits(value, banned):
            return None
        return _Mistake(place, f"{_show(value)} fits a schema that it must not fit")

    def check_if(
        self, value: Any, when: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        branch = schema.get("then" if self.fits(value, when) else "else")
        return self.find_mistake(value, branch, place)

    def follow_reference(
        self, value: Any, ref: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if ref not in self._targets:
            target = self._look_up(ref)
            self._targets[ref] = target if self._is_sound(target) else True
        return self.find_mistake(value, self._targets[ref], place)

    def _look_up(self, ref: str) -> Any:
        """The schema that a reference leads to; one that leads nowhere allows anything."""
        if not ref.startswith("#"):
            return True
        at: Any = self._root
        if ref[1:2] not in ("", "/"):
            if self._anchors is None:
                self._anchors = {
                    inner[keyword]: inner
                    for _, inner in _walk(self._root)
                    for keyword in ("$dynamicAnchor", "$anchor")
                    if isinstance(inner, dict) and keyword in inner
                }
            return self._anchors.get(ref[1:], True)
        for step in unquote(ref[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and name.isdecimal() and int(name[:9]) < len(at):
                at = at[int(name[:9])]
            else:
                at = at.get(name, True) if isinstance(at, dict) else True
        return at

    def _is_sound(self, target: Any) -> bool:
        """Is this a schema?  References may lead to where `check` looks for none."""
        if self._sound is None:
            self._sound = frozenset(id(inner) for _, inner in _walk(self._root))
        if id(target) in self._sound:
            return True
        for _, inner in _walk(target):
            self.spend(1)
            if _find_malformed(inner):
                return False
        return True

    @staticmethod
    def _first(found: Iterator[_Mistake | None]) -> _Mistake | None:
        return next((each for each in found if each is not None), None)


_Rule = Callable[[_Validator, Any, Any, Json, _Place | None], _Mistake | None]


def _compare(
    applies: Callable[[Any], bool], holds: Callable[[Any, Any], bool], message: str
) -> _Rule:
    """The rule of a keyword that compares a value with its argument."""

    def compare(
        validator: _Validator, value: Any, bound: Any, schema: Json, place: _Place | None
    ) -> _Mistake | None:
        if not applies(value) or holds(value, bound):
            return None
        return _Mistake(place, f"{_show(value)} {message} {_show(bound)}")

    return compare


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": _is_number,
    "string": _is_text,
    "array": _is_list,
    "object": _is_object,
}


def _is_type(value: Any, kind: Any) -> bool:
    return _TYPES[kind](value)


_RULES: dict[str, _Rule] = {
    "type": _Validator.check_type,
    "enum": _Validator.check_enum,
    "const": _Validator.check_const,
    "minimum": _compare(_is_number, lambda v, bound: v >= bound, "is less than"),
    "maximum": _compare(_is_number, lambda v, bound: v <= bound, "is greater than"),
    "exclusiveMinimum": _compare(_is_number, lambda v, bound: v > bound, "is not greater than"),
    "exclusiveMaximum": _compare(_is_number, lambda v, bound: v < bound, "is not less than"),
    "multipleOf": _Validator.check_multiple_of,
    "minLength": _compare(_is_text, lambda v, n: len(v) >= n, "is shorter than"),
    "maxLength": _compare(_is_text, lambda v, n: len(v) <= n, "is longer than"),
    "minItems": _compare(_is_list, lambda v, n: len(v) >= n, "has fewer items than"),
    "maxItems": _compare(_is_list, lambda v, n: len(v) <= n, "has more items than"),
    "uniqueItems": _Validator.check_unique_items,
    "prefixItems": _Validator.check_prefix_items,
    "items": _Validator.check_items,
    "contains": _Validator.check_contains,
    "minProperties": _compare(_is_object, lambda v, n: len(v) >= n, "has fewer properties than"),
    "maxProperties": _compare(_is_object, lambda v, n: len(v) <= n, "has more properties than"),
    "required": _Validator.check_required,
    "properties": _Validator.check_properties,
    "additionalProperties": _Validator.check_additional_properties,
    "propertyNames": _Validator.check_property_names,
    "dependentRequired": _Validator.check_dependent_required,
    "dependentSchemas": _Validator.check_dependent_schemas,
    "allOf": _Validator.check_all_of,
    "anyOf": _Validator.check_any_of,
    "oneOf": _Validator.check_one_of,
    "not": _Validator.check_not,
    "if": _Validator.check_if,
    "$ref": _Validator.follow_reference,
    "$dynamicRef": _Validator.follow_reference,
}


def _below(place: _Place | None, step: str | int) -> _Place:
    return _Place(place, step, place.depth + 1 if place else 1)


def _show(value: Any) -> str:
    """A value as messages quote it: in short."""
    if isinstance(value, list):
        return "an array"
    if isinstance(value, dict):
        return "an object"
    short = value[:80] if isinstance(value, str) else value
    return repr(short) if isinstance(value, str) else orjson.dumps(value).decode()


def _show_list(values: list[Any]) -> str:
    return ", ".join(map(_show, values[:10])) + (" …" if len(values) > 10 else "")


# -- schemas ------------------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_schema_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_schema_map(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_types(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return bool(listed) and all(isinstance(kind, str) and kind in _TYPES for kind in listed)


_COUNT = (_is_count, "a number from 0")
_NUMBER = (_is_number, "a number")
_SCHEMA = (_is_schema, "a schema")
_SCHEMAS = (_is_schema_list, "a list of schemas")
_SCHEMA_MAP = (_is_schema_map, "an object of schemas")
_TEXT = (_is_text, "a string")
_FLAG = (_TYPES["boolean"], "a boolean")

_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_are_types, "one of " + ", ".join(f"'{kind}'" for kind in _TYPES)),
    "enum": (_is_list, "a list"),
    "required": (_are_names, "a list of strings"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_are_names, value.values())),
        "an object of lists of strings",
    ),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains",
         "minProperties", "maxProperties"),
        _COUNT,
    ),
    **dict.fromkeys(
        ("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else",
         "unevaluatedItems", "unevaluatedProperties"),
        _SCHEMA,
    ),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _SCHEMAS),
    **dict.fromkeys(
        ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"),
        _SCHEMA_MAP,
    ),
    **dict.fromkeys(
        ("$ref", "$dynamicRef", "$anchor", "$dynamicAnchor", "$id", "$schema", "pattern", "format",
         "title", "description"),
        _TEXT,
    ),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _FLAG),
}  # fmt: skip
"""Keyword -> the form that its argument must have."""


def check(schema: Json, param: str, max_nodes: int = MAX_STEPS) -> None:
    """Raise InvalidRequest, naming ``param``, when this is no JSON Schema, or too large a one."""
    for number, (place, inner) in enumerate(_walk(schema)):
        if number == max_nodes:
            limit = "(limit: FORWARDER_MAX_SCHEMA_NODES)"
            message = f"Invalid schema for '{param}': more than {max_nodes} nodes {limit}."
            raise InvalidRequest(message, param=param, code="invalid_json_schema")
        keyword = _find_malformed(inner)
        if keyword is not None:
            path = _write_path(_below(place, keyword))
            message = f"Invalid schema for '{param}': '{path}' must be {_FORMS[keyword][1]}."
            raise InvalidRequest(message, param=param, code="invalid_json_schema")


def _find_malformed(schema: Json) -> str | None:
    """The first keyword whose argument does not have the form that it must have."""
    forms = ((keyword, _FORMS[keyword][0]) for keyword in schema if keyword in _FORMS)
    return next((keyword for keyword, has_form in forms if not has_form(schema[keyword])), None)


def _walk(schema: Any) -> Iterator[tuple[_Place | None, Json]]:
    """Every schema inside of a schema, that one first, and where it stands."""
    waiting: list[tuple[_Place | None, Any]] = [(None, schema)]
    while waiting:
        place, inner = waiting.pop()
        if not isinstance(inner, dict):
            continue
        yield place, inner
        for keyword, argument in inner.items():
            form = _FORMS.get(keyword)
            below = _below(place, keyword)
            if form is _SCHEMA:
                waiting.append((below, argument))
            elif form is _SCHEMAS and isinstance(argument, list):
                waiting += ((_below(below, i), each) for i, each in enumerate(argument))
            elif form is _SCHEMA_MAP and isinstance(argument, dict):
                waiting += ((_below(below, name), each) for name, each in argument.items())
