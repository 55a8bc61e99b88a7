"""One exchange with a client: who asked, what became of it, and what is open for it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from forwarder.config.settings import UpstreamSettings
from forwarder.context.recorder import NULL_ATTEMPT_RECORDER, AttemptRecorder, Recorder
from forwarder.context.redaction import Redactor
from forwarder.context.route import Route
from forwarder.core.cleanup import CleanupStack
from forwarder.core.errors import (
    ClientDisconnected,
    ForwarderError,
    InternalError,
    ShuttingDown,
    UpstreamMalformedEvent,
)
from forwarder.core.shutdown import InFlightRequest, ShutdownInterrupt
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Event, EventStream, Handler, Json
from forwarder.protocols.mappings import read_usage

log = logging.getLogger("forwarder.exchange")

S = TypeVar("S")


class RequestObserver:
    """Hears what becomes of exchanges and upstreams, and does nothing with it.

    What an observer raises of an exchange goes to the log and no further.
    """

    def on_request(self, exchange: RequestContext, header: Callable[[str], str | None]) -> None:
        """A request is here; ``header`` gives its headers by name."""

    def instrument(self, call: Handler, route: Route, exchange: RequestContext) -> Handler:
        """The upstream's call, or one wrapped around it."""
        return call

    def trace_headers(self, exchange: RequestContext) -> Mapping[str, str]:
        """Headers for the request to the upstream that is being called."""
        return {}

    def authorize(self, exchange: RequestContext, address: str | None) -> None:
        """A client, of whom the key and the address are known, asks; raises to turn it away."""

    def on_stream_start(self, exchange: RequestContext) -> None:
        """The answer is a stream, and has begun."""

    def on_complete(self, exchange: RequestContext, seconds: float) -> None:
        """It is over, and took so long."""

    def on_retry(self, upstream: str, reason: str) -> None:
        """``upstream`` is asked once more; ``reason`` is the code of the error, or its status."""

    def on_failure(self, upstream: str, error: ForwarderError) -> None:
        """``upstream`` did not serve a request of which the client is not told this error."""

    def on_fallback(self, upstream: str, to: str, reason: str) -> None:
        """A request goes from ``upstream``, which failed for this reason, on ``to`` another."""

    def on_breaker_change(self, upstream: str, state: str) -> None:
        """The breaker of ``upstream`` is now ``closed``, ``open`` or ``half_open``.

        Told under the breaker's lock: whoever hears it must not wait.
        """

    def on_health_check(self, upstream: str, well: bool, seconds: float) -> None:
        """A health check of ``upstream`` is over, and took so long."""

    def on_rejection(self, reason: str, upstream: str | None = None) -> None:
        """A request is turned away, here or before ``upstream``, which is not asked."""


@dataclass
class RequestContext:
    """The record of one request; ``cleanup`` closes whatever was opened for it.

    ``get_base_url`` gives where the client reaches the forwarder, without a slash at its end.
    ``upstream`` is the one that answered, or was asked last; ``failed`` are those before it.
    ``client_headers`` are those of the client's that go on to the upstream.
    ``conversion_losses`` are parameters that were lost when the request was read, and why.
    ``has_converted_body`` says that the body came in the shape of the other API.
    ``recorder`` is there when the exchange is captured.  ``rendered_field`` is the field from which
    the client is known to render reasoning.  ``followed_response_id`` is the upstream's id of a response that
    it makes already, and that is only to be followed.  ``body_size`` is that of the request's
    body, in bytes.
    """

    id: str
    route: str
    loss_report: LossReport
    log_level: int = logging.INFO
    log_sample_rate: float = 0.0
    log_bodies: bool = False
    get_base_url: Callable[[], str] = str
    client_key: str | None = None
    rendered_field: str | None = None
    client_address: str | None = None
    followed_response_id: str | None = None
    upstream: str | None = None
    model: str | None = None
    status: int = 200
    error: str | None = None
    detail: str | None = None
    usage: Json | None = None
    reply_headers: dict[str, str] = field(default_factory=dict)
    cleanup: CleanupStack = field(default_factory=CleanupStack)
    started_at: float = field(default_factory=time.monotonic)
    first_event_at: float | None = None
    failed_upstreams: list[str] = field(default_factory=list)
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
    body_size: int = 0
    _cancel_event: threading.Event | None = None
    _first_body_hash: int | None = None

    def notify_request(self, header: Callable[[str], str | None]) -> None:
        """Tell the observers that the request is here."""
        self._notify("on_request", header)

    def instrument(self, call: Handler, route: Route) -> Handler:
        """The upstream's call, as the observers want to see it."""
        for observer in self.observers:
            call = observer.instrument(call, route, self)
        return call

    def trace_headers(self) -> dict[str, str]:
        """The headers of the client, and of the observers, with which the upstream is called."""
        observed = {
            k: v for observer in self.observers for k, v in observer.trace_headers(self).items()
        }
        return {**self.client_headers, **observed}

    def is_first_body(self, content: bytes) -> bool:
        """Is this the body that an upstream was sent first, or the same again?"""
        digest = hash(content)
        if self._first_body_hash is None:
            self._first_body_hash = digest
        return digest == self._first_body_hash

    def authorize(self, address: str | None) -> None:
        """Raise a ForwarderError when an observer turns the client at ``get_base_url`` away."""
        for observer in self.observers:
            observer.authorize(self, address)

    def cancel(self) -> None:
        """The client has gone: end every wait for it, close what is open."""
        self.is_cancelled = True
        if self._cancel_event is not None:
            self._cancel_event.set()
        for cut in list(self.cancel_callbacks):
            cut()
        self.cleanup.close()

    def wait(self, seconds: float) -> bool:
        """Wait for so long; False as soon as there is nobody left to wait for."""
        gone = self._cancel_event = (
            self._cancel_event or threading.Event()
        )  # hardly any request has to wait
        return not (self.is_cancelled or gone.wait(seconds))

    def set_response_stream(self, stream: S) -> S:
        """The generator that makes the answer: while it rests, the client is being written to."""
        if self.run is not None:
            self.run.stream = stream
        return stream

    def new_attempt(self, upstream: str, model: str) -> None:
        """Another upstream is asked; what was noted of the one before is not the answer's."""
        self.upstream, self.model = upstream, model
        self.loss_report = replace(self.loss_report, losses=dict(self.conversion_losses))
        self.reply_headers = {}

    def notify_stream_start(self) -> None:
        """Note that the answer is a stream, which has begun."""
        self.is_streamed = True
        self._notify("on_stream_start")

    def log_request(self, body: Json) -> None:
        """Log the request itself, which is off unless the operator wants it; no keys with it."""
        if self.log_bodies:
            log.info({"id": self.id, "request": Redactor(()).redact_value(body)})

    def record_attempt(
        self, upstream: UpstreamSettings, provider: str, protocol: str, url: str, data: bytes
    ) -> AttemptRecorder:
        """What is to be told of a request that goes to an upstream."""
        if self.recorder is None:
            return NULL_ATTEMPT_RECORDER
        return self.recorder.record_attempt(upstream, provider, protocol, url, data)

    def meter(self, call: Handler) -> Handler:
        """Wrap a call so that its first event and its usage are noted here."""

        def handle_request(request: Json) -> EventStream:
            if self.recorder is not None:
                self.recorder.record_resumed_body(request)
            return self._meter_stream(call(request))

        return handle_request

    def convert_errors(self, stream: EventStream) -> EventStream:
        """Pass a stream on; whatever breaks it leaves as a ForwarderError."""
        try:
            yield from stream
        except (Exception, ShutdownInterrupt) as error:
            failure = self.record_failure(error)
            if failure is error:  # from itself, it would lose its cause
                raise
            raise failure from error

    def record_failure(self, error: Exception | ShutdownInterrupt) -> ForwarderError:
        """Note why this exchange did not do what was asked, and give the error to report.

        An unforeseen one is reported as an InternalError; its trace goes to the log.  So does that
        of an event that could not be read, since it may be the forwarder that cannot read.  What
        fails since the client has gone is nobody's failure.
        """
        if isinstance(error, ShutdownInterrupt):
            error = ShuttingDown()
        elif not isinstance(error, ForwarderError):
            log.error("exchange %s broke", self.id, exc_info=error)
            error = InternalError("The forwarder made a mistake; its log has the details.")
        elif self.is_cancelled:
            error = ClientDisconnected()
        elif isinstance(error, UpstreamMalformedEvent) and self.error_class is None:
            log.warning("exchange %s met an event that cannot be read", self.id, exc_info=error)
        elif error.__cause__ is not None:
            log.debug("exchange %s failed", self.id, exc_info=error)
        return self._set_error(error)

    def _set_error(self, error: ForwarderError) -> ForwarderError:
        """Note this error, which is to be reported."""
        self.status = error.status
        self.error = error.code or error.type
        self.detail = error.log_detail
        self.error_class = type(error)
        return error

    def record_disconnect(self) -> None:
        """Note that the client did not take all of its answer: a write to it failed, it may be."""
        if self.error is None:
            self.is_cancelled = True
            self._set_error(ClientDisconnected())

    def _meter_stream(self, stream: EventStream) -> EventStream:
        for batch in stream:
            if batch:
                self._meter_batch(batch)
            yield batch

    def _meter_batch(self, batch: list[Event]) -> None:
        if self.first_event_at is None:
            self.first_event_at = time.monotonic()
        self.event_count += len(batch)
        last = batch[-1]
        usage = read_event_usage(last)
        if isinstance(usage, dict):
            self.usage = usage
        if last.get("error") or last.get("type") in ("error", "response.failed"):
            self.error = "upstream_failed"  # told to the client by the upstream itself
        if self.log_sample_rate:
            self._log_sample(batch)

    def _log_sample(self, batch: list[Event]) -> None:
        for event in batch:
            if random.random() < self.log_sample_rate:
                kind = {"type": event.get("type") or event.get("object")}
                shown = Redactor(()).redact_value(event) if self.log_bodies else kind
                log.info({"id": self.id, "event": shown})

    def close(self) -> None:
        """Close what was opened and write the one line that says what became of it."""
        try:
            self.cleanup.close()
        finally:
            self._release_stream()
            seconds = time.monotonic() - self.started_at
            self._notify("on_complete", seconds)
            level = self.log_level if self.status < 400 else max(self.log_level, logging.INFO)
            log.log(level, {k: v for k, v in self._make_log_fields(seconds) if v is not None})

    def _release_stream(self) -> None:
        """Break the reference cycle exchange -> run -> generator -> exchange.

        A generator that the client did not read to its end is then closed and freed at once, with
        all that it buffered, instead of at the garbage collector's next full collection.
        """
        run, self.run = self.run, None
        if run is not None:
            run.stream = None

    @property
    def token_counts(self) -> tuple[int | None, int | None]:
        """Tokens in and out, in whichever protocol they were told."""
        return read_token_counts(self.usage or {})

    def _notify(self, what: str, *given: Any) -> None:
        """Tell the observers; a mistake of one is not the client's."""
        for observer in self.observers:
            try:
                getattr(observer, what)(self, *given)
            except Exception as error:
                log.error("exchange %s could not be observed", self.id, exc_info=error)

    def _make_log_fields(self, seconds: float) -> Iterator[tuple[str, Any]]:
        input_tokens, output_tokens = self.token_counts
        yield "id", self.id
        yield "route", self.route
        yield "upstream", self.upstream
        yield "model", self.model
        yield "status", self.status
        yield "error", self.error
        yield "detail", self.detail
        yield "failed", self.failed_upstreams or None
        yield "retries", self.retries or None
        yield "left", self.is_cancelled or None
        yield "input_tokens", input_tokens
        yield "output_tokens", output_tokens
        if self.first_event_at is not None:
            yield "first_event_ms", to_milliseconds(self.first_event_at - self.started_at)
        yield "duration_ms", to_milliseconds(seconds)
        yield "dropped", sorted(self.loss_report.losses) or None


def read_event_usage(event: Event) -> Json | None:
    """The usage that an event tells, in either protocol."""
    response: Json | None = event.get("response")
    return response.get("usage") if response else read_usage(event)


def read_token_counts(usage: Json) -> tuple[int | None, int | None]:
    """Tokens in and out, in either protocol; ``None`` for what is no number of them."""
    return (
        to_token_count(usage.get("input_tokens", usage.get("prompt_tokens"))),
        to_token_count(usage.get("output_tokens", usage.get("completion_tokens"))),
    )


def to_token_count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def to_milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
