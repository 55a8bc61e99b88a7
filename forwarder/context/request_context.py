"""The context of one client request: client, progress, outcome, and resources to close."""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from forwarder.config.settings import UpstreamSettings
from forwarder.config.upstream_endpoints import Endpoint, GroupMember
from forwarder.context.capture_recorder import NULL_ATTEMPT_RECORDER, AttemptRecorder, Recorder
from forwarder.context.client_identity import ClientGrants
from forwarder.context.redaction import REDACTED, Redactor, collect_client_key
from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.cleanup import CleanupStack
from forwarder.core.errors import (
    ClientDisconnected,
    ForwarderError,
    InternalError,
    ShuttingDown,
    UpstreamMalformedEvent,
)
from forwarder.core.in_flight_requests import InFlightRequest, ShutdownInterrupt
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Event, EventStream, Handler, Json
from forwarder.protocols.chat_responses_mappings import read_usage
from forwarder.protocols.model_defaults import NO_DEFAULTS, ModelDefaults

log = logging.getLogger("forwarder.exchange")

S = TypeVar("S")


@dataclass(frozen=True)
class Route:
    """The upstream that serves a request, its protocol, and the upstream's own model name.

    ``defaults`` fill parameters that the client did not set. ``member`` is set if the client asked
    for a group of models and this is one of them.
    """

    upstream: UpstreamSettings
    protocol: str
    model: str
    defaults: ModelDefaults = NO_DEFAULTS
    member: GroupMember | None = None


class RequestObserver:
    """Receives notifications about requests and upstreams; the base class ignores them.

    Exceptions in ``on_request``, ``on_stream_start``, ``on_tool_call`` and ``on_complete`` are
    logged and do not affect the request.
    """

    def on_request(self, context: RequestContext, header: Callable[[str], str | None]) -> None:
        """A request has arrived; ``header`` returns its headers by name."""

    def instrument(self, handler: Handler, route: Route, context: RequestContext) -> Handler:
        """Return the upstream's handler, or a wrapper around it."""
        return handler

    def trace_headers(self, context: RequestContext) -> Mapping[str, str]:
        """Return additional headers for the request to the upstream."""
        return {}

    def authorize(self, context: RequestContext, address: str | None) -> None:
        """Raise a ForwarderError to reject the client after its key and address are known."""

    def on_stream_start(self, context: RequestContext) -> None:
        """A streamed response has started."""

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        """The request has ended after ``seconds``."""

    def on_tool_call(self, context: RequestContext, tool: str, has_failed: bool) -> None:
        """A call of a hosted tool has ended; ``tool`` is the type of its item."""

    def on_retry(self, upstream: str, reason: str) -> None:
        """A request to ``upstream`` is retried; ``reason`` is an error code or a status."""

    def on_failure(self, upstream: str, error: ForwarderError) -> None:
        """``upstream`` failed with an error that the client does not see (retry or fallback)."""

    def on_fallback(self, upstream: str, to: str, reason: str) -> None:
        """A request moves from ``upstream``, which failed for ``reason``, to upstream ``to``."""

    def on_endpoint_answer(self, upstream: UpstreamSettings, has_failed: bool) -> None:
        """One of several endpoints of an upstream has begun to answer, or has failed."""

    def on_breaker_change(self, upstream: str, state: str) -> None:
        """The breaker of ``upstream`` is now ``closed``, ``open`` or ``half_open``.

        The caller holds the breaker's lock, so observers must not block.
        """

    def on_health_check(self, upstream: str, is_healthy: bool, seconds: float) -> None:
        """A health check of ``upstream`` has ended after ``seconds``."""

    def on_rejection(self, reason: str, upstream: str | None = None) -> None:
        """The forwarder rejected a request; ``upstream`` is set if one would have served it."""

    def close(self) -> None:
        """Stop background work of this observer, because the process or its services end."""


@dataclass
class RequestContext:
    """The state of one request; ``cleanup`` closes the resources that were opened for it.

    ``get_base_url`` returns the URL at which the client reaches the forwarder, without a trailing
    slash. ``method`` is the HTTP method, None for background work and turns of a WebSocket.
    ``client_key`` is the key that the client sent, or the identity of a key that was made at run
    time (`make_key_identity`). ``grants`` are the permissions of such a key, and ``sent_key`` is
    the key itself, which no log or capture may show. ``client_name`` names the client for people
    once it is authenticated (`ClientNames`).
    ``upstream`` is the upstream of the latest attempt, ``failed_upstreams`` are the earlier ones.
    ``endpoint`` is its endpoint if it has several, ``failed_endpoints`` are those before it.
    ``requested_model`` is the client's name for the model, "" for a request without one, and None
    before an upstream is chosen. ``client_headers`` are the client's headers that are
    forwarded upstream.
    ``conversion_losses`` maps parameters that were lost when the body was converted to the
    reasons. ``has_converted_body`` is true if the body had the shape of the other API. ``detail``
    is the part of ``error_message`` that every log may show: the message may quote the request.
    ``usage`` is that of the whole answer once it has ended, ``rounds_usage`` that of the finished
    rounds of an answer in which tools run here: it counts if the client disconnects later.
    ``recorder`` is set if the request is captured. ``rendered_field`` is the field in which the
    client is known to render reasoning. ``followed_response_id`` is the id of a response that the
    upstream is already generating and that only has to be followed. ``body_memory`` is the limit of
    memory for bodies, ``body_reservation`` the request body's part of it; ``body_size`` is the
    size of the request body in bytes, ``body_text`` the bytes that its texts take beyond it.
    ``is_answer_composed`` is true if this attempt makes the answer of several upstream answers, so
    that no upstream has it. ``tool_memory`` holds data of hosted tools for a fallback to another
    upstream, such as the outcomes of calls that ran already. ``runs_hosted_tools`` is false for
    requests that a hosted tool itself makes.
    """

    id: str
    route: str
    loss_report: LossReport
    log_level: int = logging.INFO
    log_sample_rate: float = 0.0
    log_bodies: bool = False
    get_base_url: Callable[[], str] = str
    client_key: str | None = None
    grants: ClientGrants | None = None
    sent_key: str | None = field(default=None, repr=False)
    client_name: str | None = None
    rendered_field: str | None = None
    client_address: str | None = None
    followed_response_id: str | None = None
    method: str | None = None
    upstream: str | None = None
    model: str | None = None
    requested_model: str | None = None
    status: int = 200
    error: str | None = None
    detail: str | None = None
    error_message: str | None = None
    usage: Json | None = None
    rounds_usage: Json | None = None
    reply_headers: dict[str, str] = field(default_factory=dict)
    cleanup: CleanupStack = field(default_factory=CleanupStack)
    started_at: float = field(default_factory=time.monotonic)
    first_event_at: float | None = None
    failed_upstreams: list[str] = field(default_factory=list)
    endpoint: Endpoint | None = None
    failed_endpoints: list[str] = field(default_factory=list)
    retries: int = 0
    is_cancelled: bool = False
    cancel_callbacks: set[Callable[[], None]] = field(default_factory=set)
    run: InFlightRequest | None = None
    observers: Sequence[RequestObserver] = ()
    event_count: int = 0
    is_streamed: bool = False
    error_class: type[ForwarderError] | None = None
    account_id: str | None = None
    rate_limit_headers: dict[str, str] = field(default_factory=dict)
    client_headers: dict[str, str] = field(default_factory=dict)
    conversion_losses: dict[str, str] = field(default_factory=dict)
    has_converted_body: bool = False
    span: Any = None
    recorder: Recorder | None = None
    body_memory: BodyMemory = field(default_factory=lambda: BodyMemory(sys.maxsize))
    body_reservation: BodyReservation | None = None
    body_size: int = 0
    body_text: int = 0
    is_answer_composed: bool = False
    tool_memory: dict[str, Any] = field(default_factory=dict)
    runs_hosted_tools: bool = True
    _is_closed: bool = False
    _cancel_event: threading.Event | None = None
    _first_body_hash: int | None = None
    _added_memory: BodyReservation | None = None

    def notify_request(self, header: Callable[[str], str | None]) -> None:
        """Notify the observers that the request has arrived."""
        self._notify("on_request", header)

    def instrument(self, handler: Handler, route: Route) -> Handler:
        """Return the upstream's handler, wrapped by each observer."""
        for observer in self.observers:
            handler = observer.instrument(handler, route, self)
        return handler

    def collect_upstream_headers(self) -> dict[str, str]:
        """Return the client's and the observers' headers for the request to the upstream."""
        observed = {
            k: v for observer in self.observers for k, v in observer.trace_headers(self).items()
        }
        return {**self.client_headers, **observed}

    def record_first_body(self, content: bytes) -> bool:
        """Record the first body that is sent to an upstream; return whether this body equals it."""
        digest = hash(content)
        if self._first_body_hash is None:
            self._first_body_hash = digest
        return digest == self._first_body_hash

    def authorize(self, address: str | None) -> None:
        """Raise a ForwarderError if an observer rejects the client at ``address``."""
        for observer in self.observers:
            observer.authorize(self, address)

    def cancel(self) -> None:
        """End all waits and close all open resources, because the client has disconnected."""
        self.is_cancelled = True
        if self._cancel_event is not None:
            self._cancel_event.set()
        for cancel in list(self.cancel_callbacks):
            cancel()
        self.cleanup.close()

    def wait(self, seconds: float) -> bool:
        """Wait for ``seconds``; return False at once when the request is cancelled."""
        if self._cancel_event is None:  # created here because few requests have to wait
            self._cancel_event = threading.Event()
        return not (self.is_cancelled or self._cancel_event.wait(seconds))

    def set_response_stream(self, stream: S) -> S:
        """Register the response generator; while it is suspended, the server writes its output."""
        if self.run is not None:
            self.run.stream = stream
        return stream

    def start_attempt(self, upstream: str, model: str) -> None:
        """Start an attempt at another upstream; discard the state of the previous one."""
        self.upstream, self.model, self.endpoint = upstream, model, None
        self.is_answer_composed = False
        self.loss_report = self.loss_report.restart(self.conversion_losses)
        self.reply_headers = {}
        self.release_added_memory()

    def release_added_memory(self) -> None:
        """Release `added_memory`, because the data that was added to the request is dropped."""
        if self._added_memory is not None:
            self._added_memory.release()

    def reserve_memory(self) -> BodyReservation:
        """Return a new reservation of memory, which ends with this context or if it is cancelled.

        It is closed and not only released, because code that still adds data to it afterwards would
        never release that data.
        """
        reservation = BodyReservation(self.body_memory)
        self.cleanup.add(reservation.close)
        return reservation

    @property
    def origin(self) -> str | None:
        """The name, in stored data, of the upstream or endpoint that the latest attempt called."""
        return self.upstream if self.endpoint is None else self.endpoint.origin

    @property
    def added_memory(self) -> BodyReservation:
        """The reservation for data that this attempt adds to the request body."""
        if self._added_memory is None:
            self._added_memory = BodyReservation(self.body_memory)
            self.cleanup.add(self._added_memory.release)  # another attempt reserves it again
        return self._added_memory

    def notify_stream_start(self) -> None:
        """Mark the response as a stream that has started, and notify the observers."""
        self.is_streamed = True
        self._notify("on_stream_start")

    def notify_tool_call(self, item: Json) -> None:
        """Notify the observers that a call of a hosted tool has ended; ``item`` is its item."""
        has_failed = item.get("status") == "failed" or bool(item.get("error"))
        self._notify("on_tool_call", str(item.get("type")), has_failed)

    def record_rounds(self, usage: Json | None) -> None:
        """Record the usage of all rounds of an answer that have ended."""
        self.rounds_usage = usage

    def log_request(self, body: Json) -> None:
        """Log the redacted request body if FORWARDER_LOG_BODIES is set."""
        if self.log_bodies:
            redacted = Redactor(()).redact_value(body)
            log.info({"event": "request_body", "id": self.id, "request": redacted})

    def record_attempt(
        self, upstream: UpstreamSettings, provider: str, protocol: str, url: str, data: bytes
    ) -> AttemptRecorder:
        """Return the recorder for one request to an upstream; a null object without capturing."""
        if self.recorder is None:
            return NULL_ATTEMPT_RECORDER
        return self.recorder.record_attempt(upstream, provider, protocol, url, data)

    def with_metering(self, handler: Handler) -> Handler:
        """Wrap a handler so that this context records its first event, event count and usage."""

        def handle_request(request: Json) -> EventStream:
            if self.recorder is not None:
                self.recorder.record_resumed_body(request)
            return self._meter_stream(handler(request))

        return handle_request

    def record_estimate(self, usage: Json) -> None:
        """Record the estimated usage of an answer that was cut, unless the upstream reported it."""
        if self.usage is None:
            self.usage = usage

    def convert_errors(self, stream: EventStream) -> EventStream:
        """Yield from a stream and convert every exception to a ForwarderError."""
        try:
            yield from stream
        except (Exception, ShutdownInterrupt) as error:
            failure = self.record_failure(error)
            if failure is error:  # `raise error from error` would discard its cause
                raise
            raise failure from error

    def record_failure(self, error: Exception | ShutdownInterrupt) -> ForwarderError:
        """Record the failure of this request and return the error to report to the client.

        An unexpected exception becomes an InternalError and its traceback is logged. The traceback
        of a malformed upstream event is logged too, because the forwarder's parser may be wrong.
        After a disconnect, every failure is recorded as ClientDisconnected.
        """
        if isinstance(error, ShutdownInterrupt):
            error = ShuttingDown()
        elif not isinstance(error, ForwarderError):
            event = {"event": "request_crashed"}
            log.error("request %s raised an unexpected error", self.id, exc_info=error, extra=event)
            error = InternalError("The forwarder failed unexpectedly. Its log has the details.")
        elif self.is_cancelled:
            error = ClientDisconnected()
        elif isinstance(error, UpstreamMalformedEvent) and self.error_class is None:
            event = {"event": "upstream_event_malformed"}
            log.warning("request %s got a malformed event", self.id, exc_info=error, extra=event)
        elif error.__cause__ is not None:
            event = {"event": "request_failed"}
            log.debug("request %s failed", self.id, exc_info=error, extra=event)
        return self._set_error(error)

    def _set_error(self, error: ForwarderError) -> ForwarderError:
        self.status = error.status
        self.error = error.code or error.type
        self.error_message = self._redact_client_key(error.message)
        self.detail = self.error_message if self.log_bodies else error.log_detail
        self.error_class = type(error)
        return error

    def _redact_client_key(self, message: str) -> str:
        """Return a message without the client's key, which an upstream may quote."""
        for key in collect_client_key(self.sent_key or self.client_key):
            message = message.replace(key, REDACTED)
        return message

    def record_disconnect(self) -> None:
        """Record that the client did not receive its whole response, e.g. after a failed write."""
        if self.error is None:
            self.is_cancelled = True
            self._set_error(ClientDisconnected())

    def _meter_stream(self, stream: EventStream) -> EventStream:
        try:
            for batch in stream:
                if batch:
                    self.event_count += len(batch)
                    if self.first_event_at is None:
                        self.first_event_at = time.monotonic()
                    self._record_last_event(batch[-1])
                    if self.log_sample_rate:
                        self._log_sample(batch)
                yield batch
        except ForwarderError as error:
            if error.usage is not None:
                self.usage = error.usage
            raise

    def _record_last_event(self, event: Event) -> None:
        """Record usage and errors, which only the last event of a batch has."""
        usage = read_event_usage(event)
        if isinstance(usage, dict):
            self.usage = usage
        if event.get("error") or event.get("type") in ("error", "response.failed"):
            self.error = "upstream_failed"  # the client receives the upstream's own error event
            message = read_event_error(event)
            if message is not None:
                self.error_message = self._redact_client_key(message)
                self.detail = self.error_message if self.log_bodies else None

    def _log_sample(self, batch: list[Event]) -> None:
        for event in batch:
            if random.random() < self.log_sample_rate:
                kind = {"type": event.get("type") or event.get("object")}
                sample = Redactor(()).redact_value(event) if self.log_bodies else kind
                log.info({"event": "stream_event_sampled", "id": self.id, "sample": sample})

    def close(self) -> None:
        """Close all resources, notify the observers, and log one line about the request.

        A second call has no effect: the first one may have been interrupted by the end of the
        process.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.cleanup.close()
        finally:
            if self._added_memory is not None:
                self._added_memory.close()  # database work may still run, and read more
            self._release_stream()
            seconds = time.monotonic() - self.started_at
            try:
                self._notify("on_complete", seconds)
            finally:
                self._log_end(seconds)

    def _log_end(self, seconds: float) -> None:
        level = self.log_level if self.status < 400 else max(self.log_level, logging.INFO)
        if log.isEnabledFor(level):
            # Only the text format, for people at a terminal, shows the message.
            private = {"error_message": self.error_message}
            log.log(level, self._make_log_fields(seconds), extra=private)

    def _release_stream(self) -> None:
        """Break the reference cycle context -> run -> generator -> context.

        A generator that was not read to its end is then closed and freed at once with its buffers,
        instead of at the garbage collector's next full collection.
        """
        run, self.run = self.run, None
        if run is not None:
            run.stream = None

    @property
    def token_counts(self) -> tuple[int | None, int | None]:
        """Input and output tokens, ``None`` where the upstream reported none."""
        return read_token_counts(self.usage or self.rounds_usage or {})

    def _notify(self, method: str, *arguments: Any) -> None:
        interruption: BaseException | None = None
        for observer in self.observers:
            try:
                getattr(observer, method)(self, *arguments)
            except Exception as error:  # a faulty observer must not fail the request
                event = {"event": "observer_failed"}
                log.error("observer failed in request %s", self.id, exc_info=error, extra=event)
            except BaseException as error:  # the process or the greenlet ends
                interruption = error
        if interruption is not None:
            raise interruption

    def _make_log_fields(self, seconds: float) -> Json:
        input_tokens, output_tokens = self.token_counts
        first_event = self.first_event_at
        waited = None if first_event is None else to_milliseconds(first_event - self.started_at)
        fields = {
            "event": "request_done",
            "id": self.id,
            "method": self.method,
            "route": self.route,
            "client": self.client_name,
            "upstream": self.upstream,
            "requested_model": self.requested_model or None,
            "model": self.model,
            "status": self.status,
            "error": self.error,
            "detail": self.detail,
            "failed": self.failed_upstreams or None,
            "endpoint": self.endpoint.label if self.endpoint is not None else None,
            "failed_endpoints": self.failed_endpoints or None,
            "retries": self.retries or None,
            "left": self.is_cancelled or None,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "first_event_ms": waited,
            "duration_ms": to_milliseconds(seconds),
            "dropped": sorted(self.loss_report.losses) or None,
        }
        return {k: v for k, v in fields.items() if v is not None}


def read_event_usage(event: Event) -> Json | None:
    """Return the usage object in an event of either protocol."""
    response: Json | None = event.get("response")
    return response.get("usage") if response else read_usage(event)


def read_event_error(event: Event) -> str | None:
    """Return the message of an event of either protocol that reports an error."""
    response = event.get("response")
    error = (response if isinstance(response, dict) else event).get("error")
    message = error.get("message") if isinstance(error, dict) else event.get("message")
    return message if isinstance(message, str) else None


def read_token_counts(usage: Json) -> tuple[int | None, int | None]:
    """Return input and output tokens of either protocol; ``None`` for invalid counts."""
    return (
        to_token_count(usage.get("input_tokens", usage.get("prompt_tokens"))),
        to_token_count(usage.get("output_tokens", usage.get("completion_tokens"))),
    )


def to_token_count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def to_milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
