"""A response as it comes over the wire: parsed by a parser in C, handed on as it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import gevent
import httpx2
from gevent import socket
from geventhttpclient.response import HTTPParseError, HTTPProtocolViolationError, HTTPResponse

from forwarder.upstream.transport.answer_limits import MAX_HEAD, MAX_INTERIM_ANSWERS
from forwarder.upstream.transport.connection_pool import Connections
from forwarder.upstream.transport.deadline_timer import Alarm

_SLICE = 0.001
"""Seconds that one stream may keep all others waiting, when it never has to wait itself."""

_TURN = 1e-5
"""Seconds to sleep that others have theirs.  Not 0: fifty sleeps of none are over before the loop
looks at its sockets again."""

_PORTION = 2**14
"""Bytes that are handed on at once: what came in a burst would keep the others waiting as a whole,
and each portion has its price."""

_WAITED = 0.0005
"""A read that takes this long, in seconds, has waited, and the others have had their turn."""


class Message(HTTPResponse):
    """A response as it is parsed: its head, and what has come of its body."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.over = False
        self._head_size = self._interim_answers = 0
        self.pieces: list[bytearray] = []
        # Called by the parser for every chunk: a method in Python would cost more than the chunk.
        self._on_body = self.pieces.append  # type: ignore[method-assign, assignment]

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
            if not self.over:
                raise httpx2.RemoteProtocolError(f"Not a valid response: {error}") from None

    def take(self) -> bytes:
        """The pieces of the body since the last time, as one."""
        body = b"".join(self.pieces)
        self.pieces.clear()
        return body

    def _on_message_begin(self) -> None:
        if self.over:
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
        if self._head_size > MAX_HEAD:
            raise HTTPProtocolViolationError(f"The headers have more than {MAX_HEAD} bytes.")

    def _on_message_complete(self) -> None:
        super()._on_message_complete()
        if self.status_code < 200:
            self._interim_answers += 1
            if self._interim_answers > MAX_INTERIM_ANSWERS:
                raise HTTPProtocolViolationError("There are too many interim answers.")
        self.over = self.status_code >= 200


class ArrivalStream(httpx2.SyncByteStream):
    """A body as it arrives, to be iterated once: all that is there, as one bytes object at a time.

    After each ``heartbeat`` seconds of silence comes ``b""``; without a heartbeat, ReadTimeout
    after ``silence`` seconds.  When ``patience`` is set, that many seconds of silence end the
    iteration.  Raises ReadError or RemoteProtocolError when the connection ends before the body.
    """

    def __init__(
        self,
        message: Message,
        sock: socket.socket,
        pool: Connections,
        silence: float | None,
        heartbeat: float | None,
    ) -> None:
        self.heartbeat = heartbeat
        self.patience: float | None = None
        self._silence = silence
        self._message = message
        self._sock: socket.socket | None = sock
        self._pool = pool
        self._alarm = Alarm()
        sock.settimeout(None)
        if message.over:
            self.close()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._arrivals()
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back when the body is complete, close it otherwise."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._alarm.close()
        if self._message.should_close():
            self._pool.release_socket(sock)
        else:
            self._pool.return_socket(sock)

    def _arrivals(self) -> Iterator[bytes]:
        message = self._message
        since = perf_counter()
        while True:
            data = message.take() if message.pieces else b""
            for start in range(0, len(data), _PORTION):
                if perf_counter() - since > _SLICE:
                    gevent.sleep(_TURN)
                    since = perf_counter()
                yield data[start : start + _PORTION]
            if message.over:
                return
            asked = perf_counter()
            received = self._receive()
            if perf_counter() - asked > _WAITED:
                since = perf_counter()
            if received is not None:
                self._parse(received)
            elif self.patience is not None:
                return
            else:
                yield self._beat()

    def _receive(self) -> bytes | None:
        """What has arrived, ``b""`` for the end, ``None`` for silence."""
        sock = self._sock
        if sock is None:
            raise httpx2.ReadError("The response was closed.")
        limit = self.heartbeat if self.patience is None else self.patience
        if limit is None:
            limit = self._silence
        if limit is not None:
            self._alarm.before(limit)
        try:
            return self._pool.receive(sock)
        except TimeoutError:
            return None
        except OSError as error:
            raise httpx2.ReadError(str(error)) from error
        finally:
            self._alarm.after()

    def _parse(self, data: bytes) -> None:
        self._message.parse(data)
        if self._message.over:
            self.close()
        elif not data:
            raise httpx2.RemoteProtocolError("The connection ended before the response.")

    def _beat(self) -> bytes:
        if self.heartbeat is None:
            raise httpx2.ReadTimeout("Nothing came in time.")
        return b""
