"""The operations of OpenAI's API for answers, conversations and models."""

from __future__ import annotations

from forwarder.core.errors import StoreUnavailable, Unauthorized, UpgradeRefused
from forwarder.core.types import Json
from forwarder.openapi.operation import (
    ADMITTED,
    EVENTS,
    GENERATION,
    JSON,
    STORED,
    UPSTREAM,
    Answer,
    Operation,
    answer_json,
    make_query,
    refer_to_parameter,
)
from forwarder.openapi.schemas import make_list, make_object, refer
from forwarder.server.conversations import MAX_ITEMS_PER_REQUEST
from forwarder.storage import pagination
from forwarder.storage.include_filter import HIDDEN_FIELDS

_METADATA: Json = refer("Metadata")
_METADATA_REQUEST = {JSON: make_object({"metadata": _METADATA}, ("metadata",))}

SSE_NOTE = "With `stream`, server-sent events; `x-itemSchema` has the type of their `data`."
_STREAMED_HEADERS = ("X-Forwarder-Upstream", "X-Forwarder-Dropped")
_STRICT = refer_to_parameter("Strict")


def make_page_parameters(
    order: str, max_size: int = pagination.MAX_PAGE_SIZE, default: int = 20, before: bool = False
) -> tuple[Json, ...]:
    """Return the query parameters of a list; ``order`` is its default order."""
    limit = {"type": "integer", "minimum": 1, "maximum": max_size, "default": default}
    parameters = (
        make_query("limit", limit, "The number of entries."),
        make_query(
            "order",
            {"type": "string", "enum": ["asc", "desc"], "default": order},
            "By time of creation.",
        ),
        make_query("after", {"type": "string"}, "The id of the entry before the page."),
    )
    if not before:
        return parameters
    return (*parameters, make_query("before", {"type": "string"}, "The id of the entry after it."))


_INCLUDE = make_query(
    "include",
    {"type": "array", "items": {"type": "string", "enum": list(HIDDEN_FIELDS)}},
    "Fields that are shown only on request. `include[]` is accepted too.",
    style="form",
    explode=True,
)

_HI: Json = {"role": "user", "content": "Say hi."}

CHAT: dict[str, Operation] = {
    "POST /v1/chat/completions": Operation(
        answers=(
            Answer(
                {JSON: refer("ChatCompletion"), EVENTS: refer("ChatCompletionChunk")},
                f"{SSE_NOTE} The last event is `[DONE]`. An error in a stream is an event with "
                "`error`.",
                headers=_STREAMED_HEADERS,
            ),
        ),
        errors=GENERATION,
        body={JSON: refer("ChatCompletionRequest")},
        parameters=(_STRICT, refer_to_parameter("ChatReasoning")),
        is_relayed=True,
        example={"model": "demo", "messages": [_HI]},
    ),
    "GET /v1/chat/completions": Operation(
        answers=answer_json(make_list(refer("ChatCompletion"))),
        errors=STORED,
        parameters=(
            *make_page_parameters("asc"),
            make_query("model", {"type": "string", "maxLength": 256}, "Only those of this model."),
            make_query(
                "metadata",
                {"type": "object", "additionalProperties": {"type": "string"}},
                "Only those with this metadata: `metadata[key]=value`.",
                style="deepObject",
                explode=True,
            ),
        ),
    ),
    "GET /v1/chat/completions/{name}": Operation(
        answers=answer_json("ChatCompletion"), errors=STORED
    ),
    "POST /v1/chat/completions/{name}": Operation(
        answers=answer_json("ChatCompletion"), errors=STORED, body=_METADATA_REQUEST
    ),
    "DELETE /v1/chat/completions/{name}": Operation(
        answers=answer_json("ChatCompletionDeleted"), errors=STORED
    ),
    "GET /v1/chat/completions/{name}/messages": Operation(
        answers=answer_json(make_list(refer("StoredMessage"))),
        errors=STORED,
        parameters=make_page_parameters("asc"),
    ),
}

_RESPONSE_ANSWER = Answer(
    {JSON: refer("Response"), EVENTS: refer("ResponseStreamEvent")},
    f"{SSE_NOTE} The last event is `response.completed`, `response.incomplete` or "
    "`response.failed`.",
    headers=_STREAMED_HEADERS,
)

RESPONSES: dict[str, Operation] = {
    "POST /v1/responses": Operation(
        answers=(_RESPONSE_ANSWER,),
        errors=GENERATION,
        body={JSON: refer("ResponseRequest")},
        parameters=(_STRICT, refer_to_parameter("ResponsesReasoning")),
        is_relayed=True,
        example={"model": "demo", "input": "Say hi."},
    ),
    "GET /v1/responses": Operation(
        answers=(Answer({}, "A WebSocket, on which each message is a request.", 101),),
        errors=(*ADMITTED, Unauthorized, UpgradeRefused),
        summary="Open a WebSocket. Without a handshake, the answer is 426.",
        parameters=tuple(
            {"name": name, "in": "header", "schema": {"type": "string"}, "description": text}
            for name, text in (
                ("Sec-WebSocket-Key", "16 random bytes in base64."),
                ("Sec-WebSocket-Version", "`13`."),
            )
        ),
    ),
    "POST /v1/responses/compact": Operation(
        answers=answer_json("Compaction", headers=_STREAMED_HEADERS),
        errors=GENERATION,
        body={JSON: refer("ResponseRequest")},
        parameters=(_STRICT,),
        is_relayed=True,
        example={"model": "demo", "input": [_HI]},
    ),
    "POST /v1/responses/input_tokens": Operation(
        answers=answer_json(
            make_object(
                {
                    "object": {"const": "response.input_tokens"},
                    "input_tokens": {"type": "integer", "minimum": 0},
                },
                ("object", "input_tokens"),
            ),
            headers=("X-Forwarder-Estimated",),
        ),
        errors=STORED,
        body={JSON: refer("ResponseRequest")},
        example={"input": "Say hi."},
    ),
    "GET /v1/responses/{name}": Operation(
        answers=(_RESPONSE_ANSWER,),
        errors=STORED,
        parameters=(
            _INCLUDE,
            make_query("stream", {"type": "boolean"}, "Answer with the events."),
            make_query("starting_after", {"type": "integer"}, "Stream the events after this one."),
        ),
    ),
    "DELETE /v1/responses/{name}": Operation(
        answers=answer_json(
            make_object(
                {
                    "id": {"type": "string"},
                    "object": {"const": "response"},
                    "deleted": {"const": True},
                },
                ("id", "object", "deleted"),
            )
        ),
        errors=STORED,
    ),
    "POST /v1/responses/{name}/cancel": Operation(answers=answer_json("Response"), errors=STORED),
    "GET /v1/responses/{name}/input_items": Operation(
        answers=answer_json(make_list(refer("StoredItem"))),
        errors=STORED,
        parameters=(*make_page_parameters("desc"), _INCLUDE),
    ),
}

_ITEMS: Json = {
    "type": "array",
    "items": {"anyOf": [refer("ResponseInputItem"), {"type": "object"}]},
    "maxItems": MAX_ITEMS_PER_REQUEST,
}

CONVERSATIONS: dict[str, Operation] = {
    "POST /v1/conversations": Operation(
        answers=answer_json("Conversation"),
        errors=STORED,
        body={
            JSON: make_object(
                {
                    "metadata": refer("MetadataOrNull"),
                    "items": {**_ITEMS, "type": ["array", "null"]},
                }
            )
        },
        is_body_required=False,
    ),
    "GET /v1/conversations/{name}": Operation(answers=answer_json("Conversation"), errors=STORED),
    "POST /v1/conversations/{name}": Operation(
        answers=answer_json("Conversation"), errors=STORED, body=_METADATA_REQUEST
    ),
    "DELETE /v1/conversations/{name}": Operation(
        answers=answer_json("ConversationDeletedResource"), errors=STORED
    ),
    "GET /v1/conversations/{name}/items": Operation(
        answers=answer_json(make_list(refer("StoredConversationItem"))),
        errors=STORED,
        parameters=make_page_parameters("desc"),
    ),
    "POST /v1/conversations/{name}/items": Operation(
        answers=answer_json(make_list(refer("StoredConversationItem"))),
        errors=STORED,
        body={JSON: make_object({"items": _ITEMS}, ("items",))},
    ),
    "GET /v1/conversations/{name}/items/{item_id}": Operation(
        answers=answer_json("StoredConversationItem"), errors=STORED
    ),
    "DELETE /v1/conversations/{name}/items/{item_id}": Operation(
        answers=answer_json("Conversation"), errors=STORED
    ),
}

MODELS: dict[str, Operation] = {
    "GET /v1/models": Operation(
        answers=answer_json(
            make_object(
                {
                    "object": {"const": "list"},
                    "data": {"type": "array", "items": refer("Model")},
                    "models": {
                        "type": "array",
                        "items": {"type": "object"},
                        "description": "Codex's catalog, if the query has `client_version`.",
                    },
                },
                ("object", "data"),
            )
        ),
        errors=(Unauthorized, StoreUnavailable),
        parameters=(
            make_query("client_version", {"type": "string"}, "The version of Codex that asks."),
        ),
    ),
    "GET /v1/models/{model}": Operation(
        answers=answer_json("Model"), errors=(*STORED[-1:], Unauthorized, StoreUnavailable)
    ),
    "POST /v1/embeddings": Operation(
        answers=answer_json("CreateEmbeddingResponse", headers=_STREAMED_HEADERS),
        errors=UPSTREAM,
        body={JSON: refer("EmbeddingRequest")},
        is_relayed=True,
        example={"model": "demo", "input": "Say hi."},
    ),
    "POST /v1/alpha/search": Operation(
        answers=answer_json(make_object({"output": {"type": "string"}}, ("output",))),
        errors=UPSTREAM,
        body={JSON: refer("SearchRequest")},
        example={"commands": {"search_query": [{"q": "OpenAPI"}]}},
    ),
}
