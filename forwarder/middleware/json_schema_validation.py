"""Checks JSON texts against JSON Schemas within a budget of steps.

Schemas come from clients and texts from models; either may be hostile. ``jsonschema`` validates a
copy of the schema without ``$schema`` and the keywords of ``_REMOVED_KEYWORDS``: no regular
expression runs, no reference leaves the schema, and no dialect selects a validator class that does
not count steps.
"""

from __future__ import annotations

import math
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any
from urllib.parse import unquote, urljoin

import orjson
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing import Registry

from forwarder.core.errors import InvalidRequest
from forwarder.core.paced_iteration import give_way
from forwarder.core.types import Json

MAX_STEPS = 50_000
"""The default budget. A step is roughly one keyword applied to one value."""

_ENTRIES_PER_STEP = 16
_CHARACTERS_PER_STEP = 256
_STEPS_PER_PAUSE = 1000
_STEPS_PER_META_CHECK = 50
_MAX_DEPTH = 100
"""Maximum nesting of rules; each takes four stack frames. ``jsonschema`` uses the Rust library
``rpds``, which panics with a BaseException when it reaches Python's recursion limit."""

_MAX_ERRORS = 20
"""How many errors are compared to choose the most relevant one."""

_TOLERANCE = 1e-9
"""For ``multipleOf``: 0.3 is a multiple of 0.1, although their binary fractions are not."""

_REMOVED_KEYWORDS = {"$dynamicRef", "format", "pattern", "patternProperties", "unevaluatedItems",
            "unevaluatedProperties"}  # fmt: skip
_ENTRY_KEYWORDS = {"additionalProperties", "contains", "items", "propertyNames", "uniqueItems"}
"""Keywords that visit every entry of a value."""

_META_DOCUMENT = Draft202012Validator.META_SCHEMA
_VOCABULARIES = [
    REGISTRY.contents(urljoin(_META_DOCUMENT["$id"], each["$ref"]))
    for each in _META_DOCUMENT["allOf"]
]
_ARGUMENT_SCHEMAS: dict[str, Json] = {
    keyword: form
    for document in (_META_DOCUMENT, *_VOCABULARIES)
    for keyword, form in document["properties"].items()
    if isinstance(form, dict)
}
"""Keyword -> the schema of its argument."""

_DEFINITIONS = dict(ChainMap(*(each.get("$defs", {}) for each in _VOCABULARIES)))
_META_SCHEMA: Json = {
    "type": ["object", "boolean"],
    "properties": _ARGUMENT_SCHEMAS,
    "$defs": _DEFINITIONS,
}
"""The meta-schema of one schema. Subschemas are not checked, because ``$dynamicRef`` is removed."""

_SCHEMA_KEYWORDS = {word for word, form in _ARGUMENT_SCHEMAS.items() if "$dynamicRef" in form}
_SCHEMA_LIST_KEYWORDS = {
    word for word, form in _ARGUMENT_SCHEMAS.items() if form.get("$ref") == "#/$defs/schemaArray"
}
_SCHEMA_MAP_KEYWORDS = {word for word, form in _ARGUMENT_SCHEMAS.items()
         if "$dynamicRef" in form.get("additionalProperties", ())}  # fmt: skip
"""Keywords with a schema, a list or an object of schemas as their argument."""


class TooManySteps(Exception):
    """The check exceeded its budget or nests too deeply."""


class SchemaCheck:
    """The state of one check: the budget and the prepared schemas."""

    def __init__(self, root: Json, budget: int) -> None:
        self._root = root
        self.depth = 0
        self._budget = budget
        self._next_pause = budget - _STEPS_PER_PAUSE
        self._prepared: dict[int, Any] = {}  # id of a schema -> its copy
        self._anchors: dict[str, Any] = {}
        self._targets: dict[str, Any] = {}  # reference -> the copy of the schema there
        self._enums: dict[int, frozenset[Any]] = {}  # id of an enum -> the keys of its values
        self.validator = _CountingValidator(self._prepare(root), registry=Registry())

    def spend(self, steps: int) -> None:
        """Count steps and regularly let other greenlets run. Raises TooManySteps."""
        self._budget -= steps
        if self._budget < 0:
            raise TooManySteps
        if self._budget < self._next_pause:
            self._next_pause = self._budget - _STEPS_PER_PAUSE
            give_way()

    def _prepare(self, schema: Any) -> Any:
        """Copy a schema without the keywords of unbounded cost.

        False becomes ``{"not": {}}``, so that it is counted as a keyword. Schemas without keywords
        become True.
        """
        if not isinstance(schema, dict):
            return schema is not False or {"not": {}}
        if id(schema) not in self._prepared:
            copies = {
                keyword: self._copy_argument(keyword, inner) for keyword, inner in schema.items()
            }
            if "patternProperties" in schema:
                copies.pop("additionalProperties", None)  # depends on the regular expressions
            for anchor in {"$anchor", "$dynamicAnchor"} & schema.keys():
                self._anchors[schema[anchor]] = schema
            kept = {keyword: copy for keyword, copy in copies.items() if keyword in _KEPT_KEYWORDS}
            self._prepared[id(schema)] = kept if kept.keys() & _RULES.keys() else True
        return self._prepared[id(schema)]

    def _copy_argument(self, keyword: str, argument: Any) -> Any:
        if keyword in _SCHEMA_LIST_KEYWORDS:
            return [self._prepare(each) for each in argument]
        if keyword in _SCHEMA_MAP_KEYWORDS:
            return {name: self._prepare(each) for name, each in argument.items()}
        has_own_message = argument is False and keyword in ("additionalProperties", "items")
        return (
            self._prepare(argument)
            if keyword in _SCHEMA_KEYWORDS and not has_own_message
            else argument
        )

    def resolve(self, ref: str) -> Any:
        """Return the prepared target of a reference; True if there is no target."""
        if ref not in self._targets:
            self.spend(1 + len(ref) // _ENTRIES_PER_STEP)
            target = self._find_target(ref)
            if id(target) not in self._prepared:
                self._check_target(target)
            self._targets[ref] = self._prepare(target)
        return self._targets[ref]

    def _check_target(self, target: Any) -> None:
        """Replace malformed schemas in the target by True.

        `check_schema` has not checked them, because a reference may point to a part of the document
        where no schema is expected.
        """
        self.spend(_STEPS_PER_META_CHECK)
        meta_check = SchemaCheck(_META_SCHEMA, sys.maxsize)
        for _, inner in walk_schemas(target):
            self.spend(1)
            if id(inner) not in self._prepared and find_malformed_keyword(inner, meta_check):
                self._prepared[id(inner)] = True

    def _find_target(self, ref: str) -> Any:
        if not ref.startswith("#"):
            return True
        if ref[1:2] not in ("", "/"):
            return self._anchors.get(ref[1:], True)
        at: Any = self._root
        for step in unquote(ref[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and name.isdecimal() and int(name[:9]) < len(at):
                at = at[int(name[:9])]
            else:
                at = at.get(name, True) if isinstance(at, dict) else True
        return at

    def make_key(self, value: Any) -> Any:
        """Return a hashable key that is equal for equal JSON values: 1 equals 1.0 but not true."""
        self.spend(1)
        if isinstance(value, list):
            return ("array", *map(self.make_key, value))
        if isinstance(value, dict):
            return frozenset((name, self.make_key(inner)) for name, inner in value.items())
        if isinstance(value, str):
            self.spend(len(value) // _CHARACTERS_PER_STEP)
        return (bool, value) if isinstance(value, bool) else value

    def make_enum_keys(self, enum: list[Any]) -> frozenset[Any]:
        if id(enum) not in self._enums:
            self._enums[id(enum)] = frozenset(map(self.make_key, enum))
        return self._enums[id(enum)]


_ACTIVE_CHECK: ContextVar[SchemaCheck] = ContextVar("check")


@contextmanager
def activate_check(check: SchemaCheck) -> Iterator[Any]:
    """Make ``check`` the one whose budget the rules spend; yield its validator."""
    token = _ACTIVE_CHECK.set(check)
    try:
        yield check.validator
    finally:
        _ACTIVE_CHECK.reset(token)


# -- keywords -----------------------------------------------------------------------------------

KeywordRule = Callable[[Any, Any, Any, Json], Iterable[ValidationError] | None]


def follow_reference(
    validator: Any, ref: str, value: Any, schema: Json
) -> Iterator[ValidationError]:
    """Apply ``$ref``. The library's own rule searches the whole schema for each anchor."""
    yield from validator.descend(value, _ACTIVE_CHECK.get().resolve(ref))


def check_enum(_: Any, allowed: Any, value: Any, schema: Json) -> Iterator[ValidationError]:
    if _ACTIVE_CHECK.get().make_key(value) not in _ACTIVE_CHECK.get().make_enum_keys(allowed):
        yield ValidationError(f"{value!r} is not one of {allowed!r}")


def check_const(_: Any, only: Any, value: Any, schema: Json) -> Iterator[ValidationError]:
    if _ACTIVE_CHECK.get().make_key(value) != _ACTIVE_CHECK.get().make_key(only):
        yield ValidationError(f"{only!r} was expected")


def check_unique_items(_: Any, unique: Any, value: Any, schema: Json) -> Iterator[ValidationError]:
    """Apply ``uniqueItems``. The library's own rule may compare each pair of items."""
    keys = (
        list(map(_ACTIVE_CHECK.get().make_key, value)) if unique and isinstance(value, list) else []
    )
    if len(set(keys)) < len(keys):
        yield ValidationError(f"{value!r} has non-unique elements")


def check_multiple_of(validator: Any, of: Any, value: Any, _: Json) -> Iterator[ValidationError]:
    ratio = value / of if validator.is_type(value, "number") else 0
    if math.isfinite(ratio) and abs(ratio - round(ratio)) > _TOLERANCE * max(1.0, abs(ratio)):
        yield ValidationError(f"{value!r} is not a multiple of {of!r}")


def with_step_count(keyword: str, rule: KeywordRule) -> KeywordRule:
    """Wrap a rule so that it spends the budget, also for errors that it creates or passes on."""

    def count_steps(
        validator: Any, argument: Any, value: Any, schema: Json
    ) -> Iterator[ValidationError]:
        check = _ACTIVE_CHECK.get()
        entries = 0
        if keyword not in _OWN_RULES and isinstance(argument, list | dict):
            entries += len(argument)
        if keyword == "dependentRequired":
            entries += sum(map(len, argument.values()))
        if keyword in _ENTRY_KEYWORDS and isinstance(value, list | dict):
            entries += len(value)
        check.spend(1 + entries // _ENTRIES_PER_STEP)
        if check.depth == _MAX_DEPTH:
            raise TooManySteps
        check.depth += 1
        try:
            for error in rule(validator, argument, value, schema) or ():
                is_new = not error.schema_path  # the message of a new error quotes the whole value
                check.spend(1 + (len(error.message) // _CHARACTERS_PER_STEP if is_new else 0))
                yield error
        finally:
            check.depth -= 1

    return count_steps


_OWN_RULES: dict[str, KeywordRule] = {
    "$ref": follow_reference,
    "const": check_const,
    "enum": check_enum,
    "multipleOf": check_multiple_of,
    "uniqueItems": check_unique_items,
}
_RULES = {**Draft202012Validator.VALIDATORS, **_OWN_RULES}
_KEPT_KEYWORDS = (
    _RULES.keys() | {"then", "else", "minContains", "maxContains"}
) - _REMOVED_KEYWORDS
_CountingValidator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {keyword: with_step_count(keyword, rule) for keyword, rule in _RULES.items()},
)


# -- checks -------------------------------------------------------------------------------------


def find_mistake(text: str, schema: Json, max_steps: int = MAX_STEPS) -> str | None:
    """Return why ``text`` is not JSON that matches the schema; ``None`` if it matches.

    Raises TooManySteps if the check takes more than ``max_steps`` or nests too deeply.
    """
    try:
        value = orjson.loads(text)
    except ValueError as error:
        return f"it is not valid JSON ({error})."
    try:
        with activate_check(SchemaCheck(schema, max_steps)) as validator:
            best = best_match(islice(validator.iter_errors(value), _MAX_ERRORS))
    except RecursionError:
        raise TooManySteps from None
    return describe_error(best.absolute_path, best.message) if best else None


def check_schema(schema: Json, param: str, max_nodes: int = MAX_STEPS) -> None:
    """Raise InvalidRequest for ``param`` if this is not a JSON Schema, or larger than allowed."""
    reason = find_schema_error(schema, max_nodes)
    if reason:
        message = f"Invalid schema for '{param}': {reason}."
        raise InvalidRequest(message, param=param, code="invalid_json_schema")


def find_schema_error(schema: Json, max_nodes: int) -> str | None:
    meta_check = SchemaCheck(_META_SCHEMA, sys.maxsize)
    for number, (place, inner) in enumerate(walk_schemas(schema)):
        if number == max_nodes:
            return f"more than {max_nodes} nodes (limit: FORWARDER_MAX_SCHEMA_NODES)"
        try:
            error = find_malformed_keyword(inner, meta_check)
        except RecursionError:
            return "nested too deeply"
        if error:
            path = list(error.path)[::-1]
            while place:
                place, step = place
                path.append(step)
            return describe_error(path[::-1], error.message)
    return None


def find_malformed_keyword(schema: Any, meta_check: SchemaCheck) -> ValidationError | None:
    """Return the first mistake in one schema, ignoring its subschemas."""
    with activate_check(meta_check) as validator:
        error: ValidationError | None = next(validator.iter_errors(schema), None)
    return error


def walk_schemas(schema: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (place, schema) for a schema and all its subschemas; a place is (outer, step)."""
    waiting: list[tuple[Any, Any]] = [(None, schema)]
    while waiting:
        place, inner = waiting.pop()
        if inner is not True and inner is not False:
            yield place, inner
        for keyword, argument in inner.items() if isinstance(inner, dict) else ():
            below = (place, keyword)
            if keyword in _SCHEMA_KEYWORDS:
                waiting.append((below, argument))
            elif keyword in _SCHEMA_LIST_KEYWORDS and isinstance(argument, list):
                waiting += [((below, i), each) for i, each in enumerate(argument)]
            elif keyword in _SCHEMA_MAP_KEYWORDS and isinstance(argument, dict):
                waiting += [((below, name), each) for name, each in argument.items()]


def describe_error(path: Iterable[str | int], message: str) -> str:
    """Return an error message with its place, shortened for use in a prompt."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    place = "".join(steps).removeprefix(".")
    short = message if len(message) <= 300 else f"{message[:150]} … {message[-147:]}"
    return (f"at '{place[:150]}': " if place else "") + short
