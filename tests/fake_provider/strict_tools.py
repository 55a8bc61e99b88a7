"""Rules for tools and JSON schemas that both protocols share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .answers import Json
from .shape import Violation

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_TOOLS = 128


def make_empty_array_error(path: str) -> Violation:
    """Return the violation for an empty array."""
    text = "Expected an array with minimum length 1, but got an empty array instead."
    return Violation(f"Invalid '{path}': empty array. {text}", path, "empty_array")


def check_name(name: str, path: str) -> Iterator[Violation]:
    """Check the name of a tool or of a structured format."""
    if not NAME.fullmatch(name):
        text = "Expected 1 to 64 characters that match the pattern '^[a-zA-Z0-9_-]+$'."
        yield Violation(
            f"Invalid '{path}': string does not match pattern. {text}", path, "invalid_value"
        )


def check_tool_list(tools: Sequence[Json], path: str = "tools") -> Iterator[Violation]:
    """Check the length of the list of tools."""
    if not tools:
        yield make_empty_array_error(path)
    if len(tools) > MAX_TOOLS:
        text = f"Expected an array with maximum length {MAX_TOOLS}, but got {len(tools)} instead."
        yield Violation(f"Invalid '{path}': array too long. {text}", path, "array_above_max_length")


def check_function(function: Json, path: str) -> Iterator[Violation]:
    """Check the name and parameters of the function at ``path``."""
    yield from check_name(function["name"], f"{path}.name")
    schema = function.get("parameters")
    if schema is None:
        return
    path_of_schema, about = (
        f"{path}.parameters",
        f"Invalid schema for function '{function['name']}': ",
    )
    kind = schema.get("type") if isinstance(schema, dict) else schema
    if kind != "object":
        problem_text = f"""schema must be a JSON Schema of 'type: "object"', got {kind!r}."""
        yield Violation(about + problem_text, path_of_schema, "invalid_function_parameters")
    elif function.get("strict"):
        for problem in find_strict_problems(schema):
            yield Violation(about + problem, path_of_schema, "invalid_function_parameters")


def check_format(json_schema: Json, path: str) -> Iterator[Violation]:
    """Check the structured output format at ``path``."""
    yield from check_name(json_schema["name"], f"{path}.name")
    if json_schema.get("strict"):
        for problem in find_strict_problems(json_schema.get("schema") or {}):
            about = f"Invalid schema for response_format '{json_schema['name']}': "
            yield Violation(about + problem, path, "invalid_json_schema")


def find_strict_problems(schema: Json) -> Iterator[str]:
    """Yield the open objects and optional properties, which strict mode refuses."""
    for context_path, node in _list_schemas(schema, ()):
        if not isinstance(node.get("required", []), list) or not isinstance(
            node.get("properties", {}), dict
        ):
            yield f"In context=({', '.join(map(repr, context_path))}), this is no JSON Schema."
            return
        if node.get("type") != "object" and "properties" not in node:
            continue
        context = f"In context=({', '.join(repr(step) for step in context_path)}), "
        if node.get("additionalProperties") is not False:
            yield f"{context}'additionalProperties' is required to be supplied and to be false."
        missing = [n for n in node.get("properties", {}) if n not in node.get("required", ())]
        if missing:
            rule = "'required' is required to be supplied and to be an array including every key"
            yield f"{context}{rule} in properties. Missing '{sorted(missing)[0]}'."


def check_choice(name: str | None, offered: Iterable[str], kind: str) -> Iterator[Violation]:
    """Check that a named tool is offered."""
    if name not in list(offered):
        message = f"Tool choice '{kind}' '{name}' not found in 'tools' parameter."
        yield Violation(message, "tool_choice", "invalid_value")


def _list_schemas(
    schema: Any, context_path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Json]]:
    if not isinstance(schema, dict):
        return
    yield context_path, schema
    for key in ("properties", "$defs", "definitions"):
        schemas = schema.get(key)
        for name, inner in schemas.items() if isinstance(schemas, dict) else ():
            yield from _list_schemas(inner, (*context_path, key, name))
    yield from _list_schemas(schema.get("items"), (*context_path, "items"))
    options = schema.get("anyOf")
    for number, inner in enumerate(options if isinstance(options, list) else ()):
        yield from _list_schemas(inner, (*context_path, "anyOf", str(number)))
