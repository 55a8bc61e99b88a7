"""How many bytes of request bodies a process holds at once, of all its requests together.

Each body is limited, but many large ones at the same time would still take all memory.  Bytes are
counted as they arrive, so a client that announces much and sends nothing takes no room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from forwarder.errors import Overloaded

_PIECE = 2**16
"""Bytes that are read at once, and up to which a body is small."""


class BodyMemory:
    """Room for ``max_bytes`` bytes of bodies."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.lock = threading.Lock()
        self.used = 0

    def add(self, count: int, refuses: bool) -> None:
        """Take more room, or give some back, under the lock.

        Raises Overloaded when there is not enough, if it ``refuses``.
        """
        if refuses and count > 0 and self.used + count > self._max_bytes:
            raise Overloaded(
                f"The forwarder holds as many bytes of requests as it may ({self._max_bytes}, "
                "limit: FORWARDER_MAX_BODY_MEMORY)."
            )
        self.used += count


class BodyRoom:
    """The room that one request or connection takes."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = 0

    def resize(self, size: int) -> None:
        """Take so much room in all.  Raises Overloaded when there is not enough.

        Small bodies are never refused: a few large ones that arrive slowly stop nobody else.
        """
        with self._memory.lock:
            self._memory.add(size - self.size, refuses=size > _PIECE)
            self.size = size

    def free(self) -> None:
        """Give all of it back."""
        self.resize(0)

    def read_all(self, read: Callable[[int], bytes]) -> bytes:
        """What ``read`` gives until its end; each piece takes room before the next is read."""
        pieces: list[bytes] = []
        size = 0
        while piece := read(_PIECE):
            pieces.append(piece)
            size += len(piece)
            self.resize(size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
