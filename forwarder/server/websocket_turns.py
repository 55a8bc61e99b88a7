"""The turns of one WebSocket connection, each of them what a POST would be.

``response.create`` asks, the events of a stream answer, and exactly one of them ends the turn:
the response's own terminal event or, when there was no response yet, an ``error`` with a status.
Turns run one after the other; what is asked meanwhile waits.

``response.interrupt``, which Codex sends, ends the turn under way as incomplete: of its items only
the finished ones count.  It is acknowledged in any case, since Codex waits for that.
"""

from __future__ import annotations

import itertools
import logging
import queue
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import orjson
from flask import Request, request
from simple_websocket import ConnectionClosed
from werkzeug.datastructures import Headers

from forwarder.context.request_context import RequestContext
from forwarder.core.body_memory import BodyReservation
from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    Overloaded,
    Unsupported,
    shorten_value,
)
from forwarder.core.ids import ID_SOURCE, generate_id
from forwarder.core.read_limit import ReadLimit, RequestLimits
from forwarder.core.shutdown import ShutdownInterrupt
from forwarder.core.types import Event, EventStream, Json
from forwarder.models.codex_headers import TURN_METADATA_HEADER, make_turn_events
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.mappings import TERMINAL_EVENTS
from forwarder.protocols.stream_end import append_responses_error, malformed_event
from forwarder.server import request_context
from forwarder.server.json_body import read_body
from forwarder.server.reasoning_base_paths import get_requested_style
from forwarder.server.request_shape import adapt_shape
from forwarder.server.websocket_history import (
    HistoryEntry,
    SessionHistory,
    expand_history,
    previous_response_not_found,
    read_input_items,
    strip_history,
)
from forwarder.storage.history_errors import EarlierItems, call_with_earlier_items
from forwarder.storage.response_recorder import make_history_fields
from forwarder.storage.resume import read_history_reference
from forwarder.translation.responses_over_chat.response_skeleton import make_response_skeleton

log = logging.getLogger("forwarder.websocket")

MAX_WAITING_MESSAGES = 8
"""Messages that may wait for the turn before them."""

POLL_SECONDS = 5.0
"""Seconds after which the reader looks whether its connection is still there."""

TURN_PAUSE_SECONDS = 1e-5
"""Seconds to pause so that others run."""

_GOING_AWAY, _POLICY, _TOO_BIG, _MISTAKE, _TRY_LATER = 1001, 1008, 1009, 1011, 1013
"""Codes with which a connection is closed."""

_LOCAL_FIELDS = ("type", "stream", "stream_options", "generate", "background", "stream_id")
"""What a message has and a POST of the same does not, or says otherwise."""

_STREAM_ID = re.compile(r"[\w.-]{1,256}", re.ASCII)
"""How a lane may be called."""

_IGNORED = frozenset({"response.processed"})
"""What Codex tells, and nobody here needs to know."""

_INTERRUPT = "response.interrupt"
_MAX_INTERRUPT = 4096
"""Bytes of a message that are looked through before it is its turn."""


class WebSocketSession:
    """One connection: a reader that fills a queue, and the turns that empty it."""

    def __init__(self, ws: Any, bridge: Gateway) -> None:
        self._ws = ws
        self._bridge = bridge
        self._chain = SessionHistory(bridge.settings.websocket_memory)
        self._messages: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING_MESSAGES)
        self._room = BodyReservation(bridge.body_memory)
        self._waiting_bytes = self._turn_bytes = 0
        self._current: RequestContext | None = None
        self._answering: tuple[str, RequestContext] | None = (
            None  # the id of the response under way
        )
        self._interrupted: RequestContext | None = None
        self._latest_id: str | None = None
        self._turns = 0
        self._leaving = self._gone = False

    def run(self) -> None:
        """Serve turns until either side leaves."""
        self._ws.sock.before_receiving = self._enforce_memory_limit
        with self._bridge.running.add_listener(self._stop_for_shutdown):
            threading.Thread(target=self._read_messages, daemon=True).start()
            try:
                while (message := self._next_message()) is not None:
                    interrupt = _read_interrupt(message)
                    if interrupt is None:
                        self._serve_turn(message)
                    else:
                        self._send_event(self._acknowledge(interrupt))
                    del message  # or the idle connection would keep it
                    self._turn_bytes = 0
                    self._resize_reservation()
            except (ConnectionClosed, OSError):
                self._cancel_turn()
            except Exception:
                log.exception("a connection broke")
                self._close_socket(_MISTAKE, "The forwarder made a mistake.")
            finally:
                self._room.release()

    # -- the connection -------------------------------------------------------------------------

    def _next_message(self) -> bytes | None:
        """The next message; None when there will be none, and the connection is closed."""
        if self._leaving:
            self._close_socket(_GOING_AWAY, "The forwarder is being restarted.")
            return None
        try:
            message = self._messages.get(timeout=self._bridge.settings.websocket_idle)
        except queue.Empty:
            self._close_socket(_GOING_AWAY, "Nothing was asked for too long.")
            return None
        if message is None:
            return self._next_message() if self._leaving else None
        self._waiting_bytes -= len(message)
        self._turn_bytes = len(message)
        return message

    def _read_messages(self) -> None:
        """Take messages as they come, which also notices a client that leaves."""
        try:
            while not self._gone:
                if not self._receive_message() and not self._ws.connected:
                    break
        except queue.Full:
            self._close_socket(_POLICY, "Too many messages are waiting.")
        except (ConnectionClosed, OSError):
            pass
        self._cancel_turn()

    def _receive_message(self) -> bool:
        """Put the next message behind those that wait; False when none has come."""
        message = self._ws.receive(timeout=POLL_SECONDS)
        if message is None:
            return False
        data = message if isinstance(message, bytes) else message.encode()
        self._waiting_bytes += len(data)
        self._messages.put_nowait(data)
        interrupt = _read_interrupt(data)
        if interrupt is not None:
            self._interrupt(interrupt)
        return True

    def _interrupt(self, asked: Json) -> None:
        """End the turn under way if it is the one that is meant; it is acknowledged afterwards."""
        answering = self._answering
        if answering is not None and asked.get("response_id") in (None, answering[0]):
            self._interrupted = answering[1]
            answering[1].cancel()

    def _acknowledge(self, asked: Json) -> Event:
        """The answer to an interrupt.  One that came too late has nothing left to end."""
        wanted, latest = asked.get("response_id"), self._latest_id
        is_accepted = latest is not None and wanted in (None, latest)
        kind = f"{_INTERRUPT}.{'accepted' if is_accepted else 'failed'}"
        event = {"type": kind, "response_id": latest if is_accepted else wanted}
        return tag_with_stream_id(event, asked)

    def _enforce_memory_limit(self) -> None:
        """Close the connection, and raise OSError, if too much of it is held in memory.

        Called before more is received, in the thread that receives.
        """
        if self._gone:
            return
        if self._ws.input_buffer:
            time.sleep(TURN_PAUSE_SECONDS)  # the reader may take it
        code = _TOO_BIG
        try:
            held = self._resize_reservation()
            if held <= self._bridge.settings.max_body:
                return
            reason = "Too many bytes are waiting (limit: FORWARDER_MAX_BODY)."
        except Overloaded:
            code, reason = _TRY_LATER, "There is no room (limit: FORWARDER_MAX_BODY_MEMORY)."
        self._close_socket(code, reason)
        raise OSError(reason)

    def _resize_reservation(self) -> int:
        """Take as much room as messages take; the bytes of those that are not being served."""
        arriving = len(self._ws.incoming_message or b"") + sum(map(len, self._ws.input_buffer))
        waiting = self._waiting_bytes + arriving
        self._room.resize(waiting + self._turn_bytes)
        return waiting

    def _cancel_turn(self) -> None:
        """Nobody listens any more: what is being made for the client ends."""
        self._gone = True
        if self._current is not None:
            self._current.cancel()
        self._wake_reader()

    def _stop_for_shutdown(self) -> None:
        """The process is about to end: no more turns."""
        self._leaving = True
        self._wake_reader()

    def _wake_reader(self) -> None:
        try:
            self._messages.put_nowait(None)
        except queue.Full:  # then nobody sleeps
            return

    def _close_socket(self, code: int, reason: str) -> None:
        self._gone = True
        try:
            self._ws.close(code, reason)
        except (ConnectionClosed, OSError):
            return

    def _send_event(self, event: Event) -> None:
        if self._gone:
            raise ConnectionClosed
        self._ws.send(orjson.dumps(event).decode())

    # -- a turn ---------------------------------------------------------------------------------

    def _serve_turn(self, message: bytes) -> None:
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        exchange = self._current = request_context.new_context(asked, self._bridge, "responses")
        if self._turns:
            exchange.id = generate_id("req")  # the client's own is that of the first
        self._turns += 1
        exchange.client_headers.pop(IDEMPOTENCY_KEY, None)  # the handshake's, for all turns
        try:
            for event in self._answer_message(message, exchange):
                if exchange.recorder is not None:
                    exchange.recorder.record_events([event])
                self._send_event(event)
        finally:
            self._current = self._answering = self._interrupted = None
            exchange.close()

    def _answer_message(self, data: bytes, exchange: RequestContext) -> Iterator[Event]:
        asked: Json = {}
        try:
            request_context.authenticate(exchange, has_body=False)
            exchange.body_size = len(data)
            if exchange.recorder is not None:
                exchange.recorder.record_body(data)
            asked = read_body(data, self._bridge.settings.max_json_values)
            exchange.log_request(asked)
            if asked.get("type") in _IGNORED:
                return
            stream, link = self._begin_turn(
                adapt_shape(check_message(asked), "responses", exchange), exchange
            )
        except (Exception, ShutdownInterrupt) as error:
            self._chain.forget_previous(asked)
            yield tag_with_stream_id(error_event(exchange.record_failure(error)), asked)
            return
        events = read_until_terminal(stream)
        first = next(events, None)
        for event in itertools.chain(_sign(first, exchange) if first else (), events):
            if self._interrupted is exchange and event.get("type") == "response.failed":
                event = _as_interrupted(event)
                asked = {**asked, "store": False}  # only this connection knows the response
            self._note_response(event, asked, link, exchange)
            yield tag_with_stream_id(echo_request_fields(event, asked) if link else event, asked)

    def _begin_turn(
        self, asked: Json, exchange: RequestContext
    ) -> tuple[EventStream, HistoryEntry | None]:
        """The stream of a turn with its first batch read, and what it continues."""
        body = {k: v for k, v in asked.items() if k not in _LOCAL_FIELDS}
        read_history_reference(body)
        link = self._chain.find_previous(body, self._bridge.keeps_responses(body, exchange))
        if link is not None:
            limits = RequestLimits(
                self._bridge.settings.max_body, self._bridge.settings.max_json_values
            )
            limit = ReadLimit(limits, "previous_response_id")
            limit.spend_value(body)
            link.spend_items(limit)
        if asked.get("generate") is False:
            return self._answer_without_upstream(body, link), link
        if link is None:
            return self._open_stream(body, exchange), None

        def drop_parameter(name: str, reason: str) -> None:
            exchange.loss_report.drop(name, reason)  # each upstream begins a ledger

        earlier = EarlierItems(link.items, "previous_response_id")
        own = strip_history(body, link)
        return call_with_earlier_items(
            lambda whole: self._open_stream(whole, exchange), own, earlier, drop_parameter
        ), link

    def _open_stream(self, body: Json, exchange: RequestContext) -> EventStream:
        body["stream"] = True
        style = get_requested_style(request, "responses")
        stream = exchange.set_response_stream(
            self._bridge.stream("responses", body, style, exchange)
        )
        exchange.notify_stream_start()
        first = next(stream, None)
        return itertools.chain([] if first is None else [first], stream)

    def _answer_without_upstream(self, body: Json, link: HistoryEntry | None) -> EventStream:
        """A response that says nothing, for the next turn to continue; no upstream is asked."""
        if link is None and body.get("previous_response_id"):
            raise previous_response_not_found(body["previous_response_id"])
        body = expand_history(body, link) if link else body
        read_input_items(body)
        model = body.get("model") or self._bridge.settings.default_model
        now = ID_SOURCE.now()
        blank = make_response_skeleton(
            {**body, "model": model}, generate_id("resp"), now
        ) | make_history_fields(read_history_reference(body), False)
        done = {**blank, "status": "completed", "completed_at": now, "usage": _NO_USAGE}
        kinds = {"response.created": blank, "response.completed": done}
        events = enumerate(kinds.items())
        return iter([[{"type": k, "response": r, "sequence_number": i} for i, (k, r) in events]])

    def _note_response(
        self, event: Event, asked: Json, link: HistoryEntry | None, exchange: RequestContext
    ) -> None:
        kind = event.get("type")
        if self._answering is None and isinstance(event.get("response"), dict):
            self._latest_id = str(event["response"].get("id"))
            self._answering = self._latest_id, exchange
        if kind == "response.failed":
            self._chain.forget_previous(asked)
        elif kind in TERMINAL_EVENTS:
            self._chain.add_response(event["response"], link, asked)


_NO_USAGE: Json = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def check_message(asked: Json) -> Json:
    kind = asked.get("type")
    if kind != "response.create":
        raise InvalidRequest(
            f"Invalid value for 'type': {shorten_value(repr(kind))}; expected 'response.create'.",
            param="type",
            code="invalid_value",
        )
    if asked.get("background"):
        raise Unsupported("There is no background work over a WebSocket.", param="background")
    if asked.get("stream_id") is not None and not is_stream_id(asked["stream_id"]):
        raise InvalidRequest(
            "Invalid value for 'stream_id': expected up to 256 letters, digits, '_', '-' or '.'.",
            param="stream_id",
            code="invalid_stream_id",
        )
    return asked


def _read_interrupt(data: bytes) -> Json | None:
    """The message if it is an interrupt; any other is left to its turn."""
    if len(data) > _MAX_INTERRUPT or _INTERRUPT.encode() not in data:
        return None
    try:
        asked = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return asked if isinstance(asked, dict) and asked.get("type") == _INTERRUPT else None


def _as_interrupted(event: Event) -> Event:
    """The failure of a turn that its client has interrupted, as the end that it wanted."""
    ended = {"status": "incomplete", "incomplete_details": {"reason": "interrupted"}}
    response = {**event["response"], **ended, "error": None, "store": False}
    return {**event, "type": "response.incomplete", "response": response}


def is_stream_id(name: Any) -> bool:
    return isinstance(name, str) and _STREAM_ID.fullmatch(name) is not None


def tag_with_stream_id(event: Event, asked: Json) -> Event:
    """Whoever asks in a lane is answered in it; the lanes take turns like all else."""
    lane = asked.get("stream_id")
    return {**event, "stream_id": lane} if is_stream_id(lane) else event


def read_until_terminal(stream: EventStream) -> Iterator[Event]:
    """The events of a response up to its terminal one, be it the failure to go on.

    An ``error`` before that is not sent: over a WebSocket it would end the turn, and the terminal
    event the next one.  Later sequence numbers are lowered, so that they leave no gap.
    """
    told = append_responses_error(stream)
    skipped = 0
    for batch in told:
        for event in batch:
            if event.get("type") == "error":
                skipped += 1
                continue
            try:
                orjson.dumps(event)
            except TypeError:  # a number too large, or nested too deeply
                failure = told.throw(malformed_event())
                skipped += len(failure) - 1
                yield renumber_event(failure[-1], skipped)
                return
            yield renumber_event(event, skipped) if skipped else event


def renumber_event(event: Event, skipped: int) -> Event:
    """An event whose sequence number is lowered by the number of events that were not sent."""
    number = event.get("sequence_number")
    return {**event, "sequence_number": number - skipped} if type(number) is int else event


def _sign(event: Event, exchange: RequestContext) -> list[Event]:
    """The first event, with what the headers of an answer to a POST would say is lost.

    Codex gets all these headers, most of them in events of its own, which go first.  Other clients
    do not: their types know neither.  An ``error`` has its headers in this place, too.
    """
    if TURN_METADATA_HEADER not in request.headers:
        lost = request_context.loss_header(exchange)
        return [{**event, "headers": lost}] if lost else [event]
    headers = Headers()
    request_context.add_headers(headers, exchange)
    told = {name.lower(): value for name, value in headers.items()}
    return [*make_turn_events(told), {**event, "headers": told}]


def echo_request_fields(event: Event, asked: Json) -> Event:
    response = event.get("response")
    if not isinstance(response, dict):
        return event
    previous = {"previous_response_id": asked["previous_response_id"]}
    return {**event, "response": {**response, **previous}}


def error_event(failure: ForwarderError) -> Event:
    """The event for a turn that did not come to a response."""
    event = {"type": "error", "status": failure.status, **failure.make_body()}
    return {**event, "headers": dict(failure.headers)} if failure.headers else event
