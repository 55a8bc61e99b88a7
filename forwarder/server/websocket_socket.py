"""A client's socket for those who send in pieces and from several threads.

``send`` of a socket may send a part; behind a slow client it does.  What a WebSocket sends has to
go out whole, and never between the halves of something else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any


def do_nothing() -> None:
    pass


class LockedSocket:
    """A socket on which all that is given to `send` goes out, one after the other.

    A peer that takes nothing for ``patience`` seconds counts as gone (an OSError).  The first thing
    sent is the answer to a handshake, and gets ``headers``.
    """

    def __init__(
        self, sock: Any, patience: float, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._sock = sock
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        self._lock = threading.Lock()
        self.before_receiving: Callable[[], object] = do_nothing
        sock.settimeout(patience)

    def send(self, data: bytes) -> int:
        """Send all of it."""
        with self._lock:
            if self._headers:
                data, self._headers = insert_headers(data, self._headers), b""
            self._sock.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        """Receive up to ``size`` bytes, if ``before_receiving`` does not raise an OSError."""
        self.before_receiving()
        data: bytes = self._sock.recv(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def insert_headers(answer: bytes, lines: bytes) -> bytes:
    head, end, rest = answer.partition(b"\r\n\r\n")
    return head + b"\r\n" + lines + b"\r\n" + rest if end else answer
