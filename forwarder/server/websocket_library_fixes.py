"""Additions to the socket and the decoder of a WebSocket library.

The library calls ``send`` from several threads. ``socket.send`` may send only a part, as with slow
clients. WebSocket frames must be sent whole and must not interleave. The library also handles all
frames that have arrived, perhaps ten thousand, without a pause.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from wsproto.events import Message

TURN_PAUSE_SECONDS = 1e-5
"""Pause that lets other threads run."""

FRAMES_PER_TURN = 200
"""Frames that are handled without a pause: a few milliseconds of work."""


def do_nothing() -> None:
    pass


class LockedSocket:
    """A socket with a `send` that sends all data under a lock.

    `send` raises OSError if the peer accepts no data for ``timeout`` seconds. The first `send` is
    the handshake response; the socket adds ``headers`` to it. ``message_bytes`` are the bytes that
    were received since `start_message`.
    """

    def __init__(
        self, sock: Any, timeout: float, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._sock = sock
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        self._lock = threading.Lock()
        self.before_receiving: Callable[[], object] = do_nothing
        self.message_bytes = 0
        sock.settimeout(timeout)

    def send(self, data: bytes) -> int:
        """Send all of ``data`` and return its length."""
        with self._lock:
            if self._headers:
                data, self._headers = insert_headers(data, self._headers), b""
            self._sock.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        """Call ``before_receiving``, which may raise OSError, then receive up to ``size`` bytes."""
        self.before_receiving()
        data: bytes = self._sock.recv(size)
        self.message_bytes += len(data)
        return data

    def start_message(self) -> None:
        """Count the bytes of the next message."""
        self.message_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def insert_headers(answer: bytes, lines: bytes) -> bytes:
    head, end, rest = answer.partition(b"\r\n\r\n")
    return head + b"\r\n" + lines + b"\r\n" + rest if end else answer


def watch_events(
    read_events: Callable[[], Iterable[Any]], on_message_end: Callable[[], object]
) -> Callable[[], Iterator[Any]]:
    """Return a function that yields the same events, and lets other threads run in between.

    It calls ``on_message_end`` after the last event of each message.
    """

    def read_watched_events() -> Iterator[Any]:
        for number, event in enumerate(read_events(), 1):
            yield event
            if isinstance(event, Message) and event.message_finished:
                on_message_end()
            if number % FRAMES_PER_TURN == 0:
                time.sleep(TURN_PAUSE_SECONDS)

    return read_watched_events
