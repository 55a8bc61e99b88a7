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

Rewrite = Callable[[Json], Json]

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then",
           "else", "unevaluatedProperties")  # fmt: skip
_UNIONS = ("anyOf", "oneOf", "allOf")

_LARGE = 8192
"""Bytes from which a schema is not kept."""

_DEEP = 64
"""Levels after which a schema is taken to be without end."""

MAX_NODES = 50_000
"""Nodes that a schema may have when its references are inlined, unless a caller says otherwise."""


class SchemaTooLarge(Exception):
    """Inlining its references takes a schema beyond the limit, or too deep."""


def rewritten(schema: Json, dialect: str, max_nodes: int = MAX_NODES) -> Json:
    """The schema as the dialect has it; ``openai`` has it as it is.

    Clients send the same tools with every turn, so what was made of a schema is kept.
    Raises SchemaTooLarge if the dialect has no references and they are worth too much.
    """
    key = orjson.dumps(schema)
    if len(key) < _LARGE:
        return _kept(key, dialect, max_nodes)
    return _rewrite(schema, dialect, max_nodes)


def _rewrite(schema: Json, dialect: str, max_nodes: int) -> Json:
    try:
        return DIALECTS[dialect](schema, max_nodes)
    except RecursionError:
        raise SchemaTooLarge("it is nested too deeply") from None


@functools.lru_cache(512)
def _kept(schema: bytes, dialect: str, max_nodes: int) -> Json:
    return _rewrite(orjson.loads(schema), dialect, max_nodes)


def _walk(node: Any, rewrite: Rewrite) -> Any:
    """Rewrite a node, then the schemas inside of it; ``properties`` hold names, not keywords."""
    if not isinstance(node, dict):
        return node
    made: Json = {}
    for key, value in rewrite(node).items():
        if key in _MAPS and isinstance(value, dict):
            made[key] = {name: _walk(inner, rewrite) for name, inner in value.items()}
        elif key in _LISTS + _SINGLE and isinstance(value, list):
            made[key] = [_walk(inner, rewrite) for inner in value]
        elif key in _SINGLE:
            made[key] = _walk(value, rewrite)
        else:
            made[key] = value
    return made


def _chain(*rewrites: Rewrite) -> Rewrite:
    def rewrite(node: Json) -> Json:
        for step in rewrites:
            node = step(node)
        return node

    return rewrite


# -- rewrites of a node -------------------------------------------------------------------------


def _without(*names: str) -> Rewrite:
    gone = frozenset(names)
    return lambda node: {k: v for k, v in node.items() if k not in gone}


def _tuples_as_unions(node: Json) -> Json:
    """Items that differ by place become items of any of the kinds."""
    listed = node.get("prefixItems") or node.get("items")
    if not isinstance(listed, list):
        return node
    rest = {k: v for k, v in node.items() if k not in ("prefixItems", "items", "additionalItems")}
    kinds = [kind for kind in listed if isinstance(kind, dict)]
    return {**rest, "items": {"anyOf": kinds} if len(kinds) > 1 else (kinds or [{}])[0]}


def _definitions(node: Json) -> Json:
    """The older name of ``$defs``, and what refers to it."""
    made = dict(node)
    ref = made.get("$ref")
    if isinstance(ref, str):
        made["$ref"] = ref.replace("#/definitions/", "#/$defs/")
    if isinstance(made.get("definitions"), dict):
        made["$defs"] = {**made.pop("definitions"), **made.get("$defs", {})}
    return made


def _lone_ref(node: Json) -> Json:
    return {"$ref": node["$ref"]} if "$ref" in node else node


def _typed_unions(node: Json) -> Json:
    """The type beside a union moves into its branches."""
    kind = node.get("type")
    unions = [name for name in _UNIONS if isinstance(node.get(name), list)]
    if not unions or kind is None:
        return node
    made = {k: v for k, v in node.items() if k != "type"}
    for name in unions:
        made[name] = [_with_type(branch, kind) for branch in node[name]]
    return made


def _with_type(branch: Any, kind: Any) -> Any:
    told = not isinstance(branch, dict) or {"type", "$ref", *_UNIONS} & branch.keys()
    return branch if told else {"type": kind, **branch}


def _any_of(node: Json) -> Json:
    """``oneOf`` as ``anyOf``, which is the one that providers know."""
    if "oneOf" not in node or "anyOf" in node:
        return node
    return {"anyOf" if k == "oneOf" else k: v for k, v in node.items()}


def _constant(node: Json) -> Json:
    return {"enum" if k == "const" else k: [v] if k == "const" else v for k, v in node.items()}


def _nullable(node: Json) -> Json:
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


_GEMINI = frozenset(
    {
        "type", "format", "title", "description", "nullable", "enum", "items", "properties",
        "required", "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength",
        "pattern", "anyOf", "minProperties", "maxProperties",
    }
)  # fmt: skip


def _gemini_only(node: Json) -> Json:
    """Its subset: known keywords, enums of texts, properties behind every ``required``."""
    made = {k: v for k, v in node.items() if k in _GEMINI}
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


class _Inliner:
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
            return {k: self.resolve(v, open_refs) for k, v in node.items() if k not in _SHELVES}
        beside = {k: v for k, v in node.items() if k != "$ref"}
        if ref in open_refs or len(open_refs) > _DEEP:
            return {"type": "object", **beside}  # it contains itself: any object will do
        if ref not in self._targets:
            self._targets[ref] = _found(self._schema, ref)
        inside = self.resolve(self._targets[ref], open_refs | {ref})
        return {**inside, **self.resolve(beside, open_refs)}


def _inlined(schema: Json, max_nodes: int) -> Json:
    """The schema with every reference replaced by what it refers to."""
    made: Json = _Inliner(schema, max_nodes).resolve(schema, frozenset("#"))
    return made


_SHELVES = ("$defs", "definitions")


def _found(schema: Json, ref: str) -> Json:
    """What a reference within the document points at; one that leads nowhere allows anything."""
    at: Any = schema
    for step in ref.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        at = at.get(name) if isinstance(at, dict) else None
    return at if isinstance(at, dict) else {}


def _only_known_refs(schema: Json, max_nodes: int) -> Json:
    """Refs that lead elsewhere than to a definition cannot stay."""
    known = all(ref.startswith("#/$defs/") for ref in _refs(schema))
    return schema if known else _inlined(schema, max_nodes)


def _refs(schema: Json) -> Iterator[str]:
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

_HEADERS = _without("$schema", "$id", "$comment", "$anchor")
_PLAIN = _chain(_HEADERS, _tuples_as_unions, _constant)
_MOONSHOT = _chain(_HEADERS, _definitions, _lone_ref, _tuples_as_unions, _any_of, _typed_unions)
_SUBSET = _chain(_tuples_as_unions, _any_of, _constant, _nullable, _gemini_only)
_MISTRAL = _without("$id", "$schema", "strict", "additionalProperties")

DIALECTS: dict[str, Callable[[Json, int], Json]] = {
    "openai": lambda schema, most: schema,
    "plain": lambda schema, most: _walk(_inlined(schema, most), _PLAIN),
    "moonshot": lambda schema, most: _walk(
        _only_known_refs(_walk(schema, _definitions), most), _MOONSHOT
    ),
    "gemini": lambda schema, most: _walk(_inlined(schema, most), _SUBSET),
    "mistral": lambda schema, most: _walk(schema, _MISTRAL),
}
"""Name -> the schema as those who speak it take it, of at most so many nodes."""
