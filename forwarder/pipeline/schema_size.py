"""Limits the size of the JSON Schemas in a request, for all client APIs.

The forwarder rewrites schemas, inlines their references and validates against them.  It refuses
schemas beyond any realistic size before that work, so that they cannot occupy a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json

_FORMAT_PATHS = (
    ("response_format", "json_schema", "schema"),
    ("text", "format", "schema"),
    ("format",),  # Ollama's
    ("output_config", "format", "schema"),  # Anthropic's
    ("output_format", "schema"),
)


def check_schema_sizes(request: Json, max_bytes: int) -> None:
    """Raise InvalidRequest, naming the place, if a schema in the request is too large."""
    for root, schemas in find_schemas(request):
        # Serializing them together is faster than one by one, and they are rarely too large.
        if len(orjson.dumps(request[root])) > max_bytes:
            for path, schema in schemas:
                check_size(path, schema, max_bytes)


def check_size(path: str, schema: Any, max_bytes: int) -> None:
    size = len(orjson.dumps(schema))
    if size > max_bytes:
        raise InvalidRequest(
            f"Invalid value for '{path}': the schema has {size} bytes, but at most {max_bytes} "
            "are allowed (limit: FORWARDER_MAX_SCHEMA).",
            param=path,
            code="invalid_json_schema",
        )


def find_schemas(request: Json) -> Iterator[tuple[str, Iterator[tuple[str, Any]]]]:
    """Yield each parameter that may contain schemas, and its schemas with their paths."""
    for root in ("tools", "functions"):
        if isinstance(request.get(root), list):
            yield root, find_tool_schemas(request[root], root)
    for steps in _FORMAT_PATHS:
        if isinstance(request.get(steps[0]), dict):
            yield steps[0], find_schema_at(request, steps)


def find_tool_schemas(tools: list[Any], path: str) -> Iterator[tuple[str, Any]]:
    for i, tool in enumerate(tools):
        if not isinstance(tool, dict):
            continue
        place = f"{path}[{i}]"
        yield from find_schema_at(tool, ("parameters",), place)
        yield from find_schema_at(tool, ("input_schema",), place)
        yield from find_schema_at(tool, ("function", "parameters"), place)
        if isinstance(tool.get("tools"), list):  # a namespace
            yield from find_tool_schemas(tool["tools"], f"{place}.tools")


def find_schema_at(
    holder: Any, steps: tuple[str, ...], path: str = ""
) -> Iterator[tuple[str, Any]]:
    for step in steps:
        holder = holder.get(step) if isinstance(holder, dict) else None
    if isinstance(holder, dict):
        yield ".".join(filter(None, (path, *steps))), holder
