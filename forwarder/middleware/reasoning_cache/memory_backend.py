"""The interface of a cache backend, and a backend in the memory of this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Protocol


class CacheBackend(Protocol):
    """Stores values separately for each owner; may lose any value at any time."""

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values that exist for these keys."""

    def store(self, owner: bytes, values: Mapping[bytes, bytes]) -> None:
        """Store values under their keys."""


class MemoryBackend:
    """A least-recently-used cache in the memory of this process.

    It keeps at most ``max_values`` values and ``max_bytes`` bytes, each for at most ``ttl`` seconds
    after its last use.
    """

    def __init__(self, ttl: float, max_bytes: int = 32 * 2**20, max_values: int = 20_000) -> None:
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._max_values = max_values
        self._bytes = 0
        self._values: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values of an owner that exist for these keys."""
        pairs = ((key, self.get(owner + key)) for key in keys)
        return {key: value for key, value in pairs if value is not None}

    def store(self, owner: bytes, values: Mapping[bytes, bytes]) -> None:
        """Store the values of an owner."""
        for key, value in values.items():
            self.put(owner + key, value)

    def get(self, key: bytes) -> bytes | None:
        """Return a value and mark it as used; ``None`` if it does not exist."""
        with self._lock:
            self._drop_expired()
            if key not in self._values:
                return None
            _, value = self._values.pop(key)
            self._values[key] = time.monotonic(), value
            return value

    def put(self, key: bytes, value: bytes) -> None:
        """Store a value; evict the least recently used values if there is no room."""
        with self._lock:
            self._remove(key)
            self._values[key] = time.monotonic(), value
            self._bytes += len(value)
            self._drop_expired()
            while self._bytes > self._max_bytes or len(self._values) > self._max_values:
                self._remove(next(iter(self._values)))

    def _drop_expired(self) -> None:
        oldest = time.monotonic() - self._ttl
        # The values are ordered by their last use.
        while self._values and next(iter(self._values.values()))[0] < oldest:
            self._remove(next(iter(self._values)))

    def _remove(self, key: bytes) -> None:
        _, value = self._values.pop(key, (0.0, b""))
        self._bytes -= len(value)
