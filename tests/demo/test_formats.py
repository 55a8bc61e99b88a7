from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.demo.formats import Format, format_of

SCHEMA = {"type": "object", "properties": {}}
BODY = {"name": "n", "schema": SCHEMA}


@pytest.mark.parametrize("spec", [None, {"type": "text"}])
def test_text_needs_no_format(spec: Any) -> None:
    assert format_of(spec, "f.", "hi", nested=True) is None


def test_a_json_object_says_what_was_said() -> None:
    schema = {"const": {"demo": True, "you_said": "hi"}}
    assert format_of({"type": "json_object"}, "f.", "hi", nested=False) == Format(schema, "f")


def test_a_schema_is_found_in_both_forms() -> None:
    flat = format_of({"type": "json_schema", **BODY}, "f.", "", nested=False)
    nested = format_of({"type": "json_schema", "json_schema": BODY}, "f.", "", nested=True)
    assert flat == Format(SCHEMA, "f.schema")
    assert nested == Format(SCHEMA, "f.json_schema.schema")


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
        format_of(spec, "f.", "", nested=nested)
    assert caught.value.param == param
