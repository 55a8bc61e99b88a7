"""Where what is remembered stands: a small interface, and a shelf in this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Protocol


class CacheBackend(Protocol):
    """Keeps values for a while; may lose any of them at any time."""

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """What was put there last, as far as it is still there."""

    def store(self, owner: bytes, values: Mapping[bytes, bytes]) -> None:
        """Keep values, for their owner alone."""


class MemoryBackend:
    """The values used last, in the memory of this process.

    At most ``max_values`` of them, ``max_bytes`` in all, and none longer than ``ttl`` seconds after it
    was used.
    """

    def __init__(self, ttl: float, max_bytes: int = 32 * 2**20, max_values: int = 20_000) -> None:
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._max_values = max_values
        self._bytes = 0
        self._values: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, owner: bytes, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """What is there of an owner's."""
        found = ((key, self.get(owner + key)) for key in keys)
        return {key: value for key, value in found if value is not None}

    def store(self, owner: bytes, values: Mapping[bytes, bytes]) -> None:
        """Keep an owner's values."""
        for key, value in values.items():
            self.put(owner + key, value)

    def get(self, key: bytes) -> bytes | None:
        """What was put there last, if it is still there; it is then kept for longer."""
        with self._lock:
            self._drop_expired()
            if key not in self._values:
                return None
            _, value = self._values.pop(key)
            self._values[key] = time.monotonic(), value
            return value

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value; those not used for longest make room."""
        with self._lock:
            self._remove(key)
            self._values[key] = time.monotonic(), value
            self._bytes += len(value)
            self._drop_expired()
            while self._bytes > self._max_bytes or len(self._values) > self._max_values:
                self._remove(next(iter(self._values)))

    def _drop_expired(self) -> None:
        """The first is always the one not used for longest."""
        oldest = time.monotonic() - self._ttl
        while self._values and next(iter(self._values.values()))[0] < oldest:
            self._remove(next(iter(self._values)))

    def _remove(self, key: bytes) -> None:
        _, value = self._values.pop(key, (0.0, b""))
        self._bytes -= len(value)
