"""OpenAI's two APIs: ``/v1/chat/completions``, ``/v1/responses``, ``/v1/models`` and embeddings.

How a request is served, streaming or not, is the same for every API: `serve` and `serve_embeddings`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import orjson
from flask import Blueprint, Response, current_app, request

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import NotFound, ShuttingDown, UpgradeRefused, shorten_value
from forwarder.core.shutdown import ShutdownInterrupt
from forwarder.core.types import Batch, EventStream, Json
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols import ndjson, sse
from forwarder.protocols.stream_end import (
    ERROR_ENCODERS,
    MALFORMED_EVENT_ERRORS,
    append_follower_error,
    malformed_event,
)
from forwarder.server import request_context
from forwarder.server.auth import require_client_key
from forwarder.server.json_body import read_body
from forwarder.server.reasoning_base_paths import get_requested_style
from forwarder.server.request_shape import adapt_shape
from forwarder.storage.include import hide_batch_reasoning, wants_encrypted_reasoning
from forwarder.storage.resume import is_background
from forwarder.translation import FOLDS

blueprint = Blueprint("openai", __name__)


class Framing(NamedTuple):
    """How the stream of a protocol is written: its events, its silence and its end."""

    encode: Callable[[Batch], bytes]
    keep_alive: bytes = sse.KEEP_ALIVE
    end: bytes = b""
    mimetype: str = "text/event-stream"


_LINES = Framing(ndjson.encode_lines, ndjson.KEEP_ALIVE, mimetype="application/x-ndjson")

_FRAMINGS = {
    "chat": Framing(sse.encode_chat, end=sse.DONE),
    "responses": Framing(sse.encode_responses),
    "ollama": _LINES,
    "ollama_generate": _LINES,
}


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """Chat Completions, over whichever upstream the model leads to."""
    return serve("chat")


@blueprint.post("/responses")
def responses() -> Response:
    """Responses, over whichever upstream the model leads to."""
    return serve("responses")


@blueprint.post("/responses/compact")
def compact() -> Response:
    """A conversation made short: what users said, and the rest in one sealed item."""
    return serve_whole_answer(stream_compaction)


def stream_compaction(body: Json, exchange: RequestContext) -> EventStream:
    return get_gateway().compact(adapt_shape(body, "responses", exchange), exchange)


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """Embeddings, passed through to an upstream that has them."""
    return serve_embeddings("embeddings")


def serve_embeddings(client: str) -> Response:
    """Embeddings for a ``client``'s protocol."""
    request_context.current_context().route = client
    return serve_whole_answer(partial(get_gateway().embed, client))


def serve_whole_answer(ask: Callable[[Json, RequestContext], EventStream]) -> Response:
    """An answer that is never streamed: the last of its events."""
    exchange = request_context.current_context()
    request_context.authenticate(exchange)
    try:
        return read_last_event(ask, exchange)
    except ShutdownInterrupt:
        raise ShuttingDown from None


def read_last_event(
    ask: Callable[[Json, RequestContext], EventStream], exchange: RequestContext
) -> Response:
    body = read_json_body(exchange)
    request_context.watch_disconnect(exchange)
    stream = exchange.set_response_stream(ask(body, exchange))
    try:
        return json_answer([event for batch in stream for event in batch][-1])
    except MALFORMED_EVENT_ERRORS as error:
        raise malformed_event() from error


@blueprint.get("/responses")
def upgrade() -> Response:
    """A GET that is no WebSocket: Codex goes on over HTTP when it is told so by a 426."""
    raise UpgradeRefused("Send a POST, or a WebSocket's handshake.")


@blueprint.get("/models")
def models() -> Response:
    """Every model that a request can name; to Codex, which tells its version, also its own way."""
    key = require_client_key(get_gateway().settings.api_keys)
    catalog = get_gateway().catalog
    etag = (
        catalog.compute_etag()
    )  # taken first: a model that is registered meanwhile makes another one
    listed: Json = {"object": "list", "data": catalog.list_models(key)}
    if "client_version" in request.args:
        listed["models"] = catalog.list_codex_entries(key)
    answer = json_answer(listed)
    answer.headers["ETag"] = etag
    return answer


@blueprint.get("/models/<path:model>")
def model(model: str) -> Response:
    """One model of that list, or one that an alias, a pattern or its own name leads somewhere."""
    key = require_client_key(get_gateway().settings.api_keys)
    entry = get_gateway().catalog.find_model(model, key)
    if entry is None:
        message = f"The model '{shorten_value(model)}' does not exist."
        raise NotFound(message, param="model", code="model_not_found")
    return json_answer(entry)


def serve(protocol: str) -> Response:
    """The answer to a request of a protocol, streamed if it is wanted so."""
    exchange = request_context.current_context()
    exchange.route = protocol
    request_context.authenticate(exchange)
    try:
        return answer_request(protocol, exchange)
    except ShutdownInterrupt:  # the end of the process is told as any failure is
        raise ShuttingDown from None


def answer_request(protocol: str, exchange: RequestContext) -> Response:
    bridge, body = get_gateway(), adapt_shape(read_json_body(exchange), protocol, exchange)
    request_context.watch_disconnect(exchange)
    streamed = bridge.wants_stream(protocol, body)
    style = get_requested_style(request, protocol)
    if protocol == "responses" and is_background(body):
        return start_background_work(body, streamed, style, exchange)
    stream = exchange.set_response_stream(bridge.stream(protocol, body, style, exchange))
    return (
        stream_answer(protocol, stream, exchange)
        if streamed
        else encode_whole_answer(protocol, stream)
    )


def start_background_work(
    body: Json, streamed: bool, style: str | None, exchange: RequestContext
) -> Response:
    """Work that outlives this request; its events, if they are wanted, come from the store."""
    queued = get_gateway().start_background(
        body, style, exchange, request_context.new_background_context("background")
    )
    if not streamed:
        return json_answer(queued)
    shown = list if wants_encrypted_reasoning(body) else hide_batch_reasoning
    return stream_stored_events(queued["id"], -1, exchange, shown)


def stream_stored_events(
    response_id: str,
    after: int,
    exchange: RequestContext,
    shown: Callable[[Batch], Batch] = list,
) -> Response:
    """The stored events of a response behind a number, and those to come, as they are shown."""
    bridge = get_gateway()
    owner, patience = bridge.store.find_owner(exchange), bridge.settings.keepalive
    events = bridge.store.background.stream_events(
        owner, response_id, after, patience, exchange.wait
    )
    stream = exchange.set_response_stream(exchange.convert_errors(map(shown, events)))
    return stream_answer("responses", append_follower_error(stream), exchange)


def read_json_body(exchange: RequestContext, required: bool = True) -> Json:
    """The object that the request's body is; InvalidRequest when it is none.

    A body that is not ``required`` may be left out, for an empty object.
    """
    data = request_context.pop_body()
    if exchange.recorder is not None:
        exchange.recorder.record_body(data)
    limit = get_gateway().settings.max_json_values
    body = read_body(data, limit) if data or required else {}
    exchange.log_request(body)
    return body


def encode_whole_answer(protocol: str, stream: EventStream) -> Response:
    try:
        return json_answer(FOLDS[protocol](stream))
    except MALFORMED_EVENT_ERRORS as error:
        raise malformed_event() from error


def stream_answer(protocol: str, stream: EventStream, exchange: RequestContext) -> Response:
    """A response whose status is known: the first batch is there before the answer begins."""
    first = next(stream, None)
    begun = itertools.chain([first] if first is not None else [], stream)
    exchange.notify_stream_start()
    pieces = report_unread_answer(encode_stream(protocol, begun), exchange)
    response = Response(pieces, mimetype=_FRAMINGS[protocol].mimetype)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # or nginx would gather the events
    return response


def report_unread_answer(pieces: Iterator[bytes], exchange: RequestContext) -> Iterator[bytes]:
    """The pieces; should the client not take them all, the exchange is told."""
    try:
        yield from pieces
    except GeneratorExit:
        exchange.record_disconnect()
        raise


def encode_stream(protocol: str, stream: EventStream) -> Iterator[bytes]:
    encode, keep_alive, end, _ = _FRAMINGS[protocol]
    failed = False
    told = ERROR_ENCODERS[protocol](stream)
    for batch in told:
        if not batch:
            yield keep_alive
            continue
        try:
            data = encode(batch)
        except TypeError:  # a number too large, or nested too deeply
            batch = told.throw(malformed_event())
            data = encode(batch)
        failed = bool(batch[-1].get("error"))
        yield data
    if end and not failed:
        yield end


def json_answer(value: Json) -> Response:
    """A whole answer."""
    return Response(orjson.dumps(value), mimetype="application/json")


def get_gateway() -> Gateway:
    bridge: Gateway = current_app.extensions["forwarder"]
    return bridge
