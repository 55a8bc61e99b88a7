"""Runs a request through the application and reports the events of both sides while it runs.

The request is an `OperatorCall`, which runs in its own greenlet: Flask would otherwise share the
context variable ``g`` of the page's request with it. Events are reported in the order in which they
happen; ``at`` is in milliseconds since the start:

    {"side": "client",   "at", "kind": "head", "status", "headers"}
    {"side": "client",   "at", "kind": "event", "data" or "text", "event"?, "parts"?}
    {"side": "upstream", "at", "kind": "request", "attempt", "upstream", "protocol", "url"}
    {"side": "upstream", "at", "kind": "head", "attempt", "status"}
    {"side": "upstream", "at", "kind": "event", "attempt", "data" or "text", "event"?, "parts"?}
    {"side": "upstream", "at", "kind": "error", "attempt", "message"}
    {"side": "call",     "at", "kind": "end", "id", "dropped", "upstream", "retries", "error"}

A reader that does not keep up slows the request down, as a slow client does. The request is
cancelled when the reader stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple

import gevent
import orjson
from flask import Request
from gevent import monkey
from gevent.event import Event

from forwarder.console.answer_events import EventSplitter, read_parts, shorten_strings
from forwarder.context.capture_recorder import (
    AttemptCapture,
    AttemptRecorder,
    Recorder,
    RequestHead,
)
from forwarder.context.redaction import Redactor
from forwarder.context.request_context import RequestContext
from forwarder.core.in_flight_requests import ShutdownInterrupt, is_in_thread
from forwarder.core.types import Json
from forwarder.observability.capture.serialize import to_milliseconds
from forwarder.server.operator_call import OperatorCall

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from forwarder.config.settings import UpstreamSettings

MAX_WAITING_BYTES = 2**20
"""Bytes of events that wait for the reader before the request waits for it."""

MAX_SHOWN_EVENT_BYTES = 2**18
"""Events that are larger, after their long strings are cut, are reported without content."""

STOP_SECONDS = 5.0
"""Time for a cancelled request to end by itself; then its greenlet is killed."""

_get_thread_id = monkey.get_original("_thread", "get_ident")

SHOWN_HEADERS = ("content-type", "retry-after")
SHOWN_HEADER_PREFIXES = ("x-forwarder-", "x-request-id", "x-ratelimit-")


class CallRequest(NamedTuple):
    """A request to send: ``path`` may have a query, ``body`` is JSON."""

    protocol: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    client_key: str | None = None


class ObservedCall:
    """A request that a page sends to ``app``; ``origin`` is the page's own request.

    Iterate over `stream_events` once. ``limit`` is the maximum size of a capture in bytes.
    ``on_chunk`` receives each chunk of the client's answer. ``status`` is the answer's status, 0
    before the answer begins.
    """

    def __init__(
        self,
        app: WSGIApplication,
        origin: Request,
        request: CallRequest,
        redactor: Redactor,
        limit: int,
        on_chunk: Callable[[bytes], object] = len,
    ) -> None:
        self.status = 0
        call = OperatorCall(request.client_key, self._make_recorder)
        self._environ = call.make_environ(origin, request.path, request.body, request.headers)
        self._app = app
        self._protocol = request.protocol
        self._redactor = redactor
        self._limit = limit
        self._on_chunk = on_chunk
        self._context: RequestContext | None = None
        self._started_at = time.monotonic()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._attempts = 0
        self._is_finished = self._is_closed = False
        self._has_events, self._has_room = Event(), Event()
        self._thread_id = _get_thread_id()

    def stream_events(self, keepalive: float) -> Iterator[list[bytes]]:
        """Run the request and yield its events, as JSON texts, in batches.

        Yields an empty batch after each ``keepalive`` seconds without an event. Closing this
        generator cancels the request.
        """
        worker = gevent.spawn(Context().run, self._run)
        try:
            while True:
                is_finished = self._is_finished  # before the last events are taken
                self._has_events.clear()
                if self._waiting:
                    yield self._take_waiting()
                elif is_finished:
                    return
                elif not self._has_events.wait(keepalive):
                    yield []
        finally:
            self._stop(worker)

    def _take_waiting(self) -> list[bytes]:
        taken = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._has_room.set()
        return taken

    def _stop(self, worker: gevent.Greenlet[..., None]) -> None:
        self._is_closed = True
        self._has_room.set()
        if not self._is_finished and self._context is not None:
            self._context.cancel()
        worker.join(STOP_SECONDS)
        worker.kill(block=False)
        if is_in_thread():  # Flask's development server has a thread, and so a hub, per request
            gevent.get_hub().destroy(destroy_loop=True)

    # -- the request ----------------------------------------------------------------------------

    def _run(self) -> None:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
            head[:] = [status, headers]
            return len

        try:
            environ, self._environ = self._environ, {}
            chunks = self._app(environ, start_response)
            del environ  # it holds the body
            try:
                status, headers = head
                self._report_answer(status, dict(headers), iter(chunks))
            finally:
                close = getattr(chunks, "close", None)
                if close is not None:
                    close()
        except (Exception, ShutdownInterrupt) as error:
            self.report("call", "error", message=f"{type(error).__name__}: {error}")
        finally:
            self._report_end()
            self._is_finished = True
            self._has_events.set()

    def _report_answer(self, status: str, headers: dict[str, str], chunks: Iterator[bytes]) -> None:
        self.status = int(status.partition(" ")[0])
        shown = {name: text for name, text in headers.items() if is_shown(name)}
        self.report("client", "head", status=self.status, headers=shown)
        self.let_reader_run()
        splitter = EventSplitter(headers.get("Content-Type", ""))
        for chunk in chunks:
            self._on_chunk(chunk)
            for event in splitter.feed(chunk):
                self.report_event("client", self._protocol, event)
            self.let_reader_run()
            if self._is_closed:
                return
        for event in splitter.flush():
            self.report_event("client", self._protocol, event)

    def _report_end(self) -> None:
        context = self._context
        if context is None:
            self.report("call", "end")
            return
        self.report(
            "call",
            "end",
            id=context.id,
            upstream=context.upstream,
            model=context.model,
            dropped=dict(context.loss_report.losses),
            retries=context.retries,
            failed=context.failed_upstreams,
            error=context.error,
        )

    def _make_recorder(self, context: RequestContext, head: RequestHead) -> Recorder:
        self._context = context
        return ObservedRecorder(self, head, self._limit, context.started_at)

    def count_attempt(self) -> int:
        """Return the number of the next request to an upstream, from 1."""
        self._attempts += 1
        return self._attempts

    # -- events ---------------------------------------------------------------------------------

    def report_event(self, side: str, protocol: str, event: Json, **more: Any) -> None:
        """Add an event of an answer, and the parts that it adds to the answer."""
        redacted = self._redactor.redact_value(event)
        parts = [part.to_json() for part in read_parts(protocol, redacted.get("data"))]
        more |= {"parts": parts} if parts else {}
        self.report(side, "event", **more, **redacted)

    def report(self, side: str, kind: str, **fields: Any) -> None:
        """Add an event. The reader receives it at the next `let_reader_run`."""
        at = to_milliseconds(time.monotonic() - self._started_at)
        event = {"side": side, "at": at, "kind": kind, **shorten_strings(fields)}
        encoded = self._redactor.redact_everywhere(orjson.dumps(event))
        if len(encoded) > MAX_SHOWN_EVENT_BYTES:
            rest = {name: value for name, value in event.items() if name not in ("data", "parts")}
            rest["text"] = f"[{len(encoded)} bytes left out]"
            encoded = self._redactor.redact_everywhere(orjson.dumps(rest))
        self._waiting.append(encoded)
        self._waiting_bytes += len(encoded)

    def let_reader_run(self) -> None:
        """Let the reader take the events; wait while more than `MAX_WAITING_BYTES` are left."""
        # Another thread, and the hub, cannot wait for the reader.
        if _get_thread_id() != self._thread_id or gevent.getcurrent() is gevent.get_hub():
            return
        self._has_events.set()
        if not self._is_closed:
            gevent.sleep(0)
        while self._waiting_bytes > MAX_WAITING_BYTES and not self._is_closed:
            self._has_room.clear()
            self._has_room.wait()


def is_shown(header: str) -> bool:
    name = header.lower()
    return name in SHOWN_HEADERS or name.startswith(SHOWN_HEADER_PREFIXES)


class ObservedRecorder(Recorder):
    """A recorder that also reports the requests to upstreams and their answers to ``call``."""

    def __init__(self, call: ObservedCall, head: RequestHead, limit: int, started: float) -> None:
        super().__init__(head, limit, started)
        self._call = call

    def record_attempt(
        self, upstream: UpstreamSettings, provider: str, protocol: str, url: str, data: bytes
    ) -> AttemptRecorder:
        """Start the record of one more request to an upstream, and report it."""
        super().record_attempt(upstream, provider, protocol, url, data)
        return ObservedAttempt(self._call, self.attempts[-1])


class ObservedAttempt:
    """The recorder of one request to an upstream, which also reports its answer to ``call``."""

    def __init__(self, call: ObservedCall, attempt: AttemptCapture) -> None:
        self._call = call
        self._attempt = attempt
        self._number = call.count_attempt()
        self._splitter = EventSplitter("")
        self._report(
            "request",
            upstream=attempt.upstream.name,
            protocol=attempt.protocol,
            url=attempt.url,
        )

    def __enter__(self) -> None:
        self._attempt.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._attempt.__exit__(kind, error, trace)
        response = getattr(error, "response", None)
        if response is not None:  # the answer is an error that the SDK has read
            self._report_head(response)
            self._report_events(self._splitter.feed(response.content))
            self._report_events(self._splitter.flush())
        elif self._attempt.error is not None:
            self._report("error", message=self._attempt.error["message"])

    def record_head(self, response: Any) -> None:
        """Record and report the status of an answer."""
        self._attempt.record_head(response)
        self._report_head(response)

    def tap(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the answer's bytes unchanged; record them and report their events."""
        recorded = self._attempt.tap(pieces)
        try:
            for piece in recorded:
                self._report_events(self._splitter.feed(piece))
                yield piece
        except Exception:
            if self._attempt.error is not None:
                self._report("error", message=self._attempt.error["message"])
            raise
        finally:
            recorded.close()  # type: ignore[attr-defined]
            self._report_events(self._splitter.flush())

    def _report_head(self, response: Any) -> None:
        self._splitter = EventSplitter(response.headers.get("content-type", ""))
        self._report("head", status=response.status_code)

    def _report_events(self, events: list[Json]) -> None:
        for event in events:
            self._call.report_event("upstream", self._attempt.protocol, event, attempt=self._number)

    def _report(self, kind: str, **fields: Any) -> None:
        self._call.report("upstream", kind, attempt=self._number, **fields)
