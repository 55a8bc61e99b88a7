"""Answers requests of all client APIs: reads the body, asks the gateway, writes the answer.

The blueprints call `serve` with the name of their protocol. An answer is one JSON object, or a
stream in the framing of the protocol.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

import orjson
from flask import Response
from werkzeug.datastructures import Headers

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ShuttingDown
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.protocols.stream_end import (
    MALFORMED_EVENT_ERRORS,
    append_follower_error,
    make_malformed_event_error,
)
from forwarder.server import request_hooks
from forwarder.server.base_paths import get_requested_style
from forwarder.server.extension import get_gateway, get_request, get_services
from forwarder.server.json_body import read_body
from forwarder.server.mixed_request_shapes import adapt_shape
from forwarder.storage.history_reference import is_background
from forwarder.storage.include_filter import hide_batch_reasoning, wants_encrypted_reasoning

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def serve(protocol: str) -> Response:
    """Answer the current request in its protocol, streamed if the request asks for it."""
    context = request_hooks.current_context()
    context.route = protocol
    request_hooks.authenticate(context)
    try:
        gateway, body = get_gateway(), adapt_shape(read_json_body(context), protocol, context)
        request_hooks.watch_disconnect(context)
        wants_stream = gateway.settle_stream_flag(protocol, body)
        style = get_requested_style(get_request(), protocol)
        if CLIENT_PROTOCOLS[protocol].runs_in_background and is_background(body):
            return start_background_work(body, wants_stream, style, context)
        stream = context.set_response_stream(gateway.stream(protocol, body, style, context))
        if wants_stream:
            return stream_answer(protocol, stream, context)
        try:
            return json_answer(CLIENT_PROTOCOLS[protocol].fold(stream))
        except MALFORMED_EVENT_ERRORS as error:
            raise make_malformed_event_error() from error
    except ShutdownInterrupt:  # report the shutdown to the client as an error
        raise ShuttingDown from None


def serve_embeddings(client: str) -> Response:
    """Answer an embeddings request of the protocol ``client``."""
    request_hooks.current_context().route = client
    return serve_whole_answer(partial(get_gateway().embed, client))


def serve_whole_answer(ask: Callable[[Json, RequestContext], EventStream]) -> Response:
    """Answer with the last event of ``ask``, for endpoints without streaming."""
    context = request_hooks.current_context()
    request_hooks.authenticate(context)
    try:
        body = read_json_body(context)
        request_hooks.watch_disconnect(context)
        stream = context.set_response_stream(ask(body, context))
        try:
            return json_answer([event for batch in stream for event in batch][-1])
        except MALFORMED_EVENT_ERRORS as error:
            raise make_malformed_event_error() from error
    except ShutdownInterrupt:  # report the shutdown to the client as an error
        raise ShuttingDown from None


def start_background_work(
    body: Json, wants_stream: bool, style: str | None, context: RequestContext
) -> Response:
    """Start work that outlives this request. A requested stream reads its events from the store."""
    queued = get_gateway().start_background(
        body, style, context, request_hooks.create_background_context("background")
    )
    if not wants_stream:
        return json_answer(queued)
    filter_batch = list if wants_encrypted_reasoning(body) else hide_batch_reasoning
    return stream_stored_events(queued["id"], -1, context, filter_batch)


def stream_stored_events(
    response_id: str,
    after: int,
    context: RequestContext,
    filter_batch: Callable[[Batch], Batch] = list,
) -> Response:
    """Stream the stored and future events of a response.

    Starts after the sequence number ``after`` and filters each batch with ``filter_batch``.
    """
    store, keepalive = get_services().require_store(), get_services().settings.keepalive
    owner = store.find_owner(context)
    events = store.background.stream_events(owner, response_id, after, keepalive, context.wait)
    stream = context.set_response_stream(context.convert_errors(map(filter_batch, events)))
    return stream_answer("responses", append_follower_error(stream), context)


def read_json_body(context: RequestContext, required: bool = True) -> Json:
    """Read, log and record the request body. Raises InvalidRequest unless it is a JSON object.

    With ``required=False``, a missing body is an empty object.
    """
    data = request_hooks.pop_body()
    if context.recorder is not None:
        context.recorder.record_body(data)
    limit = get_services().settings.max_json_values
    reserve = partial(request_hooks.reserve_text_memory, context)
    body = read_body(data, limit, reserve) if data or required else {}
    context.log_request(body)
    return body


class ApiResponse(Response):
    """A response whose headers are complete when it is made."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers; Werkzeug would copy them, to adapt those that are not used here."""
        is_plain = self.status_code == 200 and "Location" not in self.headers
        return self.headers if is_plain else super().get_wsgi_headers(environ)


class EventStreamResponse(ApiResponse):
    """A streamed response with chunks of bytes.

    Werkzeug would pass each chunk through two more iterators, one to encode text, one to close.
    """

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the chunks as the WSGI server iterates over them; a HEAD request gets none."""
        if environ["REQUEST_METHOD"] == "HEAD":
            return super().get_app_iter(environ)
        return ClosingChunks(cast(Iterable[bytes], self.response), self.close)


class ClosingChunks:
    """The chunks of a response; the WSGI server calls ``close`` after the last one."""

    def __init__(self, chunks: Iterable[bytes], close: Callable[[], None]) -> None:
        self._chunks = chunks
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)


def stream_answer(protocol: str, stream: EventStream, context: RequestContext) -> Response:
    """Start a streamed response. An error before the first batch is raised, not streamed."""
    first = next(stream, None)
    events = itertools.chain([first] if first is not None else [], stream)
    context.notify_stream_start()
    chunks = encode_stream(protocol, events, context)
    response = EventStreamResponse(chunks, mimetype=CLIENT_PROTOCOLS[protocol].framing.mimetype)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer the events
    return response


def encode_stream(protocol: str, stream: EventStream, context: RequestContext) -> Iterator[bytes]:
    """Encode a stream. Record a disconnect if the client does not read all of it."""
    encode, keep_alive, end, _ = CLIENT_PROTOCOLS[protocol].framing
    failed = False
    batches = CLIENT_PROTOCOLS[protocol].append_error(stream)
    try:
        for batch in batches:
            if not batch:
                yield keep_alive
                continue
            try:
                data = encode(batch)
            except TypeError:  # an integer is too large, or the nesting is too deep
                batch = batches.throw(make_malformed_event_error())
                data = encode(batch)
            failed = bool(batch[-1].get("error"))
            yield data
        if end and not failed:
            yield end
    except GeneratorExit:
        context.record_disconnect()
        raise


def json_answer(value: Json) -> Response:
    """Return a JSON response."""
    return ApiResponse(orjson.dumps(value), mimetype="application/json")
