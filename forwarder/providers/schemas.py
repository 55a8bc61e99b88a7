"""Rewrites JSON Schemas in the dialects that providers take: pure functions.

A dialect is a chain of rewrites that are applied to each node of the schema.  Keywords that a
provider does not take are replaced if possible, else removed.  Removing a keyword only loosens the
schema, and the tool checks its input anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from forwarder.core.types import Json

SchemaRewrite = Callable[[Json], Json]

_SCHEMA_MAP_KEYWORDS = (
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
)
_SCHEMA_LIST_KEYWORDS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_KEYWORDS = (
    "items",
    "additionalProperties",
    "not",
    "contains",
    "propertyNames",
    "if",
    "then",
    "else",
    "unevaluatedProperties",
)
_UNION_KEYWORDS = ("anyOf", "oneOf", "allOf")

_MAX_CACHED_BYTES = 8192
"""Larger schemas are not cached."""

_MAX_REF_DEPTH = 64
"""Deeper nested references are treated as recursive."""

MAX_NODES = 50_000
"""The default for the maximum number of nodes of a schema with inlined references."""


class SchemaTooLarge(Exception):
    """With its references inlined, a schema has too many nodes or is nested too deeply."""


def rewrite_schema(schema: Json, dialect: str, max_nodes: int = MAX_NODES) -> Json:
    """Rewrite a schema in a dialect of `DIALECTS`; ``openai`` changes nothing.

    Results are cached, because clients send the same tools with every turn.  Raises
    SchemaTooLarge if the dialect has no references and inlining them exceeds ``max_nodes``.
    """
    key = orjson.dumps(schema)
    if len(key) < _MAX_CACHED_BYTES:
        return rewrite_cached(key, dialect, max_nodes)
    return apply_dialect(schema, dialect, max_nodes)


def apply_dialect(schema: Json, dialect: str, max_nodes: int) -> Json:
    try:
        return DIALECTS[dialect](schema, max_nodes)
    except RecursionError:
        raise SchemaTooLarge("it is nested too deeply") from None


@functools.lru_cache(512)
def rewrite_cached(schema: bytes, dialect: str, max_nodes: int) -> Json:
    return apply_dialect(orjson.loads(schema), dialect, max_nodes)


def walk_schema(node: Any, rewrite: SchemaRewrite) -> Any:
    """Rewrite a node, then the schemas inside it; keys of ``properties`` are not keywords."""
    if not isinstance(node, dict):
        return node
    walked: Json = {}
    for key, value in rewrite(node).items():
        if key in _SCHEMA_MAP_KEYWORDS and isinstance(value, dict):
            walked[key] = {name: walk_schema(inner, rewrite) for name, inner in value.items()}
        elif key in _SCHEMA_LIST_KEYWORDS + _SCHEMA_KEYWORDS and isinstance(value, list):
            walked[key] = [walk_schema(inner, rewrite) for inner in value]
        elif key in _SCHEMA_KEYWORDS:
            walked[key] = walk_schema(value, rewrite)
        else:
            walked[key] = value
    return walked


def chain_rewrites(*rewrites: SchemaRewrite) -> SchemaRewrite:
    def rewrite_node(node: Json) -> Json:
        for step in rewrites:
            node = step(node)
        return node

    return rewrite_node


# -- rewrites of a node -------------------------------------------------------------------------


def make_keyword_remover(*names: str) -> SchemaRewrite:
    removed = frozenset(names)
    return lambda node: {k: v for k, v in node.items() if k not in removed}


def convert_tuples(node: Json) -> Json:
    """Convert schemas by position to one schema for all items, which allows any of them."""
    schemas = node.get("prefixItems") or node.get("items")
    if not isinstance(schemas, list):
        return node
    rest = {k: v for k, v in node.items() if k not in ("prefixItems", "items", "additionalItems")}
    kinds = [kind for kind in schemas if isinstance(kind, dict)]
    return {**rest, "items": {"anyOf": kinds} if len(kinds) > 1 else (kinds or [{}])[0]}


def rename_definitions(node: Json) -> Json:
    """Rename ``definitions``, the older name of ``$defs``, and adapt references to it."""
    renamed = dict(node)
    ref = renamed.get("$ref")
    if isinstance(ref, str):
        renamed["$ref"] = ref.replace("#/definitions/", "#/$defs/")
    if isinstance(renamed.get("definitions"), dict):
        renamed["$defs"] = {**renamed.pop("definitions"), **renamed.get("$defs", {})}
    return renamed


def isolate_ref(node: Json) -> Json:
    return {"$ref": node["$ref"]} if "$ref" in node else node


def push_type_into_unions(node: Json) -> Json:
    """Move the type beside a union into its branches."""
    kind = node.get("type")
    unions = [name for name in _UNION_KEYWORDS if isinstance(node.get(name), list)]
    if not unions or kind is None:
        return node
    pushed = {k: v for k, v in node.items() if k != "type"}
    for name in unions:
        pushed[name] = [_with_type(branch, kind) for branch in node[name]]
    return pushed


def _with_type(branch: Any, kind: Any) -> Any:
    has_type = not isinstance(branch, dict) or {"type", "$ref", *_UNION_KEYWORDS} & branch.keys()
    return branch if has_type else {"type": kind, **branch}


def convert_one_of(node: Json) -> Json:
    """Rename ``oneOf`` to ``anyOf``, which providers take."""
    if "oneOf" not in node or "anyOf" in node:
        return node
    return {"anyOf" if k == "oneOf" else k: v for k, v in node.items()}


def convert_const(node: Json) -> Json:
    """Convert ``const`` to an ``enum`` with one value."""
    if "const" not in node:
        return node
    return dict(("enum", [v]) if k == "const" else (k, v) for k, v in node.items())


def convert_type_list(node: Json) -> Json:
    """Convert a list of types to one type, or to a union; null becomes ``nullable``."""
    kinds = node.get("type")
    if not isinstance(kinds, list):
        return node
    others = [kind for kind in kinds if kind != "null"]
    converted = {**node, **({"nullable": True} if len(others) < len(kinds) else {})}
    if len(others) == 1:
        return {**converted, "type": others[0]}
    del converted["type"]
    return {**converted, "anyOf": [{"type": kind} for kind in others]}


_GEMINI_KEYWORDS = frozenset(
    {
        "type",
        "format",
        "title",
        "description",
        "nullable",
        "enum",
        "items",
        "properties",
        "required",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "anyOf",
        "minProperties",
        "maxProperties",
    }
)


def restrict_to_gemini(node: Json) -> Json:
    """Restrict a node to Gemini's subset.

    It has few keywords, enums of texts only, and each ``required`` name must be a property.
    """
    subset = {k: v for k, v in node.items() if k in _GEMINI_KEYWORDS}
    if isinstance(subset.get("enum"), list):
        subset["enum"] = [str(value) for value in subset["enum"] if value is not None]
        subset["type"] = "string"
    if subset.get("format") not in ("enum", "date-time"):
        subset.pop("format", None)
    if isinstance(subset.get("required"), list):
        names = list(subset["properties"]) if isinstance(subset.get("properties"), dict) else []
        subset["required"] = [name for name in subset["required"] if name in names]
    if subset.get("type") == "array" and not isinstance(subset.get("items"), dict):
        subset["items"] = {"type": "string"}
    return subset


# -- references ---------------------------------------------------------------------------------


class RefInliner:
    """Replaces all references in a schema by their targets.

    Nested references can expand to any number of nodes, so the nodes are counted.
    """

    def __init__(self, schema: Json, max_nodes: int) -> None:
        self._schema = schema
        self._max_nodes = self._left = max_nodes
        self._targets: dict[str, Json] = {}

    def resolve(self, node: Any, open_refs: frozenset[str]) -> Any:
        """Return the node without references; ``open_refs`` are the references around it."""
        self._left -= 1
        if self._left < 0:
            raise SchemaTooLarge(f"it has more than {self._max_nodes} nodes without its references")
        if isinstance(node, list):
            return [self.resolve(inner, open_refs) for inner in node]
        if not isinstance(node, dict):
            return node
        ref = node.get("$ref")
        if not isinstance(ref, str):
            return {
                k: self.resolve(v, open_refs)
                for k, v in node.items()
                if k not in _DEFINITION_KEYWORDS
            }
        beside = {k: v for k, v in node.items() if k != "$ref"}
        if ref in open_refs or len(open_refs) > _MAX_REF_DEPTH:
            return {"type": "object", **beside}  # the reference is recursive: accept any object
        if ref not in self._targets:
            self._targets[ref] = find_ref_target(self._schema, ref)
        inside = self.resolve(self._targets[ref], open_refs | {ref})
        return {**inside, **self.resolve(beside, open_refs)}


def inline_refs(schema: Json, max_nodes: int) -> Json:
    inlined: Json = RefInliner(schema, max_nodes).resolve(schema, frozenset("#"))
    return inlined


_DEFINITION_KEYWORDS = ("$defs", "definitions")


def find_ref_target(schema: Json, ref: str) -> Json:
    """Return the target of a reference within the schema; an empty schema if it has none."""
    target: Any = schema
    for step in ref.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, dict) else None
    return target if isinstance(target, dict) else {}


def inline_unknown_refs(schema: Json, max_nodes: int) -> Json:
    """Inline all references if one of them does not refer to a definition."""
    known = all(ref.startswith("#/$defs/") for ref in iter_refs(schema))
    return schema if known else inline_refs(schema, max_nodes)


def iter_refs(schema: Json) -> Iterator[str]:
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


# -- the dialects -------------------------------------------------------------------------------

_REMOVE_METADATA = make_keyword_remover("$schema", "$id", "$comment", "$anchor")
_REWRITE_PLAIN = chain_rewrites(_REMOVE_METADATA, convert_tuples, convert_const)
_REWRITE_MOONSHOT = chain_rewrites(
    _REMOVE_METADATA,
    rename_definitions,
    isolate_ref,
    convert_tuples,
    convert_one_of,
    push_type_into_unions,
)
_REWRITE_GEMINI = chain_rewrites(
    convert_tuples, convert_one_of, convert_const, convert_type_list, restrict_to_gemini
)
_REWRITE_MISTRAL = make_keyword_remover("$id", "$schema", "strict", "additionalProperties")

DIALECTS: dict[str, Callable[[Json, int], Json]] = {
    "openai": lambda schema, max_nodes: schema,
    "plain": lambda schema, max_nodes: walk_schema(inline_refs(schema, max_nodes), _REWRITE_PLAIN),
    "moonshot": lambda schema, max_nodes: walk_schema(
        inline_unknown_refs(walk_schema(schema, rename_definitions), max_nodes), _REWRITE_MOONSHOT
    ),
    "gemini": lambda schema, max_nodes: walk_schema(
        inline_refs(schema, max_nodes), _REWRITE_GEMINI
    ),
    "mistral": lambda schema, max_nodes: walk_schema(schema, _REWRITE_MISTRAL),
}
"""Name -> function of a schema and the maximum number of nodes."""
