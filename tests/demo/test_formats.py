from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.demo.formats import AnswerFormat, read_format

SCHEMA = {"type": "object", "properties": {}}
BODY = {"name": "n", "schema": SCHEMA}


@pytest.mark.parametrize("spec", [None, {"type": "text"}])
def test_text_needs_no_format(spec: Any) -> None:
    assert read_format(spec, "f.", "hi", nested=True) is None


def test_a_json_object_says_what_was_said() -> None:
    schema = {"const": {"demo": True, "you_said": "hi"}}
    assert read_format({"type": "json_object"}, "f.", "hi", nested=False) == AnswerFormat(
        schema, "f"
    )


def test_a_schema_is_found_in_both_forms() -> None:
    flat = read_format({"type": "json_schema", **BODY}, "f.", "", nested=False)
    nested = read_format({"type": "json_schema", "json_schema": BODY}, "f.", "", nested=True)
    assert flat == AnswerFormat(SCHEMA, "f.schema")
    assert nested == AnswerFormat(SCHEMA, "f.json_schema.schema")


@pytest.mark.parametrize(
    ("spec", "nested", "param"),
    [
        ({}, True, "f.type"),
        ({"type": "yaml"}, True, "f.type"),
        ({"type": "json_schema", **BODY}, True, "f.json_schema"),
        ({"type": "json_schema", "json_schema": BODY}, False, "f.name"),
        ({"type": "json_schema", "name": "n", "schema": "s"}, False, "f.schema"),
    ],
)
def test_a_malformed_format_is_refused(spec: Any, nested: bool, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_format(spec, "f.", "", nested=nested)
    assert caught.value.param == param
