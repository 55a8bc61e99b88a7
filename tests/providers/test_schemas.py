"""JSON Schema in the dialects of providers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from forwarder.providers.schemas import DIALECTS, SchemaTooLarge, rewrite_schema
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

CITY = {"type": "string", "minLength": 1}
REF = {"$ref": "#/$defs/city"}


def wrap(inner: Any, **more: Any) -> Json:
    return {"type": "object", "properties": {"a": inner}, **more}


CASES: list[tuple[str, Json, Json]] = [
    ("moonshot", wrap({**REF, "description": "x"}), wrap(REF)),
    (
        "moonshot",
        wrap({"$ref": "#/definitions/city"}, definitions={"city": CITY}),
        wrap(REF, **{"$defs": {"city": CITY}}),
    ),
    (
        "moonshot",
        wrap({"$ref": "#/properties/b"}) | {"properties": {"a": {"$ref": "#/properties/b"}, "b": CITY}},
        {"type": "object", "properties": {"a": CITY, "b": CITY}},
    ),
    (
        "moonshot",
        {"type": "object", "anyOf": [{"required": ["a"]}, REF, {"type": "null"}]},
        {"anyOf": [{"type": "object", "required": ["a"]}, REF, {"type": "null"}]},
    ),
    ("moonshot", wrap({"oneOf": [CITY]}), wrap({"anyOf": [CITY]})),
    (
        "moonshot",
        wrap({"type": "array", "items": [CITY, {"type": "null"}]}),
        wrap({"type": "array", "items": {"anyOf": [CITY, {"type": "null"}]}}),
    ),
    ("moonshot", wrap({"type": "array", "prefixItems": [CITY]}), wrap({"type": "array", "items": CITY})),
    ("moonshot", wrap(CITY, **{"$schema": "s", "$id": "i"}), wrap(CITY)),
    ("moonshot", wrap(CITY, additionalProperties=False), wrap(CITY, additionalProperties=False)),
    (
        "mistral",
        wrap({**CITY, "$id": "i"}, additionalProperties=False, strict=True),
        wrap(CITY),
    ),
    ("plain", wrap({**REF, "title": "t"}, **{"$defs": {"city": CITY}}), wrap({**CITY, "title": "t"})),
    ("plain", wrap({"const": 1}, additionalProperties=False),
     wrap({"enum": [1]}, additionalProperties=False)),
    ("plain", wrap({"$ref": "#/$defs/none"}), wrap({})),
    (
        "plain",
        wrap({"$ref": "#/$defs/n"}, **{"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}}),
        wrap({"properties": {"n": {"type": "object"}}}),
    ),
    ("plain", wrap({"$ref": "#"}), wrap({"type": "object"})),
    ("gemini", wrap({"type": ["string", "null"]}), wrap({"type": "string", "nullable": True})),
    (
        "gemini",
        wrap({"type": ["string", "number"]}),
        wrap({"anyOf": [{"type": "string"}, {"type": "number"}]}),
    ),
    ("gemini", wrap({"type": "integer", "const": 1}), wrap({"type": "string", "enum": ["1"]})),
    ("gemini", wrap({"type": "string", "format": "uuid"}), wrap({"type": "string"})),
    ("gemini", wrap(CITY, required=["a", "b"]), wrap(CITY, required=["a"])),
    ("gemini", wrap({"type": "array"}), wrap({"type": "array", "items": {"type": "string"}})),
    ("gemini", wrap({"exclusiveMinimum": 1, "type": "number"}), wrap({"type": "number"})),
]  # fmt: skip


@check_each(("dialect", "schema", "expected"), CASES)
def test_rewrite_schema(dialect: str, schema: Json, expected: Json) -> None:
    before = copy.deepcopy(schema)
    assert rewrite_schema(schema, dialect) == expected
    assert schema == before


@check_each("dialect", DIALECTS)
def test_property_names_are_not_keywords(dialect: str) -> None:
    names = ("type", "$ref", "anyOf", "const", "strict", "$schema", "additionalProperties", "items")
    schema = {"type": "object", "properties": dict.fromkeys(names, CITY)}
    if dialect in ("openai", "mistral"):
        assert rewrite_schema(schema, dialect) == schema
    assert set(rewrite_schema(schema, dialect)["properties"]) >= set(names) - {"$ref"}


@check_each("dialect", DIALECTS)
@check_each(
    "schema",
    [
        {},
        wrap(True),
        wrap(None),
        wrap("x"),
        {"properties": []},
        {"anyOf": 3},
        {"enum": 3},
        {"required": [[1], "a"], "properties": 3},
        {"items": []},
    ],
)
def test_malformed_schema_does_not_fail(dialect: str, schema: Json) -> None:
    assert isinstance(rewrite_schema(schema, dialect), dict)


@check_each("dialect", DIALECTS)
def test_rewrite_schema_is_idempotent(dialect: str) -> None:
    for _, schema, _ in CASES:
        once = rewrite_schema(schema, dialect)
        assert rewrite_schema(once, dialect) == once


def test_inlining_beyond_max_nodes_is_refused() -> None:
    shared = {"$defs": {"a": CITY}, "anyOf": [{"$ref": "#/$defs/a"}] * 10}
    nodes = 2 + 10 * 3  # the schema, its list, and ten times a city with its values
    nodes += 10  # the references themselves
    nodes += 10  # the empty objects beside them
    assert rewrite_schema(shared, "plain", nodes) == {"anyOf": [CITY] * 10}
    with pytest.raises(SchemaTooLarge, match=f"more than {nodes - 1} nodes"):
        rewrite_schema(shared, "plain", nodes - 1)


def test_inlining_to_excessive_depth_is_refused() -> None:
    def nest(inner: Json) -> Json:
        for _ in range(50):
            inner = {"properties": {"a": inner}}
        return inner

    defs = {f"a{i}": nest({"$ref": f"#/$defs/a{i + 1}"}) for i in range(60)}
    with pytest.raises(SchemaTooLarge, match="nested too deeply"):
        rewrite_schema({"$ref": "#/$defs/a0", "$defs": defs}, "plain")
