"""A value for a JSON schema: what the demo writes where a model would think.

Only what the schema demands is filled in, and of several ways the first that ends is taken.
``pattern`` and the conditional keywords are beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

FILLER = "demo"
MAX_STEPS = 50_000  # spent on one value; a few references can ask for any number
# A malformed schema fails in as many ways as there are mistakes to make in one.
MISTAKES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
FORMATS = {
    "date": "2024-01-01",
    "date-time": "2024-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "demo@example.com",
    "hostname": "demo.invalid",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "http://demo.invalid/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class ImpossibleSchema(ValueError):
    """The schema is malformed, or no finite value satisfies it."""


def invent(schema: Any) -> Any:
    """A JSON value that satisfies ``schema``; raises ImpossibleSchema."""
    try:
        return _Inventor(schema, _Budget(MAX_STEPS)).value(schema)
    except ImpossibleSchema:
        raise
    except MISTAKES as error:
        raise ImpossibleSchema(f"the schema is malformed ({error})") from error


@dataclass
class _Budget:
    left: int

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ImpossibleSchema(f"it takes a value of more than {MAX_STEPS} parts")


@dataclass(frozen=True)
class _Inventor:
    root: Any
    budget: _Budget
    # The references being followed: meeting one of them again would never end.
    trail: frozenset[str] = frozenset()

    def value(self, schema: Any) -> Any:
        if schema is True:
            return FILLER
        self.budget.spend(1 + len(schema))
        for keyword, rule in KEYWORDS.items():
            if keyword in schema:
                return rule(self, schema)
        return TYPES[_type(schema)](self, schema)

    def referred(self, schema: Any) -> Any:
        ref = schema["$ref"]
        if ref in self.trail:
            raise ImpossibleSchema(f"{ref} never ends")
        inside = replace(self, trail=self.trail | {ref})
        target = _lookup(self.root, ref)
        self.budget.spend(_size(target) + _size(schema) + len(self.trail))
        return inside.value(_merged(target, _without(schema, "$ref")))

    def all_of(self, schema: Any) -> Any:
        merged = _without(schema, "allOf")
        for part in schema["allOf"]:
            whole = _lookup(self.root, part["$ref"]) if "$ref" in part else part
            self.budget.spend(_size(merged) + _size(whole))
            merged = _merged(merged, whole)
        return self.value(merged)

    def any_of(self, schema: Any) -> Any:
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        for option in schema[keyword]:
            try:
                self.budget.spend(_size(schema) + _size(option))
                return self.value(_merged(_without(schema, keyword), option))
            except ImpossibleSchema:
                continue
        raise ImpossibleSchema(f"no way through '{keyword}'")

    def object(self, schema: Any) -> Any:
        properties = schema.get("properties", {})
        self.budget.spend(len(schema.get("required", ())))
        return {name: self.value(properties.get(name, True)) for name in schema.get("required", ())}

    def array(self, schema: Any) -> Any:
        head = [self.value(item) for item in schema.get("prefixItems", ())]
        least = schema.get("minItems", 0) - len(head)
        wanted = min(max(least, 0 if head else 1), schema.get("maxItems", math.inf))
        self.budget.spend(int(max(wanted, 0)))
        try:
            return head + [self.value(schema.get("items", True)) for _ in range(wanted)]
        except ImpossibleSchema:
            if least > 0:
                raise
            return head

    def string(self, schema: Any) -> Any:
        text = FORMATS.get(schema.get("format"), FILLER)
        self.budget.spend(max(schema.get("minLength", 0), 0))
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]

    def number(self, schema: Any) -> Any:
        integral = _type(schema) == "integer"
        for candidate in _candidates(schema):
            number = math.floor(candidate) if integral else candidate
            if _fits(number, schema):
                return number
        raise ImpossibleSchema("no number fits")


Rule = Callable[[_Inventor, Any], Any]

KEYWORDS: dict[str, Rule] = {
    "const": lambda _, schema: schema["const"],
    "enum": lambda _, schema: schema["enum"][0],
    "$ref": _Inventor.referred,
    "allOf": _Inventor.all_of,
    "anyOf": _Inventor.any_of,
    "oneOf": _Inventor.any_of,
}
TYPES: dict[str, Rule] = {
    "object": _Inventor.object,
    "array": _Inventor.array,
    "string": _Inventor.string,
    "integer": _Inventor.number,
    "number": _Inventor.number,
    "boolean": lambda _, schema: True,
    "null": lambda _, schema: None,
}


def _type(schema: Any) -> str:
    named = schema.get("type")
    if named is None:
        return "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(named if isinstance(named, str) else named[0])


def _lookup(root: Any, ref: str) -> Any:
    if not ref.startswith("#"):
        raise ImpossibleSchema(f"{ref} is outside the schema")
    for step in ref[1:].split("/")[1:]:
        root = root[unquote(step).replace("~1", "/").replace("~0", "~")]
    return root


def _without(schema: Any, keyword: str) -> Any:
    return {key: value for key, value in schema.items() if key != keyword}


def _size(schema: Any) -> int:
    """How much there is to copy when a schema is merged with another."""
    if schema is True:
        return 0
    return len(schema) + len(schema.get("properties", ())) + len(schema.get("required", ()))


def _merged(base: Any, extra: Any) -> Any:
    if extra is True:
        return base
    both = {**base, **extra}
    if "properties" in base and "properties" in extra:
        both["properties"] = {**base["properties"], **extra["properties"]}
    if "required" in base and "required" in extra:
        both["required"] = [*base["required"], *extra["required"]]
    return both


def _candidates(schema: Any) -> Iterator[float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
    step = schema.get("multipleOf", 1)
    yield from (1, low, low + 1, high, high - 1, (low + high) / 2)
    yield from (step * math.ceil(low / step), step * (math.floor(low / step) + 1))


def _fits(number: float, schema: Any) -> bool:
    return (
        schema.get("minimum", -math.inf) <= number <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < number
        and number < schema.get("exclusiveMaximum", math.inf)
        and ("multipleOf" not in schema or float(number / schema["multipleOf"]).is_integer())
    )
