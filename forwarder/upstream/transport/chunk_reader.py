"""What arrives from an upstream, as it arrives: bytes, or ``b""`` after a while of silence.

Under gevent the transport does this itself.  Under threads (development, the demo) the response
is read by a thread of its own, since a blocking read cannot be interrupted.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import httpx2


class ChunkReader(Protocol):
    """Iterates bytes; ``silence_limit`` limits, in seconds, the wait for each further piece."""

    silence_limit: float | None

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def open_chunk_reader(response: httpx2.Response, heartbeat: float) -> ChunkReader:
    """The arrivals of a response that has not been read."""
    own = response.extensions.get("arrivals")
    if own is not None and "content-encoding" not in response.headers:
        arrivals: ChunkReader = own
        return arrivals
    return ThreadedReader(response, heartbeat)


MAX_BUFFERED_BYTES = 2**18
"""Bytes that may wait for a slow client; after that the upstream has to wait too."""


class ThreadedReader:
    """Arrivals read by a thread, no further ahead of who iterates them than ``MAX_BUFFERED_BYTES`` bytes."""

    def __init__(self, response: httpx2.Response, heartbeat: float) -> None:
        self.silence_limit: float | None = None
        self._response = response
        self._heartbeat = heartbeat
        self._condition = threading.Condition()
        self._chunks: deque[bytes | BaseException | None] = deque()
        self._buffered_bytes = 0  # bytes
        self._is_reading = self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        with self._condition:
            self._is_reading = not self._is_closed
        if self._is_reading:
            threading.Thread(target=self._read_response, daemon=True).start()
        while not self._is_closed:
            patience = self.silence_limit
            if not self._wait_for_chunk(patience or self._heartbeat):
                if patience is not None:
                    return
                yield b""
                continue
            piece = self._chunks.popleft()
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            self._release_chunk(piece)
            yield piece

    def close(self) -> None:
        """End the thread, and with it a connection that it still reads from."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        if self._is_reading and not self._response.is_closed:  # or it may be another's by now
            shut_down_connection(self._response)

    def _wait_for_chunk(self, seconds: float) -> bool:
        with self._condition:
            return bool(self._condition.wait_for(lambda: self._chunks, seconds))

    def _release_chunk(self, piece: bytes) -> None:
        with self._condition:
            self._buffered_bytes -= len(piece)
            self._condition.notify_all()

    def _read_response(self) -> None:
        try:
            for piece in self._response.iter_bytes():
                self._put_chunk(piece)
                if self._is_closed:
                    break
            end: BaseException | None = None
        except Exception as error:  # handed to the reader, whose errors they are
            end = error
        self._is_reading = False
        self._put_chunk(end)

    def _put_chunk(self, piece: bytes | BaseException | None) -> None:
        with self._condition:
            self._condition.wait_for(
                lambda: self._is_closed or self._buffered_bytes < MAX_BUFFERED_BYTES
            )
            self._chunks.append(piece)
            self._buffered_bytes += len(piece) if isinstance(piece, bytes) else 0
            self._condition.notify_all()


def shut_down_connection(response: httpx2.Response) -> None:
    """End a read that another thread is in: closing a socket would not, shutting it down does."""
    stream = response.extensions.get("network_stream")
    sock = stream.get_extra_info("socket") if stream is not None else None
    if sock is not None:
        with suppress(OSError):  # it is closed already
            # Not TLS's own: that takes the socket's cipher away from under the other thread.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
