"""What arrives from an upstream, as it arrives: bytes, or ``b""`` after a while of silence.

Under gevent the transport does this itself.  Under threads (development, the demo) the response
is read by a thread of its own, since a blocking read cannot be interrupted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
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


class Pumped:
    """Arrivals read by a thread."""

    def __init__(self, response: httpx2.Response, heartbeat: float) -> None:
        self.patience: float | None = None
        self._response = response
        self._heartbeat = heartbeat
        self._pieces: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[bytes]:
        threading.Thread(target=self._pump, daemon=True).start()
        while True:
            patience = self.patience
            try:
                piece = self._pieces.get(timeout=patience or self._heartbeat)
            except queue.Empty:
                if patience is not None:
                    return
                yield b""
                continue
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        """The response's own close ends the thread's read."""

    def _pump(self) -> None:
        try:
            for piece in self._response.iter_bytes():
                self._pieces.put(piece)
            self._pieces.put(None)
        except Exception as error:  # handed to the reader, whose errors they are
            self._pieces.put(error)
