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
from forwarder.context.truncate import abridged
from forwarder.core.types import Batch, Json
from forwarder.protocols import sse

Clock = Callable[[], float]
"""Gives the seconds since the exchange began."""

Pairs = list[tuple[str, str]]

_EACH = 32
"""What a piece costs besides its bytes."""

_REFERRING = (b"previous_response_id", b"conversation", b'"id"')
"""One of these stands in every request that may stand on something stored."""


class Asked(NamedTuple):
    """The head of a client's request."""

    method: str
    path: str
    query: Pairs
    headers: Pairs


class Budget:
    """The bytes that one exchange may still keep."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit

    def take(self, size: int, spare: float = 0.0) -> bool:
        """Take so many, unless fewer than the share ``spare`` of all would be left."""
        if self._left - size < self._limit * spare:
            return False
        self._left -= size
        return True


class Body(NamedTuple):
    """A request's body of ``size`` bytes, as far as it is kept: ``data`` may be abridged."""

    data: bytes | None
    size: int
    whole: bool


def body_of(data: bytes, budget: Budget, spare: float) -> Body:
    """As much of a body as the budget allows."""
    if budget.take(len(data), spare):
        return Body(data, len(data), True)
    short = abridged(data)
    fits = short is not None and budget.take(len(short), spare)
    return Body(short if fits else None, len(data), False)


class Track:
    """What is said in one direction; after the first piece that is too much nothing is kept."""

    def __init__(self, budget: Budget, clock: Clock) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.left_out = 0
        self._budget = budget
        self._clock = clock

    def add(self, data: bytes) -> None:
        """Note a piece; an empty one says nothing."""
        if not data:
            return
        if self.left_out or not self._budget.take(len(data) + _EACH):
            self.left_out += len(data)
        else:
            self.pieces.append((self._clock(), data))

    def passing(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces as they are, each noted; closing this closes them."""
        try:
            for piece in pieces:
                self.add(piece)
                yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()


class Recorder(Protocol):
    """What `Upstream` tells of one request: a context for sending it, and what came of it."""

    def __enter__(self) -> object: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...

    def answered(self, response: Any) -> None:
        """The head of an answer is here."""

    def heard(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The answer's bytes, as they are."""


class Unrecorded:
    """For exchanges without a tape."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        pass

    def answered(self, response: Any) -> None:
        """Nobody wants to know."""

    def heard(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The very pieces: nobody listens."""
        return pieces


UNRECORDED = Unrecorded()


@dataclass
class Attempt:
    """One request to an upstream: ``url`` has no query, ``began`` and ``head_at`` are seconds."""

    upstream: UpstreamSettings
    provider: str
    protocol: str
    url: str
    body: Body
    answer: Track
    clock: Clock
    began: float
    status: int | None = None
    headers: Pairs = field(default_factory=list)
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
            self._broke(error.__cause__ or error)
        else:
            self.answered(response)
            self.answer.add(response.content)

    def answered(self, response: Any) -> None:
        self.head_at = self.clock()
        self.status = response.status_code
        self.headers = list(response.headers.multi_items())

    def heard(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        try:
            for piece in pieces:
                self.answer.add(piece)
                yield piece
        except GeneratorExit:  # enough was heard
            raise
        except BaseException as error:
            self._broke(error)
            raise

    def _broke(self, error: BaseException) -> None:
        self.error = {"type": type(error).__name__, "message": str(error)}
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            self.error["errno"] = cause.errno


class Tape:
    """One exchange as it passes; ``started`` is its time on the monotonic clock."""

    def __init__(self, asked: Asked, limit: int, started: float) -> None:
        self.asked = asked
        self.time = time.time()
        self.body: Body | None = None
        self.resumed: Body | None = None
        self.attempts: list[Attempt] = []
        self.status: int | None = None
        self.headers: Pairs = []
        self._limit = limit
        self._started = started
        self._budget = Budget(limit)
        self.answer = Track(self._budget, self._clock)

    def heard(self, data: bytes) -> None:
        """The client's body."""
        self.body = body_of(data, self._budget, 1 / 2)  # the upstream's side is to have room too

    def stands_on(self, request: Json) -> None:
        """The request with what it stands on, if it may stand on anything that was stored."""
        given = self.body.data if self.body else None
        if given is None or self.resumed is not None:
            return
        if self.asked.method != "POST" or any(word in given for word in _REFERRING):
            self.resumed = body_of(orjson.dumps(request), self._budget, 1 / 4)

    def attempt(
        self, upstream: UpstreamSettings, provider: str, protocol: str, url: str, data: bytes
    ) -> Attempt:
        """One more request to an upstream."""
        body = body_of(data, self._budget, 1 / 4)
        attempt = Attempt(
            upstream,
            provider,
            protocol,
            url.partition("?")[0],
            body,
            Track(self._budget, self._clock),
            self._clock,
            self._clock(),
        )
        self.attempts.append(attempt)
        return attempt

    def answers(self, status: int, headers: Pairs) -> Track:
        """The head of the answer to the client; what is said goes on the track."""
        self.status, self.headers = status, headers
        return self.answer

    def told(self, batch: Batch) -> None:
        """Events for a client that has no stream of its own."""
        self.answer.add(sse.encode_responses(batch))

    def another(self, started: float) -> Tape:
        """A tape for work that the same request asks for."""
        more = Tape(self.asked, self._limit, started)
        if self.body is not None and self.body.data is not None:
            more.heard(self.body.data)
        return more

    def _clock(self) -> float:
        return time.monotonic() - self._started
