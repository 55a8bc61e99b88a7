"""Lists the tools of a request of either protocol, and makes calls of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from .answers import Call, Json, ModelRequest, dumps
from .history import as_items

SAMPLES: Json = {
    "city": "Zürich 🏔",
    "name": "Ada",
    "age": 36,
    "query": "weather in Zürich",
}
"""Property name -> the scripted model's value for it."""

BY_TYPE: Json = {"string": "text", "integer": 7, "number": 1.5, "boolean": True, "null": None}
"""Type of a schema -> the scripted model's value for it."""


@dataclass(frozen=True)
class Tool:
    """An offered tool. ``bare`` is the end of a flattened name ``ns__name``."""

    name: str
    kind: Literal["function", "custom"] = "function"
    schema: Json = field(default_factory=dict)
    namespace: str | None = None

    @property
    def bare(self) -> str:
        return self.name.rpartition("__")[2]

    def make_call(self, number: int = 0, **values: object) -> Call:
        """Return a call with these arguments, and sample values for all others."""
        if self.kind == "custom":
            return self.with_input(str(values.get("input", "text")))
        arguments = {**make_sample(self.schema), **values}
        return Call(self.name, dumps(arguments), namespace=self.namespace)

    def with_input(self, text: str) -> Call:
        """Return a call with a text as the input, or as the only argument of a function."""
        if self.kind == "custom":
            return Call(self.name, kind="custom", input=text, namespace=self.namespace)
        argument = next(iter(self.schema.get("properties", {})), "input")
        return Call(self.name, dumps({argument: text}), namespace=self.namespace)


def list_offered_tools(request: ModelRequest) -> list[Tool]:
    """Return all offered functions and custom tools, without built-in tools."""
    tools = list(request.body.get("tools") or ())
    for item in as_items(request.body.get("input")):
        if item.get("type") in ("additional_tools", "tool_search_output"):
            tools += item["tools"]
    return list(_list_tools(tools))


def make_sample(schema: Json, root: Json | None = None, name: str = "") -> Any:
    """Return a value that the JSON schema allows, with optional properties."""
    root = root or schema
    if "$ref" in schema:
        return make_sample(_resolve_reference(schema["$ref"], root), root, name)
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if choices := schema.get("enum"):
        return choices[0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return make_sample(options[0], root, name)
    return _by_type(schema, root, name)


def _by_type(schema: Json, root: Json, name: str) -> Any:
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {k: make_sample(v, root, k) for k, v in schema.get("properties", {}).items()}
    if kind == "array":
        return [make_sample(schema.get("items", {"type": "string"}), root)]
    if name in SAMPLES and isinstance(SAMPLES[name], str) == (kind == "string"):
        return SAMPLES[name]
    return BY_TYPE[kind]


def _resolve_reference(ref: str, root: Json) -> Json:
    value = root
    for key in ref.removeprefix("#/").split("/"):
        value = value[key]
    return value


def _list_tools(tools: Iterable[Json], namespace: str | None = None) -> Iterator[Tool]:
    for tool in tools:
        kind = tool["type"]
        if kind == "namespace":
            yield from _list_tools(tool["tools"], tool["name"])
        elif kind in ("function", "custom"):
            definition = tool.get(kind) or tool
            schema = definition.get("parameters") or {}
            yield Tool(definition["name"], kind, schema, namespace)
