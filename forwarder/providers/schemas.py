"""JSON Schema in the dialects that providers take: pure functions, a schema in, a schema out.

Each dialect is a few rewrites of a single node, worn over one walk of the tree.  What a provider
does not understand is said otherwise where that is possible, and else left out: it narrows what
the model may write, and the tool checks its input anyway.
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
"""Bytes from which a schema is not kept."""

_MAX_REF_DEPTH = 64
"""Levels after which a schema is taken to be without end."""

MAX_NODES = 50_000
"""Nodes that a schema may have when its references are inlined, unless a caller says otherwise."""


class SchemaTooLarge(Exception):
    """Inlining its references takes a schema beyond the limit, or too deep."""


def rewrite_schema(schema: Json, dialect: str, max_nodes: int = MAX_NODES) -> Json:
    """The schema as the dialect has it; ``openai`` has it as it is.

    Clients send the same tools with every turn, so what was made of a schema is kept.
    Raises SchemaTooLarge if the dialect has no references and they are worth too much.
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
    """Rewrite a node, then the schemas inside of it; ``properties`` hold names, not keywords."""
    if not isinstance(node, dict):
        return node
    made: Json = {}
    for key, value in rewrite(node).items():
        if key in _SCHEMA_MAP_KEYWORDS and isinstance(value, dict):
            made[key] = {name: walk_schema(inner, rewrite) for name, inner in value.items()}
        elif key in _SCHEMA_LIST_KEYWORDS + _SCHEMA_KEYWORDS and isinstance(value, list):
            made[key] = [walk_schema(inner, rewrite) for inner in value]
        elif key in _SCHEMA_KEYWORDS:
            made[key] = walk_schema(value, rewrite)
        else:
            made[key] = value
    return made


def chain_rewrites(*rewrites: SchemaRewrite) -> SchemaRewrite:
    def rewrite_node(node: Json) -> Json:
        for step in rewrites:
            node = step(node)
        return node

    return rewrite_node


# -- rewrites of a node -------------------------------------------------------------------------


def make_keyword_remover(*names: str) -> SchemaRewrite:
    gone = frozenset(names)
    return lambda node: {k: v for k, v in node.items() if k not in gone}


def convert_tuples(node: Json) -> Json:
    """Items that differ by place become items of any of the kinds."""
    listed = node.get("prefixItems") or node.get("items")
    if not isinstance(listed, list):
        return node
    rest = {k: v for k, v in node.items() if k not in ("prefixItems", "items", "additionalItems")}
    kinds = [kind for kind in listed if isinstance(kind, dict)]
    return {**rest, "items": {"anyOf": kinds} if len(kinds) > 1 else (kinds or [{}])[0]}


def rename_definitions(node: Json) -> Json:
    """The older name of ``$defs``, and what refers to it."""
    made = dict(node)
    ref = made.get("$ref")
    if isinstance(ref, str):
        made["$ref"] = ref.replace("#/definitions/", "#/$defs/")
    if isinstance(made.get("definitions"), dict):
        made["$defs"] = {**made.pop("definitions"), **made.get("$defs", {})}
    return made


def isolate_ref(node: Json) -> Json:
    return {"$ref": node["$ref"]} if "$ref" in node else node


def push_type_into_unions(node: Json) -> Json:
    """The type beside a union moves into its branches."""
    kind = node.get("type")
    unions = [name for name in _UNION_KEYWORDS if isinstance(node.get(name), list)]
    if not unions or kind is None:
        return node
    made = {k: v for k, v in node.items() if k != "type"}
    for name in unions:
        made[name] = [_with_type(branch, kind) for branch in node[name]]
    return made


def _with_type(branch: Any, kind: Any) -> Any:
    told = not isinstance(branch, dict) or {"type", "$ref", *_UNION_KEYWORDS} & branch.keys()
    return branch if told else {"type": kind, **branch}


def convert_one_of(node: Json) -> Json:
    """``oneOf`` as ``anyOf``, which is the one that providers know."""
    if "oneOf" not in node or "anyOf" in node:
        return node
    return {"anyOf" if k == "oneOf" else k: v for k, v in node.items()}


def convert_const(node: Json) -> Json:
    return {"enum" if k == "const" else k: [v] if k == "const" else v for k, v in node.items()}


def convert_type_list(node: Json) -> Json:
    """A list of types as one type that may be null, or as a union."""
    kinds = node.get("type")
    if not isinstance(kinds, list):
        return node
    solid = [kind for kind in kinds if kind != "null"]
    made = {**node, **({"nullable": True} if len(solid) < len(kinds) else {})}
    if len(solid) == 1:
        return {**made, "type": solid[0]}
    del made["type"]
    return {**made, "anyOf": [{"type": kind} for kind in solid]}


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
    """Its subset: known keywords, enums of texts, properties behind every ``required``."""
    made = {k: v for k, v in node.items() if k in _GEMINI_KEYWORDS}
    if isinstance(made.get("enum"), list):
        made["enum"] = [str(value) for value in made["enum"] if value is not None]
        made["type"] = "string"
    if made.get("format") not in ("enum", "date-time"):
        made.pop("format", None)
    if isinstance(made.get("required"), list):
        there = list(made["properties"]) if isinstance(made.get("properties"), dict) else []
        made["required"] = [name for name in made["required"] if name in there]
    if made.get("type") == "array" and not isinstance(made.get("items"), dict):
        made["items"] = {"type": "string"}
    return made


# -- references ---------------------------------------------------------------------------------


class RefInliner:
    """Replaces every reference in a schema by what it refers to.

    A few references to references can be worth any number of nodes, so these are counted.
    """

    def __init__(self, schema: Json, max_nodes: int) -> None:
        self._schema = schema
        self._max_nodes = self._left = max_nodes
        self._targets: dict[str, Json] = {}

    def resolve(self, node: Any, open_refs: frozenset[str]) -> Any:
        """The node without references; ``open_refs`` are those that it is inside of."""
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
            return {"type": "object", **beside}  # it contains itself: any object will do
        if ref not in self._targets:
            self._targets[ref] = find_ref_target(self._schema, ref)
        inside = self.resolve(self._targets[ref], open_refs | {ref})
        return {**inside, **self.resolve(beside, open_refs)}


def inline_refs(schema: Json, max_nodes: int) -> Json:
    """The schema with every reference replaced by what it refers to."""
    made: Json = RefInliner(schema, max_nodes).resolve(schema, frozenset("#"))
    return made


_DEFINITION_KEYWORDS = ("$defs", "definitions")


def find_ref_target(schema: Json, ref: str) -> Json:
    """What a reference within the document points at; one that leads nowhere allows anything."""
    at: Any = schema
    for step in ref.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        at = at.get(name) if isinstance(at, dict) else None
    return at if isinstance(at, dict) else {}


def inline_unknown_refs(schema: Json, max_nodes: int) -> Json:
    """Refs that lead elsewhere than to a definition cannot stay."""
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
    "openai": lambda schema, most: schema,
    "plain": lambda schema, most: walk_schema(inline_refs(schema, most), _REWRITE_PLAIN),
    "moonshot": lambda schema, most: walk_schema(
        inline_unknown_refs(walk_schema(schema, rename_definitions), most), _REWRITE_MOONSHOT
    ),
    "gemini": lambda schema, most: walk_schema(inline_refs(schema, most), _REWRITE_GEMINI),
    "mistral": lambda schema, most: walk_schema(schema, _REWRITE_MISTRAL),
}
"""Name -> the schema as those who speak it take it, of at most so many nodes."""
