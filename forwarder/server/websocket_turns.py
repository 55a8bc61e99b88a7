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

from forwarder.context.request_context import Exchange
from forwarder.core.body_memory import BodyRoom
from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.errors import ForwarderError, InvalidRequest, Overloaded, Unsupported, shorten
from forwarder.core.ids import MINT, random_id
from forwarder.core.read_limit import ReadLimit, RequestLimits
from forwarder.core.shutdown import Stopping
from forwarder.core.types import Event, Json, Stream
from forwarder.models.codex_headers import TURN_METADATA, describe_turn
from forwarder.pipeline.gateway import Bridge
from forwarder.protocols.mappings import TERMINALS
from forwarder.protocols.stream_end import told_responses, unreadable
from forwarder.server import request_context
from forwarder.server.json_body import read_body
from forwarder.server.reasoning_base_paths import get_requested_style
from forwarder.server.request_shape import adapt_shape
from forwarder.server.websocket_history import Chain, Link, continued, items_of, not_found, own_part
from forwarder.storage.history_errors import Earlier, ask
from forwarder.storage.response_recorder import marks
from forwarder.storage.resume import base_of
from forwarder.translation.responses_over_chat.response_skeleton import blank_response

log = logging.getLogger("forwarder.websocket")

WAITING = 8
"""Messages that may wait for the turn before them."""

_TICK = 5.0
"""Seconds after which the reader looks whether its connection is still there."""

_TURN_PAUSE = 1e-5
"""Seconds to pause so that others run."""

_GOING_AWAY, _POLICY, _TOO_BIG, _MISTAKE, _TRY_LATER = 1001, 1008, 1009, 1011, 1013
"""Codes with which a connection is closed."""

_LOCAL = ("type", "stream", "stream_options", "generate", "background", "stream_id")
"""What a message has and a POST of the same does not, or says otherwise."""

_LANE = re.compile(r"[\w.-]{1,256}", re.ASCII)
"""How a lane may be called."""

_IGNORED = frozenset({"response.processed"})
"""What Codex tells, and nobody here needs to know."""

_INTERRUPT = "response.interrupt"
_MAX_INTERRUPT = 4096
"""Bytes of a message that are looked through before it is its turn."""


class Connection:
    """One connection: a reader that fills a queue, and the turns that empty it."""

    def __init__(self, ws: Any, bridge: Bridge) -> None:
        self._ws = ws
        self._bridge = bridge
        self._chain = Chain(bridge.settings.websocket_memory)
        self._messages: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._room = BodyRoom(bridge.body_memory)
        self._waiting_bytes = self._turn_bytes = 0
        self._current: Exchange | None = None
        self._answering: tuple[str, Exchange] | None = None  # the id of the response under way
        self._interrupted: Exchange | None = None
        self._latest_id: str | None = None
        self._turns = 0
        self._leaving = self._gone = False

    def serve(self) -> None:
        """Serve turns until either side leaves."""
        self._ws.sock.before_receiving = self._check_memory
        with self._bridge.running.listening(self._leave):
            threading.Thread(target=self._read, daemon=True).start()
            try:
                while (message := self._next()) is not None:
                    interrupt = _read_interrupt(message)
                    if interrupt is None:
                        self._turn(message)
                    else:
                        self._send(self._acknowledge(interrupt))
                    del message  # or the idle connection would keep it
                    self._turn_bytes = 0
                    self._resize_room()
            except (ConnectionClosed, OSError):
                self._hang_up()
            except Exception:
                log.exception("a connection broke")
                self._close(_MISTAKE, "The forwarder made a mistake.")
            finally:
                self._room.free()

    # -- the connection -------------------------------------------------------------------------

    def _next(self) -> bytes | None:
        """The next message; None when there will be none, and the connection is closed."""
        if self._leaving:
            self._close(_GOING_AWAY, "The forwarder is being restarted.")
            return None
        try:
            message = self._messages.get(timeout=self._bridge.settings.websocket_idle)
        except queue.Empty:
            self._close(_GOING_AWAY, "Nothing was asked for too long.")
            return None
        if message is None:
            return self._next() if self._leaving else None
        self._waiting_bytes -= len(message)
        self._turn_bytes = len(message)
        return message

    def _read(self) -> None:
        """Take messages as they come, which also notices a client that leaves."""
        try:
            while not self._gone:
                if not self._receive() and not self._ws.connected:
                    break
        except queue.Full:
            self._close(_POLICY, "Too many messages are waiting.")
        except (ConnectionClosed, OSError):
            pass
        self._hang_up()

    def _receive(self) -> bool:
        """Put the next message behind those that wait; False when none has come."""
        message = self._ws.receive(timeout=_TICK)
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
            answering[1].leave()

    def _acknowledge(self, asked: Json) -> Event:
        """The answer to an interrupt.  One that came too late has nothing left to end."""
        wanted, latest = asked.get("response_id"), self._latest_id
        is_accepted = latest is not None and wanted in (None, latest)
        kind = f"{_INTERRUPT}.{'accepted' if is_accepted else 'failed'}"
        event = {"type": kind, "response_id": latest if is_accepted else wanted}
        return _in_lane(event, asked)

    def _check_memory(self) -> None:
        """Close the connection, and raise OSError, if too much of it is held in memory.

        Called before more is received, in the thread that receives.
        """
        if self._gone:
            return
        if self._ws.input_buffer:
            time.sleep(_TURN_PAUSE)  # the reader may take it
        code = _TOO_BIG
        try:
            held = self._resize_room()
            if held <= self._bridge.settings.max_body:
                return
            reason = "Too many bytes are waiting (limit: FORWARDER_MAX_BODY)."
        except Overloaded:
            code, reason = _TRY_LATER, "There is no room (limit: FORWARDER_MAX_BODY_MEMORY)."
        self._close(code, reason)
        raise OSError(reason)

    def _resize_room(self) -> int:
        """Take as much room as messages take; the bytes of those that are not being served."""
        arriving = len(self._ws.incoming_message or b"") + sum(map(len, self._ws.input_buffer))
        waiting = self._waiting_bytes + arriving
        self._room.resize(waiting + self._turn_bytes)
        return waiting

    def _hang_up(self) -> None:
        """Nobody listens any more: what is being made for the client ends."""
        self._gone = True
        if self._current is not None:
            self._current.leave()
        self._wake()

    def _leave(self) -> None:
        """The process is about to end: no more turns."""
        self._leaving = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._messages.put_nowait(None)
        except queue.Full:  # then nobody sleeps
            return

    def _close(self, code: int, reason: str) -> None:
        self._gone = True
        try:
            self._ws.close(code, reason)
        except (ConnectionClosed, OSError):
            return

    def _send(self, event: Event) -> None:
        if self._gone:
            raise ConnectionClosed
        self._ws.send(orjson.dumps(event).decode())

    # -- a turn ---------------------------------------------------------------------------------

    def _turn(self, message: bytes) -> None:
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        exchange = self._current = request_context.begin(asked, self._bridge, "responses")
        if self._turns:
            exchange.id = random_id("req")  # the client's own is that of the first
        self._turns += 1
        exchange.client_headers.pop(IDEMPOTENCY_KEY, None)  # the handshake's, for all turns
        try:
            for event in self._answered(message, exchange):
                if exchange.tape is not None:
                    exchange.tape.told([event])
                self._send(event)
        finally:
            self._current = self._answering = self._interrupted = None
            exchange.close()

    def _answered(self, data: bytes, exchange: Exchange) -> Iterator[Event]:
        asked: Json = {}
        try:
            request_context.admit(exchange, has_body=False)
            exchange.body_size = len(data)
            if exchange.tape is not None:
                exchange.tape.heard(data)
            asked = read_body(data, self._bridge.settings.max_json_values)
            exchange.saw_body(asked)
            if asked.get("type") in _IGNORED:
                return
            stream, link = self._begun(
                adapt_shape(_checked(asked), "responses", exchange), exchange
            )
        except (Exception, Stopping) as error:
            self._chain.forget(asked)
            yield _in_lane(_error(exchange.blame(error)), asked)
            return
        events = _events(stream)
        first = next(events, None)
        for event in itertools.chain(_sign(first, exchange) if first else (), events):
            if self._interrupted is exchange and event.get("type") == "response.failed":
                event = _as_interrupted(event)
                asked = {**asked, "store": False}  # only this connection knows the response
            self._note(event, asked, link, exchange)
            yield _in_lane(_echoing(event, asked) if link else event, asked)

    def _begun(self, asked: Json, exchange: Exchange) -> tuple[Stream, Link | None]:
        """The stream of a turn with its first batch read, and what it continues."""
        body = {k: v for k, v in asked.items() if k not in _LOCAL}
        base_of(body)
        link = self._chain.previous(body, self._bridge.keeps_responses(body, exchange))
        if link is not None:
            limits = RequestLimits(
                self._bridge.settings.max_body, self._bridge.settings.max_json_values
            )
            limit = ReadLimit(limits, "previous_response_id")
            limit.spend_value(body)
            link.spend(limit)
        if asked.get("generate") is False:
            return self._prepared(body, link), link
        if link is None:
            return self._opened(body, exchange), None

        def drop(name: str, reason: str) -> None:
            exchange.ledger.drop(name, reason)  # each upstream begins a ledger

        earlier = Earlier(link.items, "previous_response_id")
        own = own_part(body, link)
        return ask(lambda whole: self._opened(whole, exchange), own, earlier, drop), link

    def _opened(self, body: Json, exchange: Exchange) -> Stream:
        body["stream"] = True
        style = get_requested_style(request, "responses")
        stream = exchange.making(self._bridge.open("responses", body, style, exchange))
        exchange.streams()
        first = next(stream, None)
        return itertools.chain([] if first is None else [first], stream)

    def _prepared(self, body: Json, link: Link | None) -> Stream:
        """A response that says nothing, for the next turn to continue; no upstream is asked."""
        if link is None and body.get("previous_response_id"):
            raise not_found(body["previous_response_id"])
        body = continued(body, link) if link else body
        items_of(body)
        model = body.get("model") or self._bridge.settings.default_model
        now = MINT.now()
        blank = blank_response({**body, "model": model}, random_id("resp"), now) | marks(
            base_of(body), False
        )
        done = {**blank, "status": "completed", "completed_at": now, "usage": _NO_USAGE}
        kinds = {"response.created": blank, "response.completed": done}
        events = enumerate(kinds.items())
        return iter([[{"type": k, "response": r, "sequence_number": i} for i, (k, r) in events]])

    def _note(self, event: Event, asked: Json, link: Link | None, exchange: Exchange) -> None:
        kind = event.get("type")
        if self._answering is None and isinstance(event.get("response"), dict):
            self._latest_id = str(event["response"].get("id"))
            self._answering = self._latest_id, exchange
        if kind == "response.failed":
            self._chain.forget(asked)
        elif kind in TERMINALS:
            self._chain.keep(event["response"], link, asked)


_NO_USAGE: Json = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def _checked(asked: Json) -> Json:
    kind = asked.get("type")
    if kind != "response.create":
        raise InvalidRequest(
            f"Invalid value for 'type': {shorten(repr(kind))}; expected 'response.create'.",
            param="type",
            code="invalid_value",
        )
    if asked.get("background"):
        raise Unsupported("There is no background work over a WebSocket.", param="background")
    if asked.get("stream_id") is not None and not _is_lane(asked["stream_id"]):
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


def _is_lane(name: Any) -> bool:
    return isinstance(name, str) and _LANE.fullmatch(name) is not None


def _in_lane(event: Event, asked: Json) -> Event:
    """Whoever asks in a lane is answered in it; the lanes take turns like all else."""
    lane = asked.get("stream_id")
    return {**event, "stream_id": lane} if _is_lane(lane) else event


def _events(stream: Stream) -> Iterator[Event]:
    """The events of a response up to its terminal one, be it the failure to go on.

    An ``error`` before that is not sent: over a WebSocket it would end the turn, and the terminal
    event the next one.  Later sequence numbers are lowered, so that they leave no gap.
    """
    told = told_responses(stream)
    skipped = 0
    for batch in told:
        for event in batch:
            if event.get("type") == "error":
                skipped += 1
                continue
            try:
                orjson.dumps(event)
            except TypeError:  # a number too large, or nested too deeply
                failure = told.throw(unreadable())
                skipped += len(failure) - 1
                yield _renumber(failure[-1], skipped)
                return
            yield _renumber(event, skipped) if skipped else event


def _renumber(event: Event, skipped: int) -> Event:
    """An event whose sequence number is lowered by the number of events that were not sent."""
    number = event.get("sequence_number")
    return {**event, "sequence_number": number - skipped} if type(number) is int else event


def _sign(event: Event, exchange: Exchange) -> list[Event]:
    """The first event, with what the headers of an answer to a POST would say is lost.

    Codex gets all these headers, most of them in events of its own, which go first.  Other clients
    do not: their types know neither.  An ``error`` has its headers in this place, too.
    """
    if TURN_METADATA not in request.headers:
        lost = request_context.losses(exchange)
        return [{**event, "headers": lost}] if lost else [event]
    headers = Headers()
    request_context.sign(headers, exchange)
    told = {name.lower(): value for name, value in headers.items()}
    return [*describe_turn(told), {**event, "headers": told}]


def _echoing(event: Event, asked: Json) -> Event:
    response = event.get("response")
    if not isinstance(response, dict):
        return event
    previous = {"previous_response_id": asked["previous_response_id"]}
    return {**event, "response": {**response, **previous}}


def _error(failure: ForwarderError) -> Event:
    """The event for a turn that did not come to a response."""
    event = {"type": "error", "status": failure.status, **failure.body()}
    return {**event, "headers": dict(failure.headers)} if failure.headers else event
