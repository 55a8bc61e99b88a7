"""Reads a response in chunks as they arrive, with ``b""`` as heartbeat during silence.

Under gevent the transport does this itself.  Under threads (development, the demo) a separate
thread reads each response, because a blocking read cannot be interrupted.
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
    """Iterates bytes.  ``silence_limit`` is the maximum wait in seconds for each further chunk."""

    silence_limit: float | None

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def open_chunk_reader(response: httpx2.Response, heartbeat: float) -> ChunkReader:
    """Return the transport's own reader of an unread response, or a threaded one."""
    reader: ChunkReader | None = response.extensions.get("chunk_reader")
    if reader is not None and "content-encoding" not in response.headers:
        return reader
    return ThreadedReader(response, heartbeat)


MAX_BUFFERED_BYTES = 2**18
"""Bytes buffered for a slow client; beyond that, reading from the upstream pauses."""


class ThreadedReader:
    """Reads a response in a thread, at most ``MAX_BUFFERED_BYTES`` ahead of its consumer."""

    def __init__(self, response: httpx2.Response, heartbeat: float) -> None:
        self.silence_limit: float | None = None
        self._response = response
        self._heartbeat = heartbeat
        self._condition = threading.Condition()
        self._chunks: deque[bytes | BaseException | None] = deque()
        self._buffered_bytes = 0
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
        """End the thread, and shut down the connection if the thread still reads from it."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        if self._is_reading and not self._response.is_closed:  # else it may serve another request
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
        except Exception as error:  # raised in the consumer's thread
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
    """Shut down the socket, which ends a blocking read in another thread; closing would not."""
    stream = response.extensions.get("network_stream")
    sock = stream.get_extra_info("socket") if stream is not None else None
    if sock is not None:
        with suppress(OSError):  # the socket is closed already
            # Not the method of TLS sockets: it removes the cipher that the other thread uses.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
