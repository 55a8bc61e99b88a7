"""The schemas of OpenAI's API in which the forwarder differs from the SDK, or accepts more."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json
from forwarder.hosted_tools.codex_search import COMMANDS, RESPONSE_LENGTHS
from forwarder.openapi.schemas import (
    OBJECT,
    TEXT,
    accept_null,
    accept_types,
    add_properties,
    describe_items,
    list_alternatives,
    load_sdk_schemas,
    make_object,
    make_request,
    refer,
)
from forwarder.protocols.chat import CHAT
from forwarder.protocols.protocol import UpstreamProtocol
from forwarder.protocols.responses import RESPONSES
from forwarder.server.stored_files import PURPOSES
from forwarder.server.vector_stores import (
    MAX_BATCH_FILES,
    MAX_DESCRIPTION_LENGTH,
    MAX_EXPIRY_DAYS,
    MAX_NAME_LENGTH,
    MAX_STORE_FILES_AT_CREATION,
)
from forwarder.vector_stores.attributes import MAX_ATTRIBUTES, MAX_KEY_LENGTH, MAX_VALUE_LENGTH
from forwarder.vector_stores.search import MAX_QUERIES, MAX_QUERY_LENGTH, MAX_RESULTS

_METADATA: Json = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}

_ATTRIBUTES: Json = accept_types(
    "object",
    maxProperties=MAX_ATTRIBUTES,
    propertyNames={"maxLength": MAX_KEY_LENGTH},
    additionalProperties={"type": ["string", "number", "boolean"], "maxLength": MAX_VALUE_LENGTH},
)

_EXPIRY = {
    **make_object(
        {
            "anchor": {"const": "last_active_at"},
            "days": {"type": "integer", "minimum": 1, "maximum": MAX_EXPIRY_DAYS},
        },
        ("anchor", "days"),
    ),
    "type": ["object", "null"],
}
_NAME = accept_types("string", maxLength=MAX_NAME_LENGTH)

_SHAPE_NOTE = (
    "Parameters that the upstream's API lacks are translated, emulated, dropped or refused, as "
    "their descriptions say; for an upstream with the same API they are sent unchanged. Dropped "
    "parameters are named in the header `X-Forwarder-Dropped`. `model` may be left out if the "
    "operator has set a default model."
)


def limit_ids(max_count: int) -> Json:
    return accept_types("array", items=TEXT, maxItems=max_count)


def make_query_schema() -> Json:
    text = {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_LENGTH}
    return {
        "anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_QUERIES}]
    }


def make_image_edit_form() -> Json:
    """Return the form of an image edit, with the fields of the JSON request."""
    known = load_sdk_schemas()["ImageGenerationRequest"]["properties"]
    file = {"type": "string", "format": "binary"}
    return make_object({**known, "image": file, "image[]": file, "mask": file}, ("prompt",))


def make_generation_request(protocol: UpstreamProtocol, over: str, sdk: str, **more: Any) -> Json:
    """Return the schema of a request whose typed objects have dispositions of their own."""
    schema = make_request(protocol.parameters, over, sdk, **more)
    for title, table in protocol.item_tables.items():
        name = title if title in schema["properties"] else protocol.conversation.parameter
        schema["properties"][name]["description"] += describe_items(title, table)
    return schema


def make_call_delta() -> Json:
    """Return the piece of a call in a chunk; the SDK has no type for calls of custom tools."""
    known = load_sdk_schemas()["ChoiceDeltaToolCall"]
    custom = make_object({"name": TEXT, "input": TEXT})
    return add_properties(known, type={"enum": ["function", "custom", None]}, custom=custom)


def accept_parts(sdk: str) -> Json:
    """Return a message whose content may be parts, as in the reasoning style ``parts``."""
    known = load_sdk_schemas()[sdk]
    content = [
        *list_alternatives(known["properties"]["content"]),
        {"type": "array", "items": OBJECT},
    ]
    return add_properties(known, content={"anyOf": [*content, {"type": "null"}]})


def make_embedding() -> Json:
    """Return an embedding; the SDK asks for base64 and decodes it."""
    known = load_sdk_schemas()["Embedding"]
    vector = known["properties"]["embedding"]
    return add_properties(known, embedding={"anyOf": [vector, {**TEXT, "format": "byte"}]})


def make_file_object() -> Json:
    """Return a file; the SDK knows fewer purposes of stored files than of uploads."""
    known = load_sdk_schemas()["FileObject"]
    purposes = dict.fromkeys((*known["properties"]["purpose"]["enum"], *PURPOSES))
    return add_properties(known, purpose={"enum": list(purposes)})


def make_openai_schemas() -> dict[str, Json]:
    """Return the schemas of OpenAI's API in which the forwarder differs from the SDK."""
    as_sent = make_object({"id": TEXT}, ("id",), description="As the client sent it.")
    return {
        "ChoiceDeltaToolCall": make_call_delta(),
        "ChatCompletionMessage": accept_parts("ChatCompletionMessage"),
        "ChoiceDelta": accept_parts("ChoiceDelta"),
        "Embedding": make_embedding(),
        "StoredItem": {"anyOf": [refer("ResponseItem"), as_sent]},
        "StoredConversationItem": {"anyOf": [refer("ConversationItem"), as_sent]},
        "FileObject": make_file_object(),
        "Metadata": _METADATA,
        "MetadataOrNull": {**_METADATA, "type": ["object", "null"]},
        "ChatCompletionRequest": make_generation_request(
            CHAT,
            "Over Responses upstreams",
            "ChatCompletionRequest",
            description=f"{_SHAPE_NOTE} A body with `input` and without `messages` is accepted "
            "too, as Cursor sends it.",
            anyOf=[{"required": ["messages"]}, {"required": ["input"]}],
        ),
        "ResponseRequest": make_generation_request(
            RESPONSES,
            "Over Chat upstreams",
            "ResponseRequest",
            description=_SHAPE_NOTE,
        ),
        "EmbeddingRequest": accept_null("EmbeddingRequest"),
        "ImageGenerationRequest": accept_null("ImageGenerationRequest"),
        "ImageEditRequest": make_object(
            {**accept_null("ImageGenerationRequest")["properties"], "images": {"type": "array"}},
            ("prompt",),
        ),
        "ImageEditForm": make_image_edit_form(),
        "VectorStoreRequest": accept_null(
            "VectorStoreRequest",
            name=_NAME,
            description=accept_types("string", maxLength=MAX_DESCRIPTION_LENGTH),
            metadata=refer("MetadataOrNull"),
            expires_after=_EXPIRY,
            file_ids=limit_ids(MAX_STORE_FILES_AT_CREATION),
        ),
        "VectorStoreUpdateRequest": accept_null(
            "VectorStoreUpdateRequest",
            name=_NAME,
            metadata=refer("MetadataOrNull"),
            expires_after=_EXPIRY,
        ),
        "VectorStoreSearchRequest": accept_null(
            "VectorStoreSearchRequest",
            query=make_query_schema(),
            max_num_results=accept_types("integer", minimum=1, maximum=MAX_RESULTS),
        ),
        "VectorStoreFileRequest": accept_null("VectorStoreFileRequest", attributes=_ATTRIBUTES),
        "VectorStoreFileUpdateRequest": make_object({"attributes": _ATTRIBUTES}, ("attributes",)),
        "VectorStoreFileBatchRequest": {
            **accept_null(
                "VectorStoreFileBatchRequest",
                attributes=_ATTRIBUTES,
                file_ids=limit_ids(MAX_BATCH_FILES),
                files=accept_types(
                    "array", items=refer("VectorStoreFileRequest"), maxItems=MAX_BATCH_FILES
                ),
            ),
            "anyOf": [{"required": ["file_ids"]}, {"required": ["files"]}],
        },
        "StoredMessage": make_object(
            {"id": TEXT, "role": TEXT, "content": accept_types("string")}, ("id", "content")
        ),
        "Compaction": make_object(
            {
                "id": TEXT,
                "object": {"const": "response.compaction"},
                "created_at": {"type": "number"},
                "output": {"type": "array", "items": OBJECT},
                "usage": OBJECT,
            },
            ("id", "object", "created_at", "output"),
            description="The messages of the user, and an item that replaces the rest.",
        ),
        "SearchRequest": make_object(
            {
                "commands": accept_types(
                    "object",
                    properties={
                        **{name: accept_types("array", items=OBJECT) for name in COMMANDS},
                        "response_length": {"enum": [*RESPONSE_LENGTHS, None]},
                    },
                ),
                "settings": accept_types("object"),
                "max_output_tokens": accept_types("integer", minimum=1),
            }
        ),
    }
