"""What passes through one exchange, taken down as it passes: bytes, and when they came.

Bytes are kept as they are, since nobody changes them: nothing is copied, parsed or read here, and
where nothing is captured there is no tape.  What is too much is counted and left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson

from forwarder.config.settings import UpstreamSettings
from forwarder.context.truncate import truncate_body
from forwarder.core.types import Batch, Json
from forwarder.protocols import sse

ElapsedClock = Callable[[], float]
"""Gives the seconds since the exchange began."""

HeaderPairs = list[tuple[str, str]]

PIECE_OVERHEAD_BYTES = 32
"""What a piece costs besides its bytes."""

REFERENCE_MARKERS = (b"previous_response_id", b"conversation", b'"id"')
"""One of these stands in every request that may stand on something stored."""


class RequestHead(NamedTuple):
    """The head of a client's request."""

    method: str
    path: str
    query: HeaderPairs
    headers: HeaderPairs


class CaptureBudget:
    """The bytes that one exchange may still keep."""

    def __init__(self, limit: int) -> None:
        self._limit = self._remaining = limit

    def take(self, size: int, spare: float = 0.0) -> bool:
        """Take so many, unless fewer than the share ``spare`` of all would be left."""
        if self._remaining - size < self._limit * spare:
            return False
        self._remaining -= size
        return True


class CapturedBody(NamedTuple):
    """A request's body of ``size`` bytes, as far as it is kept: ``data`` may be abridged."""

    data: bytes | None
    size: int
    is_complete: bool


def capture_body(data: bytes, budget: CaptureBudget, spare: float) -> CapturedBody:
    """As much of a body as the budget allows."""
    if budget.take(len(data), spare):
        return CapturedBody(data, len(data), True)
    short = truncate_body(data)
    fits = short is not None and budget.take(len(short), spare)
    return CapturedBody(short if fits else None, len(data), False)


class ByteTrack:
    """What is said in one direction; after the first piece that is too much nothing is kept."""

    def __init__(self, budget: CaptureBudget, clock: ElapsedClock) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.dropped_bytes = 0
        self._budget = budget
        self._clock = clock

    def add(self, data: bytes) -> None:
        """Note a piece; an empty one says nothing."""
        if not data:
            return
        if self.dropped_bytes or not self._budget.take(len(data) + PIECE_OVERHEAD_BYTES):
            self.dropped_bytes += len(data)
        else:
            self.pieces.append((self._clock(), data))

    def tap(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces as they are, each noted; closing this closes them."""
        try:
            for piece in pieces:
                self.add(piece)
                yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()


class AttemptRecorder(Protocol):
    """What `Upstream` tells of one request: a context for sending it, and what came of it."""

    def __enter__(self) -> object: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...

    def record_head(self, response: Any) -> None:
        """The head of an answer is here."""

    def tap(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The answer's bytes, as they are."""


class NullAttemptRecorder:
    """For exchanges without a tape."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        pass

    def record_head(self, response: Any) -> None:
        """Nobody wants to know."""

    def tap(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The very pieces: nobody listens."""
        return pieces


NULL_ATTEMPT_RECORDER = NullAttemptRecorder()


@dataclass
class AttemptCapture:
    """One request to an upstream: ``url`` has no query, ``started_at`` and ``head_at`` are seconds."""

    upstream: UpstreamSettings
    provider: str
    protocol: str
    url: str
    body: CapturedBody
    answer: ByteTrack
    clock: ElapsedClock
    started_at: float
    status: int | None = None
    headers: HeaderPairs = field(default_factory=list)
    head_at: float | None = None
    error: Json | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Note a refusal, which the SDK has read, or what kept an answer from coming."""
        if error is None:
            return
        response = getattr(error, "response", None)
        if response is None:
            self._record_error(error.__cause__ or error)
        else:
            self.record_head(response)
            self.answer.add(response.content)

    def record_head(self, response: Any) -> None:
        self.head_at = self.clock()
        self.status = response.status_code
        self.headers = list(response.headers.multi_items())

    def tap(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        try:
            for piece in pieces:
                self.answer.add(piece)
                yield piece
        except GeneratorExit:  # enough was heard
            raise
        except BaseException as error:
            self._record_error(error)
            raise

    def _record_error(self, error: BaseException) -> None:
        self.error = {"type": type(error).__name__, "message": str(error)}
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            self.error["errno"] = cause.errno


class Recorder:
    """One exchange as it passes; ``started`` is its time on the monotonic clock."""

    def __init__(self, request_head: RequestHead, limit: int, started: float) -> None:
        self.asked = request_head
        self.time = time.time()
        self.body: CapturedBody | None = None
        self.resumed_body: CapturedBody | None = None
        self.attempts: list[AttemptCapture] = []
        self.status: int | None = None
        self.headers: HeaderPairs = []
        self._limit = limit
        self._started_at = started
        self._budget = CaptureBudget(limit)
        self.answer = ByteTrack(self._budget, self._read_elapsed)

    def record_body(self, data: bytes) -> None:
        """The client's body."""
        self.body = capture_body(
            data, self._budget, 1 / 2
        )  # the upstream's side is to have room too

    def record_resumed_body(self, request: Json) -> None:
        """The request with what it stands on, if it may stand on anything that was stored."""
        given = self.body.data if self.body else None
        if given is None or self.resumed_body is not None:
            return
        if self.asked.method != "POST" or any(word in given for word in REFERENCE_MARKERS):
            self.resumed_body = capture_body(orjson.dumps(request), self._budget, 1 / 4)

    def record_attempt(
        self, upstream: UpstreamSettings, provider: str, protocol: str, url: str, data: bytes
    ) -> AttemptCapture:
        """One more request to an upstream."""
        body = capture_body(data, self._budget, 1 / 4)
        attempt = AttemptCapture(
            upstream,
            provider,
            protocol,
            url.partition("?")[0],
            body,
            ByteTrack(self._budget, self._read_elapsed),
            self._read_elapsed,
            self._read_elapsed(),
        )
        self.attempts.append(attempt)
        return attempt

    def record_answer_head(self, status: int, headers: HeaderPairs) -> ByteTrack:
        """The head of the answer to the client; what is said goes on the track."""
        self.status, self.headers = status, headers
        return self.answer

    def record_events(self, batch: Batch) -> None:
        """Events for a client that has no stream of its own."""
        self.answer.add(sse.encode_responses(batch))

    def make_child(self, started: float) -> Recorder:
        """A tape for work that the same request asks for."""
        more = Recorder(self.asked, self._limit, started)
        if self.body is not None and self.body.data is not None:
            more.record_body(self.body.data)
        return more

    def _read_elapsed(self) -> float:
        return time.monotonic() - self._started_at
