"""A socket wrapper for WebSocket libraries that call ``send`` from several threads.

``socket.send`` may send only a part, as with slow clients. WebSocket frames must be sent whole and
must not interleave.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any


def do_nothing() -> None:
    pass


class LockedSocket:
    """A socket whose `send` sends all data and holds a lock meanwhile.

    `send` raises OSError if the peer accepts no data for ``timeout`` seconds. The first `send` is
    the handshake response; the socket adds ``headers`` to it.
    """

    def __init__(
        self, sock: Any, timeout: float, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._sock = sock
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        self._lock = threading.Lock()
        self.before_receiving: Callable[[], object] = do_nothing
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
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def insert_headers(answer: bytes, lines: bytes) -> bytes:
    head, end, rest = answer.partition(b"\r\n\r\n")
    return head + b"\r\n" + lines + b"\r\n" + rest if end else answer
