"""Records the bytes and timing of one request for captures.

The recorder keeps references to the immutable byte strings and neither copies nor parses them.
Without capturing there is no recorder. Bytes beyond the budget are counted but not kept. Only a
request body beyond the budget is parsed, to keep it without its long strings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import orjson

from forwarder.config.settings import UpstreamSettings
from forwarder.core.types import Batch, Json
from forwarder.protocols import framing

ElapsedClock = Callable[[], float]
"""Returns the seconds since the request began."""

HeaderPairs = list[tuple[str, str]]

PIECE_OVERHEAD_BYTES = 32
"""Estimated memory overhead of one piece, charged to the budget besides its bytes."""

REFERENCE_MARKERS = (b"previous_response_id", b"conversation", b'"id"')
"""Every request that may refer to stored state contains at least one of these."""

MIN_DROPPED_TEXT_LENGTH = 1000
"""Strings of at least this many characters are omitted; images and files are far longer."""


class RequestHead(NamedTuple):
    """The head of a client's request."""

    method: str
    path: str
    query: HeaderPairs
    headers: HeaderPairs


class CaptureBudget:
    """The number of bytes that the recorder of one request may still keep."""

    def __init__(self, limit: int) -> None:
        self._limit = self._remaining = limit

    def take(self, size: int, spare: float = 0.0) -> bool:
        """Spend ``size`` bytes; return False if less than the share ``spare`` would remain."""
        if self._remaining - size < self._limit * spare:
            return False
        self._remaining -= size
        return True


class CapturedBody(NamedTuple):
    """A request body of ``size`` bytes; ``data`` may be truncated, or ``None`` if dropped."""

    data: bytes | None
    size: int
    is_complete: bool


def capture_body(data: bytes, budget: CaptureBudget, spare: float) -> CapturedBody:
    """Keep a body whole, truncated, or not at all, depending on the remaining budget."""
    if budget.take(len(data), spare):
        return CapturedBody(data, len(data), True)
    short = truncate_body(data)
    fits = short is not None and budget.take(len(short), spare)
    return CapturedBody(short if fits else None, len(data), False)


def truncate_body(data: bytes) -> bytes | None:
    """Return a JSON body without its long strings, or ``None`` if it is not valid JSON.

    A long string is omitted entirely, because a partial one could end in half a secret, which
    redaction would not find.
    """
    try:
        return orjson.dumps(truncate_value(orjson.loads(data)))
    except (ValueError, TypeError, RecursionError):
        return None


def truncate_value(value: Any) -> Any:
    if type(value) is str:
        return value if len(value) < MIN_DROPPED_TEXT_LENGTH else describe_omission(value)
    if type(value) is list:
        return [truncate_value(inner) for inner in value]
    if type(value) is dict:
        return {name: truncate_value(inner) for name, inner in value.items()}
    return value


def describe_omission(text: str) -> str:
    """Return the placeholder of an omitted string; it keeps the media type of a data URL."""
    head, comma, _ = text[:100].partition(",")
    kind = head + comma if text.startswith("data:") and comma else ""
    return f"{kind}[{len(text) - len(kind)} characters left out]"


class ByteTrack:
    """Bytes sent in one direction; after the first piece over budget no more are kept.

    ``is_partial`` is true for a copy of a track to which bytes are still added.
    """

    def __init__(self, budget: CaptureBudget, clock: ElapsedClock) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.dropped_bytes = 0
        self.is_partial = False
        self._budget = budget
        self._clock = clock

    def add(self, data: bytes) -> None:
        """Record a piece with its time; empty pieces are ignored."""
        if not data:
            return
        if self.dropped_bytes or not self._budget.take(len(data) + PIECE_OVERHEAD_BYTES):
            self.dropped_bytes += len(data)
        else:
            self.pieces.append((self._clock(), data))

    def copy_partial(self) -> ByteTrack:
        """Return a copy with the pieces so far."""
        partial = copy(self)
        partial.pieces = list(self.pieces)
        partial.is_partial = True
        return partial

    def tap(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces unchanged and record each; closing this generator closes ``pieces``."""
        try:
            for piece in pieces:
                self.add(piece)
                yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()


class AttemptRecorder(Protocol):
    """Interface through which `Upstream` reports one attempt; a context manager around sending."""

    def __enter__(self) -> object: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...

    def record_head(self, response: Any) -> None:
        """Record the status and headers of a response."""

    def tap(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the response's bytes unchanged and record them."""


class NullAttemptRecorder:
    """Used for requests that are not captured."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        pass

    def record_head(self, response: Any) -> None:
        """Do nothing."""

    def tap(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Return ``pieces`` itself."""
        return pieces


NULL_ATTEMPT_RECORDER = NullAttemptRecorder()


@dataclass
class AttemptCapture:
    """One request to an upstream.

    ``url`` has no query. ``started_at`` and ``head_at`` are seconds since the request began.
    """

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
        """Record the response of an HTTP error, whose body the SDK has read, or the failure."""
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
        except GeneratorExit:  # the reader stopped early, which is not an error
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
    """Records one request; ``started`` is its start on the monotonic clock.

    ``name`` is the name of its record, once the record has one. ``is_partial`` is true for a copy
    of a recorder that still records.
    """

    def __init__(self, request_head: RequestHead, limit: int, started: float) -> None:
        self.request_head = request_head
        self.time = time.time()
        self.body: CapturedBody | None = None
        self.resumed_body: CapturedBody | None = None
        self.attempts: list[AttemptCapture] = []
        self.status: int | None = None
        self.headers: HeaderPairs = []
        self.name: str | None = None
        self.is_partial = False
        self._limit = limit
        self._started_at = started
        self._budget = CaptureBudget(limit)
        self.answer = ByteTrack(self._budget, self._read_elapsed)

    def record_body(self, data: bytes) -> None:
        """Record the client's body; half of the budget stays reserved for the upstream's side."""
        self.body = capture_body(data, self._budget, 1 / 2)

    def record_resumed_body(self, request: Json) -> None:
        """Record the request with stored state inserted, if it may refer to stored state."""
        data = self.body.data if self.body else None
        if data is None or self.resumed_body is not None:
            return
        if self.request_head.method != "POST" or any(word in data for word in REFERENCE_MARKERS):
            self.resumed_body = capture_body(orjson.dumps(request), self._budget, 1 / 4)

    def record_attempt(
        self, upstream: UpstreamSettings, provider: str, protocol: str, url: str, data: bytes
    ) -> AttemptRecorder:
        """Start the record of one more request to an upstream."""
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
        """Record status and headers of the client's response; return the track for its body."""
        self.status, self.headers = status, headers
        return self.answer

    def record_events(self, batch: Batch) -> None:
        """Record events of a response that has no HTTP stream (WebSocket or background)."""
        self.answer.add(framing.encode_responses(batch))

    def make_child(self, started: float) -> Recorder:
        """Create a recorder for background work that the same request starts."""
        child = Recorder(self.request_head, self._limit, started)
        if self.body is not None and self.body.data is not None:
            child.record_body(self.body.data)
        return child

    def copy_partial(self) -> Recorder:
        """Return a copy of the record so far. Call it in the thread that runs the request."""
        partial = copy(self)
        partial.is_partial = True
        partial.answer = self.answer.copy_partial()
        partial.attempts = [
            replace(attempt, answer=attempt.answer.copy_partial()) for attempt in self.attempts
        ]
        return partial

    def _read_elapsed(self) -> float:
        return time.monotonic() - self._started_at
