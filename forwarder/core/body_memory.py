"""The memory of request bodies: a limit for all bodies of a process, and the size of parsed values.

Each body has its own limit, but many large bodies at once could still exhaust the memory.  Bytes
count when they arrive, so a client that announces a large body and sends nothing reserves nothing.
Each byte counts twice: until the upstream answers, the process holds the body both as parsed values
and as the bytes sent to the upstream.  The largest body counts once more, because the parser copies
it; bodies are parsed one at a time.

Data that the forwarder adds to a request counts in the same way: the history that the request
continues, and the images and files that it names.

Data that connections keep between their requests counts too, once.  No body is refused because of
it: as soon as bodies need the memory, the least recently used data is dropped.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from sys import getsizeof
from typing import Any

from gevent import monkey

from forwarder.core.errors import Overloaded, TooLarge
from forwarder.core.json_lenient import measure_text
from forwarder.core.paced_iteration import LARGE_BYTES

_READ_BYTES = 2**16
"""Most bytes per read. Bodies up to this size are never refused."""

_MIN_READ_BYTES = 2**10
"""Bytes per read when nothing more is expected."""

_HELD_COPIES = 2
"""Bytes of memory per byte of a body while its request is served."""

PEAK_COPIES = _HELD_COPIES + 1
"""Bytes of memory per byte of a body while it is parsed."""

_NativeLock = monkey.get_original("_thread", "RLock")
"""A lock for all threads: native threads read the database, and have no event loop to wait in."""


class BodyMemory:
    """``max_bytes`` bytes of memory for bodies, of which ``used`` are reserved.

    ``kept`` is the number of bytes that connections keep between their requests.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = self.kept = 0
        self._lock = _NativeLock()
        self._large_sizes: dict[BodyReservation, int] = {}
        self._kept: dict[KeptData, int] = {}  # in the order of their last use

    def keep(self, data: KeptData, size: int) -> None:
        """Count ``size`` bytes for ``data`` and mark it as the last used; a size of 0 removes it.

        If the kept data exceeds the memory, the least recently used data is dropped.
        """
        with self._lock:
            self.kept -= self._kept.pop(data, 0)
            if size and not data.is_closed:
                self._kept[data] = size
                self.kept += size
                self._drop_kept()

    def _drop_kept(self) -> None:
        room = self.max_bytes - self.used - max(self._large_sizes.values(), default=0)
        while self.kept > room and self._kept:
            data = next(iter(self._kept))
            self.kept -= self._kept.pop(data)
            data.drop()

    def reserve(self, owner: BodyReservation, size: int, text: int) -> None:
        """Reserve memory for a body of ``size`` bytes and ``text`` more bytes for its texts.

        It replaces the earlier reservation of ``owner``.  Raises Overloaded if a large body would
        need more than the limit.  Does nothing after ``owner`` is closed.
        """
        with self._lock:
            if owner.is_closed:
                return
            added = _HELD_COPIES * (size - owner.size) + text - owner.text
            is_large = size > _READ_BYTES
            if added > 0 and (is_large or text):
                largest = max(size, *self._large_sizes.values(), 0)
                if self.used + added + largest > self.max_bytes:
                    raise self._make_error()
            self._set(owner, size, text)

    def hold(self, owner: BodyReservation, size: int) -> None:
        """Count ``size`` bytes that exist already, even above the limit.  Replaces as `reserve`."""
        with self._lock:
            if not owner.is_closed:
                self._set(owner, size, 0)

    def close(self, owner: BodyReservation) -> None:
        """Release the memory of ``owner``, which reserves nothing more."""
        with self._lock:
            self._set(owner, 0, 0)
            owner.is_closed = True

    def _set(self, owner: BodyReservation, size: int, text: int) -> None:
        self.used += _HELD_COPIES * (size - owner.size) + text - owner.text
        owner.size, owner.text = size, text
        if size > _READ_BYTES:
            self._large_sizes[owner] = size
        else:
            self._large_sizes.pop(owner, None)
        if self._kept:
            self._drop_kept()

    def check_announced(self, size: int) -> None:
        """Raise Overloaded if there is no memory now for a body that a client announces."""
        if size <= _READ_BYTES:
            return
        with self._lock:
            largest = max(size, *self._large_sizes.values(), 0)
            if self.used + _HELD_COPIES * size + largest > self.max_bytes:
                raise self._make_error()

    def check_text(self, size: int, text: int) -> None:
        """Raise TooLarge if a body of ``size`` bytes never has room for its texts."""
        if size * PEAK_COPIES + text > self.max_bytes:
            raise TooLarge(
                "The texts of the request body need too much memory, because they are not plain "
                f"ASCII ({self.max_bytes} bytes, limit: FORWARDER_MAX_BODY_MEMORY)."
            )

    def _make_error(self) -> Overloaded:
        return Overloaded(
            "The bodies of running requests use all memory that is available to them "
            f"({self.max_bytes} bytes, limit: FORWARDER_MAX_BODY_MEMORY)."
        )


UNLIMITED_MEMORY = BodyMemory(sys.maxsize)


class BodyReservation:
    """The memory that one request or connection has reserved.

    Only its `BodyMemory` changes ``size``, ``text`` and ``is_closed``, because several threads may
    use one reservation.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = self.text = 0
        self.is_closed = False

    def resize(self, size: int, text: int = 0) -> None:
        """Set the reservation to a body of ``size`` bytes.  Raises Overloaded above the limit.

        Small bodies are never refused, so a few slow large bodies do not block other requests.
        """
        self._memory.reserve(self, size, text)

    def grow(self, size: int, text: int = 0) -> None:
        """Reserve memory for ``size`` more bytes, and ``text`` more bytes for their texts.

        Raises TooLarge if the texts never have room, Overloaded if they have no room now.
        """
        if text:
            self._memory.check_text(self.size + size, self.text + text)
        self.resize(self.size + size, self.text + text)

    def add_json(self, data: bytes, times: int = 1) -> None:
        """Reserve memory for JSON text that is used ``times`` times.  Raises as `grow`."""
        text = measure_text(data) if len(data) >= LARGE_BYTES else 0
        self.grow(len(data) * times, text)

    def hold(self, size: int) -> None:
        """Set the reservation to ``size`` bytes that exist already, even above the limit."""
        self._memory.hold(self, size)

    def add_text(self, size: int, text: int) -> None:
        """Reserve ``text`` bytes for the texts of a body of ``size`` bytes, in addition to it.

        Raises TooLarge if they never have room, Overloaded if they have none now.
        """
        self._memory.check_text(size, text)
        self.resize(self.size, self.text + text)

    def release(self) -> None:
        """Release the whole reservation; it can be used again."""
        self.resize(0)

    def close(self) -> None:
        """Release the whole reservation for good: work that still runs reserves nothing more."""
        self._memory.close(self)

    def read_all(self, read: Callable[[int], bytes], announced: int = 0) -> bytes:
        """Read a body to its end; each piece is reserved before the next one is read.

        Raises Overloaded at once if there is no memory for the ``announced`` bytes.
        """
        self._memory.check_announced(announced)
        body = io.BytesIO()  # unlike a list of pieces, it returns its bytes without a copy
        # A read allocates as many bytes as it may return, so it asks for the announced bytes only.
        # A compressed body becomes longer than announced: then each read asks for as many bytes as
        # the body already exceeds the announcement.
        while piece := read(self._choose_read_size(announced)):
            self.resize(body.write(piece) + self.size)
        return body.getvalue()

    def _choose_read_size(self, announced: int) -> int:
        return max(_MIN_READ_BYTES, min(_READ_BYTES, abs(announced - self.size)))


class KeptData:
    """The data that one connection keeps between its requests.

    ``drop`` is called if bodies need the memory, in any thread; it forgets the data and must not
    wait.
    """

    def __init__(self, memory: BodyMemory, drop: Callable[[], None]) -> None:
        self._memory = memory
        self.drop = drop
        self.is_closed = False

    def resize(self, size: int) -> None:
        """Set the size of the data and mark it as just used.

        This may drop the data, or the data of other connections.
        """
        self._memory.keep(self, size)

    def close(self) -> None:
        """Stop counting the data; a later `resize` has no effect."""
        self.is_closed = True
        self._memory.keep(self, 0)


def measure_heap(value: Any) -> int:
    """Return about how many bytes the objects of a parsed JSON value take.

    Keys, true, false and null do not count: the parser creates each of them only once.
    """
    size, rest = 0, [value]
    while rest:
        one = rest.pop()
        if one is None or one is True or one is False:
            continue
        size += getsizeof(one)
        if type(one) is dict:
            rest += one.values()
        elif type(one) is list:
            rest += one
    return size
