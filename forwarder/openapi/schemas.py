"""JSON schemas of request bodies, built from the tables of parameters and the SDK's types.

The forwarder checks the JSON type of each parameter, and accepts parameters and values that OpenAI
does not document. The schema of a parameter therefore accepts the SDK's schema or any value of the
JSON types in the table. Null counts as absent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from typing import Any

import orjson

from forwarder.core.types import Json
from forwarder.core.validate import JsonTypes
from forwarder.protocols.item_dispositions import DispositionTable, parse_row_type
from forwarder.protocols.parameters import Disposition

PREFIX = "#/components/schemas/"

_TYPE_NAMES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
FLAG: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
TEXTS: Json = {"type": "array", "items": TEXT}

_NULL: Json = {"type": "null"}

_PLAIN = ("model", "stream")
"""Parameters whose SDK schema is too narrow: OpenAI's own models, or one of two booleans."""

_DISPOSITIONS = {
    "carried": "sent unchanged",
    "mapped": "translated",
    "emulated": "done by the forwarder",
    "offered": "sent if the upstream accepts it, otherwise dropped",
    "local": "used by the forwarder only",
    "noted": "left out, and named in `X-Forwarder-Dropped`",
    "dropped": "dropped",
    "refused": "refused",
}


def refer(name: str) -> Json:
    """Return a reference to a schema of the document."""
    return {"$ref": PREFIX + name}


@cache
def load_sdk_schemas() -> dict[str, Json]:
    """Return name -> schema of the SDK's types. Callers must not change them."""
    text = resources.files("forwarder.openapi").joinpath("sdk_schemas.json").read_bytes()
    schemas: dict[str, Json] = orjson.loads(text)
    return schemas


def make_object(
    properties: Mapping[str, Json], required: Collection[str] = (), **more: Any
) -> Json:
    """Return the schema of an object, which may have other properties too."""
    schema: Json = {"type": "object", "properties": dict(properties), **more}
    return {**schema, "required": list(required)} if required else schema


def add_properties(schema: Json, **properties: Json) -> Json:
    """Return the schema of an object with more or other properties."""
    return {**schema, "properties": {**schema["properties"], **properties}}


def accept_types(*types: str, **more: Any) -> Json:
    """Return the schema of an optional field, in which null counts as absent."""
    return {"type": [*types, "null"], **more}


def make_list(entry: Json) -> Json:
    """Return the schema of a page of a list."""
    text = {"type": ["string", "null"]}
    return make_object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": entry},
            "first_id": text,
            "last_id": text,
            "has_more": {"type": "boolean"},
        },
        ("object", "data", "first_id", "last_id", "has_more"),
    )


def make_request(
    table: Mapping[str, Disposition], over: str, sdk: str | None = None, **more: Any
) -> Json:
    """Return the schema of a request with the parameters of ``table``.

    ``over`` names the upstreams for which the table has the dispositions; ``sdk`` is the type of
    the request in the SDK.
    """
    known = load_sdk_schemas()[sdk]["properties"] if sdk else {}
    properties: dict[str, Json] = {}
    options: dict[str, Json] = {}
    for name, row in table.items():
        _, is_option, option = name.partition("options.")
        described = describe_parameter(row, over, None if name in _PLAIN else known.get(name))
        if is_option:
            options[option] = described
        else:
            properties[name] = described
    if options:
        properties["options"] = {"type": ["object", "null"], "properties": options}
    return make_object(properties, **more)


def describe_parameter(row: Disposition, over: str, known: Json | None = None) -> Json:
    """Return the schema of a parameter; ``known`` is its schema in the SDK."""
    described: Json = {"description": f"{over}: {describe_disposition(row)}."}
    accepted = describe_types(row.types)
    alternatives = [] if known is None else list_alternatives(known)
    narrower = [each for each in alternatives if not set(each) <= {"type"}]
    return {**described, "anyOf": [*narrower, accepted]} if narrower else {**described, **accepted}


def describe_disposition(row: Disposition) -> str:
    """Return the forwarder's treatment of a parameter or item, and the reason."""
    text = _DISPOSITIONS[row.kind]
    return f"{text} ({row.reason})" if row.reason else text


def describe_items(title: str, table: DispositionTable) -> str:
    """Return a Markdown list of the typed objects in a table, with their dispositions."""
    lines = [f"\n\n{title[0].upper()}{title[1:]}:\n"]
    for row, disposition in table.items():
        kind = parse_row_type(row)
        lines.append(f"- `{kind}`{row.removeprefix(kind)}: {describe_disposition(disposition)}")
    return "\n".join(lines)


def describe_types(types: JsonTypes) -> Json:
    """Return the schema of all values of these types, and null."""
    if not types:
        return {}
    names = dict.fromkeys(_TYPE_NAMES[each] for each in types)
    if "number" in names:
        names.pop("integer", None)  # each integer is a number
    return {"type": [*names, "null"]}


def list_alternatives(schema: Json) -> list[Json]:
    """Return the members of a union besides null; a schema that is no union is its only member."""
    return [each for each in schema.get("anyOf", [schema]) if each != _NULL]


def accept_null(sdk: str, **replaced: Json) -> Json:
    """Return the schema of a request of the SDK in which null counts as absent.

    ``replaced`` are properties that the forwarder accepts in another form.
    """
    schema = load_sdk_schemas()[sdk]
    required = schema.get("required", [])
    properties = {
        name: inner if name in required else {"anyOf": [*list_alternatives(inner), _NULL]}
        for name, inner in schema["properties"].items()
    }
    return make_object({**properties, **replaced}, required)


def add_used_schemas(document: Json, own: Mapping[str, Json]) -> dict[str, Json]:
    """Return the schemas that a document refers to, from ``own`` or from those of the SDK."""
    available = {**load_sdk_schemas(), **own}
    used: dict[str, Json] = {}
    waiting = list_references(document)
    while waiting:
        name = waiting.pop()
        if name not in used:
            used[name] = available[name]
            waiting += list_references(used[name])
    return dict(sorted(used.items()))


def list_references(value: Any) -> list[str]:
    """Return the names of all schemas to which a JSON value refers."""
    if isinstance(value, list):
        return [name for each in value for name in list_references(each)]
    if not isinstance(value, dict):
        return []
    target = value.get("$ref")
    own = (
        [target.removeprefix(PREFIX)]
        if isinstance(target, str) and target.startswith(PREFIX)
        else []
    )
    return own + [name for each in value.values() for name in list_references(each)]
