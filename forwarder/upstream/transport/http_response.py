"""Parses responses with a parser in C and yields their bodies as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import gevent
import httpx2
from gevent import socket
from geventhttpclient.response import HTTPParseError, HTTPProtocolViolationError, HTTPResponse

from forwarder.upstream.transport.answer_limits import MAX_HEAD_BYTES, MAX_INTERIM_ANSWERS
from forwarder.upstream.transport.connection_pool import ServerConnectionPool
from forwarder.upstream.transport.deadline_timer import DeadlineTimer

_MAX_TURN_SECONDS = 0.001
"""Seconds that a stream may run without waiting before it yields to the other streams."""

_PAUSE_SECONDS = 1e-5
"""Seconds to sleep so that other streams run.  Not 0: fifty sleeps of 0 end before the loop polls
its sockets."""

_CHUNK_BYTES = 2**14
"""Bytes per chunk: a whole burst would block the other streams, but each chunk has a fixed cost."""

_MIN_WAIT_SECONDS = 0.0005
"""A read of at least this many seconds has waited, so the other streams have run."""


class HttpResponseParser(HTTPResponse):
    """A response during parsing: its head, and the body chunks received so far."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.is_finished = False
        self._head_size = self._interim_answers = 0
        self.body_chunks: list[bytearray] = []
        # The parser calls this for each chunk; a Python method would cost more than the chunk.
        self._on_body = self.body_chunks.append  # type: ignore[method-assign, assignment]

    @property
    def has_head(self) -> bool:
        """Whether the head of the final answer (not of a 1xx) is complete."""
        return self.headers_complete and self.status_code >= 200

    def parse(self, data: bytes) -> None:
        """Parse received data; ``b""`` means the end.  Raises RemoteProtocolError."""
        try:
            self.feed(data)
        except HTTPParseError as error:
            # Data after a complete message makes the connection unusable, not the message.
            if not self.is_finished:
                raise httpx2.RemoteProtocolError(f"Not a valid response: {error}") from None

    def take_body(self) -> bytes:
        """Return the body received since the last call."""
        body = b"".join(self.body_chunks)
        self.body_chunks.clear()
        return body

    def _on_message_begin(self) -> None:
        if self.is_finished:
            raise HTTPProtocolViolationError("There is more after the end of the response.")
        super()._on_message_begin()

    def _on_header_field(self, string: str) -> None:
        self._count_head(string)
        super()._on_header_field(string)

    def _on_header_value(self, string: str) -> None:
        self._count_head(string)
        super()._on_header_value(string)

    def _count_head(self, string: str) -> None:
        """Count a part of a header of an interim answer, the answer or its trailers."""
        self._head_size += len(string)
        if self._head_size > MAX_HEAD_BYTES:
            raise HTTPProtocolViolationError(f"The headers have more than {MAX_HEAD_BYTES} bytes.")

    def _on_message_complete(self) -> None:
        super()._on_message_complete()
        if self.status_code < 200:
            self._interim_answers += 1
            if self._interim_answers > MAX_INTERIM_ANSWERS:
                raise HTTPProtocolViolationError("There are too many interim answers.")
        self.is_finished = self.status_code >= 200


class GeventChunkReader(httpx2.SyncByteStream):
    """Iterates a body once, as it arrives: each chunk has all data that is available.

    Yields ``b""`` after each ``heartbeat`` seconds of silence.  Without a heartbeat, raises
    ReadTimeout after ``silence`` seconds.  If ``silence_limit`` is set, that many seconds of
    silence end the iteration.  Raises ReadError or RemoteProtocolError if the connection ends
    before the body.
    """

    def __init__(
        self,
        message: HttpResponseParser,
        sock: socket.socket,
        pool: ServerConnectionPool,
        silence: float | None,
        heartbeat: float | None,
    ) -> None:
        self.heartbeat = heartbeat
        self.silence_limit: float | None = None
        self._silence_timeout = silence
        self._message = message
        self._sock: socket.socket | None = sock
        self._pool = pool
        self._timer = DeadlineTimer()
        sock.settimeout(None)
        if message.is_finished:
            self.close()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._iter_chunks()
        finally:
            self.close()

    def close(self) -> None:
        """Return the connection to the pool if the body is complete, else close it."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._timer.close()
        if self._message.should_close():
            self._pool.release_socket(sock)
        else:
            self._pool.return_socket(sock)

    def _iter_chunks(self) -> Iterator[bytes]:
        message = self._message
        since = perf_counter()
        while True:
            data = message.take_body() if message.body_chunks else b""
            for start in range(0, len(data), _CHUNK_BYTES):
                if perf_counter() - since > _MAX_TURN_SECONDS:
                    gevent.sleep(_PAUSE_SECONDS)
                    since = perf_counter()
                yield data[start : start + _CHUNK_BYTES]
            if message.is_finished:
                return
            read_at = perf_counter()
            received = self._receive_data()
            if perf_counter() - read_at > _MIN_WAIT_SECONDS:
                since = perf_counter()
            if received is not None:
                self._parse_data(received)
            elif self.silence_limit is not None:
                return
            else:
                yield self._make_heartbeat()

    def _receive_data(self) -> bytes | None:
        """Return the available data, ``b""`` at the end, or ``None`` after silence."""
        sock = self._sock
        if sock is None:
            raise httpx2.ReadError("The response was closed.")
        limit = self.heartbeat if self.silence_limit is None else self.silence_limit
        if limit is None:
            limit = self._silence_timeout
        if limit is not None:
            self._timer.start_wait(limit)
        try:
            return self._pool.receive(sock)
        except TimeoutError:
            return None
        except OSError as error:
            raise httpx2.ReadError(str(error)) from error
        finally:
            self._timer.end_wait()

    def _parse_data(self, data: bytes) -> None:
        self._message.parse(data)
        if self._message.is_finished:
            self.close()
        elif not data:
            raise httpx2.RemoteProtocolError("The connection ended before the response.")

    def _make_heartbeat(self) -> bytes:
        if self.heartbeat is None:
            raise httpx2.ReadTimeout("Nothing came in time.")
        return b""
