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


class Arrivals(Protocol):
    """Iterates bytes; ``patience`` limits, in seconds, the wait for each further piece."""

    patience: float | None

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def arrivals_of(response: httpx2.Response, heartbeat: float) -> Arrivals:
    """The arrivals of a response that has not been read."""
    own = response.extensions.get("arrivals")
    if own is not None and "content-encoding" not in response.headers:
        arrivals: Arrivals = own
        return arrivals
    return Pumped(response, heartbeat)


AHEAD = 2**18
"""Bytes that may wait for a slow client; after that the upstream has to wait too."""


class Pumped:
    """Arrivals read by a thread, no further ahead of who iterates them than ``AHEAD`` bytes."""

    def __init__(self, response: httpx2.Response, heartbeat: float) -> None:
        self.patience: float | None = None
        self._response = response
        self._heartbeat = heartbeat
        self._changed = threading.Condition()
        self._pieces: deque[bytes | BaseException | None] = deque()
        self._waiting = 0  # bytes
        self._pumping = self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        with self._changed:
            self._pumping = not self._closed
        if self._pumping:
            threading.Thread(target=self._pump, daemon=True).start()
        while not self._closed:
            patience = self.patience
            if not self._wait(patience or self._heartbeat):
                if patience is not None:
                    return
                yield b""
                continue
            piece = self._pieces.popleft()
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            self._taken(piece)
            yield piece

    def close(self) -> None:
        """End the thread, and with it a connection that it still reads from."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._pumping and not self._response.is_closed:  # or it may be another's by now
            _cut(self._response)

    def _wait(self, seconds: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._pieces, seconds))

    def _taken(self, piece: bytes) -> None:
        with self._changed:
            self._waiting -= len(piece)
            self._changed.notify_all()

    def _pump(self) -> None:
        try:
            for piece in self._response.iter_bytes():
                self._put(piece)
                if self._closed:
                    break
            end: BaseException | None = None
        except Exception as error:  # handed to the reader, whose errors they are
            end = error
        self._pumping = False
        self._put(end)

    def _put(self, piece: bytes | BaseException | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting < AHEAD)
            self._pieces.append(piece)
            self._waiting += len(piece) if isinstance(piece, bytes) else 0
            self._changed.notify_all()


def _cut(response: httpx2.Response) -> None:
    """End a read that another thread is in: closing a socket would not, shutting it down does."""
    stream = response.extensions.get("network_stream")
    sock = stream.get_extra_info("socket") if stream is not None else None
    if sock is not None:
        with suppress(OSError):  # it is closed already
            # Not TLS's own: that takes the socket's cipher away from under the other thread.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
