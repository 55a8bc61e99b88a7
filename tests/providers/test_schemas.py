"""JSON Schema in the dialects of providers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from forwarder.providers.schemas import DIALECTS, SchemaTooLarge, rewrite_schema

Json = dict[str, Any]

CITY = {"type": "string", "minLength": 1}
REF = {"$ref": "#/$defs/city"}


def held(inner: Any, **more: Any) -> Json:
    return {"type": "object", "properties": {"a": inner}, **more}


CASES: list[tuple[str, Json, Json]] = [
    ("moonshot", held({**REF, "description": "x"}), held(REF)),
    (
        "moonshot",
        held({"$ref": "#/definitions/city"}, definitions={"city": CITY}),
        held(REF, **{"$defs": {"city": CITY}}),
    ),
    (
        "moonshot",
        held({"$ref": "#/properties/b"}) | {"properties": {"a": {"$ref": "#/properties/b"}, "b": CITY}},
        {"type": "object", "properties": {"a": CITY, "b": CITY}},
    ),
    (
        "moonshot",
        {"type": "object", "anyOf": [{"required": ["a"]}, REF, {"type": "null"}]},
        {"anyOf": [{"type": "object", "required": ["a"]}, REF, {"type": "null"}]},
    ),
    ("moonshot", held({"oneOf": [CITY]}), held({"anyOf": [CITY]})),
    (
        "moonshot",
        held({"type": "array", "items": [CITY, {"type": "null"}]}),
        held({"type": "array", "items": {"anyOf": [CITY, {"type": "null"}]}}),
    ),
    ("moonshot", held({"type": "array", "prefixItems": [CITY]}), held({"type": "array", "items": CITY})),
    ("moonshot", held(CITY, **{"$schema": "s", "$id": "i"}), held(CITY)),
    ("moonshot", held(CITY, additionalProperties=False), held(CITY, additionalProperties=False)),
    (
        "mistral",
        held({**CITY, "$id": "i"}, additionalProperties=False, strict=True),
        held(CITY),
    ),
    ("plain", held({**REF, "title": "t"}, **{"$defs": {"city": CITY}}), held({**CITY, "title": "t"})),
    ("plain", held({"const": 1}, additionalProperties=False),
     held({"enum": [1]}, additionalProperties=False)),
    ("plain", held({"$ref": "#/$defs/none"}), held({})),
    (
        "plain",
        held({"$ref": "#/$defs/n"}, **{"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}}),
        held({"properties": {"n": {"type": "object"}}}),
    ),
    ("plain", held({"$ref": "#"}), held({"type": "object"})),
    ("gemini", held({"type": ["string", "null"]}), held({"type": "string", "nullable": True})),
    (
        "gemini",
        held({"type": ["string", "number"]}),
        held({"anyOf": [{"type": "string"}, {"type": "number"}]}),
    ),
    ("gemini", held({"type": "integer", "const": 1}), held({"type": "string", "enum": ["1"]})),
    ("gemini", held({"type": "string", "format": "uuid"}), held({"type": "string"})),
    ("gemini", held(CITY, required=["a", "b"]), held(CITY, required=["a"])),
    ("gemini", held({"type": "array"}), held({"type": "array", "items": {"type": "string"}})),
    ("gemini", held({"exclusiveMinimum": 1, "type": "number"}), held({"type": "number"})),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "given", "sent"), CASES)
def test_a_schema_is_said_as_the_dialect_says_it(dialect: str, given: Json, sent: Json) -> None:
    before = copy.deepcopy(given)
    assert rewrite_schema(given, dialect) == sent
    assert given == before


@pytest.mark.parametrize("dialect", DIALECTS)
def test_properties_may_be_called_like_keywords(dialect: str) -> None:
    names = ("type", "$ref", "anyOf", "const", "strict", "$schema", "additionalProperties", "items")
    schema = {"type": "object", "properties": dict.fromkeys(names, CITY)}
    if dialect in ("openai", "mistral"):
        assert rewrite_schema(schema, dialect) == schema
    assert set(rewrite_schema(schema, dialect)["properties"]) >= set(names) - {"$ref"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "schema",
    [
        {},
        held(True),
        held(None),
        held("x"),
        {"properties": []},
        {"anyOf": 3},
        {"enum": 3},
        {"required": [[1], "a"], "properties": 3},
        {"items": []},
    ],
)
def test_a_schema_that_is_none_breaks_nothing(dialect: str, schema: Json) -> None:
    assert isinstance(rewrite_schema(schema, dialect), dict)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_was_rewritten_stays_as_it_is(dialect: str) -> None:
    for _, given, _ in CASES:
        once = rewrite_schema(given, dialect)
        assert rewrite_schema(once, dialect) == once


def test_inlining_may_not_go_beyond_the_nodes_allowed() -> None:
    shared = {"$defs": {"a": CITY}, "anyOf": [{"$ref": "#/$defs/a"}] * 10}
    nodes = 2 + 10 * 3  # the schema, its list, and ten times a city with its values
    nodes += 10  # the references themselves
    nodes += 10  # and what stands beside each: nothing
    assert rewrite_schema(shared, "plain", nodes) == {"anyOf": [CITY] * 10}
    with pytest.raises(SchemaTooLarge, match=f"more than {nodes - 1} nodes"):
        rewrite_schema(shared, "plain", nodes - 1)


def test_schema_that_inlining_makes_too_deep_is_refused() -> None:
    def nested(inner: Json) -> Json:
        for _ in range(50):
            inner = {"properties": {"a": inner}}
        return inner

    defs = {f"a{i}": nested({"$ref": f"#/$defs/a{i + 1}"}) for i in range(60)}
    with pytest.raises(SchemaTooLarge, match="nested too deeply"):
        rewrite_schema({"$ref": "#/$defs/a0", "$defs": defs}, "plain")
