"""The interface of a cache backend, and a backend in the memory of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from cachetools import TTLCache

MARK_VALUE = b"[]"


class CacheBackend(Protocol):
    """Stores values separately for each owner; may lose any value at any time.

    A mark is a key that exists once an owner has values of a kind.
    """

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values that exist for these keys."""

    def has_mark(self, owner: bytes, mark: bytes) -> bool:
        """Return whether an owner has the mark, faster than `find`."""

    def store(self, owner: bytes, values: Mapping[bytes, bytes], mark: bytes | None = None) -> None:
        """Store values under their keys, and set the mark."""


class MemoryBackend:
    """A least-recently-used cache in the memory of this process.

    It keeps at most ``max_values`` values and ``max_bytes`` bytes, each for at most ``ttl`` seconds
    after its last use.
    """

    def __init__(self, ttl: float, max_bytes: int = 32 * 2**20, max_values: int = 20_000) -> None:
        self._max_values = max_values
        # A lambda, so that tests can replace the clock.
        self._values: TTLCache[bytes, bytes] = TTLCache(
            max_bytes, ttl, timer=lambda: time.monotonic(), getsizeof=len
        )
        self._lock = threading.Lock()

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values of an owner that exist for these keys."""
        pairs = ((key, self.get(owner + key)) for key in keys)
        return {key: value for key, value in pairs if value is not None}

    def has_mark(self, owner: bytes, mark: bytes) -> bool:
        """Return whether an owner has the mark."""
        return bool(self.find(owner, [mark]))

    def store(self, owner: bytes, values: Mapping[bytes, bytes], mark: bytes | None = None) -> None:
        """Store the values of an owner, and set the mark."""
        for key, value in add_mark(values, mark).items():
            self.put(owner + key, value)

    def get(self, key: bytes) -> bytes | None:
        """Return a value and renew its lifetime; ``None`` if it does not exist."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values[key] = value
            return value

    def put(self, key: bytes, value: bytes) -> None:
        """Store a value; evict the least recently used values if there is no room.

        A value that is larger than the whole cache is not stored.
        """
        with self._lock:
            self._values.pop(key, None)
            if len(value) <= self._values.maxsize:
                self._values[key] = value
            while len(self._values) > self._max_values:
                self._values.popitem()


def add_mark(values: Mapping[bytes, bytes], mark: bytes | None) -> Mapping[bytes, bytes]:
    """Return the values with the mark, if there is one."""
    return values if mark is None else {**values, mark: MARK_VALUE}
