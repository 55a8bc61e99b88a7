"""How many bytes of request bodies a process holds at once, of all its requests together.

Each body is limited, but many large ones at the same time would still take all memory.  Bytes are
counted as they arrive, so a client that announces much and sends nothing takes no room.  Each byte
takes the room of two: until an answer comes, the body is held both as values and as it was sent on.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

from forwarder.core.errors import Overloaded

_READ_BYTES = 2**16
"""Bytes that are read at once, and up to which a body is small."""

MEMORY_PER_BYTE = 2
"""Bytes of memory that a byte of a body takes while its request is served."""


class BodyMemory:
    """``max_bytes`` bytes of memory for bodies; ``used`` counts bytes of bodies."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.lock = threading.Lock()
        self.used = 0

    def reserve(self, count: int, refuses: bool) -> None:
        """Take more room, or give some back, under the lock.

        Raises Overloaded when there is not enough, if it ``refuses``.
        """
        needed = (self.used + count) * MEMORY_PER_BYTE
        if refuses and count > 0 and needed > self._max_bytes:
            raise Overloaded(
                "Requests take as much memory as they may "
                f"({self._max_bytes} bytes, limit: FORWARDER_MAX_BODY_MEMORY)."
            )
        self.used += count


class BodyReservation:
    """The room that one request or connection takes."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = 0

    def resize(self, size: int) -> None:
        """Take so much room in all.  Raises Overloaded when there is not enough.

        Small bodies are never refused: a few large ones that arrive slowly stop nobody else.
        """
        with self._memory.lock:
            self._memory.reserve(size - self.size, refuses=size > _READ_BYTES)
            self.size = size

    def release(self) -> None:
        """Give all of it back."""
        self.resize(0)

    def read_all(self, read: Callable[[int], bytes]) -> bytes:
        """What ``read`` gives until its end; each piece takes room before the next is read."""
        body = io.BytesIO()  # unlike a list of pieces, it gives its bytes without a copy
        while piece := read(_READ_BYTES):
            self.resize(body.write(piece) + self.size)
        return body.getvalue()
