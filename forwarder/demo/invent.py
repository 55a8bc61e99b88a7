"""Generates a JSON value that satisfies a JSON schema.

Objects get only their required properties. Of several alternatives the first finite one is used.
``pattern`` and conditional keywords (``if``, ``not``, …) are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

FILLER_TEXT = "demo"
MAX_STEPS = 50_000  # per value; a few nested references can demand exponentially many
# Errors that a malformed schema can cause anywhere in this module.
MALFORMED_SCHEMA_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
FORMAT_EXAMPLES = {
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
    """The schema is malformed, or no finite value within the step budget satisfies it."""


def invent_value(schema: Any) -> Any:
    """Return a JSON value that satisfies ``schema``; raises ImpossibleSchema."""
    try:
        return ValueInventor(schema, StepBudget(MAX_STEPS)).make_value(schema)
    except ImpossibleSchema:
        raise
    except MALFORMED_SCHEMA_ERRORS as error:
        raise ImpossibleSchema(f"the schema is malformed ({error})") from error


@dataclass
class StepBudget:
    remaining: int

    def spend(self, steps: int) -> None:
        self.remaining -= steps
        if self.remaining < 0:
            raise ImpossibleSchema(f"its value would have more than {MAX_STEPS} parts")


@dataclass(frozen=True)
class ValueInventor:
    root: Any
    budget: StepBudget
    # The references on the current path; following one of them again would never end.
    open_refs: frozenset[str] = frozenset()

    def make_value(self, schema: Any) -> Any:
        if schema is True:
            return FILLER_TEXT
        self.budget.spend(1 + len(schema))
        for keyword, rule in KEYWORD_RULES.items():
            if keyword in schema:
                return rule(self, schema)
        return TYPE_RULES[get_type(schema)](self, schema)

    def make_referenced(self, schema: Any) -> Any:
        ref = schema["$ref"]
        if ref in self.open_refs:
            raise ImpossibleSchema(f"{ref} is infinitely recursive")
        inside = replace(self, open_refs=self.open_refs | {ref})
        target = resolve_ref(self.root, ref)
        self.budget.spend(count_entries(target) + count_entries(schema) + len(self.open_refs))
        return inside.make_value(merge_schemas(target, drop_keyword(schema, "$ref")))

    def make_all_of(self, schema: Any) -> Any:
        merged = drop_keyword(schema, "allOf")
        for part in schema["allOf"]:
            whole = resolve_ref(self.root, part["$ref"]) if "$ref" in part else part
            self.budget.spend(count_entries(merged) + count_entries(whole))
            merged = merge_schemas(merged, whole)
        return self.make_value(merged)

    def make_any_of(self, schema: Any) -> Any:
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        for option in schema[keyword]:
            try:
                self.budget.spend(count_entries(schema) + count_entries(option))
                return self.make_value(merge_schemas(drop_keyword(schema, keyword), option))
            except ImpossibleSchema:
                continue
        raise ImpossibleSchema(f"no alternative of '{keyword}' has a finite value")

    def make_object(self, schema: Any) -> Any:
        properties = schema.get("properties", {})
        self.budget.spend(len(schema.get("required", ())))
        return {
            name: self.make_value(properties.get(name, True)) for name in schema.get("required", ())
        }

    def make_array(self, schema: Any) -> Any:
        head = [self.make_value(item) for item in schema.get("prefixItems", ())]
        least = schema.get("minItems", 0) - len(head)
        wanted = min(max(least, 0 if head else 1), schema.get("maxItems", math.inf))
        self.budget.spend(int(max(wanted, 0)))
        try:
            return head + [self.make_value(schema.get("items", True)) for _ in range(wanted)]
        except ImpossibleSchema:
            if least > 0:
                raise
            return head

    def make_string(self, schema: Any) -> Any:
        text = FORMAT_EXAMPLES.get(schema.get("format"), FILLER_TEXT)
        self.budget.spend(max(schema.get("minLength", 0), 0))
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]

    def make_number(self, schema: Any) -> Any:
        is_integer = get_type(schema) == "integer"
        for candidate in iter_candidates(schema):
            number = math.floor(candidate) if is_integer else candidate
            if is_within_bounds(number, schema):
                return number
        raise ImpossibleSchema("no number satisfies its bounds")


ValueRule = Callable[[ValueInventor, Any], Any]

KEYWORD_RULES: dict[str, ValueRule] = {
    "const": lambda _, schema: schema["const"],
    "enum": lambda _, schema: schema["enum"][0],
    "$ref": ValueInventor.make_referenced,
    "allOf": ValueInventor.make_all_of,
    "anyOf": ValueInventor.make_any_of,
    "oneOf": ValueInventor.make_any_of,
}
TYPE_RULES: dict[str, ValueRule] = {
    "object": ValueInventor.make_object,
    "array": ValueInventor.make_array,
    "string": ValueInventor.make_string,
    "integer": ValueInventor.make_number,
    "number": ValueInventor.make_number,
    "boolean": lambda _, schema: True,
    "null": lambda _, schema: None,
}


def get_type(schema: Any) -> str:
    named = schema.get("type")
    if named is not None:
        return str(named if isinstance(named, str) else named[0])
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def resolve_ref(root: Any, ref: str) -> Any:
    if not ref.startswith("#"):
        raise ImpossibleSchema(f"{ref} is outside the schema")
    for step in ref[1:].split("/")[1:]:
        root = root[unquote(step).replace("~1", "/").replace("~0", "~")]
    return root


def drop_keyword(schema: Any, keyword: str) -> Any:
    return {key: value for key, value in schema.items() if key != keyword}


def count_entries(schema: Any) -> int:
    """Return the number of entries that `merge_schemas` copies."""
    if schema is True:
        return 0
    return len(schema) + len(schema.get("properties", ())) + len(schema.get("required", ()))


def merge_schemas(base: Any, extra: Any) -> Any:
    if extra is True:
        return base
    both = {**base, **extra}
    if "properties" in base and "properties" in extra:
        both["properties"] = {**base["properties"], **extra["properties"]}
    if "required" in base and "required" in extra:
        both["required"] = [*base["required"], *extra["required"]]
    return both


def iter_candidates(schema: Any) -> Iterator[float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
    step = schema.get("multipleOf", 1)
    yield from (1, low, low + 1, high, high - 1, (low + high) / 2)
    yield from (step * math.ceil(low / step), step * (math.floor(low / step) + 1))


def is_within_bounds(number: float, schema: Any) -> bool:
    return (
        schema.get("minimum", -math.inf) <= number <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < number
        and number < schema.get("exclusiveMaximum", math.inf)
        and ("multipleOf" not in schema or float(number / schema["multipleOf"]).is_integer())
    )
