"""The operations of Ollama's API."""

from __future__ import annotations

from forwarder.console.landing import GREETING
from forwarder.core.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    Unauthorized,
)
from forwarder.core.types import Json
from forwarder.openapi.operation import (
    BODY,
    GENERATION,
    HTML,
    JSON,
    LINES,
    TEXT,
    UPSTREAM,
    Access,
    Answer,
    Operation,
    answer_json,
    refer_to_parameter,
)
from forwarder.openapi.schemas import make_object, refer

_LINES_NOTE = (
    "JSON lines, or one JSON object with `stream: false`. An error in a stream is a line with "
    "`error`."
)
_HI: Json = {"role": "user", "content": "Say hi."}
_EMPTY = (Answer({}, "Success, without a body."),)
_ADMIN_BODY = (*BODY, Unauthorized, Forbidden)
_MODELS = make_object({"models": {"type": "array", "items": refer("OllamaModel")}}, ("models",))
_MODEL_REQUEST = {JSON: refer("OllamaModelRequest")}


def answer_lines(line: str, whole: str | None = None) -> tuple[Answer, ...]:
    lines = {"anyOf": [refer(line), refer("OllamaError")]}
    return (Answer({LINES: lines, JSON: refer(whole or line)}, _LINES_NOTE),)


OLLAMA: dict[str, Operation] = {
    "GET /": Operation(
        answers=(Answer({TEXT: {"const": GREETING}, HTML: {"type": "string"}}),),
        access=Access.EVERYBODY,
        has_error_pages=True,
    ),
    "GET /api/version": Operation(
        answers=answer_json(make_object({"version": {"type": "string"}}, ("version",))),
        access=Access.EVERYBODY,
    ),
    "POST /api/chat": Operation(
        answers=answer_lines("OllamaChatLine"),
        errors=GENERATION,
        body={JSON: refer("OllamaChatRequest")},
        parameters=(refer_to_parameter("Strict"),),
        is_relayed=True,
        example={"model": "demo", "messages": [_HI], "stream": False},
    ),
    "POST /api/generate": Operation(
        answers=answer_lines("OllamaGenerateLine"),
        errors=GENERATION,
        body={JSON: refer("OllamaGenerateRequest")},
        parameters=(refer_to_parameter("Strict"),),
        is_relayed=True,
        example={"model": "demo", "prompt": "Say hi.", "stream": False},
    ),
    "POST /api/embed": Operation(
        answers=answer_json("OllamaEmbedAnswer"),
        errors=UPSTREAM,
        body={JSON: refer("OllamaEmbedRequest")},
        is_relayed=True,
        example={"model": "demo", "input": "Say hi."},
    ),
    "POST /api/embeddings": Operation(
        answers=answer_json(make_object({"embedding": refer("Vector")}, ("embedding",))),
        errors=UPSTREAM,
        body={JSON: refer("OllamaEmbeddingsRequest")},
        is_relayed=True,
        example={"model": "demo", "prompt": "Say hi."},
    ),
    "GET /api/tags": Operation(
        answers=answer_json(_MODELS),
        errors=(Unauthorized, StoreUnavailable),
    ),
    "GET /api/ps": Operation(answers=answer_json(_MODELS), errors=(Unauthorized, StoreUnavailable)),
    "POST /api/show": Operation(
        answers=answer_json("OllamaModelDescription"),
        errors=(*BODY, Unauthorized, NotFound),
        body={JSON: refer("OllamaShowRequest")},
        example={"model": "demo"},
    ),
    "POST /api/pull": Operation(
        answers=answer_lines("OllamaStatus"),
        errors=(*BODY, Unauthorized, NotFound),
        body={JSON: refer("OllamaPullRequest")},
        example={"model": "demo", "stream": False},
    ),
    "POST /api/create": Operation(
        answers=answer_lines("OllamaStatus"),
        errors=(*_ADMIN_BODY, NotFound, StoreUnavailable),
        access=Access.ADMINISTRATOR,
        body={JSON: refer("OllamaCreateRequest")},
        example={"model": "fast", "from": "demo"},
    ),
    "POST /api/copy": Operation(
        answers=_EMPTY,
        errors=(*_ADMIN_BODY, NotFound, StoreUnavailable),
        access=Access.ADMINISTRATOR,
        body={
            JSON: make_object(
                {"source": {"type": "string"}, "destination": {"type": "string"}},
                ("source", "destination"),
            )
        },
    ),
    "DELETE /api/delete": Operation(
        answers=_EMPTY,
        errors=(*_ADMIN_BODY, NotFound, StoreUnavailable),
        access=Access.ADMINISTRATOR,
        body=_MODEL_REQUEST,
    ),
    "POST /api/push": Operation(answers=(), errors=(InvalidRequest, Unauthorized)),
    "HEAD /api/blobs/{digest}": Operation(answers=(), errors=(InvalidRequest, Unauthorized)),
    "POST /api/blobs/{digest}": Operation(answers=(), errors=(InvalidRequest, Unauthorized)),
}
