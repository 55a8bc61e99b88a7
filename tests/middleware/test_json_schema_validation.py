"""Validation of texts, and hostile schemas."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.middleware import json_schema_validation
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

PERSON: Json = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


@check_each("text", ['{"name":"A"}', '{"name":"A","age":3}'])
def test_matching_text_has_no_mistake(text: str) -> None:
    assert json_schema_validation.find_mistake(text, PERSON) is None


@check_each(
    ("text", "expected"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "is not of type 'object'"),
        ("{}", "'name' is a required property"),
        ('{"name":1}', "at 'name'"),
        ('{"name":"A","x":1}', "Additional properties are not allowed"),
    ],
)
def test_mismatch_is_described(text: str, expected: str) -> None:
    assert expected in str(json_schema_validation.find_mistake(text, PERSON))


def test_internal_references_are_followed() -> None:
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}
    assert json_schema_validation.find_mistake("1", schema) is None
    assert json_schema_validation.find_mistake('"x"', schema)


def test_external_references_are_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **_: fetched.append(args))
    for address in (
        "http://127.0.0.1:9/x.json",
        "file:///etc/passwd",
        "http://json-schema.org/schema#",
        "https://json-schema.org/draft/2020-12/schema",  # the library contains this schema
    ):
        assert json_schema_validation.find_mistake("1", {"$ref": address}) is None
    assert fetched == []


@check_each(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False},
    ],
)
def test_regular_expressions_are_not_run(schema: Json) -> None:
    started = time.monotonic()
    slow_text = "a" * 40 + "!"
    for text in (f'"{slow_text}"', f'{{"{slow_text}":1}}'):
        assert json_schema_validation.find_mistake(text, schema) is None
    assert time.monotonic() - started < 1


def test_regular_expressions_of_other_dialects_are_accepted() -> None:
    json_schema_validation.check_schema({"type": "string", "pattern": r"^\p{L}+$"}, "p")


def test_cyclic_references_end() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    with pytest.raises(json_schema_validation.TooManySteps):
        json_schema_validation.find_mistake("1", schema)


def test_deep_values_end_before_the_recursion_limit() -> None:
    """The library calls Rust code, which panics at Python's recursion limit."""
    tree: Json = {"anyOf": [{"type": "null"}, {"oneOf": [{"items": {"$ref": "#"}}]}]}
    for depth in range(1, 900, 7):
        with contextlib.suppress(json_schema_validation.TooManySteps):
            assert json_schema_validation.find_mistake("[" * depth + "]" * depth, tree) is None
    assert json_schema_validation.find_mistake("[" * 20 + "]" * 20, tree) is None


@check_each("schema", [{"type": "strin"}, {"required": "name"}, {"properties": []}])
def test_invalid_schema_is_rejected(schema: Json) -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_schema_validation.check_schema(schema, "response_format.json_schema.schema")
    assert caught.value.param == "response_format.json_schema.schema"


KEYWORDS: list[tuple[Json | bool, str, str]] = [
    ({"type": ["string", "null"]}, 'null "a"', "1 true []"),
    ({"type": "integer"}, "1 1.0 -3", "1.5 true null"),
    ({"type": "number"}, "1 1.5", "true"),
    ({"enum": [1, "a", [1], {"a": None}, True]}, '1 1.0 "a" [1.0] {"a":null} true', "0 [true] {}"),
    ({"enum": [0]}, "0 0.0", "false"),
    ({"const": {"a": [1, 2]}}, '{"a":[1,2]}', '{"a":[2,1]} {"a":[1,2],"b":1}'),
    ({"minimum": 1, "maximum": 3}, '1 3 "x"', "0 4"),
    ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, "2", "1 3"),
    ({"multipleOf": 0.1}, "0.3 1 1e308", "0.35"),
    ({"multipleOf": 1e-300}, "1e300", ""),
    ({"minLength": 2, "maxLength": 3}, '"ab" "äöü" 1', '"a" "abcd"'),
    ({"minItems": 1, "maxItems": 2}, "[1] [1,2] {}", "[] [1,2,3]"),
    ({"uniqueItems": True}, '[1,true] [1,2] [{"a":1},{"a":2}] "aa"', '[1,1.0] [{"a":1,"b":2},{"b":2,"a":1}]'),
    ({"uniqueItems": False}, "[1,1]", ""),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, '[] ["a"] ["a",1]', '[1] ["a","b"]'),
    ({"items": False}, "[]", "[1]"),
    ({"contains": {"type": "null"}}, "[1,null] {}", "[1] []"),
    ({"contains": {"type": "null"}, "minContains": 0, "maxContains": 1}, "[] [null]", "[null,null]"),
    ({"minProperties": 1, "maxProperties": 1}, '{"a":1} []', '{} {"a":1,"b":2}'),
    ({"required": ["a"]}, '{"a":null} []', "{}"),
    ({"additionalProperties": {"type": "null"}, "properties": {"a": {}}}, '{"a":1} {"b":null}', '{"b":1}'),
    ({"propertyNames": {"maxLength": 1}}, '{"a":1}', '{"ab":1}'),
    ({"dependentRequired": {"a": ["b"]}}, '{} {"b":1} {"a":1,"b":1} []', '{"a":1}'),
    ({"dependentSchemas": {"a": {"maxProperties": 1}}}, '{"a":1} []', '{"a":1,"b":1}'),
    ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, "1 2", "0 3"),
    ({"anyOf": [{"type": "null"}, {"minimum": 3, "type": "number"}]}, "null 3", '2 "a"'),
    ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, "0 4", "2"),
    ({"oneOf": [{"type": "null"}, {"type": "string"}]}, "null", "1"),
    ({"not": {"type": "null"}}, "1", "null"),
    ({"if": {"type": "number"}, "then": {"minimum": 1}, "else": {"minLength": 1}}, '1 "a"', '0 ""'),
    ({"if": {"type": "number"}}, "1", ""),
    ({"$ref": "#/$defs/a~1b/anyOf/0", "$defs": {"a/b": {"anyOf": [{"type": "null"}]}}}, "null", "1"),
    ({"$ref": "#/$defs/%C3%A4", "$defs": {"ä": {"type": "null"}}}, "null", "1"),
    ({"$ref": "#n", "$defs": {"a": {"$anchor": "n", "type": "null"}}}, "null", "1"),
    ({"properties": {"n": {"$ref": "#"}}, "additionalProperties": False}, '{"n":{"n":{}}}', '{"n":{"m":1}}'),
    ({"$ref": "#/x", "x": {"type": "null"}}, "null", "1"),
    ({"$ref": "#/x", "x": {"type": "nul"}}, "null 1", ""),
    ({"$ref": "#/nowhere"}, "null 1", ""),
    ({"$ref": "#nowhere"}, "null 1", ""),
]  # fmt: skip


@check_each(("schema", "valid_texts", "invalid_texts"), KEYWORDS)
def test_keywords_follow_the_standard(schema: Json, valid_texts: str, invalid_texts: str) -> None:
    json_schema_validation.check_schema(schema, "p")
    assert {
        text: json_schema_validation.find_mistake(text, schema) for text in valid_texts.split()
    } == dict.fromkeys(valid_texts.split())
    assert all(json_schema_validation.find_mistake(text, schema) for text in invalid_texts.split())


def test_mistake_of_anyof_is_reported_for_the_best_branch() -> None:
    person = {**PERSON, "additionalProperties": True}
    mistake = json_schema_validation.find_mistake(
        '{"name":1}', {"anyOf": [{"type": "null"}, person]}
    )
    assert mistake == "at 'name': 1 is not of type 'string'"
    assert json_schema_validation.find_mistake("1", {"anyOf": [{"type": "null"}, PERSON]}) == (
        "1 is not valid under any of the given schemas"
    )


def test_mistake_names_its_place() -> None:
    schema = {"properties": {"a": {"items": {"properties": {"b": {"type": "null"}}}}}}
    mistake = json_schema_validation.find_mistake('{"a":[{},{"b":[1]}]}', schema)
    assert mistake == "at 'a[1].b': [1] is not of type 'null'"


def test_nested_dialect_selects_no_other_validator() -> None:
    """The validator of another dialect would run regular expressions without a budget."""
    inner = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^b$"}
    assert json_schema_validation.find_mistake('{"a":"a"}', {"properties": {"a": inner}}) is None


def make_doubling_schema(keyword: str, levels: int) -> Json:
    """A small schema whose check takes 2 ** levels steps."""
    defs: Json = {f"a{i}": {keyword: [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{levels}": {"type": "null"}}}


def make_number_list(count: int) -> str:
    return "[" + ",".join(map(str, range(count))) + "]"


@check_each(
    ("text", "schema"),
    [
        ("1", make_doubling_schema("anyOf", 40)),
        ("null", make_doubling_schema("allOf", 40)),
        ("1", make_doubling_schema("oneOf", 40)),
        (make_number_list(1000), {"items": {"allOf": [{}] * 1000}}),
        (make_number_list(3000), {"uniqueItems": True}),
        ("{}", {"allOf": [{"required": ["a" * 10] * 30000}]}),
        ('"' + "x" * 100_000 + '"', {"anyOf": [{"const": 1}] * 1000}),
        ('"' + "x" * 100_000 + '"', {"not": {"anyOf": [False] * 100}}),  # messages quote the text
    ],
)
def test_check_ends_with_its_budget(text: str, schema: Json) -> None:
    with pytest.raises(json_schema_validation.TooManySteps):
        json_schema_validation.find_mistake(text, schema, max_steps=1000)


def test_schema_of_too_many_nodes_is_refused() -> None:
    schema = {"allOf": [{}] * 1000}
    json_schema_validation.check_schema(schema, "p", max_nodes=1001)
    with pytest.raises(InvalidRequest, match="FORWARDER_MAX_SCHEMA_NODES"):
        json_schema_validation.check_schema(schema, "p", max_nodes=1000)


@check_each(
    ("schema", "place"),
    [
        ({"properties": {"a": {"anyOf": [{}, {"minLength": -1}]}}}, "properties.a.anyOf[1].minLength"),
        ({"required": [{}]}, "required[0]"),
        ({"items": [{}]}, "items"),
        ({"anyOf": []}, "anyOf"),
        ({"$defs": {"a": {"multipleOf": 0}}}, "$defs.a.multipleOf"),
        ({"dependentRequired": {"a": "b"}}, "dependentRequired.a"),
        ({"type": []}, "type"),
        ({"type": [[]]}, "type"),
        ({"uniqueItems": 1}, "uniqueItems"),
        ({"$ref": 1}, "$ref"),
    ],
)  # fmt: skip
def test_malformed_schema_is_refused_with_the_place(schema: Json, place: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Invalid schema for 'p'") as caught:
        json_schema_validation.check_schema(schema, "p")
    assert f": at '{place}': " in caught.value.message


def test_long_mistake_is_shortened() -> None:
    mistake = json_schema_validation.find_mistake('"' + "x" * 10_000 + '"', {"type": "integer"})
    assert mistake is not None
    assert len(mistake) <= 500
