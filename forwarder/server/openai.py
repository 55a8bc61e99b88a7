"""OpenAI's two APIs: ``/v1/chat/completions``, ``/v1/responses``, ``/v1/models`` and embeddings.

How a request is served, streaming or not, is the same for every API: `serve` and `embed`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import orjson
from flask import Blueprint, Response, current_app, request

from forwarder.context.request_context import Exchange
from forwarder.core.errors import NotFound, ShuttingDown, UpgradeRefused, shorten
from forwarder.core.shutdown import Stopping
from forwarder.core.types import Batch, Json, Stream
from forwarder.pipeline.gateway import Bridge
from forwarder.protocols import ndjson, sse
from forwarder.protocols.stream_end import TOLD, UNREADABLE, tell_follower, unreadable
from forwarder.server import request_context
from forwarder.server.auth import authorized
from forwarder.server.json_body import read_body
from forwarder.server.reasoning_base_paths import get_requested_style
from forwarder.server.request_shape import adapt_shape
from forwarder.storage.include import hide_seals_of, shows_seals
from forwarder.storage.resume import is_background
from forwarder.translation import FOLDS

blueprint = Blueprint("openai", __name__)


class Framing(NamedTuple):
    """How the stream of a protocol is written: its events, its silence and its end."""

    encode: Callable[[Batch], bytes]
    keep_alive: bytes = sse.KEEP_ALIVE
    end: bytes = b""
    mimetype: str = "text/event-stream"


_LINES = Framing(ndjson.encode, ndjson.KEEP_ALIVE, mimetype="application/x-ndjson")

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
    return _at_once(_compact)


def _compact(body: Json, exchange: Exchange) -> Stream:
    return _bridge().compact(adapt_shape(body, "responses", exchange), exchange)


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """Embeddings, passed through to an upstream that has them."""
    return embed("embeddings")


def embed(client: str) -> Response:
    """Embeddings for a ``client``'s protocol."""
    request_context.current().route = client
    return _at_once(partial(_bridge().embed, client))


def _at_once(ask: Callable[[Json, Exchange], Stream]) -> Response:
    """An answer that is never streamed: the last of its events."""
    exchange = request_context.current()
    request_context.admit(exchange)
    try:
        return _made(ask, exchange)
    except Stopping:
        raise ShuttingDown from None


def _made(ask: Callable[[Json, Exchange], Stream], exchange: Exchange) -> Response:
    body = json_body(exchange)
    request_context.watch(exchange)
    stream = exchange.making(ask(body, exchange))
    try:
        return json_answer([event for batch in stream for event in batch][-1])
    except UNREADABLE as error:
        raise unreadable() from error


@blueprint.get("/responses")
def upgrade() -> Response:
    """A GET that is no WebSocket: Codex goes on over HTTP when it is told so by a 426."""
    raise UpgradeRefused("Send a POST, or a WebSocket's handshake.")


@blueprint.get("/models")
def models() -> Response:
    """Every model that a request can name; to Codex, which tells its version, also its own way."""
    key = authorized(_bridge().settings.api_keys)
    catalog = _bridge().catalog
    etag = catalog.etag()  # taken first: a model that is registered meanwhile makes another one
    listed: Json = {"object": "list", "data": catalog.models(key)}
    if "client_version" in request.args:
        listed["models"] = catalog.codex(key)
    answer = json_answer(listed)
    answer.headers["ETag"] = etag
    return answer


@blueprint.get("/models/<path:model>")
def model(model: str) -> Response:
    """One model of that list, or one that an alias, a pattern or its own name leads somewhere."""
    key = authorized(_bridge().settings.api_keys)
    entry = _bridge().catalog.model(model, key)
    if entry is None:
        message = f"The model '{shorten(model)}' does not exist."
        raise NotFound(message, param="model", code="model_not_found")
    return json_answer(entry)


def serve(protocol: str) -> Response:
    """The answer to a request of a protocol, streamed if it is wanted so."""
    exchange = request_context.current()
    exchange.route = protocol
    request_context.admit(exchange)
    try:
        return _answered(protocol, exchange)
    except Stopping:  # the end of the process is told as any failure is
        raise ShuttingDown from None


def _answered(protocol: str, exchange: Exchange) -> Response:
    bridge, body = _bridge(), adapt_shape(json_body(exchange), protocol, exchange)
    request_context.watch(exchange)
    streamed = bridge.wants_stream(protocol, body)
    style = get_requested_style(request, protocol)
    if protocol == "responses" and is_background(body):
        return _later(body, streamed, style, exchange)
    stream = exchange.making(bridge.open(protocol, body, style, exchange))
    return _streaming(protocol, stream, exchange) if streamed else _whole(protocol, stream)


def _later(body: Json, streamed: bool, style: str | None, exchange: Exchange) -> Response:
    """Work that outlives this request; its events, if they are wanted, come from the store."""
    queued = _bridge().begin(body, style, exchange, request_context.another("background"))
    if not streamed:
        return json_answer(queued)
    shown = list if shows_seals(body) else hide_seals_of
    return told(queued["id"], -1, exchange, shown)


def told(
    response_id: str,
    after: int,
    exchange: Exchange,
    shown: Callable[[Batch], Batch] = list,
) -> Response:
    """The stored events of a response behind a number, and those to come, as they are shown."""
    bridge = _bridge()
    owner, patience = bridge.stored.find_owner(exchange), bridge.settings.keepalive
    events = bridge.stored.background.told(owner, response_id, after, patience, exchange.waited)
    stream = exchange.making(exchange.guarded(map(shown, events)))
    return _streaming("responses", tell_follower(stream), exchange)


def json_body(exchange: Exchange, required: bool = True) -> Json:
    """The object that the request's body is; InvalidRequest when it is none.

    A body that is not ``required`` may be left out, for an empty object.
    """
    data = request_context.take_body()
    if exchange.tape is not None:
        exchange.tape.heard(data)
    limit = _bridge().settings.max_json_values
    body = read_body(data, limit) if data or required else {}
    exchange.saw_body(body)
    return body


def _whole(protocol: str, stream: Stream) -> Response:
    try:
        return json_answer(FOLDS[protocol](stream))
    except UNREADABLE as error:
        raise unreadable() from error


def _streaming(protocol: str, stream: Stream, exchange: Exchange) -> Response:
    """A response whose status is known: the first batch is there before the answer begins."""
    first = next(stream, None)
    begun = itertools.chain([first] if first is not None else [], stream)
    exchange.streams()
    pieces = _taken(_encoded(protocol, begun), exchange)
    response = Response(pieces, mimetype=_FRAMINGS[protocol].mimetype)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # or nginx would gather the events
    return response


def _taken(pieces: Iterator[bytes], exchange: Exchange) -> Iterator[bytes]:
    """The pieces; should the client not take them all, the exchange is told."""
    try:
        yield from pieces
    except GeneratorExit:
        exchange.abandoned()
        raise


def _encoded(protocol: str, stream: Stream) -> Iterator[bytes]:
    encode, keep_alive, end, _ = _FRAMINGS[protocol]
    failed = False
    told = TOLD[protocol](stream)
    for batch in told:
        if not batch:
            yield keep_alive
            continue
        try:
            data = encode(batch)
        except TypeError:  # a number too large, or nested too deeply
            batch = told.throw(unreadable())
            data = encode(batch)
        failed = bool(batch[-1].get("error"))
        yield data
    if end and not failed:
        yield end


def json_answer(value: Json) -> Response:
    """A whole answer."""
    return Response(orjson.dumps(value), mimetype="application/json")


def _bridge() -> Bridge:
    bridge: Bridge = current_app.extensions["forwarder"]
    return bridge
