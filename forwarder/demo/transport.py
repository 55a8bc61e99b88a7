"""The HTTP of the demo: a request object in, a response object out, no socket between."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import httpx2

from forwarder.core.errors import ClientError, InvalidRequest, NotFound
from forwarder.demo import chat_reply, chat_request, responses_reply, responses_request
from forwarder.demo.answer import Answer, Prompt, answer
from forwarder.demo.embeddings import embedded
from forwarder.demo.reading import JSON, typed

MODEL = {"id": "demo", "object": "model", "created": 1704067200, "owned_by": "forwarder"}
MODELS = "/v1/models"
EMBEDDINGS = "/v1/embeddings"


class DemoTransport(httpx2.BaseTransport):
    """Answers Chat Completions, Responses, embeddings and model requests by itself.

    Whatever model a request names, the demo answers as it. Refusals are HTTP answers in
    OpenAI's shape; nothing is raised.
    """

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return _handle(request)
        except ClientError as error:
            return _json(error.body(), error.status)


class Api(NamedTuple):
    """One protocol: how it is read, told whole, told as events, and framed."""

    read: Callable[[JSON], Prompt]
    whole: Callable[[JSON, Answer, str, int], JSON]
    events: Callable[[JSON, Answer, str, int], Iterator[JSON]]
    frames: Callable[[Iterable[JSON]], Iterator[bytes]]


def _chat_frames(chunks: Iterable[JSON]) -> Iterator[bytes]:
    for chunk in chunks:
        yield b"data: " + _encoded(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _responses_frames(events: Iterable[JSON]) -> Iterator[bytes]:
    for event in events:
        yield b"event: " + event["type"].encode() + b"\ndata: " + _encoded(event) + b"\n\n"


APIS = {
    "/v1/chat/completions": Api(
        chat_request.read, chat_reply.whole, chat_reply.events, _chat_frames
    ),
    "/v1/responses": Api(
        responses_request.read, responses_reply.whole, responses_reply.events, _responses_frames
    ),
}


def _handle(request: httpx2.Request) -> httpx2.Response:
    path = request.url.path
    if request.method == "POST" and path in APIS:
        return _converse(APIS[path], _body(request.read()))
    if request.method == "POST" and path == EMBEDDINGS:
        return _json(embedded(_body(request.read())))
    if request.method == "GET" and path == MODELS:
        return _json({"object": "list", "data": [MODEL]})
    if request.method == "GET" and path.startswith(f"{MODELS}/"):
        return _json(_model(path.removeprefix(f"{MODELS}/")))
    raise NotFound(f"Invalid URL ({request.method} {path})")


def _converse(api: Api, request: JSON) -> httpx2.Response:
    reply = answer(api.read(request))
    telling = request, reply, uuid.uuid4().hex, int(time.time())
    if not request.get("stream"):
        return _json(api.whole(*telling))
    headers = {"content-type": "text/event-stream; charset=utf-8", **_mark()}
    return httpx2.Response(200, headers=headers, content=api.frames(api.events(*telling)))


def _body(content: bytes) -> JSON:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request: {error}"
        ) from error
    request: JSON = typed(body, (dict,), "body")
    return request


def _model(name: str) -> JSON:
    if name != MODEL["id"]:
        raise NotFound(f"The model '{name}' does not exist.", param="model", code="model_not_found")
    return MODEL


def _json(body: JSON, status: int = 200) -> httpx2.Response:
    headers = {"content-type": "application/json", **_mark()}
    return httpx2.Response(status, headers=headers, content=_encoded(body))


def _mark() -> dict[str, str]:
    return {"x-request-id": f"req_{uuid.uuid4().hex}"}


def _encoded(value: Any) -> bytes:
    # A lone surrogate is legal in JSON and impossible in UTF-8.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
