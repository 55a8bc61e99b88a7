"""A response as it comes over the wire: parsed by a parser in C, handed on as it arrives."""

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
"""Seconds that one stream may keep all others waiting, when it never has to wait itself."""

_PAUSE_SECONDS = 1e-5
"""Seconds to sleep that others have theirs.  Not 0: fifty sleeps of none are over before the loop
looks at its sockets again."""

_CHUNK_BYTES = 2**14
"""Bytes that are handed on at once: what came in a burst would keep the others waiting as a whole,
and each portion has its price."""

_MIN_WAIT_SECONDS = 0.0005
"""A read that takes this long, in seconds, has waited, and the others have had their turn."""


class HttpResponseParser(HTTPResponse):
    """A response as it is parsed: its head, and what has come of its body."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.is_finished = False
        self._head_size = self._interim_answers = 0
        self.body_chunks: list[bytearray] = []
        # Called by the parser for every chunk: a method in Python would cost more than the chunk.
        self._on_body = self.body_chunks.append  # type: ignore[method-assign, assignment]

    @property
    def has_head(self) -> bool:
        """Is the head complete, and that of the answer, not of an interim one (1xx)?"""
        return self.headers_complete and self.status_code >= 200

    def parse(self, data: bytes) -> None:
        """Take in what was received, ``b""`` for the end.  Raises RemoteProtocolError."""
        try:
            self.feed(data)
        except HTTPParseError as error:
            # What follows a complete message spoils the connection, not the message.
            if not self.is_finished:
                raise httpx2.RemoteProtocolError(f"Not a valid response: {error}") from None

    def take_body(self) -> bytes:
        """The pieces of the body since the last time, as one."""
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
        """Count a part of a header, be it of an interim answer, the answer or its trailers."""
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
    """A body as it arrives, to be iterated once: all that is there, as one bytes object at a time.

    After each ``heartbeat`` seconds of silence comes ``b""``; without a heartbeat, ReadTimeout
    after ``silence`` seconds.  When ``silence_limit`` is set, that many seconds of silence end the
    iteration.  Raises ReadError or RemoteProtocolError when the connection ends before the body.
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
        """Give the connection back when the body is complete, close it otherwise."""
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
            asked = perf_counter()
            received = self._receive_data()
            if perf_counter() - asked > _MIN_WAIT_SECONDS:
                since = perf_counter()
            if received is not None:
                self._parse_data(received)
            elif self.silence_limit is not None:
                return
            else:
                yield self._make_heartbeat()

    def _receive_data(self) -> bytes | None:
        """What has arrived, ``b""`` for the end, ``None`` for silence."""
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
