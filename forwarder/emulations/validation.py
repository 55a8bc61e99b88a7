"""Is a text the JSON that a schema describes?

Schemas come from clients and texts from models, so nothing here may be led astray: references
are never fetched, and regular expressions, which can be written to take for ever, are not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from jsonschema import Draft202012Validator, FormatChecker, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from forwarder.errors import InvalidRequest
from forwarder.translate.call import Json


def _unchecked(*_: Any) -> Iterator[ValidationError]:
    return iter(())


def _additional(validator: Any, allowed: Any, instance: Any, schema: Json) -> Any:
    """As in the standard, unless it takes the expressions of ``patternProperties`` to tell."""
    if "patternProperties" in schema:
        return iter(())
    return Draft202012Validator.VALIDATORS["additionalProperties"](
        validator, allowed, instance, schema
    )


_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "pattern": _unchecked,
        "patternProperties": _unchecked,
        "unevaluatedProperties": _unchecked,
        "additionalProperties": _additional,
    },
)
_NOTHING_TO_FETCH: Registry[Any] = EMPTY_REGISTRY


def check(schema: Json, param: str) -> None:
    """Raise InvalidRequest, naming ``param``, when this is no JSON Schema."""
    try:
        # No formats: among them would be that of regular expressions, which is not Python's.
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        raise _invalid(param, _told(error)) from None
    except RecursionError:
        raise _invalid(param, "nested too deeply") from None


def _invalid(param: str, why: str) -> InvalidRequest:
    message = f"Invalid schema for '{param}': {why}."
    return InvalidRequest(message, param=param, code="invalid_json_schema")


def mistake(text: str, schema: Json) -> str | None:
    """What is wrong with ``text`` as JSON of this schema; ``None`` when nothing is."""
    try:
        value = orjson.loads(text)
    except ValueError as error:
        return f"it is not valid JSON ({error})."
    try:
        worst = best_match(_Validator(schema, registry=_NOTHING_TO_FETCH).iter_errors(value))
    except (Unresolvable, RecursionError):
        return None  # a reference that leads nowhere is no mistake of the answer
    return _told(worst) if worst else None


def _told(error: SchemaError | ValidationError) -> str:
    """In words, with the place, and no longer than a model needs."""
    place = error.json_path.removeprefix("$").lstrip(".")
    told = f"at '{place}': {error.message}" if place else error.message
    return told[:500]
