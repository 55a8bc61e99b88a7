"""Limit for the memory that the request bodies of a process use together.

Each body has its own limit, but many large bodies at once could still exhaust the memory.  Bytes
count when they arrive, so a client that announces a large body and sends nothing reserves nothing.
Each byte counts twice: until the upstream answers, the process holds the body both as parsed values
and as the bytes sent to the upstream.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

from forwarder.core.errors import Overloaded

_READ_BYTES = 2**16
"""Bytes per read. Bodies up to this size are never refused."""

MEMORY_PER_BYTE = 2
"""Bytes of memory per byte of a body while its request is served."""


class BodyMemory:
    """``max_bytes`` bytes of memory for bodies; ``used`` counts bytes of bodies."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.lock = threading.Lock()
        self.used = 0

    def reserve(self, count: int, refuses: bool) -> None:
        """Reserve ``count`` more bytes, or release bytes if it is negative.

        The caller holds ``lock``.  If ``refuses`` is set, raises Overloaded above the limit.
        """
        needed = (self.used + count) * MEMORY_PER_BYTE
        if refuses and count > 0 and needed > self._max_bytes:
            raise Overloaded(
                "The bodies of running requests use all memory that is available to them "
                f"({self._max_bytes} bytes, limit: FORWARDER_MAX_BODY_MEMORY)."
            )
        self.used += count


class BodyReservation:
    """The memory that one request or connection has reserved."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = 0

    def resize(self, size: int) -> None:
        """Set the reservation to ``size`` bytes.  Raises Overloaded if the limit is exceeded.

        Small bodies are never refused, so a few slow large bodies do not block other requests.
        """
        with self._memory.lock:
            self._memory.reserve(size - self.size, refuses=size > _READ_BYTES)
            self.size = size

    def release(self) -> None:
        """Release the whole reservation."""
        self.resize(0)

    def read_all(self, read: Callable[[int], bytes]) -> bytes:
        """Read a body to its end; each piece is reserved before the next one is read."""
        body = io.BytesIO()  # unlike a list of pieces, it returns its bytes without a copy
        while piece := read(_READ_BYTES):
            self.resize(body.write(piece) + self.size)
        return body.getvalue()
