"""Vendors' restrictions of JSON Schema and of call ids."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .answers import Json, Protocol
from .shape import Violation

NINE = re.compile(r"[A-Za-z0-9]{9}")


def moonshot_schemas(protocol: Protocol, body: Json) -> Violation | None:
    """Moonshot: nothing beside ``$ref``, no type beside ``anyOf``, refs to ``$defs``, no tuples."""
    for path, node in list_schemas(body):
        is_invalid_reference = "$ref" in node and (
            len(node) > 1 or not str(node["$ref"]).startswith("#/$defs/")
        )
        if (
            is_invalid_reference
            or ("anyOf" in node and "type" in node)
            or isinstance(node.get("items"), list)
        ):
            text = "tools.function.parameters is not a valid moonshot flavored json schema, details"
            return Violation(f"{text}: <At path '{path}': no>")
    return None


def gemini_schemas(protocol: Protocol, body: Json) -> Violation | None:
    """Gemini's compatible endpoint: a small set of keywords."""
    for path, node in list_schemas(body):
        unsupported = {
            "$ref",
            "$defs",
            "$schema",
            "additionalProperties",
            "const",
            "oneOf",
        } & node.keys()
        for name in sorted(unsupported):
            return Violation(
                f'Invalid JSON payload received. Unknown name "{name}" at \'tools[0]'
                f".function.parameters': Cannot find field. ({path}; Gemini)"
            )
    return None


def mistral_schemas(protocol: Protocol, body: Json) -> Violation | None:
    """Mistral: ``$id``, ``$schema`` and ``additionalProperties`` are refused."""
    for path, node in list_schemas(body):
        for name in sorted({"$id", "$schema", "additionalProperties"} & node.keys()):
            return Violation(f"{path}.{name}: Extra inputs are not permitted", f"tools.{name}")
    return None


def long_call_ids(protocol: Protocol, body: Json) -> Violation | None:
    """Mistral: nine letters and digits."""
    for message in body.get("messages") or ():
        ids = [call["id"] for call in message.get("tool_calls") or ()]
        if message.get("role") == "tool":
            ids.append(message["tool_call_id"])
        for call_id in ids:
            if not NINE.fullmatch(call_id):
                text = "Tool call id has to be defined, must be a-z, A-Z, 0-9, with a length of 9."
                return Violation(f"Tool call id was {call_id} but must be valid. {text}")
    return None


def list_schemas(body: Json) -> Iterator[tuple[str, Json]]:
    """Yield every schema in the tools with its path."""
    for tool in body.get("tools") or ():
        schema = tool.get("function", tool).get("parameters")
        if schema:
            yield from _walk_schema("root", schema)


def _walk_schema(path: str, node: object) -> Iterator[tuple[str, Json]]:
    if not isinstance(node, dict):
        return
    yield path, node
    for key in ("properties", "$defs", "definitions"):
        for name, inner in node.get(key, {}).items():
            yield from _walk_schema(f"{path}.{key}.{name}", inner)
    for key in ("items", "anyOf", "oneOf", "allOf"):
        schemas = node.get(key, ())
        for number, inner in enumerate(schemas if isinstance(schemas, list) else [schemas]):
            yield from _walk_schema(f"{path}.{key}[{number}]", inner)


RULES = (moonshot_schemas, gemini_schemas, mistral_schemas, long_call_ids)
