"""Schemas of requests, built from the tables of parameters and the SDK's types."""

from __future__ import annotations

from typing import Any

from forwarder.core.validate import ANY, BOOL, INT, NUMBER, STR
from forwarder.openapi.schemas import (
    accept_null,
    add_used_schemas,
    describe_parameter,
    describe_types,
    load_sdk_schemas,
    make_list,
    make_request,
    refer,
)
from forwarder.protocols.parameters import carry, drop, refuse, remap
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


@check_each(
    ("types", "schema"),
    [
        (STR, {"type": ["string", "null"]}),
        (NUMBER, {"type": ["number", "null"]}),
        ((int, float, str), {"type": ["number", "string", "null"]}),
        ((str, list), {"type": ["string", "array", "null"]}),
        (ANY, {}),
    ],
)
def test_types_of_a_parameter_accept_null(types: tuple[type, ...], schema: Json) -> None:
    assert describe_types(types) == schema


def test_description_has_the_disposition_and_the_reason() -> None:
    described = describe_parameter(refuse(STR, "no text"), "Over Chat upstreams")

    assert described == {
        "description": "Over Chat upstreams: refused (no text).",
        "type": ["string", "null"],
    }


def test_plain_types_of_the_sdk_add_nothing() -> None:
    sdk_schema = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}

    assert "anyOf" not in describe_parameter(carry(BOOL), "Here", sdk_schema)


def test_narrower_sdk_types_are_added_to_the_accepted_types() -> None:
    sdk_schema = {"anyOf": [{"enum": ["low", "high"]}, {"type": "null"}]}

    described = describe_parameter(carry(STR), "Here", sdk_schema)

    assert described["anyOf"] == [{"enum": ["low", "high"]}, {"type": ["string", "null"]}]


def test_options_are_nested() -> None:
    schema = make_request({"model": carry(STR), "options.seed": drop(INT, "no seed")}, "Here")

    assert set(schema["properties"]) == {"model", "options"}
    assert schema["properties"]["options"]["type"] == ["object", "null"]
    assert "no seed" in schema["properties"]["options"]["properties"]["seed"]["description"]


def test_request_uses_types_of_the_sdk() -> None:
    schema = make_request({"tools": remap((list,), "converted")}, "Here", "ChatCompletionRequest")

    sdk_type, accepted_type = schema["properties"]["tools"]["anyOf"]
    assert sdk_type["type"] == "array"
    assert accepted_type == {"type": ["array", "null"]}


def test_only_optional_properties_accept_null() -> None:
    schema = accept_null("VectorStoreFileRequest", attributes={"const": 1})

    assert schema["required"] == ["file_id"]
    assert schema["properties"]["file_id"] == {"type": "string"}
    assert {"type": "null"} in schema["properties"]["chunking_strategy"]["anyOf"]
    assert schema["properties"]["attributes"] == {"const": 1}


def test_own_schemas_replace_sdk_schemas_and_unused_are_omitted() -> None:
    own_schemas = {"Model": {"properties": {"inner": refer("Inner")}}, "Inner": {}, "Unused": {}}

    assert add_used_schemas(make_list(refer("Model")), own_schemas) == {
        "Model": own_schemas["Model"],
        "Inner": {},
    }


def test_schemas_of_the_sdk_are_complete() -> None:
    schemas = load_sdk_schemas()

    assert add_used_schemas({"all": [refer(name) for name in schemas]}, {}) == schemas
