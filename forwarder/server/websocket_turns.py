"""The turns of one WebSocket connection. Each turn corresponds to one POST request.

A client starts a turn with ``response.create`` and receives the events of a stream. Exactly one
event ends the turn: the terminal event of the response or, before a response exists, an ``error``
with a status. Turns run one at a time; further messages wait.

Codex sends ``response.interrupt`` to end the current turn as incomplete, with only the finished
items. The session always acknowledges it, since Codex waits for that.
"""

from __future__ import annotations

import itertools
import logging
import queue
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
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
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.core.stored_data_limit import RequestLimits, StoredDataLimit
from forwarder.core.types import Event, EventStream, Json
from forwarder.models.codex_headers import TURN_METADATA_HEADER, make_turn_events
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.protocols.input_items import make_previous_response_error, read_input_items
from forwarder.protocols.stream_end import (
    ResponseStreamState,
    append_responses_error,
    make_malformed_event_error,
)
from forwarder.protocols.types import make_empty_usage
from forwarder.server import request_hooks
from forwarder.server.base_paths import get_requested_style
from forwarder.server.json_body import read_body
from forwarder.server.mixed_request_shapes import adapt_shape
from forwarder.server.websocket_history import (
    HistoryEntry,
    SessionHistory,
    expand_history,
    strip_history,
)
from forwarder.server.websocket_library_fixes import TURN_PAUSE_SECONDS
from forwarder.services import Services
from forwarder.storage.earlier_items import EarlierItems, call_with_earlier_items
from forwarder.storage.history_reference import (
    read_history_reference,
)
from forwarder.storage.response_recorder import make_history_fields
from forwarder.translation.responses_over_chat.response_skeleton import make_response_skeleton

log = logging.getLogger("forwarder.websocket")

MAX_WAITING_MESSAGES = 8
"""Maximum number of messages that wait for the current turn."""

POLL_SECONDS = 5.0
"""Seconds between two checks of the reader thread whether the connection is open."""

_WIRE_BYTES_PER_MESSAGE_BYTE = 4
"""Received bytes allowed per byte of a message; a frame of one byte takes seven."""

_GOING_AWAY, _POLICY, _TOO_BIG, _INTERNAL_ERROR, _TRY_LATER = 1001, 1008, 1009, 1011, 1013
"""WebSocket close codes."""

_LOCAL_FIELDS = ("type", "stream", "stream_options", "generate", "background", "stream_id")
"""Fields of a message that a POST body lacks or that have another meaning there."""

_STREAM_ID = re.compile(r"[\w.-]{1,256}", re.ASCII)
"""Valid ``stream_id`` values."""

_IGNORED = frozenset({"response.processed"})
"""Messages of Codex that need no reaction."""

_INTERRUPT = "response.interrupt"
_MAX_INTERRUPT = 4096
"""Longer messages are not checked for an interrupt before their turn."""


class WebSocketSession:
    """One connection: a reader thread fills a queue, and the turns consume it."""

    def __init__(self, ws: Any, services: Services, gateway: Gateway) -> None:
        self._ws = ws
        self._services = services
        self._gateway = gateway
        self._history = SessionHistory(services.settings.websocket_memory, services.body_memory)
        self._messages: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING_MESSAGES)
        self._reservation = BodyReservation(services.body_memory)
        self._waiting_bytes = self._turn_bytes = 0
        self._current: RequestContext | None = None
        self._answering: tuple[str, RequestContext] | None = None  # id of the current response
        self._interrupted: RequestContext | None = None
        self._latest_id: str | None = None
        self._turns = 0
        self._leaving = self._gone = False

    def run(self) -> None:
        """Serve turns until the client disconnects or the process stops."""
        self._ws.sock.before_receiving = self._prepare_receiving
        with self._services.running.add_listener(self._stop_for_shutdown):
            threading.Thread(target=self._read_messages, daemon=True).start()
            try:
                while (message := self._next_message()) is not None:
                    interrupt = _read_interrupt(message)
                    if interrupt is None:
                        self._serve_turn(message)
                    else:
                        self._send_event(self._acknowledge(interrupt))
                    del message  # free its memory while the connection is idle
                    self._turn_bytes = 0
                    # Messages that have arrived are never refused: at the limit, the reader
                    # thread stops receiving.
                    self._reservation.hold(self._count_waiting_bytes())
            except (ConnectionClosed, OSError):
                self._cancel_turn()
            except Exception:
                log.exception("a connection failed", extra={"event": "websocket_failed"})
                self._close_socket(_INTERNAL_ERROR, "The forwarder has an internal error.")
            finally:
                self._reservation.close()  # the reader thread may still run
                self._history.close()

    # -- the connection -------------------------------------------------------------------------

    def _next_message(self) -> bytes | None:
        """Return the next message, or close the connection and return None."""
        if self._leaving:
            self._close_socket(_GOING_AWAY, "The forwarder is restarting.")
            return None
        try:
            message = self._messages.get(timeout=self._services.settings.websocket_idle)
        except queue.Empty:
            self._close_socket(_GOING_AWAY, "The connection was idle for too long.")
            return None
        if self._gone:  # the message has waited, but the client has left
            return None
        if message is None:
            return self._next_message() if self._leaving else None
        self._waiting_bytes -= len(message)
        self._turn_bytes = len(message)
        return message

    def _read_messages(self) -> None:
        """Receive messages in the reader thread. This also detects a disconnect."""
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
        """Queue the next message. Returns False if none arrived in time."""
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

    def _interrupt(self, message: Json) -> None:
        """Cancel the current turn if the message refers to it. `_acknowledge` answers later."""
        answering = self._answering
        if answering is not None and message.get("response_id") in (None, answering[0]):
            self._interrupted = answering[1]
            answering[1].cancel()

    def _acknowledge(self, message: Json) -> Event:
        """Return the acknowledgement of an interrupt: failed if it names another response."""
        requested_id, latest = message.get("response_id"), self._latest_id
        is_accepted = latest is not None and requested_id in (None, latest)
        kind = f"{_INTERRUPT}.{'accepted' if is_accepted else 'failed'}"
        event = {"type": kind, "response_id": latest if is_accepted else requested_id}
        return tag_with_stream_id(event, message)

    def _prepare_receiving(self) -> None:
        """Mark the client as connected and enforce the memory limit, which raises OSError.

        The library's thread calls this before it receives more data.
        """
        # A client cannot answer a ping while it sends a message, which may take minutes.
        self._ws.pong_received = True
        self._enforce_memory_limit()

    def _enforce_memory_limit(self) -> None:
        """Close the connection and raise OSError if its messages take too much memory."""
        if self._gone:
            return
        if self._ws.input_buffer:
            time.sleep(TURN_PAUSE_SECONDS)  # let the reader thread consume it
        if self._count_waiting_bytes() > self._services.settings.max_body:
            code = _TOO_BIG
            reason = "The waiting messages are too large (limit: FORWARDER_MAX_BODY)."
        elif self._measure_overhead() > self._services.settings.max_chunk_overhead:
            code = _TOO_BIG
            reason = (
                "The frames of the message are too small (limit: FORWARDER_MAX_CHUNK_OVERHEAD)."
            )
        else:
            try:
                self._resize_reservation()
            except Overloaded:
                code = _TRY_LATER
                reason = "Not enough memory for messages (limit: FORWARDER_MAX_BODY_MEMORY)."
            else:
                return
        self._close_socket(code, reason)
        raise OSError(reason)

    def _count_waiting_bytes(self) -> int:
        """Return the bytes of the messages that wait or arrive."""
        arriving = len(self._ws.incoming_message or b"") + sum(map(len, self._ws.input_buffer))
        return self._waiting_bytes + arriving

    def _measure_overhead(self) -> int:
        """Return the bytes received for the arriving message beyond those of its frames' data."""
        message = self._ws.incoming_message
        if message is None:  # only pings have arrived since the last message
            self._ws.sock.start_message()
        received: int = self._ws.sock.message_bytes
        return received - _WIRE_BYTES_PER_MESSAGE_BYTE * len(message or b"")

    def _resize_reservation(self) -> None:
        """Reserve memory for all messages."""
        self._reservation.resize(self._count_waiting_bytes() + self._turn_bytes)

    def _cancel_turn(self) -> None:
        """Cancel the current turn after a disconnect."""
        self._gone = True
        if self._current is not None:
            self._current.cancel()
        self._wake_consumer()

    def _stop_for_shutdown(self) -> None:
        """Accept no more turns: the process is stopping."""
        self._leaving = True
        self._wake_consumer()

    def _wake_consumer(self) -> None:
        try:
            self._messages.put_nowait(None)
        except queue.Full:  # then the consumer is not waiting
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
        flask_request: Request = request._get_current_object()  # type: ignore[attr-defined]
        context = self._current = request_hooks.create_context(
            flask_request, self._services, "responses"
        )
        if self._turns:
            # X-Request-Id of the handshake names the first turn only.
            context.id = generate_id("req")
        self._turns += 1
        context.client_headers.pop(IDEMPOTENCY_KEY, None)  # the same for all turns
        try:
            for event in self._answer_message(message, context):
                if context.recorder is not None:
                    context.recorder.record_events([event])
                self._send_event(event)
        except (ConnectionClosed, OSError):
            context.record_disconnect()
            raise
        finally:
            self._current = self._answering = self._interrupted = None
            context.close()

    def _answer_message(self, data: bytes, context: RequestContext) -> Iterator[Event]:
        message: Json = {}
        try:
            request_hooks.authenticate(context, has_body=False)
            context.body_size = len(data)
            if context.recorder is not None:
                context.recorder.record_body(data)
            limit = self._services.settings.max_json_values
            message = read_body(data, limit, partial(request_hooks.reserve_text_memory, context))
            context.log_request(message)
            if message.get("type") in _IGNORED:
                return
            stream, entry = self._begin_turn(
                adapt_shape(check_message(message), "responses", context), context
            )
        except (Exception, ShutdownInterrupt) as error:
            self._history.forget_previous(message)
            yield tag_with_stream_id(error_event(context.record_failure(error)), message)
            return
        events = read_until_terminal(stream)
        first = next(events, None)
        for event in itertools.chain(add_header_events(first, context) if first else (), events):
            if self._interrupted is context and event.get("type") == "response.failed":
                event = _mark_interrupted(event)
                message = {**message, "store": False}  # only this connection knows the response
            self._note_response(event, message, entry, context)
            yield tag_with_stream_id(
                echo_request_fields(event, message) if entry else event, message
            )

    def _begin_turn(
        self, message: Json, context: RequestContext
    ) -> tuple[EventStream, HistoryEntry | None]:
        """Return the stream of a turn, with its first batch read, and the entry it continues."""
        body = {k: v for k, v in message.items() if k not in _LOCAL_FIELDS}
        read_history_reference(body)
        entry = self._history.find_previous(body, self._gateway.can_store_responses(body, context))
        if entry is not None:
            limits = RequestLimits(
                self._services.settings.max_body, self._services.settings.max_json_values
            )
            param = "previous_response_id"
            # Not in `added_memory`, which each attempt at an upstream releases.
            limit = StoredDataLimit(limits, param, memory=context.reserve_memory())
            limit.spend_request(body)
            entry.spend_items(limit)
        if message.get("generate") is False:
            return self._answer_without_upstream(body, entry), entry
        if entry is None:
            return self._open_stream(body, context), None

        def drop_parameter(name: str, reason: str) -> None:
            context.loss_report.drop(name, reason)  # each upstream attempt starts a new report

        earlier = EarlierItems(entry.items, "previous_response_id")
        own = strip_history(body, entry)
        return call_with_earlier_items(
            lambda whole: self._open_stream(whole, context), own, earlier, drop_parameter
        ), entry

    def _open_stream(self, body: Json, context: RequestContext) -> EventStream:
        body["stream"] = True
        style = get_requested_style(request, "responses")
        stream = context.set_response_stream(
            self._gateway.stream("responses", body, style, context)
        )
        context.notify_stream_start()
        first = next(stream, None)
        return itertools.chain([] if first is None else [first], stream)

    def _answer_without_upstream(self, body: Json, entry: HistoryEntry | None) -> EventStream:
        """Return an empty response for the next turn to continue, without an upstream request."""
        if entry is None and body.get("previous_response_id"):
            raise make_previous_response_error(body["previous_response_id"])
        body = expand_history(body, entry) if entry else body
        read_input_items(body.get("input"))  # checks it
        model = body.get("model") or self._services.settings.default_model
        now = ID_SOURCE.now()
        blank = make_response_skeleton(
            {**body, "model": model}, generate_id("resp"), now
        ) | make_history_fields(read_history_reference(body), False)
        end = {"status": "completed", "completed_at": now, "usage": make_empty_usage()}
        responses = {"response.created": blank, "response.completed": blank | end}
        events = enumerate(responses.items())
        return iter([[{"type": k, "response": r, "sequence_number": i} for i, (k, r) in events]])

    def _note_response(
        self, event: Event, message: Json, entry: HistoryEntry | None, context: RequestContext
    ) -> None:
        kind = event.get("type")
        if self._answering is None and isinstance(event.get("response"), dict):
            self._latest_id = str(event["response"].get("id"))
            self._answering = self._latest_id, context
        if kind == "response.failed":
            self._history.forget_previous(message)
        elif kind in TERMINAL_EVENTS:
            self._history.add_response(event["response"], entry, message)


def check_message(message: Json) -> Json:
    kind = message.get("type")
    if kind != "response.create":
        raise InvalidRequest(
            f"Invalid value for 'type': {shorten_value(repr(kind))}; expected 'response.create'.",
            param="type",
            code="invalid_value",
        )
    if message.get("background"):
        raise Unsupported("'background' is not supported over a WebSocket.", param="background")
    if message.get("stream_id") is not None and not is_stream_id(message["stream_id"]):
        raise InvalidRequest(
            "Invalid value for 'stream_id': expected up to 256 letters, digits, '_', '-' or '.'.",
            param="stream_id",
            code="invalid_stream_id",
        )
    return message


def _read_interrupt(data: bytes) -> Json | None:
    """Return the message if it is an interrupt, else None."""
    if len(data) > _MAX_INTERRUPT or _INTERRUPT.encode() not in data:
        return None
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return message if isinstance(message, dict) and message.get("type") == _INTERRUPT else None


def _mark_interrupted(event: Event) -> Event:
    """Convert the failure of an interrupted turn into an incomplete response."""
    ended = {"status": "incomplete", "incomplete_details": {"reason": "interrupted"}}
    response = {**event["response"], **ended, "error": None, "store": False}
    return {**event, "type": "response.incomplete", "response": response}


def is_stream_id(name: Any) -> bool:
    return isinstance(name, str) and _STREAM_ID.fullmatch(name) is not None


def tag_with_stream_id(event: Event, message: Json) -> Event:
    """Copy the ``stream_id`` of a message to an event that answers it."""
    stream_id = message.get("stream_id")
    return {**event, "stream_id": stream_id} if is_stream_id(stream_id) else event


def read_until_terminal(stream: EventStream) -> Iterator[Event]:
    """Yield the events of a response up to its terminal event, which may report a failure.

    Earlier ``error`` events are skipped: over a WebSocket, clients take them for the end of the
    turn and the terminal event for the end of the next one. The following sequence numbers are
    lowered to leave no gap.
    """
    batches = append_responses_error(stream)
    skipped = 0
    for batch in batches:
        for event in batch:
            if event.get("type") == "error":
                skipped += 1
                continue
            if not is_readable(event):
                error = make_malformed_event_error()
                try:
                    failure = batches.throw(error)
                except ForwarderError:  # the event reports a failure itself, with malformed parts
                    failure = ResponseStreamState().make_failure_events(error)
                skipped += len(failure) - 1
                yield renumber_event(failure[-1], skipped)
                return
            yield renumber_event(event, skipped) if skipped else event


def is_readable(event: Event) -> bool:
    """Return whether an event can be sent and, if it is terminal, be kept in the history."""
    try:
        orjson.dumps(event)
    except TypeError:  # an integer is too large, or the nesting is too deep
        return False
    if event.get("type") not in TERMINAL_EVENTS:
        return True
    response = event.get("response")
    if not isinstance(response, dict) or isinstance(response.get("id"), dict | list):
        return False
    output = response.get("output") or []
    return isinstance(output, list) and all(isinstance(item, dict) for item in output)


def renumber_event(event: Event, skipped: int) -> Event:
    """Lower the sequence number of an event by the number of skipped events."""
    number = event.get("sequence_number")
    return {**event, "sequence_number": number - skipped} if type(number) is int else event


def add_header_events(event: Event, context: RequestContext) -> list[Event]:
    """Return the first event with the headers that report losses in a POST response.

    Codex gets all response headers, most of them in separate events before the first. Other
    clients do not, since their types lack these events. An ``error`` event also carries headers.
    """
    if TURN_METADATA_HEADER not in request.headers:
        lost = request_hooks.make_loss_header(context)
        return [{**event, "headers": lost}] if lost else [event]
    headers = Headers()
    request_hooks.add_headers(headers, context)
    values = {name.lower(): value for name, value in headers.items()}
    return [*make_turn_events(values), {**event, "headers": values}]


def echo_request_fields(event: Event, message: Json) -> Event:
    response = event.get("response")
    if not isinstance(response, dict):
        return event
    previous = {"previous_response_id": message["previous_response_id"]}
    return {**event, "response": {**response, **previous}}


def error_event(failure: ForwarderError) -> Event:
    """Return the error event for a turn that failed before a response existed."""
    event = {"type": "error", "status": failure.status, **failure.make_body()}
    return {**event, "headers": dict(failure.headers)} if failure.headers else event
