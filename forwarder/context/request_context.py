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
from forwarder.context.recorder import UNRECORDED, Recorder, Tape
from forwarder.context.redaction import Redaction
from forwarder.context.route import Route
from forwarder.core.cleanup import Closers
from forwarder.core.errors import (
    ClientLeft,
    ForwarderError,
    InternalError,
    ShuttingDown,
    UpstreamUnreadable,
)
from forwarder.core.shutdown import Run, Stopping
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Call, Event, Json, Stream
from forwarder.protocols.mappings import read_usage

log = logging.getLogger("forwarder.exchange")

S = TypeVar("S")


class Observer:
    """Hears what becomes of exchanges and upstreams, and does nothing with it.

    What an observer raises of an exchange goes to the log and no further.
    """

    def began(self, exchange: Exchange, header: Callable[[str], str | None]) -> None:
        """A request is here; ``header`` gives its headers by name."""

    def watched(self, call: Call, route: Route, exchange: Exchange) -> Call:
        """The upstream's call, or one wrapped around it."""
        return call

    def onward(self, exchange: Exchange) -> Mapping[str, str]:
        """Headers for the request to the upstream that is being called."""
        return {}

    def admit(self, exchange: Exchange, address: str | None) -> None:
        """A client, of whom the key and the address are known, asks; raises to turn it away."""

    def streams(self, exchange: Exchange) -> None:
        """The answer is a stream, and has begun."""

    def ended(self, exchange: Exchange, seconds: float) -> None:
        """It is over, and took so long."""

    def retried(self, upstream: str, reason: str) -> None:
        """``upstream`` is asked once more; ``reason`` is the code of the error, or its status."""

    def failed(self, upstream: str, error: ForwarderError) -> None:
        """``upstream`` did not serve a request of which the client is not told this error."""

    def fell_back(self, upstream: str, to: str, reason: str) -> None:
        """A request goes from ``upstream``, which failed for this reason, on ``to`` another."""

    def breaker(self, upstream: str, state: str) -> None:
        """The breaker of ``upstream`` is now ``closed``, ``open`` or ``half_open``.

        Told under the breaker's lock: whoever hears it must not wait.
        """

    def checked(self, upstream: str, well: bool, seconds: float) -> None:
        """A health check of ``upstream`` is over, and took so long."""

    def refused(self, reason: str, upstream: str | None = None) -> None:
        """A request is turned away, here or before ``upstream``, which is not asked."""


@dataclass
class Exchange:
    """The record of one request; ``opened`` closes whatever was opened for it.

    ``address`` gives where the client reaches the forwarder, without a slash at its end.
    ``upstream`` is the one that answered, or was asked last; ``failed`` are those before it.
    ``client_headers`` are those of the client's that go on to the upstream.
    ``shape_losses`` are parameters that were lost when the request was read, and why.
    ``has_converted_body`` says that the body came in the shape of the other API.
    ``tape`` is there when the exchange is captured.  ``rendered_field`` is the field from which
    the client is known to render reasoning.  ``follows`` is the upstream's id of a response that
    it makes already, and that is only to be followed.  ``body_size`` is that of the request's
    body, in bytes.
    """

    id: str
    route: str
    ledger: Ledger
    log_level: int = logging.INFO
    log_sample: float = 0.0
    log_bodies: bool = False
    address: Callable[[], str] = str
    client_key: str | None = None
    rendered_field: str | None = None
    client_address: str | None = None
    follows: str | None = None
    upstream: str | None = None
    model: str | None = None
    status: int = 200
    error: str | None = None
    detail: str | None = None
    usage: Json | None = None
    reply_headers: dict[str, str] = field(default_factory=dict)
    opened: Closers = field(default_factory=Closers)
    started: float = field(default_factory=time.monotonic)
    first_event: float | None = None
    failed: list[str] = field(default_factory=list)
    retries: int = 0
    left: bool = False
    cuts: set[Callable[[], None]] = field(default_factory=set)
    run: Run | None = None
    observers: Sequence[Observer] = ()
    events: int = 0
    streamed: bool = False
    fault: type[ForwarderError] | None = None
    payer: str | None = None
    limit_headers: dict[str, str] = field(default_factory=dict)
    client_headers: dict[str, str] = field(default_factory=dict)
    shape_losses: dict[str, str] = field(default_factory=dict)
    has_converted_body: bool = False
    span: Any = None
    tape: Tape | None = None
    body_size: int = 0
    _gone: threading.Event | None = None
    _first_body: int | None = None

    def began(self, header: Callable[[str], str | None]) -> None:
        """Tell the observers that the request is here."""
        self._tell("began", header)

    def watched(self, call: Call, route: Route) -> Call:
        """The upstream's call, as the observers want to see it."""
        for observer in self.observers:
            call = observer.watched(call, route, self)
        return call

    def onward(self) -> dict[str, str]:
        """The headers of the client, and of the observers, with which the upstream is called."""
        observed = {k: v for observer in self.observers for k, v in observer.onward(self).items()}
        return {**self.client_headers, **observed}

    def is_first_body(self, content: bytes) -> bool:
        """Is this the body that an upstream was sent first, or the same again?"""
        digest = hash(content)
        if self._first_body is None:
            self._first_body = digest
        return digest == self._first_body

    def admit(self, address: str | None) -> None:
        """Raise a ForwarderError when an observer turns the client at ``address`` away."""
        for observer in self.observers:
            observer.admit(self, address)

    def leave(self) -> None:
        """The client has gone: end every wait for it, close what is open."""
        self.left = True
        if self._gone is not None:
            self._gone.set()
        for cut in list(self.cuts):
            cut()
        self.opened.close()

    def waited(self, seconds: float) -> bool:
        """Wait for so long; False as soon as there is nobody left to wait for."""
        gone = self._gone = self._gone or threading.Event()  # hardly any request has to wait
        return not (self.left or gone.wait(seconds))

    def making(self, stream: S) -> S:
        """The generator that makes the answer: while it rests, the client is being written to."""
        if self.run is not None:
            self.run.stream = stream
        return stream

    def goes_to(self, upstream: str, model: str) -> None:
        """Another upstream is asked; what was noted of the one before is not the answer's."""
        self.upstream, self.model = upstream, model
        self.ledger = replace(self.ledger, dropped=dict(self.shape_losses))
        self.reply_headers = {}

    def streams(self) -> None:
        """Note that the answer is a stream, which has begun."""
        self.streamed = True
        self._tell("streams")

    def saw_body(self, body: Json) -> None:
        """Log the request itself, which is off unless the operator wants it; no keys with it."""
        if self.log_bodies:
            log.info({"id": self.id, "request": Redaction(()).value(body)})

    def attempt(
        self, upstream: UpstreamSettings, provider: str, protocol: str, url: str, data: bytes
    ) -> Recorder:
        """What is to be told of a request that goes to an upstream."""
        if self.tape is None:
            return UNRECORDED
        return self.tape.attempt(upstream, provider, protocol, url, data)

    def metered(self, call: Call) -> Call:
        """Wrap a call so that its first event and its usage are noted here."""

        def call_and_note(request: Json) -> Stream:
            if self.tape is not None:
                self.tape.stands_on(request)
            return self._noting(call(request))

        return call_and_note

    def guarded(self, stream: Stream) -> Stream:
        """Pass a stream on; whatever breaks it leaves as a ForwarderError."""
        try:
            yield from stream
        except (Exception, Stopping) as error:
            failure = self.blame(error)
            if failure is error:  # from itself, it would lose its cause
                raise
            raise failure from error

    def blame(self, error: Exception | Stopping) -> ForwarderError:
        """Note why this exchange did not do what was asked, and give the error to report.

        An unforeseen one is reported as an InternalError; its trace goes to the log.  So does that
        of an event that could not be read, since it may be the forwarder that cannot read.  What
        fails since the client has gone is nobody's failure.
        """
        if isinstance(error, Stopping):
            error = ShuttingDown()
        elif not isinstance(error, ForwarderError):
            log.error("exchange %s broke", self.id, exc_info=error)
            error = InternalError("The forwarder made a mistake; its log has the details.")
        elif self.left:
            error = ClientLeft()
        elif isinstance(error, UpstreamUnreadable) and self.fault is None:
            log.warning("exchange %s met an event that cannot be read", self.id, exc_info=error)
        elif error.__cause__ is not None:
            log.debug("exchange %s failed", self.id, exc_info=error)
        return self._failed_by(error)

    def _failed_by(self, error: ForwarderError) -> ForwarderError:
        """Note this error, which is to be reported."""
        self.status = error.status
        self.error = error.code or error.type
        self.detail = error.log_detail
        self.fault = type(error)
        return error

    def abandoned(self) -> None:
        """Note that the client did not take all of its answer: a write to it failed, it may be."""
        if self.error is None:
            self.left = True
            self._failed_by(ClientLeft())

    def _noting(self, stream: Stream) -> Stream:
        for batch in stream:
            if batch:
                self._note(batch)
            yield batch

    def _note(self, batch: list[Event]) -> None:
        if self.first_event is None:
            self.first_event = time.monotonic()
        self.events += len(batch)
        last = batch[-1]
        usage = usage_of(last)
        if isinstance(usage, dict):
            self.usage = usage
        if last.get("error") or last.get("type") in ("error", "response.failed"):
            self.error = "upstream_failed"  # told to the client by the upstream itself
        if self.log_sample:
            self._log_sampled(batch)

    def _log_sampled(self, batch: list[Event]) -> None:
        for event in batch:
            if random.random() < self.log_sample:
                kind = {"type": event.get("type") or event.get("object")}
                shown = Redaction(()).value(event) if self.log_bodies else kind
                log.info({"id": self.id, "event": shown})

    def close(self) -> None:
        """Close what was opened and write the one line that says what became of it."""
        try:
            self.opened.close()
        finally:
            self._release_stream()
            seconds = time.monotonic() - self.started
            self._tell("ended", seconds)
            level = self.log_level if self.status < 400 else max(self.log_level, logging.INFO)
            log.log(level, {k: v for k, v in self._line(seconds) if v is not None})

    def _release_stream(self) -> None:
        """Break the reference cycle exchange -> run -> generator -> exchange.

        A generator that the client did not read to its end is then closed and freed at once, with
        all that it buffered, instead of at the garbage collector's next full collection.
        """
        run, self.run = self.run, None
        if run is not None:
            run.stream = None

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """Tokens in and out, in whichever protocol they were told."""
        return tokens_of(self.usage or {})

    def _tell(self, what: str, *given: Any) -> None:
        """Tell the observers; a mistake of one is not the client's."""
        for observer in self.observers:
            try:
                getattr(observer, what)(self, *given)
            except Exception as error:
                log.error("exchange %s could not be observed", self.id, exc_info=error)

    def _line(self, seconds: float) -> Iterator[tuple[str, Any]]:
        input_tokens, output_tokens = self.tokens
        yield "id", self.id
        yield "route", self.route
        yield "upstream", self.upstream
        yield "model", self.model
        yield "status", self.status
        yield "error", self.error
        yield "detail", self.detail
        yield "failed", self.failed or None
        yield "retries", self.retries or None
        yield "left", self.left or None
        yield "input_tokens", input_tokens
        yield "output_tokens", output_tokens
        if self.first_event is not None:
            yield "first_event_ms", _ms(self.first_event - self.started)
        yield "duration_ms", _ms(seconds)
        yield "dropped", sorted(self.ledger.dropped) or None


def usage_of(event: Event) -> Json | None:
    """The usage that an event tells, in either protocol."""
    response: Json | None = event.get("response")
    return response.get("usage") if response else read_usage(event)


def tokens_of(usage: Json) -> tuple[int | None, int | None]:
    """Tokens in and out, in either protocol; ``None`` for what is no number of them."""
    return (
        _count(usage.get("input_tokens", usage.get("prompt_tokens"))),
        _count(usage.get("output_tokens", usage.get("completion_tokens"))),
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
