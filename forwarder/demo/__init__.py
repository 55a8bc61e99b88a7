"""The built-in demo upstream: it speaks both APIs and needs neither key nor network.

The forwarder uses it when no upstream is configured. It replaces the network transport below the
SDK, so all other code works as with a real provider:

    openai.OpenAI(
        api_key="demo",
        base_url="http://demo.invalid/v1",
        http_client=httpx2.Client(transport=DemoTransport()),
    )

    DemoTransport ─▶ chat / responses    validate a request and parse it to a DemoPrompt
                  ─▶ answer              make a deterministic DemoAnswer from the DemoPrompt
                  ─▶ chat / responses    serialize the DemoAnswer, whole or as a stream

It validates requests as strictly as OpenAI does, marks every text as a demo, and keeps no state
between requests.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import httpx2

from forwarder.core.errors import ClientError, InvalidRequest, NotFound, shorten_value
from forwarder.core.types import Json
from forwarder.demo import chat, responses
from forwarder.demo.answer import DemoAnswer, DemoPrompt, make_answer
from forwarder.demo.embeddings import embed_texts
from forwarder.demo.validation import check_type

DEMO_MODEL = {"id": "demo", "object": "model", "created": 1704067200, "owned_by": "forwarder"}
MODELS_PATH = "/v1/models"
EMBEDDINGS_PATH = "/v1/embeddings"


class DemoTransport(httpx2.BaseTransport):
    """Answers Chat Completions, Responses, embeddings and model requests.

    It accepts any model name and repeats it in the response. Invalid requests get an HTTP error
    response in OpenAI's format; nothing is raised.
    """

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return route_request(request)
        except ClientError as error:
            return make_json_response(error.make_body(), error.status)


class DemoApi(NamedTuple):
    """One protocol: its request parser, response builder, event iterator and SSE encoder."""

    read_request: Callable[[Json], DemoPrompt]
    build_answer: Callable[[Json, DemoAnswer, str, int], Json]
    iter_events: Callable[[Json, DemoAnswer, str, int], Iterator[Json]]
    encode_frames: Callable[[Iterable[Json]], Iterator[bytes]]


def encode_chat_frames(chunks: Iterable[Json]) -> Iterator[bytes]:
    for chunk in chunks:
        yield b"data: " + encode_json(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def encode_responses_frames(events: Iterable[Json]) -> Iterator[bytes]:
    for event in events:
        yield b"event: " + event["type"].encode() + b"\ndata: " + encode_json(event) + b"\n\n"


APIS = {
    "/v1/chat/completions": DemoApi(
        chat.read_prompt,
        chat.build_completion,
        chat.iter_chunks,
        encode_chat_frames,
    ),
    "/v1/responses": DemoApi(
        responses.read_prompt,
        responses.build_response,
        responses.iter_events,
        encode_responses_frames,
    ),
}


def route_request(request: httpx2.Request) -> httpx2.Response:
    path = request.url.path
    if request.method == "POST" and path in APIS:
        return answer_request(APIS[path], parse_body(request.read()))
    if request.method == "POST" and path == EMBEDDINGS_PATH:
        return make_json_response(embed_texts(parse_body(request.read())))
    if request.method == "GET" and path == MODELS_PATH:
        return make_json_response({"object": "list", "data": [DEMO_MODEL]})
    if request.method == "GET" and path.startswith(f"{MODELS_PATH}/"):
        return make_json_response(get_model(path.removeprefix(f"{MODELS_PATH}/")))
    raise NotFound(f"Invalid URL ({request.method} {path})")


def answer_request(api: DemoApi, request: Json) -> httpx2.Response:
    answer = make_answer(api.read_request(request))
    key, created = uuid.uuid4().hex, int(time.time())
    if not request.get("stream"):
        return make_json_response(api.build_answer(request, answer, key, created))
    headers = {"content-type": "text/event-stream; charset=utf-8", **make_id_header()}
    events = api.iter_events(request, answer, key, created)
    return httpx2.Response(200, headers=headers, content=api.encode_frames(events))


def parse_body(content: bytes) -> Json:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request: {error}"
        ) from error
    request: Json = check_type(body, (dict,), "body")
    return request


def get_model(name: str) -> Json:
    if name != DEMO_MODEL["id"]:
        raise NotFound(
            f"The model '{shorten_value(name)}' does not exist.",
            param="model",
            code="model_not_found",
        )
    return DEMO_MODEL


def make_json_response(body: Json, status: int = 200) -> httpx2.Response:
    headers = {"content-type": "application/json", **make_id_header()}
    return httpx2.Response(status, headers=headers, content=encode_json(body))


def make_id_header() -> dict[str, str]:
    return {"x-request-id": f"req_{uuid.uuid4().hex}"}


def encode_json(value: Any) -> bytes:
    # A lone surrogate is valid in JSON but cannot be encoded as UTF-8.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
