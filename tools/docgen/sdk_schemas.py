"""JSON schemas of the SDK's own types, which the OpenAPI document refers to.

They are written to a file of the package, because making them takes a second and needs the SDK's
types of all APIs, which a server does not load. The file changes only with the version of the SDK.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai import types
from openai.types import chat, conversations, responses, vector_stores
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from tools.docgen.blocks import ROOT

FILE = "forwarder/openapi/sdk_schemas.json"

PREFIX = "#/components/schemas/"

ROOTS: dict[str, Any] = {
    "ChatCompletionRequest": completion_create_params.CompletionCreateParamsNonStreaming,
    "ChatCompletion": chat.ChatCompletion,
    "ChatCompletionChunk": chat.ChatCompletionChunk,
    "ChatCompletionDeleted": chat.ChatCompletionDeleted,
    "ChatCompletionStoreMessage": chat.ChatCompletionStoreMessage,
    "ResponseRequest": response_create_params.ResponseCreateParamsNonStreaming,
    "ResponseInputItem": responses.ResponseInputItemParam,
    "Response": responses.Response,
    "ResponseStreamEvent": responses.ResponseStreamEvent,
    "ResponseItem": responses.ResponseItem,
    "CompactedResponse": responses.CompactedResponse,
    "EmbeddingRequest": types.EmbeddingCreateParams,
    "CreateEmbeddingResponse": types.CreateEmbeddingResponse,
    "Model": types.Model,
    "FileObject": types.FileObject,
    "FileDeleted": types.FileDeleted,
    "ImageGenerationRequest": types.image_generate_params.ImageGenerateParamsNonStreaming,
    "ImagesResponse": types.ImagesResponse,
    "ImageGenStreamEvent": types.ImageGenStreamEvent,
    "ImageEditStreamEvent": types.ImageEditStreamEvent,
    "Conversation": conversations.Conversation,
    "ConversationItem": conversations.ConversationItem,
    "ConversationDeletedResource": conversations.ConversationDeletedResource,
    "VectorStoreRequest": types.VectorStoreCreateParams,
    "VectorStoreUpdateRequest": types.VectorStoreUpdateParams,
    "VectorStoreSearchRequest": types.VectorStoreSearchParams,
    "VectorStoreFileRequest": vector_stores.FileCreateParams,
    "VectorStoreFileUpdateRequest": vector_stores.FileUpdateParams,
    "VectorStoreFileBatchRequest": vector_stores.FileBatchCreateParams,
    "VectorStore": types.VectorStore,
    "VectorStoreDeleted": types.VectorStoreDeleted,
    "VectorStoreSearchResponse": types.VectorStoreSearchResponse,
    "VectorStoreFile": vector_stores.VectorStoreFile,
    "VectorStoreFileDeleted": vector_stores.VectorStoreFileDeleted,
    "VectorStoreFileBatch": vector_stores.VectorStoreFileBatch,
    "FileContentResponse": vector_stores.FileContentResponse,
}
"""Name in the document -> type of the SDK."""

_QUALIFIED = re.compile(r"openai__types__(?:\w+__)?(?P<module>\w+?)__(?P<name>\w+?)$")
"""Pydantic's name for a type whose plain name occurs in several modules."""

Schemas = dict[str, Any]


def render_schemas() -> str:
    """Return the schemas as a JSON object, each on a line of its own."""
    lines = (
        f"{json.dumps(name)}:{json.dumps(schema, separators=(',', ':'))}"
        for name, schema in sorted(make_schemas().items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def make_schemas() -> Schemas:
    """Return name -> schema of all types in `ROOTS` and of those that they refer to."""
    inputs = [(name, "validation", TypeAdapter[Any](kind)) for name, kind in ROOTS.items()]
    roots, rest = TypeAdapter.json_schemas(inputs, ref_template=PREFIX + "{model}")  # type: ignore[arg-type]
    schemas: Schemas = {name: drop_noise(schema) for name, schema in rest["$defs"].items()}
    for (name, _), root in roots.items():
        target = root.get("$ref", "").removeprefix(PREFIX)
        if target == name:
            continue
        schemas[name] = schemas[target] if target else drop_noise(root)
    return drop_unused(shorten_names(merge_equal(schemas)))


def drop_noise(schema: Any) -> Any:
    """Return a schema without generated titles and null defaults, its enums and unions sorted.

    Newer versions of Python do not keep the order in which the SDK lists the values of an enum, and
    all of them may give an equal union the order of the one that was imported first.
    """
    if isinstance(schema, list):
        return [drop_noise(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept: Schemas = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: drop_noise(inner) for name, inner in value.items()}
        elif key == "enum" and isinstance(value, list):
            kept[key] = sorted(value, key=str)
        elif key == "anyOf":
            kept[key] = sorted(map(drop_noise, value), key=rank_alternative)
        elif not (key == "title" and isinstance(value, str)) and (key, value) != ("default", None):
            kept[key] = drop_noise(value)
    return kept


def rank_alternative(schema: Any) -> tuple[bool, str]:
    """Order the alternatives of a union: null last."""
    return schema == {"type": "null"}, json.dumps(schema, sort_keys=True)


def merge_equal(schemas: Schemas) -> Schemas:
    """Merge equal schemas under one name, until no two schemas are equal."""
    while True:
        first: dict[str, str] = {}
        names = {
            name: first.setdefault(json.dumps(schema, sort_keys=True), name)
            for name, schema in sorted(schemas.items(), key=rank_name)
        }
        names |= {name: name for name in ROOTS}
        kept = {name: schema for name, schema in schemas.items() if names[name] == name}
        renamed = rename_references(kept, names)
        if len(renamed) == len(schemas):
            return renamed
        schemas = renamed


def rank_name(item: tuple[str, Any]) -> tuple[bool, int, str]:
    """Order the names of equal schemas: roots first, then the shortest."""
    name, _ = item
    return name not in ROOTS, len(name), name


def shorten_names(schemas: Schemas) -> Schemas:
    """Shorten qualified names, with the module in the name only where it is needed."""
    names: dict[str, str] = {}
    for name in sorted(schemas, key=lambda each: ("__" in each, each)):
        taken = {*schemas, *names.values()} - {name}
        names[name] = next(each for each in suggest_names(name) if each not in taken)
    return {names[name]: schema for name, schema in rename_references(schemas, names).items()}


def suggest_names(name: str) -> Iterator[str]:
    """Yield shorter names for a type, the best first, and its own name last."""
    match = _QUALIFIED.match(name)
    if match:
        module = "".join(map(str.capitalize, match["module"].split("_")))
        short = match["name"] if module.lower() == match["name"].lower() else module + match["name"]
        yield short
        yield f"{short}Param"
    yield name


def rename_references(schemas: Schemas, names: dict[str, str]) -> Schemas:
    """Return the schemas with new names in their references."""

    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            key: PREFIX + names[inner.removeprefix(PREFIX)]
            if key == "$ref" and isinstance(inner, str)
            else rename(inner)
            for key, inner in value.items()
        }

    return {name: rename(schema) for name, schema in schemas.items()}


def drop_unused(schemas: Schemas) -> Schemas:
    """Return the roots and what they refer to."""
    used, waiting = set(), list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting += re.findall(f'"{PREFIX}(\\w+)"', json.dumps(schemas[name]))
    return {name: schema for name, schema in schemas.items() if name in used}


def write_schemas(root: Path = ROOT) -> None:
    """Write the file of the schemas below ``root``."""
    (root / FILE).write_text(render_schemas(), encoding="utf-8")
