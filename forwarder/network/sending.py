"""A client's socket for those who send in pieces and from several threads.

``send`` of a socket may send a part; behind a slow client it does.  What a WebSocket sends has to
go out whole, and never between the halves of something else.
"""

from __future__ import annotations

import threading
from typing import Any


class Whole:
    """A socket on which all that is given to `send` goes out, one after the other.

    A peer that takes nothing for ``patience`` seconds counts as gone (an OSError).
    """

    def __init__(self, sock: Any, patience: float) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        sock.settimeout(patience)

    def send(self, data: bytes) -> int:
        """Send all of it."""
        with self._lock:
            self._sock.sendall(data)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
