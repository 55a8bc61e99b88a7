"""Texts against schemas, and schemas that were made to do harm."""

from __future__ import annotations

import time
from typing import Any

import pytest

from forwarder.emulations import validation
from forwarder.errors import InvalidRequest

Json = dict[str, Any]

PERSON: Json = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("text", ['{"name":"A"}', '{"name":"A","age":3}'])
def test_what_fits_has_no_mistake(text: str) -> None:
    assert validation.mistake(text, PERSON) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "is not of type 'object'"),
        ("{}", "'name' is a required property"),
        ('{"name":1}', "at 'name'"),
        ('{"name":"A","x":1}', "Additional properties are not allowed"),
    ],
)
def test_what_does_not_fit_is_told(text: str, said: str) -> None:
    assert said in str(validation.mistake(text, PERSON))


def test_references_inside_a_schema_are_followed() -> None:
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}
    assert validation.mistake("1", schema) is None
    assert validation.mistake('"x"', schema)


def test_references_to_the_outside_are_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **_: fetched.append(args))
    for address in (
        "http://127.0.0.1:9/x.json",
        "file:///etc/passwd",
        "http://json-schema.org/schema#",
    ):
        assert validation.mistake("{}", {"$ref": address}) is None
    assert fetched == []


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False},
    ],
)
def test_expressions_are_not_run(schema: Json) -> None:
    started = time.monotonic()
    evil = "a" * 40 + "!"
    for text in (f'"{evil}"', f'{{"{evil}":1}}'):
        assert validation.mistake(text, schema) is None
    assert time.monotonic() - started < 1


def test_expressions_of_other_languages_are_no_mistake() -> None:
    validation.check({"type": "string", "pattern": r"^\p{L}+$"}, "p")


def test_endless_references_end() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert validation.mistake("1", schema) is None


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"required": "name"}, {"properties": []}])
def test_what_is_no_schema_is_refused(schema: Json) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.check(schema, "response_format.json_schema.schema")
    assert refused.value.param == "response_format.json_schema.schema"


def test_a_mistake_is_told_in_a_few_words() -> None:
    told = validation.mistake('"' + "x" * 10_000 + '"', {"type": "integer"})
    assert told is not None
    assert len(told) <= 500
